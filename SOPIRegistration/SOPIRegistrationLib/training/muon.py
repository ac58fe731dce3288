"""The optimiser of the trainers: steps along orthogonalised momentum."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

# Quintic Newton-Schulz iteration that brings all singular values near one (Jordan et al. 2024).
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Muon for the kernels and matrices of a network, AdamW for everything else.

    Each matrix moves along the nearest orthogonal matrix to its momentum, so that every direction of it is
    learned at the same rate, however small its gradient is.
    Source: Jordan et al., *Muon: An optimizer for hidden layers in neural networks* (2024);
    ``torch.optim.Muon`` takes no convolutions.

    Args:
        network: whose parameters are moved.
        lr: step of kernels and matrices, in units of their spectral norm.
        momentum: of kernels and matrices.
        weight_decay: decoupled, of kernels and matrices.
        adam_share: learning rate of AdamW as a share of ``lr``.
        precision: in which matrices are made orthogonal; half the digits are enough.
    """

    def __init__(
        self,
        network: nn.Module,
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.01,
        adam_share: float = 0.075,
        precision: torch.dtype = torch.float32,
    ):
        self._precision = precision
        # The last layer's rows are six separate answers, and tiny ones: Adam suits them better.
        last = {id(p) for p in _last_layers(network)}
        matrices = [p for p in network.parameters() if p.ndim > 1 and id(p) not in last]
        others = [p for p in network.parameters() if p.ndim < 2 or id(p) in last]
        groups = [
            {"params": matrices, "orthogonal": True, "scale": 1.0},
            {"params": others, "orthogonal": False, "scale": adam_share},
        ]
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "betas": (0.9, 0.999)}
        super().__init__([group for group in groups if group["params"]], defaults)

    @torch.no_grad()
    def step(self, closure=None) -> None:
        """One step from the gradients."""
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            rate = group["lr"] * group["scale"]
            if group["orthogonal"]:
                self._step_matrices(parameters, group, rate)
            else:
                self._step_others(parameters, group, rate)

    def _step_matrices(self, parameters: Iterable[nn.Parameter], group: dict, rate: float) -> None:
        for p in parameters:
            state = self.state[p]
            if not state:
                state["momentum"] = torch.zeros_like(p)
            momentum = state["momentum"].lerp_(p.grad, 1 - group["momentum"])
            # Nesterov: the gradient once more on top of what has been gathered.
            gradient = p.grad.lerp(momentum, group["momentum"]).flatten(1)
            update = orthogonalised(gradient.to(self._precision)).to(p)
            rows, columns = update.shape
            p.mul_(1 - rate * group["weight_decay"])
            p.add_(update.view(p.shape), alpha=-rate * max(1.0, rows / columns) ** 0.5)

    def _step_others(self, parameters: Iterable[nn.Parameter], group: dict, rate: float) -> None:
        first, second = group["betas"]
        for p in parameters:
            state = self.state[p]
            if not state:
                state.update(count=0, mean=torch.zeros_like(p), square=torch.zeros_like(p))
            state["count"] += 1
            mean = state["mean"].lerp_(p.grad, 1 - first) / (1 - first ** state["count"])
            square = state["square"].lerp_(p.grad.square(), 1 - second) / (1 - second ** state["count"])
            p.add_(mean / (square.sqrt() + 1e-8), alpha=-rate)


def orthogonalised(matrix: torch.Tensor) -> torch.Tensor:
    """(m, n) the matrix with all its singular values brought near one (0.7 to 1.2)."""
    a, b, c = _NEWTON_SCHULZ
    x = matrix / (matrix.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    if tall:
        x = x.T
    for _ in range(_ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T.contiguous() if tall else x


def _last_layers(network: nn.Module) -> Iterable[nn.Parameter]:
    """Parameters of the network's heads, where it has some."""
    return network.heads.parameters() if hasattr(network, "heads") else ()
