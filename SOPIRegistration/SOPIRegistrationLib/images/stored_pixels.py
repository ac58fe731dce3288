"""Stored values of DICOM pixels: which bits of a cell they are, and which say that nothing is there."""

from __future__ import annotations

import numpy as np
import pydicom

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.images.attenuation import AIR_HU
from SOPIRegistrationLib.images.dicom_tags import plain_value, tag_name

# Transfer syntaxes of codecs, which hold the values alone; in all others cells are as the data set says.
_CODECS = "1.2.840.10008.1.2.4."
# Without these nobody knows which bytes are which pixel, or what they are.
_NEEDED = ("Rows", "Columns", "BitsAllocated", "PixelRepresentation")


def require_pixel_tags(dataset, path, what: str) -> None:
    """Refuse an image whose tags do not say what its bytes are; what can only be one thing is filled in.

    Args:
        dataset: the pydicom data set; one value a pixel, all bits of it, in grayscale, unless it says else.
        path: its file, for messages.
        what: what to call it there ("CT").

    Raises:
        InputError: a tag is missing, or there are more pixels than the tags say.
    """
    has_bits = "PixelData" in dataset
    if plain_value(dataset, "BitsAllocated") == 8.0 or not has_bits:
        # Bytes are unsigned, and floating-point numbers are neither.
        _fill_in(dataset, "PixelRepresentation", 0)
    _fill_in(dataset, "SamplesPerPixel", 1)
    _fill_in(dataset, "PhotometricInterpretation", "MONOCHROME2")
    if has_bits:
        _fill_in(dataset, "BitsStored", plain_value(dataset, "BitsAllocated"))
    numbers = (*_NEEDED, "SamplesPerPixel", *(("BitsStored",) if has_bits else ()))
    lacking = [
        tag_name(keyword) for keyword in numbers if not isinstance(plain_value(dataset, keyword), float)
    ]
    if lacking:
        raise InputError(
            f"{what} {path} lacks {' and '.join(lacking)}, or has no number there: export it again"
        )
    if has_bits:
        _fill_in(dataset, "HighBit", int(dataset.BitsStored) - 1)
        _require_no_more_pixels(dataset, path, what)


def _fill_in(dataset, keyword: str, value: float | str | None) -> None:
    if plain_value(dataset, keyword) is None and value is not None:
        setattr(dataset, keyword, int(value) if isinstance(value, float) else value)


def _require_no_more_pixels(dataset, path, what: str) -> None:
    """Raise InputError where pixels follow those that the tags tell of: rows, columns or frames are wrong."""
    syntax = getattr(dataset.file_meta, "TransferSyntaxUID", None)
    is_coded = syntax is not None and not syntax.is_private and syntax.is_encapsulated
    frames = int(dataset.get("NumberOfFrames", 1) or 1)
    # Of a long run only the frame that is wanted is read.
    if (
        is_coded
        or dataset.SamplesPerPixel != 1
        or (frames > 1 and dataset.get_item("PixelData").value is None)
    ):
        return
    row = int(dataset.Columns) * int(dataset.BitsAllocated) // 8
    rest = dataset.PixelData[row * int(dataset.Rows) * frames :]
    # Zeros fill up the blocks of old media.
    if len(rest) >= row > 0 and any(rest):
        raise InputError(
            f"{what} {path} has more pixels than its Rows, Columns and Number of Frames (0028,0010, 0011, "
            "0008) say, one of which is wrong: export it again"
        )


def decoded_pixels(source, dataset, index: int | None = None) -> np.ndarray:
    """Stored values, without what lies in the other bits of their cells (PS3.5 8.1.1): overlays and dirt.

    Args:
        source: what to decode: the data set, or its file, of which one frame only is then read.
        dataset: the pydicom data set.
        index: of the frame, from 0; all unless given.

    Raises:
        Exception: whatever pydicom's decoders trip over.
    """
    allocated = int(dataset.BitsAllocated)
    # Floating-point pixels have no bits of their own.
    stored = int(dataset.get("BitsStored") or allocated)
    below = _bits_below(dataset)
    # The decoder takes the lowest bits for the value: it is given all up to the highest.
    options = {"bits_stored": stored + below} if below else {}
    pixels = np.asarray(pydicom.pixels.pixel_array(source, index=index, **options))
    if pixels.dtype.kind not in "iu" or not 0 < stored < allocated:
        return pixels
    above = pixels.dtype.itemsize * 8 - stored - below
    return (pixels << above) >> (above + below)


def _bits_below(dataset) -> int:
    """How many bits of a cell lie below the value; none where High Bit (0028,0102) says nothing else."""
    syntax = str(getattr(dataset.file_meta, "TransferSyntaxUID", ""))
    high = plain_value(dataset, "HighBit")
    if not isinstance(high, float) or "BitsStored" not in dataset or syntax.startswith(_CODECS):
        return 0
    below = int(high) + 1 - int(dataset.BitsStored)
    return below if 0 < below <= int(dataset.BitsAllocated) - int(dataset.BitsStored) else 0


def is_padding(dataset, pixels: np.ndarray) -> np.ndarray | None:
    """Bool, where Pixel Padding Value (0028,0120) and its Range Limit say that no stored value was measured;
    or None."""
    value, limit = (plain_value(dataset, f"PixelPadding{what}") for what in ("Value", "RangeLimit"))
    if not isinstance(value, float):
        return None
    ends = [_as_stored(end, dataset) for end in (value, limit) if isinstance(end, float)]
    return (pixels >= min(ends)) & (pixels <= max(ends))


def _as_stored(value: float, dataset) -> float:
    """A value with the sign that the pixels have: writers mix up 63536 and -2000."""
    cells = 2.0 ** (plain_value(dataset, "BitsAllocated") or 16)
    if plain_value(dataset, "PixelRepresentation") == 1:
        return value - cells if value >= cells / 2 else value
    return value + cells if value < 0 else value


# HU that are measured, and so may be anything.
_TISSUE_HU = -950.0, 2500.0
_AIR_BELOW_HU = -500.0


def with_air_for_padding(values: np.ndarray, padding: np.ndarray | None, intercept: float) -> np.ndarray:
    """A CT's plane, its padding air; itself where padding is what tissue measures, as exports may name 0.

    Args:
        values: rescaled.
        padding: where it is, or None.
        intercept: of the rescale: one of -1024 tells that these are Hounsfield units. Of other scales the
            lowest value that was measured is air.
    """
    if padding is None or not padding.any() or padding.all():
        return values
    padded, lowest = float(values[padding].flat[0]), float(values[~padding].min())
    if _TISSUE_HU[0] < padded < _TISSUE_HU[1]:
        return values
    is_hu = min(padded, lowest, intercept) <= _AIR_BELOW_HU
    return np.where(padding, values.dtype.type(AIR_HU if is_hu else lowest), values)
