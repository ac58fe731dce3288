"""Python packages that 3D Slicer does not bring: what is missing, and one question before installing it."""

from __future__ import annotations

from collections.abc import Callable
from importlib import invalidate_caches
from importlib.util import find_spec
from pathlib import Path

from SOPIRegistrationLib.errors import InputError

# Size of the wheels with what they depend on, MB (PyPI, Python 3.12, CPU build of torch).
_SIZES_MB = {"array-api-compat": 0.1, "cma": 0.3, "numba": 60, "safetensors": 0.5, "torch": 200}
_MODULES = {"array-api-compat": "array_api_compat"}


class Dependencies:
    """The packages of a requirements file, and PyTorch, installed when the user agrees.

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
                f"the packages {', '.join(missing)} could not be installed ({error}): check the network or "
                f"proxy and try again, or run PythonSlicer -m pip install {' '.join(missing)} where there is "
                "a network"
            ) from error
        invalidate_caches()
        if still := self.missing():
            raise InputError(
                f"the packages {', '.join(still)} cannot be imported after installing: restart Slicer and "
                "try again"
            )
        return True

    @property
    def has_torch(self) -> bool:
        """Whether PyTorch, which network methods need, can be imported."""
        return self._is_installed("torch")

    def ensure_torch(self, torch_utils=None) -> bool:
        """Install PyTorch after asking once; False if the user declines.

        Args:
            torch_utils: logic of the PyTorch extension, which chooses the build for the graphics driver; None
                where the extension is not installed.

        Raises:
            InputError: it could not be installed, with what to do about it.
        """
        if self.has_torch:
            return True
        way = "through the PyTorch extension" if torch_utils is not None else "with pip"
        question = (
            f"This method needs PyTorch: about {_SIZES_MB['torch']} MB to download, several GB with a build "
            f"for NVIDIA graphics cards. Download and install it {way} now?"
        )
        if torch_utils is None:
            question += " (The PyTorch extension would choose the build for this computer's graphics card.)"
        if not self._confirm(question):
            return False
        try:
            if torch_utils is not None:
                torch_utils.installTorch(askConfirmation=False)
            else:
                self._install(["torch"])
        except Exception as error:
            raise InputError(
                f"PyTorch could not be installed ({error}): check the network or proxy and try again, or "
                "install the PyTorch extension in the Extensions Manager"
            ) from error
        invalidate_caches()
        if not self.has_torch:
            raise InputError("PyTorch cannot be imported after installing: restart Slicer and try again")
        return True


def torch_utils():
    """Logic of the PyTorch extension of Slicer; None where it is not installed."""
    try:
        from PyTorchUtils import PyTorchUtilsLogic
    except ImportError:
        return None
    return PyTorchUtilsLogic()


def _package(requirement: str) -> str:
    for separator in "<>=!~;[ ":
        requirement = requirement.partition(separator)[0]
    return requirement
