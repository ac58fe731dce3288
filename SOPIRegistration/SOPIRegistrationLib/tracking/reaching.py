"""From guesses to the pose of one frame: moved to the pictures, then refined by few levels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from SOPIRegistrationLib.compare import Comparison, Hypotheses, Run, Step
from SOPIRegistrationLib.compare.target import Steps, TargetKind
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.refine.levels import through_levels
from SOPIRegistrationLib.tracking.placing import shifted_to_the_pictures

# How far a body may have moved across a view beyond its guess.
_REACH_MM = 40.0
# So many guesses are refined.
_STARTS = 2
# From a coarse minimum the fine one is a few steps away.
_LAST_ITERATIONS = 6
# Costs that differ by less do not decide between two poses: the motion does.
_AS_GOOD = 0.02


def coarse_steps(kind: TargetKind) -> Steps:
    """Two coarse levels for the best two guesses."""
    first, last = kind.coarse[-1][0], kind.coarse[-1][-1]
    return replace(first, keep=_STARTS), replace(last, keep=_STARTS, ranking=None)


def last_steps(kind: TargetKind) -> Steps:
    """One fine level, the middle one where there are several."""
    level = kind.fine[len(kind.fine) // 2].level
    return (Step(replace(level, max_iterations=min(level.max_iterations, _LAST_ITERATIONS))),)


def reached(comparison: Comparison, guesses: Sequence[np.ndarray], run: Run) -> Hypotheses:
    """The pose that guesses lead to, refined by three levels.

    Where two poses fit alike, as those of a symmetric body may, the one nearer to the first guess is taken.

    Args:
        comparison: the body and the frame's X-rays.
        guesses: (4, 4) T_lps_to_world, the likeliest first.
        run: told every iteration.
    """
    kind = comparison.target.kind
    steps = coarse_steps(kind)
    moved = [shifted_to_the_pictures(comparison, T, _REACH_MM) for T in guesses]
    T = np.array([*guesses, *moved])
    best = np.argsort(comparison.cost(steps[0].level, T), kind="stable")[:_STARTS]
    found = through_levels(Hypotheses.unscored(comparison, T[best]), steps, run)
    alike = np.flatnonzero(found.cost < found.cost.min() + _AS_GOOD)
    if len(alike) > 1:
        apart = se3.rotation_distance(
            np.repeat(guesses[0][None, :3, :3], len(alike), axis=0), found.T[alike, :3, :3]
        )
        alike = alike[np.argsort(apart, kind="stable")]
    first = replace(found, T=found.T[alike[:1]], cost=found.cost[alike[:1]])
    return through_levels(first, last_steps(kind), run)
