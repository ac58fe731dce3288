"""Whether a registration can be trusted, judged without the truth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from SOPIRegistrationLib.compare import Case, Comparison, Hypotheses
from SOPIRegistrationLib.compare.target import TargetKind, Thresholds
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.refine.alternatives import AMBIGUOUS, Alternative
from SOPIRegistrationLib.registration.evidence import (
    RIGHT_MM,
    RIGHT_RAD,
    Evidence,
    apart_mm,
    are_others,
    evidence_level,
    evidence_of,
)
from SOPIRegistrationLib.registration.predicted_error import (
    Deviation,
    intrinsics_covariance,
    local_model,
    model_covariance,
)
from SOPIRegistrationLib.registration.probability import TRUSTED, probability_right
from SOPIRegistrationLib.registration.result import SEVERITY, Verdict

# Two different poses this close in agreement: the image does not decide between them.
_AMBIGUOUS_MARGIN = 0.01
# The same of another way to read the X-ray or to look at the body, whose poses were refined coarsely only;
# where no probability looks closer, more.
_RIVAL_MARGIN, _RIVAL_MARGIN_UNTOLD = 0.02, 0.08
# Where no probability is known: beyond this margin over the threshold no other way to read an X-ray was seen
# to come near. Where one is: surer than this, what was not tried does not matter.
_CLEAR_MARGIN, _SURE = 0.08, 0.99
# A short scan that fills less than this of what it would fill in the middle of an X-ray leaves too little.
_MOST_OF_IT = 0.7
# Evidence is told where it is worse than that of nearly all right poses.
_USUAL_APART_MM, _USUAL_DETAIL = 0.6, 0.9
# In the plane and in depth: predicted errors that matter; how far a refined pose may be from the best one.
_LARGE_ERROR_MM = (1.0, 5.0)
_LARGE_STEP_MM = (0.5, 2.0)


# Status that something found allows at most, and the reason; none if empty.
Finding = tuple[str, str]


def judge(hypotheses: Hypotheses, timed_out: bool = False) -> Verdict:
    """The verdict on the first of some hypotheses.

    Args:
        hypotheses: the others are where other starts ended.
        timed_out: whether something that was to be tried was left out.
    """
    comparison, T = hypotheses.comparison, hypotheses.T[0]
    model = local_model(comparison, T)
    evidence = evidence_of(hypotheses, model)
    statistical = Deviation.of(model.covariance)
    in_given_geometry = model.covariance + model_covariance(comparison, T)
    total = Deviation.of(in_given_geometry + intrinsics_covariance(comparison))
    fixed = Deviation.of(in_given_geometry).probability_within(RIGHT_RAD, RIGHT_MM)
    thresholds = comparison.target.kind.thresholds
    alike = probability_right(evidence, comparison.target.kind.judged_as)
    probability = None if alike is None else alike * fixed
    size = _size(comparison, T)
    rivals = [_rivals(hypotheses), _elsewhere(evidence.agreement - hypotheses.rival, probability)]
    on_agreement = [
        _plausibility(comparison.case, T),
        *rivals,
        _refined(model.to_best_mm),
        on_weak_parts(evidence.parts_low, comparison.target.kind),
    ]
    enough = _share(evidence.share, comparison.case.least_share)
    # What the view leaves open no other pose would close, and what a short scan does not show none would show.
    settling = [_trust(evidence, alike, thresholds, timed_out), *on_agreement]
    if not _is_sure_of_a_short_scan(comparison, evidence.share, alike):
        settling.append(enough)
    findings = [
        _trust(evidence, probability, thresholds, timed_out),
        *on_agreement,
        enough,
        _fixed(fixed, statistical, total),
        size,
        _geometry(Deviation.of(in_given_geometry), total),
    ]
    status = max((status for status, _ in findings), key=SEVERITY.index)
    reasons = [reason for _, reason in findings if reason]
    if probability is not None and status != "accept":
        reasons += _doubts(evidence)
    return Verdict(
        status,
        reasons,
        total.translation_mm,
        np.rad2deg(total.rotation_rad),
        evidence.share,
        statistical.translation_mm,
        np.rad2deg(statistical.rotation_rad),
        probability,
        evidence,
        status != "reject" and all(found == "accept" for found, _ in settling),
        "; ".join(reason for _, reason in (*rivals, size) if reason),
    )


def _trust(evidence: Evidence, probability: float | None, thresholds: Thresholds, timed_out: bool) -> Finding:
    """How probably the pose is right; of a kind without a probability, how well the images agree."""
    figure = f"structural correlation {evidence.agreement:.3f}"
    trusted, clear, of = evidence.agreement, thresholds.accept + _CLEAR_MARGIN, ""
    if probability is not None:
        trusted, thresholds, clear, of = probability, TRUSTED, _SURE, "a probability of "
        figure = f"right with a probability of {100 * probability:.3g} %, {figure}"
    found = on_thresholds(trusted, thresholds, figure, of)
    if found[0] == "accept" and timed_out and trusted < clear:
        return "review", f"not all other ways to read the X-ray were tried: {figure}"
    return found


def on_thresholds(trusted: float, thresholds: Thresholds, figure: str, of: str = "") -> Finding:
    """What a figure, told in words as ``figure``, allows; ``of`` stands before the threshold's number."""
    if not np.isfinite(trusted) or trusted < thresholds.review:
        return "reject", f"the images do not agree: {figure}, below {of}{thresholds.review}"
    if trusted < thresholds.accept:
        return "review", f"the images agree only partly: {figure}, below {of}{thresholds.accept}"
    return "accept", f"the images agree: {figure}"


