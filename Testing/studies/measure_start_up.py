"""Where the time of `sopi register` goes: each case a process of its own, kernels compiled before.

    python Testing/studies/measure_start_up.py [--repeats 5]

The case is that of `sopi demo`, its CT cut to 122 x 101 x 112 voxels. Prints a table: medians over the
repeats, s and MB.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SHAPE = (112, 101, 122)
STARTS = ("result.json", "search", "auto")
STEPS = ("imports", "reading", "preparing", "kernels and networks", "registering", "writing")


def small_case(folder: Path) -> None:
    """The demo's files, with a smaller CT, and its pose found."""
    import SimpleITK as sitk

    # In a process of its own: a child's peak of memory is never below what its parent held.
    command = [sys.executable, "-m", "SOPIRegistrationLib", "demo", "--out", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    ct = sitk.ReadImage(str(folder / "ct.nrrd"))
    size = [min(n, wanted) for n, wanted in zip(ct.GetSize(), SHAPE[::-1], strict=True)]
    corner = [(n - kept) // 2 for n, kept in zip(ct.GetSize(), size, strict=True)]
    sitk.WriteImage(sitk.RegionOfInterest(ct, size, corner), str(folder / "ct.nrrd"))


def child(folder: Path, start: str) -> dict:
    """Register as the command does, and tell when each step was done."""
    began = time.perf_counter()
    from SOPIRegistrationLib.cli import register as command
    from SOPIRegistrationLib.cli.main import process

    done = dict.fromkeys(STEPS, 0.0)
    last = began

    def lap(step: str) -> None:
        nonlocal last
        now = time.perf_counter()
        done[step] += now - last
        last = now

    def timed(name: str, step: str) -> None:
        function = getattr(command, name)

        def run(*arguments, **options):
            result = function(*arguments, **options)
            lap(step)
            return result

        setattr(command, name, run)

    for name, step in (
        ("open_views", "reading"),
        ("read_body", "reading"),
        ("prepared_views", "preparing"),
        ("warm_up", "kernels and networks"),
        ("outcome_of", "registering"),
        ("write_results", "writing"),
    ):
        timed(name, step)
    lap("imports")
    init = str(folder / start) if start.endswith(".json") else start
    geometry, xray = folder / "geometry.json", folder / "xray.png"
    arguments = [str(folder / "ct.nrrd"), str(xray), "--geometry", str(geometry), "--init", init]
    try:
        process(["register", *arguments, "--refine", "opt", "--out", str(folder / "out")])
    except SystemExit as end:
        code = end.code
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {**done, "peak MB": peak, "torch": "torch" in sys.modules, "code": code or 0}


def measure(folder: Path, start: str) -> dict:
    """One process from its start to its end."""
    began = time.perf_counter()
    arguments = [sys.executable, __file__, "--folder", str(folder), "--start", start]
    output = subprocess.run(arguments, check=True, capture_output=True, text=True).stdout
    figures = json.loads(output.splitlines()[-1])
    assert figures["code"] == 0
    total = time.perf_counter() - began
    return {**figures, "process": total, "over the registration": total - figures["registering"]}


def main() -> None:
    """Measure every start, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="processes a start (5)")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--start", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.folder:
        print("\n" + json.dumps(child(options.folder, options.start)))
        return
    columns = (*STEPS, "process", "over the registration", "peak MB")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small_case(folder)
        print("| start | " + " | ".join(columns) + " | torch loaded |")
        print("|---" * (len(columns) + 2) + "|")
        for start in STARTS:
            runs = [measure(folder, start) for _ in range(options.repeats)]
            medians = {key: statistics.median(run[key] for run in runs) for key in columns}
            cells = [f"{medians[key]:.0f}" if "MB" in key else f"{medians[key]:.2f}" for key in columns]
            print(f"| {start} | " + " | ".join(cells) + f" | {'yes' if runs[0]['torch'] else 'no'} |")


if __name__ == "__main__":
    main()
