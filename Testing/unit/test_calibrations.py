"""Calibrations of other programs: read in their conventions, written so that they read back, and refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation
from SOPIRegistrationLib.cli.request import Request, open_views
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.c_arm import CArmGeometry
from SOPIRegistrationLib.geometry.calibrations import camera_names
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.files import load_geometry, write_geometry
from SOPIRegistrationLib.images.files import open_radiograph
from SOPIRegistrationLib.images.radiograph import Radiograph
from SOPIRegistrationLib.images.stored import as_seen_from_the_source
from SOPIRegistrationLib.images.volume import Volume
from SOPIRegistrationLib.projector import ProjectorVolume, project
from support.objects import GaussianBlobs, oblique_grid
from support.projections import relative_difference

WIDTH, HEIGHT = 64, 48


def grid_about(centre) -> Volume:
    grid = oblique_grid((1.2, 1.2, 1.6), (56, 50, 38))
    index_to_lps = grid.index_to_lps.copy()
    index_to_lps[:3, 3] += np.array(centre) - grid.centre_lps_mm
    return Volume(grid.array, index_to_lps)


# Near the world's origin, as what lies in a calibrated set does, but not at it.
GRID = grid_about([6.0, -9.0, 12.0])
OBJECT = GaussianBlobs.asymmetric(GRID)


def placed(seed: int) -> np.ndarray:
    """T_world_to_camera that sees the object from some side, turned in every way."""
    rng = np.random.default_rng(seed)
    R = Rotation.random(random_state=rng.integers(99)).as_matrix()
    place = np.array([4.0, -3.0, 700 + 20 * seed])
    return se3.rigid(R, place - R @ GRID.centre_lps_mm)


def camera(seed: int = 1, skew: float = 0.0, square: bool = False) -> Camera:
    fx, fy = 1000 / 1.9, 1000 / (1.9 if square else 1.6)
    K = np.array([[fx, skew, 27.3], [0, fy, 26.1], [0, 0, 1]])
    return Camera(K, WIDTH, HEIGHT, 1000.0, placed(seed), f"cam{seed:02d}")


def seen(camera: Camera) -> np.ndarray:
    """The object's exact projection, in a world that is the object's."""
    return OBJECT.line_integrals(camera, camera.T_world_to_camera)


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


# Files as the programs write them


MAYACAM_2 = """image size
1760,1760

camera matrix
6167.35342293,0,803.741292437
0,6165.63244754,865.698104164
0,0,1

rotation
0.792589225007,-0.0592057161733,-0.606874784099
0.0545361218268,0.998169197702,-0.0261546205154
0.607312219389,-0.0123667267546,0.794367000982

