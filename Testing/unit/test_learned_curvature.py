"""Curvature that Levenberg-Marquardt learns where residuals stay large; what an objective computes once."""

import numpy as np
import pytest
from SOPIRegistrationLib.compare import Level
from SOPIRegistrationLib.compare.objective import LevelObjective, compared_view, near_object
from SOPIRegistrationLib.compare.target import targets_of
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.radiograph import PreparedRadiograph
from SOPIRegistrationLib.optimise.least_squares import NormalEquations, levenberg_marquardt
from SOPIRegistrationLib.projector import project
from SOPIRegistrationLib.similarity.residuals import LocalResidual
from SOPIRegistrationLib.subject import Subject
from SOPIRegistrationLib.subject.surface import filled, material_named
from support.surfaces import implant

# Times the curvature; squares that no pose takes away.
STEEPER, LEFT = 4.0, 1e3


@pytest.fixture
def too_steep(rng):
    """(True pose, equations of landmarks with several times their curvature, as sharp outlines have)."""
    T_true = se3.exp_se3(np.array([0.2, -0.1, 0.15, 4.0, -7.0, 10.0]))
    points = rng.normal(0, 40, (20, 3))
    seen = se3.transform_points(T_true, points)

    def equations(T, _):
        moved = points @ T[:, :3, :3].swapaxes(1, 2) + T[:, None, :3, 3]
        r = (moved - seen).reshape(len(T), -1)
        arms = moved - T[:, None, :3, 3]
        J = np.concatenate([-se3.skew(arms), np.broadcast_to(np.eye(3), (*arms.shape, 3))], axis=-1)
        J = J.reshape(len(T), -1, 6)
        gradient, hessian = np.einsum("pni,pn->pi", J, r), np.einsum("pni,pnj->pij", J, J)
        return NormalEquations((r * r).sum(axis=1) + LEFT, gradient, STEEPER * hessian)

    return T_true, equations


def test_learned_curvature_makes_up_for_steps_that_are_too_short(too_steep):
    T_true, equations = too_steep
    start = np.stack([np.eye(4), se3.exp_se3(np.array([0.4, 0.1, -0.2, 10.0, 5.0, -20.0]))])

    def ends(secant, iterations):
        return levenberg_marquardt(equations, start, np.zeros(3), iterations, 1e-6, 0.0, secant=secant)

    few = ends(True, 12)
    np.testing.assert_allclose(few.T, np.broadcast_to(T_true, few.T.shape), atol=1e-3)
    assert (ends(False, 12).equations.cost - LEFT > 100 * np.maximum(few.equations.cost - LEFT, 1e-9)).all()
    # Where it all ends is the same.
    np.testing.assert_allclose(ends(False, 200).T, ends(True, 200).T, atol=1e-4)


def test_learned_curvature_never_makes_a_pose_worse(too_steep):
    _, equations = too_steep
    reports = []
    levenberg_marquardt(equations, np.eye(4), np.zeros(3), 20, 0.0, 0.0, reports.append, secant=True)
    values = [report.similarity for report in reports]
    assert len(values) == 20
    assert values == sorted(values)


@pytest.fixture(scope="module")
def plate():
    """(Metal target, X-ray that shows it beside where it is thought to be, that pose, centre)."""
    subject = Subject(filled(implant(), material_named("CoCr"), spacing_mm=1.0))
    [target] = targets_of(subject)
    camera = Camera.from_c_arm(1000.0, (1.0, 1.0), 160, 160)
    centre = subject.ct.rotation_centre_lps_mm
    T = PoseFrame(centre, 700.0).T_from_theta(np.array([0.4, 0.3, 0.1, 5.0, -8.0, 0.0]))
    beside = se3.move_about(T, np.array([0.02, -0.01, 0.03, 1.0, -0.7, 2.0]), centre)
    image = project(target.moving.for_camera(camera, beside), camera, beside)
    radiograph = PreparedRadiograph(image, np.ones(camera.shape, bool), camera, bone_dark=False)
    return target, radiograph, T, centre


def test_an_objective_compares_what_lies_near_the_object_and_nothing_else(plate):
    target, radiograph, T, centre = plate
    level = Level(128, 11)
    view = compared_view(radiograph, target, T[None], level.pixels)
    volume = target.moving.for_camera(view.camera, T)
    near = near_object(volume, view.camera, T[None], level.window_px) & view.valid
    moved = se3.move_about(T, np.array([0.0, 0.01, 0.0, 0.4, 0.2, 0.0]), centre)
    objective = LevelObjective([radiograph], target, level, T[None], centre)
    for pose in (T, moved, T):
        whole, fixed = LocalResidual(view.image, near, level.window_px).images(
            project(volume, view.camera, pose[None]), np.zeros(1, dtype=int)
        )
        cost = objective(pose[None], np.zeros(1, dtype=int)).cost[0]
        assert cost == pytest.approx(2 * (1 - float((whole * fixed).sum())), abs=1e-4)
        assert cost > 1e-3


def test_what_is_made_of_an_objectives_answer_does_not_change_it(plate):
    target, radiograph, T, centre = plate
    objective = LevelObjective([radiograph], target, Level(64, 11), T[None], centre)
    first = objective(T[None], np.zeros(1, dtype=int))
    kept = [part.copy() for part in first]
    for part in first:
        part[:] = 0
    for part, again in zip(kept, objective(T[None], np.zeros(1, dtype=int)), strict=True):
        np.testing.assert_array_equal(part, again)
