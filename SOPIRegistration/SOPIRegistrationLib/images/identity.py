"""Whether two CTs, or two X-rays, are the same one."""

from __future__ import annotations

import hashlib

import numpy as np

from SOPIRegistrationLib.images.volume import Volume

# Enough of a CT to tell it from any other; hashing all of a large one would take a second.
_VOXELS = 2_000_000


def ct_identity(volume: Volume) -> str:
    """16 hexadecimal digits of a CT's voxels, HU, and their place.

    The same for the same CT as read by different readers: in whatever order and direction its axes are
    stored, as integers or floats.
    """
    array, affine = _canonical(volume)
    step = max(1, int(np.ceil((array.size / _VOXELS) ** (1 / 3))))
    voxels = np.rint(array[::step, ::step, ::step]).astype("<i4")
    digest = hashlib.sha256()
    digest.update(repr(array.shape).encode())
    # Readers differ in the last digits; the odd offset keeps round numbers away from where rounding jumps.
    digest.update(np.floor(affine * 1000 + 0.2317).astype("<i8").tobytes())
    digest.update(np.ascontiguousarray(voxels).tobytes())
    return digest.hexdigest()[:16]


def image_identity(pixels: np.ndarray) -> str:
    """16 hexadecimal digits of an X-ray's pixels (rows, columns), of whatever type they are stored in."""
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels, dtype="<f4").tobytes())
    return digest.hexdigest()[:16]


def _canonical(volume: Volume) -> tuple[np.ndarray, np.ndarray]:
    """Array and index-to-LPS matrix (3, 4), the axes i, j, k along L, P, S as nearly as they are."""
    directions = volume.index_to_lps[:3, :3] / volume.spacing_mm
    array, affine = volume.array, volume.index_to_lps.copy()
    # Which index axis runs along L, P and S: the best of the six orders, so that no axis is taken twice.
    orders = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
    order = list(max(orders, key=lambda o: sum(abs(directions[row, axis]) for row, axis in enumerate(o))))
    affine[:, :3] = affine[:, order]
    array = array.transpose([2 - axis for axis in reversed(order)])
    for axis in range(3):
        if affine[axis, axis] < 0:
            last = array.shape[2 - axis] - 1
            affine[:3, 3] += last * affine[:3, axis]
            affine[:3, axis] *= -1
            array = np.flip(array, 2 - axis)
    return array, affine[:3]