translation
-16.6293306327
-77.8355084182
901.390251307
"""


def test_xmalab_is_opencvs_convention(tmp_path, shared_data):
    """The published camera file of the wrist, whose beads were found where the JSON of it puts them."""
    path = tmp_path / "xr_calib_wrist_cam01.txt"
    for text in (MAYACAM_2, "\ufeff" + MAYACAM_2.replace("\n", "\r\n")):
        path.write_text(text, encoding="utf-8")
        read = load_geometry(path).camera
        known = load_geometry(shared_data / "wrist" / "cameras.json").cameras[0]
        np.testing.assert_allclose(read.K, known.K)
        np.testing.assert_allclose(read.T_world_to_camera, known.T_world_to_camera, atol=1e-9)
        assert read.shape == (1760, 1760)


def test_xmalab_size_is_columns_first_unless_the_image_tells(tmp_path):
    path = tmp_path / "cam.txt"
    path.write_text(MAYACAM_2.replace("1760,1760", "2000,1500"))
    assert load_geometry(path).camera.shape == (1500, 2000)
    assert load_geometry(path, (2000, 1500)).camera.shape == (2000, 1500)
    with pytest.raises(InputError, match=r"cam.txt .*2000 x 1500.*640 x 480"):
        load_geometry(path, (480, 640))


def test_xmalab_in_centimetres_is_said(tmp_path):
    path = tmp_path / "cam.txt"
    path.write_text(MAYACAM_2.split("translation")[0] + "translation\n-1.66\n-7.78\n90.14\n")
    read = load_geometry(path)
    np.testing.assert_allclose(read.camera.T_world_to_camera[:3, 3], [-16.6, -77.8, 901.4])
    assert "lengths taken as cm" in read.sources["cameras"]


def test_xmalab_in_metres_is_said(tmp_path):
    text = MAYACAM_2[: MAYACAM_2.index("translation")] + "translation\n0.012\n-0.031\n0.9\n"
    (tmp_path / "cam.txt").write_text(text)
    read = load_geometry(tmp_path / "cam.txt")
    np.testing.assert_allclose(read.camera.T_world_to_camera[:3, 3], [12, -31, 900])
    assert "lengths taken as m)" in read.sources["cameras"]


def test_xmalab_with_sections_that_are_not_needed(tmp_path):
    (tmp_path / "cam.txt").write_text(
        "\ufeff" + MAYACAM_2.replace("\n", "\r\n") + "\r\nundistortion\r\n1,2,3\r\n"
    )
    (tmp_path / "plain.txt").write_text(MAYACAM_2)
    read, plain = (load_geometry(tmp_path / name).camera for name in ("cam.txt", "plain.txt"))
    np.testing.assert_array_equal(read.K, plain.K)
    np.testing.assert_array_equal(read.T_world_to_camera, plain.T_world_to_camera)


def test_xmalab_with_decimal_commas(tmp_path):
    text = MAYACAM_2.replace(",", ";").replace(".", ",")
    (tmp_path / "cam.txt").write_text(text)
    with pytest.raises(InputError, match=r"must be .* finite numbers: write them with decimal points"):
        load_geometry(tmp_path / "cam.txt")


def test_mayacam_one(tmp_path):
    """A camera given by its parts: on the world's +x side, looking back along -x, with z up, v upwards."""
    path = tmp_path / "cam.csv"
    # About x by 90, then (in the turned axes) nothing, about z by 90: looks along -x, up is +z.
    path.write_text("1000.0,20.0,30.0\n90.0,0.0,90.0\n1.0,2.0,-500.0\n301.0,181.0,-5000.0\n0.1,640,480\n")
    read = load_geometry(path).camera
    assert read.shape == (480, 640)
    # From one, and from the bottom: the third hundred and first column, the row 180 above the lowest.
    np.testing.assert_allclose(read.K, [[5000, 0, 300], [0, 5000, 480 - 181], [0, 0, 1]])
    point = np.array([0.0, 30.0, 50.0])
    x = read.T_world_to_camera[:3] @ [*point, 1]
    # 10 to the right of the central ray (+y, seen from +x with z up), 20 above it, 1000 deep.
    np.testing.assert_allclose(x, [10, -20, 1000], atol=1e-9)
    np.testing.assert_allclose(read.project(x), [300 + 50, 299 - 100])


def test_jointtrack_counts_y_upwards(tmp_path):
    path = tmp_path / "calibration.txt"
    path.write_text("JT_INTCALIB\n1200\n3.2\n-1.6\n0.32\n")
    read = load_geometry(path, (HEIGHT, WIDTH))
    # Ten pixels to the right of the middle, five below it.
    np.testing.assert_allclose(read.camera.K, [[3750, 0, 31.5 + 10], [0, 3750, 23.5 + 5], [0, 0, 1]])
    assert read.camera.sdd_mm == 1200


# The second camera 90 deg to the right of the first, both looking at a point 800 mm away: its axes are the
# columns (it looks along -x of the first, its own y up as well).
JTML_BIPLANE = """JTA_INTCALIB_BIPLANE
1200 3.2 -1.6 0.32
1000 0 0.5 0.25
800 0 -800
0 0 1
0 1 0
-1 0 0
"""


