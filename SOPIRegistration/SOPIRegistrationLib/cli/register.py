"""``sopi register``: from files to a verified pose, and its files."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from SOPIRegistrationLib.cli.bodies import BODY_HELP, add_body_arguments, add_hold_arguments, read_body
from SOPIRegistrationLib.cli.common import (
    add_ct_arguments,
    add_setting_arguments,
    add_view_argument,
    parse_weights,
    progress_bar,
    staged,
)
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry.c_arm import CArmGeometry
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.contradictions import contradictions, contradictions_of_set
from SOPIRegistrationLib.geometry.files import load_geometry
from SOPIRegistrationLib.geometry.views import PoseFrame, theta_as_dict
from SOPIRegistrationLib.images.files import open_radiograph, read_radiograph
from SOPIRegistrationLib.images.itk_reading import require_file
from SOPIRegistrationLib.images.prepared_ct import PreparedCT
from SOPIRegistrationLib.images.radiograph import PreparedRadiograph, Radiograph
from SOPIRegistrationLib.images.radiograph_preparation import prepare_radiograph
from SOPIRegistrationLib.images.region import read_region, restricted
from SOPIRegistrationLib.images.stored import as_seen_from_the_source
from SOPIRegistrationLib.registration import RegistrationResult, warm_up
from SOPIRegistrationLib.registration.logic import Task, outcome_of
from SOPIRegistrationLib.registration.outputs import write_results
from SOPIRegistrationLib.registration.pose_files import read_start
from SOPIRegistrationLib.registration.prepared import PreparedCase
from SOPIRegistrationLib.settings import GIVEN, NETWORKS, RegistrationSettings, choices, option, options
from SOPIRegistrationLib.subject import Subject
from SOPIRegistrationLib.subject.bodies import Bodies
from SOPIRegistrationLib.subject.surface import is_surface

# Initialisers that --init may name; anything else is a file.
_STARTS = tuple(name for name in choices(option("init")) if name != GIVEN)


@dataclass(frozen=True)
class Request:
    """What ``sopi register`` is asked for; the options of the same names say what each is.

    Attributes:
        ct: of the body, a CT or a surface.
        settings: how to register.
        start_file: of the start pose, where ``settings.init`` is "given".
    """

    ct: Path
    xray: Sequence[Path]
    geometry: str | None = None
    mask: Path | None = None
    bone_threshold: float | None = None
    view: str | None = None
    camera: str | None = None
    frame: int | None = None
    xray_mask: Sequence[Path] = ()
    material: Sequence[str] = ()
    settings: RegistrationSettings = field(default_factory=RegistrationSettings)
    start_file: Path | None = None


@dataclass(frozen=True)
class Registered:
    """A finished request.

    Attributes:
        result: the registration.
        subject: the CT.
        cameras: of the views, in their order.
        seconds_preparation: reading and preparing.
        files: names of what was written.
    """

    result: RegistrationResult
    subject: Subject
    cameras: tuple[Camera, ...]
    seconds_preparation: float
    files: list[str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the subcommand."""
    add_ct_arguments(parser, "BODY", BODY_HELP)
    add_body_arguments(parser)
    add_hold_arguments(parser)
    parser.add_argument(
        "xray",
        type=Path,
        nargs="*",
        metavar="XRAY",
        help="DICOM, PNG, TIFF, NIfTI, NRRD or MHA; several, with a geometry of several cameras, are "
        "registered jointly (matched by the camera's name in the file's name, else by order)",
    )
    parser.add_argument(
        "--xrays", type=Path, nargs="+", default=[], metavar="XRAY", help="the same, as an option"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the results")
    parser.add_argument(
        "--geometry",
        metavar="FILE",
        help="geometry JSON (mm, pixels), calibration of XMALab, JointTrack, OpenCV or RTK, projection "
        "matrices, a folder of such, or the name of a C-arm preset; without it the DICOM tags",
    )
    parser.add_argument(
        "--camera", metavar="NAME", help="camera of the X-ray, where the geometry has several"
    )
    parser.add_argument(
        "--xray-mask",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="picture of the X-ray's size, one for each X-ray in their order: where it is 0, nothing is "
        "compared (an instrument, another person's hand)",
    )
    add_view_argument(parser)
    add_setting_arguments(parser, several_starts=True)
    parser.add_argument("--frame", type=int, metavar="N", help="frame of a multi-frame X-ray, from 1")


def run(args: argparse.Namespace) -> int:
    """Register, print a summary, write the results.

    Raises:
        InputError: an input is unusable.
    """
    # Imported here, for it is made of what stands below.
    from SOPIRegistrationLib.cli.several import is_of_several, run_several

    if is_of_several(args):
        return run_several(args)
    if args.held or args.fixed:
        raise InputError(f"--held and --fixed are of several bodies: {args.ct} is the only one")
    request = request_of(args)
    with staged(args.out) as folder:
        registered = register_files(request, folder)
    print(summary(registered, args.out))
    return 0


def request_of(args: argparse.Namespace) -> Request:
    """The request of a command line.

    Raises:
        InputError: settings that do not go together, or no such start pose.
    """
    words = [args.init] if isinstance(args.init, str) else args.init
    if len(words) > 1:
        raise InputError(f"--init {words[1]}: one body has one start pose")
    init = words[0] if words[0] in _STARTS or Path(words[0]).exists() else words[0].rpartition("=")[2]
    start_file = None if init in _STARTS else require_file(init, "start pose")
    # A plain file is of the network that was asked for.
    first = init if init in NETWORKS else NETWORKS[0]
    weights = parse_weights(args.weights, sorted(NETWORKS, key=lambda name: name != first))
    chosen = {name: getattr(args, name) for name in ("time_limit", *(one.name for one in options()))}
    chosen["init"] = init if start_file is None else GIVEN
    files = {
        name: getattr(args, name)
        for name in (
            "ct",
            "geometry",
            "mask",
            "bone_threshold",
            "view",
            "camera",
            "frame",
            "xray_mask",
            "material",
        )
    }
    files["xray"] = _xrays(args)
    return Request(**files, settings=RegistrationSettings(**chosen, weights=weights), start_file=start_file)


def _xrays(args: argparse.Namespace) -> list[Path]:
    """The X-rays, given after the body or with ``--xrays``; InputError for none."""
    if not args.xray and not args.xrays:
        raise InputError(f"{args.ct}: no X-ray is given: name it after the body")
    return args.xray or args.xrays


def register_files(request: Request, folder: Path) -> Registered:
    """Read, prepare, register, and write the results into a folder.

    Raises:
        InputError: an input is unusable.
    """
    began, settings = time.perf_counter(), request.settings
    radiographs, geometry, all_cameras = open_views(request)
    subject = Subject(read_body(request.ct, request.mask, request.bone_threshold, request.material))
    views = prepared_views(request, radiographs, geometry, subject.ct.is_metal)
    if request.start_file is not None:
        geometry = with_depth_of_start(geometry, subject.ct, request.start_file, all_cameras)
    frame = pose_frame(geometry, subject.ct, request.geometry)
    start = None
    if request.start_file is not None:
        start = read_start(request.start_file, frame, all_cameras, geometry.camera)
    say_contradictions(radiographs, geometry)
    warm_up(subject, settings)
    seconds_preparation = time.perf_counter() - began
    case = PreparedCase(Bodies.one(subject), views[0], tuple(views[1:]), frame, seconds_preparation)
    task = Task(case, settings, start, shows_pictures=False)
    with progress_bar("registration") as update:
        result = outcome_of(
            lambda logic: logic.register(task), "finished", lambda live: update(live.fraction, live.stage)
        )
    # What lies beside the results, as the demo's geometry, moves with them.
    sources = {name: source.replace(f"{folder}/", "") for name, source in geometry.sources.items()}
    geometry = replace(geometry, sources=sources)
    body = request.ct.stem if is_surface(request.ct) else "ct"
    files = write_results(
        folder, result, geometry, subject.showing(result.content), seconds_preparation, body
    )
    return Registered(result, subject, geometry.cameras, seconds_preparation, files)


def prepared_views(
    request: Request, radiographs: Sequence[Radiograph], geometry: CArmGeometry, of_metal: bool
) -> list[PreparedRadiograph]:
    """The X-rays, prepared for what is sought in them, to be compared where their masks are not 0.

    Raises:
        InputError: a mask is unusable, or they are not as many as the X-rays.
    """
    views = [
        prepare_radiograph(radiograph, camera, request.settings.polarity, of_metal=of_metal)
        for radiograph, camera in zip(radiographs, geometry.cameras, strict=True)
    ]
    paths = request.xray_mask
    if not paths:
        return views
    if len(paths) != len(views):
        raise InputError(
            f"--xray-mask names {len(paths)} files for {len(views)} X-rays: give one for each, in their order"
        )
    alone = (replace(geometry, cameras=(camera,)) for camera in geometry.cameras)
    return [
        restricted(view, read_region(path, one)) for view, path, one in zip(views, paths, alone, strict=True)
    ]


def pose_frame(geometry: CArmGeometry, ct: PreparedCT, origin: str | None) -> PoseFrame:
    """Frame of theta about the CT's bones; InputError where no source-object distance is known."""
    try:
        return geometry.pose_frame(ct.rotation_centre_lps_mm)
    except InputError as error:
        raise InputError(f"{origin}: {error}") from None


def with_depth_of_start(
    geometry: CArmGeometry, ct: PreparedCT, start: Path, cameras: Sequence[Camera]
) -> CArmGeometry:
    """The geometry; one that knows no source-object distance takes it from a start pose that has one.

    A result.json (of one of ``cameras``, the set's) holds a pose of the CT in the camera, a transform file
    one from the nominal place, which the distance is needed for.

    Raises:
        InputError: the file has no usable pose.
    """
    if start.suffix.lower() != ".json" or geometry.with_default_sod().sod_mm is not None:
        return geometry
    camera, centre = geometry.camera, ct.rotation_centre_lps_mm
    # A result's pose does not depend on what theta is measured from.
    T = camera.T_world_to_camera @ read_start(start, PoseFrame(centre, 1.0), cameras, camera)
    try:
        return geometry.with_sod_of(T, centre)
    except InputError as error:
        raise InputError(f"start pose {start}: {error}") from None


def one_camera(geometry: CArmGeometry, name: str, origin) -> CArmGeometry:
    """The geometry of one camera.

    Raises:
        InputError: no camera has this name.
    """
    if name and not any(camera.name for camera in geometry.cameras):
        raise InputError(f"{origin} describes one camera without a name: leave out --camera")
    try:
        return geometry.for_camera(name)
    except InputError as error:
        raise InputError(f"{origin}: {error}") from None


def open_views(request: Request) -> tuple[list[Radiograph], CArmGeometry, tuple[Camera, ...]]:
    """(X-rays, geometry with a camera for each, all cameras of the geometry).

    Raises:
        InputError: a file is unusable, or X-rays and cameras do not match.
    """
    if len(request.xray) > 1:
        return _open_several(request)
    [path] = request.xray
    radiograph, known = open_radiograph(path, request.geometry, request.view, request.frame, request.camera)
    names = [camera.name for camera in known.cameras]
    named = known.camera_named_in(path.name) if len(names) > 1 else names[0]
    name = request.camera or named
    if name in names and named not in (None, name):
        print(f"note: {path.name} has the name of camera {named}, and --camera is {name}", file=sys.stderr)
    if name is None:
        raise InputError(
            f"{request.geometry} has the cameras {', '.join(names)}: choose that of {path} with --camera"
        )
    return [radiograph], one_camera(known, name, request.geometry or path), known.cameras


def say_contradictions(radiographs: Sequence[Radiograph], geometry: CArmGeometry) -> None:
    """Print what X-rays and their geometry say against each other to stderr, a line each."""
    found = contradictions_of_set(geometry)
    for radiograph, camera in zip(radiographs, geometry.cameras, strict=True):
        against = contradictions(geometry, metadata=radiograph.metadata, camera=camera)
        found += [f"{radiograph.name}: {one}" for one in against]
    for one in found:
        print(f"note: {one}", file=sys.stderr)


def _open_several(request: Request):
    if request.geometry is None:
        raise InputError(
            f"{request.xray[1]}: several X-rays need a geometry file with a camera for each: give --geometry"
        )
    if request.camera is not None:
        raise InputError(
            f"{request.xray[1]}: --camera is for one X-ray, several are matched by name or order"
        )
    radiographs = [read_radiograph(path, request.frame) for path in request.xray]
    shapes = {radiograph.pixels.shape for radiograph in radiographs}
    shape = shapes.pop() if len(shapes) == 1 else None
    known = load_geometry(request.geometry, shape, view=request.view, image_name=str(request.xray[0]))
    names = [camera.name for camera in known.cameras]
    if len(names) == 1:
        raise InputError(
            f"{request.geometry} describes one camera, and {len(request.xray)} X-rays are given: give a "
            "geometry with a camera for each, or register them one by one"
        )
    chosen = [known.camera_named_in(path.name) for path in request.xray]
    if not any(chosen) and len(names) == len(chosen):
        chosen = names
    if None in chosen or len(set(chosen)) < len(chosen):
        raise InputError(
            f"{request.geometry} has cameras {', '.join(names)}, and {len(chosen)} X-rays do not match them: "
            "let each file's name hold its camera's, or give as many X-rays as cameras in their order"
        )
    cameras = tuple(known.cameras[names.index(name)] for name in chosen)
    radiographs = [
        as_seen_from_the_source(radiograph, known.mirrored, camera)
        for radiograph, camera in zip(radiographs, cameras, strict=True)
    ]
    return radiographs, replace(known, cameras=cameras), known.cameras


def summary(registered: Registered, out: Path) -> str:
    """What a person wants to know of a registration."""
    result = registered.result
    camera = registered.cameras[0]
    theta = theta_as_dict(result.frame.theta_from_T(camera.T_world_to_camera @ result.T_lps_to_world))
    similarity, verdict = result.similarity, result.verdict
    in_camera = f" in camera {camera.name}" if len(registered.cameras) > 1 else ""
    rows = [
        ("pose", f"theta from the nominal view ({result.frame.view}){in_camera}"),
        ("", "rx {rx_deg:.2f}  ry {ry_deg:.2f}  rz {rz_deg:.2f} deg".format(**theta)),
        ("", "tx {tx_mm:.2f}  ty {ty_mm:.2f}  tz {tz_mm:.2f} mm (z: depth)".format(**theta)),
        (
            "similarity",
            f"NCC {similarity['ncc']:.3f}, gradient correlation {similarity['gradient_correlation']:.3f}",
        ),
        *(("X-ray", finding) for finding in result.findings),
        *(("geometry", line) for line in result.geometry_found),
        ("verdict", verdict.status.upper()),
        *(("", reason) for reason in verdict.reasons),
        *(("or", one.summary) for one in result.alternatives),
        (
            "",
            "predicted error {:.2f}, {:.2f}, {:.2f} mm along x, y, depth;".format(
                *verdict.predicted_error_mm
            ),
        ),
        ("", "of it by the images {:.2f}, {:.2f}, {:.2f} mm".format(*verdict.statistical_error_mm)),
        ("method", f"{result.method}, DRRs of the {result.content}"),
        ("time", f"{result.seconds:.1f} s, reading and preparing {registered.seconds_preparation:.1f} s"),
        ("written", f"{out}: {', '.join(registered.files)}"),
    ]
    width = max(len(label) for label, _ in rows)
    return "\n".join(f"{label:<{width}}  {text}" for label, text in rows)
