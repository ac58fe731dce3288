"""X-rays whose principal point is far from their middle: crops of a larger detector."""

from __future__ import annotations

import numpy as np
import pytest
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.ct_preparation import prepare_ct
from SOPIRegistrationLib.images.radiograph import Radiograph
from SOPIRegistrationLib.images.radiograph_preparation import prepare_radiograph
from SOPIRegistrationLib.registration import register
from SOPIRegistrationLib.settings import RegistrationSettings
from SOPIRegistrationLib.simulation.demo import fine_line_integrals
from SOPIRegistrationLib.subject import Subject

OUTSIDE = Camera.from_c_arm(1011.7, (1.2, 1.2), 170, 160, (-40.0, 79.5))


@pytest.mark.parametrize("point", [(100.0, 75.0), (60.0, 100.0), (84.5, 79.5)])
def test_usual_principal_points_leave_the_nominal_view_as_it_is(point):
    camera = Camera.from_c_arm(1000, (1.0, 1.0), 170, 160, point)
    frame = PoseFrame([3.0, -5.0, 8.0], 700.0, "RLAT")
    np.testing.assert_array_equal(frame.T_expected(camera), frame.T_nominal)


def test_an_object_is_expected_in_the_picture():
    frame = PoseFrame([3.0, -5.0, 8.0], 700.0)
    T = frame.T_expected(OUTSIDE)
    centre = (T @ [3.0, -5.0, 8.0, 1.0])[:3]
    np.testing.assert_allclose(OUTSIDE.project(centre), [84.5, 79.5])
    assert centre[2] == pytest.approx(700)
    np.testing.assert_allclose(T[:3, :3], frame.rotation)


@pytest.fixture(scope="module")
def case(demo_case):
    """(subject, frame, X-ray, true pose) of the demo's patient in the middle of an off-centre image."""
    frame = demo_case.pose_frame
    theta = demo_case.theta_true.copy()
    theta[3] += frame.sod_mm * OUTSIDE.middle_ray[0]
    T = frame.T_from_theta(theta)
    counts = np.random.default_rng(4).poisson(1e5 * np.exp(-fine_line_integrals(1, OUTSIDE, T)))
    xray = prepare_radiograph(Radiograph(counts.astype(np.float32), "crop", bone_dark=True), OUTSIDE)
    return Subject(prepare_ct(demo_case.ct, demo_case.labels)), frame, xray, T


@pytest.mark.slow
@pytest.mark.parametrize("init", ["nominal", "search"])
def test_a_crop_whose_principal_point_is_outside_is_registered(case, init):
    subject, frame, xray, T = case
    result = register(subject, [xray], frame, RegistrationSettings(init=init))
    assert result.verdict.status == "accept"
    # As usual: the first attempt, not the searches after it.
    assert [stage.name for stage in result.stages].count("template search") <= 1
    twist = se3.twist_about(T, result.T_lps_to_world, frame.centre_lps_mm)
    assert np.rad2deg(np.linalg.norm(twist[:3])) < 0.3
    assert np.linalg.norm(twist[3:5]) < 0.3
    assert abs(twist[5]) < 3
