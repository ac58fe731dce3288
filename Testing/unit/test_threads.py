"""Threads of torch while networks are used."""

from __future__ import annotations

import pytest
import torch
from SOPIRegistrationLib.networks.threads import few_threads
from torch import nn


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("width", "threads"), [(10, 1), (2100, 2)])
def test_small_networks_have_one_thread(two_threads, width, threads):
    with few_threads(nn.Linear(width, width)):
        assert torch.get_num_threads() == threads
    assert torch.get_num_threads() == 2


def test_threads_come_back_after_an_error(two_threads):
    with pytest.raises(RuntimeError), few_threads(nn.Linear(1, 1)):
        raise RuntimeError
    assert torch.get_num_threads() == 2
