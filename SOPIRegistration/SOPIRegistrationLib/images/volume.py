"""Volumes with their place in patient space."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Volume:
    """A scalar image in patient space.

    Attributes:
        array: (k, j, i) voxels.
        index_to_lps: (4, 4) affine, (i, j, k, 1) to LPS mm; any direction matrix and spacing.
        name: where it came from, for messages.
        notes: what was assumed or mended where it was read, each a sentence for the user.
    """

    array: np.ndarray
    index_to_lps: np.ndarray
    name: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self):
        affine = np.asarray(self.index_to_lps, dtype=np.float64)
        if self.array.ndim != 3:
            raise ValueError(f"a volume has 3 axes, not {self.array.ndim}")
        if affine.shape != (4, 4) or not _span_space(affine[:3, :3]):
            raise ValueError("index_to_lps must be an invertible 4x4 matrix")
        object.__setattr__(self, "index_to_lps", affine)

    @property
    def spacing_mm(self) -> np.ndarray:
        """(3,) voxel size along i, j, k, mm."""
        return np.linalg.norm(self.index_to_lps[:3, :3], axis=0)

    @property
    def lps_to_index(self) -> np.ndarray:
        """(4, 4) inverse of ``index_to_lps``."""
        return np.linalg.inv(self.index_to_lps)

    @property
    def centre_lps_mm(self) -> np.ndarray:
        """(3,) centre of the grid in LPS, mm."""
        last = np.array(self.array.shape[::-1]) - 1
        return self.points_lps(last / 2)

    def points_lps(self, indices) -> np.ndarray:
        """(..., 3) LPS points, mm, of (..., 3) indices (i, j, k)."""
        return np.asarray(indices) @ self.index_to_lps[:3, :3].T + self.index_to_lps[:3, 3]

    def same_grid(self, array: np.ndarray, name: str | None = None) -> Volume:
        """Another array on this volume's grid."""
        if array.shape != self.array.shape:
            raise ValueError(f"array of shape {array.shape} on a grid of {self.array.shape}")
        return Volume(array, self.index_to_lps, self.name if name is None else name)


def _span_space(axes: np.ndarray) -> bool:
    """Whether three axes do, whatever the unit of their lengths."""
    lengths = np.linalg.norm(axes, axis=0)
    return bool(lengths.min() > 0) and abs(np.linalg.det(axes / lengths)) > 1e-9
