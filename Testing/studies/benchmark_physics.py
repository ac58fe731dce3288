"""What the physics-based projector costs beside the monochromatic one: same volume, calls interleaved.

    python Testing/studies/benchmark_physics.py [--ct CT.nii.gz] [--repeats 30] [--out Resources/Evaluation]

Without a CT a lumbar phantom is projected. Prints a table; with --out also writes it as ``physics_cost.md``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np
from SOPIRegistrationLib.evaluation.benchmark import SOD_MM, THETA, benchmark_camera, processor
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.ct_preparation import prepare_ct
from SOPIRegistrationLib.images.files import read_volume
from SOPIRegistrationLib.projector import (
    PolychromaticVolume,
    ProjectorVolume,
    project,
    project_with_jacobian,
)
from SOPIRegistrationLib.projector.physics import Beam
from SOPIRegistrationLib.simulation import lumbar_phantom

PIXELS = (128, 256)
OPERATIONS = {"image": project, "image + Jacobian": project_with_jacobian}


def milliseconds(calls: list[Callable], repeats: int) -> np.ndarray:
    """(repeats, calls): every call in turn, again and again, so that all see the same load of the machine."""
    for call in calls:
        call()
    times = np.empty((repeats, len(calls)))
    for row in times:
        for column, call in enumerate(calls):
            began = perf_counter()
            call()
            row[column] = 1e3 * (perf_counter() - began)
    return times


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--ct", type=Path, help="CT, anything SimpleITK reads")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--out", type=Path, metavar="DIR")
    options = parser.parse_args()

    ct = prepare_ct(read_volume(options.ct) if options.ct else lumbar_phantom(0, 2.0).ct)
    T = PoseFrame(ct.rotation_centre_lps_mm, SOD_MM).T_from_theta(THETA)
    volumes = {
        "monochromatic": ProjectorVolume(ct.attenuation),
        "80 kV": PolychromaticVolume.from_attenuation(ct.attenuation, Beam(80)),
        "120 kV": PolychromaticVolume.from_attenuation(ct.attenuation, Beam(120)),
        "80 kV, titanium": PolychromaticVolume.from_attenuation(ct.attenuation, Beam(80), metal="Ti"),
    }
    shape = " x ".join(map(str, ct.attenuation.array.shape))
    lines = [
        f"{options.ct.name if options.ct else 'lumbar phantom'}, {shape} voxels, {options.repeats} repeats, "
        f"{processor()}, {date.today()}; milliseconds (median), and how many times the monochromatic ones "
        "(median of the ratios, 5 to 95 %)",
        "",
        f"| pixels | operation | {' | '.join(volumes)} |",
        "|---" * (2 + len(volumes)) + "|",
    ]
    for pixels in PIXELS:
        camera = benchmark_camera(pixels)
        for operation, function in OPERATIONS.items():
            times = milliseconds(
                [partial(function, volume, camera, T) for volume in volumes.values()], options.repeats
            )
            cells = [f"{np.median(times[:, 0]):.1f}"]
            for column in range(1, len(volumes)):
                ratios = times[:, column] / times[:, 0]
                low, high = np.quantile(ratios, (0.05, 0.95))
                cells.append(
                    f"{np.median(times[:, column]):.1f} ({np.median(ratios):.2f}, {low:.2f} to {high:.2f})"
                )
            lines.append(f"| {pixels} | {operation} | {' | '.join(cells)} |")
    table = "\n".join(lines)
    print(table)
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "physics_cost.md").write_text(table + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
