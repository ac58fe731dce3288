"""How the comparing network finds poses: it compares an X-ray with views of the CT from all around at once.

What it sees of those views depends on CT, camera and nominal view, not on the X-ray: it is rendered and
encoded once.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.volume import Volume
from SOPIRegistrationLib.networks.comparing import (
    ComparingRTPI,
    EncodedMoving,
    camera_features,
    corrected,
    drrs_to_compare,
    moving_channels,
)
from SOPIRegistrationLib.networks.image_channels import fixed_channels
from SOPIRegistrationLib.projector import ProjectorVolume

# Views are this far apart about each axis, up to that far from the nominal one.
_SPACING_DEG, _REACH_DEG = 24.0, 60.0
# Places along a scan are so far apart: half of what one look catches, to either side.
_PLACES_MM = 45.0
# Views rendered and encoded at once.
_CHUNK = 32


class MendedPoses(NamedTuple):
    """One pose from each view, the most certain first.

    Attributes:
        T_lps_to_camera: (n, 4, 4) mm.
        deviation: (n, 6) expected absolute errors, in the units of
            :class:`~SOPIRegistrationLib.networks.comparing.Correction`.
    """

    T_lps_to_camera: np.ndarray
    deviation: np.ndarray


class ViewsAround:
    """A CT seen from views around the nominal one, as a network sees it.

    Args:
        network: in evaluation mode.
        body: attenuation of the CT, as coarse as the network's pixels allow.
        bone: the same of its bones alone.
        camera: square, with the network's number of pixels.
        frame: nominal view, source-object distance and rotation centre.
        places_lps_mm: (n, 3) points of the CT that the X-ray may be centred on; the rotation centre unless
            given.
    """

    @torch.inference_mode()
    def __init__(
        self,
        network: ComparingRTPI,
        body: ProjectorVolume,
        bone: ProjectorVolume,
        camera: Camera,
        frame: PoseFrame,
        places_lps_mm: np.ndarray | None = None,
    ):
        self._network, self._pixels = network, camera.width
        places = frame.centre_lps_mm[None] if places_lps_mm is None else places_lps_mm
        views = [views_around(replace(frame, centre_lps_mm=place)) for place in places]
        parts = [
            network.encode_moving(moving_channels(drrs_to_compare(body, bone, camera, some, place)))
            for T, place in zip(views, places, strict=True)
            for some in np.split(T, range(_CHUNK, len(T), _CHUNK))
        ]
        T = np.concatenate(views)
        self._encoded = EncodedMoving(*(torch.cat(part) for part in zip(*parts, strict=True)))
        self._T = torch.from_numpy(T)
        self._K = torch.from_numpy(camera.K).expand(len(T), 3, 3)
        self._centre = torch.from_numpy(places).repeat_interleave(len(views[0]), dim=0)
        self._camera = camera_features(self._K, self._T, self._centre, self._pixels)

    @torch.inference_mode()
    def poses(self, image: torch.Tensor, valid: torch.Tensor) -> MendedPoses:
        """Poses of the CT in an X-ray of (N, N) pixels, bone bright, with its mask of valid ones."""
        fixed = self._network.encode_fixed(fixed_channels(image[None], valid[None]))
        values, deviation = self._network.compare(fixed, self._encoded, self._camera)
        T = corrected(self._T, values, self._K, self._centre, self._pixels)
        order = torch.argsort(deviation.sum(dim=1), stable=True)
        return MendedPoses(T[order].numpy(), deviation[order].numpy())


def places_along(bone: Volume, centre_lps_mm: np.ndarray) -> np.ndarray:
    """(n, 3) middles of the bones along a scan: what an X-ray of a part of it may be centred on.

    Args:
        bone: (k, j, i) attenuation or mask of the bones; slices count along its last index axis.
        centre_lps_mm: (3,) middle of all bones, the first of the places.
    """
    index = np.argwhere(bone.array > 0)[:, ::-1]
    along = index[:, 2] * bone.spacing_mm[2]
    here = (bone.lps_to_index @ [*centre_lps_mm, 1.0])[2] * bone.spacing_mm[2]
    step = np.round((along - here) / _PLACES_MM)
    # A slice or two of bone beyond the last place is none of its own.
    numbers = [n for n in np.unique(step) if n and (step == n).sum() > 0.1 * len(index) / np.ptp(step)]
    middles = [bone.points_lps(index[step == n].mean(axis=0)) for n in sorted(numbers, key=abs)]
    return np.array([centre_lps_mm, *middles])


def views_around(frame: PoseFrame) -> np.ndarray:
    """(n, 4, 4) T_lps_to_camera: the nominal pose, then the object turned about its centre, on a lattice."""
    reach = int(_REACH_DEG // _SPACING_DEG)
    axis = np.deg2rad(_SPACING_DEG) * np.arange(-reach, reach + 1)
    w = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    angle = np.linalg.norm(w, axis=1)
    order = np.argsort(angle, kind="stable")
    w = w[order][angle[order] <= np.deg2rad(_REACH_DEG) + 1e-9]
    twist = np.concatenate([w, np.zeros_like(w)], axis=1)
    return se3.move_about(np.repeat(frame.T_nominal[None], len(w), axis=0), twist, frame.centre_lps_mm)
