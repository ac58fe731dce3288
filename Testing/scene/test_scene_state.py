"""Geometry, history and landmarks in nodes; saving, loading and closing a scene."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.c_arm import CArmGeometry
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.volume import Volume
from SOPIRegistrationLib.initialise.landmarks import pose_from_landmarks
from SOPIRegistrationLib.scene import (
    FUSION_VIEW,
    RAS_FROM_LPS,
    CArmModel,
    HistoryEntry,
    Overlay,
    RegistrationState,
    attach,
    landmark_pairs,
    lay_slice_view_on_detector,
    place_on_detector,
    pose_of,
    ras_from_pixels,
    set_pose,
    show_bones,
    slice_node,
    update_drr,
    volume_from_node,
)
from support.objects import oblique_grid
from support.rendering import can_render

slicer = pytest.importorskip("slicer")

CAMERA = Camera.from_c_arm(1020.0, (0.6, 0.6), 128, 96, (60.0, 50.0), "lateral")
TURNED = se3.exp_so3(np.array([0.1, -0.2, 0.3]))
FRAME = PoseFrame([12.0, -31.0, 140.0], 640.0, "angles", TURNED)
GEOMETRY = CArmGeometry(
    (CAMERA,), 640.0, "angles", TURNED, mirrored=True, sources={"sdd_mm": "DICOM", "sod_mm": "typed"}
)
THETA = np.array([0.2, -0.15, 0.4, 12.0, -7.0, 35.0])
POSE = FRAME.T_from_theta(THETA)
ENTRY = HistoryEntry(
    "2024-06-10T12:00:00",
    "auto, sopi+opt",
    "accept",
    {"ncc": 0.97, "gradient_correlation": 0.81},
    POSE,
    THETA,
    1.5,
)


@pytest.fixture
def parameters(scene):
    return scene.AddNewNodeByClass("vtkMRMLScriptedModuleNode", "SOPIRegistration")


def assert_state(state: RegistrationState) -> None:
    geometry, frame = state.geometry, state.pose_frame
    np.testing.assert_array_equal(geometry.camera.K, CAMERA.K)
    assert (geometry.camera.width, geometry.camera.height, geometry.camera.sdd_mm) == (128, 96, 1020.0)
    assert (geometry.camera.name, geometry.sod_mm, geometry.mirrored) == ("lateral", 640.0, True)
    assert geometry.sources == GEOMETRY.sources
    np.testing.assert_array_equal(geometry.rotation, TURNED)
    np.testing.assert_array_equal(frame.T_nominal, FRAME.T_nominal)
    [entry] = state.history
    np.testing.assert_array_equal(entry.T_lps_to_camera, POSE)
    np.testing.assert_array_equal(entry.theta, THETA)
    assert (entry.verdict, entry.similarity, entry.seconds) == ("accept", ENTRY.similarity, 1.5)


def fill(state: RegistrationState) -> None:
    state.geometry, state.pose_frame = GEOMETRY, FRAME
    state.add(ENTRY)


def test_empty_state(parameters):
    state = RegistrationState(parameters)
    assert state.geometry is None
    assert state.pose_frame is None
    assert state.history == []


def test_state_is_kept_in_the_node(parameters):
    fill(RegistrationState(parameters))
    assert_state(RegistrationState(parameters))


def test_history_grows_in_order(parameters):
    state = RegistrationState(parameters)
    state.add(ENTRY)
    state.add(replace(ENTRY, verdict="reject"))
    assert [entry.verdict for entry in state.history] == ["accept", "reject"]


def test_geometry_and_frame_can_be_taken_back(parameters):
    state = RegistrationState(parameters)
    fill(state)
    state.geometry = state.pose_frame = None
    assert state.geometry is None
    assert state.pose_frame is None
    assert len(state.history) == 1


def test_calibrated_set_is_kept(parameters):
    second = replace(CAMERA, T_world_to_camera=se3.exp_se3(np.arange(6) / 10), name="second")
    state = RegistrationState(parameters)
    state.geometry = CArmGeometry((CAMERA, second), view="PA")
    assert [camera.name for camera in state.geometry.cameras] == ["lateral", "second"]
    np.testing.assert_allclose(
        state.geometry.cameras[1].T_world_to_camera, second.T_world_to_camera, atol=1e-14
    )
    assert state.geometry.view == "PA"


def test_state_of_a_newer_version_is_refused_in_words(parameters):
    parameters.SetParameter("SOPIRegistration.state", json.dumps({"version": 99}))
    with pytest.raises(InputError, match="update the extension"):
        _ = RegistrationState(parameters).geometry


def add_points(scene, name, points_ras):
    node = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name)
    slicer.util.updateMarkupsControlPointsFromArray(node, np.asarray(points_ras))
    return node


@pytest.fixture
def landmarks_lps() -> np.ndarray:
    return FRAME.centre_lps_mm + np.random.default_rng(8).uniform(-50, 50, (6, 3))


def test_landmarks_solve_the_pose_wherever_the_CT_is_dragged(scene, landmarks_lps):
    transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "pose")
    in_ct = add_points(scene, "CT points", landmarks_lps @ RAS_FROM_LPS[:3, :3])
    attach(transform, in_ct)
    set_pose(transform, FRAME.T_from_theta(THETA / 3), FRAME)
    pixels = CAMERA.project(landmarks_lps @ POSE[:3, :3].T + POSE[:3, 3])
    on_xray = add_points(scene, "X-ray points", ras_from_pixels(pixels, CAMERA, FRAME))

    points, picked = landmark_pairs(in_ct, on_xray, CAMERA, FRAME)
    np.testing.assert_allclose(points, landmarks_lps, atol=1e-6)
    np.testing.assert_allclose(picked, pixels, atol=1e-6)
    np.testing.assert_allclose(pose_from_landmarks(points, picked, CAMERA).T_lps_to_camera, POSE, atol=1e-3)


def test_only_landmarks_placed_in_both_are_pairs(scene, landmarks_lps):
    in_ct = add_points(scene, "CT points", landmarks_lps)
    on_xray = add_points(scene, "X-ray points", ras_from_pixels(np.ones((5, 2)) * 7, CAMERA, FRAME))
    in_ct.UnsetNthControlPointPosition(1)
    on_xray.UnsetNthControlPointPosition(3)
    points, pixels = landmark_pairs(in_ct, on_xray, CAMERA, FRAME)
    np.testing.assert_allclose(points, landmarks_lps[[0, 2, 4]] @ RAS_FROM_LPS[:3, :3], atol=1e-6)
    assert pixels.shape == (3, 2)
    empty = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode")
    assert [len(array) for array in landmark_pairs(in_ct, empty, CAMERA, FRAME)] == [0, 0]


@pytest.fixture
def filled_scene(host, scene, oblique_ct, add_volume, parameters, rng):
    """Everything that a registration puts into a scene."""
    xray = add_volume(rng.integers(0, 4000, (1, 96, 128)).astype(np.uint16), name="X-ray")
    transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "pose")
    table = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "table")
    table.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(se3.exp_se3(np.arange(6) / 5)))
    oblique_ct.SetAndObserveTransformNodeID(table.GetID())
    attach(transform, oblique_ct)
    set_pose(transform, POSE, FRAME)
    place_on_detector(xray, CAMERA, FRAME, mirrored=True)
    drr = update_drr(None, xray, rng.random(CAMERA.shape), CAMERA, FRAME)
    host.show_layout()
    lay_slice_view_on_detector(slice_node(scene, FUSION_VIEW), CAMERA, FRAME)
    overlay = Overlay(scene)
    overlay.show(xray, drr, bone_dark=True, valid=rng.random(CAMERA.shape) > 0.3)
    overlay.mode = "checkerboard"
    overlay.set(mix=0.6)
    CArmModel(scene).update(CAMERA, FRAME)
    bone = np.zeros(oblique_grid().array.shape, np.uint8)
    bone[10:30, 20:50, 30:60] = 1
    show_bones(scene, Volume(bone, volume_from_node(oblique_ct).index_to_lps), transform)
    fill(RegistrationState(parameters))
    return scene


def assert_alike(shown: np.ndarray, expected: np.ndarray) -> None:
    """Equal but for rounding; at the X-ray's border, 1.4 % of the picture, that decides on a whole pixel."""
    difference = np.abs(shown.astype(int) - expected)
    assert np.mean(difference > 2) < 0.015