def test_jtml_places_the_second_camera_in_the_first_ones_frame(tmp_path):
    path = tmp_path / "calibration.txt"
    path.write_text(JTML_BIPLANE)
    read = load_geometry(path, (HEIGHT, WIDTH))
    first, second = read.cameras
    assert [camera.name for camera in read.cameras] == ["A", "B"]
    np.testing.assert_allclose(first.K, [[3750, 0, 31.5 + 10], [0, 3750, 23.5 + 5], [0, 0, 1]])
    np.testing.assert_allclose(second.K, [[4000, 0, 31.5], [0, 4000, 23.5 - 2], [0, 0, 1]])
    # A point where both look, moved by 10 to the first one's right, 20 up, 30 towards it. Theirs has y up.
    point = np.array([10.0, -20.0, 800 - 30])
    np.testing.assert_allclose(first.T_world_to_camera[:3] @ [*point, 1], point)
    # For the second: towards it by 10, and to the left by 30, as the first camera stands at its left.
    x = second.T_world_to_camera[:3] @ [*point, 1]
    np.testing.assert_allclose(x, [-30, -20, 800 - 10], atol=1e-9)


def test_jtml_both_cameras_written_and_read_again(tmp_path):
    cameras = tuple(camera(seed, square=True) for seed in (1, 2))
    [path] = write_geometry(CArmGeometry(cameras), tmp_path / "pair.txt", "jointtrack")
    read = load_geometry(path, (HEIGHT, WIDTH))
    T = cameras[0].T_world_to_camera
    for ours, theirs in zip(read.cameras, cameras, strict=True):
        # The world has become the first camera's.
        drr = OBJECT.line_integrals(ours, ours.T_world_to_camera @ T)
        np.testing.assert_allclose(drr, seen(theirs), rtol=1e-5, atol=1e-7)
    with pytest.raises(InputError, match="two cameras at most, this geometry has 3"):
        write_geometry(CArmGeometry((*cameras, camera(3, square=True))), tmp_path / "x.txt", "jointtrack")


def test_jointtrack_with_a_cameras_place(tmp_path):
    """Source, normal towards it, upward direction, in a world with z up; directions of any length."""
    path = tmp_path / "front.txt"
    path.write_text("JT_INTCALIB\n1200\n0\n0\n0.32\n\n0 -900 50\n0 -2 0\n0 0 5\n")
    [read] = load_geometry(path, (HEIGHT, WIDTH)).cameras
    # Looking along +y, x to the right: 30 right of the central ray, 20 above it, 100 beyond the origin.
    x = read.T_world_to_camera[:3] @ [30, 100, 70, 1]
    np.testing.assert_allclose(x, [30, -20, 1000], atol=1e-9)
    assert read.sdd_mm == 1200


OPENCV = """%YAML:1.0
---
calibration_time: "Thu"
image_width: 640
image_height: 480
camera_matrix: !!opencv-matrix
   rows: 3
   cols: 3
   dt: d
   data: [ 5.5e+03, 0., 310., 0., 5400.,
       250., 0., 0., 1. ]
distortion_coefficients: !!opencv-matrix
   rows: 5
   cols: 1
   dt: d
   data: [ -2.0, 30., 1.0e-03, -2.0e-03, 0. ]
"""
POSE = """rvec: !!opencv-matrix
   rows: 3
   cols: 1
   dt: d
   data: [ 0., 0., 1.5707963267948966 ]
tvec: !!opencv-matrix
   rows: 3
   cols: 1
   dt: d
   data: [ 1., 2., 800. ]
"""
ROS = """image_width: 640
image_height: 480
camera_name: c_arm
camera_matrix:
  rows: 3
  cols: 3
  data: [5500, 0, 310, 0, 5400, 250, 0, 0, 1]
distortion_coefficients:
  rows: 1
  cols: 4
  data: [-2, 30, 0.001, -0.002]
"""


