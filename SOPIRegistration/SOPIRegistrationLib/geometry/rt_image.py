"""Geometry of radiotherapy's X-rays (RT Image Module, PS3.3 C.8.8.2), in the coordinates of IEC 61217.

IEC's fixed system has x to the right of who faces the gantry, y to the gantry and z up. The source, above at
a gantry angle of 0, moves to +x as the angle grows. The receptor's x is the gantry's, its y that of the fixed
system, its z towards the source: seen from there x is to the right and y up, and so are RT images stored.
"""

from __future__ import annotations

import numpy as np

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
PATIENT_POSITIONS = tuple(_PATIENTS)


def view_of_gantry(gantry_deg: float, support_deg: float, patient_position: str) -> np.ndarray:
    """(3, 3) rotation LPS -> camera of an RT image.

    Args:
        gantry_deg: Gantry Angle (300A,011E).
        support_deg: Patient Support Angle (300A,0122), counterclockwise as seen from above.
        patient_position: Patient Position (0018,5100), one of ``PATIENT_POSITIONS``.
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
    """(2,) where the beam's axis meets the image, pixels (u, v).

    Args:
        position_mm: RT Image Position (3002,0012): x, y of the first pixel's centre on the receptor.
        spacing_mm: (row, column).
        receptor_mm: X-Ray Image Receptor Translation (3002,000D): x, y of the receptor's origin, from the
            axis.
    """
    (x, y), (row, column) = position_mm, spacing_mm
    return np.array([(-receptor_mm[0] - x) / column, (y + receptor_mm[1]) / row])
