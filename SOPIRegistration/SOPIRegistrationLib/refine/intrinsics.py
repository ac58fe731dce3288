"""Intrinsics estimated with the pose, where a geometry is known with tolerances only.

Levenberg-Marquardt on the residuals of the finest level and on the deviations themselves, each weighed by
its tolerance: the most probable pose and intrinsics. A principal point that is off is nearly a turn about the
source, a wrong distance nearly a shift in depth. What the images do not fix is left as it was given, or it
would follow their noise; it stays uncertain by its tolerance, which becomes a part of the predicted error.
"""

from __future__ import annotations

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
from SOPIRegistrationLib.optimise.least_squares import NormalEquations, levenberg_marquardt

STAGE = "intrinsics"
_ITERATIONS = 15
# What tolerances weigh depends on how well the images agree, which at wrong intrinsics they may not: once
# they agree better, they are weighed again.
_ROUNDS, _SETTLED = 3, 0.9
# The valley of alike pictures is flat: a step along it gains little, and a damped one hardly moves.
_STEP_MM, _GAIN, _DAMPING = 0.05, 1e-6, 1e-6


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
            z = objective.seek_what_is_fixed(T, z)
            solution = levenberg_marquardt(
                objective,
                objective.packed(T, z),
                comparison.case.centre_lps_mm,
                _ITERATIONS,
                _STEP_MM,
                _GAIN,
                report=stage.optimiser_report,
                move=objective.move,
                damping_start=_DAMPING,
            )
            T, z = objective.unpacked(solution.T[0])
            cost = float(objective.images(T, z).cost[0])
            if objective.variance_of(cost) > _SETTLED * objective.variance:
                break
            objective.variance = objective.variance_of(cost)
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
        cost = self._level(T_start[None], np.zeros(1, dtype=int)).cost[0]
        self.variance = self.variance_of(float(cost))

    def variance_of(self, cost: float) -> float:
        """Variance of a residual where the images' cost is so much."""
        return cost * self._factor

    def images(self, T: np.ndarray, z: np.ndarray) -> NormalEquations:
        """Cost of the images, and its model in the twist and all z."""
        found = self._level.with_intrinsics(T, self._deviations(z))
        B = np.eye(6 + len(self._spreads), 6 + len(z))
        B[6:, 6:] = self._spreads
        return NormalEquations(found.cost, found.gradient @ B, B.T @ found.hessian @ B)

    def seek_what_is_fixed(self, T: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Seek from now on those z alone that the images fix; the others, as given, are 0."""
        hessian = self.images(T, z).hessian[0]
        hessian[6:, 6:] += self.variance * np.eye(len(z))
        left = self.variance * np.diag(np.linalg.inv(hessian))[6:]
        self._sought = np.sqrt(left) < FIXED
        return np.where(self._sought, z, 0.0)

    def __call__(self, states: np.ndarray, starts: np.ndarray) -> NormalEquations:
        """Cost and its model at one state."""
        T, z = self.unpacked(states[0])
        cost, gradient, hessian = self.images(T, z)
        cost += self.variance * z @ z
        gradient[:, 6:] += self.variance * z
        hessian[:, 6:, 6:] += self.variance * np.eye(len(z))
        sought = self._parameters
        return NormalEquations(cost, gradient[:, sought], hessian[:, sought][:, :, sought])

    def move(self, states: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """A state after a step."""
        T, z = self.unpacked(states[0])
        z[self._sought] += steps[0, 6:]
        return self.packed(se3.move_about(T[None], steps[:, :6], self._comparison.case.centre_lps_mm)[0], z)

    def packed(self, T: np.ndarray, z: np.ndarray) -> np.ndarray:
        """(1, 4, 4 + n) a pose, and z in the first row behind it."""
        state = np.zeros((1, 4, 4 + len(z)))
        state[0, :, :4], state[0, 0, 4:] = T, z
        return state

    def unpacked(self, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pose and z of a state."""
        return state[:, :4].copy(), state[0, 4:].copy()

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

        What is not sought is wrong by its tolerance, and draws what is sought with it.
        """
        hessian = self.images(T, z).hessian[0]
        hessian[6:, 6:] += self.variance * np.diag(self._sought.astype(float))
        sought = self._parameters
        others = np.setdiff1d(np.arange(len(hessian)), sought)
        inverse = np.linalg.inv(hessian[np.ix_(sought, sought)])
        drawn = inverse @ hessian[np.ix_(sought, others)]
        # Errors of all parameters: (drawn; -1) by those of the z that are not sought.
        spread = np.zeros((len(hessian), len(others)))
        spread[sought], spread[others] = drawn, -np.eye(len(others))
        whole = spread @ spread.T
        whole[np.ix_(sought, sought)] += self.variance * inverse
        known = self.variance * np.linalg.inv(hessian[:6, :6])
        return _Uncertainty(whole[:6, :6] - known, whole[6:, 6:])

    @property
    def _parameters(self) -> np.ndarray:
        """Indices of the twist and of the z sought."""
        return np.concatenate([np.arange(6), 6 + np.flatnonzero(self._sought)])

    def _deviations(self, z: np.ndarray) -> np.ndarray:
        """(views, 3) k."""
        return (self._spreads @ z).reshape(-1, DEVIATIONS)