XML = """<?xml version="1.0"?>
<opencv_storage>
<calibration_time>"Thu"</calibration_time>
<image_width>640</image_width>
<image_height>480</image_height>
<camera_matrix type_id="opencv-matrix">
  <rows>3</rows>
  <cols>3</cols>
  <dt>d</dt>
  <data>
    5.5e+03 0. 310. 0. 5400. 250. 0. 0. 1.</data></camera_matrix>
<distortion_coefficients type_id="opencv-matrix">
  <rows>5</rows>
  <cols>1</cols>
  <dt>d</dt>
  <data>
    -2. 30. 1.0e-03 -2.0e-03 0.</data></distortion_coefficients>
</opencv_storage>
"""
JSON = """{
    "image_width": 640, "image_height": 480,
    "camera_matrix": {
        "type_id": "opencv-matrix", "rows": 3, "cols": 3, "dt": "d",
        "data": [5500.0, 0.0, 310.0, 0.0, 5400.0, 250.0, 0.0, 0.0, 1.0]
    },
    "distortion_coefficients": {
        "type_id": "opencv-matrix", "rows": 1, "cols": 4, "dt": "d", "data": [-2.0, 30.0, 0.001, -0.002]
    }
}
"""


@pytest.mark.parametrize(
    "text",
    [
        OPENCV,
        OPENCV.replace("camera_matrix", "Camera Matrix"),
        OPENCV + POSE,
        ROS,
        XML,
        JSON,
        OPENCV.replace("\n", "\r\n"),
        "\ufeff" + XML,
    ],
)
def test_opencv_as_its_programs_write_it(tmp_path, text):
    path = tmp_path / "out_camera_data.yml"
    path.write_text(text)
    read = load_geometry(path).camera
    np.testing.assert_allclose(read.K, [[5500, 0, 310], [0, 5400, 250], [0, 0, 1]])
    np.testing.assert_allclose(read.distortion, [-2, 30, 0.001, -0.002, 0])
    assert read.shape == (480, 640)
    if "rvec" in text:
        expected = [[0, -1, 0, 1], [1, 0, 0, 2], [0, 0, 1, 800]]
        np.testing.assert_allclose(read.T_world_to_camera[:3], expected, atol=1e-12)


# RTK


@pytest.fixture
def rtk():
    pytest.importorskip("itk")
    from itk import RTK

    return RTK


def rtk_projections(rtk, path, spacing, origin=None) -> np.ndarray:
    """(views, rows, columns): RTK's own reading of a geometry file, and its own projection of the object."""
    import itk

    reader = rtk.ThreeDCircularProjectionGeometryXMLFileReader.New()
    reader.SetFilename(str(path))
    reader.GenerateOutputInformation()
    geometry = reader.GetOutputObject()
    volume = OBJECT.sampled(GRID)
    image = itk.image_from_array(np.ascontiguousarray(volume.array, np.float32))
    image.SetSpacing(volume.spacing_mm.tolist())
    image.SetDirection(itk.matrix_from_array(volume.index_to_lps[:3, :3] / volume.spacing_mm))
    image.SetOrigin(volume.index_to_lps[:3, 3].tolist())
    count = len(geometry.GetGantryAngles())
    stack = itk.image_from_array(np.zeros((count, HEIGHT, WIDTH), np.float32))
    stack.SetSpacing([spacing[1], spacing[0], 1.0])
    middle = [-(WIDTH - 1) / 2 * spacing[1], -(HEIGHT - 1) / 2 * spacing[0]]
    stack.SetOrigin([*(middle if origin is None else origin), 0.0])
    kind = itk.Image[itk.F, 3]
    joseph = rtk.JosephForwardProjectionImageFilter[kind, kind].New()
    joseph.SetInput(0, stack)
    joseph.SetInput(1, image)
    joseph.SetGeometry(geometry)
    joseph.Update()
    return itk.array_from_image(joseph.GetOutput()).copy()


