"""Coarser versions of X-rays and volumes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.images.radiograph import PreparedRadiograph
from SOPIRegistrationLib.images.resampling import area_weights, averaged, masked_average, overlap_weights
from SOPIRegistrationLib.images.volume import Volume


def area_average(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """(rows, columns) image averaged onto height x width pixels of the same field of view."""
    return averaged(image, *_weights(image, width, height))


def _weights(image: np.ndarray, width: int, height: int) -> tuple:
    """Along rows and columns."""
    return area_weights(height, image.shape[0]), area_weights(width, image.shape[1])


def resampled_radiograph(prepared: PreparedRadiograph, width: int, height: int) -> PreparedRadiograph:
    """The X-ray on coarser pixels: averages of its valid pixels; a new pixel is valid if most of it was."""
    if prepared.camera.shape == (height, width):
        return prepared
    image, share = masked_average(prepared.image, prepared.valid, *_weights(prepared.image, width, height))
    valid = share > 0.5
    filled = np.where(valid, image, area_average(prepared.image, width, height))
    return prepared.on_pixels(filled, valid, prepared.camera.resampled(width, height))


def square_radiograph(prepared: PreparedRadiograph, pixels: int) -> PreparedRadiograph:
    """The X-ray on ``pixels`` x ``pixels`` coarser ones; where it is not square, invalid ones are added."""
    rows, columns = prepared.camera.shape
    size = max(rows, columns)
    above, left = (size - rows) // 2, (size - columns) // 2
    margins = ((above, size - rows - above), (left, size - columns - left))
    image = np.pad(prepared.image, margins, mode="edge")
    camera = prepared.camera.cropped(-left, -above, size, size)
    padded = prepared.on_pixels(image, np.pad(prepared.valid, margins), camera)
    return resampled_radiograph(padded, pixels, pixels)


def radiograph_in_camera(prepared: PreparedRadiograph, camera: Camera) -> PreparedRadiograph:
    """The X-ray as a camera of other intrinsics at the same place would have it.

    Rays are the same rays whatever the detector's pitch and distance: only the pixels change, which are
    averaged. What the X-ray does not show is not valid.

    Args:
        prepared: the X-ray.
        camera: intrinsics and image size, without skew; its extrinsics are not looked at.
    """
    old = prepared.camera
    weights = []
    for axis, (new_size, old_size) in enumerate(zip(camera.shape[::-1], old.shape[::-1], strict=True)):
        step = old.K[axis, axis] / camera.K[axis, axis]
        centres = (np.arange(new_size) - camera.K[axis, 2]) * step + old.K[axis, 2]
        weights.append(overlap_weights(centres, step, 0, old_size))
    columns, rows = weights
    image, share = masked_average(prepared.image, prepared.valid, rows, columns)
    seen_by = replace(camera, T_world_to_camera=old.T_world_to_camera, sdd_mm=None, name=old.name)
    return prepared.on_pixels(image, share > 0.5, seen_by)


def halved(volume: Volume) -> Volume:
    """The volume on voxels of twice the edge; an odd last slice is averaged with zeros (air)."""
    array = np.pad(volume.array, [(0, size % 2) for size in volume.array.shape])
    k, j, i = (size // 2 for size in array.shape)
    blocks = array.reshape(k, 2, j, 2, i, 2).mean(axis=(1, 3, 5), dtype=np.float32)
    to_fine = np.diag([2.0, 2, 2, 1])
    to_fine[:3, 3] = 0.5
    return Volume(blocks, volume.index_to_lps @ to_fine, volume.name)
