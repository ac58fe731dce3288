"""What the measures share: masks, standardised images, derivative filters, window sums.

Everything goes through the array API: numpy arrays give numpy values, torch tensors give tensors that are
differentiable (twice) by autograd. Images are (..., rows, columns); leading dimensions broadcast.

Masks are exact. A pixel of weight zero is replaced before anything is computed, so neither value nor gradient
depends on what it holds (NaN included), and a filter's answer counts only where its whole support lies
inside the image and the mask: its weight is the least weight of its support.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from array_api_compat import array_namespace

# A signal below this many rounding errors of the image it was computed from is noise: it is treated as zero.
_NOISE_IN_ROUNDING_ERRORS = 16


class ImagePair(NamedTuple):
    """Two images on a mask.

    Attributes:
        moving, fixed: (..., rows, columns), zero where the weight is.
        weights: (rows, columns), or broadcastable to ``moving``; nonnegative.
    """

    moving: object
    fixed: object
    weights: object


def standardised(moving, fixed, mask=None) -> ImagePair:
    """Both images with zero mean and unit variance over the mask; zero throughout where constant.

    Derivatives of such images are free of the intensity scale: those of a DRR and of an X-ray compare.

    Args:
        moving: (..., rows, columns) real.
        fixed: broadcastable to ``moving``.
        mask: bool or nonnegative weights, broadcastable to ``moving``; None takes every pixel.
    """
    xp = array_namespace(moving, fixed)
    fixed = xp.astype(fixed, moving.dtype)
    weights = xp.ones_like(fixed) if mask is None else xp.astype(mask, moving.dtype)
    inside, zero, total = weights > 0, xp.zeros_like(weights), _total(xp, weights)

    def standardise(image):
        image = xp.where(inside, image, zero)
        mean = _sum(xp, weights * image) / total
        return unit(xp.where(inside, image - mean, zero), weights, noise_of=mean) * xp.sqrt(total)

    return ImagePair(standardise(moving), standardise(fixed), weights)


def centred(image, weights):
    """``image`` less its weighted mean."""
    xp = array_namespace(image)
    return image - _sum(xp, weights * image) / _total(xp, weights)


def unit(image, weights, noise_of=1.0):
    """``image / sqrt(sum(weights image^2))``; zero, as is its gradient, where ``image`` is rounding noise.

    Args:
        image: (..., rows, columns).
        weights: broadcastable to ``image``.
        noise_of: (..., 1, 1) size of the values that ``image`` was computed from.
    """
    xp = array_namespace(image)
    limits = xp.finfo(image.dtype)
    noise = _NOISE_IN_ROUNDING_ERRORS * limits.eps * noise_of
    energy = _sum(xp, weights * image * image)
    signal = energy > noise * noise * _total(xp, weights) + limits.smallest_normal
    norm = xp.sqrt(xp.where(signal, energy, xp.ones_like(energy)))
    return xp.where(signal, image / norm, xp.zeros_like(image))


def inner(a, b, weights):
    """(...,) weighted inner product."""
    xp = array_namespace(a)
    return xp.sum(weights * a * b, axis=(-2, -1))


def weighted_mean(values, weights):
    """(...,) weighted mean; zero over an empty mask."""
    xp = array_namespace(values)
    return xp.sum(weights * values, axis=(-2, -1)) / _total(xp, weights)[..., 0, 0]


def _sum(xp, image):
    return xp.sum(image, axis=(-2, -1), keepdims=True)


def _total(xp, weights):
    """Sum of weights (..., 1, 1); one for an empty mask, whose other sums are zero."""
    total = _sum(xp, weights)
    return xp.where(total > 0, total, xp.ones_like(total))


def sobel(image):
    """Derivatives along columns (x) and rows (y) per pixel, (..., rows - 2, columns - 2) each."""
    along_y = image[..., :-2, :] + 2 * image[..., 1:-1, :] + image[..., 2:, :]
    along_x = image[..., :, :-2] + 2 * image[..., :, 1:-1] + image[..., :, 2:]
    return (along_y[..., :, 2:] - along_y[..., :, :-2]) / 8, (along_x[..., 2:, :] - along_x[..., :-2, :]) / 8


def laplacian_of_gaussian(image, sigma_px: float):
    """Laplacian of the Gaussian-smoothed image, and the radius of its support.

    Args:
        image: (..., rows, columns).
        sigma_px: standard deviation of the Gaussian, pixels.

    Returns:
        (..., rows - 2 radius, columns - 2 radius), radius.
    """
    radius = math.ceil(3 * sigma_px)
    offsets = range(-radius, radius + 1)
    gaussian = [math.exp(-0.5 * (x / sigma_px) ** 2) for x in offsets]
    total = sum(gaussian)
    gaussian = [g / total for g in gaussian]
    second = [g * (x * x / sigma_px**2 - 1) / sigma_px**2 for g, x in zip(gaussian, offsets, strict=True)]
    # The sampled, cut-off kernel does not sum to zero of itself; without this a constant would leak through.
    leak = sum(second)
    second = [s - leak * g for s, g in zip(second, gaussian, strict=True)]
    along_x = _correlate(_correlate(image, second, -1), gaussian, -2)
    along_y = _correlate(_correlate(image, gaussian, -1), second, -2)
    return along_x + along_y, radius


def _correlate(image, kernel, axis: int):
    """Valid 1D correlation along ``axis``."""
    length = image.shape[axis] - len(kernel) + 1
    return sum(value * _slice(image, axis, i, length) for i, value in enumerate(kernel))


def eroded(weights, radius: int):
    """(..., rows - 2 radius, columns - 2 radius): least weight of each neighbourhood of that radius."""
    xp = array_namespace(weights)
    side = 2 * radius + 1
    return _running(_running(weights, side, -1, xp.minimum), side, -2, xp.minimum)


def window_sum(image, window: int, stride: int = 1):
    """Sum of every ``window`` x ``window`` patch inside the image, one every ``stride`` pixels."""
    xp = array_namespace(image)
    rows = _running(image, window, -2, xp.add)[..., ::stride, :]
    return _running(rows, window, -1, xp.add)[..., ::stride]


def _running(image, window: int, axis: int, combine):
    """``combine`` of every ``window`` neighbours along ``axis``, in log2(window) steps.

    Works by doubling: the result for 2n neighbours combines two results for n. Unlike differences of a
    cumulative sum it loses no digits in float32.
    """
    length = image.shape[axis] - window + 1
    if length < 1:
        raise ValueError(f"a window of {window} pixels does not fit an image of {image.shape[axis]}")
    block, size = image, 1
    result, done = None, 0
    while True:
        if window & size:
            part = _slice(block, axis, done, length)
            result = part if result is None else combine(result, part)
            done += size
        if done == window:
            return result
        half = block.shape[axis] - size
        block = combine(_slice(block, axis, 0, half), _slice(block, axis, size, half))
        size *= 2


def _slice(image, axis: int, start: int, length: int):
    index = [slice(None)] * image.ndim
    index[axis] = slice(start, start + length)
    return image[tuple(index)]
