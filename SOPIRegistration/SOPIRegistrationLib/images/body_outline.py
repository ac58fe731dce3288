"""Where the patient is in a CT, told from table and air on a coarse copy."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.images.attenuation import METAL_CLAMP_HU, TISSUE_HU
from SOPIRegistrationLib.images.volume import Volume
from SOPIRegistrationLib.images.working_grid import WorkingGrid

# Air outside a body averages below this on the coarse grid, healthy lung does not.
_OPEN_AIR_HU = -950.0
# What borders on air is skin, fat or lung in a body, below 20 HU, and in bones that somebody cut out their
# shells, above 350 HU also where the marrow is thin.
_SEGMENTED_BONE_HU = 100.0
_COARSE_MM = 4.0
_TABLE_RADIUS_MM = 5.0


class BodyOutline:
    """Where the patient is in a CT, on a grid coarse enough to be quick (about 4 mm).

    Attributes:
        kept: bool (k, j, i), coarse: not table, not open air; one voxel wider than the body.
        box: ((k0, j0, i0), (k1, j1, i1)) voxel range of the CT that holds it.
        is_segmented_bone: the CT holds bones that somebody cut out, and nothing else.
    """

    def __init__(self, volume: Volume):
        array, spacing = volume.array, volume.spacing_mm[::-1]
        self.factors = tuple(
            int(np.clip(_COARSE_MM // step, 1, max(1, n // 32)))
            for step, n in zip(spacing, array.shape, strict=True)
        )
        coarse = _block_mean(array, self.factors)
        sampled = array[tuple(slice(factor // 2, None, factor) for factor in self.factors)]
        self._spacing = spacing * self.factors
        # The axis along which slices are axial: in them a body is closed, and its lungs are inside.
        self._axial = 2 - int(np.abs(volume.index_to_lps[2, :3] / volume.spacing_mm).argmax())
        tissue = coarse > TISSUE_HU
        if not tissue.any():
            raise InputError(
                f"CT {volume.name} has no tissue above {TISSUE_HU:g} HU: give a CT in Hounsfield units"
            )
        present = sampled > TISSUE_HU
        border = present & ~ndimage.binary_erosion(present, border_value=1)
        self.is_segmented_bone = bool(border.any() and np.median(sampled[border]) > _SEGMENTED_BONE_HU)
        # Segmented bones can be as thin as a table, and come without one.
        solid = tissue if self.is_segmented_bone else self._without_table(tissue)
        self.kept = ndimage.binary_dilation(self._with_lungs(solid, tissue, coarse))
        low, high = [], []
        for axis, (factor, n) in enumerate(zip(self.factors, array.shape, strict=True)):
            filled = np.flatnonzero(self.kept.any(axis=tuple(other for other in range(3) if other != axis)))
            low.append(int(filled[0]) * factor)
            high.append(min(n, (int(filled[-1]) + 1) * factor))
        self.box = np.array([low, high])
        self._unmeasured = self._beyond_reconstruction_circle(sampled)

    def _without_table(self, tissue: np.ndarray) -> np.ndarray:
        """Large connected parts of an opening: it cuts off a table's thin shell, sheets and cables."""
        # Tissue at the border of the scan goes on beyond it: distances are to the next air inside.
        core = ndimage.distance_transform_edt(tissue, sampling=self._spacing) > _TABLE_RADIUS_MM
        if not core.any():
            return tissue
        opened = ndimage.distance_transform_edt(~core, sampling=self._spacing) <= _TABLE_RADIUS_MM
        labels, _ = ndimage.label(opened)
        sizes = np.bincount(labels.ravel())
        sizes[0] = 0
        body = np.isin(labels, np.flatnonzero(sizes >= 0.01 * sizes.max()))
        return tissue & ndimage.binary_dilation(body)

    def _with_lungs(self, solid: np.ndarray, tissue: np.ndarray, coarse: np.ndarray) -> np.ndarray:
        """The solid body, the lungs and gas in it, and the thin walls and vessels that the opening took."""
        in_plane = np.ones((3, 3, 3), dtype=bool)
        for side in (0, 2):
            in_plane[(slice(None),) * self._axial + (side,)] = False
        labels, count = ndimage.label(~tissue, in_plane)
        border = np.zeros(coarse.shape, dtype=bool)
        for axis in range(3):
            if axis != self._axial:
                border[(slice(None),) * axis + ([0, -1],)] = True

        def number_of(voxels):
            return np.bincount(labels[voxels], minlength=count + 1)

        # Not air at the border of an axial slice; not mostly bounded by what was taken for a table (its
        # foam core); and not air between body and table, which attenuates nothing.
        touching = number_of(ndimage.binary_dilation(solid, in_plane))
        touching_removed = number_of(ndimage.binary_dilation(tissue & ~solid, in_plane))
        inside = number_of(border & (coarse < _OPEN_AIR_HU)) == 0
        inside &= touching > 0.25 * (touching + touching_removed)
        inside &= np.bincount(labels.ravel(), coarse.ravel()) > _OPEN_AIR_HU * number_of(labels >= 0)
        inside[0] = False
        gas = inside[labels]
        if not gas.any():
            return solid
        wall = ndimage.distance_transform_edt(~gas, sampling=self._spacing) <= 2 * _TABLE_RADIUS_MM
        return solid | gas | (tissue & wall)

    def _beyond_reconstruction_circle(self, sampled: np.ndarray) -> np.ndarray:
        """Coarse voxels never measured: of one value in all slices, outside a circle about the axis."""
        slices = np.moveaxis(sampled, self._axial, 0)
        padding = (slices == slices[0, 0, 0]).all(axis=0)
        rows, columns = (np.arange(n) - (n - 1) / 2 for n in padding.shape)
        radius = np.sqrt((padding.size - padding.sum()) / np.pi)
        beyond = np.hypot(rows[:, None], columns) > radius
        agreement = (padding & beyond).sum() / max(1, (padding | beyond).sum())
        unmeasured = np.zeros(self.kept.shape, dtype=bool)
        # A scanner's circle touches the sides of its images; the room around a segmented bone need not.
        if agreement > 0.9 and radius > 0.45 * min(padding.shape):
            np.moveaxis(unmeasured, self._axial, 0)[:, : padding.shape[0], : padding.shape[1]] = padding
        return unmeasured

    def on_grid(self, coarse: np.ndarray, grid: WorkingGrid) -> np.ndarray:
        """Coarse voxels looked up at every working voxel."""
        indices = [
            np.clip(np.rint(centres).astype(int) // factor, 0, n - 1)
            for centres, factor, n in zip(grid.centres, self.factors, coarse.shape, strict=True)
        ]
        return coarse[np.ix_(*indices)]

    def leaves_scan(self, grid: WorkingGrid) -> np.ndarray:
        """Working voxels of the body at the border of the scan or of the reconstruction circle."""
        leaving = self.on_grid(self.kept, grid) & grid.at_scan_border()
        if self._unmeasured.any():
            leaving |= self.on_grid(self.kept & ndimage.binary_dilation(self._unmeasured), grid)
        return leaving


def _block_mean(array: np.ndarray, factors: tuple[int, int, int]) -> np.ndarray:
    """Means of blocks of voxels, HU; the last block of an axis may be smaller."""
    shape = tuple(-(-n // f) for n, f in zip(array.shape, factors, strict=True))
    result = np.empty(shape, dtype=np.float32)
    starts = [np.arange(0, n, f) for n, f in zip(array.shape, factors, strict=True)]
    counts = [np.diff([*start, n]) for start, n in zip(starts, array.shape, strict=True)]
    for index, first in enumerate(starts[0]):
        slab = np.clip(array[first : first + factors[0]], -1024, METAL_CLAMP_HU)
        plane = slab.mean(axis=0, dtype=np.float32)
        plane = np.add.reduceat(np.add.reduceat(plane, starts[1], axis=0), starts[2], axis=1)
        result[index] = plane / np.outer(counts[1], counts[2])
    return result
