"""What a verdict is made of: evidence on a pose, the probability told of it, its predicted error."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from SOPIRegistrationLib.compare import Case, Comparison, Hypotheses, Reading, targets_of
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.ct_preparation import prepare_ct
from SOPIRegistrationLib.images.radiograph_preparation import prepare_radiograph
from SOPIRegistrationLib.registration.evidence import RIGHT_MM, RIGHT_RAD, Evidence, evidence_of, parts_of
from SOPIRegistrationLib.registration.predicted_error import (
    Deviation,
    intrinsics_covariance,
    local_model,
    model_covariance,
)
from SOPIRegistrationLib.registration.probability import (
    FEATURES,
    RESOURCE,
    TRUSTED,
    probability_right,
)
from SOPIRegistrationLib.registration.verdict import judge
from SOPIRegistrationLib.subject import Subject

SOD_MM = 700.0
GOOD = Evidence(0.95, 0.96, 0.95, 0.02, 0.95, 0.9, 0.12, 0.25, 1.0, 0.4, 0.4, 0.02, 0.03, 0.003, 1)
# What a pose of a stranger looks like, and by which figures it is told.
BAD = replace(GOOD, agreement=0.7, fine=0.6, parts_median=0.6, parts_low=0.4, apart_mm=1.2, error_mm=0.06)


@pytest.fixture(scope="module")
def comparison(demo_case) -> Comparison:
    subject = Subject(prepare_ct(demo_case.ct))
    xray = prepare_radiograph(demo_case.radiograph, demo_case.camera, "bone-dark")
    case = Case(subject, Reading((xray,)), PoseFrame(subject.ct.rotation_centre_lps_mm, SOD_MM))
    return Comparison(case, case.reading, targets_of(subject)[0])


def shifted(comparison: Comparison, T, mm: float):
    """A pose (4, 4) shifted across the view."""
    return se3.move_about(T, np.array([0, 0, 0, mm, 0, 0]), comparison.case.centre_lps_mm)


def test_parts_of_the_images_lie_apart_by_the_shift(demo_case, comparison):
    at_home, moved = (parts_of(comparison, shifted(comparison, demo_case.T_true, mm)) for mm in (0.0, 1.0))
    assert np.median(at_home[1]) < 0.3
    assert np.median(moved[1]) == pytest.approx(1.0, abs=0.35)
    assert np.median(at_home[0]) > np.median(moved[0])


def test_in_a_small_field_images_do_not_lie_closer_together(demo_case, comparison):
    """Images that have nothing to do with each other lie a pixel or two apart, however small."""
    xray = comparison.radiographs[0]
    K = np.diag([10.0, 10.0, 1.0]) @ xray.camera.K
    K[:2, 2] = xray.camera.K[:2, 2]
    magnified = replace(comparison, reading=Reading((xray.in_camera(replace(xray.camera, K=K)),)))
    assert np.median(parts_of(magnified, demo_case.T_true)[1]) > 0.5


def test_probability_of_a_right_and_a_shifted_pose(demo_case, comparison):
    home, away = (
        judge(Hypotheses.unscored(comparison, shifted(comparison, demo_case.T_true, mm)[None]))
        for mm in (0.0, 4.0)
    )
    assert home.status == "accept"
    assert home.probability > TRUSTED.accept
    assert "right with a probability of" in home.reasons[0]
    assert away.status != "accept"
    assert away.probability < home.probability
    assert any("beside each other" in reason for reason in away.reasons)


@pytest.mark.parametrize("kind", ["body"])
def test_probability_grows_with_the_evidence(kind):
    assert probability_right(GOOD, kind) > TRUSTED.accept
    assert probability_right(BAD, kind) < TRUSTED.review
    before = probability_right(BAD, kind)
    for name in ("agreement", "fine", "parts_median", "apart_mm", "error_mm"):
        better = probability_right(replace(BAD, **{name: getattr(GOOD, name)}), kind)
        assert better >= before, name


def test_what_a_small_part_of_an_xray_shows_is_found_by_chance_too():
    part, half = (probability_right(replace(GOOD, share=share), "body") for share in (0.2, 0.5))
    assert half > TRUSTED.accept
    assert part < 0.5 * half


def test_of_a_kind_that_nothing_was_fitted_to_no_probability_is_told():
    assert probability_right(GOOD, "") is None


def test_the_resource_says_what_it_was_made_from():
    content = json.loads(RESOURCE.read_text())
    assert {"right", "data", "limits", "made_by"} <= content["card"].keys()
    for kind in content["kinds"].values():
        assert kind["weights"].keys() <= FEATURES.keys()
        assert min(kind["weights"].values()) > 0
        assert kind["fitted_to"]["poses"] > kind["fitted_to"]["right"] > 0


def test_noise_alone_is_improbable(comparison, demo_case):
    """Fine structure of which nothing can be told does not count as agreeing."""
    noise = np.random.default_rng(0).normal(size=demo_case.camera.shape).astype(np.float32)
    xray = replace(comparison.radiographs[0], image=noise, other_polarity=None)
    of_noise = replace(comparison, reading=Reading((xray,)))
    verdict = judge(Hypotheses.unscored(of_noise, demo_case.T_true[None]))
    assert verdict.status == "reject"
    assert verdict.probability < TRUSTED.review


def test_where_no_patient_can_be(demo_case, comparison):
    """A geometry in metres puts the source into the patient; whatever agrees there, it is not the pose."""
    case, T = comparison.case, demo_case.T_true
    assert case.impossible_place(T) == ""
    for along_mm, where in ((-SOD_MM + 1.0, "source within the patient"), (SOD_MM, "behind the detector")):
        moved = se3.rigid(np.eye(3), np.array([0, 0, along_mm])) @ T
        assert where in case.impossible_place(moved)
        verdict = judge(Hypotheses.unscored(comparison, moved[None]))
        assert verdict.status == "reject"
        assert any(where in reason for reason in verdict.reasons)


def test_a_rival_nearby_is_the_same_pose(demo_case, comparison):
    """Where another start ended counts as a rival only if it lies elsewhere."""
    T, margins = demo_case.T_true, []
    for depth_mm in (2.0, 8.0):
        other = se3.move_about(T, np.array([0, 0, 0, 0, 0, depth_mm]), comparison.case.centre_lps_mm)
        poses = Hypotheses.unscored(comparison, np.stack([T, other]))
        margins.append(evidence_of(poses, local_model(comparison, T)).margin)
    assert margins[0] > margins[1]


def test_what_the_model_may_be_wrong_in(demo_case, comparison):
    """The CT's scale is depth for one view; what intrinsics leave open comes on top."""
    T = demo_case.T_true
    covariance = model_covariance(comparison, T)
    distance = (T @ np.append(comparison.case.centre_lps_mm, 1))[2]
    assert np.sqrt(covariance[5, 5]) == pytest.approx(0.005 * distance, rel=0.15)
    assert np.sqrt(covariance[3, 3]) < 0.3
    extra = np.diag([1e-6, 1e-6, 1e-6, 0.5, 0.0, 0.0])
    reading = replace(comparison.reading, intrinsics_covariance=extra)
    more = intrinsics_covariance(replace(comparison, reading=reading))
    np.testing.assert_allclose(more, extra, atol=1e-12)
    assert not intrinsics_covariance(comparison).any()
    verdict = judge(Hypotheses.unscored(replace(comparison, reading=reading), T[None]))
    assert verdict.predicted_error_mm[0] == pytest.approx(np.hypot(np.sqrt(0.5), 0.03), abs=0.1)
    assert verdict.statistical_error_mm[0] < 0.1


def test_a_pose_that_the_view_does_not_fix_is_improbable():
    sure, open_about_y = (Deviation(np.deg2rad([0.1, y, 0.1]), np.array([0.1, 0.1, 5.0])) for y in (0.3, 3.0))
    assert sure.probability_within(RIGHT_RAD, RIGHT_MM) == pytest.approx(1.0)
    # One standard deviation.
    assert open_about_y.probability_within(RIGHT_RAD, RIGHT_MM) == pytest.approx(0.683, abs=1e-3)
