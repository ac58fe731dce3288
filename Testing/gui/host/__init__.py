"""A small stand-in for 3D Slicer, in which the module's own code, .ui file and scene are the real ones.

slicer-core gives the MRML nodes, their logics and ``slicer.util``; PySide6 gives Qt. The host adds what they
lack: PythonQt's manners, the few ctk and qMRML widgets, the scripted-module base classes, the parameter node
wrapper and ``slicer.app``. It is held against what Slicer 5.12 was seen to offer (``slicer_5_12_api.json``).

Functions of the application that are written in Python are called with its own signatures (``api.fake``);
views have its displayable managers, interactor styles and cameras, and are rendered off screen when their
pixels are asked for (:meth:`Host.view_pixels`, :meth:`Host.window_picture`).

Where it may differ from the application: message boxes and file dialogs give the answers a test has put in
``Host.answers``, some events later; Python threads also run while the event loop waits, in the application
they do not.
"""

from __future__ import annotations

import sys
import tempfile
from types import ModuleType, SimpleNamespace

import numpy as np
import slicer
import slicer.util
import vtk
from PySide6 import QtCore, QtGui, QtWidgets

from . import api, parameter_node, plots, pythonqt, scripted_module, views, widgets
from .application import Application
from .ui_loader import UiLoader

_QT_CLASSES = """
    QCheckBox QComboBox QDoubleSpinBox QFrame QGroupBox QLabel QLineEdit QProgressBar QPushButton QScrollArea
    QShortcut QSpinBox QTableWidget QTimer QToolButton QWidget
""".split()  # noqa: SIM905 - a list of names
# Plain values and layouts of Qt, alike in Qt 5, Qt 6 and PythonQt, which the observation does not list.
_QT_VALUES = """
    QAbstractItemView QBrush QColor QFont QFormLayout QGridLayout QHBoxLayout QHeaderView QIcon QImage
    QKeySequence QPixmap QSize QTableWidgetItem QVBoxLayout Qt
""".split()  # noqa: SIM905
_CUSTOM = {
    "ctk.ctkCollapsibleButton": widgets.CollapsibleButton,
    "ctk.ctkSliderWidget": widgets.SliderWidget,
    "ctk.ctkRangeWidget": widgets.RangeWidget,
    "ctk.ctkColorPickerButton": widgets.ColorPickerButton,
    "slicer.qMRMLWidget": widgets.Widget,
    "slicer.qMRMLNodeComboBox": widgets.NodeComboBox,
    "slicer.qSlicerMarkupsPlaceWidget": widgets.MarkupsPlaceWidget,
    "slicer.qMRMLPlotView": plots.PlotView,
    "slicer.qMRMLPlotWidget": plots.PlotWidget,
    "slicer.qMRMLSliceWidget": widgets.SliceWidget,
    "slicer.qMRMLThreeDWidget": widgets.ThreeDWidget,
}
# Widgets that the application makes itself: class -> (its observation, stand-in).
_VIEWS = {
    "slicer.SliceView": ("layoutManager().sliceWidget('Red').sliceView()", views.SliceView),
    "slicer.ThreeDView": ("threeDWidget(0).threeDView()", views.ThreeDView),
}


# For so long a message box or file dialog stays, with an event loop of its own.
_MODAL_S = 0.03


