"""How a network for one patient is trained."""

from __future__ import annotations

from dataclasses import dataclass

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.training.trainer import LoopSettings

# "body": X-rays show all of the CT. "bone": its bones alone. "part": its bones among others that it does not
# show, as of a segmented bone. "auto": "part" for a segmented bone, else "body".
CONTENTS = ("auto", "body", "bone", "part")
# "correction": mean absolute error. "geodesic": Salehi et al., IEEE TMI 38(2), 2019. "pose-dependent": each
# parameter weighted by how much it moves the projected bones at that pose, after Grimm et al., IEEE TMI
# 40(9), 2021.
LOSSES = ("correction", "geodesic", "pose-dependent")


@dataclass(frozen=True)
class PatientTrainingSettings(LoopSettings):
    """How to train.

    Attributes:
        batch: X-rays of a step.
        first_drrs: DRRs made before the first step.
        new_drrs: DRRs added in each step; 0 for a set that stays as it is.
        deviation: standard deviations of the poses about the reference: rx, ry, rz (deg), tx, ty, tz (mm);
            None for about what C-arm views differ by (``default_deviation``).
        content: one of ``CONTENTS``.
        strength: largest of the X-rays' degradations.
        loss: one of ``LOSSES``.
        validation_poses: X-rays at poses that are never trained on.
    """

    budget_seconds: float | None = 600.0
    validate_seconds: float | None = 15.0
    checkpoint_seconds: float = 30.0
    batch: int = 32
    first_drrs: int = 512
    new_drrs: int = 8
    deviation: tuple[float, ...] | None = None
    content: str = "auto"
    strength: float = 1.0
    loss: str = "correction"
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
