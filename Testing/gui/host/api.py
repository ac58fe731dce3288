"""What the running application was seen to offer, and the question whether a name belongs to it."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

FIXTURE = Path(__file__).resolve().parents[1] / "slicer_5_12_api.json"
# Attributes that PythonQt adds to every wrapped object.
_DECORATIONS = {"connect", "disconnect", "delete", "className", "inherits", "name", "self"}


@cache
def observed() -> dict:
    return json.loads(FIXTURE.read_text(encoding="utf-8"))


@cache
def class_names(qualified: str) -> frozenset[str]:
    """Every name an object of a class (such as "qt.QLabel") was seen to have."""
    entry = observed()[qualified]
    names = set(entry["attributes"]) | set(entry["properties"]) | _DECORATIONS
    for kind in ("signals", "slots", "slots_and_methods"):
        names |= {signature.partition("(")[0] for signature in entry.get(kind, ())}
    if qualified not in ("qt.QWidget", "qt.QTimer", "qt.QSettings"):
        names |= class_names("qt.QWidget")
    return frozenset(names)


def has_class(qualified: str) -> bool:
    return "properties" in observed().get(qualified, {})


@cache
def properties(qualified: str) -> frozenset[str]:
    entry = observed()[qualified]
    inherited = observed()["qt.QWidget"]["properties"] if not qualified.endswith("QTimer") else {}
    return frozenset(entry["properties"]) | frozenset(inherited)


@cache
def signals(qualified: str) -> frozenset[str]:
    """Signatures, such as "clicked(bool)"."""
    return frozenset(observed()[qualified]["signals"]) | frozenset(observed()["qt.QWidget"]["signals"])


@cache
def object_names(label: str) -> frozenset[str]:
    """Names of a singleton such as "slicer.app"."""
    return frozenset(observed()[label]["attributes"]) | _DECORATIONS
