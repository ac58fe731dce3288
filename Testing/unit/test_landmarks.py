"""Poses from landmarks: exact, noisy, few, coplanar, ambiguous and unusable picks."""

from __future__ import annotations

import numpy as np
import pytest
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.initialise.landmarks import pose_from_landmarks

# A narrow cone: 100 mm of object at 700 of 1000 mm; the principal point is well off the centre.
CAMERA = Camera.from_c_arm(1000.0, (0.35, 0.3), 1024, 900, (640.0, 380.0))
OFFSET = np.array([-130.0, 45.0, 900.0])


def _case(rng, count, planar=False, rotation=None):
    points = rng.uniform(-50, 50, (count, 3))
    if planar:
        points[:, 2] = 0
    R = se3.exp_so3(rng.uniform(-np.pi, np.pi, 3) / 1.8 if rotation is None else np.asarray(rotation))
    T = se3.rigid(R, np.array([18.0, -25.0, rng.uniform(600, 800)]) - R @ OFFSET)
    points = points + OFFSET
    return points, CAMERA.project(points @ R.T + T[:3, 3]), T


def _rotation_error_deg(T_a, T_b):
    return np.rad2deg(se3.rotation_distance(T_a[:3, :3], T_b[:3, :3]))


@pytest.mark.parametrize("count", [4, 5, 6, 12])
def test_exact_picks_give_the_exact_pose_from_any_side(rng, count):
    for _ in range(8):
        points, pixels, T = _case(rng, count)
        found = pose_from_landmarks(points, pixels, CAMERA, pick_sigma_px=0.01)
        np.testing.assert_allclose(found.T_lps_to_camera, T, atol=1e-4)
        assert found.rms_px < 1e-6
        assert not found.ambiguous


def test_coplanar_picks_seen_obliquely(rng):
    for _ in range(8):
        points, pixels, T = _case(rng, 6, planar=True, rotation=[0.6, -0.5, 1.0])
        found = pose_from_landmarks(points, pixels, CAMERA, pick_sigma_px=0.01)
        np.testing.assert_allclose(found.T_lps_to_camera, T, atol=1e-4)


def test_noisy_picks_stay_near_and_residuals_tell_the_noise(rng):
    angles, in_plane, rms = [], [], []
    for _ in range(20):
        points, pixels, T = _case(rng, 10)
        found = pose_from_landmarks(points, pixels + rng.normal(0, 1.0, pixels.shape), CAMERA)
        angles.append(_rotation_error_deg(found.T_lps_to_camera, T))
        centre = np.r_[points.mean(axis=0), 1]
        in_plane.append(np.linalg.norm(((found.T_lps_to_camera - T) @ centre)[:2]))
        rms.append(found.rms_px)
    assert np.max(angles) < 2
    assert np.max(in_plane) < 0.6
    # 20 residuals, 6 parameters: sqrt(2 (20 - 6) / 20) of a pixel.
    assert np.mean(rms) == pytest.approx(1.18, abs=0.15)


def test_residuals_are_reprojection_distances_in_pixels_and_mm(rng):
    points, pixels, _ = _case(rng, 7)
    pixels = pixels + rng.normal(0, 3.0, pixels.shape)
    found = pose_from_landmarks(points, pixels, CAMERA)
    T = found.T_lps_to_camera
    in_camera = points @ T[:3, :3].T + T[:3, 3]
    difference = CAMERA.project(in_camera) - pixels
    np.testing.assert_allclose(found.residuals_px, np.hypot(*difference.T))
    difference_mm = difference * [0.3, 0.35] * in_camera[:, 2:] / 1000
    assert found.rms_px == pytest.approx(np.sqrt((difference**2).sum(axis=1).mean()))
    assert found.rms_mm_at_object == pytest.approx(np.sqrt((difference_mm**2).sum(axis=1).mean()))


def test_result_is_a_minimum_of_the_reprojection_error(rng):
    points, pixels, _ = _case(rng, 6)
    pixels = pixels + rng.normal(0, 2.0, pixels.shape)
    found = pose_from_landmarks(points, pixels, CAMERA)
    for twist in np.concatenate([np.eye(6), -np.eye(6)]) * [1e-3, 1e-3, 1e-3, 0.1, 0.1, 1]:
        T = found.T_lps_to_camera @ se3.exp_se3(twist)
        error = CAMERA.project(points @ T[:3, :3].T + T[:3, 3]) - pixels
        assert np.sqrt((error**2).sum(axis=1).mean()) > found.rms_px


def test_a_hint_decides_between_the_two_poses_of_a_distant_plane(rng):
    # Turned by +-20 deg about an axis in the detector's plane, a small distant plane looks the same.
    points, pixels, T = _case(rng, 5, planar=True, rotation=[np.deg2rad(20), 0, 0])
    pixels = pixels + rng.normal(0, 1.0, pixels.shape)
    centre = np.r_[points.mean(axis=0), 1]
    mirrored = se3.rigid(se3.exp_so3(np.deg2rad([-20.0, 0, 0])), np.zeros(3))
    mirrored[:3, 3] = (T @ centre)[:3] - mirrored[:3, :3] @ centre[:3]
    for hint in (T, mirrored):
        found = pose_from_landmarks(points, pixels, CAMERA, T_hint=hint, pick_sigma_px=4.0)
        assert found.ambiguous
        assert _rotation_error_deg(found.T_lps_to_camera, hint) < 15  # of 40


def test_a_hint_does_not_override_the_picks(rng):
    points, pixels, T = _case(rng, 8)
    wrong = T @ se3.exp_se3(np.array([1.0, -0.5, 0.3, 0, 0, 0]))
    found = pose_from_landmarks(points, pixels, CAMERA, T_hint=wrong)
    np.testing.assert_allclose(found.T_lps_to_camera, T, atol=1e-4)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p, x: (p[:3], x[:3]), "3 pairs are too few: pick at least 4"),
        (lambda p, x: (p[:0], x[:0]), "0 pairs are too few"),
        (lambda p, x: (p, x[:4]), "5 in the CT but 4 in the X-ray"),
        (lambda p, x: (p[[0, 1, 2, 3, 1]], x), "2 and 5 are the same point"),
        (lambda p, x: (p[0] * 0 + np.arange(5)[:, None] * [1.0, 2, 3], x), "in the CT they lie on one line"),
        (lambda p, x: (p, np.arange(5)[:, None] * [10.0, -3]), "in the X-ray they lie on one line"),
        (lambda p, x: (p, np.ones_like(x)), "in the X-ray they lie on one line"),
        (lambda p, x: (p, x * np.nan), "not a finite number"),
    ],
)
def test_unusable_picks_are_refused_in_one_line(rng, spoil, message):
    points, pixels, _ = _case(rng, 5)
    with pytest.raises(InputError, match=message) as refused:
        pose_from_landmarks(*spoil(points, pixels), CAMERA)
    assert "\n" not in str(refused.value)
