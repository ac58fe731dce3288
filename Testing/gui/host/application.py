"""Stand-in for ``slicer.app``, its layout manager and scene files, over the real MRML scene."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import SimpleNamespace

import SimpleITK as sitk
import slicer
from PySide6 import QtCore, QtWidgets

from . import api


class _Strict:
    """Offers only what the application was seen to offer."""

    api_label = ""

    def __init_subclass__(cls):
        public = {name for name in vars(cls) if not name.startswith("_") and name != "api_label"}
        missing = public - api.object_names(cls.api_label)
        if missing:
            raise TypeError(f"{cls.api_label} of Slicer 5.12 has no {', '.join(sorted(missing))}")


class LayoutManager(_Strict):
    """Views of a layout: real slice logics and view nodes, no render windows."""

    api_label = "slicer.app.layoutManager()"

    def __init__(self, scene, widgets):
        self._scene, self._widgets = scene, widgets
        self._logic = slicer.vtkMRMLLayoutLogic()
        self._logic.SetMRMLScene(scene)
        self._slices, self._threeD = {}, None

    def layoutLogic(self):
        return self._logic

    @property
    def layout(self):
        return self._logic.GetLayoutNode().GetViewArrangement()

    def setLayout(self, number):
        self._logic.GetLayoutNode().SetViewArrangement(number)
        for name in self.sliceViewNames():
            self.sliceWidget(name)

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
            logic.SetMRMLScene(self._scene)
            logic.SetSliceNode(node)
            known = self._slices[name] = self._widgets["slicer.qMRMLSliceWidget"](node, logic)
        return known

    @property
    def threeDViewCount(self):
        return len(slicer.util.getNodesByClass("vtkMRMLViewNode", self._scene))

    def threeDWidget(self, index):
        nodes = slicer.util.getNodesByClass("vtkMRMLViewNode", self._scene)
        if index >= len(nodes):
            return None
        if self._threeD is None or self._threeD.mrmlViewNode() is not nodes[index]:
            self._threeD = self._widgets["slicer.qMRMLThreeDWidget"](nodes[index])
        return self._threeD

    def resetSliceViews(self):
        for name in self.sliceViewNames():
            self.sliceWidget(name).fitSliceToBackground()

    def resetThreeDViews(self):
        pass

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
            logic.SetMRMLScene(self._scene)
            node = logic.AddArchetypeVolume(str(path), path.name.partition(".")[0])
            if node is not None:
                nodes.AddItem(node)
            return node is not None
        assert kind == "SceneFile"
        return bool(
            self._scene.ReadFromMRB(str(properties["fileName"]), bool(properties.get("clear", False)))
        )


class Application(_Strict):
    """``slicer.app``."""

    api_label = "slicer.app"
    applicationName = "Slicer"
    majorVersion, minorVersion = 5, 12

    def __init__(self, qt_application, scene, widgets):
        self._qt, self._scene = qt_application, scene
        self._layout = LayoutManager(scene, widgets)
        self._logic = slicer.vtkMRMLApplicationLogic()
        self._logic.SetMRMLScene(scene)
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
