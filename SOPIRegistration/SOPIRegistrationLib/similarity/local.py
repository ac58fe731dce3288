"""Local normalisation: an image less the mean and over the deviation of a window about every pixel.

It cancels gain and offset, and what differs slowly over the image, such as scatter or a wrong intensity curve
(LaRose, *Iterative X-ray/CT registration using accelerated volume rendering*, 2001). What networks see of it
(``networks.image_channels``) is part of what they were trained with, and stands there.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.ndimage import uniform_filter1d

# Share of the image's own deviation added to a window's, or noise in flat windows would count as structure.
_FLAT_WINDOW = 0.1


class LocallyNormalised(NamedTuple):
    """Images (..., rows, columns) float32, zero where invalid, and what each of their pixels was freed of.

    Attributes:
        image: ``(x - mean) / deviation``.
        deviation: of the window's valid pixels, steadied by a share of the whole image's.
        mean: of the window's valid pixels.
    """

    image: np.ndarray
    deviation: np.ndarray
    mean: np.ndarray


def locally_normalised(
    image: np.ndarray, valid: np.ndarray, window_px: int, share: np.ndarray | None = None
) -> LocallyNormalised:
    """Normalise images locally.

    Args:
        image: (..., rows, columns).
        valid: the same or broadcast, float32, 1 where pixels count, else 0.
        window_px: odd edge of the window.
        share: :func:`valid_share` of the mask, where it is known already.
    """
    share = valid_share(valid, window_px) if share is None else share
    # Centred first: squares of large values would cost float32 its digits.
    count = np.maximum(_total(valid), 1.0)
    offset = _total(image * valid) / count
    centred = (image - offset) * valid
    floor = _FLAT_WINDOW**2 * _total(centred * centred) / count
    mean = window_mean(centred, window_px) / share
    variance = window_mean(centred * centred, window_px) / share - mean * mean
    deviation = np.sqrt(np.maximum(variance, 0) + np.maximum(floor, 1e-12))
    return LocallyNormalised((image - offset - mean) / deviation * valid, deviation, mean + offset)


def valid_share(valid: np.ndarray, window_px: int) -> np.ndarray:
    """Share of every pixel's window that is valid, above zero."""
    return np.maximum(window_mean(valid, window_px), 1e-6)


def window_mean(array: np.ndarray, window_px: int) -> np.ndarray:
    """Mean over the window about every pixel (the last two axes), zeros outside the image."""
    rows_done = uniform_filter1d(array, window_px, axis=-2, mode="constant")
    return uniform_filter1d(rows_done, window_px, axis=-1, mode="constant")


def _total(array: np.ndarray) -> np.ndarray:
    return array.sum(axis=(-2, -1), keepdims=True)
