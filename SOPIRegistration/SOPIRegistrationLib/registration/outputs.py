"""What a registration leaves behind: result.json, a transform, DRRs and pictures to judge it by."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from SOPIRegistrationLib.geometry.c_arm import CArmGeometry
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.detector import detector_to_scene
from SOPIRegistrationLib.geometry.files import geometry_as_dict, write_geometry
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.overlay import edges_of_bodies, fusion_image
from SOPIRegistrationLib.images.radiograph import PreparedRadiograph
from SOPIRegistrationLib.images.volume import Volume
from SOPIRegistrationLib.projector import project
from SOPIRegistrationLib.projector.bodies import project_bodies
from SOPIRegistrationLib.registration.bodies_result import BodiesResult
from SOPIRegistrationLib.registration.pose_files import write_transform
from SOPIRegistrationLib.registration.result import RegistrationResult
from SOPIRegistrationLib.subject import MovingVolume
from SOPIRegistrationLib.subject.bodies import Bodies

# The cameras whose intrinsics were estimated: what the pose belongs to.
ESTIMATED_GEOMETRY = "geometry_estimated.json"


def write_results(
    folder: Path,
    result: RegistrationResult,
    geometry: CArmGeometry,
    moving: MovingVolume,
    seconds_preparation: float,
    body: str = "ct",
) -> list[str]:
    """Write result.json, the body's transform (ct_to_carm.tfm), and for every view a DRR and an overlay.

    Of each alternative pose a transform and overlays besides. The first view's are drr.nrrd and overlay.png;
    those of further views carry the camera's name. Where intrinsics were estimated, the geometry found is
    written besides.

    Args:
        folder: an existing folder.
        result: the registration.
        geometry: cameras of the views, in their order.
        moving: what its DRRs are made of.
        seconds_preparation: time spent on reading and preparing the inputs.
        body: its name, before ``_to_carm.tfm``.

    Returns:
        The files' names.
    """
    reference, frame = result.radiographs[0].camera, result.frame
    names = []
    for number, radiograph in enumerate(result.radiographs):
        camera = radiograph.camera
        suffix = _suffix(camera, number)
        drr = project(moving.level(0), camera, result.T_lps_to_world)
        picture = fusion_image(radiograph.image, drr, radiograph.valid)
        # As the X-ray is stored.
        if mirrored := result.image(geometry.mirrored)["mirrored"]:
            picture = picture[:, ::-1]
        path = folder / f"drr{suffix}.nrrd"
        write_detector_image(path, drr, camera, frame, reference, stored_mirrored=mirrored)
        write_picture(folder / f"overlay{suffix}.png", np.ascontiguousarray(picture))
        names += [f"drr{suffix}.nrrd", f"overlay{suffix}.png"]
    names += _write_alternatives(folder, result, body, [moving.level(0)], 0, mirrored)
    transform = f"{body}_to_carm.tfm"
    write_transform(folder / transform, reference.T_world_to_camera @ result.T_lps_to_world, frame)
    write_content(folder / "result.json", result_content(result, geometry, seconds_preparation))
    if result.intrinsics:
        write_geometry(_as_found(result, geometry), folder / ESTIMATED_GEOMETRY)
        names.append(ESTIMATED_GEOMETRY)
    return ["result.json", transform, *names]


def write_bodies_results(
    folder: Path, result: BodiesResult, bodies: Bodies, geometry: CArmGeometry, seconds_preparation: float
) -> list[str]:
    """Write result.json, a transform for each body, and for every view a DRR of all and the bodies' edges.

    Of each alternative pose of a body a transform and overlays besides.

    Args:
        folder: an existing folder.
        result: the registration.
        bodies: what was registered.
        geometry: cameras of the views, in their order.
        seconds_preparation: time spent on reading and preparing the inputs.

    Returns:
        The files' names.
    """
    first, frame = result.first, result.first.frame
    reference, names = result.radiographs[0].camera, []
    poses = np.array([body.T_lps_to_world for body in result.bodies])
    mirrored = first.image(geometry.mirrored)["mirrored"]
    volumes = [body.subject.shown.level(0) for body in bodies.bodies]
    for number, radiograph in enumerate(result.radiographs):
        camera = radiograph.camera
        suffix = _suffix(camera, number)
        drr = project_bodies(volumes, camera, poses)
        alone = [project(volume, camera, T) for volume, T in zip(volumes, poses, strict=True)]
        write_detector_image(
            folder / f"drr{suffix}.nrrd", drr, camera, frame, reference, stored_mirrored=mirrored
        )
        _write_edges(folder / f"overlay{suffix}.png", radiograph, alone, mirrored)
        names += [f"drr{suffix}.nrrd", f"overlay{suffix}.png"]
    transforms = []
    for place, body in enumerate(result.bodies):
        plain = _plain(body.name)
        names += _write_alternatives(folder, result.of(body), plain, volumes, place, mirrored, poses)
        transforms.append(f"{plain}_to_carm.tfm")
        write_transform(folder / transforms[-1], reference.T_world_to_camera @ body.T_lps_to_world, frame)
    write_content(folder / "result.json", result_content(result, geometry, seconds_preparation))
    return ["result.json", *transforms, *names]


def _suffix(camera: Camera, view: int) -> str:
    """What the names of a view's files end with; nothing of the first."""
    return f"_{_plain(camera.name)}" if view else ""


