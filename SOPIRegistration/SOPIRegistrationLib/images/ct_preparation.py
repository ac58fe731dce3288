"""From a CT in Hounsfield units to attenuation and bone on a working grid.

The order matters for memory and time: body and table are told apart on a coarse copy, the CT is cropped
to the body, and only then resampled, a slab of slices at a time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from scipy import ndimage

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.images.identity import ct_identity
from SOPIRegistrationLib.images.prepared_ct import PreparedCT
from SOPIRegistrationLib.images.resampling import linear_weights, overlap_weights
from SOPIRegistrationLib.images.volume import Volume

log = logging.getLogger(__name__)

# Linear attenuation of water at about 70 keV, the mean energy of a C-arm's beam, 1/mm.
MU_WATER = 0.02
# Scanners clip at 3071 HU or, on an extended scale, give metal up to 30000 HU with streaks around it; in
# a real X-ray a screw merely saturates. Teeth and dense cortical bone end below 3000 HU.
METAL_CLAMP_HU = 3000.0
# Between fat (-100) and lung or foam (-700): what is denser belongs to a body, a table top or clothes.
TISSUE_HU = -300.0
# Air outside a body averages below this on the coarse grid, healthy lung does not.
OPEN_AIR_HU = -950.0
# What borders on air is skin, fat or lung in a body, below 20 HU, and in bones that somebody cut out their
# shells, above 350 HU also where the marrow is thin.
SEGMENTED_BONE_HU = 100.0
# Above muscle, most contrast in organs and veins; cortical bone, also thin or osteoporotic, is above it.
BONE_THRESHOLD_HU = 200.0

_COARSE_MM = 4.0
_TABLE_RADIUS_MM = 5.0
_MOST_VOXELS = 224**3
_SMALLEST_BONE_MM3 = 500.0
_SURFACE_POINTS = 2000
_SLAB = 16


def attenuation_of_hu(hu):
    """Linear attenuation, 1/mm: ``max(0, mu_water (1 + HU/1000))``, metal clamped.

    Nothing between air and water is cut off: lungs (about 0.003/mm over 200 mm) show in an X-ray.
    """
    clamped = np.clip(hu, -1000.0, METAL_CLAMP_HU)
    return MU_WATER * (1 + clamped / 1000)


def prepare_ct(
    volume: Volume,
    mask: Volume | None = None,
    bone_threshold_hu: float | None = None,
    working_spacing_mm: float | None = None,
    content: str = "body",
    progress: Callable[[float, str], None] | None = None,
    most_voxels: int = _MOST_VOXELS,
) -> PreparedCT:
    """Turn a CT into attenuation and a bone mask on an isotropic grid along the CT's own axes.

    A CT that is isotropic already, and not too large, keeps its grid and is only cropped.

    Args:
        volume: CT in HU, any direction matrix and spacing.
        mask: label map of the bones on any grid (every label above 0 counts); else a threshold is used.
        bone_threshold_hu: threshold of the bones without a mask, HU.
        working_spacing_mm: edge of the working voxels, mm; else the CT's smallest spacing, or what keeps
            the grid within ``most_voxels``.
        content: "body" for the attenuation of everything but table and air, "bone" for the bones alone.
        progress: called with the fraction done and what is being done.
        most_voxels: of the grid, where its spacing is not given.

    Raises:
        InputError: no body or bone in the CT, an empty mask or one that does not overlap the CT.
    """
    report = progress or (lambda fraction, what: None)
    if content not in ("body", "bone"):
        raise ValueError(f"content must be 'body' or 'bone', not '{content}'")
    if working_spacing_mm is not None and not working_spacing_mm > 0:
        raise InputError(f"the working spacing must be above 0 mm, not {working_spacing_mm:g}")

    report(0.0, "finding the body")
    body = _Body(volume)
    threshold = bone_threshold_hu
    if threshold is None:
        threshold = TISSUE_HU if body.is_segmented_bone else BONE_THRESHOLD_HU
    box = body.box
    if mask is not None:
        mask_box = _mask_box(mask, volume)
        box = mask_box if content == "bone" else _union(box, mask_box)
    grid = _WorkingGrid(volume, box, working_spacing_mm, most_voxels)

    report(0.2, "resampling")
    attenuation, bone = grid.resample(
        volume.array, threshold if mask is None else None, lambda done: report(0.2 + 0.5 * done, "resampling")
    )
    report(0.7, "finding the bones")
    inside = body.on_grid(body.kept, grid)
    if mask is None:
        bone = _cleaned_bone(bone & inside, grid.spacing_mm)
        if not bone.any():
            raise InputError(
                f"CT {volume.name} has no bone above {threshold:g} HU: give a lower --bone-threshold "
                "or a --mask"
            )
    else:
        bone = _labels_on_grid(mask, grid)
        if not bone.any():
            raise InputError(f"mask {mask.name} does not overlap CT {volume.name}: give the mask of this CT")
    attenuation *= inside | bone
    report(0.9, "finding where the scan ends")
    # Fainter than the thinnest lung is gas, or the air beside a body that the coarse outline includes.
    present = bone if content == "bone" else bone | (attenuation > 0.1 * MU_WATER)
    truncated = body.leaves_scan(grid) & present

    prepared = PreparedCT(
        attenuation=Volume(attenuation, grid.index_to_lps, volume.name),
        bone=Volume(bone.astype(np.uint8), grid.index_to_lps, volume.name),
        rotation_centre_lps_mm=centroid_lps(Volume(bone, grid.index_to_lps)),
        surface_points_lps_mm=surface_points_lps(Volume(bone, grid.index_to_lps)),
        truncated=Volume(truncated.astype(np.uint8), grid.index_to_lps, volume.name),
        identity=ct_identity(volume),
        notes=volume.notes + (() if mask is None else mask.notes),
    )
    report(1.0, "done")
    if content == "body":
        return prepared
    return replace(prepared, attenuation=bone_only(prepared))


def bone_only(prepared: PreparedCT) -> Volume:
    """Attenuation of the bones alone, 1/mm, on the prepared grid."""
    attenuation = prepared.attenuation
    return attenuation.same_grid(attenuation.array * (prepared.bone.array > 0))


class _Body:
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
        self.is_segmented_bone = bool(border.any() and np.median(sampled[border]) > SEGMENTED_BONE_HU)
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
        inside = number_of(border & (coarse < OPEN_AIR_HU)) == 0
        inside &= touching > 0.25 * (touching + touching_removed)
        inside &= np.bincount(labels.ravel(), coarse.ravel()) > OPEN_AIR_HU * number_of(labels >= 0)
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

    def on_grid(self, coarse: np.ndarray, grid: _WorkingGrid) -> np.ndarray:
        """Coarse voxels looked up at every working voxel."""
        indices = [
            np.clip(np.rint(centres).astype(int) // factor, 0, n - 1)
            for centres, factor, n in zip(grid.centres, self.factors, coarse.shape, strict=True)
        ]
        return coarse[np.ix_(*indices)]

    def leaves_scan(self, grid: _WorkingGrid) -> np.ndarray:
        """Working voxels of the body at the border of the scan or of the reconstruction circle."""
        leaving = self.on_grid(self.kept, grid) & grid.at_scan_border()
        if self._unmeasured.any():
            leaving |= self.on_grid(self.kept & ndimage.binary_dilation(self._unmeasured), grid)
        return leaving


class _WorkingGrid:
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


def _cleaned_bone(bone: np.ndarray, spacing_mm: float) -> np.ndarray:
    """The bones of a thresholded mask: specks (calcifications, contrast, noise) dropped."""
    labels, _ = ndimage.label(bone, np.ones((3, 3, 3)))
    sizes = np.bincount(labels.ravel()) * spacing_mm**3
    sizes[0] = 0
    return (sizes >= _SMALLEST_BONE_MM3)[labels]


def _mask_box(mask: Volume, volume: Volume) -> np.ndarray:
    """Voxel range of the CT that holds a mask, two of its voxels wider.

    Raises:
        InputError: the mask is empty, or beside the CT.
    """
    filled = mask.array > 0
    if not filled.any():
        raise InputError(f"mask {mask.name} is empty: it needs voxels above 0 where the bones are")
    ends = []
    for axis in range(3):
        used = np.flatnonzero(filled.any(axis=tuple(other for other in range(3) if other != axis)))
        ends.insert(0, (used[0] - 0.5, used[-1] + 0.5))
    corners = np.stack(np.meshgrid(*ends), axis=-1).reshape(-1, 3)
    indices = (mask.points_lps(corners) - volume.index_to_lps[:3, 3]) @ volume.lps_to_index[:3, :3].T
    low = np.floor(indices.min(axis=0))[::-1].astype(int) - 2
    high = np.ceil(indices.max(axis=0))[::-1].astype(int) + 3
    box = np.array([np.clip(low, 0, None), np.minimum(high, volume.array.shape)])
    if (box[1] <= box[0]).any():
        raise InputError(f"mask {mask.name} does not overlap CT {volume.name}: give the mask of this CT")
    return box


def _union(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.array([np.minimum(a[0], b[0]), np.maximum(a[1], b[1])])


def _labels_on_grid(mask: Volume, grid: _WorkingGrid) -> np.ndarray:
    """Nearest labels above zero at the working voxels."""
    reverse = np.eye(4)[[2, 1, 0, 3]]
    to_mask = reverse @ mask.lps_to_index @ grid.index_to_lps @ reverse
    filled = (mask.array > 0).astype(np.uint8)
    return ndimage.affine_transform(filled, to_mask, output_shape=grid.shape, order=0).astype(bool)


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
