"""What the running application was seen to offer, and the question whether a name belongs to it."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from functools import cache, wraps
from pathlib import Path

FIXTURE = Path(__file__).resolve().parents[1] / "slicer_5_12_api.json"
# Attributes that PythonQt adds to every wrapped object.
_DECORATIONS = {"connect", "disconnect", "delete", "className", "inherits", "name", "self"}
# Of an observation such as "(key, converter=<function <lambda> at 0x7f>)": what is no Python.
_OBJECT = re.compile(r"<[^,)]*>")


@cache
def observed() -> dict:
    return json.loads(FIXTURE.read_text(encoding="utf-8"))


@cache
def class_names(qualified: str) -> frozenset[str]:
    """Every name an object of a class (such as "qt.QLabel") was seen to have."""
    entry = observed()[qualified]
    names = set(entry["attributes"]) | set(entry.get("properties", ())) | _DECORATIONS
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
    return frozenset(entry.get("properties", ())) | frozenset(inherited)


@cache
def signals(qualified: str) -> frozenset[str]:
    """Signatures, such as "clicked(bool)"."""
    own = observed()[qualified].get("signals", ())
    return frozenset(own) | frozenset(observed()["qt.QWidget"]["signals"])


@cache
def object_names(label: str) -> frozenset[str]:
    """Names of a singleton such as "slicer.app"."""
    return frozenset(observed()[label]["attributes"]) | _DECORATIONS


@cache
def signature(owner: str, name: str) -> inspect.Signature:
    """How a function of a module or class written in Python ("slicer.util", "errorDisplay") is called.

    Without ``self`` and annotations.

    Raises:
        AttributeError: the application was not seen to have it.
    """
    if name not in observed()[owner]:
        raise AttributeError(f"{owner} of Slicer 5.12 has no '{name}'")
    text = _OBJECT.sub("None", observed()[owner][name].replace("(self, ", "(").replace("(self)", "()"))
    scope: dict = {}
    exec(f"from __future__ import annotations\ndef f{text}: pass", scope)
    parameters = inspect.signature(scope["f"]).parameters.values()
    return inspect.Signature([one.replace(annotation=inspect.Parameter.empty) for one in parameters])


def fake(owner: str, name: str, body: Callable) -> Callable:
    """A stand-in that can be called as the application's own function can, and no other way.

    Args:
        owner: module or class of the function.
        name: the function.
        body: called with the bound arguments by name, those not given at the observed defaults; it takes
            those that it names.
    """
    how = signature(owner, name)
    taken = inspect.signature(body).parameters.values()
    names = {one.name for one in taken}
    everything = any(one.kind is one.VAR_KEYWORD for one in taken)

    @wraps(body)
    def call(*args, **kwargs):
        bound = how.bind(*args, **kwargs)
        bound.apply_defaults()
        return body(**{key: value for key, value in bound.arguments.items() if everything or key in names})

    call.__signature__ = how
    call.__name__ = name
    return call
