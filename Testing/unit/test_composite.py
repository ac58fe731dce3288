"""The composite encoder block by block, and the two encoders of a learned similarity."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from SOPIRegistrationLib.networks.blocks import ResidualBottleneck, layer_norm
from SOPIRegistrationLib.networks.composite import (
    CONFIGURATIONS,
    CascadeFusionBlock,
    ChannelNorm,
    CompositeConfig,
    CompositeConnection,
    CompositeEncoder,
    CompositeSimilarity,
    FocalBlock,
)
from SOPIRegistrationLib.networks.prost import ProstConfig, ProstEncoder, ProstSimilarity
from SOPIRegistrationLib.networks.weights import CARD_HEADINGS, load_weights, save_weights
from support.networks import COMPOSITE
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional as F


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def used(module: nn.Module) -> nn.Module:
    """In evaluation mode, its norms and biases as training might have left them."""
    for parameter in module.parameters():
        if parameter.ndim == 1:
            nn.init.uniform_(parameter, 0.5, 1.5)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.uniform_(-0.5, 0.5)
            layer.running_var.uniform_(0.5, 2)
    return module.eval()


def test_channel_norm_is_that_of_every_pixel():
    x = torch.randn(2, 5, 3, 4)
    norm = used(ChannelNorm(5))
    expected = (x - x.mean(dim=1, keepdim=True)) / (
        x.var(dim=1, keepdim=True, correction=0) + norm.eps
    ).sqrt()
    expected = expected * norm.weight[:, None, None] + norm.bias[:, None, None]
    torch.testing.assert_close(norm(x), expected)


def test_focal_block_is_as_described():
    block, x = used(FocalBlock(3, expansion=2, dilation=2)), torch.randn(2, 3, 11, 9)

    def depthwise(layers, x, dilation):
        kernel, norm, _ = layers
        channels = [
            F.conv2d(x[:, c : c + 1], kernel.weight[c : c + 1], padding=3 * dilation, dilation=dilation)
            for c in range(3)
        ]
        return F.gelu(norm(torch.cat(channels, dim=1)))

    y = x + depthwise(block.near, x, 1)
    y = y + depthwise(block.far, y, 2)
    widen, _, narrow = block.mix
    assert (widen.out_channels, narrow.out_channels) == (6, 3)
    wide = torch.einsum("ij,bjvu->bivu", widen.weight[:, :, 0, 0], y) + widen.bias[:, None, None]
    narrowed = torch.einsum("ij,bjvu->bivu", narrow.weight[:, :, 0, 0], F.gelu(wide))
    torch.testing.assert_close(block(x), y + narrowed + narrow.bias[:, None, None])


def test_cascade_fusion_adds_deep_into_shallow():
    block = used(CascadeFusionBlock((4, 8, 6), 2, layer_norm))
    x = torch.randn(2, 4, 16, 12)
    shallow, middle, deep = block(x)
    assert [tuple(m.shape[1:]) for m in (shallow, middle, deep)] == [(4, 16, 12), (8, 8, 6), (6, 4, 3)]
    own = block.shallow(x)
    own_middle = block.middle(own)
    torch.testing.assert_close(block.deep(own_middle), deep)

    def enlarged(m):
        return F.interpolate(m, scale_factor=2, mode="bilinear", align_corners=False)

    torch.testing.assert_close(middle, own_middle + enlarged(block.deep_to_middle(deep)))
    torch.testing.assert_close(shallow, own + enlarged(block.middle_to_shallow(middle)))


def test_a_connection_is_a_convolution_a_norm_and_an_enlargement():
    unit, x = used(CompositeConnection(6, 4)), torch.randn(1, 6, 3, 5)
    kernel, norm = unit.body
    y = norm(torch.einsum("ij,bjvu->bivu", kernel.weight[:, :, 0, 0], x))
    torch.testing.assert_close(unit(x, torch.empty(1, 4, 3, 5)), y)
    enlarged = unit(x, torch.empty(1, 4, 12, 20))
    torch.testing.assert_close(
        enlarged, F.interpolate(y, size=(12, 20), mode="bilinear", align_corners=False)
    )


def test_the_assistant_reaches_the_leader_through_the_connections_only():
    encoder, image = used(CompositeEncoder(3, COMPOSITE)), torch.randn(1, 3, 32, 32)
    before = encoder(image)
    for connection in encoder.connections:
        nn.init.zeros_(connection.body[1].weight)
        nn.init.zeros_(connection.body[1].bias)
    alone = encoder(image)
    for parameter in encoder.assistant.parameters():
        nn.init.uniform_(parameter)
    for old, one, other in zip(before, alone, encoder(image), strict=True):
        assert not torch.allclose(old, one, atol=1e-3)
        torch.testing.assert_close(one, other)


def test_the_published_scales():
    config = replace(CONFIGURATIONS["published"], pixels=64)
    assert config == CompositeConfig(pixels=64)
    maps = CompositeEncoder(3, config).eval()(torch.randn(1, 3, 64, 64))
    assert [tuple(m.shape[1:]) for m in maps] == [(64, 8, 8), (64, 8, 8), (128, 4, 4)]


def test_the_light_network_is_light():
    network = CompositeSimilarity(CONFIGURATIONS["light"])
    assert 0.3e6 < sum(p.numel() for p in network.parameters()) < 0.5e6
    maps = network.moving_encoder(torch.randn(1, 3, 64, 64))
    assert [tuple(m.shape[1:]) for m in maps] == [(16, 16, 16), (16, 8, 8), (16, 4, 4)]


def test_the_encoders_begin_alike_and_share_nothing():
    network = CompositeSimilarity(COMPOSITE)
    shared = torch.randn(2, 2, 32, 32)
    fixed, moving = torch.randn(2, 4, 32, 32), torch.randn(2, 3, 32, 32)
    fixed[:, [0, 2]] = moving[:, [0, 2]] = shared
    before = network.fixed_encoder(fixed)
    for a, b in zip(before, network.moving_encoder(moving), strict=True):
        torch.testing.assert_close(a, b)
    for parameter in network.moving_encoder.parameters():
        nn.init.uniform_(parameter)
    for a, b in zip(before, network.fixed_encoder(fixed), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: FocalBlock(2, 2), (1, 2, 3, 3)),
        (lambda: CascadeFusionBlock((4, 4, 2), 1, layer_norm), (1, 4, 4, 4)),
    ],
    ids=["focal", "cascade"],
)
def test_blocks_differentiate_twice(make, shape):
    """As training through the gradient of a similarity needs it."""
    block = used(make()).double()
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    assert gradcheck(block, x)
    assert gradgradcheck(block, x)


def test_every_weight_of_an_encoder_matters():
    for encoder in (CompositeEncoder(3, COMPOSITE), ProstEncoder(3, ProstConfig(16, (4, 6, 8), 4))):
        encoder.train()
        outputs = encoder(torch.randn(4, 3, encoder_pixels(encoder), encoder_pixels(encoder)))
        sum(m.square().sum() for m in outputs).backward()
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in encoder.parameters())


def encoder_pixels(encoder) -> int:
    return 32 if isinstance(encoder, CompositeEncoder) else 16


def test_the_encoder_of_prost():
    network = ProstSimilarity()
    [features] = network.fixed_encoder.eval()(torch.randn(1, 4, 128, 128))
    assert features.shape == (1, 64, 16, 16)
    assert sum(isinstance(layer, ResidualBottleneck) for layer in network.moving_encoder.modules()) == 3
    assert not network.config.masked


def test_residual_bottleneck_adds_to_its_input():
    block, x = used(ResidualBottleneck(5)), torch.randn(2, 5, 6, 4)
    nn.init.zeros_(block.body[-1].weight)
    nn.init.zeros_(block.body[-1].bias)
    torch.testing.assert_close(block(x), x.relu())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"norm": "group"}, "unknown norm 'group': use batch or layer"),
        ({"stem_strides": (2,)}, "as many strides as channels"),
        ({"pixels": 40}, "a multiple of 16, not 40"),
        ({"near_pixels": 72}, "a multiple of 16, not 72"),
    ],
)
def test_sizes_that_do_not_fit(wrong, message):
    with pytest.raises(ValueError, match=message):
        replace(COMPOSITE, **wrong)


def test_prost_sizes_that_do_not_fit():
    with pytest.raises(ValueError, match="a multiple of 8, not 100"):
        ProstConfig(pixels=100)
    with pytest.raises(ValueError, match="a multiple of 8, not 100"):
        ProstConfig(near_pixels=100)


@pytest.mark.parametrize(
    "network", [CompositeSimilarity(COMPOSITE), ProstSimilarity(ProstConfig(16, (4, 6), 4))]
)
def test_weights_come_back(network, tmp_path):
    save_weights(tmp_path / "w.safetensors", network, dict.fromkeys(("name", *CARD_HEADINGS), "x"))
    again = load_weights(tmp_path / "w.safetensors").network
    assert again.config == network.config
    image = torch.randn(1, 4, network.config.pixels, network.config.pixels)
    for a, b in zip(network.eval().fixed_encoder(image), again.fixed_encoder(image), strict=True):
        torch.testing.assert_close(a, b)
