"""Volumes whose axes are not perpendicular, as of a tilted gantry, on axes that are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import SimpleITK as sitk

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.images.attenuation import AIR_HU
from SOPIRegistrationLib.images.volume import Volume

# Cosine between two axes. Less is left as it is: the affine of a volume says it exactly all the same.
TOLERANCE = 1e-3
# Gantries tilt by 30 degrees at most; axes nearer to each other than 45 are a damaged header.
_LARGEST_COSINE = np.sqrt(0.5)
# The largest side of a CT: nothing that is X-rayed on a C-arm is smaller or larger.
_SMALLEST_MM, _LARGEST_MM = 1.0, 5000.0


def require_sound_axes(axes: np.ndarray, path, what: str) -> None:
    """Raise InputError unless three axes span the space well.

    Args:
        axes: (3, 3) columns along i, j, k, of any length.
        path: file that they come from, or the name of a node, for the message.
        what: what to call it there ("CT", "mask").
    """
    lengths = np.linalg.norm(axes, axis=0)
    if np.isfinite(axes).all() and lengths.min() > 0:
        units = axes / lengths
        if _largest_cosine(units) <= _LARGEST_COSINE and abs(np.linalg.det(units)) > 0.3:
            return
    raise InputError(
        f"{what} {path} has axes that do not span space (its direction matrix is singular or nearly so): "
        "convert it again from the DICOM files"
    )


def perpendicular(volume: Volume) -> Volume:
    """A CT on perpendicular axes: itself where it has them, else resampled, with a note.

    Two axes that are perpendicular already stay, which in a scan with a tilted gantry are those of its
    slices where these are stacked along k; the third becomes their normal. Voxels keep their size within
    the slices and the slices their distance, so that nothing is interpolated across slices. Air is around
    what was scanned.

    Args:
        volume: CT in HU.

    Raises:
        InputError: the axes do not span the space, or the size is that of no patient.
    """
    axes = volume.index_to_lps[:3, :3]
    require_sound_axes(axes, volume.name, "CT")
    extent = volume.spacing_mm * volume.array.shape[::-1]
    if not _SMALLEST_MM < extent.max() < _LARGEST_MM:
        sizes = " x ".join(f"{size:.3g}" for size in volume.spacing_mm)
        raise InputError(
            f"CT {volume.name} has voxels of {sizes} mm, {extent.max():.3g} mm in all: correct the spacing "
            "in its header, which is in another unit than it says, or convert it again from the DICOM files"
        )
    units = axes / np.linalg.norm(axes, axis=0)
    if _largest_cosine(units) <= TOLERANCE:
        return volume
    frame, steps = perpendicular_frame(axes)
    # Old indices to millimetres along the new axes, from the first voxel.
    to_frame = frame.T @ axes
    last = np.array(volume.array.shape[::-1]) - 1
    corners = np.stack(np.meshgrid(*([0, n] for n in last)), axis=-1).reshape(-1, 3) @ to_frame.T / steps
    low, high = np.floor(corners.min(axis=0) + 1e-6), np.ceil(corners.max(axis=0) - 1e-6)
    affine = np.eye(4)
    affine[:3, :3] = frame * steps
    affine[:3, 3] = volume.index_to_lps[:3, 3] + affine[:3, :3] @ low
    size = [int(n) for n in high - low + 1]
    array = _resampled(volume.array, volume.lps_to_index @ affine, size)
    tilt = np.degrees(np.arcsin(_largest_cosine(units)))
    note = (
        f"CT {volume.name} has sheared axes, {tilt:.1f} deg off the perpendicular, as a tilted gantry leaves "
        "them: resampled to perpendicular ones"
    )
    return replace(volume, array=array, index_to_lps=affine, notes=(*volume.notes, note))


def perpendicular_frame(axes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Perpendicular axes for sheared ones: the most perpendicular pair of them, and its normal.

    Args:
        axes: (3, 3) columns along i, j, k, mm.

    Returns:
        (3, 3) orthonormal columns along i, j, k; (3,) what the axes advance along each, mm.
    """
    units = axes / np.linalg.norm(axes, axis=0)
    cosines = np.abs(units.T @ units)
    # Slices are stacked along k nearly always: of several perpendicular pairs i and j are one's axes.
    order = min([0, 1, 2], [0, 2, 1], [1, 2, 0], key=lambda pair: max(cosines[pair[0], pair[1]], TOLERANCE))
    q, r = np.linalg.qr(axes[:, order])
    frame, steps = np.empty((3, 3)), np.empty(3)
    frame[:, order] = q * np.sign(np.diag(r))
    steps[order] = np.abs(np.diag(r))
    return frame, steps


def _largest_cosine(units: np.ndarray) -> float:
    return float(np.abs(np.triu(units.T @ units, 1)).max())


def _resampled(array: np.ndarray, new_to_old: np.ndarray, size: list[int]) -> np.ndarray:
    """Voxels at new indices; ``new_to_old`` (4, 4) maps (i, j, k)."""
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(new_to_old[:3, :3].ravel().tolist())
    transform.SetTranslation(new_to_old[:3, 3].tolist())
    image = sitk.GetImageFromArray(array)
    place = ([0.0] * 3, [1.0] * 3, np.eye(3).ravel().tolist())
    linear = sitk.Resample(image, size, transform, sitk.sitkLinear, *place, AIR_HU, sitk.sitkFloat32)
    values = sitk.GetArrayFromImage(linear)
    if array.dtype.kind not in "iu":
        return values
    np.rint(values, out=values)
    fits = values.min() >= -32768 and values.max() <= 32767
    return values.astype(np.int16 if fits else np.int32)
