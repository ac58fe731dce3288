"""Levenberg-Marquardt through levels, from coarse to fine, the worse hypotheses dropped on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from SOPIRegistrationLib.compare import Comparison, Hypotheses, Level, Step
from SOPIRegistrationLib.compare.run import Run, Stage
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.distinct import SAME_MINIMUM, distinct_poses
from SOPIRegistrationLib.geometry.principal_axes import principal_axes
from SOPIRegistrationLib.optimise.least_squares import levenberg_marquardt
from SOPIRegistrationLib.refine.alternatives import mirror_poses

NEIGHBOURS_STAGE, LOOK_ALIKES_STAGE = "neighbouring vertebrae", "turned about the long axis"
MIRROR_STAGE = "mirror poses"
# Turns into millimetres, and how far a valley is followed at most.
_RADIUS_MM, _FURTHEST_MM = 30.0, 60.0
# After the coarsest step a neighbouring vertebra is worth going on with if its cost is less than that of the
# best pose, or this much more: true ones had 0.3 less or better, wrong ones mostly 0.5 more.
_NEARLY_AS_GOOD = 0.1
# By judgement: a mirror pose is taken for the better one from this gain in cost on.
_CLEARLY_BETTER = 0.06
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


def with_look_alikes(found: Hypotheses, step: Step, run: Run) -> Hypotheses:
    """Hypotheses, and where starts lead that are turned about, and slid along, the best one's long axis.

    A long bone that is turned about itself looks much like itself, and coarse images hardly tell which is
    right: what goes on from here is decided at fine ones.

    Args:
        found: hypotheses refined coarsely.
        step: the last coarse one; what ranks its poses decides who goes on.
        run: told every iteration.
    """
    comparison, plan = found.comparison, found.comparison.target.kind.look_alikes
    if plan is None:
        return found
    centre = comparison.case.centre_lps_mm
    axis = found.T[0, :3, :3] @ principal_axes(comparison.target.outline_lps_mm).long
    turns = [np.deg2rad(sign * turn) for turn in plan.turn_deg for sign in (-1, 1)]
    slides = [sign * slide for slide in plan.slide_mm for sign in (-1, 1)]
    twists = [np.concatenate([turn * axis, np.zeros(3)]) for turn in turns]
    twists += [np.concatenate([np.zeros(3), slide * axis]) for slide in slides]
    starts = se3.move_about(np.repeat(found.T[:1], len(twists), axis=0), np.array(twists), centre)
    with run.stage(LOOK_ALIKES_STAGE, shows_poses=False) as stage:
        ended = through_levels(
            Hypotheses.unscored(comparison, starts), (replace(step, keep=plan.keep),), run, within=stage
        )
        T = np.concatenate([found.T, ended.T])
        cost = comparison.cost(step.ranking or step.level, T)
        order = np.lexsort((cost, ~comparison.case.is_plausible(T)))
        kept = order[distinct_poses(T[order], centre, *SAME_MINIMUM, plan.keep)]
        T, cost = T[kept], cost[kept]
        stage.ended(T[0], float(1 - cost[0] / 2))
    beside = _along_the_valley(comparison, step.level, T[0], plan.valley_costs)
    T, cost = np.concatenate([T, beside]), np.concatenate([cost, np.full(len(beside), np.inf)])
    return replace(found, T=T, cost=cost)


def with_mirror_poses(found: Hypotheses, run: Run) -> Hypotheses:
    """Hypotheses, and where the mirror poses of the best one lead: whatever is symmetric looks alike in them.

    Args:
        found: hypotheses refined to the end.
        run: told every iteration.
    """
    comparison, kind = found.comparison, found.comparison.target.kind
    # A part of a CT starts from where the whole stands: its neighbours do not let it turn that far.
    if kind.look_alikes is None or comparison.case.subject.ct.is_excess:
        return found
    axes = principal_axes(comparison.target.outline_lps_mm)
    sources = [one.camera.source_world_mm for one in comparison.radiographs]
    # No bone is quite symmetric: the way from its mirror pose to where it leads is long.
    step = kind.coarse[-1][-1]
    longer = replace(step.level, max_iterations=2 * step.level.max_iterations)
    steps = (replace(step, level=longer, keep=kind.look_alikes.mirrored), *kind.fine)
    with run.stage(MIRROR_STAGE, shows_poses=False) as stage:
        starts = Hypotheses.unscored(comparison, mirror_poses(axes, found.T[0], sources))
        T = np.concatenate([found.T, through_levels(starts, steps, run, within=stage).T])
        cost = comparison.cost(kind.fine[-1].level, T)
        # A mirror pose takes the place of the pose found only where fine structure is clear about it.
        handicap = _CLEARLY_BETTER * (np.arange(len(T)) >= len(found.T))
        order = np.lexsort((cost + handicap, ~comparison.case.is_plausible(T)))
        kept = order[distinct_poses(T[order], comparison.case.centre_lps_mm, *SAME_MINIMUM, len(T))]
        T, cost = T[kept], cost[kept]
        stage.ended(T[0], float(1 - cost[0] / 2))
    return replace(found, T=T, cost=cost)


def _along_the_valley(
    comparison: Comparison, level: Level, T_lps_to_world: np.ndarray, costs: Sequence[float]
) -> np.ndarray:
    """(2 n, 4, 4) poses to either side of one (4, 4), where the model of a level's cost rises least: by so
    much each."""
    T = T_lps_to_world[None]
    hessian = comparison.objective(replace(level, depth_prior_mm=None), T)(T, np.zeros(1, dtype=int)).hessian[
        0
    ]
    scale = np.repeat([1 / _RADIUS_MM, 1.0], 3)
    steepness, directions = np.linalg.eigh(scale[:, None] * hessian * scale)
    lengths = np.sqrt(np.array(costs) / max(steepness[0], 1e-12))
    lengths = np.minimum(lengths, _FURTHEST_MM * np.sqrt(np.array(costs) / max(costs)))
    twists = np.outer(np.concatenate([lengths, -lengths]), scale * directions[:, 0])
    return se3.move_about(np.repeat(T, len(twists), axis=0), twists, comparison.case.centre_lps_mm)
