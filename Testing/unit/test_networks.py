"""Network blocks against direct formulas; the published pose regression network and its inputs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.presets import find_preset
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.attenuation import MU_WATER
from SOPIRegistrationLib.networks.blocks import (
    ConvolutionBlock2d,
    ConvolutionBlock3d,
    ResidualBlock,
    SplitAttention,
    SplitAttentionBottleneck,
)
from SOPIRegistrationLib.networks.two_branch import (
    CONFIGURATIONS,
    TwoBranchConfig,
    TwoBranchRTPI,
    camera_parameters,
    nominal_cube,
)
from SOPIRegistrationLib.projector import ProjectorVolume, project
from SOPIRegistrationLib.training.pose_loss import theta_loss
from support.objects import GaussianBlobs, oblique_grid
from support.projections import SOD_MM, off_centre_camera
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

SMALL_PUBLISHED = replace(CONFIGURATIONS["published"], volume_size=32, xray_size=64)
SMALL_LIGHT = replace(CONFIGURATIONS["light"], volume_size=32)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def with_used_norms(module: nn.Module) -> nn.Module:
    """In evaluation mode, its norms as training might have left them."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.uniform_(-0.5, 0.5)
            layer.running_var.uniform_(0.5, 2)
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.uniform_(layer.bias, -0.5, 0.5)
    return module.eval()


