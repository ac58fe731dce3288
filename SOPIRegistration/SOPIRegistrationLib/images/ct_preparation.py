"""From a CT in Hounsfield units to attenuation and bone on a working grid.

The order matters for memory and time: body and table are told apart on a coarse copy, the CT is cropped
to the body, and only then resampled, a slab of slices at a time.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import ndimage

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.images.attenuation import BONE_THRESHOLD_HU, MU_WATER, TISSUE_HU
from SOPIRegistrationLib.images.body_outline import BodyOutline
from SOPIRegistrationLib.images.bone_surface import centroid_lps, surface_points_lps
from SOPIRegistrationLib.images.identity import ct_identity
from SOPIRegistrationLib.images.prepared_ct import PreparedCT
from SOPIRegistrationLib.images.resampling import looked_up
from SOPIRegistrationLib.images.volume import Volume
from SOPIRegistrationLib.images.working_grid import WorkingGrid

_MOST_VOXELS = 224**3
_SMALLEST_BONE_MM3 = 500.0


def prepare_ct(
    volume: Volume,
    mask: Volume | None = None,
    bone_threshold_hu: float | None = None,
    working_spacing_mm: float | None = None,
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
        progress: called with the fraction done and what is being done.
        most_voxels: of the grid, where its spacing is not given.

    Raises:
        InputError: no body or bone in the CT, a mask that is empty, a CT, or does not overlap the CT.
    """
    report = progress or (lambda fraction, what: None)
    if working_spacing_mm is not None and not working_spacing_mm > 0:
        raise InputError(f"the working spacing must be above 0 mm, not {working_spacing_mm:g}")

    report(0.0, "finding the body")
    body = BodyOutline(volume)
    threshold = bone_threshold_hu
    if threshold is None:
        threshold = TISSUE_HU if body.is_segmented_bone else BONE_THRESHOLD_HU
    box = body.box if mask is None else _union(body.box, _mask_box(mask, volume))
    grid = WorkingGrid(volume, box, working_spacing_mm, most_voxels)

    report(0.2, "resampling")
    attenuation, bone = grid.resample(
        volume.array, threshold if mask is None else None, lambda done: report(0.2 + 0.5 * done, "resampling")
    )
    report(0.7, "finding the bones")
    inside = body.on_grid(body.kept, grid)
    if mask is None:
        bone = _cleaned_bone(bone & inside, grid.spacing_mm)
        none = (
            f"CT {volume.name} has no bone above {threshold:g} HU: give a lower --bone-threshold or a --mask"
        )
    else:
        bone, none = _labels_on_grid(mask, grid), _beside(mask, volume)
    _require(bone, none)
    attenuation *= inside | bone
    report(0.9, "finding where the scan ends")
    # Fainter than the thinnest lung is gas, or the air beside a body that the coarse outline includes.
    truncated = body.leaves_scan(grid) & (bone | (attenuation > 0.1 * MU_WATER))

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
    return prepared


def bone_only(prepared: PreparedCT) -> Volume:
    """Attenuation of the bones alone, 1/mm, on the prepared grid."""
    attenuation = prepared.attenuation
    return attenuation.same_grid(attenuation.array * (prepared.bone.array > 0))


def _require(bone: np.ndarray, otherwise: str) -> None:
    if not bone.any():
        raise InputError(otherwise)


def _cleaned_bone(bone: np.ndarray, spacing_mm: float) -> np.ndarray:
    """The bones of a thresholded mask: specks (calcifications, contrast, noise) dropped."""
    labels, _ = ndimage.label(bone, np.ones((3, 3, 3)))
    sizes = np.bincount(labels.ravel()) * spacing_mm**3
    sizes[0] = 0
    return (sizes >= _SMALLEST_BONE_MM3)[labels]


def _mask_box(mask: Volume, volume: Volume) -> np.ndarray:
    """Voxel range of the CT that holds a mask, two of its voxels wider.

    Raises:
        InputError: the mask is no label map, empty, or beside the CT.
    """
    if mask.array.min() < 0:
        raise InputError(
            f"mask {mask.name} has values below 0 (down to {mask.array.min():g}), as a CT has: give a label "
            "map"
        )
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
        raise InputError(_beside(mask, volume))
    return box


def _beside(mask: Volume, volume: Volume) -> str:
    return f"mask {mask.name} does not overlap CT {volume.name}: give the mask of this CT"


def _union(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.array([np.minimum(a[0], b[0]), np.maximum(a[1], b[1])])


def _labels_on_grid(mask: Volume, grid: WorkingGrid) -> np.ndarray:
    """Nearest labels above zero at the working voxels."""
    filled = mask.same_grid((mask.array > 0).astype(np.uint8))
    return looked_up(filled, grid.index_to_lps, grid.shape).astype(bool)
