"""A plot view: a real chart that follows its nodes as the application's does."""

from __future__ import annotations

import numpy as np
import slicer
import vtk
from PySide6 import QtCore, QtWidgets
from vtk.util.numpy_support import vtk_to_numpy

_LINES = {"Solid": vtk.vtkPen.SOLID_LINE, "None": vtk.vtkPen.NO_PEN}


class PlotView(QtWidgets.QWidget):
    """qMRMLPlotView: draws the series of the chart node that its view node shows.

    Modes, marks and signals are those of the application's view; a drag of a point is the chart's own.
    """

    dataSelected = QtCore.Signal(object, object)

    def __init__(self, parent=None):
        QtWidgets.QWidget.__init__(self, parent)
        self._view = vtk.vtkContextView()
        self._view.GetRenderWindow().SetOffScreenRendering(True)
        self._view.GetRenderWindow().SetSize(440, 220)
        self._chart = vtk.vtkChartXY()
        self._view.GetScene().AddItem(self._chart)
        self._chart.AddObserver("SelectionChangedEvent", self._on_selection)
        self._scene = self._node = self._chart_node = None
        self._observed: list = []
        self._plots: dict[str, vtk.vtkPlotLine] = {}

    def chart(self):
        return self._chart

    def renderWindow(self):
        return self._view.GetRenderWindow()

    def setMRMLScene(self, scene):
        self._scene = scene
        if scene is None:
            self.setMRMLPlotViewNode(None)

    def setMRMLPlotViewNode(self, node):
        self._node = node
        self._follow()

    def _follow(self, *_):
        for observed, tag in self._observed:
            observed.RemoveObserver(tag)
        chart = self._chart_node = None if self._node is None else self._node.GetPlotChartNode()
        events = [(self._node, "ModifiedEvent", self._update), (chart, "ModifiedEvent", self._update)]
        events.append((self._node, slicer.vtkMRMLPlotViewNode.PlotChartNodeChangedEvent, self._follow))
        self._observed = [(node, node.AddObserver(e, f)) for node, e, f in events if node is not None]
        self._update()

    def _update(self, *_):
        """The chart as the nodes have it."""
        if self._node is None:
            return
        chart, mouse, node = vtk.vtkChart, vtk.vtkContextMouseEvent, self._chart_node
        moves = self._node.GetInteractionMode() == slicer.vtkMRMLPlotViewNode.InteractionModeMovePoints
        self._chart.SetClickActionToButton(chart.SELECT, mouse.NO_BUTTON if moves else mouse.LEFT_BUTTON)
        self._chart.SetActionToButton(chart.CLICK_AND_DRAG if moves else chart.PAN, mouse.LEFT_BUTTON)
        if node is None:
            self._chart.ClearPlots()
            self._plots.clear()
            return
        for axis in "XY":
            both = [getattr(one, f"GetEnablePointMoveAlong{axis}")() for one in (self._node, node)]
            getattr(self._chart, f"SetDragPointAlong{axis}")(all(both))
        wanted = [node.GetNthPlotSeriesNode(n) for n in range(node.GetNumberOfPlotSeriesNodes())]
        wanted = {series.GetID(): series for series in wanted if series is not None}
        for name in [name for name in self._plots if name not in wanted]:
            self._chart.RemovePlotInstance(self._plots.pop(name))
        for name, series in wanted.items():
            self._draw(name, series)
        self._chart.SetShowLegend(node.GetLegendVisibility())
        for axis, name in ((vtk.vtkAxis.BOTTOM, "X"), (vtk.vtkAxis.LEFT, "Y")):
            if not getattr(node, f"Get{name}AxisRangeAuto")():
                self._chart.GetAxis(axis).SetBehavior(vtk.vtkAxis.FIXED)
                self._chart.GetAxis(axis).SetRange(*getattr(node, f"Get{name}AxisRange")())
        self._chart.GetAxis(vtk.vtkAxis.LEFT).SetTitle(node.GetYAxisTitle() or "")
        self._chart.GetAxis(vtk.vtkAxis.BOTTOM).SetTitle(node.GetXAxisTitle() or "")

    def _draw(self, name, series):
        table = series.GetTableNode().GetTable()
        if table.GetColumnByName(series.GetYColumnName()) is None:
            return
        if name not in self._plots:
            self._plots[name] = vtk.vtkPlotLine()
            self._chart.AddPlot(self._plots[name])
        plot = self._plots[name]
        plot.SetInputData(table, series.GetXColumnName(), series.GetYColumnName())
        plot.SetLabel(series.GetName())
        plot.SetColorF(*series.GetColor())
        plot.SetWidth(series.GetLineWidth())
        plot.GetPen().SetLineType(_LINES[series.GetLineStyleAsString(series.GetLineStyle()).capitalize()])
        marks = {"none": 0, "cross": 1, "plus": 2, "square": 3, "circle": 4, "diamond": 5}
        plot.SetMarkerStyle(marks[series.GetMarkerStyleAsString(series.GetMarkerStyle())])
        plot.SetMarkerSize(series.GetMarkerSize())

    def _on_selection(self, *_):
        names, selections = vtk.vtkStringArray(), vtk.vtkCollection()
        for name, plot in self._plots.items():
            if plot.GetSelection() is not None and plot.GetSelection().GetNumberOfValues() > 0:
                names.InsertNextValue(name)
                selections.AddItem(plot.GetSelection())
        self.dataSelected.emit(names, selections)

    # For tests

    def _pixels(self) -> np.ndarray:
        """(rows, columns, 3) uint8, first row on top."""
        self._view.Render()
        grab = vtk.vtkWindowToImageFilter()
        grab.SetInput(self._view.GetRenderWindow())
        grab.ReadFrontBufferOff()
        grab.Update()
        width, height = self._view.GetRenderWindow().GetSize()
        pixels = vtk_to_numpy(grab.GetOutput().GetPointData().GetScalars()).reshape(height, width, -1)
        return pixels[::-1, :, :3].copy()

    def _at(self, x: float, y: float) -> tuple[int, int]:
        """Where a point of the chart is in the view, pixels from below."""
        self._view.Render()
        found = []
        for number, (axis, value) in enumerate(
            ((self._chart.GetAxis(vtk.vtkAxis.BOTTOM), x), (self._chart.GetAxis(vtk.vtkAxis.LEFT), y))
        ):
            low, high = axis.GetMinimum(), axis.GetMaximum()
            begin, end = axis.GetPoint1()[number], axis.GetPoint2()[number]
            found.append(round(begin + (value - low) / (high - low) * (end - begin)))
        return found[0], found[1]

    def _mouse(self, places, release: bool = True) -> None:
        """Press the left button at the first of some places, move through the others, release it."""
        interactor = self._view.GetInteractor()
        events = ["MouseMoveEvent", "LeftButtonPressEvent", *["MouseMoveEvent"] * (len(places) - 1)]
        places = [places[0], *places]
        if release:
            events.append("LeftButtonReleaseEvent")
            places.append(places[-1])
        for event, (x, y) in zip(events, places, strict=True):
            interactor.SetEventInformation(x, y, 0, 0, chr(0), 0, None)
            getattr(interactor, event)()


class PlotWidget(QtWidgets.QWidget):
    """qMRMLPlotWidget: a plot view under its controller."""

    _view_class = PlotView

    def __init__(self, parent=None):
        QtWidgets.QWidget.__init__(self, parent)
        self._view, self._node = self._view_class(), None

    def setMRMLScene(self, scene):
        self._view.setMRMLScene(scene)

    def setMRMLPlotViewNode(self, node):
        self._node = node
        self._view.setMRMLPlotViewNode(node)

    def mrmlPlotViewNode(self):
        return self._node

    def plotView(self):
        return self._view
