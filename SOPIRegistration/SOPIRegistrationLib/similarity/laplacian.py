"""Normalised cross-correlation with edges."""

from __future__ import annotations

from SOPIRegistrationLib.similarity.correlation import ncc
from SOPIRegistrationLib.similarity.filters import (
    eroded,
    inner,
    laplacian_of_gaussian,
    standardised,
    unit,
)


def nccl(moving, fixed, mask=None, sigma_px: float = 1.0, edge_weight: float = 0.5):
    """NCC plus the cosine similarity of Laplacian-of-Gaussian images, in [-1 - edge_weight, 1 + edge_weight].

    ``NCCL = NCC(m, f) + edge_weight <L m, L f> / (|L m| |L f|)``: Liu et al., *2D/3D multimode medical image
    registration based on normalized cross-correlation*, Appl. Sci. 12(6), 2828, 2022; 1/2 is the weight of
    Opt-NCCL, the SOPI paper's baseline. L is of ``sigma_px`` and counts where its support, 3 sigma around a
    pixel, lies inside the mask. Unchanged by ``a m + b``, a > 0, of either image.
    """
    images = standardised(moving, fixed, mask)
    edges_moving, radius = laplacian_of_gaussian(images.moving, sigma_px)
    edges_fixed, _ = laplacian_of_gaussian(images.fixed, sigma_px)
    weights = eroded(images.weights, radius)
    cosine = inner(unit(edges_moving, weights), unit(edges_fixed, weights), weights)
    return ncc(moving, fixed, mask) + edge_weight * cosine
