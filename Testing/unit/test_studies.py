"""Scripts that measure keep up with what they measure."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

STUDIES = Path(__file__).resolve().parents[1] / "studies"


@pytest.mark.slow
def test_start_up_is_measured_step_by_step():
    command = [sys.executable, str(STUDIES / "measure_start_up.py"), "--repeats", "1"]
    table = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    head, _, *rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("|")]
    assert [row[0] for row in rows] == ["result.json", "search", "auto"]
    for row in rows:
        figures = dict(zip(head, row, strict=True))
        steps = [float(figures[name]) for name in ("imports", "reading", "preparing", "registering")]
        assert min(steps) > 0
        assert sum(steps) < float(figures["process"])
