"""Several bodies refined at once: one picture of all of them, and what is known of their relative motion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from SOPIRegistrationLib.compare.objective import DEPTH_PRIOR_COST
from SOPIRegistrationLib.compare.target import Level
from SOPIRegistrationLib.errors import Cancelled
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.optimise.least_squares import NormalEquations, levenberg_marquardt
from SOPIRegistrationLib.progress import Progress, Report
from SOPIRegistrationLib.projector import remove_shift_along_rays
from SOPIRegistrationLib.projector.bodies import line_integrals, project_bodies_with_jacobian
from SOPIRegistrationLib.refine.joint_scene import Scene, released_levels
from SOPIRegistrationLib.similarity.residuals import LocalResidual


class JointObjective:
    """Normal equations of all views at one level, of all bodies that move, with what holds them.

    Args:
        scene: bodies and X-rays.
        level: resolution and normalisation, with a window.
        T_start: (M, 4, 4) T_lps_to_world: what is compared, and where holds expect the bodies.
        T_rest: (M, 4, 4) poses about which holds expect the bodies' motion, if not ``T_start``.
        only: number of the one body that moves; all that are not fixed unless given.
        starts: (K, M, 4, 4) sets of poses from which that one body moves besides; it is compared about where
            it stands in any of them and in ``T_start``.
    """

    def __init__(
        self,
        scene: Scene,
        level: Level,
        T_start: np.ndarray,
        T_rest: np.ndarray | None = None,
        only: int | None = None,
        starts: Sequence[np.ndarray] = (),
    ):
        self._scene, self._start = scene, T_start
        self._at_rest = T_start if T_rest is None else T_rest
        self.free = np.array([not body.fixed for body in scene.moving])
        if only is not None:
            self.free = np.arange(len(scene.moving)) == only
        self._columns = np.repeat(self.free, 6)
        self._views = []
        for radiograph in scene.radiographs:
            view = scene.view(radiograph, level, T_start, *starts)
            camera, valid = view.radiograph.camera, view.valid
            if only is not None:
                valid = valid & view.about(only, T_start, *starts)
            rays = np.moveaxis(camera.unit_rays(), -1, 0).astype(np.float32)
            residual = LocalResidual(view.radiograph.image, valid[None], level.window_px)
            stand = [volume for volume, free in zip(view.volumes, self.free, strict=True) if not free]
            standing = line_integrals(stand, camera, T_start[~self.free])
            self._views.append((camera, view.volumes, standing, residual, rays))
        self._depth_mm = level.depth_prior_mm if len(scene.radiographs) == 1 else None
        names = [body.name for body in scene.moving]
        self._holds = [
            (child, names.index(body.hold.parent), body.hold)
            for child, body in enumerate(scene.moving)
            if body.hold is not None and (self.free[child] or self.free[names.index(body.hold.parent)])
        ]
        # What a deviation of one counts in the cost: that of the residuals as they are at the start.
        self.unit = self._images(T_start).cost[0] / self.pixel_count * scene.kind.correlated_residuals**2

    @property
    def pixel_count(self) -> float:
        """Pixels compared, mean over the views."""
        return max(1.0, float(np.mean([residual.pixel_count for _, _, _, residual, _ in self._views])))

    def __call__(self, T_lps_to_world: np.ndarray, starts: np.ndarray) -> NormalEquations:
        """Cost and its model at (P, M, 4, 4) poses, by twists in world axes about the bodies' centres."""
        made = [self.at(T) for T in T_lps_to_world]
        return NormalEquations(*(np.concatenate(parts) for parts in zip(*made, strict=True)))

    def at(self, T_lps_to_world: np.ndarray, with_holds: bool = True) -> NormalEquations:
        """The same at (M, 4, 4) poses, P = 1; without what holds the bodies if asked for."""
        images = self._images(T_lps_to_world)
        if not with_holds:
            return images
        cost, gradient, hessian = (np.array(part[0]) for part in images)
        for residual, jacobian in self._held(T_lps_to_world):
            jacobian = jacobian * self._columns
            cost += self.unit * (residual @ residual)
            gradient += self.unit * (jacobian.T @ residual)
            hessian += self.unit * (jacobian.T @ jacobian)
        return NormalEquations(cost[None], gradient[None], hessian[None])

    def _images(self, T_lps_to_world) -> NormalEquations:
        moving = len(T_lps_to_world)
        pivots = np.tile(np.eye(4), (moving, 1, 1))
        pivots[:, :3, 3] = se3.transform_points(T_lps_to_world, self._scene.centres_lps_mm)
        cost, gradient, hessian = 0.0, np.zeros(6 * moving), np.zeros((6 * moving, 6 * moving))
        where = np.flatnonzero(self._columns)
        for camera, volumes, standing, residual, rays in self._views:
            image, blocks = project_bodies_with_jacobian(volumes, camera, T_lps_to_world, standing, self.free)
            for (rows, columns), jacobian in blocks:
                remove_shift_along_rays(jacobian[None], rays[:, rows, columns])
            view_cost, view_gradient, view_hessian = residual.equations(image, blocks)
            # Twist about each centre in world axes -> twist about the source in camera axes.
            to_camera = np.zeros((len(where), len(where)))
            for number, A in enumerate(se3.adjoint(camera.T_world_to_camera @ pivots[self.free])):
                to_camera[6 * number : 6 * number + 6, 6 * number : 6 * number + 6] = A
            cost += view_cost
            gradient[where] += to_camera.T @ view_gradient
            hessian[np.ix_(where, where)] += to_camera.T @ view_hessian @ to_camera
        views = len(self._views)
        return NormalEquations(np.array([cost / views]), gradient[None] / views, hessian[None] / views)

    def _held(self, T_lps_to_world):
        """Residuals and Jacobians (., 6 M) of holds and of a single view's depth, in deviations."""
        moving = len(T_lps_to_world)
        for child, parent, hold in self._holds:
            T_expected = (
                T_lps_to_world[parent] @ se3.invert_rigid(self._at_rest[parent]) @ self._at_rest[child]
            )
            centre = self._scene.centres_lps_mm[child]
            away = se3.twist_about(T_expected, T_lps_to_world[child], centre)
            jacobian = self.relative_jacobian(T_lps_to_world, child, parent)
            deviation = np.repeat([np.deg2rad(hold.rotation_deg), hold.translation_mm], 3)
            yield away / deviation, jacobian / deviation[:, None]
        if self._depth_mm is not None:
            axis = self._views[0][0].T_world_to_camera[2, :3]
            scale = np.sqrt(DEPTH_PRIOR_COST / max(self.unit, 1e-12)) / self._depth_mm
            for number in np.flatnonzero(self.free):
                centre = self._scene.centres_lps_mm[number]
                places = (se3.transform_points(T[number], centre) for T in (T_lps_to_world, self._start))
                jacobian = np.zeros((1, 6 * moving))
                jacobian[0, 6 * number + 3 : 6 * number + 6] = scale * axis
                yield np.array([scale * (axis @ np.subtract(*places))]), jacobian

    def relative_jacobian(self, T_lps_to_world: np.ndarray, child: int, parent: int) -> np.ndarray:
        """(6, 6 M) how the twists of all bodies move one against another, about its centre in world axes."""
        jacobian = np.zeros((6, 6 * len(T_lps_to_world)))
        jacobian[:, 6 * child : 6 * child + 6] = np.eye(6)
        centre = self._scene.centres_lps_mm[child]
        carried = self._carried(T_lps_to_world, parent, T_lps_to_world[child], centre)
        jacobian[:, 6 * parent : 6 * parent + 6] = -carried
        return jacobian

    def _carried(self, T_lps_to_world, parent: int, T_child: np.ndarray, centre: np.ndarray) -> np.ndarray:
        """(6, 6) how a twist of the parent about its centre moves a child that stands fast in it."""
        arm = se3.transform_points(T_child, centre)
        arm = arm - se3.transform_points(T_lps_to_world[parent], self._scene.centres_lps_mm[parent])
        carried = np.eye(6)
        carried[3:, :3] = -se3.skew(arm)
        return carried


