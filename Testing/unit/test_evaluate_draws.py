"""What is drawn for simulated cases: any view of a CT, strangers, starts from near."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from SOPIRegistrationLib.evaluation.anatomies import stranger_of
from SOPIRegistrationLib.evaluation.figures import end_figures, judgement_figures, start_figures
from SOPIRegistrationLib.evaluation.problem import Estimate
from SOPIRegistrationLib.evaluation.protocols import PROTOCOLS, DrawnPoses
from SOPIRegistrationLib.evaluation.simulated import SimulatedCases
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.views import NOMINAL_VIEWS
from SOPIRegistrationLib.images.files import read_volume
from SOPIRegistrationLib.projector import ProjectorVolume, project
from SOPIRegistrationLib.registration import register
from SOPIRegistrationLib.settings import RegistrationSettings
from SOPIRegistrationLib.simulation.phantom import lumbar_phantom
from support.evaluation import PIXELS, write_ct

DRAWS = 400


@pytest.fixture(scope="module")
def ct(tmp_path_factory) -> Path:
    return write_ct(tmp_path_factory.mktemp("draws"))


@pytest.fixture(scope="module")
def any_view(ct) -> SimulatedCases:
    return SimulatedCases("any-view", "ours", (ct,), pixels=PIXELS)


@pytest.fixture(scope="module")
def drawn(any_view) -> list[DrawnPoses]:
    """Many draws of one CT."""
    case = any_view.make(0)
    camera = case.radiographs[0].camera
    protocol = PROTOCOLS["any-view"]
    generators = (np.random.default_rng([5, number]) for number in range(DRAWS))
    return [protocol.draw_poses(rng, case.frame, case.ct, camera) for rng in generators]


def test_half_are_mirrored_half_from_behind_and_any_roll_comes(drawn):
    mirrored, behind, roll = (
        np.array([getattr(one, name) for one in drawn]) for name in ("mirrored", "behind", "roll_deg")
    )
    assert 0.42 < mirrored.mean() < 0.58
    assert 0.42 < behind.mean() < 0.58
    # Each apart from the other.
    assert 0.18 < (mirrored & behind).mean() < 0.32
    assert (np.histogram(roll, 8, (-180, 180))[0] > DRAWS / 16).all()


def test_the_camera_looks_from_the_drawn_side_and_is_turned_about_the_central_ray(drawn):
    """But for the turns of `paper`: 4.5 degrees about each axis."""
    for one in drawn[:100]:
        R = one.T_true[:3, :3]
        view = NOMINAL_VIEWS["PA" if one.behind else "AP"]
        ray = np.rad2deg(np.arccos(np.clip(R[2] @ view[2], -1, 1)))
        assert ray < 25
        turned_back = se3.exp_so3(np.array([0, 0, -np.deg2rad(one.roll_deg)])) @ R
        off = np.rad2deg(se3.rotation_distance(view, turned_back))
        assert off < 30


def test_the_picture_lies_anywhere_along_the_scan_and_within(any_view, drawn):
    case = any_view.make(0)
    camera, scan = case.radiographs[0].camera, case.ct.attenuation
    heights = scan.points_lps(np.array([[0, 0, -0.5], [0, 0, len(scan.array) - 0.5]]))[:, 2]
    reach = camera.height / 2 / camera.K[1, 1] * case.frame.sod_mm
    places = case.frame.centre_lps_mm[2] + np.array([one.along_mm for one in drawn])
    low, high = heights.min() + reach, heights.max() - reach
    assert places.min() >= low - 1e-6
    assert places.max() <= high + 1e-6
    assert places.min() < low + 0.05 * (high - low)
    assert places.max() > high - 0.05 * (high - low)
    # What lies there projects near the principal point: within what `paper` shifts it.
    for one, place in zip(drawn[:100], places, strict=False):
        point = np.array([*case.frame.centre_lps_mm[:2], place, 1.0])
        in_camera = (one.T_true @ point)[:3]
        assert np.linalg.norm(in_camera[:2]) < 30


def test_a_mirrored_picture_is_stored_mirrored_and_its_truth_is_that_of_the_one_turned_over(any_view):
    kinds = {}
    for number in range(12):
        case = any_view.make(number)
        seen = project(ProjectorVolume(case.ct.attenuation), case.radiographs[0].camera, case.T_true)
        stored = case.radiographs[0].image
        expected, other = (seen[:, ::-1], seen) if case.drawn.mirrored else (seen, seen[:, ::-1])
        np.testing.assert_allclose(stored, expected, atol=1e-3)
        assert np.corrcoef(stored.ravel(), other.ravel())[0, 1] < 0.99
        kinds[case.drawn.mirrored] = case
        row = start_figures(case)
        assert row["mirrored"] == int(case.drawn.mirrored)
        assert row["roll_deg"] == case.drawn.roll_deg
    assert set(kinds) == {False, True}


def test_a_result_that_turned_the_picture_over_is_judged_by_that_one(any_view):
    case = next(case for number in range(12) if (case := any_view.make(number)).drawn.mirrored)
    start = se3.move_about(case.T_true, np.array([0.02, -0.02, 0.02, 1, 1, 3]), case.frame.centre_lps_mm)
    settings = RegistrationSettings("given", mirrored="yes")
    result = register(case.subject, case.radiographs, case.frame, settings, start)
    T = result.T_lps_to_world
    row = judgement_figures(case, Estimate(T, result.verdict.status, result=result))
    row |= end_figures(case.turned_over(), T)
    assert row["found_mirrored"] == 1
    assert row["right"] == 1
    assert row["correlation"] == pytest.approx(row["correlation_at_truth"], abs=0.02)
    assert row["correlation"] > 0.95
    # The picture as it is stored shows something else.
    assert end_figures(case, T)["ncc"] < row["ncc"] - 0.01
    at_start = judgement_figures(case, Estimate(T, result=replace(result, mirrored=False)))
    assert at_start["correlation_at_truth"] < row["correlation_at_truth"] - 0.1


def test_roll_turns_the_picture_about_its_principal_point(any_view):
    """A quarter turn of the camera is a quarter turn of the pixels, whose middle is the principal point."""
    case = any_view.make(1)
    camera = case.radiographs[0].camera
    volume = ProjectorVolume(case.ct.attenuation)
    quarter = se3.rigid(se3.exp_so3(np.array([0, 0, np.pi / 2])), np.zeros(3))
    upright, turned = (project(volume, camera, T) for T in (case.T_true, quarter @ case.T_true))
    np.testing.assert_allclose(turned, np.rot90(upright, -1), atol=2e-2)


def test_any_view_is_told_nothing(any_view):
    case = any_view.make(2)
    np.testing.assert_array_equal(case.T_start, case.frame.T_nominal)
    assert case.frame.view == "AP"


def test_starts_from_near_are_near(ct):
    source = SimulatedCases("near", "ours", (ct,), pixels=PIXELS, streams="case")
    frame = source.make(0).frame
    protocol = PROTOCOLS["near"]
    drawn = [protocol.draw_poses(np.random.default_rng(n), frame, None, None) for n in range(DRAWS)]
    twists = np.array([se3.twist_about(one.T_true, one.T_start, frame.centre_lps_mm) for one in drawn])
    np.testing.assert_allclose(np.rad2deg(twists[:, :3]).std(axis=0), 1.5, rtol=0.12)
    np.testing.assert_allclose(twists[:, 3:].std(axis=0), [1.5, 1.5, 5.0], rtol=0.12)


def test_cases_in_sequence_are_the_same_in_whatever_order_they_are_made(ct):
    source = SimulatedCases("paper", "ours", (ct,), pixels=PIXELS, streams="sequence")
    forth = [source.make(number) for number in (0, 1, 2)]
    # Another object of the same content has a sequence of its own to begin with.
    again = replace(source, seed=2)
    assert not np.array_equal(again.make(1).T_true, forth[1].T_true)
    for number in (2, 0, 1):
        np.testing.assert_array_equal(source.make(number).T_true, forth[number].T_true)
    assert not np.array_equal(forth[0].T_true, forth[1].T_true)


def test_cases_may_follow_each_other_patient_by_patient():
    one_by_one, in_blocks = SimulatedCases(phantoms=3), SimulatedCases(phantoms=3, cases_a_patient=2)
    assert [one_by_one.patient_of(number) for number in range(6)] == [0, 1, 2, 0, 1, 2]
    assert [in_blocks.patient_of(number) for number in range(6)] == [0, 0, 1, 1, 2, 2]


def test_a_stranger_has_no_true_pose_and_none_is_right(ct):
    source = SimulatedCases("wide", "ours", (ct,), pixels=PIXELS, stranger="changed")
    own = replace(source, stranger="").make(0)
    case = source.make(0)
    assert case.T_true is None
    assert case.is_stranger
    # The pose is drawn as for the patient's own X-ray, and about the stranger's own middle.
    np.testing.assert_allclose(case.drawn.T_true[:3, :3], own.T_true[:3, :3], atol=1e-12)
    agreement = np.corrcoef(case.radiographs[0].image.ravel(), own.radiographs[0].image.ravel())[0, 1]
    assert 0.8 < agreement < 0.999
    row = end_figures(case, own.T_true)
    assert row["right"] == 0
    assert "mtre_mm" not in row
    assert start_figures(case)["stranger"] == 1


def test_another_patient_is_the_next_one(tmp_path, ct):
    other = tmp_path / "other.nrrd"
    from SOPIRegistrationLib.registration.outputs import write_volume

    write_volume(other, lumbar_phantom(4, 4.0, noise_hu=0.0).ct)
    source = SimulatedCases("wide", "ours", (ct, other), pixels=PIXELS, stranger="other")
    case = source.make(0)
    theirs = SimulatedCases("wide", "ours", (other,), pixels=PIXELS).make(0)
    np.testing.assert_allclose(case.radiographs[0].image, theirs.radiographs[0].image, atol=1e-5)
    assert case.ct.identity != theirs.ct.identity


def test_a_changed_ct_has_vertebrae_higher_and_lower_and_a_bent_spine(ct):
    """Bones move by millimetres from slice to slice, and no shift of the whole makes up for it."""
    volume = read_volume(ct)
    changed = stranger_of(volume, np.random.default_rng(3))
    assert changed.array.shape == volume.array.shape
    assert changed.array.dtype == volume.array.dtype
    middles = []
    for array in (volume.array, changed.array):
        bone = array > 200
        i = np.arange(array.shape[2])
        middles.append([(bone[k].sum(axis=0) @ i) / max(bone[k].sum(), 1) for k in range(len(array))])
    away = (np.array(middles[1]) - middles[0]) * volume.spacing_mm[0]
    assert np.ptp(away) > 5
    other = stranger_of(volume, np.random.default_rng(4))
    assert not np.array_equal(changed.array, other.array)


@pytest.mark.slow
def test_a_bone_in_two_views_of_a_larger_patient():
    """One bone of a phantom, X-rayed with all of it from two sides, half a percent too large."""
    source = SimulatedCases(target="ours", phantoms=1, bone=22, views=2, ct_scale_percent=0.5, pixels=32)
    case = source.make(0)
    assert case.ct.bone.array.shape != replace(source, bone=None).make(0).ct.bone.array.shape
    first, second = (one.camera.T_world_to_camera for one in case.radiographs)
    np.testing.assert_array_equal(first, np.eye(4))
    # Both look at the place where the patient is held, from a quarter turn apart.
    held = np.array([0.0, 0.0, source.detector.sod_mm])
    np.testing.assert_allclose((second @ np.append(held, 1))[:3], held, atol=1e-9)
    assert se3.rotation_distance(first[None, :3, :3], second[None, :3, :3])[0] == pytest.approx(np.pi / 2)
    assert len(case.true_cameras) == 2
    told = replace(source, bone=None, told_view="LLAT").make(0)
    assert (told.frame.view, case.frame.view) == ("LLAT", "AP")


def test_targets_around_the_nominal_view_lie_within_30_degrees_and_20_mm(any_view):
    case = any_view.make(0)
    protocol, camera = PROTOCOLS["around"], case.radiographs[0].camera
    generators = (np.random.default_rng([6, number]) for number in range(DRAWS))
    drawn = [protocol.draw_poses(rng, case.frame, case.ct, camera) for rng in generators]
    T = np.array([one.T_true for one in drawn])
    nominal = np.repeat(case.frame.T_nominal[None], DRAWS, axis=0)
    turned = np.rad2deg(se3.rotation_distance(nominal[:, :3, :3], T[:, :3, :3]))
    centre = case.frame.centre_lps_mm
    away = np.linalg.norm(se3.transform_points(T, centre) - se3.transform_points(nominal, centre), axis=1)
    assert 28 < turned.max() <= 30 + 1e-6
    assert 18 < away.max() <= 20 + 1e-6
    assert turned.mean() == pytest.approx(15, abs=1)
    assert all((one.T_start == case.frame.T_nominal).all() for one in drawn)
