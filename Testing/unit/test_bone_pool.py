"""One bone in an X-ray of more: where its search looks, and what looks alike."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from SOPIRegistrationLib.compare import Case, Comparison, Hypotheses, Reading, Run, compared_target
from SOPIRegistrationLib.evaluation.anatomies import thicker_end
from SOPIRegistrationLib.evaluation.metrics import pose_error
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.principal_axes import principal_axes
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.ct_preparation import prepare_ct
from SOPIRegistrationLib.images.radiograph import PreparedRadiograph
from SOPIRegistrationLib.images.volume import Volume
from SOPIRegistrationLib.initialise.bone_pool import BonePool, turned_pool
from SOPIRegistrationLib.projector import project
from SOPIRegistrationLib.refine.levels import with_look_alikes
from SOPIRegistrationLib.registration import register
from SOPIRegistrationLib.registration.evidence import are_others, evidence_of
from SOPIRegistrationLib.registration.predicted_error import local_model
from SOPIRegistrationLib.registration.verdict import judge
from SOPIRegistrationLib.settings import RegistrationSettings
from SOPIRegistrationLib.subject import Subject

SOD_MM, SPACING_MM = 700.0, 1.5
CAMERA = Camera.from_c_arm(1000.0, (1.0, 1.0), 200, 200)


def bone_volume() -> Volume:
    """A shaft with a head and two knobs, none of its views the mirror image of another."""
    z, y, x = SPACING_MM * (np.indices((64, 40, 40)) - np.array([32, 20, 20])[:, None, None, None])
    shaft = (np.hypot(x, y) < 6 + np.maximum(0, z - 20) / 3) & (np.abs(z) < 42)
    knobs = np.hypot(np.hypot(x - 12, y - 3), z - 18) < 7
    knobs |= np.hypot(np.hypot(x + 4, y - 9), z + 22) < 5
    hollow = np.hypot(x, y) < 3
    hu = np.where(shaft | knobs, np.where(hollow, 150, 900), -1000).astype(np.int16)
    index_to_lps = np.diag([SPACING_MM, SPACING_MM, SPACING_MM, 1.0])
    index_to_lps[:3, 3] = -SPACING_MM * np.array([20, 20, 32])
    return Volume(hu, index_to_lps, "bone")


@pytest.fixture(scope="module")
def subject() -> Subject:
    made = Subject(prepare_ct(bone_volume()))
    assert made.is_segmented_bone
    return made


@pytest.fixture(scope="module")
def frame(subject) -> PoseFrame:
    return PoseFrame(subject.ct.rotation_centre_lps_mm, SOD_MM)


@pytest.fixture(scope="module")
def T_true(frame) -> np.ndarray:
    return frame.T_from_theta(np.array([*np.deg2rad([14.0, -18.0, 12.0]), 10.0, -9.0, 12.0]))


@pytest.fixture(scope="module")
def case(subject, frame, T_true) -> Case:
    """The bone beside another one, within flesh; bright and dark were mistaken for each other."""
    drr = project(subject.in_tissue.level(0), CAMERA, T_true[None])[0]
    v, u = np.mgrid[: CAMERA.height, : CAMERA.width]
    flesh = 1.5 * np.exp(-(((u - 100) / 90) ** 2)) + 0.1 * np.sin(v / 25)
    beside = 0.5 * (np.abs(u - 160 - 0.1 * v) < 9)
    xray = PreparedRadiograph((drr + flesh + beside).astype(np.float32), np.ones_like(drr, bool), CAMERA)
    mistaken = replace(xray, image=-xray.image, other_polarity=lambda: xray, bone_dark=True)
    return Case(subject, Reading((mistaken,)), frame)


def error_of(T, case: Case, T_true):
    return pose_error(T, T_true, case.subject.ct.surface_points_lps_mm, case.centre_lps_mm, CAMERA)


def test_a_pool_of_both_polarities_holds_the_pose(case, T_true):
    mistaken, right = BonePool().lots(case, case.reading, Run(case))
    assert mistaken.comparison.reading is case.reading
    assert right.comparison.radiographs[0].image.mean() > 0
    errors = [error_of(T, case, T_true) for T in right.T]
    assert any(one.rotation_deg < 14 and one.in_plane_mm < 6 for one in errors)


def test_a_bone_turned_about_its_long_axis_is_another_pose(case, T_true):
    reading = case.reading.other_polarity()
    comparison = Comparison(case, reading, compared_target(case.subject))
    axis = T_true[:3, :3] @ principal_axes(case.subject.ct.surface_points_lps_mm).long
    assert abs(principal_axes(case.subject.ct.surface_points_lps_mm).long[2]) > 0.95
    twists = [np.concatenate([np.deg2rad(turn) * axis, np.zeros(3)]) for turn in (0.0, 2.0, 4.0)]
    T = se3.move_about(np.repeat(T_true[None], 3, axis=0), np.array(twists), case.centre_lps_mm)
    # The points of the bone move by less than 5 mm each time.
    np.testing.assert_array_equal(are_others(comparison, T), [False, True])
    evidence = evidence_of(Hypotheses.unscored(comparison, T), local_model(comparison, T_true))
    assert 0 < evidence.detail_margin < 0.4
    assert (
        evidence_of(Hypotheses.unscored(comparison, T[:2]), local_model(comparison, T_true)).detail_margin
        == 0.4
    )


def test_where_the_view_leaves_a_pose_open_no_other_one_is_sought(case, T_true):
    """A voxel more of mask is a turn of degrees here: for review, but the images agree as they can."""
    comparison = Comparison(case, case.reading.other_polarity(), compared_target(case.subject))
    verdict = judge(Hypotheses.unscored(comparison, T_true[None]))
    assert verdict.status == "review"
    assert any(reason.startswith("the view hardly fixes the pose") for reason in verdict.reasons)
    assert verdict.settled
    beside = se3.move_about(T_true, np.array([0, 0, 0, 6.0, 0, 0]), case.centre_lps_mm)
    assert not judge(Hypotheses.unscored(comparison, beside[None])).settled


def test_look_alikes_lead_back_from_a_turn_about_the_long_axis(case, T_true):
    comparison = Comparison(case, case.reading.other_polarity(), compared_target(case.subject))
    axis = T_true[:3, :3] @ principal_axes(case.subject.ct.surface_points_lps_mm).long
    turned = se3.move_about(
        T_true, np.concatenate([np.deg2rad(20.0) * axis, np.zeros(3)]), case.centre_lps_mm
    )
    kind = comparison.target.kind
    found = with_look_alikes(Hypotheses.unscored(comparison, turned[None]), kind.coarse[0][-1], Run(case))
    assert len(found.T) > 2
    assert error_of(found.T[0], case, T_true).rotation_deg < 2.0


def test_of_a_bone_its_thicker_end(subject):
    whole = bone_volume()
    end = thicker_end(whole, 30.0)
    assert end.points_lps([0, 0, len(end.array) - 1])[2] == whole.points_lps([0, 0, 63])[2]
    # Upside down it is the other end of the array, and the same of the bone.
    flipped = Volume(whole.array[::-1].copy(), whole.index_to_lps, "upside down")
    np.testing.assert_array_equal(thicker_end(flipped, 30.0).array[::-1], end.array)


@pytest.mark.slow
def test_a_bone_is_found_from_nothing_with_bright_and_dark_mistaken(case, subject, frame, T_true):
    result = register(subject, list(case.reading.radiographs), frame, RegistrationSettings(time_limit=1e4))
    error = error_of(result.T_lps_to_world, case, T_true)
    assert error.right
    assert not result.mirrored


@pytest.mark.slow
def test_of_two_views_a_bone_turned_about_itself_and_of_another_depth_is_in_the_pool(case, T_true):
    """A forearm turns about itself far more than it tilts, and one view alone hardly tells depth."""
    first = case.reading.radiographs[0].other_polarity()
    aside = np.eye(4)
    aside[:3, :3] = [[0, 0, -1], [0, 1, 0], [1, 0, 0]]
    aside[:3, 3] = -aside[:3, :3] @ [0, 0, SOD_MM] + [0, 0, SOD_MM]
    camera = replace(CAMERA, T_world_to_camera=aside)
    drr = project(case.subject.body.level(0), camera, T_true[None])[0]
    second = PreparedRadiograph(drr, np.ones_like(drr, bool), camera)
    axis = T_true[:3, :3] @ principal_axes(case.subject.ct.surface_points_lps_mm).long
    twist = np.array([*np.deg2rad(70.0) * axis, 4.0, -6.0, 20.0])
    expected = se3.move_about(T_true[None], twist[None], case.centre_lps_mm)[0]
    both = replace(case, reading=Reading((first, second)), T_expected=expected)
    found = np.concatenate([lot.T for lot in turned_pool().lots(both, both.reading, Run(both))])
    errors = [error_of(T, case, T_true) for T in found]
    assert min(max(error.rotation_deg / 12, error.mtre_mm / 12) for error in errors) < 1
    # Without the turns it is not reached.
    near = np.concatenate([lot.T for lot in BonePool().lots(both, both.reading, Run(both))])
    assert min(error_of(T, case, T_true).rotation_deg for T in near) > 12
