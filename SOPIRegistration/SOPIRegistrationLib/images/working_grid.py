"""The isotropic grid along a CT's own axes on which it is registered, and the way onto it."""

from __future__ import annotations

import numpy as np

from SOPIRegistrationLib.images.attenuation import attenuation_of_hu
from SOPIRegistrationLib.images.resampling import linear_weights, overlap_weights
from SOPIRegistrationLib.images.volume import Volume

# Slices that are resampled at once: a whole CT in single precision would take gigabytes.
_SLAB = 16


class WorkingGrid:
    """The grid that a CT is resampled to.

    Attributes:
        index_to_lps: (4, 4) affine of the working voxels.
        spacing_mm: their edge, mm.
        shape: (k, j, i).
        centres: for each axis (k, j, i), the working voxels' centres in CT indices.
    """

    def __init__(self, volume: Volume, box: np.ndarray, spacing_mm: float | None, most_voxels: int):
        spacing = volume.spacing_mm[::-1]
        extent = (box[1] - box[0]) * spacing
        finest = float(spacing.min())
        if spacing_mm is None:
            spacing_mm = max(finest, float(np.prod(extent) / most_voxels) ** (1 / 3))
        own = np.abs(spacing - spacing_mm).max() < 1e-3 * finest
        self.spacing_mm = float(spacing.mean()) if own else spacing_mm
        steps = np.ones(3) if own else spacing_mm / spacing
        self.shape = tuple(int(n) for n in np.ceil((box[1] - box[0]) / steps - 1e-6))
        first = box[0] + (steps - 1) / 2
        self.centres = [
            start + step * np.arange(n) for start, step, n in zip(first, steps, self.shape, strict=True)
        ]
        self.index_to_lps = volume.index_to_lps.copy()
        self.index_to_lps[:3, :3] *= steps[::-1]
        self.index_to_lps[:3, 3] = volume.points_lps(first[::-1])
        self._box, self._steps, self._scan_shape, self._own = box, steps, volume.array.shape, own

    def at_scan_border(self) -> np.ndarray:
        """Bool (k, j, i): the outermost working voxels on the sides where the scan itself ends."""
        border = np.zeros(self.shape, dtype=bool)
        for axis in range(3):
            ends = (self._box[0][axis] == 0, self._box[1][axis] == self._scan_shape[axis])
            for end, touches in zip((0, -1), ends, strict=True):
                if touches:
                    border[(slice(None),) * axis + (end,)] = True
        return border

    def resample(self, hu: np.ndarray, bone_threshold_hu: float | None, report):
        """Attenuation (1/mm, float32) and, with a threshold, where at least half of a voxel is bone (bool).

        Where working voxels are larger than the CT's, each is the mean over the volume it covers, which
        keeps line integrals and does not alias; where smaller, values are interpolated linearly.
        """
        weights = [
            overlap_weights(centres, step, low, high) if step >= 1 else linear_weights(centres, low, high)
            for centres, step, low, high in zip(self.centres, self._steps, *self._box, strict=True)
        ]
        attenuation = np.empty(self.shape, dtype=np.float32)
        bone = np.zeros(self.shape, dtype=bool)
        in_plane = tuple(slice(low, high) for low, high in self._box.T[1:])
        for start in range(0, self.shape[0], _SLAB):
            rows = slice(start, min(start + _SLAB, self.shape[0]))
            along_k = weights[0][rows]
            used = slice(along_k.indices.min(), along_k.indices.max() + 1)
            slab = hu[(slice(self._box[0][0] + used.start, self._box[0][0] + used.stop), *in_plane)]
            slab = slab.astype(np.float32)
            separable = (along_k[:, used], *weights[1:])
            attenuation[rows] = self._apply(separable, attenuation_of_hu(slab))
            if bone_threshold_hu is not None:
                bone[rows] = self._apply(separable, (slab >= bone_threshold_hu).astype(np.float32)) >= 0.5
            report(rows.stop / self.shape[0])
        return attenuation, bone

    def _apply(self, weights, slab: np.ndarray) -> np.ndarray:
        if self._own:
            return slab
        along_k, along_j, along_i = weights
        slab = (along_k @ slab.reshape(len(slab), -1)).reshape(-1, *slab.shape[1:])
        return np.stack([(along_i @ (along_j @ one).T).T for one in slab])
