"""Implants that are the right ones and implants that are not: what the verdict says of each.

    python Testing/studies/measure_implant_verdict.py real OUT DATA
    python Testing/studies/measure_implant_verdict.py simulated OUT DATA [--rounds N]

DATA is that of ``measure_knee_implants.py``: two closed surfaces, cobalt-chromium, and their X-rays. *real*:
each from its rough start in frame 0002, as it is, 5 % larger and smaller and turned over; the first pose
proposed is judged. *simulated*: each in X-rays of a simulated leg: random poses, soft tissue, bone and cement
of random size, a second leg in some, scatter, blur, noise, a display curve, 8 bit; the metal is filled finer
than for a registration. A round registers each surface in one view, and in two views at right angles, from
starts up to 5 deg and 5 mm (depth 10 mm) off what they are about, as these:

right       the implant that is in the X-ray
size        the same, 5 to 10 % larger or smaller
side        its mirror image, from about the true pose; not of a surface that is its own mirror image
other       the other surface's X-ray
none        a leg without metal
mirror      the right one, from about its mirror pose in the first view (``refine.alternatives``)

Right is a pose of the right implant within 2 mm in the plane at the object and 3 deg; of all others nothing
is. Writes a CSV row a registration as soon as it is known, and prints a table.
"""

from __future__ import annotations

import argparse
import csv
import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation
from SOPIRegistrationLib.cli.request import with_depth_of_start
from SOPIRegistrationLib.evaluation.metrics import pose_error
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.files import load_geometry
from SOPIRegistrationLib.geometry.principal_axes import principal_axes
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.files import read_radiograph
from SOPIRegistrationLib.images.radiograph import PreparedRadiograph, Radiograph
from SOPIRegistrationLib.images.radiograph_preparation import prepare_radiograph
from SOPIRegistrationLib.projector import ProjectorVolume, project
from SOPIRegistrationLib.refine.alternatives import alike_poses
from SOPIRegistrationLib.registration import register
from SOPIRegistrationLib.registration.loop import find
from SOPIRegistrationLib.registration.pose_files import read_start
from SOPIRegistrationLib.registration.result import RegistrationResult
from SOPIRegistrationLib.settings import RegistrationSettings
from SOPIRegistrationLib.subject import Subject
from SOPIRegistrationLib.subject.surface import Surface, filled, material_named, read_surface

SDD_MM, SOD_MM, PIXEL_MM, PIXELS = 1100.0, 800.0, 0.8, 256
FINE_MM = 0.25
START_TURN_DEG, START_SHIFT_MM, START_DEPTH_MM = 5.0, 5.0, 10.0
SIZES = (0.9, 0.95, 1.05, 1.1)
WHAT = ("right", "size", "side", "other", "none", "mirror")
RIGHT_MM, RIGHT_DEG = 2.0, 3.0
SAME_MM = 1.0


class Implant(NamedTuple):
    """A surface, as it is registered and as it is X-rayed."""

    surface: Surface
    subject: Subject
    fine: ProjectorVolume


def made(surface: Surface) -> Subject:
    """A surface as it is registered."""
    return Subject(filled(surface, material_named("CoCr")))


def changed(surface: Surface, centre: np.ndarray, factors) -> Surface:
    """A surface stretched about a point along x, y and z."""
    turned_over = np.prod(factors) < 0
    triangles = surface.triangles[:, ::-1] if turned_over else surface.triangles
    return replace(
        surface, points_lps_mm=(surface.points_lps_mm - centre) * factors + centre, triangles=triangles
    )


def is_own_mirror_image(surface: Surface, centre: np.ndarray) -> bool:
    """Whether a surface is the same turned over along x."""
    points = changed(surface, centre, [-1, 1, 1]).points_lps_mm
    return np.quantile(cKDTree(surface.points_lps_mm).query(points)[0], 0.95) < SAME_MM


def cameras(views: int) -> list[Camera]:
    """One C-arm, or two at right angles about what is ``SOD_MM`` in front of the first."""
    front = Camera.from_c_arm(SDD_MM, (PIXEL_MM, PIXEL_MM), PIXELS, PIXELS)
    beside = se3.rigid(se3.exp_so3(np.array([0.0, np.pi / 2, 0.0])), np.array([-SOD_MM, 0.0, SOD_MM]))
    return [front, replace(front, T_world_to_camera=beside, name="view 2")][:views]


