"""Whether a registration can be trusted, judged without the truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.projector import project
from SOPIRegistrationLib.registration.moving import MovingVolume
from SOPIRegistrationLib.registration.objective import (
    Level,
    LevelObjective,
    around_object,
    at_level,
    comparable_pixels,
)
from SOPIRegistrationLib.registration.result import Verdict
from SOPIRegistrationLib.registration.stages import Case
from SOPIRegistrationLib.similarity import gradient_correlation, ncc

# Noise hides structure at fine resolution; here it is averaged out and wrong poses still differ.
_CHECK_BODY = Level(64, 15)
_CHECK_PART = Level(128, 11)
_MEASURE_PIXELS = 256


@dataclass(frozen=True)
class Thresholds:
    """Structural correlation (locally normalised images) from which a pose is accepted, or worth a review."""

    accept: float
    review: float


# Chosen on simulated targets of several CTs (Testing/studies/evaluate_core.py prints both distributions); a
# segmented bone explains less of its X-ray, so less is expected of it.
BODY_THRESHOLDS = Thresholds(accept=0.85, review=0.7)
PART_THRESHOLDS = Thresholds(accept=0.55, review=0.45)
# Two different poses this close in correlation: the image does not decide between them.
_AMBIGUOUS_MARGIN = 0.01
_AMBIGUOUS_DISTANCE_MM = 5.0
# Turns an angle between two poses into the distance it moves the object's points.
_OBJECT_RADIUS_MM = 60.0
# In the plane and in depth: predicted errors that matter; how far a refined pose may be from the best one.
_LARGE_ERROR_MM = (1.0, 5.0)
_LARGE_STEP_MM = (0.5, 2.0)
# Residuals of neighbouring pixels are not independent: deviations are this much larger than white noise would
# make them (Testing/studies/evaluate_core.py prints the calibration).
_CORRELATED_RESIDUALS = 4.0


def thresholds_of(moving: MovingVolume) -> Thresholds:
    return PART_THRESHOLDS if moving.is_part else BODY_THRESHOLDS


def structural_correlation(case: Case, moving: MovingVolume, T_lps_to_world: np.ndarray) -> np.ndarray:
    """(n,) correlation of the locally normalised images at poses (n, 4, 4), mean over the views."""
    level = _CHECK_PART if moving.is_part else _CHECK_BODY
    objective = LevelObjective(case.radiographs, moving, level, T_lps_to_world, case.centre_lps_mm)
    return 1 - objective(T_lps_to_world, np.arange(len(T_lps_to_world))).cost / 2


def image_similarity(case: Case, moving: MovingVolume, T_lps_to_world: np.ndarray) -> dict[str, float]:
    """NCC and gradient correlation over the comparable pixels at a pose, mean over the views."""
    ncc_values, gradient_values = [], []
    for radiograph in case.radiographs:
        T = radiograph.camera.T_world_to_camera @ T_lps_to_world[None]
        view = at_level(around_object(radiograph, moving, T), _MEASURE_PIXELS)
        drr = project(moving.for_camera(view.camera, T[0]), view.camera, T)
        valid = comparable_pixels(view, moving, T)[0]
        ncc_values.append(float(ncc(drr, view.image, valid)[0]))
        gradient_values.append(float(gradient_correlation(drr, view.image, valid)[0]))
    return {"ncc": float(np.mean(ncc_values)), "gradient_correlation": float(np.mean(gradient_values))}


class LocalModel(NamedTuple):
    """What the objective's slope and curvature at a pose say about it, along the first camera's axes.

    Attributes:
        rotation_rad: (3,) standard deviations.
        translation_mm: (3,) the same.
        to_best_mm: (3,) shift to where the images agree best.
    """

    rotation_rad: np.ndarray
    translation_mm: np.ndarray
    to_best_mm: np.ndarray


def local_model(case: Case, moving: MovingVolume, level: Level, T_lps_to_world: np.ndarray) -> LocalModel:
    """Standard deviations of a pose and the Gauss-Newton step from it.

    Args:
        case: what was registered.
        moving: of what volume.
        level: finest level of the refinement.
        T_lps_to_world: (4, 4) pose.
    """
    objective = LevelObjective(case.radiographs, moving, level, T_lps_to_world[None], case.centre_lps_mm)
    equations = objective(T_lps_to_world[None], np.zeros(1, dtype=int))
    variance = equations.cost[0] / objective.pixel_count * _CORRELATED_RESIDUALS**2
    inverse = np.linalg.pinv(equations.hessian[0], rcond=1e-12, hermitian=True)
    to_camera = np.eye(4)
    to_camera[:3, :3] = case.T_world_to_camera[:3, :3]
    A = se3.adjoint(to_camera)
    deviation = np.sqrt(np.maximum(np.diag(A @ (variance * inverse) @ A.T), 0))
    step = -A @ inverse @ equations.gradient[0]
    return LocalModel(deviation[:3], deviation[3:], step[3:])


def judge(
    case: Case,
    moving: MovingVolume,
    level: Level,
    T_lps_to_world: np.ndarray,
    rivals: np.ndarray,
) -> Verdict:
    """The verdict on a pose.

    Args:
        case: what was registered.
        moving: of what volume.
        level: finest level of the refinement.
        T_lps_to_world: (4, 4) the pose.
        rivals: (n, 4, 4) where other starts ended.
    """
    poses = np.concatenate([T_lps_to_world[None], rivals])
    correlations = structural_correlation(case, moving, poses)
    correlation = correlations[0]
    thresholds = thresholds_of(moving)
    status, reasons = "accept", []

    def lower(to: str, reason: str) -> None:
        nonlocal status
        reasons.append(reason)
        if status == "accept" or to == "reject":
            status = to

    figure = f"structural correlation {correlation:.3f}"
    if not np.isfinite(correlation) or correlation < thresholds.review:
        lower("reject", f"the images do not agree: {figure}, below {thresholds.review}")
    elif correlation < thresholds.accept:
        lower("review", f"the images agree only partly: {figure}, below {thresholds.accept}")
    else:
        reasons.append(f"the images agree: {figure}")

    if not case.is_plausible(T_lps_to_world[None])[0]:
        lower("reject", "the pose lies too far from the start to be the one sought")

    centres = poses[:, :3, :3] @ case.centre_lps_mm + poses[:, :3, 3]
    angles = se3.rotation_distance(np.repeat(poses[:1, :3, :3], len(rivals), axis=0), poses[1:, :3, :3])
    apart = np.linalg.norm(centres[1:] - centres[0], axis=1) + _OBJECT_RADIUS_MM * angles
    rival = (apart > _AMBIGUOUS_DISTANCE_MM) & (correlations[1:] > correlation - _AMBIGUOUS_MARGIN)
    if rival.any():
        distance = apart[np.flatnonzero(rival)[0]]
        lower("review", f"another start ended {distance:.0f} mm away with the same agreement")

    rotation, translation, to_best = local_model(case, moving, level, T_lps_to_world)
    if _exceeds(translation, _LARGE_ERROR_MM):
        x, y, z = translation
        lower("review", f"the image hardly fixes the pose: predicted error {x:.1f}, {y:.1f}, {z:.1f} mm")
    elif _exceeds(to_best, _LARGE_STEP_MM):
        x, y, z = to_best
        lower("review", f"not refined: the images agree better about {x:.1f}, {y:.1f}, {z:.1f} mm from here")
    return Verdict(status, reasons, translation, np.rad2deg(rotation))


def _exceeds(shift_mm: np.ndarray, limits_mm: tuple[float, float]) -> bool:
    """Whether a shift (3,) along the first camera's axes is longer than limits in the plane or in depth."""
    in_plane, depth = limits_mm
    return bool(np.abs(shift_mm[:2]).max() > in_plane or abs(shift_mm[2]) > depth)
