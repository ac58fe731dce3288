"""Poses of a body that look alike: sought from its own shape."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial import cKDTree
from SOPIRegistrationLib.errors import Cancelled
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.c_arm import CArmGeometry
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.principal_axes import principal_axes
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.ct_preparation import prepare_ct
from SOPIRegistrationLib.images.radiograph import PreparedRadiograph
from SOPIRegistrationLib.images.volume import Volume
from SOPIRegistrationLib.projector import project
from SOPIRegistrationLib.refine.alternatives import AMBIGUOUS, alike_poses, alternatives, near_poses
from SOPIRegistrationLib.refine.joint_scene import Scene
from SOPIRegistrationLib.registration import register
from SOPIRegistrationLib.registration.outputs import write_results
from SOPIRegistrationLib.registration.verdict import beside
from SOPIRegistrationLib.settings import RegistrationSettings
from SOPIRegistrationLib.subject import Subject
from SOPIRegistrationLib.subject.bodies import Bodies, Hold, RigidBody

CAMERA = Camera.from_c_arm(1000.0, (1.0, 1.0), 128, 128)


@pytest.fixture(scope="module")
def tray():
    """A plate with a stem, the same left and right but for a small knob, in air."""
    k, j, i = np.indices((50, 60, 60))
    hu = np.full(k.shape, -1000.0)
    hu[(np.abs(k - 35) < 4) & ((i - 30) ** 2 / 24**2 + (j - 30) ** 2 / 16**2 < 1)] = 1500
    hu[(k < 35) & (k > 8) & (np.abs(i - 30) < 4) & (np.abs(j - 34) < 6)] = 1500
    hu[(np.abs(k - 33) < 3) & (np.abs(i - 46) < 3) & (np.abs(j - 30) < 3)] = 2500
    return Subject(prepare_ct(Volume(hu.astype(np.float32), np.diag([1.5, 1.5, 1.5, 1.0]))))


@pytest.fixture(scope="module")
def pose(tray):
    """Seen from its side, 20 deg off its plane of symmetry, and from a little above."""
    frame = PoseFrame(tray.ct.rotation_centre_lps_mm, 800.0, "LLAT")
    return frame.T_from_theta(np.array([0.2, np.deg2rad(20), 0.05, 3, -2, 0]))


def xray(subject, pose, camera=CAMERA):
    image = project(subject.body.level(0), camera, pose)
    noise = np.random.default_rng(0).normal(scale=0.01 * image.max(), size=image.shape)
    return PreparedRadiograph((image + noise).astype(np.float32), np.ones(image.shape, bool), camera)


def test_a_box_looks_the_same_in_the_poses_that_its_symmetry_names():
    corners = np.array([3.0, 40.0, -7.0]) + np.stack(np.meshgrid([-30, 30], [-12, 12], [-5, 5]), -1).reshape(
        8, 3
    )
    axes = principal_axes(corners)
    T = se3.rigid(se3.exp_so3(np.array([0.4, -0.3, 0.8])), np.array([10.0, -20.0, 1e6]))
    seen = {}
    for way, other in alike_poses(axes, T, [np.zeros(3)]):
        np.testing.assert_allclose(other[:3, :3] @ other[:3, :3].T, np.eye(3), atol=1e-9)
        assert np.linalg.det(other[:3, :3]) == pytest.approx(1)
        # From so far away rays are parallel.
        places = (se3.transform_points(one, corners)[:, :2] for one in (T, other))
        seen.setdefault(way, []).append(cKDTree(next(places)).query(next(places))[0].max())
    assert max(seen["half turn"] + seen["mirror pose"]) < 0.05
    assert min(seen["turned about its axis"]) > 1.0
    assert (len(seen["half turn"]), len(seen["mirror pose"])) == (4, 3)


def test_the_axis_about_which_a_body_is_round_is_its_long_one():
    angle, along = np.meshgrid(np.linspace(0, 2 * np.pi, 24, endpoint=False), np.linspace(-60, 60, 13))
    bone = np.stack([8 * np.cos(angle), along, 8 * np.sin(angle)], axis=-1).reshape(-1, 3)
    axes = principal_axes(bone)
    assert axes.round_about == 0
    assert abs(axes.directions[1, 0]) == pytest.approx(1)


def test_poses_nearby_are_turned_or_slid_and_nothing_else(pose, tray):
    axes = principal_axes(tray.ct.surface_points_lps_mm)
    for way, other in near_poses(axes, pose):
        turn = np.rad2deg(se3.rotation_distance(other[:3, :3], pose[:3, :3]))
        shift = np.linalg.norm(np.subtract(*(se3.transform_points(T, axes.centre_mm) for T in (pose, other))))
        expected = (12.0, 0.0) if way == "near" else (0.0, 8.0)
        assert (turn, shift) == pytest.approx(expected, abs=1e-5)


def test_the_mirror_pose_of_a_tray_is_found_in_one_view(pose, tray):
    scene = Scene(Bodies.one(tray), [xray(tray, pose)])
    found = alternatives(scene, pose[None], 0)
    assert found[0].way == "mirror pose"
    # By twice the angle between the ray and the normal of the plane of symmetry.
    place = se3.transform_points(pose, tray.ct.rotation_centre_lps_mm)
    angle = np.arccos(abs(pose[:3, 0] @ place) / np.linalg.norm(place))
    assert found[0].turned_deg == pytest.approx(2 * np.rad2deg(angle), abs=3)
    assert abs(found[0].margin) < AMBIGUOUS
    assert beside(found)[0] == "review"


@pytest.mark.slow
def test_two_views_tell_a_tray_from_its_mirror_pose(pose, tray):
    beside_it = Camera(
        CAMERA.K,
        CAMERA.width,
        CAMERA.height,
        T_world_to_camera=se3.move_about(
            np.eye(4), np.array([0, np.pi / 2, 0, 0, 0, 0]), np.array([0, 0, 800.0])
        ),
    )
    both = Scene(Bodies.one(tray), [xray(tray, pose), xray(tray, pose, beside_it)])
    assert beside(alternatives(both, pose[None], 0)) == ("accept", "")


def test_what_holds_a_body_keeps_it_from_its_mirror_pose(pose, tray):
    held = Bodies((RigidBody("plate", tray), RigidBody("tray", tray, Hold("plate"))))
    beyond = pose.copy()
    beyond[1, 3] += 60.0
    image = project(tray.body.level(0), CAMERA, pose) + project(tray.body.level(0), CAMERA, beyond)
    scene = Scene(held, [PreparedRadiograph(image, np.ones(image.shape, bool), CAMERA)])
    found = alternatives(scene, np.stack([beyond, pose]), 1)
    assert all(one.turned_deg < 25 for one in found)


def test_the_search_is_stopped_by_its_report(pose, tray):
    def stop(state):
        raise Cancelled

    with pytest.raises(Cancelled):
        alternatives(Scene(Bodies.one(tray), [xray(tray, pose)]), pose[None], 0, stop)


@pytest.mark.slow
def test_a_registration_tells_what_looks_alike_and_writes_it(pose, tray, tmp_path):
    dense = tray.ct.attenuation.same_grid(40 * tray.ct.attenuation.array)
    metal = Subject(replace(tray.ct, attenuation=dense, is_metal=True))
    frame = PoseFrame(tray.ct.rotation_centre_lps_mm, 800.0, "LLAT")
    start = se3.move_about(pose, np.array([0.02, -0.02, 0.01, 1, 1, 2]), tray.ct.rotation_centre_lps_mm)
    result = register(metal, [xray(metal, pose)], frame, RegistrationSettings("given"), start)
    assert result.verdict.status == "review"
    assert "mirror pose" in result.verdict.ambiguous
    files = write_results(tmp_path, result, CArmGeometry((CAMERA,), 800.0), metal.shown, 0.0, "tray")
    assert {"tray_alternative1_to_carm.tfm", "overlay_tray_alternative1.png"} <= set(files)
    assert all((tmp_path / file).is_file() for file in files)
    [first, *_] = json.loads((tmp_path / "result.json").read_text())["alternatives"]
    assert first["way"] == "mirror pose"
    np.testing.assert_allclose(first["pose"]["T_lps_to_camera"], result.alternatives[0].T_lps_to_world)
