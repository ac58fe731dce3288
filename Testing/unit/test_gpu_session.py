"""The session on a GPU, dry: every step runs, on the CPU; what is done is not done again."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "studies" / "gpu_session.sh"
STEPS = ("tests", "projectors", "training", "train-rtpi", "train-ifr", "demo", "register")


def session(*options) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHON": sys.executable, "QT_QPA_PLATFORM": "offscreen"}
    return subprocess.run(
        ["bash", str(SCRIPT), *map(str, options)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )


def test_a_session_without_a_folder_is_refused():
    run = session("--dry-run")
    assert run.returncode == 2
    assert "give --out DIR" in run.stderr
    assert session("--out", "/tmp", "--bones").returncode == 2


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_step_runs_and_is_not_run_again(tmp_path):
    out, earlier = tmp_path / "out", tmp_path / "earlier"
    first = session("--out", out, "--dry-run")
    logs = "".join(f"{path.name}\n{path.read_text()}" for path in out.glob("*.log"))
    assert first.returncode == 0, first.stdout + first.stderr + logs
    assert all((out / f"{step}.done").exists() for step in STEPS)
    with (out / "projectors.csv").open() as file:
        rows = list(csv.DictReader(file))
    ours = [row for row in rows if row["renderer"] == "ours"]
    assert {(row["content"], row["pixels"]) for row in ours} == {
        (content, pixels) for content in ("body", "bone") for pixels in ("12", "16")
    }
    assert all(float(row["frames_per_second"]) > 0 for row in ours)
    with (out / "training.csv").open() as file:
        rates = {row["network"]: row for row in csv.DictReader(file)}
    assert set(rates) == {"RTPI", "IFR"}
    assert all(0 < float(row["rendering_share"]) < 1 for row in rates.values())

    # The trainings alone go on, and another folder begins with their checkpoints.
    written = (out / "projectors.csv").stat().st_mtime_ns
    again = session("--out", out, "--dry-run")
    assert again.returncode == 0
    assert again.stdout.count("done before") == len(STEPS) - 2
    assert (out / "projectors.csv").stat().st_mtime_ns == written
    out.rename(earlier)
    (out / "demo").mkdir(parents=True)
    for step in set(STEPS) - {"train-rtpi", "train-ifr"}:
        (out / f"{step}.done").touch()
    third = session("--out", out, "--dry-run", "--checkpoints", earlier, "--parts", "1")
    assert third.returncode == 0, third.stdout + third.stderr
    assert "step 2" in (out / "train-rtpi.log").read_text() + (out / "rtpi" / "log.csv").read_text()
    parts = sorted((out / "rtpi").glob("last.pt.*"))
    assert len(parts) > 1
    joined = b"".join(part.read_bytes() for part in parts)
    assert len(joined) == (earlier / "rtpi" / "last.pt").stat().st_size
