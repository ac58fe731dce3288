"""``sopi drr``: a projection of a CT at a given pose."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from SOPIRegistrationLib.cli.common import add_ct_arguments, add_view_argument, read_ct, staged
from SOPIRegistrationLib.cli.request import one_camera, pose_frame, with_depth_of_start
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.files import load_geometry
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.ct_preparation import bone_only
from SOPIRegistrationLib.images.itk_reading import require_file
from SOPIRegistrationLib.images.overlay import display_window, windowed
from SOPIRegistrationLib.projector import PolychromaticVolume, ProjectorVolume, project
from SOPIRegistrationLib.projector.physics.beam import TUBE_VOLTAGES_KV, Beam
from SOPIRegistrationLib.projector.physics.polychromatic import METALS
from SOPIRegistrationLib.registration.outputs import write_detector_image, write_picture
from SOPIRegistrationLib.registration.pose_files import read_start

_SUFFIXES = (".nrrd", ".png")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the subcommand."""
    add_ct_arguments(parser)
    parser.add_argument(
        "--geometry",
        required=True,
        metavar="FILE",
        help="geometry JSON (mm, pixels) with width and height, or the name of a C-arm preset",
    )
    parser.add_argument("--camera", metavar="NAME", help="camera, where the geometry has several (the first)")
    add_view_argument(parser)
    pose = parser.add_mutually_exclusive_group(required=True)
    pose.add_argument("--pose", type=Path, metavar="FILE", help="result.json or transform file")
    pose.add_argument(
        "--theta",
        type=float,
        nargs=6,
        metavar=("RX", "RY", "RZ", "TX", "TY", "TZ"),
        help="pose from the nominal view about the bones' centre: deg and mm in camera axes, TZ is depth",
    )
    parser.add_argument(
        "--content", choices=["body", "bone"], default="body", help="what the DRR is made of (body)"
    )
    low, high = TUBE_VOLTAGES_KV
    parser.add_argument(
        "--physics",
        type=float,
        nargs="?",
        const=Beam.tube_voltage_kv,
        metavar="KV",
        help="the log image of an X-ray beam through soft tissue and bone instead of line integrals: tube "
        f"voltage, {low:g} to {high:g} kV ({Beam.tube_voltage_kv:g})",
    )
    parser.add_argument(
        "--metal",
        choices=METALS,
        help="with --physics: element that implants are of (they count as bone)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help=".nrrd: line integrals (no unit), on the detector in the Slicer scene; .png: 8 bit, bone bright",
    )


def run(args: argparse.Namespace) -> int:
    """Project and write.

    Raises:
        InputError: an input is unusable, or the CT is not in the image.
    """
    _check(args)
    beam = None if args.physics is None else Beam(args.physics)
    with staged(args.out.parent) as folder:
        known = load_geometry(args.geometry, view=args.view)
        chosen = one_camera(known, args.camera or known.camera.name, args.geometry)
        camera = chosen.camera
        ct = read_ct(args.ct, args.mask, args.bone_threshold)
        if args.pose is not None:
            chosen = with_depth_of_start(chosen, ct, args.pose, known.cameras)
        frame = pose_frame(chosen, ct, args.geometry)
        T = _pose(args, frame, known.cameras, camera)
        content = bone_only(ct) if args.content == "bone" else ct.attenuation
        if beam is None:
            volume = ProjectorVolume(content)
        else:
            volume = PolychromaticVolume.from_attenuation(content, beam, args.metal)
        image = project(volume, camera, T)
        if not image.any():
            raise InputError(
                f"CT {args.ct} lies outside the field of view here: check the pose and {args.geometry}"
            )
        if args.out.suffix.lower() == ".png":
            write_picture(
                folder / args.out.name, np.rint(255 * windowed(image, display_window(image))).astype(np.uint8)
            )
        else:
            write_detector_image(folder / args.out.name, image, camera, frame)
    what = "line integrals" if beam is None else f"attenuation at {beam.tube_voltage_kv:g} kV"
    print(f"{args.out}: {camera.width} x {camera.height} pixels, {what} up to {image.max():.2f}")
    return 0


def _check(args: argparse.Namespace) -> None:
    """Refuse what can be refused before anything is read.

    Raises:
        InputError: an output or a pose file that is none, or options that do not go together.
    """
    if args.out.suffix.lower() not in _SUFFIXES:
        raise InputError(f"--out {args.out} is neither .nrrd (line integrals) nor .png (for looking)")
    if args.out.is_dir():
        raise InputError(f"--out {args.out} is a folder: give a file")
    if args.pose is not None:
        require_file(args.pose, "pose")
    if args.metal is not None and args.physics is None:
        raise InputError("--metal is for the physics-based projection: add --physics")


def _pose(
    args: argparse.Namespace, frame: PoseFrame, cameras: Sequence[Camera], camera: Camera
) -> np.ndarray:
    """(4, 4) T_lps_to_world of ``--pose`` or ``--theta``."""
    if args.pose is not None:
        return read_start(args.pose, frame, cameras, camera)
    theta = np.concatenate([np.deg2rad(args.theta[:3]), args.theta[3:]])
    return se3.invert_rigid(camera.T_world_to_camera) @ frame.T_from_theta(theta)
