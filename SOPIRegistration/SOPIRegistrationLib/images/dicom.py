"""DICOM X-ray projections.

A projection's geometry travels as ``Radiograph.metadata``, tags by keyword; the enhanced objects keep them in
functional groups, per frame before shared.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.images.dicom_tags import frame_value, plain_value, quiet_pydicom
from SOPIRegistrationLib.images.grayscale import polarity_of
from SOPIRegistrationLib.images.itk_reading import image_reader, read_pixels
from SOPIRegistrationLib.images.radiograph import Radiograph, chosen_frame

_GEOMETRY_KEYWORDS = (
    "DistanceSourceToDetector",
    "DistanceSourceToPatient",
    "DistanceSourceToIsocenter",
    "EstimatedRadiographicMagnificationFactor",
    "ImagerPixelSpacing",
    "DetectorElementSpacing",
    "DetectorBinning",
    "FieldOfViewDimensions",
    "FieldOfViewDimensionsInFloat",
    "FieldOfViewRotation",
    "IntensifierSize",
    "NominalScannedPixelSpacing",
    "PixelSpacing",
    "PixelSpacingCalibrationType",
    "PositionerPrimaryAngle",
    "PositionerSecondaryAngle",
    "ViewPosition",
    "PatientOrientation",
    "PixelIntensityRelationship",
)
# What may hold a projection: X-ray modalities, and those of pictures of unknown origin.
_PROJECTIONS = ("XA", "RF", "DX", "CR", "DR", "RG", "DF", "MG", "IO", "PX", "RTIMAGE", "OT", "SC", "")


def modality_of(path: Path) -> str:
    """Modality (0008,0060) of a DICOM file; empty where it has none or cannot be read."""
    with quiet_pydicom():
        try:
            dataset = pydicom.dcmread(path, force=True, stop_before_pixels=True, specific_tags=["Modality"])
            return str(plain_value(dataset, "Modality") or "")
        except Exception:  # pydicom raises whatever its parser trips over
            return ""


@quiet_pydicom()
def read_dicom_radiograph(path: Path, frame: int | None) -> Radiograph:
    """An X-ray frame of a DICOM file (XA, RF, DX, CR).

    Raises:
        InputError: damaged, another modality, colour, or a frame must be chosen.
    """
    try:
        # Of a long run, only the frame that is wanted is read.
        dataset = pydicom.dcmread(path, defer_size="1 MB", force=True)
        modality = str(plain_value(dataset, "Modality") or "")
        frames = int(dataset.get("NumberOfFrames", 1) or 1)
        photometric = str(dataset.get("PhotometricInterpretation", ""))
        complete = "PixelData" in dataset
    except Exception:  # pydicom raises whatever its parser trips over
        complete = False
    if not complete:
        raise InputError(f"X-ray {path} is not a readable DICOM image: copy or export it again")
    if modality not in _PROJECTIONS:
        raise InputError(f"X-ray {path} is a {modality} image: give a projection (XA, RF, DX or CR)")
    if not photometric.startswith("MONOCHROME"):
        raise InputError(f"X-ray {path} is a colour image ({photometric}): give the grayscale original")
    index = chosen_frame(frame, frames, path)
    pixels = _stored_pixels(dataset, path, index, frames)
    polarity = polarity_of(dataset, pixels)
    return Radiograph(
        pixels,
        path.name,
        polarity.bone_dark,
        _geometry_tags(dataset, index, frames),
        polarity.expected,
    )


def frames_of(path: Path) -> tuple[int, float | None]:
    """(number of frames, frames a second by Frame Time (0018,1063) or Cine Rate (0018,0040) if told).

    Raises:
        InputError: not a readable DICOM file.
    """
    with quiet_pydicom():
        try:
            dataset = pydicom.dcmread(path, force=True, stop_before_pixels=True)
            frames = int(dataset.get("NumberOfFrames", 1) or 1)
            frame_ms, rate = (plain_value(dataset, keyword) for keyword in ("FrameTime", "CineRate"))
        except Exception:  # pydicom raises whatever its parser trips over
            raise InputError(f"X-ray {path} is not a readable DICOM image: copy or export it again") from None
    if isinstance(frame_ms, int | float) and frame_ms > 0:
        return frames, 1000.0 / frame_ms
    return frames, float(rate) if isinstance(rate, int | float) and rate > 0 else None


def _stored_pixels(dataset, path: Path, index: int, frames: int) -> np.ndarray:
    try:
        if frames == 1:
            return np.asarray(dataset.pixel_array)
        return np.asarray(pydicom.pixels.pixel_array(path, index=index))
    except Exception:
        # Compressed, and pydicom has no plug-in for it: GDCM, inside SimpleITK, mostly can.
        try:
            reader = image_reader(path, "X-ray", "DICOM")
        except InputError:
            raise InputError(
                f"X-ray {path} is damaged or compressed in a way that cannot be decoded: copy or export it "
                "again, uncompressed"
            ) from None
    width, height = reader.GetSize()[:2]
    if reader.GetDimension() == 3:
        reader.SetExtractIndex((0, 0, index))
        reader.SetExtractSize((width, height, 0))
    pixels = sitk.GetArrayFromImage(read_pixels(reader, path, "X-ray")).astype(np.float32)
    # GDCM has applied the rescale and turned MONOCHROME1 over: back to the values as stored.
    slope, intercept = (plain_value(dataset, keyword) for keyword in ("RescaleSlope", "RescaleIntercept"))
    if isinstance(slope, float) and isinstance(intercept, float) and slope:
        pixels = (pixels - intercept) / slope
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        pixels = 2.0 ** int(dataset.BitsStored) - 1 - pixels
    return pixels


def _geometry_tags(dataset, index: int, frames: int) -> dict:
    """Tags by keyword: numbers where they are, what was written where they are not (LAO 30, 0,3)."""
    tags = {}
    for keyword in _GEOMETRY_KEYWORDS:
        value = frame_value(dataset, keyword, index)
        if value is not None:
            tags[keyword] = value
    for angle in ("PositionerPrimaryAngle", "PositionerSecondaryAngle"):
        tags |= _angle_of_frame(tags.get(angle), angle, dataset, index, frames)
    return tags


def _angle_of_frame(first, angle: str, dataset, index: int, frames: int) -> dict:
    """The angle of a frame of a rotating run (C.8.7.5.1.3), as a tag.

    The increment is the change from each frame to the next, or, of as many values as frames, the offset of
    each frame from the first angle.
    """
    increment = plain_value(dataset, angle + "Increment")
    if increment is None or frames == 1 or not isinstance(first, float):
        return {}
    if isinstance(increment, float):
        return {angle: first + index * increment}
    if not isinstance(increment, list) or not all(isinstance(one, float) for one in increment):
        return {angle: f"{first:g} with increments {increment}"}
    if len(increment) == frames:
        return {angle: first + increment[index]}
    return {angle: f"{first:g} with {len(increment)} increments for {frames} frames"}
