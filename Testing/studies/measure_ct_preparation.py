"""Time and peak memory of preparing a large CT, measured in a process of its own.

    python Testing/studies/measure_ct_preparation.py [--shape 600 512 512]

The CT is synthetic: an elliptic torso with lungs, ribs, a spine and arms, on a table, in a circle of
reconstruction, with noise. Prints one JSON line a case.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time

import numpy as np


def synthetic_ct(shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """int16 HU (k, j, i); spacing (k, j, i) in mm."""
    slices, rows, columns = shape
    y, x = np.meshgrid(
        (np.arange(rows) - rows / 2) * spacing_mm[1],
        (np.arange(columns) - columns / 2) * spacing_mm[2],
        indexing="ij",
    )
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 15, (8, rows, columns))
    array = np.empty(shape, dtype=np.int16)
    for k in range(slices):
        z = k * spacing_mm[0]
        width, depth = 165 + 10 * np.sin(z / 90), 110 + 8 * np.cos(z / 70)
        torso = (x / width) ** 2 + (y / depth) ** 2
        plane = np.full((rows, columns), -1000.0)
        plane[torso < 1] = 40
        plane[(torso > 0.85) & (torso < 1)] = -100
        for side in (-1, 1):
            plane[((x - side * 75) / 55) ** 2 + ((y + 10) / 70) ** 2 < max(0, np.sin(z / 180))] = -850
            plane[((x - side * 198) / 22) ** 2 + (y / 28) ** 2 < 1] = 30
            plane[np.hypot(x - side * 198, y) < 10] = 900
        plane[(np.abs(torso - 0.8) < 0.02) & (np.sin(z / 4 + x / 15) > 0.3)] = 700
        plane[np.hypot(x, y - 60) < 22] = 250 if z % 35 > 6 else 60
        plane[np.abs(np.hypot(x, y - 60) - 21) < 1.5] = 900
        plane[(np.abs(x) < 9) & (np.abs(y - 95) < 12)] = 600
        plane[(np.abs(y - (depth + 14 - (x / 60) ** 2)) < 2) & (np.abs(x) < 210)] = 300
        plane += noise[k % 8]
        plane[np.hypot(x, y) > min(-x.min(), -y.min())] = -1024
        array[k] = plane
    return array


def measure(shape: tuple[int, int, int]) -> dict:
    """Prepare one CT and report; the peak includes the CT itself."""
    from SOPIRegistrationLib.images.ct_preparation import prepare_ct
    from SOPIRegistrationLib.images.volume import Volume

    spacing = (1.0, 0.85, 0.85)
    affine = np.diag([*spacing[::-1], 1.0])
    volume = Volume(synthetic_ct(shape, spacing), affine, "synthetic")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    start = time.perf_counter()
    prepared = prepare_ct(volume)
    seconds = time.perf_counter() - start
    return {
        "shape": shape,
        "seconds": round(seconds, 2),
        "peak_rss_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "rss_with_ct_mib": round(before),
        "working_grid": prepared.attenuation.array.shape,
        "working_spacing_mm": round(float(prepared.attenuation.spacing_mm[0]), 3),
        "bone_voxels": int(prepared.bone.array.sum()),
        "cores": os.cpu_count(),
        "machine": platform.processor() or platform.machine(),
        "date": time.strftime("%Y-%m-%d"),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", type=int, nargs=3, action="append", help="slices, rows, columns")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    for shape in options.shape or [[200, 512, 512], [600, 512, 512]]:
        if options.here:
            print(json.dumps(measure(tuple(shape))))
        else:
            arguments = [sys.executable, __file__, "--here", "--shape", *map(str, shape)]
            subprocess.run(arguments, check=True)