class Host:
    """The application around one scene.

    Attributes:
        scene: ``slicer.mrmlScene``.
        app: ``slicer.app``.
        answers: what the next file dialogs return, first in first out.
        messages: texts of the message boxes that were shown: (kind, text).
        status: words in the status bar, the last one last.
        confirms: whether confirmations are answered with OK.
        dicom_files: paths by instance UID, as the application's DICOM database has them.
        exceptions: what was raised in observers and slots, where VTK and Qt only print it.
        classes: host classes by their qualified name ("qt.QLabel").
    """

    def __init__(self):
        self._qt = QtWidgets.QApplication.instance() or QtWidgets.QApplication(["Slicer"])
        self.classes = {
            f"qt.{name}": pythonqt.host_class(f"qt.{name}", _qt_class(name)) for name in _QT_CLASSES
        }
        self.classes |= {name: pythonqt.host_class(name, base) for name, base in _CUSTOM.items()}
        self.classes["slicer.qMRMLPlotWidget"]._view_class = self.classes["slicer.qMRMLPlotView"]
        made = {name: pythonqt.host_class(label, base) for name, (label, base) in _VIEWS.items()}
        self.answers, self.messages, self.exceptions, self.status = [], [], [], []
        self.confirms = True
        self.dicom_files: dict[str, str] = {}
        slicer.dicomDatabase = SimpleNamespace(fileForInstance=lambda uid: self.dicom_files.get(uid, ""))
        sys.excepthook = lambda kind, error, traceback: self.exceptions.append(error)
        self.scene = slicer.vtkMRMLScene()
        slicer.mrmlScene = self.scene
        slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(self.scene)
        self.app = slicer.app = Application(self._qt, self.scene, self.classes | made)
        self._logics = _register_node_classes(self.scene, self.app.applicationLogic())
        slicer.modules = SimpleNamespace(sampleDataSources={})
        for name, cls in self.classes.items():
            if name.startswith("slicer."):
                setattr(slicer, cls.__name__, cls)
        sys.modules["qt"], sys.modules["ctk"] = self._qt_module(), self._ctk_module()
        for name, module in (
            ("parameterNodeWrapper", parameter_node.as_module()),
            ("ScriptedLoadableModule", scripted_module.as_module()),
            ("packaging", self._packaging_module()),
        ):
            sys.modules[f"slicer.{name}"] = module
            setattr(slicer, name, module)
        slicer.util.vtk = vtk
        sys.modules["SampleData"] = self._sample_data_module()
        for kind in ("errorDisplay", "warningDisplay", "infoDisplay"):
            setattr(slicer.util, kind, self._message_box(kind))
        for kind in ("confirmOkCancelDisplay", "confirmYesNoDisplay"):
            setattr(slicer.util, kind, self._message_box(kind))
        slicer.util.showStatusMessage = api.fake(
            "slicer.util", "showStatusMessage", lambda message, duration=0: self.status.append(message)
        )
        slicer.util.selectModule = api.fake("slicer.util", "selectModule", _nothing)
        slicer.util.pip_install = api.fake("slicer.util", "pip_install", _nothing)

    def open_module(self, module, path: str, widget_class: type | None = None):
        """Register a scripted module and open its panel, as the module manager does.

        Args:
            module: the module.
            path: its file.
            widget_class: the panel's, where it is another one than the module's.
        """
        name = module.__name__
        parent = SimpleNamespace(path=path, title="", categories=[], dependencies=[], contributors=[])
        getattr(module, name)(parent)
        self.app._start_up()
        panel = QtWidgets.QWidget()
        QtWidgets.QVBoxLayout(panel)
        panel.isEntered = True
        parent.widgetRepresentation = lambda: panel

        def create():
            widget = (widget_class or getattr(sys.modules[name], name + "Widget"))(panel)
            widget.setup()
            setattr(slicer.modules, name + "Widget", widget)
            widget.enter()
            return widget

        panel.reload = create
        return create()

    def close_module(self, widget) -> None:
        """Close a panel, as the application does at its end: what is in it follows the scene no longer."""
        widget.cleanup()
        for part in widget.parent.findChildren(QtWidgets.QWidget):
            if hasattr(part, "setMRMLScene"):
                part.blockSignals(True)
                part.setMRMLScene(None)

    def resize_views(self, width: int, height: int) -> None:
        """Give all views together another size, pixels, as a user does with the window."""
        self.app.layoutManager()._resize(width, height)

    def process(self, seconds: float = 0.0, until=None) -> bool:
        """Run the event loop for a time, or until something holds; False if it did not in that time."""
        timer = QtCore.QElapsedTimer()
        timer.start()
        while True:
            self._qt.processEvents(QtCore.QEventLoop.ProcessEventsFlag.AllEvents, 20)
            if until is not None and until():
                return True
            if timer.elapsed() >= 1000 * seconds:
                return until is None
            QtCore.QThread.msleep(2)

    def view_pixels(self, name: str):
        """(rows, columns, 3) uint8 of the slice view of a name, or of the 3D view "1", first row on top."""
        layouts = self.app.layoutManager()
        kind = "vtkMRMLViewNode" if name.isdigit() else "vtkMRMLSliceNode"
        layouts._arrange()
        return layouts._view(kind, name)._pixels()

    def plot_pixels(self, view):
        """(rows, columns, 3) uint8 of a plot, first row on top."""
        return view._pixels()

    def place_in_plot(self, view, x: float, y: float) -> tuple[int, int]:
        """Where a point of a plot's chart is in its view, pixels from below."""
        return view._at(x, y)

    def drag_in_plot(self, view, *places, release: bool = True) -> None:
        """Press the left button at the first of some places, move through the others, release it."""
        view._mouse(list(places), release)

    def window_picture(self, panel, panel_width: int = 480):
        """(rows, columns, 3) uint8: the panel as far as it is in sight, and the views beside it."""
        layouts = self.app.layoutManager()
        width, height = layouts._size
        panel.resize(panel_width, height)
        panel.show()
        self.process(0.1)
        window = np.full((height, panel_width + width, 3), 40, dtype=np.uint8)
        image = panel.grab().toImage().convertToFormat(QtGui.QImage.Format.Format_RGB888)
        rows = np.frombuffer(image.constBits(), np.uint8).reshape(image.height(), image.bytesPerLine())
        shown = rows[:height, : 3 * panel_width].reshape(-1, panel_width, 3)
        window[: len(shown), :panel_width] = shown
        for x, y, pixels in layouts._pictures():
            window[y : y + pixels.shape[0], panel_width + x : panel_width + x + pixels.shape[1]] = pixels
        panel.hide()
        return window

    def _message_box(self, kind):
        def show(text):
            self.messages.append((kind, text))
            # Modal, but events go on.
            self.process(_MODAL_S)
            return self.confirms if kind.startswith("confirm") else None

        return api.fake("slicer.util", kind, show)

    def _qt_module(self):
        module = ModuleType("qt")
        for name in _QT_CLASSES:
            setattr(module, name, self.classes[f"qt.{name}"])
        for name in _QT_VALUES:
            setattr(module, name, _qt_class(name))
        module.QFile = QtCore.QFile
        module.QMessageBox = QtWidgets.QMessageBox
        module.QUiLoader = lambda: UiLoader({cls.__name__: cls for cls in self.classes.values()})

        # PythonQt gives the path alone.
        def answer(*_):
            self.process(_MODAL_S)
            return self.answers.pop(0)

        module.QFileDialog = SimpleNamespace(getOpenFileName=answer, getSaveFileName=answer)
        module.QSettings = lambda: _Settings()
        return module

    def _ctk_module(self):
        module = ModuleType("ctk")
        for name, cls in self.classes.items():
            if name.startswith("ctk."):
                setattr(module, cls.__name__, cls)
        return module

    def _packaging_module(self):
        module = ModuleType("slicer.packaging")
        module.pip_check = api.fake("slicer.packaging", "pip_check", lambda: True)
        module.pip_install = api.fake("slicer.packaging", "pip_install", _nothing)
        return module

    def _sample_data_module(self):
        module = ModuleType("SampleData")
        label = "SampleData.SampleDataLogic"

        def register(category, **about):
            source = SimpleNamespace(**about)
            slicer.modules.sampleDataSources.setdefault(category, []).append(source)

        class SampleDataLogic:
            registerCustomSampleDataSource = staticmethod(
                api.fake(label, "registerCustomSampleDataSource", register)
            )

        module.SampleDataLogic = SampleDataLogic
        return module


