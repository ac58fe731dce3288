"""Tables in the layouts of papers, with their figures beside ours."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from SOPIRegistrationLib.evaluation import published
from SOPIRegistrationLib.evaluation.cells import (
    count_of,
    head,
    mean_of,
    median_of,
    number,
    rate_of,
    row_of,
    time_of,
)
from SOPIRegistrationLib.evaluation.figures import AXES, axis_errors
from SOPIRegistrationLib.evaluation.methods import METHODS
from SOPIRegistrationLib.evaluation.metrics import SUCCESS_MTRE_MM
from SOPIRegistrationLib.evaluation.series import Series

# The two results between which the SOPI reference code chooses by the truth.
_ASSISTED = ("rtpi", "sopi")
_SUM_HEADS = ("rotation: sum of 3 axes, deg", "translation: sum of 3 axes, mm")
_SIMILARITY_HEADS = ("NCC", "SSIM", "CSS", "accepted, % (of them failed)")


def table_1(series: Sequence[Series], settings: dict) -> list[str]:
    """As in Table 1 of the SOPI paper: simulated X-rays."""
    said = {
        name: (row.rotation_deg, row.translation_mm, row.failure, row.seconds)
        for name, row in published.TABLE_1.items()
    }
    lines = means_table(
        _with_missing(series, said),
        settings,
        ("paper: rotation, deg", "translation, mm", "failure, %", "time, s"),
        said,
    )
    note = published.SOPI_CONDITIONS
    if settings["protocol"] == "wide":
        note += " Its poses are drawn from the numbers of protocol `paper`, whichever way it read them."
    return [*lines, "", f"Paper: {published.SOPI}. {note}"]


def _with_missing(series: Sequence[Series], names: Iterable[str]) -> list[Series]:
    """The methods that have rows and, without any, those a paper has."""
    known = {one.name: one for one in series} | {
        name: Series(name, []) for name in names if all(one.name != name for one in series)
    }
    order = list(dict.fromkeys([*METHODS, *known]))
    return [known[name] for name in order if name in known]


def means_table(
    series: Sequence[Series],
    settings: dict | None = None,
    paper_heads: Sequence[str] = (),
    said: dict[str, tuple[str, ...]] | None = None,
) -> list[str]:
    """Means in the papers' columns, a paper's own figures beside them."""
    heads = ("Method", "n (errors)", "Rotation, deg", "Translation, mm", "Failure rate, %", "Reg. time, s")
    lines = head((*heads, *paper_heads))
    for one in series:
        ours = (
            count_of(one, settings or {}),
            mean_of(one.values("rotation_deg")),
            mean_of(one.values("translation_mm")),
            rate_of(*one.rate("failed", 1)),
            time_of(one, np.mean),
        )
        lines.append(row_of(one.label, *ours, *(said or {}).get(one.name, [""] * len(paper_heads))))
    return [*lines, "", "Means ± standard deviations [interval of the mean]."]


def table_2(series: Sequence[Series], settings: dict) -> list[str]:
    """As in Table 2 of the SOPI paper: the ablation."""
    known = {one.name: one for one in series}
    heads = ("RTPI", "composite encoder", "mask loss", "method", "n (errors)")
    heads += ("Rotation, deg", "Translation, mm", "paper: rotation, deg", "translation, mm")
    lines = head(heads)
    for name, row in published.TABLE_2.items():
        one = known.get(name, Series(name, []))
        parts = ("yes" if part else "no" for part in (row.rtpi, row.composite_encoder, row.mask_loss))
        ours = (mean_of(one.values("rotation_deg")), mean_of(one.values("translation_mm")))
        lines.append(
            row_of(
                *parts,
                f"{one.label} (`{name}`)",
                count_of(one, settings),
                *ours,
                row.rotation_deg,
                row.translation_mm,
            )
        )
    return [
        *lines,
        "",
        "Parts are those of the paper's rows; ours compare without the mask unless their name has it.",
        "",
        f"Paper: {published.SOPI}.",
    ]


def table_3(series: Sequence[Series]) -> list[str]:
    """As in Table 3 of the SOPI paper: real X-rays."""
    heads = ("Method", "n (errors)", "DistErr, mm", "NCC", "rx, deg", "ry, deg", "rz, deg")
    lines = head((*heads, "tx, mm", "ty, mm", "tz (depth), mm", "Reg. time, s"))
    known = {one.name: one for one in series}
    for one in _with_missing(series, published.TABLE_3):
        if one.name in known:
            errors = np.array([axis_errors(row) for row in one.solved if row["mtre_mm"]])
            axes = [number(value) for value in errors.mean(axis=0)] if len(errors) else [""] * 6
            figures = (one.values(name) for name in ("mpd_object_mm", "ncc"))
            cells = [number(values.mean()) if len(values) else "" for values in figures]
            lines.append(row_of(one.label, count_of(one), *cells, *axes, time_of(one, np.mean)))
        if said := published.TABLE_3.get(one.name):
            figures = (said.distance_mm, said.ncc, *said.in_our_axes, said.seconds)
            lines.append(row_of(f"{one.label}, paper", "5", *figures))
    return [
        *lines,
        "",
        "Means; of theta's absolute errors, a parameter at a time. DistErr: mean projection distance (mPD) "
        "at the object.",
        "",
        f"Paper: {published.SOPI}. {published.XRAY_CONDITIONS}",
    ]


def medians_table(series: Sequence[Series]) -> list[str]:
    """Medians of all errors, and what is reported elsewhere."""
    columns = {
        "rotation_deg": "rotation, deg",
        "in_plane_mm": "in plane, mm",
        "depth_mm": "depth, mm",
        "mtre_mm": "mTRE, mm",
        "mpd_detector_mm": "mPD at the detector, mm",
        "mpd_object_mm": "mPD at the object, mm",
    }
    heads = ("method", "n", *columns.values(), f"success at mTRE {SUCCESS_MTRE_MM:g} mm, %")
    lines = head((*heads, *_SIMILARITY_HEADS, "s (median)"))
    for one in series:
        cells = [median_of(one.values(column)) for column in columns]
        cells += [rate_of(*one.rate("succeeded", 0)), *_similarities(one), time_of(one, np.median)]
        lines.append(row_of(one.label, str(len(one.rows)), *cells))
    told = [one for one in series if one.name in published.ELSEWHERE]
    if told:
        lines += ["", "Reported elsewhere, of other anatomy and other starts:", ""]
        lines += [f"- {one.label}: {published.ELSEWHERE[one.name]}" for one in told]
    return lines


def axes_table(series: Sequence[Series]) -> list[str]:
    """Means about and along the first camera's axes, as papers on patient-specific networks report them."""
    heads = ("method", "n (errors)", "mTRE, mm", "mPD at the detector, mm")
    heads += tuple(axis.replace("_", ", ").replace("z, mm", "z (depth), mm") for axis in AXES)
    lines = head((*heads, f"success at mTRE {SUCCESS_MTRE_MM:g} mm, %"))
    for one in series:
        values = [one.values("mtre_mm"), one.values("mpd_detector_mm")]
        values += [np.abs(one.values(f"error_{axis}")) for axis in AXES]
        means = [f"{number(v.mean())} ± {number(v.std())}" if len(v) else "" for v in values]
        lines.append(row_of(one.label, count_of(one), *means, rate_of(*one.rate("succeeded", 0))))
    return [*lines, "", "Means ± standard deviations."]


