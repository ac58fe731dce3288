"""Headers of NRRD and MetaImage as they are written: ITK makes up what is missing in them, and says nothing.

Fields and their meaning: the NRRD format's definition (teem.sourceforge.net/nrrd/format.html) and MetaIO's
(itk.org/Wiki/ITK/MetaIO/Documentation).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from SOPIRegistrationLib.errors import InputError

NRRD, META = "NrrdImageIO", "MetaImageIO"
_LONGEST = 65536
_UNITS_MM = {
    "": 1.0,
    "mm": 1.0,
    "millimeter": 1.0,
    "millimeters": 1.0,
    "millimetre": 1.0,
    "cm": 10.0,
    "centimeter": 10.0,
    "m": 1000.0,
    "meter": 1000.0,
    "um": 1e-3,
    "\u00b5m": 1e-3,
    "\u03bcm": 1e-3,
    "micron": 1e-3,
    "microns": 1e-3,
    "micrometer": 1e-3,
}


def read_text_header(path: Path, kind: str) -> dict[str, str] | None:
    """Fields by their names in small letters; None for other kinds of files.

    Args:
        path: the file, of NRRD the .nhdr where that stands alone.
        kind: ITK's name of its reader.
    """
    if kind not in (NRRD, META):
        return None
    with path.open("rb") as stream:
        content = stream.read(_LONGEST).decode("utf-8", errors="replace")
    fields = {}
    for line in content.split("\n"):
        line = line.rstrip("\r")
        separator = "=" if kind == META else ":"
        if kind == NRRD and not line:
            break
        name, found, value = line.partition(separator)
        if found and not line.startswith("#"):
            fields[name.strip().lower()] = value.lstrip("=").strip()
        if kind == META and name.strip().lower() == "elementdatafile":
            break
    return fields


def has_directions(fields: Mapping[str, str]) -> bool:
    """Whether a header says how its axes lie in the patient."""
    if "space directions" in fields:
        # "scanner-xyz" and "3D-right-handed" do not say where the patient's left is.
        return fields.get("space", "").lower().startswith(("left", "right", "lps", "las", "ras"))
    return any(name in fields for name in ("transformmatrix", "rotation", "orientation"))


def has_origin(fields: Mapping[str, str]) -> bool:
    """Whether a header says where its first voxel lies."""
    return any(name in fields for name in ("space origin", "axis mins", "offset", "position", "origin"))


def has_segments(fields: Mapping[str, str]) -> bool:
    """Whether a header names segments, as Slicer's segmentations do."""
    return any(name.startswith("segment") and name.endswith("_id") for name in fields)


def require_voxel_size(fields: Mapping[str, str], path: Path, what: str) -> None:
    """Raise InputError unless a header tells how large its voxels are."""
    given = [
        fields[name]
        for name in ("space directions", "spacings", "elementspacing", "elementsize")
        if name in fields
    ]
    if not given or "nan" in given[0].lower():
        raise InputError(
            f"{what} {path} does not say how large its voxels are: add 'space directions' (NRRD) or "
            "ElementSpacing (MetaImage) to its header, or convert it again from the DICOM files"
        )


def unit_mm(fields: Mapping[str, str], path: Path, what: str) -> float:
    """How many mm the unit of a header's lengths is; mm where it tells none.

    Raises:
        InputError: an unknown unit, or several.
    """
    written = fields.get("space units") or fields.get("units") or ""
    units = {word.strip().lower() for word in written.split('"') if word.strip()} or {""}
    known = {_UNITS_MM.get(unit) for unit in units}
    if len(known) > 1 or None in known:
        raise InputError(f'{what} {path} has lengths in {written}: write them in mm, with units "mm"')
    return known.pop()
