"""OpenCV's calibrations, YAML of cv::FileStorage; ROS writes nearly the same.

Camera matrix, distortion k1, k2, p1, p2, k3 and, where given, R (or a rotation vector) and t, world to
camera: our convention, rows downwards, first pixel's centre at (0, 0). OpenCV has no unit: lengths are taken
as mm.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.calibrations.numbers import numbers_of
from SOPIRegistrationLib.geometry.camera import Camera

_MATRIX = re.compile(
    r"^[ \t]*(?P<name>[\w ]+?)[ \t]*:[ \t]*(?:!!opencv-matrix)?[ \t]*\r?\n"
    r"\s+rows:\s*(?P<rows>\d{1,4})\s+cols:\s*(?P<columns>\d{1,4})(?:\s+dt:\s*\S+)?\s+data:\s*\[(?P<data>[^\]]*)\]",
    re.M,
)
_SCALAR = re.compile(r"^[ \t]*(?P<name>[\w ]+?)[ \t]*:[ \t]*(?P<value>[-+.\deE]+)[ \t]*\r?$", re.M)
_LIST = re.compile(r"^[ \t]*(?P<name>[\w ]+?)[ \t]*:[ \t]*\[(?P<value>[^\]]*)\]", re.M)
# Names that programs give, in small letters and without anything else.
_INTRINSICS = ("cameramatrix", "intrinsicmatrix", "intrinsics", "k", "m1", "m")
_DISTORTION = ("distortioncoefficients", "distcoeffs", "distcoefficients", "distortion", "d", "d1")
_ROTATION = ("r", "rotation", "rotationmatrix", "rmat", "rvec")
_TRANSLATION = ("t", "translation", "translationvector", "tvec")


def recognises(text: str) -> bool:
    """Whether a text is YAML with a matrix of OpenCV's in it."""
    head = text.lstrip("\ufeff \r\n")[:5]
    return (head == "%YAML" or "opencv-matrix" in text or "data:" in text) and bool(_MATRIX.search(text))


def read(text: str, name: str, given: dict) -> tuple[dict, str]:
    """The camera's entry; see :class:`~SOPIRegistrationLib.geometry.calibrations.Format`."""
    found = {}
    for match in _MATRIX.finditer(text):
        values = numbers_of(match["data"])
        rows, columns = int(match["rows"]), int(match["columns"])
        if values is None or values.size != rows * columns:
            raise InputError(f"{match['name']} is not {rows} x {columns} finite numbers: export it again")
        found[_plain(match["name"])] = values.reshape(rows, columns)
    if "m2" in found:
        raise InputError("it holds two cameras (M1, M2): give each its own file, or a JSON with cameras")
    K = _first(found, _INTRINSICS)
    if K is None or K.shape != (3, 3):
        raise InputError("it has no 3 x 3 camera_matrix: export the calibration again")
    entry: dict = {"name": name, "K": K} | _size(text)
    distortion = _first(found, _DISTORTION)
    if distortion is not None:
        coefficients = distortion.ravel()
        if len(coefficients) > 5 and coefficients[5:].any():
            raise InputError(
                f"it has {len(coefficients)} distortion coefficients, known are k1, k2, p1, p2, k3"
            )
        entry["distortion"] = np.pad(coefficients[:5], (0, max(0, 5 - len(coefficients))))
    R, t = _first(found, _ROTATION), _first(found, _TRANSLATION)
    if R is None or t is None:
        return {"cameras": [entry]}, ""
    if R.size == 3:
        R = se3.exp_so3(R.ravel())
    return {"cameras": [entry | {"R": R, "t": t.ravel()}]}, "lengths taken as mm"


def write(cameras: Sequence[Camera], mirrored: bool) -> str:
    """One camera's."""
    [camera] = cameras
    T = camera.T_world_to_camera
    matrices = {
        "camera_matrix": camera.K,
        "distortion_coefficients": np.atleast_2d(
            np.zeros(5) if camera.distortion is None else camera.distortion
        ),
        "R": T[:3, :3],
        "T": T[:3, 3:],
    }
    lines = ["%YAML:1.0", "---", f"image_width: {camera.width}", f"image_height: {camera.height}"]
    for title, matrix in matrices.items():
        rows, columns = matrix.shape
        data = ", ".join(f"{value:.17g}" for value in matrix.ravel())
        lines += [f"{title}: !!opencv-matrix", f"   rows: {rows}", f"   cols: {columns}", "   dt: d"]
        lines += [f"   data: [ {data} ]"]
    return "\n".join(lines) + "\n"


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _first(found: dict, names: Sequence[str]):
    return next((found[name] for name in names if name in found), None)


def _size(text: str) -> dict:
    scalars = {_plain(match["name"]): match["value"] for match in _SCALAR.finditer(text)}
    for match in _LIST.finditer(text):
        pair = numbers_of(match["value"])
        if _plain(match["name"]) in ("imagesize", "size") and pair is not None and pair.size == 2:
            return {"width": pair[0], "height": pair[1]}
    size = {}
    for key, names in (("width", ("imagewidth", "width")), ("height", ("imageheight", "height"))):
        value = _first(scalars, names)
        values = None if value is None else numbers_of(value)
        if values is not None:
            size[key] = values[0]
    return size
