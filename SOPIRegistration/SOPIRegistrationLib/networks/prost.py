"""Encoders of the learned similarity before the SOPI paper's: ProST's end-to-end network ("Deep-reg").

Source: Gao et al., *Generalizing Spatial Transformers to Projective Geometry with Applications to 2D/3D
Registration*, MICCAI 2020. Its convolutions of the volume ahead of the projection are left out: the
projector has no derivative by the voxels.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn

from SOPIRegistrationLib.networks.blocks import NORMS, ResidualBottleneck
from SOPIRegistrationLib.networks.embedding import EmbeddingConfig, EmbeddingNetwork
from SOPIRegistrationLib.networks.weights import registered


@dataclass(frozen=True)
class ProstConfig(EmbeddingConfig):
    """Sizes of a :class:`ProstSimilarity`; the published ones unless given, which have no mask.

    Attributes:
        widths: channels of the stages that halve the resolution.
        out_channels: of the features.
    """

    pixels: int = 128
    widths: tuple[int, ...] = (16, 64, 128)
    out_channels: int = 64
    masked: bool = field(default=False, kw_only=True)

    @property
    def divisor(self) -> int:
        """Each stage halves the resolution."""
        return 2 ** len(self.widths)


# ProST's own, and one to compare with the light composite encoder on CPUs.
CONFIGURATIONS = {
    "deep-reg": ProstConfig(),
    "deep-reg-light": ProstConfig(
        64, (8, 32, 64), 32, norm="layer", image=True, reach=8.0, inference="least squares"
    ),
}


class ProstEncoder(nn.Module):
    """Stages of 3x3 convolution, residual bottleneck and max pooling; a 3x3 convolution ends them.

    Args:
        channels: of the image.
        config: sizes.
    """

    def __init__(self, channels: int, config: ProstConfig):
        super().__init__()
        layers: list[nn.Module] = []
        for width in config.widths:
            layers += [
                nn.Conv2d(channels, width, 3, padding=1),
                nn.ReLU(inplace=True),
                ResidualBottleneck(width, NORMS[config.norm]),
                nn.MaxPool2d(2),
            ]
            channels = width
        layers += [nn.Conv2d(channels, config.out_channels, 3, padding=1), nn.ReLU(inplace=True)]
        self.body = nn.Sequential(*layers)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(B, channels, N, N) to one map of N/8."""
        return (self.body(image),)


@registered("prost", ProstConfig)
class ProstSimilarity(EmbeddingNetwork):
    """ProST's learned similarity: two of its encoders, on the same channels as the SOPI paper's here."""

    def __init__(self, config: ProstConfig | None = None):
        config = config or ProstConfig()
        super().__init__(config, lambda channels: ProstEncoder(channels, config))
