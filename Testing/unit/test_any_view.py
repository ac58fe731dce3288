"""X-rays of which nothing is known: from any side, turned by any angle, stored either way round."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from SOPIRegistrationLib.cli.main import main
from SOPIRegistrationLib.compare import Case, Comparison, Hypotheses, Level, Reading, Run, targets_of
from SOPIRegistrationLib.compare.reliability import reliability
from SOPIRegistrationLib.evaluation.metrics import pose_error
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.views import PoseFrame, frame_of, nominal_view, view_seen
from SOPIRegistrationLib.images.ct_preparation import prepare_ct
from SOPIRegistrationLib.images.radiograph import PreparedRadiograph
from SOPIRegistrationLib.images.radiograph_preparation import prepare_radiograph
from SOPIRegistrationLib.images.volume import Volume
from SOPIRegistrationLib.initialise.any_view import AnyView, StatedView, best_of, reaching_the_ends
from SOPIRegistrationLib.initialise.template_search import SearchRange
from SOPIRegistrationLib.projector import project
from SOPIRegistrationLib.registration import register
from SOPIRegistrationLib.registration.evidence import noiseless_correlation
from SOPIRegistrationLib.registration.outputs import write_picture, write_volume
from SOPIRegistrationLib.registration.verdict import judge
from SOPIRegistrationLib.settings import RegistrationSettings
from SOPIRegistrationLib.simulation.demo import fine_line_integrals
from SOPIRegistrationLib.simulation.xray import XRayDegradation, simulate_radiograph
from SOPIRegistrationLib.subject import Subject

SEED, SOD_MM = 1, 700.0
# No machine is too slow for a test.
SETTINGS = RegistrationSettings(time_limit=1e4)


@pytest.fixture(scope="module")
def subject(demo_case):
    return Subject(prepare_ct(demo_case.ct))


@pytest.fixture(scope="module")
def stated(subject):
    """What the geometry says: from the front, upright."""
    return PoseFrame(subject.ct.rotation_centre_lps_mm, SOD_MM)


@pytest.fixture(scope="module")
def from_behind(demo_case, stated):
    """The demo patient from behind, turned by 130 degrees, off the middle; stored mirrored, bones dark."""
    frame = PoseFrame(stated.centre_lps_mm, SOD_MM, "PA")
    theta = np.array([*np.deg2rad([6.0, -5.0, 130.0]), 8.0, -6.0, 15.0])
    T_true = frame.T_from_theta(theta)
    integrals = fine_line_integrals(SEED, demo_case.camera, T_true)
    degradation = XRayDegradation(photons=1e6, invert=True)
    xray = simulate_radiograph(integrals, degradation, np.random.default_rng(3), "behind")
    return replace(xray, pixels=np.ascontiguousarray(xray.pixels[:, ::-1])), T_true


def error(subject, camera, T, T_true):
    return pose_error(T, T_true, subject.ct.surface_points_lps_mm, subject.ct.rotation_centre_lps_mm, camera)


@pytest.fixture(scope="module")
def short_scan(demo_case):
    """Two vertebrae of the demo patient."""
    ct = demo_case.ct
    slices = round(60.0 / ct.spacing_mm[2])
    first = (ct.array.shape[0] - slices) // 2
    to_lps = ct.index_to_lps.copy()
    to_lps[:3, 3] = ct.points_lps([0, 0, first])
    return Subject(prepare_ct(Volume(ct.array[first : first + slices], to_lps, "short")))


def test_a_short_scan_is_searched_no_longer_than_until_it_is_sure_and_not_accepted(short_scan, demo_case):
    frame = PoseFrame(short_scan.ct.rotation_centre_lps_mm, SOD_MM)
    integrals = fine_line_integrals(SEED, demo_case.camera, frame.T_nominal)
    xray = prepare_radiograph(
        simulate_radiograph(integrals, XRayDegradation(photons=1e6), np.random.default_rng(3), "short"),
        demo_case.camera,
    )
    case = Case(short_scan, Reading((xray,)), frame, any_view=True)
    comparison = Comparison(case, case.reading, case.targets[0])
    assert comparison.usual_share < case.least_share
    T = frame.T_nominal[None]
    # As good as what a short scan shows can be: nothing is taken off for what it does not.
    assert comparison.agreement(T)[0] == pytest.approx(comparison.structural_correlation(T)[0])
    verdict = judge(Hypotheses.unscored(comparison, T))
    assert verdict.status == "review"
    assert verdict.settled
    assert any("of the X-ray could be compared" in reason for reason in verdict.reasons)
    wrong = se3.move_about(T, np.array([[0.1, 0.1, 0, 8.0, 6.0, 0]]), case.centre_lps_mm)
    assert not judge(Hypotheses.unscored(comparison, wrong)).settled


@pytest.mark.slow
def test_auto_finds_what_the_geometry_does_not_say(subject, stated, demo_case, from_behind):
    stored, T_true = from_behind
    xray = prepare_radiograph(stored, demo_case.camera)
    result = register(subject, [xray], stated, SETTINGS)
    found = error(subject, demo_case.camera, result.T_lps_to_world, T_true)
    assert (found.rotation_deg, found.in_plane_mm) < (0.5, 0.5)
    assert result.verdict.status == "accept"
    assert result.image() == {
        "mirrored": True,
        "polarity": "bone-dark",
        "view": "PA",
        "roll_deg": pytest.approx(130, abs=3),
    }
    assert result.frame.view == "PA"
    assert result.findings == ["the X-ray is stored mirrored", "taken as PA, not AP", "turned by 130 deg"]


@pytest.mark.slow
def test_tilted_further_than_the_views_it_is_found_about_the_stated_one(subject, stated, demo_case):
    T_true = stated.T_from_theta(np.array([*np.deg2rad([57.0, 8.0, -20.0]), 15.0, 10.0, 60.0]))
    integrals = fine_line_integrals(SEED, demo_case.camera, T_true)
    xray = simulate_radiograph(integrals, XRayDegradation(photons=1e6), np.random.default_rng(3), "tilted")
    reading = Reading((prepare_radiograph(xray, demo_case.camera),))
    case = Case(subject, reading, stated, may_be_mirrored=True, any_view=True)

    def nearest(search: AnyView) -> float:
        lots = search.lots(case, reading, Run(case), case.targets[0])
        poses = np.concatenate([lot.T for lot in lots if not lot.comparison.reading.mirrored])
        return min(error(subject, demo_case.camera, T, T_true).rotation_deg for T in poses)

    assert nearest(StatedView()) < 8 < nearest(AnyView())


@pytest.mark.slow
def test_an_order_is_not_questioned(subject, stated, demo_case, from_behind):
    """Told that it is not mirrored, it does not say that it is; told that it is, it finds it as such."""
    stored, T_true = from_behind
    xray = prepare_radiograph(stored, demo_case.camera, "bone-dark")
    refused = register(subject, [xray], stated, replace(SETTINGS, mirrored="no"))
    assert not refused.mirrored
    assert refused.verdict.status != "accept"
    ordered = register(subject, [xray], stated, replace(SETTINGS, mirrored="yes"))
    assert ordered.mirrored
    assert error(subject, demo_case.camera, ordered.T_lps_to_world, T_true).mtre_mm < 1


@pytest.mark.slow
def test_files_keep_the_columns_as_stored(demo_case, from_behind, stated, tmp_path):
    stored, _ = from_behind
    camera = demo_case.camera
    write_volume(tmp_path / "ct.nrrd", demo_case.ct)
    gray = 60000 * stored.pixels / stored.pixels.max()
    write_picture(tmp_path / "xray.png", np.rint(gray).astype(np.uint16))
    geometry = {"sdd_mm": camera.sdd_mm, "pixel_spacing_mm": list(camera.pixel_spacing_mm), "sod_mm": SOD_MM}
    (tmp_path / "geometry.json").write_text(json.dumps(geometry | {"view": "AP"}))
    words = [str(tmp_path / name) for name in ("ct.nrrd", "xray.png")]
    words += ["--geometry", str(tmp_path / "geometry.json"), "--out", str(tmp_path), "--time-limit", "10000"]
    assert main(["register", *words]) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["image"]["mirrored"]
    assert result["view"] == "PA"
    drr = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "drr.nrrd")))[0]
    # Bones are dark in the file: the DRR is its negative, column for column.
    correlation = np.corrcoef(drr.ravel(), -stored.pixels.astype(float).ravel())[0, 1]
    assert correlation > 0.8
    assert np.corrcoef(drr[:, ::-1].ravel(), -stored.pixels.astype(float).ravel())[0, 1] < correlation - 0.2


@pytest.mark.slow
def test_time_that_is_up_is_said(subject, stated, demo_case):
    """An X-ray of nothing: whatever is tried ends in no agreement."""
    noise = np.random.default_rng(0).normal(size=demo_case.camera.shape).astype(np.float32)
    xray = PreparedRadiograph(noise, np.ones(noise.shape, dtype=bool), demo_case.camera, "noise")
    result = register(subject, [xray], stated, RegistrationSettings(time_limit=1e-3))
    assert result.verdict.status == "reject"
    assert "the time limit of 0.001 s was reached" in result.verdict.reasons[-1]
    assert "search of all views" not in [stage.name for stage in result.stages]


def test_a_mirrored_xray_is_what_a_camera_sees_from_the_other_side(rng):
    """An oblique camera whose principal point is off the middle: each point stays where it was seen."""
    camera = Camera.from_c_arm(1000.0, (0.5, 0.7), 101, 80, principal_point_px=(33.0, 50.0))
    xray = PreparedRadiograph(
        rng.random(camera.shape, dtype=np.float32), rng.random(camera.shape) > 0.5, camera, "x"
    )
    other = xray.mirrored()
    points = rng.normal([0, 0, 700], [30, 20, 50], size=(20, 3))
    seen = camera.project(points)
    # Turned over, the point reflected at the plane x = 0 stands in the column from the other end.
    np.testing.assert_allclose(
        other.camera.project(points * [-1, 1, 1]), np.column_stack([100 - seen[:, 0], seen[:, 1]])
    )
    np.testing.assert_array_equal(other.image, xray.image[:, ::-1])
    np.testing.assert_array_equal(other.mirrored().camera.K, camera.K)


@pytest.mark.parametrize("view", ["AP", "PA", "LLAT", "RLAT"])
@pytest.mark.parametrize("roll_deg", [-150.0, 0.0, 90.0])
def test_what_a_pose_looks_like(view, roll_deg):
    tilt = se3.exp_so3(np.array([0.2, -0.25, 0.0]))
    R = se3.exp_so3(np.array([0, 0, np.deg2rad(roll_deg)])) @ tilt @ nominal_view(view)
    name, roll = view_seen(R)
    assert name == view
    assert roll == pytest.approx(roll_deg, abs=3)
    frame = PoseFrame(np.zeros(3), SOD_MM, "AP")
    assert frame_of(frame, se3.rigid(R, np.zeros(3))).view == view


def test_hardly_any_rays_count_for_little(stated, demo_case):
    """A few slices of the scan in the X-ray of all: of so few rays it takes more to be believed."""
    whole = demo_case.ct
    first = len(whole.array) // 2 - 9
    origin = whole.index_to_lps.copy()
    origin[:3, 3] = whole.points_lps([0, 0, first])
    few = Subject(prepare_ct(Volume(whole.array[first : first + 18], origin)))
    case = Case(few, Reading((prepare_radiograph(demo_case.radiograph, demo_case.camera),)), stated)
    comparison = Comparison(case, case.reading, targets_of(few)[0])
    T = demo_case.T_true[None]
    [share] = comparison.share(T)
    assert 0.1 < share < 0.25
    expected = comparison.structural_correlation(T) * np.sqrt(share / 0.25)
    np.testing.assert_allclose(comparison.agreement(T), expected)


def test_where_nothing_is_known_few_rays_count_for_less(subject, stated, demo_case):
    case = Case(subject, Reading((prepare_radiograph(demo_case.radiograph, demo_case.camera),)), stated)
    comparison = Comparison(case, case.reading, case.targets[0])
    unknown = replace(comparison, case=replace(case, any_view=True))
    T = demo_case.T_true[None].copy()
    T[:, 1, 3] += 130.0
    [share] = comparison.share(T)
    assert 0.25 < share < 0.5
    np.testing.assert_allclose(comparison.agreement(T), comparison.structural_correlation(T))
    np.testing.assert_allclose(unknown.agreement(T), comparison.agreement(T) * np.sqrt(share / 0.5))


def test_an_unusual_depth_counts_for_less_where_nothing_is_known(subject, stated):
    case = Case(subject, Reading((camera_only(),)), stated, any_view=True)
    T = np.repeat(stated.T_nominal[None], 4, axis=0)
    T[1:, 2, 3] += np.array([0.1, -0.3, 0.5]) * SOD_MM
    cost = case.depth_cost(T)
    assert cost[0] == cost[1] == 0
    assert 0.05 < cost[2] < cost[3] + 0.1
    assert not replace(case, any_view=False).depth_cost(T).any()


def camera_only() -> PreparedRadiograph:
    """An X-ray of which only the camera counts."""
    camera = Camera.from_c_arm(1000.0, (1.0, 1.0), 32, 32)
    return PreparedRadiograph(np.zeros((32, 32), np.float32), np.ones((32, 32), dtype=bool), camera)


def test_another_reading_that_agrees_as_well_is_a_doubt(subject, stated, demo_case):
    xray = prepare_radiograph(demo_case.radiograph, demo_case.camera, "bone-dark")
    case = Case(subject, Reading((xray,)), stated)
    comparison = Comparison(case, case.reading, targets_of(subject)[0])
    right = Hypotheses.unscored(comparison, demo_case.T_true[None])
    assert judge(right).status == "accept"
    doubted = judge(replace(right, rival=0.97))
    assert doubted.status == "review"
    assert any("read or seen another way" in reason for reason in doubted.reasons)
    assert judge(replace(right, rival=0.6), timed_out=True).status == "accept"


def test_shifts_reach_the_ends_of_a_long_scan():
    camera = Camera.from_c_arm(1000.0, (6.25, 6.25), 32, 32)
    frame, grid = PoseFrame(np.array([0.0, 0, 50]), SOD_MM), SearchRange(shift_mm=110.0, canvas=2.6)

    def scan(slices):
        index_to_lps = np.diag([3.0, 3.0, 3.0, 1.0])
        index_to_lps[:3, 3] = -1.5 * (np.array([60, 60, slices]) - 1)
        return Volume(np.zeros((slices, 60, 60), np.float32), index_to_lps)

    assert reaching_the_ends(grid, scan(60), camera, frame) is grid
    # The far end is 50 mm + 200 mm away, half the field of view 70 mm.
    long = reaching_the_ends(grid, scan(134), camera, frame)
    assert long.shift_mm == pytest.approx(250 - 70 + 15, abs=3)
    assert long.canvas * 140 >= 2 * long.shift_mm + 140 - 1e-6


def test_the_best_lots_go_on_best_first():
    def lot(*cost):
        return Hypotheses(None, np.stack([np.eye(4)] * len(cost)), np.array(cost), np.eye(4))

    kept = best_of([lot(0.5, 0.9), lot(0.2, 0.3, 0.8), lot(1.5)], 3)
    assert [list(one.cost) for one in kept] == [[0.2, 0.3], [0.5]]
    assert best_of([], 3) == []


def test_a_drr_from_behind_is_not_the_mirrored_one_from_the_front(subject, stated, demo_case):
    """Perspective tells them apart: both are searched."""
    camera = demo_case.camera.resampled(64, 64)
    behind = PoseFrame(stated.centre_lps_mm, SOD_MM, "PA")
    front, back = (project(subject.body.level(1), camera, one.T_nominal) for one in (stated, behind))
    assert np.corrcoef(front[:, ::-1].ravel(), back.ravel())[0, 1] < 0.999
    assert np.abs(front[:, ::-1] - back).max() > 0.05 * back.max()


def test_another_patients_ct_is_not_accepted(demo_case, stated):
    """Vertebrae a tenth taller: seen coarsely much the same."""
    whole = demo_case.ct
    taller = whole.index_to_lps.copy()
    middle = whole.points_lps((np.array(whole.array.shape[::-1]) - 1) / 2)
    taller[:3, :] = np.diag([1, 1, 1.1]) @ (taller[:3, :] - np.outer(middle, [0, 0, 0, 1]))
    taller[:3, 3] += middle
    other = Subject(prepare_ct(Volume(whole.array, taller)))
    xray = prepare_radiograph(demo_case.radiograph, demo_case.camera, "bone-dark")
    given = RegistrationSettings("given")
    verdict = register(other, [xray], stated, given, demo_case.T_true).verdict
    assert verdict.status != "accept"


def test_noise_is_not_another_anatomy(demo_case, stated, subject, rng):
    """What an X-ray's two halves do not share is not asked of the CT."""
    xray = prepare_radiograph(demo_case.radiograph, demo_case.camera, "bone-dark")
    level = Level(128, 13)
    spread = xray.image[xray.valid].std()
    noisy = replace(
        xray, image=xray.image + rng.normal(0, 0.25 * spread, xray.image.shape).astype(np.float32)
    )
    assert reliability(noisy, level) < 0.8
    assert 0.9 < reliability(xray, level) <= 1

    def detail(one):
        case = Case(subject, Reading((one,)), stated)
        comparison = Comparison(case, case.reading, targets_of(subject)[0])
        coarse = comparison.target.kind.check
        fine, coarse = (noiseless_correlation(comparison, one, demo_case.T_true) for one in (level, coarse))
        return fine / coarse

    assert detail(xray) > 0.95
    assert detail(noisy) > 0.93