def sums_table(series: Sequence[Series]) -> list[str]:
    """Sums of absolute errors over the three axes, as the SOPI reference code reports them."""
    lines = [
        "What the SOPI reference code reports as its errors; never smaller than the Euclidean ones above, "
        "and here without that code's choice of whichever of two results is nearer to the truth.",
        "",
        *head(("method", *_SUM_HEADS)),
    ]
    for one in series:
        columns = ("sum_abs_rotation_deg", "sum_abs_translation_mm")
        lines.append(row_of(one.label, *(mean_of(one.values(column)) for column in columns)))
    return lines


def assisted_table(series: Sequence[Series]) -> list[str]:
    """Sums of errors as the SOPI reference code reports them; empty without both of its results.

    Its test script takes, parameter by parameter, whichever of the pose network's and the fine registration's
    value is nearer to the ground truth. That is no method: nobody has the truth.
    """
    rows = {
        one.name: {row["case"]: axis_errors(row) for row in one.solved if row["mtre_mm"]} for one in series
    }
    first, second = (rows.get(name, {}) for name in _ASSISTED)
    cases = [case for case in first if case in second]
    if not cases:
        return []
    errors = np.array([[first[case], second[case]] for case in cases])
    lines = [
        "The test script of the SOPI reference code takes each of the six parameters from whichever of two "
        "results is nearer to the ground truth, and reports the sums of these errors. Nobody who registers "
        "has that choice. For curiosity, what it would make of ours:",
        "",
        *head(("of", "n", *_SUM_HEADS)),
    ]
    labels = [METHODS[name].label for name in _ASSISTED]
    assisted = np.concatenate([errors, errors.min(axis=1, keepdims=True)], axis=1)
    for column, label in enumerate([*labels, f"the nearer of {labels[0]} and {labels[1]} in each parameter"]):
        sums = (mean_of(assisted[:, column, axes].sum(axis=1)) for axes in (slice(0, 3), slice(3, 6)))
        lines.append(row_of(label, str(len(cases)), *sums))
    return lines


def similarity_table(series: Sequence[Series]) -> list[str]:
    """How well the images agree, where nobody knows the truth."""
    lines = head(("method", "n (errors)", *_SIMILARITY_HEADS, "s (median)"))
    for one in series:
        lines.append(row_of(one.label, count_of(one), *_similarities(one), time_of(one, np.median)))
    return lines


def _similarities(one: Series) -> list[str]:
    """Medians of the images' agreement, and the verdicts."""
    medians = [number(np.median(v)) if len(v := one.values(name)) else "" for name in ("ncc", "ssim", "css")]
    judged, accepted, failed = one.accepted("failed", "1")
    if not judged:
        return [*medians, ""]
    known = any(row["failed"] for row in one.solved if row["verdict"] == "accept")
    return [*medians, f"{100 * accepted / judged:.0f}{f' ({failed})' if known else ''}"]
