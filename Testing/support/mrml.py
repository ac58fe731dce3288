"""What the application does around a MRML scene, as far as slicer-core has it: logics and views."""

from __future__ import annotations

import tempfile

import numpy as np
import slicer
import vtk
from SOPIRegistrationLib.scene import layout
from vtk.util.numpy_support import vtk_to_numpy

_MODULE_LOGICS = (
    "vtkSlicerSubjectHierarchyModuleLogic",
    "vtkSlicerMarkupsLogic",
    "vtkSlicerSegmentationsModuleLogic",
    "vtkSlicerVolumesLogic",
    "vtkSlicerTransformLogic",
    "vtkSlicerModelsLogic",
)
# Loading option of vtkSlicerVolumesLogic: not a stack of the files with similar names.
_SINGLE_FILE = 4
_3D_MANAGERS = (
    "vtkMRMLCameraDisplayableManager",
    "vtkMRMLViewDisplayableManager",
    "vtkMRMLModelDisplayableManager",
)


class MrmlHost:
    """A scene with the logics and views of the running application, in a layout of this extension."""

    def __init__(self):
        self.scene = slicer.vtkMRMLScene()
        self.application = slicer.vtkSlicerApplicationLogic()
        self.application.SetMRMLScene(self.scene)
        # Scene bundles are unpacked into the cache folder.
        self._folder = tempfile.TemporaryDirectory()
        data_io, cache = slicer.vtkDataIOManager(), slicer.vtkCacheManager()
        cache.SetRemoteCacheDirectory(self._folder.name)
        data_io.SetCacheManager(cache)
        self.scene.SetCacheManager(cache)
        self.scene.SetDataIOManager(data_io)
        self._logics = [slicer.vtkMRMLColorLogic()]
        self.application.SetColorLogic(self._logics[0])
        self.application.SetModuleLogic("Colors", self._logics[0])
        self._logics += [getattr(slicer, name)() for name in _MODULE_LOGICS]
        for logic in self._logics:
            logic.SetMRMLApplicationLogic(self.application)
            logic.SetMRMLScene(self.scene)
        slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(self.scene)
        self._slice_logics = vtk.vtkCollection()
        self.application.SetSliceLogics(self._slice_logics)
        self.layout_logic = slicer.vtkMRMLLayoutLogic()
        self.layout_logic.SetMRMLScene(self.scene)

    def show_layout(self, layout_id: int = layout.LAYOUT_ID) -> None:
        """What a layout manager does: the layout's view nodes, a slice logic for each slice view."""
        layout.ensure_layout(self, layout_id)

    # The two methods of qMRMLLayoutManager that the module calls.
    def layoutLogic(self):
        return self.layout_logic

    def setLayout(self, layout_id: int) -> None:
        self.layout_logic.GetLayoutNode().SetViewArrangement(layout_id)
        for tag in (layout.XRAY_VIEW, layout.FUSION_VIEW, "Red"):
            node = layout.slice_node(self.scene, tag)
            if node is not None and self.slice_logic(tag) is None:
                logic = slicer.vtkMRMLSliceLogic()
                logic.SetMRMLApplicationLogic(self.application)
                logic.SetMRMLScene(self.scene)
                logic.SetSliceNode(node)
                self._slice_logics.AddItem(logic)

    def load_volume(self, path, name: str):
        """A volume node of a file, by the application's own reader."""
        [logic] = [logic for logic in self._logics if logic.IsA("vtkSlicerVolumesLogic")]
        return logic.AddArchetypeVolume(str(path), name, _SINGLE_FILE)

    def slice_logic(self, view: str):
        for index in range(self._slice_logics.GetNumberOfItems()):
            logic = self._slice_logics.GetItemAsObject(index)
            if logic.GetSliceNode().GetLayoutName() == view:
                return logic
        return None

    def slice_picture(self, view: str) -> np.ndarray:
        """(rows, columns, 3) uint8: what the view's pipeline blends, first row on top."""
        logic = self.slice_logic(view)
        logic.UpdatePipeline()
        producer = logic.GetImageDataConnection().GetProducer()
        producer.Update()
        image = producer.GetOutputDataObject(logic.GetImageDataConnection().GetIndex())
        columns, rows, _ = image.GetDimensions()
        pixels = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(rows, columns, -1)
        # Where no layer has a voxel, colours are left over and alpha is 0: the view shows its black there.
        return np.where(pixels[::-1, :, 3:] > 0, pixels[::-1, :, :3], 0)

    def render_3d(
        self, width: int, height: int, direction=(1.0, -1.5, 0.6), up=(0.0, 0.0, 1.0)
    ) -> np.ndarray:
        """(rows, columns, 3) uint8: the 3D view off screen, seen from a direction in RAS."""
        renderer = vtk.vtkRenderer()
        window = vtk.vtkRenderWindow()
        window.SetOffScreenRendering(True)
        window.SetSize(width, height)
        window.SetMultiSamples(4)
        window.AddRenderer(renderer)
        interactor = vtk.vtkRenderWindowInteractor()
        interactor.SetRenderWindow(window)
        factory = slicer.vtkMRMLThreeDViewDisplayableManagerFactory.GetInstance()
        factory.SetMRMLApplicationLogic(self.application)
        for manager in _3D_MANAGERS:
            if not factory.IsDisplayableManagerRegistered(manager):
                factory.RegisterDisplayableManager(manager)
        group = factory.InstantiateDisplayableManagers(renderer)
        group.SetMRMLDisplayableNode(self.scene.GetSingletonNode("1", "vtkMRMLViewNode"))
        renderer.SetBackground(0.07, 0.09, 0.12)
        camera = renderer.GetActiveCamera()
        camera.SetFocalPoint(0, 0, 0)
        camera.SetPosition(direction)
        camera.SetViewUp(up)
        renderer.ResetCamera()
        camera.Zoom(1.9)
        renderer.ResetCameraClippingRange()
        window.Render()
        grab = vtk.vtkWindowToImageFilter()
        grab.SetInput(window)
        grab.ReadFrontBufferOff()
        grab.Update()
        pixels = vtk_to_numpy(grab.GetOutput().GetPointData().GetScalars()).reshape(height, width, -1)
        group.SetMRMLDisplayableNode(None)
        return pixels[::-1, :, :3].copy()
