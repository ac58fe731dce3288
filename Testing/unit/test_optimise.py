"""Generic optimisers on objectives whose best pose is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from SOPIRegistrationLib.errors import Cancelled, InputError
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.optimise.cmaes import maximise_by_cmaes
from SOPIRegistrationLib.optimise.descent import maximise_by_gradient
from SOPIRegistrationLib.optimise.pose_chart import PoseChart, PoseScale

POINTS = np.random.default_rng(5).normal([40.0, -100.0, 300.0], [40.0, 25.0, 30.0], (60, 3))
CENTRE = POINTS.mean(axis=0)
FOCAL_PX = 1270.0


def _pose(w, centre_in_camera):
    R = se3.exp_so3(np.asarray(w, dtype=float))
    return se3.rigid(R, np.asarray(centre_in_camera, dtype=float) - R @ CENTRE)


TRUTH = _pose([0.3, -0.5, 0.2], [5, -8, 700])
START = _pose([0.4, -0.42, 0.28], [10, -14, 730])


def _project(T, points):
    in_camera = points @ T[..., :3, :3].swapaxes(-1, -2) + T[..., None, :3, 3]
    return FOCAL_PX * in_camera[..., :2] / in_camera[..., 2:]


TARGETS = _project(TRUTH, POINTS)


def squared_distance(T):
    """Minus the mean squared reprojection distance, pixels^2, of one or more poses; numpy."""
    return -np.mean((_project(T, POINTS) - TARGETS) ** 2, axis=(-2, -1))


def squared_distance_torch(T):
    assert T.shape == (4, 4)
    assert T.dtype == torch.float64
    return -((_project(T, torch.from_numpy(POINTS)) - torch.from_numpy(TARGETS)) ** 2).mean()


def _errors(T):
    """Rotation (deg), in-plane and depth error of the centre (mm)."""
    shift = (T @ np.r_[CENTRE, 1] - TRUTH @ np.r_[CENTRE, 1])[:3]
    angle = np.rad2deg(se3.rotation_distance(T[:3, :3], TRUTH[:3, :3]))
    return angle, np.hypot(*shift[:2]), abs(shift[2])


def _twist_about_centre(T, T_from):
    """Twist in camera axes that leads from one pose to others, about the object's centre."""
    shift = se3.rigid(np.eye(3), -(T_from @ np.r_[CENTRE, 1])[:3])
    return se3.log_se3(shift @ T @ np.linalg.inv(shift @ T_from))


METHODS = {"adam": {}, "lbfgs": {}, "sgd": {"learning_rate": 2e-3, "max_iterations": 1500}}


@pytest.mark.parametrize("method", METHODS)
def test_gradient_methods_find_the_pose(method):
    result = maximise_by_gradient(squared_distance_torch, START, CENTRE, method=method, **METHODS[method])
    angle, in_plane, depth = _errors(result.T)
    assert angle < 0.05
    assert in_plane < 0.02
    assert depth < 0.5
    assert result.value == pytest.approx(squared_distance(result.T))
    assert result.reason == ("gain" if method == "lbfgs" else "step")
    assert result.evaluations >= result.iterations


def test_cmaes_finds_the_pose_in_batches():
    shapes = []

    def objective(T):
        shapes.append(T.shape)
        return squared_distance(T)

    result = maximise_by_cmaes(objective, START, CENTRE, population=12)
    angle, in_plane, depth = _errors(result.T)
    assert angle < 0.05
    assert in_plane < 0.02
    assert depth < 0.5
    assert set(shapes[1:]) == {(12, 4, 4)}
    assert result.evaluations == 1 + 12 * result.iterations
    assert result.value == pytest.approx(squared_distance(result.T))
    assert result.reason == "step"


def test_cmaes_leaves_a_local_maximum():
    # Cosine ripples on every axis: the start sits on the top of one.
    waves = np.array([*[np.deg2rad(6)] * 3, 6, 6, 18])

    def objective(T):
        relative = _twist_about_centre(T, TRUTH)
        bowl = (relative / [0.3, 0.3, 0.3, 20, 20, 60]) ** 2
        return np.sum(0.15 * np.cos(2 * np.pi * relative / waves) - bowl, axis=-1)

    start = PoseChart(TRUTH, CENTRE, PoseScale(waves[0], waves[3], waves[5])).T(
        np.array([1.0, 0, -1, 1, 0, 0])
    )
    assert objective(TRUTH) == pytest.approx(0.9)
    result = maximise_by_cmaes(objective, start, CENTRE, population=40, seed=3)
    assert result.value > 0.89
    assert result.value > objective(start) + 0.1


