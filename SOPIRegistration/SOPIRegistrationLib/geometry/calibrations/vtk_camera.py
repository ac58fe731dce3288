"""Cameras of VTK as Autoscoper and its Slicer module keep them, JSON ("vtk-schema-1.0.json").

The source's place, a point that it looks at, the upward direction of the image, and the angle under which the
image's height is seen, deg; the central ray meets the middle of an image of square pixels. The world is that
of the file, its unit mm. Only read: a camera with another principal point has no place in it.
"""

from __future__ import annotations

import json

import numpy as np

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry.camera import looking_from

_FIELDS = {
    "camera-position": (3,),
    "focal-point": (3,),
    "view-up": (3,),
    "view-angle": (),
    "image-width": (),
    "image-height": (),
}
_WIDEST_DEG = 90.0


def recognises(text: str) -> bool:
    """Whether a text is JSON that names a camera's place and its focal point."""
    return text.lstrip("\ufeff \r\n\t").startswith("{") and all(
        f'"{name}"' in text for name in ("camera-position", "focal-point")
    )


def read(text: str, name: str, given: dict) -> tuple[dict, str]:
    """The camera's entry; see :class:`~SOPIRegistrationLib.geometry.calibrations.Format`."""
    try:
        entry = json.loads(text.lstrip("\ufeff"))
    except ValueError:
        raise InputError("it is damaged: export it again") from None
    found = {field: _numbers(entry, field, shape) for field, shape in _FIELDS.items()}
    width, height, angle = (float(found[field]) for field in ("image-width", "image-height", "view-angle"))
    if not (0 < angle < _WIDEST_DEG and width >= 1 and height >= 1):
        raise InputError(f"view-angle {angle:g} and size {width:g} x {height:g} are those of no X-ray")
    forward = found["focal-point"] - found["camera-position"]
    distance = float(np.linalg.norm(forward))
    sideways = np.linalg.norm(np.cross(forward, found["view-up"]))
    if not sideways > 1e-6 * distance * np.linalg.norm(found["view-up"]):
        raise InputError("view-up is along the view, or there is none")
    T_world_to_camera = looking_from(found["camera-position"], forward, found["view-up"])
    focal = height / 2 / np.tan(np.deg2rad(angle) / 2)
    K = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
    camera = {
        "name": name,
        "K": K,
        "R": T_world_to_camera[:3, :3],
        "t": T_world_to_camera[:3, 3],
        "width": width,
        "height": height,
    }
    return {"cameras": [camera], "sod_mm": distance}, "lengths taken as mm"


def _numbers(entry: dict, field: str, shape: tuple[int, ...]) -> np.ndarray:
    try:
        values = np.asarray(entry[field], dtype=np.float64)
    except (KeyError, TypeError, ValueError):
        values = np.array(np.nan)
    if values.shape != shape or not np.isfinite(values).all():
        raise InputError(f"{field} must be {'a number' if not shape else 'three numbers'}: export it again")
    return values
