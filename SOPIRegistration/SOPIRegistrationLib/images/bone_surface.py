"""Middle and surface of a mask of bone."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from SOPIRegistrationLib.images.volume import Volume

_SURFACE_POINTS = 2000


def centroid_lps(mask: Volume) -> np.ndarray:
    """(3,) centroid, mm, of the voxels of a mask (0 or 1, or bool)."""
    bone = mask.array
    counts = [bone.sum(axis=tuple(other for other in range(3) if other != axis)) for axis in (2, 1, 0)]
    centroid = np.array([np.average(np.arange(len(count)), weights=count) for count in counts])
    return mask.points_lps(centroid)


def surface_points_lps(mask: Volume) -> np.ndarray:
    """(n, 3) about 2000 voxel centres, mm, of a mask's surface, one per cell of a lattice: evenly spread."""
    bone, shape = mask.array > 0, mask.array.shape
    surface = bone & ~ndimage.binary_erosion(bone, border_value=1)
    indices = np.argwhere(surface)[:, ::-1]
    low, high = 1.0, float(max(shape))
    # The number of occupied cells falls steadily with their size: bisection.
    for _ in range(12):
        cell = np.sqrt(low * high)
        cells = np.ravel_multi_index((indices / cell).astype(int).T, shape[::-1])
        chosen = np.unique(cells, return_index=True)[1]
        low, high = (cell, high) if len(chosen) > _SURFACE_POINTS else (low, cell)
    return mask.points_lps(indices[np.sort(chosen)])
