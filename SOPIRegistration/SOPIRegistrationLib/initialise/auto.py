"""The initialiser that is used unless another one is named."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from itertools import chain

import numpy as np

from SOPIRegistrationLib.compare import Case, Proposal, Run
from SOPIRegistrationLib.initialise.any_view import AnyView, StatedView
from SOPIRegistrationLib.initialise.bone_pool import BonePool, turned_pool
from SOPIRegistrationLib.initialise.initialiser import InTurn, Source
from SOPIRegistrationLib.initialise.networks import Patient, PoseNetwork, Rtpi
from SOPIRegistrationLib.initialise.starts import AboutExpected, Nominal
from SOPIRegistrationLib.initialise.templates import SEARCH, THOROUGH_SEARCH
from SOPIRegistrationLib.installed import PATIENT, RTPI, has_weights
from SOPIRegistrationLib.subject import Subject

_ALL_VIEWS, _SIDE_VIEWS = AnyView(), AnyView(turned=True)
# Finds what is as it is said to be, but tilted further than those reach, or hidden on few pixels.
_AS_STATED = StatedView()
# Shifts further out come second: the more places there are, the more of them look alike.
_ALL_OF_A_LONG_SCAN = AnyView(candidates=150, to_the_ends=True)
# Hard pictures hide the truth among many poses as good as it, fewer of them on finer images.
_ALL_VIEWS_FINER = AnyView(pixels=48, candidates=200, tilt_deg=53.6)
# In turn; those of one proposal are judged together.
_SEARCHES = ((_ALL_VIEWS, _AS_STATED), (_SIDE_VIEWS,), (_ALL_OF_A_LONG_SCAN,), (_ALL_VIEWS_FINER,))
# In degraded pictures wrong poses, seen the wrong way round, reach a margin of 0.05: of less than this all
# that a proposal holds is looked at before the best is refined.
_CLEAR = 0.08
_BONE = BonePool()
# Below this margin it is not the picture that is hard.
_WORTH_A_CLOSER_LOOK = -0.3


class Auto(InTurn):
    """A pose network and the expected view first; then all that the X-ray may be.

    The network is the patient's own if its weights are given, else that for everybody; without torch or
    weights it is the nominal view alone. Of several calibrated X-rays it is known how they were taken:
    there the search goes about the stated view only. A start that is given besides stands for the expected
    view. One bone in an X-ray of more is sought around where it is expected, by itself.
    """

    def sources(self, case: Case) -> tuple[Source, ...]:
        """In turn, of a segmented bone or several X-rays; of one X-ray of a body the first only."""
        weights = self.settings.weights
        if case.is_of_a_part:
            patient = (PoseNetwork(PATIENT, weights[PATIENT]),) if PATIENT in weights else ()
            return (*patient, _BONE)
        if PATIENT in weights:
            first = PoseNetwork(PATIENT, weights[PATIENT], with_expected=True)
        elif self._has_rtpi:
            first = PoseNetwork(RTPI, weights.get(RTPI), with_expected=True, looks_again=False)
        else:
            first = AboutExpected("nominal")
        return first, SEARCH, THOROUGH_SEARCH

    def propose(self, case: Case, run: Run) -> Iterator[Proposal]:
        """Of one X-ray of a body all that it may be, the likeliest first; of others each source in turn.

        What is stated of the X-ray comes first, but is not believed against the images.
        """
        sources = self.sources(case)
        either_way = case.is_single_view and self.settings.mirrored == "auto"
        case = replace(case, may_be_mirrored=either_way)
        if case.is_of_a_part:
            proposals = self._of_a_bone(case, run, sources)
        elif case.is_single_view:
            proposals = self._of_all_views(replace(case, any_view=True), run, sources[0])
        else:
            proposals = super().propose(case, run)
        # Something is proposed however little time there is.
        yield next(proposals)
        while run.has_time() and (proposal := next(proposals, None)) is not None:
            yield proposal

    @staticmethod
    def _of_a_bone(case: Case, run: Run, sources: Sequence[Source]) -> Iterator[Proposal]:
        """What each source says; where nothing agrees, a long bone turned about itself, and then the pool of
        the X-ray turned over.

        Both polarities are the sources' own.
        """
        for source in sources:
            lots = source.lots(case, case.reading, run)
            yield Proposal(source.name, lots)
        turned = turned_pool()
        yield Proposal(turned.name, turned.lots(case, case.reading, run), again=True, from_afar=True)
        for reading in case.stored_either_way(case.reading)[1:]:
            yield Proposal(_BONE.name, _BONE.lots(case, reading, run), from_afar=True)

    @staticmethod
    def _of_all_views(case: Case, run: Run, first: Source) -> Iterator[Proposal]:
        """Of each target what the first source says, then what is found in all views."""
        asked = first.lots(case, case.reading, run)
        for target, lot in zip(case.targets, asked, strict=False):
            yield Proposal(first.name, iter([lot]), clear=_CLEAR)
            for searches in _SEARCHES:
                if _ALL_VIEWS_FINER not in searches or run.margin > _WORTH_A_CLOSER_LOOK:
                    lots = chain.from_iterable(one.lots(case, case.reading, run, target) for one in searches)
                    yield Proposal(AnyView.name, lots, again=True, aligned=True, clear=_CLEAR)

    def expected(self, case: Case) -> np.ndarray:
        """(4, 4) the given start, else where the patient's network expects it, else the nominal view."""
        if self.start is not None:
            return np.asarray(self.start, dtype=np.float64)
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


def network_is_available() -> bool:
    """Whether torch and the pose network's weights are installed."""
    return all(find_spec(name) for name in ("torch", "safetensors")) and has_weights(RTPI)
