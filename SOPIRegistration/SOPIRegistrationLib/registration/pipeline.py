"""From prepared inputs to a verified pose."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np

from SOPIRegistrationLib import methods
from SOPIRegistrationLib.errors import Cancelled, InputError
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.ct_preparation import bone_only
from SOPIRegistrationLib.images.prepared_ct import PreparedCT
from SOPIRegistrationLib.images.radiograph import PreparedRadiograph
from SOPIRegistrationLib.installed import IFR, PATIENT, RTPI, has_weights
from SOPIRegistrationLib.methods import LEARNED_REFINEMENT
from SOPIRegistrationLib.projector import project_with_jacobian
from SOPIRegistrationLib.registration import stages
from SOPIRegistrationLib.registration.learned import LearnedPlan, refine_learned
from SOPIRegistrationLib.registration.moving import MovingVolume
from SOPIRegistrationLib.registration.physics_refinement import refine_with_physics
from SOPIRegistrationLib.registration.result import Progress, RegistrationResult, StageRecord, Verdict
from SOPIRegistrationLib.registration.stages import (
    Case,
    FanPlan,
    Hypotheses,
    NetworkPlan,
    SearchPlan,
    SpreadPlan,
)
from SOPIRegistrationLib.registration.verdict import (
    image_similarity,
    judge,
    structural_correlation,
    thresholds_of,
)

# Share of the attenuation that lies in bone from which a CT is a segmented bone, not a body.
_SEGMENTED = 0.85
_FAN, _WIDE_FAN = FanPlan(8.0), FanPlan(16.0)
# A long bone may also have slid along itself.
_PART_FAN, _WIDE_PART_FAN = FanPlan(5.0), FanPlan(8.0, 6.0)
# Coarse refinements, the next one tried where the one before ends in no agreement.
_BODY_WAYS = (stages.BODY_COARSE, stages.BODY_COARSE_IN_WINDOWS)
_ORDER = {"accept": 0, "review": 1, "reject": 2}
_LEARNED = (LEARNED_REFINEMENT, "sopi+opt")
_PHYSICS = ("physics", "physics+opt")


@dataclass(frozen=True)
class RegistrationSettings:
    """How to register.

    Attributes:
        init: "nominal" (start at the nominal view), "rtpi" (pose network), "patient" (pose network trained on
            this CT), "search" (template search over the ``wide`` range), "auto" (pose network, the patient's
            own if its weights are given, and nominal view first, search if the verdict is not accept; without
            torch or weights no network) or a (4, 4) T_lps_to_world.
        refine: "opt" (coarse-to-fine Levenberg-Marquardt), "physics" (the same, its fine levels with DRRs of
            an X-ray beam), "physics+opt" (then the fine levels of "opt"), "sopi" (learned similarity),
            "sopi+opt" (learned similarity, then "opt") or "none".
        content: what DRRs are made of: "body", "bone", or "auto", whichever agrees better with the X-ray.
        seed: of anything random; the present stages have none.
        weights: files of weights by network (names in ``installed``), over the installed ones.
    """

    init: str | np.ndarray = "auto"
    refine: str = "opt"
    content: str = "auto"
    seed: int = 0
    weights: Mapping[str, str | Path] = field(default_factory=dict)

    def __post_init__(self):
        known = methods.names(methods.INITIALISERS)
        if isinstance(self.init, str) and self.init not in known:
            raise InputError(f"unknown initialiser '{self.init}': use {', '.join(known)} or a start pose")
        known = methods.names(methods.REFINEMENTS)
        if self.refine not in known:
            raise InputError(f"unknown refinement '{self.refine}': use {', '.join(known)}")
        if isinstance(self.init, str) and self.init == PATIENT and PATIENT not in self.weights:
            raise InputError(
                "a patient's network has no weights: give the file that sopi train patient made for this "
                f"CT with --weights {PATIENT}=FILE"
            )
        if self.content not in ("auto", "body", "bone"):
            raise InputError(f"unknown content '{self.content}': use auto, body or bone")


# How a try starts: about the start pose by so many degrees, from all around it, from the network, or from a
# search.
Plan = FanPlan | SpreadPlan | NetworkPlan | SearchPlan


def network_is_available(weights: str = RTPI) -> bool:
    """Whether torch and a network's weights are installed; those of the pose network unless named."""
    return all(find_spec(name) for name in ("torch", "safetensors")) and has_weights(weights)


