"""Where a body has gone: found by sliding its projection, in one view and in two."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage
from SOPIRegistrationLib import PoseFrame, Radiograph, Subject, prepare_radiograph, project
from SOPIRegistrationLib.cli.main import main
from SOPIRegistrationLib.compare import Case, Comparison, Reading, Run, compared_target
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.subject.surface import filled, material_named
from SOPIRegistrationLib.tracking.others import without_others
from SOPIRegistrationLib.tracking.placing import share_in_field, shifted_to_the_pictures
from SOPIRegistrationLib.tracking.reaching import reached, reached_from_around
from support.surfaces import implant, write_surface

SOD_MM = 700.0


def xray_of(subject: Subject, camera: Camera, T_lps_to_world: np.ndarray) -> Radiograph:
    """An 8-bit X-ray of metal in front of something softer."""
    v, u = np.indices(camera.shape) / np.array(camera.shape).reshape(2, 1, 1) - 0.5
    soft = 0.8 * np.sqrt(np.maximum(0, 1 - (1.6 * (u + 0.1 * v)) ** 2))
    beam = np.exp(-project(subject.body.level(0), camera, T_lps_to_world)) + 0.15
    noise = np.random.default_rng(1).normal(0, 0.004, camera.shape)
    return Radiograph(np.clip(190 * (beam * np.exp(-soft) + noise), 0, 255).astype(np.uint8), camera.name)


class Scene:
    """An implant in two cameras at right angles."""

    def __init__(self):
        self.surface = implant()
        self.subject = Subject(filled(self.surface, material_named("CoCr"), spacing_mm=1.0))
        first = Camera.from_c_arm(1000.0, (1.0, 1.0), 192, 192)
        # The second camera looks along the first one's x.
        turn = se3.rigid(se3.exp_so3(np.array([0.0, np.pi / 2, 0.0])), np.zeros(3))
        back = se3.rigid(np.eye(3), np.array([0.0, 0.0, SOD_MM]))
        self.cameras = (
            replace(first, name="front"),
            replace(first, name="side", T_world_to_camera=back @ turn @ np.linalg.inv(back)),
        )
        self.frame = PoseFrame(self.subject.ct.rotation_centre_lps_mm, SOD_MM)

    def comparison(self, T: np.ndarray, views: int) -> Comparison:
        """The implant at a pose, seen in one view or two."""
        prepared = [
            prepare_radiograph(xray_of(self.subject, camera, T), camera, "bone-dark", of_metal=True)
            for camera in self.cameras[:views]
        ]
        case = Case(self.subject, Reading(tuple(prepared)), self.frame, "auto", T)
        return Comparison(case, case.reading, compared_target(self.subject))

    def place(self, T: np.ndarray) -> np.ndarray:
        return se3.transform_points(T, self.frame.centre_lps_mm)


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene()


def test_one_view_tells_the_shift_across_it_and_nothing_of_depth(scene):
    truth = scene.frame.T_nominal
    guess = truth.copy()
    guess[:3, 3] += (18.0, -11.0, 6.0)
    moved = shifted_to_the_pictures(scene.comparison(truth, 1), guess, 40.0)
    away = scene.place(moved) - scene.place(truth)
    assert np.abs(away[:2]).max() < 2.5
    assert 5.0 < away[2] < 7.0


def test_two_views_tell_all_of_it(scene):
    truth = scene.frame.T_nominal
    guess = truth.copy()
    guess[:3, 3] += (14.0, -11.0, -20.0)
    moved = shifted_to_the_pictures(scene.comparison(truth, 2), guess, 40.0)
    assert np.linalg.norm(scene.place(moved) - scene.place(truth)) < 3.0
    assert np.allclose(moved[:3, :3], guess[:3, :3])


def test_a_body_out_of_the_picture_stays_where_it_is(scene):
    truth = scene.frame.T_nominal
    guess = truth.copy()
    guess[:3, 3] += (500.0, 0.0, 0.0)
    comparison = scene.comparison(truth, 1)
    assert np.allclose(shifted_to_the_pictures(comparison, guess, 40.0), guess)
    assert share_in_field(comparison.target, comparison.radiographs[0], guess) == 0.0


def test_the_share_in_the_field_is_that_of_the_surface(scene):
    truth = scene.frame.T_nominal
    comparison = scene.comparison(truth, 1)
    radiograph = comparison.radiographs[0]
    assert share_in_field(comparison.target, radiograph, truth) == 1.0
    # Its middle on the edge of the picture.
    truth = truth.copy()
    truth[0, 3] += 96.0 * SOD_MM / 1000.0
    assert 0.3 < share_in_field(comparison.target, radiograph, truth) < 0.7


def turned(scene: Scene, T: np.ndarray, found: np.ndarray) -> float:
    return float(np.rad2deg(se3.rotation_distance(found[:3, :3], T[:3, :3])))


def test_what_another_body_of_metal_covers_is_not_compared(scene):
    T = scene.frame.T_nominal
    [xray] = scene.comparison(T, 1).radiographs
    opacity = project(scene.subject.silhouette.level(0), xray.camera, T)
    cleared = without_others(xray, [(scene.subject, T)])
    assert not cleared.valid[opacity > 0.5].any()
    far = ~ndimage.binary_dilation(opacity > 0.05, iterations=6)
    np.testing.assert_array_equal(cleared.valid[far], xray.valid[far])
    np.testing.assert_array_equal(cleared.image, xray.image)
    # Through bone one sees.
    bone = Subject(filled(scene.surface, material_named("bone"), spacing_mm=2.0))
    assert without_others(xray, [(bone, T)]) is xray
    assert without_others(xray, []) is xray


def test_a_leap_is_followed(scene):
    """17 mm and 7 degrees from one frame to the next, as a fast knee moves."""
    guess = scene.frame.T_nominal
    twist = np.array([0.1, 0.05, -0.04, 10.0, -12.0, 7.0])
    truth = se3.move_about(guess[None], twist[None], scene.frame.centre_lps_mm)[0]
    comparison = scene.comparison(truth, 2)
    found = reached(comparison, [guess], Run(comparison.case)).T[0]
    assert np.linalg.norm(scene.place(found) - scene.place(truth)) < 0.5
    assert turned(scene, truth, found) < 1.5


def test_from_around_a_minimum_beside_the_pose_is_left(scene):
    """6 degrees about the axis that the implant's round parts hardly show."""
    truth = scene.frame.T_nominal
    comparison = scene.comparison(truth, 2)
    twist = np.array([0.0, 0.0, 0.1, 0, 0, 0])
    beside = se3.move_about(truth[None], twist[None], scene.frame.centre_lps_mm)[0]
    found = reached_from_around(comparison, beside, truth, Run(comparison.case)).T[0]
    assert turned(scene, truth, found) < 1.0


