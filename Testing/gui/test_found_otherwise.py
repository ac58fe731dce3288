"""X-rays that are stored or taken otherwise than their geometry states: the scene becomes what was found."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture
def mirrored(user, demo_case):
    """The demo case whose X-ray is stored as one faces the patient, which its geometry does not say."""
    import slicer

    user.take_demo(demo_case)
    pixels = slicer.util.arrayFromVolume(user.nodes.xray)
    pixels[:] = pixels[:, :, ::-1].copy()
    slicer.util.arrayFromVolumeModified(user.nodes.xray)
    user.show_views()
    return user


def result_of(user, T_lps_to_camera):
    """What a registration finds of such an X-ray, at a pose of the picture turned over."""
    from SOPIRegistrationLib.registration import RegistrationResult
    from SOPIRegistrationLib.registration.result import Verdict

    case = user.session.case
    return RegistrationResult(
        T_lps_to_world=T_lps_to_camera,
        initial_T=T_lps_to_camera,
        frame=case.frame,
        T_world_to_camera=np.eye(4),
        radiographs=(case.xray.mirrored(),),
        method="auto + opt",
        content="body",
        stages=[],
        similarity={"ncc": 0.9, "gradient_correlation": 0.8},
        initial_similarity=None,
        verdict=Verdict("accept", ["the images agree"], np.ones(3), np.ones(3)),
        seconds=1.0,
        mirrored=True,
        stated_view=case.frame.view,
    )


def columns_run_to_the_left(user) -> bool:
    """Whether the X-ray lies on its detector with its columns reversed."""
    import slicer
    import vtk
    from SOPIRegistrationLib.scene.frames import ijk_to_ras

    matrix = vtk.vtkMatrix4x4()
    user.parameters.xray.GetIJKToRASMatrix(matrix)
    stored, case = slicer.util.arrayFromVTKMatrix(matrix), user.session.case
    return bool(stored[:3, 0] @ ijk_to_ras(case.xray.camera, case.frame)[:3, 0] < 0)


def test_the_scene_becomes_what_was_found_and_the_history_brings_it_back(mirrored, demo_case):
    user, stated = mirrored, mirrored.session.state.geometry
    pose = demo_case.T_true
    assert not columns_run_to_the_left(user)
    user.session.record(result_of(user, pose))
    user.wait()
    found = user.session.state.geometry
    assert (stated.mirrored, found.mirrored) == (False, True)
    assert "Stored mirrored: found by the registration" in user.ui.geometrySourceLabel.text
    assert columns_run_to_the_left(user)
    np.testing.assert_allclose(user.session.pose, pose, atol=1e-6)
    assert user.session.is_current
    # The picture fuses the X-ray as it is seen from the source.
    user.session.state.geometry = stated
    user.wait()
    assert not columns_run_to_the_left(user)
    user.ui.historyTable.cellClicked.emit(0, 0)
    user.wait()
    assert user.session.state.geometry.mirrored
    assert columns_run_to_the_left(user)
    np.testing.assert_allclose(user.session.pose, pose, atol=1e-6)


def test_a_saved_scene_keeps_what_was_found(mirrored, demo_case, tmp_path):
    import slicer

    user = mirrored
    user.session.record(result_of(user, demo_case.T_true))
    user.wait()
    path = str(tmp_path / "found.mrb")
    assert slicer.util.saveScene(path)
    user.host.scene.Clear()
    user.host.process(0.2)
    slicer.util.loadScene(path)
    user.wait()
    [entry] = user.session.state.history
    assert user.session.state.geometry.mirrored
    assert entry.geometry.mirrored
    assert columns_run_to_the_left(user)
    np.testing.assert_allclose(user.session.pose, demo_case.T_true, atol=1e-5)


@pytest.mark.slow
def test_the_button_finds_a_mirrored_x_ray_and_undo_takes_all_of_it_back(mirrored, demo_case):
    user, start = mirrored, mirrored.session.pose
    user.ui.timeLimitSpinBox.value = 120.0
    user.click("registerButton")
    user.wait(300)
    assert user.ui.verdictLabel.text.startswith("Accepted")
    assert user.session.state.geometry.mirrored
    assert user.error_mm(demo_case) < 0.5
    user.click("undoButton")
    user.wait()
    assert not user.session.state.geometry.mirrored
    assert not columns_run_to_the_left(user)
    np.testing.assert_allclose(user.session.pose, start, atol=1e-6)
    user.click("redoButton")
    user.wait()
    assert user.session.state.geometry.mirrored
    assert user.error_mm(demo_case) < 0.5
