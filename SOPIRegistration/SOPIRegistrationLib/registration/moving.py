"""The CT as the moving object: attenuation at several resolutions."""

from __future__ import annotations

from copy import copy

import numpy as np

from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.images.pyramid import halved
from SOPIRegistrationLib.images.volume import Volume
from SOPIRegistrationLib.projector import ProjectorVolume

# A volume may be this many times coarser than the pixels that look at it (measured: coarser loses starts).
_VOXELS_PER_PIXEL = 1.4


class MovingVolume:
    """Attenuation pyramid of one CT, each level laid out for projection when first used.

    Args:
        attenuation: linear attenuation, 1/mm.
        truncated: mask of the border through which the object leaves the scan, or None.
        outline_lps_mm: (n, 3) surface points, where the volume holds only part of what the X-ray shows (a
            segmented bone): comparison then keeps to the surroundings of its projection.
    """

    def __init__(
        self, attenuation: Volume, truncated: Volume | None = None, outline_lps_mm: np.ndarray | None = None
    ):
        self.attenuation = attenuation
        self.outline_lps_mm = outline_lps_mm
        self._levels = [ProjectorVolume(attenuation)]
        self.truncated = None
        if truncated is not None and truncated.array.any():
            mask = Volume(truncated.array.astype(np.float32), truncated.index_to_lps)
            self.truncated = ProjectorVolume(mask)

    @property
    def is_part(self) -> bool:
        return self.outline_lps_mm is not None

    def without_truncation(self) -> MovingVolume:
        """The same volume, its rays through the end of the scan compared like any other."""
        other = copy(self)
        other.truncated = None
        return other

    def level(self, halvings: int) -> ProjectorVolume:
        """The volume after so many halvings of its resolution."""
        while len(self._levels) <= halvings:
            self._levels.append(ProjectorVolume(halved(self._levels[-1].volume)))
        return self._levels[halvings]

    def for_camera(self, camera: Camera, T_lps_to_camera: np.ndarray) -> ProjectorVolume:
        """The coarsest level whose voxels still suit the camera's pixels at the volume's place."""
        depth = (T_lps_to_camera @ np.append(self.attenuation.centre_lps_mm, 1.0))[2]
        pixel_mm = depth / min(camera.K[0, 0], camera.K[1, 1])
        finest = self.attenuation.spacing_mm.max()
        ratio = _VOXELS_PER_PIXEL * pixel_mm / finest
        return self.level(max(0, int(np.floor(np.log2(max(ratio, 1.0))))))
