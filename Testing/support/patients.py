"""A patient small enough to be prepared and trained on in a test."""

from __future__ import annotations

import numpy as np
from SOPIRegistrationLib.images.volume import Volume

_SPACING_MM = 5.0
_SHAPE = (36, 32, 40)
# Centre (mm from the middle, along L, P, S), radii (mm) and HU of ellipsoids: a body, bones of no symmetry.
_PARTS = (
    ((0, 0, 0), (85, 65, 80), 40),
    ((10, 20, 10), (16, 14, 60), 700),
    ((-40, -10, 30), (22, 12, 14), 900),
    ((35, -20, -35), (14, 20, 26), 800),
)


def small_ct(shift_mm: float = 0.0) -> Volume:
    """CT in HU of some tens of thousands of voxels; a shift makes it another one."""
    index_to_lps = np.diag([_SPACING_MM] * 3 + [1.0])
    index_to_lps[:3, 3] = [-40.0, 15.0, 100.0 + shift_mm]
    k, j, i = np.indices(_SHAPE)
    middle = (np.array(_SHAPE[::-1]) - 1) / 2
    points = (np.stack([i, j, k], axis=-1) - middle) * _SPACING_MM
    hu = np.full(_SHAPE, -1000.0)
    for centre, radii, value in _PARTS:
        inside = (((points - np.array(centre)) / np.array(radii)) ** 2).sum(axis=-1) <= 1
        hu[inside] = value
    return Volume(hu.astype(np.int16), index_to_lps, "small CT")
