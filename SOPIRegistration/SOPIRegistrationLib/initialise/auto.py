"""The initialiser that is used unless another one is named."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec

import numpy as np

from SOPIRegistrationLib.compare import Case, Hypotheses, Proposal, Run
from SOPIRegistrationLib.initialise.any_view import AnyView
from SOPIRegistrationLib.initialise.initialiser import InTurn, Source
from SOPIRegistrationLib.initialise.networks import Patient, PoseNetwork, Rtpi
from SOPIRegistrationLib.initialise.starts import AboutExpected, AllAround, Nominal
from SOPIRegistrationLib.initialise.templates import SEARCH, THOROUGH_SEARCH
from SOPIRegistrationLib.installed import PATIENT, RTPI, has_weights
from SOPIRegistrationLib.subject import Subject


class Auto(InTurn):
    """A pose network and the expected view first, the search where these fail.

    The network is the patient's own if its weights are given, else that for everybody; without torch or
    weights it is the nominal view alone.
    """

    def sources(self, case: Case) -> tuple[Source, ...]:
        """Network and expected view, searches, all around."""
        weights = self.settings.weights
        if PATIENT in weights:
            first = PoseNetwork(PATIENT, weights[PATIENT], with_expected=True)
            if any(target.kind.starts_from_afar for target in case.targets):
                return first, AllAround(first.name)
        elif self._has_rtpi:
            first = PoseNetwork(RTPI, weights.get(RTPI), with_expected=True)
        else:
            first = AboutExpected("nominal")
        return first, SEARCH, THOROUGH_SEARCH, AllAround(first.name)

    def propose(self, case: Case, run: Run) -> Iterator[Proposal]:
        """One proposal of all that the X-ray may be, the likeliest first; then the thorough search.

        What is stated of the X-ray comes first, but is not believed against the images.
        """
        first, *others = self.sources(case)
        either_way = case.is_single_view and self.settings.mirrored == "auto"
        case = replace(case, any_view=True, may_be_mirrored=either_way)
        yield Proposal(first.name, self._pool(case, run, first))
        for source, reading in itertools.product(others, case.readings):
            if run.has_time():
                yield Proposal(source.name, source.lots(case, reading, run), from_afar=source.from_afar)

    def _pool(self, case: Case, run: Run, first: Source) -> Iterator[Hypotheses]:
        asked = first.lots(case, case.reading, run)
        for target, lot in zip(case.targets, asked, strict=False):
            yield lot
            if case.is_single_view and run.has_time():
                yield from AnyView().lots(case, case.reading, run, target)

    def expected(self, case: Case) -> np.ndarray:
        """(4, 4) where the patient's network expects it, else the nominal view."""
        return self._asked_first().expected(case)

    def warm_up(self, subject: Subject) -> None:
        """Load the network that is asked first."""
        self._asked_first().warm_up(subject)

    def _asked_first(self) -> InTurn:
        if PATIENT in self.settings.weights:
            return Patient(self.settings)
        return Rtpi(self.settings) if self._has_rtpi else Nominal(self.settings)

    @property
    def _has_rtpi(self) -> bool:
        return RTPI in self.settings.weights or network_is_available()


def network_is_available(weights: str = RTPI) -> bool:
    """Whether torch and a network's weights are installed; those of the pose network unless named."""
    return all(find_spec(name) for name in ("torch", "safetensors")) and has_weights(weights)
