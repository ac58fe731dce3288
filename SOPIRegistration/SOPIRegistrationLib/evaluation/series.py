"""Rows of results, method by method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from SOPIRegistrationLib.evaluation.figures import AXES
from SOPIRegistrationLib.evaluation.methods import INITIAL, METHODS, EvaluatedMethod
from SOPIRegistrationLib.evaluation.metrics import RIGHT_IN_PLANE_MM

# Smaller figures are shown as less than this.
SMALLEST_SHOWN = 1e-3


# A normal error is below so many standard deviations in 95 % of the cases.
_COVERING = 1.96


class Series:
    """All rows of one method on one group of cases.

    Attributes:
        name: of the method.
        group: of the cases; empty where there is one only.
        label: of the method, for people.
        summary: what it does.
        rows: its rows.
        solved: those without an error.
    """

    def __init__(
        self, name: str, rows: Sequence[dict], method: EvaluatedMethod | None = None, group: str = ""
    ):
        method = method or METHODS.get(name)
        self.name, self.group = name, group
        self.label, self.summary = (name, "") if method is None else (method.label, method.summary)
        self.rows = list(rows)
        self.solved = [row for row in rows if not row["error"]]

    @property
    def errors(self) -> int:
        return len(self.rows) - len(self.solved)

    @property
    def has_truth(self) -> bool:
        return any(row["mtre_mm"] for row in self.solved)

    @property
    def is_judged(self) -> bool:
        """Whether its rows say what is right, as those of strangers do without a truth."""
        return any(row["right"] for row in self.rows)

    @property
    def is_timed(self) -> bool:
        """Whether its seconds mean anything: taking the start as it is takes none."""
        return self.name != INITIAL and len(self.values("seconds")) > 0

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

    def within(self, limits: Sequence[tuple[str, float]]) -> tuple[int, int]:
        """How many of how many rows have all errors within limits; one with an error does not."""
        counted = [row for row in self.rows if row["error"] or all(row[column] for column, _ in limits)]
        good = [row for row in counted if not row["error"]]
        kept = [row for row in good if all(float(row[column]) <= most for column, most in limits)]
        return len(kept), len(counted)

    def accepted(self, wrong: str = "right", value: str = "0") -> tuple[int, int, int]:
        """How many verdicts there are, how many are accept, and how many of those have ``value`` in the
        column ``wrong``."""
        judged = [row for row in self.solved if row["verdict"]]
        accepted = [row for row in judged if row["verdict"] == "accept"]
        return len(judged), len(accepted), sum(row[wrong] == value for row in accepted)

    def accepted_of_right(self) -> tuple[int, int]:
        """How many of the right poses with a verdict are accepted."""
        right = [row for row in self.solved if row["verdict"] and row["right"] == "1"]
        return sum(row["verdict"] == "accept" for row in right), len(right)

    def predicted(self, prefix: str = "predicted") -> dict[str, tuple[float, int, int]]:
        """How well predicted errors are, axis by axis, of poses at which the picture is right.

        That is within 2 mm at the object: where the geometry is wrong, the pose may be further off. How exact
        a measured truth is counts as well.

        Args:
            prefix: "predicted" (the total) or "statistical".

        Returns:
            By axis: the median of actual over predicted error, 0.67 for normal ones; how many 95 % intervals
            (1.96 standard deviations either way) hold the truth; how many there are.
        """
        found = {}
        for axis in AXES:
            names = f"error_{axis}", f"{prefix}_{axis}"
            rows = [
                row
                for row in self.solved
                if all(row[name] for name in ("mpd_object_mm", *names))
                and float(row["mpd_object_mm"]) <= RIGHT_IN_PLANE_MM
            ]
            if not rows:
                continue
            error, deviation = (np.array([float(row[name]) for row in rows]) for name in names)
            deviation = np.hypot(deviation, [float(row.get(f"truth_{axis}") or 0) for row in rows])
            ratio = np.abs(error) / np.maximum(deviation, 1e-12)
            found[axis] = float(np.median(ratio)), int((ratio <= _COVERING).sum()), len(rows)
        return found


def series_of(
    rows: Sequence[dict], variants: Mapping[str, EvaluatedMethod] | None = None, group: str = ""
) -> list[Series]:
    """The rows of a group method by method, in the order of ``METHODS`` and of the variants."""
    known = {**METHODS, **(variants or {})}
    rows = [row for row in rows if row["group"] == group]
    names = list(dict.fromkeys([*known, *(row["method"] for row in rows)]))
    found = [
        Series(name, [row for row in rows if row["method"] == name], known.get(name), group) for name in names
    ]
    return [one for one in found if one.rows]