def normalised(x: np.ndarray, norm: nn.BatchNorm2d) -> np.ndarray:
    mean, var, weight, bias = (
        value.detach().numpy()[:, None, None]
        for value in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    return (x - mean) / np.sqrt(var + norm.eps) * weight + bias


def convolved(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """3x3 correlation of (C, H, W) with (O, C, 3, 3), zeros around."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    return np.einsum("chwyx,ocyx->ohw", windows, kernel)


@pytest.mark.parametrize("radix", [2, 3])
def test_split_attention_is_its_formula(rng, radix):
    block = with_used_norms(SplitAttention(6, 5, radix=radix).double())
    image = rng.normal(size=(6, 7, 9))
    convolution, norm, _ = block.convolution
    kernels = convolution.weight.detach().numpy().reshape(radix, 5, 6 // radix, 3, 3)
    inputs = image.reshape(radix, 6 // radix, 7, 9)
    splits = np.concatenate([convolved(x, k) for x, k in zip(inputs, kernels, strict=True)])
    splits = np.maximum(normalised(splits, norm), 0).reshape(radix, 5, 7, 9)

    first, inner_norm, _, second = block.attention
    context = splits.sum(axis=0).mean(axis=(1, 2))
    hidden = (first.weight.detach().numpy()[:, :, 0, 0] @ context)[:, None, None]
    hidden = np.maximum(normalised(hidden, inner_norm), 0)[:, 0, 0]
    logits = second.weight.detach().numpy()[:, :, 0, 0] @ hidden + second.bias.detach().numpy()
    weights = np.exp(logits.reshape(radix, 5))
    weights /= weights.sum(axis=0)
    expected = (weights[:, :, None, None] * splits).sum(axis=0)

    result = block(torch.from_numpy(image)[None])[0].detach().numpy()
    assert np.ptp(weights) > 0.05
    np.testing.assert_allclose(result, expected, atol=1e-12)


@pytest.mark.parametrize("radix", [1, 4])
def test_split_attention_refuses_what_it_cannot_split(radix):
    with pytest.raises(ValueError, match="radix"):
        SplitAttention(6, 8, radix=radix)


@pytest.mark.parametrize("block", [ResidualBlock, SplitAttentionBottleneck])
@pytest.mark.parametrize(("channels", "stride"), [(8, 1), (16, 1), (8, 2)])
def test_residual_blocks_add_to_a_shortcut(block, channels, stride):
    module = with_used_norms(block(8, channels, stride))
    x = torch.randn(2, 8, 12, 10)
    assert module(x).shape == (2, channels, 12 // stride, 10 // stride)
    nn.init.zeros_(module.body[-1].weight)
    nn.init.zeros_(module.body[-1].bias)
    assert torch.equal(module(x), module.shortcut(x).relu())
    if (channels, stride) == (8, 1):
        assert torch.equal(module(x), x.relu())


def test_residual_block_with_split_attention():
    module = ResidualBlock(8, 12, 2, split_attention=True)
    assert any(isinstance(layer, SplitAttention) for layer in module.modules())
    assert module(torch.randn(2, 8, 12, 10)).shape == (2, 12, 6, 5)


def test_convolution_blocks_pool():
    assert ConvolutionBlock3d(1, 6)(torch.randn(1, 1, 8, 4, 6)).shape == (1, 6, 4, 2, 3)
    assert ConvolutionBlock3d(2, 6, pool=1)(torch.randn(1, 2, 8, 4, 6)).shape == (1, 6, 8, 4, 6)
    assert ConvolutionBlock2d(1, 6)(torch.randn(2, 1, 8, 4)).shape == (2, 6, 4, 2)


def test_the_3d_block_drops_out_in_training_only():
    block, x = ConvolutionBlock3d(1, 4, dropout=0.5), torch.randn(1, 1, 4, 4, 4)
    assert not torch.equal(block(x), block(x))
    block.eval()
    assert torch.equal(block(x), block(x))


def test_split_attention_bottleneck_differentiates_twice():
    """As training through the gradient of a similarity needs it."""
    block = with_used_norms(SplitAttentionBottleneck(2, 8, stride=2, inner_channels=2).double())
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    assert gradcheck(block, x)
    assert gradgradcheck(block, x)


def inputs_of(config: TwoBranchConfig, xrays: int, volumes: int = 1):
    xray = torch.rand(xrays, 1, config.xray_size, config.xray_size)
    volume = torch.rand(volumes, 1, *(config.volume_size,) * 3)
    return xray, volume, 0.3 * torch.randn(xrays, 5)


@pytest.mark.parametrize(
    "config",
    [
        SMALL_PUBLISHED,
        CONFIGURATIONS["light"],
        replace(CONFIGURATIONS["light"], xray_size=128),
        replace(SMALL_LIGHT, split_attention=False),
    ],
    ids=["published", "light", "light 128", "plain blocks"],
)
def test_gradients_reach_all_parameters(config):
    network = TwoBranchRTPI(config)
    xray, volume, camera = inputs_of(config, 2)
    theta = network(xray, network.encode_volume(volume), camera)
    assert theta.shape == (2, 6)
    (theta / network.theta_half_range).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


def test_published_network_in_full():
    """Also the sizes that the paper's reference describes: 128 x 64 x 64 maps, 1024 inputs of each head."""
    config = CONFIGURATIONS["published"]
    assert (config.volume_size, config.xray_size, config.map_size, config.volume_map_size) == (
        128,
        256,
        64,
        32,
    )
    network = TwoBranchRTPI(config).eval()
    xray, volume, camera = inputs_of(config, 1)
    with torch.no_grad():
        assert network.xray_branch(xray).shape == (1, 128, 64, 64)
        features = network.encode_volume(volume)
        assert features.shape == (1, 128, 64, 64)
        assert network(xray, features, camera).shape == (1, 6)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameter_counts():
    published = TwoBranchRTPI(CONFIGURATIONS["published"])
    head = (1024 + 5 + 1) * 512 + (512 + 1) * 128 + (128 + 1)
    assert [count(one) for one in published.heads] == [head] * 6
    norms = 2 * (1 + 2 * 64 + 2 * 128)
    assert count(published.volume_branch) == 27 * (1 + 64 + 64**2 + 64 * 128 + 128**2) + norms + 16 * 129
    assert count(published.merge_volume) == count(published.merge_xray) == 9 * 128 * 128
    assert 0.5e6 < count(TwoBranchRTPI(CONFIGURATIONS["light"])) < 1.2e6


def test_features_of_a_ct_serve_all_its_xrays():
    network = with_used_norms(TwoBranchRTPI(SMALL_LIGHT))
    xray, volume, camera = inputs_of(SMALL_LIGHT, 4)
    with torch.no_grad():
        features = network.encode_volume(volume)
        together = network(xray, features, camera)
        assert torch.equal(together, network(xray, volume, camera))
        for number in range(4):
            one = slice(number, number + 1)
            alone = network(xray[one], network.encode_volume(volume), camera[one])
            torch.testing.assert_close(alone, together[one], rtol=1e-4, atol=1e-4)
        shared_camera = network(xray, features, camera[:1])
        torch.testing.assert_close(shared_camera[0], together[0], rtol=1e-4, atol=1e-4)


def test_several_cts_have_consecutive_xrays():
    network = with_used_norms(TwoBranchRTPI(SMALL_LIGHT))
    xray, volume, camera = inputs_of(SMALL_LIGHT, 4, volumes=2)
    with torch.no_grad():
        together = network(xray, network.encode_volume(volume), camera)
        for ct in range(2):
            own = slice(2 * ct, 2 * ct + 2)
            alone = network(xray[own], network.encode_volume(volume[ct : ct + 1]), camera[own])
            torch.testing.assert_close(alone, together[own], rtol=1e-4, atol=1e-4)
            other = network(xray[own], network.encode_volume(volume[1 - ct : 2 - ct]), camera[own])
            assert (other - alone).abs().max() > 1e-3
    with pytest.raises(ValueError, match="4 X-rays cannot be shared out to 3 CTs"):
        network(xray, torch.zeros(3, 96, 16, 16), camera)


def test_merging_is_the_convolution_of_the_concatenated_maps():
    network = with_used_norms(TwoBranchRTPI(SMALL_PUBLISHED))
    xray, volume, _ = inputs_of(SMALL_PUBLISHED, 1)
    seen = []
    network.localisation.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    xray = (xray - xray.min()) / (xray.max() - xray.min())
    with torch.no_grad():
        network(xray, volume, torch.zeros(1, 5))
        block = network.volume_branch(volume)[0]
        # 2 x 2 pixels of the map come from four channels of (16 x 8) at the same place in the plane.
        flat = block.reshape(32, 2, 2, 8, 8).permute(0, 3, 1, 4, 2).reshape(1, 32, 16, 16)
        both = torch.cat([flat, network.xray_branch(xray)], dim=1)
        kernel = torch.cat([network.merge_volume.weight, network.merge_xray.weight], dim=1)
        expected = nn.functional.conv2d(both, kernel, padding=1)
    torch.testing.assert_close(seen[0], expected, rtol=1e-4, atol=1e-5)


def test_theta_stays_in_its_range():
    network = TwoBranchRTPI(SMALL_LIGHT)
    for head in network.heads:
        nn.init.normal_(head[-1].weight, std=50)
    theta = network(*inputs_of(SMALL_LIGHT, 8)).detach()
    half_range = torch.tensor(SMALL_LIGHT.theta_half_range)
    assert (theta.abs() <= half_range).all()
    assert ((theta.abs() / half_range).amax(dim=0) > 0.9).all()


def test_intensity_scale_makes_no_difference():
    network = with_used_norms(TwoBranchRTPI(SMALL_LIGHT))
    xray, volume, camera = inputs_of(SMALL_LIGHT, 2)
    with torch.no_grad():
        theta = network(xray, volume, camera)
        torch.testing.assert_close(network(7 * xray - 3, volume, camera), theta, rtol=1e-3, atol=1e-3)
        assert torch.isfinite(network(torch.full_like(xray, 2.0), volume, camera)).all()


def test_each_input_matters():
    network = with_used_norms(TwoBranchRTPI(SMALL_LIGHT))
    inputs = [x.requires_grad_() for x in inputs_of(SMALL_LIGHT, 2)]
    gradients = torch.autograd.grad(network(*inputs).square().sum(), inputs)
    assert all(gradient.abs().max() > 0 for gradient in gradients)
    assert (gradients[2].abs() > 0).all()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"volume_size": 96}, "multiple"),
        ({"xray_size": 250}, "multiple"),
        ({"volume_size": 130}, "whole"),
        ({"volume_size": 8, "volume_map_channels": 1}, "divisible"),
        ({"volume_pool": (2,)}, "volume_pool"),
        ({"theta_half_range": (1.0, 1.0, 1.0, 90.0, 60.0)}, "six numbers"),
        ({"theta_half_range": (1.0, 1.0, 0.0, 90.0, 60.0, 300.0)}, "above zero"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        replace(CONFIGURATIONS["published"], **wrong)


def test_camera_parameters():
    perlove = find_preset("Perlove PLX118F")
    usual = Camera.from_c_arm(perlove.sdd_mm, perlove.pixel_spacing_mm, perlove.width, perlove.height)
    assert camera_parameters(torch.from_numpy(usual.K)[None], usual.shape, 700.0).abs().max() < 1e-3

    camera = off_centre_camera()
    K = torch.from_numpy(np.stack([camera.K, camera.K]))
    parameters = camera_parameters(K, camera.shape, torch.tensor([700.0, 800.0]))
    assert parameters.dtype == torch.float32
    # Detector 130 x 120 mm.
    expected = [np.log(130 * 700 / 1011.7 / 141.4), np.log(120 * 700 / 1011.7 / 141.4), 0]
    expected += [0.43 - 0.5 + 0.5 / 61, 0.58 - 0.5 + 0.5 / 48]
    np.testing.assert_allclose(parameters[0], expected, atol=1e-6)
    np.testing.assert_allclose(parameters[1, :3] - parameters[0, :3], [np.log(8 / 7)] * 3, atol=1e-6)


def test_camera_parameters_survive_resampling():
    camera = off_centre_camera()
    smaller = camera.resampled(32, 20)
    both = [camera_parameters(torch.from_numpy(c.K)[None], c.shape, 700.0) for c in (camera, smaller)]
    torch.testing.assert_close(both[0], both[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("view", ["AP", "RLAT"])
def test_nominal_cube_lies_along_the_camera(view):
    """Against the object itself at the places where the cube's voxels must be."""
    grid = oblique_grid((1.0, 0.9, 1.1), (80, 70, 60))
    blobs = GaussianBlobs.asymmetric(grid)
    frame = PoseFrame(grid.centre_lps_mm + np.array([3.0, -2.0, 4.0]), SOD_MM, view)
    config = replace(SMALL_LIGHT, volume_edge_mm=48.0)
    cube = nominal_cube(blobs.sampled(grid), frame, config)
    z, y, x = (np.indices(cube.shape) - 15.5) * 1.5
    points = frame.centre_lps_mm + np.stack([x, y, z], axis=-1) @ frame.rotation
    expected = np.zeros(cube.shape)
    for centre, sigma, peak in zip(blobs.centres_lps_mm, blobs.sigmas_mm, blobs.peaks, strict=True):
        expected += peak * np.exp(-((points - centre) ** 2).sum(axis=-1) / (2 * sigma**2))
    assert cube.dtype == np.float32
    np.testing.assert_allclose(cube, expected / MU_WATER, atol=0.01 * expected.max() / MU_WATER)


def test_nominal_cube_averages_a_fine_ct(rng):
    """White noise of mean one: sampled points would keep its deviation, averages lose it."""
    grid = oblique_grid((0.5, 0.5, 0.5), (96, 96, 96))
    noise = grid.same_grid((MU_WATER * (1 + rng.normal(size=grid.array.shape))).astype(np.float32))
    config = replace(SMALL_LIGHT, volume_edge_mm=128.0)
    cube = nominal_cube(noise, PoseFrame(grid.centre_lps_mm, SOD_MM), config)
    middle = cube[13:19, 13:19, 13:19]
    assert middle.mean() == pytest.approx(1, abs=0.02)
    assert middle.std() < 0.1
    assert (cube[0] == 0).all()


@pytest.mark.slow
def test_light_network_learns_eight_pairs(rng):
    grid = oblique_grid((1.4, 2.0, 3.2), (48, 36, 22))
    volume = GaussianBlobs.asymmetric(grid).sampled(grid)
    frame = PoseFrame(grid.centre_lps_mm, SOD_MM)
    camera = Camera.from_c_arm(1011.7, (1.6, 1.6), 64, 64)
    half_range = torch.tensor(SMALL_LIGHT.theta_half_range)
    theta = rng.uniform(-0.25, 0.25, (8, 6)) * half_range.numpy()
    drrs = project(ProjectorVolume(volume), camera, frame.T_from_theta(theta))
    config = replace(SMALL_LIGHT, volume_edge_mm=64.0, dropout=0.0)
    network = TwoBranchRTPI(config)
    cube = torch.from_numpy(nominal_cube(volume, frame, config))[None, None]
    xrays, target = torch.from_numpy(drrs)[:, None], torch.from_numpy(theta).float()
    parameters = camera_parameters(torch.from_numpy(camera.K)[None], camera.shape, SOD_MM)
    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    losses = []
    for _ in range(35):
        loss = theta_loss(network(xrays, cube, parameters), target, half_range)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < 0.05 * losses[0]
