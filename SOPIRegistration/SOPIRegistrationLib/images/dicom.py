"""DICOM X-ray projections.

A projection's geometry travels as ``Radiograph.metadata``, tags by keyword; the enhanced objects keep them in
functional groups, per frame before shared.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.images.itk_reading import image_reader, read_pixels
from SOPIRegistrationLib.images.radiograph import Radiograph

_GEOMETRY_KEYWORDS = (
    "DistanceSourceToDetector",
    "DistanceSourceToPatient",
    "DistanceSourceToIsocenter",
    "ImagerPixelSpacing",
    "PositionerPrimaryAngle",
    "PositionerSecondaryAngle",
    "ViewPosition",
    "PatientOrientation",
    "PixelIntensityRelationship",
)
_VOLUME_MODALITIES = ("CT", "MR", "PT", "NM", "US")


def is_dicom(path: Path) -> bool:
    """Whether a file has the DICOM preamble."""
    with path.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def read_dicom_radiograph(path: Path, frame: int | None) -> Radiograph:
    """An X-ray frame of a DICOM file (XA, RF, DX, CR).

    Raises:
        InputError: damaged, another modality, colour, or a frame must be chosen.
    """
    import pydicom

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(path)
        modality = str(dataset.get("Modality", ""))
        frames = int(dataset.get("NumberOfFrames", 1) or 1)
        photometric = str(dataset.get("PhotometricInterpretation", ""))
        complete = "PixelData" in dataset
    except Exception:  # pydicom raises whatever its parser trips over
        complete = False
    if not complete:
        raise InputError(f"X-ray {path} is not a readable DICOM image: copy or export it again")
    if modality in _VOLUME_MODALITIES:
        raise InputError(f"X-ray {path} is a {modality} image: give a projection (XA, RF, DX or CR)")
    if not photometric.startswith("MONOCHROME"):
        raise InputError(f"X-ray {path} is a colour image ({photometric}): give the grayscale original")
    index = chosen_frame(frame, frames, path)
    return Radiograph(
        _stored_pixels(dataset, path, index, frames),
        path.name,
        _bone_dark(dataset, modality, photometric),
        _geometry_tags(dataset, index, frames),
    )


def chosen_frame(frame: int | None, frames: int, path) -> int:
    """Index from 0 of the frame numbered ``frame`` from 1, as DICOM numbers them.

    Raises:
        InputError: there are several and none is chosen, or none has this number.
    """
    if frame is None and frames == 1:
        return 0
    if frame is None:
        raise InputError(f"X-ray {path} has {frames} frames: choose one with --frame 1 to {frames}")
    if not 1 <= frame <= frames:
        raise InputError(f"X-ray {path} has no frame {frame}: choose --frame 1 to {frames}")
    return frame - 1


def _stored_pixels(dataset, path: Path, index: int, frames: int) -> np.ndarray:
    try:
        pixels = np.asarray(dataset.pixel_array)
        return pixels[index] if frames > 1 else pixels
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
    pixels = (pixels - float(dataset.get("RescaleIntercept", 0))) / float(dataset.get("RescaleSlope", 1))
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        pixels = 2.0 ** int(dataset.BitsStored) - 1 - pixels
    return pixels


def _bone_dark(dataset, modality: str, photometric: str) -> bool | None:
    """Whether bone is stored dark, where the file says so (PS3.3 C.8.11.3.1.2 for the sign, C.8.7.1.1.2)."""
    sign = dataset.get("PixelIntensityRelationshipSign")
    if sign in (1, -1):
        return sign == 1
    if modality == "XA" and dataset.get("PixelIntensityRelationship") in ("LIN", "LOG"):
        return True
    if modality in ("DX", "CR"):
        # Radiography is displayed with white bones: MONOCHROME1 says that the stored ones are dark.
        return photometric == "MONOCHROME1"
    return None


def _geometry_tags(dataset, index: int, frames: int) -> dict:
    def find(keyword):
        for groups, item in (
            ("PerFrameFunctionalGroupsSequence", index),
            ("SharedFunctionalGroupsSequence", 0),
        ):
            if len(dataset.get(groups, [])) > item:
                for element in dataset[groups][item].iterall():
                    if element.keyword == keyword and not element.is_empty:
                        return element.value
        return dataset.get(keyword)

    tags = {}
    for keyword in _GEOMETRY_KEYWORDS:
        value = find(keyword)
        if value is None or value == "":
            continue
        if isinstance(value, str):
            tags[keyword] = str(value)
        elif hasattr(value, "__len__"):
            tags[keyword] = [str(one) if isinstance(one, str) else float(one) for one in value]
        else:
            tags[keyword] = float(value)
    for angle in ("PositionerPrimaryAngle", "PositionerSecondaryAngle"):
        # In a rotating run every frame's increment counts from the first frame.
        increments = dataset.get(angle + "Increment")
        if angle in tags and hasattr(increments, "__len__") and len(increments) == frames > 1:
            tags[angle] += float(increments[index])
    return tags
