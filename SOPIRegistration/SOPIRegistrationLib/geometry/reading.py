"""Files that hold a geometry, as entries of a geometry JSON: these, calibrations, and folders of them."""

from __future__ import annotations

import codecs
import contextlib
import json
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry.autoscoper_trial import SUFFIX, read_autoscoper_trial
from SOPIRegistrationLib.geometry.calibrations import FORMATS, camera_names, read_calibration
from SOPIRegistrationLib.geometry.presets import PRESETS
from SOPIRegistrationLib.geometry.values import (
    CALIBRATION_KEYS,
    SHARED_KEYS,
    VIEW_KEYS,
    Values,
    array_of,
    positive,
    values_from_entry,
)

# Pictures and volumes that lie beside calibrations are not read as text.
_LARGEST_CALIBRATION = 1_000_000
_UTF_16 = codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE
_FORMS = (
    '{"sdd_mm", "pixel_spacing_mm": [row, column], "principal_point_px", "sod_mm", "view"}, {"K": 3x3} or '
    '{"cameras": [{"name", "K", "R", "t", "width", "height"}]}'
)


def read_entry(path: Path, image_shape: tuple[int, int] | None, tags: Values) -> tuple[dict, str]:
    """The entry of a geometry JSON that a file or folder holds, and where it came from.

    Args:
        path: a JSON, a calibration, or a folder or Autoscoper's trial with one for each camera.
        image_shape: (rows, columns) of the image, for calibrations that do not tell it.
        tags: values of the image's DICOM tags, likewise.

    Raises:
        InputError: it cannot be read, or is of no known format.
    """
    if path.is_dir():
        return _read_folder(path, image_shape, tags)
    if path.suffix.lower() == SUFFIX:
        return _read_trial(path, image_shape, tags)
    text = _read_text(path)
    given = _given(image_shape, tags)
    found = read_calibration(text, path, given)
    if found is not None:
        return _filled(found[0], given), found[1]
    entry = _json_object(text, path)
    return (entry, str(path)) if "calibration" not in entry else _beside_calibration(entry, path, given)


def _beside_calibration(entry: dict, path: Path, given: dict) -> tuple[dict, str]:
    """As :func:`read_entry`, of a JSON that names a calibration and tells what that lacks."""
    name = entry.pop("calibration")
    if not isinstance(name, str):
        raise InputError(f"{path}: 'calibration' must be the name of a file")
    given = given | _own(entry, path)
    calibration = path.parent / name
    found = read_calibration(_read_text(calibration), calibration, given)
    if found is None:
        raise InputError(f"{path}: its calibration {calibration} is of no known format ({_format_names()})")
    read, origin = found
    alone = {key: entry.pop(key) for key in [*entry] if key in VIEW_KEYS | CALIBRATION_KEYS}
    for key in ("K", "principal_point_px"):
        if key in alone:
            raise InputError(f"{path}: {key} stands in {calibration}: leave it out")
    beside = {key: value for key, value in alone.items() if key in VIEW_KEYS}
    for camera in read.get("cameras", [read]):
        camera |= beside
    return _filled(read, given) | entry, f"{path}, {origin}"


def _read_folder(folder: Path, image_shape, tags: Values) -> tuple[dict, str]:
    """The cameras whose calibrations a folder holds, in the order of their names; and where from."""
    found = {}
    for path in sorted(file for file in folder.iterdir() if file.is_file()):
        try:
            if path.stat().st_size > _LARGEST_CALIBRATION:
                continue
            text = path.read_text(encoding="utf-8")
        except (OSError, ValueError):
            continue
        found[path] = text
    return _one_each(found, _given(image_shape, tags), f"geometry folder {folder}")


def _read_trial(path: Path, image_shape, tags: Values) -> tuple[dict, str]:
    """The cameras of an Autoscoper trial, in its order; and where from."""
    texts = {file: _read_text(file) for file in read_autoscoper_trial(path).cameras}
    entry, origin = _one_each(texts, _given(image_shape, tags), f"trial {path}")
    if len(entry["cameras"]) < len(texts):
        files = ", ".join(file.name for file in texts)
        raise InputError(f"trial {path}: not every one of {files} is a camera's calibration")
    return entry, origin


