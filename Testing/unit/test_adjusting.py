"""Poses moved by hand in the picture."""

from __future__ import annotations

import numpy as np
import pytest
from SOPIRegistrationLib.geometry import adjusting, se3
from SOPIRegistrationLib.geometry.camera import Camera

CAMERA = Camera.from_c_arm(1000.0, (0.5, 0.8), 300, 200)
CENTRE = np.array([20.0, -30.0, 50.0])
T = se3.move_about(
    se3.rigid(np.eye(3), np.array([-10.0, 15.0, 650.0])), np.array([0.2, -0.4, 0.9, 0, 0, 0]), CENTRE
)


def seen(pose, point=CENTRE) -> np.ndarray:
    return CAMERA.project(pose[:3, :3] @ point + pose[:3, 3])


def depth(pose) -> float:
    return float((pose[:3, :3] @ CENTRE + pose[:3, 3])[2])


def test_what_was_under_the_mouse_stays_under_it():
    # A point of the object at the depth of the centre, seen at (170, 60).
    pressed = np.array([170.0, 60.0])
    in_camera = depth(T) * CAMERA.K_inverse @ np.append(pressed, 1.0)
    point = T[:3, :3].T @ (in_camera - T[:3, 3])
    moved = adjusting.shifted(T, CAMERA, CENTRE, pressed, (121.0, 103.0))
    np.testing.assert_allclose(seen(moved, point), [121.0, 103.0], atol=1e-9)
    assert depth(moved) == pytest.approx(depth(T))
    np.testing.assert_array_equal(moved[:3, :3], T[:3, :3])


def test_a_tilt_moves_the_front_with_the_mouse_and_keeps_the_centre():
    front = CENTRE - 40 * T[2, :3]
    moved = adjusting.tilted(T, CAMERA, CENTRE, (100.0, 100.0), (112.0, 94.0))
    np.testing.assert_allclose(seen(moved), seen(T), atol=1e-9)
    shift = seen(moved, front) - seen(T, front)
    assert shift[0] > 1
    assert shift[1] < -1
    assert depth(moved) == pytest.approx(depth(T))
    whole = adjusting.tilted(T, CAMERA, CENTRE, (0.0, 0.0), (300.0, 0.0))
    assert se3.rotation_distance(whole[:3, :3], T[:3, :3]) == pytest.approx(np.pi / 2)


def test_a_roll_follows_the_angle_about_the_centre():
    middle = seen(T)
    moved = adjusting.rolled(T, CAMERA, CENTRE, np.add(middle, (50, 0)), np.add(middle, (0, 30)))
    np.testing.assert_allclose(seen(moved), middle, atol=1e-9)
    assert se3.rotation_distance(moved[:3, :3], T[:3, :3]) == pytest.approx(np.pi / 2)
    # What lay to the right of the centre lies below it.
    right = CENTRE + 30 * T[0, :3]
    offset = (moved[:3, :3] @ (right - CENTRE))[:2]
    np.testing.assert_allclose(offset, [0, 30], atol=1e-9)


def test_depth_and_steps():
    deeper = adjusting.moved_in_depth(T, CENTRE, 12.0)
    np.testing.assert_allclose(seen(deeper), seen(T), atol=1e-9)
    assert depth(deeper) > depth(T) + 11
    step = adjusting.stepped(T, 0.5, -5.0)
    np.testing.assert_allclose(step[:3, 3] - T[:3, 3], [0.5, -5.0, 0.0])
