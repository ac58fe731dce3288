"""The patient's bones in the 3D view, carried by the registration's transform."""

from __future__ import annotations

import numpy as np
import vtk
from scipy import ndimage
from vtk.util.numpy_support import numpy_to_vtk

from SOPIRegistrationLib.images.pyramid import halved
from SOPIRegistrationLib.images.volume import Volume
from SOPIRegistrationLib.scene.frames import RAS_FROM_LPS
from SOPIRegistrationLib.scene.nodes import marked_nodes, remove_node
from SOPIRegistrationLib.scene.pose import attach, vtk_matrix

_IS_BONES = "SOPIRegistration.IsBones"
# What former versions wrote of the CT's bones, too.
_OF_CT = "1"
COLOUR = (0.93, 0.89, 0.8)
# Coarse enough to turn smoothly; a thin cortex is less than half of a voxel, and must not be full of holes.
_EDGE_MM = 2.0
_SURFACE_AT = 0.3


def show_bones(scene, bone: Volume, transformNode, body: str = "", colour=COLOUR, common=None):
    """The model node of a bone mask (``PreparedCT.bone``), which moves with the CT or one of several bodies.

    The scene keeps one for each ``body``; ``common`` carries all bodies' transforms, where there are several.
    """
    node = _bones_nodes(scene).get(body)
    if node is None:
        node = scene.AddNewNodeByClass("vtkMRMLModelNode", body or "CT bones")
        node.SetAttribute(_IS_BONES, body or _OF_CT)
        node.CreateDefaultDisplayNodes()
    if tuple(node.GetDisplayNode().GetColor()) != tuple(colour):
        node.GetDisplayNode().SetColor(*colour)
    node.SetAndObservePolyData(_surface(bone))
    attach(transformNode, node, common=common)
    return node


def remove_bones(scene, shown) -> None:
    """Take the models of bodies that are no longer there out of the scene; those ``shown`` stay."""
    for node in _bones_nodes(scene).values():
        if node not in shown:
            remove_node(node)


def _bones_nodes(scene) -> dict:
    """The models by the names of their bodies; of the CT as one piece by an empty one."""
    nodes = marked_nodes(scene, "vtkMRMLModelNode", _IS_BONES)
    names = [node.GetAttribute(_IS_BONES) for node in nodes]
    return {"" if name == _OF_CT else name: node for name, node in zip(names, nodes, strict=True)}


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
