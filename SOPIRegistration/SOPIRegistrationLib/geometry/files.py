"""Geometry from JSON files, DICOM tags and presets, and what overrides what.

One C-arm view is described by a few values; each may come from the user's choice of a view, the
geometry file, the image's DICOM tags or a preset, in this order. Nothing that decides a projection is
ever guessed: what is missing is asked for by name; the harmless defaults (detector centre, AP) are
recorded as such.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry.c_arm import CArmGeometry
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.presets import PRESETS, Preset, find_preset
from SOPIRegistrationLib.geometry.views import (
    NOMINAL_VIEWS,
    nominal_view,
    nominal_view_from_angles,
    view_of_stored_image,
)

_VIEW_KEYS = {"K", "sdd_mm", "pixel_spacing_mm", "principal_point_px", "width", "height"}
_CAMERA_KEYS = _VIEW_KEYS | {"name", "R", "t"}
_SHARED_KEYS = {"sod_mm", "view", "nominal_rotation", "sources", "comment"}
_FORMS = (
    '{"sdd_mm", "pixel_spacing_mm": [row, column], "principal_point_px", "sod_mm", "view"}, {"K": 3x3} or '
    '{"cameras": [{"name", "K", "R", "t", "width", "height"}]}'
)
_SDD_TAG = "Distance Source to Detector (0018,1110)"
_SPACING_TAG = "Imager Pixel Spacing (0018,1164)"
# View Position (0018,5101): the side towards the detector for the laterals, the beam's way for the others.
_DICOM_VIEWS = {"AP": "AP", "PA": "PA", "LL": "LLAT", "RL": "RLAT", "LLAT": "LLAT", "RLAT": "RLAT"}

# name of a value -> (the value, where it came from)
Values = dict[str, tuple[Any, str]]


def load_geometry(
    geometry: str | os.PathLike | None = None,
    image_shape: tuple[int, int] | None = None,
    metadata: dict | None = None,
    view: str | None = None,
    image_name: str = "the X-ray",
) -> CArmGeometry:
    """The geometry of an X-ray from all that is known of it.

    Args:
        geometry: path of a geometry JSON, or the name of a preset.
        image_shape: (rows, columns) of the image as stored; a file with "cameras" does not need it.
        metadata: the image's DICOM tags by keyword (``Radiograph.metadata``).
        view: AP, PA, LLAT or RLAT, over whatever the files say.
        image_name: the image's name, for messages.

    Returns:
        The geometry. With DICOM Patient Orientation it may be ``mirrored``: flip the pixels left-right.

    Raises:
        InputError: a file or value is unusable, another image size is meant, or something needed is missing.
    """
    tags = _values_from_dicom(metadata or {})
    if geometry is None:
        origin, values = image_name, tags
    elif str(geometry).strip().lower() in PRESETS and not Path(geometry).exists():
        preset = find_preset(str(geometry))
        origin = f"preset {preset.name}"
        # The image's own tags know more of its acquisition than a type plate does.
        values = {**_values_from_preset(preset, image_shape, image_name), **tags}
    else:
        entry = _read_json(geometry)
        if "cameras" in entry:
            return _calibrated_set(entry, geometry, image_shape, view, image_name)
        origin = str(geometry)
        values = {**tags, **_values_from_entry(entry, origin, _VIEW_KEYS | _SHARED_KEYS)}
    if view is not None:
        values["view"] = (view, "chosen by the user")
    return _single_view(values, image_shape, origin, image_name, bool(metadata))


def _single_view(values: Values, shape, origin: str, image_name: str, is_dicom: bool) -> CArmGeometry:
    sources = {name: source for name, (_, source) in values.items()}
    view, rotation, mirrored = _nominal(values, sources, origin)
    camera = _camera(values, sources, shape, origin, image_name, is_dicom)
    if mirrored:
        flip = np.array([[-1.0, 0, camera.width - 1], [0, 1, 0], [0, 0, 1]])
        K = flip @ camera.K @ np.diag([-1.0, 1, 1])
        camera = Camera(K, camera.width, camera.height, camera.sdd_mm, name=camera.name)
    sod = _positive(values, "sod_mm")
    return CArmGeometry((camera,), sod, view, rotation, mirrored, sources)


def _nominal(values: Values, sources: dict, origin: str):
    """(name of the view, rotation where the name does not tell it, whether the stored image is mirrored)."""
    value, source = values.get("view", ("AP", origin))
    sources.setdefault("view", "default: AP")
    rotation = None
    if not isinstance(value, str):
        name, rotation = "angles", _array(values, "view", (3, 3))
        if np.abs(rotation @ rotation.T - np.eye(3)).max() > 1e-3 or np.linalg.det(rotation) < 0:
            raise InputError(f"{source}: nominal_rotation must be a rotation (orthonormal, determinant +1)")
    elif (name := value.upper()) not in NOMINAL_VIEWS:
        raise InputError(f"{source}: view is '{value}', use one of {', '.join(NOMINAL_VIEWS)}")
    orientation = values.get("patient_orientation")
    if orientation is None:
        return name, rotation, False
    nominal = nominal_view(name) if rotation is None else rotation
    turned, mirrored = view_of_stored_image(nominal, orientation[0])
    return name, rotation if np.array_equal(turned, nominal) else turned, mirrored


def _camera(values: Values, sources: dict, shape, origin: str, image_name: str, is_dicom: bool) -> Camera:
    size = _image_size(values, shape, origin, image_name)
    sdd, spacing = _positive(values, "sdd_mm"), _positive(values, "pixel_spacing_mm", (2,))
    if "K" in values:
        K = _array(values, "K", (3, 3))
        if sdd is None and spacing is not None:
            sdd = float(np.sqrt(spacing[0] * spacing[1] * abs(K[0, 0] * K[1, 1]))) / abs(K[2, 2] or 1)
            sources["sdd_mm"] = "K and the pixel spacing"
        for name in ("pixel_spacing_mm", "principal_point_px"):
            sources.pop(name, None)
        return _checked_camera(values["K"][1], K, *size, sdd)
    missing = [
        (name, tag)
        for name, tag, value in (("sdd_mm", _SDD_TAG, sdd), ("pixel_spacing_mm", _SPACING_TAG, spacing))
        if value is None
    ]
    if missing:
        keys, tags = (" and ".join(names) for names in zip(*missing, strict=True))
        if is_dicom:
            raise InputError(f"{image_name} lacks {tags}: give {keys} in a geometry file with --geometry")
        if origin == image_name:
            raise InputError(
                f"{image_name} carries no geometry: give {keys} in a geometry file, or a preset "
                f"({_preset_names()}), with --geometry"
            )
        raise InputError(f"{origin} lacks {keys} (or K): add them")
    centre = (size[0] - 1) / 2, (size[1] - 1) / 2
    if "principal_point_px" in values:
        centre = _array(values, "principal_point_px", (2,))
    else:
        sources["principal_point_px"] = "default: detector centre"
    K = np.array([[sdd / spacing[1], 0, centre[0]], [0, sdd / spacing[0], centre[1]], [0, 0, 1]])
    return _checked_camera(origin, K, *size, sdd)


def _image_size(values: Values, shape, origin: str, image_name: str) -> tuple[int, int]:
    """(width, height) of the image, checked against the file's."""
    given = [_positive(values, name) for name in ("width", "height")]
    if any(size is not None and size != int(size) for size in given):
        raise InputError(f"{origin}: width and height must be whole numbers of pixels")
    if shape is None:
        if None in given:
            raise InputError(f"{origin} lacks width and height, and no image is given to take them from")
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
    shared = {key: value for key, value in entry.items() if key != "cameras"}
    values = _values_from_entry(shared, path, _SHARED_KEYS)
    if view is not None:
        values["view"] = (view, "chosen by the user")
    sources = {name: source for name, (_, source) in values.items()} | {"cameras": origin}
    name, rotation, _ = _nominal(values, sources, origin)
    built = []
    for number, one in enumerate(cameras, start=1):
        label = str(one.get("name", f"cam{number:02d}"))
        where = f"{path}, camera '{label}'"
        one_values = _values_from_entry(one, where, _CAMERA_KEYS)
        T = np.eye(4)
        if "R" in one_values:
            T[:3, :3] = _array(one_values, "R", (3, 3))
        if "t" in one_values:
            T[:3, 3] = _array(one_values, "t", (3,))
        if len(cameras) > 1 and not {"R", "t"} <= one_values.keys():
            raise InputError(f"{where} lacks R and t, its place in the world the cameras share")
        alone = _camera(one_values, {}, shape if len(cameras) == 1 else None, where, image_name, False)
        built.append(_checked_camera(where, alone.K, alone.width, alone.height, alone.sdd_mm, T, label))
    if len({camera.name for camera in built}) < len(built):
        raise InputError(f"{path}: two cameras have the same name, give each its own")
    return CArmGeometry(tuple(built), _positive(values, "sod_mm"), name, rotation, False, sources)


