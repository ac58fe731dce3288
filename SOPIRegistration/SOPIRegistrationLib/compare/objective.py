"""What least squares minimises: the normalised residuals of all views at one resolution."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from SOPIRegistrationLib.compare.target import Level, Target
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.intrinsics import DEVIATIONS, deviated, turns_of_rays
from SOPIRegistrationLib.images.pyramid import resampled_radiograph
from SOPIRegistrationLib.images.radiograph import PreparedRadiograph
from SOPIRegistrationLib.optimise.least_squares import NormalEquations
from SOPIRegistrationLib.projector import (
    ProjectorVolume,
    SeenVolume,
    project,
    project_with_jacobian,
    remove_shift_along_rays,
)
from SOPIRegistrationLib.similarity.residuals import LocalResidual, WholeImageResidual
from SOPIRegistrationLib.subject import MovingVolume

# Below this share of its pixels an image has nothing to compare: the mask is then left out.
_LEAST_VALID = 0.1
# Cost of a depth one prior's width away, where 2 (1 - correlation) is the cost of an image.
DEPTH_PRIOR_COST = 0.01
# About a segmented bone: room for the error of the start.
_MARGIN_MM = 15.0
_LEAST_CROP_PX = 16


def at_level(radiograph: PreparedRadiograph, pixels: int) -> PreparedRadiograph:
    """The X-ray averaged so that its longer edge has at most ``pixels`` pixels."""
    rows, columns = radiograph.camera.shape
    scale = min(1.0, pixels / max(rows, columns))
    return resampled_radiograph(radiograph, round(columns * scale), round(rows * scale))


@dataclass(eq=False)
class _View:
    """One view at one level.

    Attributes:
        camera: of its pixels.
        volume: the moving volume's level for them.
        residual: what is compared with its X-ray.
        rays: (3, rows, columns) unit vectors, camera axes.
        at_starts: image and Jacobian at the starts, where they are known and not used yet.
    """

    camera: Camera
    volume: ProjectorVolume | SeenVolume
    residual: WholeImageResidual | LocalResidual
    rays: np.ndarray
    at_starts: tuple[np.ndarray, np.ndarray] | None = None

    def projected(self, T_lps_to_world: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Image and Jacobian at poses (P, 4, 4)."""
        return project_with_jacobian(self.volume, self.camera, T_lps_to_world)


