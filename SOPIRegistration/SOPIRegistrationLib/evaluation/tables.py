"""table.md: what an evaluation says, in the layout of the papers and with their figures beside ours."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from itertools import pairwise

import numpy as np

from SOPIRegistrationLib.evaluation import published
from SOPIRegistrationLib.evaluation.benchmark import machine, source_commit
from SOPIRegistrationLib.evaluation.figures import AXES, axis_errors
from SOPIRegistrationLib.evaluation.methods import METHODS
from SOPIRegistrationLib.evaluation.metrics import (
    FAILURE_ROTATION_DEG,
    FAILURE_TRANSLATION_MM,
    RIGHT_IN_PLANE_MM,
    RIGHT_ROTATION_DEG,
    SUCCESS_MTRE_MM,
    mean_interval,
    median_interval,
    wilson_interval,
)
from SOPIRegistrationLib.evaluation.protocols import PROTOCOLS
from SOPIRegistrationLib.evaluation.results import weights_setting
from SOPIRegistrationLib.evaluation.series import SMALLEST_SHOWN, Series
from SOPIRegistrationLib.evaluation.simulated import STRANGERS
from SOPIRegistrationLib.evaluation.targets import TARGETS

# Sections that a configuration may choose.
SECTIONS = {
    "summary": "a line for each group and method",
    "papers": "the layouts of the SOPI paper, with its figures",
    "medians": "medians of all errors",
    "axes": "means of the errors about and along each axis",
    "sums": "sums of absolute errors, as the SOPI reference code reports them",
    "verdicts": "what is accepted, and by what right and wrong poses differ",
    "reliability": "how often poses of some probability are right",
    "predicted": "predicted against actual errors",
    "seconds": "the first registration of a process, and a later one",
    "assisted": "what choosing by the truth would report: no result",
}
OF_SEVERAL = ("summary", "verdicts", "reliability", "predicted", "seconds")
# Column of errors and the largest value, each.
Limits = Sequence[tuple[str, float]]
_PROBABILITIES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
# The two results between which the SOPI reference code chooses by the truth.
_ASSISTED = ("rtpi", "sopi")
_SUM_HEADS = ("rotation: sum of 3 axes, deg", "translation: sum of 3 axes, mm")
_SIMILARITY_HEADS = ("NCC", "SSIM", "CSS", "accepted, % (of them failed)")


def table(
    series: Sequence[Series],
    settings: dict,
    title: str = "Evaluation",
    chosen: Sequence[str] = (),
    within: Mapping[str, Limits] | None = None,
) -> str:
    """The report as Markdown.

    Conditions; the chosen sections; what the methods are; errors; last what is no result.

    Args:
        series: the rows, by group and method.
        settings: of the evaluation; those of each group under "groups", or of the only one among the others.
        title: heading.
        chosen: names in ``SECTIONS``; if empty, of one group all that fit, of several ``OF_SEVERAL``.
        within: by group, the limits that its errors are counted against.
    """
    groups = {one.group: [other for other in series if other.group == one.group] for one in series}
    known = {name: _of_group(settings, name) for name in groups}
    sections = {"": _conditions(series, settings, known)}
    chosen = chosen or (SECTIONS if len(groups) < 2 else OF_SEVERAL)
    if "summary" in chosen and (len(groups) > 1 or len(chosen) < len(SECTIONS)):
        sections["Summary"] = _summary_table(series, within or {})
    for name, own in groups.items():
        sections |= {
            f"{heading}: {name}" if name else heading: lines
            for heading, lines in _sections_of_group(own, known[name], chosen).items()
        }
    for name, (heading, make) in {
        "verdicts": ("Verdicts", _verdicts_table),
        "reliability": ("Probabilities", _reliability_table),
        "predicted": ("Predicted errors", _predicted_table),
        "seconds": ("Seconds, the first registration of a process and a later one", _seconds_table),
    }.items():
        if name in chosen and (lines := make(series)):
            sections[heading] = lines
    methods = {one.name: one for one in series}.values()
    sections["Methods"] = [f"- {one.label} (`{one.name}`): {one.summary}" for one in methods]
    if failed := [row for one in series for row in one.rows if row["error"]]:
        sections["Errors"] = [
            f"- {row['group']}{', ' if row['group'] else ''}case {row['case']}, `{row['method']}`: "
            f"{row['error']}"
            for row in failed
        ]
    for name, own in groups.items():
        if "assisted" in chosen and (assisted := _assisted_table(own)):
            heading = "No result: what choosing by the truth would report"
            sections[f"{heading}: {name}" if name else heading] = assisted
    lines = [f"# {title}"]
    for heading, content in sections.items():
        lines += ["", *([f"## {heading}", ""] if heading else []), *content]
    return "\n".join(lines) + "\n"


def _of_group(settings: dict, name: str) -> dict:
    """The settings of a group and those of all."""
    return settings | settings.get("groups", {}).get(name, {})


def _sections_of_group(series: Sequence[Series], settings: dict, chosen: Sequence[str]) -> dict[str, list]:
    """The sections that are of one group each."""
    sections = {}
    has_truth = any(one.has_truth for one in series)
    if "papers" in chosen:
        if not has_truth:
            sections["Without truth"] = _similarity_table(series)
        elif "target" in settings:
            sections["Simulated X-rays, as in Table 1 of the SOPI paper"] = _table_1(series, settings)
            if any(one.name in published.TABLE_2 for one in series):
                sections["Ablation, as in Table 2 of the SOPI paper"] = _table_2(series, settings)
        else:
            sections["Real X-rays, as in Table 3 of the SOPI paper"] = _table_3(series)
            sections["Means"] = _means_table(series)
    if has_truth and "medians" in chosen:
        sections["Medians"] = _medians_table(series)
    if has_truth and "axes" in chosen:
        sections["Means of absolute errors, axis by axis"] = _axes_table(series)
    if has_truth and "sums" in chosen:
        sections["Sums of absolute errors over the three axes"] = _sums_table(series)
    return sections


def _conditions(series: Sequence[Series], settings: dict, groups: Mapping[str, dict]) -> list[str]:
    computer, commit = machine(), source_commit()
    devices: dict[str, list[str]] = {}
    for one in series:
        for device in sorted({row["device"] for row in one.solved if row["device"]}):
            devices.setdefault(device, []).append(one.label)
    where = next(iter(devices), "nothing")
    if len(devices) > 1:
        where = "; on ".join(
            f"{device}: {', '.join(dict.fromkeys(labels))}" for device, labels in devices.items()
        )
    workers = sorted({row["workers"] for one in series for row in one.rows})
    concurrent = "one at a time" if workers == ["1"] else f"{' or '.join(workers)} processes at a time"
    what = []
    for name, known in groups.items():
        lines = _cases_of(known)
        what += [f"- **{name}**: {'; '.join(lines)}"] if name else [f"- {line}" for line in lines]
    return [
        f"{date.today().isoformat()}, version {settings['version']}{f' ({commit})' if commit else ''}, "
        f"seed {settings['seed']}.",
        "",
        *what,
        f"- registrations on {where}, {concurrent}, limit {settings['timeout_s']:g} s; seconds from prepared "
        f"images to the pose; baselines compare images of {settings['baseline_pixels']} pixels",
        f"- {settings['processor']}; {computer['system']}; {computer['versions']}",
        f"- right: at most {RIGHT_IN_PLANE_MM:g} mm off in the plane, at the object, and "
        f"{RIGHT_ROTATION_DEG:g} deg; failure: rotation above "
        f"{FAILURE_ROTATION_DEG:g} deg (geodesic) or translation above "
        f"{FAILURE_TRANSLATION_MM:g} mm (Euclidean, of the rotation centre); success: mTRE over points of "
        f"the bone surface at most {SUCCESS_MTRE_MM:g} mm. A case that ended with an error has failed.",
        "- in brackets: 95 % intervals (rates: Wilson; means and medians: bootstrap)",
    ]


def _cases_of(settings: dict) -> list[str]:
    """What the cases of a group are."""
    if "target" not in settings:
        starts = f", starts of each about its truth: {settings['starts']}" if "starts" in settings else ""
        return [f"cases of {settings['cases']}{starts}"]
    of = settings.get("cts") or f"{settings['phantoms']} lumbar phantoms"
    of = of if isinstance(of, str) else ", ".join(name.rsplit(" ", 1)[0] for name in of)
    only = "; everything but bone removed from both" if settings["content"] == "bone" else ""
    if settings.get("scan_height_mm"):
        only += f"; registered are the slices within {settings['scan_height_mm']:g} mm about its middle"
    lines = [
        f"protocol `{settings['protocol']}`: {PROTOCOLS[settings['protocol']].summary}",
        f"targets `{settings['target']}`: {TARGETS[settings['target']]}",
        f"CT and X-rays of {of}, view {settings['view']}, {settings['pixels']} x {settings['pixels']} "
        f"pixels{only}",
    ]
    if settings.get("stranger"):
        lines.append(f"{STRANGERS[settings['stranger']]}: no pose is right")
    return lines


def _summary_table(series: Sequence[Series], within: Mapping[str, Limits]) -> list[str]:
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
    lines = _head([*heads, "accepted, %", "wrong among accepted", "s (median)"])
    for one in series:
        cells = [*([one.group] if named else []), one.label, _count(one)]
        cells += [_rate(*one.rate("right", 0)), _rate(*one.rate("failed", 1))]
        limits = within.get(one.group, ())
        if counted:
            cells.append(_rate(*one.within(limits)) if limits else "")
        cells += [_median(one.values(column)) for column in columns]
        lines.append(_row(*cells, *_acceptance(one, limits), _time(one, np.median)))
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
    return [_rate(accepted, judged), str(wrong) if known else ""]


def _verdicts_table(series: Sequence[Series]) -> list[str]:
    """What is accepted, and by what right and wrong poses differ."""
    judged = [one for one in series if one.is_judged and one.accepted()[0]]
    if not judged:
        return []
    named = any(one.group for one in judged)
    heads = [*(["cases"] if named else []), "method", "verdicts", "accepted of the right ones, %"]
    heads += ["accepted though wrong", "of all wrong ones"]
    heads += ["correlation of right ones: least (median)", "of wrong ones: greatest", "share compared: least"]
    lines = _head(heads)
    for one in judged:
        verdicts, _, wrong = one.accepted()
        rows = [row for row in one.solved if row["verdict"]]
        known = [row for row in rows if row["correlation"]]
        right, others = (
            np.array([float(row["correlation"]) for row in known if row["right"] == value]) for value in "10"
        )
        shares = [float(row["share"]) for row in rows if row["share"]]
        cells = [*([one.group] if named else []), one.label, str(verdicts), _rate(*one.accepted_of_right())]
        cells += [str(wrong), str(sum(row["right"] == "0" for row in rows))]
        cells += [f"{right.min():.3f} ({np.median(right):.3f})" if len(right) else ""]
        cells += [f"{others.max():.3f}" if len(others) else "", f"{min(shares):.2f}" if shares else ""]
        lines.append(_row(*cells))
    return [*lines, "", "Correlation: of the locally normalised images (structural correlation)."]


def _reliability_table(series: Sequence[Series]) -> list[str]:
    """How often poses are right that are given some probability of it."""
    rows = [row for one in series for row in one.solved if row["probability"] and row["right"]]
    if not rows:
        return []
    probability = np.array([float(row["probability"]) for row in rows])
    right = np.array([row["right"] == "1" for row in rows])
    lines = _head(("probability of being right", "poses", "mean", "right, %"))
    for low, high in pairwise(_PROBABILITIES):
        inside = (probability >= low) & ((probability < high) | (high == 1))
        if inside.any():
            mean = f"{probability[inside].mean():.3f}"
            cells = f"{low:g} to {high:g}", str(inside.sum()), mean
            lines.append(_row(*cells, _rate(int(right[inside].sum()), int(inside.sum()))))
    return lines


def _predicted_table(series: Sequence[Series]) -> list[str]:
    """Predicted errors against actual ones, of right poses."""
    lines = []
    named = any(one.group for one in series)
    for prefix, said in (("predicted", "predicted"), ("statistical", "statistical part")):
        for one in series:
            found = one.predicted(prefix)
            if found:
                cells = (f"{ratio:.2f}, {_rate(held, count)}" for ratio, held, count in found.values())
                lines.append(_row(*([one.group] if named else []), one.label, said, *cells))
    if not lines:
        return []
    heads = [*(["cases"] if named else []), "method", "predicted error"]
    heads += [axis.replace("_", ", ").replace("z, mm", "z (depth), mm") for axis in AXES]
    return [
        *_head(heads),
        *lines,
        "",
        f"Of poses whose mPD is at most {RIGHT_IN_PLANE_MM:g} mm at the object, about and along the first "
        "camera's axes: the median of actual over predicted error (0.67 if normal), and how many 95 % "
        "intervals hold the truth, %.",
    ]


def _seconds_table(series: Sequence[Series]) -> list[str]:
    """Seconds of the first registration of a process, which makes what is made once, and of a later one."""
    timed = [one for one in series if len(one.values("seconds_first"))]
    if not timed:
        return []
    named = any(one.group for one in timed)
    heads = [*(["cases"] if named else []), "method", "n", "first: median", "95th percentile"]
    lines = _head([*heads, "later: median", "95th percentile"])
    for one in timed:
        cells = [*([one.group] if named else []), one.label, str(len(one.values("seconds_first")))]
        for column in ("seconds_first", "seconds"):
            values = one.values(column)
            cells += [_median(values), _number(float(np.percentile(values, 95)))]
        lines.append(_row(*cells))
    return lines


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


def _axes_table(series: Sequence[Series]) -> list[str]:
    """Means about and along the first camera's axes, as papers on patient-specific networks report them."""
    heads = ("method", "n (errors)", "mTRE, mm", "mPD at the detector, mm")
    heads += tuple(axis.replace("_", ", ").replace("z, mm", "z (depth), mm") for axis in AXES)
    lines = _head((*heads, f"success at mTRE {SUCCESS_MTRE_MM:g} mm, %"))
    for one in series:
        values = [one.values("mtre_mm"), one.values("mpd_detector_mm")]
        values += [np.abs(one.values(f"error_{axis}")) for axis in AXES]
        means = [f"{_number(v.mean())} ± {_number(v.std())}" if len(v) else "" for v in values]
        lines.append(_row(one.label, _count(one), *means, _rate(*one.rate("succeeded", 0))))
    return [*lines, "", "Means ± standard deviations."]


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
    judged, accepted, failed = one.accepted("failed", "1")
    if not judged:
        return [*medians, ""]
    known = any(row["failed"] for row in one.solved if row["verdict"] == "accept")
    return [*medians, f"{100 * accepted / judged:.0f}{f' ({failed})' if known else ''}"]


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
