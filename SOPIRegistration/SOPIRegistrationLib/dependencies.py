"""Python packages that 3D Slicer does not bring: what is missing, and one question before installing it."""

from __future__ import annotations

from collections.abc import Callable
from importlib import invalidate_caches
from importlib.util import find_spec
from pathlib import Path

from SOPIRegistrationLib.errors import InputError

# Size of the wheels with what they depend on, MB (PyPI, Python 3.12, CPU build of torch).
_SIZES_MB = {"array-api-compat": 0.1, "cma": 0.3, "numba": 60, "torch": 200}
_MODULES = {"array-api-compat": "array_api_compat"}


class Dependencies:
    """The packages of a requirements file, installed when the user agrees.

    Args:
        requirements: path of the requirements file.
        install: called with a list of requirements; raises where installing fails.
        confirm: called with a question, answers whether the user agrees.
        is_installed: whether a module can be imported.
    """

    def __init__(
        self,
        requirements: str | Path,
        install: Callable[[list[str]], None],
        confirm: Callable[[str], bool],
        is_installed: Callable[[str], bool] = lambda module: find_spec(module) is not None,
    ):
        lines = Path(requirements).read_text(encoding="utf-8").splitlines()
        self._requirements = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        self._install = install
        self._confirm = confirm
        self._is_installed = is_installed

    def missing(self) -> list[str]:
        """Requirements whose package cannot be imported."""
        return [
            requirement
            for requirement in self._requirements
            if not self._is_installed(_MODULES.get(_package(requirement), _package(requirement)))
        ]

    def summary(self) -> str:
        """The missing packages and what they amount to, for a person; empty where nothing is missing."""
        names = [_package(requirement) for requirement in self.missing()]
        size = sum(_SIZES_MB.get(name, 0) for name in names)
        return f"{', '.join(names)} (about {max(size, 1):.0f} MB)" if names else ""

    def ensure(self) -> bool:
        """Install what is missing after asking once; False if the user declines.

        Raises:
            InputError: the packages could not be installed, with what to do about it.
        """
        missing = self.missing()
        if not missing:
            return True
        if not self._confirm(f"Registration needs {self.summary()}. Download and install now?"):
            return False
        try:
            self._install(missing)
        except Exception as error:
            raise InputError(
                f"{', '.join(missing)} could not be installed ({error}): check the network or proxy and try "
                f"again, or run PythonSlicer -m pip install {' '.join(missing)} where there is a network"
            ) from error
        invalidate_caches()
        if still := self.missing():
            raise InputError(
                f"{', '.join(still)} cannot be imported after installing: restart Slicer and try again"
            )
        return True


def ensure_torch(
    torch_utils, install: Callable[[list[str]], None], confirm: Callable[[str], bool], is_installed=find_spec
) -> bool:
    """PyTorch, which network methods need; False if the user declines.

    Args:
        torch_utils: logic of the PyTorch extension, which chooses the build for the graphics driver; None
            where the extension is not installed.
        install: as of :class:`Dependencies`.
        confirm: as of :class:`Dependencies`.
        is_installed: whether a module can be imported.

    Raises:
        InputError: it could not be installed.
    """
    if is_installed("torch"):
        return True
    try:
        if torch_utils is not None:
            return torch_utils.installTorch(askConfirmation=True) is not None
        size = _SIZES_MB["torch"]
        question = (
            f"Network methods need PyTorch (about {size} MB, several GB with CUDA). Install it with pip now? "
            "The PyTorch extension would choose the build for this computer's graphics card."
        )
        if not confirm(question):
            return False
        install(["torch"])
    except Exception as error:
        raise InputError(
            f"PyTorch could not be installed ({error}): check the network, or install the PyTorch extension"
        ) from error
    return True


def _package(requirement: str) -> str:
    for separator in "<>=!~;[ ":
        requirement = requirement.partition(separator)[0]
    return requirement
