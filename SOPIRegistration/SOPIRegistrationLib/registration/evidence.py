"""What the images say for and against a pose: what a verdict is made of; none of it knows the truth."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import uniform_filter

from SOPIRegistrationLib.compare import Case, Comparison, Hypotheses, Level
from SOPIRegistrationLib.compare.objective import around_object
from SOPIRegistrationLib.compare.reliability import reliability
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.registration.predicted_error import Deviation, LocalModel

# Edge of the parts of an image that are looked at by themselves: about half a vertebra at 128 pixels.
_PART_PX = 17
# Parts with less of the image's mean structure than this have nothing to show.
_LEAST_TEXTURE = 0.1
# In a small field any two images lie close together in mm, for a step is hardly longer than a pixel: pixels
# smaller than this at the object count as those of the smallest field that probabilities were fitted to.
_LEAST_PIXEL_MM = 0.9
# What is right: turned and, in the plane at the object, shifted by no more.
RIGHT_RAD, RIGHT_MM = math.radians(3.0), 2.0
# Poses of a body nearer to each other are the same; turns an angle into the distance it moves its points.
_SAME_POSE_MM, _OBJECT_RADIUS_MM = 5.0, 60.0
# An X-ray of less structure is all noise.
_LEAST_SIGNAL = 0.1
# Of a pose with no rival: further off than any that was seen to matter.
NO_RIVAL = 0.4


@dataclass(frozen=True)
class Evidence:
    """Figures of one pose.

    Attributes:
        agreement: structural correlation; less where few rays are compared or the depth is unusual.
        coarse: structural correlation as a share of the largest that the noise leaves possible.
        fine: the same at the level of fine structure, or at the finest one.
        noise: share of the fine structure that is noise.
        parts_median, parts_low: correlation of the images' parts by themselves: median, lower quarter.
        apart_mm, apart_high_mm: by how much parts of the images lie beside each other at the object, median
            and upper fifth, mm; of small fields larger.
        share: of the X-ray's valid rays, those that are compared.
        margin: by how much the best pose elsewhere, or in another reading, agrees less.
        detail_margin: by how much fine structure agrees less at the best pose that was refined besides and is
            another one.
        error_mm, error_deg: largest predicted error in the plane, and of the rotation, from the curvature.
        step_mm: how far the images agree better from here in the plane.
        views: how many X-rays.
    """

    agreement: float
    coarse: float
    fine: float
    noise: float
    parts_median: float
    parts_low: float
    apart_mm: float
    apart_high_mm: float
    share: float
    margin: float
    detail_margin: float
    error_mm: float
    error_deg: float
    step_mm: float
    views: int


def evidence_level(comparison: Comparison) -> Level:
    """The level at which parts and fine structure are looked at."""
    kind = comparison.target.kind
    return kind.detail or kind.check


def parts_of(comparison: Comparison, T_lps_to_world: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n,) correlation of each part of the images at a pose (4, 4), and (n,) how far it lies apart, mm.

    Parts without structure are left out. How far is one step of Lucas and Kanade (1981): exact where it is
    small.
    """
    objective = comparison.objective(evidence_level(comparison), T_lps_to_world[None])
    # What is compared near an outline only was fitted at whatever pixels that takes.
    least_mm = _LEAST_PIXEL_MM if comparison.target.outline_lps_mm is None else 0.0
    found = []
    for camera, moving, fixed in objective.images(T_lps_to_world):
        T_lps_to_camera = camera.T_world_to_camera @ T_lps_to_world
        depth = se3.transform_points(T_lps_to_camera, comparison.case.centre_lps_mm)[2]
        found.append(parts(moving, fixed, np.maximum(depth / np.diag(camera.K)[:2], least_mm)))
    correlations, distances = (np.concatenate(one) for one in zip(*found, strict=True))
    return correlations, distances


