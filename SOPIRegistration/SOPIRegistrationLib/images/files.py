"""Reading CTs and X-rays: the border where file formats become arrays with their geometry."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry.c_arm import CArmGeometry
from SOPIRegistrationLib.geometry.files import load_geometry
from SOPIRegistrationLib.images.dicom_files import is_dicom
from SOPIRegistrationLib.images.hounsfield import in_hounsfield
from SOPIRegistrationLib.images.itk_reading import (
    FORMATS,
    check_finite,
    check_spacing,
    image_reader,
    read_pixels,
    require_file,
)
from SOPIRegistrationLib.images.nifti_header import guessed_axes, read_nifti_header
from SOPIRegistrationLib.images.pictures import PICTURE_READERS, require_upright
from SOPIRegistrationLib.images.radiograph import Radiograph, chosen_frame
from SOPIRegistrationLib.images.shear import perpendicular, require_sound_axes
from SOPIRegistrationLib.images.stored import as_seen_from_the_source
from SOPIRegistrationLib.images.text_headers import (
    has_directions,
    has_origin,
    has_segments,
    read_text_header,
    require_voxel_size,
    unit_mm,
)
from SOPIRegistrationLib.images.tiff import itk_reads_right, read_tiff_page, tiff_pages
from SOPIRegistrationLib.images.volume import Volume

_CT_FORMATS = f"a DICOM series folder or a 3D {FORMATS} file"
# Directions written with few digits are a little longer or shorter than 1.
_UNIT_LENGTH = 0.01
_READERS_WITH_DIRECTIONS = ("HDF5ImageIO", "MINCImageIO")
_XRAY_FORMATS = "DICOM, PNG, TIFF, NIfTI, NRRD or MHA"


def read_volume(path: str | os.PathLike, what: str = "CT") -> Volume:
    """A CT, or a label map, from anything SimpleITK reads.

    A folder is read as a DICOM series (with several, that of most slices); a single slice stands for the
    series around it. Whatever was assumed, left out or resampled is in the volume's notes.

    Args:
        path: file or folder.
        what: "CT", in Hounsfield units and on perpendicular axes when it is returned; or what to call labels
            in messages ("mask"), which stay as they are.

    Raises:
        InputError: missing, unreadable, not a scalar 3D image of at least two slices, NaN or infinite
            voxels, another modality, a place that is not given or contradicts itself, a scale that is not
            known.
    """
    path = Path(path)
    if not path.is_dir():
        require_file(path, what)
    if path.is_dir() or is_dicom(path):
        # Here, for pydicom takes longer to load than most files to read.
        from SOPIRegistrationLib.images.ct_series import read_ct_series

        volume = read_ct_series(path, what)
    else:
        volume = _read_plain_volume(path, what)
    check_finite(volume.array, path, what)
    return perpendicular(in_hounsfield(volume)) if what == "CT" else volume


def read_radiograph(path: str | os.PathLike, frame: int | None = None, is_mask: bool = False) -> Radiograph:
    """One X-ray frame as it is stored: DICOM, PNG, TIFF, NIfTI, NRRD, MHA.

    Args:
        path: the file.
        frame: which frame of several, counted from 1.
        is_mask: whether two values are enough.

    Raises:
        InputError: missing, unreadable, a frame must be chosen, colours, NaN or infinite pixels, constant.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"X-ray {path} is a folder: give one file ({_XRAY_FORMATS})")
    require_file(path, "X-ray")
    if is_dicom(path):
        from SOPIRegistrationLib.images.dicom import read_dicom_radiograph

        radiograph = read_dicom_radiograph(path, frame)
    else:
        radiograph = Radiograph(_read_plain(path, frame), path.name, metadata={})
    check_finite(radiograph.pixels, path, "X-ray")
    if radiograph.pixels.min() == radiograph.pixels.max():
        raise InputError(f"X-ray {path} is constant: every pixel is {radiograph.pixels.flat[0]:g}, no image")
    low, high = radiograph.pixels.min(), radiograph.pixels.max()
    if not is_mask and ((radiograph.pixels == low) | (radiograph.pixels == high)).all():
        raise InputError(f"X-ray {path} is a mask: it has no other values than {low:g} and {high:g}")
    return radiograph


