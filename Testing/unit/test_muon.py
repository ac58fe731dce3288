"""The trainers' optimiser: what it does to matrices, to kernels and to everything else."""

from __future__ import annotations

import pytest
import torch
from SOPIRegistrationLib.training.muon import Muon, orthogonalised
from torch import nn


@pytest.mark.parametrize("shape", [(6, 40), (40, 6), (12, 12)])
def test_singular_values_come_near_one_and_directions_stay(shape):
    torch.manual_seed(0)
    matrix = torch.randn(shape) @ torch.diag(torch.logspace(-1, 0, shape[1]))
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    result = orthogonalised(matrix)
    values = torch.linalg.svdvals(result)
    assert values.min() > 0.3
    assert values.max() < 1.25
    nearest = u @ v
    assert (result * nearest).sum() / (result.norm() * nearest.norm()) > 0.95


def test_the_size_of_a_gradient_does_not_matter_to_a_matrix():
    steps = []
    for size in (1e-4, 1e2):
        layer = nn.Linear(4, 3, bias=False)
        with torch.no_grad():
            layer.weight.zero_()
        layer.weight.grad = size * torch.arange(12.0).view(3, 4)
        Muon(layer, lr=0.1).step()
        steps.append(layer.weight.detach().clone())
    torch.testing.assert_close(steps[0], steps[1], rtol=1e-3, atol=1e-4)
    assert 0.05 < torch.linalg.matrix_norm(steps[0], 2) < 0.13


def test_vectors_and_heads_are_adam_s():
    network = nn.ModuleDict({"body": nn.Conv2d(2, 3, 3), "heads": nn.Linear(3, 2)})
    network.heads = network["heads"]
    reference = [p.detach().clone().requires_grad_() for p in (network["body"].bias, network.heads.weight)]
    adam = torch.optim.Adam(reference, lr=0.003)
    muon = Muon(network, lr=0.03, adam_share=0.1)
    for _ in range(3):
        for p in network.parameters():
            p.grad = torch.sin(torch.arange(p.numel()) + p.detach().flatten()).view(p.shape)
        for p in reference:
            p.grad = torch.sin(torch.arange(p.numel()) + p.detach().flatten()).view(p.shape)
        muon.step()
        adam.step()
    torch.testing.assert_close(network["body"].bias, reference[0])
    torch.testing.assert_close(network.heads.weight, reference[1])


def test_it_learns_what_adam_finds_hard_and_goes_on_from_its_state():
    """A badly scaled linear regression; stopped and resumed half way, it ends in the same place."""
    torch.manual_seed(0)
    x = torch.randn(256, 16) * torch.logspace(-2, 0, 16)
    target = x @ torch.randn(16, 8)

    def run(optimizer, layer, steps):
        for _ in range(steps):
            optimizer.zero_grad()
            loss = (layer(x) - target).square().mean()
            loss.backward()
            optimizer.step()
        return float(loss)

    def layer():
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(16, 8))

    whole, parts = layer(), layer()
    loss = run(Muon(whole, 0.03), whole, 120)
    first = Muon(parts, 0.03)
    run(first, parts, 60)
    second = Muon(parts, 0.03)
    second.load_state_dict(first.state_dict())
    assert run(second, parts, 60) == pytest.approx(loss, rel=1e-6)
    adam = layer()
    assert loss < 0.5 * run(torch.optim.Adam(adam.parameters(), 0.003), adam, 120)