def geometry_as_dict(geometry: CArmGeometry) -> dict:
    """The geometry as a JSON entry that :func:`load_geometry` reads back."""
    cameras = []
    for camera in geometry.cameras:
        entry = {"name": camera.name, "K": camera.K.tolist(), "width": camera.width, "height": camera.height}
        if camera.sdd_mm is not None:
            entry["sdd_mm"] = camera.sdd_mm
        T = camera.T_world_to_camera
        cameras.append({**entry, "R": T[:3, :3].tolist(), "t": T[:3, 3].tolist()})
    result: dict[str, Any] = {"cameras": cameras}
    if geometry.sod_mm is not None:
        result["sod_mm"] = geometry.sod_mm
    if geometry.rotation is None:
        result["view"] = geometry.view
    else:
        result["nominal_rotation"] = np.asarray(geometry.rotation).tolist()
    return {**result, "sources": geometry.sources}


def geometry_from_dict(entry: dict, origin: str) -> CArmGeometry:
    """Inverse of :func:`geometry_as_dict`.

    Args:
        entry: the JSON entry.
        origin: where it was kept, for messages.

    Raises:
        InputError: a value is unusable.
    """
    geometry = _calibrated_set(entry, origin, None, None, origin)
    return replace(geometry, sources=entry.get("sources", geometry.sources))


