"""What a source file asks of the application's objects, read without running it.

Types are followed from where they are known (``slicer.*``, ``qt.*``, ``vtk.*``, the widgets of the .ui file,
typed parameters of the parameter node, names this project gives to nodes) through assignments, loops and what
methods return: of the application's objects as observed, of VTK's and MRML's classes by the signatures in
their own documentation. Where a type is not known the name alone is looked for.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import slicer
import vtk
from PySide6 import QtCore, QtGui, QtWidgets

from . import api

# What calls on observed objects give back; reflection tells names alone.
_GIVES = {
    ("slicer.app", "layoutManager"): "slicer.app.layoutManager()",
    ("slicer.app.layoutManager()", "sliceWidget"): "layoutManager().sliceWidget('Red')",
    ("slicer.app.layoutManager()", "threeDWidget"): "slicer.qMRMLThreeDWidget",
    ("slicer.app.layoutManager()", "layoutLogic"): "vtkMRMLLayoutLogic",
    ("layoutManager().sliceWidget('Red')", "sliceView"): "layoutManager().sliceWidget('Red').sliceView()",
    ("layoutManager().sliceWidget('Red')", "mrmlSliceNode"): "vtkMRMLSliceNode",
    ("layoutManager().sliceWidget('Red')", "sliceLogic"): "vtkMRMLSliceLogic",
    ("layoutManager().sliceWidget('Red').sliceView()", "interactor"): "vtkRenderWindowInteractor",
    ("layoutManager().sliceWidget('Red').sliceView()", "renderWindow"): "vtkRenderWindow",
    ("slicer.qMRMLThreeDWidget", "threeDView"): "threeDWidget(0).threeDView()",
    ("threeDWidget(0).threeDView()", "renderWindow"): "vtkRenderWindow",
    ("threeDWidget(0).threeDView()", "cameraNode"): "vtkMRMLCameraNode",
    ("qt.QTableWidget", "horizontalHeader"): "qt.QHeaderView",
    ("qt.QTableWidget", "verticalHeader"): "qt.QHeaderView",
    ("slicer.qMRMLPlotWidget", "plotView"): "slicer.qMRMLPlotView",
    ("slicer.qMRMLNodeComboBox", "currentNode"): "vtkMRMLNode",
}
# Names that this project gives to one kind of thing everywhere.
_NAMED = {
    "scene": "vtkMRMLScene",
    "_scene": "vtkMRMLScene",
    "layoutNode": "vtkMRMLLayoutNode",
    "sliceNode": "vtkMRMLSliceNode",
    "modelNode": "vtkMRMLModelNode",
    "segmentationNode": "vtkMRMLSegmentationNode",
    "transformNode": "vtkMRMLTransformNode",
    "volumeNode": "vtkMRMLVolumeNode",
    "xrayNode": "vtkMRMLVolumeNode",
    "ctNode": "vtkMRMLVolumeNode",
    "drrNode": "vtkMRMLScalarVolumeNode",
    "markupsNode": "vtkMRMLMarkupsNode",
    "layout_manager": "slicer.app.layoutManager()",
    "_layout_manager": "slicer.app.layoutManager()",
    "transform": "vtkMRMLTransformNode",
}
# What functions of this project give back that have no annotation, for objects that Python has no type of.
_MADE_BY = {
    "timer": "qt.QTimer",
    "slice_node": "vtkMRMLSliceNode",
    "track_of": "vtkMRMLSequenceNode",
    "browser_of_tracks": "vtkMRMLSequenceBrowserNode",
    "vtk_matrix": "vtkMatrix4x4",
}
_MODULES = ("slicer", "qt", "ctk", "vtk")
# Not among the names that were observed (vtkMRML*, vtkSlicer*), but so in Slicer's script repository.
_DOCUMENTED = frozenset({"vtkOrientedImageData", "vtkSegmentation", "vtkSegmentationConverter"})
_SIGNATURE = r"^{}\((.*?)\)\s*(?:->\s*([\w.]+|\()|$|\nC\+\+)"


def vtk_class(name: str) -> type | None:
    """A class of MRML or VTK by its name."""
    found = getattr(slicer, name, None) or getattr(vtk, name, None)
    return found if isinstance(found, type) else None


@cache
def _every_class() -> tuple[type, ...]:
    every = [*vars(slicer).values(), *vars(vtk).values()]
    return tuple({one for one in every if isinstance(one, type) and one.__name__.startswith("vtk")})


def _plain_qt_class(name: str) -> type | None:
    """A class of Qt that was not observed, such as that of a table's items; none has properties."""
    if api.has_class(name) or not name.startswith("qt."):
        return None
    short = name.removeprefix("qt.")
    return next((getattr(one, short) for one in (QtWidgets, QtGui, QtCore) if hasattr(one, short)), None)


