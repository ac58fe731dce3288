"""Where a body has gone since the last frame: its projection slid over the X-rays."""

from __future__ import annotations

import numpy as np
from scipy import ndimage, signal

from SOPIRegistrationLib.compare import Comparison, Target
from SOPIRegistrationLib.compare.objective import as_opacity, at_level
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.images.radiograph import PreparedRadiograph
from SOPIRegistrationLib.projector import project

_PIXELS = 128
# What is wider than this window is background; the outline of what is projected lies within half of it.
_WINDOW_PX = 21
# A place at which less of the projection lies on valid pixels is not looked at.
_LEAST_SHARE = 0.5
# Enough to tell a share by.
_SURFACE_POINTS = 2000


def shifted_to_the_pictures(
    comparison: Comparison, T_lps_to_world: np.ndarray, reach_mm: float
) -> np.ndarray:
    """A pose moved, not turned, to where its projection looks most like the X-rays.

    Normalised cross-correlation (Lewis, *Fast normalized cross-correlation*, 1995) of images without their
    background in each view; the shift in space is the least one that explains the views' shifts best. Along
    the ray of a single view nothing moves.

    Args:
        comparison: the body and the X-rays of a frame.
        T_lps_to_world: (4, 4) the pose.
        reach_mm: how far it may have moved across a view.

    Returns:
        (4, 4) T_lps_to_world.
    """
    rows, shifts, centre = [], [], comparison.case.centre_lps_mm
    for radiograph in comparison.radiographs:
        view = at_level(radiograph, _PIXELS)
        if comparison.target.kind.is_silhouette:
            view = as_opacity(view)
        in_camera = se3.transform_points(view.camera.T_world_to_camera @ T_lps_to_world, centre)
        J = _projection_jacobian(view.camera, in_camera)
        reach_px = int(np.ceil(reach_mm * np.abs(J[:, :2]).max()))
        shift = _best_shift(comparison, view, T_lps_to_world, reach_px)
        if shift is not None:
            rows.append(J @ view.camera.T_world_to_camera[:3, :3])
            shifts.append(shift)
    if not rows:
        return T_lps_to_world
    moved = np.array(T_lps_to_world, dtype=np.float64)
    moved[:3, 3] += np.linalg.lstsq(np.concatenate(rows), np.concatenate(shifts), rcond=1e-3)[0]
    return moved


def share_in_field(target: Target, radiograph: PreparedRadiograph, T_lps_to_world: np.ndarray) -> float:
    """Of a body's surface, the share that is seen on an X-ray's valid pixels at a pose (4, 4).

    Of a target without an outline, which goes on beyond its X-ray anyway, 1.
    """
    if target.outline_lps_mm is None:
        return 1.0
    points = target.outline_lps_mm[:: max(1, len(target.outline_lps_mm) // _SURFACE_POINTS)]
    camera = radiograph.camera
    in_camera = se3.transform_points(camera.T_world_to_camera @ T_lps_to_world, points)
    seen = in_camera[:, 2] > 0
    column, row = np.rint(camera.project(in_camera[seen])).T
    inside = (column >= 0) & (row >= 0) & (column < camera.width) & (row < camera.height)
    valid = radiograph.valid[row[inside].astype(int), column[inside].astype(int)]
    return float(valid.sum() / len(points))


def _projection_jacobian(camera: Camera, x_camera: np.ndarray) -> np.ndarray:
    """(2, 3) derivative of the pixel by a point (3,) in camera axes; none by its way along its own ray."""
    x, y, z = x_camera
    return camera.K[:2, :2] @ np.array([[1, 0, -x / z], [0, 1, -y / z]]) / z


def _best_shift(
    comparison: Comparison, view: PreparedRadiograph, T_lps_to_world: np.ndarray, reach_px: int
) -> np.ndarray | None:
    """(2,) pixels (columns, rows) by which the projection is best moved; None where nothing is projected."""
    target = comparison.target
    drr = project(target.moving.for_camera(view.camera, T_lps_to_world), view.camera, T_lps_to_world)
    seen = ndimage.maximum_filter(drr > 0, _WINDOW_PX)
    if not seen.any():
        return None
    window = ndimage.find_objects(seen.astype(np.uint8))[0]
    weight = seen[window].astype(np.float32)
    template = _detail(drr)[window] * weight
    low = [part.start - reach_px for part in window]
    high = [part.stop + reach_px for part in window]
    valid = _padded(view.valid.astype(np.float32), low, high)
    image = _padded(_detail(view.image), low, high) * valid

    def slid(picture: np.ndarray, over: np.ndarray) -> np.ndarray:
        return signal.fftconvolve(picture, over[::-1, ::-1], mode="valid")

    energy = slid(image * image, weight) * slid(valid, template * template)
    correlation = slid(image, template) / np.sqrt(np.maximum(energy, 1e-12))
    correlation[slid(valid, weight) < _LEAST_SHARE * weight.sum()] = -1.0
    row, column = np.unravel_index(correlation.argmax(), correlation.shape)
    return np.array([column - reach_px, row - reach_px], dtype=np.float64)


def _detail(image: np.ndarray) -> np.ndarray:
    return image - ndimage.uniform_filter(image, _WINDOW_PX)


def _padded(image: np.ndarray, low: list[int], high: list[int]) -> np.ndarray:
    """The part of an image between (row, column) corners that may lie beyond it, zeros there."""
    before = [max(0, -edge) for edge in low]
    after = [max(0, edge - size) for edge, size in zip(high, image.shape, strict=True)]
    padded = np.pad(image, list(zip(before, after, strict=True)))
    return padded[tuple(slice(a + b, z + b) for a, z, b in zip(low, high, before, strict=True))]
