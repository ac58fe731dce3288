"""A verdict for each of several bodies, and how exactly each stands to the one that holds it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.refine.alternatives import Alternative
from SOPIRegistrationLib.refine.joint_scene import Scene
from SOPIRegistrationLib.refine.jointly import Refined
from SOPIRegistrationLib.registration.bodies_result import NeighbourPose
from SOPIRegistrationLib.registration.evidence import parts
from SOPIRegistrationLib.registration.predicted_error import Deviation
from SOPIRegistrationLib.registration.result import SEVERITY, Verdict
from SOPIRegistrationLib.registration.verdict import Finding, beside, on_thresholds, on_weak_parts
from SOPIRegistrationLib.subject.bodies import RigidBody, in_one_place

# Errors of bent spines were this many times the deviations that the curvature of the images predicts, in one
# view (14 phantoms) and in several (6): what fills the holes, and overlaps, are not as in the patient.
# Checked on others in Docs/results/bodies.md.
_LARGER_ERRORS, _LARGER_ERRORS_OF_VIEWS = 1.9, 1.4
# Predicted errors that matter: across the central ray, along it, turned.
_LARGE_MM, _LARGE_DEPTH_MM, _LARGE_DEG = 1.0, 5.0, 1.5
# A body whose deviation is this share of what holds it alone would leave is held, not seen.
_MOSTLY_HELD = 0.5


def judge_bodies(
    scene: Scene, refined: Refined, others: Sequence[Sequence[Alternative]] = ()
) -> tuple[list[Verdict], list[NeighbourPose]]:
    """A verdict for each body, and how each held one stands to its parent.

    Args:
        scene: bodies and X-rays.
        refined: where the bodies ended.
        others: of each body where else it may stand (``refine.alternatives``); of none if empty.
    """
    T, objective = refined.T, refined.objective
    equations = objective.at(T)
    covariance = _larger_errors(scene) ** 2 * objective.unit * _inverse(equations.hessian[0])
    to_camera = np.kron(np.eye(2), scene.radiographs[0].camera.T_world_to_camera[:3, :3])
    agreement = scene.agreement(scene.kind.check, T)
    verdicts, pairs = [], []
    for number, body in enumerate(scene.bodies.bodies):
        own = slice(6 * number, 6 * number + 6)
        deviation = Deviation.of(to_camera @ covariance[own, own] @ to_camera.T)
        figure = f"structural correlation about it {agreement[number]:.3f}"
        findings = [
            on_thresholds(agreement[number], scene.kind.thresholds, figure),
            _determined(body, deviation, _larger_errors(scene)),
        ]
        if scene.kind.weak_parts is not None:
            findings.append(on_weak_parts(_weak_parts(scene, T, number), scene.kind))
        verdicts.append(_verdict(findings, deviation, others[number] if others else ()))
        if body.hold is not None:
            pairs.append(_pair(scene, refined, number, to_camera, covariance))
    return verdicts, pairs


def _verdict(findings: list[Finding], deviation: Deviation, others: Sequence[Alternative]) -> Verdict:
    """On one body, by what was found and where else it may stand."""
    ambiguous = beside(others)
    findings = [*findings, ambiguous]
    return Verdict(
        max((status for status, _ in findings), key=SEVERITY.index),
        [reason for _, reason in findings if reason],
        deviation.translation_mm,
        np.rad2deg(deviation.rotation_rad),
        ambiguous=ambiguous[1],
    )


def _weak_parts(scene: Scene, T_lps_to_world: np.ndarray, number: int) -> float:
    """What the weaker quarter of the images' parts about a body correlates to; 0 of one in no view."""
    found = [parts(*view)[0] for view in scene.images(scene.kind.check, T_lps_to_world, number)]
    return float(np.quantile(np.concatenate(found), 0.25)) if found else 0.0


def _pair(scene: Scene, refined: Refined, number: int, to_camera, covariance) -> NeighbourPose:
    """How a held body stands to its parent."""
    body = scene.bodies.bodies[number]
    parent = scene.bodies.names.index(body.hold.parent)
    relative = refined.objective.relative_jacobian(refined.T, number, parent)
    deviation = Deviation.of(to_camera @ relative @ covariance @ relative.T @ to_camera.T)
    T_relative = se3.invert_rigid(refined.T[parent]) @ refined.T[number]
    return NeighbourPose(
        body.name, body.hold.parent, T_relative, deviation.translation_mm, np.rad2deg(deviation.rotation_rad)
    )


def _inverse(hessian: np.ndarray) -> np.ndarray:
    """Of a Hessian some of whose parameters nothing depends on: these have variances of zero."""
    used = np.diag(hessian) > 0
    inverse = np.zeros_like(hessian)
    inverse[np.ix_(used, used)] = np.linalg.pinv(hessian[np.ix_(used, used)], rcond=1e-12, hermitian=True)
    return inverse


def _larger_errors(scene: Scene) -> float:
    """By what deviations from the curvature of the images are to be multiplied."""
    return _LARGER_ERRORS if len(scene.radiographs) == 1 else _LARGER_ERRORS_OF_VIEWS


def _determined(body: RigidBody, deviation: Deviation, larger: float) -> Finding:
    """Whether the picture, not what holds it, fixes a body."""
    if body.fixed:
        return "accept", "fixed: it stays where it was as one piece"
    x, y, z = deviation.translation_mm
    turn = float(np.rad2deg(deviation.rotation_rad.max()))
    if not (deviation.translation_mm.any() or turn):
        return "review", "the picture does not show it"
    if body.hold is not None:
        across = max(x, y) / (larger * body.hold.translation_mm)
        if max(across, turn / (larger * body.hold.rotation_deg)) > _MOSTLY_HELD:
            return "review", f"the picture hardly determines it: it stays where {body.hold.parent} holds it"
    if max(x, y) > _LARGE_MM or z > _LARGE_DEPTH_MM or turn > _LARGE_DEG:
        return "review", (
            f"the picture hardly fixes it: predicted error {x:.1f}, {y:.1f}, {z:.1f} mm, {turn:.1f} deg"
        )
    return "accept", ""


def not_better(verdict: Verdict, piece: Verdict) -> Verdict:
    """No body of a piece that was rejected, or that may stand elsewhere, is accepted: released bodies find
    something alike anywhere."""
    reason = piece.ambiguous or (piece.reasons[0] if piece.status == "reject" else "")
    if not reason or verdict.status != "accept":
        return verdict
    return replace(verdict, status="review", reasons=[*verdict.reasons, f"as one piece: {reason}"])


def not_in_one_place(
    verdicts: Sequence[Verdict], bodies: Sequence[RigidBody], T_lps_to_world: np.ndarray
) -> list[Verdict]:
    """No two bodies that stand in one place are accepted: either may be wrong where none is rejected anyway.

    Args:
        verdicts: N by the images.
        bodies: N.
        T_lps_to_world: (N, 4, 4) their poses.
    """
    verdicts = list(verdicts)
    for larger, smaller, _, share in in_one_place(bodies, T_lps_to_world):
        pair = (larger, smaller)
        which = [n for n in pair if verdicts[n].status == "reject"] or pair
        for number in which:
            [other] = {*pair} - {number}
            reason = (
                f"in one place with {bodies[other].name}: {share:.0%} of {bodies[smaller].name} lies in "
                f"{bodies[larger].name}; one of them is wrong"
            )
            reasons = [*verdicts[number].reasons, reason]
            verdicts[number] = replace(
                verdicts[number],
                status=max(verdicts[number].status, "review", key=SEVERITY.index),
                reasons=reasons,
            )
    return verdicts
