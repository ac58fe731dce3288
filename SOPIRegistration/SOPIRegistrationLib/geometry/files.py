"""Geometry from files, DICOM tags and presets, and what overrides what.

One C-arm view is described by a few values; each may come from the user's choice of a view, the
geometry file, the image's DICOM tags or a preset, in this order. Nothing that decides a projection is
ever guessed: what is missing is asked for by name; the harmless defaults (detector centre, AP) are
recorded as such.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry.c_arm import CArmGeometry
from SOPIRegistrationLib.geometry.calibrations import written_calibration
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.dicom_tag_values import SDD_TAG, SPACING_TAG, UNREADABLE_ANGLES
from SOPIRegistrationLib.geometry.dicom_values import values_from_dicom
from SOPIRegistrationLib.geometry.presets import PRESETS, Preset, find_preset
from SOPIRegistrationLib.geometry.reading import preset_names, read_entry
from SOPIRegistrationLib.geometry.rigidity import is_rotation
from SOPIRegistrationLib.geometry.tolerances import EXACT, PRESET_TOLERANCES, SourceTolerances, Tolerances
from SOPIRegistrationLib.geometry.values import (
    CAMERA_KEYS,
    SHARED_KEYS,
    TOLERANCE_KEYS,
    VIEW_KEYS,
    Values,
    array_of,
    positive,
    values_from_entry,
)
from SOPIRegistrationLib.geometry.views import NOMINAL_VIEWS, nominal_view, view_of_stored_image
from SOPIRegistrationLib.whole_files import write_whole

log = logging.getLogger(__name__)


def load_geometry(
    geometry: str | os.PathLike | None = None,
    image_shape: tuple[int, int] | None = None,
    metadata: dict | None = None,
    view: str | None = None,
    image_name: str = "the X-ray",
) -> CArmGeometry:
    """The geometry of an X-ray from all that is known of it.

    Args:
        geometry: path of a geometry JSON, of a calibration of another program (or of a folder with one for
            each camera), or the name of a preset.
        image_shape: (rows, columns) of the image as stored; a file with "cameras" does not need it.
        metadata: the image's DICOM tags by keyword (``Radiograph.metadata``).
        view: AP, PA, LLAT or RLAT, over whatever the files say.
        image_name: the image's name, for messages.

    Returns:
        The geometry. It may be ``mirrored``, or its cameras have ``distortion``: see
        :func:`SOPIRegistrationLib.images.stored.as_seen_from_the_source`.

    Raises:
        InputError: a file or value is unusable, another image size is meant, or something needed is missing.
    """
    tags, of_tags = values_from_dicom(metadata or {}, image_shape, image_name)
    reliability = {name: of_tags for name in tags}
    if geometry is None:
        origin, values = image_name, tags
    elif str(geometry).strip().lower() in PRESETS and not Path(geometry).exists():
        preset = find_preset(str(geometry))
        origin = f"preset {preset.name}"
        # The image's own tags know more of its acquisition than a type plate does.
        plate = _values_from_preset(preset, image_shape, image_name)
        values = plate | {
            name: value
            for name, value in _readable(tags, image_name).items()
            if name not in plate or not isinstance(value[0], InputError)
        }
        reliability = {
            name: PRESET_TOLERANCES if source == origin else of_tags for name, (_, source) in values.items()
        }
    else:
        entry, origin = read_entry(Path(geometry), image_shape, tags)
        if "cameras" in entry:
            return _calibrated_set(entry, origin, image_shape, view, image_name)
        given = values_from_entry(entry, origin, VIEW_KEYS | SHARED_KEYS)
        values = {**_readable({**tags, **given}, image_name), **given}
        reliability = {name: of_tags for name in tags.keys() - given.keys()}
    if view is not None:
        values["view"] = (view, "chosen by the user")
    return _single_view(values, image_shape, origin, image_name, bool(metadata), reliability)


def _readable(values: Values, image_name: str) -> Values:
    """Values without those that a geometry can do without: what no tag tells has a default, which is said."""
    kept = dict(values)
    if isinstance(values.get("sod_mm", (None,))[0], InputError):
        log.warning("%s: not needed, and taken from elsewhere", values["sod_mm"][0])
        del kept["sod_mm"]
    if values.get("view", (None, ""))[1] == UNREADABLE_ANGLES:
        log.warning("%s: the view is taken as AP; give another with --view", image_name)
        kept["view"] = ("AP", f"default: AP ({UNREADABLE_ANGLES})")
    return kept


def _single_view(
    values: Values,
    shape,
    origin: str,
    image_name: str,
    is_dicom: bool,
    reliability: dict[str, SourceTolerances],
) -> CArmGeometry:
    sources = _sources(values)
    view, rotation, mirrored = _nominal(values, sources, origin)
    camera = _camera(values, sources, shape, origin, image_name, is_dicom)
    camera = replace(camera, tolerances=_tolerances(values, camera, reliability))
    if mirrored:
        camera = camera.mirrored()
    sod = positive(values, "sod_mm")
    return CArmGeometry((camera,), sod, view, rotation, mirrored, sources)


def _sources(values: Values) -> dict[str, str]:
    return {name: source for name, (_, source) in values.items() if name not in TOLERANCE_KEYS.values()}


def _tolerances(values: Values, camera: Camera, reliability: dict[str, SourceTolerances]) -> Tolerances:
    """Those given; else what to expect of the values' sources."""
    if "K" in values:
        reliability = {}
    of_sdd, of_spacing = (reliability.get(name, EXACT) for name in ("sdd_mm", "pixel_spacing_mm"))
    # The detector's centre belongs to the machine that the pitch was taken from.
    of_point = EXACT if "principal_point_px" in values else of_spacing
    expected = {
        "sdd_mm": of_sdd.sdd_percent / 100 * (camera.sdd_mm or 0.0),
        "principal_point_px": of_point.principal_point_px,
        "pixel_spacing_mm": of_spacing.pixel_spacing_percent,
    }
    given = {name: _tolerance(values, key) for name, key in TOLERANCE_KEYS.items()}
    if given["sdd_mm"] and camera.sdd_mm is None:
        key = TOLERANCE_KEYS["sdd_mm"]
        raise InputError(f"{values[key][1]}: {key} is of a distance that is not given: add sdd_mm")
    chosen = (expected[name] if given[name] is None else given[name] for name in TOLERANCE_KEYS)
    return Tolerances(*chosen)


