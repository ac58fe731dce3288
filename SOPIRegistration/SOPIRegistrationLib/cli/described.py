"""What the program makes of a file: its kind, its facts, its geometry, and what is odd about it."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry.autoscoper_trial import SUFFIX
from SOPIRegistrationLib.geometry.c_arm import CArmGeometry
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.contradictions import contradictions, contradictions_of_set
from SOPIRegistrationLib.geometry.files import load_geometry
from SOPIRegistrationLib.images.dicom import modality_of
from SOPIRegistrationLib.images.dicom_files import is_dicom
from SOPIRegistrationLib.images.files import is_picture, read_radiograph, read_volume
from SOPIRegistrationLib.images.hounsfield import in_hounsfield
from SOPIRegistrationLib.images.itk_reading import image_reader, require_file
from SOPIRegistrationLib.images.radiograph import Radiograph
from SOPIRegistrationLib.images.radiograph_preparation import prepare_radiograph
from SOPIRegistrationLib.images.stored import as_seen_from_the_source
from SOPIRegistrationLib.images.volume import Volume

_TEXTS = (".json", ".txt", ".csv", ".yml", ".yaml", ".xml", ".toml", SUFFIX)
_VOLUMES = ("CT", "MR", "PT")
_DIRECTIONS = "LR", "PA", "SI"
_ASSUMED_DISTANCE_MM = 1000.0


@dataclass
class FileInfo:
    """What is known of one file.

    Attributes:
        file: its path as given.
        kind: "CT", "X-ray", "geometry", "result" or "unusable".
        facts: by name; values as JSON holds them.
        geometry: of an X-ray or a geometry file; None where there is none.
        warnings: sentences.
    """

    file: str
    kind: str
    facts: dict[str, Any] = field(default_factory=dict)
    geometry: CArmGeometry | None = None
    warnings: list[str] = field(default_factory=list)

    def to_dict(self) -> dict:
        """As JSON."""
        entry = {"file": self.file, "kind": self.kind, **self.facts}
        if self.geometry is not None:
            entry["geometry"] = _geometry_facts(self.geometry)
        return entry | {"warnings": self.warnings}


def describe(
    path: Path, geometry: str | None = None, view: str | None = None, frame: int | None = None
) -> FileInfo:
    """What the program makes of a file or folder; one that cannot be used is "unusable", its warning why.

    An X-ray's geometry file or preset, nominal view and frame (from 1, the first unless given) may be told.
    """
    with _logged_warnings() as said:
        try:
            info = _describe(path, geometry, view, frame)
        except InputError as error:
            return FileInfo(str(path), "unusable", warnings=[str(error)])
    info.warnings[:0] = said
    return info


def _describe(path: Path, geometry, view, frame) -> FileInfo:
    if path.is_dir():
        try:
            return _of_volume(path, read_volume(path))
        except InputError as no_series:
            try:
                return _of_geometry(path, load_geometry(path))
            except InputError:
                raise no_series from None
    require_file(path, "file")
    of_dicom = is_dicom(path)
    if path.suffix.lower() in _TEXTS and not of_dicom:
        return _of_text(path, view)
    if of_dicom and modality_of(path) in _VOLUMES:
        return _of_volume(path, read_volume(path))
    if not of_dicom:
        size = image_reader(path, "file", "a CT, an X-ray, a geometry or a result file").GetSize()
        if len(size) > 2 and min(size[:3]) > 1 and frame is None and not is_picture(path):
            return _of_volume(path, read_volume(path))
    return _of_radiograph(path, geometry, view, frame)


def _of_volume(path: Path, volume: Volume) -> FileInfo:
    volume = in_hounsfield(volume)
    k, j, i = volume.array.shape
    spacing = volume.spacing_mm
    axes = volume.index_to_lps[:3, :3] / spacing
    low, high = np.percentile(volume.array, (0.5, 99.5))
    facts = {
        "size": [i, j, k],
        "spacing_mm": _rounded(spacing, 6),
        "axes": [_axis_name(axes[:, axis]) for axis in range(3)],
        "index_to_lps": _rounded(volume.index_to_lps, 6),
        "extent_mm": _rounded(spacing * volume.array.shape[::-1], 3),
        "values_hu": {"from": float(volume.array.min()), "to": float(volume.array.max())},
        "usual_values_hu": {"from": float(low), "to": float(high)},
    }
    return FileInfo(str(path), "CT", facts, warnings=list(volume.notes))


def _axis_name(axis: np.ndarray) -> str:
    """The patient's direction along an axis, with its angle to it where they are apart."""
    nearest = int(np.abs(axis).argmax())
    letter = _DIRECTIONS[nearest][0 if axis[nearest] > 0 else 1]
    apart = np.rad2deg(np.arccos(min(1.0, abs(float(axis[nearest])))))
    return letter if apart < 0.05 else f"{letter} ({apart:.1f} deg off)"