def open_radiograph(
    path: str | os.PathLike,
    geometry: str | os.PathLike | None = None,
    view: str | None = None,
    frame: int | None = None,
    camera: str | None = None,
) -> tuple[Radiograph, CArmGeometry]:
    """An X-ray together with its geometry, both in the camera's frame.

    Where DICOM Patient Orientation or the geometry tells that the image was stored mirrored (facing the
    patient rather than seen from the source), its pixels are flipped left-right; lens distortion is taken
    out.

    Args:
        path: the X-ray's file.
        geometry: geometry file or the name of a preset; without it the file's own DICOM tags.
        view: AP, PA, LLAT or RLAT, over what the files say.
        frame: which frame of several, counted from 1.
        camera: name of the one that took it, where the geometry has several; else that which the file's name
            holds.

    Returns:
        The X-ray, and the geometry with all its cameras. Where none of several is known to be the X-ray's, it
        is not undistorted.

    Raises:
        InputError: either is unusable, or the geometry is for another image.
    """
    radiograph = read_radiograph(path, frame)
    known = load_geometry(geometry, radiograph.pixels.shape, radiograph.metadata, view, str(path))
    if camera is None and len(known.cameras) > 1:
        camera = known.camera_named_in(Path(path).name)
    mine = [one for one in known.cameras if len(known.cameras) == 1 or one.name == camera]
    return as_seen_from_the_source(radiograph, known.mirrored, mine[0] if mine else None), known


def _read_plain(path: Path, frame: int | None) -> np.ndarray:
    if pages := tiff_pages(path):
        require_upright(path)
        index = chosen_frame(frame, len(pages), path)
        if not itk_reads_right(pages, index):
            pixels = read_tiff_page(path, pages[index])
            return _in_gray(pixels, 1 if pixels.ndim == 2 else pixels.shape[-1], path)
    reader = _picture_reader(path)
    size, components = reader.GetSize(), reader.GetNumberOfComponents()
    if len(size) > 3 and max(size[3:]) > 1:
        raise InputError(f"X-ray {path} has {len(size)} dimensions: give a 2D image or a stack of frames")
    index = chosen_frame(frame, size[2] if len(size) > 2 else 1, path)
    if len(size) > 2:
        reader.SetExtractIndex((0, 0, index) + (0,) * (len(size) - 3))
        reader.SetExtractSize(size[:2] + (0,) * (len(size) - 2))
    return _in_gray(sitk.GetArrayFromImage(read_pixels(reader, path, "X-ray")), components, path)


def _picture_reader(path: Path) -> sitk.ImageFileReader:
    """A reader of X-rays that are no DICOM, which has read the header."""
    reader = image_reader(path, "X-ray", _XRAY_FORMATS)
    if is_picture(path):
        require_upright(path)
    return reader


def is_picture(path: Path) -> bool:
    """Whether a file that can be read is a picture, which has no voxel size along a third axis."""
    return sitk.ImageFileReader.GetImageIOFromFileName(str(path)) in PICTURE_READERS


def read_frames(path: str | os.PathLike) -> np.ndarray:
    """(frames, rows, columns): all frames of an image stack as stored: NRRD, MHA, NIfTI, or one picture.

    Raises:
        InputError: missing, unreadable, more than three dimensions, colours.
    """
    path = Path(path)
    require_file(path, "X-ray")
    reader = _picture_reader(path)
    if len(reader.GetSize()) > 3 and max(reader.GetSize()[3:]) > 1:
        raise InputError(f"X-ray {path} has {len(reader.GetSize())} dimensions: give a stack of frames")
    stored = sitk.GetArrayFromImage(read_pixels(reader, path, "X-ray"))
    pixels = _in_gray(stored, reader.GetNumberOfComponents(), path)
    return pixels.reshape(-1, *pixels.shape[-2:])


def _in_gray(pixels: np.ndarray, components: int, path: Path) -> np.ndarray:
    if components == 1:
        return pixels
    # Gray pictures are often saved as RGB: they lose nothing when one channel is taken, colours would.
    colours = pixels[..., : 3 if components > 2 else 1]
    if (colours != colours[..., :1]).any():
        raise InputError(f"X-ray {path} is a colour image: save it as grayscale")
    return np.ascontiguousarray(colours[..., 0])