def _tolerance(values: Values, key: str) -> float | None:
    if key not in values:
        return None
    value, source = values[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < np.inf:
        raise InputError(f"{source}: {key} must be a standard deviation, zero or above, not {value}")
    return float(value)


def _nominal(values: Values, sources: dict, origin: str):
    """(name of the view, rotation where the name does not tell it, whether the stored image is mirrored)."""
    value, source = values.get("view", ("AP", origin))
    if isinstance(value, InputError):
        raise value
    sources.setdefault("view", "default: AP")
    rotation = None
    if not isinstance(value, str):
        name, rotation = "angles", array_of(values, "view", (3, 3))
        if not is_rotation(rotation):
            raise InputError(f"{source}: nominal_rotation must be a rotation (orthonormal, determinant +1)")
    elif (name := value.upper()) not in NOMINAL_VIEWS:
        raise InputError(f"{source}: view is '{value}', use one of {', '.join(NOMINAL_VIEWS)}")
    orientation = values.get("patient_orientation")
    if orientation is None or orientation[0] is None:
        return name, rotation, False
    nominal = nominal_view(name) if rotation is None else rotation
    turned, mirrored = view_of_stored_image(nominal, orientation[0])
    return name, rotation if np.array_equal(turned, nominal) else turned, mirrored


def _camera(values: Values, sources: dict, shape, origin: str, image_name: str, is_dicom: bool) -> Camera:
    size = _image_size(values, shape, origin, image_name)
    distortion = array_of(values, "distortion", (5,)) if "distortion" in values else None
    if "K" in values:
        return _camera_of_K(values, sources, size, distortion)
    sdd, spacing = positive(values, "sdd_mm"), positive(values, "pixel_spacing_mm", (2,))
    if sdd is None or spacing is None:
        raise _lacking(sdd, spacing, origin, image_name, is_dicom)
    centre = (size[0] - 1) / 2, (size[1] - 1) / 2
    if "principal_point_px" in values:
        centre = array_of(values, "principal_point_px", (2,))
    else:
        sources["principal_point_px"] = "default: detector centre"
    K = np.array([[sdd / spacing[1], 0, centre[0]], [0, sdd / spacing[0], centre[1]], [0, 0, 1]])
    return _checked_camera(origin, K, *size, sdd, distortion=distortion)


def _camera_of_K(values: Values, sources: dict, size: tuple[int, int], distortion) -> Camera:
    K = array_of(values, "K", (3, 3))
    # K says it all: a tag that cannot be read is no loss.
    sdd, spacing = (
        None if name in values and isinstance(values[name][0], InputError) else positive(values, name, shape)
        for name, shape in (("sdd_mm", ()), ("pixel_spacing_mm", (2,)))
    )
    if sdd is None and spacing is not None:
        sdd = float(np.sqrt(spacing[0] * spacing[1] * abs(K[0, 0] * K[1, 1]))) / abs(K[2, 2] or 1)
        sources["sdd_mm"] = "K and the pixel spacing"
    for name in ("pixel_spacing_mm", "principal_point_px"):
        sources.pop(name, None)
    return _checked_camera(values["K"][1], K, *size, sdd, distortion=distortion)


def _lacking(sdd, spacing, origin: str, image_name: str, is_dicom: bool) -> InputError:
    """What to say of a geometry that is not known whole, and what to do."""
    known = (("sdd_mm", SDD_TAG, sdd), ("pixel_spacing_mm", SPACING_TAG, spacing))
    missing = [(name, tag) for name, tag, value in known if value is None]
    keys, tags = (" and ".join(names) for names in zip(*missing, strict=True))
    if is_dicom:
        return InputError(f"{image_name} lacks {tags}: give {keys} in a geometry file with --geometry")
    if origin == image_name:
        return InputError(
            f"{image_name} carries no geometry: give {keys} in a geometry file, or a preset "
            f"({preset_names()}), with --geometry"
        )
    return InputError(f"{origin} lacks {keys} (or K): add them")


def _image_size(values: Values, shape, origin: str, image_name: str) -> tuple[int, int]:
    """(width, height) of the image, checked against the file's."""
    given = [positive(values, name) for name in ("width", "height")]
    if any(size is not None and size != int(size) for size in given):
        raise InputError(f"{origin}: width and height must be whole numbers of pixels")
    if shape is None:
        if None in given:
            raise InputError(
                f"{origin} lacks width and height, and no image is given to take them from: add them"
            )
        return int(given[0]), int(given[1])
    rows, columns = shape
    if any(size not in (None, actual) for size, actual in zip(given, (columns, rows), strict=True)):
        meant = " x ".join("any" if size is None else str(int(size)) for size in given)
        raise InputError(
            f"{origin} is for an image of {meant} pixels, but {image_name} has {columns} x {rows} (columns x "
            "rows): give the geometry of this image"
        )
    return columns, rows


def _calibrated_set(entry: dict, path, shape, view, image_name) -> CArmGeometry:
    cameras, origin = entry["cameras"], str(path)
    if not isinstance(cameras, list) or not cameras or not all(isinstance(one, dict) for one in cameras):
        raise InputError(f"{path}: 'cameras' must be a list of {{name, K, R, t, width, height}}")
    shared = {key: value for key, value in entry.items() if key not in ("cameras", "mirrored")}
    values = values_from_entry(shared, path, SHARED_KEYS)
    mirrored = entry.get("mirrored", False)
    if not isinstance(mirrored, bool):
        raise InputError(f"{path}: mirrored must be true or false, not {mirrored}")
    if view is not None:
        values["view"] = (view, "chosen by the user")
    sources = _sources(values) | {"cameras": origin}
    name, rotation, _ = _nominal(values, sources, origin)
    alone = len(cameras) == 1
    built = [
        _calibrated(
            one, str(one.get("name", f"cam{number:02d}")), path, shape if alone else None, image_name, alone
        )
        for number, one in enumerate(cameras, start=1)
    ]
    if len({camera.name for camera in built}) < len(built):
        raise InputError(f"{path}: two cameras have the same name, give each its own")
    cameras = tuple(replace(camera, tolerances=_tolerances(values, camera, {})) for camera in built)
    return CArmGeometry(cameras, positive(values, "sod_mm"), name, rotation, mirrored, sources)


def _calibrated(entry: dict, name: str, path, shape, image_name: str, alone: bool) -> Camera:
    """One camera of a set; one that is ``alone`` may be the world."""
    where = f"{path}, camera '{name}'"
    values = values_from_entry(entry, where, CAMERA_KEYS)
    T = np.eye(4)
    if "R" in values:
        T[:3, :3] = array_of(values, "R", (3, 3))
    if "t" in values:
        T[:3, 3] = array_of(values, "t", (3,))
    if not alone and not {"R", "t"} <= values.keys():
        raise InputError(f"{where} lacks R and t, its place in the world the cameras share")
    return _placed(where, _camera(values, {}, shape, where, image_name, False), T, name)


def geometry_as_dict(geometry: CArmGeometry) -> dict:
    """The geometry as a JSON entry that :func:`load_geometry` reads back."""
    cameras = []
    for camera in geometry.cameras:
        entry = {"name": camera.name, "K": camera.K.tolist(), "width": camera.width, "height": camera.height}
        if camera.sdd_mm is not None:
            entry["sdd_mm"] = camera.sdd_mm
        if camera.distortion is not None:
            entry["distortion"] = camera.distortion.tolist()
        T = camera.T_world_to_camera
        cameras.append({**entry, "R": T[:3, :3].tolist(), "t": T[:3, 3].tolist()})
    result: dict[str, Any] = {"cameras": cameras}
    if geometry.mirrored:
        result["mirrored"] = True
    if geometry.sod_mm is not None:
        result["sod_mm"] = geometry.sod_mm
    if geometry.rotation is None:
        result["view"] = geometry.view
    else:
        result["nominal_rotation"] = np.asarray(geometry.rotation).tolist()
    tolerances = geometry.tolerances
    written = zip(
        TOLERANCE_KEYS.values(),
        (tolerances.sdd_mm, tolerances.principal_point_px, tolerances.pixel_spacing_percent),
        strict=True,
    )
    result |= {key: value for key, value in written if value}
    return {**result, "sources": geometry.sources}


def geometry_from_dict(entry: dict, origin: str) -> CArmGeometry:
    """Inverse of :func:`geometry_as_dict`; ``origin`` says in messages where it was kept. InputError if
    unusable."""
    geometry = _calibrated_set(entry, origin, None, None, origin)
    return replace(geometry, sources=entry.get("sources", geometry.sources))


def write_geometry(geometry: CArmGeometry, path, form: str = "json") -> list[Path]:
    """Write a geometry (aside, then renamed).

    Args:
        geometry: what to write.
        path: the file; of several cameras in a format that holds one, their names are added to it.
        form: "json", or the name of another program's format.

    Returns:
        The files written.

    Raises:
        InputError: the folder cannot be written to, or the format cannot hold this geometry.
    """
    path = Path(path)
    if form == "json":
        texts = {path: json.dumps(geometry_as_dict(geometry), indent=1) + "\n"}
    else:
        texts = written_calibration(geometry, form, path)
    for file, text in texts.items():
        try:
            write_whole(file, text)
        except OSError as error:
            raise InputError(f"cannot write {file}: {error.strerror or error}") from None
    return [*texts]


def _values_from_preset(preset: Preset, shape, image_name: str) -> Values:
    source = f"preset {preset.name}"
    rows, columns = shape or (preset.height, preset.width)
    spacing = preset.pixel_spacing_of(columns, rows)
    if spacing is None:
        raise InputError(
            f"{source} has a detector of {preset.width} x {preset.height} pixels, but {image_name} has "
            f"{columns} x {rows}: a crop of it needs a geometry file with its principal point"
        )
    values: Values = {"sdd_mm": (preset.sdd_mm, source), "pixel_spacing_mm": (spacing, source)}
    if preset.sod_mm is not None:
        values["sod_mm"] = (preset.sod_mm, source)
    if shape is None:
        values |= {"width": (preset.width, source), "height": (preset.height, source)}
    return values


def _checked_camera(origin, K, width, height, sdd_mm=None, distortion=None) -> Camera:
    try:
        return Camera(K, width, height, sdd_mm, distortion=distortion)
    except (ValueError, np.linalg.LinAlgError) as error:
        raise InputError(f"{origin}: {error}") from None


def _placed(origin, camera: Camera, T: np.ndarray, name: str) -> Camera:
    try:
        return replace(camera, T_world_to_camera=T, name=name)
    except (ValueError, np.linalg.LinAlgError) as error:
        raise InputError(f"{origin}: {error}") from None
