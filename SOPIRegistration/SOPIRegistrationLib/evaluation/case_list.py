"""Lists of cases: the rows of a CSV file, and the cases that they name."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry.presets import PRESETS
from SOPIRegistrationLib.images.itk_reading import require_file

_REQUIRED = ("ct", "xray", "geometry")
_OPTIONAL = ("truth", "start", "mask", "camera", "case", "truth_key")
COLUMNS = _REQUIRED + _OPTIONAL
_FILES = ("ct", "xray", "truth", "start", "mask")

# Where each row stands in its file, and its cells by column.
Rows = Sequence[tuple[str, dict]]


@dataclass(frozen=True)
class ListedView:
    """One X-ray of a list: where it stands there, its file and whose geometry it has."""

    place: str
    xray: Path
    geometry: str | None = None
    camera: str | None = None


@dataclass(frozen=True)
class ListedCase:
    """One case, of one X-ray or several; files as given, relative ones to the list's folder.

    Attributes:
        name: for people.
        ct: the CT.
        views: its X-rays.
        truth: file of the true pose: a result.json or a transform.
        start: file of the start pose, likewise.
        mask: label map of the bones.
        truth_key: of a JSON file of another layout, what its (4, 4) T_lps_to_world (mm) is called there.
    """

    name: str
    ct: Path
    views: tuple[ListedView, ...]
    truth: Path | None = None
    start: Path | None = None
    mask: Path | None = None
    truth_key: str | None = None


def read_rows(path: Path) -> Rows:
    """The rows of a CSV file with a header line.

    Columns: ct, xray, geometry (JSON file or C-arm preset; empty for the X-ray's DICOM tags); optionally
    truth and start (a result.json or a transform file), mask (label map of the bones), camera (name in the
    geometry), case (X-rays with the same one are registered jointly: the geometry has a camera for each, ct
    and mask are the same, truth and start those of the first line that has them). Empty cells of optional
    columns stand for nothing; relative paths start at the CSV file's folder. With truth_key, truth is a JSON
    file that holds T_lps_to_world (4x4, mm) under that name.

    Raises:
        InputError: no such file, or another layout.
    """
    require_file(path, "cases file")
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            header = [(name or "").strip().lower() for name in reader.fieldnames or ()]
            reader.fieldnames = header
            lines = [(reader.line_num, row) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cases file {path} is no CSV text ({error}): give one as UTF-8") from None
    columns = f"needs the columns {', '.join(_REQUIRED)} and may have {', '.join(_OPTIONAL)}"
    missing = [name for name in _REQUIRED if name not in header]
    unknown = [name for name in header if name not in _REQUIRED + _OPTIONAL]
    if missing or unknown:
        wrong = f"has no column {missing[0]}" if missing else f"has a column '{unknown[0]}'"
        raise InputError(f"cases file {path} {wrong}: it {columns}")
    if not lines:
        raise InputError(f"cases file {path} lists no case: add a line for each X-ray")
    return [(f"line {number}", row) for number, row in lines]


def cases_of_rows(path: Path, rows: Rows) -> tuple[ListedCase, ...]:
    """Cases of rows (:func:`read_rows`) of a file, at whose folder relative paths start.

    Raises:
        InputError: a row names no CT or X-ray, or a missing file.
    """
    cases: dict[str, ListedCase] = {}
    for place, row in rows:
        name, case = _case_of_row(path, place, row)
        cases[name] = _joined(cases[name], case, path) if name in cases else case
    return tuple(cases.values())


def _case_of_row(path: Path, place: str, row: dict) -> tuple[str, ListedCase]:
    """A row as a case of its own, and what it is joined with others by."""
    where = f"cases file {path} {place}"
    if None in row:
        raise InputError(f"{where} has more cells than the header: put values with a comma in quotes")
    cells = {name: (value or "").strip() for name, value in row.items()}
    for name in ("ct", "xray"):
        if not cells.get(name):
            raise InputError(f"{where} has no {name}: fill in that cell")
    named_files = {name: cells[name] for name in _FILES if cells.get(name)}
    files = {name: _existing(path.parent / text, name, where) for name, text in named_files.items()}
    geometry = cells.get("geometry") or None
    if geometry is not None and (path.parent / geometry).exists():
        geometry = str(path.parent / geometry)
    elif geometry is not None and geometry.lower() not in PRESETS:
        raise InputError(
            f"{where}: geometry {path.parent / geometry} does not exist, nor is it a preset: correct that "
            "cell"
        )
    view = ListedView(place, files.pop("xray"), geometry, cells.get("camera") or None)
    named = cells.get("case", "")
    key = cells.get("truth_key") or None
    case = ListedCase(named or view.xray.name, views=(view,), truth_key=key, **files)
    return (f"case {named}" if named else place), case


def _existing(file: Path, what: str, where: str) -> Path:
    if not file.exists():
        raise InputError(f"{where}: {what} {file} does not exist: correct that cell")
    return file


def _joined(case: ListedCase, further: ListedCase, path: Path) -> ListedCase:
    """A case with one more X-ray."""
    for name in ("ct", "mask"):
        if getattr(further, name) != getattr(case, name):
            raise InputError(
                f"cases file {path} {further.views[0].place}: case {case.name} has another {name} than "
                "on its line before: give X-rays of one case the same"
            )
    return replace(
        case,
        views=case.views + further.views,
        truth=case.truth or further.truth,
        truth_key=case.truth_key or further.truth_key,
        start=case.start or further.start,
    )
