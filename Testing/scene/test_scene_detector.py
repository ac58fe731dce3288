"""X-ray and DRR on the detector, upright in the slice views; the C-arm in the 3D view."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.volume import Volume
from SOPIRegistrationLib.scene import (
    FUSION_VIEW,
    LANDMARK_LAYOUT_ID,
    RAS_FROM_LPS,
    XRAY_VIEW,
    CArmModel,
    lay_slice_view_on_detector,
    pixels_from_ras,
    place_on_detector,
    ras_from_pixels,
    set_pose,
    settle_window,
    show_bones,
    slice_node,
    update_drr,
)
from SOPIRegistrationLib.scene.frames import T_camera_to_ras
from support.objects import oblique_grid

slicer = pytest.importorskip("slicer")
vtk = pytest.importorskip("vtk")

CAMERA = Camera.from_c_arm(1020.0, (0.8, 0.5), 120, 90, (70.0, 40.0))
FRAME = PoseFrame([12.0, -31.0, 140.0], 640.0, "LLAT")


@pytest.fixture
def letter() -> np.ndarray:
    """An F near the first pixel: any flip or turn shows."""
    image = np.full((90, 120), 100.0, np.float32)
    image[10:50, 10:16] = 900
    image[10:16, 10:40] = 900
    image[28:33, 10:28] = 900
    return image


@pytest.fixture
def xray(add_volume, letter):
    node = add_volume(letter[None], name="X-ray")
    node.GetDisplayNode().AutoWindowLevelOff()
    node.GetDisplayNode().SetWindowLevelMinMax(0, 1000)
    return node


def world_of_index(node, i, j, k=0) -> np.ndarray:
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return (slicer.util.arrayFromVTKMatrix(matrix) @ [i, j, k, 1])[:3]


def ras_of_camera_point(point) -> np.ndarray:
    return (T_camera_to_ras(CAMERA, FRAME) @ [*point, 1])[:3]


def test_xray_lies_on_the_detector(scene, xray):
    stray = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    stray.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(np.diag([1.0, 2, 3, 1])))
    xray.SetAndObserveTransformNodeID(stray.GetID())
    place_on_detector(xray, CAMERA, FRAME)
    bounds = np.zeros(6)
    xray.GetRASBounds(bounds)
    for u, v in ((0, 0), (119, 0), (33, 71)):
        point = ras_of_camera_point(1020.0 * CAMERA.K_inverse @ [u, v, 1])
        np.testing.assert_allclose(world_of_index(xray, u, v), point, atol=1e-9)
        np.testing.assert_allclose(ras_from_pixels([u, v], CAMERA, FRAME), point, atol=1e-9)
    np.testing.assert_allclose(xray.GetSpacing(), [0.5, 0.8, 1.0], atol=1e-9)
    # Left lateral: the detector on the patient's left, -x in RAS, at the full distance, not transformed.
    assert bounds[0] == pytest.approx(-12 + 640 - 1020 - 0.5, abs=1e-6)


def test_mirrored_xray_has_its_last_column_first(xray):
    place_on_detector(xray, CAMERA, FRAME, mirrored=True)
    np.testing.assert_allclose(
        world_of_index(xray, 119, 5), ras_from_pixels([0, 5], CAMERA, FRAME), atol=1e-9
    )


def test_chosen_frame_of_a_run_lies_on_the_plane(add_volume, letter):
    run = add_volume(np.stack([letter, letter, letter]))
    place_on_detector(run, CAMERA, FRAME, image_frame=3)
    np.testing.assert_allclose(
        world_of_index(run, 7, 5, 2), ras_from_pixels([7, 5], CAMERA, FRAME), atol=1e-9
    )


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("view", ["AP", "PA", "LLAT", "RLAT"])
def test_slice_view_shows_the_xray_upright(host, scene, xray, letter, view, mirrored):
    frame = PoseFrame(FRAME.centre_lps_mm, 640.0, view)
    place_on_detector(xray, CAMERA, frame, mirrored=mirrored)
    host.show_layout()
    node = slice_node(scene, XRAY_VIEW)
    node.SetDimensions(240, 288, 1)
    lay_slice_view_on_detector(node, CAMERA, frame)
    slicer.vtkMRMLSliceLogic.GetSliceCompositeNode(node).SetBackgroundVolumeID(xray.GetID())
    picture = host.slice_picture(XRAY_VIEW)[..., 0].astype(float)

    # Where every pixel of the view lies in the image, by the view's own matrix; y counts from below.
    y, x = np.mgrid[287:-1:-1, 0:240]
    xy_to_ras = slicer.util.arrayFromVTKMatrix(node.GetXYToRAS())
    ras = np.stack([x, y, 0 * x, 1 + 0 * x], axis=-1) @ xy_to_ras[:3].T
    u, v = np.moveaxis(pixels_from_ras(ras, CAMERA, frame), -1, 0)
    inside = (u >= 0) & (u <= 119) & (v >= 0) & (v <= 89)
    assert inside.mean() > 0.9
    stored = letter[:, ::-1] if mirrored else letter
    expected = ndimage.map_coordinates(stored, [v, u], order=1) * 255 / 1000
    np.testing.assert_allclose(picture[inside], expected[inside], atol=1.1)
    # Upright and not mirrored, whatever the matrices say: the stored image itself, enlarged.
    enlarged = stored[np.arange(288) * 90 // 288][:, np.arange(240) // 2]
    assert np.corrcoef(picture.ravel(), enlarged.ravel())[0, 1] > 0.95


def test_wide_slice_view_is_letterboxed(host, scene, xray):
    host.show_layout()
    node = slice_node(scene, FUSION_VIEW)
    node.SetDimensions(400, 100, 1)
    place_on_detector(xray, CAMERA, FRAME)
    lay_slice_view_on_detector(node, CAMERA, FRAME)
    np.testing.assert_allclose(node.GetFieldOfView()[:2], [4 * 72, 72], atol=1e-6)


def test_drr_shares_the_xrays_place(xray, letter):
    place_on_detector(xray, CAMERA, FRAME)
    drr = update_drr(None, xray, letter / 100, CAMERA, FRAME)
    assert drr.GetName() == "X-ray DRR"
    for u, v in ((0, 0), (119, 89)):
        np.testing.assert_allclose(world_of_index(drr, u, v), world_of_index(xray, u, v), atol=1e-9)
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(drr)[0], letter / 100)

    coarse = CAMERA.resampled(40, 30)
    update_drr(drr, xray, np.ones((30, 40)), coarse, FRAME)
    # A coarse pixel's edges are those of the fine ones it covers.
    np.testing.assert_allclose(world_of_index(drr, -0.5, -0.5), world_of_index(xray, -0.5, -0.5), atol=1e-9)
    np.testing.assert_allclose(world_of_index(drr, 39.5, 29.5), world_of_index(xray, 119.5, 89.5), atol=1e-9)


def test_live_updates_neither_reallocate_nor_change_the_window(xray, letter):
    drr = update_drr(None, xray, letter / 100, CAMERA, FRAME)
    window = drr.GetDisplayNode().GetWindow(), drr.GetDisplayNode().GetLevel()
    scalars = drr.GetImageData().GetPointData().GetScalars()
    events = []
    drr.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: events.append(1))
    update_drr(drr, xray, letter / 50, CAMERA, FRAME)
    assert drr.GetImageData().GetPointData().GetScalars() is scalars
    assert (drr.GetDisplayNode().GetWindow(), drr.GetDisplayNode().GetLevel()) == window
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(drr)[0], letter / 50)
    assert events
    settle_window(drr)
    assert drr.GetDisplayNode().GetWindow() == pytest.approx(2 * window[0])


def model_points(scene, name) -> np.ndarray:
    return slicer.util.arrayFromModelPoints(scene.GetFirstNodeByName(name))


def test_c_arm_model_stands_where_the_camera_does(scene):
    model = CArmModel(scene)
    model.update(CAMERA, FRAME)
    source = T_camera_to_ras(CAMERA, FRAME)[:3, 3]
    np.testing.assert_allclose(model_points(scene, "C-arm source").mean(axis=0), source, atol=1e-3)
    np.testing.assert_allclose(
        model_points(scene, "C-arm central ray"), [source, ras_of_camera_point([0, 0, 1020])], atol=1e-3
    )
    np.testing.assert_allclose(
        model_points(scene, "C-arm detector")[2], ras_from_pixels([119.5, 89.5], CAMERA, FRAME), atol=1e-3
    )
    assert model_points(scene, "C-arm beam").shape == (5, 3)


def test_c_arm_model_is_updated_hidden_and_removed(scene):
    model = CArmModel(scene)
    items, nodes = subject_hierarchy_items(scene), node_ids(scene)
    model.update(CAMERA, FRAME)
    made = scene.GetNumberOfNodes()
    model.update(CAMERA, PoseFrame(FRAME.centre_lps_mm, 700.0, "AP"))
    # Another instance, as after reloading the module, finds the same nodes.
    again = CArmModel(scene)
    again.update(CAMERA, FRAME)
    assert scene.GetNumberOfNodes() == made
    assert again.visible
    again.visible = False
    assert not scene.GetFirstNodeByName("C-arm beam").GetDisplayVisibility()
    assert not model.visible
    model.keep(())
    assert node_ids(scene) == nodes
    assert subject_hierarchy_items(scene) == items


def node_ids(scene) -> set[str]:
    return {scene.GetNthNode(index).GetID() for index in range(scene.GetNumberOfNodes())}


def subject_hierarchy_items(scene) -> int:
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    return hierarchy.GetNumberOfItems()


def test_each_camera_of_a_set_has_a_c_arm(scene):
    model = CArmModel(scene)
    for name in ("cam01", "cam02"):
        model.update(Camera(CAMERA.K, 120, 90, 1020.0, name=name), FRAME)
    assert scene.GetFirstNodeByName("C-arm cam01 source") is not scene.GetFirstNodeByName(
        "C-arm cam02 source"
    )


def test_bones_are_where_the_mask_is_and_move_with_the_CT(scene):
    grid = oblique_grid()
    mask = np.zeros(grid.array.shape, np.uint8)
    mask[10:30, 20:50, 30:60] = 1
    bone = Volume(mask, grid.index_to_lps)
    transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "pose")
    node = show_bones(scene, bone, transform)
    points = slicer.util.arrayFromModelPoints(node)
    centre = RAS_FROM_LPS[:3, :3] @ grid.points_lps([44.5, 34.5, 19.5])
    np.testing.assert_allclose((points.min(axis=0) + points.max(axis=0)) / 2, centre, atol=0.5)
    indices = (points @ RAS_FROM_LPS[:3, :3] - grid.index_to_lps[:3, 3]) @ grid.lps_to_index[:3, :3].T
    assert indices.min(axis=0) == pytest.approx([30, 20, 10], abs=1.5)
    assert indices.max(axis=0) == pytest.approx([59, 49, 29], abs=1.5)

    assert show_bones(scene, bone, transform) is node
    set_pose(transform, FRAME.T_from_theta(np.array([0, 0, 0, 0, 0, 50.0])), FRAME)
    bounds = np.zeros(6)
    node.GetRASBounds(bounds)
    # 50 mm deeper is 50 mm to the patient's left.
    assert bounds[0] == pytest.approx(points[:, 0].min() - 50, abs=1e-3)


def test_landmark_layout_has_a_CT_slice(host, scene):
    host.show_layout(LANDMARK_LAYOUT_ID)
    assert host.slice_logic("Red") is not None
    assert slice_node(scene, XRAY_VIEW) is not None
