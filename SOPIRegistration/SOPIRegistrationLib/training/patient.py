"""Training of a network for one patient: from the CT alone, within a budget of time.

No annotation is needed: X-rays are DRRs of the CT at random poses, degraded as real ones are. The set of DRRs
grows while the network learns from it (the incremental learning of Zhang et al., MICCAI 2023, as read here):
rendering takes little of each step, every DRR is seen many times, each time with another degradation, and yet
none is learned by heart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage
from torch import nn

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.views import rotation_from_theta
from SOPIRegistrationLib.images.prepared_ct import PreparedCT
from SOPIRegistrationLib.networks.comparing import centre_in_camera, correction_between
from SOPIRegistrationLib.networks.image_channels import fixed_channels, standardised
from SOPIRegistrationLib.networks.patient import PatientConfig, PatientNetwork, PatientOutput
from SOPIRegistrationLib.projector import project
from SOPIRegistrationLib.subject import Subject
from SOPIRegistrationLib.training.pairs import misjudged, seen, through_tissue
from SOPIRegistrationLib.training.placement import OneDevice, Placement
from SOPIRegistrationLib.training.pose_loss import geodesic_pose_loss, pose_errors
from SOPIRegistrationLib.training.trainer import LoopSettings, Progress, Trainer

# "body": X-rays show all of the CT. "bone": its bones alone. "part": its bones among others that it does not
# show, as of a segmented bone. "auto": "part" for a segmented bone, else "body".
CONTENTS = ("auto", "body", "bone", "part")
# "correction": mean absolute error. "geodesic": Salehi et al., IEEE TMI 38(2), 2019. "pose-dependent": each
# parameter weighted by how much it moves the projected bones at that pose, after Grimm et al., IEEE TMI
# 40(9), 2021.
LOSSES = ("correction", "geodesic", "pose-dependent")

# Standard deviations of rx, ry, rz (deg), of tx and ty as shares of the field of view's width at the rotation
# centre, and of tz as a share of its distance from the source: somewhat beyond the ``wide`` protocol.
_TURN_DEG, _SHIFTS, _DEPTH = 22.0, (0.22, 0.17), 0.15
# The rotation centre is never further from the middle of the image, in widths, nor nearer to the source, as a
# share of its usual distance.
_FURTHEST, _NEAREST = 0.6, 0.55
_POOL_BYTES = 400_000_000
# Of the regularised autoencoder (Ghosh et al., *From Variational to Deterministic Autoencoders*, ICLR 2020).
_RESTORATION_WEIGHT, _FEATURE_WEIGHT = 0.1, 1e-3
_WEIGHT_POINTS = 64
_RENDERED_AT_ONCE = 64


@dataclass(frozen=True)
class PatientTrainingSettings(LoopSettings):
    """How to train.

    Attributes:
        batch: X-rays of a step.
        first_drrs: DRRs made before the first step.
        new_drrs: DRRs added in each step; 0 for a set that stays as it is.
        deviation: standard deviations of the poses about the reference: rx, ry, rz (deg), tx, ty, tz (mm);
            None for about what C-arm views differ by (``default_deviation``).
        content: one of ``CONTENTS``.
        strength: largest of the X-rays' degradations.
        loss: one of ``LOSSES``.
        validation_poses: X-rays at poses that are never trained on.
    """

    budget_seconds: float | None = 600.0
    validate_seconds: float | None = 15.0
    checkpoint_seconds: float = 30.0
    batch: int = 32
    first_drrs: int = 512
    new_drrs: int = 8
    deviation: tuple[float, ...] | None = None
    content: str = "auto"
    strength: float = 1.0
    loss: str = "correction"
    validation_poses: int = 128

    def __post_init__(self):
        if self.content not in CONTENTS:
            raise InputError(f"unknown content '{self.content}': use {', '.join(CONTENTS)}")
        if self.loss not in LOSSES:
            raise InputError(f"unknown loss '{self.loss}': use {', '.join(LOSSES)}")
        if not self.budget_seconds > 0:
            raise InputError(f"the budget must be above 0 minutes, not {self.budget_seconds / 60:g}")
        if self.deviation is not None and (len(self.deviation) != 6 or min(self.deviation) < 0):
            raise InputError("the range of poses must be six numbers, 0 or above: deg, deg, deg, mm, mm, mm")


def configured(
    architecture: PatientConfig, ct: PreparedCT, camera: Camera, T_reference: np.ndarray
) -> PatientConfig:
    """An architecture for a patient and a C-arm.

    Args:
        architecture: backbone and parts.
        ct: the patient.
        camera: of the X-rays to come, any number of pixels; what the network sees is square and holds all of
            their field of view.
        T_reference: (4, 4) T_lps_to_camera about which poses are expected.
    """
    pixels, size = architecture.pixels, max(camera.shape)
    margins = (size - camera.width) // 2, (size - camera.height) // 2
    square = camera.cropped(-margins[0], -margins[1], size, size).resampled(pixels, pixels)
    K = square.K
    return replace(
        architecture,
        ct_identity=ct.identity,
        intrinsics_px=tuple(float(K[index]) for index in ((0, 0), (1, 1), (0, 2), (1, 2))),
        T_reference=tuple(map(float, np.ravel(T_reference))),
        centre_lps_mm=tuple(map(float, ct.rotation_centre_lps_mm)),
    )


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
    """

    def __init__(
        self,
        ct: PreparedCT,
        config: PatientConfig,
        settings: PatientTrainingSettings,
        seed,
        exact: bool = False,
        backend: str | None = None,
    ):
        self._config, self._strength, self._exact, self._backend = config, settings.strength, exact, backend
        self._rng = np.random.default_rng(seed)
        self._T_reference = np.reshape(config.T_reference, (4, 4))
        deviation = default_deviation(config) if settings.deviation is None else np.array(settings.deviation)
        self._deviation = np.concatenate([np.deg2rad(deviation[:3]), deviation[3:]])
        subject, content = Subject(ct), settings.content
        if content == "auto":
            content = "part" if subject.is_segmented_bone else "body"
        self._is_part = content == "part"
        names = ("body", "bone") if content == "body" else ("bone",)
        volumes = {"body": subject.body, "bone": subject.bones}
        self._volumes = [volumes[name].for_camera(config.camera, self._T_reference) for name in names]
        self._capacity = max(256, _POOL_BYTES // (2 * len(names) * config.pixels**2))
        # Half the digits: coarser than these images' noise, finer than anything learned from them.
        self._drrs = np.empty((0, len(names), config.pixels, config.pixels), np.float16)
        self._T = np.empty((0, 4, 4))
        self.made = 0

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

    def _shown(self, drrs: np.ndarray) -> np.ndarray:
        """Line integrals of what an X-ray shows."""
        rng = self._rng
        if len(drrs) > 1:
            return through_tissue(*drrs, rng)
        return drrs[0] + self._surroundings() if self._is_part else drrs[0]

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


class PatientLoss:
    """What is minimised: the pose's error, and that of the autoencoder where there is one.

    Args:
        config: whose poses.
        points_lps_mm: (n, 3) points of the bones' surface, for the pose-dependent weights.
        kind: one of ``LOSSES``.
    """

    def __init__(self, config: PatientConfig, points_lps_mm: np.ndarray, kind: str = "correction"):
        self._pixels, self._kind = config.pixels, kind
        chosen = np.linspace(0, len(points_lps_mm) - 1, min(_WEIGHT_POINTS, len(points_lps_mm))).astype(int)
        self._points = torch.from_numpy(np.asarray(points_lps_mm, dtype=np.float64)[chosen])

    def __call__(self, network: PatientNetwork, output: PatientOutput, xrays: Xrays) -> torch.Tensor:
        """Mean over a batch; ``network`` has the frame that values are measured in."""
        loss = self._pose_loss(network, output.values, xrays.T_true)
        if output.restored is not None:
            everywhere = torch.ones_like(xrays.clean, dtype=torch.bool)
            target = nn.functional.avg_pool2d(standardised(xrays.clean, everywhere), 2)
            restoration = (output.restored - target).square().mean()
            features = output.features.float().square().mean()
            loss = loss + _RESTORATION_WEIGHT * (restoration + _FEATURE_WEIGHT * features)
        return loss

    def _pose_loss(self, network: PatientNetwork, values: torch.Tensor, T_true: torch.Tensor) -> torch.Tensor:
        count = len(values)
        centre = network.centre_lps_mm.expand(count, 3)
        if self._kind == "geodesic":
            return geodesic_pose_loss(network.poses(values), T_true, centre).float()
        T_reference, K = network.T_reference.expand(count, 4, 4), network.K.expand(count, 3, 3)
        target = correction_between(T_reference, T_true, K, centre, self._pixels)
        error = (values - target.float()).abs()
        if self._kind == "pose-dependent":
            error = error * self._weights(network, target).float()
        return error.mean()

    def _weights(self, network: PatientNetwork, values: torch.Tensor) -> torch.Tensor:
        """(B, 6) mean motion of the projected points, in image widths, by a change of each value."""
        step = 1e-4
        moved = torch.cat([values[:, None], values[:, None] + step * torch.eye(6).to(values)], dim=1)
        T = network.poses(moved.flatten(0, 1)).unflatten(0, (len(values), 7))
        points = self._points.to(T) @ T[..., :3, :3].mT + T[..., None, :3, 3]
        directions = points[..., :2] / points[..., 2:]
        focal = torch.stack([network.K[0, 0], network.K[1, 1]])
        motion = (directions[:, 1:] - directions[:, :1]) * focal / (step * self._pixels)
        return motion.norm(dim=-1).mean(dim=-1)


class PatientTraining:
    """A task (``trainer.Task``) whose batches are X-rays of one patient.

    Args:
        ct: the patient.
        config: the network, its camera and reference pose (:func:`configured`).
        settings: how.
    """

    columns, counter = (), "drrs"

    def __init__(self, ct: PreparedCT, config: PatientConfig, settings: PatientTrainingSettings):
        self.config, self.measured_on = config, {}
        self._ct, self._settings = ct, settings
        self._loss = PatientLoss(config, ct.surface_points_lps_mm, settings.loss)
        self._maker: ThreadPoolExecutor | None = None

    @property
    def count(self) -> int:
        """DRRs made."""
        return self._training.made

    def prepare(self, placement: Placement, step: int, say: Callable[[str], None]) -> None:
        """Make the first DRRs, and X-rays at held-out poses."""
        settings = self._settings
        self._device = placement.device
        backend = "fused_cuda" if self._device.type == "cuda" else None
        self._training, validation = (
            PatientXrays(self._ct, self.config, settings, seeds, exact, backend)
            for seeds, exact in (([settings.seed, 0, step], False), ([settings.seed, 1], True))
        )
        validation.add(settings.validation_poses)
        self._held_out = validation.draw(settings.validation_poses, 0.5 * settings.strength).to(self._device)
        self._training.add(settings.first_drrs)
        # The next batch is made while the network learns from this one.
        self._maker = ThreadPoolExecutor(1)
        self._coming = self._maker.submit(self._next_batch)

    def losses(self, network: nn.Module) -> Iterator[torch.Tensor]:
        """The loss of a batch."""
        xrays, self._coming = self._coming.result(), self._maker.submit(self._next_batch)
        xrays = xrays.to(self._device)
        channels = fixed_channels(xrays.image, xrays.valid).contiguous(memory_format=torch.channels_last)
        yield self._loss(network.module, network(channels), xrays)

    def figures(self) -> dict[str, float]:
        """None of its own."""
        return {}

    @torch.no_grad()
    def errors(self, network: nn.Module) -> np.ndarray:
        """Errors on the held-out poses."""
        held_out = self._held_out
        parts = zip(held_out.image.split(64), held_out.valid.split(64), strict=True)
        values = torch.cat([network(fixed_channels(*part)).values for part in parts])
        centre = network.centre_lps_mm.expand(len(values), 3)
        return pose_errors(network.poses(values), held_out.T_true, centre).cpu().numpy()

    def refusal(self, different: Sequence[str]) -> str:
        """Another CT, or another C-arm."""
        what = "CT" if "ct_identity" in different else "C-arm, view or network"
        return f"the training of another {what}: give another --out"

    def close(self) -> None:
        """End the making of batches."""
        if self._maker is not None:
            self._maker.shutdown(cancel_futures=True)

    def _next_batch(self) -> Xrays:
        if self._settings.new_drrs:
            self._training.add(self._settings.new_drrs)
        return self._training.draw(self._settings.batch)


def patient_trainer(
    ct: PreparedCT,
    config: PatientConfig,
    settings: PatientTrainingSettings,
    out: Path,
    device: torch.device,
    report: Callable[[Progress], bool | None],
) -> Trainer:
    """A trainer of a network for a patient.

    Args:
        ct: the patient.
        config: the network, its camera and reference pose (:func:`configured`).
        settings: how.
        out: folder of checkpoint and log; training goes on from a checkpoint there.
        device: where.
        report: called after every step; a true answer ends the training, which keeps the best so far.

    Raises:
        InputError: the checkpoint is of another network, patient or C-arm.
    """
    torch.manual_seed(settings.seed)
    network = PatientNetwork(config).to(device, memory_format=torch.channels_last)
    task = PatientTraining(ct, config, settings)
    return Trainer(OneDevice(device), out, task, network, settings, report)


def _reference_depth(config: PatientConfig) -> float:
    """Distance of the rotation centre from the source along the central ray at the reference pose, mm."""
    T = torch.tensor(config.T_reference, dtype=torch.float64).reshape(1, 4, 4)
    return float(centre_in_camera(T, torch.tensor(config.centre_lps_mm, dtype=torch.float64)[None])[0, 2])
