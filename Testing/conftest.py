"""Fixtures shared by all tests."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

# Small tensors: threads cost more than they bring, far more on a busy machine.
torch.set_num_threads(1)

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

# Of processes that share the tests between them: each holds up to 3 GB.
MOST_WORKERS = 4


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config) -> int:
    """A process a core for folders of tests; files that are named run in this process, which is there."""
    named = all(Path(argument.partition("::")[0]).suffix == ".py" for argument in config.args)
    return 0 if named else min(MOST_WORKERS, os.cpu_count() or 1)


def pytest_report_header() -> list[str]:
    """What cannot be tested here for want of a package or of the system libraries it needs."""
    lines = []
    for package, tests in (("slicer", "Testing/scene and Testing/gui"), ("PySide6.QtWidgets", "Testing/gui")):
        try:
            importlib.import_module(package)
        except ImportError as error:
            lines.append(f"left out: {tests}, {package} cannot be imported ({error})")
    return lines


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real sample data, which is not part of the repository."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the real sample data (../shared/data) is not beside this checkout")
    return SHARED_DATA


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory) -> Path:
    """A folder with the phantoms that networks are trained and validated on here, made once."""
    from SOPIRegistrationLib.training.patients import TRAINING_SEEDS, VALIDATION_SEEDS, Anatomy

    folder = tmp_path_factory.mktemp("training") / "phantoms"
    for seed in (TRAINING_SEEDS, VALIDATION_SEEDS):
        Anatomy.from_phantom(seed, folder)
    return folder


@pytest.fixture(scope="session")
def demo_case():
    """The demo case, made once."""
    from SOPIRegistrationLib.simulation.demo import demo_case

    return demo_case(1)


class DemoRun(NamedTuple):
    """What ``sopi demo`` left behind and printed."""

    folder: Path
    printed: str


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory) -> DemoRun:
    """``sopi demo`` in a process of its own, once; its files are not to be changed."""
    folder = tmp_path_factory.mktemp("cli") / "demo"
    command = [sys.executable, "-m", "SOPIRegistrationLib", "demo", "--out", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return DemoRun(folder, done.stdout)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20240610)
