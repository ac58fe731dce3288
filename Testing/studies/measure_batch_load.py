"""How busy a batch of tracks keeps the processors: real X-rays of a knee replacement.

    python Testing/studies/measure_batch_load.py DATA [TRACKS [FRAMES [WORKERS]]]

DATA is as for ``measure_knee_tracking.py``. ``sopi batch`` tracks the femoral component through FRAMES frames
(10) of the first camera TRACKS times (20), with WORKERS processes (one a core). Twice a second the processor
time of all its processes is read. Printed is their share of the time of all cores, of the whole run and while
tracks are left for every worker; on an idle machine it says how much of it a batch leaves unused.
"""

from __future__ import annotations

import csv
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

EVERY_S = 0.5


def table(data: Path, folder: Path, tracks: int, frames: int) -> Path:
    """A table of the same track many times over."""
    pictures = folder / "cam01"
    pictures.mkdir()
    for file in sorted((data / "cam01").iterdir())[:frames]:
        (pictures / file.name).symlink_to(file.resolve())
    row = {
        "command": "track",
        "body": data / "femur0.stl",
        "material": "CoCr",
        "xrays": pictures,
        "geometry": data / "cameras.json",
        "polarity": "bone-dark",
        "start": f"{data / 'start_femur.json'}@1",
    }
    path = folder / "cases.csv"
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, ["out", *row])
        writer.writeheader()
        writer.writerows({"out": f"track_{number:02d}", **row} for number in range(tracks))
    return path


def seconds_of(processes: dict[int, float], root: psutil.Process) -> float:
    """Processor time of a process and all that it started, those that have ended, too."""
    for process in [root, *root.children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        processes[process.pid] = times.user + times.system
    return sum(processes.values())


def main(data: Path, tracks: int = 20, frames: int = 10, workers: int = psutil.cpu_count() or 1) -> None:
    """Run the batch, watch it, print."""
    with tempfile.TemporaryDirectory() as folder:
        cases, out = table(data.resolve(), Path(folder), tracks, frames), Path(folder) / "out"
        words = ["batch", str(cases), "--out", str(out), "--workers", str(workers)]
        began, seen, known = time.perf_counter(), [], {}
        process = subprocess.Popen([sys.executable, "-m", "SOPIRegistrationLib", *words])
        root = psutil.Process(process.pid)
        while process.poll() is None:
            ended = len(list(out.glob("*/track.csv")))
            seen.append((time.perf_counter() - began, seconds_of(known, root), ended))
            time.sleep(EVERY_S)
        if process.returncode:
            raise SystemExit(f"sopi batch ended with {process.returncode}")
    wall, cpu, ended = np.array(seen).T
    cores = psutil.cpu_count() or 1
    # At the end there are fewer tracks than workers.
    full = max(1, int(np.searchsorted(ended, tracks - workers + 1)) - 1)
    share = cpu / wall / cores
    print(f"{tracks} tracks of {frames} frames, {workers} workers, {cores} cores: {wall[-1]:.0f} s")
    print(f"busy: {share[-1]:.0%} of all cores' time, {share[full]:.0%} while every worker has a track")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *(int(word) for word in sys.argv[2:]))
