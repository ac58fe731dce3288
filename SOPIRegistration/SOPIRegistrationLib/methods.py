"""The initialisers and refinements that can be chosen: one list for the pipeline and for the panel.

Needs nothing beyond Python: the module's file reads it before the dependencies are installed.
"""

from __future__ import annotations

from dataclasses import dataclass

from SOPIRegistrationLib.installed import IFR, PATIENT, RTPI, has_weights


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
    Method("patient", "Network of this patient", needs_torch=True, weights=PATIENT),
    Method("search", "Search all poses"),
    Method("nominal", "Nominal view"),
)
# The learned fine registration, which the panel's Refine button runs.
LEARNED_REFINEMENT = "sopi"
# What RegistrationSettings.refine names.
REFINEMENTS = (
    Method("opt", "Optimise (coarse to fine)"),
    Method("physics", "Optimise, DRRs of a beam"),
    Method("physics+opt", "DRRs of a beam, then optimise"),
    Method("sopi+opt", "Learned, then optimise", needs_torch=True, weights=IFR),
    Method(LEARNED_REFINEMENT, "Learned (SOPI)", needs_torch=True, weights=IFR),
    Method("none", "None"),
)


def names(methods: tuple[Method, ...]) -> tuple[str, ...]:
    """The names of a list of choices."""
    return tuple(method.name for method in methods)
