"""Tracks to and from other programs' motion files, in the axes of the bodies' own files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry import se3, write_geometry
from SOPIRegistrationLib.geometry.autoscoper_trial import AutoscoperTrial, write_autoscoper_trial
from SOPIRegistrationLib.geometry.c_arm import CArmGeometry
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.images.volume import Volume
from SOPIRegistrationLib.tracking.frames import Frames
from SOPIRegistrationLib.tracking.motion_files import (
    Poses,
    autoscoper_pose_of_lps,
    lps_pose_of_autoscoper,
    read_autoscoper_track,
    read_jointtrack,
    write_autoscoper_track,
    write_jointtrack,
)
from SOPIRegistrationLib.tracking.track import Track

JOINTTRACK, AUTOSCOPER = "jointtrack", "autoscoper"
_JOINTTRACK_SUFFIXES, _AUTOSCOPER_SUFFIXES = (".jts", ".jtk", ".jtak"), (".tra",)
# Of the stacks written for Autoscoper.
_HU_OFFSET = 1024
MOTION_SUFFIXES = _JOINTTRACK_SUFFIXES + _AUTOSCOPER_SUFFIXES


def is_motion_file(path: Path) -> bool:
    """Whether a file holds poses over time, by its name."""
    return path.suffix.lower() in MOTION_SUFFIXES


def pose_in_frame(
    path: Path,
    number: int,
    geometry: CArmGeometry,
    reference: Camera,
    volume: Callable[[], Volume] | None,
    angles: str = "",
) -> np.ndarray:
    """(4, 4) T_lps_to_world of a body in one frame of a motion file.

    A JointTrack file holds poses in one camera: that whose name its path holds, else the reference.

    Args:
        path: the file.
        number: of the frame, from 1: the file's row.
        geometry: all cameras of the set.
        reference: the camera that stands for one that no name tells.
        volume: reads the body's CT as it is stored; None for a surface.
        angles: of a JointTrack file, see :func:`~SOPIRegistrationLib.tracking.motion_files.read_jointtrack`.

    Raises:
        InputError: unusable, no such row, a row without a pose, or an Autoscoper track for a surface.
    """
    if path.suffix.lower() in _JOINTTRACK_SUFFIXES:
        pose = _row(read_jointtrack(path, angles), path, number)
        named = geometry.camera_named_in(str(path))
        camera = next((one for one in geometry.cameras if named and one.name == named), reference)
        return se3.invert_rigid(camera.T_world_to_camera) @ pose
    if volume is None:
        raise InputError(
            f"{path} is Autoscoper's, which tracks CTs: the body is a surface, give another pose"
        )
    stored = volume()
    pose = _row(read_autoscoper_track(path), path, number)
    return lps_pose_of_autoscoper(pose, stored.array.shape, stored.index_to_lps)


def _row(poses: Poses, path: Path, number: int) -> np.ndarray:
    if not 1 <= number <= len(poses):
        raise InputError(f"{path} has {len(poses)} rows: there is none for frame {number}")
    pose = poses[number - 1]
    if pose is None:
        raise InputError(f"{path} has no pose for frame {number}: name another frame")
    return pose


def write_as(
    kind: str,
    folder: Path,
    tracks: Sequence[Track],
    frames: Frames,
    volumes: Sequence[Callable[[], Volume] | None],
) -> list[str]:
    """Write tracks as another program's files.

    Args:
        kind: "jointtrack": BODY_CAMERA.jts for each body and camera; "autoscoper": BODY.tra and, of pictures
            in folders that are compared as they are stored, trial.cfg with the cameras and the bodies' stacks
            (BODY.tif) that it names.
        folder: an existing folder.
        tracks: of the bodies.
        frames: what was tracked, with its cameras.
        volumes: as for :func:`pose_in_frame`, one for each body.

    Returns:
        The files' names.

    Raises:
        InputError: Autoscoper is to take a surface, or a CT whose axes are left-handed.
    """
    if kind == JOINTTRACK:
        return _as_jointtrack(folder, tracks, frames.geometry)
    names, stacks = [], {}
    for track, volume in zip(tracks, volumes, strict=True):
        if volume is None:
            raise InputError(f"Autoscoper tracks CTs, and {track.body} is a surface: leave out {AUTOSCOPER}")
        stored = stacks[folder / f"{track.body}.tif"] = volume()
        names.append(f"{track.body}.tra")
        grid = stored.array.shape, stored.index_to_lps
        moved = [None if pose.T is None else autoscoper_pose_of_lps(pose.T, *grid) for pose in track]
        write_autoscoper_track(folder / names[-1], moved)
    if _are_pictures_as_stored(frames):
        names += _as_trial(folder, stacks, frames)
    return names


def _as_jointtrack(folder: Path, tracks: Sequence[Track], geometry: CArmGeometry) -> list[str]:
    names = []
    for track in tracks:
        for index, camera in enumerate(geometry.cameras, start=1):
            names.append(f"{track.body}_{camera.name or index}.jts")
            seen = [None if pose.T is None else camera.T_world_to_camera @ pose.T for pose in track]
            write_jointtrack(folder / names[-1], seen)
    return names


def _are_pictures_as_stored(frames: Frames) -> bool:
    """Whether a trial can name the X-rays' folders: its cameras are of the pictures as they lie there."""
    geometry = frames.geometry
    is_changed = (
        geometry.mirrored or frames.turned_over or any(one.distortion is not None for one in geometry.cameras)
    )
    return not is_changed and all(sequence.path.is_dir() for sequence in frames.sequences)


def _as_trial(folder: Path, stacks: Mapping[Path, Volume], frames: Frames) -> list[str]:
    """A trial of pictures in folders, with the cameras and stacks that it names."""
    cameras = write_geometry(frames.geometry, folder / "trial.txt", "xmalab")
    for path, stored in stacks.items():
        # Autoscoper's voxels are unsigned; air is black.
        voxels = np.clip(np.rint(stored.array + _HU_OFFSET), 0, np.iinfo(np.uint16).max)
        sitk.WriteImage(sitk.GetImageFromArray(voxels.astype(np.uint16)), str(path))
    trial = AutoscoperTrial(
        cameras=tuple(cameras),
        sequences=tuple(sequence.path.absolute() for sequence in frames.sequences),
        volumes=tuple(stacks),
        flips=((False, False, False),) * len(stacks),
        voxel_sizes_mm=tuple(tuple(stored.spacing_mm.tolist()) for stored in stacks.values()),
    )
    write_autoscoper_trial(folder / "trial.cfg", trial)
    return ["trial.cfg", *(path.name for path in (*cameras, *stacks))]
