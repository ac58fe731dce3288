"""Accuracy and speed of the core on a real CT: targets rendered by RTK, not by this project's projector.

    python Testing/studies/evaluate_core.py --ct CT.nii.gz --protocol paper --cases 100 --out DIR

Targets (256 x 256 pixels, Perlove PLX118F geometry binned by four) are rendered on the CT's own grid.
*clean*: bones alone (above 200 HU), 1e7 photons a pixel. *realistic*: the whole scan with its table, 1e6
photons, a random monotone intensity curve, 12 bits. Poses follow ``paper`` (start and target drawn; the start
is given) or ``wide`` (target drawn about the nominal view; template search). Registration sees the X-ray and
the CT; for clean targets the CT with everything but bone removed. It never sees the pose.
"""

from __future__ import annotations

import argparse
import csv
from datetime import date
from pathlib import Path

import numpy as np
from SOPIRegistrationLib.evaluation.benchmark import processor
from SOPIRegistrationLib.evaluation.metrics import median_interval, pose_error, wilson_interval
from SOPIRegistrationLib.evaluation.peers import Rtk
from SOPIRegistrationLib.evaluation.protocols import PAPER_VARIANCE, WIDE_DEVIATION, draw_theta
from SOPIRegistrationLib.evaluation.targets import displayed, photographed
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.ct_preparation import attenuation_of_hu, prepare_ct
from SOPIRegistrationLib.images.files import read_volume
from SOPIRegistrationLib.images.radiograph import Radiograph
from SOPIRegistrationLib.images.radiograph_preparation import prepare_radiograph
from SOPIRegistrationLib.registration import RegistrationSettings, moving_volumes, register
from SOPIRegistrationLib.registration.stages import Case
from SOPIRegistrationLib.registration.verdict import structural_correlation
from tqdm import tqdm

BONE_HU = 200.0
COLUMNS = (
    *("target", "case", "start_mtre_mm"),
    *("rotation_deg", "in_plane_mm", "depth_mm", "mtre_mm", "failed"),
    *("seconds", "verdict", "content", "method", "correlation", "correlation_at_truth"),
    *("predicted_x", "predicted_y", "predicted_z", "error_x", "error_y", "error_z"),
)


def evaluate(options) -> list[dict]:
    ct = read_volume(options.ct)
    attenuation = ct.same_grid(attenuation_of_hu(ct.array.astype(np.float32)))
    bone_hu = ct.same_grid(np.where(ct.array > BONE_HU, ct.array, -1000))
    camera = Camera.from_c_arm(1011.7, (0.79836, 0.79836), 256, 256)
    prepared = {"clean": prepare_ct(bone_hu), "realistic": prepare_ct(ct)}
    rendered = {
        "clean": Rtk(ct.same_grid(attenuation.array * (ct.array > BONE_HU)), camera),
        "realistic": Rtk(attenuation, camera),
    }
    rows = []
    for target in options.targets:
        rng = np.random.default_rng(options.seed)
        patient = prepared[target]
        frame = PoseFrame(patient.rotation_centre_lps_mm, 700.0, "AP")
        volumes = moving_volumes(patient)
        for number in tqdm(range(options.cases + 1), desc=f"{options.protocol} {target}"):
            wide = options.protocol == "wide"
            deviation = WIDE_DEVIATION if wide else np.sqrt(PAPER_VARIANCE)
            T_true = frame.T_from_theta(draw_theta(rng, deviation))
            T_start = frame.T_nominal if wide else frame.T_from_theta(draw_theta(rng, deviation))
            photons = 1e7 if target == "clean" else 1e6
            image = photographed(rendered[target].image(T_true), photons, rng)
            if target == "realistic":
                image = displayed(image, rng)
            xray = prepare_radiograph(Radiograph(image, f"{target} {number}", bone_dark=False), camera)
            settings = RegistrationSettings(init="search" if wide else T_start)
            result = register(patient, [xray], frame, settings)
            if number == 0:
                # The first one compiles the kernels or loads them from disk.
                continue
            points, centre = patient.surface_points_lps_mm, frame.centre_lps_mm
            error = pose_error(result.T_lps_to_world, T_true, points, centre, camera)
            start = pose_error(T_start, T_true, points, centre, camera)
            shift = (result.T_lps_to_world - T_true) @ np.append(centre, 1.0)
            poses = np.stack([result.T_lps_to_world, T_true])
            agreement = structural_correlation(Case((xray,), frame), volumes[result.content], poses)
            values = (
                *(target, number, start.mtre_mm),
                *(error.rotation_deg, error.in_plane_mm, error.depth_mm, error.mtre_mm, int(error.failed)),
                *(result.seconds, result.verdict.status, result.content, result.method, *agreement),
                *(*result.verdict.predicted_error_mm, *np.abs(shift[:3])),
            )
            rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows


def table(rows: list[dict], options) -> str:
    """Failures with their interval, medians with theirs, and how the verdict and the predicted error did."""
    name = Path(options.ct).name
    heads = ("target", "cases", "failures (95 % interval)", "without depth", "rotation, deg", "in plane, mm")
    heads += ("depth, mm", "mTRE, mm", "seconds", "accepted", "wrong among accepted")
    lines = [
        f"Protocol `{options.protocol}`, seed {options.seed}, {name}, {processor()}, {date.today()}",
        "",
        f"| {' | '.join(heads)} |",
        "|---" * len(heads) + "|",
    ]
    notes = [""]
    for target in options.targets:
        column = {name: np.array([row[name] for row in rows if row["target"] == target]) for name in COLUMNS}
        good = column["failed"] == 0
        cases, failed = len(good), int((~good).sum())
        low, high = wilson_interval(failed, cases)
        flat = (column["rotation_deg"] > 3) | (column["in_plane_mm"] > 3)
        accepted = column["verdict"] == "accept"
        cells = [
            target,
            str(cases),
            f"{failed} = {failed / cases:.1%} ({low:.1%} to {high:.1%})",
            f"{flat.mean():.1%}",
        ]
        for name in ("rotation_deg", "in_plane_mm", "depth_mm", "mtre_mm", "seconds"):
            low, high = median_interval(column[name])
            cells.append(f"{np.median(column[name]):.3g} ({low:.3g} to {high:.3g})")
        cells += [f"{accepted.mean():.0%}", str(int((accepted & ~good).sum()))]
        lines.append(f"| {' | '.join(cells)} |")
        ratios = [np.median(column[f"error_{a}"][good] / column[f"predicted_{a}"][good]) for a in "xyz"]
        correlation = column["correlation"]
        notes.append(
            f"{target}: structural correlation of good results at least "
            f"{correlation[good].min(initial=1):.3f} "
            f"(median {np.median(correlation[good]):.3f}), of failures at most "
            f"{correlation[~good].max(initial=0):.3f}; actual over predicted error along x, y, z, "
            f"median: {', '.join(f'{ratio:.2f}' for ratio in ratios)} (0.67 if normal)."
        )
    return "\n".join(lines + notes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--ct", required=True, help="CT, anything SimpleITK reads")
    parser.add_argument("--protocol", choices=("paper", "wide"), default="paper")
    parser.add_argument(
        "--targets", nargs="+", choices=("clean", "realistic"), default=["clean", "realistic"]
    )
    parser.add_argument("--cases", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="folder for PROTOCOL.csv and PROTOCOL.md")
    options = parser.parse_args()
    rows = evaluate(options)
    text = table(rows, options)
    print(text)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / f"core_{options.protocol}.md").write_text(text + "\n")
        with (options.out / f"core_{options.protocol}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
