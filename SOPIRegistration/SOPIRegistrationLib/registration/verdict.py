"""Whether a registration can be trusted, judged without the truth."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from SOPIRegistrationLib.compare import Case, Comparison, Hypotheses
from SOPIRegistrationLib.compare.target import Thresholds
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.registration.result import Verdict

# Two different poses this close in correlation: the image does not decide between them.
_AMBIGUOUS_MARGIN = 0.01
_AMBIGUOUS_DISTANCE_MM = 5.0
# Coarsely refined poses of other views and readings must agree less by so much; beyond this margin over the
# threshold no other way to read an X-ray was seen to come near.
_RIVAL_MARGIN = 0.08
_CLEAR_MARGIN = 0.08
# Of X-rays of CTs whose vertebrae were scaled by 5 to 15 % and spines bent this was 0.92 at most, at right
# poses of clear pictures 0.966 at least, of degraded ones mostly.
_LEAST_DETAIL = 0.94
# Turns an angle between two poses into the distance it moves the object's points.
_OBJECT_RADIUS_MM = 60.0
# In the plane and in depth: predicted errors that matter; how far a refined pose may be from the best one.
_LARGE_ERROR_MM = (1.0, 5.0)
_LARGE_STEP_MM = (0.5, 2.0)


# From the least severe on.
_SEVERITY = ("accept", "review", "reject")
# Status that something found allows at most, and the reason; none if empty.
Finding = tuple[str, str]


class LocalModel(NamedTuple):
    """What the objective's slope and curvature at a pose say about it, along the first camera's axes.

    Attributes:
        rotation_rad: (3,) standard deviations.
        translation_mm: (3,) the same.
        to_best_mm: (3,) shift to where the images agree best.
        of_images_mm: (3,) what the translation's would be were the intrinsics exactly known.
    """

    rotation_rad: np.ndarray
    translation_mm: np.ndarray
    to_best_mm: np.ndarray
    of_images_mm: np.ndarray


def local_model(comparison: Comparison, T_lps_to_world: np.ndarray) -> LocalModel:
    """Standard deviations of a pose (4, 4) and the Gauss-Newton step from it, at the finest level."""
    objective = comparison.objective(comparison.target.kind.finest, T_lps_to_world[None])
    equations = objective(T_lps_to_world[None], np.zeros(1, dtype=int))
    variance = equations.cost[0] / objective.pixel_count * comparison.target.kind.correlated_residuals**2
    inverse = np.linalg.pinv(equations.hessian[0], rcond=1e-12, hermitian=True)
    to_camera = np.eye(4)
    to_camera[:3, :3] = comparison.case.T_world_to_camera[:3, :3]
    A = se3.adjoint(to_camera)
    of_images = variance * inverse
    of_geometry = comparison.reading.intrinsics_covariance
    covariances = of_images, of_images if of_geometry is None else of_images + of_geometry
    known, deviation = (np.sqrt(np.maximum(np.diag(A @ one @ A.T), 0)) for one in covariances)
    step = -A @ inverse @ equations.gradient[0]
    return LocalModel(deviation[:3], deviation[3:], step[3:], known[3:])


def judge(hypotheses: Hypotheses, timed_out: bool = False) -> Verdict:
    """The verdict on the first of some hypotheses.

    Args:
        hypotheses: the others are where other starts ended.
        timed_out: whether something that was to be tried was left out.
    """
    comparison, poses = hypotheses.comparison, hypotheses.T
    case, thresholds = comparison.case, comparison.target.kind.thresholds
    correlations, share = comparison.agreement(poses), float(comparison.share(poses[:1])[0])
    counts = share if share < case.least_share else 1.0
    findings = [
        _agreement(correlations[0], counts, thresholds),
        _plausibility(case, poses[0]),
        _rivals(case, poses, correlations),
        _elsewhere(correlations[0], hypotheses.rival, correlations[0] - thresholds.accept, timed_out),
        _detail(comparison, poses[0]),
        _local(model := local_model(comparison, poses[0])),
    ]
    of_pose = max((status for status, _ in findings), key=_SEVERITY.index)
    findings.append(_geometry(model))
    reasons = [reason for _, reason in findings if reason]
    status = max((status for status, _ in findings), key=_SEVERITY.index)
    error_deg = np.rad2deg(model.rotation_rad)
    return Verdict(status, reasons, model.translation_mm, error_deg, share, of_pose == "accept")


def _agreement(correlation: float, share: float, thresholds: Thresholds) -> Finding:
    """How well the images agree; with the share of the X-ray that was compared, where that is little."""
    figure = f"structural correlation {correlation:.3f}"
    if share < 1:
        figure += f", with {share:.0%} of the X-ray compared"
    if not np.isfinite(correlation) or correlation < thresholds.review:
        return "reject", f"the images do not agree: {figure}, below {thresholds.review}"
    if correlation < thresholds.accept:
        return "review", f"the images agree only partly: {figure}, below {thresholds.accept}"
    return "accept", f"the images agree: {figure}"


def _plausibility(case: Case, T_lps_to_world: np.ndarray) -> Finding:
    """Whether the pose can be the one sought."""
    if case.is_plausible(T_lps_to_world[None])[0]:
        return "accept", ""
    return "reject", "the pose lies too far from the start to be the one sought"


def _rivals(case: Case, poses: np.ndarray, correlations: np.ndarray) -> Finding:
    """Whether a pose elsewhere agrees as well."""
    centres = se3.transform_points(poses, case.centre_lps_mm)
    angles = se3.rotation_distance(np.repeat(poses[:1, :3, :3], len(poses) - 1, axis=0), poses[1:, :3, :3])
    apart = np.linalg.norm(centres[1:] - centres[0], axis=1) + _OBJECT_RADIUS_MM * angles
    rival = (apart > _AMBIGUOUS_DISTANCE_MM) & (correlations[1:] > correlations[0] - _AMBIGUOUS_MARGIN)
    if not rival.any():
        return "accept", ""
    distance = apart[np.flatnonzero(rival)[0]]
    return "review", f"another start ended {distance:.0f} mm away with the same agreement"


def _elsewhere(correlation: float, rival: float, margin: float, timed_out: bool) -> Finding:
    """Whether the X-ray read another way, or seen from elsewhere, agrees nearly as well; or was not tried."""
    if rival > correlation - _RIVAL_MARGIN:
        return "review", f"read or seen another way the images agree nearly as well: {rival:.3f}"
    if timed_out and 0 < margin < _CLEAR_MARGIN:
        return "review", "not all other ways to read the X-ray were tried"
    return "accept", ""


def _detail(comparison: Comparison, T_lps_to_world: np.ndarray) -> Finding:
    """Whether X-ray and CT are of the same anatomy."""
    share = comparison.detail(T_lps_to_world)
    if share is None or share > _LEAST_DETAIL:
        return "accept", ""
    return "review", f"fine structure agrees less than coarse ({share:.2f}): is it this patient, and unmoved?"


def _local(model: LocalModel) -> Finding:
    """Whether the image fixes the pose, and the refinement came to its end."""
    if _exceeds(model.of_images_mm, _LARGE_ERROR_MM):
        x, y, z = model.of_images_mm
        return "review", f"the image hardly fixes the pose: predicted error {x:.1f}, {y:.1f}, {z:.1f} mm"
    if _exceeds(model.to_best_mm, _LARGE_STEP_MM):
        x, y, z = model.to_best_mm
        return "review", f"not refined: the images agree better about {x:.1f}, {y:.1f}, {z:.1f} mm from here"
    return "accept", ""


def _geometry(model: LocalModel) -> Finding:
    """Whether the geometry is known well enough for the pose in the plane; no other pose would be better."""
    if np.abs(model.translation_mm[:2]).max() <= max(
        _LARGE_ERROR_MM[0], np.abs(model.of_images_mm[:2]).max()
    ):
        return "accept", ""
    x, y, z = model.translation_mm
    return "review", f"the geometry is known too roughly: predicted error {x:.1f}, {y:.1f}, {z:.1f} mm"


def _exceeds(shift_mm: np.ndarray, limits_mm: tuple[float, float]) -> bool:
    """Whether a shift (3,) along the first camera's axes is longer than limits in the plane or in depth."""
    in_plane, depth = limits_mm
    return bool(np.abs(shift_mm[:2]).max() > in_plane or abs(shift_mm[2]) > depth)
