"""CTs of a known object, written as scanners and converters write them."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid
from scipy.spatial.transform import Rotation
from SOPIRegistrationLib.images.volume import Volume

# Three balls with soft edges: no symmetry, and no two alike. LPS, mm.
CENTRES = np.array([[12.0, -31.0, 140.0], [-21.0, -6.0, 151.0], [14.0, 12.0, 164.0]])
SIGMAS = np.array([4.0, 4.6, 5.0])
PEAKS = np.array([1900.0, 1300.0, 1600.0])
MIDDLE = np.array([0.0, -8.0, 152.0])
SERIES_UID = "1.2.826.0.1.3680043.8.498.21"


def hu_at(points: np.ndarray) -> np.ndarray:
    """HU at LPS points (..., 3), mm: the balls in air."""
    hu = np.full(points.shape[:-1], -1000.0)
    for centre, sigma, peak in zip(CENTRES, SIGMAS, PEAKS, strict=True):
        hu += peak * np.exp(-((points - centre) ** 2).sum(axis=-1) / (2 * sigma**2))
    return hu


def largest_error_voxels(volume: Volume) -> float:
    """How far, in voxels, a volume shows the balls from where they are; infinite if one is not there."""
    k, j, i = np.indices(volume.array.shape)
    points = volume.points_lps(np.stack([i, j, k], axis=-1))
    errors = []
    for centre, sigma, peak in zip(CENTRES, SIGMAS, PEAKS, strict=True):
        near = np.linalg.norm(points - centre, axis=-1) < 4 * sigma
        weights = volume.array[near].astype(np.float64) + 1000
        mass = weights.sum() * abs(np.linalg.det(volume.index_to_lps[:3, :3]))
        if not 0.97 < mass / (peak * (2 * np.pi) ** 1.5 * sigma**3) < 1.01:
            return np.inf
        errors.append(np.linalg.norm(np.average(points[near], axis=0, weights=weights) - centre))
    return max(errors) / volume.spacing_mm.min()


@dataclass
class Scan:
    """Planes through the object.

    Attributes:
        shape: rows, columns.
        spacing: mm between rows, between columns.
        axes: (3, 2) unit vectors along increasing columns and rows.
        positions: (n, 3) centres of the first pixels.
    """

    shape: tuple[int, int] = (84, 112)
    spacing: tuple[float, float] = (1.1, 0.8)
    axes: np.ndarray = field(default_factory=lambda: oblique()[:, :2])
    positions: np.ndarray = field(default_factory=lambda: stacked(np.arange(40) * 2.0))

    def plane(self, number: int) -> np.ndarray:
        """(rows, columns) HU of a plane."""
        row, column = np.indices(self.shape)
        steps = np.stack([column * self.spacing[1], row * self.spacing[0]], axis=-1)
        return hu_at(self.positions[number] + steps @ self.axes.T)

    def write_series(self, folder: Path, skip=(), tags=None, **every) -> Path:
        """One file a plane, names in no order; ``tags`` maps a plane's number to tags of its own."""
        folder.mkdir(exist_ok=True)
        for number in range(len(self.positions)):
            if number not in skip:
                own = {**every, **(tags or {}).get(number, {})}
                self.write_slice(folder / f"{(number * 37) % 101:03d}_{number}.dcm", number, **own)
        return folder

    def write_slice(self, path: Path, number: int, pixels: np.ndarray | None = None, **tags) -> None:
        """One plane; a tag of None is left out."""
        dataset = new_dataset(CTImageStorage, self.plane(number) if pixels is None else pixels)
        dataset.InstanceNumber = number + 1
        dataset.ImageOrientationPatient = self.axes.T.ravel().round(9).tolist()
        dataset.ImagePositionPatient = self.positions[number].round(7).tolist()
        dataset.PixelSpacing = list(self.spacing)
        dataset.SliceThickness = 2
        save(dataset, path, tags)

    def write_enhanced(self, path: Path, order=None, **tags) -> Path:
        """One file with all planes, or those of ``order``, as frames."""
        order = list(range(len(self.positions)) if order is None else order)
        dataset = new_dataset(EnhancedCTImageStorage, np.stack([self.plane(number) for number in order]))
        shared, measures, orientation = Dataset(), Dataset(), Dataset()
        measures.PixelSpacing, measures.SliceThickness = list(self.spacing), 2
        orientation.ImageOrientationPatient = self.axes.T.ravel().round(9).tolist()
        values = Dataset()
        values.RescaleSlope, values.RescaleIntercept = 1, -1024
        shared.PixelMeasuresSequence = [measures]
        shared.PlaneOrientationSequence = [orientation]
        shared.PixelValueTransformationSequence = [values]
        dataset.SharedFunctionalGroupsSequence = [shared]
        frames = []
        for number in order:
            frame, place = Dataset(), Dataset()
            place.ImagePositionPatient = self.positions[number].round(7).tolist()
            frame.PlanePositionSequence = [place]
            frames.append(frame)
        dataset.PerFrameFunctionalGroupsSequence = frames
        del dataset.RescaleSlope, dataset.RescaleIntercept
        save(dataset, path, tags)
        return path


