"""What lies in front of a body in one frame and not in its CT: tools, hands, contrast agent."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import ndimage

from SOPIRegistrationLib.compare import Target
from SOPIRegistrationLib.compare.objective import at_level, comparable_pixels
from SOPIRegistrationLib.images.radiograph import PreparedRadiograph
from SOPIRegistrationLib.projector import project
from SOPIRegistrationLib.tracking.others import spread

_PIXELS = 128
# Deviations from what the DRR explains: those fitted to, those that count as foreign, in standard deviations.
_FITTED, _FOREIGN = 2.5, 5.0
_FIT_ROUNDS = 5
_MARGIN_PX = 2
# With less it cannot have disturbed the comparison, with more nobody can tell what is foreign.
_SHARES = (0.002, 0.4)
_NORMAL_MAD = 1.4826


def without_foreign(
    radiograph: PreparedRadiograph, target: Target, T_lps_to_world: np.ndarray
) -> tuple[PreparedRadiograph, float]:
    """An X-ray without the pixels that attenuate far more than the target does at a pose.

    A quadratic curve is fitted from DRR to X-ray, robustly; a foreign object only adds attenuation. A target
    with an outline, in an X-ray that shows more than it, is not looked at.

    Args:
        radiograph: prepared.
        target: what is projected.
        T_lps_to_world: (4, 4) a pose that is nearly right.

    Returns:
        The X-ray, and the share of its valid pixels that was left out; itself and 0 where nothing is foreign.
    """
    if target.outline_lps_mm is not None:
        return radiograph, 0.0
    view, T = at_level(radiograph, _PIXELS), T_lps_to_world[None]
    drr = project(target.moving.for_camera(view.camera, T_lps_to_world), view.camera, T)[0]
    valid = comparable_pixels(view, target.moving, T)[0]
    if valid.sum() < 100:
        return radiograph, 0.0
    scale = max(float(drr[valid].max()), 1e-9)
    terms = np.stack([np.ones_like(drr), drr / scale, (drr / scale) ** 2], axis=-1)
    inliers = valid
    for _ in range(_FIT_ROUNDS):
        curve, *_ = np.linalg.lstsq(terms[inliers], view.image[inliers], rcond=None)
        away = view.image - terms @ curve
        deviation = _NORMAL_MAD * float(np.median(np.abs(away[valid])))
        inliers = valid & (np.abs(away) < _FITTED * deviation)
        if inliers.sum() < 100:
            return radiograph, 0.0
    # A pixel alone is noise.
    foreign = ndimage.binary_opening(valid & (away > _FOREIGN * deviation), np.ones((2, 2)))
    foreign = ndimage.binary_dilation(foreign, iterations=_MARGIN_PX) & view.valid
    share = float(foreign.sum() / max(view.valid.sum(), 1))
    if not _SHARES[0] < share < _SHARES[1]:
        return radiograph, 0.0
    valid = radiograph.valid & ~spread(foreign, radiograph.camera.shape)
    return replace(radiograph, valid=valid), share