def parts(moving: np.ndarray, fixed: np.ndarray, pixel_mm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same of one view.

    Args:
        moving: (rows, columns) DRR as it is compared, locally normalised.
        fixed: (rows, columns) the X-ray, the same.
        pixel_mm: (2,) width and height of a pixel at the object, mm.
    """

    def mean(image: np.ndarray) -> np.ndarray:
        return uniform_filter(image.astype(np.float64), _PART_PX, mode="constant")

    mm, ff, mf = mean(moving * moving), mean(fixed * fixed), mean(moving * fixed)
    gv, gu = np.gradient((moving + fixed) / 2)
    difference = fixed - moving
    uu, vv, uv = mean(gu * gu), mean(gv * gv), mean(gu * gv)
    bu, bv = mean(gu * difference), mean(gv * difference)
    determinant = uu * vv - uv * uv
    weakest = (uu + vv) / 2 - np.sqrt(np.maximum(((uu - vv) / 2) ** 2 + uv * uv, 0))
    structured = (
        (weakest > _LEAST_TEXTURE * uu[uu > 0].mean()) & (np.minimum(mm, ff) > _LEAST_TEXTURE * mm.mean())
        if (uu > 0).any()
        else np.zeros(uu.shape, bool)
    )
    step = max(1, _PART_PX // 4)
    chosen = np.zeros_like(structured)
    chosen[::step, ::step] = structured[::step, ::step]
    if not chosen.any():
        return np.zeros(1), np.full(1, np.inf)
    correlation = mf[chosen] / np.sqrt(mm[chosen] * ff[chosen])
    du = (vv * bu - uv * bv)[chosen] / determinant[chosen]
    dv = (uu * bv - uv * bu)[chosen] / determinant[chosen]
    return correlation, np.hypot(du * pixel_mm[0], dv * pixel_mm[1])


def noiseless_correlation(
    comparison: Comparison, level: Level, T_lps_to_world: np.ndarray, signal_there: float | None = None
) -> float:
    """Correlation at a level and pose (4, 4) as a share of what noise leaves possible; ``signal_there`` is
    :func:`signal`'s, where known."""
    correlation = 1 - float(comparison.cost(level, T_lps_to_world[None])[0]) / 2
    signal_there = signal(comparison, level, T_lps_to_world) if signal_there is None else signal_there
    return max(correlation, 0.0) / float(np.sqrt(max(signal_there, _LEAST_SIGNAL)))


def signal(comparison: Comparison, level: Level, T_lps_to_world: np.ndarray) -> float:
    """Share of the structure compared at a level at a pose (4, 4) that is not noise; 1 of X-rays too small to
    tell."""
    shown = [around_object(one, comparison.target, T_lps_to_world[None]) for one in comparison.radiographs]
    told = [reliability(one, level) for one in shown if min(one.camera.shape) >= 2 * level.pixels]
    return float(np.mean(told)) if told else 1.0


def evidence_of(hypotheses: Hypotheses, model: LocalModel) -> Evidence:
    """The evidence on the first of some hypotheses; the others are where other starts ended.

    Args:
        hypotheses: refined.
        model: of the objective at the first.
    """
    comparison, T = hypotheses.comparison, hypotheses.T[0]
    agreements = comparison.agreement(hypotheses.T)
    elsewhere = are_others(comparison, hypotheses.T)
    rival = max([hypotheses.rival, *agreements[1:][elsewhere]])
    level = evidence_level(comparison)
    details = 1 - comparison.cost(level, hypotheses.T) / 2
    detail_rival = max(details[1:][elsewhere], default=-np.inf)
    correlations, distances = parts_of(comparison, T)
    deviation = Deviation.of(model.covariance)
    check = comparison.target.kind.check
    # Of an implant both are the same one.
    signals = {one: signal(comparison, one, T) for one in {check, level}}
    return Evidence(
        agreement=float(agreements[0]),
        coarse=noiseless_correlation(comparison, check, T, signals[check]),
        fine=noiseless_correlation(comparison, level, T, signals[level]),
        noise=1 - signals[level],
        parts_median=float(np.median(correlations)),
        parts_low=float(np.quantile(correlations, 0.25)),
        apart_mm=float(np.median(distances)),
        apart_high_mm=float(np.quantile(distances, 0.8)),
        share=float(comparison.share(T[None])[0]),
        margin=float(min(agreements[0] - rival, NO_RIVAL)),
        detail_margin=float(min(details[0] - detail_rival, NO_RIVAL)),
        error_mm=float(deviation.translation_mm[:2].max()),
        error_deg=float(np.rad2deg(deviation.rotation_rad.max())),
        step_mm=float(np.abs(model.to_best_mm[:2]).max()),
        views=len(comparison.radiographs),
    )


def are_others(comparison: Comparison, poses: np.ndarray) -> np.ndarray:
    """(n - 1,) bool: whether poses (n, 4, 4) are others than the first of them.

    A bone that turns about its long axis hardly moves: if the first one were right, they would not be.
    """
    if comparison.target.kind.look_alikes is None:
        return apart_mm(comparison.case, poses) > _SAME_POSE_MM
    T = comparison.case.T_world_to_camera @ poses
    centres = se3.transform_points(T, comparison.case.centre_lps_mm)[:, :2]
    angles = se3.rotation_distance(np.repeat(T[:1, :3, :3], len(T) - 1, axis=0), T[1:, :3, :3])
    return (angles > RIGHT_RAD) | (np.linalg.norm(centres[1:] - centres[0], axis=1) > RIGHT_MM)


def apart_mm(case: Case, poses: np.ndarray) -> np.ndarray:
    """(n - 1,) how far the object's points lie from where the first of poses (n, 4, 4) has them, mm."""
    centres = se3.transform_points(poses, case.centre_lps_mm)
    angles = se3.rotation_distance(np.repeat(poses[:1, :3, :3], len(poses) - 1, axis=0), poses[1:, :3, :3])
    return np.linalg.norm(centres[1:] - centres[0], axis=1) + _OBJECT_RADIUS_MM * angles
