"""A tracked knee replacement against the metal in its X-rays, frame by frame.

    sopi track DATA/femur0.stl DATA/tibia0.stl --material CoCr --xrays DATA/cam01 DATA/cam02 \
        --geometry DATA/cameras.json --polarity bone-dark --out TRACK \
        --start femur0=DATA/start_femur.json@1 tibia0=DATA/start_tibia.json@1
    python Testing/studies/measure_knee_tracking.py DATA TRACK OUT [SINGLE ...]

DATA is as for ``measure_knee_implants.py``, with all frames. In each frame and camera the metal's outline is
the steepest edge (watershed of the slope) within BAND_PX of the bodies' projections, whichever pose within
that gave them. A control measures projections that are moved by CONTROL_PX: about half of it must be found,
the mean over an outline of what a shift is across it. A pose further off than BAND_PX is not told from one at
BAND_PX. Where the bodies overlap there is one outline about both: a body's projected outline counts where the
other one does not cover it, a point of the metal's outline for the body whose projection is nearer, both
within the field of the camera. Writes distances.csv (symmetric mean distance of outlines, pixels of 512) and
a picture of every tenth frame (green: the metal's outline, red: femur, yellow: tray), and prints a summary:
distances, steps from frame to frame, angle between the bodies. SINGLE are tracks of one camera each: how far
their bodies' centres lie from those of TRACK in that camera's plane, and what the fine level of that camera
alone makes of the poses of both: where TRACK's lead to, and in how many frames that costs less than where
SINGLE's lead to. What the other body covers where SINGLE has it is left out, as in the tracking.
"""

from __future__ import annotations

import csv
import json
import sys
from copy import copy
from itertools import pairwise
from pathlib import Path

import contourpy
import numpy as np
import SimpleITK as sitk
from measure_knee_implants import FINER, at_steepest
from scipy import ndimage
from scipy.spatial import cKDTree
from SOPIRegistrationLib.compare import Case, Comparison, Hypotheses, Reading, Run
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.files import load_geometry
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.radiograph_preparation import prepare_radiograph
from SOPIRegistrationLib.projector import project
from SOPIRegistrationLib.refine.levels import through_levels
from SOPIRegistrationLib.subject import Subject
from SOPIRegistrationLib.subject.surface import filled, material_named, read_surface
from SOPIRegistrationLib.tracking import open_sequence
from SOPIRegistrationLib.tracking.others import without_others
from SOPIRegistrationLib.tracking.reaching import last_steps

BODIES = {"femur0": (255, 0, 0), "tibia0": (255, 220, 0)}
# What the other body covers, and the edge of the field, with this margin, pixels.
CLOSE_PX = 4
# How far from the projections' outlines an edge may be the metal's, pixels; what lies deeper than this share
# of the greatest depth nearby is inside; by how much the control's projections are moved.
BAND_PX, DEEP, CONTROL_PX = 6, 0.7, 3
EVERY = 10
ENLARGED = 3


def poses(folder: Path) -> dict[str, dict[int, dict]]:
    """Frames of track.json by body and number."""
    entry = json.loads((folder / "track.json").read_text(encoding="utf-8"))
    return {body["name"]: {frame["frame"]: frame for frame in body["frames"]} for body in entry["bodies"]}


def outlines(image: np.ndarray, level: float = 0.5) -> list[np.ndarray]:
    """Lines (n, 2) of points (column, row) half a pixel apart, those that enclose something."""
    found = []
    for line in contourpy.contour_generator(z=image.astype(np.float32)).lines(level):
        along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
        if along[-1] > 20:
            places = np.linspace(0, along[-1], int(2 * along[-1]))
            found.append(np.column_stack([np.interp(places, along, line[:, axis]) for axis in (0, 1)]))
    return found


