"""Several bodies refined at once: one picture of all of them, and what is known of their relative motion."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from SOPIRegistrationLib.compare.objective import comparable_pixels, compared_view, near_shadow
from SOPIRegistrationLib.compare.target import Level, Target, TargetKind, compared_target
from SOPIRegistrationLib.errors import Cancelled, InputError
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.images.radiograph import PreparedRadiograph
from SOPIRegistrationLib.optimise.least_squares import NormalEquations, levenberg_marquardt
from SOPIRegistrationLib.progress import Progress, Report
from SOPIRegistrationLib.projector import remove_shift_along_rays
from SOPIRegistrationLib.projector.bodies import (
    is_seen,
    line_integrals,
    project_bodies,
    project_bodies_with_jacobian,
    window_of,
)
from SOPIRegistrationLib.similarity.residuals import LocalResidual
from SOPIRegistrationLib.subject.bodies import Bodies, RigidBody

# Cost of a depth one prior's width away from the start, as for one body (``compare.objective``).
_DEPTH_PRIOR_COST = 0.01


def kind_of(bodies: Bodies) -> TargetKind:
    """How the picture of all bodies is compared: as that of the CT they were cut from, of metal if one is."""
    metal = next((body for body in bodies.bodies if body.subject.ct.is_metal), None)
    of_whom = metal.subject if metal else bodies.whole or bodies.bodies[0].subject
    return compared_target(of_whom).kind


def released_levels(kind: TargetKind) -> tuple[Level, ...]:
    """The levels through which bodies that are nearly right are brought to the end: those with windows."""
    steps = (*kind.coarse[-1], *kind.fine)
    return tuple(step.level for step in steps if step.level.window_px is not None)


class Scene:
    """Bodies in front of X-rays: what is compared, at whatever level.

    Args:
        bodies: N bodies.
        radiographs: one or several prepared views of one world, as they are read.

    Attributes:
        bodies: the same.
        moving: the N bodies and, if there is one, the rest of the CT after them: M in all.
        kind: how they are compared.
        centres_lps_mm: (M, 3) points about which each turns.
    """

    def __init__(self, bodies: Bodies, radiographs: Sequence[PreparedRadiograph]):
        self.bodies, self.radiographs = bodies, tuple(radiographs)
        self.moving: tuple[RigidBody, ...] = bodies.moving
        self.kind = kind_of(bodies)
        self.centres_lps_mm = np.array([body.centre_lps_mm for body in self.moving])
        # In an X-ray of more than the bodies only their surroundings are compared.
        self.keeps_to_outlines = (
            bodies.whole is None or compared_target(bodies.whole).outline_lps_mm is not None
        )
        self._projected = [compared_target(body.subject).moving for body in self.moving]

    def with_rest(self, T_lps_to_world: np.ndarray) -> np.ndarray:
        """(M, 4, 4) the bodies' poses (N, 4, 4), and for the rest that of the body it is held to."""
        if self.bodies.rest is None or len(T_lps_to_world) == len(self.moving):
            return np.asarray(T_lps_to_world, dtype=np.float64)
        parent = self.bodies.names.index(self.bodies.rest.hold.parent)
        return np.concatenate([T_lps_to_world, T_lps_to_world[parent][None]])

    def view(self, radiograph: PreparedRadiograph, level: Level, *poses: np.ndarray) -> View:
        """What of an X-ray is compared at a level with the bodies at poses (M, 4, 4), one or several sets.

        The volumes are those that suit the first set.
        """
        outline = None
        if self.keeps_to_outlines:
            outline = np.concatenate(
                [
                    se3.transform_points(T, body.subject.ct.surface_points_lps_mm)
                    for T_lps_to_world in poses
                    for body, T in zip(self.bodies.bodies, T_lps_to_world, strict=False)
                ]
            )
        in_world = Target("bodies", self.kind, self._projected[0], outline)
        view = compared_view(radiograph, in_world, np.eye(4)[None], level.pixels)
        volumes = [
            moving.for_camera(view.camera, T) for moving, T in zip(self._projected, poses[0], strict=True)
        ]
        valid = view.valid
        for number in self._scanned_in_part:
            for T in _distinct(poses, number):
                valid = valid & comparable_pixels(view, self._projected[number], T[None])[0]
        found = View(view, volumes, valid, level.window_px)
        if outline is not None:
            about = [found.about(number, *poses) for number in range(len(volumes))]
            found.valid = valid & np.any(about, axis=0)
        return found

    def objective(self, level: Level, T_lps_to_world: np.ndarray) -> JointObjective:
        """What least squares minimises at a level from poses (M, 4, 4)."""
        return JointObjective(self, level, T_lps_to_world)

    def agreement(self, level: Level, T_lps_to_world: np.ndarray) -> np.ndarray:
        """(N,) mean structural correlation about each body at (M, 4, 4) poses; 0 of one in no view."""
        return self.agreements(level, T_lps_to_world[None], range(len(self.bodies)))[0]

    def agreements(self, level: Level, poses: np.ndarray, numbers: Sequence[int]) -> np.ndarray:
        """(K, n) the same of K sets of poses, about n of the bodies; over the same pixels, so that they
        compare: those about the body in any of the sets.

        Args:
            level: resolution and window.
            poses: (K, M, 4, 4) poses.
            numbers: (n,) of the bodies.
        """
        seen: list[list[np.ndarray]] = [[] for _ in numbers]
        for radiograph in self.radiographs:
            view = self.view(radiograph, level, *poses)
            camera = view.radiograph.camera
            images = [project_bodies(view.volumes, camera, T) for T in poses]
            for number, found in zip(numbers, seen, strict=True):
                about = view.valid & view.about(number, *poses)
                if about.any():
                    residual = LocalResidual(view.radiograph.image, about[None], level.window_px)
                    found.append(np.array([1 - residual.equations(image, [])[0] / 2 for image in images]))
        return np.stack([np.mean(found, axis=0) if found else np.zeros(len(poses)) for found in seen], axis=1)

    def images(
        self, level: Level, T_lps_to_world: np.ndarray, number: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """What is compared about one body at poses (M, 4, 4), of each view that shows it.

        Yields:
            Picture and X-ray (rows, columns), locally normalised, and (2,) width and height of a pixel at the
            body, mm.
        """
        for radiograph in self.radiographs:
            view = self.view(radiograph, level, T_lps_to_world)
            about, camera = view.valid & view.about(number, T_lps_to_world), view.radiograph.camera
            if about.any():
                residual = LocalResidual(view.radiograph.image, about[None], level.window_px)
                picture = project_bodies(view.volumes, camera, T_lps_to_world)
                moving, fixed = residual.images(picture[None], [0])
                T_lps_to_camera = camera.T_world_to_camera @ T_lps_to_world[number]
                depth = se3.transform_points(T_lps_to_camera, self.centres_lps_mm[number])[2]
                yield moving[0], fixed[0], depth / np.diag(camera.K)[:2]

    def require_in_view(self, T_lps_to_world: np.ndarray) -> None:
        """Whether some X-ray shows each body at poses (N, 4, 4).

        Raises:
            InputError: a body lies outside all of them.
        """
        level = replace(self.kind.check, window_px=11)
        views = [self.view(one, level, self.with_rest(T_lps_to_world)) for one in self.radiographs]
        for number, body in enumerate(self.bodies.bodies):
            windows = [
                window_of(view.volumes[number], view.radiograph.camera, T_lps_to_world[number])
                for view in views
            ]
            if not any(map(is_seen, windows)):
                raise InputError(
                    f"{body.name} lies outside every X-ray where it is expected: leave it out, or give a "
                    "start pose"
                )

    @property
    def _scanned_in_part(self) -> Sequence[int]:
        """Numbers of what may leave its scan: the CT as a whole where it was cut up."""
        everything = range(len(self.moving))
        return everything if self.bodies.rest is None else everything[-1:]


def _distinct(poses: Sequence[np.ndarray], number: int) -> list[np.ndarray]:
    """(4, 4) poses of one body in several sets, each once."""
    return list(np.unique([T_lps_to_world[number] for T_lps_to_world in poses], axis=0))


class View:
    """An X-ray at a level, and the bodies in front of it.

    Args:
        radiograph: at the level's resolution.
        volumes: of the M bodies, as fine as suits it.
        valid: (rows, columns) bool: its pixels that are compared.
        window_px: edge of the level's windows.
    """

    def __init__(self, radiograph: PreparedRadiograph, volumes: list, valid: np.ndarray, window_px: int):
        self.radiograph, self.volumes, self.valid = radiograph, volumes, valid
        self._window_px = window_px
        # Of the many poses of one body among which is chosen each is asked for again.
        self._integrals: dict[tuple[int, bytes], np.ndarray] = {}

    def integrals(self, number: int, T_lps_to_world: np.ndarray) -> np.ndarray:
        """(rows, columns) float32 line integrals of one body at a pose (4, 4)."""
        key = number, T_lps_to_world.tobytes()
        if key not in self._integrals:
            self._integrals[key] = line_integrals(
                [self.volumes[number]], self.radiograph.camera, T_lps_to_world[None]
            )
        return self._integrals[key]

    def about(self, number: int, *poses: np.ndarray) -> np.ndarray:
        """(rows, columns) bool: pixels whose window meets a body in any of sets of poses (M, 4, 4)."""
        shadows = [self.integrals(number, T) > 0 for T in _distinct(poses, number)]
        return near_shadow(np.any(shadows, axis=0)[None], self._window_px)[0]


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
            scale = np.sqrt(_DEPTH_PRIOR_COST / max(self.unit, 1e-12)) / self._depth_mm
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
