"""Networks that know one patient: an X-ray to its pose, without a CT beside it.

Source: Zhang et al., *A patient-specific self-supervised model for automatic X-ray/CT registration*, MICCAI
2023. Its parts, each of which can be left out: EfficientNet-B0 (A), a regularised autoencoder that makes the
features keep the image's structure (B), self-attention with a 2D positional embedding (C). Besides, a
small residual network that learns within minutes on a CPU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.networks import efficientnet
from SOPIRegistrationLib.networks.blocks import ResidualBlock, group_norm
from SOPIRegistrationLib.networks.comparing import corrected
from SOPIRegistrationLib.networks.image_channels import FIXED_CHANNELS
from SOPIRegistrationLib.networks.weights import registered

BACKBONES = ("light", "efficientnet-b0")
_LIGHT_WIDTHS = (32, 64, 96, 128)
_FLAT_CHANNELS, _HIDDEN = 64, 256
_TOKEN_WIDTH, _TOKEN_HEADS = 256, 8
_DROPOUT = 0.2
_DECODER_WIDTH = 128


@dataclass(frozen=True)
class PatientConfig:
    """What a :class:`PatientNetwork` is made of, and whom and what C-arm it knows.

    Attributes:
        backbone: one of ``BACKBONES``.
        pixels: width and height of the images, a multiple of 16 (light) or 32.
        autoencoder: whether a decoder restores the image from the features (B).
        attention: whether features attend to each other (C).
        ct_identity: of the CT (``images.identity``); empty before training.
        intrinsics_px: fx, fy, u, v of the images' camera.
        T_reference: 16 numbers, row by row: the T_lps_to_camera from which poses are measured, mm.
        centre_lps_mm: rotation centre.

    Raises:
        ValueError: a backbone that is not known, or pixels that do not suit it.
    """

    backbone: str = "light"
    pixels: int = 64
    autoencoder: bool = False
    attention: bool = False
    ct_identity: str = ""
    intrinsics_px: tuple[float, ...] = (320.0, 320.0, 31.5, 31.5)
    T_reference: tuple[float, ...] = (1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 700.0, 0, 0, 0, 1)
    centre_lps_mm: tuple[float, ...] = (0.0, 0.0, 0.0)

    def __post_init__(self):
        if self.backbone not in BACKBONES:
            raise ValueError(f"unknown backbone '{self.backbone}': use {' or '.join(BACKBONES)}")
        if self.pixels % self.stride:
            raise ValueError(f"{self.backbone} takes multiples of {self.stride} pixels, not {self.pixels}")

    @property
    def stride(self) -> int:
        """Pixels of the image for one of the features, along each edge."""
        return efficientnet.STRIDE if self.backbone == "efficientnet-b0" else 2 ** len(_LIGHT_WIDTHS)

    @property
    def camera(self) -> Camera:
        """Camera of the images that the network sees."""
        fx, fy, u, v = self.intrinsics_px
        K = np.array([[fx, 0, u], [0, fy, v], [0, 0, 1]])
        return Camera(K, self.pixels, self.pixels)


# A: backbone, B: autoencoder, C: attention, as in the paper's Table 3; "light" in place of A trains on CPUs.
CONFIGURATIONS = {
    name + parts: PatientConfig(backbone, pixels, "B" in parts, "C" in parts)
    for name, backbone, pixels in (("light", "light", 64), ("A", "efficientnet-b0", 128))
    for parts in ("", "+B", "+C", "+B+C")
}


class PatientOutput(NamedTuple):
    """What a :class:`PatientNetwork` makes of X-rays.

    Attributes:
        values: (B, 6) how the pose differs from the reference, as ``networks.comparing.Correction.values``.
        restored: (B, N/2, N/2) the standardised DRR, without what the X-ray suffered; None without
            autoencoder.
        features: (B, C, N/stride, N/stride) of the backbone.
    """

    values: torch.Tensor
    restored: torch.Tensor | None
    features: torch.Tensor


@registered("patient", PatientConfig)
class PatientNetwork(nn.Module):
    """An X-ray of one patient, by one C-arm, to its pose."""

    def __init__(self, config: PatientConfig | None = None):
        super().__init__()
        self.config = config = config or PatientConfig()
        cells = config.pixels // config.stride
        if config.backbone == "light":
            self.backbone, channels = _light(FIXED_CHANNELS), _LIGHT_WIDTHS[-1]
        else:
            self.backbone, channels = efficientnet.efficientnet_b0(FIXED_CHANNELS), efficientnet.CHANNELS
        if config.attention:
            self.summary, width = AttentionBlock(channels, cells), _TOKEN_WIDTH
        elif config.backbone == "light":
            # The place of what is seen matters as much as what: no pooling over the image.
            self.summary, width = _flattened(channels, cells), _HIDDEN
        else:
            layers = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(_DROPOUT))
            self.summary, width = nn.Sequential(*layers), channels
        self.heads = nn.Linear(width, 6)
        # The first guess is the reference pose.
        nn.init.zeros_(self.heads.weight)
        nn.init.zeros_(self.heads.bias)
        self.decoder = _decoder(channels, config.stride // 2) if config.autoencoder else None
        fx, fy, u, v = config.intrinsics_px
        K = torch.tensor([[fx, 0, u], [0, fy, v], [0, 0, 1]], dtype=torch.float64)
        T_reference = torch.tensor(config.T_reference, dtype=torch.float64).reshape(4, 4)
        centre = torch.tensor(config.centre_lps_mm, dtype=torch.float64)
        for name, value in (("K", K), ("T_reference", T_reference), ("centre_lps_mm", centre)):
            self.register_buffer(name, value, persistent=False)

    def forward(self, channels: torch.Tensor) -> PatientOutput:
        """(B, 4, N, N) of ``image_channels.fixed_channels`` to the pose, and the image restored."""
        features = self.backbone(channels)
        values = self.heads(self.summary(features)).float()
        restored = None if self.decoder is None else self.decoder(features)[:, 0].float()
        return PatientOutput(values, restored, features)

    def poses(self, values: torch.Tensor) -> torch.Tensor:
        """(B, 4, 4) T_lps_to_camera, float64, of (B, 6) values."""
        count = len(values)
        return corrected(
            self.T_reference.expand(count, 4, 4),
            values,
            self.K.expand(count, 3, 3),
            self.centre_lps_mm.expand(count, 3),
            self.config.pixels,
        )


class AttentionBlock(nn.Module):
    """Multi-head self-attention between the places of a feature map, which know where they are.

    Source: Vaswani et al., *Attention Is All You Need*, NeurIPS 2017, with the norms before the layers; the
    embedding of two coordinates: Parmar et al., *Image Transformer*, ICML 2018.

    Args:
        channels: of the map.
        cells: its width and height.
    """

    def __init__(self, channels: int, cells: int):
        super().__init__()
        self.tokens = nn.Conv2d(channels, _TOKEN_WIDTH, 1)
        self.layer = nn.TransformerEncoderLayer(
            _TOKEN_WIDTH,
            _TOKEN_HEADS,
            2 * _TOKEN_WIDTH,
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.norm = nn.LayerNorm(_TOKEN_WIDTH)
        self.register_buffer("places", positional_embedding(_TOKEN_WIDTH, cells), persistent=False)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, channels, cells, cells) to (B, 256)."""
        tokens = (self.tokens(features) + self.places).flatten(2).mT
        return self.norm(self.layer(tokens)).mean(dim=1)


