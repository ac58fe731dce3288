"""Landmark pairs of two point lists: picked in the CT, and on the X-ray."""

from __future__ import annotations

import numpy as np
import slicer

from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.scene.frames import RAS_FROM_LPS, pixels_from_ras
from SOPIRegistrationLib.scene.pose import own_to_ras


def landmark_pairs(
    ctMarkupsNode, xrayMarkupsNode, camera: Camera, frame: PoseFrame, reference: Camera | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Points picked in both lists, paired by their order.

    Args:
        ctMarkupsNode: point list that moves with the CT (attached to the registration's transform).
        xrayMarkupsNode: point list in world, on the detector or anywhere on the rays of its pixels.
        camera: the X-ray's camera.
        frame: nominal view of the reference camera.
        reference: the camera of a calibrated set that the frame belongs to.

    Returns:
        (n, 3) LPS mm and (n, 2) pixels (u, v), of the positions at which both points are placed.
    """
    count = min(node.GetNumberOfControlPoints() for node in (ctMarkupsNode, xrayMarkupsNode))
    placed = np.array(
        [_is_placed(ctMarkupsNode, index) and _is_placed(xrayMarkupsNode, index) for index in range(count)],
        dtype=bool,
    )
    own = slicer.util.arrayFromMarkupsControlPoints(ctMarkupsNode)[:count][placed]
    to_lps = RAS_FROM_LPS @ own_to_ras(ctMarkupsNode)
    world = slicer.util.arrayFromMarkupsControlPoints(xrayMarkupsNode, world=True)[:count][placed]
    pixels = pixels_from_ras(world, camera, frame, reference)
    return own @ to_lps[:3, :3].T + to_lps[:3, 3], pixels


def _is_placed(markupsNode, index: int) -> bool:
    status = markupsNode.GetNthControlPointPositionStatus(index)
    return status == slicer.vtkMRMLMarkupsNode.PositionDefined