def test_scene_bundle_restores_everything(host, filled_scene, tmp_path):
    scene = filled_scene
    picture = host.slice_picture(FUSION_VIEW)
    rendered = host.render_3d(200, 150) if can_render() else None
    ct = volume_from_node(scene.GetFirstNodeByName("CT"))
    ct_voxels, ct_matrix = ct.array.copy(), ct.index_to_lps
    bundle = tmp_path / "registration.mrb"
    assert scene.WriteToMRB(str(bundle))
    scene.Clear(False)
    assert scene.GetFirstNodeByName("CT") is None

    assert scene.ReadFromMRB(str(bundle))
    ct = volume_from_node(scene.GetFirstNodeByName("CT"))
    np.testing.assert_array_equal(ct.array, ct_voxels)
    np.testing.assert_allclose(ct.index_to_lps, ct_matrix, atol=1e-6)
    np.testing.assert_allclose(pose_of(scene.GetFirstNodeByName("pose"), FRAME), POSE, atol=1e-6)
    assert_state(RegistrationState(scene.GetFirstNodeByName("SOPIRegistration")))

    assert_alike(host.slice_picture(FUSION_VIEW), picture)
    assert len(np.unique(picture)) > 100
    overlay = Overlay(scene)
    assert (overlay.mode, overlay.setting("mix"), overlay.is_complete) == ("checkerboard", 0.6, True)
    # Made anew from what was loaded, the picture is the one that was saved.
    overlay.refresh()
    assert_alike(host.slice_picture(FUSION_VIEW), picture)

    assert CArmModel(scene).visible
    if rendered is not None:
        assert np.abs(host.render_3d(200, 150).astype(int) - rendered).mean() < 1.0
    nodes = scene.GetNumberOfNodes()
    CArmModel(scene).update(CAMERA, FRAME)
    assert scene.GetNumberOfNodes() == nodes