class Projection:
    """A body's silhouette in one camera.

    Args:
        subject, camera: what is seen, and by whom.
        T_lps_to_world: (4, 4) its pose.
    """

    def __init__(self, subject: Subject, camera: Camera, T_lps_to_world: np.ndarray):
        finer = camera.resampled(FINER * camera.width, FINER * camera.height)
        image = project(subject.silhouette.level(0), finer, T_lps_to_world)
        lines = outlines(image)
        points = np.concatenate(lines) if lines else np.empty((0, 2))
        self.outline = (points + 0.5) / FINER - 0.5
        rows, columns = camera.shape
        self.covered = image.reshape(rows, FINER, columns, FINER).mean(axis=(1, 3)) > 0.5

    def moved(self, columns: int) -> Projection:
        """The same beside itself, so many pixels to the right."""
        other = copy(self)
        other.outline = self.outline + np.array([columns, 0])
        other.covered = np.roll(self.covered, columns, axis=1)
        return other


def metal_outline(pixels: np.ndarray, projections: dict[str, Projection]) -> np.ndarray:
    """(n, 2) outline of the metal: the steepest edge between what lies deep in projections and what lies well
    beside them."""
    inside, covered = np.zeros(pixels.shape, bool), np.zeros(pixels.shape, bool)
    for projection in projections.values():
        depth = ndimage.distance_transform_edt(projection.covered)
        # Thin parts are as deep as they can be.
        deepest = ndimage.maximum_filter(depth, 2 * BAND_PX + 1)
        inside |= (depth > 0) & (depth >= np.minimum(DEEP * deepest, BAND_PX))
        covered |= projection.covered
    outside = ~ndimage.binary_dilation(covered, iterations=BAND_PX)
    slope = ndimage.gaussian_gradient_magnitude(np.log(pixels + 1.0), 1.0)
    watershed = sitk.MorphologicalWatershedFromMarkers(
        sitk.GetImageFromArray(slope),
        sitk.GetImageFromArray((inside + 2 * outside).astype(np.uint8)),
        markWatershedLine=False,
    )
    mask = ndimage.binary_fill_holes(sitk.GetArrayFromImage(watershed) == 1)
    lines = [at_steepest(pixels, line) for line in outlines(mask)]
    return np.concatenate(lines) if lines else np.empty((0, 2))


