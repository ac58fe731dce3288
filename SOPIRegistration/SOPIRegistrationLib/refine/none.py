"""No refinement: the pose of the initialiser as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from SOPIRegistrationLib.compare import Hypotheses
from SOPIRegistrationLib.compare.proposal import Proposal
from SOPIRegistrationLib.compare.run import Run
from SOPIRegistrationLib.settings import RegistrationSettings
from SOPIRegistrationLib.subject import Subject


class NoRefinement:
    """Takes the pose that the first proposal starts from.

    Args:
        settings: how to register.
    """

    def __init__(self, settings: RegistrationSettings):
        self.settings = settings

    def takes(self, proposal: Proposal, statuses: Sequence[str]) -> bool:
        """The first proposal only."""
        return not statuses

    def thin(self, proposal: Proposal, run: Run) -> Hypotheses | None:
        """The pose of the lot that agrees best where it comes from."""
        lots = list(proposal.lots)
        if not lots:
            return None
        best = min(lots, key=lambda lot: lot.cost[0])
        run.T = best.T_initial
        return replace(best, T=best.T_initial[None], cost=best.cost[:1])

    def refine(self, hypotheses: Hypotheses, run: Run) -> Hypotheses:
        """The same."""
        return hypotheses

    def warm_up(self, subject: Subject) -> None:
        """Nothing to load."""
