"""Camera files of XMALab and Autoscoper, "MayaCam" 2.0 and 1.0.

MayaCam 2.0: image size (columns, rows), camera matrix, rotation and translation in OpenCV's convention, which
is ours: rows downwards, first pixel's centre at (0, 0), world to camera. Autoscoper turns the y axis over
itself. MayaCam 1.0: five lines of three numbers: the source's place in the world; its rotations about the
local x, y and z axes, deg, applied in the order z, y, x, to a camera that looks along its -z with y up; the
film's place (derived); u0, v0 and the focal length in pixels (negative or not), counted from one, v0 upwards
from the bottom; scale, columns, rows. Both are in the unit of the calibration object, cm or mm, and do not
say which.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.calibrations.numbers import numbers_of, required_numbers, text_of
from SOPIRegistrationLib.geometry.camera import T_Y_UP_TO_CAMERA, Camera

_SECTIONS = {"image size": 2, "camera matrix": 9, "rotation": 9, "translation": 3}
# X-ray sources stand farther than this from the calibration object: a smaller number is of centimetres, and
# one that would be nearer than this in centimetres, of metres.
_NEAREST_SOURCE_MM = 200.0
# A line of words alone begins a section; of those that are not known none is needed.
_TITLE = re.compile(r"^[ \t]*([A-Za-z][A-Za-z \t]*?)[ \t]*:?[ \t]*\r?$", re.M)
_DEFAULT_SIZE = 1024


def recognises(text: str) -> bool:
    """Whether a text is a camera file of either version."""
    return text.lstrip("\ufeff \r\n").lower().startswith("image size") or _version_one(text) is not None


def read(text: str, name: str, given: dict) -> tuple[dict, str]:
    """The camera's entry; see :class:`~SOPIRegistrationLib.geometry.calibrations.Format`."""
    one = _version_one(text)
    width, height, K, R, t = _read_two(text) if one is None else _read_one(one)
    rows, columns = given.get("height"), given.get("width")
    if (width, height) == (rows, columns):
        # Some programs write rows first: the image tells.
        width, height = height, width
    unit = "mm"
    distance = np.linalg.norm(t)
    if distance < _NEAREST_SOURCE_MM / 10:
        t, unit = 1000 * t, "m"
    elif distance < _NEAREST_SOURCE_MM:
        t, unit = 10 * t, "cm"
    camera = {"name": name, "K": K, "R": R, "t": t, "width": width, "height": height}
    return {"cameras": [camera]}, f"lengths taken as {unit}"


def write(cameras: Sequence[Camera], mirrored: bool) -> str:
    """MayaCam 2.0, in mm."""
    [camera] = cameras
    T = camera.T_world_to_camera
    parts = {
        "image size": f"{camera.width},{camera.height}",
        "camera matrix": text_of(camera.K),
        "rotation": text_of(T[:3, :3]),
        "translation": text_of(T[:3, 3:]),
    }
    return "\n\n".join(f"{title}\n{body}" for title, body in parts.items()) + "\n"


def _read_two(text: str):
    parts = _TITLE.split(text.lstrip("\ufeff"))
    found = {title.lower(): body for title, body in zip(parts[1::2], parts[2::2], strict=True)}
    missing = [title for title in _SECTIONS if title not in found]
    if missing:
        raise InputError(f"it has no section '{missing[0]}': export the calibration again")
    values = {title: required_numbers(found[title], count, title) for title, count in _SECTIONS.items()}
    width, height = values["image size"]
    K, R = values["camera matrix"].reshape(3, 3), values["rotation"].reshape(3, 3)
    return width, height, K, R, values["translation"]


def _version_one(text: str) -> np.ndarray | None:
    lines = [line for line in text.lstrip("\ufeff").splitlines() if line.strip()]
    rows = [numbers_of(line) for line in lines]
    if len(rows) != 5 or any(row is None or len(row) != 3 for row in rows) or "," not in lines[0]:
        return None
    return np.array(rows)


def _read_one(values: np.ndarray):
    source, angles, _, (u0, v0, focal), (_, width, height) = values
    width, height = width or _DEFAULT_SIZE, height or _DEFAULT_SIZE
    K = np.array([[abs(focal), 0, u0 - 1], [0, abs(focal), height - v0], [0, 0, 1]])
    about_x, about_y, about_z = se3.exp_so3(np.diag(np.deg2rad(angles)))
    R = T_Y_UP_TO_CAMERA[:3, :3] @ (about_z @ about_y @ about_x).T
    return width, height, K, R, -R @ source
