"""SimpleITK as a reader: quiet, and with errors in words a user can act on."""

from __future__ import annotations

import contextlib
import gzip
import os
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.images.nifti_header import (
    NIFTI_SUFFIXES,
    any_axes_allowed,
    is_nifti_2,
    read_nifti_header,
)

FORMATS = "DICOM, NIfTI, NRRD or MHA"
_GZIP = b"\x1f\x8b"
# What files are by their first bytes (mark, where), and the suffixes by which readers are found; none where
# no reader is.
_KINDS = (
    ("JPEG", ((b"\xff\xd8\xff", 0),), (".jpg", ".jpeg")),
    ("PNG", ((b"\x89PNG", 0),), (".png",)),
    ("TIFF", ((b"II*\0", 0), (b"MM\0*", 0)), (".tif", ".tiff")),
    ("NRRD", ((b"NRRD", 0),), (".nrrd", ".nhdr")),
    ("gzip-packed file", ((_GZIP, 0),), (".nii.gz", ".gz")),
    ("GIF", ((b"GIF8", 0),), ()),
    ("WebP", ((b"WEBP", 8),), ()),
    ("video", ((b"ftyp", 4), (b"AVI ", 8), (b"\x1aE\xdf\xa3", 0)), ()),
    ("PDF", ((b"%PDF", 0),), ()),
)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what ITK, GDCM and MetaIO print from C++ away from the user; their exceptions say enough."""
    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        stderr = os.dup(2)
    except OSError:
        # A program without a console has no stderr to keep clean.
        stderr = None
    else:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        if stderr is not None:
            os.dup2(stderr, 2)
            os.close(stderr)
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)


def require_file(path, what: str) -> Path:
    """The path, if a file that can be read stands there.

    Raises:
        InputError: it does not exist, is empty or cannot be opened.
    """
    path = Path(path)
    try:
        with path.open("rb") as stream:
            if stream.read(1):
                return path
    except FileNotFoundError:
        raise InputError(f"{what} {path} does not exist") from None
    except OSError as error:
        raise InputError(f"{what} {path} cannot be read: {error.strerror or error}") from None
    raise InputError(f"{what} {path} is empty: copy or export it again")


def image_reader(path: Path, what: str, accepted: str) -> sitk.ImageFileReader:
    """A reader that has read the file's header.

    Raises:
        InputError: no format is recognised, or the header is broken.
    """
    if path.name.lower().endswith(NIFTI_SUFFIXES):
        _check_nifti(path, what, accepted)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        with quiet(), any_axes_allowed():
            reader.ReadImageInformation()
    except RuntimeError as error:
        raise InputError(f"{what} {path} {_unreadable(path, str(error), accepted)}") from None
    return reader


def _unreadable(path: Path, error: str, accepted: str) -> str:
    """Why no reader takes a file, as far as that can be told, and the remedy."""
    if zipfile.is_zipfile(path):
        return "is an archive: unpack it and give what is inside"
    if path.suffix.lower() in (".mgz", ".mgh"):
        return "is FreeSurfer's format: convert it to NIfTI (mri_convert)"
    if path.name.lower().endswith(NIFTI_SUFFIXES) and is_nifti_2(path):
        return "is NIfTI-2, which is not read: save it as NIfTI-1"
    content = _content(path)
    if content is not None:
        return content
    if "couldn't open the first datafile" in error:
        return "keeps its voxels in another file, which is not beside it: copy both"
    if "Unknown PixelType" in error:
        return (
            "has pixels of a kind that cannot be read, such as gray with transparency: save it as grayscale"
        )
    return f"is not an image that can be read: use {accepted}"


def _not_packed(path: Path) -> str | None:
    """What is wrong with a NIfTI file that is not packed though its name says so, and the remedy."""
    with path.open("rb") as stream:
        start = stream.read(4).ljust(4)
    if path.suffix.lower() != ".gz" or 348 not in struct.unpack("<i", start) + struct.unpack(">i", start):
        return None
    return f"is not packed with gzip, as its name says: name it {path.name[:-3]}"


def _content(path: Path) -> str | None:
    """What a file of another name is by its first bytes, and the remedy; None where its name is right."""
    with path.open("rb") as stream:
        start = stream.read(16)
    for what, marks, suffixes in _KINDS:
        if any(start[at : at + len(mark)] == mark for mark, at in marks):
            if not suffixes:
                return f"is a {what}: save it, or one frame of it, as PNG"
            if not path.name.lower().endswith(suffixes):
                return f"is a {what} by its content: name it {path.name.split('.')[0]}{suffixes[0]}"
    return None


def read_pixels(reader: sitk.ImageFileReader, path, what: str) -> sitk.Image:
    """Execute a reader.

    Raises:
        InputError: the pixel data are damaged.
    """
    try:
        with quiet(), any_axes_allowed():
            image = reader.Execute()
    except RuntimeError as error:
        if "encoding not available" in str(error):
            why = "is packed in a way that cannot be read (bzip2): save it again, with gzip or unpacked"
        else:
            why = "is damaged or incomplete: copy or export it again"
        raise InputError(f"{what} {path} {why}") from None
    header = read_nifti_header(Path(path)) if str(path).lower().endswith(NIFTI_SUFFIXES) else None
    if header is None:
        return image
    if count := header.not_finite():
        raise _not_finite(count, path, what)
    return image - header.void_intercept if header.void_intercept else image


def _check_nifti(path: Path, what: str, accepted: str) -> None:
    """What ITK passes over in silence: a spacing of zero (read as 1 mm) and missing data (read as zeros)."""
    try:
        header = read_nifti_header(path)
    except (OSError, EOFError):
        header = None
    if header is None:
        if not path.name.lower().endswith((".nii", ".nii.gz")):
            # Other formats have .hdr and .img files, too.
            return
        no_nifti = f"is not a NIfTI file: use {accepted}"
        raise InputError(f"{what} {path} {_content(path) or _not_packed(path) or no_nifti}")
    check_spacing(header.spacing, path, what)
    header.require_sound_forms(path, what)
    if _unpacked_size(header.data_path, header.data_bytes) < header.data_bytes:
        raise InputError(f"{what} {path} is damaged or incomplete: copy or export it again")


def _unpacked_size(path: Path, expected: int) -> int:
    if not path.name.lower().endswith(".gz"):
        return path.stat().st_size
    with path.open("rb") as stream:
        stream.seek(-4, os.SEEK_END)
        if struct.unpack("<I", stream.read(4))[0] == expected % 2**32:
            return expected
    # A cut file, but also one of several gzip members, ends otherwise: only unpacking tells.
    size = 0
    try:
        with gzip.open(path) as stream:
            while block := stream.read(1 << 24):
                size += len(block)
    except (OSError, EOFError):
        pass
    return size


def check_spacing(spacing, path, what: str) -> None:
    """Raise InputError unless all spacings (mm) are positive and finite."""
    spacing = np.asarray(spacing, dtype=np.float64)
    if not (np.isfinite(spacing).all() and (spacing > 0).all()):
        values = " x ".join(f"{value:g}" for value in spacing)
        raise InputError(f"{what} {path} has a spacing of {values} mm: every spacing must be above zero")


def check_finite(array: np.ndarray, path, what: str) -> None:
    """Raise InputError if any value is NaN or infinite."""
    if array.dtype.kind == "f" and not all(np.isfinite(part).all() for part in array):
        raise _not_finite(sum(int((~np.isfinite(part)).sum()) for part in array), path, what)


def _not_finite(count: int, path, what: str) -> InputError:
    instead = "by -1024 HU outside a scan" if what == "CT" else "or export it again"
    return InputError(f"{what} {path} has {count} NaN or infinite values: replace them ({instead})")
