"""Several bodies in real X-rays: two bones of a wrist, both parts of a knee replacement.

    python Testing/studies/measure_bodies.py wrist OUT --data DATA [--cases N]
    python Testing/studies/measure_bodies.py knee OUT --data DATA
    python Testing/studies/measure_bodies.py shown OUT --data Resources/Evaluation/bodies_spine.csv

*wrist*: radius and ulna in both cameras from starts up to 8 deg and 8 mm off the gold standard of the radius,
which the ulna starts from as well. *knee*: femoral component and tibial tray in both cameras from their rough
starts, jointly and each by itself. Writes a CSV row a body as soon as it is known and prints a table. Spines
that bend are configurations of ``sopi evaluate``: Resources/Evaluation/configs/bodies_*.toml. *shown*: of the
phantoms' vertebrae in two views, evaluated by bodies_spine.toml (DATA: its rows), how much of each lies in
both X-rays, beside its error and verdict.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from SOPIRegistrationLib.cli.request import with_depth_of_start
from SOPIRegistrationLib.evaluation.bent import BentCases
from SOPIRegistrationLib.evaluation.configuration import read_configuration
from SOPIRegistrationLib.evaluation.metrics import pose_error
from SOPIRegistrationLib.evaluation.simulated import COARSE_MM
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.files import load_geometry
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.ct_preparation import prepare_ct
from SOPIRegistrationLib.images.files import read_radiograph, read_volume
from SOPIRegistrationLib.images.radiograph_preparation import prepare_radiograph
from SOPIRegistrationLib.registration.bodies import register_bodies
from SOPIRegistrationLib.registration.pose_files import read_start
from SOPIRegistrationLib.settings import RegistrationSettings
from SOPIRegistrationLib.simulation.phantom import lumbar_phantom
from SOPIRegistrationLib.subject import Subject
from SOPIRegistrationLib.subject.bodies import Bodies, RigidBody
from SOPIRegistrationLib.subject.labelled import cut_up
from SOPIRegistrationLib.subject.surface import filled, material_named, read_surface

# Group of bodies_spine.toml, and the columns of a pose.
_TWO_VIEWS, THETA = "phantoms, two views", ("rx_deg", "ry_deg", "rz_deg", "tx_mm", "ty_mm", "tz_mm")


def wrist(data: Path, cases: int) -> Iterator[dict]:
    """Rows of radius and ulna; of the ulna no truth is known: its pose against the radius is told."""
    geometry = load_geometry(str(data / "cameras.json"), (1760, 1760))
    gold = np.array(json.loads((data / "gold_0099.json").read_text())["T_radius_lps_to_world"])
    bones = [RigidBody(n, Subject(prepare_ct(read_volume(data / f"{n}.nii.gz")))) for n in ("radius", "ulna")]
    bodies = Bodies(tuple(bones))
    views = [
        prepare_radiograph(read_radiograph(data / f"frame_0099_{camera.name}.png"), camera, "bone-dark")
        for camera in geometry.cameras
    ]
    camera, centre = views[0].camera, bones[0].centre_lps_mm
    frame = geometry.with_sod_of(camera.T_world_to_camera @ gold, centre).pose_frame(centre)
    for number in range(cases):
        rng = np.random.default_rng([number, 8])
        start = se3.move_about(
            gold, np.array([np.deg2rad(8)] * 3 + [8.0] * 3) * rng.uniform(-1, 1, 6), centre
        )
        starts = dict.fromkeys(bodies.names, start)
        result = register_bodies(bodies, views, frame, RegistrationSettings("given"), starts)
        radius, ulna = result.bodies
        yield _row(number, radius, gold, bones[0], camera, result.seconds)
        relative = se3.invert_rigid(radius.T_lps_to_world) @ ulna.T_lps_to_world
        turn, shift = se3.log_so3(relative[:3, :3]), se3.transform_points(relative, bones[1].centre_lps_mm)
        told = {"case": number, "body": "ulna", "status": ulna.verdict.status}
        told.update(zip(("rel_x", "rel_y", "rel_z"), shift - bones[1].centre_lps_mm, strict=True))
        told.update(zip(("rel_rx", "rel_ry", "rel_rz"), np.rad2deg(turn), strict=True))
        yield told


def knee(data: Path) -> Iterator[dict]:
    """Rows of how far joint poses lie from those of each part by itself."""
    geometry = load_geometry(str(data / "cameras.json"), (512, 512))
    names = {"femur": "femur0.stl", "tibia": "tibia0.stl"}
    bones = [
        RigidBody(name, Subject(filled(read_surface(data / file), material_named("CoCr"))))
        for name, file in names.items()
    ]
    views = [
        prepare_radiograph(
            read_radiograph(data / camera.name / "frame_0002.png"), camera, "bone-dark", of_metal=True
        )
        for camera in geometry.cameras
    ]
    known = with_depth_of_start(geometry, bones[0].subject.ct, data / "start_femur.json", geometry.cameras)
    frame = known.pose_frame(bones[0].centre_lps_mm)
    starts = {
        name: read_start(data / f"start_{name}.json", frame, geometry.cameras, geometry.camera)
        for name in names
    }
    result = register_bodies(Bodies(tuple(bones)), views, frame, RegistrationSettings("given"), starts)
    for body, piece, bone in zip(result.bodies, result.pieces, bones, strict=True):
        yield _row(0, body, piece.T_lps_to_world, bone, geometry.camera, result.seconds)


def shown(rows_of: Path) -> Iterator[dict]:
    """Rows of the share of a vertebra's surface that the less favourable of two views shows."""
    with rows_of.open(newline="", encoding="utf-8") as stream:
        rows = [one for one in csv.DictReader(stream) if one["group"] == _TWO_VIEWS]
    evaluated = read_configuration(rows_of.parent / "configs" / "bodies_spine.toml")
    source = BentCases(seed=evaluated["seed"], views=2)
    spine: dict[str, np.ndarray] = {}
    for row in (one for one in rows if one["method"] == "bodies"):
        number = int(row["case"])
        label = str(source.chain[number % len(source.chain)])
        if label == str(source.chain[0]):
            phantom = lumbar_phantom(1000 * source.seed + source.patient_of(number), COARSE_MM)
            bodies = cut_up(prepare_ct(phantom.ct), phantom.labels, {n: str(n) for n in source.chain})
            spine.clear()
        body = bodies[label]
        pose = np.array([float(row[f"true_{name}"]) for name in THETA])
        spine[label] = PoseFrame(body.centre_lps_mm, source.detector.sod_mm).T_from_theta(
            pose * [*[np.pi / 180] * 3, 1, 1, 1]
        )
        # The first of a chain stands as the CT does.
        whole = PoseFrame(bodies.whole.ct.rotation_centre_lps_mm, source.detector.sod_mm)
        shares = []
        for camera in source.cameras(spine[str(source.chain[0])], whole):
            points = se3.transform_points(
                camera.T_world_to_camera @ spine[label], body.subject.ct.surface_points_lps_mm
            )
            inside = (camera.project(points) >= 0) & (camera.project(points) < [camera.width, camera.height])
            shares.append(float(inside.all(axis=1).mean()))
        predicted = [float(row[f"predicted_{axis}_mm"]) for axis in "xyz"]
        yield {
            "case": number,
            "body": label,
            "shown": min(shares),
            "mtre_mm": float(row["mtre_mm"]),
            "predicted_mm": float(np.linalg.norm(predicted)),
            "status": row["verdict"],
        }


