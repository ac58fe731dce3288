"""Several bodies: cut from one CT, seen in one picture, refined jointly, judged one by one."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from SOPIRegistrationLib.cli.main import main
from SOPIRegistrationLib.compare import LevelObjective
from SOPIRegistrationLib.compare.target import Level, compared_target
from SOPIRegistrationLib.errors import Cancelled, InputError
from SOPIRegistrationLib.evaluation.anatomies import bone_alone
from SOPIRegistrationLib.evaluation.peers import installed_version
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.ct_preparation import prepare_ct
from SOPIRegistrationLib.images.radiograph import PreparedRadiograph
from SOPIRegistrationLib.images.volume import Volume
from SOPIRegistrationLib.optimise.least_squares import NormalEquations, levenberg_marquardt
from SOPIRegistrationLib.projector import ProjectorVolume, project, project_with_jacobian
from SOPIRegistrationLib.projector.bodies import project_bodies, project_bodies_with_jacobian
from SOPIRegistrationLib.refine.joint_scene import Scene
from SOPIRegistrationLib.refine.jointly import JointObjective, Refined, refine_jointly
from SOPIRegistrationLib.registration import register
from SOPIRegistrationLib.registration.bodies import register_bodies
from SOPIRegistrationLib.registration.bodies_verdict import judge_bodies, not_in_one_place
from SOPIRegistrationLib.registration.outputs import write_picture, write_volume
from SOPIRegistrationLib.registration.result import Verdict
from SOPIRegistrationLib.settings import RegistrationSettings
from SOPIRegistrationLib.similarity.residuals import LocalResidual
from SOPIRegistrationLib.simulation.bending import bent, bent_poses
from SOPIRegistrationLib.simulation.phantom import lumbar_phantom
from SOPIRegistrationLib.subject import Subject
from SOPIRegistrationLib.subject.bodies import Bodies, Hold, RigidBody, in_one_place
from SOPIRegistrationLib.subject.labelled import REST, cut_up, label_names
from support.objects import GaussianBlobs, oblique_grid
from support.projections import jacobian_difference, oblique_poses, off_centre_camera, relative_difference
from support.rtk_renderer import render_rtk

CAMERA = Camera.from_c_arm(1011.7, (1.6, 1.6), 128, 128)
LUMBAR = {24: "L5", 23: "L4", 22: "L3"}


@pytest.fixture(scope="module")
def phantom():
    return lumbar_phantom(3, 4.0, (256.0, 256.0, 200.0))


@pytest.fixture(scope="module")
def bodies(phantom):
    return cut_up(prepare_ct(phantom.ct), phantom.labels, LUMBAR)


@pytest.fixture(scope="module")
def frame(bodies):
    return PoseFrame(bodies.whole.ct.rotation_centre_lps_mm, 700.0)


@pytest.fixture(scope="module")
def bent_case(bodies, frame):
    """True poses of three vertebrae, and the X-ray of the bent spine."""
    motions = bent_poses(
        np.array([b.centre_lps_mm for b in bodies.bodies]), np.random.default_rng(5), 4.0, 2.0
    )
    volume = bent(bodies, dict(zip(bodies.names, motions, strict=True)))
    T = frame.T_nominal
    image = project(ProjectorVolume(volume), CAMERA, T)
    return T @ motions, PreparedRadiograph(image, np.ones(image.shape, bool), CAMERA)


def two_volumes():
    grid = oblique_grid()
    return [ProjectorVolume(GaussianBlobs.asymmetric(grid).sampled(grid)) for _ in range(2)], grid


def test_a_ct_that_was_cut_up_is_the_sum_of_its_bodies(bodies, frame):
    assert [body.name for body in bodies.moving] == ["L5", "L4", "L3", REST]
    assert [body.hold.parent for body in bodies.bodies if body.hold] == ["L5", "L4"]
    volumes = [body.subject.body.level(0) for body in bodies.moving]
    T = frame.T_nominal
    whole = project(ProjectorVolume(bodies.whole.ct.attenuation), CAMERA, T)
    np.testing.assert_allclose(project_bodies(volumes, CAMERA, np.array([T] * 4)), whole, atol=1e-4)


def test_the_hole_is_filled_with_soft_tissue(bodies):
    hole = bodies.bodies[1].subject.ct
    middle = bodies.rest.subject.ct.attenuation
    index = middle.lps_to_index @ np.append(hole.rotation_centre_lps_mm, 1)
    i, j, k = np.rint(index[:3]).astype(int)
    assert 0.017 < middle.array[k, j, i] < 0.024


def test_a_bone_cut_out_of_a_ct_shows_what_it_shows_in_the_body(phantom, bodies, frame):
    alone = Subject(prepare_ct(bone_alone(phantom.ct, phantom.labels, 23)))
    assert alone.is_segmented_bone
    part = bodies.bodies[1].subject
    expected, in_tissue, in_air = (
        project(moving.level(0), CAMERA, frame.T_nominal)
        for moving in (part.in_tissue, alone.in_tissue, alone.body)
    )
    assert np.linalg.norm(in_tissue - expected) < 0.6 * np.linalg.norm(expected)
    assert np.linalg.norm(in_air - expected) > 3 * np.linalg.norm(expected)
    # What a part is more than its surroundings was taken off already.
    assert part.in_tissue is part.body


@pytest.mark.slow
@pytest.mark.skipif(not installed_version("itk-rtk"), reason="itk-rtk is not installed")
def test_two_bodies_in_different_poses_are_the_sum_of_rtks_pictures():
    volumes, grid = two_volumes()
    camera, poses = off_centre_camera(122, 90), oblique_poses(grid, 2)
    expected = sum(
        render_rtk(grid.same_grid(v.volume.array), camera, T) for v, T in zip(volumes, poses, strict=True)
    )
    assert relative_difference(project_bodies(volumes, camera, poses), expected) < 5e-3


def test_derivatives_of_the_sum_are_those_of_finite_differences():
    volumes, grid = two_volumes()
    camera, poses = off_centre_camera(), oblique_poses(grid, 2)
    image, blocks = project_bodies_with_jacobian(volumes, camera, poses)
    np.testing.assert_array_equal(image, project_bodies(volumes, camera, poses))
    for body, (window, jacobian) in enumerate(blocks):
        full = np.zeros((*camera.shape, 6))
        full[window] = np.moveaxis(jacobian, 0, -1)
        expected = np.zeros_like(full)
        for axis, step in enumerate([3e-4] * 3 + [0.2] * 3):
            ends = []
            for sign in (1, -1):
                moved, twist = poses.copy(), np.zeros(6)
                twist[axis] = sign * step
                moved[body] = se3.exp_se3(twist) @ moved[body]
                ends.append(project_bodies(volumes, camera, moved).astype(float))
            expected[..., axis] = (ends[0] - ends[1]) / (2 * step)
        assert jacobian_difference(full, expected).mean() < 2e-3


def test_a_window_leaves_nothing_of_a_body_out(bodies, frame):
    volume, T = bodies.bodies[0].subject.body.level(0), frame.T_nominal
    image, [(window, jacobian)] = project_bodies_with_jacobian([volume], CAMERA, T[None])
    whole, full = project_with_jacobian(volume, CAMERA, T)
    np.testing.assert_array_equal(image, whole)
    assert jacobian[0].size < whole.size / 4
    outside = np.ones(whole.shape, bool)
    outside[window] = False
    assert not full[outside].any()
    np.testing.assert_array_equal(np.moveaxis(full, -1, 0)[:, window[0], window[1]], jacobian)


def test_equations_by_windows_are_those_of_the_whole_jacobian(rng):
    shape, windows = (40, 50), [(slice(3, 20), slice(5, 30)), (slice(15, 40), slice(20, 45))]
    fixed, image = rng.normal(size=(2, *shape)).astype(np.float32)
    valid = rng.random(shape) > 0.1
    residual = LocalResidual(fixed, valid[None], 9)
    full, blocks = np.zeros((1, 12, *shape), np.float32), []
    for number, window in enumerate(windows):
        block = rng.normal(size=full[0, :6, window[0], window[1]].shape).astype(np.float32)
        full[0, 6 * number : 6 * number + 6, window[0], window[1]] = block
        blocks.append((window, block))
    r, J = residual(image[None], full, np.zeros(1, int))
    cost, gradient, hessian = residual.equations(image, blocks)
    J = J.reshape(12, -1).astype(float)
    assert cost == pytest.approx((r * r).sum(), rel=1e-4)
    np.testing.assert_allclose(gradient, J @ r.ravel(), atol=2e-5)
    np.testing.assert_allclose(hessian, J @ J.T, rtol=1e-3, atol=1e-5)


def test_one_body_has_the_equations_of_a_registration_of_one_body(bodies, frame, bent_case):
    subject, radiograph = bodies.whole, bent_case[1]
    level, T = Level(64, 15), frame.T_nominal
    joint = JointObjective(Scene(Bodies.one(subject), [radiograph]), level, T[None]).at(T[None])
    centre = subject.ct.rotation_centre_lps_mm
    alone = LevelObjective([radiograph], compared_target(subject), level, T[None], centre)(
        T[None], np.zeros(1, int)
    )
    np.testing.assert_allclose(joint.cost, alone.cost, rtol=1e-5)
    np.testing.assert_allclose(joint.gradient, alone.gradient, rtol=1e-2, atol=1e-5)
    np.testing.assert_allclose(joint.hessian, alone.hessian, rtol=1e-3, atol=1e-5)


def test_least_squares_of_several_bodies_is_that_of_each_where_nothing_joins_them(rng):
    goals = se3.exp_se3(rng.normal(size=(2, 6)) * [0.2, 0.2, 0.2, 5, 5, 5])
    centres = rng.normal(size=(2, 3))

    def of_one(goal, centre):
        def evaluate(T, starts):
            away = -se3.twist_about(T, np.repeat(goal[None], len(T), axis=0), centre)
            return NormalEquations((away**2).sum(axis=1), away, np.repeat(np.eye(6)[None], len(T), axis=0))

        return evaluate

    def of_both(T, starts):
        parts = [of_one(g, c)(T[:, n], starts) for n, (g, c) in enumerate(zip(goals, centres, strict=True))]
        gradient = np.concatenate([part.gradient for part in parts], axis=1)
        return NormalEquations(sum(part.cost for part in parts), gradient, np.eye(12)[None])

    start = np.tile(np.eye(4), (1, 2, 1, 1))
    found = levenberg_marquardt(of_both, start, centres, 60, 1e-6, 0.0)
    np.testing.assert_allclose(found.T[0], goals, atol=1e-4)


def test_what_holds_bodies_has_the_derivative_of_its_cost(bodies, frame, bent_case):
    scene = Scene(bodies, [bent_case[1]])
    T0 = np.array([frame.T_nominal] * 4)
    objective = JointObjective(scene, Level(32, 9), T0)
    twists = np.random.default_rng(2).normal(size=(4, 6)) * [0.01, 0.01, 0.01, 0.5, 0.5, 0.5]
    T = se3.move_about(T0, twists, scene.centres_lps_mm)

    def held(T):
        return float(objective.at(T).cost[0] - objective.at(T, with_holds=False).cost[0])

    gradient = (objective.at(T).gradient - objective.at(T, with_holds=False).gradient)[0]
    for column in range(0, 24, 5):
        step = np.zeros((4, 6))
        step.flat[column] = 1e-4
        ends = [held(se3.move_about(T, sign * step, scene.centres_lps_mm)) for sign in (1, -1)]
        # The twist between two poses is linear but for its square.
        assert gradient[column] == pytest.approx((ends[0] - ends[1]) / 4e-4, rel=0.06, abs=1e-5)


def test_released_bodies_find_their_places_and_a_fixed_one_stays(bodies, frame, bent_case):
    true, radiograph = bent_case
    scene = Scene(bodies, [radiograph])
    start = np.array([frame.T_nominal] * 3)
    found = refine_jointly(scene, start, (Level(64, 15, 12), Level(128, 13, 10)))

    def errors(T):
        places = (
            [se3.transform_points(P, b.centre_lps_mm) for P, b in zip(poses, bodies.bodies, strict=False)]
            for poses in (T, true)
        )
        return np.linalg.norm(np.subtract(*places)[:, :2], axis=1)

    assert errors(start).max() > 1.5
    # Voxels of 4 mm, pixels of 1.1 mm at the spine.
    assert errors(found.T[:3]).max() < 0.7
    verdicts, pairs = judge_bodies(scene, found)
    assert {verdict.status for verdict in verdicts} <= {"accept", "review"}
    assert [(pair.body, pair.parent) for pair in pairs] == [("L4", "L5"), ("L3", "L4")]
    stays = Scene(bodies.held([], ["L4"]), [radiograph])
    refined = refine_jointly(stays, start, (Level(64, 15, 4),))
    np.testing.assert_array_equal(refined.T[1], start[1])


def test_whoever_stops_bodies_that_move_gets_the_best_poses_so_far(bodies, frame, bent_case):
    scene, told = Scene(bodies, [bent_case[1]]), []
    start = scene.with_rest(np.array([frame.T_nominal] * 3))

    def stop(state):
        told.append(state)
        if len(told) == 3:
            raise Cancelled

    found = refine_jointly(scene, start, (Level(64, 15, 12),), stop)
    assert found.stopped
    assert len(told) == 3
    assert found.objective.at(found.T).cost[0] < found.objective.at(start).cost[0]


def test_a_body_that_the_picture_does_not_show_stays_and_is_not_accepted(bodies, frame, bent_case):
    radiograph = bent_case[1]
    T = np.array([frame.T_nominal] * 3)
    top = bodies["L3"]
    v = CAMERA.project(se3.transform_points(T[0], top.subject.ct.surface_points_lps_mm))[:, 1]
    valid = radiograph.valid & (np.arange(128)[:, None] > v.max() + 8)
    scene = Scene(bodies, [replace(radiograph, valid=valid)])
    found = refine_jointly(scene, T, (Level(64, 9, 6),))
    relative = se3.invert_rigid(found.T[1]) @ found.T[2]
    assert np.rad2deg(se3.rotation_distance(relative[:3, :3], np.eye(3))) < 1.0
    assert judge_bodies(scene, found)[0][2].status != "accept"


def test_a_body_far_from_its_place_is_not_accepted(bodies, bent_case):
    true, radiograph = bent_case
    scene = Scene(bodies, [radiograph])
    wrong = scene.with_rest(true.copy())
    wrong[1] = se3.move_about(wrong[1], np.array([0.2, 0.15, 0.3, 6, 9, 0]), bodies["L4"].centre_lps_mm)
    verdicts, _ = judge_bodies(scene, Refined(wrong, JointObjective(scene, scene.kind.finest, wrong)))
    assert verdicts[1].status != "accept"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda labels: labels.same_grid(np.zeros_like(labels.array)), "is empty"),
        (
            lambda labels: Volume(labels.array, np.diag([1, 1, 1, 1.0]) + np.eye(4, k=3) * 9e3),
            "does not overlap",
        ),
        (lambda labels: labels.same_grid(labels.array + 0.5), "no whole numbers"),
        (lambda labels: labels.same_grid(labels.array.astype(np.int16) - 1000), "not an image"),
        (
            lambda labels: labels.same_grid(np.arange(labels.array.size).reshape(labels.array.shape) % 2000),
            "2000 different values, from 0 to 1999",
        ),
    ],
)
def test_a_label_map_that_is_none_of_this_ct_is_refused(phantom, bodies, change, message):
    with pytest.raises(InputError, match=message) as refused:
        cut_up(bodies.whole.ct, change(phantom.labels))
    assert "\n" not in str(refused.value)


def test_a_label_map_may_hold_floats_large_numbers_and_be_of_another_grid(phantom, bodies):
    chosen = np.isin(phantom.labels.array, [22, 23])
    large = phantom.labels.same_grid(np.where(chosen, phantom.labels.array.astype(np.float64) + 2.0**40, 0.0))
    names = {22 + 2**40: "22", 23 + 2**40: "23"}
    for labels in (large, Volume(*_twice_as_fine(large))):
        cut = cut_up(bodies.whole.ct, labels, names)
        for body in cut.bodies:
            assert np.allclose(body.centre_lps_mm, bodies[LUMBAR[int(body.name)]].centre_lps_mm, atol=1.0)


def _twice_as_fine(volume):
    """Array and matrix of a volume each voxel of which is eight."""
    array = volume.array
    for axis in range(3):
        array = np.repeat(array, 2, axis)
    return array, volume.index_to_lps @ np.array(
        [[0.5, 0, 0, -0.25], [0, 0.5, 0, -0.25], [0, 0, 0.5, -0.25], [0, 0, 0, 1]]
    )


def test_labels_are_chosen_or_named(phantom, tmp_path):
    labels = phantom.labels.same_grid(
        np.where(np.isin(phantom.labels.array, [22, 23]), phantom.labels.array, 0)
    )
    path = tmp_path / "labels.nii.gz"
    assert label_names(path, labels) == {22: "22", 23: "23"}
    assert label_names(path, labels, ["23"]) == {23: "23"}
    assert label_names(path, labels, ["upper", "lower"]) == {22: "upper", 23: "lower"}
    with pytest.raises(InputError, match="has no upper: it has 22, 23"):
        label_names(path, labels, ["upper"])


def test_bodies_that_do_not_go_together_are_refused(bodies, frame):
    one = bodies.bodies[0].subject
    a, b = RigidBody("a", one), RigidBody("b", one)
    for made, message in [
        ((), "no body"),
        ((a, a), "two bodies are called 'a'"),
        ((a, replace(b, hold=Hold("c"))), "b is held to 'c', which is not there"),
        ((replace(a, hold=Hold("b")), replace(b, hold=Hold("a"))), "held to itself"),
        ((replace(a, fixed=True),), "all bodies are fixed"),
    ]:
        with pytest.raises(InputError, match=message):
            Bodies(made)
    with pytest.raises(InputError, match="no body is called 'c'"):
        Bodies((a, b)).held([("a", "c")])


def test_of_two_bodies_that_end_in_one_place_the_one_that_agrees_is_kept(bodies, frame):
    one, far = bodies.bodies[0].subject, frame.T_nominal.copy()
    far[0, 3] += 60.0
    apart, together = np.array([frame.T_nominal, far]), np.array([frame.T_nominal] * 2)
    pair = RigidBody("a", one), RigidBody("b", one)
    accepted, rejected = (Verdict(status, ["why"], None, None) for status in ("accept", "reject"))

    def judged(*verdicts, T=together):
        return [verdict.status for verdict in not_in_one_place(verdicts, pair, T)]

    assert judged(accepted, accepted, T=apart) == ["accept", "accept"]
    assert judged(accepted, rejected) == ["accept", "reject"]
    assert judged(accepted, accepted) == ["review", "review"]
    reason = not_in_one_place([accepted, rejected], pair, together)[1].reasons[-1]
    assert reason == "in one place with a: 100% of b lies in a; one of them is wrong"


def test_metal_may_stand_in_bone(bodies, frame):
    bone = bodies.bodies[0].subject
    metal = Subject(replace(bone.ct, is_metal=True))
    assert not in_one_place([RigidBody("a", bone), RigidBody("b", metal)], np.array([frame.T_nominal] * 2))


def test_one_body_twice_is_refused_before_anything_is_registered(bodies, frame, bent_case):
    one = bodies.bodies[0].subject
    both = Bodies((RigidBody("a", one), RigidBody("b", one)))
    starts = dict.fromkeys("ab", frame.T_nominal)
    with pytest.raises(InputError, match="give each its own start"):
        register_bodies(both, [bent_case[1]], frame, RegistrationSettings("given"), starts)


def test_a_body_in_no_view_is_refused_before_anything_is_registered(bodies, frame, bent_case):
    one, other = (RigidBody(name, body.subject) for name, body in zip("ab", bodies.bodies, strict=False))
    far = frame.T_nominal.copy()
    far[0, 3] += 500.0
    starts = {"a": frame.T_nominal, "b": far}
    with pytest.raises(InputError, match="b lies outside every X-ray") as refused:
        register_bodies(Bodies((one, other)), [bent_case[1]], frame, RegistrationSettings("given"), starts)
    assert "\n" not in str(refused.value)


def test_who_is_held_the_other_way_round_is_let_go(bodies):
    held = bodies.held([("L5", "L4")])
    assert held["L5"].hold == Hold("L4")
    assert held["L4"].hold is None


@pytest.mark.slow
def test_one_body_is_registered_as_ever(bodies, frame, bent_case):
    subject, settings = bodies.whole, RegistrationSettings("nominal")
    alone = register(subject, [bent_case[1]], frame, settings)
    [body] = register_bodies(Bodies.one(subject), [bent_case[1]], frame, settings).bodies
    np.testing.assert_array_equal(body.T_lps_to_world, alone.T_lps_to_world)
    assert body.verdict.reasons == alone.verdict.reasons


@pytest.mark.slow
def test_a_registration_of_bodies_that_is_stopped_while_they_move_has_their_poses(bodies, frame, bent_case):
    def stop(state):
        if state.stage.startswith("all bodies") and state.fraction > 0.5:
            raise Cancelled

    result = register_bodies(bodies, [bent_case[1]], frame, RegistrationSettings("nominal"), report=stop)
    assert result.stopped
    assert {body.verdict.status for body in result.bodies} == {"review"}
    assert all(np.abs(body.T_lps_to_world - body.initial_T).max() > 0.01 for body in result.bodies)


@pytest.mark.parametrize("refine", ["opt", "none"])
def test_parts_that_were_moved_before_are_released_from_there(bodies, frame, bent_case, refine):
    """Whether stopped while all is one piece or once released; what is told is where each of them is."""
    moved, told = {"L4": se3.rigid(np.eye(3), np.array([4.0, 0.0, 0.0]))}, []

    def stop(state):
        if state.T is not None:
            told.append(state)
            raise Cancelled

    settings = RegistrationSettings("given", refine)
    start = {name: frame.T_nominal for name in bodies.names}
    result = register_bodies(bodies, [bent_case[1]], frame, settings, start, stop, moved)
    [state], piece = told, result.bodies[0].initial_T
    assert set(state.bodies) == {*bodies.names, *([""] if refine == "opt" else [])}
    # One iteration has been made when the first one is told.
    most_mm = 1e-9 if refine == "opt" else 3.0
    for body in result.bodies:
        np.testing.assert_array_equal(body.initial_T, piece)
        np.testing.assert_allclose(body.T_lps_to_world, state.bodies[body.name], atol=1e-9)
        off = body.T_lps_to_world - piece @ moved.get(body.name, np.eye(4))
        assert np.abs(off @ np.append(bodies[body.name].centre_lps_mm, 1.0)).max() <= most_mm


@pytest.mark.slow
def test_command_line_of_a_labelled_ct(tmp_path, phantom, bent_case):
    write_volume(tmp_path / "ct.nrrd", phantom.ct)
    write_volume(tmp_path / "labels.nrrd", phantom.labels)
    image = bent_case[1].image
    write_picture(tmp_path / "xray.png", np.rint(6e4 * image / image.max()).astype(np.uint16))
    geometry = {"sdd_mm": 1011.7, "pixel_spacing_mm": [1.6, 1.6], "sod_mm": 700.0, "view": "AP"}
    (tmp_path / "geometry.json").write_text(json.dumps(geometry))
    out = tmp_path / "out"
    words = ["register", tmp_path / "ct.nrrd", "--xrays", tmp_path / "xray.png", "--out", out]
    words += ["--labels", f"{tmp_path / 'labels.nrrd'}:24,23", "--geometry", tmp_path / "geometry.json"]
    mask = np.full(image.shape, 255, np.uint8)
    mask[:, :10] = 0
    write_picture(tmp_path / "mask.png", mask)
    words += ["--xray-mask", tmp_path / "mask.png"]
    words += ["--init", "nominal", "--polarity", "bone-bright", "--held", "24=23"]
    assert main([str(word) for word in words]) == 0
    result = json.loads((out / "result.json").read_text())
    assert [body["name"] for body in result["bodies"]] == ["24", "23"]
    assert all(isinstance(body["alternatives"], list) for body in result["bodies"])
    assert result["pose"] == result["bodies"][0]["pose"]
    assert [(pair["body"], pair["parent"]) for pair in result["pairs"]] == [("24", "23")]
    assert {"24_to_carm.tfm", "23_to_carm.tfm", "overlay.png", "drr.nrrd"} <= {
        file.name for file in out.iterdir()
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--labels", "gone.nrrd"], "gone.nrrd"),
        (["--labels", "gone.nrrd:a,b"], "gone.nrrd"),
    ],
)
def test_command_line_refuses_in_one_line(tmp_path, phantom, bent_case, capsys, words, message):
    write_volume(tmp_path / "ct.nrrd", phantom.ct)
    write_picture(
        tmp_path / "x.png", np.rint(250 * bent_case[1].image / bent_case[1].image.max()).astype(np.uint8)
    )
    geometry = {"sdd_mm": 1011.7, "pixel_spacing_mm": [1.6, 1.6], "sod_mm": 700.0, "view": "AP"}
    (tmp_path / "g.json").write_text(json.dumps(geometry))
    command = ["register", str(tmp_path / "ct.nrrd"), "--xrays", str(tmp_path / "x.png"), "--out"]
    command += [str(tmp_path / "out"), "--geometry", str(tmp_path / "g.json"), *words]
    assert main(command) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert message in error[-1]
    assert not (tmp_path / "out").exists()
