"""A volume laid out for projection: zero border, float32, a map of its empty space."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import ndimage

from SOPIRegistrationLib.images.volume import Volume

# Edge of the cubes in which emptiness is recorded, voxels: smaller follows thin bones better, larger
# costs fewer look-ups in a dense body.
BRICK = 8


class ProjectorVolume:
    """Attenuation (or a mask) ready for projection; make it once per CT.

    Zero voxels are added around the grid, so that interpolation falls to zero outside it
    without a test per sample.

    Attributes:
        volume: the volume as given (any unit per mm), its array a view of ``voxels``.
        voxels: (k + 3, j + 3, i + 3) float32, padded.
        lps_to_padded: (4, 4) LPS mm to padded index (i, j, k).
        brick_reach: int8 (k, j, i), per brick of ``BRICK`` voxels: n > 0 where the bricks nearer than n
            (Chebyshev) are all occupied, -n where they are all empty. A brick is occupied if any voxel that a
            sample in it can touch is not zero.
        support: (2, 3) padded indices (i, j, k) between which all non-zero samples lie.
        backend: name of the backend used by default for this volume.
    """

    def __init__(self, volume: Volume, backend: str = "auto"):
        self.backend = backend
        # Two layers behind: a sample on the support's far face still reads the voxel after it.
        self.voxels = np.zeros([size + 3 for size in volume.array.shape], np.float32)
        inside = self.voxels[1:-2, 1:-2, 1:-2]
        inside[:] = volume.array
        self.volume = replace(volume, array=inside)
        shift = np.eye(4)
        shift[:3, 3] = 1.0
        self.lps_to_padded = shift @ volume.lps_to_index
        self.brick_reach, self.support = _empty_space(self.voxels)

    @property
    def default_step_mm(self) -> float:
        """Sampling step: the smallest voxel edge, mm."""
        return float(self.volume.spacing_mm.min())

    @property
    def is_empty(self) -> bool:
        return bool((self.support[1] <= self.support[0]).any())


def _empty_space(voxels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    bricks = tuple(-(-size // BRICK) for size in voxels.shape)
    full = np.zeros([n * BRICK for n in bricks], dtype=bool)
    np.not_equal(voxels, 0, out=full[tuple(slice(0, size) for size in voxels.shape)])
    # A sample in cell x touches voxels x and x + 1: an occupied voxel also fills the cell before it.
    for axis in range(3):
        along = np.moveaxis(full, axis, 0)
        along[:-1] |= along[1:]
    blocks = full.reshape(bricks[0], BRICK, bricks[1], BRICK, bricks[2], BRICK)
    brick_occupied = blocks.any(axis=(1, 3, 5))
    reach = np.where(brick_occupied, _chessboard(brick_occupied), -_chessboard(~brick_occupied))
    support = np.zeros((2, 3))
    if brick_occupied.any():
        for column, axis in enumerate((2, 1, 0)):
            others = tuple(a for a in range(3) if a != axis)
            filled = np.flatnonzero(full.any(axis=others))
            support[:, column] = filled[0], filled[-1] + 1
    return np.clip(reach, -127, 127).astype(np.int8), support


def _chessboard(mask: np.ndarray) -> np.ndarray:
    """Chebyshev distance of every set element to the nearest unset one; the outside counts as unset."""
    return ndimage.distance_transform_cdt(np.pad(mask, 1), metric="chessboard")[1:-1, 1:-1, 1:-1]
