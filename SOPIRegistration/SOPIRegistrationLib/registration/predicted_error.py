"""How exact a pose is: what the images fix of it, and what the model of them may be wrong in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from SOPIRegistrationLib.compare import Comparison, Level, Reading
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.images.radiograph import PreparedRadiograph

# Standard deviation of a scanner's scale.
CT_SCALE = 0.005
# Where the effect of the model's faults is looked at: that they have one shows on coarse images as well.
_LEVEL = Level(128, 21)
# Of a segmented bone the outline lies within a voxel of the true one.
_OUTLINE_VOXELS = 1.0
# Which start the only pose belongs to.
_FIRST = np.zeros(1, dtype=int)


@dataclass(frozen=True)
class Deviation:
    """Standard deviations of a pose about and along the first camera's axes.

    Attributes:
        rotation_rad: (3,) about x, y and z.
        translation_mm: (3,) of the rotation centre along them.
    """

    rotation_rad: np.ndarray
    translation_mm: np.ndarray

    @classmethod
    def of(cls, covariance: np.ndarray) -> Deviation:
        """From a covariance (6, 6) of twists in these axes."""
        deviation = np.sqrt(np.maximum(np.diag(covariance), 0))
        return cls(deviation[:3], deviation[3:])


@dataclass(frozen=True)
class LocalModel:
    """What the objective's slope and curvature at a pose say about it.

    Attributes:
        covariance: (6, 6) of the twist about the rotation centre, first camera's axes, rad and mm: what noise
            and structure of the images leave open.
        to_best_mm: (3,) shift to where the images agree best.
    """

    covariance: np.ndarray
    to_best_mm: np.ndarray


def local_model(comparison: Comparison, T_lps_to_world: np.ndarray) -> LocalModel:
    """The local model at a pose (4, 4), at the finest level."""
    kind = comparison.target.kind
    objective = comparison.objective(kind.finest, T_lps_to_world[None])
    equations = objective(T_lps_to_world[None], np.zeros(1, dtype=int))
    variance = equations.cost[0] / objective.pixel_count * kind.correlated_residuals**2
    inverse = np.linalg.pinv(equations.hessian[0], rcond=1e-12, hermitian=True)
    A = _to_camera(comparison)
    return LocalModel(A @ (variance * inverse) @ A.T, -(A @ inverse @ equations.gradient[0])[3:])


def model_covariance(comparison: Comparison, T_lps_to_world: np.ndarray) -> np.ndarray:
    """(6, 6) what the model may be wrong in, to first order: the CT's scale and its outline.

    Each of them is changed by its standard deviation; the way from the pose to where the images then agree
    best, by Gauss-Newton, is how far it leads astray. Axes as for :class:`LocalModel`.

    Args:
        comparison: CT and X-rays.
        T_lps_to_world: (4, 4) pose at which the images agree best.
    """
    level = replace(_LEVEL, pixels=min(_LEVEL.pixels, comparison.target.kind.finest.pixels))
    here = comparison.objective(level, T_lps_to_world[None])(T_lps_to_world[None], _FIRST)
    inverse = np.linalg.pinv(here.hessian[0], rcond=1e-12, hermitian=True)
    A, total = _to_camera(comparison), np.zeros((6, 6))
    for radiographs in _as_otherwise(comparison, T_lps_to_world):
        other = replace(comparison, reading=Reading(radiographs, comparison.reading.mirrored))
        objective = other.objective(level, T_lps_to_world[None])
        T, twist = T_lps_to_world, np.zeros(6)
        # The curvature is that of J^T J, a little more than the true one: the second step makes up for it.
        for _ in range(2):
            slope = objective(T[None], _FIRST).gradient[0] - here.gradient[0]
            twist = twist - inverse @ slope
            T = se3.move_about(T_lps_to_world, twist, comparison.case.centre_lps_mm)
        total += np.outer(A @ twist, A @ twist)
    return total


def _as_otherwise(
    comparison: Comparison, T_lps_to_world: np.ndarray
) -> Iterator[tuple[PreparedRadiograph, ...]]:
    """The X-rays of the cameras that see the CT at a pose as they would if the model were wrong."""
    yield tuple(
        replace(one, camera=_seeing_larger(one.camera, T_lps_to_world, comparison))
        for one in comparison.radiographs
    )


def _scale(comparison: Comparison) -> float:
    """By what share the CT may be larger or smaller than the patient, one standard deviation."""
    outline = comparison.target.outline_lps_mm
    if outline is None:
        return CT_SCALE
    # An outline too wide by a voxel all around is a bone larger by that of its half width.
    half_width = np.sqrt(np.linalg.eigvalsh(np.cov(outline.T))[0])
    voxel = comparison.target.moving.attenuation.spacing_mm.mean()
    return float(np.hypot(CT_SCALE, _OUTLINE_VOXELS * voxel / max(half_width, voxel)))


def _seeing_larger(camera: Camera, T_lps_to_world: np.ndarray, comparison: Comparison) -> Camera:
    """The camera that sees the CT as this one would see it were it larger by its scale's deviation.

    A point y of a CT s times as large, about a centre y_c, lies at s y + (1 - s) y_c in the camera, on one
    ray with y + (1 - s) / s y_c: the camera's shift does what the scale would.
    """
    share = _scale(comparison)
    T = camera.T_world_to_camera.copy()
    centre = se3.transform_points(T @ T_lps_to_world, comparison.case.centre_lps_mm)
    T[:3, 3] -= share / (1 + share) * centre
    return replace(camera, T_world_to_camera=T)


def _to_camera(comparison: Comparison) -> np.ndarray:
    """(6, 6) twists in world axes to twists in the first camera's."""
    to_camera = np.eye(4)
    to_camera[:3, :3] = comparison.case.T_world_to_camera[:3, :3]
    return se3.adjoint(to_camera)