def looked_up(image: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Values of an image at the pixels nearest to points (column, row)."""
    column, row = np.rint(points).astype(int).T
    limit = np.array(image.shape) - 1
    return image[np.clip(row, 0, limit[0]), np.clip(column, 0, limit[1])]


def distances(
    metal: np.ndarray, projections: dict[str, Projection], field: np.ndarray
) -> dict[str, np.ndarray]:
    """Distances between the metal's outline and each body's, pixels, both ways."""
    if not len(metal):
        return {}
    metal = metal[looked_up(field, metal)]
    trees = {name: cKDTree(one.outline) for name, one in projections.items() if len(one.outline)}
    to_body = {name: tree.query(metal)[0] for name, tree in trees.items()}
    found = {}
    for name in trees:
        hidden = np.zeros(field.shape, bool)
        for other in trees:
            if other != name:
                hidden |= ndimage.binary_dilation(projections[other].covered, iterations=CLOSE_PX)
        outline = projections[name].outline
        outline = outline[looked_up(field & ~hidden, outline)]
        nearest = np.all([to_body[name] <= to_body[other] for other in to_body], axis=0)
        found[name] = np.concatenate([to_body[name][nearest], cKDTree(metal).query(outline)[0]])
    return found


def picture(pixels: np.ndarray, metal: np.ndarray, projections: dict[str, Projection]) -> np.ndarray:
    """RGB, enlarged."""
    gray = np.clip(np.kron(pixels, np.ones((ENLARGED, ENLARGED))) * 1.5, 0, 255)
    rgb = np.repeat(gray[..., None], 3, axis=2).astype(np.uint8)
    drawn = [(metal, (0, 255, 0)), *((one.outline, BODIES[name]) for name, one in projections.items())]
    for points, colour in drawn:
        u, v = np.rint((points + 0.5) * ENLARGED - 0.5).astype(int).T
        inside = (u >= 0) & (v >= 0) & (u < rgb.shape[1]) & (v < rgb.shape[0])
        rgb[v[inside], u[inside]] = colour
    return rgb


def measured(data: Path, track: dict, subjects: dict[str, Subject], out: Path) -> list[dict]:
    """A row a frame, camera and body; pictures of every tenth frame on the way."""
    known = load_geometry(str(data / "cameras.json"), (512, 512))
    sequences = {camera.name: open_sequence(data / camera.name) for camera in known.cameras}
    rows = []
    for number in next(iter(track.values())):
        for camera in known.cameras:
            radiograph = sequences[camera.name].frame(number)
            pixels = np.asarray(radiograph.pixels)
            valid = prepare_radiograph(radiograph, camera, "bone-dark", of_metal=True).valid
            field = ndimage.binary_erosion(valid, iterations=CLOSE_PX)
            projections = {
                name: Projection(subjects[name], camera, np.array(frames[number]["T_lps_to_world"]))
                for name, frames in track.items()
                if frames[number]["T_lps_to_world"] is not None
            }
            metal = metal_outline(pixels, projections)
            found = distances(metal, projections, field)
            beside = {name: one.moved(CONTROL_PX) for name, one in projections.items()}
            control = distances(metal_outline(pixels, beside), beside, field)
            for name, frames in track.items():
                d = found.get(name, np.empty(0))
                row = {"frame": number, "camera": camera.name, "body": name}
                row |= {"status": frames[number]["status"], "mean_px": f"{d.mean():.3f}" if len(d) else ""}
                row |= {"p95_px": f"{np.percentile(d, 95):.3f}" if len(d) else ""}
                row["control_px"] = f"{control[name].mean():.3f}" if len(control.get(name, ())) else ""
                in_field = projections[name].covered if name in projections else np.zeros_like(valid)
                row["in_field"] = f"{(in_field & valid).sum() / max(in_field.sum(), 1):.2f}"
                rows.append(row)
            if (number - 1) % EVERY == 0 or number == len(next(iter(track.values()))):
                image = sitk.GetImageFromArray(picture(pixels, metal, projections), isVector=True)
                sitk.WriteImage(image, str(out / f"frame_{number:02d}_{camera.name}.png"))
    return rows


def refined(comparison: Comparison, run: Run, T_lps_to_world: np.ndarray) -> tuple[np.ndarray, float]:
    """(4, 4) where the fine level leads to from a pose (4, 4), and its cost there."""
    steps = last_steps(comparison.target.kind)
    found = through_levels(Hypotheses.unscored(comparison, T_lps_to_world[None]), steps, run)
    return found.T[0], float(comparison.cost(steps[0].level, found.T)[0])


def of_one_camera(data: Path, track: dict, single: Path, subjects: dict[str, Subject]) -> None:
    """Print where the fine level of one camera leads to from the poses of both."""
    entry = json.loads((single / "track.json").read_text(encoding="utf-8"))
    name = entry["geometry"]["cameras"][0]["name"]
    camera = load_geometry(str(data / "cameras.json"), (512, 512)).for_camera(name).camera
    sequence, alone = open_sequence(data / name), poses(single)
    for body, frames in alone.items():
        centre, apart, less = subjects[body].ct.rotation_centre_lps_mm, [], 0
        for number, frame in frames.items():
            T_both, T_alone = (one["T_lps_to_world"] for one in (track[body][number], frame))
            if T_both is None or T_alone is None:
                continue
            xray = prepare_radiograph(sequence.frame(number), camera, "bone-dark", of_metal=True)
            hidden_by = [
                (subjects[other], np.array(T))
                for other, of_other in alone.items()
                if other != body and (T := of_other[number]["T_lps_to_world"]) is not None
            ]
            T_both, T_alone = np.array(T_both), np.array(T_alone)
            depth = se3.transform_points(camera.T_world_to_camera @ T_both, centre)[2]
            reading = Reading((without_others(xray, hidden_by),))
            case = Case(subjects[body], reading, PoseFrame(centre, depth), "auto", T_both)
            comparison, run = Comparison(case, case.reading, case.targets[0]), Run(case, None)
            T, cost = refined(comparison, run, T_both)
            less += cost < refined(comparison, run, T_alone)[1]
            a, b = (se3.transform_points(camera.T_world_to_camera @ one, centre) for one in (T, T_both))
            apart.append(np.linalg.norm((a - b)[:2]))
        print(
            f"{body}: from the poses of both cameras the fine level of {name} alone stays within 1 mm in the "
            f"plane in {np.mean(np.array(apart) <= 1):.0%} of {len(apart)} frames, and costs less than from "
            f"its own in {less}"
        )


def in_plane(data: Path, track: dict, single: Path, subjects: dict[str, Subject]) -> None:
    """Print how far a single camera's track lies from that of both, in its plane."""
    entry = json.loads((single / "track.json").read_text(encoding="utf-8"))
    name = entry["geometry"]["cameras"][0]["name"]
    camera = load_geometry(str(data / "cameras.json"), (512, 512)).for_camera(name).camera
    for body, frames in poses(single).items():
        apart, lost = [], 0
        centre = subjects[body].ct.rotation_centre_lps_mm
        for number, frame in frames.items():
            both = track[body][number]["T_lps_to_world"]
            if frame["T_lps_to_world"] is None or both is None:
                lost += 1
                continue
            a, b = (
                se3.transform_points(camera.T_world_to_camera @ np.array(T), centre)
                for T in (frame["T_lps_to_world"], both)
            )
            apart.append(np.linalg.norm((a - b)[:2]))
        within = np.mean(np.array(apart) <= 1) * len(apart) / len(frames)
        print(
            f"{body} in {name} alone: {within:.0%} of the frames within 1 mm in the plane, median "
            f"{np.median(apart):.2f}, largest {max(apart):.2f} mm, {lost} lost"
        )


def motion(track: dict, subjects: dict[str, Subject]) -> None:
    """Print steps from frame to frame, and the angle between the bodies."""
    for body, frames in track.items():
        T = [np.array(f["T_lps_to_world"]) for f in frames.values() if f["T_lps_to_world"] is not None]
        places = se3.transform_points(np.stack(T), subjects[body].ct.rotation_centre_lps_mm)
        steps = np.linalg.norm(np.diff(places, axis=0), axis=1)
        turns = np.rad2deg([se3.rotation_distance(a[:3, :3], b[:3, :3]) for a, b in pairwise(T)])
        print(
            f"{body}: steps {np.median(steps):.1f} mm and {np.median(turns):.1f} deg in the median, at most "
            f"{steps.max() / np.median(steps):.1f} and {turns.max() / np.median(turns):.1f} times as much"
        )
    femur, tibia = (track[name] for name in BODIES)
    known = [n for n in femur if femur[n]["T_lps_to_world"] and tibia[n]["T_lps_to_world"]]
    R = [
        np.array(femur[n]["T_lps_to_world"])[:3, :3].T @ np.array(tibia[n]["T_lps_to_world"])[:3, :3]
        for n in known
    ]
    angles = [float(np.rad2deg(se3.rotation_distance(R[0], one))) for one in R]
    print("turn of the tray against the femur since the first frame, deg:")
    print("  " + " ".join(f"{angle:.1f}" for angle in angles))


def main(data: Path, folder: Path, out: Path, singles: list[Path]) -> None:
    """Measure, draw, print."""
    out.mkdir(parents=True, exist_ok=True)
    track = poses(folder)
    subjects = {
        name: Subject(filled(read_surface(data / f"{name}.stl"), material_named("CoCr"))) for name in BODIES
    }
    rows = measured(data, track, subjects, out)
    with (out / "distances.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    for body in track:
        for camera in ("cam01", "cam02"):
            of = [row for row in rows if (row["body"], row["camera"]) == (body, camera)]
            means = np.array([float(row["mean_px"]) for row in of if row["mean_px"]])
            lost = sum(row["status"] == "lost" for row in of)
            worst = max(of, key=lambda row: float(row["mean_px"] or 0))
            beyond = [str(row["frame"]) for row in of if float(row["mean_px"] or 0) > 1]
            control = np.median([float(row["control_px"]) for row in of if row["control_px"]])
            print(
                f"{body} in {camera}: outline {np.median(means):.2f} px (median over frames), "
                f"{(means <= 1).sum()} of {len(means)} frames within 1 px (beyond: "
                f"{' '.join(beyond) or 'none'}), worst {worst['mean_px']} px in frame {worst['frame']}; "
                f"{lost} lost; control, moved by {CONTROL_PX} px: {control:.2f} px"
            )
    motion(track, subjects)
    for single in singles:
        in_plane(data, track, single, subjects)
        of_one_camera(data, track, single, subjects)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), [Path(word) for word in sys.argv[4:]])
