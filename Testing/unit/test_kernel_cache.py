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

# In place of the projector, which takes seconds to compile.
KERNEL = """
from SOPIRegistrationLib.projector.kernel_cache import compiled

@compiled(fastmath=True)
def twice(number):
    return 2 * number
"""
RUN = """
import warnings
warnings.simplefilter("error")
import SOPIRegistrationLib
from SOPIRegistrationLib.kernel import twice
print(SOPIRegistrationLib.__file__, twice(21))
"""


def copied(folder: Path) -> Path:
    """A copy of the package in a folder, with a kernel that compiles at once."""
    source = Path(SOPIRegistrationLib.__file__).parent
    copy = folder / "installed" / source.name
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "kernel.py").write_text(KERNEL)
    return copy


@pytest.fixture
def package(tmp_path) -> Path:
    """A copy of the package into which nothing can be written, not even by root."""
    copy = copied(tmp_path)
    for folder in [copy, *copy.rglob("*/")]:
        (folder / "__pycache__").touch()
    for path in sorted(copy.rglob("*"), reverse=True):
        path.chmod(0o555 if path.is_dir() else 0o444)
    yield copy
    for folder in [copy, *copy.rglob("*/")]:
        folder.chmod(0o755)


def run(package: Path, temporary: Path) -> None:
    """Compile and run a kernel in a process whose home is no folder."""
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
    done = subprocess.run([sys.executable, "-c", RUN], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.split() == [str(package / "__init__.py"), "42"]


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
    copy = copied(tmp_path)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    run(copy, temporary)
    assert list(copy.rglob("*.nbc"))
    assert not list(temporary.glob("sopi-kernels-*"))
