"""CT series whose pixels, names or numbers are not what they seem: padding, bits, UIDs, acquisitions."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.images.files import read_volume
from SOPIRegistrationLib.images.hounsfield import in_hounsfield
from SOPIRegistrationLib.images.volume import Volume
from support.ct_files import Scan, largest_error_voxels, stacked

# Coarse, for these tests write and read many files.
GRID = (42, 56), (2.2, 1.6)
ALONG = np.arange(20) * 4.0


def coarse(shift: float = 0.0) -> Scan:
    """20 planes through the object, ``shift`` mm along their normal from where they usually are."""
    scan = Scan(*GRID)
    normal = np.cross(scan.axes[:, 0], scan.axes[:, 1])
    scan.positions = stacked(ALONG, scan=GRID) + shift * normal
    return scan


def stored(scan: Scan, number: int, intercept: float = -1024) -> np.ndarray:
    """(rows, columns) stored values of a plane."""
    return np.rint(scan.plane(number) - intercept).astype(np.int64)


def write_padded(folder, scan: Scan, value: int, is_signed: bool, intercept: float, **tags):
    """A series with a value of padding outside the scanner's circle."""
    folder.mkdir()
    rows, columns = np.indices(scan.shape)
    outside = np.hypot((rows - 20.5) * 2.2, (columns - 27.5) * 1.6) > 46
    for number in range(len(scan.positions)):
        pixels = np.where(outside, value, stored(scan, number, intercept)).astype(
            "<i2" if is_signed else "<u2"
        )
        scan.write_slice(
            folder / f"{number}.dcm",
            number,
            PixelRepresentation=int(is_signed),
            RescaleIntercept=intercept,
            PixelData=pixels.tobytes(),
            **tags,
        )
    return folder


@pytest.mark.parametrize(
    ("value", "is_signed", "intercept", "named"),
    [
        (-2000, True, -1024, -2000),
        (-32768, True, 0, -32768),
        (63536, False, -1024, 63536),
        # The same bits, named with the other sign.
        (-2000, True, 0, 63536),
        (63536, False, -1024, -2000),
        (4095, False, -1024, 4095),
    ],
)
def test_padding_is_air(tmp_path, value, is_signed, intercept, named):
    # Written as a signed or unsigned value, whatever the pixels are.
    scan = coarse()
    path = write_padded(tmp_path / "ct", scan, value, is_signed, intercept)
    for file in path.iterdir():
        name_padding(file, named)
    volume = read_volume(path)
    assert volume.notes == ()
    assert (volume.array.min(), volume.array[0, 0, 0]) == (-1000, -1000)
    assert volume.array.max() < 1000
    assert largest_error_voxels(volume) < 0.01


def name_padding(path, value: int) -> None:
    dataset = pydicom.dcmread(path)
    dataset.add_new(0x00280120, "SS" if value < 0 else "US", value)
    dataset.save_as(path)


def test_padding_by_a_range(tmp_path):
    scan = coarse()
    path = write_padded(
        tmp_path / "ct", scan, -2047, True, 0, PixelPaddingValue=-2048, PixelPaddingRangeLimit=-2040
    )
    volume = read_volume(path)
    assert volume.array.min() == -1000
    assert largest_error_voxels(volume) < 0.01


def test_padding_that_tissue_may_be_is_not_believed(tmp_path):
    # 0 HU, named as padding by an export: what reaches the border is air all the same, by its place.
    path = write_padded(tmp_path / "ct", coarse(), 0, True, 0, PixelPaddingValue=0)
    volume = read_volume(path)
    assert "background of 0 HU" in volume.notes[0]
    assert largest_error_voxels(volume) < 0.01


def test_padding_without_a_tag(tmp_path):
    low = read_volume(write_padded(tmp_path / "low", coarse(), -2000, True, 0))
    assert low.notes == ()
    assert low.array.max() < 1000
    high = read_volume(write_padded(tmp_path / "high", coarse(), 63536, False, -1024))
    [note] = high.notes
    assert (
        "has a background of 62512, higher than all that it shows: taken for air, which is -1000 in it"
        in note
    )
    assert high.array.max() < 1000
    assert largest_error_voxels(high) < 0.01


def test_padding_around_gray_values_is_their_lowest(rng):
    # A cone-beam CT on a scale of its own: air 300, soft tissue 1200, bone 2500, padding 65535.
    _, j, i = np.indices((40, 60, 60))
    radius = np.hypot(j - 29.5, i - 29.5)
    values = np.where(radius < 18, 1200, 300) + rng.normal(0, 12, radius.shape)
    values = np.where(radius < 5, 2500, values)
    values = np.where(radius > 28, 65535, values).astype(np.uint16)
    volume = in_hounsfield(Volume(values, np.diag([2.0, 2.0, 2.0, 1.0]), "cbct"))
    assert len(volume.notes) == 2
    assert -1100 < volume.array[0, 0, 0] < -950
    np.testing.assert_allclose(np.median(volume.array[:, 29, 40]), 40, atol=15)
    assert volume.array.max() < 2000


def test_twelve_bits_at_the_upper_end_of_sixteen(tmp_path):
    scan = coarse()
    folder = tmp_path / "ct"
    folder.mkdir()
    for number in range(len(scan.positions)):
        pixels = (stored(scan, number) << 4).astype("<u2")
        # Dirt below the values.
        pixels |= 0b1010
        scan.write_slice(
            folder / f"{number}.dcm", number, BitsStored=12, HighBit=15, PixelData=pixels.tobytes()
        )
    volume = read_volume(folder)
    assert volume.array.min() == -1000
    assert largest_error_voxels(volume) < 0.01


