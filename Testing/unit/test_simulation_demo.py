"""The made-up case of ``sopi demo``: its parts agree, and its X-ray is not made from the CT it comes with."""

from __future__ import annotations

import numpy as np
import pytest
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.images.attenuation import attenuation_of_hu
from SOPIRegistrationLib.projector import ProjectorVolume, project
from SOPIRegistrationLib.simulation import demo
from SOPIRegistrationLib.simulation.spine import VERTEBRA_LABELS


@pytest.fixture
def case(demo_case):
    return demo_case


def test_rotation_centre_projects_near_the_image_centre(case):
    centre = np.append(case.pose_frame.centre_lps_mm, 1)
    u, v = case.camera.project((case.T_true @ centre)[:3])
    magnification = 1011.7 / 700 / 0.79836
    assert abs(u - 127.5) < 4 * np.sqrt(30) * magnification
    assert abs(v - 127.5) < 4 * np.sqrt(15) * magnification
    depth = (case.T_true @ centre)[2] - 700
    assert depth == pytest.approx(case.theta_true[5])
    index = case.labels.lps_to_index @ centre
    distances = {
        label: abs(np.mean(np.nonzero(case.labels.array == label)[0]) - index[2])
        for label in (VERTEBRA_LABELS[level] for level in ("L1", "L3", "L5"))
    }
    assert min(distances, key=distances.get) == VERTEBRA_LABELS["L3"]


def test_xray_shows_the_patient_at_the_true_pose(case):
    """Bone dark, and more like the CT's own projection at the true pose than at the start."""
    assert case.radiograph.bone_dark
    assert case.radiograph.pixels.dtype == np.uint16
    assert case.radiograph.pixels.shape == case.camera.shape
    volume = ProjectorVolume(case.ct.same_grid(attenuation_of_hu(case.ct.array.astype(np.float32))))
    v, u = np.mgrid[:256, :256]
    inside = np.hypot(u - 127.5, v - 127.5) < 120
    correlation = {
        name: -np.corrcoef(project(volume, case.camera, T)[inside], case.radiograph.pixels[inside])[0, 1]
        for name, T in (("true", case.T_true), ("start", case.T_start))
    }
    assert correlation["true"] > 0.9
    assert correlation["true"] > correlation["start"] + 0.02


@pytest.mark.slow
def test_same_seed_same_case(case):
    again = demo.demo_case(1)
    np.testing.assert_array_equal(case.radiograph.pixels, again.radiograph.pixels)
    np.testing.assert_array_equal(case.theta_true, again.theta_true)
    assert se3.geodesic_distance(case.T_true, case.T_start) > 1


def test_poses_follow_the_paper_protocol():
    theta = demo.random_paper_theta(np.random.default_rng(0), 4000)
    np.testing.assert_allclose(np.rad2deg(theta[:, :3]).var(axis=0), 20, rtol=0.08)
    np.testing.assert_allclose(theta[:, 3:].var(axis=0), [30, 15, 100], rtol=0.08)
    np.testing.assert_allclose(theta.mean(axis=0), 0, atol=0.6)
