"""What the voxels of a CT are made of: air, soft tissue, bone and, where asked for, metal.

A voxel's attenuation is split into what each material contributes, at the energy at which the CT's scale is
calibrated; divided by a material's mass attenuation there, such a part is its mass density. Air is
what attenuates nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from SOPIRegistrationLib.images.attenuation import METAL_CLAMP_HU, attenuation_of_hu
from SOPIRegistrationLib.images.volume import Volume

# Above the first, tissue is taken for a mixture of marrow and cortical bone, whose HU is the second, as in
# Schneider, Bortfeld, Schlegel, *Correlation between CT numbers and tissue parameters needed for Monte
# Carlo simulations of clinical dose distributions*, Phys. Med. Biol. 45, 2000.
BONE_FROM_HU = 100.0
CORTICAL_BONE_HU = 1524.0
# Only inside metal are all of a working voxel's parts at the clamp.
METAL_FROM_HU = 0.97 * METAL_CLAMP_HU


@dataclass(frozen=True)
class Materials:
    """Linear attenuation of a CT and the parts of it that are no soft tissue, 1/mm, on one grid.

    The soft tissue's part is what the others leave of the whole: that the whole is one of the volumes lets
    their line integrals include the plain DRR.

    Attributes:
        whole: all materials together.
        bone: bone's part.
        metal: metal's part (clamped, as in the whole); None where metal counts as bone.
    """

    whole: Volume
    bone: Volume
    metal: Volume | None = None

    @property
    def soft_tissue(self) -> Volume:
        """Soft tissue's part."""
        others = self.bone.array if self.metal is None else self.bone.array + self.metal.array
        return self.whole.same_grid(self.whole.array - others)


def decompose(attenuation: Volume, with_metal: bool = False) -> Materials:
    """Split a CT's attenuation by material, voxel by voxel.

    No segmentation is used: bone's share rises linearly with the attenuation, so that voxels half of bone
    (spongy bone, thin or oblique walls) are mixtures, and nothing jumps between neighbours.

    Args:
        attenuation: of a prepared CT, 1/mm.
        with_metal: take what reached the clamp of the preparation for metal, not for bone.
    """
    array = attenuation.array
    marrow, cortical = attenuation_of_hu(np.array([BONE_FROM_HU, CORTICAL_BONE_HU], np.float32))
    share = np.clip((array - marrow) / (cortical - marrow), 0, 1)
    bone = np.where(share < 1, share * cortical, array).astype(np.float32)
    if not with_metal:
        return Materials(attenuation, attenuation.same_grid(bone))
    is_metal = array >= attenuation_of_hu(METAL_FROM_HU)
    bone[is_metal] = 0
    metal = np.where(is_metal, array, np.float32(0)).astype(np.float32)
    return Materials(attenuation, attenuation.same_grid(bone), attenuation.same_grid(metal))
