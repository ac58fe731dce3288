"""What least squares minimises: the normalised residuals of all views at one resolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.images.radiograph import PreparedRadiograph
from SOPIRegistrationLib.images.resampling import resampled_radiograph
from SOPIRegistrationLib.optimise.least_squares import NormalEquations
from SOPIRegistrationLib.projector import project, project_with_jacobian
from SOPIRegistrationLib.registration.moving import MovingVolume
from SOPIRegistrationLib.similarity.residuals import LocalResidual, WholeImageResidual

# Below this share of its pixels an image has nothing to compare: the mask is then left out.
_LEAST_VALID = 0.1


@dataclass(frozen=True)
class Level:
    """One resolution of the coarse-to-fine refinement.

    Attributes:
        pixels: longer edge of the image.
        window_px: edge of the local normalisation's window; None for whole-image normalisation.
        max_iterations: of Levenberg-Marquardt.
        step_tolerance_mm: convergence, motion of the object.
    """

    pixels: int
    window_px: int | None = None
    max_iterations: int = 20
    step_tolerance_mm: float = 0.01

    @property
    def name(self) -> str:
        kind = "whole image" if self.window_px is None else f"{self.window_px} px windows"
        return f"{self.pixels} px, {kind}"


def at_level(radiograph: PreparedRadiograph, pixels: int) -> PreparedRadiograph:
    """The X-ray averaged so that its longer edge has at most ``pixels`` pixels."""
    rows, columns = radiograph.camera.shape
    scale = min(1.0, pixels / max(rows, columns))
    return resampled_radiograph(radiograph, round(columns * scale), round(rows * scale))


class LevelObjective:
    """Normal equations of the residuals of all views at one level.

    Args:
        radiographs: one or several prepared views of one world.
        moving: the CT's pyramid.
        level: resolution and normalisation.
        T_start: (S, 4, 4) T_lps_to_world of the starts: where they stand decides which rays leave the scanned
            volume and are left out.
        centre_lps_mm: (3,) point about which twists act.
    """

    def __init__(
        self,
        radiographs: Sequence[PreparedRadiograph],
        moving: MovingVolume,
        level: Level,
        T_start: np.ndarray,
        centre_lps_mm: np.ndarray,
    ):
        self._centre = np.asarray(centre_lps_mm, dtype=np.float64)
        self._views = []
        for radiograph in radiographs:
            view = at_level(radiograph, level.pixels)
            T_lps_to_camera = view.camera.T_world_to_camera @ T_start
            volume = moving.for_camera(view.camera, T_lps_to_camera[0])
            valid = comparable_pixels(view, moving, T_lps_to_camera)
            if level.window_px is None:
                residual = WholeImageResidual(view.image, valid)
            else:
                residual = LocalResidual(view.image, valid, level.window_px)
            rays = np.moveaxis(view.camera.unit_rays(), -1, 0).astype(np.float32)
            self._views.append((view.camera, volume, residual, rays))

    def __call__(self, T_lps_to_world: np.ndarray, starts: np.ndarray) -> NormalEquations:
        """Cost (mean over the views) and its quadratic model at (P, 4, 4) poses of the given starts."""
        poses = len(T_lps_to_world)
        cost, gradient, hessian = np.zeros(poses), np.zeros((poses, 6)), np.zeros((poses, 6, 6))
        pivot = np.tile(np.eye(4), (poses, 1, 1))
        pivot[:, :3, 3] = T_lps_to_world[:, :3, :3] @ self._centre + T_lps_to_world[:, :3, 3]
        for camera, volume, residual, rays in self._views:
            T = camera.T_world_to_camera @ T_lps_to_world
            image, jacobian = project_with_jacobian(volume, camera, T)
            jacobian = np.moveaxis(jacobian, -1, 1)
            _remove_shift_along_ray(jacobian, rays)
            r, J = residual(image, jacobian, starts)
            r = r.reshape(poses, -1, 1)
            J = J.reshape(poses, 6, -1)
            # Twist about the pivot in world axes -> twist about the source in camera axes.
            to_camera = se3.adjoint(camera.T_world_to_camera @ pivot)
            JJ = (J @ J.swapaxes(1, 2)).astype(np.float64)
            Jr = (J @ r).astype(np.float64)
            cost += (r * r).sum(axis=(1, 2), dtype=np.float64)
            gradient += (to_camera.swapaxes(1, 2) @ Jr)[..., 0]
            hessian += to_camera.swapaxes(1, 2) @ JJ @ to_camera
        views = len(self._views)
        return NormalEquations(cost / views, gradient / views, hessian / views)


def _remove_shift_along_ray(jacobian: np.ndarray, rays: np.ndarray) -> None:
    """Take out, in place, what the Jacobian says of moving the object along each pixel's own ray.

    The line integral does not change with that shift, the sum over samples does, a little and at random from pixel to
    pixel. Depth has a weak signal, so that this noise would dominate its curvature and shorten its steps tenfold.
    """
    along = np.einsum("pkvu,kvu->pvu", jacobian[:, 3:], rays)
    jacobian[:, 3:] -= along[:, None] * rays


def comparable_pixels(
    view: PreparedRadiograph, moving: MovingVolume, T_lps_to_camera: np.ndarray
) -> np.ndarray:
    """(S, rows, columns) bool: valid pixels whose rays do not leave the scan through the object."""
    if moving.truncated is None:
        return view.valid[None]
    incomplete = project(moving.truncated, view.camera, T_lps_to_camera) > 0
    valid = view.valid & ~incomplete
    enough = valid.mean(axis=(1, 2), keepdims=True) >= _LEAST_VALID * view.valid.mean()
    return np.where(enough, valid, view.valid)
