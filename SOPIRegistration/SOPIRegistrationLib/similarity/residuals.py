"""Normalised residuals between a DRR and an X-ray, with the exact Jacobian that least squares needs.

Both are the residuals behind a correlation coefficient, so that gain and offset of either image do
not matter: over the whole image (one mean and deviation), or over a window about every pixel (``local``).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from SOPIRegistrationLib.similarity.local import (
    LocallyNormalised,
    locally_normalised,
    valid_share,
    window_mean,
)


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
        """Residual (P, rows, columns) and Jacobian (P, 6, rows, columns) of DRRs and theirs, zero outside the
        mask; ``starts`` (P,) says whose they are."""
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
        self._share = valid_share(self._valid, window_px)
        normalised = self._normalised(fixed, self._valid, self._share)[0]
        self._fixed = normalised / _norm(normalised)

    def __call__(self, image: np.ndarray, jacobian: np.ndarray, starts) -> tuple[np.ndarray, np.ndarray]:
        """Residual and its Jacobian; arguments and results as for :class:`WholeImageResidual`.

        The image's own deviation, which steadies flat windows, is held constant in the derivative.
        """
        valid, share = _of(self._valid, starts), _of(self._share, starts)
        normalised, deviation, mean = self._normalised(image, valid, share)
        window = self._window
        mean_jacobian = window_mean(jacobian * valid[:, None], window) / share[:, None]
        product = window_mean((image * valid)[:, None] * jacobian, window) / share[:, None]
        covariance = product - mean[:, None] * mean_jacobian
        derivative = jacobian - mean_jacobian - (normalised / deviation)[:, None] * covariance
        derivative *= (valid / deviation)[:, None]
        return _unit_residual(normalised, derivative, _of(self._fixed, starts))

    def equations(
        self, image: np.ndarray, blocks: Sequence[tuple[tuple[slice, slice], np.ndarray]]
    ) -> tuple[float, np.ndarray, np.ndarray]:
        """|r|^2, J^T r and J^T J of one image whose derivatives are zero but for a window each.

        The same as of what is called with the whole Jacobian, without its zeros: with D the derivative of the
        normalised image u of unit norm, J = D - u (u^T D).

        Args:
            image: (rows, columns) DRR.
            blocks: ((rows, columns) slices, (k, rows, columns) derivatives there) in turn.

        Returns:
            cost, gradient (n,) and Hessian (n, n) for the n derivatives of all blocks.
        """
        valid, share, fixed = self._valid[0], self._share[0], self._fixed[0]
        normalised, deviation, mean = (one[0] for one in self._normalised(image[None], valid[None], share))
        norm = max(float(np.sqrt((normalised * normalised).sum())), 1e-6)
        unit = normalised / norm
        widths = np.cumsum([0, *(len(jacobian) for _, jacobian in blocks)])
        gradient, hessian = np.zeros(widths[-1]), np.zeros((widths[-1], widths[-1]))
        if (unit * unit).sum() < 0.5 or (fixed * fixed).sum() < 0.5:
            return 2.0, gradient, hessian
        residual, along, grown = unit - fixed, np.zeros(widths[-1]), []
        for number, (window, jacobian) in enumerate(blocks):
            where, D = self._derivative(window, jacobian, image, normalised / deviation, deviation, mean)
            D /= norm
            part = slice(widths[number], widths[number + 1])
            along[part] = np.einsum("kvu,vu->k", D, unit[where])
            gradient[part] = np.einsum("kvu,vu->k", D, residual[where])
            for other in range(number + 1):
                columns = slice(widths[other], widths[other + 1])
                product = _product(where, D, *grown[other]) if other < number else _gram(D)
                hessian[part, columns], hessian[columns, part] = product, product.T
            grown.append((where, D))
        gradient -= along * float((unit * residual).sum())
        return float((residual * residual).sum()), gradient, hessian - np.outer(along, along)

    def _derivative(self, window, jacobian, image, per_deviation, deviation, mean):
        """The window grown by that of the normalisation, and the normalised image's derivative there."""
        reach, where, margins = self._window // 2, [], []
        for part, size in zip(window, image.shape, strict=True):
            low, high = max(part.start - reach, 0), min(part.stop + reach, size)
            where.append(slice(low, high))
            margins.append((part.start - low, high - part.stop))
        where = tuple(where)
        valid, share = self._valid[0][where], self._share[0][where]
        jacobian = np.pad(jacobian, [(0, 0), *margins])
        mean_jacobian = window_mean(jacobian * valid, self._window) / share
        product = window_mean((image[where] * valid) * jacobian, self._window) / share
        covariance = product - mean[where] * mean_jacobian
        derivative = jacobian - mean_jacobian - per_deviation[where] * covariance
        derivative *= valid / deviation[where]
        return where, derivative

    def images(self, image: np.ndarray, starts) -> tuple[np.ndarray, np.ndarray]:
        """What is compared: DRRs (P, rows, columns) and the X-ray, locally normalised, each of unit norm."""
        normalised = self._normalised(image, _of(self._valid, starts), _of(self._share, starts))[0]
        return normalised / _norm(normalised), np.broadcast_to(_of(self._fixed, starts), image.shape)

    def _normalised(self, image, valid, share) -> LocallyNormalised:
        return locally_normalised(image, valid, self._window, share)


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


def _product(where, D, other_where, other_D) -> np.ndarray:
    """D^T D' of derivatives that are zero outside their windows."""
    low = [max(a.start, b.start) for a, b in zip(where, other_where, strict=True)]
    high = [min(a.stop, b.stop) for a, b in zip(where, other_where, strict=True)]
    if any(last <= first for first, last in zip(low, high, strict=True)):
        return np.zeros((len(D), len(other_D)))
    shared = []
    for place, one in ((where, D), (other_where, other_D)):
        inside = tuple(slice(i - a.start, j - a.start) for a, i, j in zip(place, low, high, strict=True))
        shared.append(one[:, inside[0], inside[1]].reshape(len(one), -1))
    return (shared[0] @ shared[1].T).astype(np.float64)


def _gram(D: np.ndarray) -> np.ndarray:
    flat = D.reshape(len(D), -1)
    return (flat @ flat.T).astype(np.float64)


def _of(array, starts):
    return array if len(array) == 1 else array[starts]


def _total(array):
    return array.sum(axis=(-2, -1), keepdims=True)


def _centred(array, valid):
    return (array - _total(array * valid) / np.maximum(_total(valid), 1.0)) * valid


def _norm(array):
    return np.maximum(np.sqrt(_total(array * array)), 1e-6)
