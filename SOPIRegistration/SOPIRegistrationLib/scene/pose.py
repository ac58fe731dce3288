"""The registration's transform node: how it carries the CT, and the pose it stands for.

Nodes keep the transforms they had: the registration's transform goes above them, so that a CT's *own* place,
which is the patient frame of the core, is everything below it. The transform is told apart by an attribute,
which saving a scene keeps.
"""

from __future__ import annotations

import numpy as np
import slicer
import vtk

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.scene.frames import RAS_FROM_LPS, matrix_from_pose, pose_from_matrix, rigid_matrix

_IS_POSE = "SOPIRegistration.IsPose"


def attach(transformNode, *nodes, common=None) -> None:
    """Put nodes (CT, its mask, landmarks picked in it) under the registration's transform, or that of a body.

    A transform that a node stands under goes along with it; a former registration transform is replaced. The
    registration's transform itself stands under none but ``common``, which carries all bodies: the C-arm
    stands still in world.
    """
    transformNode.SetAndObserveTransformNodeID(None if common is None else common.GetID())
    transformNode.SetAttribute(_IS_POSE, "1")
    for node in nodes:
        chain = own_transforms(node)
        (chain[-1] if chain else node).SetAndObserveTransformNodeID(transformNode.GetID())


def is_attached(transformNode, node) -> bool:
    """Whether the registration's transform carries a node."""
    chain = own_transforms(node)
    return (chain[-1] if chain else node).GetParentTransformNode() is transformNode


def carries(transformNode, node) -> bool:
    """Whether the registration's transform carries a node, by itself or by the transform of a body."""
    chain = own_transforms(node)
    parent = (chain[-1] if chain else node).GetParentTransformNode()
    return parent is not None and transformNode in (parent, parent.GetParentTransformNode())


def set_pose(transformNode, T_lps_to_camera: np.ndarray, frame: PoseFrame) -> None:
    """Move what is attached to a pose."""
    transformNode.SetMatrixTransformToParent(vtk_matrix(matrix_from_pose(T_lps_to_camera, frame)))


def set_centre(transformNode, centre_lps_mm: np.ndarray) -> None:
    """Let handles, and whatever else turns the transform, turn it about a rotation centre (3,)."""
    centre = RAS_FROM_LPS[:3, :3] @ centre_lps_mm
    transformNode.SetCenterOfTransformation(*(float(value) for value in centre))


def pose_of(transformNode, frame: PoseFrame) -> np.ndarray:
    """(4, 4) T_lps_to_camera at which the transform node holds the CT.

    Raises:
        InputError: the transform, or one above it, is not rigid.
    """
    name = f"transform '{transformNode.GetName()}'"
    matrix = vtk.vtkMatrix4x4()
    if not transformNode.GetMatrixTransformToWorld(matrix):
        raise InputError(f"{name} is not linear: a pose is a rigid transform, choose another one")
    return pose_from_matrix(slicer.util.arrayFromVTKMatrix(matrix), frame, name)


def set_relative(transformNode, T_relative: np.ndarray) -> None:
    """Move a body, by its transform under the common one, away from where it is in the CT (4, 4; LPS, mm)."""
    transformNode.SetMatrixTransformToParent(vtk_matrix(RAS_FROM_LPS @ T_relative @ RAS_FROM_LPS))


def relative_of(transformNode) -> np.ndarray:
    """(4, 4) how a body has left its place in the CT, LPS, mm, by its transform under the common one.

    Raises:
        InputError: the transform is not rigid.
    """
    name = f"transform '{transformNode.GetName()}'"
    matrix = vtk.vtkMatrix4x4()
    if not transformNode.GetMatrixTransformToParent(matrix):
        raise InputError(f"{name} is not linear: a pose is a rigid transform, choose another one")
    rigid = rigid_matrix(slicer.util.arrayFromVTKMatrix(matrix), name)
    return RAS_FROM_LPS @ rigid @ RAS_FROM_LPS


def own_transforms(node) -> list:
    """Transform nodes above a node, nearest first, up to the registration's, which is left out."""
    chain = []
    parent = node.GetParentTransformNode()
    while parent is not None and parent.GetAttribute(_IS_POSE) is None:
        chain.append(parent)
        parent = parent.GetParentTransformNode()
    return chain


def own_to_ras(node) -> np.ndarray:
    """(4, 4) node coordinates -> RAS, mm, of the patient frame: without the registration's transform.

    Raises:
        InputError: a transform on the way is not linear.
    """
    own = np.eye(4)
    matrix = vtk.vtkMatrix4x4()
    for transform in own_transforms(node):
        if not transform.GetMatrixTransformToParent(matrix):
            raise InputError(
                f"'{node.GetName()}' is under the non-linear transform '{transform.GetName()}': harden it "
                "(Transforms module) or take the node out of it (Data module)"
            )
        own = slicer.util.arrayFromVTKMatrix(matrix) @ own
    return own


def vtk_matrix(matrix: np.ndarray) -> vtk.vtkMatrix4x4:
    """A (4, 4) array as VTK has it."""
    return slicer.util.vtkMatrixFromArray(np.asarray(matrix, dtype=np.float64))
