"""DICOM X-rays whose tags mask, turn or place them in less usual ways, and pictures that are turned."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedXAImageStorage, RLELossless, RTImageStorage
from scipy.spatial.transform import Rotation
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.rt_image import view_of_gantry
from SOPIRegistrationLib.images.files import open_radiograph, read_frames, read_radiograph
from SOPIRegistrationLib.images.radiograph import Radiograph
from SOPIRegistrationLib.images.radiograph_preparation import prepare_radiograph
from SOPIRegistrationLib.images.stored import as_seen_from_the_source
from support.xray_files import COLUMNS, GRAY, ROWS, dicom, saved

WIDE = GRAY.astype(np.uint16) * 10
ROW, COLUMN = np.arange(1, ROWS + 1)[:, None], np.arange(1, COLUMNS + 1)


def without(dataset: Dataset, *keywords: str) -> Dataset:
    for keyword in keywords:
        delattr(dataset, keyword)
    return dataset


def coded(value: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, "SCT", meaning
    return code


# Bits, padding, shutters


def test_bits_that_are_no_values_are_taken_off(tmp_path):
    overlay = WIDE.copy()
    overlay[10:20, 10:30] |= 0x8000
    tags = {"BitsStored": 12, "HighBit": 11}
    high = dicom((WIDE << 4).astype(np.uint16), BitsStored=12, HighBit=15)
    packed = dicom(overlay, **tags)
    packed.compress(RLELossless)
    for name, dataset in (("overlay", dicom(overlay, **tags)), ("high", high), ("packed", packed)):
        np.testing.assert_array_equal(read_radiograph(saved(dataset, tmp_path / f"{name}.dcm")).pixels, WIDE)


def test_the_bits_of_one_frame_of_several(tmp_path):
    frames = np.stack([WIDE, WIDE // 2])
    dataset = dicom(WIDE, NumberOfFrames=2, BitsStored=12, HighBit=15)
    dataset.PixelData = (frames << 4).astype("<u2").tobytes()
    np.testing.assert_array_equal(read_radiograph(saved(dataset, tmp_path / "run.dcm"), 2).pixels, frames[1])


RECTANGLE = {
    "LeftVerticalEdge": 11,
    "RightVerticalEdge": 50,
    "UpperHorizontalEdge": 6,
    "LowerHorizontalEdge": 40,
}
IN_RECTANGLE = (COLUMN >= 11) & (COLUMN <= 50) & (ROW >= 6) & (ROW <= 40)
# A circle off the middle, and a triangle with no symmetry: rows come first in both.
IN_CIRCLE = (ROW - 20) ** 2 + (COLUMN - 36) ** 2 <= 18**2
CORNERS = [5, 8, 8, 60, 44, 20]
IN_TRIANGLE = (
    ((ROW - 5) * 52 - (COLUMN - 8) * 3 >= 0)
    & ((ROW - 8) * -40 - (COLUMN - 60) * 36 >= 0)
    & ((ROW - 44) * -12 + (COLUMN - 20) * 39 >= 0)
)


@pytest.mark.parametrize("name", ["Shutter", "Collimator"])
def test_what_lies_behind_shutter_and_collimator_is_not_seen(tmp_path, name):
    def seen(shape, **tags) -> np.ndarray:
        tags = {f"{name}{keyword}" if "Of" not in keyword else keyword: tag for keyword, tag in tags.items()}
        path = saved(dicom(WIDE, **{f"{name}Shape": shape}, **tags), tmp_path / "x.dcm")
        return read_radiograph(path).seen

    circle = {f"CenterOfCircular{name}": [20, 36], f"RadiusOfCircular{name}": 18}
    np.testing.assert_array_equal(seen("RECTANGULAR", **RECTANGLE), IN_RECTANGLE)
    np.testing.assert_array_equal(seen("CIRCULAR", **circle), IN_CIRCLE)
    both = seen(["CIRCULAR", "RECTANGULAR"], **circle, **RECTANGLE)
    np.testing.assert_array_equal(both, IN_CIRCLE & IN_RECTANGLE)
    polygon = seen("POLYGONAL", **{f"VerticesOfThePolygonal{name}": CORNERS})
    assert (polygon != IN_TRIANGLE).sum() <= 2 * ROWS
    assert polygon.sum() > 800


@pytest.mark.parametrize(
    "tags",
    [
        {"ShutterShape": "RECTANGULAR"},
        {"ShutterShape": "CIRCULAR", "CenterOfCircularShutter": [500, 500], "RadiusOfCircularShutter": 9},
        {"ShutterShape": "POLYGONAL", "VerticesOfThePolygonalShutter": [1, 2, 3]},
        {"ShutterShape": "CIRCULAR", "CenterOfCircularShutter": [24, 32], "RadiusOfCircularShutter": 200},
    ],
)
def test_a_shutter_that_says_nothing_hides_nothing(tmp_path, tags):
    assert read_radiograph(saved(dicom(WIDE, **tags), tmp_path / "x.dcm")).seen is None


def test_padding_is_not_seen_and_not_taken_for_air(tmp_path):
    padded = WIDE.copy()
    padded[:, :14] = 65535
    path = saved(dicom(padded, PixelPaddingValue=65535), tmp_path / "x.dcm")
    radiograph, geometry = open_radiograph(path)
    np.testing.assert_array_equal(radiograph.seen, np.broadcast_to(COLUMN > 14, WIDE.shape))
    for polarity in ("bone-dark", "bone-bright"):
        valid = prepare_radiograph(radiograph, geometry.camera, polarity).valid
        assert not valid[:, :14].any()
        assert valid[:, 16:].mean() > 0.9


def test_what_is_seen_turns_with_the_picture(tmp_path):
    tags = {f"Shutter{keyword}": edge for keyword, edge in RECTANGLE.items()}
    path = saved(
        dicom(WIDE, Modality="DX", PatientOrientation=["L", "H"], ShutterShape="RECTANGULAR", **tags),
        tmp_path / "x.dcm",
    )
    radiograph, geometry = open_radiograph(path)
    assert geometry.mirrored
    np.testing.assert_array_equal(radiograph.seen, IN_RECTANGLE[:, ::-1])


def test_what_is_seen_is_straightened_with_the_picture():
    camera = Camera.from_c_arm(1000, (3, 3), COLUMNS, ROWS)
    seen = np.broadcast_to(COLUMN > 20, WIDE.shape)
    distorted = Camera(camera.K, COLUMNS, ROWS, 1000.0, distortion=np.array([0.5, 0, 0, 0, 0]))
    straight = as_seen_from_the_source(Radiograph(WIDE, seen=seen), False, distorted)
    assert not straight.seen[:, :18].any()
    assert straight.seen[10:38, 24:40].all()


# Views


@pytest.mark.parametrize(
    ("code", "meaning", "view"),
    [
        ("399348003", "antero-posterior", "AP"),
        ("R-10214", "postero-anterior", "PA"),
        ("399173006", "left lateral", "LLAT"),
        ("R-10232", "right lateral", "RLAT"),
    ],
)
def test_view_codes(tmp_path, code, meaning, view):
    dataset = without(dicom(WIDE, Modality="DX", ViewCodeSequence=[coded(code, meaning)]), "ViewPosition")
    _, geometry = open_radiograph(saved(dataset, tmp_path / "x.dcm"))
    assert (geometry.view, geometry.sources["view"]) == (view, "DICOM View Code")


def test_a_view_code_that_tells_no_view_is_asked_for(tmp_path):
    dataset = without(dicom(WIDE, ViewCodeSequence=[coded("399067008", "lateral")]), "ViewPosition")
    path = saved(dataset, tmp_path / "x.dcm")
    with pytest.raises(InputError, match=r"View Code Sequence \(0054,0220\) is '399067008\\LATERAL'.*--view"):
        open_radiograph(path)
    assert open_radiograph(path, view="LLAT")[1].view == "LLAT"


def enhanced(**position) -> Dataset:
    dataset = without(
        dicom(WIDE, kind=EnhancedXAImageStorage, NumberOfFrames=1),
        "DistanceSourceToDetector",
        "ImagerPixelSpacing",
        "ViewPosition",
    )
    shared, frame, pixels, geometry, place = (Dataset() for _ in range(5))
    pixels.ImagerPixelSpacing, pixels.PixelIntensityRelationship = [0.3, 0.3], "LIN"
    geometry.DistanceSourceToDetector = 1100
    shared.FramePixelDataPropertiesSequence, shared.XRayGeometrySequence = [pixels], [geometry]
    for keyword, value in position.items():
        setattr(place, keyword, value)
    frame.PositionerPositionSequence = [place]
    dataset.SharedFunctionalGroupsSequence, dataset.PerFrameFunctionalGroupsSequence = [shared], [frame]
    return dataset


def test_an_enhanced_xray_says_its_polarity_in_its_groups(tmp_path):
    path = saved(enhanced(PositionerPrimaryAngle=30, PositionerSecondaryAngle=0), tmp_path / "x.dcm")
    radiograph, geometry = open_radiograph(path)
    assert radiograph.bone_dark is True
    assert geometry.camera.sdd_mm == 1100


def test_angles_against_the_room_do_not_tell_the_view(tmp_path):
    path = saved(
        enhanced(PositionerIsocenterPrimaryAngle=30, PositionerIsocenterSecondaryAngle=0), tmp_path / "x.dcm"
    )
    with pytest.raises(InputError, match=r"angles against the room alone .*0018,9463.*: give the view"):
        open_radiograph(path)
    assert open_radiograph(path, view="PA")[1].view == "PA"


# Pixels that are not square


def test_an_intensifier_with_pixels_higher_than_wide(tmp_path):
    tags = {"IntensifierSize": 200, "PixelAspectRatio": [5, 4]}
    path = saved(without(dicom(WIDE, **tags), "ImagerPixelSpacing"), tmp_path / "x.dcm")
    _, geometry = open_radiograph(path)
    # 48 rows of 5 quarters are less than 64 columns.
    np.testing.assert_allclose(geometry.camera.pixel_spacing_mm, [200 / 64 * 1.25, 200 / 64])


# Radiotherapy


def rt_image(**tags) -> Dataset:
    dataset = without(
        dicom(WIDE, kind=RTImageStorage, Modality="RTIMAGE"),
        "DistanceSourceToDetector",
        "ImagerPixelSpacing",
        "ViewPosition",
    )
    dataset.RTImageSID, dataset.RadiationMachineSAD = 1500, 1000
    dataset.ImagePlanePixelSpacing, dataset.RTImagePosition = [0.8, 0.5], [-14.0, 16.4]
    dataset.GantryAngle, dataset.PatientSupportAngle, dataset.PatientPosition = 0, 0, "HFS"
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    return dataset


def on_the_receptor(points: np.ndarray, gantry_deg: float, shift) -> np.ndarray:
    """(n, 2) receptor x, y, mm, of points (n, 3) about the isocentre in IEC's fixed system."""
    # Into the gantry's system, which turns about y, x to z.
    inside = points @ Rotation.from_euler("y", gantry_deg, degrees=True).as_matrix()
    magnified = inside[:, :2] * 1500 / (1000 - inside[:, 2:])
    return magnified - np.asarray(shift)


