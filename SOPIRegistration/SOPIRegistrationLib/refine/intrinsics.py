"""Intrinsics estimated with the pose, where a geometry is known with tolerances only.

Gauss-Newton on the residuals of the finest level and on the deviations themselves, each weighed by its
tolerance: the most probable pose and intrinsics. A principal point that is off is nearly a turn about the
source, a wrong distance nearly a shift in depth. What the images do not fix is left as it was given, and so
is all that they do not contradict, or it would follow their noise; how uncertain it stays becomes a part of
the predicted error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from SOPIRegistrationLib.compare import Comparison, Hypotheses, LevelObjective
from SOPIRegistrationLib.compare.run import Run
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.intrinsics import (
    DEVIATIONS,
    FIXED,
    EstimatedIntrinsics,
    tolerated_deviation,
)
from SOPIRegistrationLib.optimise.least_squares import NormalEquations

STAGE = "intrinsics"
# The images contradict given values that are so many standard deviations from theirs, root mean square.
_CONTRADICTS = 1.5
_ITERATIONS = 8
# What tolerances weigh depends on how well the images agree, which at wrong intrinsics they may not: first on
# how well they promise to, but no better than by such a factor; then they are weighed again until it settles.
_MOST_PROMISED = 0.1
_ROUNDS, _SETTLED = 3, 0.85
# Converged, in units of the tolerances.
_SETTLED_Z = 0.02


def with_intrinsics(hypotheses: Hypotheses, run: Run) -> Hypotheses:
    """The first hypothesis with its cameras' intrinsics estimated; the others go along with it.

    Where no camera has a tolerance they come back as they are.

    Args:
        hypotheses: refined with the intrinsics given.
        run: told of the stage.

    Returns:
        The same in cameras of the intrinsics found; ``Reading.intrinsics`` says what was estimated.
    """
    comparison = hypotheses.comparison
    spreads = spreads_of([one.camera for one in comparison.radiographs])
    if not spreads.shape[1]:
        return hypotheses
    with run.stage(STAGE, shows_poses=False) as stage:
        objective = _Objective(comparison, hypotheses.T[0], spreads)
        T, z = hypotheses.T[0], np.zeros(spreads.shape[1])
        for _ in range(_ROUNDS):
            z = objective.choose(T, z)
            if objective.seeks_nothing:
                T = hypotheses.T[0]
            else:
                T, z = objective.minimised(T, z, lambda done: run.report(STAGE, fraction=done))
            cost = float(objective.images(T, z).cost[0])
            before, objective.variance = objective.variance, objective.variance_of(cost)
            if _SETTLED < objective.variance / before < 1 / _SETTLED:
                break
        # What moved the one moves its rivals: they show what they showed.
        along = T @ se3.invert_rigid(hypotheses.T[0])
        reading = comparison.reading.in_cameras(*objective.estimated(T, z))
        run.comparison = replace(comparison, reading=reading)
        stage.ended(T, 1 - cost / 2)
    return replace(
        hypotheses,
        comparison=run.comparison,
        T=np.concatenate([T[None], along @ hypotheses.T[1:]]),
        cost=np.concatenate([[cost], hypotheses.cost[1:]]),
    )


def spreads_of(cameras: list[Camera]) -> np.ndarray:
    """(3 views, n) what of each view's k is moved by each of n numbers of variance one.

    Views with the same intrinsics are one C-arm's: they are wrong alike.
    """
    columns: list[np.ndarray] = []
    first: dict[tuple, int] = {}
    arms = [
        first.setdefault((camera.K.tobytes(), camera.shape, camera.tolerances), number)
        for number, camera in enumerate(cameras)
    ]
    for arm in sorted(set(arms)):
        for value, spread in enumerate(tolerated_deviation(cameras[arm])):
            if spread:
                column = np.zeros((len(cameras), DEVIATIONS))
                column[[own == arm for own in arms], value] = spread
                columns.append(column.ravel())
    return np.array(columns).reshape(len(columns), DEVIATIONS * len(cameras)).T


class _Uncertainty(NamedTuple):
    """Covariances of the errors of an estimate."""

    pose: np.ndarray
    z: np.ndarray


class _Objective:
    """Residuals of the finest level and those of the tolerances; parameters are the twist and the z sought.

    With a change of z the first view's picture is held still, as far as a rigid motion can: the object turns
    about the source with the principal point, and moves in depth with the focal length. The twist comes on
    top of that. Without, every step would have to follow a bent valley.

    Args:
        comparison: X-rays and CT.
        T_start: (4, 4) pose.
        spreads: of the z, which are deviations in units of their tolerances.

    Attributes:
        variance: of a residual, as the predicted errors have it: what a z of 1 costs.
    """

    def __init__(self, comparison: Comparison, T_start: np.ndarray, spreads: np.ndarray):
        kind = comparison.target.kind
        self._comparison, self._spreads = comparison, spreads
        self._level: LevelObjective = comparison.objective(kind.finest, T_start[None])
        self._factor = kind.correlated_residuals**2 / self._level.pixel_count
        self._sought = np.ones(spreads.shape[1], dtype=bool)
        self._left = np.ones(spreads.shape[1])
        self._known: dict[tuple[bytes, bytes], NormalEquations] = {}
        cost = self._level(T_start[None], np.zeros(1, dtype=int)).cost[0]
        self.variance = self.variance_of(float(cost))

    def variance_of(self, cost: float) -> float:
        """Variance of a residual where the images' cost is so much."""
        return cost * self._factor

    @property
    def seeks_nothing(self) -> bool:
        """Whether all stays as it was given."""
        return not self._sought.any()

    def images(self, T: np.ndarray, z: np.ndarray) -> NormalEquations:
        """Cost of the images, and its model in the twist and all z."""
        key = T.tobytes(), z.tobytes()
        if key not in self._known:
            found = self._level.with_intrinsics(T, self._deviations(z))
            B = np.eye(6 + len(self._spreads), 6 + len(z))
            B[:6, 6:], B[6:, 6:] = self._following(T), self._spreads
            self._known[key] = NormalEquations(found.cost, found.gradient @ B, B.T @ found.hessian @ B)
        return self._known[key]

    def choose(self, T: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Seek from now on those z that the images fix, if they contradict what was given: 0.

        Returns:
            z, 0 where it is not sought.
        """
        self._sought = np.ones(len(z), dtype=bool)
        self._left = np.ones(len(z))
        cost, gradient, hessian = self(T, z)
        promised = 1 - gradient[0] @ np.linalg.solve(hessian[0], gradient[0]) / cost[0]
        self.variance *= np.clip(promised, _MOST_PROMISED, 1.0)
        _, covariance = self._step(T, z)
        self._sought = np.sqrt(np.diag(covariance)) < FIXED
        if self.seeks_nothing:
            return np.zeros(len(z))
        step, covariance = self._step(T, z)
        there = (z + step)[self._sought]
        if there @ np.linalg.solve(covariance, there) < _CONTRADICTS**2 * len(there):
            self._left[self._sought] = np.hypot(np.sqrt(np.diag(covariance)), there)
            self._sought[:] = False
        return np.where(self._sought, z, 0.0)

    def _step(self, T: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Gauss-Newton step of all z, 0 where not sought, and the covariance after it of those that are."""
        _, gradient, hessian = self(T, z)
        inverse = np.linalg.inv(hessian[0])
        step = np.zeros(len(z))
        step[self._sought] = -(inverse @ gradient[0])[6:]
        return step, self.variance * inverse[6:, 6:]

    def minimised(
        self, T: np.ndarray, z: np.ndarray, report: Callable[[float], None]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Pose and z of the least cost; those given where none is less.

        Full steps, whatever the cost on the way: the valley of alike pictures is so narrow that halfway along
        it costs more than either end.
        """
        best = T, z
        least = self(T, z).cost[0]
        for iteration in range(_ITERATIONS):
            _, gradient, hessian = self(T, z)
            step = -np.linalg.solve(hessian[0], gradient[0])
            T, z = self.moved(T, z, step)
            cost = self(T, z).cost[0]
            if cost < least:
                best, least = (T, z), cost
            report((iteration + 1) / _ITERATIONS)
            if np.abs(step[6:]).max() < _SETTLED_Z:
                break
        return best

    def __call__(self, T: np.ndarray, z: np.ndarray) -> NormalEquations:
        """Cost and its model in the twist and the z sought."""
        cost, gradient, hessian = (part.copy() for part in self.images(T, z))
        cost += self.variance * z @ z
        gradient[:, 6:] += self.variance * z
        hessian[:, 6:, 6:] += self.variance * np.eye(len(z))
        sought = self._parameters
        return NormalEquations(cost, gradient[:, sought], hessian[:, sought][:, :, sought])

    def moved(self, T: np.ndarray, z: np.ndarray, step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pose and z after a step of the parameters."""
        change = np.zeros(len(z))
        change[self._sought] = step[6:]
        a, bx, by = self._deviations(change)[0]
        T_world_to_camera = self._comparison.case.T_world_to_camera
        T_camera = se3.rigid(se3.exp_so3(np.array([by, -bx, 0.0])), np.zeros(3)) @ T_world_to_camera @ T
        T_camera[2, 3] += np.expm1(a) * self._depth(T)
        T = se3.invert_rigid(T_world_to_camera) @ T_camera
        return se3.move_about(T[None], step[None, :6], self._comparison.case.centre_lps_mm)[0], z + change

    def _following(self, T: np.ndarray) -> np.ndarray:
        """(6, n) the twist that holds the first view's picture still, by each z."""
        by_k = np.zeros((6, DEVIATIONS))
        by_k[5, 0], by_k[1, 1], by_k[0, 2] = self._depth(T), -1.0, 1.0
        pivot = np.eye(4)
        pivot[:3, 3] = se3.transform_points(T, self._comparison.case.centre_lps_mm)
        to_camera = se3.adjoint(self._comparison.case.T_world_to_camera @ pivot)
        return np.linalg.solve(to_camera, by_k @ self._spreads[:DEVIATIONS])

    def _depth(self, T: np.ndarray) -> float:
        """Of the rotation centre, in the first view."""
        T_lps_to_camera = self._comparison.case.T_world_to_camera @ T
        return float(se3.transform_points(T_lps_to_camera, self._comparison.case.centre_lps_mm)[2])

    def estimated(self, T: np.ndarray, z: np.ndarray) -> tuple[list[EstimatedIntrinsics], np.ndarray]:
        """The views' intrinsics, and (6, 6) what is left open of them makes of the pose's covariance."""
        uncertain = self._uncertainty(T, z)
        views = len(self._comparison.radiographs)
        covariance = (self._spreads @ uncertain.z @ self._spreads.T).reshape(
            views, DEVIATIONS, views, DEVIATIONS
        )
        found = [
            EstimatedIntrinsics(radiograph.camera, k, covariance[number, :, number])
            for number, (radiograph, k) in enumerate(
                zip(self._comparison.radiographs, self._deviations(z), strict=True)
            )
        ]
        return found, uncertain.pose

    def _uncertainty(self, T: np.ndarray, z: np.ndarray) -> _Uncertainty:
        """Of the pose what the intrinsics add alone.

        What is not sought may be as wrong as it is, and draws what is sought with it.
        """
        hessian = self.images(T, z).hessian[0].copy()
        hessian[6:, 6:] += self.variance * np.diag(self._sought.astype(float))
        sought = self._parameters
        others = np.setdiff1d(np.arange(len(hessian)), sought)
        inverse = np.linalg.inv(hessian[np.ix_(sought, sought)])
        drawn = inverse @ hessian[np.ix_(sought, others)]
        # Errors of all parameters: (drawn; -1) by those of the z that are not sought.
        spread = np.zeros((len(hessian), len(others)))
        spread[sought], spread[others] = drawn, -np.eye(len(others))
        spread *= self._left[others - 6]
        whole = spread @ spread.T
        whole[np.ix_(sought, sought)] += self.variance * inverse
        to_pose = np.concatenate([np.eye(6), self._following(T)], axis=1)
        known = self.variance * np.linalg.inv(hessian[:6, :6])
        return _Uncertainty(to_pose @ whole @ to_pose.T - known, whole[6:, 6:])

    @property
    def _parameters(self) -> np.ndarray:
        """Indices of the twist and of the z sought."""
        return np.concatenate([np.arange(6), 6 + np.flatnonzero(self._sought)])

    def _deviations(self, z: np.ndarray) -> np.ndarray:
        """(views, 3) k."""
        return (self._spreads @ z).reshape(-1, DEVIATIONS)