_MOVING_VOLUMES: WeakKeyDictionary[PreparedCT, dict[str, MovingVolume]] = WeakKeyDictionary()


def moving_volumes(ct: PreparedCT) -> dict[str, MovingVolume]:
    """What of the CT can be projected and compared; made once per CT and kept as long as it.

    "body": all of it, with the whole X-ray. "bone": its bones, with the whole X-ray. A CT that is a segmented
    bone already has no body besides: there "bone" is compared with its surroundings only, in an X-ray that
    shows more.
    """
    if ct in _MOVING_VOLUMES:
        return _MOVING_VOLUMES[ct]
    bone = bone_only(ct)
    share = float(bone.array.sum(dtype=np.float64) / max(ct.attenuation.array.sum(dtype=np.float64), 1e-12))
    body = MovingVolume(ct.attenuation, ct.truncated)
    if share > _SEGMENTED:
        bones = MovingVolume(ct.attenuation, ct.truncated, ct.surface_points_lps_mm)
    else:
        cut = ct.truncated.same_grid(ct.truncated.array * ct.bone.array)
        bones = MovingVolume(bone, cut)
    _MOVING_VOLUMES[ct] = {"body": body, "bone": bones}
    return _MOVING_VOLUMES[ct]


def lay_out(ct: PreparedCT, weights: Mapping[str, str | Path] | None = None) -> None:
    """Prepare a CT's projection, compile what projects it and load the networks, ahead of registering.

    Args:
        ct: the CT.
        weights: files of weights by network, over the installed ones.

    Raises:
        InputError: weights of a patient's network that cannot be used, or not for this CT.
    """
    camera = Camera.from_c_arm(1000.0, (50.0, 50.0), 8, 8)
    T = PoseFrame(ct.rotation_centre_lps_mm, 700.0).T_nominal
    for moving in moving_volumes(ct).values():
        for halvings in range(3):
            project_with_jacobian(moving.level(halvings), camera, T)
    if weights and PATIENT in weights:
        _require_own_network(ct, weights[PATIENT])
    if network_is_available():
        # Importing torch takes a second or two.
        from SOPIRegistrationLib.initialise.network import load_network

        load_network()
    if network_is_available(IFR):
        from SOPIRegistrationLib.refine.network import load_network

        load_network()


def _require_own_network(ct: PreparedCT, weights: str | Path | None) -> None:
    """Whether weights may be asked about a CT: a patient's network knows only its own."""
    from SOPIRegistrationLib.initialise.network import load_network, require_same_ct

    require_same_ct(load_network(weights), ct.identity)


def register(
    ct: PreparedCT,
    radiographs: Sequence[PreparedRadiograph],
    frame: PoseFrame,
    settings: RegistrationSettings | None = None,
    callback: Callable[[Progress], bool | None] | None = None,
) -> RegistrationResult:
    """Find the pose of a CT in one X-ray, or jointly in several calibrated ones.

    Args:
        ct: prepared CT.
        radiographs: prepared X-rays; several share one world (``Camera.T_world_to_camera``).
        frame: nominal view, source-object distance and rotation centre, in the first camera.
        settings: how to register.
        callback: called several times a second; a true answer stops at once, and the result holds the best
            pose reached so far.

    Raises:
        InputError: the object lies outside the X-ray at the given start pose.
    """
    settings = settings or RegistrationSettings()
    return _Registration(ct, Case(tuple(radiographs), frame), settings, callback).run()


