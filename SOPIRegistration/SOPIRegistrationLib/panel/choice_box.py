"""A combo box of labels that keeps the names they stand for in a parameter node."""

from __future__ import annotations

from collections.abc import Mapping


class ChoiceBox:
    """Shows a parameter of names by their labels, and writes what somebody chooses.

    Args:
        combo: the widget.
        names: name by label, in the order in which they are offered.
        parameter: attribute of the parameter node.
    """

    def __init__(self, combo, names: Mapping[str, str], parameter: str):
        self._combo, self._names, self._parameter = combo, list(names.values()), parameter
        self._parameters = None
        blocked = combo.blockSignals(True)
        combo.clear()
        for label in names:
            combo.addItem(label)
        combo.blockSignals(blocked)
        combo.connect("currentIndexChanged(int)", self._on_index)

    def show(self, parameters) -> None:
        """Show what a wrapped parameter node says, and write to it from now on; None for to none.

        A name that is not offered here (of a network that is not installed) is shown as no choice.
        """
        self._parameters = parameters
        if parameters is None:
            return
        name = getattr(parameters, self._parameter)
        index = self._names.index(name) if name in self._names else -1
        if self._combo.currentIndex != index:
            blocked = self._combo.blockSignals(True)
            self._combo.setCurrentIndex(index)
            self._combo.blockSignals(blocked)

    def _on_index(self, index: int) -> None:
        if self._parameters is None or index < 0:
            return
        if getattr(self._parameters, self._parameter) != self._names[index]:
            setattr(self._parameters, self._parameter, self._names[index])
