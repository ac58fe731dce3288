"""Learned fine registration: its descents, and its place in the pipeline.

The network is untrained: its encoders begin alike, and so it is a similarity already, with a small basin.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from SOPIRegistrationLib.compare import Case, Comparison, Proposal, Reading, compared_target
from SOPIRegistrationLib.errors import Cancelled, InputError
from SOPIRegistrationLib.evaluation.metrics import pose_error
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.ct_preparation import prepare_ct
from SOPIRegistrationLib.images.radiograph_preparation import prepare_radiograph
from SOPIRegistrationLib.images.volume import Volume
from SOPIRegistrationLib.networks.comparing import ComparingRTPI
from SOPIRegistrationLib.networks.composite import CompositeSimilarity
from SOPIRegistrationLib.networks.embedding import SCALE, moving_images
from SOPIRegistrationLib.networks.weights import CARD_HEADINGS, save_weights
from SOPIRegistrationLib.optimise.least_squares import NormalEquations
from SOPIRegistrationLib.optimise.momentum import momentum_descent
from SOPIRegistrationLib.projector import project
from SOPIRegistrationLib.refine.learned import STAGE, Learned, LearnedObjective, LearnedThenOptimised
from SOPIRegistrationLib.refine.network import descended, load_network, refined, stepped
from SOPIRegistrationLib.registration import register
from SOPIRegistrationLib.settings import GIVEN, RegistrationSettings
from SOPIRegistrationLib.subject import Subject
from support.networks import COMPARING, COMPOSITE

CARD = dict.fromkeys(("name", *CARD_HEADINGS), "x")
CENTRE = np.array([20.0, -40.0, 10.0])
NEAR = np.array([0.01, -0.015, 0.01, 1.0, -1.0, 8.0])


class Scene:
    """The demo case, prepared; the weights of an untrained network."""

    def __init__(self, case, folder):
        self.case = case
        self.subject = Subject(prepare_ct(self.case.ct))
        self.ct = self.subject.ct
        self.frame = PoseFrame(self.ct.rotation_centre_lps_mm, 700.0)
        self.xray = prepare_radiograph(self.case.radiograph, self.case.camera, "bone-dark")
        torch.manual_seed(0)
        # Untrained, the image alone would decide.
        self.network = CompositeSimilarity(replace(COMPOSITE, image=False)).eval()
        self.weights = {"ifr": folder / "ifr.safetensors"}
        save_weights(self.weights["ifr"], self.network, CARD)

    def start(self, twist) -> np.ndarray:
        return se3.move_about(self.case.T_true, np.asarray(twist), self.frame.centre_lps_mm)

    def register(self, start, refine, report=None, weights=None):
        settings = RegistrationSettings(GIVEN, refine, weights=self.weights if weights is None else weights)
        return register(self.subject, [self.xray], self.frame, settings, start, report)

    def error(self, T):
        points, centre = self.ct.surface_points_lps_mm, self.frame.centre_lps_mm
        return pose_error(T, self.case.T_true, points, centre, self.case.camera)

    def objective(self, T, views=None) -> LearnedObjective:
        return LearnedObjective(self.network, self.comparison(views=views), T)

    def comparison(self, subject=None, views=None) -> Comparison:
        subject = subject or self.subject
        case = Case(subject, Reading(tuple(views or [self.xray])), self.frame)
        return Comparison(case, case.reading, compared_target(subject))


@pytest.fixture(scope="module")
def scene(demo_case, tmp_path_factory):
    return Scene(demo_case, tmp_path_factory.mktemp("weights"))


class Bowl:
    """Distance to a pose, in the units of ``SCALE``; remembers what was asked."""

    def __init__(self):
        self.T = se3.exp_se3(np.array([0.3, -0.2, 0.1, 20, -30, 650]))
        self.asked = []

    def starts(self, count: int) -> np.ndarray:
        offsets = np.random.default_rng(0).normal(size=(count, 6)) * SCALE.twist * 5
        return se3.move_about(np.repeat(self.T[None], count, axis=0), offsets, CENTRE)

    def __call__(self, T, starts):
        self.asked.append(T)
        x = se3.twist_about(np.repeat(self.T[None], len(T), axis=0), T, CENTRE) / SCALE.twist
        error = np.linalg.norm(x, axis=1)
        return error, x / error[:, None] / SCALE.twist


def stopping_after(count, reports):
    def report(progress):
        reports.append(progress)
        if len(reports) == count:
            raise Cancelled("enough")

    return report


def test_momentum_descends_from_every_start():
    bowl, reports = Bowl(), []
    starts = bowl.starts(5)
    T, error, result = momentum_descent(bowl, starts, CENTRE, SCALE, report=reports.append, stage="bowl")
    assert (error < 0.1).all()
    np.testing.assert_allclose(bowl(T, None)[0], error)
    assert result.reason == "step"
    assert result.iterations == len(reports) < 500
    assert -result.value == error.min()
    assert reports[-1].stage == "bowl"
    values = [report.similarity for report in reports]
    assert values == sorted(values)


def test_the_rotation_is_frozen_and_the_translation_goes_on():
    bowl = Bowl()
    momentum_descent(
        bowl, bowl.starts(1), CENTRE, SCALE, rotation_tolerance=0.06, translation_tolerance=0.005
    )
    asked = np.concatenate(bowl.asked)
    turned = np.linalg.norm(np.diff(asked[:, :3, :3], axis=0), axis=(1, 2)) > 1e-9
    moved = np.linalg.norm(np.diff(asked[:, :3, 3], axis=0), axis=1) > 1e-9
    last_turn = np.flatnonzero(turned)[-1]
    assert 10 < last_turn < len(asked) - 10
    assert moved[last_turn + 1 :].sum() > 5


def test_momentum_stops_when_asked_and_where_nothing_is_defined():
    bowl = Bowl()
    starts = bowl.starts(3)
    reports = []
    with pytest.raises(Cancelled):
        momentum_descent(bowl, starts, CENTRE, SCALE, report=stopping_after(3, reports))
    assert len(reports) == 3
    assert -reports[-1].similarity <= bowl(starts, None)[0].min()

    def broken(T, starts):
        error, gradient = bowl(T, starts)
        return np.where(starts == 1, np.nan, error), gradient

    T, error, _ = momentum_descent(broken, starts, CENTRE, SCALE)
    assert np.isinf(error[1])
    assert error[[0, 2]].max() < 0.1
    np.testing.assert_array_equal(T[1], starts[1])


def test_both_derivatives_of_an_objective_agree(scene):
    """In the world of two C-arms, neither at its origin."""
    # An untrained network is more curved than a trained one: differences closer by.
    network = copy.deepcopy(scene.network)
    network.difference = 0.01
    turned = se3.rigid(se3.exp_so3(np.array([0.2, 0.9, -0.3])), np.array([30.0, -50.0, 80.0]))
    side = np.eye(4)
    side[:3, :3] = se3.exp_so3(np.array([0.0, 0.2, 0.0]))
    side[:3, 3] = [-120.0, 0, 20]
    # Two views of one world, of the same X-ray: what they show need not fit.
    views = [
        replace(scene.xray, camera=replace(scene.xray.camera, T_world_to_camera=T, name=name))
        for T, name in ((turned, "a"), (side @ turned, "b"))
    ]
    T = np.linalg.inv(turned) @ np.stack([scene.start(NEAR), scene.start(-NEAR)])
    objective = LearnedObjective(network, scene.comparison(views=views), T)
    model = objective.equations(T, np.arange(2))
    error, gradient = objective.error_and_gradient(T, np.arange(2))
    np.testing.assert_allclose(model.cost, error, rtol=1e-5)
    np.testing.assert_allclose(objective.errors(T, np.arange(2)), error, rtol=1e-5)
    unit = SCALE.twist
    found, expected = 2 * model.gradient * unit, gradient * unit
    np.testing.assert_allclose(found, expected, atol=0.2 * np.abs(expected).max())
    cosine = (found * expected).sum(axis=1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
    assert (cosine > 0.95).all()
    assert np.linalg.eigvalsh(model.hessian).min() > 0
    # And with it the error falls.
    step = -1e-3 * unit**2 * gradient / np.linalg.norm(unit * gradient, axis=1, keepdims=True)
    moved = se3.move_about(T, 300 * step, scene.frame.centre_lps_mm)
    assert (objective.equations(moved, np.arange(2)).cost < error).all()


def with_inference(scene, inference: str) -> CompositeSimilarity:
    network = CompositeSimilarity(replace(scene.network.config, inference=inference)).eval()
    network.load_state_dict(scene.network.state_dict())
    return network


@pytest.mark.slow
@pytest.mark.parametrize("inference", ["least squares", "descent"])
def test_poses_are_found_the_way_the_network_was_trained_for(scene, inference):
    network = with_inference(scene, inference)
    T = np.stack([scene.start(NEAR), scene.start(-0.5 * NEAR), scene.start(0.2 * NEAR)])
    centre, starts = scene.frame.centre_lps_mm, np.arange(3)
    objective, reports = scene.objective(T), []
    before = objective.errors(T, starts)
    found = refined(network, objective, T, centre, reports.append, "x")
    assert (found.error < before).all()
    np.testing.assert_allclose(objective.errors(found.T, starts), found.error, rtol=1e-5)
    assert {report.stage for report in reports} == {"x"}
    alone = (descended if inference == "descent" else stepped)(objective, T, centre)
    assert (found.error <= alone.error + 1e-9).all()
    # A second try is for the first starts only.
    np.testing.assert_array_equal(found.T[2], alone.T[2])


class TwoBowls(Bowl):
    """Least squares of the distance to a pose; nearby, of that to another. Remembers the starts of that."""

    def __init__(self, offset=0.0):
        super().__init__()
        self.near_starts = []
        self.T = se3.move_about(self.T[None], offset * SCALE.twist[None], CENTRE)[0]

    def equations(self, T, starts):
        x = se3.twist_about(np.repeat(self.T[None], len(T), axis=0), T, CENTRE)
        weight = 1 / SCALE.twist**2
        hessian = np.repeat(np.diag(weight)[None], len(T), axis=0)
        return NormalEquations((x**2 * weight).sum(axis=1), x * weight, hessian)

    def error_and_gradient(self, T, starts):
        return self(T, starts)

    def nearby(self, T):
        self.near_starts.append(T)
        return TwoBowls(3.0)


@pytest.mark.parametrize("far", [{"reach": 8.0}, {"near_pixels": 2 * COMPOSITE.pixels}])
def test_what_sees_far_or_coarsely_ends_nearby(far):
    """From the different poses only: here one."""
    objective = TwoBowls()
    found = refined(CompositeSimilarity(replace(COMPOSITE, **far)), objective, objective.starts(3), CENTRE)
    np.testing.assert_allclose(found.T, TwoBowls(3.0).T[None], atol=0.05)
    np.testing.assert_allclose(objective.near_starts, objective.T[None, None], atol=0.05)


def test_what_sees_nothing_nearer_ends_at_once():
    objective = TwoBowls()
    found = refined(CompositeSimilarity(COMPOSITE), objective, objective.starts(3), CENTRE)
    np.testing.assert_allclose(found.T, np.repeat(objective.T[None], 3, axis=0), atol=0.05)
    assert not objective.near_starts


def test_nearby_finer_images_are_compared_weighted_as_in_training(scene):
    pixels = COMPOSITE.pixels
    T = np.stack([scene.start(NEAR), scene.start(-NEAR)])
    config = replace(COMPOSITE, image=True, reach=8.0, near_pixels=2 * pixels)
    far = LearnedObjective(CompositeSimilarity(config).eval(), scene.comparison(), T)
    near = far.nearby(T[:1])
    seen = [(view.valid.shape, view.camera.shape, view.reach) for one in (far, near) for view in one.views]
    size = (pixels, pixels), (2 * pixels, 2 * pixels)
    assert seen == [((2, *size[0]), size[0], 8.0), ((1, *size[1]), size[1], 1.0)]
    assert near.errors(T[:1], np.zeros(1, int)) != far.errors(T[:1], np.zeros(1, int))


def test_rays_that_leave_the_scan_are_left_out(scene):
    """Where they do at each start: what lies behind its end is unknown."""
    whole = scene.case.ct
    first, last = len(whole.array) // 3, 2 * len(whole.array) // 3
    origin = whole.index_to_lps.copy()
    origin[:3, 3] = whole.points_lps([0, 0, first])
    part = Subject(prepare_ct(Volume(whole.array[first:last], origin)))
    # From the front, and from below: there rays go in by the lower end.
    T = np.stack([scene.case.T_true, scene.start([0.12, 0, 0, 0, 0, 0])])
    of_all, of_part = (
        LearnedObjective(scene.network, scene.comparison(subject), T) for subject in (scene.subject, part)
    )
    all_rays = LearnedObjective(scene.network, scene.comparison(part), T, all_rays=True)
    all_valid, valid, same_for_all = (one.views[0].valid.numpy() for one in (of_all, of_part, all_rays))
    camera = of_part.views[0].camera
    np.testing.assert_array_equal(same_for_all, all_valid[:1])
    assert valid.shape == all_valid.shape == (2, *camera.shape)
    left_out = all_valid & ~valid
    for rays, pose in zip(left_out, T, strict=True):
        of_part, of_whole = (
            project(subject.body.for_camera(camera, pose), camera, pose) for subject in (part, scene.subject)
        )
        complete = (of_part > 0.99 * of_whole) & all_valid[0]
        incomplete = (of_part < 0.9 * of_whole) & all_valid[0]
        assert min(complete.sum(), incomplete.sum()) > 50
        assert rays[incomplete].mean() > 0.9
        assert rays[complete].mean() < 0.15
    assert left_out[1].sum() > 1.05 * left_out[0].sum()


def test_a_segmented_bone_is_compared_about_where_its_start_puts_it(scene):
    array = scene.case.ct.array.copy()
    middle = len(array) // 2
    bone = np.zeros(array.shape, dtype=bool)
    box = np.s_[middle - 12 : middle + 12, :, array.shape[2] // 2 - 12 : array.shape[2] // 2 + 12]
    bone[box] = array[box] > 250
    bones = Subject(prepare_ct(scene.case.ct.same_grid(np.where(bone, array, -1000).astype(array.dtype))))
    T, start = scene.start(NEAR)[None], np.zeros(1, int)
    for subject in (scene.subject, bones):
        objective = LearnedObjective(scene.network, scene.comparison(subject), T)
        [view] = objective.views
        images = moving_images(view.body, view.bone, view.camera, T, subject.ct.rotation_centre_lps_mm)
        # It is rendered once, and the X-ray cut to it.
        assert (images.body is images.bone) == (images.body_jacobian is images.bone_jacobian)
        assert (images.body is images.bone) == (subject is bones)
        field = view.camera.width / view.camera.K[0, 0]
        whole = scene.xray.camera.width / scene.xray.camera.K[0, 0]
        assert (field < 0.9 * whole) == (subject is bones)
        if subject is bones:
            assert view.valid[0][images.body[0] > 0].all()
            assert view.valid.float().mean() < 0.9
        # The same function, however it is asked.
        error = objective.errors(T, start)
        assert objective.equations(T, start).cost == pytest.approx(error, rel=1e-5)
        assert objective.error_and_gradient(T, start)[0] == pytest.approx(error, rel=1e-5)


def test_the_depth_of_a_segmented_bone_is_held_in_a_single_view(scene):
    array = scene.case.ct.array
    hu = np.where(array > 250, array, -1000).astype(array.dtype)
    bones = Subject(prepare_ct(scene.case.ct.same_grid(hu)))
    start = np.zeros(1, int)
    deeper = scene.start([0, 0, 0, 0, 0, 20])[None]
    # Two views with one pose each: the same X-ray, so that the errors of both are those of one.
    single, joint = (
        LearnedObjective(
            scene.network, scene.comparison(bones, [scene.xray] * count), scene.case.T_true[None]
        )
        for count in (1, 2)
    )
    held = single.errors(deeper, start) - joint.errors(deeper, start)
    assert 0.01 < held < 1
    free, holding = joint.equations(deeper, start), single.equations(deeper, start)
    slope = holding.gradient - free.gradient
    # The model is error + 2 gradient.x + x.hessian x.
    np.testing.assert_allclose(slope[0], [0, 0, 0, 0, 0, held[0] / 20], atol=1e-6)
    [_, one], [_, two] = (o.error_and_gradient(deeper, start) for o in (single, joint))
    np.testing.assert_allclose(one - two, 2 * slope, atol=1e-5)


@pytest.mark.parametrize("at", [2, 30])
def test_a_refinement_stops_when_asked(scene, at):
    T = scene.start(NEAR)[None]
    seen = []
    with pytest.raises(Cancelled):
        refined(scene.network, scene.objective(T), T, scene.frame.centre_lps_mm, stopping_after(at, seen))
    assert len(seen) == at


@pytest.mark.slow
def test_registration_by_the_shipped_similarity(scene):
    reports = []
    result = scene.register(scene.start(NEAR), "sopi", reports.append, weights={})
    assert result.method == "given pose + sopi"
    assert [stage.name for stage in result.stages] == [STAGE]
    np.testing.assert_array_equal(result.T_lps_to_world, result.stages[0].T)
    before, after = scene.error(result.initial_T), scene.error(result.T_lps_to_world)
    assert after.rotation_deg < 0.5 * before.rotation_deg
    assert after.in_plane_mm < 0.7 * before.in_plane_mm
    assert np.isfinite(result.verdict.predicted_error_mm).all()
    assert {report.stage for report in reports} == {STAGE}
    fractions = [report.fraction for report in reports]
    assert fractions == sorted(fractions)


@pytest.mark.slow
def test_then_the_optimiser(scene):
    result = scene.register(scene.start(3 * NEAR), "sopi+opt")
    assert result.method == "given pose + sopi+opt"
    assert result.stages[0].name == STAGE
    assert result.stages[1].name.startswith("32 px")
    assert result.verdict.status == "accept"
    assert scene.error(result.T_lps_to_world).mtre_mm < 0.5


@pytest.mark.slow
@pytest.mark.parametrize("far", [(0.06, 0.06, -0.1, -8.0, 4.0, 10.0), (-0.08, 0.1, 0.08, 6.0, 6.0, -10.0)])
def test_the_shipped_similarity_leads_back_from_far(scene, far):
    """From starts as far as those of protocol `paper`, on a patient it never saw."""
    before = scene.error(scene.start(far))
    assert before.rotation_deg > 7
    after = scene.error(scene.register(scene.start(far), "sopi", weights={}).T_lps_to_world)
    assert after.rotation_deg < before.rotation_deg / 3
    assert after.in_plane_mm < before.in_plane_mm / 3


def test_the_network_refines_what_an_initialiser_found(scene, tmp_path):
    torch.manual_seed(0)
    rtpi = tmp_path / "rtpi.safetensors"
    save_weights(rtpi, ComparingRTPI(COMPARING), CARD)
    settings = RegistrationSettings("rtpi", "sopi", weights={**scene.weights, "rtpi": rtpi})
    result = register(scene.subject, [scene.xray], scene.frame, settings)
    assert result.method == "rtpi + sopi"
    assert [stage.name for stage in result.stages] == ["pose network", STAGE]
    np.testing.assert_array_equal(result.initial_T, result.stages[0].T)


def test_it_stops_within_the_learned_refinement(scene):
    seen = []
    result = scene.register(scene.start(NEAR), "sopi+opt", stopping_after(3, seen))
    assert result.stopped
    assert [progress.stage for progress in seen] == [STAGE] * 3
    assert result.verdict.reasons == ["stopped early: not verified"]


def proposal(**kind) -> Proposal:
    return Proposal("x", iter(()), **kind)


@pytest.mark.parametrize(("refiner", "again_after_review"), [(Learned, False), (LearnedThenOptimised, True)])
def test_what_the_learned_similarity_is_asked_again(refiner, again_after_review):
    """Its basin is wide: from further around it ends where it did, unless that was wrong."""
    asked = refiner(RegistrationSettings())
    assert asked.takes(proposal(), [])
    assert asked.takes(proposal(), ["review"])
    assert asked.takes(proposal(again=True), ["reject", "reject"])
    assert asked.takes(proposal(again=True), ["reject", "review"]) == again_after_review
    assert not asked.takes(proposal(from_afar=True), ["reject"]), "hundreds of starts would take minutes"


def test_without_weights(scene, tmp_path, monkeypatch):
    monkeypatch.setenv("SOPI_WEIGHTS", str(tmp_path))
    with pytest.raises(InputError, match=r"no weights 'ifr' are installed .*--weights ifr=FILE"):
        scene.register(scene.start(NEAR), "sopi", weights={})


def test_weights_of_another_network_are_refused(tmp_path):
    save_weights(tmp_path / "w.safetensors", ComparingRTPI(COMPARING), CARD)
    with pytest.raises(InputError, match="another network than the fine registration"):
        load_network(tmp_path / "w.safetensors")
