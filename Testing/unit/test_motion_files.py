"""Motion files of other programs: axes on an object without symmetry, and the same when read back."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.autoscoper_trial import (
    AutoscoperTrial,
    read_autoscoper_trial,
    write_autoscoper_trial,
)
from SOPIRegistrationLib.images.volume import Volume
from SOPIRegistrationLib.tracking.motion_files import (
    autoscoper_axes,
    autoscoper_pose_of_lps,
    lps_pose_of_autoscoper,
    read_autoscoper_track,
    read_jointtrack,
    write_autoscoper_track,
    write_jointtrack,
)

# No two of these are the same distance from the others.
OBJECT = np.array([[0.0, 0, 0], [10, 0, 0], [0, 23, 0], [0, 0, 41], [5, -7, 3]])


def poses(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(8)
    return [se3.exp_se3(np.r_[rng.normal(0, 0.7, 3), rng.normal(0, 30, 2), 900.0]) for _ in range(count)]


def test_jointtrack_has_y_up_and_looks_along_minus_z(tmp_path):
    """Numbers of JTML's golden file: 1027.7 mm from the source, right of and above the middle."""
    path = tmp_path / "femur.jts"
    path.write_text(
        "JT_EULER_312\n x_tran, y_tran, z_tran, z_rot, x_rot, y_rot\n"
        "  18.52191,  19.69514,  -1027.713,\t\t  -26.69708,  -7.419319,  -0.2587041\n"
    )
    [T] = read_jointtrack(path)
    assert np.allclose(T[:3, 3], [18.52191, -19.69514, 1027.713])
    # Turned about z by -26.7 deg with y up, a model's x axis points right and down: y, downwards, grows.
    assert T[1, 0] > 0.4
    assert T[0, 0] > 0.8
    R = (
        np.diag([1.0, -1, -1])
        @ (
            Rotation.from_euler("z", -26.69708, degrees=True)
            * Rotation.from_euler("x", -7.419319, degrees=True)
            * Rotation.from_euler("y", -0.2587041, degrees=True)
        ).as_matrix()
    )
    assert np.allclose(T[:3, :3], R)


def test_jointtrack_is_read_as_it_was_written(tmp_path):
    path, given = tmp_path / "a.jts", poses(6)
    write_jointtrack(path, given)
    assert path.read_text().startswith("JT_EULER_312\n")
    for T, known in zip(read_jointtrack(path), given, strict=True):
        assert np.abs(se3.transform_points(T, OBJECT) - se3.transform_points(known, OBJECT)).max() < 1e-6
    write_jointtrack(path, [given[0], None, given[1]])
    assert path.read_text().startswith("JTA_EULER_KINEMATICS\n")
    first, lost, last = read_jointtrack(path)
    assert lost is None
    assert np.allclose(first, given[0])
    assert np.allclose(last, given[1])


def test_jointtrack_radians_are_never_taken_for_degrees(tmp_path):
    """As in JTML's example study Subject0: z and y jump from pi to minus pi."""
    path = tmp_path / "radians.jts"
    path.write_text(
        "JT_EULER_312\nx_tran,y_tran,z_tran,z_rot,x_rot,y_rot\n"
        "103.9, 0.9, -1347.1, 3.1391, -20.0, -1.5\n101.8, 0.8, -1345.3, -3.1381, -20.1, -1.5\n"
    )
    with pytest.raises(InputError, match=r"radians.*--jointtrack-angles") as caught:
        read_jointtrack(path)
    assert str(path) in str(caught.value)
    first, second = read_jointtrack(path, "radians")
    assert np.rad2deg(se3.rotation_distance(first[:3, :3], second[:3, :3])) < 0.5
    assert np.allclose(first[:3, 3], [103.9, -0.9, 1347.1])
    expected = Rotation.from_euler("ZXY", [3.1391, np.deg2rad(-20.0), -1.5]).as_matrix()
    assert np.allclose(first[:3, :3], expected)
    first, second = read_jointtrack(path, "degrees")
    assert np.rad2deg(se3.rotation_distance(first[:3, :3], second[:3, :3])) > 6


