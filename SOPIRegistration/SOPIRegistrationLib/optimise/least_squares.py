"""Levenberg-Marquardt on SE(3), for several poses at once, and for several bodies at once.

Knows normal equations and nothing of images. Nocedal and Wright, *Numerical Optimization*, ch. 10.3, with
Marquardt's scaling of the damping and Nielsen's update of it (Madsen, Nielsen, Tingleff, *Methods for
Non-Linear Least Squares Problems*, 2004, sec. 3.2). Where residuals stay large, on request with the curvature
that J^T J leaves out, learned from the steps (Dennis, Gay and Welsch, *An adaptive nonlinear least-squares
algorithm*, 1981).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.progress import Progress, Report

_DAMPING_START = 1e-3
_DAMPING_END = 1e10
# Turns the rotational part of a step into millimetres: the extent of the object about its centre.
_OBJECT_RADIUS_MM = 60.0
# No step moves the object further: the quadratic model says nothing of such distances.
_LONGEST_STEP_MM = 60.0
# Of the curvature of J^T J, in any direction, what learned curvature leaves at least: steps grow by no more.
_LEAST_CURVATURE = 0.1
# A step along which the slope hardly changes, as a share of what J^T J foretells, teaches nothing.
_LEAST_CHANGE = 1e-3


class NormalEquations(NamedTuple):
    """Cost of P poses and its quadratic model in a twist about each pose's centre.

    Attributes:
        cost: (P,) sum of (robust) squares.
        gradient: (P, 6) J^T r; of N bodies (P, 6 N).
        hessian: (P, 6, 6) J^T J; of N bodies (P, 6 N, 6 N).
    """

    cost: np.ndarray
    gradient: np.ndarray
    hessian: np.ndarray


@dataclass(frozen=True)
class LeastSquaresResult:
    """Levenberg-Marquardt's end for P starts.

    Attributes:
        T: (P, 4, 4) poses; of N bodies (P, N, 4, 4).
        equations: normal equations there.
        iterations: iterations done (the slowest start's).
        evaluations: poses at which the normal equations were computed.
    """

    T: np.ndarray
    equations: NormalEquations
    iterations: int
    evaluations: int


def levenberg_marquardt(
    evaluate: Callable[[np.ndarray, np.ndarray], NormalEquations],
    T_start: np.ndarray,
    centre: np.ndarray,
    max_iterations: int = 20,
    step_tolerance_mm: float = 0.01,
    gain_tolerance: float = 1e-4,
    report: Report | None = None,
    stage: str = "",
    secant: bool = False,
) -> LeastSquaresResult:
    """Minimise a sum of squares over rigid poses, from every start at once.

    Args:
        evaluate: normal equations of (P, 4, 4) poses that belong to the starts (P,); the twist
            acts about ``centre``. Of N bodies that move together, (P, N, 4, 4).
        T_start: (P, 4, 4), (4, 4) or (P, N, 4, 4) start poses.
        centre: (3,) point of the object about which steps are taken, mm; of N bodies (N, 3).
        max_iterations: a rejected step counts as one.
        step_tolerance_mm: a start has converged once its step moves no point of the object by more.
        gain_tolerance: or once an accepted step lowers its cost by a smaller fraction.
        report: told the best pose and its cost, negative, after every iteration.
        stage: label in the reports.
        secant: whether curvature that J^T J leaves out is learned. Steps of sharp outlines, whose residuals
            stay large, are else four times too short, and all alike.

    Returns:
        LeastSquaresResult: the pose each start reached; a start never gets worse.
    """
    T = np.array(T_start, dtype=np.float64)
    T = T[None] if T.ndim == 2 else T
    bodies = T.shape[1:-2]
    equations = NormalEquations(
        *(np.array(part, dtype=np.float64) for part in evaluate(T, np.arange(len(T))))
    )
    damping = np.full(len(T), _DAMPING_START)
    growth = np.full(len(T), 4.0)
    active = np.isfinite(equations.cost)
    evaluations = len(T)
    iteration = 0
    learned = _LearnedCurvature(equations) if secant else None

    while active.any() and iteration < max_iterations:
        iteration += 1
        rows = np.flatnonzero(active)
        hessian = equations.hessian[rows] if learned is None else learned.hessian(equations, rows)
        step, size, predicted = _damped_step(equations.gradient[rows], hessian, damping[rows])
        T_new = se3.move_about(T[rows], step.reshape(len(step), *bodies, 6), centre)
        new = evaluate(T_new, rows)
        evaluations += len(rows)
        if learned is not None:
            learned.learn(rows, step, new.gradient - equations.gradient[rows], new.hessian)

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


class _LearnedCurvature:
    """What each start's steps tell of the curvature beyond J^T J: the sum of r times its second derivative.

    Args:
        equations: of the starts.
    """

    def __init__(self, equations: NormalEquations):
        self._beyond = np.zeros_like(equations.hessian)

    def hessian(self, equations: NormalEquations, rows: np.ndarray) -> np.ndarray:
        """(R, n, n) curvature of some starts, positive definite."""
        gauss_newton = equations.hessian[rows]
        diagonal = np.einsum("pii->pi", gauss_newton)
        floor = 1e-9 * diagonal.max(axis=1) + 1e-30
        L = np.linalg.cholesky(gauss_newton + floor[:, None, None] * np.eye(diagonal.shape[1]))
        relative = np.linalg.solve(L, np.linalg.solve(L, self._beyond[rows]).swapaxes(1, 2))
        share, directions = np.linalg.eigh(
            np.eye(diagonal.shape[1]) + (relative + relative.swapaxes(1, 2)) / 2
        )
        half = L @ directions * np.sqrt(np.maximum(share, _LEAST_CURVATURE))[:, None]
        return half @ half.swapaxes(1, 2)

    def learn(self, rows: np.ndarray, step: np.ndarray, change: np.ndarray, hessian: np.ndarray) -> None:
        """Take in steps (R, n), refused ones, too.

        Args:
            rows: (R,) whose steps.
            step: (R, n) parameters.
            change: (R, n) of the gradient.
            hessian: (R, n, n) J^T J where the steps lead.
        """
        foretold = np.einsum("pij,pj->pi", hessian, step)
        along = np.einsum("pi,pi->p", change, step)
        told = along > _LEAST_CHANGE * np.einsum("pi,pi->p", foretold, step)
        rows, step, change, along = rows[told], step[told], change[told], along[told, None, None]
        beyond, wanted = self._beyond[rows], change - foretold[told]
        known = np.einsum("pij,pj->pi", beyond, step)
        # What was learned further away may be too much here (their sizing, eq. 3.8).
        sizing = np.abs(np.einsum("pi,pi->p", step, wanted))
        sizing = np.minimum(1.0, sizing / np.maximum(np.abs(np.einsum("pi,pi->p", step, known)), 1e-300))
        beyond, known = sizing[:, None, None] * beyond, sizing[:, None] * known
        missed = wanted - known
        cross = missed[:, :, None] * change[:, None]
        square = change[:, :, None] * change[:, None]
        missed_along = np.einsum("pi,pi->p", step, missed)[:, None, None]
        self._beyond[rows] = (
            beyond + (cross + cross.swapaxes(1, 2)) / along - missed_along * square / along**2
        )


def _damped_step(gradient, hessian, damping):
    """Marquardt steps (P, n), their sizes in mm and the decrease of cost predicted for them."""
    diagonal = np.einsum("pii->pi", hessian)
    # A parameter nothing depends on must not make the system singular.
    floor = 1e-9 * diagonal.max(axis=1, keepdims=True) + 1e-30
    D = damping[:, None] * np.maximum(diagonal, floor) + floor
    step = -np.linalg.solve(hessian + np.einsum("pi,ij->pij", D, np.eye(D.shape[1])), gradient[..., None])[
        ..., 0
    ]
    # The largest of all bodies.
    twists = step.reshape(len(step), -1, 6)
    turns, shifts = np.linalg.norm(twists[..., :3], axis=2), np.linalg.norm(twists[..., 3:], axis=2)
    size = (turns * _OBJECT_RADIUS_MM + shifts).max(axis=1)
    shrink = np.minimum(1.0, _LONGEST_STEP_MM / np.maximum(size, 1e-12))
    step *= shrink[:, None]
    predicted = -2 * np.einsum("pi,pi->p", step, gradient) - np.einsum("pi,pij,pj->p", step, hessian, step)
    return step, size * shrink, predicted
