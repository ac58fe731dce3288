"""What the CT carries, drawn over the X-ray in the views; points of two X-rays as markups."""

from __future__ import annotations

import numpy as np
import pytest
from SOPIRegistrationLib.geometry import se3
from support.rendering import can_render
from test_cameras import cameras as cameras
from test_cameras import chosen as chosen

# Without VTK the tests are left out, as those of Testing/scene.
scene = pytest.importorskip("SOPIRegistrationLib.scene", exc_type=ImportError)


def bone_point(case) -> np.ndarray:
    """(3,) LPS mm of a bone voxel near the middle."""
    k, j, i = np.nonzero(case.labels.array)
    points = case.labels.points_lps(np.stack([i, j, k], axis=-1))
    return points[np.linalg.norm(points - points.mean(axis=0), axis=-1).argmin()]


def add_point(user, point_lps, name="Entry", label="pedicle"):
    import slicer

    node = user.host.scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name)
    node.CreateDefaultDisplayNodes()
    scene.attach(user.parameters.transform, node)
    node.AddControlPoint(*(scene.RAS_FROM_LPS[:3, :3] @ point_lps), label)
    user.wait()
    assert isinstance(node, slicer.vtkMRMLMarkupsFiducialNode)
    return node


def drawn_point(user) -> np.ndarray:
    [drawn] = [one for one in user.panel.use_of_result.drawn if one.shape.labels == ("pedicle",)]
    return drawn.pixels[0]


def projected(user, point_lps) -> np.ndarray:
    pose = user.session.pose
    return user.session.case.xray.camera.project(pose[:3, :3] @ point_lps + pose[:3, 3])


def test_a_point_of_the_ct_is_drawn_in_the_views_and_moves_with_the_ct(user, demo_case):
    if not can_render():
        pytest.skip("views need OpenGL: apt-get install libegl1 libgl1")
    user.take_demo(demo_case)
    user.show_views()
    user.host.process(0.2)
    point, before = bone_point(demo_case), user.host.view_pixels("XRay").astype(int)
    node = add_point(user, point)
    np.testing.assert_allclose(drawn_point(user), projected(user, point), atol=1e-6)
    changed = np.abs(user.host.view_pixels("XRay") - before).max(axis=-1) > 60
    assert changed.any()
    rows, columns = np.nonzero(changed)
    import slicer

    slice_node = slicer.app.layoutManager().sliceWidget("XRay").mrmlSliceNode()
    ras = scene.ras_from_pixels(drawn_point(user), user.session.case.xray.camera, user.session.case.frame)
    xy = np.linalg.solve(slicer.util.arrayFromVTKMatrix(slice_node.GetXYToRAS()), [*ras, 1.0])
    away = np.hypot(columns - xy[0], changed.shape[0] - 1 - rows - xy[1])
    assert away.min() < 2
    user.ui.txSlider.value = 30.0
    user.wait()
    np.testing.assert_allclose(drawn_point(user), projected(user, point), atol=1e-6)
    node.GetDisplayNode().SetVisibility(False)
    user.wait()
    assert user.panel.use_of_result.drawn == []


def test_nothing_is_drawn_where_that_is_not_wanted_and_nothing_stays(user, demo_case):
    user.take_demo(demo_case)
    user.show_views()
    add_point(user, bone_point(demo_case))
    user.ui.projectedCheckBox.checked = False
    user.wait()
    assert user.panel.use_of_result.drawn == []
    user.ui.projectedCheckBox.checked = True
    user.wait()
    assert len(user.panel.use_of_result.drawn) == 1
    user.host.scene.Clear()
    user.host.process(0.2)
    assert user.panel.use_of_result.drawn == []


def test_of_one_x_ray_no_point_has_a_place(user, demo_case):
    user.take_demo(demo_case)
    user.show_views()
    user.ui.useSection.collapsed = False
    assert not user.ui.pickPlaceWidget.enabled
    assert "calibrated set" in user.ui.pickPlaceWidget.toolTip
    assert not user.ui.pointsButton.enabled


def test_a_point_picked_in_two_x_rays_is_found_in_the_ct(chosen, demo_case, cameras):
    import slicer

    user, point = chosen, bone_point(demo_case)
    combo = user.ui.cameraCombo
    user.ui.useSection.collapsed = False
    T_lps_to_world = None
    for name in ("front", "side"):
        combo.setCurrentIndex(combo.findText(name))
        combo.activated.emit(combo.currentIndex)
        user.show_views()
        case = user.session.case
        if T_lps_to_world is None:
            T_lps_to_world = se3.invert_rigid(case.T_world_to_camera) @ user.session.pose
        # A person picks where the point is in the X-ray; here, where it projects.
        pixel = case.xray.camera.project((case.T_world_to_camera @ T_lps_to_world @ [*point, 1.0])[:3])
        picks = user.ui.pickPlaceWidget.currentNode()
        picks.AddControlPoint(*scene.ras_from_pixels(pixel, case.xray.camera, case.frame))
        user.wait()
    assert "front: 1" in user.ui.pointsLabel.text
    assert "side: 1" in user.ui.pointsLabel.text
    user.click("pointsButton")
    user.wait()
    [node] = [
        one
        for one in slicer.util.getNodesByClass("vtkMRMLMarkupsFiducialNode", user.host.scene)
        if one.GetName().startswith("Points from X-rays")
    ]
    own = np.array(node.GetNthControlPointPosition(0))
    np.testing.assert_allclose(own, scene.RAS_FROM_LPS[:3, :3] @ point, atol=0.05)
    assert "0.0 mm apart" in node.GetNthControlPointLabel(0)
    assert node.GetParentTransformNode() is user.parameters.transform
