"""The plain refinement: Levenberg-Marquardt on normalised residuals, from coarse to fine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from SOPIRegistrationLib.compare import Hypotheses
from SOPIRegistrationLib.compare.proposal import Proposal
from SOPIRegistrationLib.compare.run import Run
from SOPIRegistrationLib.geometry.distinct import distinct_poses
from SOPIRegistrationLib.refine.intrinsics import with_intrinsics
from SOPIRegistrationLib.refine.levels import (
    through_levels,
    with_look_alikes,
    with_mirror_poses,
    with_neighbouring_vertebrae,
)
from SOPIRegistrationLib.refine.refiner import none_was_better_than_rejected
from SOPIRegistrationLib.settings import RegistrationSettings
from SOPIRegistrationLib.subject import Subject

# Of more starts than are tried about one pose only a few lead home.
_MANY = 60
# Poses further apart (rad; mm across the central ray, along it) are of different hypotheses.
_ELSEWHERE = np.deg2rad(10), 12.0, 80.0
# What brings the best of a few coarsely refined hypotheses to the end.
Finish = Callable[[Hypotheses, Run], Hypotheses]


def fine(hypotheses: Hypotheses, run: Run) -> Hypotheses:
    """Hypotheses through the fine levels of their target."""
    return with_mirror_poses(through_levels(hypotheses, hypotheses.comparison.target.kind.fine, run), run)


class CoarseToFine:
    """Whole images or wide windows at coarse levels, narrower windows at fine ones.

    Args:
        settings: how to register.

    Attributes:
        finishes: what follows the coarse levels, in turn.
    """

    finishes: tuple[Finish, ...] = (fine,)

    def __init__(self, settings: RegistrationSettings):
        self.settings = settings

    def takes(self, proposal: Proposal, statuses: Sequence[str]) -> bool:
        """All proposals; many starts, which take ten times as long, of a source again where nothing was
        accepted, in another reading of the X-rays where all else was rejected."""
        if proposal.from_afar and proposal.again:
            return "accept" not in statuses
        return not proposal.from_afar or none_was_better_than_rejected(statuses)

    def thin(self, proposal: Proposal, run: Run) -> Hypotheses | None:
        """The best lot at coarse levels: the first one in which the images agree, if there is one."""
        seen: list[tuple[float, Hypotheses]] = []
        with run.share(1 / 2):
            for found in self._coarse(proposal, run):
                margin = found.comparison.margin(found.T[0])
                seen.append((margin, found))
                if margin > run.margin:
                    run.margin, run.T = margin, found.T[0]
                if margin > proposal.clear:
                    break
            if not seen:
                return None
            run.seen += seen
            best = _with_rival(max(seen, key=lambda one: one[0])[1], run.seen)
            steps = best.comparison.target.kind.coarse[0]
            return with_look_alikes(with_neighbouring_vertebrae(best, steps, run), steps[-1], run)

    def refine(self, hypotheses: Hypotheses, run: Run) -> Hypotheses:
        """See ``refiner.Refiner``."""
        final = hypotheses
        for number, finish in enumerate(self.finishes):
            with run.share(1 / (len(self.finishes) - number)):
                final = finish(final, run)
        # Where several were refined to the end, those that were not have nothing to say.
        others = final if final.comparison.target.kind.fine[-1].keep > 1 else hypotheses
        T = np.concatenate([final.T[:1], others.T[1:]])
        cost = np.concatenate([final.cost[:1], others.cost[1:]])
        return with_intrinsics(replace(hypotheses, T=T, cost=cost), run)

    def warm_up(self, subject: Subject) -> None:
        """Nothing beyond the subject's kernels."""

    @staticmethod
    def _coarse(proposal: Proposal, run: Run) -> Iterator[Hypotheses]:
        """Each lot of a proposal through each of its target's coarse refinements."""
        for lot in proposal.lots:
            kind = lot.comparison.target.kind
            refinements = kind.coarse_of_many if len(lot.T) > _MANY else kind.coarse
            if proposal.aligned:
                refinements = kind.coarse_of_aligned or refinements
            for steps in refinements:
                with run.share(1 / 4):
                    found = through_levels(lot, steps, run)
                yield found


def _with_rival(best: Hypotheses, seen: list[tuple[float, Hypotheses]]) -> Hypotheses:
    """Hypotheses, told what the best elsewhere reached, of all that was seen (margin, hypotheses)."""
    centre = best.comparison.case.centre_lps_mm
    elsewhere = [
        other + found.comparison.target.kind.thresholds.accept
        for other, found in seen
        if found.comparison.reading is not best.comparison.reading
        or len(distinct_poses(np.stack([best.T[0], found.T[0]]), centre, *_ELSEWHERE, 2)) == 2
    ]
    return replace(best, rival=max(elsewhere, default=-np.inf))