def test_closing_the_scene_leaves_nothing(host, scene, filled_scene):
    scene.Clear(False)
    left = {scene.GetNthNode(index).GetName() for index in range(scene.GetNumberOfNodes())}
    assert not {
        name for name in left if name and ("C-arm" in name or "X-ray" in name or name in ("CT", "pose"))
    }
    overlay = Overlay(scene)
    assert not overlay.is_complete
    overlay.refresh()
    overlay.remove()
    assert not CArmModel(scene).visible
    CArmModel(scene).keep(())
    composite = slicer.vtkMRMLSliceLogic.GetSliceCompositeNode(slice_node(scene, FUSION_VIEW))
    assert scene.GetNodeByID(composite.GetForegroundVolumeID() or "none") is None


def test_objects_kept_over_a_closed_scene_start_afresh(host, scene, filled_scene, add_volume):
    overlay, model = Overlay(scene), CArmModel(scene)
    scene.Clear(False)
    assert not overlay.is_complete
    xray = add_volume(np.arange(96.0 * 128).reshape(1, 96, 128), name="X-ray")
    place_on_detector(xray, CAMERA, FRAME)
    overlay.show(xray, update_drr(None, xray, np.ones(CAMERA.shape), CAMERA, FRAME))
    model.update(CAMERA, FRAME)
    assert overlay.is_complete
    assert scene.GetFirstNodeByName("X-ray and DRR") is not None
