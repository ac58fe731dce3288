"""Stand-in for ``slicer.parameterNodeWrapper``: typed attributes kept in a vtkMRMLScriptedModuleNode.

It knows the types this module uses: float, int, bool, str (with Choice) and node classes, alone or in a
Union with None. As the real one: values are kept from the node's last ModifiedEvent on,
``connectGui`` returns nothing: only what ``connectParametersToGui`` connected can be disconnected; and
writing a Union's node modifies the parameter node even where it stays the same.
"""

from __future__ import annotations

import typing
from dataclasses import dataclass
from types import ModuleType

import slicer
import vtk


@dataclass
class Choice:
    choices: list


@dataclass
class WithinRange:
    minimum: float
    maximum: float


@dataclass
class Default:
    value: object


_KEPT: list = []


def parameterNodeWrapper(cls):
    """Give every annotated name of a class a property that lives in a parameter node."""
    hints = typing.get_type_hints(cls, include_extras=True)
    parameters = {name: _Parameter(name, hint, getattr(cls, name, None)) for name, hint in hints.items()}
    for name, parameter in parameters.items():
        setattr(cls, name, property(parameter.read, parameter.write))
    cls.allParameters = parameters
    for method in (
        *(__init__, connectGui, connectParametersToGui, disconnectGui),
        *(AddObserver, RemoveObserver, StartModify, EndModify),
    ):
        setattr(cls, method.__name__, method)
    return cls


class _Parameter:
    def __init__(self, name, hint, default):
        self.name = name
        arguments = typing.get_args(hint)
        annotated = hasattr(hint, "__metadata__")
        self.type = arguments[0] if annotated else hint
        notes = hint.__metadata__ if annotated else ()
        self.choice = next((n.choices for n in notes if isinstance(n, Choice)), None)
        self.range = next((n for n in notes if isinstance(n, WithinRange)), None)
        self.is_union = typing.get_origin(self.type) is typing.Union
        kinds = typing.get_args(self.type) if self.is_union else (self.type,)
        self.nodes = [k for k in kinds if isinstance(k, type) and issubclass(k, slicer.vtkMRMLNode)]
        if not self.nodes and self.type not in (float, int, bool, str):
            raise TypeError(f"parameter {name}: the test host does not know {hint}")
        noted = next((n.value for n in notes if isinstance(n, Default)), None)
        self.default = noted if noted is not None else default
        if self.default is None and not self.nodes:
            self.default = self.choice[0] if self.choice else self.type()

    def is_in(self, node):
        return node.HasParameter(self.name)

    def read(self, wrapper):
        return wrapper._values[self.name]

    def stored(self, node):
        """What a node holds; one that was reset, as in a scene that is closed, is given the default."""
        if not self.is_in(node):
            self._put(node, self.default)
        if self.nodes:
            return node.GetNodeReference(self.name)
        text = node.GetParameter(self.name)
        return text == "True" if self.type is bool else self.type(text)

    def write(self, wrapper, value):
        node = wrapper.parameterNode
        with slicer.util.NodeModify(node):
            self._put(node, value)
            wrapper._values[self.name] = self.stored(node)

    def _put(self, node, value):
        if self.nodes:
            if value is not None and not isinstance(value, tuple(self.nodes)):
                raise TypeError(f"parameter {self.name} cannot hold a {type(value).__name__}")
            node.SetParameter(self.name, "")
            if self.is_union:
                node.RemoveNodeReferenceIDs(self.name)
                node.Modified()
            node.SetNodeReferenceID(self.name, value.GetID() if value is not None else None)
            return
        accepted = (int, float) if self.type is float else self.type
        if not isinstance(value, accepted):
            raise TypeError(f"parameter {self.name} must be {self.type.__name__}, not {value!r}")
        if self.choice is not None and value not in self.choice:
            raise ValueError(f"parameter {self.name} must be one of {self.choice}, not {value!r}")
        if self.range is not None and not self.range.minimum <= value <= self.range.maximum:
            raise ValueError(f"parameter {self.name} = {value} is outside its range")
        node.SetParameter(self.name, str(value))


