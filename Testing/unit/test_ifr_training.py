"""Training of the fine registration: its losses, its starts, its command line."""

from __future__ import annotations

import argparse
import re
from itertools import pairwise

import numpy as np
import pytest
import torch
from SOPIRegistrationLib.cli import train_ifr
from SOPIRegistrationLib.cli.main import main
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.networks.composite import CONFIGURATIONS, CompositeSimilarity
from SOPIRegistrationLib.networks.prost import ProstConfig, ProstSimilarity
from SOPIRegistrationLib.networks.weights import load_weights
from SOPIRegistrationLib.training.ifr import (
    START_DEVIATION,
    EmbeddingTask,
    IFRLossWeights,
    direction_loss,
    distance_loss,
    geodesic_direction,
    rendered,
    step_loss,
)
from SOPIRegistrationLib.training.pairs import draw_pairs
from SOPIRegistrationLib.training.patients import PatientPool
from SOPIRegistrationLib.training.rtpi import Stopwatch
from SOPIRegistrationLib.training.settings import PairOptions, PatientMix
from support.networks import COMPOSITE

NEAR = (4.0, 4.0, 4.0, 6.0, 6.0, 20.0)


def pairs_of(phantoms, task, count: int = 6, deviation=NEAR):
    pool = PatientPool(1, 1, mix=PatientMix(bones=1.0), folder=phantoms)
    pool.fill()
    options = PairOptions(("AP",), 0.0, 0.0, start_deviation=deviation)
    return draw_pairs(pool.patients, count, task.pixels, options, np.random.default_rng(0))


def poses(count: int, seed: int) -> torch.Tensor:
    twists = np.random.default_rng(seed).normal(size=(count, 6)) * [0.4, 0.4, 0.4, 20, 20, 60]
    return torch.from_numpy(se3.exp_se3(twists))


def test_geodesic_direction_is_the_gradient_of_the_distance():
    """Of half its square: by turns about the rotation centre in camera axes, and by shifts."""
    T, T_true = poses(5, 0), poses(5, 1)
    centre = torch.randn(5, 3, dtype=torch.float64) * 50
    found = geodesic_direction(T, T_true, centre)

    def centred(T):
        return se3.rigid(T[:, :3, :3], (T[:, :3, :3] @ centre[..., None])[..., 0] + T[:, :3, 3])

    def half_square(x):
        start = centred(T)
        moved = se3.rigid(se3.exp_so3(x[:, :3]) @ start[:, :3, :3], start[:, :3, 3] + x[:, 3:])
        return se3.geodesic_distance(moved, centred(T_true)).square() / 2

    x = torch.zeros(5, 6, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(half_square(x).sum(), x)
    torch.testing.assert_close(found, expected)
    # Its norm is the distance: the direction leads home by the shortest way.
    torch.testing.assert_close(found.square().sum(dim=1) / 2, half_square(torch.zeros_like(x)))


def test_direction_is_that_of_geomstats():
    """The library that the paper takes the geodesic gradient from (2.8.0 needs an old numpy: its values).

    Logarithms in the body frame of ``SpecialEuclidean(n=3).metric.log(T_true, T)``.
    """
    T, T_true = (
        torch.from_numpy(se3.exp_se3(np.array(twists)))
        for twists in (
            [[0.3, -0.2, 0.4, 10, -5, 600], [1.1, 0.5, -0.8, -30, 20, 90]],
            [[-0.4, 0.6, 0.1, 25, 12, 540], [-0.2, 0.9, 0.7, 5, -15, 60]],
        )
    )
    logarithm = [
        [
            -0.556101188575,
            0.886150944407,
            -0.340222130124,
            240.932345281466,
            80.91297785725,
            -195.124179474023,
        ],
        [-1.707888852315, 0.611290046596, 0.751933462171, 46.726331306534, 15.813031788071, -38.006994097533],
    ]
    found = geodesic_direction(T, T_true, torch.zeros(2, 3).double())
    in_body = (T[:, None, :3, :3].mT @ found.view(2, 2, 3, 1)).reshape(2, 6)
    np.testing.assert_allclose(-in_body, logarithm, atol=1e-9)


def test_direction_loss_is_eq_7():
    gradient, target = torch.randn(4, 6), torch.randn(4, 6)

    def unit(x):
        return x / x.norm(dim=1, keepdim=True)

    parts = [(unit(gradient[:, p]) - unit(target[:, p])).norm(dim=1) for p in (slice(3), slice(3, 6))]
    torch.testing.assert_close(direction_loss(gradient, target), sum(parts).mean())
    lengths = torch.tensor([2.0, 2, 2, 7, 7, 7])
    assert direction_loss(target * lengths, target) == pytest.approx(0, abs=1e-3)
    assert direction_loss(-target * lengths, target) == pytest.approx(4)
    flat = torch.zeros(1, 6, requires_grad=True)
    direction_loss(flat, target[:1]).backward()
    assert torch.isfinite(flat.grad).all()


def test_step_loss_grows_with_the_miss_and_sees_shares():
    target = torch.tensor([[5.0, -3, 1, 10, 4, -2], [0.5, -0.3, 0.1, 1, 0.4, -0.2]])
    losses = [step_loss(target * (1 + share), target).item() for share in (0, 0.1, 0.5, 2)]
    assert losses[0] == 0
    assert losses == sorted(losses)
    near, far = (step_loss(1.5 * target[n : n + 1], target[n : n + 1]) for n in (1, 0))
    assert 0.5 < near / far < 1
    # A lost start counts, but not without bound.
    wild = step_loss(1e4 * target, target)
    assert losses[-1] < wild < 10


def test_distance_loss_is_least_where_the_error_is_the_distance():
    distance = torch.tensor([3.0, 10.0])
    assert distance_loss(distance, distance) < 0.01
    assert distance_loss(2 * distance, distance) == pytest.approx(np.log(2), abs=0.01)
    assert distance_loss(distance / 2, distance) == pytest.approx(np.log(2), abs=0.01)
    near = torch.tensor([0.5])
    assert distance_loss(near, torch.zeros(1)) == 0


def test_starts_lie_about_the_true_pose_at_all_distances(phantoms):
    task = EmbeddingTask(CompositeSimilarity, COMPOSITE)
    pairs = pairs_of(phantoms, task, 200, START_DEVIATION)
    twists = se3.twist_about(pairs.T_start, pairs.T_true, pairs.centre_lps_mm).numpy()
    angle = np.rad2deg(np.linalg.norm(twists[:, :3], axis=1))
    depth, in_plane = np.abs(twists[:, 5]), np.linalg.norm(twists[:, 3:5], axis=1)
    for values, typical in ((angle, 26), (in_plane, 42), (depth, 60)):
        low, high = np.percentile(values, [10, 90])
        assert low < 0.1 * typical
        assert 0.25 * typical < high < 1.5 * typical


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "config", "weights"),
    [
        (CompositeSimilarity, COMPOSITE, IFRLossWeights(0.2, 1.0)),
        (ProstSimilarity, ProstConfig(32, (8, 12, 16), 12), IFRLossWeights(1.0, 0.0, 0.0, plain_mm=True)),
    ],
    ids=["both", "direction"],
)
def test_training_learns_from_its_pairs(phantoms, make, config, weights):
    task = EmbeddingTask(make, config, weights, corrections=1)
    pairs = pairs_of(phantoms, task)
    torch.manual_seed(0)
    network = task.network().train()
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    rendering, losses = Stopwatch(), []
    for _ in range(45):
        for loss in task.losses(network, pairs, rendering):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert np.mean(losses[-3:]) < 0.75 * np.mean(losses[:2])
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())
    assert rendering.seconds > 0
    T = task.poses(network.eval(), pairs)
    assert se3.rotation_distance(T[:, :3, :3], pairs.T_start[:, :3, :3]).min() > 1e-4
    R = T[:, :3, :3]
    torch.testing.assert_close(R @ R.mT, torch.eye(3).to(R).expand_as(R), atol=1e-6, rtol=0)


