"""The C-arm in the 3D view: source, central ray, detector and the cone of rays."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import slicer
import vtk

from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.scene.frames import T_camera_to_ras, ras_from_pixels
from SOPIRegistrationLib.scene.nodes import marked_nodes, remove_node

_PART = "SOPIRegistration.CArmPart"
_FOLDER = "C-arm"
_SOURCE_RADIUS_MM = 12.0
# Name of a part -> (colour, opacity, line width in pixels).
_LOOKS = {
    "source": ((1.0, 0.85, 0.2), 1.0, 1),
    "central ray": ((1.0, 0.85, 0.2), 1.0, 2),
    "detector": ((0.2, 0.5, 0.8), 1.0, 4),
    "beam": ((1.0, 0.85, 0.2), 0.12, 1),
}


class CArmModel:
    """Model nodes of the C-arms in a scene, kept in a folder, found again after the scene was loaded.

    Args:
        scene: the MRML scene.
    """

    def __init__(self, scene):
        self._scene = scene

    def update(self, camera: Camera, frame: PoseFrame, reference: Camera | None = None) -> None:
        """Put a C-arm where a camera stands; several cameras, told apart by name, have one each.

        Args:
            camera: the camera.
            frame: nominal view of the reference camera.
            reference: the camera of a calibrated set that the frame belongs to.
        """
        source = T_camera_to_ras(camera, frame, reference)[:3, 3]
        right, bottom = camera.width - 0.5, camera.height - 0.5
        corners = ras_from_pixels(
            [[-0.5, -0.5], [right, -0.5], [right, bottom], [-0.5, bottom]], camera, frame, reference
        )
        foot = ras_from_pixels(camera.K[:2, 2], camera, frame, reference)
        sides = [[0, 1 + side, 1 + (side + 1) % 4] for side in range(4)]
        shapes = {
            "source": _sphere(source),
            "central ray": _mesh([source, foot], lines=[[0, 1]]),
            "detector": _mesh(corners, lines=[[0, 1, 2, 3, 0]]),
            "beam": _mesh([source, *corners], polygons=sides),
        }
        for part, shape in shapes.items():
            self._node(camera.name, part).SetAndObservePolyData(shape)

    @property
    def visible(self) -> bool:
        """Whether the C-arms are shown; settable."""
        return any(node.GetDisplayVisibility() for node in self._nodes())

    @visible.setter
    def visible(self, visible: bool) -> None:
        for node in self._nodes():
            node.SetDisplayVisibility(visible)

    def keep(self, camera_names: Iterable[str]) -> None:
        """Take the C-arms of all other cameras out of the scene; of no names, all."""
        kept = {_name(camera, part) for camera in camera_names for part in _LOOKS}
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(self._scene)
        folder = hierarchy.GetItemChildWithName(hierarchy.GetSceneItemID(), _FOLDER)
        for node in self._nodes():
            if node.GetAttribute(_PART) not in kept:
                hierarchy.RemoveItem(hierarchy.GetItemByDataNode(node), False, False)
                remove_node(node)
        if folder and not self._nodes():
            hierarchy.RemoveItem(folder)

    def _nodes(self) -> list:
        return marked_nodes(self._scene, "vtkMRMLModelNode", _PART)

    def _node(self, camera_name: str, part: str):
        """The model node of a part, made where it is missing."""
        name = _name(camera_name, part)
        for node in self._nodes():
            if node.GetAttribute(_PART) == name:
                return node
        node = self._scene.AddNewNodeByClass("vtkMRMLModelNode", name)
        node.SetAttribute(_PART, name)
        # Landmarks are placed on bones behind the beam, not on it.
        node.SetSelectable(False)
        node.CreateDefaultDisplayNodes()
        display = node.GetDisplayNode()
        colour, opacity, line_width = _LOOKS[part]
        display.SetColor(colour)
        display.SetOpacity(opacity)
        display.SetLineWidth(line_width)
        display.SetLighting(part == "source")
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(self._scene)
        folder = hierarchy.GetItemChildWithName(hierarchy.GetSceneItemID(), _FOLDER)
        if not folder:
            folder = hierarchy.CreateFolderItem(hierarchy.GetSceneItemID(), _FOLDER)
        # The application makes an item for every node; without its windows nothing does.
        item = hierarchy.GetItemByDataNode(node) or hierarchy.CreateItem(folder, node)
        hierarchy.SetItemParent(item, folder)
        return node


def _name(camera_name: str, part: str) -> str:
    return " ".join(word for word in ("C-arm", camera_name, part) if word)


def _sphere(centre: np.ndarray) -> vtk.vtkPolyData:
    sphere = vtk.vtkSphereSource()
    sphere.SetCenter(centre)
    sphere.SetRadius(_SOURCE_RADIUS_MM)
    sphere.SetThetaResolution(24)
    sphere.SetPhiResolution(24)
    sphere.Update()
    return sphere.GetOutput()


def _mesh(points, lines=(), polygons=()) -> vtk.vtkPolyData:
    vertices = vtk.vtkPoints()
    for point in points:
        vertices.InsertNextPoint(point)
    mesh = vtk.vtkPolyData()
    mesh.SetPoints(vertices)
    for cells, put in ((lines, mesh.SetLines), (polygons, mesh.SetPolys)):
        array = vtk.vtkCellArray()
        for cell in cells:
            array.InsertNextCell(len(cell))
            for vertex in cell:
                array.InsertCellPoint(vertex)
        put(array)
    return mesh
