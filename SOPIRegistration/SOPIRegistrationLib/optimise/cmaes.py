"""CMA-ES: maximisation of a noisy or multimodal objective of a pose, without derivatives."""

from __future__ import annotations

import math
from collections.abc import Callable

import cma
import numpy as np

from SOPIRegistrationLib.optimise.pose_chart import PoseChart, PoseScale
from SOPIRegistrationLib.optimise.result import OptimisationResult
from SOPIRegistrationLib.progress import Progress, Report

# Criteria of the cma package -> reasons; any other keeps its own name.
_REASONS = {"tolx": "step", "tolfun": "gain", "tolflatfitness": "gain", "maxiter": "iterations"}
# Standard deviations of the first generation.
_SIGMA = PoseScale(rotation_rad=math.radians(5), in_plane_mm=5, depth_mm=20)
# A pose has converged whose standard deviation, in these units, or whose values' spread is below.
_STEP_TOLERANCE, _GAIN_TOLERANCE = 1e-3, 1e-6


def maximise_by_cmaes(
    objective: Callable[[np.ndarray], np.ndarray],
    T_start: np.ndarray,
    centre_mm: np.ndarray,
    *,
    bounds: PoseScale | None = None,
    population: int | None = None,
    seed: int = 0,
    max_iterations: int = 150,
    report: Report | None = None,
) -> OptimisationResult:
    """Covariance matrix adaptation evolution strategy (Hansen and Ostermeier 2001; the ``cma`` package).

    Deterministic for a seed; the global random state is neither used nor changed.

    Args:
        objective: poses (p, 4, 4) -> values (p,), finite, larger is better.
        T_start: (4, 4) start pose, object -> frame, mm.
        centre_mm: (3,) point about which the object turns, in the object's frame, mm.
        bounds: half-widths of the box of coordinates around the start; None does not bound.
        population: poses a generation; 4 + 3 ln 6 = 9 unless given.
        seed: of the random samples.
        max_iterations: at most so many generations.
        report: told the best pose and its value every generation.
    """
    chart = PoseChart(T_start, centre_mm, _SIGMA)
    random = np.random.default_rng(seed)
    options = {
        "bounds": [None, None] if bounds is None else _box(bounds.twist / _SIGMA.twist),
        "maxiter": max_iterations,
        "tolx": _STEP_TOLERANCE,
        "tolfun": _GAIN_TOLERANCE,
        "randn": lambda *shape: random.standard_normal(shape),
        "seed": np.nan,  # cma would seed numpy's global generator
        "verbose": -9,
    }
    if population is not None:
        options["popsize"] = population
    strategy = cma.CMAEvolutionStrategy(np.zeros(6), 1.0, options)

    best_x = np.zeros(6)
    best_value = float(objective(chart.T(best_x[None]))[0])
    while not strategy.stop():
        x = np.array(strategy.ask())
        values = np.asarray(objective(chart.T(x)), dtype=np.float64)
        strategy.tell(list(x), list(-values))
        winner = int(np.argmax(values))
        if values[winner] > best_value:
            best_value, best_x = float(values[winner]), x[winner]
        if report is not None:
            done = min(1.0, strategy.countiter / max_iterations)
            report(Progress("", done, chart.T(best_x), best_value))
    reason = ", ".join(dict.fromkeys(_REASONS.get(name, name) for name in strategy.stop()))
    evaluations = strategy.countevals + 1
    return OptimisationResult(chart.T(best_x), best_value, strategy.countiter, evaluations, reason)


def _box(half_widths: np.ndarray) -> list[list[float]]:
    return [list(-half_widths), list(half_widths)]
