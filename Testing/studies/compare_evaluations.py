"""Whether a change made anything worse: two runs of `sopi evaluate` on the same cases, side by side.

    python Testing/studies/compare_evaluations.py before/results.csv after/results.csv

Prints a table: of each method and group the cases that both runs hold, and how these differ. Times are only
worth comparing where both ran on one machine at the same time.
"""

from __future__ import annotations

import argparse
import csv
from collections import Counter
from pathlib import Path

import numpy as np

POSE = [f"end_{axis}" for axis in ("rx_deg", "ry_deg", "rz_deg", "tx_mm", "ty_mm", "tz_mm")]
TRUTH = [name.replace("end_", "true_") for name in POSE]


def rows_of(path: Path) -> dict[tuple, dict]:
    """Rows of a results.csv by group, method, CT and case."""
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    return {(row.get("group", ""), row["method"], row.get("name", ""), row["case"]): row for row in rows}


def values(rows: list[dict], name: str) -> np.ndarray:
    """A column; NaN where a row has none."""
    return np.array([float(row[name]) if row.get(name) else np.nan for row in rows])


def poses(rows: list[dict]) -> np.ndarray:
    """(n, 6) poses found, deg and mm."""
    return np.stack([values(rows, name) for name in POSE], axis=1)


def verdicts(rows: list[dict]) -> str:
    """How many were accepted, to be reviewed, rejected; and the failures among the accepted."""
    counts = Counter(row["verdict"] for row in rows)
    wrong = sum(row["verdict"] == "accept" and row["failed"] == "1" for row in rows)
    return " / ".join(str(counts[name]) for name in ("accept", "review", "reject")) + f" ({wrong})"


def line(before: list[dict], after: list[dict]) -> list[str]:
    """The cells of one method."""
    for name in TRUTH:
        assert np.allclose(values(before, name), values(after, name), atol=1e-6), "other cases: other seeds?"
    apart = np.abs(poses(before) - poses(after))
    same = int((apart.max(axis=1) < 1e-6).sum())
    ratio = values(after, "seconds") / values(before, "seconds")
    cells = [str(len(before)), str(same), f"{np.median(apart[:, :3].max(1)):.4f}"]
    cells.append(f"{np.median(apart[:, 3:].max(1)):.4f}")
    for name, digits in (("succeeded", None), ("mtre_mm", 3), ("rotation_deg", 3)):
        pair = values(before, name), values(after, name)
        if digits is None:
            cells.append(" -> ".join(f"{np.nansum(one):.0f}" for one in pair))
        else:
            cells.append(" -> ".join(f"{np.nanmedian(one):.{digits}f}" for one in pair))
    cells.append(f"{verdicts(before)} -> {verdicts(after)}")
    seconds = (np.nanmedian(values(rows, "seconds")) for rows in (before, after))
    cells.append(" -> ".join(f"{one:.2f}" for one in seconds) + f" ({np.nanmedian(ratio):.2f})")
    return cells


def main() -> None:
    """Compare, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    options = parser.parse_args()
    before, after = rows_of(options.before), rows_of(options.after)
    both = [key for key in before if key in after]
    heads = (
        "group",
        "method",
        "cases in both",
        "same pose",
        "apart, deg (median)",
        "apart, mm (median)",
        "success",
        "mTRE, mm (median)",
        "rotation, deg (median)",
        "accept / review / reject (wrong among accepted)",
        "s (median; ratio case by case)",
    )
    print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
    for group, method in dict.fromkeys(key[:2] for key in both):
        keys = [key for key in both if key[:2] == (group, method)]
        cells = line([before[key] for key in keys], [after[key] for key in keys])
        print(f"| {group or '-'} | {method} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
