"""A film tracked in the scene: progress, cancel, play, a frame corrected by hand, tracked on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from SOPIRegistrationLib import project
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry.c_arm import CArmGeometry
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.images.radiograph import Radiograph
from SOPIRegistrationLib.registration.logic import Inputs, PreparedCase, prepare
from SOPIRegistrationLib.registration.prepared import Placement
from SOPIRegistrationLib.scene import RAS_FROM_LPS, attach, pose_of
from SOPIRegistrationLib.scene.sequences import matrices_of_track, track_of, xray_sequence
from SOPIRegistrationLib.scene.tracking import Followed, SceneTracking
from SOPIRegistrationLib.settings import RegistrationSettings
from SOPIRegistrationLib.simulation.phantom import lumbar_phantom

slicer = pytest.importorskip("slicer")

FRAMES = 3


@pytest.fixture(scope="module")
def case() -> PreparedCase:
    """A phantom, and its X-ray in the first frame."""
    ct = lumbar_phantom(3, 4.0, (150.0, 150.0, 150.0)).ct
    camera = Camera.from_c_arm(1011.7, (2.25, 2.25), 96, 96)
    geometry = CArmGeometry((camera,), 700.0)
    blank = Radiograph(np.add.outer(np.arange(96.0), np.arange(96.0)), "film", metadata={})
    inputs = Inputs(ct, None, blank, None, geometry, "bone-dark", (), ("ct",), ("xray",))
    return prepare(inputs, None, lambda live: None)


def truth(case: PreparedCase, number: int) -> np.ndarray:
    return case.frame.T_from_theta(np.array([0.04 * number, 0.02 * number, 0.0, 4.0 * number, 2.0, 5.0]))


def placed(case: PreparedCase, number: int) -> Placement:
    return Placement(truth(case, number))


@pytest.fixture
def logic(scene):
    """The application's; it brings the classes of the nodes along."""
    found = slicer.vtkSlicerSequencesLogic()
    found.SetMRMLScene(scene)
    return found


@pytest.fixture
def followed(scene, add_volume, case, logic) -> Followed:
    frames = [
        2e4 * np.exp(-project(case.subject.body.level(0), case.xray.camera, truth(case, number)))
        for number in range(1, FRAMES + 1)
    ]
    film = add_volume(np.random.default_rng(2).poisson(frames).astype(np.uint16), name="film")
    ct = add_volume(case.inputs.ct.array, RAS_FROM_LPS @ case.inputs.ct.index_to_lps, "spine")
    transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "pose")
    attach(transform, ct)
    return Followed(case, [film], transform, RegistrationSettings(time_limit=2.0))


def wait(tracking: SceneTracking) -> None:
    while tracking.is_running:
        tracking.poll(0.05)


def test_the_browser_shows_the_ct_where_it_was_tracked(scene, followed, case, logic):
    told, failures, found = [], [], []
    tracking = SceneTracking(scene)
    tracking.progressed.connect(lambda state: told.append(state.stage))
    tracking.failed.connect(failures.append)
    tracking.finished.connect(found.append)
    tracking.start(followed, 1, placed(case, 1))
    with pytest.raises(InputError, match="runs already"):
        tracking.start(followed, 1, placed(case, 1))
    wait(tracking)
    assert failures == []
    assert told
    [track] = found[0].values()
    assert [pose.status for pose in track] == ["accept"] * FRAMES
    for number in (3, 2):
        tracking.browser.SetSelectedItemNumber(number - 1)
        logic.UpdateProxyNodesFromSequences(tracking.browser)
        shown = pose_of(followed.transform, case.frame)
        assert np.linalg.norm((shown - truth(case, number))[:3, 3]) < 2.0

    # Frame 2 corrected by hand: what lies before it stands, the rest is tracked on in the same Sequence.
    [name] = tracking.tracks
    first, sequence = tracking.tracks[name].poses[1], track_of(scene, name)
    tracking.track_on(2, placed(case, 2))
    wait(tracking)
    assert failures == []
    assert tracking.tracks[name].poses[1] is first
    assert tracking.tracks[name].poses[2].source.startswith("start: given pose")
    assert track_of(scene, name) is sequence
    assert list(matrices_of_track(sequence, ["1", "2", "3"])) == [1, 2, 3]
    assert len(slicer.util.getNodesByClass("vtkMRMLSequenceBrowserNode")) == 1


def test_a_volume_that_shows_a_sequence_is_followed_in_its_own_browser(scene, followed, case, logic):
    [film] = followed.xrays
    sequence = xray_sequence(scene, film)
    browser = scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "user's own")
    browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
    shown = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "shown")
    browser.AddProxyNode(shown, sequence, False)
    logic.UpdateProxyNodesFromSequences(browser)
    assert slicer.util.arrayFromVolume(shown).shape == (1, 96, 96)
    failures, tracking = [], SceneTracking(scene)
    tracking.failed.connect(failures.append)
    tracking.start(replace(followed, xrays=[shown]), 1, placed(case, 1))
    wait(tracking)
    assert failures == []
    assert tracking.browser is browser
    for number in (3, 1):
        browser.SetSelectedItemNumber(number - 1)
        logic.UpdateProxyNodesFromSequences(browser)
        found = pose_of(followed.transform, case.frame)
        assert np.linalg.norm((found - truth(case, number))[:3, 3]) < 2.0
        np.testing.assert_array_equal(
            slicer.util.arrayFromVolume(shown)[0], slicer.util.arrayFromVolume(film)[number - 1]
        )


def test_a_cancelled_tracking_leaves_the_scene_alone(scene, followed, case):
    stopped, tracking = [], SceneTracking(scene)
    tracking.stopped.connect(stopped.append)
    tracking.start(followed, 1, placed(case, 1))
    tracking.cancel()
    wait(tracking)
    assert stopped == ["Stopped: the track is as it was."]
    assert slicer.util.getNodesByClass("vtkMRMLSequenceNode") == []


def test_what_cannot_be_tracked_is_one_line(scene, followed, case, add_volume):
    tracking = SceneTracking(scene)
    with pytest.raises(InputError, match="nothing was tracked yet"):
        tracking.track_on(1, placed(case, 1))
    with pytest.raises(InputError, match="has no frame 9: choose 1 to 3"):
        tracking.start(followed, 9, placed(case, 1))
    single = add_volume(np.arange(96 * 96, dtype=np.uint16).reshape(1, 96, 96), name="still")
    with pytest.raises(InputError, match="'still' has a single frame"):
        tracking.start(Followed(case, [single], followed.transform, followed.settings), 1, placed(case, 1))
