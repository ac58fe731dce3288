"""Values of a DICOM CT's planes: decoded, rescaled, interpolated where planes are missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.images.ct_planes import Plane, dicom_header, planes_of
from SOPIRegistrationLib.images.itk_reading import image_reader, read_pixels
from SOPIRegistrationLib.images.stored_pixels import (
    decoded_pixels,
    is_padding,
    require_pixel_tags,
    with_air_for_padding,
)


def read_array(planes: list[Plane], places: np.ndarray, what: str) -> np.ndarray:
    """(k, j, i) values, rescaled; int16 where that holds them."""
    read = PlaneReader(what)
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


class PlaneReader:
    """Reads planes, keeping the last file's pixels: frames of one file come one after the other."""

    def __init__(self, what: str):
        self._what = what
        self._path: Path | None = None
        self._stored = np.empty(0)
        self._padding: np.ndarray | None = None

    def __call__(self, plane: Plane) -> np.ndarray:
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

    def _rescaled(self, plane: Plane) -> np.ndarray:
        slope, intercept = plane.rescale
        stored = self._stored[plane.frame]
        if slope == int(slope) and intercept == int(intercept) and stored.dtype.kind in "iu":
            if abs(slope) * 65536 + abs(intercept) > 2**31 or stored.dtype.itemsize > 2:
                return stored * slope + intercept
            return stored.astype(np.int32) * np.int32(slope) + np.int32(intercept)
        return (stored * slope + intercept).astype(np.float32)

    def _read(self, plane: Plane) -> np.ndarray:
        """(frames, rows, columns) as stored."""
        path = plane.path
        try:
            dataset = pydicom.dcmread(path, force=True)
            require_pixel_tags(dataset, path, self._what)
            pixels = decoded_pixels(dataset, dataset)
        except InputError:
            raise
        except Exception:  # pydicom raises whatever its decoders trip over
            pixels = self._decoded_by_gdcm(plane)
        pixels = pixels[None] if pixels.ndim == 2 else pixels
        self._padding = is_padding(dataset, pixels) if self._what == "CT" else None
        return pixels

    def _decoded_by_gdcm(self, plane: Plane) -> np.ndarray:
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
        first = next(iter(planes_of(path, dicom_header(path), self._what)))
        return np.rint((values - first.rescale[1]) / first.rescale[0]).astype(np.int32)

    def _damaged(self, path: Path) -> InputError:
        return InputError(
            f"{self._what} {path} is damaged or incomplete, or compressed in a way that cannot be decoded: "
            "copy or export it again, uncompressed"
        )
