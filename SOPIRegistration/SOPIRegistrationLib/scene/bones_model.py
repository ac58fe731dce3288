"""The patient's bones in the 3D view, carried by the registration's transform."""

from __future__ import annotations

import numpy as np
import vtk
from scipy import ndimage
from vtk.util.numpy_support import numpy_to_vtk

from SOPIRegistrationLib.images.pyramid import halved
from SOPIRegistrationLib.images.volume import Volume
from SOPIRegistrationLib.scene.frames import RAS_FROM_LPS
from SOPIRegistrationLib.scene.nodes import marked_nodes
from SOPIRegistrationLib.scene.pose import attach, vtk_matrix

_IS_BONES = "SOPIRegistration.IsBones"
_COLOUR = (0.93, 0.89, 0.8)
# Coarse enough to turn smoothly; a thin cortex is less than half of a voxel, and must not be full of holes.
_EDGE_MM = 2.0
_SURFACE_AT = 0.3


def show_bones(scene, bone: Volume, transformNode):
    """Show a bone mask as a surface that moves with the CT.

    Args:
        scene: the MRML scene.
        bone: mask in the patient frame (``PreparedCT.bone``).
        transformNode: the registration's transform.

    Returns:
        The model node; the scene keeps one.
    """
    node = _bones_node(scene)
    node.SetAndObservePolyData(_surface(bone))
    attach(transformNode, node)
    return node


def _bones_node(scene):
    for node in marked_nodes(scene, "vtkMRMLModelNode", _IS_BONES):
        return node
    node = scene.AddNewNodeByClass("vtkMRMLModelNode", "CT bones")
    node.SetAttribute(_IS_BONES, "1")
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().SetColor(_COLOUR)
    return node


def _surface(bone: Volume) -> vtk.vtkPolyData:
    """Surface in RAS, mm."""
    # A frame of zeros closes the surface where bones leave the volume.
    padded_to_index = np.eye(4)
    padded_to_index[:3, 3] = -2
    padded = np.pad((bone.array > 0).astype(np.float32), 2)
    coarse = Volume(padded, bone.index_to_lps @ padded_to_index)
    while coarse.spacing_mm.min() < _EDGE_MM / 2:
        coarse = halved(coarse)
    smooth = ndimage.gaussian_filter(coarse.array, 0.7)
    image = vtk.vtkImageData()
    image.SetDimensions(coarse.array.shape[::-1])
    image.GetPointData().SetScalars(numpy_to_vtk(smooth.ravel(), deep=True))
    contour = vtk.vtkFlyingEdges3D()
    contour.SetInputData(image)
    contour.SetValue(0, _SURFACE_AT)
    contour.ComputeNormalsOn()
    contour.ComputeGradientsOff()
    contour.ComputeScalarsOff()
    index_to_ras = vtk.vtkTransform()
    index_to_ras.SetMatrix(vtk_matrix(RAS_FROM_LPS @ coarse.index_to_lps))
    moved = vtk.vtkTransformPolyDataFilter()
    moved.SetInputConnection(contour.GetOutputPort())
    moved.SetTransform(index_to_ras)
    moved.Update()
    return moved.GetOutput()