@pytest.mark.parametrize("gantry", [0, 40, 90, 275])
@pytest.mark.parametrize("support", [0, 25])
@pytest.mark.parametrize(
    ("position", "axes"),
    [
        # The patient's left, posterior and superior in the room.
        ("HFS", [[1, 0, 0], [0, 0, -1], [0, 1, 0]]),
        ("FFS", [[-1, 0, 0], [0, 0, -1], [0, -1, 0]]),
        ("HFP", [[-1, 0, 0], [0, 0, 1], [0, 1, 0]]),
        ("FFP", [[1, 0, 0], [0, 0, 1], [0, -1, 0]]),
    ],
)
def test_an_rt_image_shows_what_its_tags_say(tmp_path, rng, gantry, support, position, axes):
    shift = [3.0, -5.0, -500.0]
    tags = {
        "GantryAngle": gantry,
        "PatientSupportAngle": support,
        "PatientPosition": position,
        "XRayImageReceptorTranslation": shift,
    }
    _, geometry = open_radiograph(saved(rt_image(**tags), tmp_path / "x.dcm"))
    lps = rng.uniform(-80, 80, (12, 3))
    room = lps @ np.array(axes) @ Rotation.from_euler("z", support, degrees=True).as_matrix().T
    on = on_the_receptor(room, gantry, shift[:2])
    expected = np.stack([(on[:, 0] + 14.0) / 0.5, (16.4 - on[:, 1]) / 0.8], axis=-1)
    T = geometry.pose_frame([0, 0, 0]).T_nominal
    found = geometry.camera.project(lps @ T[:3, :3].T + T[:3, 3])
    np.testing.assert_allclose(found, expected, atol=1e-9)
    assert not geometry.mirrored


