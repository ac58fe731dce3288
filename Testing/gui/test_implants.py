"""Bodies without a CT at the panel: models of implants, with what they are made of."""

from __future__ import annotations

import json

import numpy as np
import pytest


def add_model(user, surface, name: str = "implant"):
    """A surface as a model in the scene."""
    from SOPIRegistrationLib.scene import RAS_FROM_LPS
    from support.surfaces import poly_data

    node = user.host.scene.AddNewNodeByClass("vtkMRMLModelNode", name)
    points = surface.points_lps_mm @ RAS_FROM_LPS[:3, :3]
    # Mirrored twice, so that faces keep their sense.
    node.SetAndObservePolyData(poly_data(points, surface.triangles))
    node.CreateDefaultDisplayNodes()
    return node


def take_body(user, node, material: str = "CoCr") -> None:
    """Add a model to the table, and say what it is made of."""
    user.ui.bodySelector.setCurrentNode(node)
    user.click("addBodyButton")
    user.ui.bodyTable.selectRow(user.ui.bodyTable.rowCount - 1)
    user.ui.bodyMaterialCombo.setCurrentText(material)


@pytest.fixture(scope="module")
def surface():
    from support.surfaces import implant

    return implant()


@pytest.fixture(scope="module")
def shown(surface):
    """(geometry, X-ray's pixels, true pose) of a made-up implant in a leg."""
    from SOPIRegistrationLib.geometry.c_arm import CArmGeometry
    from SOPIRegistrationLib.geometry.camera import Camera
    from SOPIRegistrationLib.images.ct_preparation import centroid_lps
    from SOPIRegistrationLib.subject.surface import filled, material_named
    from support.surfaces import metal_radiograph

    camera = Camera.from_c_arm(1000.0, (1.0, 1.0), 192, 192)
    geometry = CArmGeometry((camera,), 800.0, "AP")
    frame = geometry.pose_frame(centroid_lps(filled(surface, material_named("CoCr")).bone))
    T = frame.T_from_theta(np.array([0.3, -0.4, 0.2, 6.0, -9.0, 12.0]))
    return geometry, metal_radiograph(surface, camera, T).pixels, T


@pytest.fixture
def implant_user(user, surface, shown):
    """A scene of a model and an X-ray, chosen as body and X-ray, and nothing else."""
    import slicer

    geometry, pixels, T = shown
    user.T_true = T
    user.model = add_model(user, surface)
    user.xray = slicer.util.addVolumeFromArray(pixels[None], name="X-ray of the knee")
    user.choose(xray=user.xray)
    user.session.state.geometry = geometry
    take_body(user, user.model)
    return user


def rows(user) -> list[list[str]]:
    table = user.ui.bodyTable
    return [[table.item(row, column).text() for column in range(4)] for row in range(table.rowCount)]


def test_a_model_needs_no_ct(implant_user):
    user = implant_user
    assert rows(user) == [["implant", "CoCr", "free", "–"]]
    assert user.parameters.ct is None
    assert "Ready" in user.ui.verdictLabel.text
    user.show_views()
    assert user.host.messages == []
    case = user.session.case
    assert case.inputs.ct is None
    assert case.bodies.are_metal
    assert not case.has_several_bodies
    assert user.model.GetParentTransformNode() is user.parameters.transform
    assert user.session.views.shown.bodies == (user.model,)
    # Its centre is what it turns about.
    centre = np.array(user.parameters.transform.GetCenterOfTransformation()) * [-1, -1, 1]
    np.testing.assert_allclose(centre, case.bodies["implant"].centre_lps_mm)
    assert "a CT" in user.ui.trainButton.toolTip
    assert not user.ui.trainButton.enabled


def test_edges_of_an_implant_lie_on_its_shadow_at_the_true_pose(implant_user):
    user = implant_user
    user.show_views()
    user.session.pose = user.T_true
    user.wait()
    drr = user.drr()
    assert 0.9 < drr.max() <= 1.0
    # What lets nothing through is white, what lets all through black.
    assert user.session.overlay.drr_window == (0.0, 1.0)
    from SOPIRegistrationLib.images.resampling import area_weights

    seen = user.session.case.inputs.radiograph.pixels.astype(float)
    weights = [area_weights(n, m) for n, m in zip(seen.shape, drr.shape, strict=True)]
    metal = weights[0] @ drr @ weights[1].T > 0.9
    surroundings = weights[0] @ drr @ weights[1].T < 0.01
    assert seen[metal].mean() < 0.6 * seen[surroundings].mean()