def oblique() -> np.ndarray:
    """(3, 3) a rotation with no axis along LPS."""
    return Rotation.from_euler("xyz", [9, -13, 21], degrees=True).as_matrix()


def stacked(along, shear: float = 0.0, rotation: np.ndarray | None = None, scan=((84, 112), (1.1, 0.8))):
    """(n, 3) positions of planes ``along`` their normal, mm, ``shear`` mm farther along j each mm."""
    rotation = oblique() if rotation is None else rotation
    (rows, columns), (row_mm, column_mm) = scan
    along = np.asarray(along, dtype=np.float64)
    middle = (along.min() + along.max()) / 2
    offsets = np.stack(
        [
            np.full(len(along), -(columns - 1) / 2 * column_mm),
            -(rows - 1) / 2 * row_mm + shear * (along - middle),
            along - middle,
        ],
        axis=-1,
    )
    return MIDDLE + offsets @ rotation.T


def new_dataset(storage, hu: np.ndarray) -> Dataset:
    """A CT in memory with (rows, columns) or (frames, rows, columns) HU, and no place."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = storage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
    dataset.Modality = "CT"
    dataset.SeriesInstanceUID, dataset.StudyInstanceUID = SERIES_UID, "1.2.3"
    dataset.FrameOfReferenceUID = "1.2.4"
    dataset.Rows, dataset.Columns = hu.shape[-2:]
    if hu.ndim == 3:
        dataset.NumberOfFrames = len(hu)
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
    dataset.PixelData = (np.rint(hu) + 1024).astype("<u2").tobytes()
    return dataset


def save(dataset: Dataset, path: Path, tags: dict) -> None:
    """Write a dataset, some of its tags changed or, where None, left out."""
    for keyword, value in tags.items():
        if value is not None:
            setattr(dataset, keyword, value)
        elif keyword in dataset:
            delattr(dataset, keyword)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.get("SOPClassUID", CTImageStorage)
    dataset.save_as(path, enforce_file_format=True)


def sampled(affine: np.ndarray, shape_ijk=(112, 84, 40)) -> np.ndarray:
    """int16 (k, j, i) HU of the object on any grid, sheared ones too."""
    k, j, i = np.indices(shape_ijk[::-1])
    points = np.stack([i, j, k], axis=-1) @ affine[:3, :3].T + affine[:3, 3]
    return np.rint(hu_at(points)).astype(np.int16)


def grid(shear: float = 0.0, shape_ijk=(112, 84, 40), spacing=(0.8, 1.1, 2.0)) -> np.ndarray:
    """(4, 4) index to LPS of an oblique grid about the object; ``shear`` mm along j each mm along k."""
    affine = np.eye(4)
    axes = oblique() * spacing
    axes[:, 2] += shear * spacing[2] * oblique()[:, 1]
    affine[:3, :3] = axes
    affine[:3, 3] = MIDDLE - axes @ ((np.array(shape_ijk) - 1) / 2)
    return affine


def write_nifti(path: Path, array: np.ndarray, sform, qform, codes=(1, 1), units: int = 2) -> Path:
    """A NIfTI-1 file with whatever header.

    Args:
        path: ending in .nii.
        array: (k, j, i) int16.
        sform: (4, 4) index to LPS.
        qform: (4, 4) index to LPS, its axes perpendicular.
        codes: of sform and qform.
        units: xyzt_units.
    """
    image = sitk.GetImageFromArray(array)
    spacing = np.linalg.norm(qform[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((qform[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(qform[:3, 3].tolist())
    sitk.WriteImage(image, str(path))
    content = bytearray(path.read_bytes())
    struct.pack_into("<2h", content, 252, codes[1], codes[0])
    struct.pack_into("<12f", content, 280, *(np.diag([-1, -1, 1, 1]) @ sform)[:3].ravel())
    content[123] = units
    path.write_bytes(content)
    return path


def read_tags(path: Path) -> Dataset:
    """The whole of a DICOM file."""
    return pydicom.dcmread(path)
