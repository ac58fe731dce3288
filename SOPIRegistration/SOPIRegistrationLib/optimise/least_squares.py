"""Levenberg-Marquardt on SE(3), for several poses at once.

Knows normal equations and nothing of images. Nocedal and Wright, *Numerical Optimization*, ch. 10.3, with
Marquardt's scaling of the damping and Nielsen's update of it (Madsen, Nielsen, Tingleff, *Methods for
Non-Linear Least Squares Problems*, 2004, sec. 3.2).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.optimise.result import OptimisationResult
from SOPIRegistrationLib.progress import Progress, Report

_DAMPING_START = 1e-3
_DAMPING_END = 1e10
# Turns the rotational part of a step into millimetres: the extent of the object about its centre.
_OBJECT_RADIUS_MM = 60.0
# No step moves the object further: the quadratic model says nothing of such distances.
_LONGEST_STEP_MM = 60.0


class NormalEquations(NamedTuple):
    """Cost of P poses and its quadratic model in a twist about each pose's centre.

    Attributes:
        cost: (P,) sum of (robust) squares.
        gradient: (P, 6) J^T r.
        hessian: (P, 6, 6) J^T J.
    """

    cost: np.ndarray
    gradient: np.ndarray
    hessian: np.ndarray


@dataclass(frozen=True)
class LeastSquaresResult:
    """Levenberg-Marquardt's end for P starts.

    Attributes:
        T: (P, 4, 4) poses.
        equations: normal equations there.
        iterations: iterations done (the slowest start's).
        evaluations: poses at which the normal equations were computed.
    """

    T: np.ndarray
    equations: NormalEquations
    iterations: int
    evaluations: int

    @property
    def best(self) -> OptimisationResult:
        """The start that ended with the least cost, as the other optimisers return theirs."""
        index = int(np.argmin(self.equations.cost))
        return OptimisationResult(
            T=self.T[index],
            value=-float(self.equations.cost[index]),
            iterations=self.iterations,
            evaluations=self.evaluations,
            reason="converged",
        )


def levenberg_marquardt(
    evaluate: Callable[[np.ndarray, np.ndarray], NormalEquations],
    T_start: np.ndarray,
    centre: np.ndarray,
    max_iterations: int = 20,
    step_tolerance_mm: float = 0.01,
    gain_tolerance: float = 1e-4,
    report: Report | None = None,
    stage: str = "",
    move: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
    damping_start: float = _DAMPING_START,
) -> LeastSquaresResult:
    """Minimise a sum of squares over rigid poses, from every start at once.

    Args:
        evaluate: normal equations of (P, 4, 4) poses that belong to the starts (P,); the twist
            acts about ``centre``.
        T_start: (P, 4, 4) or (4, 4) start poses.
        centre: (3,) point of the object about which steps are taken, mm.
        max_iterations: a rejected step counts as one.
        step_tolerance_mm: a start has converged once its step moves no point of the object by more.
        gain_tolerance: or once an accepted step lowers its cost by a smaller fraction.
        report: told the best pose and its cost, negative, after every iteration.
        stage: label in the reports.
        move: poses (P, 4, 4 + m) by steps (P, 6 + n), where something besides the pose is sought, which
            stands in the further columns; None for twists about ``centre``.
        damping_start: what the damping begins with.

    Returns:
        LeastSquaresResult: the pose each start reached; a start never gets worse.
    """
    move = move or partial(se3.move_about, centre=centre)
    T = np.array(T_start, dtype=np.float64)
    T = T.reshape(-1, *T.shape[-2:])
    equations = NormalEquations(
        *(np.array(part, dtype=np.float64) for part in evaluate(T, np.arange(len(T))))
    )
    damping = np.full(len(T), damping_start)
    growth = np.full(len(T), 4.0)
    active = np.isfinite(equations.cost)
    evaluations = len(T)
    iteration = 0

    while active.any() and iteration < max_iterations:
        iteration += 1
        rows = np.flatnonzero(active)
        step, size, predicted = _damped_step(equations, damping, rows)
        T_new = move(T[rows], step)
        new = evaluate(T_new, rows)
        evaluations += len(rows)

        gain = equations.cost[rows] - new.cost
        accepted = np.isfinite(new.cost) & (gain > 0)
        converged = (size < step_tolerance_mm) | (accepted & (gain < gain_tolerance * equations.cost[rows]))

        take, refuse = rows[accepted], rows[~accepted]
        quality = gain[accepted] / np.maximum(predicted[accepted], 1e-300)
        damping[take] *= np.maximum(0.1, 1 - (2 * np.minimum(quality, 1.0) - 1) ** 3)
        growth[take] = 4.0
        damping[refuse] *= growth[refuse]
        growth[refuse] *= 2
        T[take] = T_new[accepted]
        for old, part in zip(equations, new, strict=True):
            old[take] = part[accepted]
        active[rows] = ~converged & (damping[rows] < _DAMPING_END)

        if report is not None:
            best = int(np.argmin(equations.cost))
            done = iteration / max_iterations
            report(Progress(stage, done, T[best].copy(), -float(equations.cost[best])))

    return LeastSquaresResult(T, equations, iteration, evaluations)


def _damped_step(equations, damping, rows):
    """Marquardt steps of the given starts, their sizes in mm and the decrease of cost predicted for them."""
    H = equations.hessian[rows]
    g = equations.gradient[rows]
    diagonal = np.einsum("pii->pi", H)
    # A parameter nothing depends on must not make the system singular.
    floor = 1e-9 * diagonal.max(axis=1, keepdims=True) + 1e-30
    D = damping[rows, None] * np.maximum(diagonal, floor) + floor
    step = -np.linalg.solve(H + np.einsum("pi,ij->pij", D, np.eye(D.shape[1])), g[..., None])[..., 0]
    size = np.linalg.norm(step[:, :3], axis=1) * _OBJECT_RADIUS_MM + np.linalg.norm(step[:, 3:6], axis=1)
    shrink = np.minimum(1.0, _LONGEST_STEP_MM / np.maximum(size, 1e-12))
    step *= shrink[:, None]
    predicted = -2 * np.einsum("pi,pi->p", step, g) - np.einsum("pi,pij,pj->p", step, H, step)
    return step, size * shrink, predicted
