"""The figures of one registration: a row of results.csv."""

from __future__ import annotations

from dataclasses import asdict, fields, replace

import numpy as np

from SOPIRegistrationLib.compare import Case, Comparison, Reading, compared_target
from SOPIRegistrationLib.evaluation.cases import EvaluationCase
from SOPIRegistrationLib.evaluation.metrics import PoseError, pose_error, structural_similarity
from SOPIRegistrationLib.evaluation.problem import Estimate
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.principal_axes import principal_axes
from SOPIRegistrationLib.geometry.views import THETA_NAMES, theta_as_dict, theta_from_dict
from SOPIRegistrationLib.registration.evidence import Evidence
from SOPIRegistrationLib.registration.result import RegistrationResult
from SOPIRegistrationLib.similarity import gradient_correlation, ncc

_ERRORS = (
    *("rotation_deg", "translation_mm", "in_plane_mm", "depth_mm"),
    *("mtre_mm", "mpd_detector_mm", "mpd_object_mm"),
)
_IMAGE_FIGURES = ("ncc", "gradient_correlation", "ssim", "css")
# Rotation about and translation along the first camera's axes.
AXES = ("rx_deg", "ry_deg", "rz_deg", "x_mm", "y_mm", "z_mm")
COLUMNS = (
    *("group", "case", "name", "method", "error"),
    *("seconds", "seconds_first", "device", "workers"),
    *("verdict", "probability", "share", "content", "correlation", "correlation_at_truth"),
    *("stranger", "mirrored", "behind", "roll_deg", "along_mm"),
    *("found_mirrored", "found_polarity", "found_view", "found_roll_deg"),
    *(f"true_{axis}" for axis in THETA_NAMES),
    *(f"start_{axis}" for axis in THETA_NAMES),
    *(f"end_{axis}" for axis in THETA_NAMES),
    *(f"start_{name}" for name in _ERRORS),
    *_ERRORS,
    *("right", "failed", "succeeded", "sum_abs_rotation_deg", "sum_abs_translation_mm"),
    *(f"error_{axis}" for axis in AXES),
    *(f"predicted_{axis}" for axis in AXES),
    *(f"statistical_{axis}" for axis in AXES),
    *(f"truth_{axis}" for axis in AXES),
    *_IMAGE_FIGURES,
    *(f"evidence_{one.name}" for one in fields(Evidence)),
)


def start_figures(case: EvaluationCase) -> dict:
    """What is known before a method has run: names, how it was drawn, true and start pose, its errors."""
    row = {"case": case.number, "name": case.name, "stranger": int(case.is_stranger)}
    if (drawn := case.drawn) is not None:
        row |= {"mirrored": int(drawn.mirrored), "behind": int(drawn.behind)}
        row |= {"roll_deg": drawn.roll_deg, "along_mm": drawn.along_mm}
    row |= _theta_entries("start", case, case.T_start)
    if case.T_true is not None:
        row |= _theta_entries("true", case, case.T_true)
        row |= {f"start_{name}": value for name, value in _error_entries(_error(case, case.T_start)).items()}
    return row


def end_figures(case: EvaluationCase, T_lps_to_world: np.ndarray) -> dict:
    """Figures of a final pose (4, 4), mm; those that need the truth only where it is known.

    The case's X-rays are as the pose was found for them: turned over where they were taken to be mirrored.

    ``right`` says whether it lies within 2 mm in the plane, at the object, and 3 deg; no pose is right for a
    stranger. ``sum_abs_rotation_deg`` and ``sum_abs_translation_mm`` are the sums over the three axes of the
    absolute differences of theta, which the SOPI reference code reports as its errors; ``rotation_deg``
    (geodesic) and ``translation_mm`` (Euclidean) are ours. ``error_...`` are signed, about and along the
    first camera's axes.
    """
    row = _theta_entries("end", case, T_lps_to_world) | image_figures(case, T_lps_to_world)
    if case.is_stranger:
        return row | {"right": 0}
    if case.T_true is None:
        return row
    error = _error(case, T_lps_to_world)
    apart = axis_errors(row | _theta_entries("true", case, case.T_true))
    return row | {
        **_error_entries(error),
        "right": int(error.right),
        "failed": int(error.failed),
        "succeeded": int(error.succeeded),
        "sum_abs_rotation_deg": float(apart[:3].sum()),
        "sum_abs_translation_mm": float(apart[3:].sum()),
        **_axis_entries("error", *_signed_errors(case, T_lps_to_world)),
        **_truth_entries(case),
    }


def judgement_figures(case: EvaluationCase, estimate: Estimate) -> dict:
    """What a method says about its own result: nothing, or verdict, what it takes the X-ray for, predicted
    errors and correlations."""
    row: dict = {"verdict": estimate.verdict, "device": estimate.device}
    if estimate.result is None:
        return row
    row |= _verdict_figures(estimate.result)
    # One body by itself agrees with no picture of several.
    return row if case.several is not None else row | _correlations(case, estimate)


def _verdict_figures(result: RegistrationResult) -> dict:
    verdict = result.verdict
    row: dict = {"content": result.content}
    row |= {f"found_{name}": value for name, value in result.image().items()}
    row["found_mirrored"] = int(result.mirrored)
    row |= {"probability": verdict.probability, "share": verdict.share}
    if verdict.evidence is not None:
        row |= {f"evidence_{name}": value for name, value in asdict(verdict.evidence).items()}
    for prefix in ("predicted", "statistical"):
        parts = [getattr(verdict, f"{prefix}_error_{unit}") for unit in ("deg", "mm")]
        if all(part is not None for part in parts):
            row |= _axis_entries(prefix, *parts)
    return row


