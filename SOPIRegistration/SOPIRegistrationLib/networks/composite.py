"""The composite encoder of the SOPI paper (section 2.3, Fig. 3), and the learned similarity made of two.

Cascade fusion: Zhang et al., *CFNet: Cascade Fusion Network for Dense Prediction*, arXiv 2302.06052 (2023).
Composite connections: Liu et al., *CBNet*, AAAI 2020. Focal block: after CFNet. Split attention: see
:mod:`.blocks`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import interpolate

from SOPIRegistrationLib.networks.blocks import NORMS, Norm, SplitAttentionBottleneck
from SOPIRegistrationLib.networks.embedding import EmbeddingConfig, EmbeddingNetwork
from SOPIRegistrationLib.networks.weights import registered


@dataclass(frozen=True)
class CompositeConfig(EmbeddingConfig):
    """Sizes of a :class:`CompositeSimilarity`; the published ones unless given.

    Attributes:
        stem_channels: of the stem's convolutions.
        stem_strides: theirs.
        block_channels: of the convolution block behind the stem.
        widths: c3, c4, c5 of the cascade fusion blocks.
        assistant_blocks: cascade fusion blocks of the assistant branch.
        leader_blocks: of the leader branch.
        focal_expansion: by how much the focal block is wider inside.
        embedding_channels: to which every scale is brought at the end; None leaves them as they are.
        fine: whether there is another scale, with the resolution of the convolution block.
    """

    pixels: int = 256
    stem_channels: tuple[int, ...] = (4, 16)
    stem_strides: tuple[int, ...] = (2, 2)
    block_channels: int = 64
    widths: tuple[int, int, int] = (64, 128, 256)
    assistant_blocks: int = 2
    leader_blocks: int = 2
    focal_expansion: int = 4
    embedding_channels: int | None = None
    fine: bool = False

    def __post_init__(self):
        super().__post_init__()
        if len(self.stem_channels) != len(self.stem_strides):
            raise ValueError("the stem needs as many strides as channels")

    @property
    def divisor(self) -> int:
        """The deepest maps of a cascade fusion block are four times coarser than its input."""
        return 8 * math.prod(self.stem_strides)


CONFIGURATIONS = {
    "published": CompositeConfig(),
    "light": CompositeConfig(
        pixels=64,
        stem_channels=(8, 16),
        block_channels=32,
        widths=(32, 48, 64),
        assistant_blocks=1,
        leader_blocks=1,
        focal_expansion=2,
        embedding_channels=16,
        fine=True,
        norm="layer",
        masked=False,
        image=True,
        reach=8.0,
        near_pixels=128,
        inference="least squares",
    ),
}


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of every pixel."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) to the same."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class FocalBlock(nn.Module):
    """A wide view for few operations: two depthwise 7x7 convolutions, one dilated, then a 1x1 pair.

    Each depthwise convolution has layer norm, GELU and a shortcut; the pair widens, GELU, narrows, and has a
    shortcut too.

    Args:
        channels: n, of input and output.
        expansion: the pair is this many times wider inside.
        dilation: of the second depthwise convolution.
    """

    def __init__(self, channels: int, expansion: int = 4, dilation: int = 2):
        super().__init__()

        def depthwise(spread: int) -> nn.Module:
            kernel = nn.Conv2d(
                channels, channels, 7, padding=3 * spread, dilation=spread, groups=channels, bias=False
            )
            return nn.Sequential(kernel, ChannelNorm(channels), nn.GELU())

        self.near, self.far = depthwise(1), depthwise(dilation)
        self.mix = nn.Sequential(
            nn.Conv2d(channels, expansion * channels, 1),
            nn.GELU(),
            nn.Conv2d(expansion * channels, channels, 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, n, H, W) to the same."""
        x = x + self.near(x)
        x = x + self.far(x)
        return x + self.mix(x)


