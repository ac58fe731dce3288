"""Real DICOM files of PyPI packages: each is an image, or one line; never a traceback nor a place made up."""

from __future__ import annotations

import contextlib
import importlib
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pydicom.data
import pytest
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.images.files import open_radiograph, read_radiograph, read_volume
from SOPIRegistrationLib.images.volume import Volume


def real_files() -> list[Path]:
    """All files of pydicom's and pydicom-data's test data that are no scripts."""
    folders = [Path(pydicom.data.__file__).parent / "test_files"]
    with contextlib.suppress(ImportError):
        folders.append(Path(importlib.import_module("data_store").__file__).parent / "data")
    found = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
    return [path for path in found if path.suffix not in (".py", ".pyc", ".txt", ".md", ".json", ".gz")]


def named(name: str) -> Path:
    """The file of that name; the test is skipped where its package is not installed."""
    for path in real_files():
        if path.name == name:
            return path
    pytest.skip(f"{name} is in the package pydicom-data, which is not installed")


def read_or_refused(read, path: Path):
    """What a reader makes of a file; None where it refuses it in one line."""
    try:
        return read(path)
    except InputError as error:
        message = str(error)
    assert "\n" not in message
    assert path.name in message
    assert 20 < len(message) < 500
    return None


@pytest.mark.parametrize("path", real_files(), ids=lambda path: "-".join(path.parts[-2:]))
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_file_is_an_image_or_one_line(path, tmp_path, capfd):
    own = tmp_path / path.name
    shutil.copy(path, own)
    volume = read_or_refused(read_volume, own)
    if volume is not None:
        assert_placed_by_tags(volume, own)
    radiograph = read_or_refused(read_radiograph, own)
    if radiograph is not None:
        assert radiograph.pixels.ndim == 2
        assert np.isfinite(radiograph.pixels).all()
    read_or_refused(open_radiograph, own)
    assert capfd.readouterr().err == ""


def assert_placed_by_tags(volume: Volume, path: Path) -> None:
    """A multi-frame file's volume has its first and last frame where their tags say."""
    dataset = pydicom.dcmread(path)
    assert dataset.Modality == "CT"
    frames = dataset.PerFrameFunctionalGroupsSequence
    places = np.array([frame.PlanePositionSequence[0].ImagePositionPatient for frame in frames], float)
    for end in (0, volume.array.shape[0] - 1):
        corner = volume.points_lps([0, 0, end])
        assert np.linalg.norm(places - corner, axis=1).min() < 1e-3


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_real_enhanced_ct():
    path = named("eCT_Supplemental.dcm")
    dataset = pydicom.dcmread(path)
    volume = read_volume(path)
    assert_placed_by_tags(volume, path)
    measures = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    np.testing.assert_allclose(volume.spacing_mm[1::-1], np.array(measures.PixelSpacing, float))
    values = dataset.pixel_array.astype(int)
    assert volume.array.shape == values.shape
    assert volume.array.min() < -900


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("CT_small.dcm", "single slice"),
        ("MR_small.dcm", "MR"),
        ("emri_small.dcm", "MR"),
        ("rtdose.dcm", "RTDOSE"),
        ("rtplan.dcm", "RT Plan"),
        ("693_UNCR.dcm", "single slice"),
        ("RG1_UNCR.dcm", "no CT"),
        ("US1_UNCR.dcm", "US"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_is_wrong_is_said(tmp_path, name, words):
    own = tmp_path / name
    shutil.copy(named(name), own)
    with pytest.raises(InputError, match=words):
        read_volume(own)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_legacy_converted_ct_is_the_series_it_was_made_from(tmp_path):
    """By an independent writer of enhanced objects."""
    legacy = pytest.importorskip("highdicom.legacy", reason="highdicom is not installed")
    from support.ct_files import Scan

    folder = Scan().write_series(
        tmp_path / "ct",
        **{
            "PatientID": "1",
            "PatientName": "A",
            "PatientBirthDate": "",
            "PatientSex": "",
            "StudyDate": "20200101",
            "StudyTime": "000000",
            "StudyID": "1",
            "AccessionNumber": "",
            "ReferringPhysicianName": "",
            "SeriesNumber": 1,
            "Manufacturer": "x",
            "ManufacturerModelName": "x",
            "DeviceSerialNumber": "1",
            "SoftwareVersions": "1",
            "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
            "AcquisitionDate": "20200101",
            "AcquisitionTime": "000000",
            "ContentDate": "20200101",
            "ContentTime": "000000",
            "KVP": 120,
            "AcquisitionNumber": 1,
            "PositionReferenceIndicator": "",
        },
    )
    slices = [pydicom.dcmread(path) for path in sorted(folder.iterdir())]
    enhanced = legacy.LegacyConvertedEnhancedCTImage(
        slices, pydicom.uid.generate_uid(), 2, pydicom.uid.generate_uid(), 1
    )
    enhanced.save_as(tmp_path / "legacy.dcm")
    expected, volume = read_volume(folder), read_volume(tmp_path / "legacy.dcm")
    np.testing.assert_array_equal(volume.array, expected.array)
    np.testing.assert_allclose(volume.index_to_lps, expected.index_to_lps, atol=1e-6)
