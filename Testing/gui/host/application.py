"""Stand-in for ``slicer.app``, its layout manager and scene files, over the real MRML scene."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import SimpleNamespace

import SimpleITK as sitk
import slicer
import vtk
from PySide6 import QtCore, QtWidgets

from . import api, views


class _Strict:
    """Offers only what the application was seen to offer."""

    api_label = ""

    def __init_subclass__(cls):
        public = {name for name in vars(cls) if not name.startswith("_") and name != "api_label"}
        missing = public - api.object_names(cls.api_label)
        if missing:
            raise TypeError(f"{cls.api_label} of Slicer 5.12 has no {', '.join(sorted(missing))}")


class LayoutManager(_Strict):
    """Views of a layout, of the size that the window and the layout's XML give them.

    As in the application they have it some events after the layout or the window changed.
    """

    api_label = "slicer.app.layoutManager()"
    _SETTLE_MS = 20

    def __init__(self, scene, widgets):
        self._scene, self._widgets = scene, widgets
        self._logic = slicer.vtkMRMLLayoutLogic()
        self._logic.SetMRMLScene(scene)
        self._application_logic = None
        self._slice_logics = vtk.vtkCollection()
        self._slices, self._threeDs = {}, {}
        self._size = 1100, 860
        self._settling = QtCore.QTimer()
        self._settling.setSingleShot(True)
        self._settling.setInterval(self._SETTLE_MS)
        self._settling.timeout.connect(self._arrange)

    def layoutLogic(self):
        return self._logic

    @property
    def layout(self):
        return self._logic.GetLayoutNode().GetViewArrangement()

    def setLayout(self, number):
        self._logic.GetLayoutNode().SetViewArrangement(number)
        for name in self.sliceViewNames():
            self.sliceWidget(name)
        self._settling.start()

    def _resize(self, width: int, height: int) -> None:
        """Give all views together another size, pixels."""
        self._size = width, height
        self._settling.start()

    def _places(self) -> dict:
        """Visible views and where they are: (class, tag) -> (x, y, width, height)."""
        description = self._logic.GetLayoutNode().GetCurrentLayoutDescription()
        return views.places(description, *self._size) if description else {}

    def _arrange(self) -> None:
        for (kind, tag), (_, _, width, height) in self._places().items():
            view = self._view(kind, tag)
            if view is not None and view.renderWindow().GetSize() != (width, height):
                view._resize(max(width, 10), max(height, 10))

    def _view(self, kind: str, tag: str):
        if kind == "vtkMRMLSliceNode":
            widget = self.sliceWidget(tag)
            return widget and widget.sliceView()
        for index in range(self.threeDViewCount):
            widget = self.threeDWidget(index)
            if widget.mrmlViewNode().GetLayoutName() == tag:
                return widget.threeDView()
        return None

    def _pictures(self) -> list:
        """(x, y, pixels) of every visible view."""
        self._arrange()
        return [(*place[:2], self._view(*view)._pixels()) for view, place in self._places().items()]

    def sliceViewNames(self):
        nodes = slicer.util.getNodesByClass("vtkMRMLSliceNode", self._scene)
        return [node.GetLayoutName() for node in nodes]

    def sliceWidget(self, name):
        node = self._scene.GetSingletonNode(name, "vtkMRMLSliceNode")
        if node is None:
            return None
        known = self._slices.get(name)
        if known is None or known.mrmlSliceNode() is not node:
            logic = slicer.vtkMRMLSliceLogic()
            logic.SetMRMLApplicationLogic(self._application_logic)
            logic.SetMRMLScene(self._scene)
            logic.SetSliceNode(node)
            self._slice_logics.AddItem(logic)
            view = self._widgets["slicer.SliceView"](node, logic, self._application_logic)
            known = self._slices[name] = self._widgets["slicer.qMRMLSliceWidget"](node, logic, view)
        return known

    @property
    def threeDViewCount(self):
        return len(slicer.util.getNodesByClass("vtkMRMLViewNode", self._scene))

    def threeDWidget(self, index):
        nodes = slicer.util.getNodesByClass("vtkMRMLViewNode", self._scene)
        if index >= len(nodes):
            return None
        tag = nodes[index].GetLayoutName()
        known = self._threeDs.get(tag)
        if known is None or known.mrmlViewNode() is not nodes[index]:
            view = self._widgets["slicer.ThreeDView"](nodes[index], self._application_logic)
            known = self._threeDs[tag] = self._widgets["slicer.qMRMLThreeDWidget"](view)
        return known

    def resetSliceViews(self):
        for name in self.sliceViewNames():
            self.sliceWidget(name).fitSliceToBackground()

    def resetThreeDViews(self):
        for index in range(self.threeDViewCount):
            self.threeDWidget(index).threeDView().resetCamera()

    def mrmlScene(self):
        return self._scene


class _IOManager:
    """Scene bundles and volumes, as ``slicer.util`` asks for them."""

    def __init__(self, scene):
        self._scene = scene

    def saveNodes(self, kind, properties, messages=None):
        assert kind == "SceneFile"
        return bool(self._scene.WriteToMRB(str(properties["fileName"])))

    def loadNodes(self, kind, properties, nodes=None, messages=None):
        if kind == "VolumeFile":
            path = Path(properties["fileName"])
            if path.suffix == ".png":
                # The reader in slicer-core has no PNG; the application loads a gray one as a scalar volume.
                pixels = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
                nodes.AddItem(slicer.util.addVolumeFromArray(pixels[None], name=path.stem))
                return True
            logic = slicer.vtkSlicerVolumesLogic()
            logic.SetMRMLApplicationLogic(slicer.app.applicationLogic())
            logic.SetMRMLScene(self._scene)
            node = logic.AddArchetypeVolume(str(path), path.name.partition(".")[0])
            if node is not None:
                nodes.AddItem(node)
            return node is not None
        assert kind == "SceneFile"
        return bool(
            self._scene.ReadFromMRB(str(properties["fileName"]), bool(properties.get("clear", False)))
        )


class _ErrorLog:
    """``slicer.app.errorLogModel()``."""

    def __init__(self):
        self._entries: list[str] = []

    def logEntryCount(self):
        return len(self._entries)

    def logEntryDescription(self, index):
        return self._entries[index]


class Application(_Strict):
    """``slicer.app``."""

    api_label = "slicer.app"
    applicationName = "Slicer"
    majorVersion, minorVersion = 5, 12

    def __init__(self, qt_application, scene, widgets):
        self._qt, self._scene = qt_application, scene
        self._layout = LayoutManager(scene, widgets)
        self._logic = slicer.vtkSlicerApplicationLogic()
        self._logic.SetMRMLScene(scene)
        self._logic.SetSliceLogics(self._layout._slice_logics)
        self._layout._application_logic = self._logic
        self._log = _ErrorLog()
        self._io = _IOManager(scene)
        self._startup = []
        self.temporaryPath = tempfile.gettempdir()

    def connect(self, signature, receiver):
        if signature != "startupCompleted()":
            raise ValueError(f"the test host's application has no signal {signature}")
        self._startup.append(receiver)

    def _start_up(self):
        for receiver in self._startup:
            receiver()

    def processEvents(self, *_):
        self._qt.processEvents()

    def layoutManager(self):
        return self._layout

    def errorLogModel(self):
        return self._log

    def applicationLogic(self):
        return self._logic

    def coreIOManager(self):
        return self._io

    def mrmlScene(self):
        return self._scene

    def testingEnabled(self):
        return False

    def commandOptions(self):
        return SimpleNamespace(noMainWindow=True, testingEnabled=False)

    def moduleManager(self):
        return SimpleNamespace(connect=lambda *_: None, disconnect=lambda *_: None)

    def topLevelWidgets(self):
        return []

    def setOverrideCursor(self, cursor):
        QtWidgets.QApplication.setOverrideCursor(QtCore.Qt.WaitCursor)

    def restoreOverrideCursor(self):
        QtWidgets.QApplication.restoreOverrideCursor()
