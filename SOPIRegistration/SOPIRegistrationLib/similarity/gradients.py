"""Measures of image gradients: gradient correlation, gradient difference, normalised gradient information.

Arguments and results as of every measure (``similarity``). Derivatives are Sobel's, of images of unit
variance over the mask, and count where their 3x3 support lies inside the mask.
"""

from __future__ import annotations

from array_api_compat import array_namespace

from SOPIRegistrationLib.similarity.filters import (
    centred,
    eroded,
    inner,
    sobel,
    standardised,
    unit,
    weighted_mean,
)

# Keeps the quotients of the gradient difference finite for a fixed image without any gradient along an axis.
_LEAST_VARIANCE = 1e-6


def gradient_correlation(moving, fixed, mask=None):
    """Mean normalised cross-correlation of the horizontal and of the vertical derivatives, in [-1, 1].

    ``GC = (NCC(dm/dx, df/dx) + NCC(dm/dy, df/dy)) / 2``: Penney et al., IEEE TMI 17(4), 1998; De Silva et
    al., *3D-2D image registration for target localization in spine surgery: investigation of similarity
    metrics providing robustness to content mismatch*, Phys. Med. Biol. 61(8), 2016. Unchanged by
    ``a m + b``, a > 0, of either image. A constant image gives zero.
    """
    images = standardised(moving, fixed, mask)
    weights = eroded(images.weights, 1)
    correlations = [
        inner(unit(centred(m, weights), weights), unit(centred(f, weights), weights), weights)
        for m, f in zip(sobel(images.moving), sobel(images.fixed), strict=True)
    ]
    return sum(correlations) / 2


def gradient_difference(moving, fixed, mask=None):
    """Gradient difference, in (0, 1].

    ``GD = mean(A_x / (A_x + (df/dx - s dm/dx)^2) + A_y / (A_y + (df/dy - s dm/dy)^2)) / 2``, A_x and A_y the
    variances of the fixed image's derivatives: Penney et al., IEEE TMI 17(4), 1998, here a mean and not a
    sum, so that it does not grow with the mask; 1 - GD is the loss of Kim et al., *Comparison of similarity
    measures for rigid-body CT/dual X-ray image registrations*, Technol. Cancer Res. Treat. 6(4), 2007, and
    L_sim in Eq. 5 of the SOPI paper. The scale s gives both images the same variance over the mask:
    unchanged by ``a m + b``, a > 0, of either image. Where gradients differ by far a pixel adds nothing, so
    thin lines that only one image has (wires, instruments) do little harm.
    """
    images = standardised(moving, fixed, mask)
    xp = array_namespace(images.moving)
    weights = eroded(images.weights, 1)
    terms = []
    for m, f in zip(sobel(images.moving), sobel(images.fixed), strict=True):
        variance = weighted_mean(centred(f, weights) ** 2, weights)
        variance = xp.clip(variance, _LEAST_VARIANCE, None)[..., None, None]
        terms.append(weighted_mean(variance / (variance + (f - m) ** 2), weights))
    return sum(terms) / 2


def normalised_gradient_information(moving, fixed, mask=None):
    """Normalised gradient information, in [0, 1].

    ``NGI(m, f) = GI(m, f) / GI(f, f)``, ``GI(m, f) = sum(w min(|grad m|, |grad f|))``: Otake et al., *Robust
    3D-2D image registration: application to spine interventions and vertebral labeling in the presence of
    anatomical deformation*, Phys. Med. Biol. 58(23), 2013. The weight ``w = (cos(2 a) + 1) / 2`` of the
    angle a between the two gradients is that of Pluim, Maintz, Viergever, *Image registration by
    maximization of combined mutual information and gradient information*, IEEE TMI 19(8), 2000. The minimum
    spares what only one image has.

    Magnitudes are compared, so both images are first brought to unit variance over the mask: unchanged by
    ``a m + b``, a != 0, of either image. A constant image gives zero.
    """
    images = standardised(moving, fixed, mask)
    xp = array_namespace(images.moving)
    weights = eroded(images.weights, 1)
    mx, my = sobel(images.moving)
    fx, fy = sobel(images.fixed)
    power_m, power_f = mx * mx + my * my, fx * fx + fy * fy
    both = (power_m > 0) & (power_f > 0)
    one = xp.ones_like(power_m)
    power_m, safe_f = xp.where(both, power_m, one), xp.where(both, power_f, one)

    # (cos(2 a) + 1) / 2 = cos(a)^2
    cosine_squared = (mx * fx + my * fy) ** 2 / (power_m * safe_f)
    shared = xp.where(both, cosine_squared * xp.sqrt(xp.minimum(power_m, safe_f)), xp.zeros_like(one))
    own = xp.sum(weights * xp.sqrt(power_f), axis=(-2, -1))
    return xp.sum(weights * shared, axis=(-2, -1)) / xp.where(own > 0, own, xp.ones_like(own))
