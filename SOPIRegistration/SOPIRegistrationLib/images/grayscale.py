"""DICOM's grayscale pipeline, as far as it tells which stored values are bone.

Stored values pass the Modality LUT (or rescale), the VOI LUT (or window) and the Presentation LUT on their
way to the screen (PS3.3 C.7.6.3.1.2, C.11.1, C.11.2, C.11.6); each may turn the scale over. That bones are
shown white is a convention of radiography, and so only a hypothesis about an image; what the file says of the
X-ray intensity itself (C.8.7.1.1.3, C.8.11.3.1.2) is certain.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from SOPIRegistrationLib.images.dicom_tags import frame_value, plain_value, sequence_items

# Modalities whose pictures are read with white bones.
_WHITE_BONES = ("DX", "CR", "MG", "IO", "PX")
# The X-Ray Image Module, in which LIN and LOG rise with the intensity.
_FLUOROSCOPY = ("XA", "RF")


@dataclass(frozen=True)
class Polarity:
    """What a file tells of its bones.

    Attributes:
        bone_dark: whether bones are dark in the stored values, where the file says so.
        expected: the same where it is only to be expected from how the image is displayed. Both None where
            nothing tells.
        reason: the tag or convention it follows from; empty where nothing tells.
    """

    bone_dark: bool | None = None
    expected: bool | None = None
    reason: str = ""


def polarity_of(dataset, pixels: np.ndarray, index: int = 0) -> Polarity:
    """Which stored values of an X-ray are bone.

    Args:
        dataset: the pydicom data set. What enhanced objects say of the X-ray intensity is looked for in their
            functional groups, how they are displayed is not.
        pixels: (rows, columns) stored values of the frame.
        index: of the frame, from 0.
    """
    modality, intent = _text(dataset, "Modality"), _text(dataset, "PresentationIntentType")
    shown = None
    is_raw = intent == "FOR PROCESSING"
    if modality in _WHITE_BONES and not is_raw:
        rising = display_rises(dataset, pixels)
        shown = None if rising is None else not rising
    sign = frame_value(dataset, "PixelIntensityRelationshipSign", index)
    if sign in (1, -1):
        said, reason = sign == 1, f"Pixel Intensity Relationship Sign {sign:g}"
        is_displayed = bool(intent or _text(dataset, "PresentationLUTShape"))
        if shown is not None and is_displayed and shown != said:
            return Polarity(None, said, f"{reason}, against what the display pipeline shows")
        return Polarity(said, None, reason)
    relationship = str(frame_value(dataset, "PixelIntensityRelationship", index) or "").upper()
    if modality in _FLUOROSCOPY and relationship in ("LIN", "LOG"):
        return Polarity(True, None, f"Pixel Intensity Relationship {relationship}")
    if shown is not None:
        return Polarity(None, shown, "the display pipeline, if bones are shown white")
    return Polarity()


def display_rises(dataset, pixels: np.ndarray) -> bool | None:
    """Whether higher stored values are displayed brighter; None where the pipeline does not tell.

    Followed by the stored values that most of the image's contrast lies between: a look-up table may be flat,
    or fall, elsewhere.
    """
    low, high = np.percentile(pixels, (2, 98))
    if low == high:
        low, high = float(pixels.min()), float(pixels.max())
    values = np.linspace(low, high, 9)
    try:
        values = _modality_values(dataset, values)
        values = _presented(dataset, _voi_values(dataset, values))
    except (AttributeError, IndexError, TypeError, ValueError):
        # A table or a slope that cannot be read says nothing.
        return None
    rise = values[-1] - values[0]
    return bool(rise > 0) if rise else None


def _text(dataset, keyword: str) -> str:
    return str(plain_value(dataset, keyword) or "").upper()


def _modality_values(dataset, values: np.ndarray) -> np.ndarray:
    """Modality LUT (C.11.1): a table, or slope and intercept."""
    tables = sequence_items(dataset, "ModalityLUTSequence")
    if tables:
        return _looked_up(tables[0], values, dataset)
    slope, intercept = (plain_value(dataset, keyword) for keyword in ("RescaleSlope", "RescaleIntercept"))
    return float(1 if slope is None else slope) * values + float(intercept or 0)


def _voi_values(dataset, values: np.ndarray) -> np.ndarray:
    """VOI LUT (C.11.2): a table turns the scale over where it falls, a window never does."""
    tables = sequence_items(dataset, "VOILUTSequence")
    return _looked_up(tables[0], values, dataset) if tables else values


def _presented(dataset, values: np.ndarray) -> np.ndarray:
    """Presentation LUT Shape (C.11.6), or, in the images that have none, Photometric Interpretation."""
    shape = _text(dataset, "PresentationLUTShape")
    if shape:
        # INVERSE goes with MONOCHROME1 (C.8.11.3.1.2): both say the same, once.
        return -values if shape == "INVERSE" else values
    return -values if _text(dataset, "PhotometricInterpretation") == "MONOCHROME1" else values


def _looked_up(item, values: np.ndarray, dataset) -> np.ndarray:
    entries, first, bits = (int(value) for value in item.LUTDescriptor)
    entries = entries or 2**16
    if plain_value(dataset, "PixelRepresentation") == 1 and first >= 2**15:
        # Written as unsigned, meant as signed (C.11.1.1).
        first -= 2**16
    data = item.LUTData
    if isinstance(data, bytes):
        wide = len(data) >= 2 * entries
        data = np.frombuffer(data, "<u2" if wide else "u1")
    table = np.asarray(data, dtype=np.float64).ravel()[:entries]
    if bits <= 8 and table.size and table.max() > 255:
        # Two 8-bit entries in each word (C.11.1.1.1).
        table = np.asarray(data, dtype="<u2").view("u1")[:entries].astype(np.float64)
    return table[np.clip(np.rint(values - first), 0, len(table) - 1).astype(int)]
