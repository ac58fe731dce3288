"""Intrinsics that are only roughly known, as deviations that act on rays.

A deviation k = (a, bx, by) makes of K

    K' = K D(k),    D = [[exp a, 0, bx], [0, exp a, by], [0, 0, 1]]:

a is the logarithm of the focal length's factor, (bx, by) the shift of the principal point in focal lengths.
Whatever is cropped from an image or averaged in it, its k stays the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.tolerances import Tolerances

DEVIATIONS = 3
# A value is fixed by the images if they leave less than this share of its tolerance.
FIXED = 0.6


def tolerated_deviation(camera: Camera) -> np.ndarray:
    """(3,) standard deviations of k that a camera's tolerances stand for."""
    known = camera.tolerances
    focal = np.hypot(known.pixel_spacing_percent / 100, known.sdd_mm / (camera.sdd_mm or np.inf))
    return np.array([focal, *(known.principal_point_px / camera.K[axis, axis] for axis in (0, 1))])


def deviated(camera: Camera, deviation: np.ndarray) -> Camera:
    """A camera whose intrinsics deviate by k (3,).

    The image tells distance over pixel spacing alone: each takes the share of a change that its tolerance is
    of both.
    """
    a, bx, by = deviation
    D = np.array([[np.exp(a), 0, bx], [0, np.exp(a), by], [0, 0, 1]])
    sdd = camera.sdd_mm
    return replace(
        camera, K=camera.K @ D, sdd_mm=None if sdd is None else sdd * np.exp(a * _share_of_distance(camera))
    )


def turns_of_rays(rays: np.ndarray) -> np.ndarray:
    """How rays (3, rows, columns), unit vectors in camera axes, turn with k: (3, 3, rows, columns), rad by
    unit of each.

    A ray through (x, y, 1) at depth one moves to ((x - bx) exp -a, (y - by) exp -a, 1).
    """
    x, y, z = rays
    zero = np.zeros_like(z)
    return np.stack(
        [
            np.stack([y * z, -x * z, zero]),
            np.stack([zero, -z * z, y * z]),
            np.stack([z * z, zero, -x * z]),
        ]
    )


@dataclass(frozen=True)
class EstimatedIntrinsics:
    """Intrinsics of one camera, as images and tolerances together have them.

    Attributes:
        given: the camera as it was given, with its tolerances.
        deviation: (3,) k that was estimated.
        covariance: (3, 3) of what remains open of k.
    """

    given: Camera
    deviation: np.ndarray
    covariance: np.ndarray

    @property
    def camera(self) -> Camera:
        """The estimated camera; its tolerances are what remains open."""
        left = self.remaining
        return replace(deviated(self.given, self.deviation), tolerances=left)

    @property
    def remaining(self) -> Tolerances:
        """Standard deviations after the estimation."""
        sdd, focal, known = self.given.sdd_mm, self.covariance[0, 0], self.given.tolerances
        prior = tolerated_deviation(self.given)[0] ** 2
        share = _share_of_distance(self.given)
        point = np.sqrt(max(self.covariance[1, 1], self.covariance[2, 2])) * self.given.K[0, 0]

        def left(own: float) -> float:
            """What remains of a variance that makes up such a share of the focal length's."""
            return float(np.sqrt(max(own * prior * (1 - own) + own**2 * focal, 0.0))) if prior else 0.0

        return Tolerances(
            left(share) * (sdd or 0.0) if known.sdd_mm else 0.0,
            float(point) if known.principal_point_px else 0.0,
            100 * left(1 - share) if known.pixel_spacing_percent else 0.0,
        )

    @property
    def summary(self) -> str:
        """What was estimated, for a person."""
        found, left = self.camera, self.remaining
        u, v = found.K[:2, 2]
        parts = [f"principal point {u:.1f}, {v:.1f} +- {left.principal_point_px:.1f} px"]
        if found.sdd_mm is not None:
            parts.insert(0, f"source to detector {found.sdd_mm:.1f} +- {left.sdd_mm:.1f} mm")
        open_ones = [name.replace("_", " ") for name, fixed in self.fixed.items() if not fixed]
        if open_ones:
            parts.append(f"the image does not fix: {', '.join(open_ones)}")
        return f"{found.name}: {'; '.join(parts)}" if found.name else "; ".join(parts)

    def to_dict(self) -> dict:
        """What was given, estimated, remains open and is fixed by the images, as in result.json."""
        found, left = self.camera, self.remaining
        entry = {
            "camera": found.name,
            **_values(found),
            "sdd_sd_mm": round(left.sdd_mm, 4),
            "principal_point_sd_px": round(left.principal_point_px, 4),
            "pixel_spacing_sd_percent": round(left.pixel_spacing_percent, 4),
        }
        return entry | {"given": _values(self.given), "fixed_by_image": self.fixed}

    @property
    def fixed(self) -> dict[str, bool]:
        """Whether the images fixed what has a tolerance: focal length (in pixels) and principal point."""
        prior, left = tolerated_deviation(self.given), np.sqrt(np.diag(self.covariance))
        names = "focal_length", "principal_point_u", "principal_point_v"
        return {
            name: bool(after < FIXED * before)
            for name, before, after in zip(names, prior, left, strict=True)
            if before
        }


def _values(camera: Camera) -> dict:
    spacing = camera.pixel_spacing_mm
    return {
        "sdd_mm": camera.sdd_mm,
        "principal_point_px": camera.K[:2, 2].tolist(),
        "pixel_spacing_mm": None if spacing is None else list(spacing),
    }


def _share_of_distance(camera: Camera) -> float:
    """Of a change of the focal length in pixels, what is the source-detector distance's."""
    if not camera.sdd_mm or not camera.tolerances.sdd_mm:
        return 0.0
    known = camera.tolerances
    distance, spacing = known.sdd_mm / camera.sdd_mm, known.pixel_spacing_percent / 100
    return float(distance**2 / (distance**2 + spacing**2))