def taken(metal: ProjectorVolume | None, camera: Camera, T: np.ndarray, rng) -> PreparedRadiograph:
    """A leg's X-ray, prepared; with metal at a pose (4, 4) if there is any."""
    fine = camera.resampled(2 * camera.width, 2 * camera.height)
    beam = np.ones(camera.shape)
    if metal is not None:
        beam = np.exp(-project(metal, fine, T)).reshape(PIXELS, 2, PIXELS, 2).mean(axis=(1, 3))
    v, u = np.indices(camera.shape) / np.array(camera.shape).reshape(2, 1, 1) - 0.5
    cos, sin = np.cos(turn := rng.uniform(-0.4, 0.4)), np.sin(turn)
    across, along = cos * u + sin * v, cos * v - sin * u

    def rod(width: float, middle: float = 0.0) -> np.ndarray:
        return np.sqrt(np.maximum(0, 1 - ((across - middle) / width) ** 2))

    leg = rng.uniform(0.7, 1.5) * rod(rng.uniform(0.35, 0.6))
    leg += (
        (rng.random() < 0.4) * rng.uniform(0.5, 1.2) * rod(0.35, rng.choice([-1, 1]) * rng.uniform(0.4, 0.6))
    )
    ends = 1 + 0.6 * np.exp(-((along / 0.12) ** 2))
    bone = rng.uniform(0.3, 0.8) * np.sqrt(
        np.maximum(0, 1 - (across / (rng.uniform(0.11, 0.17) * ends)) ** 2)
    )
    texture = ndimage.gaussian_filter(rng.normal(size=camera.shape), rng.uniform(2, 5))
    bone *= 1 + 0.15 * texture / texture.std()
    cement = rng.uniform(0.1, 0.5) * np.exp(-(((across / 0.08) ** 2 + (along / 0.2) ** 2) ** 2))
    marker = 0.25 * (np.hypot(u - rng.uniform(-0.3, 0.3), v - rng.uniform(-0.4, 0.4)) < 0.02)
    patient = np.exp(-leg - bone - cement - marker)
    scatter = rng.uniform(0.08, 0.25) * ndimage.gaussian_filter(patient * beam, 25.0)
    intensity = ndimage.gaussian_filter(beam * patient, rng.uniform(0.6, 1.2)) + scatter
    intensity += (
        rng.uniform(0.003, 0.01) * np.sqrt(np.maximum(intensity, 0.02)) * rng.normal(size=camera.shape)
    )
    shown = np.clip(intensity / np.quantile(intensity, 0.99), 0, 1) ** rng.uniform(0.6, 1.4)
    radiograph = Radiograph((235 * shown).astype(np.uint8), camera.name or "view 1")
    return prepare_radiograph(radiograph, camera, "bone-dark", of_metal=True)


def off(T: np.ndarray, centre: np.ndarray, rng) -> np.ndarray:
    """A start about a pose."""
    twist = rng.uniform(-1, 1, 6) * [
        *[np.deg2rad(START_TURN_DEG)] * 3,
        START_SHIFT_MM,
        START_SHIFT_MM,
        START_DEPTH_MM,
    ]
    return se3.move_about(T, twist, centre)


def simulated(data: Path, rounds: int) -> Iterator[dict]:
    """Rows of simulated legs."""
    implants = []
    for name in ("femur0.stl", "tibia0.stl"):
        surface = read_surface(data / name)
        fine = ProjectorVolume(filled(surface, material_named("CoCr"), FINE_MM).attenuation)
        implants.append(Implant(surface, made(surface), fine))
    for number, which, views, what in itertools.product(range(rounds), range(len(implants)), (1, 2), WHAT):
        rng = np.random.default_rng([number, which, views, WHAT.index(what)])
        implant = implants[which]
        shown = {"other": implants[1 - which].fine, "none": None}.get(what, implant.fine)
        centre = implant.subject.ct.rotation_centre_lps_mm
        if what == "side" and is_own_mirror_image(implant.surface, centre):
            continue
        frame = PoseFrame(centre, SOD_MM)
        place = np.array([*rng.uniform(-25, 25, 2), SOD_MM + rng.uniform(-40, 40)])
        R = Rotation.random(random_state=int(rng.integers(2**31))).as_matrix()
        T = se3.rigid(R, place - R @ centre)
        if what == "other":
            centre_of_other = implants[1 - which].subject.ct.rotation_centre_lps_mm
            T_shown = se3.rigid(R, place - R @ centre_of_other)
        else:
            T_shown = T
        xrays = [taken(shown, camera, T_shown, rng) for camera in cameras(views)]
        subject, about, note = implant.subject, T, ""
        if what == "size":
            note = float(rng.choice(SIZES))
            subject = made(changed(implant.surface, centre, [note] * 3))
        elif what == "side":
            subject = made(changed(implant.surface, centre, [-1, 1, 1]))
        elif what == "mirror":
            axes = principal_axes(subject.ct.surface_points_lps_mm)
            poses = [pose for way, pose in alike_poses(axes, T, [np.zeros(3)]) if way == "mirror pose"]
            about = poses[int(rng.integers(len(poses)))]
        start = off(about, centre, rng)
        result = register(subject, xrays, frame, RegistrationSettings("given"), start)
        error = pose_error(
            result.T_lps_to_world, T, subject.ct.surface_points_lps_mm, centre, xrays[0].camera
        )
        near = error.in_plane_mm <= RIGHT_MM and error.rotation_deg <= RIGHT_DEG
        depth = se3.transform_points(np.stack([start, result.T_lps_to_world]), centre)[:, 2]
        row = {
            "implant": implant.surface.name,
            "views": views,
            "what": what,
            "round": number,
            "size": note,
            "right": int(near and what in ("right", "mirror")),
            "in_plane_mm": error.in_plane_mm,
            "depth_mm": error.depth_mm,
            "rotation_deg": error.rotation_deg,
            "deeper_than_start": depth[1] / depth[0] - 1,
            "other_margin": result.alternatives[0].margin if result.alternatives else "",
            "sd_depth_mm": result.verdict.predicted_error_mm[2],
        }
        yield {**row, **figures(result)}


