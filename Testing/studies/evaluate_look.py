"""The comparing network's first look on patients it never saw: centred, off the centre, turned, one bone.

    python Testing/studies/evaluate_look.py --weights shipped.safetensors new.safetensors --out DIR [--ct CT]

Six questions, each on the same X-rays for all weights:

- *wide*: protocol ``wide`` about the middle of the CT's bones, where the registration looks too.
- *along*: the X-ray is centred anywhere along the scan's bones, and the registration looks from that place
  too, as one that tries several places does: what is asked is whether the network knows what is there.
- *off*: the same X-rays, looked at from the middle of all bones.
- *places*: the same X-rays, looked at from several places along the bones, the surest poses taken.
- *rolled*: as *along*, the picture turned by any angle; looked at from the four quarter turns, and the
  surest pose taken.
- *part*: one segmented bone of a patient in an X-ray of all of it.

And of the X-rays of *wide*, where a look's error comes from:

- *first look*: the surest answer of the first look at all views, before it is looked from the answers again.
- *its view*: the view of which that was said, turned, shifted and scaled by nothing.
- *nearest view*: what is said at first of the view nearest to the true one, which nobody knows in use.
- *nearest view as it is*: that view itself.

X-rays are degraded by the simulator, with half its strength. A look is *near* if one of its 24 surest poses
(as many as a registration aligns) is within 15 deg, 12 mm in the plane and 80 mm in depth.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import torch
from SOPIRegistrationLib.evaluation.benchmark import processor
from SOPIRegistrationLib.evaluation.metrics import median_interval, wilson_interval
from SOPIRegistrationLib.evaluation.protocols import WIDE_DEVIATION, draw_theta
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.files import read_volume
from SOPIRegistrationLib.initialise.views_around import ViewsAround, places_along, views_around
from SOPIRegistrationLib.networks.weights import load_weights
from SOPIRegistrationLib.projector.autograd import project_tensors
from SOPIRegistrationLib.simulation.regions import REGIONS
from SOPIRegistrationLib.training.pairs import seen, through_tissue
from SOPIRegistrationLib.training.patients import TRUNK, Anatomy, Patient, varied
from SOPIRegistrationLib.training.pose_loss import pose_errors
from SOPIRegistrationLib.training.settings import PatientMix
from tqdm import tqdm

QUESTIONS = ("wide", "along", "off", "places", "rolled", "part")
PARTS = ("first look", "its view", "nearest view", "nearest view as it is")
STRENGTH, KEPT = 0.5, 24
NEAR = np.array([15.0, 12.0, 80.0])
SOD_MM = 700.0
COLUMNS = (
    *("weights", "patient", "question", "case", "rotation_deg", "in_plane_mm", "depth_mm", "near"),
    "along_mm",
)


def patients(options) -> Iterator[tuple[str, Anatomy]]:
    """Names and anatomies; phantoms have seeds below those of training and validation."""
    for path in options.ct:
        yield path.name.split(".")[0], Anatomy.from_ct(read_volume(path))
    for kind in options.kinds:
        for seed in range(options.seed, options.seed + options.phantoms):
            yield f"{kind} {seed}", Anatomy.from_phantom(seed, None, kind)


def evaluate(options) -> list[dict]:
    networks = {path.stem: load_weights(path).network for path in options.weights}
    pixels = next(iter(networks.values())).config.pixels
    pitch = 204.4 / pixels
    camera = Camera.from_c_arm(1011.7, (pitch, pitch), pixels, pixels)
    rng = np.random.default_rng(options.seed)
    rows: list[dict] = []
    for name, anatomy in tqdm(list(patients(options))):
        for question in options.questions:
            if question in ("off", "places"):
                continue
            mix = PatientMix(bones=0.0, parts=float(question == "part"))
            patient = long_patient(anatomy, rng, mix)
            if question == "part" and patient.ct_body is not patient.ct_bone:
                continue
            for case in range(options.cases):
                rows += one(
                    question, patient, camera, networks, rng, {"patient": name, "case": case}, options
                )
    return rows


def long_patient(anatomy: Anatomy, rng, mix: PatientMix) -> Patient:
    """A patient of an anatomy whose CT is as long as what the X-ray passes."""
    while True:
        patient = varied(anatomy, rng, mix)
        if mix.parts or patient.ct_bone.volume.array.shape == patient.bone.volume.array.shape:
            return patient


def one(question: str, patient: Patient, camera: Camera, networks, rng, row: dict, options) -> list[dict]:
    """Rows of one X-ray, for all weights."""
    middle = patient.centre_lps_mm
    centre = middle
    if question in ("along", "rolled"):
        places = patient.places_lps_mm
        here = places[np.abs(places[:, 2] - places[rng.integers(len(places)), 2]) < 30]
        centre = here.mean(axis=0)
    frame = PoseFrame(centre, SOD_MM, options.view)
    turn = rng.uniform(-np.pi, np.pi) if question == "rolled" else 0.0
    true_frame = replace(frame, rotation=se3.exp_so3(np.array([0, 0, turn])) @ frame.rotation)
    T_true = torch.from_numpy(true_frame.T_from_theta(draw_theta(rng, WIDE_DEVIATION))[None])
    bone, _ = project_tensors(patient.bone, camera, T_true)
    body, _ = project_tensors(patient.body, camera, T_true)
    image, valid = seen(through_tissue(body, bone, rng), [STRENGTH], rng)

    # Which frames are looked from, and which points of the CT.
    looks = {question: [(frame, None)]}
    if question == "rolled":
        quarters = [se3.exp_so3(np.array([0, 0, n * np.pi / 2])) @ frame.rotation for n in range(4)]
        looks = {question: [(replace(frame, rotation=R), None) for R in quarters]}
    elif question == "along":
        central = replace(frame, centre_lps_mm=middle)
        known = {"off": None, "places": places_along(patient.ct_bone.volume, middle)}
        looks |= {q: [(central, known[q])] for q in known if q in options.questions}
    rows = []

    def told(weights: str, asked: str, T: np.ndarray) -> dict:
        at = torch.from_numpy(np.repeat(centre[None], len(T), axis=0))
        errors = pose_errors(torch.from_numpy(T), T_true.expand(len(T), 4, 4), at).numpy()
        values = {"weights": weights, "question": asked, "along_mm": abs(centre[2] - middle[2])}
        values |= dict(zip(("rotation_deg", "in_plane_mm", "depth_mm"), errors[0], strict=True))
        return row | values | {"near": int((errors <= NEAR).all(axis=1).any())}

    for weights, network in networks.items():
        if question == "wide":
            around = ViewsAround(network, patient.ct_body, patient.ct_bone, camera, frame)
            parts = parts_of_a_look(around, frame, image[0], valid[0], T_true)
            rows += [told(weights, part, T[None]) for part, T in zip(PARTS, parts, strict=True)]
        for asked, frames in looks.items():
            found = [
                ViewsAround(network, patient.ct_body, patient.ct_bone, camera, f, places).poses(
                    image[0], valid[0]
                )
                for f, places in frames
            ]
            T = np.concatenate([f.T_lps_to_camera for f in found])
            order = np.argsort(np.concatenate([f.deviation.sum(axis=1) for f in found]), kind="stable")
            rows.append(told(weights, asked, T[order[:KEPT]]))
    return rows


def parts_of_a_look(around: ViewsAround, frame: PoseFrame, image, valid, T_true) -> tuple[np.ndarray, ...]:
    """(4, 4) poses, in the order of ``PARTS``."""
    views = views_around(frame)
    answers = around.first_look(image, valid)
    surest = int(answers.deviation.sum(axis=1).argmin())
    nearest = int(se3.rotation_distance(views[:, :3, :3], T_true[0, :3, :3].numpy()).argmin())
    T = answers.T_lps_to_camera
    return T[surest], views[surest], T[nearest], views[nearest]


def table(rows: list[dict], options) -> str:
    heads = ("patients", "question", "weights", "X-rays", "rotation, deg", "in plane, mm", "depth, mm")
    heads += ("near (95 % interval)",)
    lines = [
        f"First look, seed {options.seed}, view {options.view}, {processor()}, {date.today()}",
        "",
        f"| {' | '.join(heads)} |",
        "|---" * len(heads) + "|",
    ]
    groups = dict.fromkeys(row["patient"].split()[0] for row in rows)
    for group in groups:
        asked = [
            q
            for question in options.questions
            for q in ((question, *PARTS) if question == "wide" else (question,))
        ]
        for question in asked:
            for weights in (path.stem for path in options.weights):
                chosen = [
                    r
                    for r in rows
                    if (r["patient"].split()[0], r["question"], r["weights"]) == (group, question, weights)
                ]
                if not chosen:
                    continue
                cells = [group, question, weights, str(len(chosen))]
                for key in ("rotation_deg", "in_plane_mm", "depth_mm"):
                    column = np.array([r[key] for r in chosen])
                    low, high = median_interval(column)
                    cells.append(f"{np.median(column):.3g} ({low:.3g} to {high:.3g})")
                near = sum(r["near"] for r in chosen)
                low, high = wilson_interval(near, len(chosen))
                cells.append(f"{near / len(chosen):.0%} ({low:.0%} to {high:.0%})")
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--weights", type=Path, nargs="+", required=True)
    parser.add_argument("--ct", type=Path, nargs="*", default=[], help="real CTs")
    parser.add_argument("--kinds", nargs="*", choices=[TRUNK, *REGIONS], default=[TRUNK])
    parser.add_argument("--questions", nargs="+", choices=QUESTIONS, default=list(QUESTIONS))
    parser.add_argument("--phantoms", type=int, default=6, help="of each kind (6)")
    parser.add_argument("--cases", type=int, default=8, help="X-rays of each patient and question (8)")
    parser.add_argument("--view", default="AP")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--name", default="look", help="of the files")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = evaluate(options)
    text = table(rows, options)
    print(text)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"{options.name}.md").write_text(text + "\n")
    with (options.out / f"{options.name}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows({name: row[name] for name in COLUMNS} for row in rows)


if __name__ == "__main__":
    main()
