"""Planes of DICOM CTs and their places: a slice is one, an enhanced file holds many.

By the Image Plane Module (PS3.3 C.7.6.2), and of frames the Plane Position, Plane Orientation, Pixel Measures
and Pixel Value Transformation macros (C.7.6.16.2). A place that no tag gives is never made up.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.images.dicom_files import is_dicom
from SOPIRegistrationLib.images.dicom_tags import quiet_pydicom, tag_name

_GROUPS = ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence")
_TRANSFORMATION, _RESCALE = "PixelValueTransformationSequence", ("RescaleSlope", "RescaleIntercept")
_TAGS = [
    "SpecificCharacterSet",
    "ImageType",
    "SOPClassUID",
    "SOPInstanceUID",
    "Modality",
    "SeriesInstanceUID",
    "ConcatenationUID",
    "FrameOfReferenceUID",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SamplesPerPixel",
    "NumberOfFrames",
    "Rows",
    "Columns",
    *_RESCALE,
    "RescaleType",
    "AcquisitionNumber",
    "SegmentationType",
    *_GROUPS,
]


@dataclass(frozen=True)
class Plane:
    """One slice or frame.

    Attributes:
        path: its file.
        frame: its number in the file, from 0.
        layout: what planes of one volume share: rows, columns, values a pixel, frame of reference.
        spacing: (2,) mm between rows, between columns.
        axes: (3, 2) unit vectors, LPS, along increasing columns and along increasing rows.
        position: (3,) centre of the first pixel, LPS, mm.
        rescale: slope and intercept.
        is_localizer: whether it is a scout view.
        acquisition: Acquisition Number (0020,0012), empty where there is none.
        has_rescale: whether slope or intercept are given.
    """

    path: Path
    frame: int
    layout: tuple
    spacing: np.ndarray
    axes: np.ndarray
    position: np.ndarray
    rescale: tuple[float, float]
    is_localizer: bool
    acquisition: str = ""
    has_rescale: bool = True

    @property
    def normal(self) -> np.ndarray:
        """(3,) unit vector from plane to plane: rows, columns and it are right-handed."""
        return np.cross(self.axes[:, 0], self.axes[:, 1])

    def belongs_with(self, other: Plane) -> bool:
        """Whether both can be planes of one volume."""
        return (
            self.layout == other.layout
            and bool(np.allclose(self.spacing, other.spacing, rtol=1e-3, atol=0))
            and bool(np.allclose(self.axes, other.axes, rtol=0, atol=1e-3))
        )


def dicom_header(path: Path) -> Dataset | None:
    """What places a DICOM image, without its pixels; None for any other file."""
    try:
        if not is_dicom(path):
            return None
        with quiet_pydicom():
            return pydicom.dcmread(path, force=True, stop_before_pixels=True, specific_tags=_TAGS)
    except Exception:  # pydicom raises whatever its parser trips over
        return None


def value_of(dataset: Dataset, keyword: str):
    """The value of a tag; None where it is missing, empty or cannot be made out."""
    try:
        value = dataset.get(keyword)
    except Exception:  # pydicom converts when asked, and raises whatever its converters trip over
        return None
    return None if value is None or (isinstance(value, str) and not value) else value


def _integer(dataset: Dataset, keyword: str, default: int) -> int:
    try:
        return int(value_of(dataset, keyword) or default)
    except (TypeError, ValueError):
        return default


def frames_in(header: Dataset) -> int:
    """How many images a file holds, at least one."""
    return max(1, _integer(header, "NumberOfFrames", 1))


def _items(dataset: Dataset, keyword: str) -> list[Dataset]:
    value = value_of(dataset, keyword)
    return list(value) if isinstance(value, Sequence) else []


def planes_of(path: Path, header: Dataset, what: str) -> Iterator[Plane]:
    """The planes of one file.

    Raises:
        InputError: a tag that places them is missing or no number.
    """
    frames = frames_in(header)
    groups = _items(header, _GROUPS[0])
    if frames > 1 and not groups:
        raise InputError(
            f"{what} {path} has {frames} frames, but does not say where each lies (no Per-Frame Functional "
            "Groups Sequence (5200,9230)): export the CT as single slices or as Enhanced CT"
        )
    if groups and len(groups) != frames:
        raise InputError(
            f"{what} {path} has {frames} frames, but {len(groups)} items in Per-Frame Functional Groups "
            "Sequence (5200,9230): export it again"
        )
    shared = _items(header, _GROUPS[1])
    for frame in range(frames):
        places = [groups[frame], *shared[:1], header] if groups else [header]
        yield _plane(_Tags(places, path, what), path, frame, header)


def _plane(tags: _Tags, path: Path, frame: int, header: Dataset) -> Plane:
    position = tags.numbers("ImagePositionPatient", 3, "PlanePositionSequence")
    axes, spacing = _axes(tags), tags.numbers("PixelSpacing", 2, "PixelMeasuresSequence")
    if spacing.min() <= 0:
        raise tags.unusable("PixelSpacing", "every spacing must be above zero")
    slope = tags.number(_RESCALE[0], 1.0, _TRANSFORMATION)
    intercept = tags.number(_RESCALE[1], 0.0, _TRANSFORMATION)
    if slope == 0:
        raise tags.unusable("RescaleSlope", "it must not be zero")
    kinds = [value_of(header, "ImageType"), tags.find("FrameType", "CTImageFrameTypeSequence")]
    return Plane(
        path,
        frame,
        (
            _integer(header, "Rows", 0),
            _integer(header, "Columns", 0),
            _integer(header, "SamplesPerPixel", 1),
            str(value_of(header, "FrameOfReferenceUID") or ""),
        ),
        spacing,
        axes,
        position,
        (slope, intercept),
        any("LOCALIZER" in (kind or ()) for kind in kinds),
        str(value_of(header, "AcquisitionNumber") or ""),
        any(tags.find(keyword, _TRANSFORMATION) is not None for keyword in _RESCALE),
    )


def _axes(tags: _Tags) -> np.ndarray:
    """(3, 2) unit vectors along a plane's rows and columns, LPS."""
    axes = tags.numbers("ImageOrientationPatient", 6, "PlaneOrientationSequence").reshape(2, 3).T
    lengths = np.linalg.norm(axes, axis=0)
    if np.abs(lengths - 1).max() > 0.01 or abs(axes[:, 0] @ axes[:, 1]) > 0.01:
        raise tags.unusable("ImageOrientationPatient", "two perpendicular unit vectors are needed")
    return axes / lengths


