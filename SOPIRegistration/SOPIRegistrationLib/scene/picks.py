"""Points picked on X-rays of a calibrated set, kept as pixels of their cameras."""

from __future__ import annotations

import json

import numpy as np
import slicer

from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.scene.frames import RAS_FROM_LPS, pixels_from_ras, ras_from_pixels
from SOPIRegistrationLib.scene.nodes import marked_nodes
from SOPIRegistrationLib.scene.pose import attach, own_to_ras

_IS_PICKS, _IS_POINTS = "SOPIRegistration.IsPicks", "SOPIRegistration.IsPoints3D"


class Picks:
    """A point list whose points remember camera and pixel; only those of the camera looked at are shown.

    A scene stands about the camera looked at, so that a place in it says nothing of another camera's pixel.

    Args:
        scene: the MRML scene.
    """

    def __init__(self, scene):
        self._scene = scene

    @property
    def node(self):
        """The point list; None before the first pick."""
        return _marked(self._scene, _IS_PICKS)

    def ensure_node(self):
        """The point list, made where it is missing."""
        return self.node or _made(self._scene, "Points on X-rays", _IS_PICKS)

    def note(self, camera: Camera, frame: PoseFrame) -> None:
        """Remember camera and pixel of points that were placed, or moved, while looking through a camera."""
        node = self.node
        for index in range(node.GetNumberOfControlPoints() if node else 0):
            kept = _kept(node, index)
            if not _is_placed(node, index) or (kept and kept["camera"] != camera.name):
                continue
            ras = np.array(node.GetNthControlPointPositionWorld(index))
            pixel = pixels_from_ras(ras, camera, frame)
            if kept is None or not np.allclose(kept["pixel"], pixel, atol=1e-3):
                text = json.dumps({"camera": camera.name, "pixel": pixel.round(4).tolist()})
                node.SetNthControlPointDescription(index, text)

    def show(self, camera: Camera, frame: PoseFrame) -> None:
        """Put those of a camera onto its detector, and hide the others."""
        node = self.node
        if node is None:
            return
        with slicer.util.NodeModify(node):
            for index in range(node.GetNumberOfControlPoints()):
                kept = _kept(node, index)
                is_here = kept is not None and kept["camera"] == camera.name
                node.SetNthControlPointVisibility(index, is_here)
                if is_here:
                    node.SetNthControlPointPositionWorld(
                        index, *ras_from_pixels(kept["pixel"], camera, frame)
                    )

    def pixels(self) -> dict[str, list[np.ndarray]]:
        """(2,) pixels by the camera's name, in the order in which they were picked."""
        found: dict[str, list[np.ndarray]] = {}
        node = self.node
        for index in range(node.GetNumberOfControlPoints() if node else 0):
            if (kept := _kept(node, index)) is not None:
                found.setdefault(kept["camera"], []).append(np.array(kept["pixel"]))
        return found


def put_points(scene, transformNode, points_lps: np.ndarray, words: list[str]):
    """Show points (n, 3), LPS mm, as one list of markups that moves with the CT, each with its word; returns
    it."""
    node = _marked(scene, _IS_POINTS) or _made(scene, "Points from X-rays", _IS_POINTS)
    node.SetLocked(True)
    attach(transformNode, node)
    to_own = np.linalg.inv(RAS_FROM_LPS @ own_to_ras(node))
    with slicer.util.NodeModify(node):
        node.RemoveAllControlPoints()
        for point, label in zip(points_lps, words, strict=True):
            index = node.AddControlPoint(*(to_own[:3, :3] @ point + to_own[:3, 3]))
            node.SetNthControlPointLabel(index, label)
    return node


def _marked(scene, attribute: str):
    return next(iter(marked_nodes(scene, "vtkMRMLMarkupsFiducialNode", attribute)), None)


def _made(scene, name: str, attribute: str):
    node = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name)
    node.SetAttribute(attribute, "1")
    node.CreateDefaultDisplayNodes()
    return node


def _is_placed(node, index: int) -> bool:
    return node.GetNthControlPointPositionStatus(index) == slicer.vtkMRMLMarkupsNode.PositionDefined


def _kept(node, index: int) -> dict | None:
    text = node.GetNthControlPointDescription(index)
    return json.loads(text) if text.startswith("{") else None
