"""Rigid motions, nominal views, theta and the camera model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import expm
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.distinct import distinct_poses
from SOPIRegistrationLib.geometry.views import (
    NOMINAL_VIEWS,
    PoseFrame,
    nominal_view,
    nominal_view_from_angles,
    rotation_from_theta,
    theta_as_dict,
    theta_from_dict,
    theta_from_rotation,
    view_of_stored_image,
)

AXIS = np.array([0.3, -0.5, 0.8]) / np.linalg.norm([0.3, -0.5, 0.8])
ANGLES = [0.0, 1e-9, 1e-6, 1e-4, 1e-3, 1e-2, 0.1, 0.316, 0.317, 1.0, 2.0, 3.0, 3.1, 3.14, np.pi - 1e-7]
L, P, S = np.eye(3)


def twist_of(angle):
    return np.concatenate([angle * AXIS, [10.0, -20.0, 30.0]])


def matrix_of_twist(twist):
    matrix = np.zeros((4, 4))
    matrix[:3, :3] = se3.skew(twist[:3])
    matrix[:3, 3] = twist[3:]
    return matrix


@pytest.mark.parametrize("angle", ANGLES)
def test_exponential_agrees_with_the_matrix_exponential(angle):
    twist = twist_of(angle)
    np.testing.assert_allclose(se3.exp_se3(twist), expm(matrix_of_twist(twist)), atol=1e-12)


@pytest.mark.parametrize("angle", ANGLES)
def test_logarithm_inverts_the_exponential(angle):
    twist = twist_of(angle)
    np.testing.assert_allclose(se3.log_se3(se3.exp_se3(twist)), twist, rtol=1e-7, atol=1e-11)


@pytest.mark.parametrize("angle", [1e-6, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 3.0, 3.14])
def test_round_trip_in_float32_loses_only_float32_digits(angle):
    twist = torch.tensor(twist_of(angle), dtype=torch.float32)
    np.testing.assert_allclose(se3.log_se3(se3.exp_se3(twist)), twist, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("angle", [0.0, 1e-5, 1e-3, 0.1, 1.0, 3.0, 3.13])
def test_round_trip_has_the_identity_as_its_derivative(angle, dtype):
    twist = torch.tensor(twist_of(angle), dtype=dtype)
    jacobian = torch.autograd.functional.jacobian(lambda x: se3.log_se3(se3.exp_se3(x)), twist)
    np.testing.assert_allclose(jacobian, np.eye(6), atol=1e-8 if dtype == torch.float64 else 5e-3)


def test_rotation_by_pi_keeps_axis_and_angle():
    for axis in (AXIS, *np.eye(3), -AXIS, np.array([1.0, -1, 0]) / np.sqrt(2)):
        w = se3.log_so3(2 * np.outer(axis, axis) - np.eye(3))
        assert np.linalg.norm(w) == pytest.approx(np.pi, abs=1e-12)
        assert abs(w @ axis) == pytest.approx(np.pi, abs=1e-12)


def test_logarithm_of_a_batch_takes_each_branch_by_itself(rng):
    angles = np.array(ANGLES)
    axes = rng.normal(size=(len(angles), 3))
    w = axes / np.linalg.norm(axes, axis=1, keepdims=True) * angles[:, None]
    np.testing.assert_allclose(se3.log_so3(se3.exp_so3(w)), w, atol=1e-8)


def test_derivatives_agree_with_finite_differences(rng):
    for twist in (np.zeros(6), twist_of(1e-4), twist_of(0.7), rng.normal(size=6)):
        x = torch.tensor(twist, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(se3.exp_se3, x)
        assert torch.autograd.gradgradcheck(se3.exp_se3, x)
        T = se3.exp_se3(x.detach()).requires_grad_()
        assert torch.autograd.gradgradcheck(lambda twist: se3.log_se3(se3.exp_se3(twist)), x)
        assert torch.isfinite(torch.autograd.functional.jacobian(se3.log_se3, T)).all()


def test_numpy_and_torch_agree(rng):
    twists = rng.normal(size=(5, 2, 6))
    tensors = torch.tensor(twists)
    np.testing.assert_allclose(se3.exp_se3(twists), se3.exp_se3(tensors), atol=1e-14)
    T = se3.exp_se3(twists)
    np.testing.assert_allclose(se3.log_se3(T), se3.log_se3(torch.tensor(T)), atol=1e-13)
    np.testing.assert_allclose(se3.adjoint(T), se3.adjoint(torch.tensor(T)), atol=1e-13)


def test_adjoint_moves_a_twist_to_the_other_side(rng):
    T, x = se3.exp_se3(rng.normal(size=6)), rng.normal(size=6)
    left = T @ se3.exp_se3(x)
    np.testing.assert_allclose(se3.exp_se3(se3.adjoint(T) @ x) @ T, left, atol=1e-12)


def test_inverse_of_a_rigid_motion(rng):
    T = se3.exp_se3(rng.normal(size=(3, 6)))
    np.testing.assert_allclose(se3.invert_rigid(T) @ T, np.broadcast_to(np.eye(4), (3, 4, 4)), atol=1e-14)


def test_geodesic_distance_and_gradient(rng):
    T_a, T_b = se3.exp_se3(rng.normal(size=(2, 6)))
    assert se3.rotation_distance(T_a[:3, :3], T_a[:3, :3] @ se3.exp_so3(0.4 * AXIS)) == pytest.approx(0.4)

    def half_squared(x):
        return float(se3.geodesic_distance(_moved(T_a, x), T_b)) ** 2 / 2

    def _moved(T, x):
        # Rotation and translation apart: the product metric's own exponential.
        R = T[:3, :3] @ se3.exp_so3(x[:3])
        return se3.rigid(R, T[:3, 3] + T[:3, :3] @ x[3:])

    numeric = [(half_squared(1e-6 * unit) - half_squared(-1e-6 * unit)) / 2e-6 for unit in np.eye(6)]
    gradient = se3.geodesic_gradient(T_a, T_b)
    np.testing.assert_allclose(gradient, numeric, atol=1e-7)
    np.testing.assert_allclose(_moved(T_a, -gradient), T_b, atol=1e-12)
    np.testing.assert_allclose(
        se3.geodesic_distance(T_a, T_b, mm_per_rad=100.0),
        np.hypot(100 * np.linalg.norm(gradient[:3]), np.linalg.norm(gradient[3:])),
    )


# Nominal views


def test_nominal_views_are_the_axes_of_the_conventions():
    for name, (x, y, z) in {
        "AP": (L, -S, P),
        "PA": (-L, -S, -P),
        "LLAT": (-P, -S, L),
        "RLAT": (P, -S, -L),
    }.items():
        np.testing.assert_array_equal(nominal_view(name.lower()), [x, y, z])
        assert np.linalg.det(NOMINAL_VIEWS[name]) == pytest.approx(1)
    with pytest.raises(ValueError, match="AP, PA, LLAT, RLAT"):
        nominal_view("oblique")


def test_positioner_angles_of_the_named_views():
    np.testing.assert_allclose(nominal_view_from_angles(0, 0), NOMINAL_VIEWS["PA"], atol=1e-15)
    np.testing.assert_allclose(nominal_view_from_angles(180, 0), NOMINAL_VIEWS["AP"], atol=1e-15)
    # LAO 90: the detector on the patient's left.
    np.testing.assert_allclose(nominal_view_from_angles(90, 0), NOMINAL_VIEWS["LLAT"], atol=1e-15)
    np.testing.assert_allclose(nominal_view_from_angles(-90, 0), NOMINAL_VIEWS["RLAT"], atol=1e-15)


def test_positioner_angles_move_the_detector_as_dicom_says():
    lao_cranial = nominal_view_from_angles(30, 20)
    z = lao_cranial[2]
    assert z @ L > 0.4  # detector to the left
    assert z @ S > 0.3  # and to the head
    assert z @ P < -0.8  # still in front
    np.testing.assert_allclose(lao_cranial @ lao_cranial.T, np.eye(3), atol=1e-15)
    assert np.linalg.det(lao_cranial) == pytest.approx(1)
    assert lao_cranial[1] @ S < 0  # head up


@pytest.mark.parametrize("primary", [0, 40, -130])
@pytest.mark.parametrize("secondary", [90, -90])
def test_view_along_the_patient_continues_the_views_before_it(primary, secondary):
    before = nominal_view_from_angles(primary, secondary * (1 - 1e-7))
    np.testing.assert_allclose(nominal_view_from_angles(primary, secondary), before, atol=1e-6)


def test_stored_image_of_the_usual_angiography_is_mirrored():
    PA = NOMINAL_VIEWS["PA"]
    rotation, mirrored = view_of_stored_image(PA, ("L", "F"))
    assert mirrored
    np.testing.assert_array_equal(rotation, PA)
    rotation, mirrored = view_of_stored_image(PA, ("R", "F"))
    assert not mirrored
    np.testing.assert_array_equal(rotation, PA)


def test_stored_image_may_be_turned():
    # Columns run to the feet, rows to the patient's left: a PA view turned by 90 degrees.
    rotation, mirrored = view_of_stored_image(NOMINAL_VIEWS["PA"], ("F", "L"))
    assert not mirrored
    np.testing.assert_allclose(rotation, [-S, L, -P], atol=1e-15)


def test_stored_image_of_an_oblique_view_or_without_directions():
    oblique = nominal_view_from_angles(35, 0)
    rotation, mirrored = view_of_stored_image(oblique, ("LA", "F"))
    assert mirrored
    np.testing.assert_array_equal(rotation, oblique)
    for values in (("A", "F"), ("X", "F"), ("L",), ()):
        rotation, mirrored = view_of_stored_image(NOMINAL_VIEWS["PA"], values)
        assert not mirrored
        np.testing.assert_array_equal(rotation, NOMINAL_VIEWS["PA"])


# theta


def single_axis(axis, angle):
    return se3.exp_so3(angle * np.eye(3)[axis])


def test_rotation_is_the_product_of_equation_2(rng):
    for angles in rng.uniform(-1.5, 1.5, (10, 3)):
        product = single_axis(0, angles[0]) @ single_axis(1, angles[1]) @ single_axis(2, angles[2])
        np.testing.assert_allclose(rotation_from_theta(angles), product, atol=1e-14)
        np.testing.assert_allclose(theta_from_rotation(product), angles, atol=1e-12)


@pytest.mark.parametrize("ry", [np.pi / 2, -np.pi / 2])
def test_gimbal_lock_still_gives_the_rotation_back(ry):
    R = rotation_from_theta(np.array([0.4, ry, -0.7]))
    np.testing.assert_allclose(rotation_from_theta(theta_from_rotation(R)), R, atol=1e-8)


@pytest.fixture
def frame():
    return PoseFrame(np.array([12.0, -30.0, 410.0]), 705.0, "LLAT")


def test_theta_zero_puts_the_centre_on_the_central_ray(frame):
    centre = np.append(frame.centre_lps_mm, 1)
    np.testing.assert_allclose(frame.T_nominal @ centre, [0, 0, 705, 1], atol=1e-12)
    np.testing.assert_array_equal(frame.T_nominal[:3, :3], NOMINAL_VIEWS["LLAT"])


def test_theta_moves_along_camera_axes(frame):
    theta = np.array([0, 0, 0, 5.0, -7.0, 11.0])
    moved = frame.T_from_theta(theta) @ np.append(frame.centre_lps_mm, 1)
    np.testing.assert_allclose(moved[:3], [5, -7, 716], atol=1e-12)
    # 90 degrees about the central ray brings what was on the right (u) down (v).
    turned = frame.T_from_theta(np.array([0, 0, np.pi / 2, 0, 0, 0]))
    right_of_centre = frame.centre_lps_mm + 10 * NOMINAL_VIEWS["LLAT"][0]
    np.testing.assert_allclose(turned @ np.append(right_of_centre, 1), [0, 10, 705, 1], atol=1e-12)


def test_theta_round_trip_batched_in_numpy_and_torch(frame, rng):
    theta = np.concatenate([rng.uniform(-1, 1, (4, 3)), rng.normal(0, 40, (4, 3))], axis=1)
    T = frame.T_from_theta(theta)
    np.testing.assert_allclose(frame.theta_from_T(T), theta, atol=1e-9)
    np.testing.assert_allclose(frame.T_from_theta(torch.tensor(theta)), T, atol=1e-9)
    x = torch.tensor(theta[0], requires_grad=True)
    assert torch.autograd.gradcheck(frame.T_from_theta, x)


def test_theta_as_people_read_it(frame):
    theta = np.array([0.1, -0.2, 0.3, 4.0, 5.0, 6.0])
    entry = theta_as_dict(theta)
    assert entry["ry_deg"] == pytest.approx(np.rad2deg(-0.2))
    assert entry["tz_mm"] == 6.0
    np.testing.assert_allclose(theta_from_dict(entry), theta)


# Camera


@pytest.fixture
def camera():
    return Camera.from_c_arm(1011.7, (0.4, 0.3), 640, 482, (300.0, 250.5))


def points_in_front(rng, n=50):
    return np.stack([rng.uniform(-60, 60, n), rng.uniform(-50, 50, n), rng.uniform(600, 800, n)], axis=1)


def test_intrinsics_of_a_flat_detector(camera):
    np.testing.assert_allclose(camera.K, [[1011.7 / 0.3, 0, 300], [0, 1011.7 / 0.4, 250.5], [0, 0, 1]])
    assert camera.shape == (482, 640)
    assert camera.pixel_spacing_mm == pytest.approx((0.4, 0.3))
    centred = Camera.from_c_arm(1000, (0.2, 0.2), 5, 4)
    np.testing.assert_allclose(centred.project([0, 0, 500.0]), [2, 1.5])
    from_array = Camera.from_c_arm(1000, (0.2, 0.2), 5, 4, np.array([0.0, 0.0]))
    np.testing.assert_allclose(from_array.project([0, 0, 500.0]), [0, 0])


def test_rays_go_through_their_pixels(camera):
    rays = camera.unit_rays()
    assert rays.shape == (482, 640, 3)
    np.testing.assert_allclose(np.linalg.norm(rays, axis=-1), 1)
    np.testing.assert_allclose(camera.project(rays[17, 605] * 923.0), [605, 17])


def test_cropping_moves_points_by_the_corner(camera, rng):
    points = points_in_front(rng)
    cropped = camera.cropped(33, 7, 100, 90)
    np.testing.assert_allclose(cropped.project(points), camera.project(points) - [33, 7])
    assert cropped.shape == (90, 100)


def test_resampling_keeps_positions_on_the_detector(camera, rng):
    points = points_in_front(rng)
    resampled = camera.resampled(160, 241)
    # Pixel areas are kept: the edge of the first pixel, at -1/2, stays.
    expected = (camera.project(points) + 0.5) * [160 / 640, 241 / 482] - 0.5
    np.testing.assert_allclose(resampled.project(points), expected)
    assert resampled.pixel_spacing_mm == pytest.approx((0.8, 1.2))


def test_camera_refuses_what_is_no_camera():
    good = np.diag([1000.0, 1000, 1])
    for K, message in (
        (np.zeros((3, 3)), "skew"),
        (np.diag([1000.0, 0, 1]), "positive focal"),
        (np.diag([-1000.0, 1000, 1]), "positive focal"),
        (np.full((3, 3), np.nan), "finite"),
        (np.eye(4), "3x3"),
    ):
        with pytest.raises(ValueError, match=message):
            Camera(K, 10, 10)
    mirror = np.diag([-1.0, 1, 1, 1])
    with pytest.raises(ValueError, match="rotation"):
        Camera(good, 10, 10, T_world_to_camera=mirror)
    with pytest.raises(ValueError, match="positive"):
        Camera(good, 0, 10)
    for sdd, spacing in ((0, (0.2, 0.2)), (1000, (0.2, -0.2))):
        with pytest.raises(ValueError, match="positive"):
            Camera.from_c_arm(sdd, spacing, 10, 10)


def test_rotation_typed_with_few_digits_becomes_a_rotation(rng):
    T = np.eye(4)
    T[:3, :3] = se3.exp_so3(AXIS)
    rounded = T.round(4)
    camera = Camera(np.diag([1000.0, 1000, 1]), 10, 10, T_world_to_camera=rounded)
    R = camera.T_world_to_camera[:3, :3]
    np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-14)
    np.testing.assert_allclose(R, T[:3, :3], atol=1e-4)


def test_poses_that_differ_in_turn_shift_or_depth_are_distinct():
    """As the object's centre sees it, which a turn about the origin of LPS would shift."""
    centre = np.array([40.0, -200.0, 300.0])
    twists = np.zeros((7, 6))
    twists[1:4, [0, 3, 5]] = np.diag([0.03, 1.5, 14.0])  # each within the limits
    twists[4:, [0, 3, 5]] = np.diag([0.04, 2.5, 16.0])  # each beyond them
    start = se3.exp_se3(np.array([0.3, -0.2, 0.5, 10.0, 20.0, 700.0]))
    T = se3.move_about(np.repeat(start[None], 7, axis=0), twists, centre)
    limits = np.deg2rad(2), 2.0, 15.0
    assert distinct_poses(T, centre, *limits, limit=7) == [0, 4, 5, 6]
    assert distinct_poses(T, centre, *limits, limit=2) == [0, 4]
    # The first of those that are the same is kept.
    assert distinct_poses(T[3:0:-1], centre, *limits, limit=7)[0] == 0
