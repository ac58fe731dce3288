"""The ctk and qMRML widgets the panel uses, in as many lines as its tests need."""

from __future__ import annotations

import slicer
from PySide6 import QtCore, QtGui, QtWidgets


class CollapsibleButton(QtWidgets.QWidget):
    """ctkCollapsibleButton: a header that shows or hides its contents."""

    clicked = QtCore.Signal(bool)
    toggled = QtCore.Signal(bool)
    contentsCollapsed = QtCore.Signal(bool)
    _HEADER = 24

    def __init__(self, parent=None):
        QtWidgets.QWidget.__init__(self, parent)
        self._text, self._collapsed = "", False
        self._header = QtWidgets.QToolButton(self)
        self._header.setToolButtonStyle(QtCore.Qt.ToolButtonTextBesideIcon)
        self._header.setAutoRaise(True)
        self._header.clicked.connect(lambda: self._collapse(not self._collapsed))
        QtWidgets.QWidget.setContentsMargins(self, 0, self._HEADER, 0, 0)
        self._update_header()

    def resizeEvent(self, event):
        self._header.setGeometry(0, 0, QtWidgets.QWidget.width(self), self._HEADER)

    def paintEvent(self, event):
        painter = QtGui.QPainter(self)
        painter.fillRect(0, 0, QtWidgets.QWidget.width(self), self._HEADER - 2, QtGui.QColor(0, 0, 0, 18))

    text = property(lambda self: self._text, lambda self, value: self._set_text(value))
    collapsed = property(lambda self: self._collapsed, lambda self, value: self._collapse(value))
    checked = property(lambda self: not self._collapsed, lambda self, value: self._collapse(not value))

    def setText(self, text):
        self._set_text(text)

    def setChecked(self, checked):
        self._collapse(not checked)

    def _set_text(self, text):
        self._text = text
        self._update_header()

    def _collapse(self, collapsed):
        if collapsed == self._collapsed:
            return
        self._collapsed = collapsed
        for child in QtCore.QObject.children(self):
            if isinstance(child, QtWidgets.QWidget) and child is not self._header:
                QtWidgets.QWidget.setVisible(child, not collapsed)
        QtWidgets.QWidget.setMaximumHeight(self, self._HEADER if collapsed else 16777215)
        self._update_header()
        self.contentsCollapsed.emit(collapsed)
        self.toggled.emit(not collapsed)

    def _update_header(self):
        self._header.setArrowType(QtCore.Qt.RightArrow if self._collapsed else QtCore.Qt.DownArrow)
        self._header.setText(self._text)
        font = self._header.font()
        font.setBold(True)
        self._header.setFont(font)


class SliderWidget(QtWidgets.QWidget):
    """ctkSliderWidget: a slider and a spin box of one value."""

    valueChanged = QtCore.Signal(float)
    valueIsChanging = QtCore.Signal(float)

    def __init__(self, parent=None):
        QtWidgets.QWidget.__init__(self, parent)
        self._spin = QtWidgets.QDoubleSpinBox()
        self._slider = QtWidgets.QSlider(QtCore.Qt.Horizontal)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._slider, 1)
        layout.addWidget(self._spin)
        self._spin.setMaximum(100.0)
        self._range()
        self._spin.valueChanged.connect(self._spin_changed)
        self._slider.valueChanged.connect(lambda ticks: self._spin.setValue(ticks * self._spin.singleStep()))

    def _range(self):
        step = self._spin.singleStep()
        self._slider.blockSignals(True)
        self._slider.setRange(round(self._spin.minimum() / step), round(self._spin.maximum() / step))
        self._slider.blockSignals(False)

    def _spin_changed(self, value):
        self._slider.blockSignals(True)
        self._slider.setValue(round(value / self._spin.singleStep()))
        self._slider.blockSignals(False)
        self.valueChanged.emit(value)

    def _set(self, name, value):
        getattr(self._spin, "set" + name)(value)
        self._range()

    value = property(lambda self: self._spin.value(), lambda self, v: self._spin.setValue(v))
    minimum = property(lambda self: self._spin.minimum(), lambda self, v: self._set("Minimum", v))
    maximum = property(lambda self: self._spin.maximum(), lambda self, v: self._set("Maximum", v))
    singleStep = property(lambda self: self._spin.singleStep(), lambda self, v: self._set("SingleStep", v))
    decimals = property(lambda self: self._spin.decimals(), lambda self, v: self._set("Decimals", v))
    suffix = property(lambda self: self._spin.suffix(), lambda self, v: self._spin.setSuffix(v))
    pageStep = property(lambda self: self._slider.pageStep(), lambda self, v: None)
    tracking = property(lambda self: True, lambda self, v: None)

    def setValue(self, value):
        self._spin.setValue(value)


