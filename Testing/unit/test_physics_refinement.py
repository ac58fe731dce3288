"""Refinement with the physics-based projector."""

from __future__ import annotations

import numpy as np
import pytest
from SOPIRegistrationLib.evaluation.metrics import pose_error
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.ct_preparation import prepare_ct
from SOPIRegistrationLib.images.radiograph import Radiograph
from SOPIRegistrationLib.images.radiograph_preparation import prepare_radiograph
from SOPIRegistrationLib.projector import PolychromaticVolume, project
from SOPIRegistrationLib.projector.physics import Beam
from SOPIRegistrationLib.registration import RegistrationSettings, moving_volumes, register
from SOPIRegistrationLib.registration.physics_refinement import polychromatic, refine_with_physics
from SOPIRegistrationLib.registration.stages import Case, Hypotheses
from SOPIRegistrationLib.registration.verdict import image_similarity
from support.patients import small_ct

BEAM = Beam(70)


@pytest.fixture(scope="module")
def ct():
    return prepare_ct(small_ct())


@pytest.fixture(scope="module")
def body(ct):
    return moving_volumes(ct)["body"]


@pytest.fixture(scope="module")
def case(ct) -> Case:
    """A beam's X-ray, 5 degrees and 12 mm from the nominal view."""
    camera = Camera.from_c_arm(1000.0, (1.5, 1.5), 200, 200)
    frame = PoseFrame(ct.rotation_centre_lps_mm, 700.0)
    T_true = frame.T_from_theta(np.array([*np.deg2rad([4.0, -2.0, 3.0]), 5.0, -4.0, 10.0]))
    image = project(PolychromaticVolume.from_attenuation(ct.attenuation, BEAM), camera, T_true)
    xray = prepare_radiograph(Radiograph(image, "beam", bone_dark=False), camera)
    return Case((xray,), frame, T_start=T_true)


def test_moving_volume_projects_like_the_projectors_own(ct, body, case):
    camera = case.radiographs[0].camera
    volume = polychromatic(body, BEAM).level(0)
    expected = PolychromaticVolume.from_attenuation(ct.attenuation, BEAM)
    np.testing.assert_array_equal(
        project(volume, camera, case.T_start), project(expected, camera, case.T_start)
    )
    assert volume.parts[0] is body.level(0)
    assert polychromatic(body, BEAM) is polychromatic(body, BEAM)


def test_right_pose_agrees_better_than_a_monochromatic_image(body, case):
    physical = image_similarity(case, polychromatic(body, BEAM), case.T_start)["ncc"]
    plain = image_similarity(case, body, case.T_start)["ncc"]
    assert physical > 0.9999
    assert plain < physical - 1e-4


def test_finds_the_pose(ct, body, case):
    start = se3.move_about(case.T_start, np.array([0.03, -0.02, 0.02, 2.0, -2.0, 8.0]), case.centre_lps_mm)
    stages = []

    def watch(stage, T, similarity):
        stages.append(stage)
        return False

    hypotheses = Hypotheses(start[None], np.array([np.inf]))
    result = refine_with_physics(case, body, hypotheses, watch, BEAM)
    points, camera = ct.surface_points_lps_mm, case.radiographs[0].camera
    before = pose_error(start, case.T_start, points, case.centre_lps_mm, camera)
    after = pose_error(result.T[0], case.T_start, points, case.centre_lps_mm, camera)
    assert before.mtre_mm > 5
    assert after.mtre_mm < 0.1
    assert result.cost[0] < 1e-4
    assert not result.stopped
    assert {record.name for record in result.records} == set(stages)
    assert all(name.startswith("physics, ") for name in stages)


def test_stops_when_asked(body, case):
    hypotheses = Hypotheses(case.T_start[None], np.array([np.inf]))
    result = refine_with_physics(case, body, hypotheses, lambda *report: True, BEAM)
    assert result.stopped
    assert len(result.records) == 1


@pytest.mark.parametrize(
    ("refine", "last", "largest_mm"),
    [("physics", "physics, 256 px, 21 px windows", 0.3), ("physics+opt", "256 px, 21 px windows", 1.0)],
)
def test_registration_with_it(ct, case, refine, last, largest_mm):
    """The pipeline knows no beam: it takes the usual C-arm's. Plain DRRs at the end lose a little depth."""
    result = register(ct, case.radiographs, case.frame, RegistrationSettings("nominal", refine))
    assert result.method == f"nominal + {refine}"
    assert result.stages[-1].name == last
    points, camera = ct.surface_points_lps_mm, case.radiographs[0].camera
    error = pose_error(result.T_lps_to_world, case.T_start, points, case.centre_lps_mm, camera)
    assert error.mtre_mm < largest_mm
    assert result.verdict.status == "accept"
