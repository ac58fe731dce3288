"""Trained weights that are installed. Needs nothing beyond Python: asked before torch is installed."""

from __future__ import annotations

import os
from pathlib import Path

from SOPIRegistrationLib.errors import InputError

_PACKAGE = Path(__file__).resolve().parent
# In the package where it came as a wheel (setup.py), else beside it: in a checkout and in Slicer's folder of
# modules alike.
_IN_WHEEL = _PACKAGE / "Weights"
SHIPPED = _IN_WHEEL if _IN_WHEEL.is_dir() else _PACKAGE.parent / "Resources" / "Weights"
# Names a folder of other weights that are installed.
VARIABLE = "SOPI_WEIGHTS"
# Of the pose initialiser.
RTPI = "rtpi"
# Of a pose network for one patient: never installed, always a file of the user's own.
PATIENT = "patient"
# Of the learned fine registration.
IFR = "ifr"


def weights_folder() -> Path:
    """Where weights are installed: the folder that ``SOPI_WEIGHTS`` names, or the program's own."""
    return Path(os.environ.get(VARIABLE) or SHIPPED)


def has_weights(name: str) -> bool:
    """Whether weights of that name, such as ``rtpi``, are installed."""
    return _path(name).is_file()


def installed_weights(name: str) -> Path:
    """File of the weights of that name.

    Raises:
        InputError: there is none.
    """
    if not has_weights(name):
        known = ", ".join(sorted(found.stem for found in weights_folder().glob("*.safetensors"))) or "none"
        raise InputError(
            f"no weights '{name}' are installed (there are: {known}): give a file with --weights {name}=FILE"
        )
    return _path(name)


def _path(name: str) -> Path:
    return weights_folder() / f"{name}.safetensors"
