"""A region of the X-ray, drawn in its view, as the X-ray's pixels have it."""

from __future__ import annotations

import numpy as np
import slicer
import vtk
from scipy.spatial import ConvexHull
from vtk.util.numpy_support import vtk_to_numpy

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.scene.frames import RAS_FROM_LPS
from SOPIRegistrationLib.scene.nodes import mask_from_node


def region_from_node(regionNode, xrayNode) -> np.ndarray:
    """(rows, columns) bool, True inside, on the X-ray as stored.

    Args:
        regionNode: visible segments or a label map that lies on the X-ray, or a closed curve or ROI box
            drawn in its view.
        xrayNode: the X-ray, where it stood when the region was drawn.

    Raises:
        InputError: nothing is drawn in it, or nothing of it lies on the X-ray.
    """
    name = f"region '{regionNode.GetName()}'"
    columns, rows, _ = xrayNode.GetImageData().GetDimensions()
    if regionNode.IsA("vtkMRMLMarkupsNode"):
        corners = _corners(regionNode, name)
        inside = _polygon(_ijk(xrayNode, corners)[:, :2], rows, columns)
    else:
        inside = _sampled(mask_from_node(regionNode, xrayNode), xrayNode, rows, columns)
    if not inside.any():
        raise InputError(f"{name} does not lie on X-ray '{xrayNode.GetName()}': draw it in the X-ray's view")
    return inside


def _corners(markupsNode, name: str) -> np.ndarray:
    """(n, 3) outline, world RAS mm."""
    if markupsNode.IsA("vtkMRMLMarkupsROINode"):
        bounds = np.zeros(6)
        markupsNode.GetRASBounds(bounds)
        return np.array(np.meshgrid(*bounds.reshape(3, 2))).reshape(3, -1).T
    if markupsNode.GetNumberOfControlPoints() < 3:
        raise InputError(f"{name} has fewer than three points: draw it around what is to be compared")
    return slicer.util.arrayFromMarkupsCurvePoints(markupsNode, world=True)


def _ijk(volumeNode, points_ras: np.ndarray) -> np.ndarray:
    matrix = vtk.vtkMatrix4x4()
    volumeNode.GetRASToIJKMatrix(matrix)
    matrix = slicer.util.arrayFromVTKMatrix(matrix)
    return points_ras @ matrix[:3, :3].T + matrix[:3, 3]


def _polygon(outline: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Pixels whose centre lies within an outline (n, 2) of (i, j); of a box its shadow."""
    if len(outline) == 8:
        outline = outline[ConvexHull(outline).vertices]
    points, polygon = vtk.vtkPoints(), vtk.vtkCellArray()
    polygon.InsertNextCell(len(outline) + 1)
    for index, (i, j) in enumerate(outline):
        points.InsertNextPoint(i, j, 0.0)
        polygon.InsertCellPoint(index)
    polygon.InsertCellPoint(0)
    shape = vtk.vtkPolyData()
    shape.SetPoints(points)
    shape.SetLines(polygon)
    stencil = vtk.vtkPolyDataToImageStencil()
    stencil.SetInputData(shape)
    stencil.SetOutputWholeExtent(0, columns - 1, 0, rows - 1, 0, 0)
    picture = vtk.vtkImageStencilToImage()
    picture.SetInputConnection(stencil.GetOutputPort())
    picture.SetInsideValue(1)
    picture.Update()
    return vtk_to_numpy(picture.GetOutput().GetPointData().GetScalars()).reshape(rows, columns) > 0


def _sampled(mask, xrayNode, rows: int, columns: int) -> np.ndarray:
    """Label map at the centres of the X-ray's pixels, nearest voxel."""
    matrix = vtk.vtkMatrix4x4()
    xrayNode.GetIJKToRASMatrix(matrix)
    to_index = np.linalg.inv(mask.index_to_lps) @ RAS_FROM_LPS @ slicer.util.arrayFromVTKMatrix(matrix)
    v, u = np.mgrid[:rows, :columns]
    i, j, k = np.rint(to_index[:3, :2] @ [u.ravel(), v.ravel()] + to_index[:3, 3:]).astype(int)
    inside = np.zeros(rows * columns, dtype=bool)
    known = np.all(
        [(n >= 0) & (n < size) for n, size in zip((k, j, i), mask.array.shape, strict=True)], axis=0
    )
    inside[known] = mask.array[k[known], j[known], i[known]] > 0
    return inside.reshape(rows, columns)
