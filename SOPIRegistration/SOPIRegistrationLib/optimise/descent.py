"""Gradient-based maximisation of a differentiable objective of a pose."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.optimise.pose_chart import PoseChart, PoseScale
from SOPIRegistrationLib.optimise.result import OptimisationResult
from SOPIRegistrationLib.progress import Progress, Report

# First step length (Adam: a bound on it; SGD: per unit of slope), in units of the scale.
_LEARNING_RATES = {"adam": 0.5, "sgd": 2.0, "lbfgs": 1.0}
_DEFAULT_SCALE = PoseScale()


def maximise_by_gradient(
    objective: Callable[[torch.Tensor], torch.Tensor],
    T_start: np.ndarray,
    centre_mm: np.ndarray,
    *,
    method: str = "adam",
    scale: PoseScale = _DEFAULT_SCALE,
    learning_rate: float | None = None,
    max_iterations: int = 200,
    step_tolerance: float = 5e-3,
    gain_tolerance: float = 1e-6,
    patience: int = 5,
    report: Report | None = None,
) -> OptimisationResult:
    """Follow the objective's gradient uphill from a start pose.

    After ``patience`` iterations without gain Adam and SGD go back to the best pose with half the step, and
    end when the step is below its tolerance; L-BFGS, whose line search finds its own step, ends there.

    Args:
        objective: pose (4, 4) float64 on the CPU -> scalar, larger is better; differentiable by autograd.
        T_start: (4, 4) start pose, object -> frame, mm.
        centre_mm: (3,) point about which the object turns, in the object's frame, mm.
        method: "adam" (Kingma and Ba 2015; insensitive to the objective's scale), "sgd" with momentum 0.9
            (the fine registration of the SOPI paper) or "lbfgs" (strong Wolfe line search, for smooth
            objectives).
        scale: one unit of each coordinate.
        learning_rate: first step length, units; Adam 0.5, SGD 2 per unit of slope, L-BFGS 1 unless given.
        max_iterations: at most so many.
        step_tolerance: step, in units, below which the pose has converged.
        gain_tolerance: least gain of an iteration that counts as one.
        patience: iterations without gain until the step is halved.
        report: told the best pose and its value every iteration.

    Raises:
        InputError: the method is unknown.
    """
    if method not in _LEARNING_RATES:
        choices = ", ".join(_LEARNING_RATES)
        raise InputError(f"unknown gradient method '{method}': use one of {choices}")
    chart = PoseChart(T_start, centre_mm, scale)
    climb = _Climb(lambda x: objective(chart.T(x)), method, learning_rate or _LEARNING_RATES[method])
    iteration, stale, reason = 0, 0, ""
    while not reason and iteration < max_iterations:
        iteration += 1
        before = climb.best_value
        climb.step()
        if not math.isfinite(climb.value):
            reason = "objective not finite"
            break
        if report is not None:
            report(Progress("", iteration / max_iterations, chart.T(climb.best_x), climb.best_value))
        stale = 0 if climb.best_value > before + gain_tolerance else stale + 1
        if stale >= patience:
            stale, reason = 0, climb.halved(step_tolerance)
    T = chart.T(climb.best_x)
    return OptimisationResult(T, climb.best_value, iteration, climb.evaluations, reason or "iterations")


class _Climb:
    """An optimiser of torch on its way, and the best that it has seen.

    Args:
        objective: coordinates (6,) -> scalar.
        method: as of :func:`maximise_by_gradient`.
        rate: first step length.
    """

    def __init__(self, objective: Callable[[torch.Tensor], torch.Tensor], method: str, rate: float):
        self._objective, self._method, self._rate = objective, method, rate
        self._x = torch.zeros(6, dtype=torch.float64, requires_grad=True)
        self._optimiser = _optimiser(method, self._x, rate)
        self.best_value, self.best_x = -math.inf, np.zeros(6)
        self.evaluations, self.value = 0, math.nan

    def step(self) -> None:
        """One step, which may ask for the objective more than once."""
        self._optimiser.step(self._loss)

    def halved(self, tolerance: float) -> str:
        """Go back to the best with half the step, or say why there is no more to gain."""
        if self._method == "lbfgs":
            return "gain"
        self._rate /= 2
        if self._rate < tolerance:
            return "step"
        with torch.no_grad():
            self._x.copy_(torch.from_numpy(self.best_x))
        self._optimiser = _optimiser(self._method, self._x, self._rate)
        return ""

    def _loss(self) -> torch.Tensor:
        self._optimiser.zero_grad()
        negative = -self._objective(self._x)
        negative.backward()
        self.value = -negative.item()
        self.evaluations += 1
        if self.value > self.best_value:
            self.best_value, self.best_x = self.value, self._x.detach().numpy().copy()
        return negative


def _optimiser(method: str, x: torch.Tensor, rate: float) -> torch.optim.Optimizer:
    if method == "adam":
        return torch.optim.Adam([x], lr=rate)
    if method == "sgd":
        return torch.optim.SGD([x], lr=rate, momentum=0.9)
    # One line search a step; by default max_eval would allow it a single evaluation.
    return torch.optim.LBFGS([x], lr=rate, max_iter=1, max_eval=25, line_search_fn="strong_wolfe")
