"""Intrinsics that are estimated with the pose, as the panel and the scene have them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from SOPIRegistrationLib.geometry.camera import Camera


@pytest.fixture
def tolerated(user, demo_case):
    """The demo case with a geometry that states a wrong distance within a wide tolerance."""
    from SOPIRegistrationLib.geometry.tolerances import Tolerances

    user.take_demo(demo_case)
    geometry = user.session.state.geometry
    K, sdd = geometry.camera.K.copy(), geometry.camera.sdd_mm
    K[[0, 1], [0, 1]] *= 1.06
    tolerances = Tolerances(sdd_mm=80.0, principal_point_px=2.0)
    camera = replace(geometry.camera, K=K, sdd_mm=1.06 * sdd, tolerances=tolerances)
    user.session.state.geometry = replace(geometry, cameras=(camera,))
    user.wait()
    user.stated = camera
    return user


def place_of(node) -> np.ndarray:
    import slicer
    import vtk

    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def found_by(stated: Camera) -> Camera:
    K = stated.K.copy()
    K[:2, 2] -= [4.0, -3.0]
    return replace(stated, K=K, sdd_mm=stated.sdd_mm + 5.0)


def test_what_was_estimated_of_an_xray_is_kept_with_it(tolerated):
    from SOPIRegistrationLib.scene import estimated_camera, keep_estimated

    xray, stated = tolerated.parameters.xray, tolerated.stated
    found = found_by(stated)
    assert estimated_camera(xray, stated) is stated
    keep_estimated(xray, stated, found)
    again = estimated_camera(xray, stated)
    np.testing.assert_allclose(again.K, found.K)
    assert again.sdd_mm == found.sdd_mm
    assert again.tolerances == stated.tolerances
    # Not of another statement, nor of another frame.
    assert estimated_camera(xray, found) is found
    assert estimated_camera(xray, stated, frame=2) is stated
    keep_estimated(xray, stated, None)
    assert estimated_camera(xray, stated) is stated


def test_views_are_of_the_estimated_camera_and_the_next_registration_of_the_stated_one(tolerated, tmp_path):
    import slicer
    from SOPIRegistrationLib.scene import keep_estimated

    user, found = tolerated, found_by(tolerated.stated)
    user.show_views()
    as_stated = place_of(user.parameters.xray)
    keep_estimated(user.parameters.xray, user.stated, found)
    user.session.accept(user.session.case)
    np.testing.assert_allclose(user.session.case.xray.camera.K, found.K)
    as_estimated = place_of(user.parameters.xray)
    assert not np.allclose(as_estimated, as_stated, atol=1.0)
    task = user.session.task("current", "opt", "auto")
    np.testing.assert_allclose(task.case.xray.camera.K, user.stated.K)
    assert task.case.xray.camera.tolerances == user.stated.tolerances

    path = str(tmp_path / "estimated.mrb")
    assert slicer.util.saveScene(path)
    slicer.mrmlScene.Clear()
    slicer.util.loadScene(path)
    user.wait()
    np.testing.assert_allclose(user.session.case.xray.camera.K, found.K)
    np.testing.assert_allclose(place_of(user.parameters.xray), as_estimated, atol=1e-6)
    # Somebody corrects the principal point by hand: what was estimated was of another one.
    user.ui.principalUSpinBox.value = user.ui.principalUSpinBox.value - 2.0
    user.wait()
    assert user.session.case.xray.camera.K[0, 2] == pytest.approx(user.ui.principalUSpinBox.value)


def test_estimated_values_in_words():
    from SOPIRegistrationLib.panel.result_content import estimated_lines

    given = {"sdd_mm": 1000.0, "principal_point_px": [127.5, 127.5], "pixel_spacing_mm": [1.0, 1.0]}
    one = {
        **{"camera": "", "sdd_mm": 1012.34, "principal_point_px": [131.2, 124.0]},
        **{"pixel_spacing_mm": [1.0, 1.0], "sdd_sd_mm": 4.06, "principal_point_sd_px": 1.5},
        **{"pixel_spacing_sd_percent": 0.0, "given": given},
        "fixed_by_image": {"focal_length": False, "principal_point_u": True, "principal_point_v": True},
    }
    distance, point = estimated_lines({"intrinsics": [one]})
    assert distance == ("source-detector distance 1012.3 ± 4.1 mm (stated 1000.0), the image does not fix it")
    assert point == "principal point 131.2, 124.0 ± 1.5 px (stated 127.5, 127.5), fixed by the image"
    assert estimated_lines({"intrinsics": None}) == []


@pytest.mark.slow
def test_a_registration_under_tolerances_shows_what_it_estimated(tolerated, tmp_path):
    import slicer

    user = tolerated
    user.show_views()
    user.session.pose = user.nodes.case.T_true
    user.wait()
    user.ui.initialiserCombo.setCurrentText("Current pose")
    user.click("registerButton")
    user.wait()
    assert user.host.messages == []
    assert "principal point" in user.ui.estimatedLabel.text
    assert "stated" in user.ui.geometryEstimatedLabel.text
    place, camera = place_of(user.parameters.xray), user.session.case.xray.camera
    assert not np.allclose(camera.K, user.stated.K, rtol=1e-3)
    # The boxes have what is stated.
    assert user.ui.principalUSpinBox.value == pytest.approx(user.stated.K[0, 2], abs=0.01)
    shown = user.ui.estimatedLabel.text
    path = str(tmp_path / "estimated.mrb")
    assert slicer.util.saveScene(path)
    slicer.mrmlScene.Clear()
    assert user.ui.geometryEstimatedLabel.text == ""
    slicer.util.loadScene(path)
    user.wait()
    np.testing.assert_allclose(user.session.case.xray.camera.K, camera.K)
    np.testing.assert_allclose(place_of(user.parameters.xray), place, atol=1e-4)
    assert user.ui.estimatedLabel.text == shown
    # Without a refinement nothing is estimated, and the X-ray is again as stated.
    user.click("initialiseButton")
    user.wait()
    np.testing.assert_allclose(user.session.case.xray.camera.K, user.stated.K)
    user.ui.historyTable.cellClicked.emit(0, 0)
    user.wait()
    np.testing.assert_allclose(user.session.case.xray.camera.K, camera.K)
