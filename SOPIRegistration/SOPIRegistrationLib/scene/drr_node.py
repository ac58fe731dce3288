"""The DRR as a volume node that lies where the X-ray lies."""

from __future__ import annotations

import numpy as np
import slicer

from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.overlay import display_window
from SOPIRegistrationLib.scene.detector import place_on_detector
from SOPIRegistrationLib.scene.nodes import put_pixels


def update_drr(
    drrNode, xrayNode, image: np.ndarray, camera: Camera, frame: PoseFrame, *, reference: Camera | None = None
):
    """Show a DRR; in place where its size stays, as in live updates.

    Args:
        drrNode: the node to fill; None makes one, named after the X-ray, with its window set.
        xrayNode: the X-ray it belongs to.
        image: (rows, columns) line integrals.
        camera: geometry of ``image``, such as ``camera.resampled(256, 256)``: it covers the same detector.
        frame: nominal view of the reference camera.
        reference: the camera of a calibrated set that the frame belongs to.

    Returns:
        The DRR node.
    """
    new = drrNode is None
    if new:
        drrNode = xrayNode.GetScene().AddNewNodeByClass(
            "vtkMRMLScalarVolumeNode", f"{xrayNode.GetName()} DRR"
        )
    modified = drrNode.StartModify()
    put_pixels(drrNode, np.asarray(image, dtype=np.float32)[None])
    place_on_detector(drrNode, camera, frame, reference=reference)
    if drrNode.GetDisplayNode() is None:
        drrNode.CreateDefaultDisplayNodes()
        settle_window(drrNode)
    drrNode.EndModify(modified)
    return drrNode


def settle_window(drrNode) -> None:
    """Set the DRR's window to what its pixels hold; live updates then keep it."""
    display = drrNode.GetDisplayNode()
    display.AutoWindowLevelOff()
    display.SetWindowLevelMinMax(*display_window(slicer.util.arrayFromVolume(drrNode)))