def of_shown(rows: list[dict]) -> str:
    """The table of vertebrae by how much of them is shown."""
    lines = [
        "| in both X-rays lie, of a vertebra | n | mTRE at most 0.5 mm | largest mTRE, mm | accepted "
        "| mTRE of these, mm, at most |",
        "|---|---|---|---|---|---|",
    ]
    for least, most, name in ((0.995, 1.1, "all"), (0.5, 0.995, "half and more"), (0.0, 0.5, "less")):
        of = [row for row in rows if least <= row["shown"] < most]
        accepted = [row["mtre_mm"] for row in of if row["status"] == "accept"]
        errors = [row["mtre_mm"] for row in of]
        lines.append(
            f"| {name} | {len(of)} | {sum(error <= 0.5 for error in errors)} | {max(errors, default=0):.2f} "
            f"| {len(accepted)} | {max(accepted, default=0):.2f} |"
        )
    return "\n".join(lines)


def _row(case: int, body, T_true: np.ndarray, of: RigidBody, camera: Camera, seconds: float) -> dict:
    """Errors of a body's pose and of the piece that it was before."""
    C, ct, row = camera.T_world_to_camera, of.subject.ct, {"case": case, "body": body.name}
    for name, T in (("piece", body.initial_T), ("joint", body.T_lps_to_world)):
        error = pose_error(C @ T, C @ T_true, ct.surface_points_lps_mm, of.centre_lps_mm, camera)
        for what in ("in_plane_mm", "depth_mm", "rotation_deg", "mtre_mm"):
            row[f"{name}_{what}"] = getattr(error, what)
    place = [se3.transform_points(C @ T, of.centre_lps_mm) for T in (body.T_lps_to_world, T_true)]
    for axis, shift in zip("xyz", np.abs(np.subtract(*place)), strict=True):
        row[f"error_{axis}"] = shift
    row.update(zip(("sd_x", "sd_y", "sd_z"), body.verdict.predicted_error_mm, strict=True))
    if body.alternatives:
        row["other_way"], row["other_deg"] = body.alternatives[0].way, body.alternatives[0].turned_deg
        row["other_margin"] = body.alternatives[0].margin
    row["sd_deg"] = float(np.linalg.norm(body.verdict.predicted_error_deg))
    return {**row, "status": body.verdict.status, "seconds": seconds}


