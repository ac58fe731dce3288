"""Slice and 3D views with real pipelines: displayable managers, interactor styles, rendered off screen."""

from __future__ import annotations

from functools import cache
from xml.etree import ElementTree

import numpy as np
import slicer
import vtk
from PySide6 import QtWidgets
from vtk.util.numpy_support import vtk_to_numpy

# Of a view's place, the bar with its controls.
_BAR = 22
_SLICE_MANAGERS = (
    "vtkMRMLModelSliceDisplayableManager",
    "vtkMRMLCrosshairDisplayableManager",
    "vtkMRMLMarkupsDisplayableManager",
    "vtkMRMLLinearTransformsDisplayableManager",
)
_3D_MANAGERS = (
    "vtkMRMLCameraDisplayableManager",
    "vtkMRMLViewDisplayableManager",
    "vtkMRMLModelDisplayableManager",
    "vtkMRMLThreeDReformatDisplayableManager",
    "vtkMRMLCrosshairDisplayableManager3D",
    "vtkMRMLMarkupsDisplayableManager",
    "vtkMRMLLinearTransformsDisplayableManager",
)


@cache
def _register(factory, names: tuple[str, ...]) -> None:
    for name in names:
        if not factory.IsDisplayableManagerRegistered(name):
            factory.RegisterDisplayableManager(name)


class _View(QtWidgets.QWidget):
    """A render window that is drawn when its pixels are asked for."""

    def __init__(self, style, factory, managers, application_logic, node):
        QtWidgets.QWidget.__init__(self)
        self._native = QtWidgets.QWidget(self)
        self._window = vtk.vtkRenderWindow()
        self._window.SetOffScreenRendering(True)
        self._window.SetNumberOfLayers(2)
        self._window.SetMultiSamples(0)
        self._renderer = vtk.vtkRenderer()
        self._window.AddRenderer(self._renderer)
        self._overlay = self._overlay_renderer()
        self._interactor = vtk.vtkGenericRenderWindowInteractor()
        self._interactor.SetRenderWindow(self._window)
        self._style = style
        factory.SetMRMLApplicationLogic(application_logic)
        _register(factory, managers)
        self._prepare_style(node)
        style.SetInteractor(self._interactor)
        self._group = factory.InstantiateDisplayableManagers(self._overlay)
        self._group.SetMRMLDisplayableNode(node)
        style.SetDisplayableManagers(self._group)
        self._interactor.Initialize()
        self._node = node

    def _overlay_renderer(self):
        return self._renderer

    def _prepare_style(self, node):
        pass

    def renderWindow(self):
        return self._window

    def VTKWidget(self):
        """The one child, which alone hands keys on to the interactor."""
        return self._native

    def interactor(self):
        return self._interactor

    def interactorStyle(self):
        return self._style

    def forceRender(self):
        self._window.Render()

    def scheduleRender(self):
        pass

    def setViewCursor(self, cursor):
        self.setCursor(cursor)

    def unsetViewCursor(self):
        self.unsetCursor()

    def _resize(self, width: int, height: int) -> None:
        self._window.SetSize(width, height)
        self._interactor.UpdateSize(width, height)
        QtWidgets.QWidget.resize(self, width, height)

    def _pixels(self) -> np.ndarray:
        """(rows, columns, 3) uint8, first row on top."""
        self.forceRender()
        grab = vtk.vtkWindowToImageFilter()
        grab.SetInput(self._window)
        grab.ReadFrontBufferOff()
        grab.ShouldRerenderOff()
        grab.Update()
        width, height = self._window.GetSize()
        pixels = vtk_to_numpy(grab.GetOutput().GetPointData().GetScalars()).reshape(height, width, -1)
        return pixels[::-1, :, :3].copy()

    def _close(self) -> None:
        self._group.SetMRMLDisplayableNode(None)