class _Tags:
    """Tags of one plane: of its frame before those shared by all, before the file's own.

    Args:
        places: where to look, in this order.
        path: the file, for messages.
        what: what to call it there.
    """

    def __init__(self, places: list[Dataset], path: Path, what: str):
        self._places, self._path, self._what = places, path, what

    def find(self, keyword: str, sequence: str):
        """A tag's value, in a sequence of a functional group or in the file itself; None if it has none."""
        for place in self._places:
            for holder in (*_items(place, sequence)[:1], place):
                # What is there but cannot be made out is not missing: it raises.
                value = holder.get(keyword)
                if value is not None and value != "":
                    return value
        return None

    def numbers(self, keyword: str, count: int, sequence: str) -> np.ndarray:
        """(count,) values of a tag.

        Raises:
            InputError: it is missing, or not so many numbers.
        """
        try:
            value = self.find(keyword, sequence)
            numbers = None if value is None else np.array(value, dtype=np.float64)
        except Exception:  # whatever pydicom's converters trip over
            raise self.unusable(keyword, f"{count} numbers are needed") from None
        if numbers is None:
            raise self.unusable(keyword, "it is missing, and is not made up")
        if numbers.shape != (count,) or not np.isfinite(numbers).all():
            raise self.unusable(keyword, f"{count} numbers are needed")
        return numbers

    def number(self, keyword: str, default: float, sequence: str) -> float:
        """The value of a tag.

        Raises:
            InputError: it is no number.
        """
        try:
            value = self.find(keyword, sequence)
            number = default if value is None else float(value)
        except Exception:  # the same
            number = np.nan
        if not np.isfinite(number):
            raise self.unusable(keyword, "it is no number")
        return number

    def unusable(self, keyword: str, why: str) -> InputError:
        """What to raise for a tag."""
        return InputError(
            f"{self._what} {self._path} cannot be placed by {tag_name(keyword)}: {why}; export it again"
        )
