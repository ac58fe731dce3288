"""The plain refinement: Levenberg-Marquardt on normalised residuals, from coarse to fine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from SOPIRegistrationLib.compare import Hypotheses
from SOPIRegistrationLib.compare.proposal import Proposal
from SOPIRegistrationLib.compare.run import Run
from SOPIRegistrationLib.refine.levels import through_levels, with_neighbouring_vertebrae
from SOPIRegistrationLib.refine.refiner import none_was_better_than_rejected
from SOPIRegistrationLib.settings import RegistrationSettings
from SOPIRegistrationLib.subject import Subject

# What brings the best of a few coarsely refined hypotheses to the end.
Finish = Callable[[Hypotheses, Run], Hypotheses]


def fine(hypotheses: Hypotheses, run: Run) -> Hypotheses:
    """Hypotheses through the fine levels of their target."""
    return through_levels(hypotheses, hypotheses.comparison.target.kind.fine, run)


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
        """All proposals; many starts, which take ten times as long, where all else was rejected."""
        return not proposal.from_afar or none_was_better_than_rejected(statuses)

    def thin(self, proposal: Proposal, run: Run) -> Hypotheses | None:
        """The best lot at coarse levels: the first one in which the images agree, if there is one."""
        best, best_margin = None, -np.inf
        with run.share(1 / 2):
            for found in self._coarse(proposal, run):
                margin = found.comparison.margin(found.T[0])
                if margin > best_margin:
                    best, best_margin = found, margin
                    run.T = found.T[0]
                if margin > 0:
                    break
            if best is None:
                return None
            return with_neighbouring_vertebrae(best, best.comparison.target.kind.coarse[0], run)

    def refine(self, hypotheses: Hypotheses, run: Run) -> Hypotheses:
        """See ``refiner.Refiner``."""
        final = hypotheses
        for number, finish in enumerate(self.finishes):
            with run.share(1 / (len(self.finishes) - number)):
                final = finish(final, run)
        T = np.concatenate([final.T[:1], hypotheses.T[1:]])
        return replace(hypotheses, T=T, cost=np.concatenate([final.cost[:1], hypotheses.cost[1:]]))

    def warm_up(self, subject: Subject) -> None:
        """Nothing beyond the subject's kernels."""

    @staticmethod
    def _coarse(proposal: Proposal, run: Run) -> Iterator[Hypotheses]:
        """Each lot of a proposal through each of its target's coarse refinements."""
        for lot in proposal.lots:
            kind = lot.comparison.target.kind
            for steps in kind.coarse_from_afar if proposal.from_afar else kind.coarse:
                with run.share(1 / 4):
                    found = through_levels(lot, steps, run)
                yield found