def _nothing():
    """What is done where a test needs nothing done."""


class _Settings:
    """QSettings that forget."""

    values: dict = {}  # noqa: RUF012

    def setValue(self, key, value):
        self.values[key] = value

    def value(self, key, default=None):
        return self.values.get(key, default)

    def contains(self, key):
        return key in self.values


def _qt_class(name: str):
    for source in (QtWidgets, QtGui, QtCore):
        if hasattr(source, name):
            return getattr(source, name)
    raise AttributeError(f"Qt has no {name}")


def _register_node_classes(scene, application_logic):
    """Node classes of the loadable modules; a bare scene knows the core's only."""
    colours = slicer.vtkMRMLColorLogic()
    application_logic.SetColorLogic(colours)
    application_logic.SetModuleLogic("Colors", colours)
    logics = [
        colours,
        slicer.vtkSlicerMarkupsLogic(),
        slicer.vtkSlicerSegmentationsModuleLogic(),
        slicer.vtkSlicerSequencesLogic(),
        slicer.vtkSlicerSubjectHierarchyModuleLogic(),
        slicer.vtkSlicerTransformLogic(),
        slicer.vtkSlicerVolumesLogic(),
    ]
    for logic in logics:
        logic.SetMRMLApplicationLogic(application_logic)
        logic.SetMRMLScene(scene)
    application_logic.SetModuleLogic("Markups", logics[1])
    # Where scene bundles are unpacked.
    remote = slicer.vtkMRMLRemoteIOLogic()
    remote.SetMRMLApplicationLogic(application_logic)
    remote.SetMRMLScene(scene)
    remote.GetCacheManager().SetRemoteCacheDirectory(tempfile.mkdtemp(prefix="host-cache-"))
    remote.AddDataIOToScene()
    return [*logics, remote]
