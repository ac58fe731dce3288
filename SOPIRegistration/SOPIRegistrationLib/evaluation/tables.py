"""table.md: what an evaluation says, in the layout of the papers and with their figures beside ours."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import date

import numpy as np

from SOPIRegistrationLib.evaluation import published
from SOPIRegistrationLib.evaluation.benchmark import machine, source_commit
from SOPIRegistrationLib.evaluation.figures import axis_errors
from SOPIRegistrationLib.evaluation.methods import METHODS
from SOPIRegistrationLib.evaluation.metrics import (
    FAILURE_ROTATION_DEG,
    FAILURE_TRANSLATION_MM,
    SUCCESS_MTRE_MM,
    mean_interval,
    median_interval,
    wilson_interval,
)
from SOPIRegistrationLib.evaluation.protocols import PROTOCOLS
from SOPIRegistrationLib.evaluation.runner import weights_setting
from SOPIRegistrationLib.evaluation.series import SMALLEST_SHOWN, Series
from SOPIRegistrationLib.evaluation.targets import TARGETS

# The two results between which the SOPI reference code chooses by the truth.
_ASSISTED = ("rtpi", "sopi")
_SUM_HEADS = ("rotation: sum of 3 axes, deg", "translation: sum of 3 axes, mm")
_SIMILARITY_HEADS = ("NCC", "SSIM", "CSS", "accepted, % (of them failed)")


def table(series: Sequence[Series], settings: dict) -> str:
    """The report as Markdown.

    Conditions; the papers' tables as far as the cases are of their kind; medians; sums of absolute errors;
    what the methods are; errors; last what is no result.

    Args:
        series: the rows, by method.
        settings: of the evaluation.
    """
    sections = {"": _conditions(series, settings)}
    if not any(one.has_truth for one in series):
        sections["Without truth"] = _similarity_table(series)
    elif "target" in settings:
        sections["Simulated X-rays, as in Table 1 of the SOPI paper"] = _table_1(series, settings)
        if any(one.name in published.TABLE_2 for one in series):
            sections["Ablation, as in Table 2 of the SOPI paper"] = _table_2(series, settings)
    else:
        sections["Real X-rays, as in Table 3 of the SOPI paper"] = _table_3(series)
        sections["Means"] = _means_table(series)
    if any(one.has_truth for one in series):
        sections["Medians"] = _medians_table(series)
        sections["Sums of absolute errors over the three axes"] = _sums_table(series)
    sections["Methods"] = [f"- {one.label} (`{one.name}`): {METHODS[one.name].summary}" for one in series]
    if failed := [row for one in series for row in one.rows if row["error"]]:
        sections["Errors"] = [f"- case {row['case']}, `{row['method']}`: {row['error']}" for row in failed]
    if assisted := _assisted_table(series):
        sections["No result: what choosing by the truth would report"] = assisted
    lines = ["# Evaluation"]
    for title, content in sections.items():
        lines += ["", *([f"## {title}", ""] if title else []), *content]
    return "\n".join(lines) + "\n"


def _conditions(series: Sequence[Series], settings: dict) -> list[str]:
    computer, commit = machine(), source_commit()
    devices: dict[str, list[str]] = {}
    for one in series:
        for device in sorted({row["device"] for row in one.solved if row["device"]}):
            devices.setdefault(device, []).append(one.label)
    where = next(iter(devices), "nothing")
    if len(devices) > 1:
        where = "; on ".join(f"{device}: {', '.join(labels)}" for device, labels in devices.items())
    workers = sorted({row["workers"] for one in series for row in one.rows})
    concurrent = "one at a time" if workers == ["1"] else f"{' or '.join(workers)} processes at a time"
    what = []
    if "target" in settings:
        what.append(f"- protocol `{settings['protocol']}`: {PROTOCOLS[settings['protocol']].summary}")
        what.append(f"- targets `{settings['target']}`: {TARGETS[settings['target']]}")
        of = settings.get("cts") or f"{settings['phantoms']} lumbar phantoms"
        of = of if isinstance(of, str) else ", ".join(name.rsplit(" ", 1)[0] for name in of)
        only = "; everything but bone removed from both" if settings["content"] == "bone" else ""
        size = f"{settings['pixels']} x {settings['pixels']} pixels"
        what.append(f"- CT and X-rays of {of}, view {settings['view']}, {size}{only}")
    else:
        starts = f", starts of each about its truth: {settings['starts']}" if "starts" in settings else ""
        what.append(f"- cases of {settings['cases']}{starts}")
    return [
        f"{date.today().isoformat()}, version {settings['version']}{f' ({commit})' if commit else ''}, "
        f"seed {settings['seed']}.",
        "",
        *what,
        f"- registrations on {where}, {concurrent}, limit {settings['timeout_s']:g} s; seconds from prepared "
        f"images to the pose; baselines compare images of {settings['baseline_pixels']} pixels",
        f"- {settings['processor']}; {computer['system']}; {computer['versions']}",
        f"- failure: rotation above {FAILURE_ROTATION_DEG:g} deg (geodesic) or translation above "
        f"{FAILURE_TRANSLATION_MM:g} mm (Euclidean, of the rotation centre); success: mTRE over points of "
        f"the bone surface at most {SUCCESS_MTRE_MM:g} mm. A case that ended with an error has failed.",
        "- in brackets: 95 % intervals (rates: Wilson; means and medians: bootstrap)",
    ]


def _table_1(series: Sequence[Series], settings: dict) -> list[str]:
    said = {
        name: (row.rotation_deg, row.translation_mm, row.failure, row.seconds)
        for name, row in published.TABLE_1.items()
    }
    lines = _means_table(
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


def _means_table(
    series: Sequence[Series],
    settings: dict | None = None,
    paper_heads: Sequence[str] = (),
    said: dict[str, tuple[str, ...]] | None = None,
) -> list[str]:
    """Means in the papers' columns, a paper's own figures beside them."""
    heads = ("Method", "n (errors)", "Rotation, deg", "Translation, mm", "Failure rate, %", "Reg. time, s")
    lines = _head((*heads, *paper_heads))
    for one in series:
        ours = (
            _count(one, settings or {}),
            _mean(one.values("rotation_deg")),
            _mean(one.values("translation_mm")),
            _rate(*one.rate("failed", 1)),
            _time(one, np.mean),
        )
        lines.append(_row(one.label, *ours, *(said or {}).get(one.name, [""] * len(paper_heads))))
    return [*lines, "", "Means ± standard deviations [interval of the mean]."]


def _table_2(series: Sequence[Series], settings: dict) -> list[str]:
    known = {one.name: one for one in series}
    heads = ("RTPI", "composite encoder", "mask loss", "method", "n (errors)")
    heads += ("Rotation, deg", "Translation, mm", "paper: rotation, deg", "translation, mm")
    lines = _head(heads)
    for name, row in published.TABLE_2.items():
        one = known.get(name, Series(name, []))
        parts = ("yes" if part else "no" for part in (row.rtpi, row.composite_encoder, row.mask_loss))
        ours = (_mean(one.values("rotation_deg")), _mean(one.values("translation_mm")))
        lines.append(
            _row(
                *parts,
                f"{one.label} (`{name}`)",
                _count(one, settings),
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


def _table_3(series: Sequence[Series]) -> list[str]:
    heads = ("Method", "n (errors)", "DistErr, mm", "NCC", "rx, deg", "ry, deg", "rz, deg")
    lines = _head((*heads, "tx, mm", "ty, mm", "tz (depth), mm", "Reg. time, s"))
    known = {one.name: one for one in series}
    for one in _with_missing(series, published.TABLE_3):
        if one.name in known:
            errors = np.array([axis_errors(row) for row in one.solved if row["mtre_mm"]])
            axes = [_number(value) for value in errors.mean(axis=0)] if len(errors) else [""] * 6
            figures = (one.values(name) for name in ("mpd_object_mm", "ncc"))
            cells = [_number(values.mean()) if len(values) else "" for values in figures]
            lines.append(_row(one.label, _count(one), *cells, *axes, _time(one, np.mean)))
        if said := published.TABLE_3.get(one.name):
            figures = (said.distance_mm, said.ncc, *said.in_our_axes, said.seconds)
            lines.append(_row(f"{one.label}, paper", "5", *figures))
    return [
        *lines,
        "",
        "Means; of theta's absolute errors, a parameter at a time. DistErr: mean projection distance (mPD) "
        "at the object.",
        "",
        f"Paper: {published.SOPI}. {published.XRAY_CONDITIONS}",
    ]


def _medians_table(series: Sequence[Series]) -> list[str]:
    columns = {
        "rotation_deg": "rotation, deg",
        "in_plane_mm": "in plane, mm",
        "depth_mm": "depth, mm",
        "mtre_mm": "mTRE, mm",
        "mpd_detector_mm": "mPD at the detector, mm",
        "mpd_object_mm": "mPD at the object, mm",
    }
    heads = ("method", "n", *columns.values(), f"success at mTRE {SUCCESS_MTRE_MM:g} mm, %")
    lines = _head((*heads, *_SIMILARITY_HEADS, "s (median)"))
    for one in series:
        cells = [_median(one.values(column)) for column in columns]
        cells += [_rate(*one.rate("succeeded", 0)), *_similarities(one), _time(one, np.median)]
        lines.append(_row(one.label, str(len(one.rows)), *cells))
    told = [one for one in series if one.name in published.ELSEWHERE]
    if told:
        lines += ["", "Reported elsewhere, of other anatomy and other starts:", ""]
        lines += [f"- {one.label}: {published.ELSEWHERE[one.name]}" for one in told]
    return lines


def _sums_table(series: Sequence[Series]) -> list[str]:
    lines = [
        "What the SOPI reference code reports as its errors; never smaller than the Euclidean ones above, "
        "and here without that code's choice of whichever of two results is nearer to the truth.",
        "",
        *_head(("method", *_SUM_HEADS)),
    ]
    for one in series:
        columns = ("sum_abs_rotation_deg", "sum_abs_translation_mm")
        lines.append(_row(one.label, *(_mean(one.values(column)) for column in columns)))
    return lines


def _assisted_table(series: Sequence[Series]) -> list[str]:
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
        *_head(("of", "n", *_SUM_HEADS)),
    ]
    labels = [METHODS[name].label for name in _ASSISTED]
    assisted = np.concatenate([errors, errors.min(axis=1, keepdims=True)], axis=1)
    for number, label in enumerate([*labels, f"the nearer of {labels[0]} and {labels[1]} in each parameter"]):
        sums = (_mean(assisted[:, number, axes].sum(axis=1)) for axes in (slice(0, 3), slice(3, 6)))
        lines.append(_row(label, str(len(cases)), *sums))
    return lines


def _similarity_table(series: Sequence[Series]) -> list[str]:
    lines = _head(("method", "n (errors)", *_SIMILARITY_HEADS, "s (median)"))
    for one in series:
        lines.append(_row(one.label, _count(one), *_similarities(one), _time(one, np.median)))
    return lines


def _similarities(one: Series) -> list[str]:
    """Medians of the images' agreement, and the verdicts."""
    medians = [_number(np.median(v)) if len(v := one.values(name)) else "" for name in ("ncc", "ssim", "css")]
    judged = [row for row in one.solved if row["verdict"]]
    accepted = [row for row in judged if row["verdict"] == "accept"]
    if not judged:
        return [*medians, ""]
    wrong = sum(row["failed"] == "1" for row in accepted)
    known = any(row["failed"] for row in accepted)
    return [*medians, f"{100 * len(accepted) / len(judged):.0f}{f' ({wrong})' if known else ''}"]


