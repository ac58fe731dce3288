"""OpenCV's calibrations, YAML, XML or JSON of cv::FileStorage; ROS writes nearly the same YAML.

Camera matrix, distortion k1, k2, p1, p2, k3 and, where given, R (or a rotation vector) and t, world to
camera: our convention, rows downwards, first pixel's centre at (0, 0). OpenCV has no unit: lengths are taken
as mm.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from xml.etree import ElementTree

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
    """Whether a text is a storage of OpenCV's with a matrix in it, or YAML like it."""
    text = text.lstrip("\ufeff \r\n")
    if text.startswith(("<", "{")):
        return "<opencv_storage" in text or '"opencv-matrix"' in text
    return (text.startswith("%YAML") or "opencv-matrix" in text or "data:" in text) and bool(
        _MATRIX.search(text)
    )


def read(text: str, name: str, given: dict) -> tuple[dict, str]:
    """The camera's entry; see :class:`~SOPIRegistrationLib.geometry.calibrations.Format`."""
    matrices, scalars = _stored(text)
    found = {}
    for title, (rows, columns, data) in matrices.items():
        values = numbers_of(data)
        if values is None or values.size != rows * columns:
            raise InputError(f"{title} is not {rows} x {columns} finite numbers: export it again")
        found[_plain(title)] = values.reshape(rows, columns)
    if "m2" in found:
        raise InputError("it holds two cameras (M1, M2): give each its own file, or a JSON with cameras")
    K = _first(found, _INTRINSICS)
    if K is None or K.shape != (3, 3):
        raise InputError("it has no 3 x 3 camera_matrix: export the calibration again")
    entry: dict = {"name": name, "K": K} | _size(scalars)
    distortion = _first(found, _DISTORTION)
    if distortion is not None:
        entry["distortion"] = _five_coefficients(distortion.ravel())
    R, t = _first(found, _ROTATION), _first(found, _TRANSLATION)
    if R is None or t is None:
        return {"cameras": [entry]}, ""
    if R.size == 3:
        R = se3.exp_so3(R.ravel())
    return {"cameras": [entry | {"R": R, "t": t.ravel()}]}, "lengths taken as mm"


def _five_coefficients(coefficients: np.ndarray) -> np.ndarray:
    if len(coefficients) > 5 and coefficients[5:].any():
        raise InputError(f"it has {len(coefficients)} distortion coefficients, known are k1, k2, p1, p2, k3")
    return np.pad(coefficients[:5], (0, max(0, 5 - len(coefficients))))


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


def _stored(text: str) -> tuple[dict[str, tuple[int, int, str]], dict[str, str]]:
    """Matrices (rows, columns, their numbers) and other values of a storage, as they are written.

    Raises:
        InputError: it is damaged.
    """
    text = text.lstrip("\ufeff \r\n")
    try:
        if text.startswith("<"):
            root = ElementTree.fromstring(text)
            nodes = {node.tag: {one.tag: one.text or "" for one in node} or node.text for node in root}
        elif text.startswith("{"):
            nodes = json.loads(text)
        else:
            nodes = None
    except (ElementTree.ParseError, ValueError):
        raise InputError("it is damaged: export it again") from None
    if nodes is None:
        matrices = {
            match["name"]: (int(match["rows"]), int(match["columns"]), match["data"])
            for match in _MATRIX.finditer(text)
        }
        scalars = {match["name"]: match["value"] for match in _SCALAR.finditer(text)}
        return matrices, scalars | {match["name"]: match["value"] for match in _LIST.finditer(text)}
    matrices, scalars = {}, {}
    for title, node in nodes.items():
        if isinstance(node, dict) and {"rows", "cols", "data"} <= node.keys():
            data = node["data"] if isinstance(node["data"], str) else " ".join(map(str, node["data"]))
            matrices[title] = int(node["rows"]), int(node["cols"]), data
        else:
            scalars[title] = str(node or "")
    return matrices, scalars


def _size(stored: dict[str, str]) -> dict:
    scalars = {_plain(title): numbers_of(value) for title, value in stored.items()}
    pair = _first(scalars, ("imagesize", "size"))
    if pair is not None and pair.size == 2:
        return {"width": pair[0], "height": pair[1]}
    size = {}
    for key, names in (("width", ("imagewidth", "width")), ("height", ("imageheight", "height"))):
        values = _first(scalars, names)
        if values is not None:
            size[key] = values[0]
    return size