@cache
def _with_subclasses(cls: type) -> tuple[type, ...]:
    return tuple(one for one in _every_class() if issubclass(one, cls))


@cache
def signatures(cls: type, method: str) -> tuple[tuple[int, int, str | None], ...]:
    """(least, most arguments, class given back) of each overload; none where nothing is written of it."""
    text = getattr(cls, method).__doc__ or ""
    found = []
    for match in re.finditer(_SIGNATURE.format(method), text, re.DOTALL | re.MULTILINE):
        inside = re.sub(r"[\[(][^\[\]()]*[\])]", "sequence", match[1])
        arguments = [one.strip() for one in inside.split(",") if one.strip()]
        arguments = [one for one in arguments if one != "self"]
        needed = [one for one in arguments if "=" not in one]
        found.append((len(needed), len(arguments), match[2]))
    return tuple(found)


@dataclass(frozen=True)
class Thing:
    """What an expression is: of a class of VTK (or one derived from it), or as observed.

    Attributes:
        name: "vtkMRMLScene", "qt.QTimer", "slicer.app".
    """

    name: str

    @property
    def classes(self) -> tuple[type, ...]:
        """It may be of each of these classes; none of what was observed."""
        cls = vtk_class(self.name)
        return () if cls is None else _with_subclasses(cls)

    def has(self, attribute: str) -> bool:
        """Whether there is such an attribute."""
        if self.classes:
            return any(hasattr(one, attribute) for one in self.classes)
        if (plain := _plain_qt_class(self.name)) is not None:
            return hasattr(plain, attribute)
        return attribute in (
            api.class_names(self.name) if api.has_class(self.name) else api.object_names(self.name)
        )

    def is_property(self, attribute: str) -> bool:
        """Whether PythonQt gives it as a value."""
        return api.has_class(self.name) and attribute in api.properties(self.name)

    def takes(self, method: str, count: int) -> bool:
        """Whether a method can be called with so many arguments, as far as it is known."""
        overloads = [one for cls in self.classes if hasattr(cls, method) for one in signatures(cls, method)]
        if not self.classes and api.has_class(self.name):
            slots = [one.removesuffix(")").partition("(") for one in api.observed()[self.name]["slots"]]
            counts = {len(args.split(",")) if args else 0 for name, _, args in slots if name == method}
            return not counts or count in counts
        return not overloads or any(least <= count <= most for least, most, _ in overloads)

    def gives(self, method: str) -> frozenset[Thing]:
        """What a call of a method gives back, as far as it is known."""
        known = _GIVES.get((self.name, method))
        if known is not None:
            return frozenset({Thing(known)})
        cls = vtk_class(self.name)
        owner = cls if hasattr(cls, method) else next((c for c in self.classes if hasattr(c, method)), None)
        if owner is None:
            return frozenset()
        given = {back for _, _, back in signatures(owner, method) if back and vtk_class(back)}
        return frozenset(Thing(one) for one in given)


@dataclass
class Asked:
    """One attribute asked for.

    Attributes:
        line: of the file.
        text: of the expression.
        name: of the attribute.
        things: what it is asked of; none where that is not known.
        how: "call", "value" (read, or handed on) or "set".
        count: of arguments of a call; None where it cannot be told.
        first: the first argument where it is a text.
        is_handed_on: whether the value is an argument, or kept, so that somebody else may call it.
    """

    line: int
    text: str
    name: str
    things: frozenset[Thing]
    how: str
    count: int | None = None
    first: str | None = None
    is_handed_on: bool = False


