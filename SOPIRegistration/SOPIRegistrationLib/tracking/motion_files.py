"""Poses over time of other programs: JointTrack's and JTML's kinematics, Autoscoper's tracks.

JointTrack (.jts, .jtk) and JTML (.jtak): a header (JT_EULER_312, JTA_EULER_KINEMATICS), a line of column
names, then a row a frame: x, y, z in mm, then the rotations about z, x and y in degrees; R = Rz Rx Ry takes
the model to a camera whose x is right, y UP and z towards the viewer, the source its origin. A row
NOT_OPTIMIZED is a frame without a pose. (Banks and Hodge 1996; JTML's pose files.)

There are such files whose rotations about z and y are in radians, and that about x in degrees, against the
programs: those of JTML's example study Subject0, which jump by 2 pi from row to row. Its femur lies in the
pictures of Cam1 (row n + 1 is frame 2 n) where x, y, z say, turned by R = Rz Rx Ry in a camera with y DOWN:
to 0.2 to 0.7 mm and 0.3 to 1.3 deg of where tracking finds it. That of its tray is of other model axes. They
are never taken for degrees; as what they are they are read on demand.

Autoscoper (.tra): a row a frame, 4x4 row by row (16 numbers), or x, y, z and yaw, pitch, roll in degrees
(R = Rz Ry Rx); the matrix takes the volume's own axes to the world of its MayaCam files. These axes start at
the outer corner of the first column and last row of the first slice: x along columns, y UP against the rows,
z against the slices (``Volume.cpp``, ``RayCaster_kernels.cu``). A frame without a pose is a row of NaN.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.camera import T_Y_UP_TO_CAMERA
from SOPIRegistrationLib.geometry.rigidity import is_rotation

_HEADERS = ("JT_EULER_312", "JTA_EULER_KINEMATICS")
_COLUMNS = "x_tran,y_tran,z_tran,z_rot,x_rot,y_rot"
_EMPTY = "NOT_OPTIMIZED"
# Pi, rounded by whoever wrote it.
_LARGEST_RADIANS = 3.15

Poses = list[np.ndarray | None]


def read_jointtrack(path: Path, angles: str = "") -> Poses:
    """(4, 4) T_model_to_camera of every frame, None for those without.

    Args:
        path: the file.
        angles: "degrees", or "radians" for files as JTML's Subject0 has them; without it degrees, unless
            they may be radians.

    Raises:
        InputError: another file, a row that is not six numbers, or rotations that may be either.
    """
    lines = [line.strip() for line in _text(path, "kinematics").splitlines()]
    lines = [line for line in lines if line]
    if not lines or lines[0].lstrip("\ufeff") not in _HEADERS:
        raise InputError(
            f"{path} does not begin with {' or '.join(_HEADERS)}: give JointTrack's or JTML's file"
        )
    rows: list[np.ndarray | None] = []
    for number, line in enumerate(lines[2:], start=1):
        words = [word for word in re.split(r"[,\s]+", line) if word]
        rows.append(None if words[0] == _EMPTY else _numbers(words, (6,), path, number))
    turns = np.array([row[3:] for row in rows if row is not None]).reshape(-1, 3)
    if not angles and _may_be_radians(turns):
        raise InputError(
            f"{path}: all rotations about z and y are below 3.15, as radians are (JTML's Subject0 has such "
            "files) and degrees hardly ever: say which with --jointtrack-angles degrees or radians"
        )
    return [None if row is None else _pose_of_jointtrack(row, angles == "radians") for row in rows]


def _may_be_radians(turns: np.ndarray) -> bool:
    """Whether rotations (n, 3) about z, x, y could be in radians about z and y."""
    about = np.abs(turns[:, [0, 2]])
    return bool(about.size and 0 < about.max() <= _LARGEST_RADIANS)


def _pose_of_jointtrack(row: np.ndarray, in_radians: bool) -> np.ndarray:
    x, y, z, *turns = row
    T = np.eye(4)
    T[:3, 3] = x, y, z
    if in_radians:
        T = T_Y_UP_TO_CAMERA @ T
        T[:3, :3] = Rotation.from_euler("ZXY", [turns[0], np.deg2rad(turns[1]), turns[2]]).as_matrix()
        return T
    T[:3, :3] = Rotation.from_euler("ZXY", turns, degrees=True).as_matrix()
    return T_Y_UP_TO_CAMERA @ T


def write_jointtrack(path: Path, poses: Sequence[np.ndarray | None]) -> None:
    """Write (4, 4) T_model_to_camera of every frame; None for those without."""
    values = []
    for pose in poses:
        if pose is not None:
            T = T_Y_UP_TO_CAMERA @ pose
            values.append([*T[:3, 3], *Rotation.from_matrix(T[:3, :3]).as_euler("ZXY", degrees=True)])
    # A full turn more says that these are degrees.
    more = [0, 0, 0, 360.0 if values and _may_be_radians(np.array(values)[:, 3:]) else 0.0, 0, 0]
    found, rows = iter(values), []
    for pose in poses:
        if pose is None:
            rows.append(",".join([_EMPTY, *["0"] * 5]))
        else:
            rows.append(",".join(f"{value:.9f}" for value in np.add(next(found), more)))
    # JointTrack has no frames without a pose; JTML has.
    header = _HEADERS[1] if any(pose is None for pose in poses) else _HEADERS[0]
    path.write_text("\n".join([header, _COLUMNS, *rows]) + "\n", encoding="utf-8")


def autoscoper_axes(shape_kji: tuple[int, int, int], spacing_mm: Sequence[float]) -> np.ndarray:
    """(4, 4): voxel index (i, j, k) to Autoscoper's axes, mm, of a volume (slices, rows, columns) with
    ``VoxelSize`` (3,)."""
    sx, sy, sz = spacing_mm
    rows = shape_kji[1]
    T = np.diag([sx, -sy, -sz, 1.0])
    T[:3, 3] = sx / 2, sy * (rows - 0.5), -sz / 2
    return T


def read_autoscoper_track(path: Path) -> Poses:
    """(4, 4) pose of the volume's Autoscoper axes in the world of every frame, None for those without.

    Raises:
        InputError: rows that are not of 16 or 6 numbers, or no rigid matrix.
    """
    poses: Poses = []
    for number, line in enumerate(_text(path, "track").splitlines(), start=1):
        words = [word for word in re.split(r"[,\s]+", line.strip()) if word]
        if not words:
            continue
        values = _numbers(words, (16, 6), path, number)
        if np.isnan(values).all():
            poses.append(None)
            continue
        T = np.eye(4)
        if len(values) == 16:
            T = values.reshape(4, 4)
        else:
            T[:3, :3] = Rotation.from_euler("ZYX", values[3:], degrees=True).as_matrix()
            T[:3, 3] = values[:3]
        if not is_rotation(T[:3, :3]):
            raise InputError(f"{path}, row {number} is not a rigid pose: a matrix must be given row by row")
        poses.append(T)
    return poses


def write_autoscoper_track(path: Path, poses: Sequence[np.ndarray | None]) -> None:
    """Write matrices row by row, a row a frame; None as NaN."""
    empty = np.full((4, 4), np.nan)
    rows = [
        ",".join(f"{value:.12g}" for value in (empty if pose is None else pose).ravel()) for pose in poses
    ]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")


def lps_pose_of_autoscoper(T_axes_to_world: np.ndarray, shape_kji, index_to_lps: np.ndarray) -> np.ndarray:
    """(4, 4) T_lps_to_world of a CT from its stack's pose; InputError for left-handed axes: the stack is its
    mirror image."""
    return T_axes_to_world @ _lps_to_axes(shape_kji, index_to_lps)


def autoscoper_pose_of_lps(T_lps_to_world: np.ndarray, shape_kji, index_to_lps: np.ndarray) -> np.ndarray:
    """Inverse of :func:`lps_pose_of_autoscoper`."""
    return T_lps_to_world @ se3.invert_rigid(_lps_to_axes(shape_kji, index_to_lps))


def _lps_to_axes(shape_kji, index_to_lps: np.ndarray) -> np.ndarray:
    if np.linalg.det(index_to_lps[:3, :3]) < 0:
        raise InputError(
            "the CT's axes are left-handed: Autoscoper shows its mirror image; reverse its slices"
        )
    spacing = np.linalg.norm(index_to_lps[:3, :3], axis=0)
    return autoscoper_axes(shape_kji, spacing) @ np.linalg.inv(index_to_lps)


def _text(path: Path, what: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise InputError(f"{what} {path} cannot be read as text: export it again") from None


def _numbers(words: Sequence[str], counts: tuple[int, ...], path: Path, row: int) -> np.ndarray:
    try:
        values = np.array([float(word) for word in words])
    except ValueError:
        values = np.empty(0)
    if len(values) not in counts:
        raise InputError(f"{path}, row {row}: {' or '.join(map(str, counts))} numbers are expected")
    return values
