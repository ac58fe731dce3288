"""What the trainer needs to know of the two RTPI networks: their losses, and their poses for validation."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import nn

from SOPIRegistrationLib.networks.comparing import (
    ComparingConfig,
    ComparingRTPI,
    Correction,
    camera_features,
    corrected,
    correction_between,
    moving_channels,
)
from SOPIRegistrationLib.networks.image_channels import fixed_channels
from SOPIRegistrationLib.networks.two_branch import (
    TwoBranchConfig,
    TwoBranchRTPI,
    camera_parameters,
    filled,
    nominal_cube,
)
from SOPIRegistrationLib.training.pairs import Pairs
from SOPIRegistrationLib.training.pose_loss import ImageGroup, rtpi_loss
from SOPIRegistrationLib.training.records import score
from SOPIRegistrationLib.training.settings import PairOptions


class Stopwatch:
    """Adds up the seconds spent inside ``with stopwatch.running():``."""

    def __init__(self):
        self.seconds = 0.0

    @contextmanager
    def running(self):
        began = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - began


class _NamesPoses:
    """A task whose validation is as its training, judged by the medians of the errors."""

    pixels: int
    score = staticmethod(score)

    def held_out(self, options: PairOptions) -> tuple[int, PairOptions]:
        """As those learned from, one start each."""
        return self.pixels, replace(options, starts=1)


class ComparingTask(_NamesPoses):
    """Training of a :class:`ComparingRTPI`: every X-ray's pose is corrected several times in a row.

    Args:
        config: sizes of the network.
        corrections: times that a pose is corrected, and the network with it. The first starts are those of
            the pairs, the further ones where the network itself ended: it learns to mend its own errors.
    """

    def __init__(self, config: ComparingConfig, corrections: int = 1):
        self.config, self.pixels = config, config.pixels
        self._corrections, self.options = corrections, (corrections,)

    def network(self) -> ComparingRTPI:
        """A network to be trained."""
        return ComparingRTPI(self.config).to(memory_format=torch.channels_last)

    def losses(self, network: nn.Module, pairs: Pairs, rendering: Stopwatch) -> Iterator[torch.Tensor]:
        """One loss for each correction; the weights may change in between."""
        T = pairs.T_start
        for _ in range(self._corrections):
            correction = self._correction(network, pairs, T, rendering)
            target = correction_between(T, pairs.T_true, pairs.K, pairs.centre_lps_mm, self.pixels)
            yield correction_loss(correction, target.float())
            T = corrected(T, correction.values.detach(), pairs.K, pairs.centre_lps_mm, self.pixels)

    @torch.no_grad()
    def poses(self, network: nn.Module, pairs: Pairs) -> torch.Tensor:
        """(B, 4, 4) T_lps_to_camera found from the pairs' starts, by as many corrections as are trained."""
        T = pairs.T_start
        for _ in range(self._corrections):
            values = self._correction(network, pairs, T, Stopwatch()).values
            T = corrected(T, values, pairs.K, pairs.centre_lps_mm, self.pixels)
        return T

    def _correction(self, network, pairs: Pairs, T: torch.Tensor, rendering: Stopwatch) -> Correction:
        fixed = fixed_channels(pairs.image[:: pairs.starts], pairs.valid[:: pairs.starts])
        with rendering.running():
            drrs = pairs.project(T)
        camera = camera_features(pairs.K, T, pairs.centre_lps_mm, self.pixels)
        return network(fixed, moving_channels(drrs), camera)


class TwoBranchTask(_NamesPoses):
    """Training of the published :class:`TwoBranchRTPI` with the published loss (SOPI paper, Eq. 5).

    Args:
        config: sizes of the network.
    """

    def __init__(self, config: TwoBranchConfig):
        self.config, self.pixels, self.options = config, config.xray_size, ()

    def network(self) -> TwoBranchRTPI:
        """A network to be trained."""
        return TwoBranchRTPI(self.config)

    def losses(self, network: nn.Module, pairs: Pairs, rendering: Stopwatch) -> Iterator[torch.Tensor]:
        """The loss of a batch."""
        theta = self._theta(network, pairs)
        theta_true = torch.cat(
            [
                torch.from_numpy(frame.theta_from_T(pairs.T_true[images].cpu().numpy()))
                for frame, images in zip(pairs.frames, pairs.slices, strict=True)
            ]
        )
        groups = [
            ImageGroup(patient.ct_body, camera, frame, images, 2 * patient.ct_body.default_step_mm)
            for patient, camera, frame, images in zip(
                pairs.patients, pairs.cameras, pairs.frames, pairs.slices, strict=True
            )
        ]
        half_range = self.config.theta_half_range
        with rendering.running():
            loss = rtpi_loss(
                theta, theta_true.to(theta), pairs.image, groups, half_range, network, pairs.valid
            )
        yield loss.total

    @torch.no_grad()
    def poses(self, network: nn.Module, pairs: Pairs) -> torch.Tensor:
        """(B, 4, 4) T_lps_to_camera."""
        theta = self._theta(network, pairs).double()
        parts = zip(pairs.frames, pairs.slices, strict=True)
        return torch.cat([frame.T_from_theta(theta[images]) for frame, images in parts])

    def _theta(self, network: nn.Module, pairs: Pairs) -> torch.Tensor:
        device = pairs.image.device
        cubes = [
            torch.from_numpy(nominal_cube(patient.ct_body.volume, frame, self.config))
            for patient, frame in zip(pairs.patients, pairs.frames, strict=True)
        ]
        volumes = torch.stack(cubes)[:, None].to(device)
        sod_mm = torch.tensor([frame.sod_mm for frame in pairs.frames], device=device)
        camera = camera_parameters(
            pairs.K, tuple(pairs.image.shape[1:]), sod_mm.repeat_interleave(pairs.group)
        )
        return network(filled(pairs.image, pairs.valid)[:, None], volumes, camera)


def correction_loss(correction: Correction, target: torch.Tensor) -> torch.Tensor:
    """Negative log Laplace likelihood of the true corrections (B, 6), given the network's and its
    deviation."""
    # What cannot be known of a pose is expected to be wrong and weighs little (Kendall and Gal, NeurIPS
    # 2017).
    expected = correction.deviation
    return ((correction.values - target).abs() / expected + torch.log(expected)).mean()
