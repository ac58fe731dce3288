"""From guesses to the pose of one frame: moved to the pictures, then refined by few levels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from SOPIRegistrationLib.compare import Comparison, Hypotheses, Level, Run, Step
from SOPIRegistrationLib.compare.starts import multi_start
from SOPIRegistrationLib.compare.target import Steps, TargetKind
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.distinct import distinct_poses
from SOPIRegistrationLib.refine.levels import through_levels
from SOPIRegistrationLib.tracking.placing import shifted_to_the_pictures

# How far a body may have moved across a view beyond its guess.
_REACH_MM = 40.0
# So many guesses are refined.
_STARTS = 2
# Convergence of the last level, motion of the body: a tenth of an error.
_FINE_MM = 0.03
# Costs after the first level from which a start is not worth going on with beside the best.
_WORSE = 0.1
# Poses nearer to each other than this (rad, mm) after it end in the same minimum.
_SAME_WAY = np.deg2rad(5.0), 15.0, 15.0
# From a coarse minimum the fine one is a few steps away.
_COARSE_ITERATIONS, _LAST_ITERATIONS = (8, 7), 10
# Costs that differ by less do not decide between two poses: the motion does.
_AS_GOOD = 0.02


def coarse_steps(kind: TargetKind) -> Steps:
    """Two coarse levels for the best two guesses."""
    first, last = kind.coarse[-1][0], kind.coarse[-1][-1]
    return tuple(
        replace(step, keep=_STARTS, ranking=None, level=_stepping(step.level, iterations))
        for step, iterations in zip((first, last), _COARSE_ITERATIONS, strict=True)
    )


def last_steps(kind: TargetKind) -> Steps:
    """One fine level, the middle one where there are several."""
    level = _stepping(kind.fine[len(kind.fine) // 2].level, _LAST_ITERATIONS)
    return (Step(replace(level, step_tolerance_mm=_FINE_MM)),)


def _stepping(level: Level, iterations: int) -> Level:
    return replace(level, max_iterations=min(level.max_iterations, iterations), secant=True)


def ends_at_the_finest(kind: TargetKind) -> bool:
    """Whether all fine levels would lead no further than :func:`reached` does."""
    last = last_steps(kind)[0].level
    return (last.pixels, last.window_px) == (kind.finest.pixels, kind.finest.window_px)


def reached(comparison: Comparison, guesses: Sequence[np.ndarray], run: Run) -> Hypotheses:
    """The refined pose that guesses (4, 4) T_lps_to_world, likeliest first, lead to."""
    first = coarse_steps(comparison.target.kind)[0]
    moved = [shifted_to_the_pictures(comparison, T, _REACH_MM) for T in guesses]
    T = np.array([*guesses, *moved])
    best = np.argsort(comparison.cost(first.level, T), kind="stable")[:_STARTS]
    return _refined(comparison, T[best], guesses[0], run)


def reached_from_around(
    comparison: Comparison, T_found: np.ndarray, T_expected: np.ndarray, run: Run
) -> Hypotheses:
    """The same from views all around a (4, 4) pose that may be a minimum beside the right one."""
    plan = replace(comparison.target.kind.starts[0], shift_mm=0.0)
    return _refined(comparison, multi_start(comparison.case, T_found, plan), T_expected, run)


def _refined(comparison: Comparison, T: np.ndarray, T_expected: np.ndarray, run: Run) -> Hypotheses:
    """The best end of poses (n, 4, 4).

    Where two poses fit alike, as those of a symmetric body may, the one turned less from where the motion
    leads to is taken.
    """
    kind = comparison.target.kind
    first_step, second_step = coarse_steps(kind)
    found = through_levels(Hypotheses.unscored(comparison, T), (first_step,), run)
    worth = np.flatnonzero(found.cost < found.cost.min() + _WORSE)
    centre = comparison.case.centre_lps_mm
    worth = worth[distinct_poses(found.T[worth], centre, *_SAME_WAY, len(worth))]
    found = through_levels(replace(found, T=found.T[worth], cost=found.cost[worth]), (second_step,), run)
    alike = np.flatnonzero(found.cost < found.cost.min() + _AS_GOOD)
    apart = se3.rotation_distance(
        np.repeat(T_expected[None, :3, :3], len(alike), axis=0), found.T[alike, :3, :3]
    )
    first = alike[[int(np.argmin(apart))]]
    return through_levels(replace(found, T=found.T[first], cost=found.cost[first]), last_steps(kind), run)
