"""How much of an X-ray's structure is not noise, told by its two halves."""

from __future__ import annotations

import numpy as np

from SOPIRegistrationLib.compare.objective import at_level
from SOPIRegistrationLib.compare.target import Level
from SOPIRegistrationLib.images.radiograph import PreparedRadiograph
from SOPIRegistrationLib.images.resampling import area_weights, masked_average
from SOPIRegistrationLib.similarity.residuals import LocalResidual


def reliability(radiograph: PreparedRadiograph, level: Level) -> float:
    """Split-half reliability of an X-ray at a level of local normalisation.

    Each pixel of the level is made of the white, and of the black squares of a chess board laid over the
    X-ray's own pixels: structure is common to both, noise that is independent from pixel to pixel is not.
    The correlation of the halves, corrected to the whole by the formula of Spearman and Brown (1910), is the
    largest squared correlation that a noiseless image can reach with the X-ray.

    Args:
        radiograph: at least twice as fine as the level.
        level: resolution and window.

    Returns:
        0 (noise alone) to 1 (no noise).
    """
    view = at_level(radiograph, level.pixels)
    rows, columns = view.image.shape
    down, across = (np.arange(size) for size in radiograph.image.shape)
    white = (down[:, None] + across) % 2 == 0
    weights = [area_weights(new, old) for new, old in zip((rows, columns), white.shape, strict=True)]
    halves = []
    for squares in (white, ~white):
        used = radiograph.valid & squares
        halves.append(masked_average(radiograph.image, used, *weights)[0])
    residual = LocalResidual(halves[0], view.valid[None], level.window_px)
    one, other = residual.images(halves[1][None], np.zeros(1, dtype=int))
    half = max(0.0, float(np.sum(one * other, dtype=np.float64)))
    return 2 * half / (1 + half)
