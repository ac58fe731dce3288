"""Markups, models and segments of the CT drawn where they project, over the X-ray and the fused picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import numpy_to_vtk

from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.scene.belongings import Shape, belongings, outline, shapes_of, stamp
from SOPIRegistrationLib.scene.frames import ras_from_pixels
from SOPIRegistrationLib.scene.layout import FUSION_VIEW, XRAY_VIEW, slice_node
from SOPIRegistrationLib.scene.view_props import ViewProps

_POINT_PIXELS, _LINE_PIXELS, _WORDS_PIXELS = 7, 2, 13
# Words stand to the right of what they name.
_BESIDE_PIXELS = 6
_NODE_EVENTS = (
    vtk.vtkCommand.ModifiedEvent,
    slicer.vtkMRMLDisplayableNode.DisplayModifiedEvent,
)


@dataclass(frozen=True)
class Drawn:
    """A shape as the X-ray's camera sees it.

    Attributes:
        shape: what it is of.
        pixels: (n, 2) of the X-ray (u, v).
        ends: (m, 2) indices of the pixels that lines join.
        marked: whether the pixels are marked one by one.
    """

    shape: Shape
    pixels: np.ndarray
    ends: np.ndarray
    marked: bool


def seen(shape: Shape, camera: Camera, T_lps_to_camera: np.ndarray) -> Drawn:
    """A shape as a camera sees it at a pose (4, 4); what is not in front of the source is left out."""
    if shape.surface is not None:
        source = se3.invert_rigid(T_lps_to_camera)[:3, 3]
        points, ends = outline(shape.surface, source)
    else:
        points = shape.points_lps
        ends = np.stack([np.arange(len(points) - 1), np.arange(1, len(points))], axis=-1)
        ends = ends if shape.joined else ends[:0]
    in_camera = points @ T_lps_to_camera[:3, :3].T + T_lps_to_camera[:3, 3]
    before = in_camera[:, 2] > 0
    pixels = np.full((len(points), 2), np.nan)
    pixels[before] = camera.project(in_camera[before])
    ends = ends[before[ends].all(axis=-1)] if len(ends) else ends
    return Drawn(shape, pixels, ends, marked=bool(shape.labels))


class Projected(slicer.util.VTKObservationMixin):
    """Draws what belongs to the CT into the slice views that lie on the detector.

    Args:
        scene: the MRML scene.
        layout_manager: where views are; None without a main window.
        on_changed: called when a node that is drawn, or the scene's list of them, has changed.
    """

    def __init__(self, scene, layout_manager, on_changed: Callable[[], None]):
        super().__init__()
        self._scene, self._on_changed = scene, on_changed
        self._props = {view: ViewProps(layout_manager, view) for view in (XRAY_VIEW, FUSION_VIEW)}
        self._shapes: list[Shape] = []
        self._read: tuple = ()
        self._camera: Camera | None = None
        self._frame: PoseFrame | None = None
        self.drawn: list[Drawn] = []

    def follow(self, transformNode, camera: Camera, frame: PoseFrame, left_out=()) -> None:
        """Read what a transform carries; what changes is told.

        Args:
            transformNode: the registration's transform.
            camera: of the X-ray.
            frame: its nominal view.
            left_out: nodes that are the module's own.
        """
        self._camera, self._frame = camera, frame
        nodes = belongings(self._scene, transformNode, left_out)
        read = tuple(stamp(node) for node in nodes)
        if read != self._read:
            self._shapes, self._read = [shape for node in nodes for shape in shapes_of(node)], read
        self.removeObservers()
        for node in nodes:
            events = (*_NODE_EVENTS, *_point_events(node))
            for event in events:
                self.addObserver(node, event, self._on_node)
        for event in (self._scene.NodeAddedEvent, self._scene.NodeRemovedEvent):
            self.addObserver(self._scene, event, self._on_node)
        for view in self._props:
            if (node := slice_node(self._scene, view)) is not None:
                self.addObserver(node, vtk.vtkCommand.ModifiedEvent, self._on_view)

    @property
    def is_following(self) -> bool:
        """Whether something is, or would be, drawn."""
        return self._camera is not None

    def draw(self, T_lps_to_camera: np.ndarray) -> None:
        """Draw at a pose (4, 4)."""
        if self._camera is not None:
            self.drawn = [seen(shape, self._camera, T_lps_to_camera) for shape in self._shapes]
            self._show()

    def remove(self) -> None:
        """Draw nothing, and follow nothing, any more."""
        self.removeObservers()
        self._shapes, self._read, self.drawn, self._camera = [], (), [], None
        for props in self._props.values():
            props.remove()

    def _on_node(self, *_) -> None:
        self._on_changed()

    def _on_view(self, *_) -> None:
        self._show()

    def _show(self) -> None:
        for view, props in self._props.items():
            node = slice_node(self._scene, view)
            if node is None:
                continue
            ras_to_xy = np.linalg.inv(slicer.util.arrayFromVTKMatrix(node.GetXYToRAS()))
            actors = []
            for drawn in self.drawn:
                ras = ras_from_pixels(drawn.pixels, self._camera, self._frame)
                xy = ras @ ras_to_xy[:2, :3].T + ras_to_xy[:2, 3]
                actors += _actors(drawn, xy)
            props.show(actors)


def _point_events(node) -> tuple:
    if not node.IsA("vtkMRMLMarkupsNode"):
        return ()
    return node.PointModifiedEvent, node.PointPositionDefinedEvent, node.PointRemovedEvent


def _actors(drawn: Drawn, xy: np.ndarray) -> list:
    """2D actors of a shape at (n, 2) pixels of a view."""
    shape, known = drawn.shape, np.isfinite(xy).all(axis=-1)
    actors = []
    if len(drawn.ends):
        actors.append(_mesh(xy, drawn.ends, shape.colour))
    if drawn.marked and known.any():
        actors.append(_mesh(xy[known], None, shape.colour))
        actors += [
            _words(label, at, shape.colour)
            for label, at, is_known in zip(shape.labels, xy, known, strict=True)
            if label and is_known
        ]
    if shape.name and len(drawn.ends):
        at = xy[np.unique(drawn.ends)]
        # At the right end, half way up.
        right = at[at[:, 0].argmax()]
        actors.append(_words(shape.name, right, shape.colour))
    return actors


def _mesh(xy: np.ndarray, ends: np.ndarray | None, colour) -> vtk.vtkActor2D:
    points, cells, data = vtk.vtkPoints(), vtk.vtkCellArray(), vtk.vtkPolyData()
    flat = np.zeros((len(xy), 3), dtype=np.float32)
    flat[:, :2] = np.nan_to_num(xy)
    points.SetData(numpy_to_vtk(flat, deep=True))
    data.SetPoints(points)
    size = 1 if ends is None else 2
    joined = np.arange(len(xy)) if ends is None else ends
    cells.SetData(size, numpy_to_vtk(np.ascontiguousarray(joined, dtype=np.int64).ravel(), deep=True))
    (data.SetVerts if ends is None else data.SetLines)(cells)
    mapper, actor = vtk.vtkPolyDataMapper2D(), vtk.vtkActor2D()
    mapper.SetInputData(data)
    actor.SetMapper(mapper)
    actor.GetProperty().SetColor(*colour)
    actor.GetProperty().SetLineWidth(_LINE_PIXELS)
    actor.GetProperty().SetPointSize(_POINT_PIXELS)
    return actor


def _words(text: str, at: np.ndarray, colour) -> vtk.vtkTextActor:
    actor = vtk.vtkTextActor()
    actor.SetInput(text)
    actor.SetTextScaleModeToNone()
    actor.SetPosition(at[0] + _BESIDE_PIXELS, at[1])
    style = actor.GetTextProperty()
    style.SetFontSize(_WORDS_PIXELS)
    style.SetColor(*colour)
    style.SetShadow(True)
    return actor
