"""The CT as the moving object: attenuation at several resolutions."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import numpy as np

from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.images.pyramid import halved
from SOPIRegistrationLib.images.volume import Volume
from SOPIRegistrationLib.projector import ProjectorVolume

# A body goes on beyond its scan at least as far as an X-ray shows it; where exactly matters little.
_BEYOND_MM, _BEYOND_VOXEL_MM = 300.0, 4.0


class MovingVolume:
    """Attenuation pyramid of one CT, each level laid out for projection when first used.

    Args:
        attenuation: linear attenuation, 1/mm.
        truncated: mask of the border through which the object leaves the scan, or None.

    Attributes:
        unscanned: masks of where the object leaves the scan and of where it goes on; empty if it ends inside.
        voxels_per_pixel: a volume may be this many times coarser than the pixels that look at it (measured:
            coarser loses starts).
    """

    voxels_per_pixel = 1.4
    unscanned: Sequence[ProjectorVolume] = ()

    def __init__(self, attenuation: Volume, truncated: Volume | None = None):
        self.attenuation = attenuation
        self._levels = [ProjectorVolume(attenuation)]
        if truncated is not None and truncated.array.any():
            border = Volume(truncated.array.astype(np.float32), truncated.index_to_lps)
            masks = border, beyond_border(border)
            self.unscanned = tuple(ProjectorVolume(mask) for mask in masks if mask is not None)

    def without_truncation(self) -> MovingVolume:
        """The same volume, its rays through the end of the scan compared like any other."""
        other = copy(self)
        other.unscanned = ()
        return other

    def level(self, halvings: int) -> ProjectorVolume:
        """The volume after so many halvings of its resolution."""
        while len(self._levels) <= halvings:
            self._levels.append(ProjectorVolume(halved(self._levels[-1].volume)))
        return self._levels[halvings]

    def for_camera(self, camera: Camera, T_lps_to_world: np.ndarray) -> ProjectorVolume:
        """The coarsest level whose voxels still suit the camera's pixels at the volume's place."""
        T_lps_to_camera = camera.T_world_to_camera @ T_lps_to_world
        depth = (T_lps_to_camera @ np.append(self.attenuation.centre_lps_mm, 1.0))[2]
        pixel_mm = depth / min(camera.K[0, 0], camera.K[1, 1])
        finest = self.attenuation.spacing_mm.max()
        ratio = self.voxels_per_pixel * pixel_mm / finest
        return self.level(max(0, int(np.floor(np.log2(max(ratio, 1.0))))))


def beyond_border(border: Volume) -> Volume | None:
    """Where an object goes on that leaves its scan: the ends of the scan continued straight outwards.

    Args:
        border: float32 mask, 1 in the outermost voxels through which the object leaves.

    Returns:
        A coarser float32 mask on a larger grid, 0 within the scan; None if the object leaves through none of
        the grid's faces.
    """
    # A face that is marked along its edges alone is a side of the box about the object.
    faces = {
        (axis, end): face
        for axis in range(3)
        for end in (0, -1)
        if (face := np.take(border.array, end, axis))[1:-1, 1:-1].any()
    }
    if not faces:
        return None
    spacing_mm = border.spacing_mm[::-1]
    factors = np.maximum(1, np.rint(_BEYOND_VOXEL_MM / spacing_mm)).astype(int)
    shape = -(-np.array(border.array.shape) // factors)
    margins = np.ceil(_BEYOND_MM / (factors * spacing_mm)).astype(int)
    margins[[axis not in {axis for axis, _ in faces} for axis in range(3)]] = 0
    continued = np.zeros(shape + 2 * margins, np.float32)
    for (axis, end), face in faces.items():
        where = [slice(margin, margin + n) for margin, n in zip(margins, shape, strict=True)]
        where[axis] = slice(None, margins[axis]) if end == 0 else slice(-margins[axis], None)
        continued[tuple(where)] = np.expand_dims(_block_maxima(face, np.delete(factors, axis)), axis)
    steps, first = factors[::-1], (factors - 1) / 2 - margins * factors
    index_to_lps = border.index_to_lps.copy()
    index_to_lps[:3, 3] = border.points_lps(first[::-1])
    index_to_lps[:3, :3] *= steps
    return Volume(continued, index_to_lps)


def _block_maxima(face: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Maxima of blocks of pixels, of which the last may be incomplete."""
    filled = np.pad(face, [(0, -n % factor) for n, factor in zip(face.shape, factors, strict=True)])
    rows, columns = filled.shape // factors
    return filled.reshape(rows, factors[0], columns, factors[1]).max(axis=(1, 3))
