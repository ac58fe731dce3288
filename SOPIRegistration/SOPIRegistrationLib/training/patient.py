"""Training of a network for one patient: from the CT alone, within a budget of time.

No annotation is needed: X-rays are DRRs of the CT at random poses, degraded as real ones are. The set of DRRs
grows while the network learns from it (the incremental learning of Zhang et al., MICCAI 2023, as read here):
rendering takes little of each step, every DRR is seen many times, each time with another degradation, and yet
none is learned by heart.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage
from torch import nn
from torch.optim.swa_utils import AveragedModel

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.views import rotation_from_theta
from SOPIRegistrationLib.images.prepared_ct import PreparedCT
from SOPIRegistrationLib.networks.comparing import centre_in_camera, correction_between
from SOPIRegistrationLib.networks.image_channels import fixed_channels, standardised
from SOPIRegistrationLib.networks.patient import PatientConfig, PatientNetwork, PatientOutput
from SOPIRegistrationLib.projector import project
from SOPIRegistrationLib.subject import Subject
from SOPIRegistrationLib.training.muon import Muon
from SOPIRegistrationLib.training.pairs import misjudged, seen, through_tissue
from SOPIRegistrationLib.training.pose_loss import geodesic_pose_loss, pose_errors
from SOPIRegistrationLib.training.precision import has_bfloat16
from SOPIRegistrationLib.training.records import ERROR_COLUMNS, Records, cosine_rate, error_figures, score

# "body": X-rays show all of the CT. "bone": its bones alone. "part": its bones among others that it does not
# show, as of a segmented bone. "auto": "part" for a segmented bone, else "body".
CONTENTS = ("auto", "body", "bone", "part")
# "correction": mean absolute error. "geodesic": Salehi et al., IEEE TMI 38(2), 2019. "pose-dependent": each
# parameter weighted by how much it moves the projected bones at that pose, after Grimm et al., IEEE TMI
# 40(9), 2021.
LOSSES = ("correction", "geodesic", "pose-dependent")
LOG_COLUMNS = ("step", "seconds", "drrs", "loss", "learning_rate", *ERROR_COLUMNS)

# Standard deviations of rx, ry, rz (deg), of tx and ty as shares of the field of view's width at the rotation
# centre, and of tz as a share of its distance from the source: somewhat beyond the ``wide`` protocol.
_TURN_DEG, _SHIFTS, _DEPTH = 22.0, (0.22, 0.17), 0.15
# The rotation centre is never further from the middle of the image, in widths, nor nearer to the source, as a
# share of its usual distance.
_FURTHEST, _NEAREST = 0.6, 0.55
_POOL_BYTES = 400_000_000
_WARM_UP_STEPS = 100
_WEIGHT_DECAY = 0.01
# Of the regularised autoencoder (Ghosh et al., *From Variational to Deterministic Autoencoders*, ICLR 2020).
_RESTORATION_WEIGHT, _FEATURE_WEIGHT = 0.1, 1e-3
_WEIGHT_POINTS = 64
_RENDERED_AT_ONCE = 64


@dataclass(frozen=True)
class PatientTrainingSettings:
    """How to train.

    Attributes:
        budget_seconds: of training, those of runs before included.
        steps: batches after which training ends before that; None for no limit.
        batch: X-rays of a step.
        first_drrs: DRRs made before the first step.
        new_drrs: DRRs added in each step; 0 for a set that stays as it is.
        deviation: standard deviations of the poses about the reference: rx, ry, rz (deg), tx, ty, tz (mm);
            None for about what C-arm views differ by (``default_deviation``).
        content: one of ``CONTENTS``.
        strength: largest of the X-rays' degradations.
        loss: one of ``LOSSES``.
        learning_rate: of :class:`Muon`, the highest; falls to a hundredth along a cosine.
        averaging: decay of the moving average of the weights that is validated and kept.
        validation_poses: X-rays at poses that are never trained on.
        validate_seconds: how often they are looked at.
        checkpoint_seconds: how often the state is saved.
        seed: of everything random.
    """

    budget_seconds: float = 600.0
    steps: int | None = None
    batch: int = 32
    first_drrs: int = 512
    new_drrs: int = 8
    deviation: tuple[float, ...] | None = None
    content: str = "auto"
    strength: float = 1.0
    loss: str = "correction"
    learning_rate: float = 0.02
    averaging: float = 0.995
    validation_poses: int = 128
    validate_seconds: float = 15.0
    checkpoint_seconds: float = 30.0
    seed: int = 0

    def __post_init__(self):
        if self.content not in CONTENTS:
            raise InputError(f"unknown content '{self.content}': use {', '.join(CONTENTS)}")
        if self.loss not in LOSSES:
            raise InputError(f"unknown loss '{self.loss}': use {', '.join(LOSSES)}")
        if not self.budget_seconds > 0:
            raise InputError(f"the budget must be above 0 minutes, not {self.budget_seconds / 60:g}")
        if self.deviation is not None and (len(self.deviation) != 6 or min(self.deviation) < 0):
            raise InputError("the range of poses must be six numbers, 0 or above: deg, deg, deg, mm, mm, mm")


class Progress(NamedTuple):
    """How far a training is.

    Attributes:
        fraction: of the budget used.
        step: batches so far.
        seconds_left: of the budget.
        row: of the log, where the held-out poses were just looked at; else None.
    """

    fraction: float
    step: int
    seconds_left: float
    row: dict[str, float] | None


@dataclass(frozen=True)
class TrainedPatient:
    """How a training went.

    Attributes:
        network: the averaged weights where they did best on the held-out poses.
        figures: row of the log there.
        log: rows of ``LOG_COLUMNS``.
        stopped: whether it was stopped before its budget was used.
    """

    network: PatientNetwork
    figures: dict[str, float]
    log: list[dict[str, float]]
    stopped: bool


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


class PatientTrainer:
    """Trains a network for a patient.

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

    def __init__(
        self,
        ct: PreparedCT,
        config: PatientConfig,
        settings: PatientTrainingSettings,
        out: Path,
        device: torch.device,
        report: Callable[[Progress], bool | None],
    ):
        torch.manual_seed(settings.seed)
        self._ct, self._config, self._settings = ct, config, settings
        self._device, self._report = device, report
        self._half = device.type == "cuda" or has_bfloat16()
        self._network = PatientNetwork(config).to(device, memory_format=torch.channels_last)
        average = _moving_average(settings.averaging)
        self._average = AveragedModel(self._network, device, multi_avg_fn=average, use_buffers=True)
        self._optimizer = Muon(
            self._network,
            settings.learning_rate,
            weight_decay=_WEIGHT_DECAY,
            precision=torch.bfloat16 if self._half else torch.float32,
        )
        self._loss = PatientLoss(config, ct.surface_points_lps_mm, settings.loss)
        self._state = {"step": 0, "seconds": 0.0, "drrs": 0, "best": float("inf")}
        parts = {"network": self._network, "average": self._average, "optimizer": self._optimizer}
        self._records = Records(out, LOG_COLUMNS, parts, config)
        self._resume()

    def run(self) -> TrainedPatient:
        """Train until the budget is used; Ctrl-C ends it as a stop does."""
        began = time.monotonic() - self._state["seconds"]
        stopped = False
        if not self._is_done:
            backend = "fused_cuda" if self._device.type == "cuda" else None
            seed, step = self._settings.seed, self._state["step"]
            training, validation = (
                PatientXrays(self._ct, self._config, self._settings, seeds, exact, backend)
                for seeds, exact in (([seed, 0, step], False), ([seed, 1], True))
            )
            validation.add(self._settings.validation_poses)
            held_out = validation.draw(self._settings.validation_poses, 0.5 * self._settings.strength)
            training.add(self._settings.first_drrs)
            try:
                stopped = self._loop(training, held_out.to(self._device), began)
            except KeyboardInterrupt:
                stopped = True
        network = PatientNetwork(self._config)
        best = self._records.best()
        network.load_state_dict(self._average.module.state_dict() if best is None else best)
        rows = self._records.rows
        return TrainedPatient(network.eval(), min(rows, key=score, default={}), rows, stopped)

    @property
    def _fraction(self) -> float:
        settings, state = self._settings, self._state
        of_steps = state["step"] / settings.steps if settings.steps else 0.0
        return min(1.0, max(state["seconds"] / settings.budget_seconds, of_steps))

    @property
    def _is_done(self) -> bool:
        return self._fraction >= 1

    def _loop(self, training: PatientXrays, held_out: Xrays, began: float) -> bool:
        """Steps until the end; whether it was stopped."""
        settings, state = self._settings, self._state
        losses: list[float] = []
        validated = saved = time.monotonic()

        def next_batch() -> Xrays:
            if settings.new_drrs:
                training.add(settings.new_drrs)
            return training.draw(settings.batch)

        # The next batch is made while the network learns from this one.
        with ThreadPoolExecutor(1) as maker:
            coming = maker.submit(next_batch)
            while True:
                xrays, coming = coming.result(), maker.submit(next_batch)
                losses.append(self._step(xrays.to(self._device)))
                now = time.monotonic()
                state.update(step=state["step"] + 1, seconds=now - began, drrs=training.made)
                stopped = bool(self._tell(None))
                over = stopped or self._is_done
                if over or now - validated > settings.validate_seconds:
                    row = self._validate(held_out, float(np.mean(losses)))
                    stopped |= bool(self._tell(row))
                    validated, losses = time.monotonic(), []
                    state["seconds"] = validated - began
                if over or stopped or now - saved > settings.checkpoint_seconds:
                    self._records.save(state)
                    saved = time.monotonic()
                if over or stopped:
                    return stopped and not self._is_done

    def _step(self, xrays: Xrays) -> float:
        self._network.train()
        for group in self._optimizer.param_groups:
            group["lr"] = self._learning_rate()
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._half):
            channels = fixed_channels(xrays.image, xrays.valid).contiguous(memory_format=torch.channels_last)
            output = self._network(channels)
        loss = self._loss(self._network, output, xrays)
        loss.backward()
        nn.utils.clip_grad_norm_(self._network.parameters(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._average.update_parameters(self._network)
        return float(loss.detach())

    @torch.no_grad()
    def _validate(self, held_out: Xrays, loss: float) -> dict[str, float]:
        """Errors of the averaged weights on the held-out poses; the best are kept."""
        network, state = self._average.module.eval(), self._state
        parts = zip(held_out.image.split(64), held_out.valid.split(64), strict=True)
        values = torch.cat([network(fixed_channels(*part)).values for part in parts])
        centre = network.centre_lps_mm.expand(len(values), 3)
        errors = pose_errors(network.poses(values), held_out.T_true, centre).cpu().numpy()
        known = (state["step"], state["seconds"], state["drrs"], loss, self._learning_rate())
        row = dict(zip(LOG_COLUMNS, (*known, *error_figures(errors).values()), strict=True))
        self._records.rows.append(row)
        if score(row) < state["best"]:
            state["best"] = score(row)
            self._records.save_best(network)
        return row

    def _tell(self, row: dict[str, float] | None) -> bool | None:
        left = (1 - self._fraction) * self._settings.budget_seconds
        return self._report(Progress(self._fraction, self._state["step"], left, row))

    def _learning_rate(self) -> float:
        return cosine_rate(self._settings.learning_rate, self._state["step"], _WARM_UP_STEPS, self._fraction)

    def _resume(self) -> None:
        def refusal(different):
            what = "CT" if "ct_identity" in different else "C-arm, view or network"
            return f"the training of another {what}: give another --out"

        self._state.update(self._records.restore(self._device, refusal) or {})


def _moving_average(decay: float) -> Callable:
    """Averaging that forgets the first steps soon: trainings of a few minutes have few."""

    def update(averaged: Sequence[torch.Tensor], current: Sequence[torch.Tensor], count) -> None:
        share = 1 - min(decay, (1 + int(count)) / (10 + int(count)))
        for a, b in zip(averaged, current, strict=True):
            if a.is_floating_point():
                a.lerp_(b, share)
            else:
                a.copy_(b)

    return update


def _reference_depth(config: PatientConfig) -> float:
    """Distance of the rotation centre from the source along the central ray at the reference pose, mm."""
    T = torch.tensor(config.T_reference, dtype=torch.float64).reshape(1, 4, 4)
    return float(centre_in_camera(T, torch.tensor(config.centre_lps_mm, dtype=torch.float64)[None])[0, 2])
