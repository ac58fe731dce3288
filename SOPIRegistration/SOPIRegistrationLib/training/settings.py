"""How networks are trained: settings with their defaults, ranges, units and help, once for all who ask.

The command line takes its options from here, and no torch is needed: their help is there at once. What has a
help of its own in the fields is not told again in the docstrings.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry.views import NOMINAL_VIEWS

# "body": X-rays show all of the CT. "bone": its bones alone. "part": its bones among others that it does not
# show, as of a segmented bone. "auto": "part" for a segmented bone, else "body".
CONTENTS = ("auto", "body", "bone", "part")
# "correction": mean absolute error. "geodesic": Salehi et al., IEEE TMI 38(2), 2019. "pose-dependent": each
# parameter weighted by how much it moves the projected bones at that pose, after Grimm et al., IEEE TMI
# 40(9), 2021.
LOSSES = ("correction", "geodesic", "pose-dependent")

Part = TypeVar("Part")


def _option(default: Any, unit: str | None, text: str, **more) -> Any:
    return field(default=default, metadata={"unit": unit, "help": text, **more})


def _count(default: int | None, text: str) -> Any:
    return _option(default, "N", text, type=int, range=(1, None))


def _share(default: float, text: str) -> Any:
    return _option(default, "SHARE", f"{text}, 0 to 1", type=float, range=(0, 1))


def _of(base: type, name: str, default: Any) -> Any:
    """A field of a base class with another default."""
    return field(default=default, metadata=base.__dataclass_fields__[name].metadata)


@dataclass(frozen=True)
class LoopSettings:
    """How long, and how fast, anything is trained.

    Attributes:
        steps: None for no limit; several processes have a batch each.
        budget_seconds: of training, those of runs before included; None for no limit.
        time_limit: None for none.
        learning_rate: of ``muon.Muon``, reached after ``warm_up`` steps; falls to a hundredth along a cosine.
        warm_up: steps.
        weight_decay: of kernels and matrices.
        averaging: decay of the moving average of the weights that is validated and kept.
        validate_every: None for no such rule.
        validate_seconds: how often, by the clock; None for no such rule.
        checkpoint_seconds: how often the state is saved.
        validate_first: whether the weights begun with are validated, and kept where none are better.
        seed: the same one gives the same training.
    """

    steps: int | None = _count(None, "batches")
    budget_seconds: float | None = None
    time_limit: float | None = _option(
        None,
        "SECONDS",
        "stop after so long even before the last step; the same command goes on from there",
        type=float,
    )
    learning_rate: float = _option(0.02, "X", "highest of the training", type=float)
    warm_up: int = 100
    weight_decay: float = 0.01
    averaging: float = 0.995
    validate_every: int | None = _count(None, "steps between validations")
    validate_seconds: float | None = None
    checkpoint_seconds: float = 120.0
    validate_first: bool = False
    seed: int = _option(0, "N", "of everything random", type=int)


@dataclass(frozen=True)
class PatientMix:
    """Shares of the kinds of patients.

    Attributes:
        real: made from real CTs, where there are any, of those who are neither of random structures nor of
            other regions.
    """

    real: float = 0.2
    structures: float = _share(0.0, "patients made of random structures, each another, in any orientation")
    regions: float = _share(
        0.0,
        "of the others, those of other regions than the trunk: knees, wrists, hips, heads, chests, long "
        "bones, bent spines; half of them lie in any orientation",
    )
    bones: float = _share(0.15, "patients of whom CT and X-ray show bones alone, which is learned sooner")
    parts: float = _share(0.0, "patients of whose bones the CT shows one, segmented, in an X-ray of all")


@dataclass(frozen=True)
class PairOptions:
    """What X-rays to draw.

    Attributes:
        start_deviation: standard deviations of starts that lie about the true pose instead, as a twist about
            the rotation centre in camera axes (deg, mm), times a factor log-uniform up to 1.
        start_spread: decades over which that factor is spread.
        misjudged: how far the cameras are not what the registration is told (see ``pairs.misjudged``).
        cut: whether X-rays of which the CT shows one bone are cut to it, and valid about its DRR at the
            start only, as the fine registration compares them.
    """

    views: tuple[str, ...] = _option(
        tuple(NOMINAL_VIEWS),
        "VIEW",
        "nominal views of the X-rays; one alone is learned far sooner",
        choices=tuple(NOMINAL_VIEWS),
    )
    strength: float = _option(
        1.0,
        "X",
        "largest of the X-rays' degradations, 0 to 1; less is learned sooner",
        type=float,
        range=(0, 1),
    )
    c_arms: float = _share(0.5, "patients X-rayed with random C-arms, the others with a Perlove PLX118F")
    nominal_starts: float = _share(
        0.7,
        "starts at the nominal view, the others some 20 degrees from the true one",
    )
    start_deviation: tuple[float, ...] | None = None
    misjudged: float = 1.0
    starts: int = _count(1, "poses from which an X-ray is approached")
    elsewhere: float = _share(
        0.0, "X-rays centred anywhere along the CT, the others near the middle of its bones"
    )
    rolled: float = _share(0.0, "X-rays turned by any angle, the others upright")
    shifted: float = _share(
        0.0, "X-rays in which the rotation centre lies anywhere, the others near the middle"
    )
    close: float = _share(0.0, "X-rays of which a part of the field is seen, as the finest images show it")
    cut: bool = False
    start_spread: float = 1.5


@dataclass(frozen=True)
class PairSettings(LoopSettings, PairOptions, PatientMix):
    """How to train on X-rays of many patients: on whom, on which, and how.

    Attributes:
        renew_every: steps after which one patient is replaced.
    """

    steps: int | None = _of(LoopSettings, "steps", 20_000)
    validate_every: int | None = _of(LoopSettings, "validate_every", 250)
    # Of everything that the networks in use meet.
    structures: float = _of(PatientMix, "structures", 0.4)
    regions: float = _of(PatientMix, "regions", 0.4)
    parts: float = _of(PatientMix, "parts", 0.15)
    elsewhere: float = _of(PairOptions, "elsewhere", 0.5)
    rolled: float = _of(PairOptions, "rolled", 0.3)
    shifted: float = _of(PairOptions, "shifted", 0.3)
    patients: int = _count(8, "patients in a batch of a process")
    group: int = _count(4, "X-rays of each patient")
    pool: int = _count(48, "patients in memory at once, in each process")
    phantoms: int = _count(80, "different phantoms, each varied on and on")
    renew_every: int = 5
    validation_patients: int = _count(12, "phantoms kept for validation")

    def part(self, base: type[Part]) -> Part:
        """What they say of one of their bases."""
        return base(**{one.name: getattr(self, one.name) for one in fields(base)})


@dataclass(frozen=True)
class PatientTrainingSettings(LoopSettings):
    """How to train a network for one patient.

    Attributes:
        batch: X-rays of a step.
        first_drrs: DRRs made before the first step.
        new_drrs: DRRs added in each step; 0 for a set that stays as it is.
        deviation: standard deviations of the poses about the reference: rx, ry, rz (deg), tx, ty, tz (mm);
            None for about what C-arm views differ by (``patient_xrays.default_deviation``).
        validation_poses: X-rays at poses that are never trained on.
    """

    budget_seconds: float | None = 600.0
    validate_seconds: float | None = 15.0
    checkpoint_seconds: float = 30.0
    batch: int = 32
    first_drrs: int = 512
    new_drrs: int = 8
    deviation: tuple[float, ...] | None = None
    content: str = _option(
        "auto",
        None,
        "what X-rays show: all of the CT (body), its bones alone (bone), or its bones among others (part); "
        "auto takes part for a segmented bone, else body",
        choices=CONTENTS,
    )
    strength: float = _of(PairOptions, "strength", 1.0)
    loss: str = _option(
        "correction",
        None,
        "of the pose's parameters: the plain error, the geodesic distance, or each weighted by what it moves",
        choices=LOSSES,
    )
    validation_poses: int = 128

    def __post_init__(self):
        if self.content not in CONTENTS:
            raise InputError(f"unknown content '{self.content}': use {', '.join(CONTENTS)}")
        if self.loss not in LOSSES:
            raise InputError(f"unknown loss '{self.loss}': use {', '.join(LOSSES)}")
        if not self.budget_seconds > 0:
            raise InputError(f"the budget must be above 0 minutes, not {self.budget_seconds / 60:g}")
        if self.deviation is not None and (len(self.deviation) != 6 or min(self.deviation) < 0):
            raise InputError("the range of poses must be six numbers, 0 or above: deg, deg, deg, mm, mm, mm")
