"""Objects whose cone-beam projections are known in closed form, and the grids to sample them on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.images.volume import Volume


def oblique_grid(spacing_mm=(0.7, 1.0, 1.6), shape_ijk=(96, 72, 44), left_handed=False) -> Volume:
    """An empty, anisotropic grid with no axis along LPS, away from the origin."""
    axes = se3.exp_so3(np.array([0.4, -0.7, 0.5])) @ np.diag([1.0, 1.0, -1.0 if left_handed else 1.0])
    index_to_lps = np.eye(4)
    index_to_lps[:3, :3] = axes * spacing_mm
    index_to_lps[:3, 3] = [31.0, -57.0, 120.0]
    return Volume(np.zeros(shape_ijk[::-1], np.float32), index_to_lps)


def noise_volume(shape_ijk=(30, 26, 20), seed: int = 5) -> Volume:
    """White noise to the very border: every interpolation weight and every border voxel matters."""
    grid = oblique_grid((1.1, 1.4, 2.0), shape_ijk)
    return grid.same_grid(np.random.default_rng(seed).random(grid.array.shape, dtype=np.float32))


def voxel_centres_lps(grid: Volume) -> np.ndarray:
    """(k, j, i, 3) LPS mm."""
    k, j, i = np.indices(grid.array.shape)
    return grid.points_lps(np.stack([i, j, k], axis=-1))


@dataclass(frozen=True)
class GaussianBlobs:
    """Sum of isotropic Gaussians: the projection is exact and nothing has an edge.

    Attributes:
        centres_lps_mm: (n, 3).
        sigmas_mm: (n,).
        peaks: (n,) attenuation at the centres, 1/mm.
    """

    centres_lps_mm: np.ndarray
    sigmas_mm: np.ndarray
    peaks: np.ndarray

    @classmethod
    def asymmetric(cls, grid: Volume) -> GaussianBlobs:
        """Three blobs, unlike in size and density and on no common axis, well inside the grid."""
        offsets = np.array([[-9.0, 8.0, -6.0], [11.0, -7.0, -3.0], [3.0, 6.0, 7.0]])
        axes = grid.index_to_lps[:3, :3] / grid.spacing_mm
        centres = grid.centre_lps_mm + offsets @ axes.T
        return cls(centres, np.array([6.0, 5.0, 5.5]), np.array([0.03, 0.02, 0.012]))

    def sampled(self, grid: Volume) -> Volume:
        """The blobs at the voxel centres of a grid."""
        points = voxel_centres_lps(grid)
        total = np.zeros(grid.array.shape)
        for centre, sigma, peak in zip(self.centres_lps_mm, self.sigmas_mm, self.peaks, strict=True):
            total += peak * np.exp(-((points - centre) ** 2).sum(axis=-1) / (2 * sigma**2))
        return grid.same_grid(total.astype(np.float32))

    def line_integrals(self, camera: Camera, T_lps_to_camera) -> np.ndarray:
        """(rows, columns): a Gaussian of a line's distance to each centre, times sigma sqrt(2 pi)."""
        rays = camera.unit_rays()
        image = np.zeros(camera.shape)
        for centre, sigma, peak in zip(self.centres_lps_mm, self.sigmas_mm, self.peaks, strict=True):
            c = T_lps_to_camera[:3, :3] @ centre + T_lps_to_camera[:3, 3]
            distance_squared = (np.cross(rays, c) ** 2).sum(axis=-1)
            image += peak * sigma * np.sqrt(2 * np.pi) * np.exp(-distance_squared / (2 * sigma**2))
        return image


@dataclass(frozen=True)
class Ellipsoid:
    """A uniform ellipsoid.

    Attributes:
        centre_lps_mm: (3,).
        axes: (3, 3) orthonormal columns, LPS.
        radii_mm: (3,) along the columns.
        density: 1/mm.
    """

    centre_lps_mm: np.ndarray
    axes: np.ndarray
    radii_mm: np.ndarray
    density: float

    def sampled(self, grid: Volume, oversampling: int = 4) -> Volume:
        """Density times the part of each voxel inside, from ``oversampling``^3 points."""
        points = voxel_centres_lps(grid)
        offsets = (np.arange(oversampling) + 0.5) / oversampling - 0.5
        inside = np.zeros(grid.array.shape)
        for shift in np.stack(np.meshgrid(offsets, offsets, offsets), axis=-1).reshape(-1, 3):
            local = (points + grid.index_to_lps[:3, :3] @ shift - self.centre_lps_mm) @ self.axes
            inside += ((local / self.radii_mm) ** 2).sum(axis=-1) <= 1
        return grid.same_grid((self.density * inside / oversampling**3).astype(np.float32))

    def line_integrals(self, camera: Camera, T_lps_to_camera) -> np.ndarray:
        """(rows, columns): density times the chord, the unit-sphere frame's quadratic solved for each ray."""
        R, t = T_lps_to_camera[:3, :3], T_lps_to_camera[:3, 3]
        source = (-R.T @ t - self.centre_lps_mm) @ self.axes / self.radii_mm
        rays = camera.unit_rays() @ R @ self.axes / self.radii_mm
        a = (rays**2).sum(axis=-1)
        b = rays @ source
        discriminant = b**2 - a * (source @ source - 1)
        return self.density * 2 * np.sqrt(np.maximum(discriminant, 0)) / a
