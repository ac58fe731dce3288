"""The demo case as nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import slicer

from SOPIRegistrationLib.geometry.c_arm import CArmGeometry
from SOPIRegistrationLib.images.volume import Volume
from SOPIRegistrationLib.scene.detector import place_on_detector
from SOPIRegistrationLib.scene.frames import RAS_FROM_LPS
from SOPIRegistrationLib.scene.pose import vtk_matrix

if TYPE_CHECKING:
    from SOPIRegistrationLib.simulation.demo import DemoCase

_BONE_WINDOW_HU = (-200.0, 1000.0)


@dataclass(frozen=True)
class DemoNodes:
    """The demo case in a scene.

    Attributes:
        ct: scalar volume node.
        xray: scalar volume node, on its detector.
        labels: label map node of the bones.
        geometry: of the X-ray.
        case: what the nodes were made from, with the true pose and a start.
    """

    ct: Any
    xray: Any
    labels: Any
    geometry: CArmGeometry
    case: DemoCase


def load_demo_case(scene, seed: int = 1, case: DemoCase | None = None) -> DemoNodes:
    """Add the demo case to a scene.

    Args:
        scene: the MRML scene.
        seed: which patient and pose; making one takes some seconds.
        case: one made before, as by a thread that keeps the window alive.
    """
    # The simulation brings projector and phantoms with it: only when it is asked for.
    if case is None:
        from SOPIRegistrationLib.simulation.demo import demo_case

        case = demo_case(seed)
    ct = _add_volume(scene, "vtkMRMLScalarVolumeNode", "Demo CT", case.ct)
    ct.GetDisplayNode().AutoWindowLevelOff()
    ct.GetDisplayNode().SetWindowLevelMinMax(*_BONE_WINDOW_HU)
    labels = _add_volume(scene, "vtkMRMLLabelMapVolumeNode", "Demo bones", case.labels)
    flat = Volume(np.ascontiguousarray(case.radiograph.pixels)[None], np.eye(4))
    xray = _add_volume(scene, "vtkMRMLScalarVolumeNode", "Demo X-ray", flat)
    place_on_detector(xray, case.camera, case.pose_frame)
    values = ("sdd_mm", "pixel_spacing_mm", "principal_point_px", "sod_mm", "view")
    geometry = CArmGeometry(
        (case.camera,),
        case.pose_frame.sod_mm,
        case.pose_frame.view,
        sources=dict.fromkeys(values, "demo case"),
    )
    return DemoNodes(ct, xray, labels, geometry, case)


def _add_volume(scene, class_name: str, name: str, volume: Volume):
    node = scene.AddNewNodeByClass(class_name, name)
    slicer.util.updateVolumeFromArray(node, volume.array)
    node.SetIJKToRASMatrix(vtk_matrix(RAS_FROM_LPS @ volume.index_to_lps))
    node.CreateDefaultDisplayNodes()
    return node