class ColorPickerButton(QtWidgets.QPushButton):
    """ctkColorPickerButton: shows a colour; a click asks for another one, which nobody answers here."""

    colorChanged = QtCore.Signal(QtGui.QColor)
    colorNameChanged = QtCore.Signal(str)

    def __init__(self, parent=None):
        QtWidgets.QPushButton.__init__(self, parent)
        self._color, self.displayColorName = QtGui.QColor("black"), True

    def paintEvent(self, event):
        QtWidgets.QPushButton.paintEvent(self, event)
        QtGui.QPainter(self).fillRect(QtWidgets.QWidget.rect(self).adjusted(8, 6, -8, -6), self._color)

    def setColor(self, color):
        if color == self._color:
            return
        self._color = color
        QtWidgets.QWidget.update(self)
        self.colorChanged.emit(color)
        self.colorNameChanged.emit(color.name())

    color = property(lambda self: self._color, setColor)
    colorName = property(
        lambda self: self._color.name(), lambda self, name: self.setColor(QtGui.QColor(name))
    )


class _RangeBar(QtWidgets.QWidget):
    """The part of a range that lies between two spin boxes, drawn."""

    def __init__(self, low, high):
        QtWidgets.QWidget.__init__(self)
        self._low, self._high = low, high

    def paintEvent(self, event):
        rect = QtWidgets.QWidget.rect(self).adjusted(0, 0, -1, -1)
        middle = rect.center().y()
        span = max(self._high.maximum() - self._low.minimum(), 1e-9)
        ends = [rect.width() * (box.value() - self._low.minimum()) / span for box in (self._low, self._high)]
        painter = QtGui.QPainter(self)
        painter.fillRect(0, middle - 2, rect.width(), 4, QtGui.QColor(190, 190, 190))
        painter.fillRect(int(ends[0]), middle - 2, int(ends[1] - ends[0]), 4, QtGui.QColor(61, 142, 201))
        for end in ends:
            painter.fillRect(min(int(end), rect.width() - 6), middle - 8, 6, 16, QtGui.QColor(230, 230, 230))
            painter.drawRect(min(int(end), rect.width() - 6), middle - 8, 6, 16)


class RangeWidget(QtWidgets.QWidget):
    """ctkRangeWidget: two spin boxes with what lies between."""

    valuesChanged = QtCore.Signal(float, float)

    def __init__(self, parent=None):
        QtWidgets.QWidget.__init__(self, parent)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._low, self._high = QtWidgets.QDoubleSpinBox(), QtWidgets.QDoubleSpinBox()
        layout.addWidget(self._low)
        layout.addWidget(_RangeBar(self._low, self._high), 1)
        layout.addWidget(self._high)
        for spin in (self._low, self._high):
            spin.valueChanged.connect(
                lambda _: self.valuesChanged.emit(self._low.value(), self._high.value())
            )

    def _both(self, name, value):
        for spin in (self._low, self._high):
            getattr(spin, name)(value)

    minimum = property(lambda self: self._low.minimum(), lambda self, v: self._both("setMinimum", v))
    maximum = property(lambda self: self._low.maximum(), lambda self, v: self._both("setMaximum", v))
    singleStep = property(lambda self: self._low.singleStep(), lambda self, v: self._both("setSingleStep", v))
    decimals = property(lambda self: self._low.decimals(), lambda self, v: self._both("setDecimals", v))
    minimumValue = property(lambda self: self._low.value(), lambda self, v: self._low.setValue(v))
    maximumValue = property(lambda self: self._high.value(), lambda self, v: self._high.setValue(v))

    def setRange(self, low, high):
        self.minimum, self.maximum = low, high

    def setValues(self, low, high):
        blocked = QtCore.QObject.blockSignals(self, True)
        self._low.setValue(low)
        QtCore.QObject.blockSignals(self, blocked)
        self._high.setValue(high)


class Widget(QtWidgets.QWidget):
    """qMRMLWidget: hands the scene on to the MRML widgets in it."""

    mrmlSceneChanged = QtCore.Signal(object)

    def __init__(self, parent=None):
        QtWidgets.QWidget.__init__(self, parent)
        self._scene = None

    def setMRMLScene(self, scene):
        self._scene = scene
        self.mrmlSceneChanged.emit(scene)

    def mrmlScene(self):
        return self._scene


