"""The plot of tracked poses: a coordinate over the frames, whose points select a frame and can be dragged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from SOPIRegistrationLib.panel.messages import errors_shown

# What theta is made of, as the sliders are called, with the units that are plotted.
COORDINATES = (
    *((f"Rotation {axis}", "deg") for axis in "xyz"),
    *((name, "mm") for name in ("Shift x", "Shift y", "Depth z")),
)
_HEIGHT_PX = 230
_VIEW, _FRAME = "SOPITrack", "frame"
_DOUBTED_COLOUR, _CURSOR_COLOUR = (0.1, 0.1, 0.1), (0.55, 0.55, 0.55)


@dataclass(frozen=True)
class Curve:
    """One coordinate of a body.

    Attributes:
        values: (frames,) deg or mm; NaN where it is lost.
        doubted: numbers of the frames to be looked at, from 1.
        colour: (3,) 0 to 1.
    """

    values: np.ndarray
    doubted: Sequence[int]
    colour: tuple[float, float, float]


class TrackPlot(slicer.util.VTKObservationMixin):
    """A plot view of the application in a place of the panel.

    Its points are moved by the application itself, which writes where they go into the table of the plot.

    Args:
        place: widget that holds it.
        on_frame: told the number of the frame whose point was chosen, from 1.
        on_moved: told (body, frame, value) where a point was left, deg or mm.
    """

    def __init__(self, place, on_frame: Callable[[int], None], on_moved: Callable[[str, int, float], None]):
        super().__init__()
        self._on_frame, self._on_moved = on_frame, on_moved
        self._widget = slicer.qMRMLPlotWidget()
        self._widget.setMinimumHeight(_HEIGHT_PX)
        self._place, self._drags = place, False
        place.layout().addWidget(self._widget)
        place.visible = False
        self.view = self._widget.plotView()
        self.view.connect("dataSelected(vtkStringArray*,vtkCollection*)", self._on_selected)
        self._scene = self._view_node = self._chart = None
        self._tables: list = []
        self._bodies: dict[str, str] = {}
        self._shown, self._changed = np.empty((0, 0)), False

    def clear(self) -> None:
        """Show nothing."""
        self.removeObservers()
        self._place.visible = False
        for node in self._nodes():
            self._scene.RemoveNode(node)
        self._chart, self._tables, self._bodies = None, [], {}
        self._shown = np.empty((0, 0))

    def let_drag(self, drags: bool) -> None:
        """Whether points can be dragged; otherwise a drag moves the picture. A click chooses a point."""
        self._drags = drags
        if self._view_node is not None:
            modes = slicer.vtkMRMLPlotViewNode
            mode = modes.InteractionModeMovePoints if drags else modes.InteractionModePanView
            self._view_node.SetInteractionMode(mode)

    def show(self, scene, owner, coordinate: int, curves: Mapping[str, Curve], number: int) -> None:
        """Show curves.

        Args:
            scene: the MRML scene.
            owner: node whose view it is, not the layout's.
            coordinate: which of :data:`COORDINATES`.
            curves: by the body's name.
            number: of the frame that is looked at.
        """
        if self._chart is None or any(node.GetScene() is not scene for node in self._nodes()):
            self._make(scene, owner)
        self.removeObservers()
        name, unit = COORDINATES[coordinate]
        columns, before = _columns(curves), len(self._shown)
        self._shown = np.column_stack(list(columns.values()))
        count = len(self._shown)
        points, cursor = self._tables
        _fill(points, {_FRAME: np.arange(1.0, count + 1), **columns})
        known = self._shown[np.isfinite(self._shown)]
        low, high = (known.min(), known.max()) if len(known) else (0.0, 1.0)
        _fill(cursor, {_FRAME: np.full(2, float(number)), "shown": np.array([low, high])})
        self._lay_out_series(curves, columns)
        chart = self._chart
        modified = chart.StartModify()
        chart.SetYAxisTitle(f"{name}, {unit}")
        if count != before:
            # Points on the frame of the picture would be out of the mouse's reach.
            chart.SetXAxisRange(0.5, count + 0.5)
        # The view looks at tables anew when the chart is another one.
        chart.Modified()
        chart.EndModify(modified)
        self._place.visible = True
        self.addObserver(points, "ModifiedEvent", self._on_table)
        self._changed = False

    def _nodes(self) -> list:
        """The nodes of the plot that are in the scene."""
        if self._chart is None:
            return []
        series = [
            self._chart.GetNthPlotSeriesNode(n) for n in range(self._chart.GetNumberOfPlotSeriesNodes())
        ]
        return [node for node in (*series, *self._tables, self._chart) if node is not None]

    def _make(self, scene, owner) -> None:
        """The nodes of the plot; made anew of a track, they are not saved."""
        self.clear()
        self._scene = scene
        view = scene.GetSingletonNode(_VIEW, "vtkMRMLPlotViewNode")
        if view is None:
            view = slicer.vtkMRMLPlotViewNode()
            view.SetSingletonTag(_VIEW)
            view.SetLayoutName(_VIEW)
            view.SetLayoutLabel("T")
            view = scene.AddNode(view)
        # The layout manager leaves alone what another node owns.
        view.SetAndObserveParentLayoutNodeID(owner.GetID())
        view.SaveWithSceneOff()
        self._view_node = view
        self._tables = [_hidden(scene, "vtkMRMLTableNode", name) for name in ("Track plot", "Track frame")]
        self._chart = _hidden(scene, "vtkMRMLPlotChartNode", "Track plot")
        self._chart.SetTitleVisibility(False)
        self._chart.SetXAxisTitle(_FRAME)
        self._chart.SetAxisTitleFontSize(12)
        # It would hide points; the bodies' colours are in their table, their names in the points' tips.
        self._chart.SetLegendVisibility(False)
        self._chart.SetXAxisRangeAuto(False)
        self._chart.SetEnablePointMoveAlongX(False)
        self._chart.SetEnablePointMoveAlongY(True)
        view.SetEnablePointMoveAlongY(True)
        self._widget.setMRMLScene(scene)
        self._widget.setMRMLPlotViewNode(view)
        view.SetPlotChartNodeID(self._chart.GetID())
        self.let_drag(self._drags)

    def _lay_out_series(self, curves: Mapping[str, Curve], columns: Mapping[str, np.ndarray]) -> None:
        """A series for each column of the table, and one for the frame looked at, below them."""
        wanted = ["frame shown", *columns]
        known = {
            node.GetName(): node
            for node in map(self._chart.GetNthPlotSeriesNode, range(self._chart.GetNumberOfPlotSeriesNodes()))
        }
        if list(known) != wanted:
            self._chart.RemoveAllPlotSeriesNodeIDs()
            for node in known.values():
                self._scene.RemoveNode(node)
            known = {name: _hidden(self._scene, "vtkMRMLPlotSeriesNode", name) for name in wanted}
        self._bodies = {}
        for name, series in known.items():
            modified = series.StartModify()
            _style_of(series, name, self._tables, curves)
            series.EndModify(modified)
            if name in columns:
                self._bodies[series.GetID()] = _body_of(name, curves)
            if not self._chart.HasPlotSeriesNodeID(series.GetID()):
                self._chart.AddAndObservePlotSeriesNodeID(series.GetID())

    def _on_selected(self, series_ids, selections) -> None:
        """Points were chosen: by a click, or at the beginning of a drag; none at its end."""
        with errors_shown():
            for item in range(series_ids.GetNumberOfValues()):
                indices = selections.GetItemAsObject(item)
                if series_ids.GetValue(item) in self._bodies and indices.GetNumberOfValues():
                    self._on_frame(int(indices.GetValue(0)) + 1)
                    return
            self._on_released()

    def _on_table(self, *_) -> None:
        self._changed = True

    def _on_released(self) -> None:
        if not self._changed:
            return
        self._changed = False
        table = self._tables[0].GetTable()
        values = np.column_stack(
            [vtk_to_numpy(table.GetColumn(column + 1)) for column in range(self._shown.shape[1])]
        )
        apart = np.abs(np.where(np.isnan(values - self._shown), 0.0, values - self._shown))
        row, column = np.unravel_index(apart.argmax(), apart.shape)
        if apart[row, column] > 0:
            body = list(self._bodies.values())[column]
            self._on_moved(body, int(row) + 1, float(values[row, column]))


def _columns(curves: Mapping[str, Curve]) -> dict[str, np.ndarray]:
    """(frames,) by the name of a series: the curves, and their points that are to be looked at."""
    found = {}
    for name, curve in curves.items():
        found[name] = curve.values
    for name, curve in curves.items():
        marked = np.full(len(curve.values), np.nan)
        rows = np.array(curve.doubted, dtype=int) - 1
        marked[rows] = curve.values[rows]
        if len(rows):
            found[_doubted(name)] = marked
    return found


def _doubted(name: str) -> str:
    return f"{name}: review"


def _body_of(column: str, curves: Mapping[str, Curve]) -> str:
    return column if column in curves else next(name for name in curves if _doubted(name) == column)


def _style_of(series, name: str, tables, curves: Mapping[str, Curve]) -> None:
    """What a series shows and how."""
    kind, (points, cursor) = type(series), tables
    is_cursor, is_curve = name == "frame shown", name in curves
    series.SetAndObserveTableNodeID((cursor if is_cursor else points).GetID())
    series.SetXColumnName(_FRAME)
    series.SetYColumnName("shown" if is_cursor else name)
    series.SetPlotType(kind.PlotTypeScatter)
    series.SetLineStyle(kind.LineStyleSolid if is_curve or is_cursor else kind.LineStyleNone)
    circle = kind.MarkerStyleCircle if is_curve else kind.MarkerStyleSquare
    series.SetMarkerStyle(kind.MarkerStyleNone if is_cursor else circle)
    series.SetMarkerSize(7 if is_curve else 9)
    series.SetLineWidth(1.0)
    colour = _CURSOR_COLOUR if is_cursor else curves[name].colour if is_curve else _DOUBTED_COLOUR
    series.SetColor(*colour)


def _hidden(scene, class_name: str, name: str):
    """A node that no list shows and no scene keeps."""
    node = scene.CreateNodeByClass(class_name)
    node.UnRegister(None)
    node.SetName(name)
    node.HideFromEditorsOn()
    node.SaveWithSceneOff()
    return scene.AddNode(node)


def _fill(tableNode, columns: Mapping[str, np.ndarray]) -> None:
    """Give a table node its columns, as one change."""
    table = vtk.vtkTable()
    for name, values in columns.items():
        column = numpy_to_vtk(np.ascontiguousarray(values, dtype=np.float64), deep=True)
        column.SetName(name)
        table.AddColumn(column)
    tableNode.SetAndObserveTable(table)
