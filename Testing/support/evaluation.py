"""Small evaluations, run by the command line and read back."""

from __future__ import annotations

import csv
from pathlib import Path

from SOPIRegistrationLib.cli.main import main
from SOPIRegistrationLib.registration.outputs import write_volume
from SOPIRegistrationLib.simulation.phantom import lumbar_phantom

PIXELS = 48


def write_ct(folder: Path) -> Path:
    """File of a coarse phantom's CT."""
    path = folder / "ct.nrrd"
    write_volume(path, lumbar_phantom(3, 4.0, noise_hu=0.0).ct)
    return path


def evaluate(out: Path, ct: Path, *options) -> int:
    """``sopi evaluate`` on small X-rays of our own projector."""
    words = ["evaluate", "--out", out, "--ct", ct, "--pixels", PIXELS, "--target", "ours", *options]
    return main([str(word) for word in words])


def rows_of(out: Path) -> dict[tuple[int, str], dict]:
    """The rows of a folder by case and method."""
    with (out / "results.csv").open(encoding="utf-8", newline="") as stream:
        return {(int(row["case"]), row["method"]): row for row in csv.DictReader(stream)}


def poses(row: dict) -> list[str]:
    """True, start and end pose of a row, as text."""
    return [value for name, value in row.items() if name.startswith(("true_", "start_", "end_"))]
