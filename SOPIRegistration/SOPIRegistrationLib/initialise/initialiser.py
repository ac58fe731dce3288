"""What every initialiser is: sources of hypotheses, asked one after another until the images agree."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from SOPIRegistrationLib.compare import Case, Hypotheses, Proposal, Reading, Run
from SOPIRegistrationLib.settings import RegistrationSettings
from SOPIRegistrationLib.subject import Subject


class Source(Protocol):
    """Where hypotheses come from.

    Attributes:
        name: of the source; one that is asked again, more thoroughly, has the same.
        from_afar: as for ``compare.Proposal``.
    """

    name: str
    from_afar: bool

    def lots(self, case: Case, reading: Reading, run: Run) -> Iterator[Hypotheses]:
        """Hypotheses of one target after another, each lot made when it is asked for."""


class Initialiser(Protocol):
    """Proposes where a pose may be; one entry of ``methods.INITIALISERS``."""

    def expected(self, case: Case) -> np.ndarray:
        """(4, 4) T_lps_to_world about where the pose lies."""

    def propose(self, case: Case, run: Run) -> Iterator[Proposal]:
        """Proposals, the next one asked for where the one before ended in no acceptable pose."""

    def warm_up(self, subject: Subject) -> None:
        """Load and compile what the first proposal would have to wait for."""


class InTurn:
    """An initialiser that asks one source after another, for every reading of the X-rays.

    Subclasses give the sources, and where the pose is expected if not at the nominal view.

    Args:
        settings: how to register.
        start: (4, 4) T_lps_to_world, a pose that was given; None for none.
    """

    def __init__(self, settings: RegistrationSettings, start: np.ndarray | None = None):
        self.settings, self.start = settings, start

    def sources(self, case: Case) -> tuple[Source, ...]:
        """In the order in which they are asked."""
        raise NotImplementedError

    def expected(self, case: Case) -> np.ndarray:
        """(4, 4) T_lps_to_world about where the pose lies: the nominal view."""
        return case.T_expected

    def propose(self, case: Case, run: Run) -> Iterator[Proposal]:
        """Proposals of each source in turn; see :class:`Initialiser`."""
        asked: set[str] = set()
        for source in self.sources(case):
            for reading in case.readings:
                lots = source.lots(case, reading, run)
                yield Proposal(source.name, lots, source.name in asked, source.from_afar)
            asked.add(source.name)

    def warm_up(self, subject: Subject) -> None:
        """Nothing to load."""
