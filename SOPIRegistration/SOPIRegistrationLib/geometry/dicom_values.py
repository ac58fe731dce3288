"""A geometry's values in an X-ray's DICOM tags: which tag, in which order, and how reliable.

Where the standard gives several ways to a value, the first that is there is taken (PS3.3 10.7, C.8.7.3,
C.8.7.5, C.8.11). A tag that is there but cannot be read (LAO 30, 0,3) becomes an error of the value it would
have given: raised if the value is needed, and never where a geometry file or the user gives it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry.rt_image import PATIENT_POSITIONS, principal_point, view_of_gantry
from SOPIRegistrationLib.geometry.tolerances import DICOM_TOLERANCES, SourceTolerances
from SOPIRegistrationLib.geometry.values import Values
from SOPIRegistrationLib.geometry.views import is_direction, nominal_view_from_angles, view_of_orientation

SDD_TAG = "Distance Source to Detector (0018,1110)"
SPACING_TAG = "Imager Pixel Spacing (0018,1164)"
_NAMES = {
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
# View Position: the side towards the detector for the laterals, the beam's way for the others.
_VIEWS = {"AP": "AP", "PA": "PA", "LL": "LLAT", "RL": "RLAT", "LLAT": "LLAT", "RLAT": "RLAT"}
# SNOMED CT's and SNOMED-RT's codes of the same (PS3.16 CID 4010).
_VIEW_CODES = {
    "399348003": "AP",
    "R-10206": "AP",
    "272479007": "PA",
    "R-10214": "PA",
    "399173006": "LLAT",
    "R-10236": "LLAT",
    "399198007": "RLAT",
    "R-10232": "RLAT",
}
# Spacings that come from the size of a field or film, not from the detector's pitch, in percent.
_FIELD_PERCENT, _INTENSIFIER_PERCENT = 2.0, 5.0
# Detectors have square pixels; a field is known to the millimetre.
_SQUARE = 0.05
# Source of a view that angles would have told, had they been numbers.
UNREADABLE_ANGLES = "DICOM positioner angles, which cannot be read"
_ASK_VIEW = 'give the view (--view AP, PA, LLAT or RLAT, or "view" in a geometry file)'


def values_from_dicom(
    metadata: dict, image_shape: tuple[int, int] | None, image_name: str
) -> tuple[Values, SourceTolerances]:
    """Values of DICOM tags, with their sources, and how far they are to be trusted.

    A zero distance or spacing, common in exports, counts as absent.

    Args:
        metadata: tags by keyword (``Radiograph.metadata``).
        image_shape: (rows, columns); without it nothing can be taken from the size of a field.
        image_name: the image's name, for messages.
    """
    tags = _Tags(metadata, image_name)
    if "RTImageSID" in metadata or "ImagePlanePixelSpacing" in metadata:
        return _values_of_rt_image(tags), DICOM_TOLERANCES
    values: Values = {}
    sod = tags.first("sod_mm", "DistanceSourceToPatient", "DistanceSourceToIsocenter")
    sdd = tags.first("sdd_mm", "DistanceSourceToDetector")
    factor = tags.number("EstimatedRadiographicMagnificationFactor", "sdd_mm")
    # A factor of one, the default of some exports, would put the patient into the detector.
    if not isinstance(factor, InputError) and not (factor or 0) > 1:
        factor = None
    if sdd is None and factor is not None:
        distance = tags.first("sdd_mm", "DistanceSourceToPatient")
        sdd = _product(factor, distance, "DICOM magnification factor x Distance Source to Patient")
    elif sod is None and factor is not None:
        inverse = factor if isinstance(factor, InputError) else 1 / factor
        sod = _product(inverse, sdd, "DICOM Distance Source to Detector by the magnification factor")
    if sdd is not None:
        values["sdd_mm"] = sdd
    if sod is not None:
        values["sod_mm"] = sod
    spacing, percent = _spacing(tags, factor, image_shape)
    if spacing is not None:
        values["pixel_spacing_mm"] = spacing
    values |= _view(tags)
    return values, DICOM_TOLERANCES.with_spacing_percent(percent)


class _Tags:
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
            _ASK_VIEW
            if gives == "view"
            else f"correct the tag, or give {gives} in a geometry file with --geometry"
        )
        return InputError(
            f"{self.image_name}: {_NAMES[keyword]} is '{self.text(keyword)}', not {needed}: {remedy}"
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


def _product(factor: float | InputError | None, distance, source: str):
    """A distance times a factor, with its source; None where there is no distance."""
    if distance is None:
        return None
    unusable = [one for one in (distance[0], factor) if isinstance(one, InputError)]
    return unusable[0] if unusable else factor * distance[0], source


def _spacing(tags: _Tags, factor, shape) -> tuple[tuple[Any, str] | None, float]:
    """((spacing at the detector (row, column), mm; its source) or None, its standard deviation, percent)."""
    key, usual = "pixel_spacing_mm", DICOM_TOLERANCES.pixel_spacing_percent
    imager = tags.pair("ImagerPixelSpacing", key)
    if imager is not None:
        return (imager, "DICOM"), usual
    element = tags.pair("DetectorElementSpacing", key)
    if element is not None:
        binning = tags.pair("DetectorBinning", key)
        for one in (element, binning):
            if isinstance(one, InputError):
                return (one, "DICOM"), usual
        source = f"DICOM {_NAMES['DetectorElementSpacing']}"
        if binning is None:
            return (element, f"{source}, without binning"), usual
        return (element * binning, f"{source} x {_NAMES['DetectorBinning']}"), usual
    if shape is not None:
        field = _spacing_of_field(tags, shape)
        if field is not None:
            return field
    scanned = tags.pair("NominalScannedPixelSpacing", key)
    if scanned is not None:
        return (scanned, f"DICOM {_NAMES['NominalScannedPixelSpacing']}"), _FIELD_PERCENT
    # Pixel Spacing is at the detector or in the patient: only its calibration type tells (PS3.3 10.7.1.3).
    pixel, kind = tags.pair("PixelSpacing", key), tags.text("PixelSpacingCalibrationType")
    if pixel is None:
        return None, usual
    if factor is None or kind not in ("GEOMETRY", "FIDUCIAL"):
        lacking = "Calibration Type" if kind not in ("GEOMETRY", "FIDUCIAL") else "a magnification factor"
        error = InputError(
            f"{tags.image_name} lacks {SPACING_TAG}: give {key} in a geometry file with --geometry (its "
            f"{_NAMES['PixelSpacing']} without {lacking} may be that of the detector or of the patient)"
        )
        return (error, "DICOM"), usual
    for one in (pixel, factor):
        if isinstance(one, InputError):
            return (one, "DICOM"), usual
    source = f"DICOM {_NAMES['PixelSpacing']}, in the patient ({kind}), x magnification factor"
    return (pixel * factor, source), _FIELD_PERCENT


def _spacing_of_field(tags: _Tags, shape: tuple[int, int]):
    """As :func:`_spacing`, from the size of the field that fills the image; None where none is given."""
    rows, columns = shape
    for keyword in ("FieldOfViewDimensionsInFloat", "FieldOfViewDimensions"):
        size = tags.dimensions(keyword, "pixel_spacing_mm")
        if size is None:
            continue
        source = f"DICOM {_NAMES[keyword]}"
        if isinstance(size, InputError):
            return (size, source), _FIELD_PERCENT
        if len(size) == 2:
            turned = tags.number("FieldOfViewRotation", "pixel_spacing_mm")
            if turned in (90.0, 270.0):
                size = size[::-1]
            # Rows first, as the standard has it, unless only the other order gives pixels that are square.
            spacing, exchanged = (np.array([a / rows, b / columns]) for a, b in (size, size[::-1]))
            if _are_square(exchanged) and not _are_square(spacing):
                spacing = exchanged
            return (spacing, f"{source} over rows and columns"), _FIELD_PERCENT
        # One value is a diameter, or the edge of a square, along the longer side of the image.
        return (_across(tags, size[0], shape), f"{source} over the columns"), _FIELD_PERCENT
    diameter = tags.number("IntensifierSize", "pixel_spacing_mm")
    if diameter is None:
        return None
    source = f"DICOM {_NAMES['IntensifierSize']} over the columns"
    if isinstance(diameter, InputError):
        return (diameter, source), _INTENSIFIER_PERCENT
    return (_across(tags, diameter, shape), source), _INTENSIFIER_PERCENT


def _across(tags: _Tags, size_mm: float, shape: tuple[int, int]) -> np.ndarray | InputError:
    """(row, column) spacing, mm, where a length is the longer side's; pixels as high as their aspect says."""
    aspect = tags.pair("PixelAspectRatio", "pixel_spacing_mm")
    if isinstance(aspect, InputError):
        return aspect
    high = 1.0 if aspect is None else aspect[0] / aspect[1]
    rows, columns = shape
    return np.array([high, 1.0]) * size_mm / max(rows * high, columns)