def test_cmaes_is_deterministic_silent_and_leaves_the_global_generator_alone(capfd):
    np.random.seed(1)  # noqa: NPY002
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    runs = [
        maximise_by_cmaes(squared_distance, START, CENTRE, seed=seed, max_iterations=15) for seed in (0, 0, 7)
    ]
    np.testing.assert_array_equal(runs[0].T, runs[1].T)
    assert (runs[0].T != runs[2].T).any()
    assert runs[0].reason == "iterations"
    assert runs[0].iterations == 15
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002
    assert capfd.readouterr() == ("", "")


def test_cmaes_stays_inside_its_bounds():
    bounds = PoseScale(rotation_rad=0.03, in_plane_mm=2, depth_mm=8)
    seen = []

    def objective(T):
        seen.append(T)
        return squared_distance(T)

    result = maximise_by_cmaes(objective, START, CENTRE, bounds=bounds, max_iterations=60)
    coordinates = _twist_about_centre(np.concatenate(seen), START) / bounds.twist
    assert np.abs(coordinates).max() <= 1 + 1e-9
    assert np.abs(coordinates).max() > 0.99
    assert squared_distance(START) < result.value < -1


def _run(optimiser, report, **options):
    objective = squared_distance if optimiser is maximise_by_cmaes else squared_distance_torch
    return optimiser(objective, START, CENTRE, report=report, **options)


@pytest.mark.parametrize("optimiser", [maximise_by_gradient, maximise_by_cmaes])
def test_every_iteration_is_reported_and_only_gains(optimiser):
    reports = []
    result = _run(optimiser, reports.append, max_iterations=25)
    assert [report.fraction for report in reports] == pytest.approx([k / 25 for k in range(1, 26)])
    assert (np.diff([report.similarity for report in reports]) >= 0).all()
    for report in (reports[0], reports[-1]):
        assert report.similarity == pytest.approx(squared_distance(report.T))
    assert result.value == reports[-1].similarity
    np.testing.assert_array_equal(result.T, reports[-1].T)
    assert result.reason == "iterations"


@pytest.mark.parametrize("optimiser", [maximise_by_gradient, maximise_by_cmaes])
def test_cancelling_stops_at_once(optimiser):
    reports = []

    def cancel_at_third(report):
        reports.append(report)
        if len(reports) == 3:
            raise Cancelled("stopped by the user")

    with pytest.raises(Cancelled):
        _run(optimiser, cancel_at_third)
    assert len(reports) == 3
    assert squared_distance(reports[-1].T) > squared_distance(START)


@pytest.mark.parametrize("optimiser", [maximise_by_gradient, maximise_by_cmaes])
def test_never_worse_than_the_start(optimiser):
    objective = squared_distance if optimiser is maximise_by_cmaes else squared_distance_torch
    result = optimiser(objective, TRUTH, CENTRE, max_iterations=5)
    assert result.value == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(result.T, TRUTH, atol=1e-9)


@pytest.mark.parametrize("method", ["adam", "lbfgs"])
def test_an_objective_without_slope_ends_at_the_start(method):
    result = maximise_by_gradient(lambda T: 0 * T.sum(), START, CENTRE, method=method)
    np.testing.assert_allclose(result.T, START, atol=1e-9)
    assert result.reason in ("gain", "step")
    assert result.iterations < 60


def test_an_objective_that_breaks_ends_with_the_best_pose_before():
    calls = []

    def objective(T):
        calls.append(1)
        value = squared_distance_torch(T)
        return value if len(calls) < 4 else value * float("nan")

    result = maximise_by_gradient(objective, START, CENTRE)
    assert result.reason == "objective not finite"
    assert np.isfinite(result.T).all()
    assert result.value > squared_distance(START)


def test_unknown_method_lists_the_known_ones():
    with pytest.raises(InputError, match="unknown gradient method 'newton': use one of adam, sgd, lbfgs"):
        maximise_by_gradient(squared_distance_torch, START, CENTRE, method="newton")


def test_chart_turns_about_the_centre_and_scales_each_axis():
    chart = PoseChart(START, CENTRE, PoseScale(rotation_rad=0.1, in_plane_mm=2, depth_mm=30))
    np.testing.assert_allclose(chart.T(np.zeros(6)), START, atol=1e-9)
    centre = np.r_[CENTRE, 1]
    turned = chart.T(np.array([0.0, 1.5, 0, 0, 0, 0]))
    np.testing.assert_allclose(turned @ centre, START @ centre, atol=1e-9)
    assert se3.rotation_distance(turned[:3, :3], START[:3, :3]) == pytest.approx(0.15)
    moved = chart.T(np.array([0, 0, 0, 1.0, -1, 2]))
    np.testing.assert_allclose((moved - START) @ centre, [2, -2, 60, 0], atol=1e-9)
    x = np.random.default_rng(0).normal(size=(4, 6))
    np.testing.assert_allclose(chart.T(torch.from_numpy(x)).numpy(), chart.T(x), atol=1e-9)
