"""Loading of .ui files whose custom widgets are the host's."""

from __future__ import annotations

from xml.etree import ElementTree

from PySide6 import QtCore, QtUiTools

from . import api

_VALUES = {
    "string": lambda e: e.text or "",
    "bool": lambda e: e.text == "true",
    "double": lambda e: float(e.text),
    "number": lambda e: int(e.text),
    "stringlist": lambda e: [item.text or "" for item in e],
}
# Handled by QUiLoader for every widget.
_OF_ANY_WIDGET = {"geometry", "toolTip", "enabled", "visible", "sizePolicy", "minimumSize", "maximumSize"}


class UiLoader(QtUiTools.QUiLoader):
    """QUiLoader that creates host widgets, sets their properties and makes the connections of the file."""

    def __init__(self, classes: dict[str, type]):
        super().__init__()
        self._classes = classes
        self._made = {}

    def createWidget(self, class_name, parent=None, name=""):
        if class_name not in self._classes:
            raise ValueError(f"the .ui file uses {class_name}, which the test host lacks")
        widget = self._classes[class_name](parent)
        QtCore.QObject.setObjectName(widget, name)
        self._made[name] = widget
        return widget

    def load(self, qfile):
        tree = ElementTree.parse(qfile.fileName()).getroot()
        connections = tree.find("connections")
        wiring = [] if connections is None else [*connections]
        if connections is not None:
            tree.remove(connections)
        settings = [*self._taken_properties(tree)]
        buffer = QtCore.QBuffer()
        buffer.setData(ElementTree.tostring(tree))
        buffer.open(QtCore.QIODevice.OpenModeFlag.ReadOnly)
        widget = super().load(buffer)
        for name, prop, value in settings:
            setattr(self._made[name], prop, value)
        for entry in wiring:
            sender, signal, receiver, slot = (
                entry.find(tag).text for tag in ("sender", "signal", "receiver", "slot")
            )
            self._connect(self._made[sender], signal, self._made[receiver], slot)
        return widget

    def _taken_properties(self, tree):
        """Properties that Qt does not know, taken out of the tree: (object name, property, value)."""
        for element in tree.iter("widget"):
            qualified = self._classes[element.get("class")].api_name
            for prop in element.findall("property"):
                name = prop.get("name")
                if prop.get("stdset") == "0":
                    continue
                if name not in api.properties(qualified):
                    raise ValueError(
                        f"{qualified} of Slicer 5.12 has no property '{name}' ({element.get('name')})"
                    )
                if qualified.startswith("qt.") or name in _OF_ANY_WIDGET:
                    continue
                element.remove(prop)
                value = prop[0]
                yield element.get("name"), name, _VALUES[value.tag](value)

    @staticmethod
    def _connect(sender, signal: str, receiver, slot: str):
        name = slot.partition("(")[0]
        if name not in api.class_names(type(receiver).api_name):
            raise ValueError(f"{type(receiver).api_name} of Slicer 5.12 has no slot '{slot}'")
        sender.connect(signal, getattr(receiver, name))
