"""A geometry of several calibrated cameras at the panel: which one took the X-ray, and what is exported."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.c_arm import CArmGeometry
from SOPIRegistrationLib.geometry.files import write_geometry


@pytest.fixture
def cameras(demo_case):
    """Two cameras of one world about the demo case; "front" is the one that took its X-ray."""
    front = replace(
        demo_case.camera,
        name="front",
        T_world_to_camera=se3.exp_se3(np.array([0.3, -0.8, 0.4, 50, -20, 700.0])),
    )
    aside = se3.exp_se3(np.array([0, 1.3, 0, -650.0, 0, 500.0])) @ front.T_world_to_camera
    return CArmGeometry((replace(front, name="side", T_world_to_camera=aside), front))


@pytest.fixture
def chosen(user, demo_case, cameras, tmp_path):
    """A user with the demo case chosen and the file of both cameras loaded."""
    user.take_demo(demo_case)
    path = tmp_path / "cameras.json"
    write_geometry(cameras, path)
    user.host.answers.append(str(path))
    user.click("loadGeometryButton")
    assert user.host.messages == []
    return user


def _choose(user, camera):
    combo = user.ui.cameraCombo
    combo.setCurrentIndex(combo.findText(camera))
    combo.activated.emit(combo.currentIndex)


def test_the_camera_is_asked_for_where_the_name_of_the_xray_does_not_tell(chosen):
    assert not chosen.ui.cameraCombo.isHidden()
    assert chosen.ui.cameraCombo.currentIndex == 0
    assert not chosen.ui.registerButton.enabled
    assert "the camera that took the X-ray" in chosen.ui.registerButton.toolTip
    assert chosen.session.state.geometry is None
    _choose(chosen, "front")
    assert chosen.ui.registerButton.enabled
    assert chosen.session.state.geometry.camera.name == "front"


def test_the_camera_follows_the_name_of_the_xray(chosen):
    import slicer

    pixels = slicer.util.arrayFromVolume(chosen.parameters.xray)
    named = slicer.util.addVolumeFromArray(pixels.copy(), name="frame_01_SIDE")
    chosen.choose(xray=named)
    assert chosen.ui.cameraCombo.currentText == "side"
    chosen.choose(xray=slicer.util.addVolumeFromArray(pixels.copy(), name="somewhere"))
    assert chosen.ui.cameraCombo.currentIndex == 0
    assert not chosen.ui.registerButton.enabled


def test_what_is_chosen_for_a_camera_is_kept_while_looking_at_another(chosen):
    _choose(chosen, "front")
    chosen.ui.sodSpinBox.value = 640.0
    _choose(chosen, "side")
    assert chosen.session.state.geometry.sod_mm != 640.0
    _choose(chosen, "front")
    assert chosen.ui.sodSpinBox.value == 640.0


@pytest.mark.slow
def test_registered_and_exported_in_the_world_of_the_set(chosen, demo_case, cameras, tmp_path):
    import slicer

    _choose(chosen, "front")
    chosen.ui.sodSpinBox.value = demo_case.pose_frame.sod_mm
    chosen.show_views()
    chosen.ui.initialiserCombo.setCurrentText("Nominal view")
    chosen.click("registerButton")
    chosen.wait()
    assert chosen.host.messages == []
    assert chosen.error_mm(demo_case) < 0.5
    chosen.host.answers.append(str(tmp_path / "result.json"))
    chosen.click("exportResultButton")
    result = json.loads((tmp_path / "result.json").read_text())
    [camera] = result["geometry"]["cameras"]
    T_world_to_camera = cameras.cameras[1].T_world_to_camera
    assert camera["name"] == "front"
    np.testing.assert_allclose(camera["R"], T_world_to_camera[:3, :3], atol=1e-9)
    np.testing.assert_allclose(camera["t"], T_world_to_camera[:3, 3], atol=1e-9)
    T_lps_to_camera = np.array(result["pose"]["T_lps_to_camera"])
    np.testing.assert_allclose(T_lps_to_camera, chosen.session.pose, atol=1e-9)
    np.testing.assert_allclose(
        T_world_to_camera @ result["pose"]["T_lps_to_world"], T_lps_to_camera, atol=1e-6
    )
    _choose(chosen, "side")
    chosen.host.process(0.4)
    chosen.wait()
    assert chosen.session.case.xray.camera.name == "side"
    models = slicer.util.getNodesByClass("vtkMRMLModelNode")
    arms = [node.GetName() for node in models if node.GetAttribute("SOPIRegistration.CArmPart")]
    assert len(arms) == 4
    assert all("side" in name for name in arms)
    # The CT lies where it was found, seen from the side; going back in the history leaves it there.
    T_lps_to_side = cameras.cameras[0].T_world_to_camera @ result["pose"]["T_lps_to_world"]
    np.testing.assert_allclose(chosen.session.pose, T_lps_to_side, atol=1e-6)
    assert "changed since" not in chosen.ui.verdictLabel.text
    assert not chosen.ui.undoButton.enabled
    chosen.click("nominalButton")
    chosen.wait()
    assert "changed since" in chosen.ui.verdictLabel.text
    chosen.ui.historyTable.cellClicked.emit(0, 0)
    chosen.wait()
    np.testing.assert_allclose(chosen.session.pose, T_lps_to_side, atol=1e-6)


def test_the_set_is_saved_with_the_scene(chosen, tmp_path):
    import slicer

    _choose(chosen, "front")
    path = str(tmp_path / "cameras.mrb")
    assert slicer.util.saveScene(path)
    slicer.mrmlScene.Clear()
    assert chosen.ui.cameraCombo.isHidden()
    slicer.util.loadScene(path)
    chosen.wait()
    assert chosen.ui.cameraCombo.currentText == "front"
    assert chosen.ui.registerButton.enabled
    _choose(chosen, "side")
    assert chosen.session.state.geometry.camera.name == "side"


def test_a_script_must_name_the_camera(chosen, demo_case, cameras, tmp_path, module):
    from SOPIRegistrationLib.errors import InputError
    from SOPIRegistrationLib.panel.input_reader import geometry_of

    path, xray = str(tmp_path / "cameras.json"), chosen.parameters.xray
    with pytest.raises(InputError, match=r"several cameras \(side, front\)"):
        geometry_of(path, xray)
    assert geometry_of(path, xray, camera="front").camera.name == "front"
    xray.SetName("frame Front 12")
    assert geometry_of(path, xray).camera.name == "front"
