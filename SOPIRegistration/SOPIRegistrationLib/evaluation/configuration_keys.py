"""The keys of a configuration, and what each may hold (``Docs/evaluation.md`` tells what they mean)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from SOPIRegistrationLib.evaluation.case_list import COLUMNS
from SOPIRegistrationLib.evaluation.cases import TruthDeviation
from SOPIRegistrationLib.evaluation.methods import METHODS
from SOPIRegistrationLib.evaluation.protocols import PROTOCOLS, START_PROTOCOLS
from SOPIRegistrationLib.evaluation.simulated import CONTENTS, LUMBAR, STRANGERS, STREAMS
from SOPIRegistrationLib.evaluation.tables import SECTIONS
from SOPIRegistrationLib.evaluation.targets import TARGETS
from SOPIRegistrationLib.geometry.tolerances import SourceTolerances
from SOPIRegistrationLib.geometry.views import NOMINAL_VIEWS
from SOPIRegistrationLib.simulation.regions import REGIONS

LEAST_PIXELS = 32


@dataclass(frozen=True)
class Kind:
    """What a key may hold."""

    said: str
    is_one: Callable[[Any], bool]


def is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_whole(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_names(value) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, str) and one for one in value)


def _whole(least: int) -> Kind:
    return Kind(f"a whole number, {least} or more", lambda value: _is_whole(value) and value >= least)


def _one_of(names) -> Kind:
    return Kind(f"one of {', '.join(name or repr(name) for name in names)}", lambda value: value in names)


def _table_of(keys: Mapping[str, Kind]) -> Kind:
    return Kind(f"a table of {', '.join(keys)}", lambda value: isinstance(value, dict))


_TEXT = Kind("text", lambda value: isinstance(value, str) and bool(value))
_FLAG = Kind("true or false", lambda value: isinstance(value, bool))
_LENGTH = Kind("a number above 0", lambda value: is_number(value) and value > 0)
_SPREAD = Kind("a number, 0 or above", lambda value: is_number(value) and value >= 0)
_NAMES = Kind("a list of names", _is_names)
_TABLE = Kind("a table", lambda value: isinstance(value, dict))
_TABLES = Kind(
    "tables in double brackets",
    lambda value: isinstance(value, list) and bool(value) and all(isinstance(one, dict) for one in value),
)

STARTS = {
    "number": _whole(1),
    "protocol": _one_of(START_PROTOCOLS),
    "angle_deg": _LENGTH,
    "shift_mm": _LENGTH,
}
OF_GEOMETRY = dict.fromkeys((one.name for one in fields(SourceTolerances)), _SPREAD)
DETECTOR = {"sdd_mm": _LENGTH, "sod_mm": _LENGTH, "size_mm": _LENGTH}
VARIANT = {
    "method": _one_of(METHODS),
    "init": _TEXT,
    "refine": _TEXT,
    "weights": _TABLE,
    "mirrored": _one_of(("auto", "yes", "no")),
    "expected": _one_of(("nominal view", "start")),
    "summary": _TEXT,
}
PIPELINE = ("method", "init", "refine", "mirrored", "expected")
XRAY = dict.fromkeys(COLUMNS, _TEXT)
SIMULATED = {
    "protocol": _one_of(PROTOCOLS),
    "target": _one_of(TARGETS),
    "ct": _NAMES,
    "labels": _FLAG,
    "phantoms": _whole(1),
    "content": _one_of(CONTENTS),
    "view": _one_of(NOMINAL_VIEWS),
    "pixels": _whole(LEAST_PIXELS),
    "detector": _table_of(DETECTOR),
    "cases_a_patient": _whole(1),
    "scan_height_mm": _LENGTH,
    "streams": _one_of(STREAMS),
    "stranger": _one_of(STRANGERS),
    "region": _one_of((LUMBAR, *REGIONS)),
    "bone": _whole(1),
    "bone_mm": _LENGTH,
    "views": _whole(1),
    "told_view": _one_of(NOMINAL_VIEWS),
    "ct_scale_percent": _LENGTH,
    "geometry_error": _table_of(OF_GEOMETRY),
    "geometry_tolerance": _table_of(OF_GEOMETRY),
}
BENT = {
    "chain": Kind(
        "a list of two labels or more",
        lambda value: isinstance(value, list) and len(value) > 1 and all(map(_is_whole, value)),
    ),
    "label_maps": _NAMES,
    "turn_deg": _SPREAD,
    "shift_mm": _SPREAD,
    "start_along_mm": Kind("a number", is_number),
    "looks_at": _whole(1),
}
# Of simulated cases only these go with bent ones.
OF_BENT = ("ct", "labels", "views", "pixels", "detector")
OF_TRUTH = dict.fromkeys((one.name for one in fields(TruthDeviation)), _SPREAD)
LISTED = {
    "cases_file": _TEXT,
    "xrays": _TABLES,
    "starts": _table_of(STARTS),
    "truth_deviation": _table_of(OF_TRUTH),
}
GROUP = {
    "name": _TEXT,
    "methods": _NAMES,
    "cases": _whole(1),
    "first": _whole(0),
    "seed": _whole(0),
    "within": _TABLE,
    "bent": _table_of(BENT),
    **SIMULATED,
    **LISTED,
}
TOP = {
    **{key: kind for key, kind in GROUP.items() if key != "name"},
    "title": _TEXT,
    "timeout_s": _LENGTH,
    "workers": _whole(1),
    "baseline_pixels": _whole(LEAST_PIXELS),
    "fresh": _FLAG,
    "tables": Kind(
        f"a list of {', '.join(SECTIONS)}", lambda value: _is_names(value) and set(value) <= set(SECTIONS)
    ),
    "weights": _TABLE,
    "variants": _TABLE,
    "groups": _TABLES,
}
