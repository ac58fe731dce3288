"""From prepared inputs to a verified pose: the pipeline on the demo patient, its optimiser and its search."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage
from SOPIRegistrationLib.compare import (
    Case,
    Comparison,
    Hypotheses,
    Level,
    LevelObjective,
    Reading,
    Run,
    compared_target,
    targets_of,
)
from SOPIRegistrationLib.errors import Cancelled, InputError
from SOPIRegistrationLib.evaluation.metrics import pose_error
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.ct_preparation import prepare_ct
from SOPIRegistrationLib.images.pyramid import resampled_radiograph
from SOPIRegistrationLib.images.radiograph import PreparedRadiograph
from SOPIRegistrationLib.images.radiograph_preparation import prepare_radiograph
from SOPIRegistrationLib.initialise.starts import Nominal
from SOPIRegistrationLib.initialise.template_search import SearchRange, template_search
from SOPIRegistrationLib.optimise.least_squares import NormalEquations, levenberg_marquardt
from SOPIRegistrationLib.projector import project
from SOPIRegistrationLib.refine.levels import NEIGHBOURS_STAGE, with_neighbouring_vertebrae
from SOPIRegistrationLib.registration import register
from SOPIRegistrationLib.settings import RegistrationSettings
from SOPIRegistrationLib.simulation.demo import CT_SPACING_MM, fine_line_integrals
from SOPIRegistrationLib.simulation.phantom import lumbar_phantom
from SOPIRegistrationLib.simulation.spine import VERTEBRA_LABELS
from SOPIRegistrationLib.simulation.xray import XRayDegradation, simulate_radiograph
from SOPIRegistrationLib.subject import Subject

# The demo case's.
SEED = 1
SOD_MM = 700.0


class Scene:
    """The demo case, prepared, with a second view of the same patient."""

    def __init__(self, case):
        self.case = case
        self.ct = prepare_ct(self.case.ct)
        self.subject = Subject(self.ct)
        self.frame = PoseFrame(self.ct.rotation_centre_lps_mm, SOD_MM)
        self.front = prepare_radiograph(self.case.radiograph, self.case.camera, "bone-dark")
        self.side = self._side_view()

    def _side_view(self):
        """A second C-arm, turned by a right angle about the patient's long axis; the first is the world."""
        T_world_to_side = se3.rigid(se3.exp_so3(np.array([0, np.pi / 2, 0])), np.array([0, 0, SOD_MM]))
        T_world_to_side[:3, 3] -= T_world_to_side[:3, :3] @ [0, 0, SOD_MM]
        camera = replace(self.case.camera, T_world_to_camera=T_world_to_side, name="side")
        integrals = fine_line_integrals(SEED, camera, self.case.T_true)
        degradation = XRayDegradation(photons=1e6, invert=True)
        xray = simulate_radiograph(integrals, degradation, np.random.default_rng(5), "side")
        return prepare_radiograph(xray, camera, "bone-dark")

    def error(self, T):
        ct = self.ct
        points, centre = ct.surface_points_lps_mm, ct.rotation_centre_lps_mm
        return pose_error(T, self.case.T_true, points, centre, self.case.camera)

    def start(self, twist) -> np.ndarray:
        """The true pose moved about the rotation centre."""
        return se3.move_about(self.case.T_true, np.asarray(twist, dtype=float), self.frame.centre_lps_mm)

    def register(self, init, refine="opt", views=None, start=None, report=None):
        settings = RegistrationSettings(init, refine)
        return register(self.subject, views or [self.front], self.frame, settings, start, report)

    @property
    def body(self):
        return targets_of(self.subject)[0]


@pytest.fixture(scope="module")
def scene(demo_case) -> Scene:
    return Scene(demo_case)


@pytest.fixture(scope="module")
def registered(scene):
    reports = []
    return scene.register("nominal", report=reports.append), reports


