"""EfficientNet-B0's feature extractor, on torch alone.

Source: Tan and Le, *EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks*, ICML 2019,
Table 1; its blocks: Sandler et al., *MobileNetV2*, CVPR 2018, with the squeeze-and-excitation of Hu et al.,
CVPR 2018. The classifier of the paper is left out.
"""

from __future__ import annotations

import torch
from torch import nn

STRIDE, CHANNELS = 32, 1280
_STEM_CHANNELS = 32
# Expansion, kernel, stride of the first block, channels, blocks.
_STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
_SQUEEZE = 4
_DROPPED_BLOCKS = 0.2


def efficientnet_b0(in_channels: int) -> nn.Sequential:
    """(B, in_channels, H, W) to (B, 1280, H/32, W/32)."""
    layers: list[nn.Module] = [_convolution(in_channels, _STEM_CHANNELS, 3, 2)]
    channels, done, total = _STEM_CHANNELS, 0, sum(stage[-1] for stage in _STAGES)
    for expansion, kernel, stride, width, count in _STAGES:
        for number in range(count):
            # Deeper blocks are left out more often, as the features they add to are less needed.
            dropped = _DROPPED_BLOCKS * done / total
            layers.append(
                InvertedBottleneck(channels, width, kernel, stride if number == 0 else 1, expansion, dropped)
            )
            channels, done = width, done + 1
    layers.append(_convolution(channels, CHANNELS, 1, 1))
    return nn.Sequential(*layers)


class InvertedBottleneck(nn.Module):
    """MBConv: 1x1 to more channels, depthwise, squeeze and excitation, 1x1 back; a shortcut where it fits.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        kernel: edge of the depthwise convolution.
        stride: of the depthwise convolution.
        expansion: how many times as many channels it has.
        dropped: probability that training leaves out what the block adds for an image (stochastic depth).
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int, expansion: int, dropped: float
    ):
        super().__init__()
        inner = in_channels * expansion
        layers: list[nn.Module] = []
        if expansion > 1:
            layers.append(_convolution(in_channels, inner, 1, 1))
        layers += [
            _convolution(inner, inner, kernel, stride, groups=inner),
            _SqueezeExcitation(inner, in_channels // _SQUEEZE),
            nn.Conv2d(inner, out_channels, 1, bias=False),
            _norm(out_channels),
        ]
        self.body = nn.Sequential(*layers)
        self.has_shortcut = stride == 1 and in_channels == out_channels
        self.dropped = dropped

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, in_channels, H, W) to (B, out_channels, H/stride, W/stride)."""
        out = self.body(x)
        if not self.has_shortcut:
            return out
        if self.training and self.dropped:
            kept = torch.rand(len(x), 1, 1, 1, device=x.device) >= self.dropped
            out = out * kept / (1 - self.dropped)
        return x + out


class _SqueezeExcitation(nn.Module):
    def __init__(self, channels: int, squeezed: int):
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, squeezed, 1),
            nn.SiLU(inplace=True),
            nn.Conv2d(squeezed, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gate(x)


def _convolution(in_channels: int, out_channels: int, kernel: int, stride: int, groups: int = 1):
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False),
        _norm(out_channels),
        nn.SiLU(inplace=True),
    )


def _norm(channels: int) -> nn.BatchNorm2d:
    """With the published epsilon, but statistics of the last steps: trainings here are short."""
    return nn.BatchNorm2d(channels, eps=1e-3)
