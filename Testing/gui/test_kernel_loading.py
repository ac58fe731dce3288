"""The first start on a computer: kernels are compiled while the panel opens, and the status bar says so."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

TESTING = Path(__file__).resolve().parents[1]
_FIRST_START = """
import sys
sys.path[:0] = {paths!r}
from measure_panel import open_panel
user = open_panel()
ticks = []
def ready():
    ticks.append(1)
    return len(user.host.status) > 1
assert user.host.process(240, until=ready), user.host.status
print(len(ticks), user.host.status)
from SOPIRegistrationLib.simulation.demo import demo_case
user.take_demo(demo_case(1))
user.show_views()
user.click("registerButton")
user.wait()
user.widget.cleanup()
"""


def test_loading_kernels_twice_is_nothing_new():
    from SOPIRegistrationLib.projector import load_kernels

    load_kernels()
    load_kernels()


def test_a_word_stands_in_the_status_bar_only_where_it_takes_long(host):
    from SOPIRegistrationLib.panel.kernel_loading import KernelLoading

    host.status.clear()
    quick = KernelLoading(load=lambda: None, told_after_s=3600.0)
    assert host.process(60, until=lambda: not quick.is_running)
    assert host.status == []
    compiled = threading.Event()
    slow = KernelLoading(load=compiled.wait, told_after_s=0.0)
    assert host.process(60, until=lambda: host.status)
    assert slow.is_running
    compiled.set()
    assert host.process(60, until=lambda: not slow.is_running)
    assert ["compiling" in host.status[0], "ready" in host.status[1]] == [True, True]


@pytest.mark.slow
def test_the_first_start_compiles_one_kernel_and_the_window_stays_alive(tmp_path):
    paths = [str(TESTING / name) for name in ("gui", "studies", "")]
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "QT_QPA_PLATFORM": "offscreen"}
    done = subprocess.run(
        [sys.executable, "-c", _FIRST_START.format(paths=paths)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    ticks, words = done.stdout.strip().splitlines()[0].split(" ", 1)
    assert int(ticks) > 30
    assert "compiling" in words
    assert "ready" in words
    # A registration needs no other one: each is a file of machine code.
    assert len(list(tmp_path.rglob("*.nbc"))) == 1