def on_weak_parts(correlation: float, kind: TargetKind) -> Finding:
    """What the weaker quarter of the images' parts allows, by their correlation."""
    if kind.weak_parts is None or correlation >= kind.weak_parts:
        return "accept", ""
    return "review", (
        f"parts of the outline do not agree: correlation {correlation:.2f}, below {kind.weak_parts}: is it "
        "this one, of this size and side?"
    )


def _size(comparison: Comparison, T_lps_to_world: np.ndarray) -> Finding:
    """Whether another size would look the same in a single view, where the start has it."""
    step, case = comparison.target.kind.size_step, comparison.case
    if step is None or not case.is_single_view:
        return "accept", ""
    poses = case.T_world_to_camera @ np.stack([case.T_expected, T_lps_to_world])
    expected, depth = se3.transform_points(poses, case.centre_lps_mm)[:, 2]
    if abs(depth / expected - 1) < step:
        return "accept", ""
    way = "further" if depth > expected else "nearer"
    return "review", (
        f"it is {abs(depth - expected):.0f} mm {way} than at the start: one of another size would look the "
        "same at the start's depth"
    )


def _doubts(evidence: Evidence) -> list[str]:
    """What makes a pose improbable, where it is far from usual."""
    doubts = []
    if evidence.apart_mm > _USUAL_APART_MM:
        doubts.append(f"parts of the images lie {evidence.apart_mm:.1f} mm beside each other")
    if evidence.fine < _USUAL_DETAIL * evidence.coarse:
        doubts.append(f"fine structure agrees less than coarse ({evidence.fine / evidence.coarse:.2f})")
    if doubts:
        doubts[-1] += ": is it this patient, and unmoved?"
    return doubts


def _plausibility(case: Case, T_lps_to_world: np.ndarray) -> Finding:
    """Whether the pose can be the one sought."""
    impossible = case.impossible_place(T_lps_to_world)
    if impossible:
        return "reject", f"the pose has {impossible}: is the geometry in mm?"
    if case.is_plausible(T_lps_to_world[None])[0]:
        return "accept", ""
    return "reject", "the pose lies too far from the start to be the one sought"


def _share(share: float, least: float) -> Finding:
    """Whether enough of the X-ray was compared."""
    if share >= least:
        return "accept", ""
    return "review", f"only {share:.0%} of the X-ray could be compared"


def _is_sure_of_a_short_scan(comparison: Comparison, share: float, probability: float | None) -> bool:
    """Whether the scan is too short to fill an X-ray, and as sure as that a pose is right in what it fills."""
    most = comparison.usual_share
    is_short = most < comparison.case.least_share
    return is_short and share > _MOST_OF_IT * most and (probability or 0.0) > _SURE


def _rivals(hypotheses: Hypotheses) -> Finding:
    """Whether a pose elsewhere agrees as well."""
    comparison, T = hypotheses.comparison, hypotheses.T
    if comparison.target.kind.look_alikes is None:
        agreements = comparison.agreement(T)
    else:
        agreements = 1 - comparison.cost(evidence_level(comparison), T) / 2
    rival = are_others(comparison, T) & (agreements[1:] > agreements[0] - _AMBIGUOUS_MARGIN)
    if not rival.any():
        return "accept", ""
    distance = apart_mm(comparison.case, T)[np.flatnonzero(rival)[0]]
    return "review", f"another start ended {distance:.0f} mm away with the same agreement"


def _elsewhere(margin: float, probability: float | None) -> Finding:
    """Whether the X-ray read another way, or seen from elsewhere, agrees nearly as well."""
    if margin < (_RIVAL_MARGIN_UNTOLD if probability is None else _RIVAL_MARGIN):
        return "review", f"read or seen another way the images agree nearly as well: {margin:.3f} less"
    return "accept", ""


def beside(others: Sequence[Alternative]) -> Finding:
    """Whether another pose of one body, the best first, agrees nearly as well."""
    if not others or others[0].margin >= AMBIGUOUS:
        return "accept", ""
    return "review", f"another pose agrees nearly as well: {others[0].summary}"


def _refined(to_best_mm: np.ndarray) -> Finding:
    """Whether the refinement came to its end."""
    if _exceeds(to_best_mm, _LARGE_STEP_MM):
        x, y, z = to_best_mm
        return "review", f"not refined: the images agree better about {x:.1f}, {y:.1f}, {z:.1f} mm from here"
    return "accept", ""


def _fixed(probability: float, statistical: Deviation, total: Deviation) -> Finding:
    """Whether the view fixes a pose where the images agree; ``probability`` that it is right if they do."""
    if _exceeds(statistical.translation_mm, _LARGE_ERROR_MM):
        x, y, z = statistical.translation_mm
        return "review", f"the image hardly fixes the pose: predicted error {x:.1f}, {y:.1f}, {z:.1f} mm"
    if probability < TRUSTED.accept:
        x, y, z = np.rad2deg(total.rotation_rad)
        return "review", f"the view hardly fixes the pose: predicted error {x:.1f}, {y:.1f}, {z:.1f} deg"
    return "accept", ""


def _geometry(given: Deviation, total: Deviation) -> Finding:
    """Whether the geometry is known well enough in the plane: as given, and with its intrinsics open."""
    if total.translation_mm[:2].max() <= max(_LARGE_ERROR_MM[0], given.translation_mm[:2].max()):
        return "accept", ""
    x, y, z = total.translation_mm
    return "review", f"the geometry is known too roughly: predicted error {x:.1f}, {y:.1f}, {z:.1f} mm"


def _exceeds(shift_mm: np.ndarray, limits_mm: tuple[float, float]) -> bool:
    """Whether a shift (3,) along the first camera's axes is longer than limits in the plane or in depth."""
    in_plane, depth = limits_mm
    return bool(np.abs(shift_mm[:2]).max() > in_plane or abs(shift_mm[2]) > depth)
