"""Bodies in front of X-rays: what of the pictures is compared, about which body, at whatever level."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from SOPIRegistrationLib.compare.objective import comparable_pixels, compared_view, near_shadow
from SOPIRegistrationLib.compare.target import Level, Target, TargetKind, compared_target
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.images.radiograph import PreparedRadiograph
from SOPIRegistrationLib.projector.bodies import is_seen, line_integrals, project_bodies, window_of
from SOPIRegistrationLib.similarity.residuals import LocalResidual
from SOPIRegistrationLib.subject.bodies import Bodies, RigidBody


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