def test_one_view_from_the_nominal_pose(scene, registered):
    result, _ = registered
    assert scene.error(result.initial_T).mtre_mm > 10
    error = scene.error(result.T_lps_to_world)
    assert error.mtre_mm < 0.5
    assert error.in_plane_mm < 0.1
    assert result.verdict.status == "accept"
    assert result.similarity["ncc"] > result.initial_similarity["ncc"] + 0.05
    assert not result.stopped


def test_predicted_error_is_of_the_size_of_the_actual_one(scene, registered):
    result, _ = registered
    predicted, total = result.verdict.statistical_error_mm, result.verdict.predicted_error_mm
    assert predicted[2] > 5 * predicted[:2].max(), "depth is the weak axis of one view"
    assert 0.1 < predicted[2] / scene.error(result.T_lps_to_world).depth_mm < 10
    # The CT's scale, half a percent of the distance, is not seen by one view.
    distance = (result.T_lps_to_world @ np.append(scene.frame.centre_lps_mm, 1))[2]
    assert total[2] == pytest.approx(np.hypot(0.005 * distance, predicted[2]), rel=0.1)
    assert (total >= predicted).all()


def test_progress_runs_forward_to_the_end(registered):
    _, reports = registered
    fractions = [report.fraction for report in reports]
    assert fractions == sorted(fractions)
    assert 0 <= fractions[0] <= fractions[-1] <= 1
    assert any(report.T is not None and report.similarity is not None for report in reports)


def test_result_as_json(scene, registered):
    result, _ = registered
    entry = json.loads(json.dumps(result.to_dict({"cameras": []}, 1.5)))
    conventional = {"version", "method", "geometry", "rotation_centre_lps_mm", "view", "pose", "initial_pose"}
    conventional |= {"stages", "similarity", "verdict", "seconds", "seconds_preparation", "device"}
    assert conventional <= entry.keys()
    theta = entry["pose"]["theta"]
    values = [np.deg2rad(theta[f"r{axis}_deg"]) for axis in "xyz"] + [theta[f"t{axis}_mm"] for axis in "xyz"]
    np.testing.assert_allclose(scene.frame.T_from_theta(np.array(values)), result.T_lps_to_world, atol=1e-9)
    last = entry["stages"][-1]
    assert last["pose"] == entry["pose"]
    assert sum(stage["seconds"] for stage in entry["stages"]) <= entry["seconds"]


@pytest.mark.slow
def test_the_same_inputs_give_the_same_pose(scene, registered):
    again = scene.register("nominal")
    np.testing.assert_array_equal(again.T_lps_to_world, registered[0].T_lps_to_world)


@pytest.mark.slow
def test_two_views_fix_what_one_leaves_open(scene, registered):
    start = scene.start([0.05, -0.06, 0.04, 4, -3, 8])
    joint = scene.register("given", views=[scene.front, scene.side], start=start)
    error = scene.error(joint.T_lps_to_world)
    assert joint.verdict.status == "accept"
    assert error.mtre_mm < 0.2
    assert error.depth_mm < 0.1
    alone = registered[0].verdict
    assert joint.verdict.statistical_error_mm[2] < 0.5 * alone.statistical_error_mm[2]
    # What the CT's scale may be wrong in is no longer taken for depth.
    assert joint.verdict.predicted_error_mm[2] < 0.2 * alone.predicted_error_mm[2]


@pytest.mark.slow
def test_world_of_the_views_may_be_anywhere(scene):
    """Cameras given in another world: the same pose in the first camera."""
    T_other_to_world = se3.exp_se3(np.array([0.3, -0.8, 1.1, 50, -20, 400]))
    moved = [
        replace(
            view,
            camera=replace(view.camera, T_world_to_camera=view.camera.T_world_to_camera @ T_other_to_world),
        )
        for view in (scene.front, scene.side)
    ]
    start = se3.invert_rigid(T_other_to_world) @ scene.start([0.05, -0.06, 0.04, 4, -3, 8])
    result = scene.register("given", views=moved, start=start)
    assert scene.error(T_other_to_world @ result.T_lps_to_world).mtre_mm < 0.2