def _read_plain_volume(path: Path, what: str) -> Volume:
    """A volume that is no DICOM, its axes as the file has them."""
    reader = image_reader(path, what, _CT_FORMATS)
    size = reader.GetSize()
    _check_layout(size, reader.GetNumberOfComponents(), path, what)
    kind = sitk.ImageFileReader.GetImageIOFromFileName(str(path))
    if kind in PICTURE_READERS:
        raise InputError(
            f"{what} {path} is a picture, which does not say how large its voxels are nor how they lie: use "
            f"{_CT_FORMATS}"
        )
    affine, notes = _place(path, what, kind, reader)
    require_sound_axes(affine[:3, :3], path, what)
    array = sitk.GetArrayFromImage(read_pixels(reader, path, what))
    # Further dimensions are of one.
    return Volume(array.reshape(array.shape[-3:]), affine, path.name, notes)


def _place(
    path: Path, what: str, kind: str, reader: sitk.ImageFileReader
) -> tuple[np.ndarray, tuple[str, ...]]:
    """(4, 4) index-to-LPS matrix, mm, and notes; ``kind`` is ITK's name of the reader.

    Raises:
        InputError: the file does not tell it, contradicts itself, or says that these are labels.
    """
    header, fields = read_nifti_header(path), read_text_header(path, kind)
    is_labels = header.is_labels if header is not None else fields is not None and has_segments(fields)
    if what == "CT" and is_labels:
        raise InputError(f"{what} {path} is a label map by its header: give the CT in Hounsfield units")
    if header is not None:
        affine, notes = header.index_to_lps(path, what)
        return _affine(reader, path, what) if affine is None else affine, notes
    unit, is_placed, has_start = 1.0, kind in _READERS_WITH_DIRECTIONS, True
    if fields is not None:
        require_voxel_size(fields, path, what)
        unit, is_placed, has_start = unit_mm(fields, path, what), has_directions(fields), has_origin(fields)
    affine = _affine(reader, path, what)
    affine[:3] *= unit
    if not is_placed:
        return affine, (guessed_axes(path, what, "no directions in its header"),)
    note = (
        f"{what} {path.name} does not say where its first voxel lies (no origin in its header): it is taken "
        "to be at 0, 0, 0 mm, where a mask of another file may not belong"
    )
    return affine, () if has_start else (note,)


def _check_layout(size, components: int, path, what: str) -> None:
    if components > 1:
        raise InputError(f"{what} {path} has {components} values a voxel (RGB or vectors): one is needed")
    volumes = int(np.prod(size[3:]))
    if volumes > 1:
        raise InputError(f"{what} {path} is {len(size)}D ({volumes} volumes): save one of them as a 3D file")
    if len(size) < 3 or min(size[:3]) < 2:
        extent = " x ".join(str(n) for n in size)
        raise InputError(f"{what} {path} is a single slice ({extent}): a 3D volume is needed ({_CT_FORMATS})")


def _by(numbers) -> str:
    return " x ".join(f"{number:.4g}" for number in numbers)


def _affine(image: sitk.ImageFileReader, path, what: str) -> np.ndarray:
    """(4, 4) index-to-LPS matrix."""
    n = image.GetDimension()
    spacing = np.array(image.GetSpacing())[:3]
    check_spacing(spacing, path, what)
    direction = np.array(image.GetDirection()).reshape(n, n)[:3, :3]
    lengths = np.linalg.norm(direction, axis=0)
    if np.abs(lengths - 1).max() > _UNIT_LENGTH and np.abs(spacing - 1).max() > _UNIT_LENGTH:
        raise InputError(
            f"{what} {path} gives two sizes of its voxels: a spacing of {_by(spacing)} mm, and directions "
            f"that are {_by(lengths)} long, not 1: convert it again from the DICOM files"
        )
    affine = np.eye(4)
    affine[:3, :3] = direction * spacing
    affine[:3, 3] = image.GetOrigin()[:3]
    return affine
