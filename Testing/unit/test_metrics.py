"""Figures of merit against cases computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from SOPIRegistrationLib.evaluation.metrics import (
    PoseError,
    median_interval,
    pose_error,
    structural_similarity,
    wilson_interval,
)
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.camera import Camera

# 0.4 mm along v, 0.25 mm along u; the principal point is off the centre.
CAMERA = Camera.from_c_arm(1000.0, (0.4, 0.25), 300, 200, (110.0, 93.0))
TRUTH = se3.rigid(se3.exp_so3(np.array([0.4, -0.2, 0.7])), np.array([10.0, -20.0, 500.0]))
CENTRE = np.array([12.0, -7.0, 30.0])


def _error_of(motion, points=CENTRE[None], camera=CAMERA) -> PoseError:
    return pose_error(motion @ TRUTH, TRUTH, points, CENTRE, camera)


def _about_centre(w) -> np.ndarray:
    centre = TRUTH[:3, :3] @ CENTRE + TRUTH[:3, 3]
    return se3.rigid(np.eye(3), centre) @ se3.exp_se3(np.r_[w, 0, 0, 0]) @ se3.rigid(np.eye(3), -centre)


def test_equal_poses_have_no_error():
    error = _error_of(np.eye(4))
    assert error == PoseError(*[pytest.approx(0, abs=1e-9)] * 7)
    assert error.succeeded
    assert not error.failed


def test_translation_splits_into_plane_and_depth():
    error = _error_of(se3.rigid(np.eye(3), np.array([3.0, 4.0, -12.0])))
    assert error.translation_mm == pytest.approx(13)
    assert error.in_plane_mm == pytest.approx(5)
    assert error.depth_mm == pytest.approx(12)
    assert error.rotation_deg == pytest.approx(0, abs=1e-6)
    assert error.mtre_mm == pytest.approx(13)
    assert error.failed
    assert not error.succeeded


def test_rotation_about_the_centre_does_not_translate_it():
    error = _error_of(_about_centre(np.deg2rad([0, 2, 0])))
    assert error.rotation_deg == pytest.approx(2)
    assert error.translation_mm == pytest.approx(0, abs=1e-9)
    assert not error.failed
    assert _error_of(_about_centre(np.deg2rad([0, -3.1, 0]))).failed


def test_rotation_moves_targets_by_their_lever():
    points = (CENTRE[:, None] + TRUTH[:3, :3].T @ np.array([[0, 30.0], [50.0, 0], [0, 0]])).T
    angle = np.deg2rad(1.5)
    error = _error_of(_about_centre([0, 0, angle]), points)
    assert error.mtre_mm == pytest.approx(2 * math.sin(angle / 2) * (50 + 30) / 2)


def test_in_plane_shift_is_magnified_at_the_detector():
    depth = (TRUTH[:3, :3] @ CENTRE + TRUTH[:3, 3])[2]
    error = _error_of(se3.rigid(np.eye(3), np.array([0.6, 0.8, 0.0])))
    assert error.mpd_object_mm == pytest.approx(1.0)
    assert error.mpd_detector_mm == pytest.approx(1000 / depth)


def test_depth_shift_moves_projections_by_magnification_only():
    x, y, z = TRUTH[:3, :3] @ CENTRE + TRUTH[:3, 3]
    error = _error_of(se3.rigid(np.eye(3), np.array([0.0, 0.0, 5.0])))
    assert error.mpd_detector_mm == pytest.approx(1000 * math.hypot(x, y) * (1 / z - 1 / (z + 5)))
    assert error.mpd_object_mm == pytest.approx(error.mpd_detector_mm * z / 1000)


def test_calibrated_camera_without_detector_has_no_distance_there():
    camera = Camera(CAMERA.K, CAMERA.width, CAMERA.height)
    error = _error_of(se3.rigid(np.eye(3), np.array([0.6, 0.8, 0.0])), camera=camera)
    assert error.mpd_detector_mm is None
    assert error.mpd_object_mm == pytest.approx(1.0)


def _ssim_by_loops(a, b, data_range):
    offsets = np.arange(-5, 6)
    window = np.exp(-0.5 * (offsets / 1.5) ** 2)
    window = np.outer(window, window) / window.sum() ** 2
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    ssim, css = np.empty_like(a), np.empty_like(a)
    for row in range(5, a.shape[0] - 5):
        for column in range(5, a.shape[1] - 5):
            p = a[row - 5 : row + 6, column - 5 : column + 6]
            q = b[row - 5 : row + 6, column - 5 : column + 6]
            mp, mq = (window * p).sum(), (window * q).sum()
            vp, vq = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum()
            cov = (window * (p - mp) * (q - mq)).sum()
            css[row, column] = (2 * cov + c2) / (vp + vq + c2)
            ssim[row, column] = css[row, column] * (2 * mp * mq + c1) / (mp**2 + mq**2 + c1)
    return ssim, css


def test_ssim_is_wangs_formula(rng):
    reference = rng.normal(size=(22, 19)).cumsum(axis=0)
    image = reference + rng.normal(size=reference.shape)
    ssim, css = _ssim_by_loops(image, reference, 4.0)
    got = structural_similarity(image, reference, data_range=4.0)
    assert got.ssim == pytest.approx(ssim[5:-5, 5:-5].mean())
    assert got.contrast_structure == pytest.approx(css[5:-5, 5:-5].mean())
    mask = np.zeros(reference.shape, dtype=bool)
    mask[8:12, 3:11] = True
    got = structural_similarity(image, reference, mask, data_range=4.0)
    assert got.ssim == pytest.approx(ssim[8:12, 5:11].mean())


def test_ssim_of_equal_images_is_one_and_brightness_spares_contrast_structure(rng):
    image = rng.uniform(size=(30, 40))
    assert structural_similarity(image, image).ssim == pytest.approx(1)
    brighter = structural_similarity(image + 0.5, image)
    assert brighter.contrast_structure == pytest.approx(1)
    assert brighter.ssim < 0.95


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    # Newcombe, Statist. Med. 17, 1998, Table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval_matches_published_values(successes, trials, low, high):
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=5e-5)


def test_wilson_interval_is_symmetric():
    low, high = wilson_interval(3, 50)
    assert wilson_interval(47, 50) == pytest.approx((1 - high, 1 - low))
    assert wilson_interval(50, 50)[1] == 1


def test_median_interval_covers_the_median_and_is_seeded(rng):
    covered = 0
    for _ in range(100):
        low, high = median_interval(rng.exponential(size=60), resamples=400)
        covered += low <= math.log(2) <= high
    assert 88 <= covered <= 100
    values = rng.normal(size=31)
    assert median_interval(values, seed=4) == median_interval(values, seed=4)
    narrow, wide = median_interval(values, confidence=0.5), median_interval(values)
    assert wide[0] < narrow[0] <= np.median(values) <= narrow[1] < wide[1]