def _are_square(spacing: np.ndarray) -> bool:
    return bool(abs(spacing[0] / spacing[1] - 1) < _SQUARE)


def _view(tags: _Tags) -> Values:
    """The view and how the image was stored; an InputError as the view where a tag only half tells it."""
    written = tags.text("PatientOrientation")
    orientation = tuple(written.split("\\")) if written else ()
    usable = len(orientation) == 2 and all(is_direction(one) for one in orientation)
    values: Values = {}
    if usable:
        values["patient_orientation"] = orientation, "DICOM"
    elif orientation:
        values["patient_orientation"] = (
            None,
            f"DICOM {_NAMES['PatientOrientation']} '{written}' does not tell: taken as not mirrored",
        )
    primary, secondary = (tags.angle(f"Positioner{which}Angle") for which in ("Primary", "Secondary"))
    for angle in (primary, secondary):
        if isinstance(angle, InputError):
            return {**values, "view": (angle, UNREADABLE_ANGLES)}
    if primary is not None:
        said = f"{secondary:g}" if secondary is not None else "none, taken as 0"
        rotation = nominal_view_from_angles(primary, secondary or 0.0)
        return {**values, "view": (rotation, f"DICOM positioner angles {primary:g} and {said} deg")}
    stated = _stated_view(tags)
    if stated is not None:
        return {**values, "view": stated}
    if orientation:
        view = view_of_orientation(orientation) if usable else None
        if view is None:
            error = InputError(
                f"{tags.image_name}: {_NAMES['PatientOrientation']} is '{written}', which does not tell the "
                f"view: {_ASK_VIEW}"
            )
            return {**values, "view": (error, "DICOM")}
        return {**values, "view": (view, "default for DICOM Patient Orientation")}
    if tags.text("PositionerIsocenterPrimaryAngle"):
        error = InputError(
            f"{tags.image_name} tells the C-arm's angles against the room alone "
            f"({_NAMES['PositionerIsocenterPrimaryAngle']}), not against the patient: {_ASK_VIEW}"
        )
        return {**values, "view": (error, "DICOM")}
    return values


