"""Poses and cameras in the world of a Slicer scene. Numbers only; every matrix is mm.

Slicer's world is RAS, the core's patient frame LPS. The C-arm stands where the nominal view puts it around
the CT as it is loaded; a registration moves the CT.
"""

from __future__ import annotations

import numpy as np

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.detector import T_camera_to_scene, detector_to_scene
from SOPIRegistrationLib.geometry.rigidity import nearest_rigid
from SOPIRegistrationLib.geometry.views import PoseFrame

# Its own inverse: LPS -> RAS and RAS -> LPS.
RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def matrix_from_pose(T_lps_to_camera: np.ndarray, frame: PoseFrame) -> np.ndarray:
    """(4, 4) matrix of the registration's transform node, CT's RAS -> world RAS; identity at theta = 0."""
    return RAS_FROM_LPS @ se3.invert_rigid(frame.T_nominal) @ T_lps_to_camera @ RAS_FROM_LPS


def pose_from_matrix(matrix: np.ndarray, frame: PoseFrame, name: str = "the transform") -> np.ndarray:
    """(4, 4) T_lps_to_camera of a transform node's matrix, CT's RAS -> world RAS; InputError unless rigid."""
    return frame.T_nominal @ RAS_FROM_LPS @ rigid_matrix(matrix, name) @ RAS_FROM_LPS


def rigid_matrix(matrix: np.ndarray, name: str) -> np.ndarray:
    """(4, 4) the rigid motion next to a matrix that is one but for rounding; InputError for others."""
    T = nearest_rigid(matrix)
    if T is None:
        raise InputError(f"{name} scales, shears or mirrors: a pose is a rigid transform, choose another one")
    return T


def T_camera_to_ras(camera: Camera, frame: PoseFrame, reference: Camera | None = None) -> np.ndarray:
    """(4, 4) place of a camera in the scene's world, RAS; arguments as for :func:`T_camera_to_scene`."""
    return RAS_FROM_LPS @ T_camera_to_scene(camera, frame, reference)


def ijk_to_ras(camera: Camera, frame: PoseFrame, reference: Camera | None = None) -> np.ndarray:
    """(4, 4) IJK -> RAS of an image on its detector: i along u, j along v, k along the central ray, 1 mm."""
    return RAS_FROM_LPS @ detector_to_scene(camera, frame, reference)


def ras_from_pixels(
    pixels: np.ndarray, camera: Camera, frame: PoseFrame, reference: Camera | None = None
) -> np.ndarray:
    """(..., 3) points of the detector plane in world, RAS mm, of pixels (..., 2)."""
    pixels = np.asarray(pixels, dtype=np.float64)
    matrix = ijk_to_ras(camera, frame, reference)
    return pixels @ matrix[:3, :2].T + matrix[:3, 3]


def pixels_from_ras(
    points_ras: np.ndarray, camera: Camera, frame: PoseFrame, reference: Camera | None = None
) -> np.ndarray:
    """(..., 2) pixels onto which points (..., 3) of the world, RAS mm, are projected."""
    T_ras_to_camera = se3.invert_rigid(T_camera_to_ras(camera, frame, reference))
    return camera.project(np.asarray(points_ras) @ T_ras_to_camera[:3, :3].T + T_ras_to_camera[:3, 3])
