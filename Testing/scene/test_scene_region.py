"""Regions drawn on an X-ray that lies on its detector."""

from __future__ import annotations

import numpy as np
import pytest
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.scene import place_on_detector, ras_from_pixels, region_from_node

slicer = pytest.importorskip("slicer")

CAMERA = Camera.from_c_arm(1000.0, (0.8, 0.5), 120, 90)
FRAME = PoseFrame(np.array([12.0, -30.0, 45.0]), 640.0, "LLAT")


@pytest.fixture
def xray(add_volume):
    node = add_volume(np.random.default_rng(1).random((1, 90, 120)), name="X-ray")
    place_on_detector(node, CAMERA, FRAME)
    return node


def on_detector(pixels) -> np.ndarray:
    return ras_from_pixels(np.array(pixels, dtype=float), CAMERA, FRAME)


def test_closed_curve_through_corners(scene, xray):
    curve = scene.AddNewNodeByClass("vtkMRMLMarkupsClosedCurveNode", "Around the bone")
    curve.SetCurveTypeToLinear()
    for point in on_detector([[20, 10], [80, 10], [80, 50], [20, 50]]):
        curve.AddControlPointWorld(*point)
    inside = region_from_node(curve, xray)
    assert inside.shape == (90, 120)
    v, u = np.nonzero(inside)
    assert (abs(u.min() - 20), abs(u.max() - 80), abs(v.min() - 10), abs(v.max() - 50)) <= (1, 1, 1, 1)
    assert inside.sum() == pytest.approx(60 * 40, rel=0.06)


def test_box_of_a_roi(scene, xray):
    roi = scene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "Box")
    roi.SetCenterWorld(*on_detector([60, 45]))
    # Left lateral: columns run along A-P, rows along S-I.
    roi.SetSizeWorld(30.0, 40 * 0.5, 20 * 0.8)
    inside = region_from_node(roi, xray)
    v, u = np.nonzero(inside)
    assert (np.ptp(u), np.ptp(v)) == (pytest.approx(40, abs=2), pytest.approx(20, abs=2))
    assert (u.mean(), v.mean()) == (pytest.approx(60, abs=1), pytest.approx(45, abs=1))


def test_label_map_on_the_xray_s_own_grid(add_volume, xray):
    drawn = np.zeros((1, 90, 120), np.uint8)
    drawn[0, 12:40, 30:77] = 1
    label = add_volume(drawn, name="Drawn", class_name="vtkMRMLLabelMapVolumeNode")
    place_on_detector(label, CAMERA, FRAME)
    np.testing.assert_array_equal(region_from_node(label, xray), drawn[0] > 0)


def test_regions_that_say_nothing_are_refused(scene, add_volume, xray):
    curve = scene.AddNewNodeByClass("vtkMRMLMarkupsClosedCurveNode", "Two points")
    for point in on_detector([[20, 10], [80, 10]]):
        curve.AddControlPointWorld(*point)
    with pytest.raises(InputError, match="'Two points' has fewer than three points"):
        region_from_node(curve, xray)
    label = add_volume(np.ones((1, 90, 120), np.uint8), name="Far", class_name="vtkMRMLLabelMapVolumeNode")
    with pytest.raises(InputError, match="'Far' does not lie on X-ray 'X-ray'"):
        region_from_node(label, xray)
