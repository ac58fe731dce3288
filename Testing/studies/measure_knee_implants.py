"""Implants in real biplane X-rays of a knee: projected outlines against the metal's own.

    python Testing/studies/measure_knee_implants.py DATA OUT

DATA holds ``cameras.json``, ``femur0.stl``, ``tibia0.stl``, ``start_femur.json``, ``start_tibia.json`` and
frames ``cam01/frame_0002.png``, ``cam02/frame_0002.png``. Femur and tibia are registered from their rough
starts, in both cameras and in each alone. The metal is segmented without knowledge of any pose: from one
seed a picture and implant, put by hand, it grows over what nearby is as dark; a watershed of the gradient
then finds the outline, and every point of it moves to the steepest place across it. Prints the symmetric
distance between this outline and the registered one, pixels of 512, writes pictures of both (green: the
metal's, red: projected), and ends with the distance of each single camera's pose from that of both.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import contourpy
import numpy as np
import SimpleITK as sitk
from scipy import ndimage
from scipy.spatial import cKDTree
from SOPIRegistrationLib.cli.request import with_depth_of_start
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.files import load_geometry
from SOPIRegistrationLib.images.files import read_radiograph
from SOPIRegistrationLib.images.radiograph_preparation import prepare_radiograph
from SOPIRegistrationLib.projector import project
from SOPIRegistrationLib.registration import register
from SOPIRegistrationLib.registration.pose_files import read_start
from SOPIRegistrationLib.settings import RegistrationSettings
from SOPIRegistrationLib.subject import Subject
from SOPIRegistrationLib.subject.surface import filled, material_named, read_surface

# (column, row) inside the metal, by a look at frame 0002.
SEEDS = {
    ("femur", "cam01"): (245, 315),
    ("femur", "cam02"): (265, 300),
    ("tibia", "cam01"): (297, 380),
    ("tibia", "cam02"): (312, 385),
}
# Gray levels about that of the metal within so many pixels that metal keeps within; how often it may grow.
TOLERANCE, NEARBY_PX, ROUNDS = 4, 8, 20
# How far from what has grown so its outline may lie, pixels.
REACH_PX = 8
# The projected outline is drawn on pixels this much finer.
FINER = 4


def metal_mask(pixels: np.ndarray, seed: tuple[int, int], tolerance: float = TOLERANCE) -> np.ndarray:
    """(rows, columns) bool: the metal about a seed (column, row)."""
    smooth = ndimage.median_filter(pixels.astype(np.float32), 3)
    core = np.zeros(pixels.shape, bool)
    core[seed[1] - 2 : seed[1] + 3, seed[0] - 2 : seed[0] + 3] = True
    # Scatter makes metal brighter from place to place: what counts is the gray of the metal nearby.
    for _ in range(ROUNDS):
        weight = ndimage.gaussian_filter(core.astype(np.float32), NEARBY_PX)
        gray = ndimage.gaussian_filter(np.where(core, smooth, 0), NEARBY_PX) / np.maximum(weight, 1e-6)
        alike = (np.abs(smooth - gray) <= tolerance) & (weight > 1e-3)
        labels, _ = ndimage.label(ndimage.binary_opening(alike, iterations=2))
        core = labels == labels[seed[1], seed[0]]
    markers = np.where(core, 1, 0) + np.where(ndimage.binary_dilation(core, iterations=REACH_PX), 0, 2)
    slope = ndimage.gaussian_gradient_magnitude(np.log(pixels + 1.0), 1.0)
    watershed = sitk.MorphologicalWatershedFromMarkers(
        sitk.GetImageFromArray(slope),
        sitk.GetImageFromArray(markers.astype(np.uint8)),
        markWatershedLine=False,
    )
    return ndimage.binary_fill_holes(sitk.GetArrayFromImage(watershed) == 1)


def contour(image: np.ndarray, level: float = 0.5) -> np.ndarray:
    """(n, 2) points (column, row) of the outer outline, half a pixel apart or less."""
    lines = contourpy.contour_generator(z=image).lines(level)
    line = max(lines, key=lambda one: np.ptp(one, axis=0).prod())
    steps = np.linalg.norm(np.diff(line, axis=0), axis=1)
    along = np.concatenate([[0], np.cumsum(steps)])
    places = np.linspace(0, along[-1], int(2 * along[-1]))
    return np.column_stack([np.interp(places, along, line[:, axis]) for axis in (0, 1)])


def at_steepest(pixels: np.ndarray, points: np.ndarray, reach_px: float = 2.5) -> np.ndarray:
    """Points of an outline (column, row) moved across it to where the intensity changes most."""
    smooth = ndimage.gaussian_filter(pixels.astype(np.float64), 0.7)
    tangent = np.roll(points, -3, axis=0) - np.roll(points, 3, axis=0)
    tangent /= np.maximum(np.linalg.norm(tangent, axis=1, keepdims=True), 1e-9)
    normal = np.column_stack([tangent[:, 1], -tangent[:, 0]])
    offsets = np.arange(-reach_px, reach_px + 0.01, 0.1)
    places = points[:, None] + offsets[:, None] * normal[:, None]
    profile = ndimage.map_coordinates(smooth, [places[..., 1], places[..., 0]], order=1, mode="nearest")
    steepest = np.abs(np.gradient(profile, axis=1)).argmax(axis=1)
    shift = ndimage.median_filter(offsets[steepest], 9, mode="wrap")
    return points + shift[:, None] * normal


def projected_contour(subject: Subject, camera, T_lps_to_world: np.ndarray) -> np.ndarray:
    """(n, 2) outline (column, row) of a subject at a pose, pixels of the camera."""
    finer = camera.resampled(FINER * camera.width, FINER * camera.height)
    points = contour(project(subject.silhouette.level(0), finer, T_lps_to_world))
    return (points + 0.5) / FINER - 0.5


def symmetric_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Distances of each point of two outlines to the other one."""
    return np.concatenate([cKDTree(b).query(a)[0], cKDTree(a).query(b)[0]])


