"""The first script of Docs/slicer.md, run as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from SOPIRegistrationLib import write_geometry

PAGE = Path(__file__).resolve().parents[2] / "Docs" / "slicer.md"


@pytest.mark.slow
def test_the_script_registers(user, demo_case, tmp_path, monkeypatch, capsys):
    user.take_demo(demo_case)
    user.nodes.ct.SetName("CT")
    user.nodes.xray.SetName("X-ray")
    write_geometry(user.nodes.geometry, tmp_path / "geometry.json")
    monkeypatch.chdir(tmp_path)
    script = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[0]
    names: dict = {}
    exec(compile(script, "slicer.md", "exec", dont_inherit=True), names)
    assert capsys.readouterr().out.startswith("accept")
    assert np.abs(names["result"].T_lps_to_world - demo_case.T_true)[:3, 3].max() < 2
