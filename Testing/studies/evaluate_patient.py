"""Networks of one patient, as Zhang et al. (MICCAI 2023) report theirs: parts, training, refinement.

    python Testing/studies/evaluate_patient.py --ct CT.nii.gz --budget 10 --cases 200 --out DIR
    python Testing/studies/evaluate_patient.py --wrist ../shared/data/wrist --budget 10 --out DIR

With a CT: every configuration is trained for so many minutes, or taken from DIR if it was, and asked for the
poses of X-rays that RTK rendered of the bones (``wide`` protocol, 1e6 photons, an unknown intensity curve).
``--refine look`` is its answer itself, ``none`` the answer aligned with the X-ray on its coarsest level. A:
EfficientNet-B0, B: autoencoder, C: attention, *: a set of DRRs that grows (incremental learning) in place of
a fixed one, D: refinement with physics-based DRRs; "light" is a small network for CPUs in place of
EfficientNet-B0. Salehi: A with the geodesic loss. Grimm: A with pose-dependent weights and the full domain
randomisation; the others have half of it.

With the wrist data: a network for each camera, trained on the radius alone about a rough view some 20 degrees
off, and the registration from its answer.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import numpy as np
import torch
from SOPIRegistrationLib.evaluation.benchmark import processor
from SOPIRegistrationLib.evaluation.cases import EvaluationCase, SimulatedCases
from SOPIRegistrationLib.evaluation.metrics import PoseError, pose_error, wilson_interval
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.files import load_geometry
from SOPIRegistrationLib.images.ct_preparation import prepare_ct
from SOPIRegistrationLib.images.files import read_radiograph, read_volume
from SOPIRegistrationLib.images.prepared_ct import PreparedCT
from SOPIRegistrationLib.images.radiograph_preparation import prepare_radiograph
from SOPIRegistrationLib.networks.patient import CONFIGURATIONS
from SOPIRegistrationLib.networks.weights import CARD_HEADINGS, save_weights
from SOPIRegistrationLib.registration import RegistrationSettings, moving_volumes, register
from SOPIRegistrationLib.registration.stages import Case, first_look
from SOPIRegistrationLib.training.patient import (
    PatientTrainingSettings,
    configured,
    patient_trainer,
)
from tqdm import tqdm

FIXED_SET = 4096


@dataclass(frozen=True)
class Row:
    """A line of the table: what is trained, and how."""

    network: str
    grows: bool = False
    loss: str = "correction"
    strength: float = 0.5

    def settings(self, budget_minutes: float, **others) -> PatientTrainingSettings:
        settings = PatientTrainingSettings(
            budget_seconds=60 * budget_minutes, loss=self.loss, strength=self.strength, **others
        )
        return settings if self.grows else replace(settings, first_drrs=FIXED_SET, new_drrs=0)


ROWS = {
    "Salehi": Row("A", loss="geodesic"),
    "Grimm": Row("A", loss="pose-dependent", strength=1.0),
    "light Salehi": Row("light", loss="geodesic"),
    "light Grimm": Row("light", loss="pose-dependent", strength=1.0),
    **{network: Row(network) for network in CONFIGURATIONS},
    **{f"[{network}]*": Row(network, grows=True) for network in CONFIGURATIONS},
}
# Zhang et al., Tables 1 and 3: mTRE and mPD (mm), |Rx|, |Ry|, |Rz| (deg), |Tx|, |Ty|, |Tz| (mm), each with
# its standard deviation, success (%). Another patient, other poses, about an hour of training on a GPU.
POSTER = {
    "A": "6.71 (2.75) | 6.83 (2.05) | 0.98 (0.78) | 0.93 (0.76) | 0.71 (0.56) | 2.44 (2.05) | 2.57 (1.99) | "
    "3.92 (3.05) | 88.66",
    "A+B": "6.13 (2.50) | 6.39 (2.07) | 0.93 (0.78) | 0.99 (0.79) | 0.62 (0.52) | 2.10 (1.82) | "
    "2.33 (1.91) | 3.49 (2.73) | 90.97",
    "A+C": "6.17 (2.65) | 6.12 (1.98) | 1.01 (0.80) | 0.85 (0.68) | 0.70 (0.58) | 1.99 (1.75) | "
    "2.05 (1.74) | 3.72 (2.88) | 91.34",
    "A+B+C": "5.92 (2.57) | 6.01 (2.02) | 1.02 (0.80) | 0.83 (0.65) | 0.64 (0.54) | 1.92 (1.75) | "
    "2.05 (1.78) | 3.39 (2.71) | 93.31",
    "[A+B+C]*": "5.43 (2.18) | 5.80 (2.05) | 0.90 (0.73) | 0.82 (0.65) | 0.57 (0.47) | 1.80 (1.53) | "
    "1.80 (1.50) | 2.89 (2.26) | 95.25",
    "[A+B+C]*+D": "2.85 (1.91) | 2.92 (1.93) | 0.41 (0.53) | 0.31 (0.39) | 0.24 (0.35) | 1.00 (0.83) | "
    "0.90 (0.84) | 1.55 (1.35) | 100.00",
    "Salehi": "7.68 | | | | | | | | 67.13",
    "Grimm": "4.21 | | | | | | | | 91.9",
}
# What follows the network's answer.
_REFINED = {"look": "", "none": ", aligned", "opt": ", opt", "physics": "+D", "physics+opt": "+D, opt"}
HEADS = (
    *("mTRE, mm", "mPD, mm", "Rx, deg", "Ry, deg", "Rz, deg", "Tx, mm", "Ty, mm", "Tz, mm"),
    "mTRE up to 10 mm, %",
)


def trained(
    out: Path, row: Row, ct: PreparedCT, camera: Camera, T_reference: np.ndarray, budget: float, **settings
) -> Path:
    """Weights of a network in a folder, trained on if its budget is not used up."""
    out.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = configured(CONFIGURATIONS[row.network], ct, camera, T_reference)
    with tqdm(
        total=100, desc=f"training {out.name}", bar_format="{l_bar}{bar:20}| {elapsed} {postfix}"
    ) as bar:

        def report(progress) -> bool:
            bar.n = round(100 * progress.fraction)
            if progress.row is not None:
                bar.set_postfix_str(
                    "{rotation_deg:.1f} deg {in_plane_mm:.1f} mm {depth_mm:.0f} mm".format(**progress.row)
                )
            return False

        done = patient_trainer(ct, config, row.settings(budget, **settings), out, device, report).run()
    path = out / "patient.safetensors"
    save_weights(path, done.network, dict.fromkeys(("name", *CARD_HEADINGS), "study"), half=True)
    return path


def asked(case: EvaluationCase, weights: Path, refine: str) -> tuple[PoseError, np.ndarray, float]:
    """Error, absolute differences of theta (deg, mm) and seconds of a case."""
    began = time.perf_counter()
    camera = case.radiographs[0].camera
    if refine == "look":
        body, bone = moving_volumes(case.ct).values()
        T = first_look(Case(case.radiographs, case.frame), body, bone, weights).T_lps_to_camera[0]
    else:
        settings = RegistrationSettings("patient", refine, weights={"patient": weights})
        result = register(case.ct, case.radiographs, case.frame, settings)
        T = camera.T_world_to_camera @ result.T_lps_to_world
    seconds = time.perf_counter() - began
    T_true = camera.T_world_to_camera @ case.T_true
    error = pose_error(T, T_true, case.ct.surface_points_lps_mm, case.frame.centre_lps_mm, camera)
    difference = np.abs(case.frame.theta_from_T(T) - case.frame.theta_from_T(T_true))
    return error, np.concatenate([np.rad2deg(difference[:3]), difference[3:]]), seconds


def line(label: str, errors: Sequence[PoseError], differences: np.ndarray) -> str:
    """Means with standard deviations and success, as in the poster; ours come with an interval."""
    columns = [[e.mtre_mm for e in errors], [e.mpd_detector_mm for e in errors], *differences.T]
    cells = [f"{np.mean(values):.2f} ({np.std(values):.2f})" for values in columns]
    succeeded = sum(error.succeeded for error in errors)
    low, high = wilson_interval(succeeded, len(errors))
    success = f"{100 * succeeded / len(errors):.1f} ({100 * low:.1f} to {100 * high:.1f})"
    return f"| {label} | {' | '.join([*cells, success])} |"


def evaluate_ct(options) -> str:
    """Tables of all configurations."""
    source = SimulatedCases("wide", options.target, (options.ct,), options.seed, content="bone")
    cases = [source.make(number) for number in tqdm(range(options.cases), desc="X-rays")]
    ct, camera, frame = cases[0].ct, cases[0].radiographs[0].camera, cases[0].frame
    lines, medians, rows, shown = [], [], [], set()
    for label in options.configurations:
        folder = options.out / label.replace("[", "").replace("]*", " growing")
        weights = trained(folder, ROWS[label], ct, camera, frame.T_nominal, options.budget, content="bone")
        for refine in options.refine:
            name = label + _REFINED[refine]
            found = [asked(case, weights, refine) for case in tqdm(cases, desc=name)]
            errors, differences, seconds = zip(*found, strict=True)
            lines.append(line(f"{name}, ours", errors, np.array(differences)))
            theirs = name.replace("light", "A")
            if theirs in POSTER and theirs not in shown:
                lines.append(f"| {theirs}, poster | {POSTER[theirs]} |")
                shown.add(theirs)
            values = [
                np.median([getattr(error, key) for error in errors])
                for key in ("rotation_deg", "in_plane_mm", "depth_mm", "mtre_mm")
            ]
            cells = [f"{value:.2f}" for value in (*values, np.median(seconds))]
            medians.append(f"| {name} | {' | '.join(cells)} |")
            for number, (error, difference, taken) in enumerate(found):
                rows.append([name, number, error.mtre_mm, error.mpd_detector_mm, *difference, taken])
    with (options.out / "patient.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["method", "case", "mtre_mm", "mpd_mm", "rx", "ry", "rz", "tx", "ty", "tz", "seconds"]
        )
        writer.writerows(rows)
    return "\n".join(
        [
            f"{options.ct.name}, bones, protocol wide, target {options.target}, {options.cases} cases, seed "
            f"{options.seed}, {options.budget:g} minutes of training each, {processor()}, {date.today()}",
            "",
            "Means (standard deviations); of ours, success with its 95 % interval.",
            "",
            f"| configuration | {' | '.join(HEADS)} |",
            "|---" * (1 + len(HEADS)) + "|",
            *lines,
            "",
            "Medians.",
            "",
            "| configuration | rotation, deg | in plane, mm | depth, mm | mTRE, mm | seconds |",
            "|---" * 6 + "|",
            *medians,
        ]
    )


def evaluate_wrist(options) -> str:
    """The radius in each X-ray, from a network that was trained about a rough view."""
    ct = prepare_ct(read_volume(options.wrist / "radius.nii.gz"))
    geometry = load_geometry(options.wrist / "cameras.json")
    gold = json.loads((options.wrist / "gold_0099.json").read_text())
    T_gold = np.array(gold["T_radius_lps_to_world"])
    rng = np.random.default_rng(options.seed)
    lines = []
    for camera in geometry.cameras:
        T_true = camera.T_world_to_camera @ T_gold
        # Some 20 degrees and 15 mm from the truth: who holds the wrist knows that much.
        direction = rng.normal(size=(2, 3))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        offset = (direction * [[np.deg2rad(20.0)], [15.0]]).ravel()
        T_rough = se3.move_about(T_true[None], offset[None], ct.rotation_centre_lps_mm)[0]
        weights = trained(
            options.out / f"wrist {camera.name}",
            Row(options.wrist_network, grows=True, strength=1.0),
            ct,
            camera,
            T_rough,
            options.budget,
            deviation=(15.0, 15.0, 15.0, 12.0, 12.0, 30.0),
        )
        image = options.wrist / f"frame_0099_{camera.name}.png"
        xray = prepare_radiograph(read_radiograph(image), camera)
        alone = geometry.for_camera(camera.name)
        frame = alone.pose_frame(ct.rotation_centre_lps_mm)
        case = EvaluationCase(0, camera.name, ct, (xray,), frame, np.eye(4), T_gold)
        for refine in ("look", "none", "opt"):
            error, _, seconds = asked(case, weights, refine)
            figures = (error.rotation_deg, error.in_plane_mm, error.mpd_object_mm, seconds)
            cells = " | ".join(f"{value:.2f}" for value in figures)
            lines.append(f"| {camera.name} | {refine} | {cells} |")
    return "\n".join(
        [
            f"Radius, rough views 20 deg and 15 mm off, seed {options.seed}, {options.budget:g} minutes of "
            f"training for each camera, {processor()}, {date.today()}",
            "",
            "| camera | refinement | rotation, deg | in plane, mm | mPD at the object, mm | seconds |",
            "|---" * 6 + "|",
            *lines,
        ]
    )


def main() -> None:
    """Train, evaluate, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--ct", type=Path, help="CT, anything SimpleITK reads")
    what.add_argument("--wrist", type=Path, help="folder of the wrist data")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--budget", type=float, default=10.0, help="minutes of training, each")
    parser.add_argument("--configurations", nargs="+", choices=ROWS, default=["[light]*"])
    parser.add_argument(
        "--refine", nargs="+", choices=_REFINED, default=["look", "none", "opt"], help="what follows it"
    )
    parser.add_argument("--target", default="rtk", help="as for sopi evaluate")
    parser.add_argument("--wrist-network", choices=CONFIGURATIONS, default="light")
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    name, text = ("patient.md", evaluate_ct(options)) if options.ct else ("wrist.md", evaluate_wrist(options))
    print(text)
    (options.out / name).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
