"""The X-ray on the detector plane in world, and a slice view laid upon it."""

from __future__ import annotations

import numpy as np

from SOPIRegistrationLib.geometry.camera import T_Y_UP_TO_CAMERA, Camera
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.scene.frames import T_camera_to_ras, ijk_to_ras, ras_from_pixels
from SOPIRegistrationLib.scene.pose import vtk_matrix


def place_on_detector(
    xrayNode,
    camera: Camera,
    frame: PoseFrame,
    *,
    reference: Camera | None = None,
    mirrored: bool = False,
    image_frame: int | None = None,
) -> None:
    """Move an X-ray volume onto its detector plane in world; its pixels stay as they are.

    Where a file put an X-ray says nothing about the C-arm: that place and a parent transform are given up.

    Args:
        xrayNode: the X-ray volume.
        camera: geometry of its pixels.
        frame: nominal view of the reference camera.
        reference: the camera of a calibrated set that the frame belongs to.
        mirrored: columns run against the camera's u (``CArmGeometry.mirrored``).
        image_frame: which frame of several lies on the plane, counted from 1.
    """
    stored_to_camera_pixels = np.eye(4)
    if mirrored:
        stored_to_camera_pixels[0] = [-1, 0, 0, camera.width - 1]
    stored_to_camera_pixels[2, 3] = 1 - (image_frame or 1)
    matrix = ijk_to_ras(camera, frame, reference) @ stored_to_camera_pixels
    xrayNode.SetAndObserveTransformNodeID(None)
    xrayNode.SetIJKToRASMatrix(vtk_matrix(matrix))


def lay_slice_view_on_detector(
    sliceNode, camera: Camera, frame: PoseFrame, *, reference: Camera | None = None
) -> None:
    """Turn and fit a slice view so that it shows the detector as the image is: u to the right, v down."""
    slice_to_ras = T_camera_to_ras(camera, frame, reference) @ T_Y_UP_TO_CAMERA
    centre_px = [(camera.width - 1) / 2, (camera.height - 1) / 2]
    slice_to_ras[:3, 3] = ras_from_pixels(centre_px, camera, frame, reference)
    sliceNode.GetSliceToRAS().DeepCopy(vtk_matrix(slice_to_ras))
    # World size of the image, letterboxed into the view.
    sizes = np.linalg.norm(ijk_to_ras(camera, frame, reference)[:3, :2], axis=0) * [
        camera.width,
        camera.height,
    ]
    view = np.maximum(sliceNode.GetDimensions()[:2], 1)
    width, height = (sizes / view).max() * view
    sliceNode.SetFieldOfView(width, height, 1.0)
    sliceNode.UpdateMatrices()
