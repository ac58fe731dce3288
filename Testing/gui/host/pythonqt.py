"""Qt widgets with the manners of PythonQt: properties are attributes, signals are connected by signature.

Each class derives from PySide6's and is shaped by what the application was seen to offer: its properties
become attributes, and the module under test can reach nothing that was not seen.
"""

from __future__ import annotations

import inspect
import sys
from functools import wraps
from types import BuiltinMethodType

import numpy as np
from PySide6 import QtCore

from . import api

MODULE_UNDER_TEST = "SOPIRegistration"
# Called by Qt itself as virtual functions, which an attribute of the same name would hide.
_VIRTUAL = {"sizeHint", "minimumSizeHint"}


class _Manners:
    """What every host class defines; PySide6 would hide inherited names behind its own."""

    @property
    def name(self) -> str:
        return QtCore.QObject.objectName(self)

    @name.setter
    def name(self, value: str):
        QtCore.QObject.setObjectName(self, value)

    def connect(self, signature: str, receiver) -> None:
        """Call ``receiver`` with as many of the signal's arguments as it takes."""
        self._connections().append((signature, receiver, slot := _adapted(receiver, signature)))
        self._signal(signature).connect(slot)

    def disconnect(self, signature: str, receiver=None) -> None:
        for entry in [*self._connections()]:
            if entry[0] == signature and receiver in (None, entry[1]):
                self._signal(signature).disconnect(entry[2])
                self._connections().remove(entry)

    def className(self) -> str:
        return type(self).api_name.rpartition(".")[2]

    def _connections(self) -> list:
        return self.__dict__.setdefault("_connected", [])

    def _signal(self, signature: str):
        if signature not in api.signals(type(self).api_name):
            raise ValueError(f"{type(self).api_name} of Slicer 5.12 has no signal '{signature}'")
        return getattr(self, signature.partition("(")[0])


def _adapted(receiver, signature: str):
    arguments = signature.partition("(")[2].rstrip(")")
    offered = taken = len(arguments.split(",")) if arguments else 0
    # Of other callables PythonQt does not know how many arguments they take: they get all.
    if inspect.isfunction(receiver) or inspect.ismethod(receiver):
        parameters = inspect.signature(receiver).parameters.values()
        if not any(p.kind is p.VAR_POSITIONAL for p in parameters):
            taken = sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)
    count = min(offered, taken)
    # PySide6 chooses the overload of a signal by the number of parameters.
    slots = (
        lambda: receiver(),
        lambda a: receiver(*(a,)[:count]),
        lambda a, b: receiver(*(a, b)[:count]),
    )
    return slots[offered]


class _Property:
    """An attribute of objects; where the class has a function of that name (QTimer.singleShot), that too."""

    def __init__(self, getter, setter, of_class=None):
        self._getter, self._setter, self._of_class = getter, setter, of_class

    def __get__(self, instance, owner=None):
        if instance is None:
            return self._of_class or self
        return self._getter(instance)

    def __set__(self, instance, value):
        if self._setter is None:
            raise AttributeError("can't set attribute")
        if is_foreign(value):
            raise ValueError(f"a property does not accept an object of type {type(value)}")
        self._setter(instance, value)


def is_foreign(value) -> bool:
    """Whether PythonQt may not take a value: it is NumPy's, and none of Python's as well."""
    return isinstance(value, np.generic) and not isinstance(value, (float, str))


def _strict(method):
    """A method of a widget that refuses what PythonQt would."""

    @wraps(method)
    def call(*args, **kwargs):
        foreign = [type(value) for value in args if is_foreign(value)]
        if foreign:
            raise ValueError(f"Could not find matching overload of {method.__name__} for {foreign[0]}")
        if kwargs:
            raise TypeError(f"{method.__name__}() takes no keyword arguments")
        return method(*args)

    return call


def host_class(qualified: str, base: type) -> type:
    """The host's class of an observed one ("qt.QLabel") on a PySide6 (or host) base."""
    namespace = {
        name: value for name, value in vars(_Manners).items() if name not in ("__dict__", "__weakref__")
    }
    namespace |= {"api_name": qualified, "__doc__": base.__doc__, **_guards(qualified, base)}
    for prop in api.properties(qualified) - _VIRTUAL:
        existing = inspect.getattr_static(base, prop, None)
        if isinstance(existing, property) or prop == "name":
            continue
        capital = prop[0].upper() + prop[1:]
        getter = next(
            (g for n in (prop, "is" + capital, "has" + capital) if callable(g := getattr(base, n, None))),
            None,
        )
        if getter is None or isinstance(existing, QtCore.Signal):
            continue
        static = getattr(base, prop) if prop == "singleShot" else None
        namespace[prop] = _Property(getter, getattr(base, "set" + capital, None), static)
    return type(qualified.rpartition(".")[2], (base,), namespace)


def _guards(qualified: str, base: type) -> dict:
    """Attribute access that shows the module under test nothing that Slicer was not seen to have."""

    def tested(frame, name) -> bool:
        # Qt itself looks for overridden virtual functions while the module waits for it: not written there.
        written = name in frame.f_code.co_names
        return written and frame.f_globals.get("__name__", "").startswith(MODULE_UNDER_TEST)

    def __getattribute__(self, name):
        if name[0] == "_" or not tested(sys._getframe(1), name):
            return base.__getattribute__(self, name)
        if name not in api.class_names(qualified):
            raise AttributeError(f"{qualified} of Slicer 5.12 has no '{name}'")
        found = base.__getattribute__(self, name)
        return _strict(found) if isinstance(found, BuiltinMethodType) else found

    def __setattr__(self, name, value):
        if name not in api.properties(qualified) and name != "name" and tested(sys._getframe(1), name):
            raise AttributeError(f"{qualified} of Slicer 5.12 has no property '{name}'")
        base.__setattr__(self, name, value)

    return {"__getattribute__": __getattribute__, "__setattr__": __setattr__}