class LevelObjective:
    """Normal equations of the residuals of all views at one level.

    Args:
        radiographs: one or several prepared views of one world.
        target: what is projected.
        level: resolution and normalisation.
        T_start: (S, 4, 4) T_lps_to_world of the starts: where they stand decides which rays leave the scanned
            volume and are left out.
        centre_lps_mm: (3,) point about which twists act.
    """

    def __init__(
        self,
        radiographs: Sequence[PreparedRadiograph],
        target: Target,
        level: Level,
        T_start: np.ndarray,
        centre_lps_mm: np.ndarray,
    ):
        self._centre = np.asarray(centre_lps_mm, dtype=np.float64)
        self._T_start = np.array(T_start, dtype=np.float64)
        # Whoever asks at the starts mostly asks again.
        self._at_starts: NormalEquations | None = None
        self._views: list[_View] = []
        self._depth_prior_mm = level.depth_prior_mm if len(radiographs) == 1 else None
        self._depth_start = (radiographs[0].camera.T_world_to_camera @ self._pivot(T_start))[:, 2, 3]
        moving = target.moving
        for radiograph in radiographs:
            view = compared_view(radiograph, target, T_start, level.pixels)
            volume = moving.for_camera(view.camera, T_start[0])
            valid = comparable_pixels(view, moving, T_start)
            at_starts = None
            if level.window_px is not None and target.outline_lps_mm is not None:
                # The first to be asked for are the poses at the starts: they are projected once for both.
                at_starts = project_with_jacobian(volume, view.camera, T_start)
                valid = valid & near_shadow(at_starts[0] > 0, level.window_px)
                view, valid, at_starts = _trimmed(view, valid, at_starts)
            if level.window_px is None:
                residual = WholeImageResidual(view.image, valid)
            else:
                residual = LocalResidual(view.image, valid, level.window_px)
            self._views.append(_View(view.camera, volume, residual, _rays(view.camera), at_starts))

    def __call__(self, T_lps_to_world: np.ndarray, starts: np.ndarray) -> NormalEquations:
        """Cost (mean over the views) and its quadratic model at (P, 4, 4) poses of the given starts."""
        if not self._is_at_starts(T_lps_to_world):
            return self._equations(
                T_lps_to_world, starts, [view.projected(T_lps_to_world) for view in self._views]
            )
        if self._at_starts is None:
            projected = [view.at_starts or view.projected(T_lps_to_world) for view in self._views]
            self._at_starts = self._equations(T_lps_to_world, starts, projected)
            for view in self._views:
                view.at_starts = None
        return NormalEquations(*(part.copy() for part in self._at_starts))

    def _is_at_starts(self, T_lps_to_world: np.ndarray) -> bool:
        return np.array_equal(T_lps_to_world, self._T_start)

    def _equations(self, T_lps_to_world, starts, projected) -> NormalEquations:
        """The same from images and Jacobians (P, rows, columns, 6) of each view."""
        poses = len(T_lps_to_world)
        cost, gradient, hessian = np.zeros(poses), np.zeros((poses, 6)), np.zeros((poses, 6, 6))
        pivot = self._pivot(T_lps_to_world)
        for view, (image, jacobian) in zip(self._views, projected, strict=True):
            camera = view.camera
            jacobian = np.moveaxis(jacobian, -1, 1)
            remove_shift_along_rays(jacobian, view.rays)
            r, J = view.residual(image, jacobian, starts)
            r = r.reshape(poses, -1, 1)
            J = J.reshape(poses, 6, -1)
            # Twist about the pivot in world axes -> twist about the source in camera axes.
            to_camera = se3.adjoint(camera.T_world_to_camera @ pivot)
            cost += (r * r).sum(axis=(1, 2), dtype=np.float64)
            JJ = (J @ J.swapaxes(1, 2)).astype(np.float64)
            Jr = (J @ r).astype(np.float64)
            gradient += (to_camera.swapaxes(1, 2) @ Jr)[..., 0]
            hessian += to_camera.swapaxes(1, 2) @ JJ @ to_camera
            self._add_depth_prior(camera, pivot, starts, NormalEquations(cost, gradient, hessian))
        views = len(self._views)
        return NormalEquations(cost / views, gradient / views, hessian / views)

    def with_intrinsics(self, T_lps_to_world: np.ndarray, deviations: np.ndarray) -> NormalEquations:
        """The same at one pose (4, 4) for cameras whose intrinsics deviate by k (views, 3).

        The model is one in the twist and, after it, the k of each view: (1, 6 + 3 views) parameters. Rays
        that turn by w see what they would see of an object turned by -w: the columns of k are combinations of
        those of the pose's rotation (Docs/method.md).
        """
        T, count = T_lps_to_world[None], 6 + DEVIATIONS * len(self._views)
        cost, gradient, hessian = np.zeros(1), np.zeros((1, count)), np.zeros((1, count, count))
        for number, view in enumerate(self._views):
            camera = deviated(view.camera, deviations[number])
            rays = _rays(camera)
            image, jacobian = project_with_jacobian(view.volume, camera, T)
            jacobian = np.moveaxis(jacobian, -1, 1)
            remove_shift_along_rays(jacobian, rays)
            by_k = -np.einsum("pwvu,kwvu->pkvu", jacobian[:, :3], turns_of_rays(rays))
            r, J = view.residual(image, np.concatenate([jacobian, by_k], axis=1), np.zeros(1, dtype=int))
            # Pose and intrinsics change the image nearly alike: single precision would not tell them apart.
            r, J = r.reshape(-1).astype(np.float64), J.reshape(6 + DEVIATIONS, -1).astype(np.float64)
            columns = np.zeros((6 + DEVIATIONS, count))
            columns[:6, :6] = se3.adjoint(camera.T_world_to_camera @ self._pivot(T))[0]
            own = 6 + DEVIATIONS * number
            columns[6:, own : own + DEVIATIONS] = np.eye(DEVIATIONS)
            cost += r @ r
            gradient += columns.T @ (J @ r)
            hessian += columns.T @ (J @ J.T) @ columns
            of_pose = NormalEquations(cost, gradient[:, :6], hessian[:, :6, :6])
            self._add_depth_prior(camera, self._pivot(T), np.zeros(1, dtype=int), of_pose)
        views = len(self._views)
        return NormalEquations(cost / views, gradient / views, hessian / views)

    def images(self, T_lps_to_world: np.ndarray) -> Iterator[tuple[Camera, np.ndarray, np.ndarray]]:
        """Of each view the camera, and what a level in windows compares at a pose (4, 4) near its start: DRR
        and X-ray (rows, columns), locally normalised, each of unit norm."""
        T = T_lps_to_world[None]
        for view in self._views:
            drr = project(view.volume, view.camera, T)
            moving, fixed = view.residual.images(drr, np.zeros(1, dtype=int))
            yield view.camera, moving[0], fixed[0]

    @property
    def pixel_count(self) -> int:
        """Pixels compared, mean over the views."""
        return max(1, round(float(np.mean([view.residual.pixel_count for view in self._views]))))

    def _add_depth_prior(self, camera: Camera, pivot, starts, equations: NormalEquations) -> None:
        """Add, in place, what a single view's depth costs that has left its start."""
        if self._depth_prior_mm is None:
            return
        cost, gradient, hessian = equations
        away = (camera.T_world_to_camera @ pivot)[:, 2, 3] - self._depth_start[starts]
        axis = np.concatenate([np.zeros(3), camera.T_world_to_camera[2, :3]])
        weight = DEPTH_PRIOR_COST / self._depth_prior_mm**2
        cost += weight * away**2
        gradient += weight * away[:, None] * axis
        hessian += weight * np.outer(axis, axis)

    def _pivot(self, T_lps_to_world):
        """(P, 4, 4) translations to the centre's place in the world."""
        pivot = np.tile(np.eye(4), (len(T_lps_to_world), 1, 1))
        pivot[:, :3, 3] = se3.transform_points(T_lps_to_world, self._centre)
        return pivot


