"""The real wrist CT and X-ray, loaded as files and registered at the panel."""

from __future__ import annotations

import json

import numpy as np
import pytest


@pytest.fixture
def wrist(shared_data):
    folder = shared_data / "wrist"
    if not folder.is_dir():
        pytest.skip("the wrist sample data is not in ../shared/data")
    return folder


@pytest.mark.slow
def test_wrist_from_files_with_a_geometry_file(user, wrist):
    import slicer
    from SOPIRegistrationLib.scene import matrix_from_pose

    ct = slicer.util.loadVolume(str(wrist / "radius.nii.gz"))
    xray = slicer.util.loadVolume(str(wrist / "frame_0099_cam02.png"))
    user.choose(ct, xray)
    user.host.answers.append(str(wrist / "cameras.json"))
    user.click("loadGeometryButton")
    assert user.host.messages == []
    assert user.ui.cameraCombo.currentText == "cam02"
    user.show_views()
    user.ui.geometrySection.collapsed = False
    assert not user.ui.cameraCombo.isHidden()
    assert user.host.messages == []

    gold = np.array(json.loads((wrist / "gold_0099.json").read_text())["T_lps_to_camera"]["cam02"])
    frame = user.session.case.frame
    away = np.array([*np.deg2rad([3.0, -2.0, 2.0]), 2.0, -2.0, 5.0])
    start = frame.T_from_theta(frame.theta_from_T(gold) + away)
    other = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "Start")
    slicer.util.updateTransformMatrixFromArray(other, matrix_from_pose(start, frame))
    user.ui.copySelector.setCurrentNode(other)
    user.click("copyButton")
    user.wait()

    points = user.session.case.ct.surface_points_lps_mm
    camera = user.session.case.xray.camera

    def projection_error_mm():
        """Mean distance of projected bone points from where the gold standard projects them, at the bone."""
        pixels = []
        for T in (user.session.pose, gold):
            in_camera = points @ T[:3, :3].T + T[:3, 3]
            pixels.append(camera.project(in_camera))
        depth = (gold[:3, :3] @ points.mean(axis=0) + gold[:3, 3])[2]
        return np.linalg.norm(pixels[0] - pixels[1], axis=1).mean() * depth / camera.K[0, 0]

    assert projection_error_mm() > 1.5
    user.click("optimiseButton")
    user.wait()
    assert user.host.messages == []
    [exported] = user.session.state.shown_entry.result["geometry"]["cameras"]
    calibrated = json.loads((wrist / "cameras.json").read_text())["cameras"][1]
    np.testing.assert_allclose(exported["R"], calibrated["R"], atol=1e-6)
    np.testing.assert_allclose(exported["t"], calibrated["t"], atol=1e-6)
    assert projection_error_mm() < 1.0


@pytest.mark.slow
def test_one_bone_with_everything_automatic_is_never_accepted_at_a_wrong_place(user, wrist):
    """A single view of a single bone, from nowhere: in time, the way round that it is, and told as it is."""
    import slicer

    ct = slicer.util.loadVolume(str(wrist / "radius.nii.gz"))
    user.choose(ct, slicer.util.loadVolume(str(wrist / "frame_0099_cam01.png")))
    user.host.answers.append(str(wrist / "cameras.json"))
    user.click("loadGeometryButton")
    user.show_views()
    assert user.session.case.bone_dark
    user.click("registerButton")
    user.wait(300.0)
    assert user.host.messages == []
    case, entry = user.session.case, user.session.state.shown_entry
    assert case.bone_dark
    # A search stops at the time limit; what it has begun to refine is refined.
    assert entry.seconds < 3 * user.parameters.timeLimit
    gold = np.array(json.loads((wrist / "gold_0099.json").read_text())["T_lps_to_camera"]["cam01"])
    points = case.ct.surface_points_lps_mm
    difference = (user.session.pose - gold)[:3]
    off_mm = np.linalg.norm(points @ difference[:, :3].T + difference[:, 3], axis=1).mean()
    assert entry.verdict != "accept" or off_mm < 10.0