def test_a_gantry_above_a_supine_patient_is_ap():
    np.testing.assert_allclose(view_of_gantry(0, 0, "HFS"), [[1, 0, 0], [0, 0, -1], [0, 1, 0]], atol=1e-12)


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ({"RTImagePlane": "NON_NORMAL"}, "RT Image Plane (3002,000C) is 'NON_NORMAL'"),
        ({"RTImageOrientation": [1, 0, 0, 0, 1, 0]}, "RT Image Orientation (3002,0010) is"),
        ({"PatientPosition": "HFDR"}, "Patient Position (0018,5100) is 'HFDR'"),
        ({"XRayImageReceptorAngle": 90}, "X-Ray Image Receptor Angle (3002,000E) is '90.0'"),
    ],
)
def test_rt_images_that_are_not_read(tmp_path, tags, said):
    with pytest.raises(InputError) as caught:
        open_radiograph(saved(rt_image(**tags), tmp_path / "x.dcm"))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_rt_image_that_does_not_say_where_it_lies_is_centred(tmp_path):
    _, geometry = open_radiograph(saved(without(rt_image(), "RTImagePosition"), tmp_path / "x.dcm"))
    assert geometry.sources["principal_point_px"] == "default: detector centre"
    np.testing.assert_allclose(geometry.camera.pixel_spacing_mm, [0.8, 0.5])
    assert (geometry.camera.sdd_mm, geometry.sod_mm) == (1500, 1000)


# Pictures


@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.tif"])
def test_pictures_that_are_to_be_turned(tmp_path, name):
    path, picture = tmp_path / name, Image.fromarray(GRAY)
    for orientation in (1, 3, 6):
        exif = Image.Exif()
        exif[0x0112] = orientation
        picture.save(path, **({"tiffinfo": exif} if name.endswith("tif") else {"exif": exif}))
        if orientation == 1:
            assert read_radiograph(path).pixels.shape == GRAY.shape
            continue
        for read in (read_radiograph, read_frames):
            with pytest.raises(
                InputError, match=rf"\(Orientation {orientation} in its header\).*save it again"
            ):
                read(path)