def picture(pixels: np.ndarray, metal: np.ndarray, projected: np.ndarray) -> np.ndarray:
    """RGB, four times enlarged about the implant."""
    low = np.maximum(metal.min(axis=0).astype(int) - 12, 0)
    high = np.minimum(metal.max(axis=0).astype(int) + 13, 511)
    crop = pixels[low[1] : high[1], low[0] : high[0]]
    gray = np.clip(np.kron(crop, np.ones((4, 4))) * 1.5, 0, 255)
    rgb = np.repeat(gray[..., None], 3, axis=2).astype(np.uint8)
    for points, colour in ((metal, (0, 255, 0)), (projected, (255, 0, 0))):
        u, v = np.rint((points - low + 0.5) * 4 - 0.5).astype(int).T
        inside = (u >= 0) & (v >= 0) & (u < rgb.shape[1]) & (v < rgb.shape[0])
        rgb[v[inside], u[inside]] = colour
    return rgb


def main(data: Path, out: Path) -> None:
    """Register, measure, draw."""
    out.mkdir(parents=True, exist_ok=True)
    known = load_geometry(str(data / "cameras.json"), (512, 512))
    xrays = {camera.name: read_radiograph(data / camera.name / "frame_0002.png") for camera in known.cameras}
    views = {
        camera.name: prepare_radiograph(xrays[camera.name], camera, "bone-dark", of_metal=True)
        for camera in known.cameras
    }
    for body in ("femur", "tibia"):
        subject = Subject(filled(read_surface(data / f"{body}0.stl"), material_named("CoCr")))
        start_file, poses = data / f"start_{body}.json", {}
        for names in (("cam01", "cam02"), ("cam01",), ("cam02",)):
            cameras = tuple(views[name].camera for name in names)
            geometry = replace(known, cameras=cameras)
            geometry = with_depth_of_start(geometry, subject.ct, start_file, known.cameras)
            frame = geometry.pose_frame(subject.ct.rotation_centre_lps_mm)
            start = read_start(start_file, frame, known.cameras, cameras[0])
            result = register(
                subject, [views[name] for name in names], frame, RegistrationSettings("given"), start
            )
            T, verdict = result.T_lps_to_world, result.verdict
            poses[names] = T
            print(f"{body} in {' and '.join(names)}: {verdict.status}, {verdict.reasons[0]}")
            if len(names) == 1:
                C = cameras[0].T_world_to_camera
                centre = subject.ct.rotation_centre_lps_mm
                both = poses["cam01", "cam02"]
                x, y, z = se3.transform_points(C @ T, centre) - se3.transform_points(C @ both, centre)
                turn = np.rad2deg(se3.rotation_distance(T[:3, :3], both[:3, :3]))
                print(f"  from the pose of both: {x:.2f}, {y:.2f} mm, depth {z:.2f} mm, {turn:.2f} deg")
                x, y, z = verdict.predicted_error_mm
                print(f"  predicted (one sd):    {x:.2f}, {y:.2f} mm, depth {z:.2f} mm")
            for name in names:
                pixels = np.asarray(xrays[name].pixels)
                rough = contour(metal_mask(pixels, SEEDS[body, name]).astype(np.float32))
                metal = at_steepest(pixels, rough)
                outlines = {}
                for label, pose in (("start", start), ("registered", T)):
                    outlines[label] = projected_contour(subject, views[name].camera, pose)
                    d = symmetric_distances(metal, outlines[label])
                    print(f"  {name} {label}: mean {d.mean():.2f}, 95 % {np.percentile(d, 95):.2f} px of 512")
                image = picture(pixels, metal, outlines["registered"])
                file = out / f"{body}_{'_'.join(names)}_seen_in_{name}.png"
                sitk.WriteImage(sitk.GetImageFromArray(image, isVector=True), str(file))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
