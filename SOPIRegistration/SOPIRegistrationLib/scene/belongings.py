"""What belongs to the CT besides its voxels: markups, models and segments that it carries, as shapes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from SOPIRegistrationLib.scene.frames import RAS_FROM_LPS
from SOPIRegistrationLib.scene.pose import is_attached, own_to_ras, vtk_matrix

_SURFACE = "Closed surface"
# Finer surfaces are thinned: their outline is drawn while the CT moves.
_MOST_CELLS = 20000
_CLASSES = "vtkMRMLMarkupsNode", "vtkMRMLModelNode", "vtkMRMLSegmentationNode"


@dataclass(frozen=True)
class Shape:
    """Something to be drawn where it projects, in the patient frame.

    Attributes:
        name: words beside it; empty for none.
        colour: (3,) 0 to 1.
        points_lps: (n, 3) mm, marked one by one with ``labels``, or joined where ``joined``.
        labels: of the points; empty where they carry none.
        joined: whether the points are a line, in their order.
        surface: vtkPolyData, LPS mm, whose outline is drawn; None for none.
    """

    name: str
    colour: tuple[float, float, float]
    points_lps: np.ndarray
    labels: tuple[str, ...] = ()
    joined: bool = False
    surface: vtk.vtkPolyData | None = None


def belongings(scene, transformNode, left_out=()) -> list:
    """Nodes that move with the CT and are shown: markups, models, segmentations.

    Args:
        scene: the MRML scene.
        transformNode: the registration's transform.
        left_out: nodes that are the module's own.
    """
    found = []
    for class_name in _CLASSES:
        for node in slicer.util.getNodesByClass(class_name, scene):
            display = node.GetDisplayNode()
            shown = display is not None and display.GetVisibility()
            if shown and node not in left_out and is_attached(transformNode, node):
                found.append(node)
    return found


def stamp(node) -> tuple:
    """Changes when what is drawn of a node does, and not when it is moved with the CT."""
    display, place = node.GetDisplayNode(), own_to_ras(node).round(6).tobytes()
    if node.IsA("vtkMRMLMarkupsNode"):
        count = node.GetNumberOfControlPoints()
        labels = tuple(node.GetNthControlPointLabel(index) for index in range(count))
        points = slicer.util.arrayFromMarkupsControlPoints(node).tobytes()
        content = labels, points, node.GetNumberOfDefinedControlPoints(), display.GetSelectedColor()
    elif node.IsA("vtkMRMLModelNode"):
        surface = node.GetPolyData()
        content = surface and surface.GetMTime(), display.GetColor()
    else:
        shown = vtk.vtkStringArray()
        display.GetVisibleSegmentIDs(shown)
        ids = tuple(shown.GetValue(index) for index in range(shown.GetNumberOfValues()))
        content = node.GetSegmentation().GetMTime(), ids
    return node.GetID(), node.GetName(), place, content


def shapes_of(node) -> Iterator[Shape]:
    """The shapes of a markups, model or segmentation node."""
    to_lps = RAS_FROM_LPS @ own_to_ras(node)
    if node.IsA("vtkMRMLMarkupsNode"):
        yield from _of_markups(node, to_lps)
    elif node.IsA("vtkMRMLModelNode"):
        if (surface := node.GetPolyData()) is not None:
            yield _of_surface(node.GetName(), node.GetDisplayNode().GetColor(), surface, to_lps)
    else:
        yield from _of_segments(node, to_lps)


def outline(surface: vtk.vtkPolyData, source_lps_mm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """((n, 3) points, LPS mm, (m, 2) their indices) of the edges that bound a surface for the source.

    Args:
        surface: LPS, mm.
        source_lps_mm: (3,) the X-ray source.
    """
    camera = vtk.vtkCamera()
    camera.SetPosition(*source_lps_mm)
    edges = vtk.vtkPolyDataSilhouette()
    edges.SetInputData(surface)
    edges.SetCamera(camera)
    edges.SetDirectionToCameraOrigin()
    edges.SetEnableFeatureAngle(0)
    edges.BorderEdgesOn()
    edges.Update()
    found = edges.GetOutput()
    if found.GetNumberOfLines() == 0:
        return np.zeros((0, 3)), np.zeros((0, 2), dtype=int)
    ends = vtk_to_numpy(found.GetLines().GetConnectivityArray()).reshape(-1, 2)
    return vtk_to_numpy(found.GetPoints().GetData()).astype(np.float64), ends


def _of_markups(node, to_lps: np.ndarray) -> Iterator[Shape]:
    display, name = node.GetDisplayNode(), node.GetName()
    colour = display.GetSelectedColor()
    own = slicer.util.arrayFromMarkupsControlPoints(node)
    placed = [
        index
        for index in range(node.GetNumberOfControlPoints())
        if node.GetNthControlPointPositionStatus(index) == slicer.vtkMRMLMarkupsNode.PositionDefined
    ]
    if not placed:
        return
    points = _moved(own[placed], to_lps)
    if node.IsA("vtkMRMLMarkupsFiducialNode"):
        labels = tuple(node.GetNthControlPointLabel(index) for index in placed)
        yield Shape("", colour, points, labels)
        return
    yield Shape("", colour, points, ("",) * len(points))
    if node.IsA("vtkMRMLMarkupsLineNode") or node.IsA("vtkMRMLMarkupsCurveNode"):
        curve = slicer.util.arrayFromMarkupsCurvePoints(node) if node.IsA("vtkMRMLMarkupsCurveNode") else own
        yield Shape(name, colour, _moved(curve, to_lps), joined=True)


def _of_segments(node, to_lps: np.ndarray) -> Iterator[Shape]:
    segmentation, display = node.GetSegmentation(), node.GetDisplayNode()
    shown = vtk.vtkStringArray()
    display.GetVisibleSegmentIDs(shown)
    if shown.GetNumberOfValues() and not segmentation.ContainsRepresentation(_SURFACE):
        # Made beside the scene: a surface in the node would appear in the 3D view.
        copy = slicer.vtkSegmentation()
        copy.DeepCopy(segmentation)
        copy.CreateRepresentation(_SURFACE)
        segmentation = copy
    for index in range(shown.GetNumberOfValues()):
        segment = segmentation.GetSegment(shown.GetValue(index))
        surface = segment and segment.GetRepresentation(_SURFACE)
        if surface is not None:
            yield _of_surface(segment.GetName(), segment.GetColor(), surface, to_lps)


def _of_surface(name: str, colour, surface: vtk.vtkPolyData, to_lps: np.ndarray) -> Shape:
    thinned = surface
    if surface.GetNumberOfCells() > _MOST_CELLS:
        thin = vtk.vtkQuadricClustering()
        thin.SetInputData(surface)
        thin.AutoAdjustNumberOfDivisionsOff()
        thin.SetNumberOfDivisions(64, 64, 64)
        thin.Update()
        thinned = thin.GetOutput()
    transform = vtk.vtkTransform()
    transform.SetMatrix(vtk_matrix(to_lps))
    move = vtk.vtkTransformPolyDataFilter()
    move.SetInputData(thinned)
    move.SetTransform(transform)
    triangles = vtk.vtkTriangleFilter()
    triangles.SetInputConnection(move.GetOutputPort())
    triangles.Update()
    return Shape(name, tuple(colour), np.zeros((0, 3)), surface=triangles.GetOutput())


def _moved(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return np.asarray(points, dtype=np.float64) @ matrix[:3, :3].T + matrix[:3, 3]
