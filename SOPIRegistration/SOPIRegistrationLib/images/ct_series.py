"""CTs as DICOM stores them: series of slices, and enhanced (multi-frame) files.

Which files are meant, and the way from them to a volume: their planes (``ct_planes``), in order
(``ct_stack``), with their values (``ct_pixels``).
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import MediaStorageDirectoryStorage

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.images.ct_pixels import read_array
from SOPIRegistrationLib.images.ct_planes import Plane, dicom_header, frames_in, planes_of, value_of
from SOPIRegistrationLib.images.ct_stack import (
    even_steps,
    of_one_volume,
    require_one_scale,
    require_one_scan,
    sorted_along_normal,
    without_copies,
)
from SOPIRegistrationLib.images.dicom_tags import frame_value, quiet_pydicom
from SOPIRegistrationLib.images.volume import Volume

# So many files below a folder are looked at for slices that might be meant.
_LOOKED_AT = 500
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
        require_ct(series[0][1], path)
    else:
        _require_labels(series[0][1], path, what)
    planes: list[Plane] = []
    seen, doubled, refused = set(), 0, []
    for file, header in series:
        # Some anonymisers give all images one UID: a copy is at the same place, too.
        instance = (
            str(value_of(header, "SOPInstanceUID") or file),
            str(value_of(header, "ImagePositionPatient")),
        )
        if instance in seen:
            doubled += 1
            continue
        seen.add(instance)
        try:
            planes += list(planes_of(file, header, what))
        except InputError as error:
            refused.append((file, error))
    if doubled:
        notes.append(f"{what} {path.name} has images that are there twice ({doubled}): each is read once")
    if len(refused) > len(planes):
        raise refused[0][1]
    chosen = of_one_volume(planes, path, what)
    kept = {id(plane) for plane in chosen}
    left_out = [plane.path.name for plane in planes if id(plane) not in kept]
    left_out += [file.name for file, _ in refused]
    if left_out:
        notes.append(
            f"{what} {path.name}: {len(left_out)} of {len(planes) + len(refused)} images are left out, of "
            f"another size, direction or kind than the rest ({_some(left_out)})"
        )
    require_one_scan(chosen, path, what)
    require_one_scale(chosen, path, what)
    chosen = without_copies(chosen, path, what, notes)
    chosen, along, direction = sorted_along_normal(chosen, path, what)
    places, step = even_steps(along, path, what, notes)
    array = read_array(chosen, places, what)
    first = chosen[0]
    affine = np.eye(4)
    affine[:3, :2] = first.axes * first.spacing[::-1]
    affine[:3, 2] = direction * step
    affine[:3, 3] = first.position
    return Volume(array, affine, path.name, tuple(notes))


def _series_of(path: Path, what: str) -> tuple[list[tuple[Path, Dataset]], list[str]]:
    """The files of the series meant, and notes."""
    member = None if path.is_dir() else _member(path, what)
    # A part of an enhanced CT that was cut into several files is as little without the others as a slice.
    if member is not None and (
        "Rows" not in member or ("ConcatenationUID" not in member and frames_in(member) > 1)
    ):
        return [(path, member)], []
    folder = path if member is None else path.parent
    series = _series_in(folder)
    if not series:
        raise InputError(
            f"{what} {folder} is a folder without a DICOM series: give the folder of its slices"
            f"{_slices_below(folder)}"
        )
    if member is not None:
        return series.get(_uid(member), [(path, member)]), []
    return _largest([*series.values()], folder, what)


def _member(path: Path, what: str) -> Dataset:
    """The header of one file of a CT.

    Raises:
        InputError: it is no DICOM file, or a list of files.
    """
    member = dicom_header(path)
    if member is not None and value_of(member, "Modality") == "RTSTRUCT":
        raise InputError(f"{what} {path} holds contours (RTSTRUCT): save them as a label map (NIfTI, NRRD)")
    if member is None:
        raise InputError(f"{what} {path} is not a DICOM file that can be read: copy or export it again")
    if getattr(member.file_meta, "MediaStorageSOPClassUID", "") == MediaStorageDirectoryStorage:
        raise InputError(
            f"{what} {path} is a DICOMDIR, a list of files: give the folder of its slices"
            f"{_slices_below(path.parent)}"
        )
    return member


def _series_in(folder: Path) -> dict[str, list[tuple[Path, Dataset]]]:
    """The images of a folder by their series."""
    series: dict[str, list[tuple[Path, Dataset]]] = {}
    for file in sorted(folder.iterdir()):
        header = dicom_header(file) if file.is_file() else None
        if header is not None and "Rows" in header:
            series.setdefault(_uid(header), []).append((file, header))
    return series


def _largest(
    series: list[list[tuple[Path, Dataset]]], folder: Path, what: str
) -> tuple[list[tuple[Path, Dataset]], list[str]]:
    """The series of most images, of a CT where one is wanted, and a note where there are several."""
    usable = [files for files in series if what != "CT" or _is_ct(files[0][1])]
    sizes = {id(files): sum(frames_in(header) for _, header in files) for files in series}
    largest = max(usable or series, key=lambda files: sizes[id(files)])
    if len(series) == 1:
        return largest, []
    rest = ", ".join(
        f"{sizes[id(files)]} ({value_of(files[0][1], 'Modality') or 'no modality'})"
        for files in series
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
    modality = value_of(header, "Modality") or ""
    name = getattr(value_of(header, "SOPClassUID"), "name", "")
    if name in _CT_CLASSES:
        return modality not in _OTHER_MODALITIES
    is_of_another_kind = name.endswith("Storage") and name not in _NEUTRAL_CLASSES
    return modality in ("CT", "") and not is_of_another_kind


def require_ct(header: Dataset, path: Path | str) -> None:
    """Refuse a file of another modality, or of a quantity computed from a CT.

    Args:
        header: what :func:`~SOPIRegistrationLib.images.ct_planes.dicom_header` gives.
        path: of the file, or the name of a node, for the message.

    Raises:
        InputError: it is no CT.
    """
    quantity = str(frame_value(header, "RescaleType", 0) or "").upper()
    if quantity not in _HOUNSFIELD:
        raise InputError(
            f"CT {path} does not hold Hounsfield units: its Rescale Type (0028,1054) is {quantity}: give the "
            "CT it was computed from"
        )
    if not _is_ct(header):
        modality = value_of(header, "Modality") or "missing"
        kind = getattr(value_of(header, "SOPClassUID"), "name", "") or "unknown"
        raise InputError(
            f"CT {path} is no CT: its Modality (0008,0060) is {modality}, its kind {kind}: give a CT"
        )


def _require_labels(header: Dataset, path: Path, what: str) -> None:
    """Raise InputError for segments that lie in frames of their own, and would be taken for one."""
    if value_of(header, "SegmentationType") in (None, "LABELMAP"):
        return
    numbers = {frame_value(header, "ReferencedSegmentNumber", frame) for frame in range(frames_in(header))}
    if len(numbers) > 1:
        raise InputError(
            f"{what} {path} is a DICOM segmentation of {len(numbers)} segments: save it as a label map "
            "(NIfTI, NRRD)"
        )


def _uid(header: Dataset) -> str:
    """The series of a file: a missing UID is one, too."""
    return str(value_of(header, "SeriesInstanceUID") or "")


def _some(names: list[str]) -> str:
    distinct = list(dict.fromkeys(names))
    return ", ".join(distinct[:3]) + (", ..." if len(distinct) > 3 else "")
