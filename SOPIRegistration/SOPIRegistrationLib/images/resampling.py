"""Values on other grids: looked up, or averaged over areas, which neither aliases nor loses anything."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy import ndimage, sparse

from SOPIRegistrationLib.images.volume import Volume


def looked_up(volume: Volume, index_to_lps: np.ndarray, shape: tuple[int, ...], order: int = 0) -> np.ndarray:
    """(k, j, i) values of a volume at another grid's voxels, the nearest or (order 1) between; 0 beyond the
    volume."""
    reverse = np.eye(4)[[2, 1, 0, 3]]
    to_volume = reverse @ volume.lps_to_index @ index_to_lps @ reverse
    return ndimage.affine_transform(volume.array, to_volume, output_shape=shape, order=order)


def overlap_weights(centres: np.ndarray, step: float, low: int, high: int) -> sparse.csr_array:
    """Share of each old sample low..high-1 in new ones of width ``step``, both in old samples.

    A row sums to one where the new sample lies wholly within the old ones, to its covered share at the ends.
    """
    old = np.arange(low, high)
    overlap = np.minimum(centres[:, None] + step / 2, old + 0.5)
    overlap -= np.maximum(centres[:, None] - step / 2, old - 0.5)
    return sparse.csr_array((np.clip(overlap, 0, None) / step).astype(np.float32))


def linear_weights(centres: np.ndarray, low: int, high: int) -> sparse.csr_array:
    """Weights of linear interpolation at ``centres`` (old samples), constant beyond the ends."""
    inside = np.clip(centres, low, high - 1)
    weights = np.clip(1 - np.abs(inside[:, None] - np.arange(low, high)), 0, None)
    return sparse.csr_array(weights.astype(np.float32))


@lru_cache(maxsize=512)
def area_weights(new: int, old: int) -> sparse.csr_array:
    """(new, old) weights that turn ``old`` samples into ``new`` ones of the same extent; read only."""
    step = old / new
    return overlap_weights((np.arange(new) + 0.5) * step - 0.5, step, 0, old)


def averaged(image: np.ndarray, rows: sparse.csr_array, columns: sparse.csr_array) -> np.ndarray:
    """(new rows, new columns) float32 of an image, by weights (new, old) along each axis."""
    return np.ascontiguousarray((rows @ image.astype(np.float32)) @ columns.T, dtype=np.float32)


def masked_average(
    image: np.ndarray, valid: np.ndarray, rows: sparse.csr_array, columns: sparse.csr_array
) -> tuple[np.ndarray, np.ndarray]:
    """As :func:`averaged`, of the valid pixels alone; and what share of each new pixel they are."""
    share = averaged(valid, rows, columns)
    return averaged(np.where(valid, image, 0), rows, columns) / np.maximum(share, 1e-6), share