def _count(one: Series, settings: dict | None = None) -> str:
    """Rows and errors, or why there are none."""
    if one.rows:
        return f"{len(one.rows)} ({one.errors})"
    networks = METHODS[one.name].networks if one.name in METHODS else ()
    trained = all((settings or {}).get(weights_setting(network)) for network in networks)
    return "not run" if trained else "not trained"


def _time(one: Series, average: Callable) -> str:
    return _number(average(one.values("seconds"))) if one.is_timed else ""


def _mean(values: np.ndarray) -> str:
    if not len(values):
        return ""
    low, high = mean_interval(values)
    deviation = values.std(ddof=1) if len(values) > 1 else 0.0
    return f"{_number(values.mean())} ± {_number(deviation)} [{_number(low)}, {_number(high)}]"


def _median(values: np.ndarray) -> str:
    if not len(values):
        return ""
    low, high = median_interval(values)
    return f"{_number(np.median(values))} [{_number(low)}, {_number(high)}]"


def _rate(count: int, trials: int) -> str:
    if not trials:
        return ""
    low, high = wilson_interval(count, trials)
    return f"{100 * count / trials:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _number(value: float) -> str:
    if abs(value) < SMALLEST_SHOWN:
        return f"<{SMALLEST_SHOWN:g}" if value else "0"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def _head(names: Sequence[str]) -> list[str]:
    return [_row(*names), "|" + "---|" * len(names)]


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