def test_stop_is_obeyed_at_once(scene):
    calls = []

    def stop_at_third(progress):
        calls.append(progress)
        if len(calls) == 3:
            raise Cancelled("enough")

    result = scene.register("nominal", report=stop_at_third)
    assert len(calls) == 3
    assert result.stopped
    assert result.verdict.status != "accept"
    assert result.verdict.reasons[0].startswith("stopped early")
    np.testing.assert_array_equal(result.T_lps_to_world, calls[-1].T)


@pytest.mark.slow
def test_an_xray_of_something_else_is_not_accepted(scene):
    upside_down = replace(scene.front, image=scene.front.image[::-1], valid=scene.front.valid[::-1])
    result = scene.register("nominal", views=[upside_down])
    assert result.verdict.status == "reject"
    assert "do not agree" in result.verdict.reasons[0]


def test_without_refinement_the_start_is_judged(scene):
    start = scene.start([0.02, 0, 0, 1, 0, 0])
    result = scene.register("given", "none", start=start)
    np.testing.assert_array_equal(result.T_lps_to_world, start)
    assert result.stages == []


@pytest.mark.parametrize("off_mm", [-29.0, 31.0])
def test_a_pose_one_vertebra_off_is_corrected(scene, off_mm):
    case = Case(scene.subject, Reading((scene.front,)), scene.frame)
    comparison = Comparison(case, case.reading, scene.body)
    wrong = scene.case.T_true.copy()
    wrong[:3, 3] += off_mm * wrong[:3, 2]
    found, run = Hypotheses(comparison, wrong[None], np.zeros(1), wrong), Run(case)
    mended = with_neighbouring_vertebrae(found, scene.body.kind.coarse[0], run)
    error = scene.error(mended.T[0])
    assert error.in_plane_mm < 2
    assert error.rotation_deg < 2
    # The one that was found is left as a rival for the verdict.
    assert any(np.allclose(T, wrong) for T in mended.T[1:])
    assert run.stages[-1].name == NEIGHBOURS_STAGE


@pytest.fixture(scope="module")
def vertebra():
    """One vertebra in air."""
    phantom = lumbar_phantom(SEED, CT_SPACING_MM)
    hu = np.where(phantom.labels.array == VERTEBRA_LABELS["L3"], phantom.ct.array, -1000)
    return Subject(prepare_ct(phantom.ct.same_grid(hu.astype(np.int16))))


@pytest.mark.slow
def test_a_segmented_bone_that_lies_wholly_in_its_scan(scene, vertebra):
    """In the X-ray of the whole patient, from a start and views around it."""
    ct = vertebra.ct
    bone = compared_target(vertebra)
    assert bone.kind.name == "segmented bone"
    assert not bone.moving.unscanned
    frame = PoseFrame(ct.rotation_centre_lps_mm, SOD_MM)
    start = se3.move_about(scene.case.T_true, np.array([0.03, -0.03, 0.03, 2, -2, 5.0]), frame.centre_lps_mm)
    result = register(vertebra, [scene.front], frame, RegistrationSettings("given"), start)
    points = ct.surface_points_lps_mm
    error = pose_error(
        result.T_lps_to_world, scene.case.T_true, points, frame.centre_lps_mm, scene.front.camera
    )
    assert error.mpd_object_mm < 1
    assert error.rotation_deg < 1.5


@pytest.mark.slow
def test_a_segmented_bone_that_its_network_misses_is_sought_all_around(scene, vertebra, tmp_path):
    """The bone before a ramp, 45 degrees off where it is expected."""
    pytest.importorskip("torch")
    from SOPIRegistrationLib.networks.patient import PatientConfig, PatientNetwork
    from SOPIRegistrationLib.networks.weights import CARD_HEADINGS, save_weights
    from SOPIRegistrationLib.training.patient import configured

    camera, T_true = scene.front.camera, scene.case.T_true
    centre, points = vertebra.ct.rotation_centre_lps_mm, vertebra.ct.surface_points_lps_mm
    drr = project(vertebra.bones.level(0), camera, T_true)
    ramp = np.add.outer(*(np.linspace(0, 0.5 * drr.max(), edge) for edge in camera.shape))
    xray = PreparedRadiograph((drr + ramp).astype(np.float32), np.ones(camera.shape, dtype=bool), camera)
    offset = np.array([0.45, -0.45, 0.45, 10, -10, 15.0])
    T_reference = se3.move_about(T_true, offset, centre)
    # Untrained: it answers the reference.
    config = configured(PatientConfig("light", 32), vertebra.ct, camera, T_reference)
    path = tmp_path / "patient.safetensors"
    save_weights(path, PatientNetwork(config), dict.fromkeys(("name", *CARD_HEADINGS), "test"))
    settings = RegistrationSettings("patient", weights={"patient": path})
    result = register(vertebra, [xray], PoseFrame(centre, SOD_MM), settings)
    error = pose_error(result.T_lps_to_world, T_true, points, centre, camera)
    assert error.mpd_object_mm < 0.5