class NodeComboBox(QtWidgets.QWidget):
    """qMRMLNodeComboBox: the nodes of some classes in a scene, following what happens to them."""

    currentNodeChanged = QtCore.Signal(object)
    currentNodeIDChanged = QtCore.Signal(str)
    nodeAddedByUser = QtCore.Signal(object)

    def __init__(self, parent=None):
        QtWidgets.QWidget.__init__(self, parent)
        self._box = QtWidgets.QComboBox()
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._box)
        self._scene, self._current, self._observers, self._items = None, None, [], None
        self.nodeTypes, self.noneDisplay, self.baseName = [], "None", ""
        self.noneEnabled = self.addEnabled = self.removeEnabled = self.renameEnabled = False
        self.sizeAdjustPolicy = 0
        self.editEnabled = self.showHidden = self.showChildNodeTypes = self.selectNodeUponCreation = False
        self._box.activated.connect(lambda index: self.setCurrentNodeID(self._box.itemData(index)))

    def setMRMLScene(self, scene):
        for tag in self._observers:
            self._scene.RemoveObserver(tag)
        self._scene, self._observers = scene, []
        if scene is not None:
            self._observers.append(scene.AddObserver(scene.NodeAddedEvent, lambda *_: self._fill()))
            for event in (scene.NodeRemovedEvent, scene.EndCloseEvent, scene.EndImportEvent):
                self._observers.append(scene.AddObserver(event, lambda *_: self._fill()))
        self._fill()

    def _fill(self):
        nodes = self._nodes()
        items = [(node.GetName(), node.GetID()) for node in nodes]
        if self.noneEnabled or not nodes:
            items.insert(0, (self.noneDisplay if self.noneEnabled else "Select a volume", None))
        # Asked whenever any node comes or goes, and most are of other classes.
        if items != self._items:
            self._items = items
            self._box.clear()
            for name, node_id in items:
                self._box.addItem(name, node_id)
        if self._current is not None and self._current not in nodes:
            self._change(None)
        self._show()

    def _nodes(self):
        if self._scene is None:
            return []
        found = [node for kind in self.nodeTypes for node in slicer.util.getNodesByClass(kind, self._scene)]
        if not self.showChildNodeTypes:
            found = [node for node in found if node.GetClassName() in self.nodeTypes]
        return [node for node in found if self.showHidden or not node.GetHideFromEditors()]

    def _show(self):
        index = self._box.findData(self._current.GetID()) if self._current is not None else -1
        self._box.setCurrentIndex(max(index, 0) if index >= 0 or self.noneEnabled else index)

    def _change(self, node):
        if node is self._current:
            return
        self._current = node
        self._show()
        self.currentNodeChanged.emit(node)
        self.currentNodeIDChanged.emit(node.GetID() if node is not None else "")

    def setCurrentNode(self, node):
        self._change(node if node is None or node in self._nodes() else None)

    def setCurrentNodeID(self, node_id):
        self.setCurrentNode(self._scene.GetNodeByID(node_id) if node_id else None)

    def currentNode(self):
        return self._current

    currentNodeID = property(lambda self: self._current.GetID() if self._current else "", setCurrentNodeID)

    def addNode(self):
        node = self._scene.AddNewNodeByClass(self.nodeTypes[0], self.baseName)
        self._fill()
        self.nodeAddedByUser.emit(node)
        self.setCurrentNode(node)
        return node

    def nodeCount(self):
        return len(self._nodes())

    def nodeFromIndex(self, index):
        return self._nodes()[index]


class MarkupsPlaceWidget(QtWidgets.QWidget):
    """qSlicerMarkupsPlaceWidget: a button that starts placing points of a markups node."""

    activeMarkupsPlaceModeChanged = QtCore.Signal(bool)

    def __init__(self, parent=None):
        QtWidgets.QWidget.__init__(self, parent)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        button = QtWidgets.QToolButton()
        button.setText("+")
        layout.addWidget(button)
        layout.addStretch(1)
        self._node, self._placing = None, False
        self.buttonsVisible = self.deleteAllControlPointsOptionVisible = True
        self.placeModePersistency = False
        self.placeMultipleMarkups = 0

    def setMRMLScene(self, scene):
        self._scene = scene

    def setCurrentNode(self, node):
        self._node = node

    def currentNode(self):
        return self._node

    def setPlaceModeEnabled(self, enabled):
        self._placing = bool(enabled)
        self.activeMarkupsPlaceModeChanged.emit(self._placing)

    placeModeEnabled = property(lambda self: self._placing, setPlaceModeEnabled)


class SliceWidget(QtWidgets.QWidget):
    """qMRMLSliceWidget: a slice view with its logic."""

    def __init__(self, slice_node, logic, view):
        QtWidgets.QWidget.__init__(self)
        self._node, self._logic, self._view = slice_node, logic, view

    def sliceLogic(self):
        return self._logic

    def mrmlSliceNode(self):
        return self._node

    def mrmlSliceCompositeNode(self):
        return self._logic.GetSliceCompositeNode()

    def fitSliceToBackground(self):
        self._logic.FitSliceToBackground()

    def sliceView(self):
        return self._view


class ThreeDWidget(QtWidgets.QWidget):
    """qMRMLThreeDWidget: a 3D view."""

    def __init__(self, view):
        QtWidgets.QWidget.__init__(self)
        self._view = view

    def threeDView(self):
        return self._view

    def mrmlViewNode(self):
        return self._view.mrmlViewNode()
