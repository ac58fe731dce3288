"""Sequences of X-rays and of transforms: read by the core, played together, saved."""

from __future__ import annotations

import numpy as np
import pytest
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.scene import attach
from SOPIRegistrationLib.scene.sequences import (
    NodeFrames,
    play_together,
    poses_of_track,
    track_sequence,
    xray_sequence,
)

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


def track_of(*numbers) -> dict:
    return {n: (FRAME.T_from_theta(np.array([0.1 * n, 0, 0, 5.0 * n, 0, 0])), "accept") for n in numbers}


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
    given = track_of(1, 3)
    sequence = track_sequence(scene, "femur", given, FRAME)
    found = poses_of_track(sequence, FRAME)
    assert {n: status for n, (_, status) in found.items()} == {1: "accept", 3: "accept"}
    for number, (T, _) in given.items():
        np.testing.assert_allclose(found[number][0], T, atol=1e-9)
    # Tracked anew, it is the same Sequence.
    assert track_sequence(scene, "femur", track_of(2), FRAME) is sequence
    assert list(poses_of_track(sequence, FRAME)) == [2]


def test_the_browser_moves_the_body_with_the_xray(scene, film, logic):
    sequence, transform = (
        xray_sequence(scene, film),
        scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "pose"),
    )
    body = scene.AddNewNodeByClass("vtkMRMLModelNode", "femur")
    attach(transform, body)
    tracked = track_sequence(scene, "femur", track_of(1, 2, 3), FRAME)
    browser = play_together(scene, sequence, [(tracked, transform)], 25.0)
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
    tracked = track_sequence(scene, "femur", track_of(1, 2, 3), FRAME)
    play_together(scene, sequence, [(tracked, transform)])
    bundle = tmp_path / "scene.mrb"
    assert scene.WriteToMRB(str(bundle))
    scene.Clear(False)
    assert scene.ReadFromMRB(str(bundle))
    [again] = [
        node
        for node in slicer.util.getNodesByClass("vtkMRMLSequenceNode")
        if node.GetAttribute("SOPIRegistration.IsTrack") == "femur"
    ]
    found = poses_of_track(again, FRAME)
    assert {number: status for number, (_, status) in found.items()} == dict.fromkeys((1, 2, 3), "accept")
    np.testing.assert_allclose(found[2][0], track_of(2)[2][0], atol=1e-6)
    [browser] = slicer.util.getNodesByClass("vtkMRMLSequenceBrowserNode")
    assert browser.GetNumberOfItems() == 3
