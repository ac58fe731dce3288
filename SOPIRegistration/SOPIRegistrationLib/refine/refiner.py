"""What every refiner is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from SOPIRegistrationLib.compare import Hypotheses
from SOPIRegistrationLib.compare.proposal import Proposal
from SOPIRegistrationLib.compare.run import Run
from SOPIRegistrationLib.subject import Subject


class Refiner(Protocol):
    """Makes a pose of proposed ones; one entry of ``methods.REFINEMENTS``."""

    def takes(self, proposal: Proposal, statuses: Sequence[str]) -> bool:
        """Whether to go on with a proposal, after verdicts with these statuses on those before."""

    def thin(self, proposal: Proposal, run: Run) -> Hypotheses | None:
        """The few hypotheses of a proposal that are worth refining to the end; None if it holds none."""

    def refine(self, hypotheses: Hypotheses, run: Run) -> Hypotheses:
        """The first hypothesis refined to the end; the others, as they are, are its rivals."""

    def warm_up(self, subject: Subject) -> None:
        """Load what a refinement would have to wait for."""


def none_was_better_than_rejected(statuses: Sequence[str]) -> bool:
    """Whether all verdicts so far were rejections."""
    return all(status == "reject" for status in statuses)