@pytest.mark.parametrize("distinct", [1, 10])
def test_uids_shared_by_different_images(tmp_path, distinct):
    tags = {number: {"SOPInstanceUID": f"1.2.3.{number % distinct + 1}"} for number in range(20)}
    volume = read_volume(coarse().write_series(tmp_path / "ct", tags=tags, InstanceNumber=1))
    assert volume.notes == ()
    assert volume.array.shape[0] == 20
    assert largest_error_voxels(volume) < 0.01


def test_a_copy_under_another_name_is_read_once(tmp_path):
    scan = coarse()
    folder = scan.write_series(tmp_path / "ct")
    scan.write_slice(folder / "again.dcm", 7, InstanceNumber=99)
    volume = read_volume(folder)
    assert "has images that are there twice (1)" in volume.notes[0]
    assert largest_error_voxels(volume) < 0.01
    scan.write_slice(folder / "other.dcm", 8, pixels=scan.plane(8) + 1)
    with pytest.raises(InputError, match=r"several slices at one place \(up to 2\)"):
        read_volume(folder)


@pytest.mark.parametrize("shift", [0.0, 2.0])
def test_two_scans_in_one_series_are_not_mixed(tmp_path, shift):
    scan = coarse()
    later = coarse(shift)
    folder = scan.write_series(tmp_path / "ct", AcquisitionNumber=1)
    for number in range(15):
        later.write_slice(folder / f"later{number}.dcm", number, AcquisitionNumber=2)
    with pytest.raises(InputError, match=r"Acquisition Number .*20 of number 1, 15 of number 2.*of one$"):
        read_volume(folder)


@pytest.mark.parametrize("slices", [1, 4])
def test_acquisitions_one_after_the_other_are_one_scan(tmp_path, slices):
    tags = {number: {"AcquisitionNumber": number // slices + 1} for number in range(20)}
    volume = read_volume(coarse().write_series(tmp_path / "ct", tags=tags))
    assert largest_error_voxels(volume) < 0.01


@pytest.mark.parametrize("quantity", ["Z_EFF", "MGML", "ED"])
def test_maps_of_something_else_are_refused(tmp_path, quantity):
    path = coarse().write_series(tmp_path / "ct", RescaleType=quantity)
    with pytest.raises(InputError, match=rf"Rescale Type \(0028,1054\) is {quantity}: give the CT"):
        read_volume(path)


def test_an_enhanced_map_of_something_else_is_refused(tmp_path):
    path = coarse().write_enhanced(tmp_path / "ct.dcm")
    dataset = pydicom.dcmread(path)
    [shared] = dataset.SharedFunctionalGroupsSequence
    shared.PixelValueTransformationSequence[0].RescaleType = "Z_EFF"
    dataset.save_as(path)
    with pytest.raises(InputError, match="is Z_EFF: give the CT"):
        read_volume(path)


def test_floating_point_pixels(tmp_path):
    scan = coarse()
    folder = scan.write_series(tmp_path / "ct")
    for file in folder.iterdir():
        dataset = pydicom.dcmread(file)
        pixels = scan.plane(dataset.InstanceNumber - 1).astype("<f4")
        del dataset.PixelData, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation
        dataset.FloatPixelData, dataset.BitsAllocated, dataset.RescaleIntercept = pixels.tobytes(), 32, 0
        dataset.save_as(file)
    assert largest_error_voxels(read_volume(folder)) < 0.01


def test_hounsfield_units_that_are_named(tmp_path):
    assert read_volume(coarse().write_series(tmp_path / "ct", RescaleType="HU")).notes == ()


def test_images_that_have_lost_their_rescale_are_refused(tmp_path):
    tags = {number: {"RescaleSlope": None, "RescaleIntercept": None} for number in range(0, 20, 2)}
    path = coarse().write_series(tmp_path / "ct", tags=tags)
    with pytest.raises(InputError, match="has 10 of 20 images without Rescale Slope and Intercept"):
        read_volume(path)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("named", ["JPEG2000", "JPEG"])
def test_compressed_pixels_that_only_gdcm_decodes(tmp_path, signed, named):
    scan = coarse()
    folder = scan.write_series(tmp_path / "ct")
    writer = sitk.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.UseCompressionOn()
    writer.SetCompressor(named)
    writer.SetFileName(str(tmp_path / "packed.dcm"))
    for file in folder.iterdir():
        dataset = pydicom.dcmread(file)
        pixels = dataset.pixel_array
        if signed:
            pixels = (pixels.astype(np.int32) - 1024).astype(np.int16)
            dataset.PixelRepresentation, dataset.RescaleIntercept = 1, 0
        writer.Execute(sitk.GetImageFromArray(pixels))
        packed = pydicom.dcmread(tmp_path / "packed.dcm")
        dataset.PixelData = packed.PixelData
        dataset["PixelData"].is_undefined_length = True
        dataset.file_meta.TransferSyntaxUID = packed.file_meta.TransferSyntaxUID
        dataset.save_as(file)
    assert largest_error_voxels(read_volume(folder)) < 0.01


def test_slices_that_do_not_say_what_their_pixels_are(tmp_path):
    scan = Scan()
    folder = scan.write_series(tmp_path / "filled", SamplesPerPixel=None, BitsStored=None, HighBit=None)
    assert largest_error_voxels(read_volume(folder)) < 0.01
    folder = scan.write_series(tmp_path / "unsigned", PixelRepresentation=None)
    with pytest.raises(InputError, match="lacks Pixel Representation"):
        read_volume(folder)
