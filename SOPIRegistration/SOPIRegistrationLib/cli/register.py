"""``sopi register``: from files to a verified pose, and its files."""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, replace
from pathlib import Path

from SOPIRegistrationLib.cli.bodies import BODY_HELP, add_body_arguments, add_hold_arguments, read_body
from SOPIRegistrationLib.cli.common import (
    add_ct_arguments,
    add_setting_arguments,
    add_view_argument,
    progress_bar,
    staged,
)
from SOPIRegistrationLib.cli.request import (
    Request,
    open_views,
    pose_frame,
    prepared_views,
    request_of,
    say_contradictions,
    with_depth_of_start,
)
from SOPIRegistrationLib.cli.several import is_of_several, run_several
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.views import theta_as_dict
from SOPIRegistrationLib.registration import RegistrationResult, warm_up
from SOPIRegistrationLib.registration.logic import Task, outcome_of
from SOPIRegistrationLib.registration.outputs import write_results
from SOPIRegistrationLib.registration.pose_files import read_start
from SOPIRegistrationLib.registration.prepared import PreparedCase
from SOPIRegistrationLib.subject import Subject
from SOPIRegistrationLib.subject.bodies import Bodies
from SOPIRegistrationLib.subject.surface import is_surface


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
        "matrices, a folder or Autoscoper trial of such, or a C-arm preset's name; without it the DICOM tags",
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
    if is_of_several(args):
        return run_several(args)
    if args.held or args.fixed:
        raise InputError(f"--held and --fixed are of several bodies: {args.ct} is the only one")
    request = request_of(args)
    with staged(args.out) as folder:
        registered = register_files(request, folder)
    print(summary(registered, args.out))
    return 0


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
