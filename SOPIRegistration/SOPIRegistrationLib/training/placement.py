"""Where a training runs: one device by itself, or whatever Lightning Fabric spreads it over."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import nn

from SOPIRegistrationLib.training.precision import has_bfloat16


class Placement(Protocol):
    """What the training loop asks for; the methods are those of ``lightning_fabric.Fabric``."""

    device: torch.device
    global_rank: int
    world_size: int
    is_global_zero: bool
    is_half: bool

    def setup(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[Any, Any]:
        """Both where they run; ``module`` of the first is the network itself."""

    def backward(self, loss: torch.Tensor) -> None:
        """Gradients of a loss."""

    def clip_gradients(self, network, optimizer, max_norm: float) -> None:
        """Shorten the gradient."""

    def broadcast(self, value):
        """What the first process has."""


class OneDevice:
    """One device, one process, without Lightning Fabric.

    Args:
        device: where.
    """

    global_rank, world_size, is_global_zero = 0, 1, True

    def __init__(self, device: torch.device):
        self.device = device
        self.is_half = device.type == "cuda" or has_bfloat16()

    def setup(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[Any, Any]:
        """The network, its forward pass in half the digits where the device has them."""
        return _Autocast(network.to(self.device), self.device.type, self.is_half), optimizer

    def backward(self, loss: torch.Tensor) -> None:
        """Gradients of a loss."""
        loss.backward()

    def clip_gradients(self, network, optimizer, max_norm: float) -> None:
        """Shorten the gradient."""
        nn.utils.clip_grad_norm_(network.parameters(), max_norm)

    def broadcast(self, value):
        """There is one process only."""
        return value


class OnFabric:
    """Devices and processes of Lightning Fabric.

    Args:
        fabric: launched.
    """

    def __init__(self, fabric):
        self._fabric = fabric
        self.device, self.global_rank, self.world_size = fabric.device, fabric.global_rank, fabric.world_size
        self.is_global_zero = fabric.is_global_zero
        self.is_half = fabric.strategy.precision.precision == "bf16-mixed"
        self.setup, self.backward = fabric.setup, fabric.backward
        self.broadcast = fabric.broadcast

    def clip_gradients(self, network, optimizer, max_norm: float) -> None:
        """Shorten the gradient."""
        self._fabric.clip_gradients(network, optimizer, max_norm=max_norm)


class _Autocast(nn.Module):
    """A network whose forward pass has half the digits."""

    def __init__(self, module: nn.Module, device_type: str, half: bool):
        super().__init__()
        self.module = module
        self._device_type, self._half = device_type, half

    def forward(self, *inputs, **options):
        with torch.autocast(self._device_type, torch.bfloat16, enabled=self._half):
            return self.module(*inputs, **options)