def write_rtk(rtk, path) -> None:
    """RTK's geometry of views with every parameter, by RTK itself."""
    geometry = rtk.ThreeDCircularProjectionGeometry.New()
    offsets = 5.0, -7.0
    for gantry, out_of_plane, in_plane in ((30, 10, 20), (100, -15, -40), (200, 5, 75)):
        geometry.AddProjection(700.0, 1000.0, gantry, *offsets, out_of_plane, in_plane, 3.0, -4.0)
    writer = rtk.ThreeDCircularProjectionGeometryXMLFileWriter.New()
    writer.SetFilename(str(path))
    writer.SetObject(geometry)
    writer.WriteFile()


@pytest.mark.parametrize("origin", [None, [-50.0, -35.0]])
def test_rtk_and_we_project_alike_by_its_geometry(tmp_path, rtk, origin):
    """An asymmetric object, projected by RTK as stored, and by us after the columns were turned over."""
    path = tmp_path / "geometry.xml"
    write_rtk(rtk, path)
    spacing = [1.9, 2.1]
    beside = tmp_path / "geometry.json"
    entry = {"calibration": "geometry.xml", "pixel_spacing_mm": spacing}
    beside.write_text(json.dumps(entry if origin is None else entry | {"projection_origin_mm": origin}))
    read = load_geometry(beside, (HEIGHT, WIDTH))
    assert read.mirrored
    assert [one.sdd_mm for one in read.cameras] == [1000] * 3
    theirs = rtk_projections(rtk, path, spacing, origin)
    assert theirs.max() > 0.3
    for one, stored in zip(read.cameras, theirs, strict=True):
        turned = as_seen_from_the_source(Radiograph(stored), read.mirrored, one).pixels
        assert relative_difference(seen(one), turned) < 0.03
        # The other way round they differ: the object tells.
        assert relative_difference(seen(one), stored) > 0.3


@pytest.mark.parametrize("mirrored", [False, True])
def test_rtk_reads_what_we_write(tmp_path, rtk, mirrored):
    cameras = tuple(camera(seed) for seed in (1, 2, 3))
    [path] = write_geometry(CArmGeometry(cameras, mirrored=mirrored), tmp_path / "g.xml", "rtk")
    theirs = rtk_projections(rtk, path, cameras[0].pixel_spacing_mm)
    # RTK's rows count upwards; of an image that was stored mirrored its columns are in reverse order.
    shown = theirs[:, :, ::-1] if mirrored else theirs[:, ::-1]
    for one, image in zip(cameras, shown, strict=True):
        assert relative_difference(seen(one), image) < 0.03
        assert relative_difference(seen(one), image[::-1]) > 0.3


def test_rtk_parameters_survive_the_way_through_our_cameras(tmp_path, rtk):
    """The matrix in the file is for readers like us; RTK makes its own of the parameters."""
    path = tmp_path / "g.xml"
    write_rtk(rtk, path)
    beside = tmp_path / "g.json"
    beside.write_text(json.dumps({"calibration": "g.xml", "pixel_spacing_mm": [1.9, 2.1]}))
    read = load_geometry(beside, (HEIGHT, WIDTH))
    [again] = write_geometry(read, tmp_path / "again.xml", "rtk")
    parameters = []
    for name in (path, again):
        reader = rtk.ThreeDCircularProjectionGeometryXMLFileReader.New()
        reader.SetFilename(str(name))
        reader.GenerateOutputInformation()
        g = reader.GetOutputObject()
        parameters.append(
            np.array(
                [g.GetGantryAngles(), g.GetOutOfPlaneAngles(), g.GetInPlaneAngles(), g.GetSourceOffsetsX()]
            )
        )
    np.testing.assert_allclose(parameters[1], parameters[0], atol=1e-9)


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


