"""From prepared inputs to a verified pose."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np

from SOPIRegistrationLib.errors import Cancelled, InputError
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.ct_preparation import bone_only
from SOPIRegistrationLib.images.prepared_ct import PreparedCT
from SOPIRegistrationLib.images.radiograph import PreparedRadiograph
from SOPIRegistrationLib.registration import stages
from SOPIRegistrationLib.registration.moving import MovingVolume
from SOPIRegistrationLib.registration.result import Progress, RegistrationResult, StageRecord, Verdict
from SOPIRegistrationLib.registration.stages import Case, Hypotheses
from SOPIRegistrationLib.registration.verdict import image_similarity, judge, structural_correlation, thresholds_of

# Share of the attenuation that lies in bone from which a CT is a segmented bone, not a body.
_SEGMENTED = 0.85
_FAN_DEG = 8.0
_WIDE_FAN_DEG = 16.0
_PART_FAN_DEG = 5.0
_ORDER = {"accept": 0, "review": 1, "reject": 2}


@dataclass(frozen=True)
class RegistrationSettings:
    """How to register.

    Attributes:
        init: "nominal" (start at the nominal view), "search" (template search over the ``wide`` range), "auto" (nominal
            first, search if the verdict is not accept) or a (4, 4) T_lps_to_world to start from.
        refine: "opt" (coarse-to-fine Levenberg-Marquardt) or "none".
        content: what DRRs are made of: "body", "bone", or "auto", whichever agrees better with the X-ray.
        seed: of anything random; the present stages have none.
    """

    init: str | np.ndarray = "auto"
    refine: str = "opt"
    content: str = "auto"
    seed: int = 0

    def __post_init__(self):
        if isinstance(self.init, str) and self.init not in ("auto", "nominal", "search"):
            raise InputError(f"unknown initialiser '{self.init}': use auto, nominal, search or a start pose")
        if self.refine not in ("opt", "none"):
            raise InputError(f"unknown refinement '{self.refine}': use opt or none")
        if self.content not in ("auto", "body", "bone"):
            raise InputError(f"unknown content '{self.content}': use auto, body or bone")


_MOVING_VOLUMES: WeakKeyDictionary[PreparedCT, dict[str, MovingVolume]] = WeakKeyDictionary()


def moving_volumes(ct: PreparedCT) -> dict[str, MovingVolume]:
    """What of the CT can be projected and compared; made once per CT and kept as long as it.

    "body": all of it, with the whole X-ray. "bone": its bones, with the whole X-ray. A CT that is a segmented bone already
    has no body besides: there "bone" is compared with its surroundings only, in an X-ray that shows more.
    """
    if ct in _MOVING_VOLUMES:
        return _MOVING_VOLUMES[ct]
    bone = bone_only(ct)
    share = float(bone.array.sum(dtype=np.float64) / max(ct.attenuation.array.sum(dtype=np.float64), 1e-12))
    body = MovingVolume(ct.attenuation, ct.truncated)
    if share > _SEGMENTED:
        bones = MovingVolume(ct.attenuation, ct.truncated, ct.surface_points_lps_mm)
    else:
        bones = MovingVolume(bone, ct.truncated)
    _MOVING_VOLUMES[ct] = {"body": body, "bone": bones}
    return _MOVING_VOLUMES[ct]


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
        callback: called several times a second; a true answer stops at once, and the result holds the best pose
            reached so far.

    Raises:
        InputError: the object lies outside the X-ray at the given start pose.
    """
    settings = settings or RegistrationSettings()
    return _Registration(ct, Case(tuple(radiographs), frame), settings, callback).run()


