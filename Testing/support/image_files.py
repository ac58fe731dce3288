"""CTs and X-rays as small files, and what is said of those that cannot be used."""

from __future__ import annotations

import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    XRayAngiographicImageStorage,
    generate_uid,
)
from scipy.spatial.transform import Rotation
from SOPIRegistrationLib.errors import InputError

SPACING, ORIGIN = (0.7, 1.3, 2.5), (-40.0, 12.5, 300.0)


def oblique_image(voxels, mirrored=False) -> sitk.Image:
    image = sitk.GetImageFromArray(voxels)
    direction = Rotation.from_euler("xyz", [20, -35, 50], degrees=True).as_matrix()
    if mirrored:
        direction[:, 1] *= -1
    image.SetDirection(direction.ravel().tolist())
    image.SetSpacing(SPACING)
    image.SetOrigin(ORIGIN)
    return image


def write_dicom(path, pixels, storage=XRayAngiographicImageStorage, **tags) -> str:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = storage
    dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.SOPClassUID = storage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID
    dataset.Modality = "XA"
    dataset.Rows, dataset.Columns = pixels.shape[-2:]
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    if pixels.ndim == 3:
        dataset.NumberOfFrames = pixels.shape[0]
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    dataset.PixelData = pixels.astype("<i2" if dataset.PixelRepresentation else "<u2").tobytes()
    dataset.save_as(path, enforce_file_format=True)
    return str(path)


def write_ct_slice(path, pixels, position, series, number) -> None:
    write_dicom(
        path,
        pixels,
        CTImageStorage,
        Modality="CT",
        SeriesInstanceUID=series,
        StudyInstanceUID="1.2.3",
        InstanceNumber=number,
        ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
        ImagePositionPatient=list(position),
        PixelSpacing=[0.5, 0.8],
        SliceThickness=3,
        RescaleSlope=1,
        RescaleIntercept=-1024,
    )


def refusal(read, path, *arguments, **options) -> str:
    with pytest.raises(InputError) as caught:
        read(path, *arguments, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message
