"""The stages of a registration: hypotheses of the pose, and their refinement from coarse to fine."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.distinct import SAME_MINIMUM, distinct_poses
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.radiograph import PreparedRadiograph
from SOPIRegistrationLib.initialise.search import SearchRange, template_search
from SOPIRegistrationLib.optimise.least_squares import levenberg_marquardt
from SOPIRegistrationLib.registration.moving import MovingVolume
from SOPIRegistrationLib.registration.objective import Level, LevelObjective, at_level
from SOPIRegistrationLib.registration.result import StageRecord

SEARCH_PIXELS = 32

# How far a pose may end from where it was expected: turned by so much, its depth changed by such a factor.
# Well beyond the range that is searched; further away little of the body shows, or all of it tiny, and so
# little can look like anything.
_LARGEST_TURN = np.deg2rad(85.0)
_DEPTH_FACTORS = (0.5, 1.7)

# Called with the stage's name, its best pose and correlation; a true answer stops at once.
StageCallback = Callable[[str, np.ndarray | None, float | None], bool]


@dataclass(frozen=True)
class SearchPlan:
    """How thoroughly to search: the grid, and how many candidates are refined."""

    grid: SearchRange
    candidates: int


SEARCH = SearchPlan(SearchRange(), 64)
# For the few whose first search ends in no agreement.
THOROUGH_SEARCH = SearchPlan(
    SearchRange(60.0, 7.5, 60.0, 7.5, (0.65, 0.74, 0.84, 0.94, 1.06, 1.2, 1.36), 90.0), 160
)


@dataclass(frozen=True)
class Step:
    """A level of the refinement and who goes on from it.

    Attributes:
        level: what Levenberg-Marquardt minimises.
        keep: at most so many different poses go on.
        ranking: the level at which they are ranked; that of the refinement if None.
    """

    level: Level
    keep: int = 1
    ranking: Level | None = None


# A whole body: whole-image normalisation catches nearly every start, windows then pin the depth. But seen
# from very near or far any body is as smooth as another: a weak hold on depth, and windows rank the poses.
BODY_COARSE = (
    Step(Level(32, None, 15, 0.3, depth_prior_mm=60.0), 12, Level(32, 9)),
    Step(Level(64, None, 10, 0.1, depth_prior_mm=60.0), 3, Level(64, 15)),
)
# The same with wide windows: scatter and steep intensity curves change the image's large-scale shape, which
# then leads astray.
BODY_COARSE_IN_WINDOWS = (
    Step(Level(32, 21, 15, 0.3, depth_prior_mm=60.0), 12, Level(32, 9)),
    Step(Level(64, 21, 12, 0.1, depth_prior_mm=60.0), 3, Level(64, 15)),
)
BODY_FINE = (
    Step(Level(128, 31, 10, 0.05)),
    Step(Level(128, 13, 10, 0.02)),
    Step(Level(256, 21, 10)),
)
# A segmented bone in an X-ray of more: windows from the start, or the rest of the image would decide;
# and a weak hold on depth, or the bone's projection could grow until its outline has left the comparison.
PART_COARSE = (
    Step(Level(64, 15, 15, 0.2, depth_prior_mm=30.0), 6),
    Step(Level(128, 11, 12, 0.05, depth_prior_mm=30.0), 3),
)
# Of starts from all around only a few lead home, and at first these need not look best.
PART_COARSE_FROM_AFAR = (replace(PART_COARSE[0], keep=48), replace(PART_COARSE[1], keep=8))
PART_FINE = (Step(Level(256, 9, 15, 0.01, depth_prior_mm=30.0)),)


@dataclass(frozen=True)
class Case:
    """What is to be registered.

    Attributes:
        radiographs: prepared views of one world.
        frame: nominal view, source-object distance and rotation centre, in the first camera.
        T_start: (4, 4) T_lps_to_world about where the pose is expected; the nominal one if None.
    """

    radiographs: Sequence[PreparedRadiograph]
    frame: PoseFrame
    T_start: np.ndarray | None = None

    def __post_init__(self):
        if self.T_start is None:
            T_nominal = np.linalg.inv(self.T_world_to_camera) @ self.frame.T_nominal
            object.__setattr__(self, "T_start", T_nominal)

    def with_other_polarity(self) -> Case:
        """The case with bright and dark exchanged in the X-rays where that was only detected."""
        others = [x.other_polarity() if x.other_polarity else x for x in self.radiographs]
        return replace(self, radiographs=tuple(others))

    @property
    def centre_lps_mm(self) -> np.ndarray:
        return self.frame.centre_lps_mm

    @property
    def T_world_to_camera(self) -> np.ndarray:
        """(4, 4) extrinsics of the first camera."""
        return self.radiographs[0].camera.T_world_to_camera

    def is_plausible(self, T_lps_to_world: np.ndarray) -> np.ndarray:
        """(n,) whether poses (n, 4, 4) lie as near the start as the pose sought can be expected to."""
        T = self.T_world_to_camera @ np.concatenate([self.T_start[None], T_lps_to_world])
        angle = se3.rotation_distance(np.repeat(T[:1, :3, :3], len(T) - 1, axis=0), T[1:, :3, :3])
        depth = (T @ np.append(self.centre_lps_mm, 1.0))[:, 2]
        nearest, furthest = depth[0] * np.array(_DEPTH_FACTORS)
        return (angle < _LARGEST_TURN) & (depth[1:] > nearest) & (depth[1:] < furthest)


@dataclass(frozen=True)
class Hypotheses:
    """Poses that may be right, best first.

    Attributes:
        T: (n, 4, 4) T_lps_to_world.
        cost: (n,) 2 (1 - correlation) of the level they come from; infinite where not evaluated.
        records: stages done so far.
        stopped: whether the callback asked for the end.
    """

    T: np.ndarray
    cost: np.ndarray
    records: tuple[StageRecord, ...] = ()
    stopped: bool = False


@dataclass(frozen=True)
class FanPlan:
    """Start from a pose and poses around it.

    Attributes:
        turn_deg: how far turned.
        shift_mm: how far shifted across the first view besides; 0 for not at all.
    """

    turn_deg: float
    shift_mm: float = 0.0


def fan(case: Case, T_start: np.ndarray, plan: FanPlan) -> Hypotheses:
    """A pose and its neighbours turned about one axis or all three, 15 starts; 28 more of them shifted."""
    angle = np.deg2rad(plan.turn_deg)
    signs = np.array([s for s in itertools.product((0, -1, 1), repeat=3) if np.count_nonzero(s) != 2])
    few = signs[np.count_nonzero(signs, axis=1) < 2]
    twists = [np.hstack([angle * signs, np.zeros_like(signs)])]
    if plan.shift_mm:
        for direction in (*case.T_world_to_camera[:2, :3], *-case.T_world_to_camera[:2, :3]):
            shifts = np.repeat(plan.shift_mm * direction[None], len(few), axis=0)
            twists.append(np.hstack([angle * few, shifts]))
    twists = np.concatenate(twists)
    T = se3.move_about(np.repeat(T_start[None], len(twists), axis=0), twists, case.centre_lps_mm)
    return Hypotheses(T, np.full(len(T), np.inf))


@dataclass(frozen=True)
class SpreadPlan:
    """Start from many poses all around the one that is expected.

    Attributes:
        turn_deg: they are turned up to so far about each axis,
        shift_mm: shifted up to so far across the first view,
        depth_mm: and along its central ray.
        starts: how many.
    """

    turn_deg: float = 30.0
    shift_mm: float = 18.0
    depth_mm: float = 25.0
    starts: int = 400


def spread(case: Case, plan: SpreadPlan) -> Hypotheses:
    """Poses all around the expected one, random but always the same."""
    turn = np.deg2rad(plan.turn_deg)
    furthest = np.array([turn, turn, turn, plan.shift_mm, plan.shift_mm, plan.depth_mm])
    in_camera = furthest * np.random.default_rng(0).uniform(-1, 1, size=(plan.starts, 6))
    twists = (in_camera.reshape(-1, 2, 3) @ case.T_world_to_camera[:3, :3]).reshape(-1, 6)
    T = np.repeat(case.T_start[None], plan.starts, axis=0)
    return Hypotheses(se3.move_about(T, twists, case.centre_lps_mm), np.full(plan.starts, np.inf))


def search(
    case: Case, moving: MovingVolume, plan: SearchPlan, progress: Callable[[float], bool]
) -> Hypotheses:
    """Candidates of the template search in the first view; ``progress`` as for ``template_search``."""
    began = time.perf_counter()
    first = at_level(case.radiographs[0], SEARCH_PIXELS)
    nominal = case.frame.T_nominal
    found = template_search(
        first,
        moving.for_camera(first.camera, nominal),
        case.frame,
        plan.grid,
        unscanned=moving.unscanned,
        max_candidates=plan.candidates,
        progress=progress,
    )
    T = np.linalg.inv(case.T_world_to_camera) @ found.T_lps_to_camera
    record = StageRecord("template search", time.perf_counter() - began, float(found.scores[0]), T[0])
    return Hypotheses(T, 2 * (1 - found.scores), (record,))


@dataclass(frozen=True)
class NetworkPlan:
    """Ask the pose network.

    Attributes:
        weights: file of its weights; the installed ones if None.
        around: of a network that gives one pose only, how far around it to look as well.
        with_nominal: then look about the nominal view, too.
        keep: of a network that gives many poses, at most so many are aligned; half of them go on.
        depth_factors: each of these poses is also tried so many times as far from the source.
    """

    weights: str | Path | None = None
    around: FanPlan = FanPlan(8.0)
    with_nominal: bool = False
    keep: int = 24
    depth_factors: tuple[float, ...] = (1.0,)


NETWORK_STAGE, LEVELS_STAGE = "pose network", "levels beside"
# A bone slid along itself, too, ends in minima of its own: of a part only a level counts whose cost is so
# much less. Correlations rose by 0.33 to 0.42 to the true level of real vertebrae, by up to 0.21 to wrong
# places of a real radius.
_CLEARLY_LESS = 0.5
# After the coarsest step a level is worth going on with if its cost is less than that of the best pose, or
# this much more: true ones had 0.3 less or better, wrong ones mostly 0.5 more.
_NEARLY_AS_GOOD = 0.1
# Up and down by about a vertebra: within these and what a refinement catches lie those of chest and loin.
_LEVELS_MM = (-33.0, -22.0, 22.0, 33.0)
# What brings a network's poses onto the X-ray, and the share of them that then goes on. Whole images lead
# home from further away, windows despite scatter, collimation and steep curves.
_NETWORK_ALIGNMENT = (
    (Level(32, None, 5, 0.5, depth_prior_mm=60.0), 2 / 3),
    (Level(32, 15, 10, 0.5, depth_prior_mm=60.0), 1 / 2),
)
_PART_ALIGNMENT = ((Level(32, 15, 10, 0.5, depth_prior_mm=30.0), 1 / 2),)
# How they are ranked before and after.
_NETWORK_RANKING = Level(32, 9)


def ask_network(
    case: Case, body: MovingVolume, bone: MovingVolume, plan: NetworkPlan, callback: StageCallback
) -> Hypotheses:
    """Poses from a pose network in the first view, aligned with the X-ray on its coarsest level.

    Tilts are hard to tell in one look. Of a network that mends the poses of many views, those are aligned of
    which it is sure and in which the images agree; of one that gives a single pose, it and its neighbours.

    Args:
        case: what is registered.
        body: the CT.
        bone: its bones.
        plan: what network, and how many poses.
        callback: told every iteration; a true answer stops at once.

    Raises:
        InputError: no weights, or unusable ones.
        ModuleNotFoundError: no torch.
    """
    began = time.perf_counter()
    found = first_look(case, body, bone, plan.weights)
    T = np.linalg.inv(case.T_world_to_camera) @ found.T_lps_to_camera
    hypotheses = Hypotheses(T, np.full(len(T), np.inf), (), bool(callback(NETWORK_STAGE, None, None)))
    if not hypotheses.stopped:
        if len(T) > 1:
            T = _promising(case, body, T, plan)
            hypotheses = Hypotheses(T, np.full(len(T), np.inf))
        else:
            hypotheses = around(hypotheses, case, plan.around, plan.with_nominal)
        moving, levels = (bone, _PART_ALIGNMENT) if bone.is_part else (body, _NETWORK_ALIGNMENT)
        alignment = [Step(level, round(share * plan.keep), _NETWORK_RANKING) for level, share in levels]
        hypotheses = refine(
            case, moving, hypotheses, alignment, lambda _, *state: callback(NETWORK_STAGE, *state)
        )
    record = StageRecord(NETWORK_STAGE, time.perf_counter() - began, None, hypotheses.T[0])
    return replace(hypotheses, records=(record,))


def first_look(case: Case, body: MovingVolume, bone: MovingVolume, weights: str | Path | None):
    """What a network makes of the first view (``initialise.network.NetworkPoses``).

    Args:
        case: what is registered.
        body: the CT.
        bone: its bones.
        weights: file of the network's weights; the installed ones if None.

    Raises:
        InputError: no weights, or unusable ones.
        ModuleNotFoundError: no torch.
    """
    # Torch is not needed by any other stage, and is slow to import.
    from SOPIRegistrationLib.initialise.network import load_network, network_poses, pixels_of

    network = load_network(weights)
    radiograph = case.radiographs[0]
    camera = radiograph.camera
    scale = pixels_of(network) / max(camera.shape)
    coarse = camera.resampled(round(camera.width * scale), round(camera.height * scale))
    volumes = [moving.for_camera(coarse, case.frame.T_nominal) for moving in (body, bone)]
    return network_poses(network, radiograph, *volumes, case.frame)


def _promising(case: Case, body: MovingVolume, T: np.ndarray, plan: NetworkPlan) -> np.ndarray:
    """Of poses (n, 4, 4), the most certain first, the best by their place and by how the images agree."""
    places = np.tile(np.arange(len(T)), len(plan.depth_factors))
    source = np.linalg.inv(case.T_world_to_camera)[:3, 3]
    along = T[:, :3, :3] @ case.centre_lps_mm + T[:, :3, 3] - source
    moved = [T.copy() for _ in plan.depth_factors]
    for poses, factor in zip(moved, plan.depth_factors, strict=True):
        poses[:, :3, 3] += (factor - 1) * along
    T = np.concatenate(moved)
    objective = LevelObjective(case.radiographs, body, _NETWORK_RANKING, T, case.centre_lps_mm)
    agreement = np.argsort(np.argsort(objective(T, np.arange(len(T))).cost, kind="stable"))
    order = np.lexsort((agreement / len(moved) + places, ~case.is_plausible(T)))
    return T[order[: plan.keep]]


def around(hypotheses: Hypotheses, case: Case, plan: FanPlan, with_nominal: bool = False) -> Hypotheses:
    """The hypotheses with views around the first of them, and around the nominal one if so wished."""
    centres = [hypotheses.T[0], *([case.T_start] if with_nominal else [])]
    fans = [fan(case, T, plan).T for T in centres]
    T = np.concatenate([*fans, hypotheses.T[1:]])
    T = T[distinct_poses(T, case.centre_lps_mm, np.deg2rad(4), 4.0, 25.0, len(T))]
    return replace(hypotheses, T=T, cost=np.full(len(T), np.inf))


def with_neighbouring_levels(
    case: Case, moving: MovingVolume, found: Hypotheses, steps: Sequence[Step], callback: StageCallback
) -> Hypotheses:
    """Hypotheses, and where the best of them leads from a vertebra further up and further down.

    A spine one level off looks much like itself: such a pose is a minimum of its own, and to take it for the
    true one is the error that surgeons fear most.

    Args:
        case: what is registered.
        moving: of what volume.
        found: hypotheses refined by ``steps``.
        steps: coarse refinement; what ranks the last one's poses decides between them.
        callback: told every iteration; a true answer stops at once.
    """
    began = time.perf_counter()
    superior = found.T[0, :3, :3] @ np.array([0.0, 0.0, 1.0])
    T = np.repeat(found.T[:1], len(_LEVELS_MM), axis=0)
    T[:, :3, 3] += np.outer(_LEVELS_MM, superior)
    centre = case.centre_lps_mm

    def refined(T: np.ndarray, steps: Sequence[Step]) -> Hypotheses:
        start = Hypotheses(T, np.full(len(T), np.inf))
        return refine(case, moving, start, steps, lambda _, *state: callback(LEVELS_STAGE, None, None))

    first = refined(T, steps[:1])
    # Most come back home or agree with nothing: they are spared the rest of the way.
    T = np.concatenate([found.T[:1], first.T])
    cost = _cost(case, moving, steps[0], T)
    elsewhere = distinct_poses(T, centre, np.deg2rad(5), 5.0, 40.0, len(T))[1:]
    worth = [k for k in elsewhere if cost[k] < cost[0] + _NEARLY_AS_GOOD]
    if first.stopped or not worth:
        record = StageRecord(LEVELS_STAGE, time.perf_counter() - began, None, found.T[0])
        return replace(found, records=(*found.records, record), stopped=first.stopped)
    beside = refined(T[worth], steps[1:])
    T = np.concatenate([found.T, beside.T])
    cost = _cost(case, moving, steps[-1], T)
    if moving.is_part and cost[len(found.T) :].min() > cost[0] - _CLEARLY_LESS:
        return replace(found, stopped=beside.stopped)
    order = np.lexsort((cost, ~case.is_plausible(T)))
    kept = distinct_poses(T[order], centre, *SAME_MINIMUM, len(T))
    T, cost = T[order][kept], cost[order][kept]
    record = StageRecord(LEVELS_STAGE, time.perf_counter() - began, float(1 - cost[0] / 2), T[0])
    return Hypotheses(T, cost, (*found.records, record), beside.stopped)


def _cost(case: Case, moving: MovingVolume, step: Step, T: np.ndarray) -> np.ndarray:
    """(n,) what ranks poses (n, 4, 4) of a step."""
    objective = LevelObjective(case.radiographs, moving, step.ranking or step.level, T, case.centre_lps_mm)
    return objective(T, np.arange(len(T))).cost


def merged(a: Hypotheses, b: Hypotheses) -> Hypotheses:
    """The better half of each of two sets of hypotheses, best first."""
    T = np.concatenate([a.T[: len(a.T) // 2], b.T[: len(b.T) // 2]])
    cost = np.concatenate([a.cost[: len(a.T) // 2], b.cost[: len(b.T) // 2]])
    order = np.argsort(cost, kind="stable")
    return Hypotheses(T[order], cost[order], (*a.records, *b.records))


def refine(
    case: Case, moving: MovingVolume, start: Hypotheses, steps: Sequence[Step], callback: StageCallback
) -> Hypotheses:
    """Levenberg-Marquardt through the steps' levels, the worse hypotheses dropped on the way.

    Implausible ones are the worst whatever they look like.
    """
    centre = case.centre_lps_mm
    result = start
    for step in steps:
        began = time.perf_counter()
        level = step.level
        objective = LevelObjective(case.radiographs, moving, level, result.T, centre)
        solution = levenberg_marquardt(
            objective,
            result.T,
            centre,
            level.max_iterations,
            level.step_tolerance_mm,
            callback=lambda report, name=level.name: callback(name, report.T, 1 + report.value / 2),
        )
        cost = solution.equations.cost if step.ranking is None else _cost(case, moving, step, solution.T)
        order = np.lexsort((cost, ~case.is_plausible(solution.T)))
        kept = distinct_poses(solution.T[order], centre, *SAME_MINIMUM, step.keep)
        T, cost = solution.T[order][kept], cost[order][kept]
        record = StageRecord(level.name, time.perf_counter() - began, float(1 - cost[0] / 2), T[0])
        result = Hypotheses(T, cost, (*result.records, record), solution.stopped)
        if solution.stopped:
            break
    return result
