"""CTs as DICOM stores them: series of slices, and enhanced (multi-frame) files.

Both become planes with a place each (Image Plane Module, PS3.3 C.7.6.2; of frames the Plane Position, Plane
Orientation, Pixel Measures and Pixel Value Transformation macros, C.7.6.16.2), sorted along their normal. A
place that no tag gives is never made up.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.datadict import dictionary_description, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import MediaStorageDirectoryStorage

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.images.dicom_files import is_dicom
from SOPIRegistrationLib.images.dicom_tags import quiet_pydicom
from SOPIRegistrationLib.images.itk_reading import image_reader, read_pixels
from SOPIRegistrationLib.images.stored_pixels import decoded_pixels, is_padding, with_air_for_padding
from SOPIRegistrationLib.images.volume import Volume

# Slices may be placed to a hundredth of a millimetre, or to a fiftieth of their distance.
_STEP_TOLERANCE, _STEP_TOLERANCE_MM = 0.02, 0.01
# Interpolated planes so near to a stored one, in steps, are that one.
_SAME_PLACE = 0.005
# So many files below a folder are looked at for slices that might be meant.
_LOOKED_AT = 500
# A gap of up to so many usual steps is interpolated across.
_LARGEST_GAP = 2.5
# Slices may be beside the line of the others by this share of a pixel.
_LINE_TOLERANCE = 0.1
# Storage classes of CTs, by name: others of the standard hold something else, whatever their modality says.
_CT_CLASSES = (
    "CT Image Storage",
    "Enhanced CT Image Storage",
    "Legacy Converted Enhanced CT Image Storage",
    "X-Ray 3D Angiographic Image Storage",
    "X-Ray 3D Craniofacial Image Storage",
)
_NEUTRAL_CLASSES = (
    "Secondary Capture Image Storage",
    "Multi-frame Grayscale Byte Secondary Capture Image Storage",
    "Multi-frame Grayscale Word Secondary Capture Image Storage",
)
# Of a C-arm's cone-beam CT the modality may be that of its X-rays, but never one of these.
_OTHER_MODALITIES = ("MR", "PT", "NM", "US", "CR", "MG", "SEG", "RTDOSE")
# Rescale Types of Hounsfield units, and of nothing in particular.
_HOUNSFIELD = ("", "HU", "HU_MOD", "US", "UNSPECIFIED")
_TRANSFORMATION = "PixelValueTransformationSequence"
_GROUPS = ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence")
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
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
    "AcquisitionNumber",
    *_GROUPS,
]


@dataclass(frozen=True)
class _Plane:
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

    def belongs_with(self, other: _Plane) -> bool:
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


@quiet_pydicom()
def read_ct_series(path: Path, what: str = "CT") -> Volume:
    """The CT of a folder (of several series that of most planes, with a note), or of a DICOM file.

    A single slice stands for the series around it, a multi-frame file for itself. Axes are as the planes lie,
    which with a tilted gantry is not perpendicular. Missing planes are interpolated across up to 2.5 usual
    steps, and planes that do not belong to the others are left out; each with a note.

    Raises:
        InputError: no series, another modality, a place that is not given, damaged pixels, planes missing or
            at one place.
    """
    series, notes = _series_of(path, what)
    if what == "CT":
        _require_ct(series[0][1], path)
    planes: list[_Plane] = []
    seen, doubled, refused = set(), 0, []
    for file, header in series:
        # Some anonymisers give all images one UID: a copy is at the same place, too.
        instance = str(_value(header, "SOPInstanceUID") or file), str(_value(header, "ImagePositionPatient"))
        if instance in seen:
            doubled += 1
            continue
        seen.add(instance)
        try:
            planes += list(_planes_of(file, header, what))
        except InputError as error:
            refused.append((file, error))
    if doubled:
        notes.append(f"{what} {path.name} has images that are there twice ({doubled}): each is read once")
    if len(refused) > len(planes):
        raise refused[0][1]
    chosen = _of_one_volume(planes, path, what)
    kept = {id(plane) for plane in chosen}
    left_out = [plane.path.name for plane in planes if id(plane) not in kept]
    left_out += [file.name for file, _ in refused]
    if left_out:
        notes.append(
            f"{what} {path.name}: {len(left_out)} of {len(planes) + len(refused)} images are left out, of "
            f"another size, direction or kind than the rest ({_some(left_out)})"
        )
    _require_one_scan(chosen, path, what)
    _require_one_scale(chosen, path, what)
    chosen = _without_copies(chosen, path, what, notes)
    chosen, along, direction = _sorted_along_normal(chosen, path, what)
    places, step = _even_steps(along, path, what, notes)
    array = _read_array(chosen, places, what)
    first = chosen[0]
    affine = np.eye(4)
    affine[:3, :2] = first.axes * first.spacing[::-1]
    affine[:3, 2] = direction * step
    affine[:3, 3] = first.position
    return Volume(array, affine, path.name, tuple(notes))


# Which files


def _series_of(path: Path, what: str) -> tuple[list[tuple[Path, Dataset]], list[str]]:
    """The files of the series meant, and notes."""
    member = None
    if not path.is_dir():
        member = dicom_header(path)
        if member is None:
            raise InputError(f"{what} {path} is not a DICOM file that can be read: copy or export it again")
        # A part of an enhanced CT that was cut into several files is as little without the others as a slice.
        is_part = "ConcatenationUID" in member or _frames(member) == 1
        if getattr(member.file_meta, "MediaStorageSOPClassUID", "") == MediaStorageDirectoryStorage:
            raise InputError(
                f"{what} {path} is a DICOMDIR, a list of files: give the folder of its slices"
                f"{_slices_below(path.parent)}"
            )
        if "Rows" not in member or not is_part:
            return [(path, member)], []
    folder = path if member is None else path.parent
    series: dict = {}
    for file in sorted(folder.iterdir()):
        header = dicom_header(file) if file.is_file() else None
        if header is not None and "Rows" in header:
            series.setdefault(_uid(header), []).append((file, header))
    if not series:
        raise InputError(
            f"{what} {folder} is a folder without a DICOM series: give the folder of its slices"
            f"{_slices_below(folder)}"
        )
    if member is not None:
        return series.get(_uid(member), [(path, member)]), []
    usable = [files for files in series.values() if what != "CT" or _is_ct(files[0][1])]
    sizes = {id(files): sum(_frames(header) for _, header in files) for files in series.values()}
    largest = max(usable or series.values(), key=lambda files: sizes[id(files)])
    if len(series) == 1:
        return largest, []
    rest = ", ".join(
        f"{sizes[id(files)]} ({_value(files[0][1], 'Modality') or 'no modality'})"
        for files in series.values()
        if files is not largest
    )
    note = (
        f"{what} {folder.name} holds {len(series)} series: the largest, of {sizes[id(largest)]} images, is "
        f"taken (the others have {rest})"
    )
    return largest, [note]


def _slices_below(folder: Path) -> str:
    """Where slices lie in folders of a folder, for a message; empty where none are found at once."""
    for file in itertools.islice(sorted(folder.rglob("*")), _LOOKED_AT):
        header = dicom_header(file) if file.is_file() else None
        if header is not None and "Rows" in header:
            return f", as {file.parent}"
    return ""


def _is_ct(header: Dataset) -> bool:
    """Whether modality and storage class are of a CT, a cone-beam CT of a C-arm included."""
    modality = _value(header, "Modality") or ""
    name = getattr(_value(header, "SOPClassUID"), "name", "")
    if name in _CT_CLASSES:
        return modality not in _OTHER_MODALITIES
    is_of_another_kind = name.endswith("Storage") and name not in _NEUTRAL_CLASSES
    return modality in ("CT", "") and not is_of_another_kind


def _require_ct(header: Dataset, path: Path) -> None:
    quantity = str(_value(header, "RescaleType") or "").upper()
    if quantity not in _HOUNSFIELD:
        raise InputError(
            f"CT {path} does not hold Hounsfield units: its Rescale Type (0028,1054) is {quantity}: give the "
            "CT it was computed from"
        )
    if not _is_ct(header):
        modality = _value(header, "Modality") or "missing"
        kind = getattr(_value(header, "SOPClassUID"), "name", "") or "unknown"
        raise InputError(
            f"CT {path} is no CT: its Modality (0008,0060) is {modality}, its kind {kind}: give a CT"
        )


def _value(dataset: Dataset, keyword: str):
    """The value of a tag; None where it is missing, empty or cannot be made out."""
    try:
        value = dataset.get(keyword)
    except Exception:  # pydicom converts when asked, and raises whatever its converters trip over
        return None
    return None if value is None or (isinstance(value, str) and not value) else value


def _integer(dataset: Dataset, keyword: str, default: int) -> int:
    try:
        return int(_value(dataset, keyword) or default)
    except (TypeError, ValueError):
        return default


def _uid(header: Dataset) -> str:
    """The series of a file: a missing UID is one, too."""
    return str(_value(header, "SeriesInstanceUID") or "")


def _frames(header: Dataset) -> int:
    return max(1, _integer(header, "NumberOfFrames", 1))


def _items(dataset: Dataset, keyword: str) -> list[Dataset]:
    value = _value(dataset, keyword)
    return list(value) if isinstance(value, Sequence) else []


def _some(names: list[str]) -> str:
    distinct = list(dict.fromkeys(names))
    return ", ".join(distinct[:3]) + (", ..." if len(distinct) > 3 else "")


# Where their planes lie


def _planes_of(path: Path, header: Dataset, what: str) -> Iterator[_Plane]:
    """The planes of one file.

    Raises:
        InputError: a tag that places them is missing or no number.
    """
    frames = _frames(header)
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
        places = [header]
        if groups:
            places = [groups[frame], *shared[:1], header]
        found = _Tags(places, path, what)
        position = found.numbers("ImagePositionPatient", 3, "PlanePositionSequence")
        orientation = found.numbers("ImageOrientationPatient", 6, "PlaneOrientationSequence")
        spacing = found.numbers("PixelSpacing", 2, "PixelMeasuresSequence")
        axes = orientation.reshape(2, 3).T
        lengths = np.linalg.norm(axes, axis=0)
        if np.abs(lengths - 1).max() > 0.01 or abs(axes[:, 0] @ axes[:, 1]) > 0.01:
            raise found.unusable("ImageOrientationPatient", "two perpendicular unit vectors are needed")
        if spacing.min() <= 0:
            raise found.unusable("PixelSpacing", "every spacing must be above zero")
        slope = found.number("RescaleSlope", 1.0, _TRANSFORMATION)
        intercept = found.number("RescaleIntercept", 0.0, _TRANSFORMATION)
        if slope == 0:
            raise found.unusable("RescaleSlope", "it must not be zero")
        kinds = [_value(header, "ImageType"), found.find("FrameType", "CTImageFrameTypeSequence")]
        yield _Plane(
            path,
            frame,
            (
                _integer(header, "Rows", 0),
                _integer(header, "Columns", 0),
                _integer(header, "SamplesPerPixel", 1),
                str(_value(header, "FrameOfReferenceUID") or ""),
            ),
            spacing,
            axes / lengths,
            position,
            (slope, intercept),
            any("LOCALIZER" in (kind or ()) for kind in kinds),
            str(_value(header, "AcquisitionNumber") or ""),
            found.has("RescaleSlope", _TRANSFORMATION) or found.has("RescaleIntercept", _TRANSFORMATION),
        )


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

    def has(self, keyword: str, sequence: str) -> bool:
        """Whether a tag has a value that can be read."""
        return self.find(keyword, sequence) is not None

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
        tag = tag_for_keyword(keyword)
        name = f"{dictionary_description(keyword)} ({tag >> 16:04X},{tag & 0xFFFF:04X})"
        return InputError(f"{self._what} {self._path} cannot be placed by {name}: {why}; export it again")


def _of_one_volume(planes: list[_Plane], path: Path, what: str) -> list[_Plane]:
    """The planes that most agree on, scout views left out.

    Raises:
        InputError: there are scout views only, or colours.
    """
    slices = [plane for plane in planes if not plane.is_localizer]
    if not slices:
        raise InputError(f"{what} {path} holds nothing but localizers (scout views): give the CT itself")
    kinds: list[list[_Plane]] = []
    for plane in slices:
        for kind in reversed(kinds):
            if plane.belongs_with(kind[0]):
                kind.append(plane)
                break
        else:
            kinds.append([plane])
    chosen = max(kinds, key=len)
    if sum(len(kind) == len(chosen) for kind in kinds) > 1:
        raise InputError(
            f"{what} {path} holds several stacks of {len(chosen)} images in one series, of other sizes or "
            "directions: keep the files of one"
        )
    rows, columns, samples, _ = chosen[0].layout
    if samples > 1:
        raise InputError(f"{what} {path} has {samples} values a voxel (RGB or vectors): one is needed")
    if len(chosen) < 2 or min(rows, columns) < 2:
        # A damaged file is said to be so.
        _PlaneReader(what)(chosen[0])
        raise InputError(
            f"{what} {path} is a single slice ({columns} x {rows} x {len(chosen)}): a 3D volume is needed (a "
            "folder with all slices, or an Enhanced CT)"
        )
    return chosen


def _require_one_scan(planes: list[_Plane], path: Path, what: str) -> None:
    """Refuse acquisitions that go through each other: phases, or scans before and after something.

    Acquisitions one after the other (of a moving table) are one scan.

    Raises:
        InputError: several scans.
    """
    scans: dict[str, list[float]] = {}
    for plane in planes:
        scans.setdefault(plane.acquisition, []).append(float(plane.position @ planes[0].normal))
    places = {number: np.sort(along) for number, along in scans.items() if len(along) > 2}
    for one, other in itertools.combinations(places.values(), 2):
        # A spiral's ends may reach a few slices into the next.
        shared = min(one[-1], other[-1]) - max(one[0], other[0])
        if shared > 0.5 * min(np.ptp(one), np.ptp(other)):
            counts = ", ".join(
                f"{len(along)} of number {number or 'none'}" for number, along in scans.items()
            )
            raise InputError(
                f"{what} {path} holds several scans of one place in one series, told by Acquisition Number "
                f"(0020,0012) ({counts}): give the images of one"
            )


def _require_one_scale(planes: list[_Plane], path: Path, what: str) -> None:
    """Raise InputError where some planes have lost the rescale that the others have."""
    without = [plane for plane in planes if not plane.has_rescale]
    if without and any(plane.rescale != (1.0, 0.0) for plane in planes):
        raise InputError(
            f"{what} {path} has {len(without)} of {len(planes)} images without Rescale Slope and Intercept "
            f"(0028,1053, 1052), as {without[0].path.name}, which the others have: export the series again"
        )


def _without_copies(planes: list[_Plane], path: Path, what: str, notes: list[str]) -> list[_Plane]:
    """The planes, each once: images that are there again under another name are left out, with a note."""
    at: dict[float, list[_Plane]] = {}
    for plane in planes:
        at.setdefault(round(float(plane.position @ planes[0].normal), 3), []).append(plane)
    read, copies = _PlaneReader(what), 0
    kept = []
    for here in at.values():
        first = read(here[0]) if len(here) > 1 else None
        differing = [plane for plane in here[1:] if not np.array_equal(read(plane), first)]
        copies += len(here) - 1 - len(differing)
        kept += [here[0], *differing]
    if copies:
        notes.append(f"{what} {path.name} has images that are there twice ({copies}): each is read once")
    return kept


def _sorted_along_normal(
    planes: list[_Plane], path: Path, what: str
) -> tuple[list[_Plane], np.ndarray, np.ndarray]:
    """Planes in order; how far each is along the normal, mm; the line from plane to plane, per mm of it.

    Raises:
        InputError: several are at one place, or they are not in line.
    """
    normal = planes[0].normal
    planes = sorted(planes, key=lambda plane: float(plane.position @ normal))
    shifts = np.array([plane.position - planes[0].position for plane in planes])
    along = shifts @ normal
    steps = np.diff(along)
    if steps.min() <= _STEP_TOLERANCE * np.median(steps) or along[-1] <= 0:
        count = max(Counter(np.round(along, 3)).values())
        raise InputError(
            f"{what} {path} has several slices at one place (up to {count}): export a single phase or series"
        )
    line = along @ shifts / (along @ along)
    aside = np.linalg.norm(shifts - along[:, None] * line, axis=1)
    worst = int(aside.argmax())
    if aside[worst] > _LINE_TOLERANCE * planes[0].spacing.min() + _STEP_TOLERANCE_MM:
        raise InputError(
            f"{what} {path} has slices that are not in line: {planes[worst].path.name} is "
            f"{aside[worst]:.3g} mm aside (Image Position (Patient) (0020,0032)): export the series again"
        )
    return planes, along, line


def _even_steps(along: np.ndarray, path: Path, what: str, notes: list[str]) -> tuple[np.ndarray, float]:
    """What even planes are made of, and their distance, mm.

    Args:
        along: (n,) where the planes are, mm, rising from 0.
        path: for messages.
        what: the same.
        notes: a sentence is added where planes are interpolated.

    Returns:
        (m,) places in units of planes: 2.25 is a quarter of the way from plane 2 to plane 3.

    Raises:
        InputError: the planes are too far apart somewhere.
    """
    steps = np.diff(along)
    usual = float(np.quantile(steps, 0.5, method="lower"))
    widest = int(steps.argmax())
    if np.abs(steps - usual).max() <= _STEP_TOLERANCE * usual + _STEP_TOLERANCE_MM:
        return np.arange(len(along), dtype=np.float64), along[-1] / (len(along) - 1)
    if steps[widest] > (_LARGEST_GAP + _STEP_TOLERANCE) * usual:
        raise InputError(
            f"{what} {path} has slices {usual:.4g} mm apart but a step of {steps[widest]:.4g} mm after the "
            f"{widest + 1}. of {len(along)}: too much to interpolate, export the complete series"
        )
    # As fine as most of the planes are; a few odd ones need not make all voxels smaller.
    fine = max(float(np.quantile(steps, 0.1, method="lower")), usual / 4)
    regular = steps[np.abs(steps - fine) <= _STEP_TOLERANCE * fine]
    step = float(regular.mean()) if len(regular) else fine
    count = int(np.floor(along[-1] / step + 1e-6)) + 1
    places = np.interp(np.arange(count) * step, along, np.arange(len(along)))
    # What is stored stays as it is, but for the rounding of its place.
    stored = np.rint(places)
    places = np.where(np.abs(places - stored) <= _SAME_PLACE, stored, places)
    gaps = int((steps > 1.5 * usual).sum())
    are_missing = 0 < gaps <= 0.1 * len(steps)
    reason = f"slices are missing (gaps: {gaps})" if are_missing else "slices are not evenly spaced"
    notes.append(
        f"{what} {path.name}: {reason} (steps of {steps.min():.4g} to {steps.max():.4g} mm, mostly "
        f"{usual:.4g} mm): interpolated to even {step:.4g} mm"
    )
    return places, step


# What is in them


def _read_array(planes: list[_Plane], places: np.ndarray, what: str) -> np.ndarray:
    """(k, j, i) values, rescaled; int16 where that holds them."""
    read = _PlaneReader(what)
    is_whole = all(
        slope == int(slope) and offset == int(offset) for slope, offset in (p.rescale for p in planes)
    )
    # The first plane is read before there is room for all: a damaged header may tell of a huge one.
    kept: dict[int, np.ndarray] = {0: read(planes[0])}
    array = np.empty((len(places), *kept[0].shape), np.int16 if is_whole else np.float32)
    for k, place in enumerate(places):
        below, share = int(place), place - int(place)
        needed = [below] if share == 0 else [below, below + 1]
        kept = {index: kept[index] if index in kept else read(planes[index]) for index in needed}
        values = kept[below]
        if share:
            labels = what != "CT"
            share = round(share) if labels else share
            values = (1 - share) * values + share * kept[below + 1]
            values = np.rint(values) if is_whole else values
        if array.dtype == np.int16 and (values.min() < -32768 or values.max() > 32767):
            array = array.astype(np.int32)
        array[k] = values
    return array


class _PlaneReader:
    """Reads planes, keeping the last file's pixels: frames of one file come one after the other."""

    def __init__(self, what: str):
        self._what = what
        self._path: Path | None = None
        self._stored = np.empty(0)
        self._padding: np.ndarray | None = None

    def __call__(self, plane: _Plane) -> np.ndarray:
        """(rows, columns), rescaled; int32 where slope and intercept are whole numbers, else float32.

        Raises:
            InputError: the pixels are damaged.
        """
        if plane.path != self._path:
            self._stored, self._path = self._read(plane), plane.path
        if plane.frame >= len(self._stored) or self._stored.shape[1:] != plane.layout[:2]:
            raise self._damaged(plane.path)
        padding = None if self._padding is None else self._padding[plane.frame]
        return with_air_for_padding(self._rescaled(plane), padding, plane.rescale[1])

    def _rescaled(self, plane: _Plane) -> np.ndarray:
        slope, intercept = plane.rescale
        stored = self._stored[plane.frame]
        if slope == int(slope) and intercept == int(intercept) and stored.dtype.kind in "iu":
            if abs(slope) * 65536 + abs(intercept) > 2**31 or stored.dtype.itemsize > 2:
                return stored * slope + intercept
            return stored.astype(np.int32) * np.int32(slope) + np.int32(intercept)
        return (stored * slope + intercept).astype(np.float32)

    def _read(self, plane: _Plane) -> np.ndarray:
        """(frames, rows, columns) as stored."""
        path = plane.path
        try:
            dataset = pydicom.dcmread(path, force=True)
            pixels = decoded_pixels(dataset, dataset)
        except Exception:  # pydicom raises whatever its decoders trip over
            pixels = self._decoded_by_gdcm(plane)
        pixels = pixels[None] if pixels.ndim == 2 else pixels
        self._padding = is_padding(dataset, pixels) if self._what == "CT" else None
        return pixels

    def _decoded_by_gdcm(self, plane: _Plane) -> np.ndarray:
        """Compressed in a way that pydicom has no plug-in for: GDCM, inside SimpleITK, mostly can."""
        path = plane.path
        try:
            meta = pydicom.dcmread(path, force=True, stop_before_pixels=True)
            is_compressed = meta.file_meta.TransferSyntaxUID.is_compressed
            is_inverted = meta.get("PhotometricInterpretation") == "MONOCHROME1"
        except Exception:  # the same
            raise self._damaged(path) from None
        if not is_compressed or is_inverted:
            raise self._damaged(path)
        values = sitk.GetArrayFromImage(
            read_pixels(image_reader(path, self._what, "DICOM"), path, self._what)
        ).astype(np.float64)
        # GDCM has applied one rescale, that of the file or of its first frame: back to the stored values.
        first = next(iter(_planes_of(path, dicom_header(path), self._what)))
        return np.rint((values - first.rescale[1]) / first.rescale[0]).astype(np.int32)

    def _damaged(self, path: Path) -> InputError:
        return InputError(
            f"{self._what} {path} is damaged or incomplete, or compressed in a way that cannot be decoded: "
            "copy or export it again, uncompressed"
        )
