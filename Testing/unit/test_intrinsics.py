"""Intrinsics that are only roughly known: their derivatives, their estimation, and what is said of them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from SOPIRegistrationLib.compare import Case, Comparison, Hypotheses, Level, Reading, Run, compared_target
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.files import load_geometry
from SOPIRegistrationLib.geometry.intrinsics import (
    EstimatedIntrinsics,
    deviated,
    tolerated_deviation,
    turns_of_rays,
)
from SOPIRegistrationLib.geometry.tolerances import Tolerances
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.ct_preparation import prepare_ct
from SOPIRegistrationLib.images.radiograph import PreparedRadiograph
from SOPIRegistrationLib.projector import project
from SOPIRegistrationLib.refine.intrinsics import STAGE, with_intrinsics
from SOPIRegistrationLib.registration import register
from SOPIRegistrationLib.registration.outputs import ESTIMATED_GEOMETRY, write_results
from SOPIRegistrationLib.settings import RegistrationSettings
from SOPIRegistrationLib.simulation.phantom import lumbar_phantom
from SOPIRegistrationLib.subject import Subject

NOMINAL = Camera.from_c_arm(1000.0, (2.0, 2.0), 112, 112)
TOLERANCES = Tolerances(sdd_mm=30.0, principal_point_px=6.0)
SOD_MM = 700.0


@pytest.fixture(scope="module")
def subject() -> Subject:
    return Subject(prepare_ct(lumbar_phantom(3, 4.0).ct))


def beside(first: Camera) -> Camera:
    """The same C-arm turned by a right angle about the patient; the first is the world."""
    turn = se3.exp_so3(np.array([0, np.pi / 2, 0]))
    middle = np.array([0, 0, SOD_MM])
    return replace(first, T_world_to_camera=se3.rigid(turn, middle - turn @ middle), name="side")


class Scene:
    """X-rays by cameras whose intrinsics are not those given.

    Args:
        subject: the CT.
        given: cameras as a registration is given them.
        deviations: (views, 3) of those that took the X-rays.
    """

    def __init__(self, subject: Subject, given, deviations):
        self.subject = subject
        self.frame = PoseFrame(subject.ct.rotation_centre_lps_mm, SOD_MM)
        self.true_cameras = [deviated(camera, k) for camera, k in zip(given, deviations, strict=True)]
        self.T_true = self.frame.T_from_theta(np.array([0.05, -0.04, 0.03, 5.0, 12.0, -4.0]))
        volume = subject.body.level(0)
        self.radiographs = tuple(
            PreparedRadiograph(project(volume, true, self.T_true), np.ones(true.shape, bool), camera)
            for true, camera in zip(self.true_cameras, given, strict=True)
        )

    @property
    def comparison(self) -> Comparison:
        reading = Reading(self.radiographs)
        return Comparison(Case(self.subject, reading, self.frame), reading, compared_target(self.subject))

    def estimated(self, T: np.ndarray, *rivals: np.ndarray) -> Hypotheses:
        comparison = self.comparison
        return with_intrinsics(Hypotheses.unscored(comparison, np.stack([T, *rivals])), Run(comparison.case))

    def off_px(self, found: Hypotheses, T: np.ndarray) -> float:
        """How far points of the bones are from where the X-rays show them, at the most, pixels."""
        points = self.subject.ct.surface_points_lps_mm
        apart = [
            one.camera.project(se3.transform_points(one.camera.T_world_to_camera @ T, points))
            - true.project(se3.transform_points(true.T_world_to_camera @ self.T_true, points))
            for one, true in zip(found.comparison.radiographs, self.true_cameras, strict=True)
        ]
        return float(np.abs(apart).max())


def noisy(scene: Scene, level: float) -> Scene:
    """The scene with white noise in its X-rays, in standard deviations of the images."""
    rng = np.random.default_rng(2)
    scene.radiographs = tuple(
        replace(one, image=rng.normal(one.image, level * one.image.std()).astype(np.float32))
        for one in scene.radiographs
    )
    return scene


TOLERATED = replace(NOMINAL, tolerances=TOLERANCES)
K_OFF = np.array([0.02, 0.008, -0.006])


def alike_at_wrong_intrinsics(scene: Scene) -> np.ndarray:
    """The pose that shows nearly the same picture with the camera given: turned about the source, shifted."""
    a, bx, by = K_OFF
    T = se3.rigid(se3.exp_so3(np.array([-by, bx, 0.0])), np.zeros(3)) @ scene.T_true
    T[2, 3] *= np.exp(-a)
    return T


# Rays


def test_deviated_intrinsics_in_pixels():
    camera = deviated(NOMINAL, np.array([np.log(1.1), 0.01, -0.02]))
    np.testing.assert_allclose(np.diag(camera.K), [550, 550, 1])
    np.testing.assert_allclose(camera.K[:2, 2], NOMINAL.K[:2, 2] + [5, -10])


def test_a_deviation_is_the_same_for_crops_averages_and_mirror_images():
    k = np.array([0.03, 0.01, -0.02])
    cropped = deviated(NOMINAL, k).cropped(10, 20, 60, 50).resampled(30, 25)
    np.testing.assert_allclose(deviated(NOMINAL.cropped(10, 20, 60, 50).resampled(30, 25), k).K, cropped.K)
    np.testing.assert_allclose(
        deviated(NOMINAL.mirrored(), k * [1, -1, 1]).K, deviated(NOMINAL, k).mirrored().K
    )
    coarse = TOLERATED.resampled(56, 56)
    np.testing.assert_allclose(tolerated_deviation(coarse), tolerated_deviation(TOLERATED))


def test_turns_of_rays_against_differences():
    rays = np.moveaxis(NOMINAL.unit_rays(), -1, 0)
    turns = turns_of_rays(rays)
    for value, step in enumerate(1e-5 * np.eye(3)):
        moved = np.moveaxis(deviated(NOMINAL, step).unit_rays() - deviated(NOMINAL, -step).unit_rays(), -1, 0)
        np.testing.assert_allclose(np.cross(turns[value], rays, axis=0), moved / 2e-5, atol=1e-8)


@pytest.mark.parametrize("window_px", [None, 15])
def test_objective_has_the_gradient_of_its_cost_by_intrinsics(subject, window_px):
    """Central differences; two views, so that every frame on the way counts."""
    scene = Scene(subject, (TOLERATED, beside(TOLERATED)), (K_OFF, K_OFF))
    T = se3.move_about(scene.T_true, np.array([0.02, -0.01, 0.02, 2, -1, 4.0]), scene.frame.centre_lps_mm)
    objective = scene.comparison.objective(Level(64, window_px), T[None])
    at = np.array([[0.005, 0.003, -0.002], [-0.01, 0.001, 0.004]])
    gradient = objective.with_intrinsics(T, at).gradient[0]
    steps = np.array([2e-3, 1e-3, 1e-3] * 2)
    differences = []
    for number, step in enumerate(steps):
        change = np.zeros(6)
        change[number] = step
        up, down = (objective.with_intrinsics(T, at + s * change.reshape(2, 3)).cost[0] for s in (1, -1))
        differences.append((up - down) / (4 * step))
    np.testing.assert_allclose(gradient[6:], differences, rtol=0.1, atol=0.05 * np.abs(differences).max())
    # Without deviations it is the objective of the pose.
    plain, zero = objective(T[None], np.zeros(1, int)), objective.with_intrinsics(T, np.zeros((2, 3)))
    np.testing.assert_allclose(zero.gradient[0, :6], plain.gradient[0], rtol=1e-4)
    np.testing.assert_allclose(zero.cost, plain.cost, rtol=1e-6)


# Estimation


def test_without_tolerances_nothing_is_done(subject):
    scene = Scene(subject, (NOMINAL,), (np.zeros(3),))
    comparison = scene.comparison
    hypotheses = Hypotheses.unscored(comparison, scene.T_true[None])
    run = Run(comparison.case)
    assert with_intrinsics(hypotheses, run) is hypotheses
    assert not run.stages


def test_intrinsics_that_are_off_are_found_with_the_pose(subject):
    scene = Scene(subject, (TOLERATED,), (K_OFF,))
    start = alike_at_wrong_intrinsics(scene)
    rival = se3.move_about(start, np.array([0, 0.1, 0, 20, 0, 0.0]), scene.frame.centre_lps_mm)
    found = scene.estimated(start, rival)
    [intrinsics] = found.comparison.reading.intrinsics
    np.testing.assert_allclose(intrinsics.deviation, K_OFF, atol=0.3 * np.abs(K_OFF).min())
    turn, truth = se3.rotation_distance(found.T[:1, :3, :3], scene.T_true[None, :3, :3])[0], K_OFF[1]
    assert turn < 0.3 * truth
    assert scene.off_px(found, found.T[0]) < 0.1
    # The rival stands to it as before.
    np.testing.assert_allclose(
        np.linalg.inv(found.T[0]) @ found.T[1], np.linalg.inv(start) @ rival, atol=1e-9
    )


def test_a_value_without_tolerance_stays(subject):
    camera = replace(NOMINAL, tolerances=Tolerances(sdd_mm=30.0))
    scene = Scene(subject, (camera,), (K_OFF * [1, 0, 0],))
    found = scene.estimated(scene.T_true)
    [one] = found.comparison.radiographs
    np.testing.assert_allclose(one.camera.K[:2, 2], NOMINAL.K[:2, 2])
    assert one.camera.sdd_mm == pytest.approx(1000 * np.exp(0.02), rel=2e-3)
    assert found.comparison.reading.intrinsics[0].fixed == {"focal_length": True}


def test_what_the_image_does_not_fix_stays_at_the_tolerance(subject):
    """Pure noise beside nothing: neither the values nor their spread move."""
    scene = Scene(subject, (TOLERATED,), (np.zeros(3),))
    found = noisy(scene, 3.0).estimated(scene.T_true)
    [intrinsics] = found.comparison.reading.intrinsics
    left, prior = np.sqrt(np.diag(intrinsics.covariance)), tolerated_deviation(TOLERATED)
    assert (left > 0.8 * prior).all()
    assert (left <= prior * 1.001).all()
    assert (np.abs(intrinsics.deviation) < 2 * prior).all()
    assert not any(intrinsics.fixed.values())


def test_two_views_of_one_c_arm_are_wrong_alike(subject):
    """The same wrong intrinsics in two views: their distance apart fixes what one view leaves open."""
    scene = Scene(subject, (TOLERATED, beside(TOLERATED)), (K_OFF, K_OFF))
    found = scene.estimated(scene.T_true)
    first, second = found.comparison.reading.intrinsics
    np.testing.assert_array_equal(first.deviation, second.deviation)
    np.testing.assert_allclose(first.deviation, K_OFF, atol=0.1 * np.abs(K_OFF).min())
    alone = Scene(subject, (TOLERATED,), (K_OFF,)).estimated(scene.T_true).comparison.reading
    assert np.diag(first.covariance).max() < np.diag(alone.intrinsics[0].covariance).max()


def test_two_c_arms_have_their_own(subject):
    other = replace(beside(TOLERATED), K=NOMINAL.K + np.diag([5.0, 5.0, 0]))
    off = (K_OFF, -K_OFF)
    found = Scene(subject, (TOLERATED, other), off).estimated(Scene(subject, (TOLERATED, other), off).T_true)
    deviations = np.array([one.deviation for one in found.comparison.reading.intrinsics])
    np.testing.assert_allclose(deviations, off, atol=0.2 * np.abs(K_OFF).min())


def test_predicted_error_grows_by_what_is_left_open(subject):
    scene = noisy(Scene(subject, (TOLERATED,), (np.zeros(3),)), 0.3)
    covariance = scene.estimated(scene.T_true).comparison.reading.intrinsics_covariance
    assert np.linalg.eigvalsh(covariance).min() > -1e-12
    turn, depth = np.sqrt(np.diag(covariance)[[0, 5]])
    assert 1e-3 < turn < 2 * tolerated_deviation(TOLERATED)[1]
    assert 1 < depth < 0.03 * SOD_MM


# What is said


def test_distance_and_spacing_share_what_the_image_tells_of_both():
    given = replace(NOMINAL, tolerances=Tolerances(30.0, 0.0, 4.0))
    prior = tolerated_deviation(given)[0]
    assert prior == pytest.approx(0.05)
    told = EstimatedIntrinsics(given, np.array([0.05, 0, 0]), np.zeros((3, 3)))
    distance, spacing = told.camera.sdd_mm / 1000, told.camera.pixel_spacing_mm[0] / 2
    assert distance / spacing == pytest.approx(np.exp(0.05))
    assert np.log(distance) == pytest.approx(0.05 * 9 / 25)
    # The ratio is exact now, the parts are not.
    assert told.remaining.sdd_mm == pytest.approx(1000 * 0.03 * 0.8)
    assert told.remaining.pixel_spacing_percent == pytest.approx(4 * 0.6)
    untold = EstimatedIntrinsics(given, np.zeros(3), np.diag([prior**2, 0, 0]))
    assert untold.remaining.sdd_mm == pytest.approx(30)
    assert untold.remaining.pixel_spacing_percent == pytest.approx(4)


@pytest.mark.slow
def test_a_registration_reports_them(subject, tmp_path):
    scene = Scene(subject, (TOLERATED,), (K_OFF,))
    settings = RegistrationSettings("given")
    result = register(subject, scene.radiographs, scene.frame, settings, alike_at_wrong_intrinsics(scene))
    assert STAGE in [stage.name for stage in result.stages]
    tags = {"DistanceSourceToDetector": 1000.0, "ImagerPixelSpacing": [2, 2]}
    geometry = load_geometry(None, (112, 112), tags)
    write_results(tmp_path, result, geometry, scene.subject.body, 0.0)
    written = json.loads((tmp_path / "result.json").read_text())
    [entry] = written["intrinsics"]
    camera = result.radiographs[0].camera
    assert entry["sdd_mm"] == pytest.approx(1020.2, abs=1)
    assert entry["given"]["sdd_mm"] == 1000
    assert entry["sdd_sd_mm"] < 15
    assert entry["fixed_by_image"]["focal_length"]
    np.testing.assert_allclose(written["geometry"]["cameras"][0]["K"], camera.K)
    again = load_geometry(tmp_path / ESTIMATED_GEOMETRY, (112, 112))
    np.testing.assert_allclose(again.camera.K, camera.K)
    assert again.tolerances.sdd_mm == pytest.approx(camera.tolerances.sdd_mm)
    assert "source to detector 1020" in result.geometry_found[0]
