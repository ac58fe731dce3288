"""Geometry of radiotherapy's X-rays (RT Image Module, PS3.3 C.8.8.2), in the coordinates of IEC 61217.

IEC's fixed system has x to the right of who faces the gantry, y to the gantry and z up. The source, above at
a gantry angle of 0, moves to +x as the angle grows. The receptor's x is the gantry's, its y that of the fixed
system, its z towards the source: seen from there x is to the right and y up, and so are RT images stored.
"""

from __future__ import annotations

import numpy as np

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry.dicom_tag_values import ASK_VIEW, NAMES, UNREADABLE_ANGLES, Tags
from SOPIRegistrationLib.geometry.values import Values

# Tags of an X-ray's metadata by which RT images are told, and those that place them.
RT_IMAGE_KEYWORDS = (
    "RTImageSID",
    "RadiationMachineSAD",
    "ImagePlanePixelSpacing",
    "RTImagePlane",
    "RTImagePosition",
    "RTImageOrientation",
    "XRayImageReceptorTranslation",
    "XRayImageReceptorAngle",
    "GantryAngle",
    "PatientSupportAngle",
)
# Columns are the patient's left, posterior and superior in the fixed system, the patient support at 0.
_PATIENTS = {
    "HFS": np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]),
    "FFS": np.array([[-1.0, 0, 0], [0, 0, -1], [0, -1, 0]]),
    "HFP": np.array([[-1.0, 0, 0], [0, 0, 1], [0, 1, 0]]),
    "FFP": np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]),
}


def view_of_gantry(gantry_deg: float, support_deg: float, patient_position: str) -> np.ndarray:
    """(3, 3) rotation LPS -> camera of an RT image.

    Args:
        gantry_deg: Gantry Angle (300A,011E).
        support_deg: Patient Support Angle (300A,0122), counterclockwise as seen from above.
        patient_position: Patient Position (0018,5100), HFS, FFS, HFP or FFP.
    """
    gantry, support = np.deg2rad([gantry_deg, support_deg])
    receptor_x = np.array([np.cos(gantry), 0, -np.sin(gantry)])
    to_source = np.array([np.sin(gantry), 0, np.cos(gantry)])
    # The camera's axes in the fixed system.
    camera = np.stack([receptor_x, [0, -1, 0], -to_source])
    turned = np.array(
        [[np.cos(support), -np.sin(support), 0], [np.sin(support), np.cos(support), 0], [0, 0, 1]]
    )
    return camera @ turned @ _PATIENTS[patient_position]


def principal_point(position_mm, spacing_mm, receptor_mm) -> np.ndarray:
    """(2,) pixels (u, v) where the beam's axis meets the image, by RT Image Position, the spacing (row,
    column) and X-Ray Image Receptor Translation, mm."""
    (x, y), (row, column) = position_mm, spacing_mm
    return np.array([(-receptor_mm[0] - x) / column, (y + receptor_mm[1]) / row])


def values_of_rt_image(tags: Tags) -> Values:
    """Values of an RT image's tags, which has its own for all, with their sources."""
    values: Values = {}
    for name, keyword in (("sdd_mm", "RTImageSID"), ("sod_mm", "RadiationMachineSAD")):
        if (value := tags.number(keyword, name)) is not None:
            values[name] = value, f"DICOM {NAMES[keyword]}"
    spacing = tags.pair("ImagePlanePixelSpacing", "pixel_spacing_mm")
    if spacing is not None:
        values["pixel_spacing_mm"] = spacing, f"DICOM {NAMES['ImagePlanePixelSpacing']}"
    key = "principal_point_px"
    position = tags.signed("RTImagePosition", 2, key)
    receptor = tags.signed("XRayImageReceptorTranslation", 2, key)
    if position is not None and isinstance(spacing, np.ndarray):
        errors = [one for one in (position, receptor, _odd_plane(tags)) if isinstance(one, InputError)]
        shift = np.zeros(2) if receptor is None else receptor
        point = errors[0] if errors else principal_point(position, spacing, shift)
        values[key] = point, f"DICOM {NAMES['RTImagePosition']}"
    values["view"] = _view_of_rt_image(tags)
    return values


def _odd_plane(tags: Tags) -> InputError | None:
    """What is wrong with an image plane that is not perpendicular to the beam, or not stored as usual."""
    if tags.text("RTImagePlane") == "NON_NORMAL":
        return tags.unusable("RTImagePlane", "NORMAL", "K")
    orientation = tags.signed("RTImageOrientation", 6, "K")
    usual = [1, 0, 0, 0, -1, 0]
    if orientation is None or (
        isinstance(orientation, np.ndarray) and np.allclose(orientation, usual, atol=1e-3)
    ):
        return None
    return tags.unusable("RTImageOrientation", "1\\0\\0\\0\\-1\\0", "K")


def _view_of_rt_image(tags: Tags) -> tuple[np.ndarray | InputError, str]:
    gantry, support, receptor = (
        tags.angle(keyword) for keyword in ("GantryAngle", "PatientSupportAngle", "XRayImageReceptorAngle")
    )
    position = tags.text("PatientPosition")
    for angle in (gantry, support, receptor):
        if isinstance(angle, InputError):
            return angle, UNREADABLE_ANGLES
    if gantry is None:
        return InputError(f"{tags.image_name} lacks {NAMES['GantryAngle']}: {ASK_VIEW}"), "DICOM"
    if position not in _PATIENTS:
        return tags.unusable("PatientPosition", ", ".join(_PATIENTS), "view"), "DICOM"
    if receptor:
        return tags.unusable("XRayImageReceptorAngle", "0", "view"), "DICOM"
    source = (
        f"DICOM gantry angle {gantry:g} and patient support angle {support or 0:g} deg, patient {position}"
    )
    return view_of_gantry(gantry, support or 0.0, position), source
