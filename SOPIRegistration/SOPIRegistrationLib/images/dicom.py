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
from SOPIRegistrationLib.geometry.rt_image import RT_IMAGE_KEYWORDS
from SOPIRegistrationLib.images.dicom_tags import frame_value, plain_value, quiet_pydicom, sequence_items
from SOPIRegistrationLib.images.grayscale import polarity_of
from SOPIRegistrationLib.images.itk_reading import image_reader, read_pixels
from SOPIRegistrationLib.images.radiograph import Radiograph, chosen_frame
from SOPIRegistrationLib.images.shutters import shown_by_tags
from SOPIRegistrationLib.images.stored_pixels import decoded_pixels, is_padding, require_pixel_tags

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
    "PositionerIsocenterPrimaryAngle",
    "ViewPosition",
    "PatientOrientation",
    "PatientPosition",
    "PixelIntensityRelationship",
    "PixelAspectRatio",
    "DetectorPrimaryAngle",
    "DetectorSecondaryAngle",
    "ColumnAngulation",
    "FieldOfViewOrigin",
    "FieldOfViewHorizontalFlip",
    "DetectorActiveDimensions",
    *RT_IMAGE_KEYWORDS,
)
# Code Value, or the meaning of codes that are no known view.
_VIEW_CODE = ("CodeValue", "CodeMeaning")
# What may hold a projection: X-ray modalities, and those of pictures of unknown origin.
_PROJECTIONS = ("XA", "RF", "DX", "CR", "DR", "RG", "DF", "MG", "IO", "PX", "RTIMAGE", "OT", "SC", "")

# Three values a pixel, which pydicom returns as red, green and blue, or a palette of them.
_PALETTE = "PALETTE COLOR"
_COLOURS = (_PALETTE, "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")


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
        complete = "PixelData" in dataset
    except Exception:  # pydicom raises whatever its parser trips over
        complete = False
    if not complete:
        raise InputError(f"X-ray {path} is not a readable DICOM image: copy or export it again")
    if modality not in _PROJECTIONS:
        raise InputError(f"X-ray {path} is a {modality} image: give a projection (XA, RF, DX or CR)")
    require_pixel_tags(dataset, path, "X-ray")
    photometric = str(dataset.PhotometricInterpretation).upper()
    is_gray = photometric.startswith("MONOCHROME")
    if not is_gray and photometric not in _COLOURS:
        raise InputError(f"X-ray {path} is a colour image ({photometric}): give the grayscale original")
    index = chosen_frame(frame, frames, path)
    pixels = _stored_pixels(dataset, path, index, frames)
    if photometric == _PALETTE:
        pixels = _looked_up_colours(pixels, dataset, path)
    if not is_gray:
        pixels = _gray_of_colours(pixels, path, photometric)
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    polarity = polarity_of(dataset, pixels, index)
    return Radiograph(
        pixels,
        path.name,
        polarity.bone_dark,
        _geometry_tags(dataset, index, frames),
        polarity.expected,
        _seen(dataset, index, pixels),
    )


def _seen(dataset, index: int, pixels: np.ndarray) -> np.ndarray | None:
    """Bool (rows, columns), where something was measured and is shown; None for everywhere."""
    shown, padding = shown_by_tags(dataset, index, pixels.shape), is_padding(dataset, pixels)
    if padding is None or padding.mean() in (0.0, 1.0):
        return shown
    return ~padding if shown is None else shown & ~padding


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


def _looked_up_colours(pixels: np.ndarray, dataset, path: Path) -> np.ndarray:
    """(rows, columns, 3) colours of indices into a palette, which screenshots have of gray pictures, too."""
    try:
        return pydicom.pixels.apply_color_lut(pixels, dataset)
    except Exception:  # pydicom raises whatever it trips over
        raise InputError(
            f"X-ray {path} has a colour palette that cannot be read: give the grayscale original"
        ) from None


def _gray_of_colours(pixels: np.ndarray, path: Path, photometric: str) -> np.ndarray:
    """The gray picture that a secondary capture often stores as three equal colours; InputError for
    others."""
    if pixels.ndim != 3 or (pixels != pixels[..., :1]).any():
        raise InputError(f"X-ray {path} is a colour image ({photometric}): give the grayscale original")
    return np.ascontiguousarray(pixels[..., 0])


def _stored_pixels(dataset, path: Path, index: int, frames: int) -> np.ndarray:
    try:
        return decoded_pixels(dataset, dataset) if frames == 1 else decoded_pixels(path, dataset, index)
    except Exception:
        # Compressed, and pydicom has no plug-in for it: GDCM, inside SimpleITK, mostly can. Of what is not
        # compressed it fills up what is missing.
        try:
            if not _is_compressed(dataset) and _is_short(dataset):
                raise InputError("pixels are missing")
            pixels = _decoded_by_gdcm(path, index)
        except InputError:
            raise InputError(
                f"X-ray {path} is damaged or compressed in a way that cannot be decoded: copy or export it "
                "again, uncompressed"
            ) from None
    # GDCM has applied the rescale and turned MONOCHROME1 over: back to the values as stored.
    slope, intercept = (plain_value(dataset, keyword) for keyword in ("RescaleSlope", "RescaleIntercept"))
    if isinstance(slope, float) and isinstance(intercept, float) and slope:
        pixels = (pixels - intercept) / slope
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        pixels = 2.0 ** int(dataset.BitsStored) - 1 - pixels
    return pixels


def _is_compressed(dataset) -> bool:
    syntax = getattr(dataset.file_meta, "TransferSyntaxUID", None)
    return syntax is not None and not syntax.is_private and syntax.is_compressed


def _is_short(dataset) -> bool:
    """Whether there are fewer bytes than pixels, were they not compressed."""
    pixels = int(dataset.Rows) * int(dataset.Columns) * int(dataset.get("NumberOfFrames", 1) or 1)
    bits = int(dataset.BitsAllocated) * int(dataset.get("SamplesPerPixel", 1) or 1)
    return len(dataset.PixelData) < pixels * bits // 8


def _decoded_by_gdcm(path: Path, index: int) -> np.ndarray:
    """(rows, columns) float32 of a frame; rescaled, and with MONOCHROME1 turned over."""
    reader = image_reader(path, "X-ray", "DICOM")
    width, height = reader.GetSize()[:2]
    if reader.GetDimension() == 3:
        reader.SetExtractIndex((0, 0, index))
        reader.SetExtractSize((width, height, 0))
    return sitk.GetArrayFromImage(read_pixels(reader, path, "X-ray")).astype(np.float32)


def _geometry_tags(dataset, index: int, frames: int) -> dict:
    """Tags by keyword: numbers where they are, what was written where they are not (LAO 30, 0,3)."""
    tags = {}
    for keyword in _GEOMETRY_KEYWORDS:
        value = frame_value(dataset, keyword, index)
        if value is not None:
            tags[keyword] = value
    for code in sequence_items(dataset, "ViewCodeSequence")[:1]:
        tags["ViewCodeSequence"] = [plain_value(code, keyword) or "" for keyword in _VIEW_CODE]
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