def test_a_pose_that_was_not_refined_is_not_accepted(scene, registered):
    """Images a centimetre off in depth still agree in structure; where they agree better is known."""
    found = registered[0].T_lps_to_world
    shift = np.array([0, 0, 0, 0, 0, 9.0])
    off = se3.move_about(found, shift, scene.frame.centre_lps_mm)
    verdict = scene.register("given", "none", start=off).verdict
    assert verdict.reasons[0].startswith("the images agree:")
    assert verdict.status == "review"
    x, y, z = map(float, re.search(r"about (\S+), (\S+), (\S+) mm from here", verdict.reasons[-1]).groups())
    assert z == pytest.approx(-9, abs=3)
    assert abs(x) < 1
    assert abs(y) < 1


def test_a_start_beside_the_image_is_refused(scene):
    start = scene.start([0, 0, 0, 900, 0, 0])
    with pytest.raises(InputError, match="outside the field of view"):
        scene.register("given", start=start)


def test_a_start_that_shows_an_end_of_a_long_ct_is_not_beside_the_image(scene):
    """Where a CT is longer than the picture its middle may lie far outside."""
    camera = scene.front.camera
    K = camera.K.copy()
    K[1, 2] -= 1.2 * camera.height
    looking_along = scene.front.in_camera(replace(camera, K=K))
    case = Case(scene.subject, Reading((looking_along,)), scene.frame, T_expected=scene.case.T_true)
    assert Nominal(RegistrationSettings("nominal")).propose(case, Run(case))


def test_a_given_start_must_be_given(scene):
    with pytest.raises(InputError, match="no start pose is given"):
        scene.register("given")


@pytest.mark.parametrize("setting", ["init", "refine", "content", "polarity", "device"])
def test_unknown_settings_are_refused(setting):
    with pytest.raises(InputError, match="'other'"):
        RegistrationSettings(**{setting: "other"})


@pytest.mark.parametrize("window_px", [None, 15])
def test_objective_has_the_gradient_of_its_cost(scene, window_px):
    """Central differences of the cost; two views, so that every frame on the way counts."""
    start = scene.start([0.03, -0.02, 0.04, 2, -1, 5])
    centre = scene.frame.centre_lps_mm
    objective = LevelObjective(
        [scene.front, scene.side], scene.body, Level(64, window_px), start[None], centre
    )
    gradient = objective(start[None], np.zeros(1, int)).gradient[0]
    steps = np.array([2e-3, 2e-3, 2e-3, 0.2, 0.2, 0.2])
    twists = np.concatenate([np.diag(steps), -np.diag(steps)])
    poses = se3.move_about(np.repeat(start[None], 12, axis=0), twists, centre)
    cost = objective(poses, np.zeros(12, int)).cost
    # The gradient is J^T r: half of that of the sum of squares.
    np.testing.assert_allclose(
        gradient, (cost[:6] - cost[6:]) / (4 * steps), rtol=0.1, atol=0.05 * np.abs(gradient).max()
    )


