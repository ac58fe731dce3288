"""Reading X-rays: every format, and every kind of unusable file in one line."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.uid import (
    JPEGLosslessSV1,
)
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.images.files import open_radiograph, read_radiograph
from support.image_files import oblique_image, refusal, write_ct_slice, write_dicom

FOR_PROCESSING = {"PresentationIntentType": "FOR PROCESSING"}


@pytest.fixture
def voxels(rng):
    return rng.integers(-1000, 2000, (5, 6, 7)).astype(np.int16)


@pytest.fixture
def pixels(rng):
    return rng.integers(0, 4000, (6, 9)).astype(np.uint16)


@pytest.mark.parametrize(
    ("suffix", "dtype"),
    [("png", np.uint8), ("png", np.uint16), ("tif", np.uint8), ("tif", np.uint16), ("tif", np.float32)]
    + [(suffix, dtype) for suffix in ("nii.gz", "nrrd", "mha") for dtype in (np.uint16, np.float32)],
)
def test_plain_radiographs(tmp_path, pixels, suffix, dtype):
    expected = (pixels % 250).astype(dtype) if dtype == np.uint8 else pixels.astype(dtype)
    path = tmp_path / f"xray.{suffix}"
    sitk.WriteImage(sitk.GetImageFromArray(expected), path)
    radiograph = read_radiograph(path)
    np.testing.assert_array_equal(radiograph.pixels, expected)
    assert radiograph.pixels.dtype == dtype
    assert (radiograph.name, radiograph.bone_dark, radiograph.metadata) == (path.name, None, {})


def test_radiograph_stored_as_a_volume_of_one_slice(tmp_path, pixels):
    sitk.WriteImage(sitk.GetImageFromArray(pixels[None]), tmp_path / "xray.nrrd")
    np.testing.assert_array_equal(read_radiograph(tmp_path / "xray.nrrd").pixels, pixels)


def test_gray_saved_as_rgb_is_gray(tmp_path, pixels):
    gray = (pixels % 251).astype(np.uint8)
    for channels in ([gray] * 3, [*[gray] * 3, np.full_like(gray, 200)]):
        image = sitk.GetImageFromArray(np.stack(channels, axis=-1), isVector=True)
        sitk.WriteImage(image, tmp_path / "xray.png")
        np.testing.assert_array_equal(read_radiograph(tmp_path / "xray.png").pixels, gray)


def test_frames_are_counted_from_one(tmp_path, pixels):
    stack = np.stack([pixels, pixels + 1, pixels + 2])
    sitk.WriteImage(sitk.GetImageFromArray(stack), tmp_path / "run.nrrd")
    write_dicom(tmp_path / "run.dcm", stack)
    for name in ("run.nrrd", "run.dcm"):
        path = tmp_path / name
        np.testing.assert_array_equal(read_radiograph(path, 2).pixels, pixels + 1)
        message = refusal(read_radiograph, path)
        assert "has 3 frames: choose one with --frame 1 to 3" in message
        for frame in (0, 4):
            assert f"has no frame {frame}" in refusal(read_radiograph, path, frame)


def test_dicom_geometry_tags(tmp_path, pixels):
    path = write_dicom(
        tmp_path / "xa.dcm",
        pixels,
        DistanceSourceToDetector="1100",
        DistanceSourceToPatient="760",
        ImagerPixelSpacing=[0.3, 0.2],
        PositionerPrimaryAngle="30.5",
        PositionerSecondaryAngle="-10",
    )
    radiograph, geometry = open_radiograph(path)
    np.testing.assert_array_equal(radiograph.pixels, pixels)
    np.testing.assert_allclose(geometry.camera.K, [[5500, 0, 4], [0, 1100 / 0.3, 2.5], [0, 0, 1]])
    assert geometry.sod_mm == 760
    assert "30.5 and -10 deg" in geometry.sources["view"]


@pytest.mark.parametrize("without", ["preamble", "preamble and meta information"])
def test_old_dicom_without_preamble(tmp_path, pixels, without):
    tags = {"DistanceSourceToDetector": 1200, "DistanceSourceToPatient": 800}
    new, old = write_dicom(tmp_path / "new.dcm", pixels, **tags), tmp_path / "old"
    if without == "preamble":
        old.write_bytes(Path(new).read_bytes()[132:])
    else:
        dataset = pydicom.dcmread(new)
        bare = Dataset()
        bare.update(dataset)
        bare.save_as(old, implicit_vr=True, little_endian=True, enforce_file_format=False)
    radiograph, expected = read_radiograph(old), read_radiograph(new)
    np.testing.assert_array_equal(radiograph.pixels, expected.pixels)
    assert radiograph.metadata == expected.metadata != {}


def test_mirrored_dicom_is_flipped_once_at_the_border(tmp_path, pixels):
    tags = {
        "DistanceSourceToDetector": "1000",
        "ImagerPixelSpacing": [0.2, 0.2],
        "PositionerPrimaryAngle": "0",
        "PositionerSecondaryAngle": "0",
    }
    stored = write_dicom(tmp_path / "l.dcm", pixels, PatientOrientation=["L", "F"], **tags)
    radiograph, geometry = open_radiograph(stored)
    assert geometry.mirrored
    np.testing.assert_array_equal(radiograph.pixels, pixels[:, ::-1])
    np.testing.assert_array_equal(read_radiograph(stored).pixels, pixels)
    # As seen from a source behind the patient: nothing to flip.
    seen = write_dicom(tmp_path / "r.dcm", pixels, PatientOrientation=["R", "F"], **tags)
    radiograph, geometry = open_radiograph(seen)
    assert not geometry.mirrored
    np.testing.assert_array_equal(radiograph.pixels, pixels)


@pytest.mark.parametrize(
    ("increment", "angles"),
    [
        # One value is the change from frame to frame, as many as frames are offsets from the first angle.
        ("15", (10, 25, 40)),
        (["0", "4", "8"], (10, 14, 18)),
        (["3", "-2", "8"], (13, 8, 18)),
        ([], (10, 10, 10)),
    ],
)
def test_rotating_run_has_its_own_angle_in_every_frame(tmp_path, pixels, increment, angles):
    path = write_dicom(
        tmp_path / "run.dcm",
        np.stack([pixels] * 3),
        PositionerPrimaryAngle="10",
        PositionerSecondaryAngle="5",
        PositionerPrimaryAngleIncrement=increment,
    )
    for frame, angle in enumerate(angles, start=1):
        tags = read_radiograph(path, frame).metadata
        assert (tags["PositionerPrimaryAngle"], tags["PositionerSecondaryAngle"]) == (angle, 5)


def test_increments_of_another_number_of_frames_ask_for_the_view(tmp_path, pixels):
    path = write_dicom(
        tmp_path / "run.dcm",
        np.stack([pixels] * 3),
        DistanceSourceToDetector="1100",
        ImagerPixelSpacing=[0.3, 0.2],
        PositionerPrimaryAngle="10",
        PositionerSecondaryAngle="5",
        PositionerPrimaryAngleIncrement=["0", "4"],
    )
    message = refusal(open_radiograph, path, frame=2)
    assert "2 INCREMENTS FOR 3 FRAMES" in message
    assert "--view" in message
    assert open_radiograph(path, view="AP", frame=2)[1].view == "AP"


@pytest.mark.parametrize(
    ("tag", "text", "said"),
    [
        (0x00181510, b"LAO 30", "(0018,1510) is 'LAO 30'"),
        (0x00181164, rb"0,3\0,3 ", r"(0018,1164) is '0,3\0,3'"),
        (0x00181164, b"0.3 ", "(0018,1164) is '0.3'"),
        (0x00181110, b"1100 mm ", "(0018,1110) is '1100 MM'"),
    ],
)
def test_numbers_written_otherwise(tmp_path, pixels, tag, text, said):
    """As it stands in the file, which no library would write."""
    path = write_dicom(
        tmp_path / "xa.dcm",
        pixels,
        DistanceSourceToDetector="1100",
        ImagerPixelSpacing=[0.3, 0.2],
        PositionerPrimaryAngle="30",
        PositionerSecondaryAngle="0",
    )
    dataset = pydicom.dcmread(path)
    dataset[tag] = RawDataElement(pydicom.tag.Tag(tag), "DS", len(text), text, 0, False, True)
    dataset.save_as(path)
    message = refusal(open_radiograph, path)
    assert said in message
    geometry = tmp_path / "geometry.json"
    geometry.write_text('{"sdd_mm": 1000, "pixel_spacing_mm": [1, 1], "view": "PA"}')
    assert open_radiograph(path, geometry)[1].camera.sdd_mm == 1000


def test_enhanced_dicom_keeps_its_tags_in_functional_groups(tmp_path, pixels):
    def group(**tags):
        inner, outer = Dataset(), Dataset()
        for keyword, value in tags.items():
            setattr(inner, keyword, value)
        outer.XRayGeometrySequence = [inner]
        return outer

    path = write_dicom(
        tmp_path / "enhanced.dcm",
        np.stack([pixels] * 2),
        SharedFunctionalGroupsSequence=[group(DistanceSourceToDetector=1200.0)],
        PerFrameFunctionalGroupsSequence=[group(DistanceSourceToIsocenter=value) for value in (750.0, 780.0)],
    )
    tags = read_radiograph(path, 2).metadata
    assert tags["DistanceSourceToDetector"] == 1200
    assert tags["DistanceSourceToIsocenter"] == 780


@pytest.mark.parametrize(
    ("tags", "bone_dark"),
    [
        ({}, None),
        ({"PixelIntensityRelationship": "LIN"}, True),
        ({"PixelIntensityRelationship": "LOG"}, True),
        ({"PixelIntensityRelationship": "DISP"}, None),
        ({"Modality": "DX", "PixelIntensityRelationshipSign": 1}, True),
        ({"Modality": "DX", "PixelIntensityRelationshipSign": -1}, False),
        ({"Modality": "RF"}, None),
        ({"Modality": "RF", "PixelIntensityRelationship": "LOG"}, True),
        # Neither a rescale nor a table changes what is said of the stored values.
        ({"PixelIntensityRelationship": "LIN", "RescaleSlope": "-1", "RescaleIntercept": "4095"}, True),
        ({"Modality": "DX", "PixelIntensityRelationshipSign": -1, "RescaleSlope": "-1"}, False),
        ({"Modality": "DX", "PixelIntensityRelationshipSign": 1, **FOR_PROCESSING}, True),
    ],
)
def test_what_dicom_says_of_the_bones(tmp_path, pixels, tags, bone_dark):
    radiograph = read_radiograph(write_dicom(tmp_path / "x.dcm", pixels, **tags))
    assert (radiograph.bone_dark, radiograph.bone_dark_expected) == (bone_dark, None)
    np.testing.assert_array_equal(radiograph.pixels, pixels)


def lut_sequence(data, first=0, bits=16) -> list[Dataset]:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(data), first, bits])
    item.add_new("LUTData", "US", [int(value) for value in data])
    return [item]


FALLING = np.linspace(65535, 0, 4096).astype(int)
RISING = FALLING[::-1]


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({}, False),
        ({"PhotometricInterpretation": "MONOCHROME1"}, True),
        ({"RescaleSlope": "2", "RescaleIntercept": "-100"}, False),
        ({"RescaleSlope": "-1", "RescaleIntercept": "4095"}, True),
        ({"RescaleSlope": "-1", "PhotometricInterpretation": "MONOCHROME1"}, False),
        ({"ModalityLUTSequence": lut_sequence(FALLING)}, True),
        ({"ModalityLUTSequence": lut_sequence(RISING)}, False),
        # With a table, a slope has no meaning.
        ({"ModalityLUTSequence": lut_sequence(FALLING), "RescaleSlope": "-1"}, True),
        ({"VOILUTSequence": lut_sequence(FALLING)}, True),
        ({"VOILUTSequence": lut_sequence(FALLING), "PhotometricInterpretation": "MONOCHROME1"}, False),
        ({"VOILUTSequence": lut_sequence(FALLING[:200], first=900)}, True),
        ({"WindowCenter": "2000", "WindowWidth": "3000"}, False),
        ({"PresentationLUTShape": "INVERSE", "PhotometricInterpretation": "MONOCHROME1"}, True),
        ({"PresentationLUTShape": "IDENTITY"}, False),
        ({"PresentationLUTShape": "INVERSE", "RescaleSlope": "-1"}, False),
        # A table that is damaged, or flat where the image is, tells nothing.
        ({"VOILUTSequence": lut_sequence(FALLING * 0)}, None),
        ({"RescaleSlope": "0"}, None),
        (FOR_PROCESSING, None),
    ],
)
@pytest.mark.parametrize("modality", ["CR", "DX"])
def test_how_dicom_displays_is_a_hypothesis(tmp_path, pixels, tags, expected, modality):
    """White bones on the screen, through all of DICOM's grayscale pipeline."""
    path = tmp_path / "x.dcm"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_dicom(path, pixels, **{"Modality": modality, **tags})
    radiograph = read_radiograph(path)
    assert (radiograph.bone_dark, radiograph.bone_dark_expected) == (None, expected)
    np.testing.assert_array_equal(radiograph.pixels, pixels)


