"""Kernels compile and run wherever the package is installed and whoever runs it."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import SOPIRegistrationLib

PROJECT = """
import warnings
import numpy as np
import SOPIRegistrationLib
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.images.volume import Volume
from SOPIRegistrationLib.projector import ProjectorVolume, project
warnings.simplefilter("error")
pose = np.eye(4)
pose[2, 3] = 100
volume = ProjectorVolume(Volume(np.full((4, 4, 4), 0.5, np.float32), np.eye(4)), backend="fused_cpu")
image = project(volume, Camera.from_c_arm(200, (4.0, 4.0), 8, 8), pose)
print(SOPIRegistrationLib.__file__, float(image.max()) > 0)
"""


@pytest.fixture
def package(tmp_path) -> Path:
    """A copy of the package into which nothing can be written, not even by root."""
    source = Path(SOPIRegistrationLib.__file__).parent
    copy = tmp_path / "installed" / source.name
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for folder in [copy, *copy.rglob("*/")]:
        (folder / "__pycache__").touch()
    for path in sorted(copy.rglob("*"), reverse=True):
        path.chmod(0o555 if path.is_dir() else 0o444)
    yield copy
    for folder in [copy, *copy.rglob("*/")]:
        folder.chmod(0o755)


def run(package: Path, temporary: Path) -> None:
    """Project in a process whose home is no folder."""
    hidden = ("HOME", "USERPROFILE", "LOCALAPPDATA", "NUMBA_CACHE_DIR", "PYTHONPATH")
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("XDG_", *hidden))
    }
    environment |= {
        "HOME": os.devnull,
        "TMPDIR": str(temporary),
        "TEMP": str(temporary),
        "TMP": str(temporary),
        "PYTHONPATH": str(package.parent),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run([sys.executable, "-c", PROJECT], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.split() == [str(package / "__init__.py"), "True"]


def test_kernels_of_a_read_only_installation_are_kept_in_a_private_temporary_folder(package, tmp_path):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    run(package, temporary)
    (folder,) = temporary.glob("sopi-kernels-*")
    assert list(folder.rglob("*.nbc"))
    if os.name != "nt":
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_temporary_folder_that_others_can_write_to_is_not_used(package, tmp_path):
    if os.name == "nt":
        pytest.skip("temporary folders are each user's own")
    temporary = tmp_path / "temporary"
    folder = temporary / f"sopi-kernels-{os.getuid()}"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    run(package, temporary)
    assert not list(folder.iterdir())


def test_kernels_are_kept_beside_the_source_where_that_can_be_written(tmp_path):
    source = Path(SOPIRegistrationLib.__file__).parent
    copy = tmp_path / "installed" / source.name
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    run(copy, temporary)
    assert list(copy.rglob("*.nbc"))
    assert not list(temporary.glob("sopi-kernels-*"))
