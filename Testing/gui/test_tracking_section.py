"""A film at the panel: track, scrub, correct a frame by hand, track on, save and reload."""

from __future__ import annotations

import numpy as np
import pytest

STEP_PX, FRAMES = 6, 3


@pytest.fixture
def film(user, demo_case):
    """The demo's X-ray as a film in which the patient moves across it; the CT is right in the first frame."""
    import slicer

    logic = slicer.vtkSlicerSequencesLogic()
    logic.SetMRMLScene(user.host.scene)
    user.take_demo(demo_case)
    pixels = slicer.util.arrayFromVolume(user.nodes.xray)[0]
    frames = np.stack([np.roll(pixels, STEP_PX * n, axis=1) for n in range(FRAMES)])
    slicer.util.updateVolumeFromArray(user.nodes.xray, frames)
    user.parameters.frame = 1
    user.show_views()
    user.session.pose = demo_case.T_true
    user.wait()
    user.sequences = logic
    return user


def column(user, number: int) -> float:
    """Where the rotation centre is seen, pixels, with the browser at a frame."""
    user.ui.trackTable.cellClicked.emit(number - 1, 0)
    user.sequences.UpdateProxyNodesFromSequences(user.panel.tracking.browser)
    user.wait()
    case = user.session.case
    return float(case.xray.camera.project((user.session.pose @ [*case.frame.centre_lps_mm, 1.0])[:3])[0])


# Two tracks of a film; one, by a script, is a fast test (test_scripts).
@pytest.mark.slow
def test_track_scrub_correct_and_track_on(film, demo_case, tmp_path):
    import slicer

    film.click("trackButton")
    film.finish_tracking()
    assert film.ui.trackTable.rowCount == FRAMES
    assert [film.ui.trackTable.item(row, 1).text() for row in range(FRAMES)] == ["accept"] * FRAMES
    places = [column(film, number) for number in range(1, FRAMES + 1)]
    assert np.allclose(np.diff(places), STEP_PX, atol=1.0)
    assert film.parameters.frame == FRAMES

    column(film, 2)
    assert film.parameters.frame == 2
    film.session.pose = demo_case.T_true
    film.click("trackOnButton")
    film.finish_tracking()
    assert np.allclose(np.diff([column(film, number) for number in (1, 2, 3)]), STEP_PX, atol=1.0)

    path = str(tmp_path / "film.mrb")
    assert slicer.util.saveScene(path)
    slicer.mrmlScene.Clear()
    assert film.ui.trackTable.rowCount == 0
    assert not film.ui.trackOnButton.enabled

    slicer.util.loadScene(path)
    film.wait()
    assert film.ui.trackTable.rowCount == FRAMES
    assert film.ui.trackOnButton.enabled
    assert np.allclose(np.diff([column(film, number) for number in (1, 2, 3)]), STEP_PX, atol=1.0)


def test_a_still_cannot_be_tracked(user, demo_case):
    user.take_demo(demo_case)
    user.show_views()
    user.click("trackButton")
    assert "has a single frame: choose a sequence" in user.last_message()
    assert not user.panel.tracking.is_running
