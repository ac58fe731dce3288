"""Files of kinds that public reports of other programs tell of: read right, or refused in one line."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.fileset import FileSet
from pydicom.uid import (
    HTJ2K,
    MPEG4HP41,
    CTImageStorage,
    ExplicitVRBigEndian,
    JPEGLosslessSV1,
    RLELossless,
    SecondaryCaptureImageStorage,
    generate_uid,
)
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.images.files import open_radiograph, read_radiograph, read_volume
from support.ct_files import Scan
from support.xray_files import GRAY, ROWS, dicom, saved

HU = np.full((6, 20, 24), -1000, np.int16)
HU[1:5, 5:15, 6:18] = 40
HU[2:4, 7:10, 8:12] = 800


def screenshot(colours: np.ndarray, interpretation="RGB") -> Dataset:
    return dicom(
        colours,
        kind=SecondaryCaptureImageStorage,
        Modality="OT",
        SamplesPerPixel=3,
        PlanarConfiguration=0,
        PhotometricInterpretation=interpretation,
    )


# DICOM X-rays


def test_byte_order_and_run_lengths(tmp_path):
    wide = GRAY.astype(np.uint16) * 100
    big = read_radiograph(saved(dicom(wide, ExplicitVRBigEndian), tmp_path / "big.dcm"))
    packed = dicom(wide)
    packed.compress(RLELossless)
    for read in (big, read_radiograph(saved(packed, tmp_path / "rle.dcm"))):
        np.testing.assert_array_equal(read.pixels, wide)
        assert read.pixels.dtype.isnative


def test_gray_screenshot_of_three_equal_colours(tmp_path):
    path = saved(screenshot(np.repeat(GRAY[..., None], 3, axis=2)), tmp_path / "gray.dcm")
    np.testing.assert_array_equal(read_radiograph(path).pixels, GRAY)


def test_gray_screenshot_of_brightness_without_colour(tmp_path):
    full = np.stack([GRAY, *[np.full_like(GRAY, 128)] * 2], axis=-1)
    path = saved(screenshot(full, "YBR_FULL"), tmp_path / "ybr.dcm")
    np.testing.assert_array_equal(read_radiograph(path).pixels, GRAY)


@pytest.mark.parametrize("interpretation", ["RGB", "YBR_FULL"])
def test_a_screenshot_with_colours_is_refused(tmp_path, interpretation):
    colours = np.stack([GRAY, np.full_like(GRAY, 90), GRAY], axis=-1)
    path = saved(screenshot(colours, interpretation), tmp_path / "colour.dcm")
    with pytest.raises(InputError, match=f"colour.dcm is a colour image .{interpretation}.*grayscale"):
        read_radiograph(path)


def palette(red, green=None, blue=None) -> Dataset:
    ds = dicom(GRAY, PhotometricInterpretation="PALETTE COLOR")
    for name, table in (("Red", red), ("Green", green), ("Blue", blue)):
        table = red if table is None else table
        setattr(ds, f"{name}PaletteColorLookupTableDescriptor", [256, 0, 16])
        setattr(ds, f"{name}PaletteColorLookupTableData", table.astype("<u2").tobytes())
    return ds


def test_a_palette_of_grays_is_looked_up(tmp_path):
    table = np.arange(256)[::-1] * 257
    path = saved(palette(table), tmp_path / "palette.dcm")
    np.testing.assert_array_equal(read_radiograph(path).pixels, table[GRAY])


def test_a_palette_of_colours_is_refused(tmp_path):
    ramp = np.arange(256) * 257
    with pytest.raises(InputError, match=r"is a colour image \(PALETTE COLOR\): give the grayscale"):
        read_radiograph(saved(palette(ramp, blue=ramp[::-1]), tmp_path / "colours.dcm"))
    with pytest.raises(InputError, match="has a colour palette that cannot be read"):
        read_radiograph(saved(dicom(GRAY, PhotometricInterpretation="PALETTE COLOR"), tmp_path / "none.dcm"))


@pytest.mark.parametrize("syntax", [JPEGLosslessSV1, MPEG4HP41, HTJ2K])
def test_what_cannot_be_decoded(tmp_path, syntax):
    ds = dicom(GRAY)
    ds.file_meta.TransferSyntaxUID = syntax
    ds.PixelData = encapsulate([b"\xff\xd8\xff\xe0 no picture \xff\xd9"])
    ds["PixelData"].is_undefined_length = True
    with pytest.raises(InputError, match="cannot be decoded: copy or export it again, uncompressed"):
        read_radiograph(saved(ds, tmp_path / "x.dcm"))


def test_fewer_pixels_than_rows_are_not_filled_up(tmp_path):
    path = saved(dicom(GRAY, Rows=ROWS + 20), tmp_path / "short.dcm")
    with pytest.raises(InputError, match=r"short.dcm is damaged or compressed"):
        read_radiograph(path)


@pytest.mark.parametrize("keyword", ["SamplesPerPixel", "PhotometricInterpretation", "BitsStored", "HighBit"])
def test_what_pixels_can_only_be_is_filled_in(tmp_path, keyword):
    wide = GRAY.astype(np.uint16) * 100
    dataset = dicom(wide)
    del dataset[keyword]
    np.testing.assert_array_equal(read_radiograph(saved(dataset, tmp_path / "x.dcm")).pixels, wide)


@pytest.mark.parametrize(
    ("keyword", "tag"),
    [
        ("Rows", "Rows .0028,0010."),
        ("Columns", "Columns .0028,0011."),
        ("BitsAllocated", "Bits Allocated .0028,0100."),
        ("PixelRepresentation", "Pixel Representation .0028,0103."),
    ],
)
def test_pixels_that_may_be_several_things_are_refused(tmp_path, keyword, tag):
    dataset = dicom(GRAY.astype(np.uint16))
    del dataset[keyword]
    with pytest.raises(InputError, match=f"x.dcm lacks {tag}, or has no number there"):
        read_radiograph(saved(dataset, tmp_path / "x.dcm"))


@pytest.mark.parametrize(("keyword", "said"), [("Rows", ROWS - 1), ("Columns", GRAY.shape[1] - 2)])
def test_pixels_beyond_those_told_of_are_refused(tmp_path, keyword, said):
    with pytest.raises(InputError, match=r"x.dcm has more pixels than its Rows, Columns"):
        read_radiograph(saved(dicom(GRAY, **{keyword: said}), tmp_path / "x.dcm"))


def test_zeros_behind_the_pixels_are_no_pixels(tmp_path):
    dataset = dicom(GRAY)
    dataset.PixelData += bytes(512)
    np.testing.assert_array_equal(read_radiograph(saved(dataset, tmp_path / "x.dcm")).pixels, GRAY)


def test_a_mask_is_no_x_ray(tmp_path):
    sitk.WriteImage(
        sitk.GetImageFromArray(np.where(GRAY > 90, 255, 0).astype(np.uint8)), str(tmp_path / "m.png")
    )
    with pytest.raises(InputError, match="is a mask: it has no other values than 0 and 255"):
        read_radiograph(tmp_path / "m.png")


def test_an_upside_down_picture_is_turned_and_mirrored_by_its_orientation(tmp_path):
    ds = dicom(GRAY, Modality="DX", PatientOrientation=["L", "H"])
    stored, geometry = open_radiograph(saved(ds, tmp_path / "lh.dcm"))
    assert geometry.mirrored
    np.testing.assert_array_equal(stored.pixels, GRAY[:, ::-1])
    # Columns of the picture as stored run to the left, rows to the head: of the flipped one to the right.
    np.testing.assert_allclose(geometry.rotation[:2], [[-1, 0, 0], [0, 0, 1]], atol=1e-12)


# Other pictures


def write_tiff(path, *pages) -> Path:
    """A TIFF of pages: (pixels, {field: SHORT}); fields are as of gray pixels in one strip, or as given."""
    content, following = bytearray(b"II*\0" + bytes(4)), 4
    for pixels, own in pages:
        # A strip, or one tile; its place and size are LONG.
        is_tiled = 322 in own
        place, size = (324, 325) if is_tiled else (273, 279)
        fields = {
            256: pixels.shape[1],
            257: pixels.shape[0],
            258: 8 * pixels.itemsize,
            259: 1,
            262: 1,
            277: 1,
        }
        fields |= {278: pixels.shape[0]} if not is_tiled else {}
        fields |= {place: len(content), size: pixels.nbytes, **own}
        content += pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
        struct.pack_into("<I", content, following, len(content))
        content += struct.pack("<H", len(fields))
        for field, value in sorted(fields.items()):
            content += struct.pack("<HHII", field, 4 if field in (place, size) else 3, 1, value)
        following = len(content)
        content += bytes(4)
    path.write_bytes(content)
    return path


WIDE = GRAY.astype(np.uint16) * 251


@pytest.mark.parametrize(
    ("pages", "frame", "expected"),
    [
        ([(WIDE, {})], None, WIDE),
        # A tile of 16 bits, of which ITK makes eight.
        ([(WIDE, {322: 64, 323: 48})], None, WIDE),
        # Gray with transparency.
        ([(np.stack([GRAY, 255 - GRAY], -1), {258: 8, 277: 2, 338: 2})], None, GRAY),
        # Pages of another size or kind than the first.
        ([(GRAY[:20, :32], {}), (GRAY, {})], 2, GRAY),
        ([(GRAY, {}), (WIDE, {})], 2, WIDE),
        # Smaller copies are no frames.
        ([(GRAY[:20, :32], {254: 1}), (GRAY, {})], None, GRAY),
        ([(GRAY, {}), (GRAY[:20, :32], {254: 1}), (GRAY[::-1], {})], 2, GRAY[::-1]),
    ],
)
def test_tiffs_that_itk_would_read_otherwise(tmp_path, pages, frame, expected):
    path = write_tiff(tmp_path / "x.tif", *((np.ascontiguousarray(one), own) for one, own in pages))
    np.testing.assert_array_equal(read_radiograph(path, frame).pixels, expected)


@pytest.mark.parametrize(
    ("pixels", "fields", "said"),
    [
        ((GRAY / 255).astype(np.float16), {339: 3}, "1 x 16 bits, floating-point"),
        (np.stack([WIDE, WIDE], -1), {258: 16, 277: 2, 338: 2}, "2 x 16 bits, unsigned"),
        (GRAY.astype(np.uint64), {}, "1 x 64 bits, unsigned"),
    ],
)
def test_tiffs_that_nothing_reads_are_refused(tmp_path, pixels, fields, said):
    path = write_tiff(tmp_path / "x.tif", (pixels, fields))
    with pytest.raises(InputError, match=f"x.tif keeps its pixels in a way that cannot be read .{said}"):
        read_radiograph(path)


def test_gray_with_transparency_is_named(tmp_path):
    pixels = np.stack([GRAY, np.full_like(GRAY, 255)], axis=-1)
    image_io = pytest.importorskip("imageio.v3")
    image_io.imwrite(tmp_path / "a.png", pixels, mode="LA")
    with pytest.raises(InputError, match="gray with transparency: save it as grayscale"):
        read_radiograph(tmp_path / "a.png")


def test_archives_are_to_be_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "ct.zip", "w") as archive:
        archive.writestr("slice.dcm", b"0")
    for read in (read_volume, read_radiograph):
        with pytest.raises(InputError, match=r"ct\.zip is an archive: unpack it"):
            read(tmp_path / "ct.zip")


@pytest.mark.parametrize(
    ("name", "start", "said"),
    [
        ("x.png", b"\xff\xd8\xff\xe0\0\x10JFIF", "is a JPEG by its content: name it x.jpg"),
        ("x.jpg", b"\x89PNG\r\n\x1a\n", "is a PNG by its content: name it x.png"),
        ("x.raw", b"II*\0\x08\0\0\0", "is a TIFF by its content: name it x.tif"),
        ("x.nii", b"\x1f\x8b\x08\0", "is a gzip-packed file by its content: name it x.nii.gz"),
        ("x.gif", b"GIF89a", "is a GIF: save it"),
        ("x.webp", b"RIFF\x10\0\0\0WEBPVP8 ", "is a WebP: save it"),
        ("x.mp4", b"\0\0\0\x18ftypmp42", "is a video: save it, or one frame of it, as PNG"),
        ("x.pdf", b"%PDF-1.7", "is a PDF: save it"),
        ("x.mgz", b"\x1f\x8b\x08\0", "is FreeSurfer's format: convert it to NIfTI"),
        ("x.nii.gz", struct.pack("<i", 348), "is not packed with gzip, as its name says: name it x.nii"),
        ("x.png", b"\x89PNG\r\n\x1a\n", "is not an image that can be read"),
    ],
)
def test_files_that_are_something_else_than_their_names(tmp_path, name, start, said):
    path = tmp_path / name
    path.write_bytes(start + bytes(400))
    for read in (read_radiograph, read_volume):
        with pytest.raises(InputError, match=said):
            read(path)


# CTs


def test_segments_in_frames_of_their_own_are_not_read_as_one(tmp_path):
    path = Scan().write_enhanced(tmp_path / "seg.dcm", Modality="SEG", SegmentationType="BINARY")
    segmentation = pydicom.dcmread(path)
    for frame in segmentation.PerFrameFunctionalGroupsSequence:
        frame.SegmentIdentificationSequence = [Dataset()]
        frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber = 1
    segmentation.save_as(path)
    assert read_volume(path, "mask").array.shape == (40, 84, 112)
    frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber = 2
    segmentation.save_as(path)
    with pytest.raises(
        InputError, match=r"seg.dcm is a DICOM segmentation of 2 segments: save it as a label"
    ):
        read_volume(path, "label map")


def test_contours_are_no_label_map(tmp_path):
    contours = dicom(GRAY, Modality="RTSTRUCT")
    with pytest.raises(InputError, match=r"rt.dcm holds contours .RTSTRUCT.: save them as a label map"):
        read_volume(saved(contours, tmp_path / "rt.dcm"), "mask")


@pytest.mark.parametrize("order", "<>")
def test_nifti_2_is_told_from_what_is_no_nifti(tmp_path, order):
    content = bytearray(544 + HU.nbytes)
    struct.pack_into(order + "i8s2h8q", content, 0, 540, b"n+2\0\r\n\x1a\n", 4, 16, 3, 24, 20, 6, 1, 1, 1, 1)
    struct.pack_into(order + "8d", content, 104, *[1.0] * 8)
    struct.pack_into(order + "q", content, 168, 544)
    (tmp_path / "ct.nii").write_bytes(content)
    with pytest.raises(InputError, match=r"ct.nii is NIfTI-2, which is not read: save it as NIfTI-1"):
        read_volume(tmp_path / "ct.nii")


def test_a_packing_that_itk_lacks_is_named(tmp_path):
    path = nrrd(tmp_path / "ct.nrrd", "left-posterior-superior")
    path.write_bytes(path.read_bytes().replace(b"encoding: raw", b"encoding: bzip2"))
    with pytest.raises(InputError, match="bzip2"):
        read_volume(path)


def nrrd(path, space: str):
    header = (
        f"NRRD0004\ntype: short\ndimension: 3\nspace: {space}\nsizes: 24 20 6\n"
        "space directions: (1,0,0) (0,1,0) (0,0,2)\nkinds: domain domain domain\nendian: little\n"
        "encoding: raw\nspace origin: (10,20,30)\n\n"
    )
    path.write_bytes(header.encode() + HU.tobytes())
    return path


@pytest.mark.parametrize(
    ("space", "origin"),
    [
        ("left-posterior-superior", (10, 20, 30)),
        ("right-anterior-superior", (-10, -20, 30)),
        ("left-anterior-superior", (10, -20, 30)),
        ("RAS", (-10, -20, 30)),
    ],
)
def test_spaces_of_nrrd(tmp_path, space, origin):
    volume = read_volume(nrrd(tmp_path / "a.nrrd", space))
    np.testing.assert_allclose(volume.index_to_lps[:3, 3], origin)
    assert not volume.notes


@pytest.mark.parametrize("space", ["scanner-xyz", "3D-right-handed"])
def test_spaces_of_nrrd_that_are_not_the_patients(tmp_path, space):
    [note] = read_volume(nrrd(tmp_path / "a.nrrd", space)).notes
    assert "is a guess" in note


def test_a_nifti_slope_of_zero_voids_the_intercept(tmp_path):
    path = tmp_path / "a.nii"
    sitk.WriteImage(sitk.GetImageFromArray(HU), str(path))
    content = bytearray(path.read_bytes())
    struct.pack_into("<2f", content, 112, 0.0, 24.0)
    path.write_bytes(content)
    np.testing.assert_array_equal(read_volume(path).array, HU)


def series(folder):
    folder.mkdir(parents=True)
    uid = generate_uid()
    for number, plane in enumerate(HU):
        ds = dicom(
            plane, kind=CTImageStorage, Modality="CT", SeriesInstanceUID=uid, SeriesNumber=1, StudyID="1"
        )
        ds.StudyDate, ds.StudyTime, ds.InstanceNumber = "20200101", "120000", number + 1
        ds.ImagePositionPatient, ds.ImageOrientationPatient = [0, 0, 2 * number], [1, 0, 0, 0, 1, 0]
        ds.PixelSpacing, ds.RescaleSlope, ds.RescaleIntercept = [1, 1], 1, 0
        saved(ds, folder / f"{number}.dcm")
    return folder


def test_folders_of_folders_and_directories_name_the_slices(tmp_path):
    slices = series(tmp_path / "export" / "study" / "series")
    with pytest.raises(InputError, match=f"export is a folder without a DICOM series.*as {slices}"):
        read_volume(tmp_path / "export")
    files = FileSet()
    for path in sorted(slices.iterdir()):
        files.add(pydicom.dcmread(path))
    files.write(tmp_path / "disc")
    with pytest.raises(InputError, match=r"DICOMDIR is a DICOMDIR, a list of files: .* as .*disc"):
        read_volume(tmp_path / "disc" / "DICOMDIR")
