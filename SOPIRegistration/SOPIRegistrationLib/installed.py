"""Trained weights that came with the module. Needs nothing beyond Python: asked before torch is installed."""

from __future__ import annotations

from pathlib import Path

from SOPIRegistrationLib.errors import InputError

_PACKAGE = Path(__file__).resolve().parent
# In the package where it came as a wheel (setup.py), else beside it: in a checkout and in Slicer's folder of
# modules alike.
_IN_WHEEL = _PACKAGE / "Weights"
WEIGHTS_FOLDER = _IN_WHEEL if _IN_WHEEL.is_dir() else _PACKAGE.parent / "Resources" / "Weights"
# Of the pose initialiser.
RTPI = "rtpi"
# Of a pose network for one patient: never installed, always a file of the user's own.
PATIENT = "patient"
# Of the learned fine registration.
IFR = "ifr"


def has_weights(name: str) -> bool:
    """Whether weights of that name, such as ``rtpi``, are installed."""
    return _path(name).is_file()


def installed_weights(name: str) -> Path:
    """File of the weights of that name.

    Raises:
        InputError: there is none.
    """
    if not has_weights(name):
        known = ", ".join(sorted(found.stem for found in WEIGHTS_FOLDER.glob("*.safetensors"))) or "none"
        raise InputError(
            f"no weights '{name}' are installed (there are: {known}): give a file with --weights {name}=FILE"
        )
    return _path(name)


def _path(name: str) -> Path:
    return WEIGHTS_FOLDER / f"{name}.safetensors"
