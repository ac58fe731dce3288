"""Normalised residuals between a DRR and an X-ray, with the exact Jacobian that least squares needs.

Both are the residuals behind a correlation coefficient, so that gain and offset of either image do
not matter: over the whole image (one mean and deviation), or over a window about every pixel (the
local normalised cross-correlation of LaRose, *Iterative X-ray/CT registration using accelerated
volume rendering*, 2001), which also cancels slow differences such as scatter or a wrong intensity curve.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import uniform_filter1d

# Share of the image's own deviation added to a window's, or noise in flat windows would count as structure.
_FLAT_WINDOW = 0.1


class _Residual:
    """What both residuals share: the mask."""

    _valid: np.ndarray

    @property
    def pixel_count(self) -> float:
        """Valid pixels, mean over the starts."""
        return float(self._valid.sum() / len(self._valid))


class WholeImageResidual(_Residual):
    """r = m^ - f^, each centred and scaled to unit norm over the valid pixels: |r|^2 = 2 (1 - NCC).

    Args:
        fixed: (rows, columns) X-ray.
        valid: (S, rows, columns) valid pixels of every start, or (1, rows, columns) for all.
    """

    def __init__(self, fixed: np.ndarray, valid: np.ndarray):
        self._valid = valid.astype(np.float32)
        centred = _centred(fixed, self._valid)
        self._fixed = centred / _norm(centred)

    def __call__(self, image: np.ndarray, jacobian: np.ndarray, starts) -> tuple[np.ndarray, np.ndarray]:
        """Residual and its Jacobian.

        Args:
            image: (P, rows, columns) DRRs.
            jacobian: (P, 6, rows, columns) their derivatives.
            starts: (P,) which start each belongs to.

        Returns:
            residual (P, rows, columns) and Jacobian (P, 6, rows, columns), zero outside the mask.
        """
        valid = _of(self._valid, starts)
        derivative = _centred(jacobian, valid[:, None])
        return _unit_residual(_centred(image, valid), derivative, _of(self._fixed, starts))


class LocalResidual(_Residual):
    """r = m^ - f^ of locally normalised images: (m - mean)/deviation, each over a window at every pixel.

    Both normalised images are scaled to unit norm over the valid pixels, so that an object cannot better its
    residual by leaving the image: |r|^2 = 2 (1 - their correlation).

    Args:
        fixed, valid: as for :class:`WholeImageResidual`.
        window_px: odd edge of the window.
    """

    def __init__(self, fixed: np.ndarray, valid: np.ndarray, window_px: int):
        self._window = window_px
        self._valid = valid.astype(np.float32)
        self._share = np.maximum(_box(self._valid, window_px), 1e-6)
        normalised = self._normalised(fixed, self._valid, self._share)[0]
        self._fixed = normalised / _norm(normalised)

    def __call__(self, image: np.ndarray, jacobian: np.ndarray, starts) -> tuple[np.ndarray, np.ndarray]:
        """Residual and its Jacobian; arguments and results as for :class:`WholeImageResidual`.

        The image's own deviation, which steadies flat windows, is held constant in the derivative.
        """
        valid, share = _of(self._valid, starts), _of(self._share, starts)
        normalised, deviation, mean = self._normalised(image, valid, share)
        window = self._window
        mean_jacobian = _box(jacobian * valid[:, None], window) / share[:, None]
        product = _box((image * valid)[:, None] * jacobian, window) / share[:, None]
        covariance = product - mean[:, None] * mean_jacobian
        derivative = jacobian - mean_jacobian - (normalised / deviation)[:, None] * covariance
        derivative *= (valid / deviation)[:, None]
        return _unit_residual(normalised, derivative, _of(self._fixed, starts))

    def images(self, image: np.ndarray, starts) -> tuple[np.ndarray, np.ndarray]:
        """What is compared: DRRs (P, rows, columns) and the X-ray, locally normalised, each of unit norm."""
        normalised = self._normalised(image, _of(self._valid, starts), _of(self._share, starts))[0]
        return normalised / _norm(normalised), np.broadcast_to(_of(self._fixed, starts), image.shape)

    def _normalised(self, image, valid, share):
        # Centred first: squares of large values would cost float32 its digits.
        total = np.maximum(_total(valid), 1.0)
        offset = _total(image * valid) / total
        centred = (image - offset) * valid
        floor = _FLAT_WINDOW**2 * _total(centred * centred) / total
        mean = _box(centred, self._window) / share
        variance = _box(centred * centred, self._window) / share - mean * mean
        deviation = np.sqrt(np.maximum(variance, 0) + np.maximum(floor, 1e-12))
        return (image - offset - mean) / deviation * valid, deviation, mean + offset


def _unit_residual(image, derivative, fixed):
    """image / |image| - fixed and its derivative.

    Two images without any structure do not agree: where one of them has none, the residual is that of no
    correlation, and no motion betters it.
    """
    norm = _norm(image)
    unit = image / norm
    derivative = derivative / norm[:, None]
    along = np.einsum("pkvu,pvu->pk", derivative, unit)[..., None, None]
    residual, derivative = unit - fixed, derivative - along * unit[:, None]
    featureless = (_total(unit * unit) < 0.5) | (_total(fixed * fixed) < 0.5)
    if featureless.any():
        nothing = np.float32(np.sqrt(2 / np.prod(image.shape[-2:])))
        residual = np.where(featureless, nothing, residual)
        derivative = np.where(featureless[:, None], 0, derivative)
    return residual, derivative


def _of(array, starts):
    return array if len(array) == 1 else array[starts]


def _total(array):
    return array.sum(axis=(-2, -1), keepdims=True)


def _centred(array, valid):
    return (array - _total(array * valid) / np.maximum(_total(valid), 1.0)) * valid


def _norm(array):
    return np.maximum(np.sqrt(_total(array * array)), 1e-6)


def _box(array, window):
    """Mean over the window, zeros outside the image."""
    rows_done = uniform_filter1d(array, window, axis=-2, mode="constant")
    return uniform_filter1d(rows_done, window, axis=-1, mode="constant")
