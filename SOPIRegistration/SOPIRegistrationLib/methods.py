"""The initialisers and refinements that can be chosen: one entry each, and nothing else to add.

A script may add entries of its own to the lists before it registers.
Needs nothing beyond Python: the module's file reads it before the dependencies are installed, and what an
entry names is imported when it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from SOPIRegistrationLib.installed import IFR, PATIENT, RTPI, has_weights


@dataclass(frozen=True)
class Method:
    """One entry of a list of choices.

    Attributes:
        name: value of ``settings.RegistrationSettings``.
        made_by: "module:class" of this library, or the class itself. Initialisers
            (``initialise.initialiser.Initialiser``) are made of the settings and the start pose or None,
            refiners (``refine.refiner.Refiner``) of the settings.
        needs_torch: whether PyTorch must be installed for it.
        weights: name of the trained weights that it needs; None for none.
    """

    name: str
    made_by: str | Callable[..., Any]
    needs_torch: bool = False
    weights: str | None = None

    @property
    def is_installed(self) -> bool:
        """Whether its weights came with the module."""
        return self.weights is None or has_weights(self.weights)

    def made(self, *arguments) -> Any:
        """The initialiser or refiner; its module is imported now."""
        if callable(self.made_by):
            return self.made_by(*arguments)
        module, name = self.made_by.split(":")
        return getattr(import_module(f"SOPIRegistrationLib.{module}"), name)(*arguments)


# The start pose that is given beside the settings.
GIVEN = "given"
# What RegistrationSettings.init names.
INITIALISERS = [
    Method("auto", "initialise.auto:Auto"),
    Method(RTPI, "initialise.networks:Rtpi", needs_torch=True, weights=RTPI),
    Method(PATIENT, "initialise.networks:Patient", needs_torch=True, weights=PATIENT),
    Method("search", "initialise.templates:Search"),
    Method("nominal", "initialise.starts:Nominal"),
    Method(GIVEN, "initialise.starts:Given"),
]
# The learned fine registration, which the panel's Refine button runs.
LEARNED_REFINEMENT = "sopi"
# What RegistrationSettings.refine names.
REFINEMENTS = [
    Method("opt", "refine.coarse_to_fine:CoarseToFine"),
    Method("physics", "refine.beam:Physics"),
    Method("physics+opt", "refine.beam:PhysicsThenOptimised"),
    Method("sopi+opt", "refine.learned:LearnedThenOptimised", needs_torch=True, weights=IFR),
    Method(LEARNED_REFINEMENT, "refine.learned:Learned", needs_torch=True, weights=IFR),
    Method("none", "refine.none:NoRefinement"),
]


def names(methods: Sequence[Method]) -> tuple[str, ...]:
    """The names of a list of choices."""
    return tuple(method.name for method in methods)


def initialiser(settings, start=None):
    """The initialiser that settings name; ``start`` (4, 4) T_lps_to_world if given."""
    return _chosen(INITIALISERS, settings.init).made(settings, start)


def refiner(settings):
    """The refiner that settings (``settings.RegistrationSettings``) name."""
    return _chosen(REFINEMENTS, settings.refine).made(settings)


def _chosen(methods: Sequence[Method], name: str) -> Method:
    return next(method for method in methods if method.name == name)