def _plain(name: str) -> str:
    """A name fit for a file's."""
    return re.sub(r"[^\w.-]", "_", name)


def _write_alternatives(
    folder: Path,
    result: RegistrationResult,
    body: str,
    volumes: Sequence,
    place: int,
    mirrored: bool,
    poses: np.ndarray | None = None,
) -> list[str]:
    """Of each alternative pose of a body its transform and, for every view, the edges of all bodies with it.

    Args:
        folder: an existing folder.
        result: that of the body.
        body: its name, fit for a file's.
        volumes: of all bodies.
        place: of the body among them.
        mirrored: whether the X-rays are stored mirrored.
        poses: (N, 4, 4) of all bodies; that of the result alone unless given.
    """
    reference, names = result.radiographs[0].camera, []
    for number, one in enumerate(result.alternatives, 1):
        stem = f"{body}_alternative{number}"
        names.append(f"{stem}_to_carm.tfm")
        write_transform(folder / names[-1], reference.T_world_to_camera @ one.T_lps_to_world, result.frame)
        there = np.array([result.T_lps_to_world] if poses is None else poses)
        there[place] = one.T_lps_to_world
        for view, radiograph in enumerate(result.radiographs):
            suffix = _suffix(radiograph.camera, view)
            alone = [project(volume, radiograph.camera, T) for volume, T in zip(volumes, there, strict=True)]
            names.append(f"overlay_{stem}{suffix}.png")
            _write_edges(folder / names[-1], radiograph, alone, mirrored)
    return names


def _write_edges(
    path: Path, radiograph: PreparedRadiograph, drrs: Sequence[np.ndarray], mirrored: bool
) -> None:
    """An X-ray as it is stored with the edges of DRRs of single bodies."""
    picture = edges_of_bodies(radiograph.image, drrs, radiograph.valid)
    write_picture(path, np.ascontiguousarray(picture[:, ::-1] if mirrored else picture))


def result_content(
    result: RegistrationResult | BodiesResult, geometry: CArmGeometry, seconds_preparation: float
) -> dict:
    """What result.json holds: plain values, without NaN; ``geometry`` has a camera for each view, in their
    order."""
    found = geometry_as_dict(_as_found(result, geometry))
    entry = result.to_dict(found, round(seconds_preparation, 4), geometry.mirrored)
    return _without_nan(entry)


def write_content(path: Path, content: dict) -> None:
    """Write the content of a result.json."""
    path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _as_found(result: RegistrationResult | BodiesResult, geometry: CArmGeometry) -> CArmGeometry:
    """The geometry with the X-rays' cameras as they came out of a registration."""
    sources = geometry.sources
    if result.intrinsics:
        sources = sources | {"intrinsics": "estimated with the pose, within the tolerances"}
    cameras = tuple(radiograph.camera for radiograph in result.radiographs)
    return replace(geometry, cameras=cameras, sources=sources)


def write_detector_image(
    path: Path,
    image: np.ndarray,
    camera: Camera,
    frame: PoseFrame,
    reference: Camera | None = None,
    stored_mirrored: bool = False,
) -> None:
    """Write a camera's (rows, columns) image as a one-slice volume on the detector in the Slicer scene.

    Camera, frame and reference as for :func:`~SOPIRegistrationLib.geometry.detector.detector_to_scene`.
    With ``stored_mirrored`` the file's columns run the other way, as those of the stored X-ray do; each pixel
    stands where it stood.
    """
    place = detector_to_scene(camera, frame, reference)
    if stored_mirrored:
        image = np.ascontiguousarray(image[:, ::-1])
        flip = np.diag([-1.0, 1.0, 1.0, 1.0])
        flip[0, 3] = camera.width - 1
        place = place @ flip
    write_volume(path, Volume(image[None], place))


def write_volume(path: Path, volume: Volume) -> None:
    """Write a volume as NRRD, MHA or NIfTI, compressed."""
    spacing = volume.spacing_mm
    image = sitk.GetImageFromArray(volume.array)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((volume.index_to_lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(volume.index_to_lps[:3, 3].tolist())
    sitk.WriteImage(image, str(path), useCompression=True)


def write_picture(path: Path, picture: np.ndarray) -> None:
    """Write a picture, (rows, columns) gray of 8 or 16 bit or (rows, columns, 3) RGB, as PNG."""
    sitk.WriteImage(sitk.GetImageFromArray(picture, isVector=picture.ndim == 3), str(path))


def _without_nan(value):
    """JSON has no NaN and no infinity: null stands for them."""
    if isinstance(value, dict):
        return {key: _without_nan(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
