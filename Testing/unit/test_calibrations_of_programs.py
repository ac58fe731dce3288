"""Calibrations as other programs write them, in their conventions."""

from __future__ import annotations

import json

import numpy as np
import pytest
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry.c_arm import CArmGeometry
from SOPIRegistrationLib.geometry.files import load_geometry, write_geometry
from support.calibrations import (
    HEIGHT,
    MAYACAM_2,
    OBJECT,
    OPENCV,
    VTK,
    WIDTH,
    XML,
    camera,
    seen,
)


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