class Refined(NamedTuple):
    """Where bodies ended.

    Attributes:
        T: (M, 4, 4) T_lps_to_world of the bodies and the rest.
        objective: at the last level.
        stopped: whether the report raised ``Cancelled``: the best poses until then.
    """

    T: np.ndarray
    objective: JointObjective
    stopped: bool = False


def refine_jointly(
    scene: Scene,
    T_start: np.ndarray,
    levels: Sequence[Level] | None = None,
    report: Report | None = None,
    T_rest: np.ndarray | None = None,
) -> Refined:
    """Bodies from poses that are nearly right to where all of them together agree best with the X-rays.

    Args:
        scene: bodies and X-rays.
        T_start: (N, 4, 4) or, with the rest, (M, 4, 4) T_lps_to_world.
        levels: from coarse to fine; those of the kind that have windows unless given.
        report: told every iteration, of the first body's pose and those of all; raises ``Cancelled`` to stop.
        T_rest: (N, 4, 4) or (M, 4, 4) poses about which holds expect the motion, if not ``T_start``.
    """
    T = scene.with_rest(T_start)
    T_rest = T if T_rest is None else scene.with_rest(T_rest)
    levels = levels or released_levels(scene.kind)
    for number, level in enumerate(levels):
        objective, reached = JointObjective(scene, level, T, T_rest), T

        def tell(state: Progress, number=number, level=level) -> None:
            nonlocal reached
            reached = state.T
            fraction = (number + state.fraction) / len(levels)
            stage, poses = f"all bodies, {level.name}", dict(zip(scene.bodies.names, state.T, strict=False))
            report(replace(state, stage=stage, fraction=fraction, T=state.T[0], bodies=poses))

        try:
            solution = levenberg_marquardt(
                objective,
                T[None],
                scene.centres_lps_mm,
                level.max_iterations,
                level.step_tolerance_mm,
                report=None if report is None else tell,
            )
        except Cancelled:
            return Refined(reached, objective, stopped=True)
        T = solution.T[0]
    return Refined(T, objective)