def test_a_sign_against_the_display_is_a_hypothesis(tmp_path, pixels):
    """Makers that invert for display and forget the sign."""
    tags = {
        "Modality": "DX",
        "PixelIntensityRelationshipSign": 1,
        "PresentationIntentType": "FOR PRESENTATION",
    }
    radiograph = read_radiograph(write_dicom(tmp_path / "x.dcm", pixels, **tags))
    assert (radiograph.bone_dark, radiograph.bone_dark_expected) == (None, True)
    tags |= {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"}
    radiograph = read_radiograph(write_dicom(tmp_path / "y.dcm", pixels, **tags))
    assert (radiograph.bone_dark, radiograph.bone_dark_expected) == (True, None)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_compressed_dicom_gives_the_stored_values(tmp_path, pixels, photometric):
    """In a way that pydicom has no decoder for: lossless JPEG."""
    path = tmp_path / "x.dcm"
    writer = sitk.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.SetFileName(str(path))
    writer.UseCompressionOn()
    writer.SetCompressor("JPEG")
    writer.Execute(sitk.GetImageFromArray(np.stack([pixels, pixels + 3]).astype(np.uint16)))
    dataset = pydicom.dcmread(path)
    assert dataset.file_meta.TransferSyntaxUID == JPEGLosslessSV1
    dataset.Modality, dataset.PhotometricInterpretation = "XA", photometric
    dataset.RescaleSlope, dataset.RescaleIntercept = "2", "-7"
    dataset.save_as(path)
    if pydicom.pixels.get_decoder(JPEGLosslessSV1).is_available:
        pytest.skip("pydicom has a decoder for it here")
    np.testing.assert_allclose(read_radiograph(path, 2).pixels, pixels + 3)


def test_radiograph_is_missing_a_folder_or_text(tmp_path, capfd):
    assert "does not exist" in refusal(read_radiograph, tmp_path / "absent.png")
    assert "is a folder" in refusal(read_radiograph, tmp_path)
    for suffix in ("png", "dcm", "nii.gz", "tif"):
        path = tmp_path / f"note.{suffix}"
        path.write_text("a note\n" * 100)
        assert "use DICOM, PNG, TIFF" in refusal(read_radiograph, path)
    assert capfd.readouterr().err == ""


def test_radiograph_cut_short(tmp_path, pixels, capfd):
    sitk.WriteImage(sitk.GetImageFromArray(np.tile(pixels, (30, 30))), tmp_path / "whole.png")
    write_dicom(tmp_path / "whole.dcm", np.tile(pixels, (30, 30)))
    for suffix in ("png", "dcm"):
        content = (tmp_path / f"whole.{suffix}").read_bytes()
        cut = tmp_path / f"cut.{suffix}"
        cut.write_bytes(content[: len(content) // 2])
        assert "copy or export it again" in refusal(read_radiograph, cut)
    assert capfd.readouterr().err == ""


def test_radiograph_in_colour(tmp_path, rng):
    colours = rng.integers(0, 255, (6, 9, 3)).astype(np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(colours, isVector=True), tmp_path / "photo.png")
    assert "is a colour image: save it as grayscale" in refusal(read_radiograph, tmp_path / "photo.png")
    path = write_dicom(tmp_path / "photo.dcm", colours[..., 0], PhotometricInterpretation="RGB")
    assert "is a colour image (RGB)" in refusal(read_radiograph, tmp_path / "photo.dcm"), path


def test_radiograph_that_is_a_ct_or_without_pixels(tmp_path, pixels):
    write_ct_slice(tmp_path / "ct.dcm", pixels, (0, 0, 0), "1.2.3.4", 1)
    assert "is a CT image: give a projection" in refusal(read_radiograph, tmp_path / "ct.dcm")
    path = write_dicom(tmp_path / "report.dcm", pixels)
    dataset = pydicom.dcmread(path)
    del dataset.PixelData
    dataset.save_as(path)
    assert "not a readable DICOM image" in refusal(read_radiograph, path)


def test_radiograph_without_an_image_in_it(tmp_path, pixels):
    sitk.WriteImage(sitk.GetImageFromArray(np.full_like(pixels, 77)), tmp_path / "flat.png")
    assert "is constant: every pixel is 77" in refusal(read_radiograph, tmp_path / "flat.png")
    values = pixels.astype(np.float32)
    values[1, 1] = np.nan
    sitk.WriteImage(sitk.GetImageFromArray(values), tmp_path / "nan.tif")
    assert "has 1 NaN or infinite values" in refusal(read_radiograph, tmp_path / "nan.tif")


def test_four_dimensions_are_no_radiograph(tmp_path, voxels):
    image = oblique_image(voxels)
    sitk.WriteImage(sitk.JoinSeries([image, image]), tmp_path / "4d.nii.gz")
    assert "has 4 dimensions" in refusal(read_radiograph, tmp_path / "4d.nii.gz")


def test_geometry_of_another_image(tmp_path, pixels):
    sitk.WriteImage(sitk.GetImageFromArray(pixels), tmp_path / "xray.png")
    geometry = tmp_path / "geometry.json"
    geometry.write_text('{"sdd_mm": 1000, "pixel_spacing_mm": [1, 1], "width": 512, "height": 512}')
    message = refusal(open_radiograph, tmp_path / "xray.png", geometry)
    assert "is for an image of 512 x 512 pixels" in message
    assert "has 9 x 6" in message


@pytest.mark.parametrize("modality", ["CT", "MR", "PT", "US", "SEG", "RTDOSE", "OPT"])
def test_dicom_that_is_no_projection(tmp_path, pixels, modality):
    path = write_dicom(tmp_path / "x.dcm", pixels, Modality=modality)
    assert f"is a {modality} image: give a projection" in refusal(read_radiograph, path)


@pytest.mark.parametrize("modality", ["XA", "RF", "DX", "CR", "RTIMAGE", "OT", ""])
def test_dicom_that_may_be_a_projection(tmp_path, pixels, modality):
    path = write_dicom(tmp_path / "x.dcm", pixels, Modality=modality)
    np.testing.assert_array_equal(read_radiograph(path).pixels, pixels)


def test_the_files_that_pydicom_ships(capfd):
    """Whatever they are: an X-ray with what its tags say, or one line; and quietly."""
    root = Path(pydicom.__file__).parent / "data"
    files = [path for path in sorted(root.rglob("*")) if path.is_file() and path.suffix != ".py"]
    assert len(files) > 100
    opened, refused = [], []
    for path in files:
        try:
            opened.append((path, read_radiograph(path, 1)))
        except InputError as error:
            refused.append((path, str(error)))
    assert len(opened) > 3
    for path, said in refused:
        assert "\n" not in said
        assert str(path) in said
    for path, radiograph in opened:
        if {"DistanceSourceToDetector", "ImagerPixelSpacing"} <= radiograph.metadata.keys():
            assert open_radiograph(path, frame=1)[1].camera.sdd_mm > 0
        else:
            assert "--geometry" in refusal(open_radiograph, path, frame=1)
    assert capfd.readouterr().err == ""