def _of_radiograph(path: Path, geometry, view, frame) -> FileInfo:
    frames = None
    try:
        radiograph = read_radiograph(path, frame)
    except InputError:
        # Of several frames the first stands for all.
        if frame is not None:
            raise
        radiograph, frames = read_radiograph(path, 1), "several, the first is shown"
    rows, columns = radiograph.pixels.shape
    facts: dict[str, Any] = {"size": [columns, rows], "stored_as": str(radiograph.pixels.dtype)}
    if frames:
        facts["frames"] = frames
    facts["values"] = {"from": float(radiograph.pixels.min()), "to": float(radiograph.pixels.max())}
    info = FileInfo(str(path), "X-ray", facts)
    try:
        known = load_geometry(geometry, radiograph.pixels.shape, radiograph.metadata, view, str(path))
    except InputError as error:
        if geometry is not None:
            raise
        info.warnings.append(f"no geometry: {error}")
        camera = Camera.from_c_arm(_ASSUMED_DISTANCE_MM, (1, 1), columns, rows)
        _add_picture(info, radiograph, camera)
        return info
    name = known.camera_named_in(path.name) if len(known.cameras) > 1 else None
    if len(known.cameras) > 1 and name is None:
        raise InputError(
            f"{geometry} has the cameras {', '.join(one.name for one in known.cameras)}, and the name of "
            f"{path} holds none of them: let it hold its camera's"
        )
    info.geometry = known.for_camera(name) if name else known
    info.warnings += contradictions_of_set(known)
    info.warnings += contradictions(info.geometry, radiograph.pixels.shape, radiograph.metadata)
    _add_picture(
        info, as_seen_from_the_source(radiograph, known.mirrored, info.geometry.camera), info.geometry.camera
    )
    return info


def _add_picture(info: FileInfo, radiograph: Radiograph, camera: Camera) -> None:
    """Polarity and field, as preparing it for a registration finds them."""
    prepared = prepare_radiograph(radiograph, camera)
    valid = prepared.valid
    turned_over = np.cov(radiograph.pixels[valid].astype(np.float64), prepared.image[valid])[0, 1] < 0
    reason = "detected, the other is tried as well"
    if radiograph.bone_dark is not None:
        reason = "the file says so"
    elif radiograph.bone_dark_expected is not None:
        reason = "as it is displayed, the other is tried as well"
    info.facts["polarity"] = f"{'bone-dark' if turned_over else 'bone-bright'} ({reason})"
    info.facts["field"] = f"{100 * valid.mean():.0f} % of the image is exposed and usable"


def _of_text(path: Path, view) -> FileInfo:
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        entry = None
    if isinstance(entry, dict) and isinstance(entry.get("pose"), dict):
        return _of_result(path, entry)
    return _of_geometry(path, load_geometry(path, view=view))


def _of_geometry(path: Path, geometry: CArmGeometry) -> FileInfo:
    info = FileInfo(str(path), "geometry", geometry=geometry)
    info.warnings += contradictions_of_set(geometry)
    for camera in geometry.cameras:
        label = f"camera {camera.name}: " if len(geometry.cameras) > 1 else ""
        info.warnings += [label + one for one in contradictions(geometry, camera=camera)]
    return info


def _of_result(path: Path, entry: dict) -> FileInfo:
    verdict, theta = entry.get("verdict"), entry["pose"].get("theta")
    facts: dict[str, Any] = {}
    for name in ("version", "method", "content", "view"):
        if isinstance(entry.get(name), str):
            facts[name] = entry[name]
    if isinstance(theta, dict):
        facts["theta"] = {key: value for key, value in theta.items() if isinstance(value, int | float)}
    if isinstance(verdict, dict):
        facts["verdict"] = str(verdict.get("status"))
        facts["reasons"] = [str(reason) for reason in verdict.get("reasons") or ()]
    return FileInfo(str(path), "result", facts)


def _geometry_facts(geometry: CArmGeometry) -> dict:
    known = geometry.with_default_sod()
    tolerances = known.tolerances
    return {
        "cameras": [
            {
                "name": camera.name,
                "width": camera.width,
                "height": camera.height,
                "K": _rounded(camera.K, 6),
                "sdd_mm": camera.sdd_mm,
                "pixel_spacing_mm": None
                if camera.sdd_mm is None
                else _rounded(np.array(camera.pixel_spacing_mm), 6),
                "principal_point_px": _rounded(camera.K[:2, 2], 4),
                "distortion": None if camera.distortion is None else _rounded(camera.distortion, 9),
                "T_world_to_camera": _rounded(camera.T_world_to_camera, 9),
            }
            for camera in known.cameras
        ],
        "sod_mm": known.sod_mm,
        "view": known.view,
        "nominal_rotation": None if known.rotation is None else _rounded(np.asarray(known.rotation), 9),
        "mirrored": known.mirrored,
        "sources": known.sources,
        "tolerances": {
            "sdd_mm": tolerances.sdd_mm,
            "principal_point_px": tolerances.principal_point_px,
            "pixel_spacing_percent": tolerances.pixel_spacing_percent,
        },
    }


@contextlib.contextmanager
def _logged_warnings() -> Iterator[list[str]]:
    """Warnings that the readers log, as a list instead of on the screen."""
    said: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record):
            said.append(record.getMessage())

    logger, handler = logging.getLogger("SOPIRegistrationLib"), Collect(logging.WARNING)
    propagate = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield said
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate


def _rounded(array: np.ndarray, digits: int) -> list:
    return np.round(np.asarray(array, dtype=np.float64), digits).tolist()
