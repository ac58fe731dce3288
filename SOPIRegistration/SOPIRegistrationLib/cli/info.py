"""``sopi info``: what the program makes of a file, without registering."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from SOPIRegistrationLib.cli.common import add_view_argument
from SOPIRegistrationLib.cli.described import FileInfo, describe
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry.c_arm import CArmGeometry
from SOPIRegistrationLib.geometry.calibrations import WRITABLE, camera_names
from SOPIRegistrationLib.geometry.files import write_geometry


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the subcommand."""
    parser.add_argument(
        "file",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="CT, X-ray, geometry or calibration file, result.json, or a folder (DICOM series, calibrations)",
    )
    parser.add_argument(
        "--geometry", metavar="FILE", help="geometry file or C-arm preset for the X-rays among the files"
    )
    add_view_argument(parser)
    parser.add_argument("--frame", type=int, metavar="N", help="frame of a multi-frame X-ray, from 1 (1)")
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")
    parser.add_argument(
        "--write-geometry",
        type=Path,
        metavar="OUT",
        help="write the geometry of the files (of several calibrations: all their cameras), mm and pixels",
    )
    parser.add_argument(
        "--as",
        dest="form",
        choices=["json", *WRITABLE],
        default="json",
        help="format of --write-geometry (json)",
    )


def run(args: argparse.Namespace) -> int:
    """Describe every file; write a geometry.

    Returns:
        0; 2 where a file is unusable.

    Raises:
        InputError: the geometry cannot be written.
    """
    found = [describe(path, args.geometry, args.view, args.frame) for path in args.file]
    if args.json:
        print(json.dumps([info.to_dict() for info in found], indent=1))
    elif usable := [info for info in found if info.kind != "unusable"]:
        print("\n\n".join(table(info) for info in usable))
    unusable = [info for info in found if info.kind == "unusable"]
    for info in unusable:
        print(f"sopi info: {info.warnings[0]}", file=sys.stderr)
    if unusable:
        return 2
    if args.write_geometry is not None:
        for path in write_geometry(_combined(found), args.write_geometry, args.form):
            print(f"{path} written", file=sys.stderr if args.json else sys.stdout)
    return 0


def table(info: FileInfo) -> str:
    """A person's view of it."""
    rows = [(info.kind, info.file)]
    rows += [(name.replace("_", " "), _text(value)) for name, value in info.facts.items()]
    if info.geometry is not None:
        rows += _geometry_rows(info.geometry)
    rows += [("WARNING", warning) for warning in info.warnings]
    width = max(len(label) for label, _ in rows)
    return "\n".join(f"{label:<{width}}  {text}".rstrip() for label, text in rows)


def _geometry_rows(geometry: CArmGeometry) -> list[tuple[str, str]]:
    known = geometry.with_default_sod()
    tolerances, sources = known.tolerances, known.sources

    def source(name: str) -> str:
        return f"  [{sources[name]}]" if name in sources else ""

    def within(value: float, unit: str) -> str:
        return f" +- {value:g} {unit}" if value else ""

    rows = []
    for camera in known.cameras:
        where = "" if len(known.cameras) == 1 else f"{camera.name}: "
        rows.append((f"{where}image", f"{camera.width} x {camera.height} px"))
        if camera.sdd_mm is not None:
            row, column = camera.pixel_spacing_mm
            rows += [
                (
                    f"{where}source-detector distance",
                    f"{camera.sdd_mm:g} mm{within(tolerances.sdd_mm, 'mm')}{source('sdd_mm')}",
                ),
                (
                    f"{where}pixel spacing",
                    f"{row:.6g} x {column:.6g} mm (row, column)"
                    f"{within(tolerances.pixel_spacing_percent, '%')}{source('pixel_spacing_mm')}",
                ),
            ]
        fx, fy, (u, v) = camera.K[0, 0], camera.K[1, 1], camera.K[:2, 2]
        rows += [
            (f"{where}focal length", f"{fx:.2f}, {fy:.2f} px (u, v){source('K')}"),
            (
                f"{where}principal point",
                f"{u:.2f}, {v:.2f} px{within(tolerances.principal_point_px, 'px')}"
                f"{source('principal_point_px')}",
            ),
        ]
        if camera.distortion is not None:
            rows.append((f"{where}lens distortion", ", ".join(f"{one:g}" for one in camera.distortion)))
    if "cameras" in sources:
        rows.append(("cameras from", sources["cameras"]))
    sod = "not known" if known.sod_mm is None else f"{known.sod_mm:g} mm{source('sod_mm')}"
    rows.append(("source-object distance", sod))
    rows.append(("view", known.view + source("view")))
    if known.mirrored:
        rows.append(("stored", "mirrored: columns are turned over before use"))
    return rows


def _combined(found: Sequence[FileInfo]) -> CArmGeometry:
    """The geometry of the files: of one, or of several calibrations of one camera each."""
    geometries = [info.geometry for info in found if info.geometry is not None]
    if not geometries:
        raise InputError(f"{found[0].file} has no geometry to write: give a geometry file or --geometry")
    if len(geometries) == 1:
        return geometries[0]
    if any(len(geometry.cameras) > 1 or geometry.mirrored for geometry in geometries):
        raise InputError(
            f"{found[0].file}: only files of one camera each, of images not mirrored, are put together: give "
            "one file, or one for each camera"
        )
    names = camera_names([Path(info.file).stem for info in found if info.geometry is not None])
    cameras = tuple(
        replace(geometry.camera, name=name) for name, geometry in zip(names, geometries, strict=True)
    )
    if len(set(names)) < len(names):
        raise InputError(f"{found[0].file}: two of the files have one name, which would be their cameras'")
    sources = {"cameras": "; ".join(geometry.sources.get("cameras", "given") for geometry in geometries)}
    return CArmGeometry(cameras, view=geometries[0].view, rotation=geometries[0].rotation, sources=sources)


def _text(value) -> str:
    if isinstance(value, dict):
        if value.keys() == {"from", "to"}:
            return f"{_text(value['from'])} to {_text(value['to'])}"
        return ", ".join(f"{key} {_text(one)}" for key, one in value.items())
    if isinstance(value, list) and value and isinstance(value[0], list):
        return "; ".join(_text(one) for one in value)
    if isinstance(value, list) and all(isinstance(one, int) for one in value):
        return " x ".join(str(one) for one in value)
    if isinstance(value, list):
        return ", ".join(_text(one) for one in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)