def test_a_pose_is_corrected_by_the_networks_own_step(phantoms):
    """Each correction sees DRRs at another pose, at first at the start."""
    task = EmbeddingTask(CompositeSimilarity, COMPOSITE, IFRLossWeights(0.0, 1.0, 0.0), corrections=3)
    pairs, seen = pairs_of(phantoms, task, 4), []
    torch.manual_seed(0)
    network = task.network()
    network.register_forward_hook(lambda _, given, __: seen.append(given[2].body))
    losses = list(task.losses(network, pairs, Stopwatch()))
    assert len(losses) == len(seen) == 3
    assert torch.equal(seen[0], rendered(pairs, pairs.T_start).body)
    for before, after in pairwise(seen):
        assert ((before - after).abs().amax(dim=(1, 2)) > 0).all()
        assert after.isfinite().all()


@pytest.mark.slow
def test_the_command_line_trains_and_leaves_weights(tmp_path, phantoms, capsys, monkeypatch):
    monkeypatch.setitem(CONFIGURATIONS, "light", COMPOSITE)
    (tmp_path / "phantoms").symlink_to(phantoms)
    words = (
        "--steps 2 --patients 1 --group 2 --pool 1 --phantoms 1 --validate-every 2 --validation-patients 1"
    )
    assert main(["train", "ifr", "--out", str(tmp_path), *words.split()]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert all(re.fullmatch(r"progress [01]\.\d{4} .+|wrote .+", line) for line in printed)
    network, card = load_weights(tmp_path / "ifr.safetensors")
    assert network.config == COMPOSITE
    assert card["name"] == "IFR learned similarity (light)"
    assert card["steps"] == 2
    other = [*words.split(), "--no-mask", "--start", str(tmp_path / "ifr.safetensors")]
    assert main(["train", "ifr", "--out", str(tmp_path / "other"), *other]) == 2
    assert "another network" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "name", "inference", "masked"),
    [
        ((), "ifr", "least squares", False),
        (("--mask", "--step", "0"), "ifr-masked", "descent", True),
        (("--network", "published", "--no-mask"), "ifr-no-mask", "descent", False),
        (("--network", "deep-reg-light"), "deep-reg", "least squares", False),
        (("--network", "published"), "ifr", "descent", True),
        (("--network", "deep-reg"), "deep-reg", "descent", False),
        (("--network", "deep-reg", "--step", "1"), "deep-reg", "least squares", False),
    ],
)
def test_what_is_trained_says_how_it_is_used(words, name, inference, masked):
    parser = argparse.ArgumentParser()
    train_ifr.add_arguments(parser)
    asked = train_ifr.asked_for(parser.parse_args(["--out", "folder", *words]))
    assert (asked.name, asked.task.config.inference, asked.task.config.masked) == (name, inference, masked)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--direction", "-1"), "--direction is -1: give 0 or more"),
        (("--distance", "-0.5"), "--distance is -0.5: give 0 or more"),
        (("--direction", "0", "--step", "0"), "both 0: give one of them a weight"),
        (("--corrections", "0"), "--corrections is 0: give 1 or more"),
        (("--bones", "2"), "--bones is 2: give 0 to 1"),
    ],
)
def test_options_that_make_no_sense(tmp_path, capsys, words, expected):
    assert main(["train", "ifr", "--out", str(tmp_path), *words]) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1
