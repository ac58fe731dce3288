"""How running work tells what it has reached, and the one way in which it is stopped.

Needs nothing beyond Python.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Progress:
    """State of running work.

    Attributes:
        stage: what is being done.
        fraction: share of the work done, 0 to 1.
        T: (4, 4) best pose so far, mm, in the frames of the start pose; None before there is one.
        similarity: what is maximised, at ``T``; None where nothing is.
        bodies: (4, 4) best poses so far of several bodies by name, of those that move now; of a CT that
            was cut up, as one piece, by an empty name. Empty where one body moves alone.
    """

    stage: str
    fraction: float = 0.0
    T: np.ndarray | None = None
    similarity: float | None = None
    bodies: Mapping[str, np.ndarray] = field(default_factory=dict)


# Called several times a second. Whoever wants the work to stop raises ``errors.Cancelled`` in it.
Report = Callable[[Progress], None]