class CascadeFusionBlock(nn.Module):
    """Three scales, each half the one before, and the deep ones added back into the shallow ones in turn.

    Args:
        widths: channels of the scales.
        focal_expansion: of the focal block that ends the deepest scale.
        norm: makes the norm of so many channels.
    """

    def __init__(self, widths: Sequence[int], focal_expansion: int = 4, norm: Norm = nn.BatchNorm2d):
        super().__init__()
        c3, c4, c5 = widths
        self.shallow = _bottleneck(c3, norm)
        self.middle = nn.Sequential(_halving(c3, c4, norm), _bottleneck(c4, norm))
        self.deep = nn.Sequential(_halving(c4, c5, norm), FocalBlock(c5, focal_expansion))
        self.deep_to_middle = nn.Conv2d(c5, c4, 1)
        self.middle_to_shallow = nn.Conv2d(c4, c3, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(B, c3, H, W) to maps of H, H/2, H/4."""
        shallow = self.shallow(x)
        middle = self.middle(shallow)
        deep = self.deep(middle)
        middle = middle + _enlarged(self.deep_to_middle(deep), middle)
        shallow = shallow + _enlarged(self.middle_to_shallow(middle), shallow)
        return shallow, middle, deep


class CompositeConnection(nn.Module):
    """Composite connection unit: 1x1 convolution and norm, enlarged to where it is added.

    Args:
        in_channels: of the assistant's map.
        out_channels: of the leader's input.
        norm: makes the norm of so many channels.
    """

    def __init__(self, in_channels: int, out_channels: int, norm: Norm = nn.BatchNorm2d):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, bias=False), norm(out_channels))

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """(B, in_channels, h, w) enlarged to the size of ``target``."""
        return _enlarged(self.body(x), target)


class CompositeEncoder(nn.Module):
    """Stem and convolution block, then an assistant branch whose maps are added to the leader's input.

    Args:
        channels: of the image.
        config: sizes.
    """

    def __init__(self, channels: int, config: CompositeConfig):
        super().__init__()
        norm = NORMS[config.norm]
        stem: list[nn.Module] = []
        for width, stride in zip(config.stem_channels, config.stem_strides, strict=True):
            stem += [nn.Conv2d(channels, width, 3, stride, padding=1), ChannelNorm(width), nn.GELU()]
            channels = width
        self.stem = nn.Sequential(*stem)
        c3 = config.widths[0]
        self.block = SplitAttentionBottleneck(
            channels, config.block_channels, inner_channels=config.block_channels // 2, norm=norm
        )
        self.halving = _halving(config.block_channels, c3, norm)

        def branch(count: int) -> nn.ModuleList:
            return nn.ModuleList(
                CascadeFusionBlock(config.widths, config.focal_expansion, norm) for _ in range(count)
            )

        self.assistant, self.leader = branch(config.assistant_blocks), branch(config.leader_blocks)
        self.connections = nn.ModuleList(CompositeConnection(width, c3, norm) for width in config.widths)
        outputs = [c3] * config.leader_blocks + [config.widths[1]]
        self.to_fine = None
        if config.fine:
            self.to_fine = nn.Conv2d(c3, config.block_channels, 1)
            outputs.insert(0, config.block_channels)
        self.ends = nn.ModuleList(
            nn.Conv2d(width, config.embedding_channels, 1) if config.embedding_channels else nn.Identity()
            for width in outputs
        )

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(B, channels, N, N) to the leader's maps.

        The shallow map of each of its blocks, then the middle one of its last (with the published sizes 1/8,
        1/8 and 1/16 of the image); before them the fine map if there is one.
        """
        local = self.block(self.stem(image))
        x = self.halving(local)
        assistant = x
        for block in self.assistant:
            maps = block(assistant)
            assistant = maps[0]
        for connection, deep in zip(self.connections, maps, strict=True):
            x = x + connection(deep, x)
        outputs = []
        for block in self.leader:
            x, middle, _ = block(x)
            outputs.append(x)
        outputs.append(middle)
        if self.to_fine is not None:
            outputs.insert(0, local + _enlarged(self.to_fine(x), local))
        return tuple(end(output) for end, output in zip(self.ends, outputs, strict=True))


@registered("composite", CompositeConfig)
class CompositeSimilarity(EmbeddingNetwork):
    """The learned similarity of the SOPI paper: two composite encoders.

    Unlike there the images have several channels (see :mod:`.image_channels`): an X-ray's intensity curve is
    not known, and its DRR does not have it.
    """

    def __init__(self, config: CompositeConfig | None = None):
        config = config or CompositeConfig()
        super().__init__(config, lambda channels: CompositeEncoder(channels, config))


def _bottleneck(channels: int, norm: Norm) -> SplitAttentionBottleneck:
    return SplitAttentionBottleneck(channels, channels, inner_channels=channels // 2, norm=norm)


def _halving(in_channels: int, out_channels: int, norm: Norm) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, 2, padding=1, bias=False), norm(out_channels), nn.GELU()
    )


def _enlarged(x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    size = target.shape[-2:]
    if x.shape[-2:] == size:
        return x
    return interpolate(x, size=size, mode="bilinear", align_corners=False)
