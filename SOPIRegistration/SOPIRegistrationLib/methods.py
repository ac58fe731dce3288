"""The initialisers and refinements that can be chosen: one list for the pipeline and for the panel.

Needs nothing beyond Python: the module's file reads it before the dependencies are installed.
"""

from __future__ import annotations

from dataclasses import dataclass

from SOPIRegistrationLib.installed import RTPI, has_weights


@dataclass(frozen=True)
class Method:
    """One entry of a list of choices.

    Attributes:
        name: value of ``RegistrationSettings``.
        label: as shown to a person.
        needs_torch: whether PyTorch must be installed for it.
        weights: name of the trained weights that it needs; None for none.
    """

    name: str
    label: str
    needs_torch: bool = False
    weights: str | None = None

    @property
    def is_installed(self) -> bool:
        """Whether its weights came with the module."""
        return self.weights is None or has_weights(self.weights)


# What RegistrationSettings.init names; a start pose is given as a matrix instead.
INITIALISERS = (
    Method("auto", "Automatic"),
    Method("rtpi", "Network (RTPI)", needs_torch=True, weights=RTPI),
    Method("search", "Search all poses"),
    Method("nominal", "Nominal view"),
)
# What RegistrationSettings.refine names.
REFINEMENTS = (
    Method("opt", "Optimise (coarse to fine)"),
    Method("none", "None"),
)
# The learned fine registration: the panel's Refine button works as soon as REFINEMENTS has an entry of this
# name, which it gets together with the weights.
LEARNED_REFINEMENT = "sopi"


def names(methods: tuple[Method, ...]) -> tuple[str, ...]:
    """The names of a list of choices."""
    return tuple(method.name for method in methods)
