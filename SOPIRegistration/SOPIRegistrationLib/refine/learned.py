"""The learned fine registration: hypotheses refined until the features of X-ray and DRR agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from SOPIRegistrationLib.compare import Comparison, Hypotheses
from SOPIRegistrationLib.compare.objective import about_shadow, around_object, comparable_pixels
from SOPIRegistrationLib.compare.proposal import Proposal
from SOPIRegistrationLib.compare.run import Run
from SOPIRegistrationLib.compare.starts import with_starts_around
from SOPIRegistrationLib.compare.target import WHOLE_BODY, compared_target
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.distinct import SAME_MINIMUM, distinct_poses
from SOPIRegistrationLib.images.pyramid import square_radiograph
from SOPIRegistrationLib.installed import IFR
from SOPIRegistrationLib.optimise.least_squares import NormalEquations
from SOPIRegistrationLib.refine.coarse_to_fine import CoarseToFine
from SOPIRegistrationLib.refine.refiner import none_was_better_than_rejected
from SOPIRegistrationLib.settings import RegistrationSettings
from SOPIRegistrationLib.subject import Subject

STAGE = "learned similarity"
# At most so many hypotheses are refined, those of least L_N; so many different poses go on.
_MOST, _KEEP = 4, 3
# One bone is compared so far about its DRR at the start.
_PART_MARGIN_MM = 10.0
# About the pose of the learned similarity, where the optimiser goes on from it.
_AROUND = WHOLE_BODY.starts[0]


class LearnedObjective:
    """L_N of all views, mean, and its derivatives by twists about the rotation centre, world axes.

    Args:
        network: the learned similarity.
        comparison: X-rays and CT; what of the CT is rendered is body and bones. One bone in X-rays of more is
            rendered as what it attenuates more than tissue, and compared about where its start puts it.
        T_start: (S, 4, 4) T_lps_to_world of the starts: where they stand decides which rays leave the scanned
            volume and are left out.
        near: compare as for poses near home: features weighted as in training, images of ``near_pixels``.
        all_rays: count them all the same, and of one bone those about any start. Only then can errors of
            different starts be compared: of a steep view most rays leave a scan, and what is left of it is
            easily alike.

    Attributes:
        views: what is compared of each X-ray (``refine.network.EmbeddedView``).
    """

    def __init__(
        self,
        network,
        comparison: Comparison,
        T_start: np.ndarray,
        near: bool = False,
        all_rays: bool = False,
    ):
        from SOPIRegistrationLib.refine.network import EmbeddedView

        self._network, self._comparison = network, comparison
        config, case = network.config, comparison.case
        pixels, reach = config.pixels, config.reach
        if near:
            pixels, reach = config.near_pixels or pixels, 1.0
        subject, target = case.subject, compared_target(case.subject)
        moving, bones, held = subject.shown, subject.bones, None
        is_part = target.outline_lps_mm is not None
        if is_part:
            moving = bones = target.moving
            # The image as a whole says nothing of one bone.
            reach, held = 1.0, T_start if case.is_single_view and not all_rays else None
        self.views = []
        for radiograph in comparison.radiographs:
            view = square_radiograph(around_object(radiograph, target, T_start, square=True), pixels)
            camera = view.camera
            body = moving.for_camera(camera, T_start[0])
            bone = body if bones is moving else bones.for_camera(camera, T_start[0])
            valid = view.valid[None] if all_rays else comparable_pixels(view, moving, T_start)
            if is_part:
                depth_mm = se3.transform_points(camera.T_world_to_camera @ T_start[0], case.centre_lps_mm)[2]
                about = about_shadow(body, camera, T_start, depth_mm, _PART_MARGIN_MM)
                valid = valid & (about.any(axis=0, keepdims=True) if all_rays else about)
            image = np.repeat(view.image[None], len(valid), axis=0)
            self.views.append(
                EmbeddedView(network, image, valid, camera, body, bone, case.centre_lps_mm, reach, held)
            )

    def equations(self, T_lps_to_world: np.ndarray, starts: np.ndarray) -> NormalEquations:
        """L_N and its quadratic model at (P, 4, 4) poses."""
        parts = [view.equations(T_lps_to_world, starts) for view in self.views]
        return NormalEquations(*(np.mean(part, axis=0) for part in zip(*parts, strict=True)))

    def error_and_gradient(
        self, T_lps_to_world: np.ndarray, starts: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """L_N (P,) and its gradient (P, 6) at (P, 4, 4) poses."""
        parts = [view.error_and_gradient(T_lps_to_world, starts) for view in self.views]
        error, gradient = (np.mean(part, axis=0) for part in zip(*parts, strict=True))
        return error, gradient

    def nearby(self, T_lps_to_world: np.ndarray) -> LearnedObjective:
        """The objective from starts (S, 4, 4) near home: more exact, but not to be seen from afar."""
        return LearnedObjective(self._network, self._comparison, T_lps_to_world, near=True)

    def errors(self, T_lps_to_world: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """(P,) L_N alone."""
        return np.mean([view.errors(T_lps_to_world, starts) for view in self.views], axis=0)


def refine_learned(hypotheses: Hypotheses, run: Run, weights: str | Path | None = None) -> Hypotheses:
    """Refine hypotheses by a learned similarity; implausible ones come last whatever their error.

    Args:
        hypotheses: where from.
        run: told every iteration.
        weights: file of the network's weights; the installed ones if None.

    Raises:
        InputError: no weights, or unusable ones; the subject is of metal.
    """
    _require_no_metal(hypotheses.comparison.case.subject)
    # Torch is not needed by the other refinements, and slow to import.
    from SOPIRegistrationLib.networks.threads import few_threads
    from SOPIRegistrationLib.refine.network import load_network, refined

    network = load_network(weights)
    comparison, case = hypotheses.comparison, hypotheses.comparison.case
    run.comparison = comparison

    def everywhere(T: np.ndarray, near: bool = False) -> np.ndarray:
        """(n,) L_N over all rays at poses (n, 4, 4)."""
        objective = LearnedObjective(network, comparison, T, near=near, all_rays=True)
        return objective.errors(T, np.zeros(len(T), dtype=int))

    with few_threads(network), run.stage(STAGE) as stage:
        errors = everywhere(hypotheses.T)
        T_first = hypotheses.T[np.argsort(errors, kind="stable")[:_MOST]]
        found = refined(
            network,
            LearnedObjective(network, comparison, T_first),
            T_first,
            case.centre_lps_mm,
            report=lambda progress: run.report(STAGE, progress.T, fraction=progress.fraction),
            stage=STAGE,
        )
        errors = everywhere(found.T, near=True)
        T = found.T[np.lexsort((errors, ~case.is_plausible(found.T)))]
        T = T[distinct_poses(T, case.centre_lps_mm, *SAME_MINIMUM, _KEEP)]
        stage.ended(T[0])
    return replace(hypotheses, T=T, cost=np.full(len(T), np.inf))


class Learned:
    """The learned similarity alone.

    Args:
        settings: how to register.
    """

    def __init__(self, settings: RegistrationSettings):
        self.settings = settings
        self._weights = settings.weights.get(IFR)

    def takes(self, proposal: Proposal, statuses: Sequence[str]) -> bool:
        """Hardly ever one source again: its basin is wide, from further around it ends where it did."""
        return not proposal.from_afar and (not proposal.again or none_was_better_than_rejected(statuses))

    def thin(self, proposal: Proposal, run: Run) -> Hypotheses | None:
        """Those of the first lot: the network knows one way to see a CT."""
        return next(proposal.lots, None)

    def refine(self, hypotheses: Hypotheses, run: Run) -> Hypotheses:
        """By the network, as the target that then agrees best."""
        found = refine_learned(hypotheses, run, self._weights)
        comparisons = [replace(found.comparison, target=target) for target in found.comparison.case.targets]
        best = max(comparisons, key=lambda comparison: comparison.margin(found.T[0]))
        return replace(found, comparison=best)

    def warm_up(self, subject: Subject) -> None:
        """Import torch, load the network; InputError where the subject is of metal."""
        from SOPIRegistrationLib.refine.network import load_network

        _require_no_metal(subject)
        load_network(self._weights)


def _require_no_metal(subject: Subject) -> None:
    """Refuse metal: the network was trained on line integrals of bodies, not on silhouettes."""
    if subject.ct.is_metal:
        raise InputError("the learned similarity does not know implants of metal: use --refine opt")


class LearnedThenOptimised(Learned):
    """The learned similarity, and the plain refinement from around its poses."""

    def __init__(self, settings: RegistrationSettings):
        super().__init__(settings)
        self._optimised = CoarseToFine(settings)

    def takes(self, proposal: Proposal, statuses: Sequence[str]) -> bool:
        """All but those of many starts."""
        return not proposal.from_afar

    def thin(self, proposal: Proposal, run: Run) -> Hypotheses | None:
        """The best of the plain refinement's coarse levels, from around the learned poses."""
        first = next(proposal.lots, None)
        if first is None:
            return None
        with run.share(1 / 4):
            learned = with_starts_around(refine_learned(first, run, self._weights), _AROUND)
        lots = (
            replace(learned, comparison=replace(learned.comparison, target=target))
            for target in learned.comparison.case.targets
        )
        return self._optimised.thin(replace(proposal, lots=lots), run)

    def refine(self, hypotheses: Hypotheses, run: Run) -> Hypotheses:
        """The plain refinement's fine levels."""
        return self._optimised.refine(hypotheses, run)