@dataclass(frozen=True)
class _Outcome:
    """Where one try ended; no verdict where it was not refined."""

    case: Case
    initial_T: np.ndarray
    content: str
    moving: MovingVolume
    T: np.ndarray
    verdict: Verdict | None = None
    margin: float = 0.0
    label: str = ""


class _Registration:
    """One run of :func:`register`: the order of the stages."""

    def __init__(self, ct: PreparedCT, case: Case, settings: RegistrationSettings, callback):
        self._ct = ct
        self._case = case
        self._settings = settings
        self._callback = callback
        volumes = moving_volumes(ct)
        if settings.content in volumes:
            volumes = {settings.content: volumes[settings.content]}
        self._volumes = volumes
        self._body, self._bone = moving_volumes(ct).values()
        self._records: list[StageRecord] = []
        self._done = 0.0
        self._best: np.ndarray | None = None
        self._stopped = False

    def run(self) -> RegistrationResult:
        began = time.perf_counter()
        init = self._settings.init
        T_world_to_camera = self._case.T_world_to_camera
        given = not isinstance(init, str)
        start = np.asarray(init, dtype=np.float64) if given else self._expected()
        self._best = start
        self._case = replace(self._case, T_start=start)
        if given or init == "nominal":
            self._check_in_view(start)

        if self._settings.refine == "none":
            outcome = self._initialised(start, given)
        else:
            outcome = self._registered(start, given)
        case, moving, best = outcome.case, outcome.moving, outcome.T
        if self._stopped:
            # Whoever stops wants to go on at once: nothing is computed any more but what the images say.
            verdict = Verdict("review", ["stopped early: not verified"], None, None)
        elif outcome.verdict is None:
            verdict = judge(case, moving, self._finest(moving), best, np.empty((0, 4, 4)))
        else:
            verdict = outcome.verdict
        return RegistrationResult(
            T_lps_to_world=best,
            initial_T=outcome.initial_T,
            frame=case.frame,
            T_world_to_camera=T_world_to_camera,
            radiographs=tuple(case.radiographs),
            method=f"{outcome.label} + {self._settings.refine}",
            content=outcome.content,
            stages=self._records,
            similarity=image_similarity(case, moving, best),
            initial_similarity=None if self._stopped else image_similarity(case, moving, outcome.initial_T),
            verdict=verdict,
            seconds=time.perf_counter() - began,
            stopped=self._stopped,
        )

    def _expected(self) -> np.ndarray:
        """(4, 4) T_lps_to_world about where the pose lies: as a patient's network learned it, or nominal."""
        T_lps_to_camera = self._case.frame.T_expected(self._case.radiographs[0].camera)
        name, weights = self._pose_network() or (None, None)
        if name == PATIENT and self._settings.init in ("auto", PATIENT):
            from SOPIRegistrationLib.initialise.network import load_network

            _require_own_network(self._ct, weights)
            T_lps_to_camera = np.reshape(load_network(weights).config.T_reference, (4, 4))
        return np.linalg.inv(self._case.T_world_to_camera) @ T_lps_to_camera

    def _registered(self, start: np.ndarray, given: bool) -> _Outcome:
        """The best of the tries that were needed."""
        init = "given pose" if given else self._settings.init
        if init == "search":
            plans = [("search", stages.SEARCH), ("search", stages.THOROUGH_SEARCH)]
        elif init == "auto":
            plans = [
                self._first_of_auto(),
                ("search", stages.SEARCH),
                ("search", stages.THOROUGH_SEARCH),
            ]
        elif init in (RTPI, PATIENT):
            weights = self._settings.weights.get(init)
            thorough = NetworkPlan(weights, _WIDE_FAN, keep=72, depth_factors=(0.87, 1.0, 1.15))
            plans = [(init, NetworkPlan(weights)), (init, thorough)]
        else:
            plans = [(init, _FAN), (init, _WIDE_FAN)]
        if self._looks_around:
            if plans[0][0] == PATIENT:
                # Views all around go further than its other fallbacks do.
                plans = plans[:1]
            plans.append((plans[0][0], SpreadPlan()))
        cases = [self._case]
        if any(radiograph.other_polarity for radiograph in self._case.radiographs):
            cases.append(self._case.with_other_polarity())

        tries = [(index, case) for index in range(len(plans)) for case in cases]
        outcomes = []
        for number, (index, case) in enumerate(tries):
            label, plan = plans[index]
            # Many starts take ten times as long; and the learned similarity has a wide basin: the same start
            # tried again from further around hardly betters what it found. Where that is wrong, it may.
            again = label in [earlier for earlier, _ in plans[:index]]
            last_resort = isinstance(plan, SpreadPlan) or (
                again and self._settings.refine == LEARNED_REFINEMENT
            )
            if last_resort and any(o.verdict.status != "reject" for o in outcomes):
                break
            self._case = case
            self._done = number / len(tries)
            outcome = self._attempt(start, plan, 1 / len(tries))
            if outcome is not None:
                outcomes.append(replace(outcome, label=label))
            if self._stopped or (outcome is not None and outcome.verdict.status == "accept"):
                break
        if self._stopped or not outcomes:
            content, moving = next(iter(self._volumes.items()))
            return _Outcome(self._case, start, content, moving, self._best, label=init)
        return min(outcomes, key=lambda o: (_ORDER[o.verdict.status], -o.margin))

    def _pose_network(self) -> tuple[str, str | Path | None] | None:
        """Name and weights of the network to ask: the one chosen, else the patient's own before the other."""
        init, weights = self._settings.init, self._settings.weights
        chosen = [init] if isinstance(init, str) and init in (RTPI, PATIENT) else [PATIENT, RTPI]
        for name in chosen:
            if name in weights:
                return name, weights[name]
        return (RTPI, None) if network_is_available() or init == RTPI else None

    @property
    def _looks_around(self) -> bool:
        """Whether what was not found is sought all around where it is expected: a segmented bone is.

        The search, which compares whole images, does not find one bone among others.
        """
        expected = not isinstance(self._settings.init, str) or self._settings.init not in (RTPI, "search")
        return expected and self._bone.is_part and self._settings.refine not in _LEARNED

    def _first_of_auto(self) -> tuple[str, FanPlan | NetworkPlan]:
        """The network, with the nominal view beside it, where there is torch; else the nominal view alone."""
        network = self._pose_network()
        if network is None:
            return "nominal", _FAN
        name, weights = network
        return name, NetworkPlan(weights, _FAN, with_nominal=True)

    def _initialised(self, start: np.ndarray, given: bool) -> _Outcome:
        """The pose of the initialiser alone."""
        init = "given pose" if given else self._settings.init
        content, moving = next(iter(self._volumes.items()))
        network = self._pose_network() if init in ("auto", RTPI, PATIENT) else None
        if network is not None:
            name, weights = network
            asked = self._ask_network(NetworkPlan(weights), 1.0)
            if asked is None:
                return _Outcome(self._case, start, content, moving, self._best, label=init)
            self._records += asked.records
            return _Outcome(self._case, asked.T[0], content, moving, asked.T[0], label=name)
        if init != "search":
            return _Outcome(self._case, start, content, moving, start, label=init)
        found = {
            name: self._search(volume, stages.SEARCH, 1 / len(self._volumes))
            for name, volume in self._volumes.items()
        }
        if self._stopped:
            return _Outcome(self._case, start, content, moving, self._best, label=init)
        content = min(found, key=lambda name: found[name].cost[0])
        self._records += found[content].records
        T = found[content].T[0]
        return _Outcome(self._case, T, content, self._volumes[content], T, label=init)

    def _attempt(self, start: np.ndarray, plan: Plan, share: float) -> _Outcome | None:
        """Outcome of a plan from the start; None if stopped before."""
        learned = None
        if self._settings.refine in _LEARNED:
            learned = self._learned(start, plan, share / 4)
            if learned is None:
                return None
            share *= 0.75
            if self._settings.refine == LEARNED_REFINEMENT:
                return self._judged(start, plan, learned)
        best, best_margin = None, -np.inf
        for content, moving, hypotheses in self._starts(start, plan, share / 8, learned):
            ways = self._ways(moving, plan)
            for steps in ways:
                found = self._refine(moving, hypotheses, steps, share * 0.4 / len(ways) / len(self._volumes))
                margin = self._margin(moving, found.T[0])
                if margin > best_margin:
                    best, best_margin = (content, moving, found), margin
                    self._best = found.T[0]
                if self._stopped or margin > 0:
                    break
            if self._stopped or best_margin > 0:
                break
        if best is None:
            return None
        content, moving, found = best
        if not self._stopped:
            steps = self._ways(moving, plan)[0]
            found = stages.with_neighbouring_levels(self._case, moving, found, steps, self._report)
            self._best = found.T[0]
            self._stopped |= found.stopped
        if self._stopped:
            self._records += found.records
            return None
        initial = start if isinstance(plan, FanPlan | SpreadPlan) else found.records[0].T
        final, left = found, share * 0.5
        if self._settings.refine in _PHYSICS:
            final = refine_with_physics(self._case, moving, final, self._report)
            self._stopped |= final.stopped
            left /= 2
            self._done += left
        if self._settings.refine != "physics" and not self._stopped:
            fine = stages.PART_FINE if moving.is_part else stages.BODY_FINE
            final = self._refine(moving, final, fine, left)
        self._best = final.T[0]
        self._records += final.records
        verdict = judge(self._case, moving, self._finest(moving), final.T[0], found.T[1:])
        margin = self._margin(moving, final.T[0])
        return _Outcome(self._case, initial, content, moving, final.T[0], verdict, margin)

    def _learned(self, start: np.ndarray, plan: Plan, share: float) -> Hypotheses | None:
        """Poses of the learned refinement, from the starts of a plan; None if stopped before."""
        if isinstance(plan, FanPlan):
            hypotheses = stages.fan(self._case, start, plan)
        elif isinstance(plan, NetworkPlan):
            hypotheses = self._ask_network(plan, share / 2)
        else:
            hypotheses = self._search(next(iter(self._volumes.values())), plan, share / 2)
        if hypotheses is None:
            return None
        learned_plan = LearnedPlan(self._settings.weights.get(IFR))
        learned = refine_learned(self._case, self._body, self._bone, hypotheses, learned_plan, self._report)
        self._stopped |= learned.stopped
        self._best = learned.T[0]
        self._done += share / 2
        if learned.stopped:
            self._records += learned.records
            return None
        return learned

    def _judged(self, start: np.ndarray, plan: Plan, learned: Hypotheses) -> _Outcome:
        """The pose of the learned refinement as it is."""
        T = learned.T[0]
        margins = {name: self._margin(moving, T) for name, moving in self._volumes.items()}
        content = max(margins, key=margins.get)
        moving = self._volumes[content]
        self._records += learned.records
        initial = start if isinstance(plan, FanPlan) else learned.records[0].T
        verdict = judge(self._case, moving, self._finest(moving), T, learned.T[1:])
        return _Outcome(self._case, initial, content, moving, T, verdict, margins[content])

    def _starts(
        self, start: np.ndarray, plan: Plan, share: float, learned: Hypotheses | None = None
    ) -> Iterator[tuple[str, MovingVolume, Hypotheses]]:
        """What to try in turn until the images agree: content, its volume, where to start.

        Tilted views look through the end of a short scan. Leaving those rays out is right where the body goes
        on in the X-ray, but may leave little to go by: a search then also tries with them. After a learned
        refinement its poses take the place of the plan's own.
        """
        if learned is not None:
            around = stages.around(learned, self._case, plan if isinstance(plan, FanPlan) else _FAN)
            for content, moving in self._volumes.items():
                yield content, moving, around
            return
        asked = None
        if isinstance(plan, NetworkPlan):
            asked = self._ask_network(plan, share)
            if asked is None:
                return
        for content, moving in self._volumes.items():
            if asked is not None:
                yield content, moving, asked
                continue
            if isinstance(plan, SpreadPlan):
                if moving.is_part:
                    yield content, moving, stages.spread(self._case, plan)
                continue
            if isinstance(plan, FanPlan):
                for_part = {_FAN: _PART_FAN, _WIDE_FAN: _WIDE_PART_FAN}
                chosen = for_part[plan] if moving.is_part else plan
                yield content, moving, stages.fan(self._case, start, chosen)
                continue
            hypotheses = self._search(moving, plan, share)
            if hypotheses is None:
                return
            yield content, moving, hypotheses
            if moving.unscanned and not moving.is_part:
                whole = moving.without_truncation()
                further = self._search(whole, plan, share)
                if further is None:
                    return
                yield content, whole, stages.merged(hypotheses, further)

    def _ask_network(self, plan: NetworkPlan, share: float) -> Hypotheses | None:
        if plan.weights is not None:
            _require_own_network(self._ct, plan.weights)
        asked = stages.ask_network(self._case, self._body, self._bone, plan, self._report)
        self._done += share
        self._best = asked.T[0]
        self._stopped |= asked.stopped
        if asked.stopped:
            self._records += asked.records
            return None
        return asked

    def _search(self, moving: MovingVolume, plan: SearchPlan, share: float) -> Hypotheses | None:
        before = self._done

        def report(fraction: float) -> bool:
            self._done = before + share * fraction
            return self._report("template search", None, None)

        try:
            return stages.search(self._case, moving, plan, report)
        except Cancelled:
            self._stopped = True
            return None

    def _refine(self, moving, hypotheses, steps, share) -> Hypotheses:
        result = stages.refine(self._case, moving, hypotheses, steps, self._report)
        self._stopped |= result.stopped
        self._done += share
        return result

    def _report(self, stage: str, T: np.ndarray | None, similarity: float | None) -> bool:
        if self._callback is None:
            return False
        if T is not None:
            self._best = T
        return bool(self._callback(Progress(stage, min(self._done, 1.0), self._best, similarity)))

    def _margin(self, moving: MovingVolume, T_lps_to_world: np.ndarray) -> float:
        """By how much a pose agrees better with the X-ray than an acceptable one; -1 if implausible."""
        if not self._case.is_plausible(T_lps_to_world[None])[0]:
            return -1.0
        correlation = structural_correlation(self._case, moving, T_lps_to_world[None])[0]
        return float(correlation) - thresholds_of(moving).accept

    @staticmethod
    def _ways(moving: MovingVolume, plan: Plan) -> tuple[tuple[stages.Step, ...], ...]:
        """Coarse refinements to be tried in turn."""
        if not moving.is_part:
            return _BODY_WAYS
        return (stages.PART_COARSE_FROM_AFAR if isinstance(plan, SpreadPlan) else stages.PART_COARSE,)

    @staticmethod
    def _finest(moving: MovingVolume):
        return (stages.PART_FINE if moving.is_part else stages.BODY_FINE)[-1].level

    def _check_in_view(self, T_lps_to_world: np.ndarray) -> None:
        for radiograph in self._case.radiographs:
            camera = radiograph.camera
            centre = T_lps_to_world[:3, :3] @ self._case.centre_lps_mm + T_lps_to_world[:3, 3]
            x = camera.T_world_to_camera[:3, :3] @ centre + camera.T_world_to_camera[:3, 3]
            u, v = camera.project(x) if x[2] > 0 else (np.inf, np.inf)
            # Half an image beyond the edge a large object still shows.
            if abs(u - camera.width / 2) > camera.width or abs(v - camera.height / 2) > camera.height:
                name = radiograph.name or "the X-ray"
                raise InputError(
                    f"{name}: the CT lies outside the field of view at the start pose: check the geometry "
                    "and the start pose, or use the search"
                )