class _Registration:
    """One run of :func:`register`: the order of the stages."""

    def __init__(self, ct: PreparedCT, case: Case, settings: RegistrationSettings, callback):
        self._case = case
        self._settings = settings
        self._callback = callback
        volumes = moving_volumes(ct)
        if settings.content in volumes:
            volumes = {settings.content: volumes[settings.content]}
        self._volumes = volumes
        self._records: list[StageRecord] = []
        self._done = 0.0
        self._best: np.ndarray | None = None
        self._stopped = False

    def run(self) -> RegistrationResult:
        began = time.perf_counter()
        init = self._settings.init
        T_world_to_camera = self._case.T_world_to_camera
        given = not isinstance(init, str)
        nominal = np.linalg.inv(T_world_to_camera) @ self._case.frame.T_nominal
        start = np.asarray(init, dtype=np.float64) if given else nominal
        self._best = start
        if given or init == "nominal":
            self._check_in_view(start)

        if self._settings.refine == "none":
            initial, content = (start, self._first_content()) if init != "search" else self._searched()
            best, verdict = initial, None
            label = "given pose" if given else init
        else:
            initial, content, best, verdict, label = self._registered(start, given)
        label = f"{label} + {self._settings.refine}" if self._settings.refine != "none" else label

        moving = self._volumes[content]
        if verdict is None:
            verdict = judge(self._case, moving, self._finest(moving), best, np.empty((0, 4, 4)))
        if self._stopped:
            verdict = Verdict(
                "review", ["stopped early", *verdict.reasons], verdict.predicted_error_mm, verdict.predicted_error_deg
            )
        return RegistrationResult(
            T_lps_to_world=best,
            initial_T=initial,
            frame=self._case.frame,
            T_world_to_camera=T_world_to_camera,
            method=label,
            content=content,
            stages=self._records,
            similarity=image_similarity(self._case, moving, best),
            initial_similarity=image_similarity(self._case, moving, initial),
            verdict=verdict,
            seconds=time.perf_counter() - began,
            stopped=self._stopped,
        )

    def _registered(self, start: np.ndarray, given: bool):
        """(initial pose, content, final pose, verdict, label) of the best of the tries that were needed."""
        init = self._settings.init
        tries = []
        if given or init == "nominal":
            tries = [("given pose" if given else "nominal", _FAN_DEG), ("wide fan", _WIDE_FAN_DEG)]
        elif init == "auto":
            tries = [("nominal", _FAN_DEG), ("search", None)]
        else:
            tries = [("search", None)]

        outcomes = []
        for number, (label, angle) in enumerate(tries):
            self._done = number / len(tries)
            share = (1.0 - self._done) if number == len(tries) - 1 else 1.0 / len(tries)
            outcome = self._attempt(start, angle, share)
            if outcome is not None:
                outcomes.append((*outcome, "given pose" if given else label))
            if self._stopped or (outcomes and outcomes[-1][3].status == "accept"):
                break
        if not outcomes:
            content = self._first_content()
            return start, content, self._best, None, "given pose" if given else init
        return min(outcomes, key=lambda o: (_ORDER[o[3].status], -self._margin(o[1], o[2])))

    def _attempt(self, start, angle, share):
        """(initial pose, content, final pose, verdict) from a fan about the start, or from the search if angle is None."""
        coarse = {}
        for content, moving in self._volumes.items():
            if angle is None:
                hypotheses = self._search(moving)
            else:
                turned = _PART_FAN_DEG * angle / _FAN_DEG if moving.is_part else angle
                hypotheses = stages.fan(start, self._case.centre_lps_mm, turned)
            if hypotheses is None:
                return None
            steps = stages.PART_COARSE if moving.is_part else stages.BODY_COARSE
            coarse[content] = self._refine(moving, hypotheses, steps, share * 0.4 / len(self._volumes))
            if self._stopped:
                break
        content = max(coarse, key=lambda name: self._margin(name, coarse[name].T[0]))
        found, moving = coarse[content], self._volumes[content]
        self._best = found.T[0]
        if self._stopped:
            self._records += found.records
            return None
        initial = start if angle is not None else found.records[0].T
        fine = stages.PART_FINE if moving.is_part else stages.BODY_FINE
        final = self._refine(moving, found, fine, share * 0.5)
        self._best = final.T[0]
        self._records += final.records
        verdict = judge(self._case, moving, self._finest(moving), final.T[0], found.T[1:])
        return initial, content, final.T[0], verdict

    def _search(self, moving: MovingVolume) -> Hypotheses | None:
        try:
            return stages.search(self._case, moving, self._report)
        except Cancelled:
            self._stopped = True
            return None

    def _searched(self):
        """(best pose, content) of the template search alone."""
        best = None
        for content, moving in self._volumes.items():
            found = self._search(moving)
            if found is not None and (best is None or found.cost[0] < best[0].cost[0]):
                best = found, content
        if best is None:
            return self._best, self._first_content()
        self._records += best[0].records
        return best[0].T[0], best[1]

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

    def _margin(self, content: str, T_lps_to_world: np.ndarray) -> float:
        """By how much a pose agrees better with the X-ray than an acceptable one."""
        moving = self._volumes[content]
        correlation = structural_correlation(self._case, moving, T_lps_to_world[None])[0]
        return float(correlation) - thresholds_of(moving).accept

    def _first_content(self) -> str:
        return next(iter(self._volumes))

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
            if not (-camera.width / 2 < u < 1.5 * camera.width and -camera.height / 2 < v < 1.5 * camera.height):
                raise InputError(
                    f"{radiograph.name or 'the X-ray'}: the CT lies outside the field of view at the start pose: "
                    "check the geometry and the start pose, or use the search"
                )