def test_surfaces_are_tracked_from_the_command_line(scene, tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(3):
        twist = np.array([0.05 * number, 0.0, 0.06 * number, 9.0 * number, 4.0 * number, 0.0])
        T = se3.move_about(scene.frame.T_nominal[None], twist[None], scene.frame.centre_lps_mm)[0]
        pixels = np.asarray(xray_of(scene.subject, scene.cameras[0], T).pixels)
        sitk.WriteImage(sitk.GetImageFromArray(pixels), str(folder / f"{number}.png"))
    body = write_surface(tmp_path / "cup.stl", scene.surface.points_lps_mm, scene.surface.triangles)
    geometry = {"sdd_mm": 1000.0, "pixel_spacing_mm": [1.0, 1.0], "sod_mm": SOD_MM, "view": "AP"}
    (tmp_path / "geometry.json").write_text(json.dumps(geometry))
    pose = {"pose": {"T_lps_to_camera": scene.frame.T_nominal.tolist()}}
    (tmp_path / "start.json").write_text(json.dumps(pose))
    words = ["track", body, "--material", "cup=CoCr", "--xrays", folder, "--polarity", "bone-dark"]
    words += ["--geometry", tmp_path / "geometry.json", "--start", f"{tmp_path / 'start.json'}@1"]
    assert main([str(word) for word in (*words, "--out", tmp_path / "out")]) == 0
    entry = json.loads((tmp_path / "out" / "track.json").read_text())
    assert entry["bodies"][0]["counts"]["accept"] == 3


def test_a_start_may_be_of_a_camera_that_is_not_tracked(scene, tmp_path):
    """The pose of the front camera, and the side camera's pictures."""
    T = scene.frame.T_nominal
    (tmp_path / "frames").mkdir()
    for number in range(2):
        pixels = np.asarray(xray_of(scene.subject, scene.cameras[1], T).pixels)
        sitk.WriteImage(sitk.GetImageFromArray(pixels), str(tmp_path / "frames" / f"{number}.png"))
    body = write_surface(tmp_path / "cup.stl", scene.surface.points_lps_mm, scene.surface.triangles)
    cameras = [
        {"name": c.name, "K": c.K.tolist(), "width": c.width, "height": c.height}
        | {"R": c.T_world_to_camera[:3, :3].tolist(), "t": c.T_world_to_camera[:3, 3].tolist()}
        for c in scene.cameras
    ]
    (tmp_path / "cameras.json").write_text(json.dumps({"cameras": cameras}))
    pose = {"pose": {"T_lps_to_camera": T.tolist()}, "geometry": {"cameras": [{"name": "front"}]}}
    (tmp_path / "start.json").write_text(json.dumps(pose))
    words = ["track", body, "--material", "CoCr", "--xrays", tmp_path / "frames", "--camera", "side"]
    words += ["--geometry", tmp_path / "cameras.json", "--start", f"{tmp_path / 'start.json'}@1"]
    words += ["--polarity", "bone-dark", "--out", tmp_path / "out"]
    assert main([str(word) for word in words]) == 0
    [entry] = json.loads((tmp_path / "out" / "track.json").read_text())["bodies"]
    found = np.array(entry["frames"][1]["T_lps_to_world"])
    # In the side camera's plane, and not where the same numbers would have it in that camera.
    away = scene.place(scene.cameras[1].T_world_to_camera @ found) - scene.place(
        scene.cameras[1].T_world_to_camera @ T
    )
    assert np.abs(away[:2]).max() < 1.0
    assert turned(scene, T, found) < 5.0
