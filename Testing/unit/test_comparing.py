"""The comparing network: its corrections are poses, its inputs say what they should."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.volume import Volume
from SOPIRegistrationLib.networks.comparing import (
    ComparingConfig,
    ComparingRTPI,
    Drrs,
    camera_features,
    centre_in_camera,
    corrected,
    correction_between,
    drrs_to_compare,
    moving_channels,
)
from SOPIRegistrationLib.networks.image_channels import fixed_channels
from SOPIRegistrationLib.networks.weights import load_weights, save_weights
from SOPIRegistrationLib.projector import ProjectorVolume
from SOPIRegistrationLib.training.rtpi import correction_loss
from support.objects import GaussianBlobs

PIXELS = 24
SMALL = ComparingConfig(PIXELS, 8, 8, (16, 16), (1, 1), 16)
CAMERA = Camera.from_c_arm(1000.0, (6.0, 6.0), PIXELS, PIXELS, principal_point_px=(9.0, 13.0))
CENTRE = np.array([30.0, -80.0, 12.0])


def poses(count: int, seed: int = 0) -> torch.Tensor:
    """T_lps_to_camera about an oblique nominal view."""
    theta = np.random.default_rng(seed).normal(size=(count, 6)) * [0.15, 0.15, 0.15, 20, 20, 60]
    return torch.from_numpy(PoseFrame(CENTRE, 700.0, "LLAT").T_from_theta(theta))


def repeated(array: np.ndarray, count: int) -> torch.Tensor:
    return torch.from_numpy(array).expand(count, *array.shape)


def test_a_correction_leads_from_one_pose_to_the_other():
    a, b = poses(6, 1), poses(6, 2)
    K, centre = repeated(CAMERA.K, 6), repeated(CENTRE, 6)
    values = correction_between(a, b, K, centre, PIXELS)
    torch.testing.assert_close(corrected(a, values, K, centre, PIXELS), b, atol=1e-9, rtol=0)


def test_the_parts_of_a_correction():
    T, K, centre = poses(1), repeated(CAMERA.K, 1), repeated(CENTRE, 1)
    before = CAMERA.project(centre_in_camera(T, centre).numpy())

    shifted = corrected(T, torch.tensor([[0, 0, 0, 0.25, -0.125, 0]]), K, centre, PIXELS)
    after = CAMERA.project(centre_in_camera(shifted, centre).numpy())
    np.testing.assert_allclose(after - before, [[0.25 * PIXELS, -0.125 * PIXELS]], atol=1e-4)

    nearer = corrected(T, torch.tensor([[0, 0, 0, 0, 0, -0.2]]), K, centre, PIXELS)
    ratio = centre_in_camera(nearer, centre) / centre_in_camera(T, centre)
    np.testing.assert_allclose(ratio.numpy(), np.exp(-0.2), rtol=1e-6)

    turn = np.array([0.1, -0.3, 0.2])
    turned = corrected(T, torch.tensor([[*turn, 0, 0, 0]]), K, centre, PIXELS)
    np.testing.assert_allclose(turned[0, :3, :3], se3.exp_so3(turn) @ T[0, :3, :3].numpy(), atol=1e-6)
    np.testing.assert_allclose(centre_in_camera(turned, centre), centre_in_camera(T, centre), atol=1e-9)


def test_wild_corrections_keep_the_patient_before_the_source():
    T, K, centre = poses(1), repeated(CAMERA.K, 1), repeated(CENTRE, 1)
    wild = corrected(T, torch.full((1, 6), -50.0), K, centre, PIXELS)
    assert centre_in_camera(wild, centre)[0, 2] > 0.5 * centre_in_camera(T, centre)[0, 2]


def test_ranks_do_not_see_a_monotone_curve_nor_the_invalid():
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.random((2, PIXELS, PIXELS), dtype=np.float32))
    valid = torch.from_numpy(rng.random((2, PIXELS, PIXELS)) < 0.8)
    channels = fixed_channels(image, valid)
    curved = fixed_channels(torch.where(valid, torch.exp(3 * image), 1e3), valid)
    torch.testing.assert_close(channels[:, 1], curved[:, 1])
    assert not torch.allclose(channels[:, 0], curved[:, 0], atol=0.1)
    assert channels[0, 1][valid[0]].min() == -1
    assert channels[0, 1][valid[0]].max() == 1
    assert (channels[~valid[:, None].expand(-1, 4, -1, -1)] == 0).all()
    inside = channels[0, 0][valid[0]]
    assert inside.mean().abs() < 1e-5
    assert inside.square().mean() == pytest.approx(1, abs=1e-4)


def test_local_standardisation_against_its_definition():
    image = torch.rand(1, PIXELS, PIXELS, generator=torch.Generator().manual_seed(1))
    valid = torch.ones_like(image, dtype=torch.bool)
    valid[:, :, :4] = False
    found = fixed_channels(image, valid)[0, 2]
    scaled = ((image - image[valid].mean()) / image[valid].std(correction=0))[0]
    window = scaled[8:13, 4:8]  # five pixels about (10, 5), less the invalid column
    expected = (scaled[10, 5] - window.mean()) / (_spread(scaled, 10, 5) + 0.02)
    assert found[10, 5] == pytest.approx(float(expected), abs=1e-4)


def _spread(scaled: torch.Tensor, row: int, column: int) -> torch.Tensor:
    """Root mean square, over the window's valid pixels, of their distances from their own windows' means."""
    squares = []
    for v in range(row - 2, row + 3):
        for u in range(max(4, column - 2), column + 3):
            squares.append((scaled[v, u] - scaled[v - 2 : v + 3, max(4, u - 2) : u + 3].mean()) ** 2)
    return torch.stack(squares).mean().sqrt()


def test_equal_pixels_have_equal_ranks():
    image = torch.tensor([[[1.0, 1, 2], [2, 2, 5], [5, 5, 5]]])
    ranks = fixed_channels(image, torch.ones(1, 3, 3, dtype=torch.bool))[0, 1]
    expected = {1.0: 2 * 0.5 / 8 - 1, 2.0: 2 * 3 / 8 - 1, 5.0: 2 * 6.5 / 8 - 1}
    for value, rank in expected.items():
        np.testing.assert_allclose(ranks[image[0] == value], rank, atol=1e-6)


def test_the_correlation_finds_where_a_feature_went():
    network = ComparingRTPI(SMALL)
    cells, reach = SMALL.cells, SMALL.reach
    a = torch.randn(1, 32, cells, cells, generator=torch.Generator().manual_seed(3))
    b = torch.roll(a, (2, -1), dims=(2, 3))
    found = network.correlation(a, b).unflatten(1, (2 * reach + 1,) * 2)
    # What is at (v, u) of a is at (v + 2, u - 1) of b.
    torch.testing.assert_close(found[0, reach + 2, reach - 1, :-2, 1:], torch.ones(cells - 2, cells - 1))
    assert (found[0, 0, 0, 0] == 0).all()
    direct = torch.nn.functional.cosine_similarity(a[0, :, 3, 1], b[0, :, 2, 4], dim=0)
    torch.testing.assert_close(found[0, reach - 1, reach + 3, 3, 1], direct)


@pytest.mark.parametrize("split_attention", [False, True])
def test_an_untrained_network_leaves_the_pose_and_learns_in_all_its_weights(split_attention):
    torch.manual_seed(0)
    network = ComparingRTPI(ComparingConfig(PIXELS, 8, 8, (16, 16), (1, 1), 16, split_attention))
    body, image = torch.rand(4, PIXELS, PIXELS), torch.rand(4, PIXELS, PIXELS)
    fixed = fixed_channels(image, torch.ones_like(image, dtype=torch.bool))
    moving = moving_channels(Drrs(body, body, torch.rand(4, 4, PIXELS, PIXELS)))
    camera = camera_features(repeated(CAMERA.K, 4), poses(4), repeated(CENTRE, 4), PIXELS)
    correction = network(fixed, moving, camera)
    assert (correction.values == 0).all()
    assert (correction.deviation > 0.05).all()
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    for _ in range(2):  # the heads' last layers begin at zero: the first step moves only them
        optimizer.zero_grad()
        correction_loss(network(fixed, moving, camera), torch.ones(4, 6)).backward()
        optimizer.step()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in network.parameters())


def test_the_changes_are_those_of_corrections():
    """Against DRRs at poses corrected a little."""
    blobs = GaussianBlobs(
        np.array([[25.0, -70, 10], [40, -95, 20]]), np.array([9.0, 7]), np.array([0.02, 0.03])
    )
    index_to_lps = np.eye(4)
    index_to_lps[:3, 3] = [-20, -130, -38]
    grid = Volume(np.zeros((50, 50, 50), np.float32), index_to_lps @ np.diag([2.0, 2, 2, 1]))
    volume = ProjectorVolume(blobs.sampled(grid))
    T, K, centre = poses(1, 5), repeated(CAMERA.K, 1), repeated(CENTRE, 1)
    change = drrs_to_compare(volume, volume, CAMERA, T.numpy(), CENTRE).change[0]
    for channel, value in enumerate((0, 1, 2, 5)):
        step = torch.zeros(1, 6)
        step[0, value] = 5e-3
        ahead, behind = (
            drrs_to_compare(
                volume, volume, CAMERA, corrected(T, sign * step, K, centre, PIXELS).numpy(), CENTRE
            ).bone[0]
            for sign in (1, -1)
        )
        difference = (ahead - behind) / 1e-2
        assert difference.abs().max() > 0.05
        # Differences along the depth carry the noise of the samples that the derivative is free of.
        tolerance = (0.06 if value == 5 else 0.02) * float(difference.abs().max())
        torch.testing.assert_close(change[channel], difference, atol=tolerance, rtol=0)


def test_the_camera_is_the_same_for_a_resampled_image():
    T, centre = poses(1), repeated(CENTRE, 1)
    half = CAMERA.resampled(PIXELS // 2, PIXELS // 2)
    torch.testing.assert_close(
        camera_features(repeated(CAMERA.K, 1), T, centre, PIXELS),
        camera_features(repeated(half.K, 1), T, centre, PIXELS // 2),
    )


def test_weights_come_back(tmp_path):
    network = ComparingRTPI(SMALL).eval()
    card = dict.fromkeys(
        ("name", "intended_use", "limits", "data", "steps", "hours", "machine", "figures", "licence"), "x"
    )
    save_weights(tmp_path / "w.safetensors", network, card)
    again = load_weights(tmp_path / "w.safetensors").network
    assert again.config == SMALL
    inputs = torch.rand(1, 4, PIXELS, PIXELS), torch.rand(1, 7, PIXELS, PIXELS), torch.rand(1, 9)
    torch.testing.assert_close(again(*inputs).deviation, network(*inputs).deviation)


def test_pixels_that_do_not_fit():
    with pytest.raises(ValueError, match="multiple of four"):
        ComparingConfig(pixels=50)
