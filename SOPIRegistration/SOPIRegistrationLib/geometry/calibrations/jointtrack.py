"""JointTrack's and JTML's calibration.txt of one X-ray.

A type code (JT_INTCALIB or JTA_INTCALIB), the source-detector distance in mm, the principal point's offset
from the image's middle in mm, x to the right and y UP, and the pixel's edge in mm.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry.camera import Camera

_CODES = ("JT_INTCALIB", "JTA_INTCALIB")


def _words(text: str) -> list[str]:
    return [word for word in re.split(r"[\s,]+", text.lstrip("\ufeff")) if word]


def recognises(text: str) -> bool:
    """Whether a text begins with one of the codes."""
    return bool(words := _words(text)) and words[0].startswith(_CODES)


def read(text: str, name: str, given: dict) -> tuple[dict, str]:
    """The camera's entry; see :class:`~SOPIRegistrationLib.geometry.calibrations.Format`."""
    code, *words = _words(text)
    try:
        values = np.array([float(word) for word in words])
    except ValueError:
        values = np.empty(0)
    if code not in _CODES or len(values) != 4 or not np.isfinite(values).all():
        raise InputError(
            f"{code} with {len(words)} values is not read: give one camera's {_CODES[0]} with distance, x "
            "offset, y offset and pixel size in mm"
        )
    distance, x, y, pixel = values
    if not (distance > 0 and pixel > 0):
        raise InputError("the distance and the pixel size must be above zero, in mm")
    width, height = given.get("width"), given.get("height")
    if width is None or height is None:
        raise InputError("it does not tell the image's size: give it with its X-ray")
    point = [(width - 1) / 2 + x / pixel, (height - 1) / 2 - y / pixel]
    return {"sdd_mm": distance, "pixel_spacing_mm": [pixel, pixel], "principal_point_px": point}, ""


def write(cameras: Sequence[Camera], mirrored: bool) -> str:
    """One camera's."""
    [camera] = cameras
    if camera.sdd_mm is None:
        raise InputError("it needs the source-detector distance, which this geometry does not tell")
    row, column = camera.pixel_spacing_mm
    if abs(row / column - 1) > 1e-4 or abs(camera.K[0, 1]) > 1e-6 * camera.K[0, 0]:
        raise InputError(f"it has square pixels only, this geometry's are {row:g} x {column:g} mm or skewed")
    x = (camera.K[0, 2] - (camera.width - 1) / 2) * column
    y = ((camera.height - 1) / 2 - camera.K[1, 2]) * row
    return "\n".join([_CODES[0], *(f"{value:.17g}" for value in (camera.sdd_mm, x, y, column))]) + "\n"