def told(rows: list[dict]) -> str:
    """The table of rows with a truth."""
    known = [row for row in rows if "joint_mtre_mm" in row]
    lines = [
        "| body | n | one piece: in plane mm, deg | jointly: in plane mm, deg, mTRE mm | right | accepted "
        "| accepted and wrong | 95 % intervals cover x, y, depth |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in [*dict.fromkeys(row["body"] for row in known), "all"]:
        of = [row for row in known if name in ("all", row["body"])]

        def median(key, of=of):
            return f"{np.median([row[key] for row in of]):.2f}"

        right = [row["joint_in_plane_mm"] <= 2 and row["joint_rotation_deg"] <= 3 for row in of]
        accepted = [row["status"] == "accept" for row in of]
        wrong = sum(a and not r for a, r in zip(accepted, right, strict=True))
        cover = [f"{np.mean([row[f'error_{k}'] <= 1.96 * row[f'sd_{k}'] for row in of]):.0%}" for k in "xyz"]
        lines.append(
            f"| {name} | {len(of)} | {median('piece_in_plane_mm')}, {median('piece_rotation_deg')} "
            f"| {median('joint_in_plane_mm')}, {median('joint_rotation_deg')}, {median('joint_mtre_mm')} "
            f"| {sum(right)} | {sum(accepted)} | {wrong} | {', '.join(cover)} |"
        )
    relative = [row for row in rows if "rel_x" in row]
    if relative:
        spread = {k: np.std([row[f"rel_{k}"] for row in relative]) for k in ("x", "y", "z", "rx", "ry", "rz")}
        lines += ["", "ulna against radius, sd: " + ", ".join(f"{k} {v:.2f}" for k, v in spread.items())]
    lines += ["", f"median {np.median([row['seconds'] for row in known]):.1f} s"]
    return "\n".join(lines)


def _write(path: Path, rows: list[dict]) -> None:
    keys = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, keys, lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {k: f"{v:.4f}" if isinstance(v, float) else v for k, v in row.items()} for row in rows
        )


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=("wrist", "knee", "shown"))
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cases", type=int, default=10)
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    rows = []
    made = {"wrist": lambda: wrist(args.data, args.cases), "knee": lambda: knee(args.data)}
    for row in made.get(args.what, lambda: shown(args.data))():
        rows.append(row)
        _write(args.out, rows)
    print(of_shown(rows) if args.what == "shown" else told(rows))


if __name__ == "__main__":
    main()
