"""Registration of scans shorter than what the X-ray shows: a few slices of a CT, the X-ray of all of it.

    python Testing/studies/evaluate_short_scans.py --ct CT.nii.gz --cases 24 --out DIR

Targets are rendered by RTK from the whole CT, poses and starts of protocol `paper`; what is registered are
the slices about its rotation centre. *opt*: from the protocol's start. *auto*: from no start. Errors over the
bones' surface in those slices.
"""

from __future__ import annotations

import argparse
import csv
from datetime import date
from pathlib import Path

import numpy as np
from SOPIRegistrationLib.evaluation.benchmark import processor
from SOPIRegistrationLib.evaluation.cases import SimulatedCases
from SOPIRegistrationLib.evaluation.metrics import median_interval, pose_error, wilson_interval
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.ct_preparation import prepare_ct
from SOPIRegistrationLib.images.files import read_volume
from SOPIRegistrationLib.images.volume import Volume
from SOPIRegistrationLib.registration import RegistrationSettings, register
from tqdm import tqdm

METHODS = ("opt", "auto")


def slices_about(ct: Volume, point_lps_mm: np.ndarray, height_mm: float) -> Volume:
    """The slices of a CT within half a height of a point."""
    middle = (ct.lps_to_index @ np.append(point_lps_mm, 1.0))[2]
    reach = height_mm / 2 / ct.spacing_mm[2]
    first, last = max(0, round(middle - reach)), min(len(ct.array), round(middle + reach))
    index_to_lps = ct.index_to_lps.copy()
    index_to_lps[:3, 3] = ct.points_lps([0, 0, first])
    return Volume(np.ascontiguousarray(ct.array[first:last]), index_to_lps, ct.name)


def evaluate(options) -> list[dict]:
    """A row for each height, case and method."""
    ct = read_volume(options.ct)
    cases = SimulatedCases("paper", options.target, (options.ct,), seed=options.seed)
    whole = cases.make(0).ct
    scans = {
        height: prepare_ct(slices_about(ct, whole.rotation_centre_lps_mm, height))
        for height in options.heights
    }
    rows = []
    for number in tqdm(range(options.cases)):
        case = cases.make(number)
        for height, scan in scans.items():
            frame = PoseFrame(scan.rotation_centre_lps_mm, case.frame.sod_mm, cases.view)
            for method in options.methods:
                init = case.T_start if method == "opt" else "auto"
                result = register(scan, case.radiographs, frame, RegistrationSettings(init))
                error = pose_error(
                    result.T_lps_to_world,
                    case.T_true,
                    scan.surface_points_lps_mm,
                    scan.rotation_centre_lps_mm,
                    case.radiographs[0].camera,
                )
                rows.append(
                    {
                        "height_mm": height,
                        "case": number,
                        "method": method,
                        "rotation_deg": error.rotation_deg,
                        "in_plane_mm": error.in_plane_mm,
                        "depth_mm": error.depth_mm,
                        "mtre_mm": error.mtre_mm,
                        "failed": error.failed,
                        "verdict": result.verdict.status,
                        "seconds": result.seconds,
                    }
                )
    return rows


def table(rows: list[dict], options) -> str:
    """Medians with their intervals, a line for each height and method."""
    columns = {"rotation_deg": "rotation, deg", "in_plane_mm": "in plane, mm", "mtre_mm": "mTRE, mm"}
    lines = [
        f"{options.ct.name}, protocol `paper`, target `{options.target}`, seed {options.seed}, "
        f"{options.cases} cases, {processor()}, {date.today()}; medians with 95 % intervals",
        "",
        f"| height, mm | method | failures (95 % interval) | {' | '.join(columns.values())} | accepted, % "
        "(of them failed) | s (median) |",
        "|---" * (5 + len(columns)) + "|",
    ]
    for height in options.heights:
        for method in options.methods:
            own = [row for row in rows if (row["height_mm"], row["method"]) == (height, method)]
            failed = sum(row["failed"] for row in own)
            low, high = wilson_interval(failed, len(own))
            accepted = [row for row in own if row["verdict"] == "accept"]
            cells = [f"{height:g}", method]
            cells.append(f"{failed / len(own):.0%} ({low:.0%} to {high:.0%})")
            for column in columns:
                values = np.array([row[column] for row in own])
                cells.append("{:.2f} ({:.2f} to {:.2f})".format(np.median(values), *median_interval(values)))
            wrong = sum(row["failed"] for row in accepted)
            cells.append(f"{len(accepted) / len(own):.0%} ({wrong})")
            cells.append(f"{np.median([row['seconds'] for row in own]):.1f}")
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--ct", type=Path, required=True, help="CT, anything SimpleITK reads")
    parser.add_argument("--heights", type=float, nargs="+", default=[60, 80, 120], metavar="MM")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--target", choices=("rtk", "rtk-degraded"), default="rtk")
    parser.add_argument("--cases", type=int, default=24)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    options = parser.parse_args()

    rows = evaluate(options)
    text = table(rows, options)
    print(text)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "short_scans.md").write_text(text + "\n", encoding="utf-8")
    with (options.out / "short_scans.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
