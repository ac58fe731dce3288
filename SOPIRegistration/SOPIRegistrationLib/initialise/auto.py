"""The initialiser that is used unless another one is named."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np

from SOPIRegistrationLib.compare import Case
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