class SliceView(_View):
    """qMRMLSliceView: the picture of a slice logic, and what displayable managers draw over it."""

    def __init__(self, node, logic, application_logic):
        self._logic = logic
        factory = slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance()
        style = slicer.vtkMRMLSliceViewInteractorStyle()
        _View.__init__(self, style, factory, _SLICE_MANAGERS, application_logic, node)
        mapper = vtk.vtkImageMapper()
        mapper.SetInputConnection(logic.GetImageDataConnection())
        mapper.SetColorWindow(255)
        mapper.SetColorLevel(127.5)
        self._image = vtk.vtkActor2D()
        self._image.SetMapper(mapper)
        self._mapper = mapper
        self._renderer.AddViewProp(self._image)

    def _overlay_renderer(self):
        renderer = vtk.vtkRenderer()
        renderer.SetLayer(1)
        self._window.AddRenderer(renderer)
        camera = renderer.GetActiveCamera()
        camera.ParallelProjectionOn()
        return renderer

    def _prepare_style(self, node):
        self._style.SetSliceLogic(self._logic)

    def mrmlSliceNode(self):
        return self._node

    def _resize(self, width, height):
        _View._resize(self, width, height)
        # As the slice controller does when its view is resized.
        self._logic.ResizeSliceNode(width, height)

    def forceRender(self):
        self._logic.UpdatePipeline()
        self._mapper.SetInputConnection(self._logic.GetImageDataConnection())
        self._image.SetVisibility(self._logic.GetImageDataConnection() is not None)
        _View.forceRender(self)


class ThreeDView(_View):
    """qMRMLThreeDView."""

    def __init__(self, node, application_logic):
        factory = slicer.vtkMRMLThreeDViewDisplayableManagerFactory.GetInstance()
        style = slicer.vtkMRMLThreeDViewInteractorStyle()
        _View.__init__(self, style, factory, _3D_MANAGERS, application_logic, node)
        self._renderer.SetBackground(0.07, 0.09, 0.12)

    def mrmlViewNode(self):
        return self._node

    def cameraNode(self):
        for node in slicer.util.getNodesByClass("vtkMRMLCameraNode", self._node.GetScene()):
            if node.GetLayoutName() == self._node.GetLayoutName():
                return node
        return None

    def resetFocalPoint(self):
        bounds = np.array(self._renderer.ComputeVisiblePropBounds())
        if bounds[0] <= bounds[1]:
            camera = self._renderer.GetActiveCamera()
            centre = bounds.reshape(3, 2).mean(axis=1)
            shift = centre - camera.GetFocalPoint()
            camera.SetFocalPoint(centre)
            camera.SetPosition(camera.GetPosition() + shift)

    def displayableManagerByClassName(self, name):
        return self._group.GetDisplayableManagerByClassName(name)

    def resetCamera(self):
        self._renderer.ResetCamera()


def places(description: str, width: int, height: int) -> dict[tuple[str, str], tuple[int, int, int, int]]:
    """Where a layout's XML puts its views: (class, tag) of a view node -> (x, y, width, height), pixels."""
    found: dict = {}

    def lay(element, x, y, w, h):
        if element.tag == "view":
            found[element.get("class"), element.get("singletontag")] = (x, y, w, h)
            return
        items = element.findall("item")
        if not items:
            return
        shares = np.array([float(item.get("splitSize", 1)) for item in items])
        ends = np.concatenate([[0.0], np.cumsum(shares) / shares.sum()])
        for item, start, end in zip(items, ends[:-1], ends[1:], strict=True):
            for child in item:
                if element.get("type") == "vertical":
                    lay(child, x, y + round(start * h), w, round(end * h) - round(start * h))
                else:
                    lay(child, x + round(start * w), y, round(end * w) - round(start * w), h)

    lay(ElementTree.fromstring(description), 0, 0, width, height)
    return {view: (x, y + _BAR, w - 2, h - _BAR - 2) for view, (x, y, w, h) in found.items()}
