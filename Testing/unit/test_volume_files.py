"""Reading CTs: every format, and every kind of unusable file in one line."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import SimpleITK as sitk
from SOPIRegistrationLib.images.files import read_volume
from support.image_files import SPACING, oblique_image, refusal, write_ct_slice


@pytest.fixture
def voxels(rng):
    return rng.integers(-1000, 2000, (5, 6, 7)).astype(np.int16)


@pytest.mark.parametrize("suffix", ["nii.gz", "nii", "nrrd", "mha"])
@pytest.mark.parametrize("mirrored", [False, True])
def test_volume_keeps_its_place_in_patient_space(tmp_path, voxels, suffix, mirrored):
    image = oblique_image(voxels, mirrored)
    path = tmp_path / f"ct.{suffix}"
    sitk.WriteImage(image, path)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array, voxels)
    np.testing.assert_allclose(volume.spacing_mm, SPACING, rtol=1e-6)
    for index in ([0, 0, 0], [6, 5, 4], [2, 5, 1]):
        expected = image.TransformIndexToPhysicalPoint(index)
        np.testing.assert_allclose(volume.points_lps(index), expected, atol=1e-4)
    assert volume.name == path.name


def test_volume_of_one_time_point_is_a_volume(tmp_path, voxels):
    sitk.WriteImage(sitk.JoinSeries([oblique_image(voxels)]), tmp_path / "ct.nrrd")
    assert read_volume(tmp_path / "ct.nrrd").array.shape == (5, 6, 7)


@pytest.fixture
def series_folder(tmp_path, rng):
    folder = tmp_path / "series"
    folder.mkdir()
    pixels = rng.integers(0, 3000, (4, 6, 5))
    for number, plane in enumerate(pixels):
        write_ct_slice(folder / f"b{9 - number}.dcm", plane, (-5, 7, 30 + 3 * number), "1.2.3.4", number)
    return folder, pixels - 1024


def test_dicom_series_of_a_folder_or_of_one_of_its_slices(series_folder):
    folder, hu = series_folder
    for path in (folder, folder / "b7.dcm"):
        volume = read_volume(path)
        np.testing.assert_array_equal(volume.array, hu)
        np.testing.assert_allclose(volume.spacing_mm, [0.8, 0.5, 3])
        np.testing.assert_allclose(volume.points_lps([0, 0, 1]), [-5, 7, 33])


def test_largest_of_several_series_is_taken_with_a_note(series_folder):
    folder, hu = series_folder
    write_ct_slice(folder / "scout1.dcm", np.ones((6, 5)), (0, 0, 0), "1.2.3.5", 1)
    write_ct_slice(folder / "scout2.dcm", np.ones((6, 5)), (0, 0, 4), "1.2.3.5", 2)
    volume = read_volume(folder)
    np.testing.assert_array_equal(volume.array, hu)
    assert "2 series" in volume.notes[0]
    assert read_volume(folder / "scout2.dcm").array.shape == (2, 6, 5)


def test_real_dicom_series(shared_data):
    volume = read_volume(shared_data / "ct_dicom_series")
    assert volume.array.shape == (20, 512, 512)
    np.testing.assert_allclose(volume.spacing_mm, [0.9765625, 0.9765625, 2.0])
    assert volume.array.min() == -1024


def volume_refusal(path, what="CT") -> str:
    return refusal(read_volume, path, what)


def test_volume_is_missing_empty_or_a_folder_without_images(tmp_path):
    assert "does not exist" in volume_refusal(tmp_path / "absent.nii.gz")
    (tmp_path / "empty.nii.gz").touch()
    assert "is empty" in volume_refusal(tmp_path / "empty.nii.gz")
    assert "without a DICOM series" in volume_refusal(tmp_path)
    assert volume_refusal(tmp_path / "absent.nrrd", "mask").startswith("mask ")


@pytest.mark.parametrize("suffix", ["nii.gz", "nii", "nrrd", "mha", "dcm", "txt"])
def test_text_under_the_name_of_an_image(tmp_path, suffix, capfd):
    path = tmp_path / f"ct.{suffix}"
    path.write_text("this is a letter, not a scan\n" * 50)
    assert "a 3D DICOM, NIfTI, NRRD or MHA file" in volume_refusal(path)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("suffix", ["nii.gz", "nii", "nrrd", "mha", "dcm"])
def test_copy_that_was_cut_short(tmp_path, voxels, suffix, capfd):
    whole, cut = tmp_path / f"whole.{suffix}", tmp_path / f"cut.{suffix}"
    voxels = np.tile(voxels, (4, 4, 4))
    if suffix == "dcm":
        write_ct_slice(whole, voxels[0] + 1000, (0, 0, 0), "1.2.3.4", 1)
    else:
        sitk.WriteImage(oblique_image(voxels), whole)
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    message = volume_refusal(cut)
    assert "damaged or incomplete" in message or "not an image that can be read" in message
    assert capfd.readouterr().err == ""


def test_volume_with_time_or_colours(tmp_path, voxels):
    image = oblique_image(voxels)
    sitk.WriteImage(sitk.JoinSeries([image, image]), tmp_path / "4d.nii.gz")
    assert "is 4D (2 volumes): save one" in volume_refusal(tmp_path / "4d.nii.gz")
    sitk.WriteImage(sitk.Compose([image] * 3), tmp_path / "rgb.nrrd")
    assert "3 values a voxel" in volume_refusal(tmp_path / "rgb.nrrd")


def test_volume_of_a_single_slice(tmp_path, voxels):
    sitk.WriteImage(oblique_image(voxels[:1]), tmp_path / "slice.nii.gz")
    assert "is a single slice (7 x 6 x 1)" in volume_refusal(tmp_path / "slice.nii.gz")
    sitk.WriteImage(sitk.GetImageFromArray(voxels[0].astype(np.uint8)), tmp_path / "flat.png")
    assert "is a single slice (7 x 6)" in volume_refusal(tmp_path / "flat.png")
    (tmp_path / "one").mkdir()
    write_ct_slice(tmp_path / "one" / "a.dcm", voxels[0] + 1000, (0, 0, 0), "1.2.3.4", 1)
    assert "is a single slice" in volume_refusal(tmp_path / "one")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_volume_with_values_that_are_no_numbers(tmp_path, voxels, bad):
    values = voxels.astype(np.float32)
    values[2, 3, 4] = values[0, 0, 0] = bad
    sitk.WriteImage(oblique_image(values), tmp_path / "ct.nrrd")
    assert "has 2 NaN or infinite values" in volume_refusal(tmp_path / "ct.nrrd")


@pytest.mark.parametrize("value", [0.0, -2.0, np.nan])
def test_spacing_not_above_zero(tmp_path, voxels, value):
    image = sitk.GetImageFromArray(voxels)
    path = tmp_path / "ct.nii"
    sitk.WriteImage(image, path)
    content = bytearray(path.read_bytes())
    struct.pack_into("<f", content, 84, value)
    path.write_bytes(content)
    assert f"has a spacing of 1 x {value:g} x 1 mm: every spacing must be above" in volume_refusal(path)
    if np.isnan(value):
        return
    path = tmp_path / "ct.mha"
    sitk.WriteImage(image, path)
    old, new = b"ElementSpacing = 1 1 1", f"ElementSpacing = 1 {value:g} 1".encode()
    path.write_bytes(path.read_bytes().replace(old, new))
    assert "must be above zero" in volume_refusal(path)


@pytest.mark.parametrize("matrix", ["1 0 0 1 0 0 0 0 1", "0 0 0 0 0 0 0 0 0", "1 0 0 0.9 0.436 0 0 0 1"])
def test_axes_that_do_not_span_space(tmp_path, voxels, matrix):
    path = tmp_path / "ct.mha"
    sitk.WriteImage(sitk.GetImageFromArray(voxels), path)
    content = path.read_bytes().replace(b"1 0 0 0 1 0 0 0 1", matrix.encode())
    path.write_bytes(content)
    assert "axes that do not span space" in volume_refusal(path)


def test_pictures_are_no_volume(tmp_path, voxels):
    """A stack of pictures has neither a slice distance nor directions; libraries make up 1 mm."""
    sitk.WriteImage(sitk.GetImageFromArray(voxels), tmp_path / "stack.tif")
    assert "does not say how large its voxels are" in volume_refusal(tmp_path / "stack.tif")


def test_files_without_directions_say_so(tmp_path, voxels):
    nrrd = b"NRRD0004\ntype: short\ndimension: 3\nsizes: 7 6 5\nspacings: 1 2 3\nendian: little\n"
    (tmp_path / "ct.nrrd").write_bytes(nrrd + b"encoding: raw\n\n" + voxels.tobytes())
    mha = b"ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
    mha += b"ElementSpacing = 1 2 3\nDimSize = 7 6 5\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    (tmp_path / "ct.mha").write_bytes(mha + voxels.tobytes())
    for name in ("ct.nrrd", "ct.mha"):
        volume = read_volume(tmp_path / name)
        np.testing.assert_array_equal(volume.array, voxels)
        np.testing.assert_allclose(volume.spacing_mm, [1, 2, 3])
        (note,) = volume.notes
        assert f"{name} does not say how its axes lie" in note