# Distortion


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


def test_xrays_of_rtk_are_turned_over_together(tmp_path, rtk, rng):
    write_rtk(rtk, tmp_path / "geometry.xml")
    beside = tmp_path / "geometry.json"
    beside.write_text(json.dumps({"calibration": "geometry.xml", "pixel_spacing_mm": [1.9, 2.1]}))
    pictures = rng.integers(100, 4000, (3, HEIGHT, WIDTH)).astype(np.uint16)
    paths = [tmp_path / f"projection{number}.mha" for number in range(3)]
    for path, picture in zip(paths, pictures, strict=True):
        sitk.WriteImage(sitk.GetImageFromArray(picture), path)
    radiographs, geometry, _ = open_views(Request(tmp_path / "ct.nii", paths, str(beside)))
    assert len(geometry.cameras) == 3
    for radiograph, picture in zip(radiographs, pictures, strict=True):
        np.testing.assert_array_equal(radiograph.pixels, picture[:, ::-1])


# Refusals


VTK = {
    "@schema": "https://autoscoperm.slicer.org/vtk-schema-1.0.json",
    "version": 1.0,
    "camera-position": [104.0, -800.0, -180.0],
    "focal-point": [-8.0, -45.0, -150.0],
    "view-up": [0.1, 0.0, 1.0],
    "view-angle": 24.0,
    "image-width": 640,
    "image-height": 480,
}


def test_autoscopers_vtk_camera_sees_what_vtk_draws(tmp_path, rng):
    vtk = pytest.importorskip("vtk")
    path = tmp_path / "cam.json"
    path.write_text(json.dumps(VTK))
    read = load_geometry(path)
    assert read.sod_mm == pytest.approx(
        np.linalg.norm(np.subtract(VTK["camera-position"], VTK["focal-point"]))
    )
    theirs = vtk.vtkCamera()
    theirs.SetPosition(VTK["camera-position"])
    theirs.SetFocalPoint(VTK["focal-point"])
    theirs.SetViewUp(VTK["view-up"])
    theirs.SetViewAngle(VTK["view-angle"])
    matrix = theirs.GetCompositeProjectionTransformMatrix(640 / 480, -1, 1)
    points = np.array(VTK["focal-point"]) + rng.uniform(-60, 60, (20, 3))
    clip = np.array([matrix.MultiplyPoint((*point, 1.0)) for point in points])
    seen = clip[:, :2] / clip[:, 3:]
    # From -1 to 1 across the picture, y up.
    expected = np.stack([(seen[:, 0] + 1) * 320 - 0.5, (1 - seen[:, 1]) * 240 - 0.5], axis=-1)
    T = read.camera.T_world_to_camera
    np.testing.assert_allclose(read.camera.project(points @ T[:3, :3].T + T[:3, 3]), expected, atol=1e-6)


def test_two_vtk_cameras_of_a_folder(tmp_path):
    for name, place in (("cam1", [104.0, -800.0, -180.0]), ("cam2", [700.0, -45.0, -150.0])):
        (tmp_path / f"{name}.json").write_text(json.dumps(VTK | {"camera-position": place}))
    read = load_geometry(tmp_path)
    assert [camera.name for camera in read.cameras] == ["cam1", "cam2"]
    assert read.for_camera("cam2").sod_mm == pytest.approx(708, abs=1)


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


def test_rtk_needs_the_spacing_and_says_how_to_give_it(tmp_path, rtk):
    path = tmp_path / "geometry.xml"
    write_rtk(rtk, path)
    with pytest.raises(InputError, match="does not tell the pixel spacing: write a JSON"):
        load_geometry(path, (HEIGHT, WIDTH))
    tags = {"ImagerPixelSpacing": [1.9, 2.1]}
    assert load_geometry(path, (HEIGHT, WIDTH), tags).camera.pixel_spacing_mm == pytest.approx((1.9, 2.1))


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
