"""What every optimiser reports while it runs and returns when it ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class IterationReport:
    """The state after one iteration.

    Attributes:
        iteration: iterations done, from 1.
        value: objective at ``T``, larger is better.
        T: (4, 4) float64 rigid pose (best so far) in the frames of the start pose, mm.
        stage: label of the running stage, e.g. a resolution level.
    """

    iteration: int
    value: float
    T: np.ndarray
    stage: str = ""


# Called after every iteration; a true answer asks the optimiser to stop at once. None and False go on.
IterationCallback = Callable[[IterationReport], bool | None]


@dataclass(frozen=True)
class OptimisationResult:
    """The best pose an optimiser saw.

    Attributes:
        T: (4, 4) float64 rigid pose in the frames of the start pose, mm.
        value: objective at ``T``, larger is better.
        iterations: iterations done.
        evaluations: poses at which the objective was computed.
        stopped: whether the callback asked for the end; ``T`` is then the best pose up to there.
        reason: why it ended, for a log: "step", "gain", "iterations", "stopped", ...
    """

    T: np.ndarray
    value: float
    iterations: int
    evaluations: int
    stopped: bool
    reason: str
