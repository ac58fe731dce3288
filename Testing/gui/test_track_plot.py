"""The plot of tracked poses by itself: what it shows, points that select a frame, points that are dragged."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture
def plot(host, widget):
    """A plot with two curves, in the application's scene; what it tells is kept."""
    import qt
    import slicer
    from SOPIRegistrationLib.panel.track_plot import Curve, TrackPlot

    place = qt.QFrame()
    place.setLayout(qt.QVBoxLayout())
    chosen, moved = [], []
    made = TrackPlot(place, chosen.append, lambda *what: moved.append(what))
    made.chosen, made.moved, made.place = chosen, moved, place
    made.at = lambda x, y: host.place_in_plot(made.view, x, y)
    made.drag = lambda *places, **how: host.drag_in_plot(made.view, *places, **how)
    curves = {
        "femur": Curve(np.array([1.0, 2.0, np.nan, 3.0, 4.0]), [4], (0.9, 0.1, 0.1)),
        "tibia": Curve(np.array([-1.0, -2.0, -3.0, -2.0, -1.0]), [], (0.1, 0.1, 0.9)),
    }
    owner = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScriptedModuleNode", "owner")
    made.draw = lambda **changes: made.show(host.scene, owner, 5, {**curves, **changes}, 2)
    made.draw()
    yield made
    made.clear()


def series(plot) -> dict:
    import slicer

    return {one.GetName(): one for one in slicer.util.getNodesByClass("vtkMRMLPlotSeriesNode")}


def test_the_curves_and_what_is_to_be_looked_at(plot, host):
    import slicer

    assert list(series(plot)) == ["frame shown", "femur", "tibia", "femur: review"]
    assert plot.place.visible
    [chart] = slicer.util.getNodesByClass("vtkMRMLPlotChartNode")
    assert chart.GetYAxisTitle() == "Depth z, mm"
    assert not chart.GetLegendVisibility()
    # Made anew of a track, it is not in a saved scene.
    assert not any(one.GetSaveWithScene() for one in (*series(plot).values(), chart))
    pixels = host.plot_pixels(plot.view).reshape(-1, 3).astype(int)
    assert (np.abs(pixels - [230, 26, 26]).max(axis=1) < 30).sum() > 30
    assert (np.abs(pixels - [26, 26, 230]).max(axis=1) < 30).sum() > 30


def test_a_click_selects_the_frame(plot):
    plot.drag(plot.at(4, 3.0))
    assert set(plot.chosen) == {4}
    plot.drag(plot.at(1, -1.0))
    assert plot.chosen[-1] == 1
    assert plot.moved == []


def test_a_point_is_dragged_up_and_down_only(plot):
    plot.let_drag(True)
    begin, end = plot.at(2, -2.0), plot.at(3, 0.5)
    plot.drag(begin, end)
    assert plot.chosen == [2]
    [(body, frame, value)] = plot.moved
    assert (body, frame) == ("tibia", 2)
    assert value == pytest.approx(0.5, abs=0.1)


def test_a_point_is_dragged_from_where_it_was_drawn_last(plot):
    from SOPIRegistrationLib.panel.track_plot import Curve

    plot.let_drag(True)
    plot.drag(plot.at(2, -2.0), plot.at(2, 0.5))
    plot.draw(tibia=Curve(np.array([-1.0, 0.5, -3.0, -2.0, -1.0]), [], (0.1, 0.1, 0.9)))
    plot.drag(plot.at(2, 0.5), plot.at(2, -0.5))
    (body, frame, value) = plot.moved[-1]
    assert (len(plot.moved), body, frame) == (2, "tibia", 2)
    assert value == pytest.approx(-0.5, abs=0.1)


def test_nothing_is_told_before_the_button_is_released(plot):
    plot.let_drag(True)
    plot.drag(plot.at(5, 4.0), plot.at(5, 3.0), release=False)
    assert plot.moved == []


def test_without_permission_a_drag_moves_no_point(plot):
    plot.drag(plot.at(2, -2.0), plot.at(2, 0.5))
    assert plot.moved == []


def test_shown_anew_it_has_the_same_nodes(plot):
    from SOPIRegistrationLib.panel.track_plot import Curve

    before = series(plot)
    plot.draw()
    assert series(plot) == before
    plot.draw(femur=Curve(np.arange(5.0), [], (0.9, 0.1, 0.1)))
    assert list(series(plot)) == ["frame shown", "femur", "tibia"]
    plot.clear()
    assert series(plot) == {}
    assert not plot.place.visible