def test_an_implant_is_moved_and_saved(implant_user, tmp_path):
    import slicer

    user = implant_user
    user.show_views()
    user.ui.txSlider.value = user.ui.txSlider.value + 5.0
    user.wait()
    pose = user.session.pose
    assert slicer.util.saveScene(str(tmp_path / "implant.mrb"))
    slicer.mrmlScene.Clear()
    slicer.util.loadScene(str(tmp_path / "implant.mrb"))
    user.wait()
    assert rows(user) == [["implant", "CoCr", "free", "–"]]
    np.testing.assert_allclose(user.session.pose, pose, atol=1e-4)
    assert user.session.case.inputs.ct is None
    assert user.host.messages == []


def test_a_second_implant_moves_by_itself_and_leaves_again(implant_user, surface):
    from dataclasses import replace

    user = implant_user
    user.show_views()
    beside = replace(surface, points_lps_mm=surface.points_lps_mm + np.array([0.0, 0.0, 70.0]))
    other = add_model(user, beside, "tray")
    take_body(user, other, "Ti")
    user.show_views()
    first, second = user.session.bodies
    common = user.parameters.transform
    assert user.model.GetParentTransformNode() is first.transform
    assert other.GetParentTransformNode() is second.transform
    assert first.transform.GetParentTransformNode() is common
    user.ui.movedBodyCombo.setCurrentText("tray")
    user.ui.tySlider.value = user.ui.tySlider.value + 6.0
    user.wait()
    placement = user.session.placement
    assert not np.allclose(placement.of("tray"), placement.of("implant"), atol=1.0)
    user.ui.bodyTable.selectRow(0)
    user.click("removeBodyButton")
    user.show_views()
    assert [row[0] for row in rows(user)] == ["tray"]
    assert other.GetParentTransformNode() is common
    assert user.model.GetParentTransformNode() is None
    # The other one stays where it was.
    np.testing.assert_allclose(user.session.pose, placement.of("tray"), atol=1e-6)
    assert user.host.messages == []


def test_the_ct_of_the_table_leaves_and_comes_back(implant_user, demo_case):
    """A CT that is chosen takes part as a row of the table, and only so."""
    from SOPIRegistrationLib.scene import load_demo_case

    user = implant_user
    nodes = load_demo_case(user.host.scene, case=demo_case)
    user.choose(ct=nodes.ct)
    assert user.session.reader.ct is None
    user.ui.bodySelector.setCurrentNode(nodes.ct)
    user.click("addBodyButton")
    assert [row[:2] for row in rows(user)] == [[nodes.ct.GetName(), "the CT"], ["implant", "CoCr"]]
    assert user.session.reader.ct is nodes.ct
    user.ui.bodyTable.selectRow(0)
    user.click("removeBodyButton")
    assert [row[:2] for row in rows(user)] == [["implant", "CoCr"]]
    assert user.session.reader.ct is None


def test_what_a_case_without_a_ct_lacks_is_said(user):
    import slicer

    xray = slicer.util.addVolumeFromArray(np.zeros((1, 8, 8)), name="X-ray")
    user.choose(xray=xray)
    other = slicer.util.addVolumeFromArray(np.zeros((8, 8, 8)), name="Volume")
    user.ui.bodySelector.setCurrentNode(other)
    user.click("addBodyButton")
    assert "choose the CT first" in user.last_message()


def test_a_body_that_is_cut_by_the_border_of_the_3d_view_is_brought_back(implant_user):
    user = implant_user
    user.show_views()
    views = user.session.views
    camera = user.host.app.layoutManager().threeDWidget(0).threeDView().cameraNode().GetCamera()
    views.fit()
    place = camera.GetPosition()
    views.keep_body_in_sight()
    assert camera.GetPosition() == place
    # A turn of the camera about itself shifts the picture.
    camera.Yaw(0.3 * camera.GetViewAngle())
    aside = camera.GetDirectionOfProjection()
    views.keep_body_in_sight()
    assert camera.GetDirectionOfProjection() == pytest.approx(aside)
    assert camera.GetPosition() != place
    # Somebody has come close: the middle is in sight, and that is all that is asked.
    camera.Zoom(4.0)
    near = camera.GetPosition()
    views.keep_body_in_sight()
    assert camera.GetPosition() == near


