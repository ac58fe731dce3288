"""Numbers and texts of an X-ray's DICOM tags, and what using one raises that cannot be read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from SOPIRegistrationLib.errors import InputError

SDD_TAG = "Distance Source to Detector (0018,1110)"
SPACING_TAG = "Imager Pixel Spacing (0018,1164)"
NAMES = {
    "DistanceSourceToDetector": SDD_TAG,
    "DistanceSourceToPatient": "Distance Source to Patient (0018,1111)",
    "DistanceSourceToIsocenter": "Distance Source to Isocenter (0018,9402)",
    "EstimatedRadiographicMagnificationFactor": "Estimated Radiographic Magnification Factor (0018,1114)",
    "ImagerPixelSpacing": SPACING_TAG,
    "DetectorElementSpacing": "Detector Element Spacing (0018,7022)",
    "DetectorBinning": "Detector Binning (0018,701A)",
    "FieldOfViewDimensions": "Field of View Dimension(s) (0018,1149)",
    "FieldOfViewDimensionsInFloat": "Field of View Dimension(s) in Float (0018,9461)",
    "FieldOfViewRotation": "Field of View Rotation (0018,7032)",
    "IntensifierSize": "Intensifier Size (0018,1162)",
    "NominalScannedPixelSpacing": "Nominal Scanned Pixel Spacing (0018,2010)",
    "PixelSpacing": "Pixel Spacing (0028,0030)",
    "PositionerPrimaryAngle": "Positioner Primary Angle (0018,1510)",
    "PositionerSecondaryAngle": "Positioner Secondary Angle (0018,1511)",
    "ViewPosition": "View Position (0018,5101)",
    "ViewCodeSequence": "View Code Sequence (0054,0220)",
    "PatientOrientation": "Patient Orientation (0020,0020)",
    "PatientPosition": "Patient Position (0018,5100)",
    "RTImageSID": "RT Image SID (3002,0026)",
    "RadiationMachineSAD": "Radiation Machine SAD (3002,0022)",
    "ImagePlanePixelSpacing": "Image Plane Pixel Spacing (3002,0011)",
    "RTImagePlane": "RT Image Plane (3002,000C)",
    "RTImagePosition": "RT Image Position (3002,0012)",
    "RTImageOrientation": "RT Image Orientation (3002,0010)",
    "XRayImageReceptorTranslation": "X-Ray Image Receptor Translation (3002,000D)",
    "XRayImageReceptorAngle": "X-Ray Image Receptor Angle (3002,000E)",
    "GantryAngle": "Gantry Angle (300A,011E)",
    "PatientSupportAngle": "Patient Support Angle (300A,0122)",
    "PositionerIsocenterPrimaryAngle": "Positioner Isocenter Primary Angle (0018,9463)",
    "PixelAspectRatio": "Pixel Aspect Ratio (0028,0034)",
}
# Source of a view that angles would have told, had they been numbers.
UNREADABLE_ANGLES = "DICOM positioner angles, which cannot be read"
ASK_VIEW = 'give the view (--view AP, PA, LLAT or RLAT, or "view" in a geometry file)'


class Tags:
    """Numbers of tags: None where absent, an InputError where they cannot be read."""

    def __init__(self, metadata: dict, image_name: str):
        self._metadata = metadata
        self.image_name = image_name

    def text(self, keyword: str) -> str:
        """What is written, in capitals; several values with backslashes between."""
        value = self._metadata.get(keyword)
        if isinstance(value, Sequence) and not isinstance(value, str):
            value = "\\".join("" if one is None else str(one) for one in value)
        return str(value or "").strip().upper()

    def number(self, keyword: str, gives: str) -> float | InputError | None:
        """One number; a list of one or of equal ones counts as it."""
        found = self._numbers(keyword)
        if found is None or isinstance(found, str):
            return found and self.unusable(keyword, "one number", gives)
        if len(set(found)) > 1:
            return self.unusable(keyword, "one number", gives)
        return found[0] or None

    def angle(self, keyword: str) -> float | InputError | None:
        """One finite number, deg."""
        found = self._numbers(keyword, signed=True)
        if found is None or (not isinstance(found, str) and len(found) == 1):
            return found and found[0]
        return self.unusable(keyword, "one angle in degrees", "view")

    def signed(self, keyword: str, count: int, gives: str) -> np.ndarray | InputError | None:
        """So many finite numbers, or more of which the first count."""
        found = self._numbers(keyword, signed=True)
        if isinstance(found, str) or (found is not None and len(found) < count):
            return self.unusable(keyword, f"{count} numbers", gives)
        return None if found is None else np.array(found[:count])

    def pair(self, keyword: str, gives: str) -> np.ndarray | InputError | None:
        """Two numbers (row, column)."""
        found = self._numbers(keyword)
        if isinstance(found, str) or (found is not None and len(found) != 2):
            return self.unusable(keyword, "two positive numbers [row, column]", gives)
        return None if found is None or not all(found) else np.array(found)

    def dimensions(self, keyword: str, gives: str) -> list[float] | InputError | None:
        """One or two numbers."""
        found = self._numbers(keyword)
        if isinstance(found, str) or (found is not None and len(found) > 2):
            return self.unusable(keyword, "one or two positive numbers", gives)
        return None if found is None or not all(found) else found

    def first(self, gives: str, *keywords: str) -> tuple[float | InputError, str] | None:
        """The first of several tags that is there, with its source."""
        for keyword in keywords:
            value = self.number(keyword, gives)
            if value is not None:
                return value, "DICOM"
        return None

    def unusable(self, keyword: str, needed: str, gives: str) -> InputError:
        """What using a tag raises."""
        remedy = (
            ASK_VIEW
            if gives == "view"
            else f"correct the tag, or give {gives} in a geometry file with --geometry"
        )
        return InputError(
            f"{self.image_name}: {NAMES[keyword]} is '{self.text(keyword)}', not {needed}: {remedy}"
        )

    def _numbers(self, keyword: str, signed: bool = False) -> list[float] | str | None:
        """Numbers, None where absent, a text where something else is written."""
        value = self._metadata.get(keyword)
        if value is None or value == "":
            return None
        values = [value] if isinstance(value, str) or not isinstance(value, Sequence) else list(value)
        try:
            numbers = [float(one) for one in values]
        except (TypeError, ValueError):
            return str(value)
        usable = np.isfinite(numbers).all() and (signed or min(numbers) >= 0)
        return numbers if numbers and usable else str(value)
