"""How the module's test of itself looks at the panel and at the views."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

_PATIENCE_S = 60.0


class Watching:
    """Waits for the panel, and reads pixels back from the views.

    Args:
        widget: the module's widget, opened (``slicer.modules.SOPIRegistrationWidget``).
    """

    def __init__(self, widget):
        self.widget = widget

    @property
    def ui(self):
        return self.widget.ui

    @property
    def session(self):
        return self.widget.panel.session

    @staticmethod
    def pump(seconds: float) -> None:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            slicer.app.processEvents()

    def wait(self, until: Callable[[], bool] | None = None) -> None:
        """Until the panel is at rest, or something holds."""
        end = time.perf_counter() + _PATIENCE_S
        slicer.app.processEvents()
        while (self.widget.panel.is_busy if until is None else not until()) and time.perf_counter() < end:
            slicer.app.processEvents()
        assert time.perf_counter() < end, f"still busy after {_PATIENCE_S:.0f} s"

    def view(self, name: str):
        return slicer.app.layoutManager().sliceWidget(name).sliceView()

    def size(self, name: str) -> np.ndarray:
        return np.array(self.view(name).renderWindow().GetSize())

    def xy(self, name: str, ras) -> np.ndarray:
        """(2,) where a point of world is in a slice view, pixels from its lower left corner."""
        node = slicer.app.layoutManager().sliceWidget(name).mrmlSliceNode()
        return np.linalg.solve(slicer.util.arrayFromVTKMatrix(node.GetXYToRAS()), [*ras, 1.0])[:2]

    def pixels(self, name: str) -> np.ndarray:
        return shown_pixels(self.view(name))

    def pixels_3d(self) -> np.ndarray:
        return shown_pixels(slicer.app.layoutManager().threeDWidget(0).threeDView())

    def middle(self, name: str) -> np.ndarray:
        pixels = self.pixels(name)
        height, width = pixels.shape[:2]
        return pixels[height // 3 : 2 * height // 3, width // 3 : 2 * width // 3]

    def body_box(self) -> tuple[np.ndarray, np.ndarray]:
        """(lower left, upper right) of the body's box in the 3D view, as shares of the view."""
        bounds = np.zeros(6)
        self.session.views.shown.bodies[0].GetRASBounds(bounds)
        view = slicer.app.layoutManager().threeDWidget(0).threeDView()
        renderer = view.renderWindow().GetRenderers().GetFirstRenderer()
        place, seen = vtk.vtkCoordinate(), []
        place.SetCoordinateSystemToWorld()
        for corner in np.array(np.meshgrid(*bounds.reshape(3, 2))).reshape(3, -1).T:
            place.SetValue(*corner)
            seen.append(place.GetComputedDoubleViewportValue(renderer))
        seen = np.array(seen) / view.renderWindow().GetSize()
        return seen.min(axis=0), seen.max(axis=0)


def contrast_of(pixels: np.ndarray) -> float:
    return float(pixels.mean(axis=-1).std())


def shown_pixels(view) -> np.ndarray:
    """(rows, columns, 3) uint8: the pixels of a view, first row on top."""
    view.forceRender()
    # As the application's own Screen Capture does it.
    grab = vtk.vtkWindowToImageFilter()
    grab.SetInput(view.renderWindow())
    grab.Update()
    image = grab.GetOutput()
    columns, rows, _ = image.GetDimensions()
    return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(rows, columns, -1)[::-1, :, :3]
