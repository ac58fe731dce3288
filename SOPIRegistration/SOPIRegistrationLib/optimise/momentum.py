"""Momentum descent over rigid poses from every start at once, the rotation frozen before the translation.

The inference of the SOPI paper (section 2.3): rotation and translation do not converge at the same rate, so
after some iterations the rotation stays and the translation goes on.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.optimise.pose_chart import PoseScale
from SOPIRegistrationLib.optimise.result import OptimisationResult
from SOPIRegistrationLib.progress import Progress, Report

_MOMENTUM = 0.9
# Step length, units, before momentum lengthens it up to tenfold.
_RATE = 0.1
# The rate goes up and down between these shares of itself, once in so many iterations (the paper's cycle of
# 4e-4 to 6e-4).
_CYCLE, _LOWEST, _HIGHEST = 20, 0.8, 1.2
# Iterations without gain until a start's rate is halved.
_PATIENCE = 6
_DEFAULT_SCALE = PoseScale()


def momentum_descent(
    evaluate: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]],
    T_start: np.ndarray,
    centre: np.ndarray,
    scale: PoseScale = _DEFAULT_SCALE,
    rotation_tolerance: float = 0.02,
    translation_tolerance: float = 0.005,
    max_iterations: int = 500,
    report: Report | None = None,
    stage: str = "",
) -> tuple[np.ndarray, np.ndarray, OptimisationResult]:
    """Minimise an error over rigid poses by the directions of its gradient.

    Rotation and translation step along the unit vectors of their parts of the gradient: a similarity trained
    by Eq. 7 knows directions, not lengths. A start that no longer gains goes back to its best pose at half
    its rate; its rotation is frozen when the rate is below the one tolerance, and it ends when it is
    below the other.

    Args:
        evaluate: errors (P,) and gradients (P, 6) of poses (P, 4, 4) that belong to the starts (P,); by
            twists about ``centre``, rad and mm.
        T_start: (S, 4, 4) or (4, 4) start poses.
        centre: (3,) point of the object about which it turns, mm.
        scale: one unit of each coordinate.
        rotation_tolerance: rate, units, at which rotations are frozen.
        translation_tolerance: rate, units, at which a start has converged.
        max_iterations: at most so many.
        report: told the best pose and its error, negative, every iteration.
        stage: label in the reports.

    Returns:
        The best pose (S, 4, 4) and error (S,) of every start; the best of all.
    """
    T = np.array(T_start, dtype=np.float64).reshape(-1, 4, 4)
    count = len(T)
    best_T, best = T.copy(), np.full(count, np.inf)
    velocity = np.zeros((count, 2, 3))
    rates, stale = np.full(count, _RATE), np.zeros(count, dtype=int)
    units = scale.twist.reshape(2, 3)
    iteration = evaluations = 0
    active = np.arange(count)
    while len(active) and iteration < max_iterations:
        iteration += 1
        error, gradient = evaluate(T[active], active)
        evaluations += len(active)

        gained = error < best[active]
        best[active[gained]], best_T[active[gained]] = error[gained], T[active[gained]]
        stale[active] = np.where(gained, 0, stale[active] + 1)
        spent = active[stale[active] >= _PATIENCE]
        rates[spent] /= 2
        stale[spent] = 0

        direction = gradient.reshape(-1, 2, 3) * units
        direction /= np.maximum(np.linalg.norm(direction, axis=2, keepdims=True), 1e-30)
        direction[rates[active] < rotation_tolerance, 0] = 0
        velocity[active] = _MOMENTUM * velocity[active] - direction
        # From the best pose it goes on afresh, from the next gradient there.
        velocity[spent] = 0
        phase = abs(2 * (iteration % _CYCLE) / _CYCLE - 1)
        length = rates[active] * (_LOWEST + (_HIGHEST - _LOWEST) * phase)
        twist = (length[:, None, None] * velocity[active] * units).reshape(-1, 6)
        T[active] = se3.move_about(T[active], twist, centre)
        T[spent] = best_T[spent]

        active = active[np.isfinite(error) & (rates[active] >= translation_tolerance)]
        if report is not None:
            first = int(np.argmin(best))
            report(Progress(stage, iteration / max_iterations, best_T[first].copy(), -float(best[first])))
    first = int(np.argmin(best))
    reason = "iterations" if len(active) else "step"
    result = OptimisationResult(best_T[first], -float(best[first]), iteration, evaluations, reason)
    return best_T, best, result
