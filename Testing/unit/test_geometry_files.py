"""Geometry from JSON, DICOM tags and presets: what comes out, from where, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.c_arm import CArmGeometry, meeting_depth_mm
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.files import geometry_as_dict, load_geometry, write_geometry
from SOPIRegistrationLib.geometry.tolerances import Tolerances
from SOPIRegistrationLib.geometry.views import NOMINAL_VIEWS, nominal_view_from_angles

SHAPE = (480, 640)
TAGS = {
    "DistanceSourceToDetector": 1100.0,
    "DistanceSourceToPatient": 760.0,
    "ImagerPixelSpacing": [0.3, 0.2],
    "PositionerPrimaryAngle": 30.0,
    "PositionerSecondaryAngle": -10.0,
}
K = [[5500.0, 0, 310.0], [0, 3600.0, 250.0], [0, 0, 1]]


@pytest.fixture
def geometry_file(tmp_path):
    def write(entry) -> str:
        path = tmp_path / "geometry.json"
        path.write_text(entry if isinstance(entry, str) else json.dumps(entry))
        return str(path)

    return write


def looking_at(target, source) -> np.ndarray:
    """T_world_to_camera of a camera at ``source`` with its central ray through ``target``."""
    z = (target - source) / np.linalg.norm(target - source)
    x = np.cross([0.1, 1.0, 0.2], z)
    x /= np.linalg.norm(x)
    R = np.stack([x, np.cross(z, x), z])
    return se3.rigid(R, -R @ source)


@pytest.fixture
def calibrated():
    target = np.array([30.0, -20.0, 50.0])
    cameras = []
    for name, source, fx in (("one", [900.0, 100, 0], 5000.0), ("two", [-100.0, 950, 300], 6000.0)):
        K = np.array([[fx, 0, 319.5], [0, fx + 10, 239.5], [0, 0, 1]])
        T = looking_at(target, np.array(source))
        cameras.append(Camera(K, 640, 480, T_world_to_camera=T, name=name))
    distances = [np.linalg.norm(target - np.array(s)) for s in ([900.0, 100, 0], [-100.0, 950, 300])]
    return CArmGeometry(tuple(cameras)), distances


def test_distances_and_spacing(geometry_file):
    path = geometry_file(
        {
            "sdd_mm": 1000,
            "pixel_spacing_mm": [0.25, 0.2],
            "principal_point_px": [300, 200],
            "sod_mm": 650,
            "view": "LLAT",
            "width": 640,
            "height": 480,
        }
    )
    geometry = load_geometry(path, SHAPE)
    np.testing.assert_allclose(geometry.camera.K, [[5000, 0, 300], [0, 4000, 200], [0, 0, 1]])
    assert geometry.camera.shape == SHAPE
    assert (geometry.sod_mm, geometry.view, geometry.camera.sdd_mm) == (650, "LLAT", 1000)
    assert geometry.sources["sdd_mm"] == path
    np.testing.assert_array_equal(geometry.pose_frame([1, 2, 3]).rotation, NOMINAL_VIEWS["LLAT"])


def test_defaults_are_recorded(geometry_file):
    path = geometry_file({"sdd_mm": 1000, "pixel_spacing_mm": [0.25, 0.2]})
    geometry = load_geometry(path, SHAPE)
    np.testing.assert_allclose(geometry.camera.K[:2, 2], [319.5, 239.5])
    assert geometry.sources["principal_point_px"] == "default: detector centre"
    assert geometry.sources["view"] == "default: AP"
    assert geometry.sod_mm is None
    known = geometry.with_default_sod()
    assert known.sod_mm == pytest.approx(700)
    assert known.sources["sod_mm"] == "default: 0.7 of the source-detector distance"


def test_intrinsics_alone_have_no_scale(geometry_file):
    geometry = load_geometry(geometry_file({"K": K}), SHAPE)
    np.testing.assert_array_equal(geometry.camera.K, K)
    assert geometry.camera.sdd_mm is None
    assert geometry.with_default_sod().sod_mm is None
    with pytest.raises(InputError, match="add sod_mm"):
        geometry.pose_frame(np.zeros(3))


def test_intrinsics_and_pitch_give_the_detector_distance(geometry_file):
    geometry = load_geometry(geometry_file({"K": K, "pixel_spacing_mm": [0.3, 0.2], "sod_mm": 640}), SHAPE)
    assert geometry.camera.sdd_mm == pytest.approx(np.sqrt(5500 * 0.2 * 3600 * 0.3))
    assert geometry.sod_mm == 640


def test_calibrated_cameras(calibrated, tmp_path):
    geometry, distances = calibrated
    write_geometry(geometry, tmp_path / "cameras.json")
    read = load_geometry(tmp_path / "cameras.json")
    for ours, theirs in zip(read.cameras, geometry.cameras, strict=True):
        np.testing.assert_allclose(ours.K, theirs.K)
        np.testing.assert_allclose(ours.T_world_to_camera, theirs.T_world_to_camera, atol=1e-12)
        assert (ours.name, ours.shape) == (theirs.name, theirs.shape)
    assert read.with_default_sod().sod_mm == pytest.approx(distances[0])
    second = read.for_camera("two")
    assert [camera.name for camera in second.cameras] == ["two"]
    assert second.sod_mm == pytest.approx(distances[1])
    assert second.sources["sod_mm"] == "estimated: where the central rays meet"
    with pytest.raises(InputError, match="no camera is called 'three': the geometry has one, two"):
        read.for_camera("three")


def test_given_object_distance_wins_over_the_estimate(calibrated, geometry_file):
    entry = {**geometry_as_dict(calibrated[0]), "sod_mm": 777}
    geometry = load_geometry(geometry_file(entry))
    assert geometry.for_camera("two").sod_mm == 777
    assert geometry.with_default_sod().sod_mm == 777


def test_parallel_rays_meet_nowhere(calibrated):
    camera = calibrated[0].camera
    assert meeting_depth_mm([camera, camera], camera) is None


def test_wrist_cameras(shared_data):
    geometry = load_geometry(shared_data / "wrist" / "cameras.json")
    assert [camera.name for camera in geometry.cameras] == ["cam01", "cam02"]
    # The gold standard has the radius at 1036 and 1072 mm; no more than the arm's length off is needed.
    assert geometry.for_camera("cam01").sod_mm == pytest.approx(1036, rel=0.05)
    assert geometry.for_camera("cam02").sod_mm == pytest.approx(1072, rel=0.05)


def test_dicom_tags():
    geometry = load_geometry(image_shape=SHAPE, metadata=TAGS)
    np.testing.assert_allclose(geometry.camera.K, [[5500, 0, 319.5], [0, 1100 / 0.3, 239.5], [0, 0, 1]])
    assert (geometry.sod_mm, geometry.view) == (760, "angles")
    np.testing.assert_allclose(geometry.rotation, nominal_view_from_angles(30, -10))
    assert geometry.sources["sdd_mm"] == geometry.sources["sod_mm"] == "DICOM"
    assert geometry.sources["view"] == "DICOM positioner angles 30 and -10 deg"
    frame = geometry.pose_frame([5.0, 6, 7])
    np.testing.assert_allclose(frame.rotation, geometry.rotation)
    assert frame.sod_mm == 760


def test_file_overrides_dicom_value_by_value(geometry_file):
    path = geometry_file({"sdd_mm": 1200, "view": "PA"})
    geometry = load_geometry(path, SHAPE, TAGS)
    assert geometry.camera.sdd_mm == 1200
    assert geometry.camera.pixel_spacing_mm == pytest.approx((0.3, 0.2))
    assert (geometry.view, geometry.rotation) == ("PA", None)
    assert geometry.sources["sdd_mm"] == path
    assert geometry.sources["pixel_spacing_mm"] == "DICOM"


def test_chosen_view_overrides_everything(geometry_file):
    geometry = load_geometry(geometry_file({"view": "PA"}), SHAPE, TAGS, view="RLAT")
    assert (geometry.view, geometry.rotation) == ("RLAT", None)
    assert geometry.sources["view"] == "chosen by the user"


def test_dicom_view_position():
    tags = {key: value for key, value in TAGS.items() if not key.startswith("Positioner")}
    geometry = load_geometry(image_shape=SHAPE, metadata={**tags, "ViewPosition": "LL"})
    assert geometry.view == "LLAT"


def test_mirrored_image_moves_the_principal_point(geometry_file):
    tags = {**TAGS, "PositionerPrimaryAngle": 0.0, "PositionerSecondaryAngle": 0.0}
    tags["PatientOrientation"] = ["L", "F"]
    path = geometry_file({"principal_point_px": [300, 200]})
    geometry = load_geometry(path, SHAPE, tags)
    assert geometry.mirrored
    np.testing.assert_allclose(geometry.camera.K[:2, 2], [639 - 300, 200])
    assert geometry.camera.K[0, 0] == pytest.approx(5500)
    tags["PatientOrientation"] = ["R", "F"]
    assert not load_geometry(path, SHAPE, tags).mirrored


def test_preset_and_what_overrides_it():
    geometry = load_geometry("perlove PLX118F", (1024, 1024))
    assert geometry.camera.sdd_mm == 1011.7
    assert geometry.camera.pixel_spacing_mm == pytest.approx((0.19959, 0.19959))
    assert (geometry.sod_mm, geometry.sources["sdd_mm"]) == (700, "preset Perlove PLX118F")
    binned = load_geometry("Perlove PLX118F", (256, 256))
    assert binned.camera.pixel_spacing_mm == pytest.approx((0.79836, 0.79836))
    with_tags = load_geometry("Perlove PLX118F", (1024, 1024), TAGS)
    assert with_tags.camera.sdd_mm == 1100


def test_round_trip_through_json(tmp_path):
    geometry = load_geometry(image_shape=SHAPE, metadata=TAGS)
    path = tmp_path / "geometry.json"
    write_geometry(geometry, path)
    read = load_geometry(path, SHAPE)
    np.testing.assert_allclose(read.camera.K, geometry.camera.K)
    np.testing.assert_allclose(read.rotation, geometry.rotation)
    assert (read.sod_mm, read.camera.sdd_mm) == (760, 1100)
    assert [entry.name for entry in tmp_path.iterdir()] == ["geometry.json"]


# Refusals: one line that names the file and the remedy.


def refused(*arguments, **options) -> str:
    with pytest.raises(InputError) as caught:
        load_geometry(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_missing_tags_are_named_all_at_once():
    message = refused(image_shape=SHAPE, metadata={"ViewPosition": "AP"}, image_name="run.dcm")
    assert "run.dcm lacks Distance Source to Detector (0018,1110) and Imager Pixel Spacing" in message
    assert "--geometry" in message
    zero = {**TAGS, "DistanceSourceToDetector": 0.0}
    message = refused(image_shape=SHAPE, metadata=zero, image_name="run.dcm")
    assert "lacks Distance Source to Detector (0018,1110):" in message
    assert "sdd_mm" in message


def test_image_without_any_geometry():
    message = refused(image_shape=SHAPE, metadata={}, image_name="hand.png")
    assert "hand.png carries no geometry" in message
    assert "Perlove PLX118F" in message


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("not json {", "is not JSON"),
        ("[1, 2]", "is not a JSON object"),
        ({"sdd_mm": 1000}, "lacks pixel_spacing_mm"),
        ({"sdd_mm": -5, "pixel_spacing_mm": [1, 1]}, "sdd_mm must be a positive number, not -5"),
        ({"sdd_mm": "long", "pixel_spacing_mm": [1, 1]}, "sdd_mm must be a positive number"),
        ({"sdd_mm": 1000, "pixel_spacing_mm": 0.2}, "two positive numbers [row, column]"),
        ({"sdd_mm": 1000, "pixel_spacing_mm": [0.2, 0]}, "two positive numbers"),
        ({"sdd_mm": 1000, "pixel_spacing_mm": [1, 1], "sod_mm": 0}, "sod_mm must be a positive"),
        ({"sdd_mm": 1000, "pixel_spacing_mm": [1, 1], "view": "oblique"}, "use one of AP, PA"),
        ({"sdd_mm": 1000, "pixel_spacing_mm": [1, 1], "principle_point_px": [1, 1]}, "unknown key"),
        ({"sdd_mm": 1000, "pixel_spacing_mm": [1, 1], "principal_point_px": [1]}, "2 finite numbers"),
        ({"sdd_mm": 1000, "pixel_spacing_mm": [1, 1], "width": 512}, "for an image of 512 x any"),
        ({"K": [[0, 0, 0], [0, 0, 0], [0, 0, 0]]}, "K must be"),
        ({"K": [[1, 2], [3, 4]]}, "K must be 3 x 3 finite numbers"),
        ({"K": [[-5500, 0, 1], [0, 5500, 1], [0, 0, 1]]}, "positive focal lengths"),
        ({"K": K, "nominal_rotation": [[2, 0, 0], [0, 1, 0], [0, 0, 1]]}, "must be a rotation"),
        ({"cameras": []}, "'cameras' must be a list"),
        ({"cameras": [{"name": "a", "K": K, "width": 640, "height": 480}] * 2}, "lacks R and t"),
        (
            {"cameras": [{"K": K, "R": [[1, 0, 0], [0, 1, 0], [0, 0, 1]], "t": [0, 0, 9]}] * 2},
            "lacks width and",
        ),
        ({"cameras": [{"name": "a", "K": K, "width": 100, "height": 480}]}, "100 x 480 pixels"),
    ],
)
def test_unusable_files(geometry_file, entry, said):
    path = geometry_file(entry)
    message = refused(path, SHAPE, image_name="hand.png")
    assert said in message
    assert path in message


def test_cameras_with_one_name(calibrated, geometry_file):
    entry = geometry_as_dict(calibrated[0])
    entry["cameras"][1]["name"] = "one"
    assert "same name" in refused(geometry_file(entry))


def test_missing_file_and_wrong_detector_shape(tmp_path):
    message = refused(tmp_path / "absent.json", SHAPE)
    assert "absent.json does not exist, nor is it a preset (Perlove PLX118F" in message
    message = refused("Perlove PLX118F", (1024, 768), image_name="crop.png")
    assert "crop.png has 768 x 1024" in message


def test_geometry_cannot_be_written(tmp_path):
    geometry = load_geometry("Perlove PLX118F")
    with pytest.raises(InputError, match=r"cannot write .*absent"):
        write_geometry(geometry, tmp_path / "absent" / "geometry.json")


# What else a geometry carries


def test_tolerances_distortion_and_mirroring_survive_the_json(tmp_path):
    camera = Camera(np.array(K), 640, 480, 1100.0, distortion=np.array([0.1, -0.2, 0.003, -0.004, 0.5]))
    geometry = CArmGeometry((replace(camera, tolerances=Tolerances(5.5, 3.0, 0.2)),), 700.0, mirrored=True)
    path = tmp_path / "geometry.json"
    write_geometry(geometry, path)
    read = load_geometry(path, SHAPE)
    np.testing.assert_array_equal(read.camera.distortion, camera.distortion)
    np.testing.assert_allclose(read.camera.K, camera.K)
    assert (read.mirrored, read.tolerances, read.sod_mm) == (True, geometry.tolerances, 700)
    # What is not there is not written.
    plain = geometry_as_dict(CArmGeometry((Camera(np.array(K), 640, 480),)))
    assert not {"mirrored", "sdd_tolerance_mm"} & plain.keys()
    assert "distortion" not in plain["cameras"][0]


def test_tolerances_of_a_set(geometry_file, calibrated):
    entry = geometry_as_dict(calibrated[0]) | {"principal_point_tolerance_px": 4}
    read = load_geometry(geometry_file(entry))
    assert read.tolerances == Tolerances(0, 4, 0)
    assert read.for_camera("two").tolerances == read.tolerances
    assert "principal_point_tolerance_px" not in read.sources


@pytest.mark.parametrize("value", [-1, "a lot", [1], True, float("nan")])
def test_unusable_tolerances(geometry_file, value):
    entry = {"sdd_mm": 1000, "pixel_spacing_mm": [1, 1], "sdd_tolerance_mm": value}
    assert "sdd_tolerance_mm must be a standard deviation" in refused(geometry_file(entry), SHAPE)


@pytest.mark.parametrize("value", [[0.1, 0.2], "none", [0.1, 0, 0, 0, None]])
def test_unusable_distortion(geometry_file, value):
    assert "distortion must be 5 finite numbers" in refused(
        geometry_file({"K": K, "distortion": value}), SHAPE
    )


def test_a_camera_calibrated_alone_has_the_object_near_its_origin(geometry_file):
    camera = {"K": K, "width": 640, "height": 480, "R": np.eye(3).tolist(), "t": [10, -20, 850]}
    known = load_geometry(geometry_file({"cameras": [camera]}), SHAPE).with_default_sod()
    assert known.sod_mm == 850
    assert known.sources["sod_mm"] == "estimated: depth of the calibration's origin"


def test_the_depth_of_a_start_pose_is_the_last_resort(geometry_file):
    T = np.eye(4)
    T[:3, 3] = [5, 6, 700]
    known = load_geometry(geometry_file({"K": K}), SHAPE).with_sod_of(T, [1.0, 2.0, 30.0])
    assert known.sod_mm == 730
    given = load_geometry(geometry_file({"K": K, "sod_mm": 650}), SHAPE)
    assert given.with_sod_of(T, [1.0, 2.0, 30.0]).sod_mm == 650
    with pytest.raises(InputError, match="behind the X-ray source"):
        load_geometry(geometry_file({"K": K}), SHAPE).with_sod_of(np.diag([1, -1, -1, 1.0]) @ T, np.zeros(3))


def test_a_preset_does_not_need_an_unreadable_tag():
    tags = {**TAGS, "DistanceSourceToDetector": "110,5", "ImagerPixelSpacing": 0.3}
    geometry = load_geometry("Perlove PLX118F", (1024, 1024), tags)
    assert geometry.camera.sdd_mm == 1011.7
    assert geometry.sources["sdd_mm"] == "preset Perlove PLX118F"


# How JSON comes


ARM = '{"sdd_mm": 1000, "pixel_spacing_mm": [0.3, 0.2], "width": 640, "height": 480, "comment": "Ger\u00e4t"}'


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_encodings_and_line_ends(tmp_path, encoding, end):
    path = tmp_path / "arm.json"
    path.write_bytes(ARM.replace(", ", f",{end}").encode(encoding))
    assert load_geometry(path).camera.pixel_spacing_mm == pytest.approx((0.3, 0.2))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("// my C-arm\n" + ARM, "line 1: .*comments, and commas after"),
        (ARM.replace(', "width"', ',\n// columns\n"width"'), "line 2: .*comments, and commas after"),
        (ARM.replace("}", ",}"), "line 1: .*comments, and commas after"),
        (ARM.replace("}", ', "sdd_mm": 900}'), "has 'sdd_mm' twice: leave one"),
        (ARM.replace("1000", "true"), "sdd_mm must be a positive number, not True"),
        (ARM.replace("0.3, 0.2", "true, 0.2"), "two positive numbers"),
        (ARM.replace("1000", '"1000 mm"'), "sdd_mm must be a positive number, not 1000 mm"),
        (ARM.replace("1000", '"1000,5"'), "sdd_mm must be a positive number, not 1000,5"),
        (ARM.replace("1000", "NaN"), "sdd_mm must be a positive number, not nan"),
        ("\x89PNG\0", "is not text"),
    ],
)
def test_json_that_is_not_quite(geometry_file, text, said):
    with pytest.raises(InputError, match=said) as caught:
        load_geometry(geometry_file(text))
    assert "\n" not in str(caught.value)


def test_focal_lengths_of_an_image_with_y_up(geometry_file):
    K_up = [[5500.0, 0, 310.0], [0, -5500.0, 250.0], [0, 0, 1]]
    with pytest.raises(InputError, match=r"positive focal lengths fx and fy: .* rows down"):
        load_geometry(geometry_file({"K": K_up, "width": 640, "height": 480}))