def __init__(self, parameterNode):
    self.parameterNode = parameterNode
    self._guis, self._updating, self._values = {}, False, {}
    for parameter in self.allParameters.values():
        self._values[parameter.name] = parameter.stored(parameterNode)
    self.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: _read_all(self))
    # Python's collector would take a node that only its own observers refer to for garbage, and them with it,
    # while the scene still has it.
    _KEPT.append(self)


def _read_all(self):
    for parameter in self.allParameters.values():
        self._values[parameter.name] = parameter.stored(self.parameterNode)


def connectGui(self, gui):
    """Bind every widget with a SlicerParameterName, for good."""
    names = {widget.property("SlicerParameterName"): widget for widget in vars(gui).values()}
    self.connectParametersToGui({name: widget for name, widget in names.items() if name})


def connectParametersToGui(self, mapping):
    """Bind widgets by the names of parameters; returns a tag for disconnectGui."""
    bound = [_Binding(self, self.allParameters[name], widget) for name, widget in mapping.items()]
    tag = len(self._guis)
    self._guis[tag] = bound
    self.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: _update(self, self._guis.get(tag, ())))
    _update(self, bound)
    for binding in bound:
        binding.listen()
    return tag


def disconnectGui(self, tag):
    # The real wrapper leaves its observer on the node as well, with nothing left to update.
    for binding in self._guis.pop(tag, ()):
        binding.deafen()


def _update(self, bound):
    if self._updating:
        return
    self._updating = True
    try:
        for binding in bound:
            binding.show()
    finally:
        self._updating = False


def AddObserver(self, event, callback, priority=0.0):
    return self.parameterNode.AddObserver(event, callback, priority)


def RemoveObserver(self, tag):
    self.parameterNode.RemoveObserver(tag)


def StartModify(self):
    return self.parameterNode.StartModify()


def EndModify(self, was):
    return self.parameterNode.EndModify(was)


class _Binding:
    """One widget showing one parameter."""

    _SIGNALS: typing.ClassVar = {
        "qt.QCheckBox": ("toggled(bool)", "checked"),
        "qt.QSpinBox": ("valueChanged(int)", "value"),
        "qt.QDoubleSpinBox": ("valueChanged(double)", "value"),
        "ctk.ctkSliderWidget": ("valueChanged(double)", "value"),
        "qt.QComboBox": ("currentIndexChanged(int)", "currentText"),
        "slicer.qMRMLNodeComboBox": ("currentNodeChanged(vtkMRMLNode*)", None),
    }

    def __init__(self, wrapper, parameter, widget):
        self.wrapper, self.parameter, self.widget = wrapper, parameter, widget
        self.signal, self.attribute = self._SIGNALS[type(widget).api_name]
        if parameter.choice is not None:
            widget.clear()
            for choice in parameter.choice:
                widget.addItem(choice)
        if parameter.range is not None:
            widget.minimum, widget.maximum = parameter.range.minimum, parameter.range.maximum
        if parameter.nodes:
            widget.nodeTypes = [node().GetClassName() for node in parameter.nodes]

    def listen(self):
        self.widget.connect(self.signal, self.take)

    def deafen(self):
        self.widget.disconnect(self.signal, self.take)

    def show(self):
        value = self.parameter.read(self.wrapper)
        if self.attribute is None:
            self.widget.setCurrentNode(value)
        elif self.parameter.choice is not None:
            self.widget.setCurrentIndex(self.parameter.choice.index(value))
        else:
            setattr(self.widget, self.attribute, value)

    def take(self):
        if self.wrapper._updating:
            return
        shown = self.widget.currentNode() if self.attribute is None else getattr(self.widget, self.attribute)
        self.parameter.write(self.wrapper, shown)


def as_module() -> ModuleType:
    module = ModuleType("slicer.parameterNodeWrapper")
    for item in (parameterNodeWrapper, Choice, WithinRange, Default):
        setattr(module, item.__name__, item)
    return module
