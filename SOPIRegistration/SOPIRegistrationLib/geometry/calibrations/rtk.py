"""Geometry XML of the Reconstruction Toolkit (RTK), cone-beam CT.

Its matrices map the world (IEC-like fixed frame, mm) to the detector in mm, x to the right and y UP as seen
from the source. RTK holds its projections with rows along y: a stored projection is the mirror image of what
the source sees, and is taken so (``mirrored``). The file tells neither pixel nor image size: the spacing and
the place of the first pixel on the detector, which RTK keeps in the projections' own header, must be given
beside it; the image is taken to lie about the detector's origin unless "projection_origin_mm" says
otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

import numpy as np

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry.calibrations.numbers import decomposed, required_numbers, text_of
from SOPIRegistrationLib.geometry.camera import Camera

_ROOT = "RTKThreeDCircularGeometry"


def recognises(text: str) -> bool:
    """Whether a text is RTK's XML."""
    return f"<{_ROOT}" in text


def read(text: str, name: str, given: dict) -> tuple[dict, str]:
    """The cameras' entry; see :class:`~SOPIRegistrationLib.geometry.calibrations.Format`."""
    try:
        root = ElementTree.fromstring(text.lstrip("\ufeff \r\n"))
    except ElementTree.ParseError:
        raise InputError("it is damaged XML: export it again") from None
    projections = root.findall("Projection")
    if not projections:
        raise InputError("it holds no projection")
    width, height, spacing = (given.get(key) for key in ("width", "height", "pixel_spacing_mm"))
    if width is None or height is None:
        raise InputError("it does not tell the image's size: give it with its X-ray")
    if spacing is None:
        raise InputError(
            "it does not tell the pixel spacing: write a JSON "
            '{"calibration": "this file", "pixel_spacing_mm": [row, column]}'
        )
    middle = [-(width - 1) / 2 * spacing[1], -(height - 1) / 2 * spacing[0]]
    origin = given.get("projection_origin_mm", middle)
    to_pixels = np.linalg.inv([[spacing[1], 0, origin[0]], [0, spacing[0], origin[1]], [0, 0, 1]])
    # The source sees the stored image mirrored: its columns are reversed.
    to_seen = np.array([[-1.0, 0, width - 1], [0, 1, 0], [0, 0, 1]]) @ to_pixels
    size = {"width": width, "height": height}
    cameras = [
        _camera(root, projection, number, to_seen) | size for number, projection in enumerate(projections, 1)
    ]
    return {"cameras": cameras, "mirrored": True}, "rows along the detector's y, upwards"


def _camera(root, projection, number: int, to_seen: np.ndarray) -> dict:
    """The entry of one projection; ``to_seen`` (3, 3) maps the detector, mm, to the pixels seen."""
    if _number(root, projection, "RadiusCylindricalDetector"):
        raise InputError("its detector is a cylinder: flat ones are read")
    matrix = projection.findtext("Matrix")
    P = required_numbers(matrix or "", 12, f"the matrix of projection {number}").reshape(3, 4)
    K, R, t = decomposed(to_seen @ P)
    if t[2] < 0:
        raise InputError(f"projection {number} has the isocentre behind the source: export it again")
    camera = {"name": f"view{number:04d}", "K": K, "R": R, "t": t}
    distance = _number(root, projection, "SourceToDetectorDistance")
    return camera | {"sdd_mm": distance} if distance > 0 else camera


def write(cameras: Sequence[Camera], mirrored: bool) -> str:
    """All cameras; of images not stored as RTK holds them, that of their rows in reverse order."""
    lines = ['<?xml version="1.0"?>', "<!DOCTYPE RTKGEOMETRY>", f'<{_ROOT} version="3">']
    for camera in cameras:
        if camera.sdd_mm is None:
            raise InputError("it needs the source-detector distance, which this geometry does not tell")
        if abs(camera.K[0, 1]) > 1e-6 * camera.K[0, 0]:
            raise InputError("it has no skewed pixels")
        row, column = camera.pixel_spacing_mm
        width, height = camera.width, camera.height
        if mirrored:
            stored = np.array([[-1.0, 0, width - 1], [0, 1, 0], [0, 0, 1]])
        else:
            stored = np.array([[1.0, 0, 0], [0, -1, height - 1], [0, 0, 1]])
        middle = -(width - 1) / 2 * column, -(height - 1) / 2 * row
        to_detector = np.array([[column, 0, middle[0]], [0, row, middle[1]], [0, 0, 1]])
        # RTK counts depth against the beam.
        P = -to_detector @ stored @ camera.K @ camera.T_world_to_camera[:3]
        values = _parameters(P, camera.sdd_mm)
        lines.append("  <Projection>")
        lines += [f"    <{title}>{value:.17g}</{title}>" for title, value in values.items()]
        lines += ["    <Matrix>", text_of(P, " "), "    </Matrix>", "  </Projection>"]
    return "\n".join([*lines, f"</{_ROOT}>"]) + "\n"


def _number(root, projection, title: str) -> float:
    """A parameter of a projection; those alike in all stand before them, absent ones are zero."""
    text = projection.findtext(title) or root.findtext(title) or "0"
    return float(required_numbers(text, 1, title)[0])


def _parameters(P: np.ndarray, sdd_mm: float) -> dict[str, float]:
    """RTK's parameters of P = Shift(dx, dy) Mag(SDD, SID) Shift(-source) Rz(-i) Rx(-o) Ry(-g)."""
    third = P[2, :3]
    dx, dy = P[0, :3] @ third, P[1, :3] @ third
    first, second = (P[axis, :3] - shift * third for axis, shift in ((0, dx), (1, dy)))
    R = np.stack([first / -sdd_mm, second / -sdd_mm, third])
    isocentre_mm = -P[2, 3]
    source_x, source_y = ((P[axis, 3] + shift * isocentre_mm) / sdd_mm for axis, shift in ((0, dx), (1, dy)))
    out_of_plane = -np.arcsin(np.clip(R[2, 1], -1, 1))
    if abs(R[2, 1]) < 1 - 1e-9:
        gantry = np.arctan2(R[2, 0], R[2, 2])
        in_plane = np.arctan2(R[0, 1], R[1, 1])
    else:
        gantry, in_plane = 0.0, np.arctan2(-R[1, 0], R[0, 0])
    return {
        "SourceToIsocenterDistance": isocentre_mm,
        "SourceToDetectorDistance": sdd_mm,
        "GantryAngle": np.rad2deg(gantry),
        "OutOfPlaneAngle": np.rad2deg(out_of_plane),
        "InPlaneAngle": np.rad2deg(in_plane),
        "SourceOffsetX": source_x,
        "SourceOffsetY": source_y,
        "ProjectionOffsetX": source_x - dx,
        "ProjectionOffsetY": source_y - dy,
    }
