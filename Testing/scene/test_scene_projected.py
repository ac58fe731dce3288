"""What the CT carries, where it projects: against the projector, through an oblique volume."""

from __future__ import annotations

import numpy as np
import pytest
from SOPIRegistrationLib import project
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.rays import meeting_point
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.projector import ProjectorVolume
from SOPIRegistrationLib.scene import (
    RAS_FROM_LPS,
    Picks,
    attach,
    pixels_from_ras,
    put_points,
    ras_from_pixels,
    set_pose,
    volume_from_node,
)
from SOPIRegistrationLib.scene.belongings import belongings, shapes_of, stamp
from SOPIRegistrationLib.scene.projected import seen
from support.objects import oblique_grid

slicer = pytest.importorskip("slicer")

CAMERA = Camera.from_c_arm(1000.0, (0.5, 0.5), 320, 256, (170.0, 120.0), "front")
THETA = np.array([0.2, -0.15, 0.4, 12.0, -7.0, 35.0])
INDEX = np.array([60, 30, 28])


@pytest.fixture
def case(scene, add_volume):
    """A CT on an oblique grid whose one dense ball is about a voxel, under the registration's transform."""
    grid = oblique_grid()
    k, j, i = np.indices(grid.array.shape)
    near = np.linalg.norm((np.stack([i, j, k], axis=-1) - INDEX) * grid.spacing_mm, axis=-1) < 3.0
    node = add_volume(np.where(near, 1000, -1000).astype(np.int16), RAS_FROM_LPS @ grid.index_to_lps, "CT")
    frame = PoseFrame(grid.centre_lps_mm, 700.0)
    transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "CT to C-arm")
    attach(transform, node)
    pose = frame.T_from_theta(THETA)
    set_pose(transform, pose, frame)
    return node, transform, frame, pose


def shadow(node, pose) -> np.ndarray:
    """(u, v) centre of mass of the ball's DRR."""
    volume = volume_from_node(node)
    attenuation = volume.same_grid(np.maximum(0, 1 + volume.array.astype(np.float32) / 1000) * 0.02)
    image = project(ProjectorVolume(attenuation), CAMERA, pose[None])[0]
    v, u = np.indices(image.shape)
    return np.array([(u * image).sum(), (v * image).sum()]) / image.sum()


def test_a_markup_is_drawn_on_the_shadow_of_its_voxel(case, scene):
    node, transform, frame, pose = case
    point = oblique_grid().points_lps(INDEX)
    markups = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "Entry")
    markups.CreateDefaultDisplayNodes()
    attach(transform, markups)
    markups.AddControlPoint(*(RAS_FROM_LPS[:3, :3] @ point), "pedicle")
    assert belongings(scene, transform) == [markups]
    [shape] = shapes_of(markups)
    drawn = seen(shape, CAMERA, pose)
    assert shape.labels == ("pedicle",)
    np.testing.assert_allclose(drawn.pixels[0], shadow(node, pose), atol=0.15)
    # And where the scene has it, carried by the transform.
    world = np.array(markups.GetNthControlPointPositionWorld(0))
    np.testing.assert_allclose(drawn.pixels[0], pixels_from_ras(world, CAMERA, frame), atol=1e-6)


