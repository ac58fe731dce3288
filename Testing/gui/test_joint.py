"""Several X-rays of a calibrated set, registered jointly at the panel."""

from __future__ import annotations

import json

import numpy as np
import pytest


@pytest.fixture
def wrist(user, shared_data):
    """The radius and both X-rays of it, with the cameras of the set; the CT near where it belongs."""
    import slicer
    from SOPIRegistrationLib.scene import matrix_from_pose

    folder = shared_data / "wrist"
    if not folder.is_dir():
        pytest.skip("the wrist sample data is not in ../shared/data")
    xrays = user.take_wrist(folder)
    user.show_views()
    assert user.host.messages == []
    gold = np.array(json.loads((folder / "gold_0099.json").read_text())["T_radius_lps_to_world"])
    case = user.session.case
    away = np.array([*np.deg2rad([3.0, -2.0, 2.0]), 2.0, -2.0, 5.0])
    start = case.frame.T_from_theta(case.frame.theta_from_T(case.T_world_to_camera @ gold) + away)
    matrix = slicer.util.vtkMatrixFromArray(matrix_from_pose(start, case.frame))
    user.parameters.transform.SetMatrixTransformToParent(matrix)
    user.wait()
    user.ui.initialiserCombo.setCurrentText("Current pose")
    user.gold, user.xrays = gold, xrays
    return user


def off_mm(user) -> float:
    """Mean distance, mm, of the bone from where the gold standard has it in the world of the set."""
    case = user.session.case
    T = np.linalg.inv(case.T_world_to_camera) @ user.session.pose
    k, j, i = np.nonzero(case.ct.bone.array)
    points = case.ct.bone.points_lps(np.stack([i, j, k], axis=-1)[::501])
    difference = (T - user.gold)[:3]
    return float(np.linalg.norm(points @ difference[:, :3].T + difference[:, 3], axis=1).mean())


@pytest.mark.slow
def test_two_views_of_the_wrist_jointly(wrist, tmp_path):
    import slicer

    assert wrist.ui.xrayTable.rowCount == 2
    assert [wrist.ui.xrayTable.item(row, 3).text() for row in (0, 1)] == ["cam01", "cam02"]
    wrist.ui.jointCheckBox.checked = True
    wrist.click("registerButton")
    wrist.wait()
    assert wrist.host.messages == []
    assert off_mm(wrist) < 0.5
    result = wrist.session.state.shown_entry.result
    cameras = result["geometry"]["cameras"]
    assert {camera["name"] for camera in cameras} == {"cam01", "cam02"}

    # The other one is looked at: the CT stays where it is in the world, and agrees with it as well.
    assert wrist.ui.cameraCombo.currentText == "cam02"
    jointly = np.linalg.inv(wrist.session.case.T_world_to_camera) @ wrist.session.pose
    wrist.ui.xrayTable.cellClicked.emit(0, 1)
    wrist.wait()
    assert wrist.parameters.xray is wrist.xrays[0]
    assert wrist.session.case.xray.camera.name == "cam01"
    np.testing.assert_allclose(
        np.linalg.inv(wrist.session.case.T_world_to_camera) @ wrist.session.pose, jointly, atol=1e-6
    )

    path = str(tmp_path / "wrist.mrb")
    assert slicer.util.saveScene(path)
    slicer.mrmlScene.Clear()
    assert wrist.ui.xrayTable.rowCount == 0
    slicer.util.loadScene(path)
    wrist.wait()
    assert wrist.ui.xrayTable.rowCount == 2
    assert wrist.ui.jointCheckBox.checked
    assert len(wrist.session.case.others) == 1
    np.testing.assert_allclose(
        np.linalg.inv(wrist.session.case.T_world_to_camera) @ wrist.session.pose, jointly, atol=1e-4
    )


@pytest.mark.slow
def test_jointly_it_ends_where_the_command_line_does(wrist, shared_data, tmp_path):
    from SOPIRegistrationLib.cli.main import main

    wrist.ui.jointCheckBox.checked = True
    wrist.show_views()
    start = {"T_lps_to_camera": wrist.session.pose.tolist()}
    (tmp_path / "start.json").write_text(json.dumps({"pose": start}))
    wrist.click("registerButton")
    wrist.wait()

    folder = shared_data / "wrist"
    # The X-ray that is looked at comes first at the panel.
    xrays = [str(folder / f"frame_0099_{camera}.png") for camera in ("cam02", "cam01")]
    words = ["--geometry", str(folder / "cameras.json"), "--init", str(tmp_path / "start.json")]
    words += ["--refine", "opt", "--out", str(tmp_path / "out")]
    assert main(["register", str(folder / "radius.nii.gz"), *xrays, *words]) == 0
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    # Slicer's reader and the program's own differ in the last digits of the CT.
    wrist.gold = np.array(result["pose"]["T_lps_to_world"])
    assert off_mm(wrist) < 0.05


def test_one_left_out_is_not_compared_and_the_switch_goes_back_to_one(wrist):
    wrist.ui.jointCheckBox.checked = True
    wrist.show_views()
    assert len(wrist.session.case.others) == 1
    wrist.ui.xrayTable.cellClicked.emit(0, 0)
    wrist.show_views()
    assert wrist.session.case.others == ()
    wrist.ui.xrayTable.cellClicked.emit(0, 0)
    wrist.show_views()
    assert len(wrist.session.case.others) == 1
    wrist.ui.jointCheckBox.checked = False
    wrist.show_views()
    assert wrist.session.case.others == ()
    wrist.click("removeXrayButton")
    assert wrist.ui.xrayTable.rowCount == 1


def test_pictures_of_a_c_arm_that_was_moved_cannot_be_combined(user, demo_case):
    user.take_demo(demo_case)
    user.click("addXrayButton")
    assert "cannot be combined" in user.last_message()
    assert "where it stood" in user.last_message()
    assert user.ui.xrayTable.rowCount == 0
