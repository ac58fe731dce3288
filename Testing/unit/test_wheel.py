"""The wheel: complete, and at work without the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from SOPIRegistrationLib import __version__

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [
    "pyproject.toml",
    "setup.py",
    "MANIFEST.in",
    "README.md",
    "LICENSE",
    "CHANGELOG.md",
    "CITATION.cff",
]
BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A folder with the wheel's content, built from a copy of the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    checkout = folder / "checkout"
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "SOPIRegistration", checkout / "SOPIRegistration", ignore=ignored)
    for name in SOURCES:
        shutil.copy(ROOT / name, checkout)
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(folder)], cwd=checkout, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    assert wheel.name.split("-")[1] == __version__
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_the_wheel_holds_every_module_and_table(site):
    package = ROOT / "SOPIRegistration" / "SOPIRegistrationLib"
    expected = {
        path.relative_to(package) for suffix in ("py", "csv") for path in package.rglob(f"*.{suffix}")
    }
    installed = site / "SOPIRegistrationLib"
    assert expected <= {path.relative_to(installed) for path in installed.rglob("*")}


def test_the_wheel_brings_the_weights_and_finds_them(site):
    weights = ROOT / "SOPIRegistration" / "Resources" / "Weights"
    program = (
        "from SOPIRegistrationLib.installed import SHIPPED, has_weights, installed_weights\n"
        "assert has_weights('rtpi') and has_weights('ifr')\n"
        "print(SHIPPED)"
    )
    done = run_in(site, "-c", program)
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.strip())
    assert folder.is_relative_to(site)
    for file in weights.iterdir():
        assert (folder / file.name).read_bytes() == file.read_bytes()


def test_the_wheel_s_command_tells_its_version(site):
    (metadata,) = site.glob("*.dist-info")
    entry_points = (metadata / "entry_points.txt").read_text()
    assert "sopi = SOPIRegistrationLib.cli.main:process" in entry_points
    done = run_in(site, "-m", "SOPIRegistrationLib", "--version")
    assert done.stdout.strip() == f"sopi {__version__}"


def run_in(site: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Python with the wheel's content before everything else, started away from the checkout."""
    environment = {**os.environ, "PYTHONPATH": str(site)}
    program = [sys.executable, *arguments]
    return subprocess.run(program, cwd=site, env=environment, capture_output=True, text=True)
