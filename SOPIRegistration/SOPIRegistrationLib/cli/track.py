"""``sopi track``: the poses of bodies in every frame of a sequence."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from SOPIRegistrationLib import __version__
from SOPIRegistrationLib.cli.bodies import BODY_HELP, add_body_arguments, body_names, materials_of, read_body
from SOPIRegistrationLib.cli.common import (
    add_setting_arguments,
    add_view_argument,
    parse_weights,
    progress_bar,
    staged,
)
from SOPIRegistrationLib.cli.register import pose_frame, with_depth_of_start
from SOPIRegistrationLib.compare import targets_of
from SOPIRegistrationLib.errors import Cancelled, InputError
from SOPIRegistrationLib.geometry.c_arm import CArmGeometry
from SOPIRegistrationLib.geometry.files import load_geometry
from SOPIRegistrationLib.images.files import read_volume
from SOPIRegistrationLib.images.itk_reading import require_file
from SOPIRegistrationLib.images.volume import Volume
from SOPIRegistrationLib.registration.pose_files import read_start
from SOPIRegistrationLib.settings import NETWORKS, RegistrationSettings, options
from SOPIRegistrationLib.subject import Subject
from SOPIRegistrationLib.subject.surface import is_surface
from SOPIRegistrationLib.tracking.frames import Frames
from SOPIRegistrationLib.tracking.journal import Journal
from SOPIRegistrationLib.tracking.kinematics import joint_values, read_joint
from SOPIRegistrationLib.tracking.motion_exchange import (
    AUTOSCOPER,
    JOINTTRACK,
    is_motion_file,
    pose_in_frame,
    write_as,
)
from SOPIRegistrationLib.tracking.sequences import open_sequence
from SOPIRegistrationLib.tracking.smoothing import smoothed
from SOPIRegistrationLib.tracking.tables import Motion, write_film, write_motion
from SOPIRegistrationLib.tracking.track import STATUSES
from SOPIRegistrationLib.tracking.tracker import Body, TrackingSettings, track

_INTERRUPTED = 130


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the subcommand."""
    parser.add_argument(
        "body",
        type=Path,
        nargs="+",
        metavar="BODY",
        help=f"each body: {BODY_HELP}; named as its file",
    )
    add_body_arguments(parser)
    parser.add_argument(
        "--xrays",
        type=Path,
        nargs="+",
        required=True,
        metavar="SEQUENCE",
        help="multi-frame DICOM, image stack (TIFF, NRRD, MHA, NIfTI), video (needs imageio[pyav]) or "
        "folder of numbered pictures; one for each camera, in the geometry's order, synchronised",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the results")
    parser.add_argument(
        "--geometry", metavar="FILE", help="as for register; without it the DICOM tags of the first frame"
    )
    parser.add_argument(
        "--camera", metavar="NAME", help="camera of a single sequence, of several in the geometry"
    )
    parser.add_argument(
        "--start",
        nargs="+",
        default=[],
        metavar="[BODY=]POSE@FRAME",
        help="where a body is in a frame (from 1): result.json, transform file, row of a JointTrack or "
        "Autoscoper track (.jts, .jtk, .jtak, .tra), or auto; without it auto in the first frames",
    )
    parser.add_argument(
        "--jointtrack-angles",
        choices=["degrees", "radians"],
        default="",
        help="of a JointTrack start whose rotations may be either (radians about z and y, with y down, as in "
        "JTML's Subject0)",
    )
    parser.add_argument("--fps", type=float, metavar="N", help="frames a second, over what the file says")
    parser.add_argument(
        "--smooth",
        type=float,
        metavar="FRAMES",
        help="add a smoothed track: oscillations shorter than so many frames are damped to less than half",
    )
    parser.add_argument(
        "--joint",
        type=Path,
        metavar="FILE.json",
        help="two bodies' anatomical axes: adds joint angles (see Docs/tracking.md)",
    )
    parser.add_argument("--transforms", action="store_true", help="write a .tfm for each body and frame")
    parser.add_argument(
        "--write-as",
        nargs="+",
        default=[],
        choices=[JOINTTRACK, AUTOSCOPER],
        help="write the tracks for other programs, too: BODY_CAMERA.jts, BODY.tra (of CTs)",
    )
    parser.add_argument("--film", action="store_true", help="write overlay.gif")
    parser.add_argument("--mask", type=Path, metavar="FILE", help="label map of the bones of a single body")
    parser.add_argument(
        "--bone-threshold", type=float, metavar="HU", help="threshold of the bones without a mask, HU (200)"
    )
    add_view_argument(parser)
    add_setting_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Track, print a summary, write the results.

    Returns:
        0; 130 where it was interrupted: what is done is kept, and the same command goes on.

    Raises:
        InputError: an input is unusable.
    """
    settings = _settings(args)
    names = body_names(args.body)
    _require_options(args)
    starts = _starts(args.start, names)
    joint = None if args.joint is None else read_joint(require_file(args.joint, "joint"), names)
    frames, known_cameras = _frames(args, settings.polarity)
    try:
        journal = Journal(args.out, _inputs(args))
        subjects = [
            Subject(
                read_body(
                    path, args.mask, args.bone_threshold, materials_of(args.material, path, name, names)
                )
            )
            for path, name in zip(args.body, names, strict=True)
        ]
        bodies = [
            _body(name, path, subject, starts[name], frames.geometry, known_cameras, args)
            for name, path, subject in zip(names, args.body, subjects, strict=True)
        ]
        began, known = time.perf_counter(), len(journal)
        try:
            with progress_bar("tracking") as update:
                tracks = track(
                    bodies,
                    frames,
                    TrackingSettings(settings),
                    lambda state: update(state.fraction, state.stage),
                    journal,
                )
        except (KeyboardInterrupt, Cancelled):
            print(
                f"sopi track: interrupted; {len(journal)} steps are kept, the same command goes on",
                file=sys.stderr,
            )
            return _INTERRUPTED
        seconds = time.perf_counter() - began
        files = _write(args, bodies, tracks, frames, joint)
        journal.finish()
    finally:
        frames.close()
    for one in tracks:
        counts = {status: sum(pose.status == status for pose in one) for status in STATUSES}
        print(f"{one.body}  " + ", ".join(f"{count} {status}" for status, count in counts.items() if count))
    again = f", {known} steps of an earlier run taken over" if known else ""
    print(f"time     {seconds:.1f} s, {frames.count / seconds:.2f} frames a second{again}")
    print(f"written  {args.out}: {', '.join(files)}")
    return 0


def _require_options(args: argparse.Namespace) -> None:
    """Refuse options that do not go with what else is given."""
    if args.mask is not None and len(args.body) > 1:
        raise InputError("--mask is for a single body: leave it out with several")
    if args.fps is not None and not args.fps > 0:
        raise InputError(f"--fps is {args.fps:g}: give more than 0")
    surface = next(filter(is_surface, args.body), None)
    if AUTOSCOPER in args.write_as and surface is not None:
        raise InputError(f"--write-as {AUTOSCOPER} is of CTs, and {surface} is a surface: leave it out")


def _write(args: argparse.Namespace, bodies, tracks, frames: Frames, joint) -> list[str]:
    """Write all that is asked for; returns the files' names."""
    motion = Motion(bodies, tracks, frames.geometry, args.fps or frames.frames_per_second)
    if args.smooth is not None:
        T_world_to_camera = frames.geometry.camera.T_world_to_camera
        motion = replace(motion, smooth=[smoothed(one, args.smooth, T_world_to_camera) for one in tracks])
    if joint is not None:
        motion = replace(motion, joints=joint_values(joint, tracks))
    try:
        with staged(args.out) as folder:
            return _write_into(folder, args, motion, frames)
    except OSError as error:
        raise InputError(
            f"cannot write the results to {args.out} ({error.strerror or error}): what is done is kept; make "
            "room, and the same command goes on"
        ) from None


def _write_into(folder: Path, args: argparse.Namespace, motion: Motion, frames: Frames) -> list[str]:
    files = write_motion(folder, motion, args.transforms)
    for kind in args.write_as:
        stored = [_stored(path) for path in args.body]
        files += write_as(kind, folder, motion.tracks, frames.geometry, stored)
    if args.film:
        moving = [targets_of(body.subject, "auto")[-1].moving for body in motion.bodies]
        write_film(folder / "overlay.gif", motion, frames, moving)
        files.append("overlay.gif")
    return files


def _settings(args: argparse.Namespace) -> RegistrationSettings:
    if args.init != "auto" and Path(args.init).exists():
        raise InputError(f"--init {args.init} is a file: give start poses with --start POSE@FRAME")
    first = args.init if args.init in NETWORKS else NETWORKS[0]
    weights = parse_weights(args.weights, sorted(NETWORKS, key=lambda name: name != first))
    chosen = {name: getattr(args, name) for name in ("time_limit", *(one.name for one in options()))}
    return RegistrationSettings(**chosen, weights=weights)


def _starts(words: list[str], names: list[str]) -> dict[str, dict[int, Path | None]]:
    """Files of start poses by body and frame; None for auto.

    Raises:
        InputError: not of the form [BODY=]POSE@FRAME, another body, or twice the same frame.
    """
    found: dict[str, dict[int, Path | None]] = {name: {} for name in names}
    for word in words:
        name, _, rest = word.rpartition("=")
        pose, _, frame = rest.rpartition("@")
        if not pose or not frame.isdigit():
            raise InputError(f"--start {word} is not [BODY=]POSE@FRAME: such as result.json@1")
        if name and name not in found:
            raise InputError(f"--start {word} is for no body: name one of {', '.join(names)}")
        if not name and len(names) > 1:
            raise InputError(f"--start {word} does not say of which body: write {names[0]}={rest}")
        of_body = found[name or names[0]]
        if int(frame) in of_body:
            raise InputError(f"--start {word} is a second one for frame {frame}: give one")
        of_body[int(frame)] = None if pose == "auto" else require_file(pose, "start pose")
    return found


def _frames(args: argparse.Namespace, polarity: str) -> tuple[Frames, CArmGeometry]:
    """(The X-rays' frames, the geometry with all its cameras, those of no X-ray too.)"""
    sequences = [open_sequence(path) for path in args.xrays]
    first = _first_readable(sequences[0])
    known = load_geometry(args.geometry, first.pixels.shape, first.metadata, args.view, str(args.xrays[0]))
    chosen = known
    if args.camera is not None:
        chosen = known.for_camera(args.camera)
    elif len(sequences) == 1 and len(known.cameras) > 1:
        named = known.camera_named_in(str(args.xrays[0]))
        if named is None:
            cameras = ", ".join(camera.name for camera in known.cameras)
            raise InputError(
                f"{args.geometry} has the cameras {cameras}: choose that of the X-rays with --camera"
            )
        chosen = known.for_camera(named)
    return Frames(sequences, chosen, polarity), known


def _first_readable(sequence):
    """The first frame that shows something; the geometry needs its size."""
    for number in range(1, sequence.count + 1):
        try:
            return sequence.frame(number)
        except InputError:
            if number == sequence.count:
                raise
    raise InputError(f"sequence {sequence.path} has no frames")


def _stored(path: Path) -> Callable[[], Volume] | None:
    """Reads a CT as it is stored; None for a surface."""
    return None if is_surface(path) else partial(read_volume, path)


def _body(
    name: str, path: Path, subject: Subject, starts, geometry: CArmGeometry, known: CArmGeometry, args
) -> Body:
    # A start may be of a camera of the set whose pictures are not tracked.
    moved = {
        number: pose_in_frame(file, number, known, geometry.camera, _stored(path), args.jointtrack_angles)
        for number, file in starts.items()
        if file is not None and is_motion_file(file)
    }
    for number, file in starts.items():
        if number in moved:
            geometry = _with_depth_of(geometry, subject, moved[number], file)
        elif file is not None:
            geometry = with_depth_of_start(geometry, subject.ct, file, known.cameras)
    frame = pose_frame(geometry, subject.ct, args.geometry)
    poses = {
        number: moved.get(number)
        if file is None or number in moved
        else read_start(file, frame, known.cameras, geometry.camera)
        for number, file in starts.items()
    }
    subject.warm_up()
    return Body(name, subject, frame, poses)


def _with_depth_of(geometry: CArmGeometry, subject: Subject, T_lps_to_world, file: Path) -> CArmGeometry:
    """The geometry; one that knows no source-object distance takes it from a pose."""
    if geometry.with_default_sod().sod_mm is not None:
        return geometry
    T = geometry.camera.T_world_to_camera @ T_lps_to_world
    try:
        return geometry.with_sod_of(T, subject.ct.rotation_centre_lps_mm)
    except InputError as error:
        raise InputError(f"start pose {file}: {error}") from None


def _inputs(args: argparse.Namespace) -> dict:
    """What a track depends on: an unfinished one goes on only with the same."""
    files = [*args.body, *args.xrays, *([] if args.mask is None else [args.mask])]
    options = {key: str(value) for key, value in sorted(vars(args).items()) if key not in _PASSING}
    stamps = [
        [str(path.absolute()), path.stat().st_mtime_ns, path.stat().st_size]
        for path in files
        if path.exists()
    ]
    return {"version": __version__, "options": options, "files": stamps}


# Neither what is told nor how it is shown changes a pose.
_PASSING = ("run", "out", "fps", "smooth", "joint", "transforms", "film", "write_as")
