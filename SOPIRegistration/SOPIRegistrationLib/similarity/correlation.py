"""Normalised cross-correlation, over the mask and over windows; arguments as of every measure."""

from __future__ import annotations

from array_api_compat import array_namespace

from SOPIRegistrationLib.similarity.filters import (
    standardised,
    weighted_mean,
    window_sum,
)

# Windows whose variance is below this fraction of the image's have no structure to correlate.
_FLAT_WINDOW = 1e-4


def ncc(moving, fixed, mask=None):
    """Normalised cross-correlation, in [-1, 1].

    ``sum((m - mean m)(f - mean f)) / sqrt(sum((m - mean m)^2) sum((f - mean f)^2))`` over the mask: Penney et
    al., *A comparison of similarity measures for use in 2-D-3-D medical image registration*, IEEE TMI 17(4),
    1998. Unchanged by ``a m + b``, a > 0, of either image. A constant image gives zero.
    """
    images = standardised(moving, fixed, mask)
    return weighted_mean(images.moving * images.fixed, images.weights)


def local_ncc(moving, fixed, mask=None, window: int = 13, stride: int = 1):
    """Mean normalised cross-correlation of windows, in [-1, 1].

    Each ``window`` x ``window`` patch inside the image has its own mean and variance, over its pixels inside
    the mask, and counts by their number: local normalised correlation of LaRose, *Iterative X-ray/CT
    registration using accelerated volume rendering*, Carnegie Mellon University, 2001. Unchanged by
    ``a m + b``, a > 0, of either image, and nearly so by one that varies slowly over the image. A patch that
    is flat in the fixed image (variance below 1e-4 of the image's) is left out; in the moving image no less
    than that is divided by.

    Args:
        moving: as of every measure.
        fixed: the same.
        mask: the same.
        window: side of a patch, pixels.
        stride: distance of neighbouring patches, pixels: 1 slides, ``window`` tiles.

    Raises:
        ValueError: the window does not fit the image.
    """
    images = standardised(moving, fixed, mask)
    xp = array_namespace(images.moving)
    weights = images.weights
    count = window_sum(weights, window, stride)
    filled = count > 0
    safe_count = xp.where(filled, count, xp.ones_like(count))

    def mean(image):
        return window_sum(weights * image, window, stride) / safe_count

    mean_moving, mean_fixed = mean(images.moving), mean(images.fixed)
    covariance = mean(images.moving * images.fixed) - mean_moving * mean_fixed
    variance_moving = mean(images.moving * images.moving) - mean_moving * mean_moving
    variance_fixed = mean(images.fixed * images.fixed) - mean_fixed * mean_fixed

    structured = xp.astype(filled & (variance_fixed > _FLAT_WINDOW), count.dtype)
    product = xp.clip(variance_moving, _FLAT_WINDOW, None) * xp.clip(variance_fixed, _FLAT_WINDOW, None)
    return weighted_mean(covariance / xp.sqrt(product), count * structured)
