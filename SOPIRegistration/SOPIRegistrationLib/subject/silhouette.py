"""A body of metal as what an X-ray shows of it: its silhouette."""

from __future__ import annotations

import numpy as np

from SOPIRegistrationLib.projector import ProjectorVolume, SeenVolume
from SOPIRegistrationLib.projector.physics.seen import Opacity
from SOPIRegistrationLib.subject.moving import MovingVolume

# The voxels at a surface are partly metal, and a ray along it meets many of them: as they are, the silhouette
# would be wider by half a voxel. What is filled less than this is therefore nothing: silhouettes of spheres
# of 8 to 30 mm in CoCr are then right to 0.08 mm at voxels of 0.4 mm (with 0.25: to 0.13 mm).
_LEAST_SHARE = 0.5


class Silhouette(MovingVolume):
    """A moving volume whose DRRs are the opacity of metal, ``1 - exp(-line integral)``.

    Args:
        moving: the same with plain DRRs; of one material.
    """

    # The outline is all that there is: finer voxels than for the soft edges of bones.
    voxels_per_pixel = 0.9

    def __init__(self, moving: MovingVolume):
        super().__init__(moving.attenuation)
        self._plain = moving
        self._per_mm = float(moving.attenuation.array.max())
        self._seen: dict[int, SeenVolume] = {}

    def level(self, halvings: int) -> SeenVolume:
        """The volume after so many halvings of its resolution."""
        if halvings not in self._seen:
            volume = self._plain.level(halvings).volume
            share = volume.array / np.float32(self._per_mm)
            sharp = np.maximum(share - np.float32(_LEAST_SHARE), 0) / np.float32(1 - _LEAST_SHARE)
            sharp *= np.float32(self._per_mm)
            self._seen[halvings] = SeenVolume([ProjectorVolume(volume.same_grid(sharp))], Opacity())
        return self._seen[halvings]
