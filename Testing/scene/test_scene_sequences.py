"""Sequences of X-rays and of transforms: read by the core, played together, saved."""

from __future__ import annotations

import numpy as np
import pytest
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.registration.result import Verdict
from SOPIRegistrationLib.scene import attach
from SOPIRegistrationLib.scene.frames import matrix_from_pose
from SOPIRegistrationLib.scene.sequences import (
    NodeFrames,
    index_values,
    is_made_of,
    matrices_of_track,
    play_together,
    shown_sequence,
    track_of,
    track_sequence,
    verdicts_of_track,
    xray_sequence,
)
from SOPIRegistrationLib.tracking.track import FramePose

slicer = pytest.importorskip("slicer")

FRAME = PoseFrame(np.array([12.0, -31.0, 140.0]), 640.0)


@pytest.fixture
def film(add_volume):
    """Three frames, the second one blank."""
    frames = np.random.default_rng(1).integers(10, 200, (3, 40, 50)).astype(np.uint8)
    frames[1] = 7
    return add_volume(frames, np.diag([0.5, 0.7, 1.0, 1.0]), "film")


@pytest.fixture
def logic(scene):
    found = slicer.vtkSlicerSequencesLogic()
    found.SetMRMLScene(scene)
    return found


INDEX = ["1", "2", "3"]


def matrices(*numbers) -> dict:
    return {
        n: matrix_from_pose(FRAME.T_from_theta(np.array([0.1 * n, 0, 0, 5.0 * n, 0, 0])), FRAME)
        for n in numbers
    }


def verdicts(*numbers) -> list:
    """Accepted in some frames, lost in the others."""
    accepted = Verdict("accept", ["clear"], np.array([0.1, 0.2, 0.3]), None)
    return [
        FramePose(n, np.eye(4), accepted, 0.25, "motion") if n in numbers else FramePose.lost(n, "blank")
        for n in (1, 2, 3)
    ]


def test_frames_of_a_volume_and_of_a_sequence_are_the_same(scene, film):
    sequence = xray_sequence(scene, film)
    assert sequence.GetNumberOfDataNodes() == 3
    pixels = slicer.util.arrayFromVolume(film)
    for node in (film, sequence):
        frames = NodeFrames(node)
        assert frames.count == 3
        assert frames.frames_per_second is None
        np.testing.assert_array_equal(frames.frame(3).pixels, pixels[2])
        with pytest.raises(InputError, match="constant"):
            frames.frame(2)
        with pytest.raises(InputError, match="has no frame 4: it has 1 to 3"):
            frames.frame(4)
    matrix = slicer.vtkMRMLScalarVolumeNode()
    matrix.CopyOrientation(sequence.GetNthDataNode(0))
    assert matrix.GetSpacing() == film.GetSpacing()


def test_the_rate_of_a_sequence_in_seconds_is_known(scene, film):
    sequence = xray_sequence(scene, film)
    timed = scene.AddNewNodeByClass("vtkMRMLSequenceNode", "timed")
    timed.SetIndexUnit("s")
    for item in range(3):
        timed.SetDataNodeAtValue(sequence.GetNthDataNode(item), f"{item / 50:.3f}")
    assert NodeFrames(timed).frames_per_second == pytest.approx(50)


@pytest.mark.parametrize(
    ("class_name", "said"), [("vtkMRMLLinearTransformNode", "not of images"), (None, "no f")]
)
def test_a_sequence_without_xrays_is_refused(scene, class_name, said):
    sequence = scene.AddNewNodeByClass("vtkMRMLSequenceNode", "other")
    if class_name:
        sequence.SetDataNodeAtValue(getattr(slicer, class_name)(), "1")
    with pytest.raises(InputError, match=said):
        NodeFrames(sequence)


def test_a_single_frame_is_no_sequence(scene, add_volume):
    with pytest.raises(InputError, match="single frame"):
        xray_sequence(scene, add_volume(np.zeros((1, 4, 5), np.uint8), name="one"))


