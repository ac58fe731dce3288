"""Where a camera and its detector stand in the world of a Slicer scene; LPS, mm.

In the scene the C-arm stands still where the nominal view puts it around the CT as loaded; a registration
moves the CT.
"""

from __future__ import annotations

import numpy as np

from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.c_arm import DEFAULT_SOD_FRACTION
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.views import PoseFrame


def T_camera_to_scene(camera: Camera, frame: PoseFrame, reference: Camera | None = None) -> np.ndarray:
    """(4, 4) place of a camera in the scene; the frame is that of its set's ``reference``, itself unless
    given."""
    T_camera_to_reference = np.eye(4)
    if reference is not None:
        T_camera_to_reference = reference.T_world_to_camera @ se3.invert_rigid(camera.T_world_to_camera)
    return se3.invert_rigid(frame.T_nominal) @ T_camera_to_reference


def detector_to_scene(camera: Camera, frame: PoseFrame, reference: Camera | None = None) -> np.ndarray:
    """(4, 4) place in the scene of pixel indices (u, v, 0, 1); third axis: along the central ray, 1 mm.

    Frame and reference as for :func:`T_camera_to_scene`."""
    # A camera known by its K alone projects alike on every plane: its detector is put as far behind the
    # patient as a usual C-arm holds it.
    depth_mm = camera.sdd_mm or frame.sod_mm / DEFAULT_SOD_FRACTION
    pixels_to_camera = np.eye(4)
    pixels_to_camera[:3, [0, 1, 3]] = depth_mm * camera.K_inverse
    return T_camera_to_scene(camera, frame, reference) @ pixels_to_camera
