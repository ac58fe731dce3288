"""What a registration leaves behind: result.json, a transform, DRRs and pictures to judge it by."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.c_arm import DEFAULT_SOD_FRACTION, CArmGeometry
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.files import geometry_as_dict
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.overlay import fusion_image
from SOPIRegistrationLib.images.volume import Volume
from SOPIRegistrationLib.projector import project
from SOPIRegistrationLib.registration.moving import MovingVolume
from SOPIRegistrationLib.registration.pose_files import write_transform
from SOPIRegistrationLib.registration.result import RegistrationResult


def write_results(
    folder: Path,
    result: RegistrationResult,
    geometry: CArmGeometry,
    moving: MovingVolume,
    seconds_preparation: float,
) -> list[str]:
    """Write result.json, ct_to_carm.tfm, and for every view a DRR and an overlay.

    The first view's are drr.nrrd and overlay.png; those of further views carry the camera's name.

    Args:
        folder: an existing folder.
        result: the registration.
        geometry: cameras of the views, in their order.
        moving: what its DRRs are made of.
        seconds_preparation: time spent on reading and preparing the inputs.

    Returns:
        The files' names.
    """
    reference, frame = result.radiographs[0].camera, result.frame
    names = []
    for number, radiograph in enumerate(result.radiographs):
        camera = radiograph.camera
        suffix = "_" + re.sub(r"[^\w.-]", "_", camera.name) if number else ""
        drr = project(moving.level(0), camera, camera.T_world_to_camera @ result.T_lps_to_world)
        write_detector_image(folder / f"drr{suffix}.nrrd", drr, camera, frame, reference)
        write_picture(folder / f"overlay{suffix}.png", fusion_image(radiograph.image, drr, radiograph.valid))
        names += [f"drr{suffix}.nrrd", f"overlay{suffix}.png"]
    write_transform(folder / "ct_to_carm.tfm", reference.T_world_to_camera @ result.T_lps_to_world, frame)
    entry = result.to_dict(geometry_as_dict(geometry), round(seconds_preparation, 4))
    text = json.dumps(_without_nan(entry), indent=1, allow_nan=False)
    (folder / "result.json").write_text(text + "\n", encoding="utf-8")
    return ["result.json", "ct_to_carm.tfm", *names]


def write_detector_image(
    path: Path, image: np.ndarray, camera: Camera, frame: PoseFrame, reference: Camera | None = None
) -> None:
    """Write a camera's (rows, columns) image as a one-slice volume on the detector in the Slicer scene.

    Camera, frame and reference as for :func:`detector_to_scene`.
    """
    write_volume(path, Volume(image[None], detector_to_scene(camera, frame, reference)))


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


def detector_to_scene(camera: Camera, frame: PoseFrame, reference: Camera | None = None) -> np.ndarray:
    """(4, 4) place in the Slicer scene (LPS, mm) of pixel indices (u, v, 0, 1); third axis: the central ray.

    A camera known by its K alone projects alike on every plane: its detector is put where a usual C-arm's is.

    Args:
        camera: the camera.
        frame: nominal view of the reference camera.
        reference: the camera of a calibrated set that the frame belongs to; ``camera`` itself unless given.
    """
    depth = camera.sdd_mm or frame.sod_mm / DEFAULT_SOD_FRACTION
    pixels_to_camera = np.eye(4)
    pixels_to_camera[:3, [0, 1, 3]] = depth * camera.K_inverse
    T_camera_to_reference = np.eye(4)
    if reference is not None:
        T_camera_to_reference = reference.T_world_to_camera @ se3.invert_rigid(camera.T_world_to_camera)
    return se3.invert_rigid(frame.T_nominal) @ T_camera_to_reference @ pixels_to_camera


def _without_nan(value):
    """JSON has no NaN and no infinity: null stands for them."""
    if isinstance(value, dict):
        return {key: _without_nan(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
