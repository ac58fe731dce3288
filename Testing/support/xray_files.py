"""DICOM X-rays as machines write them, with whatever tags."""

from __future__ import annotations

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    XRayAngiographicImageStorage,
    generate_uid,
)

ROWS, COLUMNS = 48, 64
# No two pixels of a row or column alike: nothing can be turned or mirrored unseen.
GRAY = (np.arange(ROWS)[:, None] * 3 + np.arange(COLUMNS)[None] * 2).astype(np.uint8)


def dicom(
    pixels: np.ndarray, syntax=ExplicitVRLittleEndian, kind=XRayAngiographicImageStorage, **tags
) -> Dataset:
    """An X-ray with a geometry."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = kind
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = generate_uid()
    ds.StudyInstanceUID, ds.SeriesInstanceUID = generate_uid(), generate_uid()
    ds.Modality, ds.PatientID, ds.PatientName = "XA", "1", "Odd"
    ds.Rows, ds.Columns = pixels.shape[:2]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = 8 * pixels.dtype.itemsize
    ds.HighBit, ds.PixelRepresentation = ds.BitsStored - 1, int(pixels.dtype.kind == "i")
    ds.DistanceSourceToDetector, ds.ImagerPixelSpacing, ds.ViewPosition = 1000, [0.8, 0.8], "AP"
    for keyword, value in tags.items():
        setattr(ds, keyword, value)
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    ds.PixelData = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    ds["PixelData"].VR = "OB" if ds.BitsAllocated == 8 else "OW"
    return ds


def saved(ds: Dataset, path):
    ds.save_as(path, enforce_file_format=True)
    return path
