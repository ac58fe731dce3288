"""DICOM tags that say what a pinhole camera before a perpendicular detector does not follow."""

from __future__ import annotations

import numpy as np

from SOPIRegistrationLib.geometry.c_arm import CArmGeometry
from SOPIRegistrationLib.geometry.camera import Camera

_TILT_DEG = 1.0
_SAME_ASPECT = 0.05
# A field nearer to the detector's middle than this has its principal point within what is told anyway.
_OFF_CENTRE_MM = 10.0


def tags_not_followed(geometry: CArmGeometry, camera: Camera, metadata: dict) -> list[str]:
    """Sentences, one for each tag that says that the geometry is another than it is taken to be.

    Args:
        geometry: of the image.
        camera: the one that took it.
        metadata: the image's DICOM tags by keyword.
    """
    return [
        *_tilted_detector(metadata),
        *_aspect(camera, metadata),
        *_patient_position(geometry, metadata),
        *_field_off_centre(geometry, metadata),
        *_flipped(geometry, metadata),
    ]


def _numbers(metadata: dict, keyword: str, count: int) -> np.ndarray | None:
    value = metadata.get(keyword)
    values = value if isinstance(value, list) else [value]
    if len(values) != count or not all(isinstance(one, float) for one in values):
        return None
    return np.array(values)


def _tilted_detector(metadata: dict) -> list[str]:
    tilts = [_numbers(metadata, f"Detector{which}Angle", 1) for which in ("Primary", "Secondary")]
    tilt = max((abs(float(one[0])) for one in tilts if one is not None), default=0.0)
    if tilt <= _TILT_DEG:
        return []
    return [
        f"the detector is tilted {tilt:g} deg against the beam (Detector Primary or Secondary Angle "
        "(0018,1530, 1531)), and taken as perpendicular: give the K of a calibration"
    ]


def _aspect(camera: Camera, metadata: dict) -> list[str]:
    aspect = _numbers(metadata, "PixelAspectRatio", 2)
    if aspect is None or aspect.min() <= 0:
        return []
    said, taken = float(aspect[0] / aspect[1]), float(camera.K[0, 0] / camera.K[1, 1])
    if abs(taken / said - 1) < _SAME_ASPECT:
        return []
    return [
        f"Pixel Aspect Ratio (0028,0034) says that pixels are {said:.3g} times as high as wide, they are "
        f"taken as {taken:.3g} times"
    ]


def _patient_position(geometry: CArmGeometry, metadata: dict) -> list[str]:
    position = str(metadata.get("PatientPosition") or "").upper()
    by_angles = "positioner angles" in geometry.sources.get("view", "")
    if not by_angles or position in ("", "HFS"):
        return []
    return [
        f"the patient lies {position} (Patient Position (0018,5100)): positioner angles are the patient's by "
        "the standard, but not every machine turns them with the patient: compare the view"
    ]


def _field_off_centre(geometry: CArmGeometry, metadata: dict) -> list[str]:
    """Of a detector of which a part was read out, where its middle is."""
    if "default" not in geometry.sources.get("principal_point_px", ""):
        return []
    keywords = (
        "FieldOfViewOrigin",
        "DetectorElementSpacing",
        "FieldOfViewDimensions",
        "DetectorActiveDimensions",
    )
    origin, element, field, active = (_numbers(metadata, keyword, 2) for keyword in keywords)
    if any(one is None for one in (origin, element, field, active)):
        return []
    down, right = origin * element + (field - active) / 2
    if max(abs(down), abs(right)) <= _OFF_CENTRE_MM:
        return []
    return [
        f"the field's middle is {right:.0f} mm right of and {down:.0f} mm below the detector's (Field of "
        "View Origin (0018,7030)), and taken for the principal point: if the tube was centred on the "
        "detector, give principal_point_px"
    ]


def _flipped(geometry: CArmGeometry, metadata: dict) -> list[str]:
    """Of a picture that was turned over, by which nobody tells what it was before."""
    told = geometry.sources.get("patient_orientation", "does not tell")
    if "does not tell" not in told or str(metadata.get("FieldOfViewHorizontalFlip") or "").upper() != "YES":
        return []
    return [
        "the picture was turned over when it was stored (Field of View Horizontal Flip (0018,7034)), and no "
        "Patient Orientation tells how it looks now: it may be mirrored"
    ]
