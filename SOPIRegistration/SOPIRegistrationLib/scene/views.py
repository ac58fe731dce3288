"""The views of a case: laid out, filled and fitted; what a person pans and zooms stays as it is left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer
import vtk

from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.scene.detector import lay_slice_view_on_detector
from SOPIRegistrationLib.scene.layout import (
    CT_PLANES,
    FUSION_VIEW,
    LANDMARK_LAYOUT_ID,
    LAYOUT_ID,
    XRAY_VIEW,
    ensure_layout,
    layout_of,
    slice_node,
    views_of,
)
from SOPIRegistrationLib.scene.view_props import ViewProps

# A window in which cortex and marrow differ, HU: landmarks are looked for in bones.
_BONE_WINDOW_HU = (-300.0, 1300.0)
# The body is seen from in front, the left and above (RAS): the source does not stand before it, nor the
# detector.
_DIRECTION = (-0.75, 1.0, 0.4)
_LABEL_PIXELS = 15
# Shares of the 3D view between which the middle of a body is in sight.
_IN_SIGHT = (0.2, 0.8)


@dataclass(frozen=True)
class Shown:
    """What the views show.

    Attributes:
        camera: the X-ray's camera.
        frame: its nominal view.
        xray: the X-ray's node.
        ct: the CT's node; None where models are registered without one.
        bodies: the model nodes in the 3D view that it is fitted to.
        beside: cameras of the X-rays that are shown beside it.
    """

    camera: Camera
    frame: PoseFrame
    xray: Any
    ct: Any
    bodies: tuple = ()
    beside: tuple[Camera, ...] = ()

    @property
    def cameras(self) -> dict[str, Camera]:
        """The camera of each slice view that lies on a detector, by the view's name."""
        every = enumerate((self.camera, *self.beside))
        return {view: camera for number, camera in every for view in views_of(number)}

    def looks_as(self, other: Shown) -> bool:
        """Whether the same volumes lie on the same detectors."""
        nodes, others = (
            [one.xray, one.ct, *one.bodies, *(camera.name for camera in one.cameras.values())]
            for one in (self, other)
        )
        if nodes != others or not np.allclose(self.frame.T_nominal, other.frame.T_nominal):
            return False
        return all(
            one.shape == two.shape
            and np.allclose(one.K, two.K)
            and np.allclose(one.T_world_to_camera, two.T_world_to_camera)
            for one, two in zip(self.cameras.values(), other.cameras.values(), strict=True)
        )

    @property
    def bounds(self) -> np.ndarray | None:
        """(3, 2) world RAS mm, between which the bodies are; None of none."""
        found, bounds = [], np.zeros(6)
        for body in self.bodies:
            body.GetRASBounds(bounds)
            if bounds[0] <= bounds[1]:
                found.append(bounds.reshape(3, 2).copy())
        if not found:
            return None
        return np.stack([np.min(found, axis=0)[:, 0], np.max(found, axis=0)[:, 1]], axis=1)