def landmark_equations(points, targets):
    """Normal equations of the distances of moved points to targets; twists act about the moved origin."""

    def evaluate(T, _):
        moved = points @ T[:, :3, :3].swapaxes(1, 2) + T[:, None, :3, 3]
        r = (moved - targets).reshape(len(T), -1, 1)
        arms = moved - T[:, None, :3, 3]
        J = np.concatenate([-se3.skew(arms), np.broadcast_to(np.eye(3), (*arms.shape, 3))], axis=-1)
        J = J.reshape(len(T), -1, 6)
        Jt = J.swapaxes(1, 2)
        return NormalEquations((r * r).sum(axis=(1, 2)), (Jt @ r)[..., 0], Jt @ J)

    return evaluate


@pytest.fixture
def landmarks(rng):
    points = rng.normal(0, 40, (7, 3))
    T_true = se3.exp_se3(np.array([0.7, -0.4, 0.9, 12, -30, 55]))
    return T_true, landmark_equations(points, points @ T_true[:3, :3].T + T_true[:3, 3])


def test_least_squares_finds_the_pose_from_every_start(landmarks, rng):
    T_true, equations = landmarks
    starts = se3.exp_se3(rng.normal(0, [0.5, 0.5, 0.5, 20, 20, 20], (5, 6)))
    result = levenberg_marquardt(equations, starts, np.zeros(3), 30, 1e-6, 0.0)
    assert result.iterations < 15
    np.testing.assert_allclose(result.T, np.broadcast_to(T_true, (5, 4, 4)), atol=1e-4)


def test_least_squares_never_gets_worse_and_stops_when_asked(landmarks):
    _, equations = landmarks
    reports = []

    def stop_at_fourth(progress):
        reports.append(progress)
        if len(reports) == 4:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        levenberg_marquardt(equations, np.eye(4), np.zeros(3), 30, 0.0, 0.0, stop_at_fourth)
    values = [report.similarity for report in reports]
    assert values == sorted(values)
    assert -values[-1] == equations(reports[-1].T[None], None).cost[0]
    assert [report.fraction for report in reports] == pytest.approx([k / 30 for k in range(1, 5)])


def test_by_chance_a_search_finds_the_object_at_no_depth_rather_than_at_another(scene, rng):
    """Near the source fewer pixels are compared: they agree by chance more easily, but must not win by it."""
    noise = resampled_radiograph(scene.front, 32, 32)
    smooth = ndimage.gaussian_filter(rng.normal(size=noise.image.shape), 2.0)
    noise = replace(noise, image=smooth.astype(np.float32))
    factors = (0.7, 1.0, 1.4)
    grid = SearchRange(tilt_deg=20, roll_deg=20, depth_factors=factors, both_signs=True)
    found = template_search(noise, scene.subject.body.level(2), scene.frame, grid, max_candidates=60)
    depths = (found.T_lps_to_camera @ [*scene.frame.centre_lps_mm, 1])[:, 2] / SOD_MM
    counts = [int(np.isclose(depths, factor, atol=0.02).sum()) for factor in factors]
    assert sum(counts) == 60
    assert max(counts) < 40, counts


def test_search_finds_a_far_pose_and_can_be_cancelled(scene):
    """The nominal view is turned away from the patient's: the search starts 30 degrees off."""
    view = resampled_radiograph(scene.front, 32, 32)
    volume = scene.subject.body.level(2)
    turn = se3.exp_so3(np.deg2rad([20.0, -20.0, 10.0]))
    frame = PoseFrame(scene.frame.centre_lps_mm, SOD_MM, "angles", turn @ scene.frame.rotation)
    few = SearchRange(tilt_deg=30, roll_deg=30, depth_factors=(0.85, 1.0, 1.18))
    found = template_search(view, volume, frame, few, scene.subject.body.unscanned, 16)
    assert (np.diff(found.scores) <= 0).all()
    errors = [scene.error(T) for T in found.T_lps_to_camera]
    assert scene.error(frame.T_nominal).rotation_deg > 25
    assert min(error.rotation_deg for error in errors) < 10
    reports = []

    def stop(progress):
        reports.append(progress)
        raise Cancelled("enough")

    with pytest.raises(Cancelled):
        template_search(view, volume, frame, few, report=stop)
    assert len(reports) == 1
    assert 0 < reports[0].fraction < 1
