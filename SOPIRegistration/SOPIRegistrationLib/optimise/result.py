"""What every optimiser returns when it ends."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class OptimisationResult:
    """The best pose an optimiser saw.

    Attributes:
        T: (4, 4) float64 rigid pose in the frames of the start pose, mm.
        value: objective at ``T``, larger is better.
        iterations: iterations done.
        evaluations: poses at which the objective was computed.
        reason: why it ended, for a log: "step", "gain", "iterations", ...
    """

    T: np.ndarray
    value: float
    iterations: int
    evaluations: int
    reason: str
