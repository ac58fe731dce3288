"""The learned fine registration as a stage: hypotheses refined until the features of X-ray and DRR agree."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from SOPIRegistrationLib.geometry.distinct import SAME_MINIMUM, distinct_poses
from SOPIRegistrationLib.images.pyramid import square_radiograph
from SOPIRegistrationLib.optimise.least_squares import NormalEquations
from SOPIRegistrationLib.registration.moving import MovingVolume
from SOPIRegistrationLib.registration.objective import comparable_pixels
from SOPIRegistrationLib.registration.result import StageRecord
from SOPIRegistrationLib.registration.stages import Case, Hypotheses, StageCallback

STAGE = "learned similarity"


@dataclass(frozen=True)
class LearnedPlan:
    """How to refine by a learned similarity.

    Attributes:
        weights: file of its weights; the installed ones if None.
        most: at most so many hypotheses are refined, those of least L_N.
        keep: at most so many different poses go on.
    """

    weights: str | Path | None = None
    most: int = 4
    keep: int = 3


class LearnedObjective:
    """L_N of all views of a case, mean, and its derivatives by twists about the rotation centre, world axes.

    Args:
        network: the learned similarity.
        case: what is registered.
        body: the CT.
        bone: its bones.
        T_start: (S, 4, 4) T_lps_to_world of the starts: where they stand decides which rays leave the scanned
            volume and are left out.
        near: compare as for poses near home: features weighted as in training, images of ``near_pixels``.
        all_rays: count them all the same. Only then can errors of different starts be compared: of a steep
            view most rays leave a scan, and what is left of it is easily alike.
    """

    def __init__(
        self,
        network,
        case: Case,
        body: MovingVolume,
        bone: MovingVolume,
        T_start: np.ndarray,
        near: bool = False,
        all_rays: bool = False,
    ):
        from SOPIRegistrationLib.refine.network import EmbeddedView

        self._compared = network, case, body, bone
        config = network.config
        pixels, reach = config.pixels, config.reach
        if near:
            pixels, reach = config.near_pixels or pixels, 1.0
        # A segmented bone is all there is.
        moving = bone if bone.is_part else body
        self._views = []
        for radiograph in case.radiographs:
            view = square_radiograph(radiograph, pixels)
            camera = view.camera
            T = camera.T_world_to_camera @ T_start
            whole, bones = (volume.for_camera(camera, T[0]) for volume in (moving, bone))
            valid = view.valid[None] if all_rays else comparable_pixels(view, moving, T)
            image = np.repeat(view.image[None], len(valid), axis=0)
            embedded = EmbeddedView(network, image, valid, camera, whole, bones, case.centre_lps_mm, reach)
            self._views.append((camera.T_world_to_camera, embedded))

    def equations(self, T_lps_to_world: np.ndarray, starts: np.ndarray) -> NormalEquations:
        """L_N and its quadratic model at (P, 4, 4) poses."""
        parts = []
        for T_world_to_camera, view in self._views:
            error, gradient, hessian = view.equations(T_world_to_camera @ T_lps_to_world, starts)
            axes = _axes(T_world_to_camera)
            parts.append((error, gradient @ axes, axes.T @ hessian @ axes))
        return NormalEquations(*(np.mean(part, axis=0) for part in zip(*parts, strict=True)))

    def error_and_gradient(
        self, T_lps_to_world: np.ndarray, starts: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """L_N (P,) and its gradient (P, 6) at (P, 4, 4) poses."""
        parts = []
        for T_world_to_camera, view in self._views:
            error, gradient = view.error_and_gradient(T_world_to_camera @ T_lps_to_world, starts)
            parts.append((error, gradient @ _axes(T_world_to_camera)))
        error, gradient = (np.mean(part, axis=0) for part in zip(*parts, strict=True))
        return error, gradient

    def nearby(self, T_lps_to_world: np.ndarray) -> LearnedObjective:
        """The objective from starts (S, 4, 4) near home: more exact, but not to be seen from afar."""
        return LearnedObjective(*self._compared, T_lps_to_world, near=True)

    def errors(self, T_lps_to_world: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """(P,) L_N alone."""
        return np.mean([view.errors(T @ T_lps_to_world, starts) for T, view in self._views], axis=0)


def refine_learned(
    case: Case,
    body: MovingVolume,
    bone: MovingVolume,
    start: Hypotheses,
    plan: LearnedPlan,
    callback: StageCallback,
) -> Hypotheses:
    """Refine hypotheses by a learned similarity; implausible ones come last whatever their error.

    Args:
        case: what is registered.
        body: the CT.
        bone: its bones.
        start: where from.
        plan: with what network, and how many hypotheses.
        callback: told every iteration; a true answer stops at once.

    Raises:
        InputError: no weights, or unusable ones.
        ModuleNotFoundError: no torch.
    """
    # Torch is not needed by the other stages, and is slow to import.
    from SOPIRegistrationLib.networks.threads import few_threads
    from SOPIRegistrationLib.refine.network import load_network, refined

    network = load_network(plan.weights)
    began = time.perf_counter()
    with few_threads(network):
        compared = network, case, body, bone
        everywhere = LearnedObjective(*compared, start.T, all_rays=True)
        errors = everywhere.errors(start.T, np.zeros(len(start.T), dtype=int))
        T_first = start.T[np.argsort(errors, kind="stable")[: plan.most]]
        found = refined(
            network,
            LearnedObjective(*compared, T_first),
            T_first,
            case.centre_lps_mm,
            callback=lambda report: callback(STAGE, report.T, None),
            stage=STAGE,
        )
        errors = found.error
        if not found.stopped:
            everywhere = LearnedObjective(*compared, found.T, near=True, all_rays=True)
            errors = everywhere.errors(found.T, np.zeros(len(found.T), dtype=int))
    T = found.T[np.lexsort((errors, ~case.is_plausible(found.T)))]
    T = T[distinct_poses(T, case.centre_lps_mm, *SAME_MINIMUM, plan.keep)]
    record = StageRecord(STAGE, time.perf_counter() - began, None, T[0])
    return Hypotheses(T, np.full(len(T), np.inf), (*start.records, record), found.stopped)


def _axes(T_world_to_camera: np.ndarray) -> np.ndarray:
    """(6, 6) twist in world axes to one in camera axes, about the same point."""
    return np.kron(np.eye(2), T_world_to_camera[:3, :3])