def positional_embedding(width: int, cells: int) -> torch.Tensor:
    """(width, cells, cells): sines and cosines of the row, then of the column, at geometric frequencies."""
    quarter = width // 4
    frequencies = torch.exp(-math.log(1000.0) * torch.arange(quarter) / quarter)
    angles = frequencies[:, None] * torch.arange(cells)
    waves = torch.cat([angles.sin(), angles.cos()])
    rows = waves[:, :, None].expand(-1, -1, cells)
    columns = waves[:, None, :].expand(-1, cells, -1)
    return torch.cat([rows, columns])


def _light(in_channels: int) -> nn.Sequential:
    """A residual network, most of whose work is done on few pixels: sixteen of the image a feature."""
    first = _LIGHT_WIDTHS[0]
    layers: list[nn.Module] = [
        nn.Conv2d(in_channels, first, 5, 2, 2, bias=False),
        nn.BatchNorm2d(first),
        nn.ReLU(inplace=True),
    ]
    for before, width in pairwise(_LIGHT_WIDTHS):
        layers.append(ResidualBlock(before, width, 2))
    return nn.Sequential(*layers, ResidualBlock(width, width))


def _flattened(channels: int, cells: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, _FLAT_CHANNELS, 1),
        nn.Flatten(),
        nn.Linear(_FLAT_CHANNELS * cells**2, _HIDDEN),
        nn.ReLU(inplace=True),
    )


def _decoder(channels: int, enlargement: int) -> nn.Sequential:
    """From features to an image so many times as wide, a factor of two and fewer channels at a time."""
    width = _DECODER_WIDTH
    layers: list[nn.Module] = [nn.Conv2d(channels, width, 1)]
    while enlargement > 1:
        narrower = max(16, width // 2)
        layers += [
            nn.Upsample(scale_factor=2),
            nn.Conv2d(width, narrower, 3, padding=1, bias=False),
            group_norm(narrower),
            nn.ReLU(inplace=True),
        ]
        width, enlargement = narrower, enlargement // 2
    return nn.Sequential(*layers, nn.Conv2d(width, 1, 3, padding=1))
