"""Tables of what is found and said of it: rates, verdicts, probabilities, predicted errors, seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from SOPIRegistrationLib.evaluation.cells import (
    count_of,
    head,
    median_of,
    number,
    rate_of,
    row_of,
    time_of,
)
from SOPIRegistrationLib.evaluation.figures import AXES
from SOPIRegistrationLib.evaluation.metrics import RIGHT_IN_PLANE_MM
from SOPIRegistrationLib.evaluation.series import Series

# Column of errors and the largest value, each.
Limits = Sequence[tuple[str, float]]
_PROBABILITIES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)


def summary_table(series: Sequence[Series], within: Mapping[str, Limits]) -> list[str]:
    """A line for each group and method: rates, medians, verdicts."""
    columns = {
        "rotation_deg": "rotation, deg",
        "in_plane_mm": "in plane, mm",
        "depth_mm": "depth, mm",
        "mtre_mm": "mTRE, mm",
        "mpd_object_mm": "mPD at the object, mm",
    }
    named = any(one.group for one in series)
    counted = any(within.values())
    heads = [*(["cases"] if named else []), "method", "n (errors)", "right, %", "failures, %"]
    heads += [*(["within limits, %"] if counted else []), *columns.values()]
    lines = head([*heads, "accepted, %", "wrong among accepted", "s (median)"])
    for one in series:
        cells = [*([one.group] if named else []), one.label, count_of(one)]
        cells += [rate_of(*one.rate("right", 0)), rate_of(*one.rate("failed", 1))]
        limits = within.get(one.group, ())
        if counted:
            cells.append(rate_of(*one.within(limits)) if limits else "")
        cells += [median_of(one.values(column)) for column in columns]
        lines.append(row_of(*cells, *_acceptance(one, limits), time_of(one, np.median)))
    said = {
        group: ", ".join(f"{column} at most {most:g}" for column, most in limits)
        for group, limits in within.items()
        if limits
    }
    notes = [f"Within limits{f', {group}' if group else ''}: {text}." for group, text in said.items()]
    return [*lines, "", "Medians [interval].", *notes]


def _acceptance(one: Series, limits: Limits) -> list[str]:
    """The share of verdicts that are accept, and how many of these are wrong: outside limits, where there are
    any, else not right."""
    judged, accepted, wrong = one.accepted()
    if not judged:
        return ["", ""]
    if limits:
        wrong = sum(
            any(float(row[column]) > most for column, most in limits)
            for row in one.solved
            if row["verdict"] == "accept"
        )
    known = one.is_judged or limits
    return [rate_of(accepted, judged), str(wrong) if known else ""]


def verdicts_table(series: Sequence[Series]) -> list[str]:
    """What is accepted, and by what right and wrong poses differ."""
    judged = [one for one in series if one.is_judged and one.accepted()[0]]
    if not judged:
        return []
    named = any(one.group for one in judged)
    heads = [*(["cases"] if named else []), "method", "verdicts", "accepted of the right ones, %"]
    heads += ["accepted though wrong", "of all wrong ones"]
    heads += ["correlation of right ones: least (median)", "of wrong ones: greatest", "share compared: least"]
    lines = head(heads)
    lines += [row_of(*([one.group] if named else []), one.label, *_verdict_cells(one)) for one in judged]
    return [*lines, "", "Correlation: of the locally normalised images (structural correlation)."]


def _verdict_cells(one: Series) -> list[str]:
    verdicts, _, wrong = one.accepted()
    rows = [row for row in one.solved if row["verdict"]]
    known = [row for row in rows if row["correlation"]]
    right, others = (
        np.array([float(row["correlation"]) for row in known if row["right"] == value]) for value in "10"
    )
    shares = [float(row["share"]) for row in rows if row["share"]]
    cells = [str(verdicts), rate_of(*one.accepted_of_right())]
    cells += [str(wrong), str(sum(row["right"] == "0" for row in rows))]
    cells += [f"{right.min():.3f} ({np.median(right):.3f})" if len(right) else ""]
    return [*cells, f"{others.max():.3f}" if len(others) else "", f"{min(shares):.2f}" if shares else ""]


def reliability_table(series: Sequence[Series]) -> list[str]:
    """How often poses are right that are given some probability of it."""
    rows = [row for one in series for row in one.solved if row["probability"] and row["right"]]
    if not rows:
        return []
    probability = np.array([float(row["probability"]) for row in rows])
    right = np.array([row["right"] == "1" for row in rows])
    lines = head(("probability of being right", "poses", "mean", "right, %"))
    for low, high in pairwise(_PROBABILITIES):
        inside = (probability >= low) & ((probability < high) | (high == 1))
        if inside.any():
            mean = f"{probability[inside].mean():.3f}"
            cells = f"{low:g} to {high:g}", str(inside.sum()), mean
            lines.append(row_of(*cells, rate_of(int(right[inside].sum()), int(inside.sum()))))
    return lines


def predicted_table(series: Sequence[Series]) -> list[str]:
    """Predicted errors against actual ones, of right poses."""
    lines = []
    named = any(one.group for one in series)
    for prefix, said in (("predicted", "predicted"), ("statistical", "statistical part")):
        for one in series:
            found = one.predicted(prefix)
            if found:
                cells = (f"{ratio:.2f}, {rate_of(held, count)}" for ratio, held, count in found.values())
                lines.append(row_of(*([one.group] if named else []), one.label, said, *cells))
    if not lines:
        return []
    heads = [*(["cases"] if named else []), "method", "predicted error"]
    heads += [axis.replace("_", ", ").replace("z, mm", "z (depth), mm") for axis in AXES]
    return [
        *head(heads),
        *lines,
        "",
        f"Of poses whose mPD is at most {RIGHT_IN_PLANE_MM:g} mm at the object, about and along the first "
        "camera's axes: the median of actual over predicted error (0.67 if normal), and how many 95 % "
        "intervals hold the truth, %.",
    ]


def seconds_table(series: Sequence[Series]) -> list[str]:
    """Seconds of the first registration of a process, which makes what is made once, and of a later one."""
    timed = [one for one in series if len(one.values("seconds_first"))]
    if not timed:
        return []
    named = any(one.group for one in timed)
    heads = [*(["cases"] if named else []), "method", "n", "first: median", "95th percentile"]
    lines = head([*heads, "later: median", "95th percentile"])
    for one in timed:
        cells = [*([one.group] if named else []), one.label, str(len(one.values("seconds_first")))]
        for column in ("seconds_first", "seconds"):
            values = one.values(column)
            cells += [median_of(values), number(float(np.percentile(values, 95)))]
        lines.append(row_of(*cells))
    return lines