def test_jointtrack_small_turns_are_written_as_degrees(tmp_path):
    path = tmp_path / "small.jts"
    given = [se3.exp_se3(np.array([0.0, 0.01 * n, 0.02, 1, 2, 900.0])) for n in range(3)]
    given = [np.diag([1.0, -1, -1, 1]) @ T for T in given]
    write_jointtrack(path, given)
    for T, known in zip(read_jointtrack(path), given, strict=True):
        assert np.abs(T - known).max() < 1e-6


def test_autoscoper_axes_start_at_the_lower_corner_of_the_first_slice():
    T = autoscoper_axes((4, 5, 6), (0.5, 1.0, 2.0))
    # First column, last row, first slice: half a voxel from the corner.
    assert np.allclose(T @ [0, 4, 0, 1], [0.25, 0.5, -1.0, 1])
    assert np.allclose(T @ [5, 0, 3, 1], [2.75, 4.5, -7.0, 1])


def test_autoscoper_moves_every_voxel_as_the_ct_does(tmp_path):
    index_to_lps = np.eye(4)
    index_to_lps[:3, :3] = se3.exp_so3(np.array([0.2, -0.4, 0.3])) * [0.7, 0.9, 1.3]
    index_to_lps[:3, 3] = 40, -60, 200
    volume = Volume(np.zeros((7, 8, 9), np.float32), index_to_lps)
    path, given = tmp_path / "a.tra", poses(4)
    rows = [autoscoper_pose_of_lps(T, volume.array.shape, index_to_lps) for T in given]
    write_autoscoper_track(path, [*rows, None])
    *read, lost = read_autoscoper_track(path)
    assert lost is None
    voxels = np.array([[0, 0, 0], [8, 0, 0], [0, 7, 0], [0, 0, 6], [3, 2, 5.0]])
    axes = autoscoper_axes((7, 8, 9), (0.7, 0.9, 1.3))
    for T, known in zip(read, given, strict=True):
        there = se3.transform_points(T, se3.transform_points(axes, voxels))
        assert np.abs(there - se3.transform_points(known, volume.points_lps(voxels))).max() < 1e-6
        back = lps_pose_of_autoscoper(T, volume.array.shape, index_to_lps)
        assert np.abs(back - known).max() < 1e-6
    mirrored = index_to_lps @ np.diag([1.0, 1, -1, 1])
    with pytest.raises(InputError, match="left-handed"):
        autoscoper_pose_of_lps(given[0], volume.array.shape, mirrored)


def test_autoscoper_yaw_pitch_roll(tmp_path):
    path = tmp_path / "a.tra"
    path.write_text("1,2,3,30,-20,10\n")
    [T] = read_autoscoper_track(path)
    turns = [
        Rotation.from_euler(axis, angle, degrees=True)
        for axis, angle in zip("zyx", (30, -20, 10), strict=True)
    ]
    assert np.allclose(T[:3, :3], (turns[0] * turns[1] * turns[2]).as_matrix())
    assert np.allclose(T[:3, 3], [1, 2, 3])


def test_autoscoper_trial_is_read_as_it_was_written(tmp_path):
    trial = AutoscoperTrial(
        (tmp_path / "cal/cam01.csv", tmp_path / "cal/cam02.csv"),
        (tmp_path / "xrays/cam01", tmp_path / "xrays/cam02"),
        (tmp_path / "radius.tif",),
        ((False, True, False),),
        ((0.1, 0.2, 0.3),),
    )
    path = tmp_path / "trial.cfg"
    write_autoscoper_trial(path, trial)
    assert "mayaCam_csv cal/cam01.csv" in path.read_text()
    assert read_autoscoper_trial(path) == trial
    path.write_text(path.read_text().replace("VoxelSize", "# VoxelSize"))
    with pytest.raises(InputError, match="1 VolumeFile and 0 VoxelSize"):
        read_autoscoper_trial(path)


@pytest.mark.parametrize(
    ("reader", "text", "said"),
    [
        (read_jointtrack, "x,y,z\n1,2,3\n", "does not begin with"),
        (read_jointtrack, "JT_EULER_312\nx\n1,2,3\n", "row 1: 6 numbers"),
        (read_autoscoper_track, "1,2,3\n", "row 1: 16 or 6 numbers"),
        (read_autoscoper_track, ",".join(["2"] * 16), "not a rigid pose"),
    ],
)
def test_other_files_are_one_line(tmp_path, reader, text, said):
    path = tmp_path / "bad.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=said) as caught:
        reader(path)
    assert "\n" not in str(caught.value)
