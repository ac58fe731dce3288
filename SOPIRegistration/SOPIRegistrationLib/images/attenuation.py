"""Hounsfield units and what they stand for: linear attenuation, and where the tissues lie."""

from __future__ import annotations

import numpy as np

# Linear attenuation of water at about 70 keV, the mean energy of a C-arm's beam, 1/mm.
MU_WATER = 0.02
AIR_HU = -1000.0
# Scanners clip at 3071 HU or, on an extended scale, give metal up to 30000 HU with streaks around it; in
# a real X-ray a screw merely saturates. Teeth and dense cortical bone end below 3000 HU.
METAL_CLAMP_HU = 3000.0
# Between fat (-100) and lung or foam (-700): what is denser belongs to a body, a table top or clothes.
TISSUE_HU = -300.0
# Above muscle, most contrast in organs and veins; cortical bone, also thin or osteoporotic, is above it.
BONE_THRESHOLD_HU = 200.0
# Muscle, of which most is made that surrounds a bone.
_SOFT_TISSUE_HU = 50.0


def attenuation_of_hu(hu):
    """Linear attenuation, 1/mm: ``max(0, mu_water (1 + HU/1000))``, metal clamped."""
    # Nothing between air and water is cut off: lungs (about 0.003/mm over 200 mm) show in an X-ray.
    clamped = np.clip(hu, -1000.0, METAL_CLAMP_HU)
    return MU_WATER * (1 + clamped / 1000)


def more_than_tissue(attenuation: np.ndarray) -> np.ndarray:
    """What attenuates more than muscle, 1/mm: all that an X-ray of a body shows of a bone."""
    return np.maximum(attenuation - np.float32(attenuation_of_hu(_SOFT_TISSUE_HU)), 0)