def test_the_outline_of_a_model_and_of_a_segment_surrounds_the_shadow(case, scene):
    import vtk

    node, transform, _frame, pose = case
    ball = vtk.vtkSphereSource()
    ball.SetCenter(*(RAS_FROM_LPS[:3, :3] @ oblique_grid().points_lps(INDEX)))
    ball.SetRadius(10.0)
    ball.SetThetaResolution(60)
    ball.SetPhiResolution(60)
    ball.Update()
    model = scene.AddNewNodeByClass("vtkMRMLModelNode", "Ball")
    model.SetAndObservePolyData(ball.GetOutput())
    model.CreateDefaultDisplayNodes()
    segmentation = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Segmentation")
    segmentation.CreateDefaultDisplayNodes()
    segmentation.AddSegmentFromClosedSurfaceRepresentation(ball.GetOutput(), "L3", [1.0, 0.0, 0.0])
    attach(transform, model, segmentation)
    centre = shadow(node, pose)
    # 10 mm at the depth of the ball.
    depth = (pose[:3, :3] @ oblique_grid().points_lps(INDEX) + pose[:3, 3])[2]
    radius = 10.0 * CAMERA.K[0, 0] / depth
    for name in ("Ball", "L3"):
        [shape] = [
            shape for each in belongings(scene, transform) for shape in shapes_of(each) if shape.name == name
        ]
        drawn = seen(shape, CAMERA, pose)
        distances = np.linalg.norm(drawn.pixels[np.unique(drawn.ends)] - centre, axis=-1)
        assert len(drawn.ends) > 30
        assert distances.min() > 0.95 * radius
        assert distances.max() < 1.06 * radius


def test_what_is_hidden_or_elsewhere_is_not_drawn_and_what_moves_with_the_ct_is_read_once(case, scene):
    _node, transform, frame, _pose = case
    here, hidden, elsewhere = (
        scene.AddNewNodeByClass("vtkMRMLMarkupsLineNode", name) for name in ("here", "hidden", "elsewhere")
    )
    for node in (here, hidden, elsewhere):
        node.CreateDefaultDisplayNodes()
        node.AddControlPoint(0.0, 0.0, 0.0)
        node.AddControlPoint(10.0, 0.0, 5.0)
    attach(transform, here, hidden)
    hidden.GetDisplayNode().SetVisibility(False)
    assert belongings(scene, transform) == [here]
    assert [shape.joined for shape in shapes_of(here)] == [False, True]
    before = stamp(here)
    set_pose(transform, frame.T_nominal, frame)
    assert stamp(here) == before
    here.SetNthControlPointPosition(1, 11.0, 0.0, 5.0)
    assert stamp(here) != before


def test_points_of_two_cameras_meet_where_they_were(case, scene):
    """Picked as pixels in two X-rays, shown in one camera at a time, found again in the CT."""
    _node, transform, frame, pose = case
    side = np.array([[0.0, 0, -1, 700], [0, 1, 0, 0], [1, 0, 0, 700], [0, 0, 0, 1]])
    cameras = [CAMERA, Camera(CAMERA.K, 320, 256, 1000.0, side, "side")]
    point = oblique_grid().points_lps(INDEX)
    picks = Picks(scene)
    node = picks.ensure_node()
    expected = []
    for camera in cameras:
        in_camera = camera.T_world_to_camera @ pose @ [*point, 1.0]
        expected.append(camera.project(in_camera[:3]))
        picks.show(camera, frame)
        node.AddControlPoint(*ras_from_pixels(expected[-1], camera, frame))
        picks.note(camera, frame)
    picked = picks.pixels()
    for camera, pixel in zip(cameras, expected, strict=True):
        np.testing.assert_allclose(picked[camera.name], [pixel], atol=1e-3)
    picks.show(cameras[0], frame)
    assert [node.GetNthControlPointVisibility(index) for index in range(2)] == [True, False]
    meeting = meeting_point(cameras, [picked[camera.name][0] for camera in cameras])
    assert meeting.apart_mm < 1e-3
    found = np.linalg.inv(pose) @ [*meeting.point, 1.0]
    np.testing.assert_allclose(found[:3], point, atol=0.01)
    markups = put_points(scene, transform, found[None, :3], ["1"])
    np.testing.assert_allclose(
        np.array(markups.GetNthControlPointPosition(0)), RAS_FROM_LPS[:3, :3] @ point, atol=0.01
    )
    assert put_points(scene, transform, found[None, :3], ["1"]) is markups


def test_parallel_rays_meet_nowhere():
    assert meeting_point([CAMERA, CAMERA], [np.array([10.0, 10]), np.array([10.0, 10])]) is None