class Views(slicer.util.VTKObservationMixin):
    """The application's views, fitted when the layout, their size or the case changes, and at no other time.

    Attributes:
        shown: the case shown; None before the first.

    Args:
        scene: the MRML scene.
        layout_manager: ``slicer.app.layoutManager()``; None without a main window: nothing is shown then.
        later: does something when the event at hand has been dealt with, as a timer of no time does. The
            application sets the size of a view first and its field of view after that.
    """

    def __init__(self, scene, layout_manager=None, later: Callable[[Callable], None] = lambda act: act()):
        super().__init__()
        self._later = later
        self._scene = scene
        self._layout_manager = layout_manager
        self.shown: Shown | None = None
        self._sizes: dict[str, tuple] = {}
        self._window_before: tuple | None = None
        self._fusion = ViewProps(layout_manager, FUSION_VIEW)
        self._label = _label()
        self._beside: list[ViewProps] = []
        self._layout = LAYOUT_ID
        # From where the 3D view was fitted last; somebody else has moved its camera where that is elsewhere.
        self._fitted_from: np.ndarray | None = None

    def show(self, shown: Shown) -> None:
        """Show a case, in the layout asked for last.

        One that looks as that before leaves layout and views as a person has left them.
        """
        before, self.shown = self.shown, shown
        if before is not None and shown.looks_as(before):
            self._name_beside()
            return
        self.lay_out(self._layout)
        if before is None and self._view_3d is not None:
            self._look_from(_DIRECTION)

    def lay_out(self, layout_id: int | None = None) -> None:
        """Show a layout: ``LAYOUT_ID``, or ``LANDMARK_LAYOUT_ID`` with the CT's planes in a bone window.

        Without one that which was asked for last, from whatever layout was chosen elsewhere.
        """
        layout_id = self._layout if layout_id is None else layout_id
        self._layout = layout_id
        if self._layout_manager is None or self.shown is None:
            return
        several = layout_of(1 + len(self.shown.beside))
        ensure_layout(self._layout_manager, several if layout_id == LAYOUT_ID else layout_id)
        self._follow_sizes()
        self._name_beside()
        if layout_id == LANDMARK_LAYOUT_ID:
            self._show_planes()
        else:
            self._give_back_window()
        self.fit()

    def fit(self) -> None:
        """Fit all views to what they show."""
        if self.shown is None:
            return
        for view in self.shown.cameras:
            self._fit_slice(view)
        if self._layout_manager is None:
            return
        xray = slice_node(self._scene, XRAY_VIEW)
        composite = xray and slicer.vtkMRMLSliceLogic.GetSliceCompositeNode(xray)
        if composite is not None:
            composite.SetBackgroundVolumeID(self.shown.xray.GetID())
            composite.SetForegroundVolumeID(None)
        self._fit_3d()

    def keep_body_in_sight(self) -> None:
        """Fit the 3D view to a body that has been moved out of it, if only in part, and only then."""
        bounds, view = self.shown and self.shown.bounds, self._view_3d
        if bounds is None or view is None:
            return
        renderer = view.renderWindow().GetRenderers().GetFirstRenderer()
        corners = np.array(np.meshgrid(*bounds)).reshape(3, -1).T
        middle, *seen = _seen(renderer, [bounds.mean(axis=1), *corners])
        # Of one larger than the view, which somebody has come close to, the middle counts alone.
        fits = self._is_as_fitted or np.all(np.ptp(seen, axis=0) <= 1)
        is_cut = fits and (np.min(seen) < 0 or np.max(seen) > 1)
        if is_cut or np.any(middle < _IN_SIGHT[0]) or np.any(middle > _IN_SIGHT[1]):
            self._fit_3d()

    def follow_body(self) -> None:
        """The same after a hand has moved it, unless somebody has turned, panned or zoomed the 3D view."""
        if self._is_as_fitted:
            self.keep_body_in_sight()

    def write_label(self, text: str, colour: tuple[float, float, float] = (1, 1, 1)) -> None:
        """Words in the upper left corner of the fusion view."""
        actor = self._label
        if actor.GetInput() != text or actor.GetTextProperty().GetColor() != tuple(colour):
            actor.SetInput(text)
            actor.GetTextProperty().SetColor(colour)
            self._fusion.show([actor])

    @property
    def label(self) -> str:
        """The words in the corner of the fusion view."""
        return self._label.GetInput() or ""

    @property
    def fusion_view(self):
        """The application's slice view with the fused picture; None where there is none."""
        return self._fusion.view

    def close(self) -> None:
        """Take back what was put into views, and follow them no more."""
        self.removeObservers()
        self._give_back_window()
        for props in (self._fusion, *self._beside):
            props.remove()
        self._beside = []
        self._label, self.shown = _label(), None

    @property
    def layout(self) -> int:
        """The layout asked for last."""
        return self._layout

    @property
    def _view_3d(self):
        if self._layout_manager is None or self._layout_manager.threeDViewCount == 0:
            return None
        return self._layout_manager.threeDWidget(0).threeDView()

    def _follow_sizes(self) -> None:
        """Views have their new size some events after the layout or the window changed."""
        for view in (*self.shown.cameras, *CT_PLANES):
            node = slice_node(self._scene, view)
            if node is not None and not self.hasObserver(node, "ModifiedEvent", self._on_slice_view):
                self._sizes[view] = tuple(node.GetDimensions())
                self.addObserver(node, "ModifiedEvent", self._on_slice_view)
        if self._view_3d is not None:
            window = self._view_3d.renderWindow()
            if not self.hasObserver(window, vtk.vtkCommand.WindowResizeEvent, self._on_3d_view):
                self.addObserver(window, vtk.vtkCommand.WindowResizeEvent, self._on_3d_view)

    def _on_slice_view(self, node, _event) -> None:
        view, size = node.GetLayoutName(), tuple(node.GetDimensions())
        if self._sizes.get(view) == size:
            return
        self._sizes[view] = size
        if view in CT_PLANES:
            self._later(lambda: self._fit_plane(view))
        else:
            self._later(lambda: self._fit_slice(view))

    def _on_3d_view(self, *_) -> None:
        self._later(self._fit_3d)

    def _fit_plane(self, view: str) -> None:
        if self.shown is not None and self._layout == LANDMARK_LAYOUT_ID:
            self._layout_manager.sliceWidget(view).sliceLogic().FitSliceToBackground()

    def _fit_slice(self, view: str) -> None:
        node = slice_node(self._scene, view)
        camera = self.shown and self.shown.cameras.get(view)
        if camera is not None and node is not None:
            lay_slice_view_on_detector(node, camera, self.shown.frame, reference=self.shown.camera)

    def _name_beside(self) -> None:
        """The camera's name in the corner of each fusion view beside that of the X-ray that is looked at."""
        for known in self._beside:
            known.remove()
        self._beside = []
        if self._layout == LANDMARK_LAYOUT_ID:
            return
        for number, camera in enumerate(self.shown.beside, start=1):
            label, props = _label(), ViewProps(self._layout_manager, views_of(number)[0])
            label.SetInput(camera.name)
            props.show([label])
            self._beside.append(props)

    def _show_planes(self) -> None:
        ct = self.shown.ct
        if ct is None:
            return
        display = ct.GetDisplayNode()
        if display is not None and self._window_before is None:
            automatic = bool(display.GetAutoWindowLevel())
            self._window_before = ct, automatic, display.GetWindowLevelMin(), display.GetWindowLevelMax()
            display.AutoWindowLevelOff()
            display.SetWindowLevelMinMax(*_BONE_WINDOW_HU)
        for view in CT_PLANES:
            logic = self._layout_manager.sliceWidget(view).sliceLogic()
            logic.GetSliceCompositeNode().SetBackgroundVolumeID(ct.GetID())
            logic.FitSliceToBackground()

    def _give_back_window(self) -> None:
        """The CT's own window, unless somebody has chosen another meanwhile."""
        before, self._window_before = self._window_before, None
        if before is None or self._scene.GetNodeByID(before[0].GetID() or "") is not before[0]:
            return
        ct, automatic, low, high = before
        display = ct.GetDisplayNode()
        if (
            display is not None
            and (display.GetWindowLevelMin(), display.GetWindowLevelMax()) == _BONE_WINDOW_HU
        ):
            display.SetWindowLevelMinMax(low, high)
            display.SetAutoWindowLevel(automatic)

    def _look_from(self, direction) -> None:
        camera = self._view_3d.cameraNode().GetCamera()
        centre = np.array(camera.GetFocalPoint())
        camera.SetPosition(centre + np.array(direction))
        camera.SetViewUp(0, 0, 1)
        self._fit_3d()

    def _fit_3d(self) -> None:
        """The body in the middle, whatever else stands about (C-arm, handles); the direction stays."""
        view, bounds = self._view_3d, self.shown and self.shown.bounds
        if view is None or bounds is None:
            return
        renderer = view.renderWindow().GetRenderers().GetFirstRenderer()
        renderer.ResetCamera(bounds.ravel())
        renderer.ResetCameraClippingRange()
        self._fitted_from = _place_of(view)
        view.scheduleRender()

    @property
    def _is_as_fitted(self) -> bool:
        return self._fitted_from is not None and np.allclose(_place_of(self._view_3d), self._fitted_from)


