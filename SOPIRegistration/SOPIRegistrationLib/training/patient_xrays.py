"""X-rays of one patient to learn from: DRRs of the CT at random poses, degraded as real ones are.

The set of DRRs grows while a network learns from it (the incremental learning of Zhang et al., MICCAI 2023,
as read here): rendering takes little of each step, every DRR is seen many times, each time with another
degradation, and yet none is learned by heart.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage

from SOPIRegistrationLib.geometry.views import rotation_from_theta
from SOPIRegistrationLib.images.prepared_ct import PreparedCT
from SOPIRegistrationLib.networks.comparing import centre_in_camera
from SOPIRegistrationLib.networks.patient import PatientConfig
from SOPIRegistrationLib.projector import project
from SOPIRegistrationLib.subject import Subject
from SOPIRegistrationLib.training.pairs import misjudged, seen, through_tissue
from SOPIRegistrationLib.training.settings import PatientTrainingSettings

# Standard deviations of rx, ry, rz (deg), of tx and ty as shares of the field of view's width at the rotation
# centre, and of tz as a share of its distance from the source: somewhat beyond the ``wide`` protocol.
_TURN_DEG, _SHIFTS, _DEPTH = 22.0, (0.22, 0.17), 0.15
# The rotation centre is never further from the middle of the image, in widths, nor nearer to the source, as a
# share of its usual distance.
_FURTHEST, _NEAREST = 0.6, 0.55
_POOL_BYTES = 400_000_000
_RENDERED_AT_ONCE = 64


class Xrays(NamedTuple):
    """X-rays with their poses.

    Attributes:
        image: (B, N, N) float32, bone bright, any curve.
        valid: (B, N, N) bool.
        clean: (B, N, N) float32, the line integrals that they were made from.
        T_true: (B, 4, 4) float64, T_lps_to_camera.
    """

    image: torch.Tensor
    valid: torch.Tensor
    clean: torch.Tensor
    T_true: torch.Tensor

    def to(self, device) -> Xrays:
        """The same on a device."""
        return Xrays(*(tensor.to(device) for tensor in self))


def default_deviation(config: PatientConfig) -> np.ndarray:
    """(6,) standard deviations of poses about the reference, deg and mm, for a configuration's C-arm."""
    depth = _reference_depth(config)
    field_mm = config.pixels * depth / config.intrinsics_px[0]
    return np.array([*[_TURN_DEG] * 3, *(share * field_mm for share in _SHIFTS), _DEPTH * depth])