def _one_each(texts: dict[Path, str], given: dict, what: str) -> tuple[dict, str]:
    """The cameras of those texts that are the calibration of one; named by what tells their files apart."""
    found, assumed = {}, set()
    for path, text in texts.items():
        calibration = read_calibration(text, path, given)
        if calibration is not None and len(calibration[0].get("cameras", ())) == 1:
            found[path.stem] = _filled(calibration[0], given)["cameras"][0]
            assumed.add(calibration[1].removeprefix(str(path)).strip(" ()"))
    if not found:
        raise InputError(f"{what} holds no camera's calibration ({_format_names()})")
    names = camera_names([*found]) if len(found) > 1 else [*found]
    cameras = [camera | {"name": name} for name, camera in zip(names, found.values(), strict=True)]
    return {"cameras": cameras}, f"{what} ({'; '.join(sorted(assumed))})"


def _given(image_shape, tags: Values) -> dict:
    """What the image tells of a calibration that lacks it."""
    given: dict[str, Any] = {}
    if image_shape is not None:
        given["height"], given["width"] = image_shape
    spacing = tags.get("pixel_spacing_mm", (None,))[0]
    if spacing is not None and not isinstance(spacing, InputError):
        given["pixel_spacing_mm"] = spacing
    return given


def _own(entry: dict, origin) -> dict:
    """What a JSON tells of the calibration it names."""
    values = values_from_entry(entry, origin, VIEW_KEYS | SHARED_KEYS | CALIBRATION_KEYS)
    given = {}
    for key, shape in (("width", ()), ("height", ()), ("pixel_spacing_mm", (2,))):
        if key in values:
            given[key] = positive(values, key, shape)
    if "projection_origin_mm" in values:
        given["projection_origin_mm"] = array_of(values, "projection_origin_mm", (2,))
    return given


def _filled(entry: dict, given: dict) -> dict:
    """An entry of several cameras with the image's size where it tells none."""
    cameras = entry.get("cameras", ())
    if len(cameras) > 1:
        size = {key: given[key] for key in ("width", "height") if key in given}
        return entry | {"cameras": [size | camera for camera in cameras]}
    return entry


def _read_text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise InputError(
            f"geometry file {path} does not exist, nor is it a preset ({preset_names()})"
        ) from None
    except OSError as error:
        raise InputError(f"geometry file {path} cannot be read: {error.strerror or error}") from None
    encodings = ("utf-16",) if content.startswith(_UTF_16) else ("utf-8-sig", "cp1252")
    for encoding in encodings if b"\0" not in content or encodings == ("utf-16",) else ():
        with contextlib.suppress(UnicodeDecodeError):
            return content.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")
    raise InputError(f"geometry file {path} is not text: use {_FORMS} or {_format_names()}")


def _json_object(text: str, path: Path) -> dict:
    try:
        entry = json.loads(text, object_pairs_hook=partial(_without_doubles, path))
    except RecursionError:
        raise InputError(f"geometry file {path} is nested too deeply: use {_FORMS}") from None
    except json.JSONDecodeError as error:
        if text.lstrip().startswith(("{", "[", "//", "#")):
            raise InputError(
                f"geometry file {path} is not JSON, line {error.lineno}: {error.msg} (comments, and commas "
                "after the last value, are no part of JSON)"
            ) from None
        raise InputError(
            f"geometry file {path} is not JSON, nor of another known format ({_format_names()}): use {_FORMS}"
        ) from None
    if not isinstance(entry, dict):
        raise InputError(f"geometry file {path} is not a JSON object: use {_FORMS}")
    return entry


def _without_doubles(path: Path, pairs: list[tuple[str, Any]]) -> dict:
    entry = dict(pairs)
    if len(entry) < len(pairs):
        name = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise InputError(f"geometry file {path} has '{name}' twice: leave one")
    return entry


def _format_names() -> str:
    return ", ".join(known.title for known in FORMATS.values())


def preset_names() -> str:
    """Names of the presets, for messages."""
    return ", ".join(preset.name for preset in PRESETS.values())
