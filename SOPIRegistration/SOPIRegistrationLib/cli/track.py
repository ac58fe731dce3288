"""``sopi track``: the poses of bodies in every frame of a sequence."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from SOPIRegistrationLib import __version__
from SOPIRegistrationLib.cli.bodies import BODY_HELP, add_body_arguments, body_names
from SOPIRegistrationLib.cli.common import (
    add_bone_arguments,
    add_setting_arguments,
    add_view_argument,
    parse_weights,
    progress_bar,
    staged,
)
from SOPIRegistrationLib.cli.main import INTERRUPTED
from SOPIRegistrationLib.cli.request import pose_frame, with_depth_of_start
from SOPIRegistrationLib.cli.several import labels_word, read_bodies
from SOPIRegistrationLib.errors import Cancelled, InputError
from SOPIRegistrationLib.geometry.autoscoper_trial import SUFFIX, read_autoscoper_trial
from SOPIRegistrationLib.geometry.c_arm import CArmGeometry
from SOPIRegistrationLib.geometry.files import load_geometry
from SOPIRegistrationLib.images.files import read_volume
from SOPIRegistrationLib.images.itk_reading import require_file
from SOPIRegistrationLib.images.volume import Volume
from SOPIRegistrationLib.registration.pose_files import read_start
from SOPIRegistrationLib.settings import NETWORKS, RegistrationSettings, options
from SOPIRegistrationLib.subject import Subject
from SOPIRegistrationLib.subject.bodies import Bodies, RigidBody
from SOPIRegistrationLib.subject.surface import is_surface
from SOPIRegistrationLib.tracking.body import Body
from SOPIRegistrationLib.tracking.finding import TrackingSettings
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
from SOPIRegistrationLib.tracking.tracker import track


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
        "folder of numbered pictures; one for each camera, in the geometry's order, synchronised; or an "
        "Autoscoper trial (.cfg), which names them and, without --geometry, the cameras",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the results")
    parser.add_argument(
        "--geometry", metavar="FILE", help="as for register; without it the DICOM tags of the first frame"
    )
    parser.add_argument(
        "--camera", metavar="NAME", help="camera of a single sequence, of several in the geometry"
    )
    parser.add_argument("--fps", type=float, metavar="N", help="frames a second, over what the file says")
    _add_starts(parser)
    _add_outputs(parser.add_argument_group("what is written besides"))
    add_bone_arguments(parser)
    add_view_argument(parser)
    add_setting_arguments(parser)


def _add_starts(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--start",
        nargs="+",
        default=[],
        metavar="[BODY=]POSE@FRAME",
        help="where a body is in a frame (from 1; without BODY the CT that "
        "--labels cuts up): result.json, transform file, row of a JointTrack or "
        "Autoscoper track (.jts, .jtk, .jtak, .tra), or auto; without it auto in the first frames",
    )
    parser.add_argument(
        "--jointtrack-angles",
        choices=["degrees", "radians"],
        default="",
        help="of a JointTrack start whose rotations may be either (radians about z and y, with y down, as in "
        "JTML's Subject0)",
    )


def _add_outputs(parser: argparse._ArgumentGroup) -> None:
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
        help="write the tracks for other programs, too: BODY_CAMERA.jts; BODY.tra (of CTs), and of pictures "
        "in folders a whole trial.cfg",
    )
    parser.add_argument("--film", action="store_true", help="write overlay.gif")


def run(args: argparse.Namespace) -> int:
    """Track, print a summary, write the results.

    Returns:
        0; 130 where it was interrupted: what is done is kept, and the same command goes on.

    Raises:
        InputError: an input is unusable.
    """
    settings = _settings(args)
    _require_options(args)
    _open_trial(args)
    words = [_Start.of(word) for word in args.start]
    frames, known_cameras = _frames(args, settings.polarity)
    try:
        journal = Journal(args.out, _inputs(args))
        given = read_bodies(args.body, args.labels, args.material, args.mask, args.bone_threshold)
        starts = _starts(words, given)
        joint = None if args.joint is None else read_joint(require_file(args.joint, "joint"), given.names)
        files = _files(args.body, given)
        bodies = [
            _body(one, files[one.name], starts[one.name], frames.geometry, known_cameras, args)
            for one in given.bodies
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
            return INTERRUPTED
        seconds = time.perf_counter() - began
        written = _write(args, files, bodies, tracks, frames, joint)
        journal.finish()
    finally:
        frames.close()
    for one in tracks:
        counts = {status: sum(pose.status == status for pose in one) for status in STATUSES}
        print(f"{one.body}  " + ", ".join(f"{count} {status}" for status, count in counts.items() if count))
    again = f", {known} steps of an earlier run taken over" if known else ""
    print(f"time     {seconds:.1f} s, {frames.count / seconds:.2f} frames a second{again}")
    print(f"written  {args.out}: {', '.join(written)}")
    return 0


def _require_options(args: argparse.Namespace) -> None:
    """Refuse options that do not go with what else is given."""
    if args.mask is not None and sum(not is_surface(path) for path in args.body) > 1:
        raise InputError("--mask is for a single CT: leave it out with several")
    if args.fps is not None and not args.fps > 0:
        raise InputError(f"--fps is {args.fps:g}: give more than 0")
    surface = next(filter(is_surface, args.body), None)
    if AUTOSCOPER in args.write_as and surface is not None:
        raise InputError(f"--write-as {AUTOSCOPER} is of CTs, and {surface} is a surface: leave it out")


def _open_trial(args: argparse.Namespace) -> None:
    """Put the X-rays and cameras in the place of an Autoscoper trial that was given as the X-rays."""
    trials = [path for path in args.xrays if path.suffix.lower() == SUFFIX]
    if not trials:
        return
    if len(args.xrays) > 1:
        raise InputError(f"--xrays {trials[0]} names all X-rays of a trial: leave the others out")
    args.geometry = args.geometry or str(trials[0])
    args.xrays = list(read_autoscoper_trial(require_file(trials[0], "trial")).sequences)


def _files(paths: Sequence[Path], bodies: Bodies) -> dict[str, Path]:
    """The file that each body comes from."""
    known = dict(zip(body_names(paths), paths, strict=True))
    cut_up = next((path for path in paths if not is_surface(path)), None)
    return {name: cut_up if name in bodies.parts else known[name] for name in bodies.names}


def _write(args: argparse.Namespace, stored, bodies, tracks, frames: Frames, joint) -> list[str]:
    """Write all that is asked for; returns the files' names."""
    motion = Motion(bodies, tracks, frames.geometry, args.fps or frames.frames_per_second)
    if args.smooth is not None:
        T_world_to_camera = frames.geometry.camera.T_world_to_camera
        motion = replace(motion, smooth=[smoothed(one, args.smooth, T_world_to_camera) for one in tracks])
    if joint is not None:
        motion = replace(motion, joints=joint_values(joint, tracks))
    try:
        with staged(args.out) as folder:
            return _write_into(folder, args, stored, motion, frames)
    except OSError as error:
        raise InputError(
            f"cannot write the results to {args.out} ({error.strerror or error}): what is done is kept; make "
            "room, and the same command goes on"
        ) from None


