"""Rows of results, method by method."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from SOPIRegistrationLib.evaluation.methods import METHODS

# Smaller figures are shown as less than this.
SMALLEST_SHOWN = 1e-3


class Series:
    """All rows of one method.

    Attributes:
        name: of the method.
        rows: its rows.
        solved: those without an error.
    """

    def __init__(self, name: str, rows: Sequence[dict]):
        self.name = name
        self.label = METHODS[name].label if name in METHODS else name
        self.rows = list(rows)
        self.solved = [row for row in rows if not row["error"]]

    @property
    def errors(self) -> int:
        return len(self.rows) - len(self.solved)

    @property
    def has_truth(self) -> bool:
        return any(row["mtre_mm"] for row in self.solved)

    @property
    def is_timed(self) -> bool:
        """Whether its seconds mean anything: taking the start as it is takes none."""
        return self.name != "initial" and len(self.values("seconds")) > 0

    def values(self, column: str) -> np.ndarray:
        """(n,) finite figures of a column, of the rows that have one."""
        values = np.array([float(row[column]) for row in self.solved if row[column]])
        return values[np.isfinite(values)]

    def rate(self, column: str, if_error: int) -> tuple[int, int]:
        """How many of how many rows are so; one with an error counts as ``if_error`` if it has a truth."""
        values = self.values(column)
        errors = [row for row in self.rows if row["error"]]
        # A case that could not even be made has no start, and counts.
        counted = sum(1 for row in errors if row["start_mtre_mm"] or not row["start_tx_mm"])
        return int(values.sum()) + if_error * counted, len(values) + counted


def series_of(rows: Sequence[dict]) -> list[Series]:
    """The rows method by method, in the order of ``METHODS``."""
    names = list(dict.fromkeys([*METHODS, *(row["method"] for row in rows)]))
    found = [Series(name, [row for row in rows if row["method"] == name]) for name in names]
    return [one for one in found if one.rows]
