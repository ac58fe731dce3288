"""What is made of a patient's CT before it is X-rayed or registered: bones, a few slices, a stranger."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.images.attenuation import BONE_THRESHOLD_HU
from SOPIRegistrationLib.images.volume import Volume

_AIR_HU = -1000
# Voxels of air about a bone that is cut out.
_ABOUT_BONE = 3
# A vertebra's marrow and its denser shell.
_MARROW_HU, _SHELL_HU, _SHELL_MM = 250, 800, 1.5
# A stranger's vertebrae are higher or lower by such shares in turn, over such lengths; the spine leans by up
# to such angles one way and the other over such lengths.
_SCALED, _SCALED_OVER_MM = (0.05, 0.15), (60.0, 110.0)
_BENT_DEG, _BENT_OVER_MM = (5.0, 12.0), (180.0, 320.0)


def bones_of(ct: Volume) -> Volume:
    """A CT (HU) with everything but bone, above 200 HU, taken out."""
    return ct.same_grid(np.where(ct.array > BONE_THRESHOLD_HU, ct.array, _AIR_HU).astype(ct.array.dtype))


def bone_alone(ct: Volume, labels: Volume, label: int) -> Volume:
    """One labelled bone of a CT (HU) in air, the box about it."""
    bone = labels.array == label
    if not bone.any():
        raise InputError(
            f"{ct.name} has no label {label}: it has {np.unique(labels.array[labels.array > 0])}"
        )
    first = [int(np.flatnonzero(bone.any(axis=others))[0]) for others in ((1, 2), (0, 2), (0, 1))]
    last = [int(np.flatnonzero(bone.any(axis=others))[-1]) for others in ((1, 2), (0, 2), (0, 1))]
    box = tuple(
        slice(max(0, low - _ABOUT_BONE), high + 1 + _ABOUT_BONE)
        for low, high in zip(first, last, strict=True)
    )
    index_to_lps = ct.index_to_lps.copy()
    index_to_lps[:3, 3] = ct.points_lps([edge.start for edge in reversed(box)])
    hu = np.where(bone[box], ct.array[box], _AIR_HU).astype(ct.array.dtype)
    return Volume(hu, index_to_lps, f"{ct.name}, bone {label}")


def thicker_end(bone: Volume, length_mm: float) -> Volume:
    """So much of a bone in air (HU) along the scan, from the end that has more bone."""
    slices = min(len(bone.array), round(length_mm / bone.spacing_mm[2]) + _ABOUT_BONE)
    ends = bone.array[:slices], bone.array[-slices:]
    first, last = (int((end > BONE_THRESHOLD_HU).sum()) for end in ends)
    start = 0 if first >= last else len(bone.array) - slices
    index_to_lps = bone.index_to_lps.copy()
    index_to_lps[:3, 3] = bone.points_lps([0, 0, start])
    return Volume(np.ascontiguousarray(bone.array[start : start + slices]), index_to_lps, bone.name)


def ct_of_labels(labels: Volume) -> Volume:
    """A CT (HU) of labelled bones: one density with a denser shell, in air."""
    bone = labels.array > 0
    depth = ndimage.distance_transform_edt(bone, labels.spacing_mm[::-1])
    hu = np.where(bone, np.where(depth > _SHELL_MM, _MARROW_HU, _SHELL_HU), _AIR_HU).astype(np.int16)
    return labels.same_grid(hu)


def slices_about(ct: Volume, point_lps_mm: np.ndarray, height_mm: float) -> Volume:
    """The slices of a CT within half a height of a point."""
    middle = (ct.lps_to_index @ np.append(point_lps_mm, 1.0))[2]
    reach = height_mm / 2 / ct.spacing_mm[2]
    first, last = max(0, round(middle - reach)), min(len(ct.array), round(middle + reach))
    index_to_lps = ct.index_to_lps.copy()
    index_to_lps[:3, 3] = ct.points_lps([0, 0, first])
    return Volume(np.ascontiguousarray(ct.array[first:last]), index_to_lps, ct.name)


def stranger_of(ct: Volume, rng: np.random.Generator) -> Volume:
    """Another patient made of a CT (HU): its vertebrae higher and lower by 5 to 15 %, its spine bent.

    A scale of the whole could be told from another distance by perspective alone; heights that change along
    the spine, and a bend, no pose makes up for.

    Args:
        ct: the CT, its slices across the patient.
        rng: of everything drawn.
    """
    along = np.arange(len(ct.array)) * ct.spacing_mm[2]
    share, over = rng.uniform(*_SCALED), rng.uniform(*_SCALED_OVER_MM)
    # The slope of what is added to the height is the share.
    phase = rng.uniform(0, 2 * np.pi)
    higher = share * over / (2 * np.pi) * np.sin(2 * np.pi * along / over + phase)
    planes = []
    for axis in (0, 1):
        lean, over = np.tan(np.deg2rad(rng.uniform(*_BENT_DEG))), rng.uniform(*_BENT_OVER_MM)
        # To the front and back the spine is bent half as much as to its sides.
        lean *= rng.choice([-1.0, 1.0]) * (1.0 if axis == 0 else 0.5)
        phase = rng.uniform(0, 2 * np.pi)
        planes.append(lean * over / (2 * np.pi) * np.sin(2 * np.pi * along / over + phase))
    outside = float(ct.array.min())
    # Slice by slice: the source is shifted within the slice, and lies between two slices.
    source = np.clip(np.arange(len(along)) + higher / ct.spacing_mm[2], 0, len(along) - 1)
    below = np.minimum(np.floor(source).astype(int), len(along) - 2)
    changed = np.empty_like(ct.array)
    for k, (low, weight) in enumerate(zip(below, source - below, strict=True)):
        whole = (1 - weight) * ct.array[low].astype(np.float32) + weight * ct.array[low + 1]
        shift = planes[1][k] / ct.spacing_mm[1], planes[0][k] / ct.spacing_mm[0]
        moved = ndimage.shift(whole, shift, order=1, mode="constant", cval=outside)
        changed[k] = np.rint(moved) if changed.dtype.kind in "iu" else moved
    return ct.same_grid(changed, f"{ct.name}, changed")
