"""Refinement with the physics-based projector."""

from __future__ import annotations

import numpy as np
import pytest
from SOPIRegistrationLib.compare import Case, Comparison, Hypotheses, Reading, Run, targets_of
from SOPIRegistrationLib.errors import Cancelled
from SOPIRegistrationLib.evaluation.metrics import pose_error
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.ct_preparation import prepare_ct
from SOPIRegistrationLib.images.radiograph import Radiograph
from SOPIRegistrationLib.images.radiograph_preparation import prepare_radiograph
from SOPIRegistrationLib.projector import PolychromaticVolume, project
from SOPIRegistrationLib.projector.physics import Beam
from SOPIRegistrationLib.refine.beam import polychromatic, with_beam
from SOPIRegistrationLib.registration import register
from SOPIRegistrationLib.settings import RegistrationSettings
from SOPIRegistrationLib.subject import Subject
from support.patients import small_ct

BEAM = Beam(70)


@pytest.fixture(scope="module")
def subject():
    return Subject(prepare_ct(small_ct()))


@pytest.fixture(scope="module")
def ct(subject):
    return subject.ct


@pytest.fixture(scope="module")
def body(subject):
    return targets_of(subject)[0]


@pytest.fixture(scope="module")
def case(subject, ct) -> Case:
    """A beam's X-ray, 5 degrees and 12 mm from the nominal view, where the pose is expected."""
    camera = Camera.from_c_arm(1000.0, (1.5, 1.5), 200, 200)
    frame = PoseFrame(ct.rotation_centre_lps_mm, 700.0)
    T_true = frame.T_from_theta(np.array([*np.deg2rad([4.0, -2.0, 3.0]), 5.0, -4.0, 10.0]))
    image = project(PolychromaticVolume.from_attenuation(ct.attenuation, BEAM), camera, T_true)
    xray = prepare_radiograph(Radiograph(image, "beam", bone_dark=False), camera)
    return Case(subject, Reading((xray,)), frame, T_expected=T_true)


def compared(case, target) -> Comparison:
    return Comparison(case, case.reading, target)


def test_moving_volume_projects_like_the_projectors_own(subject, ct, body, case):
    camera = case.reading.radiographs[0].camera
    volume = polychromatic(subject, body, BEAM).moving.level(0)
    expected = PolychromaticVolume.from_attenuation(ct.attenuation, BEAM)
    np.testing.assert_array_equal(
        project(volume, camera, case.T_expected), project(expected, camera, case.T_expected)
    )
    assert volume.parts[0] is body.moving.level(0)
    assert polychromatic(subject, body, BEAM).moving is polychromatic(subject, body, BEAM).moving


def test_right_pose_agrees_better_than_a_monochromatic_image(subject, body, case):
    physical = compared(case, polychromatic(subject, body, BEAM)).image_similarity(case.T_expected)["ncc"]
    plain = compared(case, body).image_similarity(case.T_expected)["ncc"]
    assert physical > 0.9999
    assert plain < physical - 1e-4


def test_finds_the_pose(ct, body, case):
    start = se3.move_about(case.T_expected, np.array([0.03, -0.02, 0.02, 2.0, -2.0, 8.0]), case.centre_lps_mm)
    reports = []
    run = Run(case, reports.append)
    result = with_beam(Hypotheses.unscored(compared(case, body), start[None]), run, BEAM)
    points, camera = ct.surface_points_lps_mm, case.reading.radiographs[0].camera
    before = pose_error(start, case.T_expected, points, case.centre_lps_mm, camera)
    after = pose_error(result.T[0], case.T_expected, points, case.centre_lps_mm, camera)
    assert before.mtre_mm > 5
    assert after.mtre_mm < 0.1
    assert result.cost[0] < 1e-4
    assert {stage.name for stage in run.stages} == {report.stage for report in reports}
    assert all(stage.name.startswith("physics, ") for stage in run.stages)
    # What follows compares with plain DRRs again.
    assert result.comparison.target is body


def test_stops_when_asked(body, case):
    reports = []

    def stop(progress):
        reports.append(progress)
        raise Cancelled("enough")

    with pytest.raises(Cancelled):
        with_beam(Hypotheses.unscored(compared(case, body), case.T_expected[None]), Run(case, stop), BEAM)
    assert len(reports) == 1


@pytest.mark.parametrize(
    ("refine", "last", "largest_mm"),
    [("physics", "physics, 256 px, 21 px windows", 0.3), ("physics+opt", "256 px, 21 px windows", 1.0)],
)
def test_registration_with_it(subject, ct, case, refine, last, largest_mm):
    """The pipeline knows no beam: it takes the usual C-arm's. Plain DRRs at the end lose a little depth."""
    result = register(subject, case.reading.radiographs, case.frame, RegistrationSettings("nominal", refine))
    assert result.method == f"nominal + {refine}"
    assert result.stages[-1].name == last
    points, camera = ct.surface_points_lps_mm, case.reading.radiographs[0].camera
    error = pose_error(result.T_lps_to_world, case.T_expected, points, case.centre_lps_mm, camera)
    assert error.mtre_mm < largest_mm
    assert result.verdict.status == "accept"