def _stated_view(tags: _Tags) -> tuple[str | InputError, str] | None:
    """The view that a radiographer's tags name, an error where they name another; None without them."""
    position, code = tags.text("ViewPosition"), tags.text("ViewCodeSequence")
    if position in _VIEWS:
        return _VIEWS[position], "DICOM View Position"
    if code.partition("\\")[0] in _VIEW_CODES:
        return _VIEW_CODES[code.partition("\\")[0]], "DICOM View Code"
    for keyword, written in (("ViewPosition", position), ("ViewCodeSequence", code)):
        if written:
            return tags.unusable(keyword, "AP, PA, left or right lateral", "view"), "DICOM"
    return None


def _values_of_rt_image(tags: _Tags) -> Values:
    """Values of an RT image, which has tags of its own for all."""
    values: Values = {}
    for name, keyword in (("sdd_mm", "RTImageSID"), ("sod_mm", "RadiationMachineSAD")):
        if (value := tags.number(keyword, name)) is not None:
            values[name] = value, f"DICOM {_NAMES[keyword]}"
    spacing = tags.pair("ImagePlanePixelSpacing", "pixel_spacing_mm")
    if spacing is not None:
        values["pixel_spacing_mm"] = spacing, f"DICOM {_NAMES['ImagePlanePixelSpacing']}"
    key = "principal_point_px"
    position = tags.signed("RTImagePosition", 2, key)
    receptor = tags.signed("XRayImageReceptorTranslation", 2, key)
    if position is not None and isinstance(spacing, np.ndarray):
        errors = [one for one in (position, receptor, _odd_plane(tags)) if isinstance(one, InputError)]
        shift = np.zeros(2) if receptor is None else receptor
        point = errors[0] if errors else principal_point(position, spacing, shift)
        values[key] = point, f"DICOM {_NAMES['RTImagePosition']}"
    values["view"] = _view_of_rt_image(tags)
    return values


def _odd_plane(tags: _Tags) -> InputError | None:
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


def _view_of_rt_image(tags: _Tags) -> tuple[np.ndarray | InputError, str]:
    gantry, support, receptor = (
        tags.angle(keyword) for keyword in ("GantryAngle", "PatientSupportAngle", "XRayImageReceptorAngle")
    )
    position = tags.text("PatientPosition")
    for angle in (gantry, support, receptor):
        if isinstance(angle, InputError):
            return angle, UNREADABLE_ANGLES
    if gantry is None:
        return InputError(f"{tags.image_name} lacks {_NAMES['GantryAngle']}: {_ASK_VIEW}"), "DICOM"
    if position not in PATIENT_POSITIONS:
        return tags.unusable("PatientPosition", ", ".join(PATIENT_POSITIONS), "view"), "DICOM"
    if receptor:
        return tags.unusable("XRayImageReceptorAngle", "0", "view"), "DICOM"
    source = (
        f"DICOM gantry angle {gantry:g} and patient support angle {support or 0:g} deg, patient {position}"
    )
    return view_of_gantry(gantry, support or 0.0, position), source