def _trimmed(view: PreparedRadiograph, valid: np.ndarray, projected: tuple[np.ndarray, np.ndarray]):
    """(X-ray, valid pixels (S, rows, columns), images and Jacobians) without what is valid at no start."""
    boxes = ndimage.find_objects(valid.any(axis=0).astype(np.uint8))
    if not boxes:
        return view, valid, projected
    rows, columns = boxes[0]
    camera = view.camera.cropped(
        columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start
    )
    cut = view.on_pixels(view.image[rows, columns], view.valid[rows, columns], camera)
    return (
        cut,
        valid[:, rows, columns],
        tuple(np.ascontiguousarray(one[:, rows, columns]) for one in projected),
    )


def _rays(camera: Camera) -> np.ndarray:
    """(3, rows, columns) unit vectors along a camera's rays, camera axes."""
    return np.moveaxis(camera.unit_rays(), -1, 0).astype(np.float32)


def compared_view(
    radiograph: PreparedRadiograph, target: Target, T_lps_to_world: np.ndarray, pixels: int
) -> PreparedRadiograph:
    """What of an X-ray is compared with a target at any of the poses (S, 4, 4), on so many pixels."""
    if target.kind.is_silhouette:
        radiograph = as_opacity(radiograph)
    return at_level(around_object(radiograph, target, T_lps_to_world), pixels)


def as_opacity(radiograph: PreparedRadiograph) -> PreparedRadiograph:
    """The X-ray as the share of the beam that did not come through: blur acts on intensities, not
    logarithms."""
    # One that was stored bone-bright is taken for inverted intensities already.
    if not radiograph.bone_dark:
        return radiograph
    return replace(radiograph, image=-np.expm1(-radiograph.image), bone_dark=False)


def around_object(
    radiograph: PreparedRadiograph, target: Target, T_lps_to_world: np.ndarray, square: bool = False
) -> PreparedRadiograph:
    """The X-ray cropped to the target's outline, at any of the poses (S, 4, 4), and a margin.

    Where it shall be ``square``, to so much around that, as far as it shows it.
    Without an outline this is the X-ray itself.
    """
    if target.outline_lps_mm is None:
        return radiograph
    camera = radiograph.camera
    T_lps_to_camera = camera.T_world_to_camera @ T_lps_to_world
    points = se3.transform_points(T_lps_to_camera[:, None], target.outline_lps_mm)
    pixels = camera.project(points[points[..., 2] > 0])
    if len(pixels) == 0:
        return radiograph
    margin = _MARGIN_MM * camera.K[0, 0] / np.median(points[..., 2])
    low, high = pixels.min(axis=0) - margin, pixels.max(axis=0) + margin
    if square:
        more = ((high - low).max() - (high - low)) / 2
        low, high = low - more, high + more
    low = np.clip(np.floor(low), 0, [camera.width - 1, camera.height - 1]).astype(int)
    high = np.clip(np.ceil(high), low + 1, [camera.width, camera.height]).astype(int)
    if (high - low).min() < _LEAST_CROP_PX:
        return radiograph
    window = (slice(low[1], high[1]), slice(low[0], high[0]))
    cropped = camera.cropped(int(low[0]), int(low[1]), *(int(edge) for edge in high - low))
    return radiograph.on_pixels(radiograph.image[window], radiograph.valid[window], cropped)


def near_object(volume, camera, T_lps_to_world: np.ndarray, window_px: int) -> np.ndarray:
    """(S, rows, columns) bool: pixels whose window meets the projected object."""
    return near_shadow(project(volume, camera, T_lps_to_world) > 0, window_px)


def about_shadow(
    volume: ProjectorVolume, camera: Camera, T_lps_to_world: np.ndarray, depth_mm: float, margin_mm: float
) -> np.ndarray:
    """(S, rows, columns) bool: pixels within a margin, mm at a depth, of the projected object."""
    margin_px = round(margin_mm * camera.K[0, 0] / depth_mm)
    return near_object(volume, camera, T_lps_to_world, 2 * margin_px + 1)


def near_shadow(shadow: np.ndarray, window_px: int) -> np.ndarray:
    """(S, rows, columns) bool: pixels whose window meets a shadow (S, rows, columns)."""
    return ndimage.maximum_filter(shadow, size=(1, window_px, window_px))


def comparable_pixels(
    view: PreparedRadiograph, moving: MovingVolume, T_lps_to_world: np.ndarray
) -> np.ndarray:
    """(S, rows, columns) bool: valid pixels whose rays do not meet the object where it was not scanned."""
    if not moving.unscanned:
        return view.valid[None]
    valid = view.valid
    for mask in moving.unscanned:
        valid = valid & (project(mask, view.camera, T_lps_to_world) == 0)
    enough = valid.mean(axis=(1, 2), keepdims=True) >= _LEAST_VALID * view.valid.mean()
    return np.where(enough, valid, view.valid)
