"""Poses in files: the transform of a Slicer scene, and start poses.

In the scene the C-arm stands at its nominal place around the CT as loaded and a registration moves the CT
(LPS, mm): ``T_ct_to_scene = T_nominal^-1 T_lps_to_camera``, the identity at theta = 0. An ITK transform file
holds the inverse, for ITK maps points of the result back to the input; Slicer reads and writes it so.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.rigidity import nearest_rigid
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.itk_reading import quiet, require_file


def write_transform(path: Path, T_lps_to_camera: np.ndarray, frame: PoseFrame) -> None:
    """Write a pose as a rigid ITK text transform that moves the CT in a Slicer scene."""
    T_scene_to_ct = se3.invert_rigid(T_lps_to_camera) @ frame.T_nominal
    transform = sitk.Euler3DTransform()
    transform.SetMatrix(T_scene_to_ct[:3, :3].ravel().tolist())
    transform.SetTranslation(T_scene_to_ct[:3, 3].tolist())
    sitk.WriteTransform(transform, str(path))


def read_start(path: Path, frame: PoseFrame, cameras: Sequence[Camera], reference: Camera) -> np.ndarray:
    """A start pose, (4, 4) T_lps_to_world, from a result.json or a transform file.

    A result's pose belongs to the first camera of its own geometry; where that one is among ``cameras``, it
    is taken to be there, so that a result of one view can start another. A transform file tells no camera:
    it is read as one of ``frame`` and ``reference``.

    Args:
        path: the file; JSON if it is named so.
        frame: nominal view of the reference camera.
        cameras: all cameras of the set.
        reference: the camera that stands for those which ``cameras`` does not know.

    Raises:
        InputError: missing or unreadable, no pose in it, or not a rigid one.
    """
    require_file(path, "start pose")
    if path.suffix.lower() == ".json":
        T_lps_to_camera, name = _pose_of_result(path)
        camera = next((camera for camera in cameras if camera.name == name), reference)
    else:
        T_lps_to_camera = frame.T_nominal @ se3.invert_rigid(_rigid(_matrix_of_transform(path), path))
        camera = reference
    return se3.invert_rigid(camera.T_world_to_camera) @ T_lps_to_camera


def _pose_of_result(path: Path) -> tuple[np.ndarray, str | None]:
    """(T_lps_to_camera, name of its camera if the file tells)."""
    try:
        # Of bytes the encoding is told by how they begin.
        entry = json.loads(path.read_bytes())
        matrix = np.array(entry["pose"]["T_lps_to_camera"], dtype=np.float64)
    except (ValueError, KeyError, TypeError):
        matrix = np.empty(0)
    if matrix.shape != (4, 4):
        raise InputError(
            f"start pose {path} has no 4x4 pose.T_lps_to_camera: give a result.json or a .tfm file"
        )
    if not np.allclose(matrix[3], [0, 0, 0, 1]):
        row = ", ".join(f"{value:g}" for value in matrix[3])
        raise InputError(
            f"start pose {path} has a last row of {row}, which is 0, 0, 0, 1 in a pose: was it transposed?"
        )
    geometry = entry.get("geometry")
    cameras = geometry.get("cameras") if isinstance(geometry, dict) else None
    return _rigid(matrix, path), cameras[0].get("name") if cameras else None


def _matrix_of_transform(path: Path) -> np.ndarray:
    try:
        with quiet():
            transform = sitk.ReadTransform(str(path))
    except RuntimeError:
        raise InputError(
            f"start pose {path} is not a transform that can be read: give a result.json or a .tfm file"
        ) from None
    if transform.GetDimension() != 3 or not transform.IsLinear():
        raise InputError(f"start pose {path} is not a linear 3D transform: a pose is a rigid one")
    matrix = np.eye(4)
    matrix[:3, 3] = transform.TransformPoint((0.0, 0.0, 0.0))
    for axis in range(3):
        matrix[:3, axis] = np.array(transform.TransformPoint(np.eye(3)[axis].tolist())) - matrix[:3, 3]
    return matrix


def _rigid(matrix: np.ndarray, path: Path) -> np.ndarray:
    T = nearest_rigid(matrix)
    if T is None:
        raise InputError(f"start pose {path} scales, shears or mirrors: a pose is a rigid transform")
    return T