def _write_into(
    folder: Path, args: argparse.Namespace, stored: dict[str, Path], motion: Motion, frames: Frames
) -> list[str]:
    files = write_motion(folder, motion, args.transforms)
    for kind in args.write_as:
        volumes = [_stored(stored[body.name]) for body in motion.bodies]
        files += write_as(kind, folder, motion.tracks, frames, volumes)
    if args.film:
        moving = [body.subject.shown for body in motion.bodies]
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


class _Start(NamedTuple):
    """A word of ``--start``: whose pose, of which file (None for auto), in which frame; the word itself."""

    body: str
    pose: Path | None
    frame: int
    word: str

    @classmethod
    def of(cls, word: str) -> _Start:
        """From ``[BODY=]POSE@FRAME``.

        Raises:
            InputError: it is not of that form, or names a file that is not there.
        """
        body, _, rest = word.rpartition("=")
        pose, _, frame = rest.rpartition("@")
        if not pose or not frame.isdigit():
            raise InputError(f"--start {word} is not [BODY=]POSE@FRAME: such as result.json@1")
        return cls(body, None if pose == "auto" else require_file(pose, "start pose"), int(frame), word)


def _starts(words: Sequence[_Start], bodies: Bodies) -> dict[str, dict[int, Path | None]]:
    """Files of start poses by body and frame; None for auto.

    What names no body is of the only one, or of all parts of a CT that was cut up.

    Raises:
        InputError: of another body, or a second one for the same frame.
    """
    names = bodies.names
    found: dict[str, dict[int, Path | None]] = {name: {} for name in names}
    # A part's own pose counts for more than that of the whole CT.
    for group in ([one for one in words if not one.body], [one for one in words if one.body]):
        taken: set[tuple[str, int]] = set()
        for body, pose, frame, word in group:
            if body and body not in found:
                raise InputError(f"--start {word} is for no body: name one of {', '.join(names)}")
            if not body and len(names) > 1 and not bodies.parts:
                raise InputError(f"--start {word} does not say of which body: write {names[0]}={word}")
            for name in [body] if body else bodies.parts or names:
                if (name, frame) in taken:
                    raise InputError(f"--start {word} is a second one for frame {frame}: give one")
                taken.add((name, frame))
                found[name][frame] = pose
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


def _body(body: RigidBody, path: Path, starts, geometry: CArmGeometry, known: CArmGeometry, args) -> Body:
    subject = body.subject
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
    return Body(body.name, subject, frame, poses)


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
    files += [] if args.labels is None else [labels_word(args.labels)[0]]
    options = {key: str(value) for key, value in sorted(vars(args).items()) if key not in _PASSING}
    stamps = [
        [str(path.absolute()), path.stat().st_mtime_ns, path.stat().st_size]
        for path in files
        if path.exists()
    ]
    return {"version": __version__, "options": options, "files": stamps}


# Neither what is told nor how it is shown changes a pose.
_PASSING = ("run", "out", "fps", "smooth", "joint", "transforms", "film", "write_as")
