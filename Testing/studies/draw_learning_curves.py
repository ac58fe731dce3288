"""A training's loss and validation errors over the X-rays seen, from its log.

python Testing/studies/draw_learning_curves.py --log RUN/log.csv --out Resources/Training/rtpi.png
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ERRORS = (
    ("rotation", "deg", "tab:blue"),
    ("in_plane", "mm", "tab:green"),
    ("depth", "mm", "tab:orange"),
)


def draw(rows: list[dict[str, float]], path: Path) -> None:
    pairs = [row["pairs"] / 1000 for row in rows]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), constrained_layout=True)
    left.plot(pairs, [row["loss"] for row in rows], color="0.3")
    left.set(ylabel="training loss")
    for name, unit, colour in ERRORS:
        median, high = ([row[f"{name}_{kind}{unit}"] for row in rows] for kind in ("", "p90_"))
        label = name.replace("_", " ")
        right.plot(pairs, median, color=colour, label=f"{label}, {unit}: median")
        right.plot(pairs, high, color=colour, linestyle=":", label="90th percentile")
    right.set(ylabel="error on validation patients")
    right.legend(fontsize=7, ncols=2)
    for axes in (left, right):
        axes.set(xlabel="X-rays seen, thousands", yscale="log")
        axes.grid(alpha=0.3, which="both")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--log", type=Path, required=True, help="log.csv of a training")
    parser.add_argument("--out", type=Path, required=True, help="PNG")
    options = parser.parse_args()
    with options.log.open() as file:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    draw(rows, options.out)


if __name__ == "__main__":
    main()
