"""The spacing of an X-ray's pixels in its DICOM tags, at the detector; which tag, and how reliable.

The first that is there is taken, in the order that the standard justifies (PS3.3 10.7, C.8.7.3, C.8.11).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry.dicom_tag_values import NAMES, SPACING_TAG, Tags
from SOPIRegistrationLib.geometry.tolerances import DICOM_TOLERANCES

# Spacings that come from the size of a field or film, not from the detector's pitch, in percent.
_FIELD_PERCENT, _INTENSIFIER_PERCENT = 2.0, 5.0
# They are 10 to 40 cm wide, their magnified fields a third of that.
_SMALLEST_INTENSIFIER_MM = 45.0
# Detectors have square pixels; a field is known to the millimetre.
_SQUARE = 0.05
_KEY, _USUAL_PERCENT = "pixel_spacing_mm", DICOM_TOLERANCES.pixel_spacing_percent

# ((spacing (row, column), mm, or the error that using it raises; its source), standard deviation, percent)
Spacing = tuple[tuple[Any, str], float]


def spacing_of_tags(
    tags: Tags, factor: float | InputError | None, shape: tuple[int, int] | None
) -> Spacing | None:
    """The spacing, its source and standard deviation; None where no tag tells of one.

    Args:
        tags: of the X-ray.
        factor: its magnification of the patient, by which spacings in the patient are multiplied.
        shape: rows, columns; without it nothing can be taken from the size of a field.
    """
    return (
        _of_imager(tags)
        or _of_elements(tags)
        or (None if shape is None else _of_field(tags, shape) or _of_intensifier(tags, shape))
        or _of_film(tags)
        or _of_patient(tags, factor)
    )


def _of_imager(tags: Tags) -> Spacing | None:
    imager = tags.pair("ImagerPixelSpacing", _KEY)
    return None if imager is None else ((imager, "DICOM"), _USUAL_PERCENT)


def _of_elements(tags: Tags) -> Spacing | None:
    element = tags.pair("DetectorElementSpacing", _KEY)
    if element is None:
        return None
    binning = tags.pair("DetectorBinning", _KEY)
    for one in (element, binning):
        if isinstance(one, InputError):
            return (one, "DICOM"), _USUAL_PERCENT
    source = f"DICOM {NAMES['DetectorElementSpacing']}"
    if binning is None:
        return (element, f"{source}, without binning"), _USUAL_PERCENT
    return (element * binning, f"{source} x {NAMES['DetectorBinning']}"), _USUAL_PERCENT


def _of_field(tags: Tags, shape: tuple[int, int]) -> Spacing | None:
    """From the size of the field that fills the image."""
    for keyword in ("FieldOfViewDimensionsInFloat", "FieldOfViewDimensions"):
        size, source = tags.dimensions(keyword, _KEY), f"DICOM {NAMES[keyword]}"
        if isinstance(size, InputError):
            return (size, source), _FIELD_PERCENT
        if size is not None and len(size) == 2:
            return (_of_two(tags, size, shape), f"{source} over rows and columns"), _FIELD_PERCENT
        if size is not None:
            # One value is a diameter, or the edge of a square, along the longer side of the image.
            return (_across(tags, size[0], shape), f"{source} over the columns"), _FIELD_PERCENT
    return None


def _of_two(tags: Tags, size: list[float], shape: tuple[int, int]) -> np.ndarray:
    """(row, column) spacing, mm, of a field's two dimensions, mm."""
    rows, columns = shape
    if tags.number("FieldOfViewRotation", _KEY) in (90.0, 270.0):
        size = size[::-1]
    # Rows first, as the standard has it, unless only the other order gives pixels that are square.
    spacing, exchanged = (np.array([a / rows, b / columns]) for a, b in (size, size[::-1]))
    return exchanged if _are_square(exchanged) and not _are_square(spacing) else spacing


def _of_intensifier(tags: Tags, shape: tuple[int, int]) -> Spacing | None:
    diameter = tags.number("IntensifierSize", _KEY)
    if diameter is None:
        return None
    source = f"DICOM {NAMES['IntensifierSize']} over the columns"
    if isinstance(diameter, float) and diameter < _SMALLEST_INTENSIFIER_MM:
        diameter = tags.unusable("IntensifierSize", "a diameter in mm, but one in cm or inches", _KEY)
    if isinstance(diameter, InputError):
        return (diameter, source), _INTENSIFIER_PERCENT
    return (_across(tags, diameter, shape), source), _INTENSIFIER_PERCENT


def _across(tags: Tags, size_mm: float, shape: tuple[int, int]) -> np.ndarray | InputError:
    """(row, column) spacing, mm, where a length is the longer side's; pixels as high as their aspect says."""
    aspect = tags.pair("PixelAspectRatio", _KEY)
    if isinstance(aspect, InputError):
        return aspect
    high = 1.0 if aspect is None else aspect[0] / aspect[1]
    rows, columns = shape
    return np.array([high, 1.0]) * size_mm / max(rows * high, columns)


def _are_square(spacing: np.ndarray) -> bool:
    return bool(abs(spacing[0] / spacing[1] - 1) < _SQUARE)


def _of_film(tags: Tags) -> Spacing | None:
    scanned, name = tags.pair("NominalScannedPixelSpacing", _KEY), NAMES["NominalScannedPixelSpacing"]
    return None if scanned is None else ((scanned, f"DICOM {name}"), _FIELD_PERCENT)


def _of_patient(tags: Tags, factor: float | InputError | None) -> Spacing | None:
    """Pixel Spacing is at the detector or in the patient: only its calibration type tells (10.7.1.3)."""
    pixel, kind = tags.pair("PixelSpacing", _KEY), tags.text("PixelSpacingCalibrationType")
    if pixel is None:
        return None
    if factor is None or kind not in ("GEOMETRY", "FIDUCIAL"):
        lacking = "Calibration Type" if kind not in ("GEOMETRY", "FIDUCIAL") else "a magnification factor"
        error = InputError(
            f"{tags.image_name} lacks {SPACING_TAG}: give {_KEY} in a geometry file with --geometry (its "
            f"{NAMES['PixelSpacing']} without {lacking} may be that of the detector or of the patient)"
        )
        return (error, "DICOM"), _USUAL_PERCENT
    for one in (pixel, factor):
        if isinstance(one, InputError):
            return (one, "DICOM"), _USUAL_PERCENT
    source = f"DICOM {NAMES['PixelSpacing']}, in the patient ({kind}), x magnification factor"
    return (pixel * factor, source), _FIELD_PERCENT
