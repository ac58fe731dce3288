"""Training of a network for one patient: from the CT alone, within a budget of time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.images.prepared_ct import PreparedCT
from SOPIRegistrationLib.networks.image_channels import fixed_channels
from SOPIRegistrationLib.networks.patient import PatientConfig, PatientNetwork
from SOPIRegistrationLib.training.patient_loss import PatientLoss
from SOPIRegistrationLib.training.patient_xrays import PatientXrays, Xrays
from SOPIRegistrationLib.training.placement import OneDevice, Placement
from SOPIRegistrationLib.training.pose_loss import pose_errors
from SOPIRegistrationLib.training.records import score
from SOPIRegistrationLib.training.settings import PatientTrainingSettings
from SOPIRegistrationLib.training.trainer import Progress, Trainer


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

    score = staticmethod(score)

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
    """A trainer of a patient's network, which goes on from a checkpoint in ``out``; InputError for another's;
    a true answer of ``report`` ends it."""
    torch.manual_seed(settings.seed)
    network = PatientNetwork(config).to(device, memory_format=torch.channels_last)
    task = PatientTraining(ct, config, settings)
    return Trainer(OneDevice(device), out, task, network, settings, report)
