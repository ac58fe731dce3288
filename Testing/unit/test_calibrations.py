"""Calibrations: written and read again, put together, lacking something, distorted, refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from SOPIRegistrationLib.cli.request import Request, open_views
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry.c_arm import CArmGeometry
from SOPIRegistrationLib.geometry.calibrations import camera_names
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.files import load_geometry, write_geometry
from SOPIRegistrationLib.images.files import open_radiograph
from SOPIRegistrationLib.images.radiograph import Radiograph
from SOPIRegistrationLib.images.stored import as_seen_from_the_source
from SOPIRegistrationLib.projector import ProjectorVolume, project
from support.calibrations import (
    GRID,
    HEIGHT,
    MAYACAM_2,
    OBJECT,
    OPENCV,
    VTK,
    WIDTH,
    XML,
    camera,
    placed,
    seen,
)
from support.projections import relative_difference


def reloaded(geometry: CArmGeometry, tmp_path, form: str, suffix: str):
    paths = write_geometry(geometry, tmp_path / f"calibration{suffix}", form)
    assert [path.name for path in sorted(tmp_path.iterdir())] == sorted(path.name for path in paths)
    return [load_geometry(path, (HEIGHT, WIDTH)) for path in paths]


@pytest.mark.parametrize(
    ("form", "suffix", "options"),
    [
        ("xmalab", ".txt", {"skew": 2.0}),
        ("opencv", ".yml", {"skew": 2.0}),
        ("projection", ".txt", {"skew": 2.0}),
        ("jointtrack", ".txt", {"square": True}),
    ],
)
def test_written_and_read_again_an_asymmetric_object_looks_the_same(tmp_path, form, suffix, options):
    one = camera(3, **options)
    if form == "jointtrack":
        # It has no world: the camera's own.
        one = Camera(one.K, WIDTH, HEIGHT, one.sdd_mm)
    [read] = reloaded(CArmGeometry((one,)), tmp_path, form, suffix)
    T = placed(3)
    in_world = T if form == "jointtrack" else np.eye(4)
    # Made by the formula for the camera that was written, and by the projector for the one that was read.
    drr = project(ProjectorVolume(OBJECT.sampled(GRID)), read.camera, in_world)
    assert relative_difference(drr, OBJECT.line_integrals(one, T)) < 0.03
    np.testing.assert_allclose(read.camera.K, one.K, rtol=1e-9)


@pytest.mark.parametrize("form", ["xmalab", "opencv"])
def test_several_cameras_are_a_file_each_and_a_folder_together(tmp_path, form):
    cameras = tuple(camera(seed) for seed in (1, 2, 3))
    paths = write_geometry(CArmGeometry(cameras), tmp_path / "wrist.txt", form)
    assert [path.name for path in paths] == [f"wrist_cam0{seed}.txt" for seed in (1, 2, 3)]
    (tmp_path / "readme.md").write_text("of the wrist")
    (tmp_path / "frame.png").write_bytes(bytes(range(256)))
    read = load_geometry(tmp_path)
    assert [one.name for one in read.cameras] == ["cam01", "cam02", "cam03"]
    assert "lengths taken as mm" in read.sources["cameras"]
    for ours, theirs in zip(read.cameras, cameras, strict=True):
        np.testing.assert_allclose(ours.K, theirs.K, rtol=1e-12)
        np.testing.assert_allclose(ours.T_world_to_camera, theirs.T_world_to_camera, atol=1e-9)
        assert ours.shape == theirs.shape


def test_several_projection_matrices_in_one_file(tmp_path):
    cameras = tuple(camera(seed) for seed in (1, 2, 3))
    [path] = write_geometry(CArmGeometry(cameras), tmp_path / "P.txt", "projection")
    read = load_geometry(path, (HEIGHT, WIDTH))
    for ours, theirs in zip(read.cameras, cameras, strict=True):
        np.testing.assert_allclose(seen(ours), seen(theirs), rtol=1e-6, atol=1e-9)
        assert ours.shape == theirs.shape


def test_projection_matrices_of_four_rows(tmp_path):
    cameras = tuple(camera(seed) for seed in (1, 2, 3))
    rows = [row for one in cameras for row in [*(one.K @ one.T_world_to_camera[:3]), [0.0, 0.0, 0.0, 1.0]]]
    (tmp_path / "P.txt").write_text("\n".join(",".join(map(repr, map(float, row))) for row in rows))
    read = load_geometry(tmp_path / "P.txt", (HEIGHT, WIDTH))
    assert len(read.cameras) == 3
    for ours, theirs in zip(read.cameras, cameras, strict=True):
        np.testing.assert_allclose(seen(ours), seen(theirs), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("scale", [1.0, -1.0, 1e-4, -250.0])
def test_a_projection_matrix_has_any_scale(tmp_path, scale):
    one = camera(2)
    P = scale * one.K @ one.T_world_to_camera[:3]
    path = tmp_path / "P.txt"
    path.write_text("# world to pixels\n" + "\n".join(" ".join(map(repr, map(float, row))) for row in P))
    np.testing.assert_allclose(
        seen(load_geometry(path, (HEIGHT, WIDTH)).camera), seen(one), rtol=1e-6, atol=1e-9
    )


def test_what_a_calibration_lacks_stands_beside_it(tmp_path):
    one = camera(2)
    [path] = write_geometry(CArmGeometry((one,)), tmp_path / "P.txt", "projection")
    beside = tmp_path / "geometry.json"
    entry = {
        "calibration": path.name,
        "sdd_mm": 990,
        "width": WIDTH,
        "height": HEIGHT,
        "sod_mm": 640,
        "view": "PA",
    }
    beside.write_text(json.dumps(entry | {"distortion": [0.1, 0, 0, 0, 0], "sdd_tolerance_mm": 4}))
    read = load_geometry(beside)
    np.testing.assert_allclose(seen(read.camera), seen(one), rtol=1e-6, atol=1e-9)
    assert (read.camera.shape, read.camera.sdd_mm) == ((HEIGHT, WIDTH), 990)
    assert (read.sod_mm, read.view, read.tolerances.sdd_mm) == (640, "PA", 4)
    np.testing.assert_array_equal(read.camera.distortion, [0.1, 0, 0, 0, 0])
    beside.write_text(json.dumps(entry | {"K": one.K.tolist()}))
    with pytest.raises(InputError, match=r"K stands in .*P.txt: leave it out"):
        load_geometry(beside)


def test_distortion_follows_the_models_definition(tmp_path, rng):
    """Spots at the distorted places of points are found at their pinhole places after undistorting."""
    K = np.array([[900.0, 0, 150], [0, 950, 110], [0, 0, 1]])
    k1, k2, p1, p2, k3 = 1.2, -3.0, 0.004, -0.006, 5.0
    points = np.stack([*rng.uniform(-0.11, 0.11, (2, 6)), np.ones(6)], axis=-1)
    x, y, _ = points.T
    r2 = x**2 + y**2
    radial = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3
    x_d = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x**2)
    y_d = y * radial + p1 * (r2 + 2 * y**2) + 2 * p2 * x * y
    v, u = np.mgrid[:221, :301]
    pixels = np.full(u.shape, 1000.0)
    for a, b in zip(900 * x_d + 150, 950 * y_d + 110, strict=True):
        pixels += 9000 * np.exp(-((u - a) ** 2 + (v - b) ** 2) / (2 * 1.5**2))
    sitk.WriteImage(sitk.GetImageFromArray(pixels.astype(np.uint16)), tmp_path / "grid.png")
    path = tmp_path / "g.json"
    path.write_text(json.dumps({"K": K.tolist(), "distortion": [k1, k2, p1, p2, k3]}))
    radiograph, geometry = open_radiograph(tmp_path / "grid.png", path)
    for a, b in geometry.camera.project(points):
        window = np.s_[round(b) - 5 : round(b) + 6, round(a) - 5 : round(a) + 6]
        weight = np.clip(radiograph.pixels[window] - 1300, 0, None)
        rows, columns = np.mgrid[window]
        found = (columns * weight).sum() / weight.sum(), (rows * weight).sum() / weight.sum()
        np.testing.assert_allclose(found, (a, b), atol=0.1)
    # What lies beyond the stored picture is known to be nothing.
    assert 0.5 < radiograph.seen.mean() < 1


def test_a_mirrored_picture_has_mirrored_distortion(rng):
    K = np.array([[900.0, 3, 140], [0, 950, 110], [0, 0, 1]])
    one = Camera(K, 301, 221, distortion=np.array([1.2, -3.0, 0.004, -0.006, 5.0]))
    stored = rng.random((221, 301)).astype(np.float32)
    straight = as_seen_from_the_source(Radiograph(stored), False, one).pixels
    turned = as_seen_from_the_source(Radiograph(stored), True, one.mirrored()).pixels
    np.testing.assert_allclose(turned, straight[:, ::-1], atol=1e-4)


def test_two_xrays_and_a_folder_of_calibrations(tmp_path, rng):
    """As from a lab: a file for each camera, one of them with a lens; each X-ray finds its own."""
    folder = tmp_path / "calibration"
    folder.mkdir()
    bent = replace(camera(2), distortion=np.array([-0.8, 0, 0, 0, 0]))
    write_geometry(CArmGeometry((camera(1), bent)), folder / "knee.yml", "opencv")
    pictures = rng.integers(100, 4000, (2, HEIGHT, WIDTH)).astype(np.uint16)
    paths = [tmp_path / "frame_0007_cam02.png", tmp_path / "frame_0007_cam01.png"]
    for path, picture in zip(paths, pictures, strict=True):
        sitk.WriteImage(sitk.GetImageFromArray(picture), path)
    radiographs, geometry, cameras = open_views(Request(tmp_path / "ct.nii", paths, str(folder)))
    assert [one.name for one in geometry.cameras] == ["cam02", "cam01"]
    assert [one.name for one in cameras] == ["cam01", "cam02"]
    straight = as_seen_from_the_source(Radiograph(pictures[0]), False, bent)
    np.testing.assert_array_equal(radiographs[0].pixels, straight.pixels)
    assert not np.array_equal(radiographs[0].pixels, pictures[0])
    np.testing.assert_array_equal(radiographs[1].pixels, pictures[1])
    # One of them alone, too.
    [alone], geometry, _ = open_views(Request(tmp_path / "ct.nii", paths[:1], str(folder)))
    np.testing.assert_array_equal(alone.pixels, straight.pixels)
    assert geometry.camera.name == "cam02"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("cam.json", json.dumps(VTK | {"view-up": [0, 0]}), "view-up must be three numbers"),
        ("cam.json", json.dumps(VTK | {"view-angle": 0}), "are those of no X-ray"),
        (
            "cam.json",
            json.dumps(VTK | {"camera-position": [0, 0, 9], "focal-point": [0, 0, 0], "view-up": [0, 0, 1]}),
            "view-up is along the view",
        ),
        ("cam.txt", MAYACAM_2.replace("rotation", "turning"), "XMALab): it has no section 'rotation'"),
        ("cam.txt", MAYACAM_2[:200], "has no section 'translation'"),
        ("cam.txt", MAYACAM_2.replace("901.39", "far"), "translation must be 3 finite numbers"),
        ("cam.txt", MAYACAM_2.replace("0.998", "0.5"), "must be a rotation"),
        ("calibration.txt", "JT_INTCALIB\n1200\n0\n0\n", "with 3 values is not read"),
        ("calibration.txt", "JT_INTCALIB\n1200\n0\n0\n0\n", "pixel size must be above zero"),
        ("calibration.txt", "JTA_INTCALIB_BIPLANE\n" + "1\n" * 19, "JTA_INTCALIB_BIPLANE with 19 values"),
        ("calibration.txt", "JTA_INTCALIB_BIPLANE\n" + "1\n" * 20, "axes are not at right angles"),
        ("calibration.txt", "JT_INTCALIB\n1200\n0\n0\n0.3\n" + "1\n" * 9, "must be at right angles"),
        ("cam.yml", OPENCV.replace("camera_matrix", "lens_matrix"), "no 3 x 3 camera_matrix"),
        ("cam.yml", OPENCV.replace("250.,", "many,"), "not 3 x 3 finite numbers"),
        ("cam.xml", XML.replace("250.", "many"), "not 3 x 3 finite numbers"),
        ("cam.xml", XML[:300], "(OpenCV): it is damaged"),
        ("P.txt", "1 2 3 4\n1 2 3 4\n1 2 3 4\n", "is singular"),
        ("P.txt", "3000,5 0 320 0\n0 3000,5 240 0\n0 0 1 700\n", "decimal commas: write them with points"),
        (
            "calibration.txt",
            "JT_INTCALIB\n1200,0\n3,1\n-2,2\n0,3\n",
            "decimal commas: write them with points",
        ),
        (
            "g.xml",
            "<RTKThreeDCircularGeometry version='3'></RTKThreeDCircularGeometry>",
            "holds no projection",
        ),
        ("g.xml", "<RTKThreeDCircularGeometry version='3'><Pro", "damaged XML"),
        ("notes.txt", "SDD about one metre", "nor of another known format (XMALab, JointTrack, OpenCV, RTK"),
        ("g.json", '{"calibration": 5}', "'calibration' must be the name of a file"),
        ("g.json", '{"calibration": "absent.txt"}', "absent.txt does not exist"),
    ],
)
def test_unusable_calibrations(tmp_path, name, text, said):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        load_geometry(path, None if name == "cam.txt" else (480, 640))
    message = str(caught.value)
    assert said in message
    assert str(tmp_path) in message
    assert "\n" not in message


def test_a_matrix_of_an_image_with_y_up_is_recognised(tmp_path):
    one = camera(1)
    upwards = np.array([[1, 0, 0], [0, -1, HEIGHT - 1], [0, 0, 1]]) @ one.K @ one.T_world_to_camera[:3]
    path = tmp_path / "P.txt"
    path.write_text("\n".join(" ".join(f"{value:.17g}" for value in row) for row in upwards))
    with pytest.raises(InputError, match="whose rows count upwards"):
        load_geometry(path, (HEIGHT, WIDTH))


def test_a_folder_without_calibrations(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing here")
    with pytest.raises(InputError, match="holds no camera's calibration"):
        load_geometry(tmp_path)


@pytest.mark.parametrize("form", ["jointtrack", "rtk"])
def test_formats_that_need_a_detector_distance(tmp_path, form):
    one = Camera(camera(1).K, WIDTH, HEIGHT)
    with pytest.raises(InputError, match=f"--as {form}: it needs the source-detector distance"):
        write_geometry(CArmGeometry((one,)), tmp_path / "x.txt", form)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("stems", "names"),
    [
        (["xr_calib_wrist_cam01", "xr_calib_wrist_cam02"], ["cam01", "cam02"]),
        (["left", "right"], ["left", "right"]),
        (["cam1", "cam10"], ["cam1", "cam10"]),
        (["a-b", "a-b-c"], ["b", "b-c"]),
    ],
)
def test_names_of_cameras_from_their_files(stems, names):
    assert camera_names(stems) == names
