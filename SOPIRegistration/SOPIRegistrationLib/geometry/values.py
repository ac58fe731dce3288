"""Values of a geometry on their way into it: what they are, where from, and whether they can be used."""

from __future__ import annotations

from typing import Any

import numpy as np

from SOPIRegistrationLib.errors import InputError

# name of a value -> (the value, or the InputError that using it raises; where it came from)
Values = dict[str, tuple[Any, str]]

TOLERANCE_KEYS = {
    "sdd_mm": "sdd_tolerance_mm",
    "principal_point_px": "principal_point_tolerance_px",
    "pixel_spacing_mm": "pixel_spacing_tolerance_percent",
}
VIEW_KEYS = {"K", "sdd_mm", "pixel_spacing_mm", "principal_point_px", "width", "height", "distortion"}
CAMERA_KEYS = VIEW_KEYS | {"name", "R", "t"}
CALIBRATION_KEYS = {"projection_origin_mm"}
SHARED_KEYS = {"sod_mm", "view", "nominal_rotation", "sources", "comment", *TOLERANCE_KEYS.values()}


def values_from_entry(entry: dict, origin, allowed: set[str]) -> Values:
    """Values of a JSON object that stands at ``origin``; InputError for a key that is not ``allowed``."""
    unknown = sorted(set(entry) - allowed)
    if unknown:
        raise InputError(f"{origin}: unknown key '{unknown[0]}', known are {', '.join(sorted(allowed))}")
    values: Values = {}
    for key, value in entry.items():
        if value is not None and key not in ("comment", "sources", "name"):
            values["view" if key == "nominal_rotation" else key] = (value, origin)
    return values


def array_of(values: Values, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A value as an array of finite numbers.

    Raises:
        InputError: it is none of this shape.
    """
    value, source = values[name]
    if isinstance(value, InputError):
        raise value
    try:
        array = _as_numbers(value)
    except (TypeError, ValueError, OverflowError):
        array = np.empty(0)
    if array.shape != shape or not np.isfinite(array).all():
        size = " x ".join(str(n) for n in shape)
        raise InputError(f"{source}: {name} must be {size} finite numbers")
    return array


def positive(values: Values, name: str, shape: tuple[int, ...] = ()) -> Any:
    """A positive value, an array of them, or None where it is not given."""
    if name not in values:
        return None
    value, source = values[name]
    if isinstance(value, InputError):
        raise value
    try:
        array = _as_numbers(value)
        usable = array.shape == shape and np.isfinite(array).all() and (array > 0).all()
    except (TypeError, ValueError, OverflowError):
        usable = False
    if not usable:
        count = "two positive numbers [row, column]" if shape else "a positive number"
        raise InputError(f"{source}: {name} must be {count}, not {value}")
    return array if shape else float(array)


def _as_numbers(value) -> np.ndarray:
    """Numbers, or texts that are; true and false, which numpy counts as 1 and 0, raise TypeError."""
    if _has_truth(value):
        raise TypeError("neither true nor false is a number")
    return np.asarray(value, dtype=np.float64)


def _has_truth(value) -> bool:
    if isinstance(value, list | tuple):
        return any(_has_truth(one) for one in value)
    return isinstance(value, bool | np.bool_)
