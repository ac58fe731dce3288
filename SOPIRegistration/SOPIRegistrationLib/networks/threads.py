"""Threads for networks in use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

# With fewer weights than this a layer's work is too small to be shared.
_SMALL = 4_000_000


@contextmanager
def few_threads(network: nn.Module) -> Iterator[None]:
    """Torch on one thread while a small network is used.

    Its layers are done in less time than it takes threads to meet; and where other programs keep the
    processors busy they wait for each other, longer than the work takes.
    """
    before = torch.get_num_threads()
    if sum(parameter.numel() for parameter in network.parameters()) < _SMALL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