def _correlations(case: EvaluationCase, estimate: Estimate) -> dict[str, float]:
    """Of the locally normalised images, at the pose that was found and at the true one."""
    result = estimate.result
    reading = Reading(result.radiographs, result.mirrored)
    compared = Case(case.subject, reading, case.frame)
    target = next(target for target in compared.targets if target.content == result.content)

    def correlation(reading: Reading, T: np.ndarray) -> float:
        return float(Comparison(compared, reading, target).structural_correlation(T[None])[0])

    row = {"correlation": correlation(reading, estimate.T_lps_to_world)}
    if case.T_true is not None:
        if case.drawn is not None and case.drawn.mirrored != result.mirrored:
            reading = reading.turned_over()
        row["correlation_at_truth"] = correlation(reading, case.T_true)
    return row


def axis_errors(row: dict) -> np.ndarray:
    """(6,) absolute errors of rx, ry, rz (deg) and tx, ty, tz (mm) of a row of results with a true pose."""
    away = np.array([float(row[f"end_{axis}"]) - float(row[f"true_{axis}"]) for axis in THETA_NAMES])
    away[:3] = (away[:3] + 180) % 360 - 180
    return np.abs(away)


def image_figures(case: EvaluationCase, T_lps_to_world: np.ndarray) -> dict[str, float]:
    """Agreement of DRR and X-ray at 256 pixels over the pixels that can be compared, mean over the views.

    NCC and gradient correlation know no brightness; for SSIM and its contrast-structure part (CSS) the DRR is
    first brought to the X-ray's brightness by the straight line that fits best in least squares.
    """
    reading = Reading(case.radiographs)
    compared = Case(case.subject, reading, case.frame)
    comparison = Comparison(compared, reading, compared_target(case.subject))
    views = []
    for drr, image, valid in comparison.pictures(T_lps_to_world):
        slope, offset = _line(drr[valid], image[valid])
        similarity = structural_similarity(slope * drr + offset, image, valid)
        of_images = ncc(drr, image, valid), gradient_correlation(drr, image, valid)
        views.append((*of_images, similarity.ssim, similarity.contrast_structure))
    return dict(zip(_IMAGE_FIGURES, np.mean(views, axis=0).tolist(), strict=True))


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Slope and offset of the least-squares line; flat through the mean where x is constant."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    variance = x.var()
    slope = float(((x - x.mean()) * (y - y.mean())).mean() / variance) if variance > 0 else 0.0
    return slope, float(y.mean() - slope * x.mean())


def _error(case: EvaluationCase, T_lps_to_world: np.ndarray) -> PoseError:
    """In the first camera's frame; projection distances are means over the views."""
    points, centre = case.ct.surface_points_lps_mm, case.frame.centre_lps_mm
    errors = []
    for radiograph, true_camera in zip(case.radiographs, case.true_cameras, strict=True):
        camera = radiograph.camera
        estimate, truth = (camera.T_world_to_camera @ T for T in (T_lps_to_world, case.T_true))
        errors.append(pose_error(estimate, truth, points, centre, camera, true_camera))
    at_detector = [error.mpd_detector_mm for error in errors]
    return replace(
        errors[0],
        mpd_detector_mm=None if None in at_detector else float(np.mean(at_detector)),
        mpd_object_mm=float(np.mean([error.mpd_object_mm for error in errors])),
    )


def _signed_errors(case: EvaluationCase, T_lps_to_world: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(3,) rotation from the truth about the first camera's axes, deg, and (3,) shift along them, mm."""
    T, T_true = (case.T_world_to_camera @ pose for pose in (T_lps_to_world, case.T_true))
    turn = se3.log_so3(T[:3, :3] @ T_true[:3, :3].T)
    return np.rad2deg(turn), ((T - T_true) @ np.append(case.frame.centre_lps_mm, 1.0))[:3]


def _truth_entries(case: EvaluationCase) -> dict[str, float]:
    """How exact the true pose is, about and along the first camera's axes; nothing of an exact one."""
    if case.truth_deviation is None:
        return {}
    along = (case.T_world_to_camera @ case.T_true)[:3, :3] @ principal_axes(
        case.ct.surface_points_lps_mm
    ).long
    return _axis_entries("truth", *case.truth_deviation.about_axes(along))


def _axis_entries(prefix: str, degrees: np.ndarray, millimetres: np.ndarray) -> dict[str, float]:
    values = (*degrees, *millimetres)
    return {f"{prefix}_{axis}": float(value) for axis, value in zip(AXES, values, strict=True)}


def _error_entries(error: PoseError) -> dict:
    return {name: getattr(error, name) for name in _ERRORS}


def _theta_entries(prefix: str, case: EvaluationCase, T_lps_to_world: np.ndarray) -> dict[str, float]:
    theta = case.frame.theta_from_T(case.T_world_to_camera @ T_lps_to_world)
    return {f"{prefix}_{axis}": value for axis, value in theta_as_dict(theta).items()}


def pose_of_row(row: dict, case: EvaluationCase, prefix: str = "end") -> np.ndarray:
    """(4, 4) T_lps_to_world that a row of results holds for its case; ``prefix`` "true", "start" or "end"."""
    theta = theta_from_dict({axis: row[f"{prefix}_{axis}"] for axis in THETA_NAMES})
    return se3.invert_rigid(case.T_world_to_camera) @ case.frame.T_from_theta(theta)