def _place_of(view) -> np.ndarray:
    """(6,) where the camera of a 3D view is, and what it looks at, world RAS mm."""
    camera = view.cameraNode().GetCamera()
    return np.array([*camera.GetPosition(), *camera.GetFocalPoint()])


def _seen(renderer, points_ras) -> np.ndarray:
    """(n, 2) where points of world are in a view, as shares of it from its lower left corner."""
    place, seen = vtk.vtkCoordinate(), []
    place.SetCoordinateSystemToWorld()
    for point in points_ras:
        place.SetValue(*point)
        seen.append(place.GetComputedDoubleViewportValue(renderer))
    return np.array(seen) / renderer.GetSize()


def _label() -> vtk.vtkTextActor:
    """Words in an upper left corner."""
    actor = vtk.vtkTextActor()
    actor.SetTextScaleModeToNone()
    actor.GetPositionCoordinate().SetCoordinateSystemToNormalizedViewport()
    actor.SetPosition(0.015, 0.98)
    style = actor.GetTextProperty()
    style.SetFontSize(_LABEL_PIXELS)
    style.SetVerticalJustificationToTop()
    style.SetLineSpacing(1.2)
    style.SetShadow(True)
    style.SetBackgroundColor(0, 0, 0)
    style.SetBackgroundOpacity(0.45)
    return actor
