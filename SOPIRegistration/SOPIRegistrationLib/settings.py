"""The settings of a registration: names, choices, defaults, units and help, once for all who ask.

The command line, scripts, evaluation and the panel take them from here (labels belong to the panel). Needs
nothing beyond Python: the module's file reads it before the dependencies are installed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path

from SOPIRegistrationLib import methods
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.installed import IFR, PATIENT, RTPI
from SOPIRegistrationLib.methods import GIVEN


def _option(default: str, named: Callable[[], tuple[str, ...]], text: str):
    return field(default=default, metadata={"choices": named, "help": text})


@dataclass(frozen=True)
class RegistrationSettings:
    """How to register.

    Attributes:
        init: name of the initialiser; "given" takes the start pose that stands beside the settings.
        refine: name of the refinement.
        content: what DRRs are made of; "auto" takes what agrees better with the X-ray.
        polarity: what bones are in the X-ray as stored; "auto" detects it, and tries the other one, too.
        mirrored: whether the X-ray is stored mirrored; "auto" tries both where the initialiser is "auto".
        time_limit: s; after it "auto" tries nothing new, and the result says so.
        device: where to compute.
        weights: files of weights by network (``NETWORKS``), over the installed ones.
    """

    init: str = _option(
        "auto",
        lambda: methods.names(methods.INITIALISERS),
        "start: pose network (rtpi, needs torch); that trained for this CT (patient, with weights); search "
        "over +-50 deg; nominal view; auto takes network and nominal view, and searches where these fail",
    )
    refine: str = _option(
        "opt",
        lambda: methods.names(methods.REFINEMENTS),
        "coarse-to-fine optimisation (opt); with DRRs of an X-ray beam at the fine levels (physics), and "
        "then without (physics+opt); the learned similarity (sopi, needs torch); this one, then the "
        "optimisation (sopi+opt); none",
    )
    content: str = _option(
        "auto",
        lambda: ("auto", "body", "bone"),
        "what DRRs are made of; auto takes what agrees better with the X-ray",
    )
    polarity: str = _option(
        "auto",
        lambda: ("auto", "bone-dark", "bone-bright"),
        "bones in the X-ray as stored; auto detects it, and tries the other one where that fails",
    )
    mirrored: str = _option(
        "auto",
        lambda: ("auto", "yes", "no"),
        "whether the X-ray is stored mirrored, as one faces the patient; auto finds out (with --init auto)",
    )
    time_limit: float = field(
        default=20.0,
        metadata={"unit": "SECONDS", "help": "after which --init auto tries nothing new"},
    )
    device: str = _option("auto", lambda: ("auto", "cpu"), "where to compute")
    weights: Mapping[str, str | Path] = field(default_factory=dict)

    def __post_init__(self):
        for one in options():
            value, known = getattr(self, one.name), choices(one)
            if value not in known:
                raise InputError(f"unknown {one.name} '{value}': use one of {', '.join(known)}")
        if not self.time_limit > 0:
            raise InputError(f"the time limit must be positive, not {self.time_limit} s")
        if self.init == PATIENT and PATIENT not in self.weights:
            raise InputError(
                "a patient's network has no weights: give the file that sopi train patient made for this "
                f"CT with --weights {PATIENT}=FILE"
            )


# Whose weights may be given.
NETWORKS = (RTPI, PATIENT, IFR)


def options() -> tuple[Field, ...]:
    """The settings that are a choice among names, each with its text of help in ``metadata["help"]``."""
    return tuple(one for one in fields(RegistrationSettings) if "choices" in one.metadata)


def option(name: str) -> Field:
    """A setting by its name."""
    return next(one for one in fields(RegistrationSettings) if one.name == name)


def choices(one: Field) -> tuple[str, ...]:
    """The names among which a setting chooses."""
    return one.metadata["choices"]()


__all__ = ["GIVEN", "NETWORKS", "RegistrationSettings", "choices", "option", "options"]
