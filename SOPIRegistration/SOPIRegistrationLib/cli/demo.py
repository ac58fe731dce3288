"""``sopi demo``: the whole way from files to a verified pose, on a made-up patient with a known answer."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from SOPIRegistrationLib.cli.common import progress_bar, staged
from SOPIRegistrationLib.cli.register import Registered, register_files, summary
from SOPIRegistrationLib.cli.request import Request
from SOPIRegistrationLib.evaluation.metrics import pose_error
from SOPIRegistrationLib.registration.outputs import write_picture, write_volume
from SOPIRegistrationLib.settings import RegistrationSettings
from SOPIRegistrationLib.simulation import DemoCase, demo_case


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the subcommand."""
    parser.add_argument(
        "--out", type=Path, default=Path("demo"), metavar="DIR", help="folder of the results (demo)"
    )
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="which patient and pose (1)")


def run(args: argparse.Namespace) -> int:
    """Make a case, write it as files, register these, print the errors.

    Raises:
        InputError: the output folder cannot be written to.
    """
    with staged(args.out) as folder:
        with progress_bar("demo") as update:
            update(0.0, "making a patient and an X-ray (some seconds)")
            case = demo_case(args.seed)
        request = write_case(case, folder)
        registered = register_files(request, folder)
        registered.files.extend(path.name for path in (request.ct, *request.xray, Path(request.geometry)))
    print(summary(registered, args.out))
    print(f"\nerror against the known pose (seed {args.seed})\n{error_table(case, registered)}")
    return 0


def write_case(case: DemoCase, folder: Path) -> Request:
    """Write a case as a user would have it: CT, X-ray, geometry; without what is to be found out."""
    ct, xray, geometry = folder / "ct.nrrd", folder / "xray.png", folder / "geometry.json"
    write_volume(ct, case.ct)
    write_picture(xray, case.radiograph.pixels)
    camera, frame = case.camera, case.pose_frame
    entry = {
        "sdd_mm": camera.sdd_mm,
        "pixel_spacing_mm": list(camera.pixel_spacing_mm),
        "sod_mm": frame.sod_mm,
        "view": frame.view,
        "width": camera.width,
        "height": camera.height,
    }
    geometry.write_text(json.dumps(entry, indent=1) + "\n", encoding="utf-8")
    polarity = "bone-dark" if case.radiograph.bone_dark else "bone-bright"
    return Request(ct, [xray], str(geometry), settings=RegistrationSettings(polarity=polarity))


def error_table(case: DemoCase, registered: Registered) -> str:
    """Errors of the nominal view, from which a user would begin, and of the final pose."""
    result, ct, camera = registered.result, registered.subject.ct, case.camera
    start, end = (
        pose_error(T, case.T_true, ct.surface_points_lps_mm, ct.rotation_centre_lps_mm, camera)
        for T in (result.frame.T_nominal, result.T_lps_to_world)
    )
    rows = [
        ("rotation", "deg", start.rotation_deg, end.rotation_deg),
        ("in plane", "mm", start.in_plane_mm, end.in_plane_mm),
        ("depth", "mm", start.depth_mm, end.depth_mm),
        ("mTRE", "mm", start.mtre_mm, end.mtre_mm),
        ("mPD", "mm", start.mpd_object_mm, end.mpd_object_mm),
    ]
    lines = [f"{'':<10}{'nominal':>8}{'end':>8}"]
    lines += [f"{name:<10}{before:>8.2f}{after:>8.2f} {unit}" for name, unit, before, after in rows]
    return "\n".join(lines)
