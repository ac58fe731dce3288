"""Levenberg-Marquardt through levels, from coarse to fine, the worse hypotheses dropped on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from SOPIRegistrationLib.compare import Hypotheses, Step
from SOPIRegistrationLib.compare.run import Run, Stage
from SOPIRegistrationLib.geometry.distinct import SAME_MINIMUM, distinct_poses
from SOPIRegistrationLib.optimise.least_squares import levenberg_marquardt

NEIGHBOURS_STAGE = "neighbouring vertebrae"
# After the coarsest step a neighbouring vertebra is worth going on with if its cost is less than that of the
# best pose, or this much more: true ones had 0.3 less or better, wrong ones mostly 0.5 more.
_NEARLY_AS_GOOD = 0.1
# Up and down by about a vertebra: within these and what a refinement catches lie those of chest and loin.
_NEIGHBOURS_MM = (-33.0, -22.0, 22.0, 33.0)


def through_levels(
    hypotheses: Hypotheses,
    steps: Sequence[Step],
    run: Run,
    prefix: str = "",
    within: Stage | None = None,
) -> Hypotheses:
    """Hypotheses refined through the steps' levels, the best ones kept after each.

    Implausible ones are the worst whatever they look like.

    Args:
        hypotheses: where from.
        steps: levels, and how many go on.
        run: told every iteration.
        prefix: put before the levels' names.
        within: stage of which the levels are a part; each is one of its own if None.
    """
    comparison, centre = hypotheses.comparison, hypotheses.comparison.case.centre_lps_mm
    run.comparison = comparison
    for number, step in enumerate(steps):
        level = step.level
        with run.share(1 / (len(steps) - number)), run.stage(f"{prefix}{level.name}") as stage:
            solution = levenberg_marquardt(
                comparison.objective(level, hypotheses.T),
                hypotheses.T,
                centre,
                level.max_iterations,
                level.step_tolerance_mm,
                report=(within or stage).optimiser_report,
                secant=level.secant,
            )
            if step.ranking is None:
                cost = solution.equations.cost
            else:
                cost = comparison.cost(step.ranking, solution.T)
            order = np.lexsort((cost, ~comparison.case.is_plausible(solution.T)))
            kept = distinct_poses(solution.T[order], centre, *SAME_MINIMUM, step.keep)
            T, cost = solution.T[order][kept], cost[order][kept]
            hypotheses = replace(hypotheses, T=T, cost=cost)
            if within is None:
                stage.ended(T[0], float(1 - cost[0] / 2))
    return hypotheses


def with_neighbouring_vertebrae(found: Hypotheses, steps: Sequence[Step], run: Run) -> Hypotheses:
    """Hypotheses, and where the best of them leads from a vertebra further up and further down.

    A spine one vertebra off looks much like itself: such a pose is a minimum of its own, and to take it for
    the true one is the error that surgeons fear most.

    Args:
        found: hypotheses refined by ``steps``.
        steps: coarse refinement; what ranks the last one's poses decides between them.
        run: told every iteration.
    """
    comparison, centre = found.comparison, found.comparison.case.centre_lps_mm
    gain = comparison.target.kind.neighbour_gain
    if gain is None:
        return found
    superior = found.T[0, :3, :3] @ np.array([0.0, 0.0, 1.0])
    T = np.repeat(found.T[:1], len(_NEIGHBOURS_MM), axis=0)
    T[:, :3, 3] += np.outer(_NEIGHBOURS_MM, superior)

    def refined(T: np.ndarray, steps: Sequence[Step]) -> Hypotheses:
        return through_levels(Hypotheses.unscored(comparison, T), steps, run, within=stage)

    def ranked(T: np.ndarray, step: Step) -> np.ndarray:
        return comparison.cost(step.ranking or step.level, T)

    with run.stage(NEIGHBOURS_STAGE, shows_poses=False) as stage:
        first = refined(T, steps[:1])
        # Most come back home or agree with nothing: they are spared the rest of the way.
        T = np.concatenate([found.T[:1], first.T])
        cost = ranked(T, steps[0])
        elsewhere = distinct_poses(T, centre, np.deg2rad(5), 5.0, 40.0, len(T))[1:]
        worth = [k for k in elsewhere if cost[k] < cost[0] + _NEARLY_AS_GOOD]
        if not worth:
            stage.ended(found.T[0])
            return found
        beside = refined(T[worth], steps[1:])
        T = np.concatenate([found.T, beside.T])
        cost = ranked(T, steps[-1])
        if gain and cost[len(found.T) :].min() > cost[0] - gain:
            stage.ended(found.T[0])
            return found
        order = np.lexsort((cost, ~comparison.case.is_plausible(T)))
        kept = distinct_poses(T[order], centre, *SAME_MINIMUM, len(T))
        T, cost = T[order][kept], cost[order][kept]
        stage.ended(T[0], float(1 - cost[0] / 2))
        return replace(found, T=T, cost=cost)
