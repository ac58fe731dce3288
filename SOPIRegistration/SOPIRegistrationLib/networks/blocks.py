"""Building blocks of the networks: convolution, residual and split-attention blocks."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

Norm = Callable[[int], nn.Module]

# Of the layer between the two that make a split attention (ResNeSt): by how much it is narrower than the
# splits together, and its least width.
_REDUCTION, _LEAST_ATTENTION_WIDTH = 4, 32


def group_norm(channels: int) -> nn.GroupNorm:
    """Group normalisation with up to eight groups: the same in training and use, also for a batch of one."""
    return nn.GroupNorm(math.gcd(8, channels), channels)


def layer_norm(channels: int) -> nn.GroupNorm:
    """Normalisation over channels and pixels together; smaller groups of context values would be blown up."""
    return nn.GroupNorm(1, channels)


# By the names that configurations have for them; "layer" is the same in training and use.
NORMS: dict[str, Norm] = {"batch": nn.BatchNorm2d, "layer": layer_norm}


class ConvolutionBlock3d(nn.Module):
    """Two 3x3x3 convolutions, each with norm, ReLU and dropout, then average pooling.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        pool: edge of the pooled cubes; 1 keeps the resolution.
        dropout: probability.
    """

    def __init__(self, in_channels: int, out_channels: int, pool: int = 2, dropout: float = 0.2):
        super().__init__()
        layers: list[nn.Module] = []
        for channels in (in_channels, out_channels):
            layers += [
                nn.Conv3d(channels, out_channels, 3, padding=1, bias=False),
                # A batch is one CT or a few, too few for statistics over the batch.
                group_norm(out_channels),
                nn.ReLU(inplace=True),
                nn.Dropout(dropout),
            ]
        self.body = nn.Sequential(*layers, nn.AvgPool3d(pool))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, in_channels, D, H, W) to (B, out_channels, D/pool, H/pool, W/pool)."""
        return self.body(x)


class ConvolutionBlock2d(nn.Module):
    """Two 3x3 convolutions, each with norm and ReLU, then average pooling of squares of 2x2.

    Args:
        in_channels: of the input.
        out_channels: of the output.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        layers: list[nn.Module] = []
        for channels in (in_channels, out_channels):
            layers += [
                nn.Conv2d(channels, out_channels, 3, padding=1, bias=False),
                nn.BatchNorm2d(out_channels),
                nn.ReLU(inplace=True),
            ]
        self.body = nn.Sequential(*layers, nn.AvgPool2d(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, in_channels, H, W) to (B, out_channels, H/2, W/2)."""
        return self.body(x)


class SplitAttention(nn.Module):
    """3x3 convolution into ``radix`` splits that are added channel by channel with learned competing weights.

    Source: Zhang et al., *ResNeSt: Split-Attention Networks*, arXiv 2004.08955 (2020), section 3.1, one
    cardinal group. With U_r the splits and s the mean over the image of their sum,
    ``V_c = sum_r a_r,c(s) U_r,c``; the weights a come from s through two dense layers and a softmax over r.
    With a norm over the batch, training needs batches of two or more, since s has one value an image.

    Args:
        in_channels: of the input, a multiple of ``radix``.
        out_channels: of the output.
        stride: of the convolution.
        radix: number of splits, at least 2.
        norm: makes the norm of so many channels.

    Raises:
        ValueError: a radix below 2, or one that does not divide ``in_channels``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        radix: int = 2,
        norm: Norm = nn.BatchNorm2d,
    ):
        super().__init__()
        if radix < 2 or in_channels % radix:
            raise ValueError(f"a radix of {radix} must be at least 2 and divide {in_channels} input channels")
        self.radix = radix
        splits = radix * out_channels
        inner = max(splits // _REDUCTION, _LEAST_ATTENTION_WIDTH)
        self.convolution = nn.Sequential(
            nn.Conv2d(in_channels, splits, 3, stride, padding=1, groups=radix, bias=False),
            norm(splits),
            nn.ReLU(inplace=True),
        )
        self.attention = nn.Sequential(
            nn.Conv2d(out_channels, inner, 1, bias=False),
            norm(inner),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, splits, 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, in_channels, H, W) to (B, out_channels, H/stride, W/stride)."""
        splits = self.convolution(x).unflatten(1, (self.radix, -1))
        context = splits.sum(dim=1).mean(dim=(2, 3), keepdim=True)
        weights = self.attention(context).unflatten(1, (self.radix, -1)).softmax(dim=1)
        return (weights * splits).sum(dim=1)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut.

    Source: He et al., *Deep Residual Learning for Image Recognition*, CVPR 2016, Fig. 2.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        stride: of the first convolution and of the shortcut.
        split_attention: make the first convolution a :class:`SplitAttention`.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, split_attention: bool = False):
        super().__init__()
        if split_attention:
            first: list[nn.Module] = [SplitAttention(in_channels, out_channels, stride)]
        else:
            first = [
                nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False),
                nn.BatchNorm2d(out_channels),
                nn.ReLU(inplace=True),
            ]
        second = [
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
        ]
        self.body = nn.Sequential(*first, *second)
        self.shortcut = _shortcut(in_channels, out_channels, stride, nn.BatchNorm2d)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, in_channels, H, W) to (B, out_channels, H/stride, W/stride)."""
        return torch.relu(self.body(x) + self.shortcut(x))


class ResidualBottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution, all of the same width, beside a shortcut.

    Source: He et al. (see :class:`ResidualBlock`), Fig. 5, with an expansion of one.

    Args:
        channels: of input and output.
        norm: makes the norm of so many channels.
    """

    def __init__(self, channels: int, norm: Norm = nn.BatchNorm2d):
        super().__init__()
        layers: list[nn.Module] = []
        for size in (1, 3, 1):
            kernel = nn.Conv2d(channels, channels, size, padding=size // 2, bias=False)
            layers += [kernel, norm(channels), nn.ReLU(inplace=True)]
        self.body = nn.Sequential(*layers[:-1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, channels, H, W) to the same."""
        return torch.relu(self.body(x) + x)


class SplitAttentionBottleneck(nn.Module):
    """1x1 convolution to fewer channels, split attention, 1x1 convolution back, beside a shortcut.

    Source: Zhang et al. 2020 (see :class:`SplitAttention`), Fig. 2.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        stride: of the 3x3 convolution and of the shortcut.
        inner_channels: of the split attention; a quarter of ``out_channels`` unless given.
        norm: makes the norm of so many channels.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        inner_channels: int | None = None,
        norm: Norm = nn.BatchNorm2d,
    ):
        super().__init__()
        inner = inner_channels or out_channels // 4
        self.body = nn.Sequential(
            nn.Conv2d(in_channels, inner, 1, bias=False),
            norm(inner),
            nn.ReLU(inplace=True),
            SplitAttention(inner, inner, stride, norm=norm),
            nn.Conv2d(inner, out_channels, 1, bias=False),
            norm(out_channels),
        )
        self.shortcut = _shortcut(in_channels, out_channels, stride, norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, in_channels, H, W) to (B, out_channels, H/stride, W/stride)."""
        return torch.relu(self.body(x) + self.shortcut(x))


def _shortcut(in_channels: int, out_channels: int, stride: int, norm: Norm) -> nn.Module:
    if in_channels == out_channels and stride == 1:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), norm(out_channels))
