"""What an initialiser proposes to a refiner."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from SOPIRegistrationLib.compare.case import Hypotheses


@dataclass(frozen=True)
class Proposal:
    """Hypotheses of one source in one reading of the X-rays.

    Attributes:
        source: its name.
        lots: hypotheses of one target after another; made when asked for.
        again: whether the same source was asked before, less thoroughly.
        from_afar: whether they are many, all around where the pose is expected.
        aligned: whether they were brought onto the X-ray in windows already.
        clear: margin (``Comparison.margin``) of a lot from which no other one is tried.
    """

    source: str
    lots: Iterator[Hypotheses]
    again: bool = False
    from_afar: bool = False
    aligned: bool = False
    clear: float = 0.0
