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
            self.unscanned = tuple(ProjectorVolume(mask) for mask in (border, *beyond_border(border)))

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


def beyond_border(border: Volume) -> list[Volume]:
    """A scan's ends continued straight outwards, a coarser mask for each face ``border`` leaves through."""
    faces = ((axis, end, np.take(border.array, end, axis)) for axis in range(3) for end in (0, -1))
    # A face that is marked along its edges alone is a side of the box about the object.
    return [_continued(border, axis, end, face) for axis, end, face in faces if face[1:-1, 1:-1].any()]


def _continued(border: Volume, axis: int, end: int, face: np.ndarray) -> Volume:
    """A face of a grid, its first (``end`` 0) or last (-1) along an axis (k, j, i), continued outwards."""
    spacing_mm = border.spacing_mm[::-1]
    factors = np.maximum(1, np.rint(_BEYOND_VOXEL_MM / spacing_mm)).astype(int)
    rows = _block_maxima(face, np.delete(factors, axis))
    count = int(np.ceil(_BEYOND_MM / (factors * spacing_mm)[axis]))
    continued = np.repeat(np.expand_dims(rows, axis), count, axis).astype(np.float32)
    first = (factors - 1) / 2
    # Blocks are counted from the grid's first voxel, and its last block may be incomplete.
    first[axis] += factors[axis] * (-count if end == 0 else -(-border.array.shape[axis] // factors[axis]))
    index_to_lps = border.index_to_lps.copy()
    index_to_lps[:3, 3] = border.points_lps(first[::-1])
    index_to_lps[:3, :3] *= factors[::-1]
    return Volume(continued, index_to_lps)


def _block_maxima(face: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Maxima of blocks of pixels, of which the last may be incomplete."""
    filled = np.pad(face, [(0, -n % factor) for n, factor in zip(face.shape, factors, strict=True)])
    rows, columns = filled.shape // factors
    return filled.reshape(rows, factors[0], columns, factors[1]).max(axis=(1, 3))
