"""Poses, transforms and the place of the C-arm in world."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.scene import (
    RAS_FROM_LPS,
    attach,
    matrix_from_pose,
    pixels_from_ras,
    pose_from_matrix,
    pose_of,
    ras_from_pixels,
    set_pose,
    volume_from_node,
)
from SOPIRegistrationLib.scene.frames import T_camera_to_ras

slicer = pytest.importorskip("slicer")

THETA = np.array([0.2, -0.15, 0.4, 12.0, -7.0, 35.0])
CENTRE = np.array([12.0, -31.0, 140.0])


@pytest.fixture(params=["AP", "PA", "LLAT", "RLAT"])
def frame(request) -> PoseFrame:
    return PoseFrame(CENTRE, 640.0, request.param)


@pytest.fixture
def camera() -> Camera:
    return Camera.from_c_arm(1020.0, (0.8, 0.5), 300, 180, (140.0, 95.5))


@pytest.fixture
def transform(scene):
    return scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "pose")


def test_transform_is_the_identity_at_the_nominal_view(frame):
    np.testing.assert_allclose(matrix_from_pose(frame.T_nominal, frame), np.eye(4), atol=1e-12)


def test_transform_node_keeps_a_pose(transform, frame):
    T = frame.T_from_theta(THETA)
    set_pose(transform, T, frame)
    np.testing.assert_allclose(pose_of(transform, frame), T, atol=1e-10)


def test_transform_node_stores_what_the_matrix_says(transform, frame):
    T = frame.T_from_theta(THETA)
    set_pose(transform, T, frame)
    stored = slicer.util.arrayFromTransformMatrix(transform)
    np.testing.assert_allclose(stored, matrix_from_pose(T, frame), atol=1e-12)


def test_source_stands_at_the_nominal_distance_on_the_nominal_side(camera):
    # Left lateral: the source on the patient's right, which is +x in RAS.
    source = T_camera_to_ras(camera, PoseFrame(CENTRE, 640.0, "LLAT"))[:3, 3]
    np.testing.assert_allclose(source, RAS_FROM_LPS[:3, :3] @ CENTRE + [640.0, 0, 0], atol=1e-9)


@pytest.mark.parametrize("theta", [np.zeros(6), THETA])
def test_what_the_scene_shows_is_what_the_core_projects(scene, transform, frame, camera, theta):
    """A point of the CT, moved by the transform node and seen through the C-arm in world."""
    T = frame.T_from_theta(theta)
    points_lps = CENTRE + np.random.default_rng(3).uniform(-60, 60, (5, 3))
    markups = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "in the CT")
    slicer.util.updateMarkupsControlPointsFromArray(markups, points_lps @ RAS_FROM_LPS[:3, :3])
    attach(transform, markups)
    set_pose(transform, T, frame)

    world = slicer.util.arrayFromMarkupsControlPoints(markups, world=True)
    expected = camera.project(points_lps @ T[:3, :3].T + T[:3, 3])
    np.testing.assert_allclose(pixels_from_ras(world, camera, frame), expected, atol=1e-9)

    # On the detector in world: on the line from the source through the moved point.
    on_detector = ras_from_pixels(expected, camera, frame)
    source = T_camera_to_ras(camera, frame)[:3, 3]
    ray = (world - source) / np.linalg.norm(world - source, axis=1, keepdims=True)
    across = on_detector - source - ((on_detector - source) * ray).sum(axis=1, keepdims=True) * ray
    assert np.abs(across).max() < 1e-6


def test_the_second_camera_of_a_set_sees_what_its_calibration_says(frame, camera):
    T_world_to_second = se3.exp_se3(np.array([0.3, 1.2, -0.2, 80.0, -40.0, 150.0]))
    T_world_to_first = se3.exp_se3(np.array([-0.1, 0.4, 0.2, 10.0, 20.0, 600.0]))
    first = Camera(camera.K, 300, 180, 1020.0, T_world_to_first, "first")
    second = Camera(camera.K, 300, 180, 900.0, T_world_to_second, "second")
    T_lps_to_first = frame.T_from_theta(THETA)
    T_lps_to_second = T_world_to_second @ se3.invert_rigid(T_world_to_first) @ T_lps_to_first
    point = CENTRE + np.array([5.0, -8.0, 11.0])
    in_world = matrix_from_pose(T_lps_to_first, frame) @ RAS_FROM_LPS @ [*point, 1.0]
    expected = second.project(T_lps_to_second[:3, :3] @ point + T_lps_to_second[:3, 3])
    np.testing.assert_allclose(pixels_from_ras(in_world[:3], second, frame, first), expected, atol=1e-8)


def test_a_camera_known_by_K_alone_is_shown_behind_the_patient(frame, camera):
    bare = Camera(camera.K, camera.width, camera.height)
    corner = ras_from_pixels([0.0, 0.0], bare, frame)
    depth = (corner - T_camera_to_ras(bare, frame)[:3, 3]) @ T_camera_to_ras(bare, frame)[:3, 2]
    assert depth == pytest.approx(640.0 / 0.7)
    np.testing.assert_allclose(pixels_from_ras(corner, bare, frame), [0, 0], atol=1e-9)


@pytest.mark.parametrize(
    "matrix",
    [np.diag([1.05, 1, 1, 1.0]), np.diag([-1.0, 1, 1, 1]), np.eye(4) + 0.1 * np.eye(4, k=1)],
    ids=["scaled", "mirrored", "sheared"],
)
def test_a_transform_that_is_not_rigid_is_no_pose(transform, frame, matrix):
    transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    with pytest.raises(InputError, match="'pose' scales, shears or mirrors"):
        pose_of(transform, frame)


def test_rounding_left_by_handles_is_taken_out(frame):
    drifted = matrix_from_pose(frame.T_from_theta(THETA), frame)
    drifted[:3, :3] *= 1 + 1e-6
    R = pose_from_matrix(drifted, frame)[:3, :3]
    np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-13)


def test_attaching_keeps_the_transforms_a_CT_stood_under(scene, transform, oblique_ct):
    own = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "own")
    table = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "table")
    own_matrix = se3.exp_se3(np.array([0.1, 0.2, 0.3, 4.0, 5.0, 6.0]))
    table_matrix = se3.exp_se3(np.array([-0.4, 0.1, 0.2, 40.0, -5.0, 16.0]))
    own.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(own_matrix))
    table.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(table_matrix))
    oblique_ct.SetAndObserveTransformNodeID(own.GetID())
    own.SetAndObserveTransformNodeID(table.GetID())
    before = volume_from_node(oblique_ct).index_to_lps

    attach(transform, oblique_ct)
    frame = PoseFrame(CENTRE, 640.0)
    set_pose(transform, frame.T_from_theta(THETA), frame)

    assert oblique_ct.GetParentTransformNode() is own
    assert table.GetParentTransformNode() is transform
    np.testing.assert_allclose(volume_from_node(oblique_ct).index_to_lps, before, atol=1e-9)


def test_attaching_to_another_transform_replaces_the_first(scene, transform, oblique_ct):
    attach(transform, oblique_ct)
    other = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "other")
    attach(other, oblique_ct)
    assert oblique_ct.GetParentTransformNode() is other
    assert other.GetParentTransformNode() is None


def test_a_transform_chosen_from_those_above_the_CT_becomes_the_pose(scene, transform, oblique_ct):
    below = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "below")
    oblique_ct.SetAndObserveTransformNodeID(below.GetID())
    below.SetAndObserveTransformNodeID(transform.GetID())
    attach(transform, oblique_ct)
    attach(transform, oblique_ct)
    assert oblique_ct.GetParentTransformNode() is below
    assert below.GetParentTransformNode() is transform
    assert transform.GetParentTransformNode() is None


def test_a_pose_transform_that_stood_under_the_CTs_own_makes_no_circle(scene, transform, oblique_ct):
    own = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "own")
    oblique_ct.SetAndObserveTransformNodeID(own.GetID())
    transform.SetAndObserveTransformNodeID(own.GetID())
    attach(transform, oblique_ct)
    assert own.GetParentTransformNode() is transform
    assert transform.GetParentTransformNode() is None


def test_transform_file_of_the_command_line_is_the_pose(scene, frame, tmp_path):
    """Slicer reads an ITK transform as what resampling needs, world -> CT: the inverse of its own matrix."""
    T = frame.T_from_theta(THETA)
    ct_to_world_lps = se3.invert_rigid(frame.T_nominal) @ T
    world_to_ct = se3.invert_rigid(ct_to_world_lps)
    itk = sitk.VersorRigid3DTransform()
    itk.SetMatrix(world_to_ct[:3, :3].ravel().tolist())
    itk.SetTranslation(world_to_ct[:3, 3].tolist())
    path = tmp_path / "ct_to_carm.tfm"
    sitk.WriteTransform(itk, str(path))

    storage = scene.AddNewNodeByClass("vtkMRMLTransformStorageNode")
    storage.SetFileName(str(path))
    loaded = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "loaded")
    assert storage.ReadData(loaded)
    np.testing.assert_allclose(pose_of(loaded, frame), T, atol=1e-6)