def write_geometry(geometry: CArmGeometry, path) -> None:
    """Write a geometry JSON (aside, then renamed).

    Raises:
        InputError: the folder cannot be written to.
    """
    path = Path(path)
    aside = path.with_name(path.name + ".part")
    try:
        aside.write_text(json.dumps(geometry_as_dict(geometry), indent=1) + "\n", encoding="utf-8")
        aside.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from None


def _read_json(path) -> dict:
    try:
        entry = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"geometry file {path} does not exist, nor is it a preset ({_preset_names()})"
        ) from None
    except OSError as error:
        raise InputError(f"geometry file {path} cannot be read: {error.strerror or error}") from None
    except ValueError:
        raise InputError(f"geometry file {path} is not JSON: use {_FORMS}") from None
    if not isinstance(entry, dict):
        raise InputError(f"geometry file {path} is not a JSON object: use {_FORMS}")
    return entry


def _values_from_entry(entry: dict, origin, allowed: set[str]) -> Values:
    unknown = sorted(set(entry) - allowed)
    if unknown:
        raise InputError(f"{origin}: unknown key '{unknown[0]}', known are {', '.join(sorted(allowed))}")
    values: Values = {}
    for key, value in entry.items():
        if value is not None and key not in ("comment", "sources", "name"):
            values["view" if key == "nominal_rotation" else key] = (value, origin)
    return values


def _values_from_dicom(metadata: dict) -> Values:
    """Values of DICOM tags by keyword; a zero distance or spacing, common in exports, counts as absent."""
    source = "DICOM"
    values: Values = {}
    for name, keyword in (
        ("sdd_mm", "DistanceSourceToDetector"),
        ("sod_mm", "DistanceSourceToIsocenter"),
        ("sod_mm", "DistanceSourceToPatient"),
    ):
        if metadata.get(keyword):
            values[name] = (metadata[keyword], source)
    spacing = metadata.get("ImagerPixelSpacing")
    if spacing is not None and len(spacing) == 2 and all(spacing):
        values["pixel_spacing_mm"] = (spacing, source)
    primary, secondary = metadata.get("PositionerPrimaryAngle"), metadata.get("PositionerSecondaryAngle")
    position = _DICOM_VIEWS.get(str(metadata.get("ViewPosition", "")).upper())
    if primary is not None and secondary is not None:
        rotation = nominal_view_from_angles(primary, secondary)
        values["view"] = (rotation, f"{source} positioner angles {primary:g} and {secondary:g} deg")
    elif position is not None:
        values["view"] = (position, f"{source} View Position")
    if metadata.get("PatientOrientation"):
        values["patient_orientation"] = (tuple(metadata["PatientOrientation"]), source)
    return values


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


def _preset_names() -> str:
    return ", ".join(preset.name for preset in PRESETS.values())


def _array(values: Values, name: str, shape: tuple[int, ...]) -> np.ndarray:
    value, source = values[name]
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        array = np.empty(0)
    if array.shape != shape or not np.isfinite(array).all():
        size = " x ".join(str(n) for n in shape)
        raise InputError(f"{source}: {name} must be {size} finite numbers")
    return array


def _positive(values: Values, name: str, shape: tuple[int, ...] = ()) -> Any:
    """A positive value, an array of them, or None where it is not given."""
    if name not in values:
        return None
    value, source = values[name]
    try:
        array = np.asarray(value, dtype=np.float64)
        usable = array.shape == shape and np.isfinite(array).all() and (array > 0).all()
    except (TypeError, ValueError):
        usable = False
    if not usable:
        count = "two positive numbers [row, column]" if shape else "a positive number"
        raise InputError(f"{source}: {name} must be {count}, not {value}")
    return array if shape else float(array)


def _checked_camera(origin, K, width, height, sdd_mm=None, T=None, name="") -> Camera:
    try:
        return Camera(K, width, height, sdd_mm, np.eye(4) if T is None else T, name)
    except ValueError as error:
        raise InputError(f"{origin}: {error}") from None