def real(data: Path) -> Iterator[dict]:
    """Rows of frame 0002: what there is, and what is changed."""
    known = load_geometry(str(data / "cameras.json"), (512, 512))
    views = {
        camera.name: prepare_radiograph(
            read_radiograph(data / camera.name / "frame_0002.png"), camera, "bone-dark", of_metal=True
        )
        for camera in known.cameras
    }
    both = tuple(views)
    for body, factors, names in itertools.product(
        ("femur", "tibia"), ([1, 1, 1], [1.05] * 3, [0.95] * 3, [-1, 1, 1]), (both, *((one,) for one in both))
    ):
        surface = read_surface(data / f"{body}0.stl")
        subject = made(surface)
        centre = subject.ct.rotation_centre_lps_mm
        if factors[0] < 0 and is_own_mirror_image(surface, centre):
            continue
        subject = made(changed(surface, centre, factors))
        start_file, seen = data / f"start_{body}.json", tuple(views[name].camera for name in names)
        geometry = with_depth_of_start(replace(known, cameras=seen), subject.ct, start_file, known.cameras)
        frame = geometry.pose_frame(subject.ct.rotation_centre_lps_mm)
        start = read_start(start_file, frame, known.cameras, seen[0])
        settings = RegistrationSettings("given")
        result = find(subject, [views[name] for name in names], frame, settings, start, enough=lambda _: True)
        what = {1: "right", -1: "side"}.get(factors[0], "size")
        depth = se3.transform_points(
            seen[0].T_world_to_camera @ np.stack([start, result.T_lps_to_world]), frame.centre_lps_mm
        )[:, 2]
        row = {
            "implant": surface.name,
            "views": len(names),
            "what": what,
            "seen": " ".join(names),
            "size": factors[0],
            "right": int(what == "right"),
            "deeper_than_start": depth[1] / depth[0] - 1,
        }
        yield {**row, **figures(result)}


def figures(result: RegistrationResult) -> dict:
    """What a verdict says, and some of what it is made of."""
    verdict = result.verdict
    row: dict = {"status": verdict.status, "seconds": result.seconds}
    for name in ("agreement", "coarse", "parts_median", "parts_low", "apart_mm", "apart_high_mm", "margin"):
        row[name] = getattr(verdict.evidence, name)
    return {**row, "reasons": "; ".join(verdict.reasons)}


def told(found: list[dict]) -> str:
    """The table."""
    lines = [
        "| registered | views | n | right | accepted | accepted and wrong | review | reject |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for what, views in itertools.product(WHAT, (1, 2)):
        of = [row for row in found if row["what"] == what and row["views"] == views]
        if not of:
            continue
        status = [row["status"] for row in of]
        wrong = sum(row["status"] == "accept" and not row["right"] for row in of)
        lines.append(
            f"| {what} | {views} | {len(of)} | {sum(row['right'] for row in of)} | {status.count('accept')} "
            f"| {wrong} | {status.count('review')} | {status.count('reject')} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=("real", "simulated"))
    parser.add_argument("out", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--rounds", type=int, default=4)
    args = parser.parse_args()
    found: list[dict] = []
    for row in real(args.data) if args.what == "real" else simulated(args.data, args.rounds):
        found.append(row)
        with args.out.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, list(row), lineterminator="\n")
            writer.writeheader()
            writer.writerows(
                {k: f"{v:.4f}" if isinstance(v, float) else v for k, v in one.items()} for one in found
            )
    print(told(found))


if __name__ == "__main__":
    main()