def test_a_track_comes_back_as_it_went(scene):
    given = matrices(1, 3)
    sequence = track_sequence(scene, "femur", given, verdicts(1, 3), INDEX)
    found = matrices_of_track(sequence, INDEX)
    assert list(found) == [1, 3]
    for number, matrix in given.items():
        np.testing.assert_allclose(found[number], matrix, atol=1e-9)
    told = verdicts_of_track(sequence)
    assert [told[n].status for n in (1, 2, 3)] == ["accept", "lost", "accept"]
    assert told[2].verdict.reasons == ["blank"]
    assert told[3].margin == 0.25
    np.testing.assert_array_equal(told[3].verdict.predicted_error_mm, [0.1, 0.2, 0.3])
    # Tracked anew, it is the same Sequence.
    assert track_sequence(scene, "femur", matrices(2), verdicts(2), INDEX) is sequence
    assert list(matrices_of_track(sequence, INDEX)) == [2]


def test_a_track_of_an_earlier_version_is_read(scene):
    sequence = track_sequence(scene, "femur", matrices(1, 2), (), INDEX)
    sequence.SetAttribute("SOPIRegistration.IsTrack", "femur")
    sequence.SetAttribute("SOPIRegistration.TrackVerdicts", None)
    sequence.SetAttribute("SOPIRegistration.TrackStatus", '{"1": "accept", "2": "review"}')
    assert track_of(scene, "femur") is sequence
    assert {n: pose.status for n, pose in verdicts_of_track(sequence).items()} == {1: "accept", 2: "review"}


def test_frames_are_told_apart_as_in_the_sequence_of_xrays(scene):
    seconds = ["0", "0.04", "0.08"]
    sequence = track_sequence(scene, "femur", matrices(1, 3), verdicts(1, 3), seconds)
    assert index_values(sequence) == ["0", "0.08"]
    assert list(matrices_of_track(sequence, ["0.000", "0.040", "0.080"])) == [1, 3]


def test_a_volume_that_shows_a_sequence_is_known(scene, film, logic):
    sequence = xray_sequence(scene, film)
    assert is_made_of(sequence, film)
    assert shown_sequence(scene, film) == (None, None)
    browser = scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "user's own")
    browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
    shown = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "shown")
    browser.AddProxyNode(shown, sequence, False)
    assert shown_sequence(scene, shown) == (sequence, browser)
    tracked = track_sequence(scene, "femur", matrices(1, 2, 3), verdicts(1, 2, 3), INDEX)
    transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "pose")
    assert play_together(scene, sequence, [(tracked, transform)], browser) is browser


def test_the_browser_moves_the_body_with_the_xray(scene, film, logic):
    sequence, transform = (
        xray_sequence(scene, film),
        scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "pose"),
    )
    body = scene.AddNewNodeByClass("vtkMRMLModelNode", "femur")
    attach(transform, body)
    tracked = track_sequence(scene, "femur", matrices(1, 2, 3), verdicts(1, 2, 3), INDEX)
    browser = play_together(scene, sequence, [(tracked, transform)], frames_per_second=25.0)
    assert browser.GetNumberOfItems() == 3
    assert browser.GetPlaybackRateFps() == 25.0
    assert body.GetParentTransformNode() is transform
    for item in (2, 0):
        browser.SetSelectedItemNumber(item)
        logic.UpdateProxyNodesFromSequences(browser)
        shown = slicer.util.arrayFromTransformMatrix(transform)
        expected = slicer.util.arrayFromTransformMatrix(tracked.GetNthDataNode(item))
        np.testing.assert_allclose(shown, expected, atol=1e-9)
    assert play_together(scene, sequence, [(tracked, transform)]) is browser


def test_a_saved_scene_keeps_the_track(scene, film, logic, tmp_path):
    sequence = xray_sequence(scene, film)
    transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "pose")
    tracked = track_sequence(scene, "femur", matrices(1, 2, 3), verdicts(1, 2, 3), INDEX)
    play_together(scene, sequence, [(tracked, transform)])
    bundle = tmp_path / "scene.mrb"
    assert scene.WriteToMRB(str(bundle))
    scene.Clear(False)
    assert scene.ReadFromMRB(str(bundle))
    again = track_of(scene, "femur")
    assert [pose.status for pose in verdicts_of_track(again).values()] == ["accept"] * 3
    np.testing.assert_allclose(matrices_of_track(again, INDEX)[2], matrices(2)[2], atol=1e-4)
    [browser] = slicer.util.getNodesByClass("vtkMRMLSequenceBrowserNode")
    assert browser.GetNumberOfItems() == 3
