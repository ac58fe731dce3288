"""What ``sopi register`` is asked for, and its X-rays with their geometry, opened and prepared."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from SOPIRegistrationLib.cli.common import parse_weights
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry.c_arm import CArmGeometry
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.contradictions import contradictions, contradictions_of_set
from SOPIRegistrationLib.geometry.files import load_geometry
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.files import open_radiograph, read_radiograph
from SOPIRegistrationLib.images.itk_reading import require_file
from SOPIRegistrationLib.images.prepared_ct import PreparedCT
from SOPIRegistrationLib.images.radiograph import PreparedRadiograph, Radiograph
from SOPIRegistrationLib.images.radiograph_preparation import prepare_radiograph
from SOPIRegistrationLib.images.region import read_region, restricted
from SOPIRegistrationLib.images.stored import as_seen_from_the_source
from SOPIRegistrationLib.registration.pose_files import read_start
from SOPIRegistrationLib.settings import GIVEN, NETWORKS, RegistrationSettings, choices, option, options

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


def say_contradictions(radiographs: Sequence[Radiograph], geometry: CArmGeometry) -> None:
    """Print what X-rays and their geometry say against each other to stderr, a line each."""
    found = contradictions_of_set(geometry)
    for radiograph, camera in zip(radiographs, geometry.cameras, strict=True):
        against = contradictions(geometry, metadata=radiograph.metadata, camera=camera)
        found += [f"{radiograph.name}: {one}" for one in against]
    for one in found:
        print(f"note: {one}", file=sys.stderr)
