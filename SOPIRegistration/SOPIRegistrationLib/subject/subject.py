"""A prepared CT or surface with everything that is computed of it once and used for every X-ray."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import cached_property
from typing import TypeVar

import numpy as np

from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.attenuation import more_than_tissue
from SOPIRegistrationLib.images.ct_preparation import bone_only
from SOPIRegistrationLib.images.prepared_ct import PreparedCT
from SOPIRegistrationLib.projector import project_with_jacobian
from SOPIRegistrationLib.subject.moving import MovingVolume
from SOPIRegistrationLib.subject.silhouette import Silhouette

# Share of the attenuation that lies in bone from which a CT is a segmented bone, not a body.
_SEGMENTED = 0.85
# Halvings of the resolution at which a registration begins.
_HALVINGS = 3

Made = TypeVar("Made")


class Subject:
    """A CT, or a filled surface, as what a registration moves; made once, and the only owner of its caches.

    Args:
        ct: the prepared CT (``images.ct_preparation``) or surface (``subject.surface``).

    Attributes:
        ct: the same.
    """

    def __init__(self, ct: PreparedCT):
        self.ct = ct
        self._kept: dict[str, tuple[Hashable, object]] = {}

    @cached_property
    def is_segmented_bone(self) -> bool:
        """Whether the CT holds bone and hardly anything else: X-rays then show more than it does."""
        total = float(self.ct.attenuation.array.sum(dtype=np.float64))
        return float(self._bone_attenuation.array.sum(dtype=np.float64) / max(total, 1e-12)) > _SEGMENTED

    @cached_property
    def body(self) -> MovingVolume:
        """All of the CT."""
        return MovingVolume(self.ct.attenuation, self.ct.truncated)

    @cached_property
    def bones(self) -> MovingVolume:
        """Its bones; all of it where it is a segmented bone."""
        if self.is_segmented_bone:
            return self.body
        truncated = self.ct.truncated
        return MovingVolume(self._bone_attenuation, truncated.same_grid(truncated.array * self.ct.bone.array))

    @cached_property
    def in_tissue(self) -> MovingVolume:
        """What an X-ray shows of it in a body: where a bone is, there is no soft tissue."""
        # Without this the bone's own outline, which hides no more than the tissue beside it, and the steps in
        # which it was cut out would be structure that no X-ray has.
        if self.ct.is_excess:
            return self.body
        attenuation = self.ct.attenuation
        return MovingVolume(attenuation.same_grid(more_than_tissue(attenuation.array)), self.ct.truncated)

    @cached_property
    def silhouette(self) -> Silhouette:
        """What an X-ray shows of it where it is of metal."""
        return Silhouette(self.body)

    def showing(self, content: str) -> MovingVolume | Silhouette:
        """What a DRR of some content, "body", "bone" or "metal", is made of."""
        return self.bones if content == "bone" else self.shown

    @property
    def shown(self) -> MovingVolume | Silhouette:
        """What an X-ray shows of all of it: its silhouette where it is of metal, else its attenuation."""
        return self.silhouette if self.ct.is_metal else self.body

    @cached_property
    def _bone_attenuation(self):
        return bone_only(self.ct)

    def warm_up(self) -> None:
        """Make the coarse volumes and load the compiled kernels, ahead of a registration."""
        camera = Camera.from_c_arm(1000.0, (50.0, 50.0), 8, 8)
        T = PoseFrame(self.ct.rotation_centre_lps_mm, 700.0).T_nominal
        for moving in (self.shown,) if self.ct.is_metal else (self.shown, self.bones):
            for halvings in range(_HALVINGS):
                project_with_jacobian(moving.level(halvings), camera, T)

    def kept(self, name: str, key: Hashable, make: Callable[[], Made]) -> Made:
        """What was made of the subject before under a name and with the same key, or is made now."""
        known = self._kept.get(name)
        if known is None or known[0] != key:
            known = self._kept[name] = key, make()
        return known[1]