class PatientXrays:
    """DRRs of one patient at random poses, to be seen as X-rays again and again.

    Args:
        ct: the patient.
        config: camera, reference pose and rotation centre.
        settings: what poses, and how X-rays differ from DRRs.
        seed: of everything random.
        exact: whether the C-arm is known exactly; in training it never is.
        backend: of the projector; the fastest on the CPU unless given.
        capacity: DRRs that are kept at most; unless given, what fits into 400 MB.
    """

    def __init__(
        self,
        ct: PreparedCT,
        config: PatientConfig,
        settings: PatientTrainingSettings,
        seed,
        exact: bool = False,
        backend: str | None = None,
        capacity: int | None = None,
    ):
        self._config, self._strength, self._exact, self._backend = config, settings.strength, exact, backend
        self._rng = np.random.default_rng(seed)
        self._T_reference = np.reshape(config.T_reference, (4, 4))
        deviation = default_deviation(config) if settings.deviation is None else np.array(settings.deviation)
        self._deviation = np.concatenate([np.deg2rad(deviation[:3]), deviation[3:]])
        subject, content = Subject(ct), settings.content
        if content == "auto":
            content = "part" if subject.is_segmented_bone else "body"
        # What is rendered, and what of these line integrals an X-ray shows.
        moving, self._shown = {
            "body": ((subject.body, subject.bones), self._through_tissue),
            "bone": ((subject.bones,), self._alone),
            "part": ((subject.bones,), self._among_others),
        }[content]
        self._volumes = [one.for_camera(config.camera, self._T_reference) for one in moving]
        self._capacity = capacity or max(256, _POOL_BYTES // (2 * len(moving) * config.pixels**2))
        # Half the digits: coarser than these images' noise, finer than anything learned from them.
        self._drrs = np.empty((0, len(moving), config.pixels, config.pixels), np.float16)
        self._T = np.empty((0, 4, 4))
        self.made = 0

    @property
    def poses(self) -> np.ndarray:
        """(n, 4, 4) T_lps_to_camera of the DRRs that are kept."""
        return self._T

    def add(self, count: int) -> None:
        """Make DRRs at new poses; the oldest go where memory is full."""
        for start in range(0, count, _RENDERED_AT_ONCE):
            T = self._random_poses(min(_RENDERED_AT_ONCE, count - start))
            camera = self._config.camera
            if not self._exact:
                camera = misjudged(camera, self._rng)
            drrs = [project(volume, camera, T, backend=self._backend) for volume in self._volumes]
            drrs = np.stack(drrs, axis=1).astype(np.float16)
            if len(self._T) < self._capacity:
                self._drrs, self._T = np.concatenate([self._drrs, drrs]), np.concatenate([self._T, T])
            else:
                places = (self.made + np.arange(len(T))) % self._capacity
                self._drrs[places], self._T[places] = drrs, T
            self.made += len(T)

    def draw(self, count: int, strength: float | None = None) -> Xrays:
        """X-rays of random DRRs of the set, each degraded anew.

        Args:
            count: how many.
            strength: of the degradations; random up to that of the settings unless given.
        """
        rng = self._rng
        chosen = (
            rng.permutation(len(self._T))[:count] if self._exact else rng.integers(len(self._T), size=count)
        )
        drrs = self._drrs[chosen].astype(np.float32)
        shown = torch.from_numpy(np.stack([self._shown(images) for images in drrs]))
        strengths = (
            self._strength * rng.uniform(size=count) ** 1.5 if strength is None else [strength] * count
        )
        image, valid = seen(shown, strengths[: len(drrs)], rng)
        clean, T_true = torch.from_numpy(np.ascontiguousarray(drrs[:, 0])), torch.from_numpy(self._T[chosen])
        return Xrays(image, valid, clean, T_true)

    def _through_tissue(self, drrs: np.ndarray) -> np.ndarray:
        return through_tissue(*drrs, self._rng)

    def _alone(self, drrs: np.ndarray) -> np.ndarray:
        return drrs[0]

    def _among_others(self, drrs: np.ndarray) -> np.ndarray:
        return drrs[0] + self._surroundings()

    def _surroundings(self) -> np.ndarray:
        """Line integrals of soft tissue and other bones: smooth, and DRRs of this bone, moved about."""
        rng, pixels = self._rng, self._config.pixels
        coarse = rng.normal(size=(4, 4)) * rng.uniform(0, 0.6)
        total = ndimage.zoom(coarse.astype(np.float32), pixels / 4, order=1)
        total += np.float32(max(0.0, -total.min()) + rng.uniform(0, 1))
        for _ in range(rng.integers(4)):
            other = self._drrs[rng.integers(len(self._T)), 0].astype(np.float32)
            if rng.random() < 0.5:
                other = other[:, ::-1]
            shift = rng.integers(-pixels // 2, pixels // 2, size=2)
            total += np.float32(rng.uniform(0.2, 1.2)) * np.roll(other, shift, axis=(0, 1))
        return total

    def _random_poses(self, count: int) -> np.ndarray:
        """(count, 4, 4) T_lps_to_camera about the reference, the rotation centre in view."""
        rng, T_reference = self._rng, self._T_reference
        theta = rng.normal(size=(count, 6)) * self._deviation
        R = rotation_from_theta(theta[:, :3]) @ T_reference[:3, :3]
        centre_lps_mm = np.array(self._config.centre_lps_mm)
        centre = T_reference[:3, :3] @ centre_lps_mm + T_reference[:3, 3] + theta[:, 3:]
        usual = _reference_depth(self._config)
        centre[:, 2] = np.maximum(centre[:, 2], _NEAREST * usual)
        camera = self._config.camera
        middle = (self._config.pixels - 1) / 2
        reach = _FURTHEST * self._config.pixels
        pixel = np.clip(camera.project(centre), middle - reach, middle + reach)
        rays = np.concatenate([pixel, np.ones((count, 1))], axis=1) @ camera.K_inverse.T
        centre = rays * centre[:, 2:]
        T = np.tile(np.eye(4), (count, 1, 1))
        T[:, :3, :3] = R
        T[:, :3, 3] = centre - R @ centre_lps_mm
        return T


def _reference_depth(config: PatientConfig) -> float:
    """Distance of the rotation centre from the source along the central ray at the reference pose, mm."""
    T = torch.tensor(config.T_reference, dtype=torch.float64).reshape(1, 4, 4)
    return float(centre_in_camera(T, torch.tensor(config.centre_lps_mm, dtype=torch.float64)[None])[0, 2])
