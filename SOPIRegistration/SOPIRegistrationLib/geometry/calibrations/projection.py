"""Plain text of 3 x 4 projection matrices, world (mm) to pixels: u w = P x.

Rows of the image are counted downwards, the first pixel's centre is (0, 0). Of an image whose rows are
counted upwards the matrix is that of a camera that looks away from the object; the world's origin, near
which calibration and patient are, then lies behind it, and the file is refused.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry.calibrations.numbers import (
    decomposed,
    has_decimal_commas,
    numbers_of,
    text_of,
)
from SOPIRegistrationLib.geometry.camera import Camera


def _without_comments(text: str) -> str:
    return "\n".join(line.split("#")[0].split("%")[0] for line in text.lstrip("\ufeff").splitlines())


def recognises(text: str) -> bool:
    """Whether a text is numbers alone, twelve for each matrix."""
    text = _without_comments(text)
    return has_decimal_commas(text) or _matrices(text) is not None


def _matrices(text: str) -> np.ndarray | None:
    """(n, 3, 4) matrices, whether or not a row 0 0 0 1 follows each; None for other numbers."""
    values = numbers_of(text)
    if values is None:
        return None
    if len(values) % 16 == 0 and (values.reshape(-1, 4, 4)[:, 3] == [0, 0, 0, 1]).all():
        return values.reshape(-1, 4, 4)[:, :3]
    return values.reshape(-1, 3, 4) if len(values) % 12 == 0 else None


def read(text: str, name: str, given: dict) -> tuple[dict, str]:
    """The cameras' entry; see :class:`~SOPIRegistrationLib.geometry.calibrations.Format`."""
    text = _without_comments(text)
    if has_decimal_commas(text):
        raise InputError("its numbers have decimal commas: write them with points")
    matrices = _matrices(text)
    size = {key: given[key] for key in ("width", "height") if given.get(key) is not None}
    cameras = []
    for number, P in enumerate(matrices, start=1):
        K, R, t = decomposed(P)
        if t[2] < 0:
            raise InputError(
                "the world's origin lies behind the camera: it is written by columns, or it is the matrix of "
                "an image that is mirrored or whose rows count upwards, to be multiplied by [[1, 0, 0], [0, "
                "-1, rows - 1], [0, 0, 1]]"
            )
        label = name if len(matrices) == 1 else f"view{number:02d}"
        cameras.append({"name": label, "K": K, "R": R, "t": t} | size)
    return {"cameras": cameras}, ""


def write(cameras: Sequence[Camera], mirrored: bool) -> str:
    """A matrix a camera, blank lines between."""
    if any(not camera.T_world_to_camera[2, 3] >= 0 for camera in cameras):
        raise InputError("the world's origin lies behind a camera, which no reader would understand")
    matrices = [camera.K @ camera.T_world_to_camera[:3] for camera in cameras]
    return "\n".join(text_of(np.asarray(P), " ") + "\n" for P in matrices)
