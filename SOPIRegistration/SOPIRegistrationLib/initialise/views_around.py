"""How the comparing network finds poses: it compares an X-ray with views of the CT from all around at once.

What it sees of those views depends on CT, camera and nominal view, not on the X-ray: it is rendered and
encoded once. Of a view beside the true one the network knows roughly how it is off, but not that it is the
one: it looks again, from the poses that it named.
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
    EncodedFixed,
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
# How many of the surest answers are looked from again, look by look.
_AGAIN = (40, 30, 24, 24, 24, 12)
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
        self._network, self._camera, self._volumes = network, camera, (body, bone)
        places = frame.centre_lps_mm[None] if places_lps_mm is None else places_lps_mm
        views = [views_around(replace(frame, centre_lps_mm=place)) for place in places]
        self._places = torch.from_numpy(places)
        self._T = torch.from_numpy(np.concatenate(views))
        self._place = torch.arange(len(places)).repeat_interleave(len(views[0]))
        self._encoded = self._seen_from(self._T, self._place)

    @torch.inference_mode()
    def poses(self, image: torch.Tensor, valid: torch.Tensor, again: bool = True) -> MendedPoses:
        """Poses of the CT in an X-ray of (N, N) pixels, bone bright, with its mask of valid ones.

        Args:
            image: the X-ray.
            valid: its mask.
            again: whether to look from the surest answers again.
        """
        fixed = self._network.encode_fixed(fixed_channels(image[None], valid[None]))
        T, deviation = self._mended(fixed, self._T, self._place, self._encoded)
        place, count = self._place, len(T)
        for following in (*(_AGAIN if again else ()), 0):
            # Those not looked from again stay where they are, behind the others.
            order = torch.argsort(deviation[:count].sum(dim=1), stable=True)
            order = torch.cat([order, torch.arange(count, len(T))])
            T, deviation, place, count = T[order], deviation[order], place[order], following
            if count:
                there = place[:count]
                T[:count], deviation[:count] = self._mended(
                    fixed, T[:count], there, self._seen_from(T[:count], there)
                )
        return MendedPoses(T.numpy(), deviation.numpy())

    @torch.inference_mode()
    def first_look(self, image: torch.Tensor, valid: torch.Tensor) -> MendedPoses:
        """Likewise, but what the network says at once of each of the views (:func:`views_around` of each
        place), in their order."""
        fixed = self._network.encode_fixed(fixed_channels(image[None], valid[None]))
        T, deviation = self._mended(fixed, self._T, self._place, self._encoded)
        return MendedPoses(T.numpy(), deviation.numpy())

    def _seen_from(self, T: torch.Tensor, place: torch.Tensor) -> EncodedMoving:
        """What the network sees of the CT at poses (n, 4, 4), those of places (n,) turned about them."""
        parts, indices = [], []
        for number in torch.unique(place):
            for some in torch.nonzero(place == number)[:, 0].split(_CHUNK):
                centre = self._places[number].numpy()
                drrs = drrs_to_compare(*self._volumes, self._camera, T[some], centre)
                parts.append(self._network.encode_moving(moving_channels(drrs)))
                indices.append(some)
        back = torch.argsort(torch.cat(indices))
        return EncodedMoving(*(torch.cat(part)[back] for part in zip(*parts, strict=True)))

    def _mended(self, fixed: EncodedFixed, T: torch.Tensor, place: torch.Tensor, seen: EncodedMoving):
        """Poses (n, 4, 4) corrected by what the network sees of them, and their (n, 6) expected errors."""
        pixels, centre = self._camera.width, self._places[place]
        K = torch.from_numpy(self._camera.K).expand(len(T), 3, 3)
        values, deviation = self._network.compare(fixed, seen, camera_features(K, T, centre, pixels))
        return corrected(T, values, K, centre, pixels), deviation


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