def test_a_model_that_leaves_the_scene_stops_the_case(implant_user):
    user = implant_user
    user.show_views()
    user.host.scene.RemoveNode(user.model)
    user.wait()
    assert user.session.case is None
    assert rows(user) == []
    assert "The body was removed" in user.ui.verdictLabel.text
    assert "a CT" in user.ui.registerButton.toolTip
    assert user.host.messages == []


@pytest.mark.slow
def test_an_implant_is_registered_from_a_pose_put_by_hand(implant_user, tmp_path):
    user = implant_user
    user.show_views()
    start = user.T_true.copy()
    start[:3, 3] += [3.0, -2.0, 10.0]
    user.session.pose = start
    user.wait()
    user.ui.initialiserCombo.setCurrentText("Current pose")
    user.click("registerButton")
    user.wait(300)
    assert user.host.messages == []
    centre = np.append(user.session.case.bodies["implant"].centre_lps_mm, 1.0)
    off = (user.session.pose - user.T_true) @ centre
    assert np.linalg.norm(off[:2]) < 0.5
    assert user.ui.verdictLabel.text.startswith("Accepted")
    assert rows(user)[0][3] == "Accepted"
    assert "changed since" not in user.ui.verdictLabel.text
    user.host.answers.append(str(tmp_path / "result.json"))
    user.click("exportResultButton")
    content = json.loads((tmp_path / "result.json").read_text())
    np.testing.assert_allclose(content["pose"]["T_lps_to_camera"], user.session.pose, atol=1e-4)


def take_knee(user, folder) -> dict[str, np.ndarray]:
    """Femoral component and tray of the sample data at their rough starts, in two X-rays; (4, 4) by name."""
    import slicer
    from SOPIRegistrationLib.subject.surface import read_surface

    xrays = [slicer.util.loadVolume(str(folder / camera / "frame_0002.png")) for camera in ("cam01", "cam02")]
    for xray, camera in zip(xrays, ("cam01", "cam02"), strict=True):
        xray.SetName(f"frame_0002_{camera}")
    user.choose(xray=xrays[0])
    user.host.answers.append(str(folder / "cameras.json"))
    user.click("loadGeometryButton")
    for xray in reversed(xrays):
        user.choose(xray=xray)
        user.click("addXrayButton")
    user.ui.jointCheckBox.checked = True
    for name in ("femur0", "tibia0"):
        take_body(user, add_model(user, read_surface(folder / f"{name}.stl"), name))
    user.show_views()
    starts = {}
    for name, file in (("femur0", "femur"), ("tibia0", "tibia")):
        start = json.loads((folder / f"start_{file}.json").read_text())["pose"]["T_lps_to_camera"]
        starts[name] = np.array(start)
        user.session.placement = user.session.placement.with_pose(starts[name], name)
        user.wait()
    return starts


@pytest.mark.slow
def test_femoral_component_and_tray_of_a_knee(user, shared_data):
    from SOPIRegistrationLib.geometry import se3

    folder = shared_data / "knee_implant"
    if not folder.is_dir():
        pytest.skip("the knee sample data is not in ../shared/data")
    starts = take_knee(user, folder)
    user.ui.initialiserCombo.setCurrentText("Current pose")
    user.click("registerButton")
    user.wait(500)
    assert user.host.messages == []
    assert [row[0] for row in rows(user)] == ["femur0", "tibia0"]
    assert rows(user)[0][3] == "Accepted"
    assert rows(user)[1][3] != "Rejected"
    for name, start in starts.items():
        # The starts are rough, and not wrong.
        found, centre = user.session.placement.of(name), user.session.case.bodies[name].centre_lps_mm
        assert np.linalg.norm(((found - start) @ [*centre, 1.0])[:2]) < 15.0
        assert np.rad2deg(se3.rotation_distance(found[:3, :3], start[:3, :3])) < 15.0
