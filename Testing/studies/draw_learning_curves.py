"""A training's loss and validation errors, from its log and from what it printed.

    python Testing/studies/draw_learning_curves.py --log RUN/log.csv --out Resources/Training/ifr.png
    python Testing/studies/draw_learning_curves.py --log RUN/log.csv --printed RUN.txt --out rtpi.png

The log has a row for each validation, which may be few; what is printed has the loss every 50 steps.
"""

from __future__ import annotations

import argparse
import csv
import re
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ERRORS = (
    ("rotation", "deg", "tab:blue"),
    ("in_plane", "mm", "tab:green"),
    ("depth", "mm", "tab:orange"),
)


def printed_losses(text: str, first: int) -> list[tuple[int, float]]:
    """(step, loss) of the lines of a training from a step on; one that was resumed goes back some steps."""
    found = re.findall(r"step (\d+) of \d+, loss (-?[\d.]+)", text)
    latest = {int(step): float(loss) for step, loss in found}
    return sorted(item for item in latest.items() if item[0] >= first)


def draw(rows: list[dict[str, float]], losses: list[tuple[int, float]], path: Path) -> None:
    steps = [row["step"] for row in rows]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), constrained_layout=True)
    left.plot(*zip(*(losses or [(row["step"], row["loss"]) for row in rows]), strict=True), color="0.3")
    left.set(ylabel="training loss")
    for name, unit, colour in ERRORS:
        median, high = ([row[f"{name}_{kind}{unit}"] for row in rows] for kind in ("", "p90_"))
        label = name.replace("_", " ")
        right.plot(steps, median, color=colour, marker=".", label=f"{label}, {unit}: median")
        right.plot(steps, high, color=colour, linestyle=":", label="90th percentile")
    right.set(ylabel="error on validation patients")
    right.legend(fontsize=7, ncols=2)
    for axes in (left, right):
        axes.set(xlabel="steps")
        axes.grid(alpha=0.3, which="both")
    right.set(yscale="log")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--log", type=Path, required=True, help="log.csv of a training")
    parser.add_argument("--printed", type=Path, help="what the training printed")
    parser.add_argument("--from-step", type=int, default=0, help="the first step drawn (0)")
    parser.add_argument("--out", type=Path, required=True, help="PNG")
    options = parser.parse_args()
    with options.log.open() as file:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    rows = [row for row in rows if row["step"] >= options.from_step]
    losses = printed_losses(options.printed.read_text(), options.from_step) if options.printed else []
    draw(rows, losses, options.out)


if __name__ == "__main__":
    main()
