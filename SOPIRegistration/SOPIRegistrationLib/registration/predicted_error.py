"""How exact a pose is: what the images fix of it, and what the model of them may be wrong in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage
from scipy.special import erf

from SOPIRegistrationLib.compare import Comparison, Level, Target
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.subject import MovingVolume

# Standard deviation of a scanner's scale.
CT_SCALE = 0.005
# Where the effect of the model's faults is looked at: that they have one shows on coarse images as well.
_LEVEL = Level(128, 21)
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

    def probability_within(self, turn_rad: float, in_plane_mm: float) -> float:
        """That a normal error of these deviations turns about each axis, and shifts in the plane, by less."""
        deviations = np.concatenate([self.rotation_rad, self.translation_mm[:2]])
        limits = np.repeat([turn_rad, in_plane_mm], (3, 2))
        return float(np.prod(erf(limits / np.maximum(deviations, 1e-9) / np.sqrt(2))))

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
    """(6, 6) what the model may be wrong in, to first order. Axes as for :class:`LocalModel`.

    The CT's scale and, of a segmented bone, its mask.

    Args:
        comparison: CT and X-rays.
        T_lps_to_world: (4, 4) pose at which the images agree best.
    """
    larger = tuple(
        replace(one, camera=_seeing_larger(one.camera, T_lps_to_world, comparison.case.centre_lps_mm))
        for one in comparison.radiographs
    )
    others = [replace(comparison, reading=replace(comparison.reading, radiographs=larger))]
    if comparison.target.outline_lps_mm is not None and not comparison.target.kind.is_silhouette:
        others.append(replace(comparison, target=_grown(comparison)))
    total = np.zeros((6, 6))
    for twist in _led_astray(comparison, others, T_lps_to_world):
        total += np.outer(twist, twist)
    A = _to_camera(comparison)
    return A @ total @ A.T


def intrinsics_covariance(comparison: Comparison) -> np.ndarray:
    """(6, 6) what is left open of estimated intrinsics; axes as for :class:`LocalModel`."""
    A, covariance = _to_camera(comparison), comparison.reading.intrinsics_covariance
    return np.zeros((6, 6)) if covariance is None else A @ covariance @ A.T


def _led_astray(
    comparison: Comparison, others: Sequence[Comparison], T_lps_to_world: np.ndarray
) -> Iterator[np.ndarray]:
    """(6,) twists from a pose to where the images agree best as others compare them, by Gauss-Newton."""
    level = replace(_LEVEL, pixels=min(_LEVEL.pixels, comparison.target.kind.finest.pixels))
    here = comparison.objective(level, T_lps_to_world[None])(T_lps_to_world[None], _FIRST)
    inverse = np.linalg.pinv(here.hessian[0], rcond=1e-12, hermitian=True)
    for other in others:
        objective = other.objective(level, T_lps_to_world[None])
        T, twist = T_lps_to_world, np.zeros(6)
        # The curvature is that of J^T J, a little more than the true one: the second step makes up for it.
        for _ in range(2):
            slope = objective(T[None], _FIRST).gradient[0] - here.gradient[0]
            twist = twist - inverse @ slope
            T = se3.move_about(T_lps_to_world, twist, comparison.case.centre_lps_mm)
        yield twist


def _grown(comparison: Comparison) -> Target:
    """The target as it were if its mask were a voxel wider; kept with the subject."""
    target, subject = comparison.target, comparison.case.subject

    def make() -> MovingVolume:
        attenuation = target.moving.attenuation
        cross = ndimage.generate_binary_structure(3, 1)
        wider = ndimage.grey_dilation(attenuation.array, footprint=cross)
        return MovingVolume(attenuation.same_grid(wider))

    return replace(target, moving=subject.kept("grown by a voxel", target.moving, make))


def _seeing_larger(camera: Camera, T_lps_to_world: np.ndarray, centre_lps_mm: np.ndarray) -> Camera:
    """The camera that sees the CT as this one would see it were it larger by the deviation of its scale."""
    # A point y of a CT s times as large, about a centre y_c, lies at s y + (1 - s) y_c in the camera, on one
    # ray with y + (1 - s) / s y_c: the camera's shift does what the scale would.
    T = camera.T_world_to_camera.copy()
    centre = se3.transform_points(T @ T_lps_to_world, centre_lps_mm)
    T[:3, 3] -= CT_SCALE / (1 + CT_SCALE) * centre
    return replace(camera, T_world_to_camera=T)


def _to_camera(comparison: Comparison) -> np.ndarray:
    """(6, 6) twists in world axes to twists in the first camera's."""
    to_camera = np.eye(4)
    to_camera[:3, :3] = comparison.case.T_world_to_camera[:3, :3]
    return se3.adjoint(to_camera)
