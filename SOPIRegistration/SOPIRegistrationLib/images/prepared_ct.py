"""What is registered, as registration sees it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from SOPIRegistrationLib.images.volume import Volume


# Compared by identity: arrays have no single truth value, and what is derived from a CT is kept per object.
@dataclass(frozen=True, eq=False)
class PreparedCT:
    """A CT, or a filled surface, turned into attenuation on an isotropic working grid.

    Attributes:
        attenuation: float32 linear attenuation, 1/mm, of the whole body (table removed).
        bone: uint8 mask (1 = bone) on the same grid.
        rotation_centre_lps_mm: (3,) centroid of the bone mask.
        surface_points_lps_mm: (n, 3) points of the bone surface, for target registration errors.
        truncated: uint8 mask on the same grid: 1 in the outermost voxels through which the object (body or
            bone) leaves the scanned field of view, so that line integrals through them are incomplete.
        identity: of the CT that it was made from (``images.identity``).
        notes: those of the CT and of its mask: what was assumed or mended where they were read.
        is_metal: whether all of it is metal, of which an X-ray shows the silhouette.
        is_excess: whether the attenuation is what it attenuates more than its surroundings, as of a part of a
            CT.
    """

    attenuation: Volume
    bone: Volume
    rotation_centre_lps_mm: np.ndarray
    surface_points_lps_mm: np.ndarray
    truncated: Volume
    identity: str = ""
    notes: tuple[str, ...] = ()
    is_metal: bool = False
    is_excess: bool = False