@dataclass
class Source:
    """A source file, read.

    Attributes:
        path: of the file.
        widgets: class of every widget in the .ui file by its name.
        parameters: classes of the parameter node's nodes by the parameter's name.
    """

    path: Path
    widgets: dict[str, str]
    parameters: dict[str, tuple[str, ...]]
    _modules: frozenset[str] = frozenset()
    _attributes: dict[str, frozenset[Thing]] = field(default_factory=dict)
    _names: dict = field(default_factory=dict)

    def asked(self) -> Iterator[Asked]:
        """Every attribute that is asked for, of whatever it may be."""
        tree = ast.parse(self.path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            for child in ast.iter_child_nodes(node):
                child.parent = node
        self._modules = frozenset(_imported(tree))
        # Attributes of objects first: they are used before, and elsewhere than, they are written.
        for _ in range(2):
            for scope in self._scopes(tree):
                self._names_in(scope)
        for scope in self._scopes(tree):
            names = self._names_in(scope)
            for node in _own_nodes(scope):
                if isinstance(node, ast.Attribute) and ast.unparse(node).split(".")[0] not in self._modules:
                    yield self._ask(node, names)

    def _scopes(self, tree) -> list:
        kinds = ast.FunctionDef, ast.Lambda
        return [tree, *(node for node in ast.walk(tree) if isinstance(node, kinds))]

    def _ask(self, node: ast.Attribute, names: dict) -> Asked:
        things, text = self._of(node.value, names), ast.unparse(node)
        if isinstance(node.ctx, ast.Store):
            return Asked(node.lineno, text, node.attr, things, "set")
        parent = node.parent
        if isinstance(parent, ast.Call) and parent.func is node:
            starred = any(isinstance(one, ast.Starred) for one in parent.args)
            count = None if starred else len(parent.args) + len(parent.keywords)
            first = parent.args[0] if parent.args else None
            first = first.value if isinstance(first, ast.Constant) else None
            return Asked(node.lineno, text, node.attr, things, "call", count, first)
        handed = ast.Call, ast.keyword, ast.Tuple, ast.List, ast.Assign, ast.Lambda, ast.Return, ast.Dict
        return Asked(
            node.lineno,
            text,
            node.attr,
            things,
            "value",
            is_handed_on=isinstance(parent, (*handed, ast.IfExp)),
        )

    def _names_in(self, scope) -> dict[str, frozenset[Thing]]:
        """What the names of a function are, with those around it."""
        around = getattr(scope, "parent", None)
        while around is not None and not isinstance(around, ast.FunctionDef | ast.Lambda):
            around = getattr(around, "parent", None)
        names = dict(self._names.get(around) or self._names_in(around)) if around is not None else {}
        for node in _own_nodes(scope):
            if isinstance(node, ast.arg) and node.arg in names:
                del names[node.arg]
        for node in _own_nodes(scope):
            self._learn(node, names)
        self._names[scope] = names
        return names

    def _learn(self, node, names: dict) -> None:
        if isinstance(node, ast.Assign):
            for target in node.targets:
                self._bind(target, node.value, names)
        elif isinstance(node, ast.NamedExpr):
            self._bind(node.target, node.value, names)
        elif isinstance(node, ast.For | ast.comprehension) and isinstance(node.iter, ast.Tuple | ast.List):
            for one in node.iter.elts:
                self._bind(node.target, one, names)
        elif isinstance(node, ast.withitem) and node.optional_vars is not None:
            self._bind(node.optional_vars, node.context_expr, names)

    def _bind(self, target, value, names: dict) -> None:
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            if len(target.elts) == len(value.elts):
                for one, other in zip(target.elts, value.elts, strict=True):
                    self._bind(one, other, names)
            return
        things = self._of(value, names)
        if not things:
            return
        if isinstance(target, ast.Name):
            names[target.id] = names.get(target.id, frozenset()) | things
        elif isinstance(target, ast.Attribute) and _is_self(target.value):
            known = self._attributes.get(target.attr, frozenset())
            self._attributes[target.attr] = known | things

    def _of(self, node, names: dict) -> frozenset[Thing]:
        """What an expression is; nothing where that is not known."""
        if isinstance(node, ast.Name):
            return names.get(node.id) or _named(node.id)
        if isinstance(node, ast.Attribute):
            return self._of_attribute(node, names)
        if isinstance(node, ast.Call):
            return self._of_call(node, names)
        parts = ()
        if isinstance(node, ast.IfExp):
            parts = node.body, node.orelse
        elif isinstance(node, ast.BoolOp):
            parts = node.values
        elif isinstance(node, ast.NamedExpr):
            parts = (node.value,)
        return frozenset().union(*(self._of(part, names) for part in parts))

    def _of_attribute(self, node: ast.Attribute, names: dict) -> frozenset[Thing]:
        owner = node.value
        if isinstance(owner, ast.Name) and owner.id == "slicer" and node.attr == "app":
            return frozenset({Thing("slicer.app")})
        if isinstance(owner, ast.Name) and owner.id == "slicer" and node.attr == "mrmlScene":
            return frozenset({Thing("vtkMRMLScene")})
        if _is_ui(owner) and node.attr in self.widgets:
            return frozenset({Thing(self.widgets[node.attr])})
        if _is_parameters(owner) and node.attr in self.parameters:
            return frozenset(Thing(one) for one in self.parameters[node.attr])
        if _is_self(owner) and node.attr in self._attributes:
            return self._attributes[node.attr]
        return _named(node.attr)

    def _of_call(self, node: ast.Call, names: dict) -> frozenset[Thing]:
        called = node.func
        if isinstance(called, ast.Name):
            return frozenset({Thing(_MADE_BY[called.id])}) if called.id in _MADE_BY else frozenset()
        if not isinstance(called, ast.Attribute):
            return frozenset()
        owner = called.value
        if isinstance(owner, ast.Name) and owner.id in ("qt", "ctk"):
            label = f"{owner.id}.{called.attr}"
            known = api.has_class(label) or _plain_qt_class(label) is not None
            return frozenset({Thing(label)}) if known else frozenset()
        if isinstance(owner, ast.Name) and owner.id in ("slicer", "vtk"):
            if api.has_class(f"slicer.{called.attr}"):
                return frozenset({Thing(f"slicer.{called.attr}")})
            return frozenset({Thing(called.attr)}) if vtk_class(called.attr) else frozenset()
        if called.attr in ("AddNewNodeByClass", "CreateNodeByClass") and isinstance(
            node.args[0], ast.Constant
        ):
            return frozenset({Thing(node.args[0].value)})
        if isinstance(owner, ast.Attribute) and ast.unparse(owner).startswith("slicer.vtk"):
            return Thing(owner.attr).gives(called.attr)
        return frozenset().union(*(one.gives(called.attr) for one in self._of(owner, names)))


def faults(source: Source, own: Iterable[str]) -> Iterator[str]:
    """What would fail in the application, a line each.

    Args:
        source: read.
        own: names that the project's own classes and functions have.
    """
    own = frozenset(own)
    for one in source.asked():
        where = f"{source.path.name}:{one.line}: {one.text}"
        if one.text.partition(".")[0] in _MODULES and re.fullmatch(r"[\w.]+", one.text) and not one.things:
            if not _is_in_module(one.text):
                yield f"{where}: the application has no such name"
        elif one.things:
            yield from (f"{where}: {fault}" for fault in _faults_of(one))
        elif (fault := _fault_by_name(one, own)) is not None:
            yield f"{where}: {fault}"


def _faults_of(one: Asked) -> Iterator[str]:
    names = ", ".join(sorted(thing.name for thing in one.things))
    having = [thing for thing in one.things if thing.has(one.name)]
    is_value = any(thing.is_property(one.name) for thing in having)
    if not having:
        yield f"{names} has no '{one.name}'"
    elif one.how == "call":
        if is_value:
            yield f"'{one.name}' of {names} is a value, not a function"
        if one.count is not None and not any(thing.takes(one.name, one.count) for thing in having):
            yield f"'{one.name}' of {names} does not take {one.count} arguments"
        yield from _unknown_signals(one, having)
    elif is_value or any(thing.classes for thing in having):
        return
    elif one.how == "set" and one.name != "name":
        yield f"'{one.name}' of {names} cannot be set"
    elif one.how == "value" and not one.is_handed_on and _is_method(having, one.name):
        yield f"'{one.name}' of {names} is a function: it is not called"


def _unknown_signals(one: Asked, having: Iterable[Thing]) -> Iterator[str]:
    if one.name in ("connect", "disconnect") and one.first is not None:
        for name in (thing.name for thing in having if api.has_class(thing.name)):
            if one.first not in api.signals(name):
                yield f"{name} has no signal '{one.first}'"


@cache
def _is_in_module(text: str) -> bool:
    """Whether "slicer.util.name", "qt.Class.name", "vtk.Class.name" is there; Qt's enums are not nested."""
    root, first, *rest = text.split(".")
    if root == "slicer":
        top = {*api.observed()["slicer (top level)"], *api.observed()["slicer vtk classes"], *_DOCUMENTED}
        if first not in top:
            return False
        label = f"slicer.{first}"
        if label in api.observed() and rest:
            entry = api.observed()[label]
            names = entry["attributes"] if isinstance(entry, dict) and "attributes" in entry else entry
            # The application keeps the panel of each scripted module there.
            return rest[0] in names or (first == "modules" and rest[0].endswith("Widget"))
    if root in ("slicer", "vtk"):
        cls = vtk_class(first)
        if cls is None:
            return root == "slicer" or hasattr(vtk, first)
        return all(hasattr(cls, name) for name in rest)
    label = f"{root}.{first}"
    if api.has_class(label):
        return not rest or (len(rest) == 1 and rest[0] in api.class_names(label))
    plain = _plain_qt_class(label)
    return plain is not None and (not rest or (len(rest) == 1 and hasattr(plain, rest[0])))


def _is_method(things, name: str) -> bool:
    return any(api.has_class(thing.name) for thing in things) and name[0].islower()


@cache
def _names_of_vtk() -> frozenset[str]:
    return frozenset().union(*(dir(cls) for cls in _every_class()))


@cache
def _names_observed() -> frozenset[str]:
    found = set()
    for label, entry in api.observed().items():
        if api.has_class(label):
            found |= api.class_names(label)
        elif isinstance(entry, dict) and "attributes" in entry:
            found |= api.object_names(label)
        else:
            found |= set(entry)
    return frozenset(found)


def _fault_by_name(one: Asked, own: frozenset[str]) -> str | None:
    """Of something that is not known: VTK's names begin with a capital, Qt's have one inside."""
    if one.name in own or not re.search("[a-z][A-Z]", one.name):
        return None
    if one.name[0].isupper():
        if one.name not in _names_of_vtk():
            return "no class of VTK or MRML has such a name"
        counts = [s for cls in _every_class() if hasattr(cls, one.name) for s in signatures(cls, one.name)]
        wrong = one.how == "call" and one.count is not None and counts
        if wrong and not any(least <= one.count <= most for least, most, _ in counts):
            return f"no class of VTK or MRML takes {one.count} arguments"
        return None
    return None if one.name in _names_observed() else "no object of the application was seen to have it"


def widgets_in(ui: Path) -> dict[str, str]:
    """Class of every widget of a .ui file by its name, as observed ("qt.QLabel")."""
    owners = {"Q": "qt", "c": "ctk", "q": "slicer"}
    found = {element.get("name"): element.get("class") for element in ElementTree.parse(ui).iter("widget")}
    return {name: f"{owners[kind[0]]}.{kind}" for name, kind in found.items()}


def parameters_in(module: Path) -> dict[str, tuple[str, ...]]:
    """Classes of nodes by the name of the parameter, of the parameter node wrapped in a module's file."""
    tree = ast.parse(module.read_text(encoding="utf-8"))
    found = {}
    for wrapped in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        for one in (node for node in wrapped.body if isinstance(node, ast.AnnAssign)):
            named = [node.id for node in ast.walk(one.annotation) if isinstance(node, ast.Name)]
            if nodes := tuple(name for name in named if name.startswith("vtkMRML")):
                found[one.target.id] = nodes
    return found


def names_defined(paths: Iterable[Path]) -> set[str]:
    """Names of functions, classes, arguments and attributes that files define."""
    found = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.add(node.name)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                found.add(node.target.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and _is_self(node.value):
                found.add(node.attr)
    return found


def _own_nodes(scope) -> Iterator[ast.AST]:
    """Nodes of a function in their order, without those of functions inside it."""
    inside = ast.FunctionDef, ast.Lambda
    waiting = [*ast.iter_child_nodes(scope)]
    while waiting:
        node = waiting.pop(0)
        yield node
        if not isinstance(node, inside):
            waiting[:0] = ast.iter_child_nodes(node)


def _imported(tree) -> Iterator[str]:
    """Names of modules and of what comes from them, those of the application left out."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {(one.asname or one.name).partition(".")[0] for one in node.names}
            yield from names - set(_MODULES)


def _named(name: str) -> frozenset[Thing]:
    return frozenset({Thing(_NAMED[name])}) if name in _NAMED else frozenset()


def _is_self(node) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"


def _is_ui(node) -> bool:
    return _ends_in(node, ("ui", "_ui"))


def _is_parameters(node) -> bool:
    return _ends_in(node, ("p", "parameters", "_parameters"))


def _ends_in(node, names: tuple[str, ...]) -> bool:
    return (isinstance(node, ast.Name) and node.id in names) or (
        isinstance(node, ast.Attribute) and node.attr in names
    )
