"""Calibrations of JointTrack and JTML: of one X-ray, of one with its camera's pose, and of two.

A code, then numbers. The first four are of the (first) camera: source-detector distance in mm, the principal
point's offset from the image's middle in mm, x to the right and y UP, and the pixel's edge in mm. JointTrack
may add, in any world: the source's place, the image's normal towards the source, and the image's upward
direction. JTML's JTA_INTCALIB_BIPLANE goes on with the second camera's four, and its source and axes (a
matrix whose columns are they) in the first camera's frame: x to the right, y UP, looking along -z.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry.calibrations.numbers import has_decimal_commas
from SOPIRegistrationLib.geometry.camera import T_Y_UP_TO_CAMERA, Camera, looking_from
from SOPIRegistrationLib.geometry.rigidity import is_rotation
from SOPIRegistrationLib.geometry.se3 import invert_rigid

_CODE = re.compile(r"JTA?_[A-Z]*CALIB")
_ONE, _TWO = "JT_INTCALIB", "JTA_INTCALIB_BIPLANE"
_NUMBERS = {_ONE: (4, 13), _TWO: (20,)}
# Directions come with few digits; coarser ones than this are of no camera.
_ORTHOGONAL = 1e-3


def _words(text: str) -> list[str]:
    return [word for word in re.split(r"[\s,]+", text.lstrip("\ufeff")) if word]


def recognises(text: str) -> bool:
    """Whether a text begins with one of the codes."""
    return bool(words := _words(text)) and bool(_CODE.match(words[0]))


def read(text: str, name: str, given: dict) -> tuple[dict, str]:
    """The entry of its camera or cameras; see :class:`~SOPIRegistrationLib.geometry.calibrations.Format`."""
    code, *words = _words(text)
    if has_decimal_commas(text.lstrip("\ufeff \r\n").partition(code)[2]):
        raise InputError("its numbers have decimal commas: write them with points")
    try:
        values = np.array([float(word) for word in words])
    except ValueError:
        values = np.empty(0)
    if len(values) not in _NUMBERS[_TWO if code == _TWO else _ONE] or not np.isfinite(values).all():
        raise InputError(
            f"{code} with {len(words)} values is not read: give distance, x offset, y offset and pixel size "
            "of a camera in mm, alone or with its source, normal and upward direction; or of two cameras, "
            "with the second one's origin and axes"
        )
    width, height = given.get("width"), given.get("height")
    if width is None or height is None:
        raise InputError("it does not tell the image's size: give it with its X-ray")
    size = {"width": width, "height": height}
    if len(values) == 4:
        return _intrinsics(values, width, height), ""
    if len(values) == 13:
        posed = _posed(name, _intrinsics(values[:4], width, height), _of_view(values[4:]), size)
        return {"cameras": [posed]}, ""
    first = _posed("A", _intrinsics(values[:4], width, height), np.eye(4), size)
    second = _posed("B", _intrinsics(values[4:8], width, height), _of_second(values[8:]), size)
    return {"cameras": [first, second]}, "the world is camera A's"


def _intrinsics(values: np.ndarray, width: float, height: float) -> dict:
    distance, x, y, pixel = values
    if not (distance > 0 and pixel > 0):
        raise InputError("the distance and the pixel size must be above zero, in mm")
    point = [(width - 1) / 2 + x / pixel, (height - 1) / 2 - y / pixel]
    return {"sdd_mm": distance, "pixel_spacing_mm": [pixel, pixel], "principal_point_px": point}


def _posed(name: str, intrinsics: dict, T_world_to_camera: np.ndarray, size: dict) -> dict:
    focal = intrinsics["sdd_mm"] / intrinsics["pixel_spacing_mm"][0]
    x, y = intrinsics["principal_point_px"]
    K = np.array([[focal, 0, x], [0, focal, y], [0, 0, 1]])
    pose = {"R": T_world_to_camera[:3, :3], "t": T_world_to_camera[:3, 3]}
    return {"name": name, "K": K, "sdd_mm": intrinsics["sdd_mm"], **pose, **size}


def _of_view(values: np.ndarray) -> np.ndarray:
    """T_world_to_camera of a source, the image's normal towards it, and its upward direction."""
    source, normal, up = values.reshape(3, 3)
    lengths = np.linalg.norm(normal), np.linalg.norm(up)
    if min(lengths) == 0 or abs(normal @ up) > _ORTHOGONAL * np.prod(lengths):
        raise InputError("the image's normal and its upward direction must be at right angles")
    return looking_from(source, -normal, up)


def _of_second(values: np.ndarray) -> np.ndarray:
    """T from the first camera to the second, of the second one's source and axes in the first one's frame."""
    T_second_to_first = np.eye(4)
    T_second_to_first[:3, 3] = values[:3]
    T_second_to_first[:3, :3] = R = values[3:].reshape(3, 3)
    if not is_rotation(R):
        raise InputError("the second camera's axes are not at right angles, or left-handed")
    return T_Y_UP_TO_CAMERA @ invert_rigid(T_second_to_first) @ T_Y_UP_TO_CAMERA


def write(cameras: Sequence[Camera], mirrored: bool) -> str:
    """One camera's, without its pose; or two cameras', in JTML's form."""
    if len(cameras) == 1:
        return _lines(_ONE, _numbers(cameras[0]))
    if len(cameras) > 2:
        raise InputError(f"it has two cameras at most, this geometry has {len(cameras)}")
    first, second = cameras
    T_second_to_first = first.T_world_to_camera @ invert_rigid(second.T_world_to_camera)
    T_second_to_first = T_Y_UP_TO_CAMERA @ T_second_to_first @ T_Y_UP_TO_CAMERA
    placed = [*T_second_to_first[:3, 3], *T_second_to_first[:3, :3].ravel()]
    return _lines(_TWO, [*_numbers(first), *_numbers(second), *placed])


def _lines(code: str, numbers: Sequence[float]) -> str:
    return "\n".join([code, *(f"{value:.17g}" for value in numbers)]) + "\n"


def _numbers(camera: Camera) -> list[float]:
    if camera.sdd_mm is None:
        raise InputError("it needs the source-detector distance, which this geometry does not tell")
    row, column = camera.pixel_spacing_mm
    if abs(row / column - 1) > 1e-4 or abs(camera.K[0, 1]) > 1e-6 * camera.K[0, 0]:
        raise InputError(f"it has square pixels only, this geometry's are {row:g} x {column:g} mm or skewed")
    middle = camera.middle_px
    x, y = (camera.K[0, 2] - middle[0]) * column, (middle[1] - camera.K[1, 2]) * row
    return [camera.sdd_mm, x, y, column]
