"""Views to project objects under, and what it means that two projections agree."""

from __future__ import annotations

import numpy as np
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.volume import Volume

SOD_MM = 700.0


def off_centre_camera(width: int = 61, height: int = 48) -> Camera:
    """Non-square image and pixels, principal point off centre, about 90 x 83 mm in view at 700 mm."""
    pitch = (120.0 / height, 130.0 / width)
    return Camera.from_c_arm(1011.7, pitch, width, height, (0.43 * width, 0.58 * height))


def oblique_poses(grid: Volume, count: int, seed: int = 3) -> np.ndarray:
    """(count, 4, 4) poses around the AP view, the grid's centre near the central ray."""
    scatter = np.array([0.4, 0.4, 0.4, 4.0, 4.0, 30.0])
    theta = np.random.default_rng(seed).uniform(-1, 1, size=(count, 6)) * scatter
    return PoseFrame(grid.centre_lps_mm, SOD_MM).T_from_theta(theta)


def relative_difference(a, b) -> float:
    """Largest absolute difference over the largest magnitude of ``b``."""
    return float(np.abs(a - b).max() / np.abs(b).max())


def jacobian_difference(jacobian, expected) -> np.ndarray:
    """Absolute differences, relative to the largest rotation or translation entry of ``expected``.

    Depth is measured by the scale of the in-plane translations: it is a small difference of large terms.
    """
    largest = np.abs(expected).reshape(-1, 2, 3).max(axis=(0, 2))
    return np.abs(jacobian - expected) / np.repeat(largest, 3)


def assert_jacobians_agree(jacobian, expected, stray: float):
    """Within 1e-4, but for the fraction ``stray`` of the entries, and those within 10 %.

    The derivative of a trilinear interpolant jumps at the faces of its cells: for the odd sample on a face
    the last bit of its position decides which of two valid derivatives is taken.

    Args:
        jacobian: (..., rows, columns, 6).
        expected: of the same shape.
        stray: the fraction.
    """
    difference = jacobian_difference(jacobian, expected)
    assert (difference > 1e-4).mean() <= stray
    assert difference.max() < 0.1
