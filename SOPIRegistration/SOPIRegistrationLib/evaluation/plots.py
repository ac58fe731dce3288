"""Plots of an evaluation (PNG): errors, capture range, time against error."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from SOPIRegistrationLib.evaluation.metrics import SUCCESS_MTRE_MM
from SOPIRegistrationLib.evaluation.series import SMALLEST_SHOWN, Series

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ERRORS = {"rotation_deg": "rotation, deg", "in_plane_mm": "in plane, mm"} | {
    "depth_mm": "depth, mm",
    "mtre_mm": "mTRE, mm",
}


def plots(series: Sequence[Series]) -> dict[str, bytes]:
    """Pictures (PNG) by file name, of what has a known truth."""
    known = [one for one in series if one.has_truth]
    if not known:
        return {}
    from matplotlib import colormaps

    palette = colormaps["tab10" if len(known) <= 10 else "tab20"].colors
    colours = {one.name: palette[number % len(palette)] for number, one in enumerate(known)}
    pictures = {
        "errors.png": _png(_boxes(known, colours)),
        "capture_range.png": _png(_capture_ranges(known, colours)),
    }
    if timed := [one for one in known if one.is_timed]:
        pictures["time_and_error.png"] = _png(_times(timed, colours))
    return pictures


def _boxes(series: Sequence[Series], colours: dict) -> Figure:
    """Errors of each method: median, quartiles, 5th and 95th percentile, outliers."""
    from matplotlib.figure import Figure

    figure = Figure((13, 1.2 + 0.3 * len(series)), layout="constrained")
    places = range(len(series))
    for axes, (column, title) in zip(
        figure.subplots(1, len(_ERRORS), sharey=True), _ERRORS.items(), strict=True
    ):
        values = [np.maximum(one.values(column), SMALLEST_SHOWN) for one in series]
        boxes = axes.boxplot(
            values,
            positions=places,
            orientation="horizontal",
            patch_artist=True,
            whis=(5, 95),
            flierprops={"markersize": 3},
        )
        for box, middle, one in zip(boxes["boxes"], boxes["medians"], series, strict=True):
            box.set(facecolor=(*colours[one.name], 0.5))
            middle.set(color="black")
        axes.set(xscale="log", xlabel=title)
        axes.grid(axis="x", alpha=0.3)
        _plain_numbers(axes.xaxis)
    first = figure.axes[0]
    first.set_yticks(places, [f"{one.label}, n = {len(one.solved)}" for one in series], fontsize=8)
    first.invert_yaxis()
    return figure


def _capture_ranges(series: Sequence[Series], colours: dict) -> Figure:
    """Share of successes among the cases that start up to so far away."""
    from matplotlib.figure import Figure

    figure = Figure((8, max(4.5, 0.8 + 0.22 * len(series))), layout="constrained")
    axes = figure.subplots()
    # Curves often coincide: what lies below shows on both sides of what lies above.
    for one, width in zip(series, np.linspace(6, 1.2, len(series)), strict=True):
        rows = [row for row in one.rows if row["start_mtre_mm"]]
        start = np.array([float(row["start_mtre_mm"]) for row in rows])
        good = np.array([row["succeeded"] == "1" for row in rows])
        order = np.argsort(start)
        rate = np.cumsum(good[order]) / np.arange(1, len(order) + 1)
        axes.plot(
            start[order],
            100 * rate,
            color=colours[one.name],
            drawstyle="steps-post",
            linewidth=width,
            label=one.label,
        )
    axes.set(xlabel="starting mTRE up to, mm", ylabel=f"success (mTRE <= {SUCCESS_MTRE_MM:g} mm), %")
    axes.set_ylim(-3, 103)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return figure


def _times(series: Sequence[Series], colours: dict) -> Figure:
    """Seconds and mTRE of every case, and each method's medians."""
    from matplotlib.figure import Figure

    figure = Figure((8, max(4.5, 0.8 + 0.22 * len(series))), layout="constrained")
    axes = figure.subplots()
    for one in series:
        rows = [row for row in one.solved if row["mtre_mm"]]
        seconds, mtre = (np.array([float(row[name]) for row in rows]) for name in ("seconds", "mtre_mm"))
        mtre = np.maximum(mtre, SMALLEST_SHOWN)
        colour = colours[one.name]
        axes.scatter(seconds, mtre, s=10, color=colour, alpha=0.4, linewidths=0)
        middle = np.median(seconds), np.median(mtre)
        axes.scatter(*middle, s=90, color=colour, edgecolors="black", label=one.label)
    axes.set(xscale="log", yscale="log", xlabel="seconds a registration", ylabel="mTRE, mm")
    axes.grid(alpha=0.3, which="both")
    for axis in (axes.xaxis, axes.yaxis):
        _plain_numbers(axis)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8, title="large: medians")
    return figure


def _plain_numbers(axis) -> None:
    """Numbers as 0.2, 5, 10 along a logarithmic axis."""
    from matplotlib.ticker import LogLocator, NullFormatter

    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1.0,) if high > 1000 * low else (1.0, 2.0, 5.0)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())
    axis.set_tick_params(labelsize=8)


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, dpi=110)
    return stream.getvalue()
