"""What an evaluation says: table.md in the papers' layout, plots, and one HTML page with pictures."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np

from SOPIRegistrationLib.evaluation.benchmark import machine
from SOPIRegistrationLib.evaluation.cases import CaseSource, EvaluationCase
from SOPIRegistrationLib.evaluation.figures import pose_of_row
from SOPIRegistrationLib.evaluation.methods import METHODS, compared_volume
from SOPIRegistrationLib.evaluation.metrics import (
    FAILURE_ROTATION_DEG,
    FAILURE_TRANSLATION_MM,
    SUCCESS_MTRE_MM,
    mean_interval,
    median_interval,
    wilson_interval,
)
from SOPIRegistrationLib.evaluation.protocols import PROTOCOLS
from SOPIRegistrationLib.evaluation.runner import write_aside
from SOPIRegistrationLib.evaluation.targets import TARGETS
from SOPIRegistrationLib.images.overlay import display_window, fusion_image, windowed
from SOPIRegistrationLib.projector import project
from SOPIRegistrationLib.registration.objective import around_object, at_level

TABLE, PAGE = "table.md", "report.html"
_PICTURE_PIXELS = 256
_SMALLEST_SHOWN = 1e-3


@dataclass(frozen=True)
class Published:
    """What a paper reports of a method; empty where it does not.

    Attributes:
        rotation_deg, translation_mm: mean and standard deviation.
        failure: rate, %.
        seconds: a registration.
        note: where it stands, or what else is reported.
    """

    rotation_deg: str = ""
    translation_mm: str = ""
    failure: str = ""
    seconds: str = ""
    note: str = ""


# SOPI paper, Tables 1 and 2 (simulation, RTX 3090); ProST, IEEE TMI 43(1), 2024.
PUBLISHED = {
    "initial": Published("6.40 ± 3.77", "15.08 ± 8.56", "95.2", "", "SOPI Table 1"),
    "opt-nccl": Published("3.68 ± 3.18", "5.79 ± 5.18", "38.2", "19.16", "SOPI Table 1"),
    "opt-ngi": Published("3.84 ± 3.32", "5.92 ± 5.40", "50.6", "30.25", "SOPI Table 1"),
    "opt-gc": Published("3.73 ± 3.18", "7.80 ± 7.25", "43.6", "18.74", "SOPI Table 1"),
    "rtpi": Published("3.42 ± 3.30", "6.68 ± 4.18", "", "", "SOPI Table 2, RTPI alone"),
    "cma-es": Published(note="ProST 2024: success at mTRE 10 mm 28.5 % (pelvis, simulated)"),
}


class Series:
    """All rows of one method.

    Attributes:
        name: of the method.
        rows: its rows.
        solved: those without an error.
    """

    def __init__(self, name: str, rows: Sequence[dict]):
        self.name = name
        self.label = METHODS[name].label if name in METHODS else name
        self.rows = list(rows)
        self.solved = [row for row in rows if not row["error"]]

    @property
    def errors(self) -> int:
        return len(self.rows) - len(self.solved)

    @property
    def has_truth(self) -> bool:
        return any(row["mtre_mm"] for row in self.solved)

    def values(self, column: str) -> np.ndarray:
        """(n,) finite figures of a column, of the rows that have one."""
        values = np.array([float(row[column]) for row in self.solved if row[column]])
        return values[np.isfinite(values)]

    def rate(self, column: str, if_error: int) -> tuple[int, int]:
        """How many of how many rows are so; one with an error counts as ``if_error`` if it has a truth."""
        values = self.values(column)
        errors = [row for row in self.rows if row["error"]]
        # A case that could not even be made has no start, and counts.
        counted = sum(1 for row in errors if row["start_mtre_mm"] or not row["start_tx_mm"])
        return int(values.sum()) + if_error * counted, len(values) + counted


def series_of(rows: Sequence[dict]) -> list[Series]:
    """The rows method by method, in the order of ``METHODS``."""
    names = list(dict.fromkeys([*METHODS, *(row["method"] for row in rows)]))
    found = [Series(name, [row for row in rows if row["method"] == name]) for name in names]
    return [one for one in found if one.rows]


def write_report(folder: Path, source: CaseSource, settings: dict, rows: Sequence[dict]) -> list[str]:
    """Write table.md, plots and report.html from the rows of an evaluation.

    Args:
        folder: where they go.
        source: the cases, to make those that are shown once more.
        settings: of the evaluation.
        rows: of results.csv, as text.

    Returns:
        The files' names.
    """
    series = series_of(rows)
    text = table(series, settings)
    write_aside(folder / TABLE, text)
    plots = _plots(series)
    for name, picture in plots.items():
        write_aside(folder / name, picture)
    write_aside(folder / PAGE, _page(text, plots, _galleries(source, series)))
    return [TABLE, *plots, PAGE]


def table(series: Sequence[Series], settings: dict) -> str:
    """The report as Markdown: conditions, the papers' layout, medians, sums of absolute errors, methods."""
    lines = ["# Evaluation", "", *_conditions(series, settings)]
    if any(one.has_truth for one in series):
        title = "As in Table 1 of the SOPI paper" if "protocol" in settings else "Means"
        lines += ["", f"## {title}", "", *_papers_table(series, settings)]
        lines += ["", "## Medians", "", *_medians_table(series)]
        lines += ["", "## Sums of absolute errors over the three axes", "", *_sums_table(series)]
    else:
        lines += ["", "## Without truth", "", *_similarity_table(series)]
    lines += ["", "## Methods", ""]
    lines += [f"- {one.label} (`{one.name}`): {METHODS[one.name].summary}" for one in series]
    failed = [row for one in series for row in one.rows if row["error"]]
    if failed:
        lines += ["", "## Errors", ""]
        lines += [f"- case {row['case']}, `{row['method']}`: {row['error']}" for row in failed]
    return "\n".join(lines) + "\n"


def _conditions(series: Sequence[Series], settings: dict) -> list[str]:
    computer = machine()
    devices = sorted({row["device"] for one in series for row in one.rows if row["device"]})
    workers = sorted({row["workers"] for one in series for row in one.rows})
    what = []
    if "protocol" in settings:
        what.append(f"- protocol `{settings['protocol']}`: {PROTOCOLS[settings['protocol']].summary}")
        what.append(f"- targets `{settings['target']}`: {TARGETS[settings['target']]}")
        of = settings.get("cts") or f"{settings['phantoms']} lumbar phantoms"
        of = of if isinstance(of, str) else ", ".join(name.rsplit(" ", 1)[0] for name in of)
        only = "; everything but bone removed from both" if settings["content"] == "bone" else ""
        size = f"{settings['pixels']} x {settings['pixels']} pixels"
        what.append(f"- CT and X-rays of {of}, view {settings['view']}, {size}{only}")
    else:
        what.append(f"- cases of {settings['cases']}")
    concurrent = "one at a time" if workers == ["1"] else f"{' or '.join(workers)} processes at a time"
    return [
        f"{date.today().isoformat()}, version {settings['version']}, seed {settings['seed']}.",
        "",
        *what,
        f"- registrations on {', '.join(devices) or 'nothing'}, {concurrent}, limit "
        f"{settings['timeout_s']:g} s; seconds from prepared images to the pose",
        f"- {settings['processor']}; {computer['system']}; {computer['versions']}",
        f"- failure: rotation above {FAILURE_ROTATION_DEG:g} deg (geodesic) or translation above "
        f"{FAILURE_TRANSLATION_MM:g} mm (Euclidean, of the rotation centre); success: mTRE over points of "
        f"the bone surface at most {SUCCESS_MTRE_MM:g} mm. A case that ended with an error has failed.",
        "- in brackets: 95 % intervals (rates: Wilson; means and medians: bootstrap)",
    ]


def _papers_table(series: Sequence[Series], settings: dict) -> list[str]:
    heads = ("Method", "n (errors)", "Rotation, deg", "Translation, mm", "Failure rate, %", "Reg. time, s")
    # The papers' cases are simulated.
    comparable = "protocol" in settings
    if comparable:
        heads += ("paper, RTX 3090: rotation, deg", "translation, mm", "failure, %", "time, s", "source")
    lines = _head(heads)
    for one in series:
        said = PUBLISHED.get(one.name, Published())
        published = (said.rotation_deg, said.translation_mm, said.failure, said.seconds, said.note)
        lines.append(
            _row(
                one.label,
                f"{len(one.rows)} ({one.errors})",
                _mean(one.values("rotation_deg")),
                _mean(one.values("translation_mm")),
                _rate(*one.rate("failed", 1)),
                _time(one, np.mean),
                *(published if comparable else ()),
            )
        )
    lines += ["", "Means ± standard deviations [interval of the mean]."]
    if not comparable:
        return lines
    lines += [
        "",
        "The SOPI paper's X-rays are of segmented lumbar spines, by the very projector that registers them "
        "(here: target `ours`, content `bone`), its times those of an RTX 3090.",
    ]
    if settings["protocol"] == "wide":
        lines[-1] += " Its poses are drawn from the numbers of protocol `paper`, whichever way it read them."
    return lines


def _medians_table(series: Sequence[Series]) -> list[str]:
    columns = {
        "rotation_deg": "rotation, deg",
        "in_plane_mm": "in plane, mm",
        "depth_mm": "depth, mm",
        "mtre_mm": "mTRE, mm",
        "mpd_detector_mm": "mPD at the detector, mm",
        "mpd_object_mm": "mPD at the object, mm",
    }
    heads = ("method", "n", *columns.values(), "success at mTRE 10 mm, %")
    lines = _head((*heads, "NCC", "SSIM", "CSS", "accepted, %", "s (median)"))
    for one in series:
        cells = [_median(one.values(column)) for column in columns]
        cells += [
            _rate(*one.rate("succeeded", 0)),
            *_similarities(one),
            _accepted(one),
            _time(one, np.median),
        ]
        lines.append(_row(one.label, str(len(one.rows)), *cells))
    return lines


def _sums_table(series: Sequence[Series]) -> list[str]:
    lines = [
        "What the SOPI reference code reports as its errors; never smaller than the Euclidean ones above, "
        "and here without that code's choice of whichever of two results is nearer to the truth.",
        "",
        *_head(("method", "rotation: sum of 3 axes, deg", "translation: sum of 3 axes, mm")),
    ]
    for one in series:
        sums = (_mean(one.values(f"sum_abs_{what}")) for what in ("rotation_deg", "translation_mm"))
        lines.append(_row(one.label, *sums))
    return lines


def _similarity_table(series: Sequence[Series]) -> list[str]:
    lines = _head(("method", "n (errors)", "NCC", "SSIM", "CSS", "accepted, %", "s (median)"))
    for one in series:
        count = f"{len(one.rows)} ({one.errors})"
        lines.append(_row(one.label, count, *_similarities(one), _accepted(one), _time(one, np.median)))
    return lines


def _similarities(one: Series) -> list[str]:
    return [_number(np.median(v)) if len(v := one.values(name)) else "" for name in ("ncc", "ssim", "css")]


def _accepted(one: Series) -> str:
    verdicts = [row["verdict"] for row in one.solved if row["verdict"]]
    return f"{100 * verdicts.count('accept') / len(verdicts):.0f}" if verdicts else ""


def _time(one: Series, average: Callable) -> str:
    seconds = one.values("seconds")
    return "" if one.name == "initial" or not len(seconds) else _number(average(seconds))


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
    if abs(value) < _SMALLEST_SHOWN:
        return f"<{_SMALLEST_SHOWN:g}" if value else "0"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def _head(names: Sequence[str]) -> list[str]:
    return [_row(*names), "|" + "---|" * len(names)]


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _plots(series: Sequence[Series]) -> dict[str, bytes]:
    """Pictures (PNG) by file name, of what has a known truth."""
    known = [one for one in series if one.has_truth]
    if not known:
        return {}
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    colours = dict(zip([one.name for one in known], colormaps["tab10"].colors * 3, strict=False))
    pictures = {}

    figure = Figure((4 * (1.2 + 0.35 * len(known)), 4.5), layout="constrained")
    columns = ("rotation_deg", "in_plane_mm", "depth_mm", "mtre_mm")
    titles = ("rotation, deg", "in plane, mm", "depth, mm", "mTRE, mm")
    labels = [f"{one.label}, n = {len(one.solved)}" for one in known]
    for axes, column, title in zip(figure.subplots(1, 4), columns, titles, strict=True):
        values = [np.maximum(one.values(column), _SMALLEST_SHOWN) for one in known]
        boxes = axes.boxplot(values, patch_artist=True, whis=(5, 95), flierprops={"markersize": 3})
        for box, middle, one in zip(boxes["boxes"], boxes["medians"], known, strict=True):
            box.set(facecolor=(*colours[one.name], 0.5))
            middle.set(color="black")
        axes.set(yscale="log", title=title)
        axes.set_xticks(range(1, len(known) + 1), labels, rotation=60, ha="right", fontsize=8)
        axes.grid(axis="y", alpha=0.3)
        _plain_numbers(axes.yaxis)
    pictures["errors.png"] = _png(figure)

    figure = Figure((7, 4.5), layout="constrained")
    axes = figure.subplots()
    for one in known:
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
            marker=".",
            label=one.label,
        )
    axes.set(xlabel="starting mTRE up to, mm", ylabel=f"success (mTRE <= {SUCCESS_MTRE_MM:g} mm), %")
    axes.set_ylim(-3, 103)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", frameon=False)
    pictures["capture_range.png"] = _png(figure)

    figure = Figure((7, 4.5), layout="constrained")
    axes = figure.subplots()
    for one in known:
        if one.name == "initial":
            continue
        rows = [row for row in one.solved if row["mtre_mm"]]
        seconds, mtre = (np.array([float(row[name]) for row in rows]) for name in ("seconds", "mtre_mm"))
        mtre = np.maximum(mtre, _SMALLEST_SHOWN)
        colour = colours[one.name]
        axes.scatter(seconds, mtre, s=10, color=colour, alpha=0.4, linewidths=0)
        middle = np.median(seconds), np.median(mtre)
        axes.scatter(*middle, s=90, color=colour, edgecolors="black", label=one.label)
    axes.set(xscale="log", yscale="log", xlabel="seconds a registration", ylabel="mTRE, mm")
    axes.grid(alpha=0.3, which="both")
    for axis in (axes.xaxis, axes.yaxis):
        _plain_numbers(axis)
    if axes.collections:
        figure.legend(loc="outside right upper", frameon=False, title="large: medians")
        pictures["time_and_error.png"] = _png(figure)
    return pictures


def _plain_numbers(axis) -> None:
    """Numbers as 0.2, 5, 10 along a logarithmic axis."""
    from matplotlib.ticker import LogLocator, NullFormatter

    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1.0,) if high > 1000 * low else (1.0, 2.0, 5.0)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def _png(figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, dpi=110)
    return stream.getvalue()


@dataclass(frozen=True)
class _Shown:
    method: str
    caption: str
    picture: bytes


def _galleries(source: CaseSource, series: Sequence[Series]) -> list[_Shown]:
    """Best, median and worst case of each method: X-ray, start and end."""
    chosen = []
    for one in series:
        measure = "mtre_mm" if one.has_truth else "ncc"
        rows = [row for row in one.solved if row[measure]]
        rows.sort(key=lambda row: float(row[measure]), reverse=not one.has_truth)
        if not rows:
            continue
        # Of few rows one may be several of these: it is shown once.
        places = {len(rows) // 2: "median", len(rows) - 1: "worst", 0: "best"}
        chosen += [(one.label, word, rows[place]) for place, word in sorted(places.items())]
    # One after the other of one patient: its CT is prepared once.
    order = sorted(range(len(chosen)), key=lambda i: source.patient_of(int(chosen[i][2]["case"])))
    shown = {}
    case = None
    for index in order:
        label, word, row = chosen[index]
        number = int(row["case"])
        if case is None or case.number != number:
            case = source.make(number)
        shown[index] = _Shown(label, _caption(word, row), _strip(case, row))
    return [shown[index] for index in range(len(chosen))]


def _caption(word: str, row: dict) -> str:
    text = f"{word}: case {row['case']} ({row['name']}), NCC {float(row['ncc']):.3f}"
    if row["mtre_mm"]:
        text += (
            f", start mTRE {float(row['start_mtre_mm']):.1f} mm, end mTRE {float(row['mtre_mm']):.2f} mm, "
            f"{float(row['rotation_deg']):.2f} deg"
        )
    if row["verdict"]:
        text += f", verdict {row['verdict']}"
    return text


def _strip(case: EvaluationCase, row: dict) -> bytes:
    """PNG: the X-ray, the fusion at the start and at the end, the DRR's edges at the end.

    Of a segmented bone in an X-ray of more, its surroundings.
    """
    moving = compared_volume(case.ct)
    camera = case.radiograph.camera
    T = camera.T_world_to_camera @ np.stack([pose_of_row(row, case, prefix) for prefix in ("start", "end")])
    view = at_level(around_object(case.radiograph, moving, T), _PICTURE_PIXELS)
    start, end = project(moving.for_camera(view.camera, T[0]), view.camera, T)
    pictures = [
        fusion_image(view.image, drr, view.valid, mode) * view.valid[..., None]
        for drr, mode in ((start, "fusion"), (end, "fusion"), (end, "edges"))
    ]
    gray = windowed(view.image, display_window(view.image[view.valid])) * view.valid
    xray = np.repeat(np.rint(255 * gray).astype(np.uint8)[..., None], 3, axis=-1)
    # Small images are enlarged: browsers would blur them.
    times = max(1, _PICTURE_PIXELS // max(xray.shape))
    xray, *pictures = (one.repeat(times, axis=0).repeat(times, axis=1) for one in (xray, *pictures))
    strip = [xray]
    for picture in pictures:
        strip += [np.full((len(xray), 6, 3), 255, np.uint8), picture]
    return _png_of_pixels(np.concatenate(strip, axis=1))


def _png_of_pixels(pixels: np.ndarray) -> bytes:
    from matplotlib.image import imsave

    stream = io.BytesIO()
    imsave(stream, np.ascontiguousarray(pixels), format="png")
    return stream.getvalue()


_STYLE = (
    "body{font:15px/1.5 sans-serif;max-width:1300px;margin:2em auto;padding:0 1em;color:#222}"
    "table{border-collapse:collapse;font-size:13px}td,th{border:1px solid #ccc;padding:3px "
    "8px;text-align:left}th{background:#f2f2f2}img{max-width:100%}figure{margin:.5em 0 "
    "1.2em}figcaption{font-size:13px;color:#555}.wide{overflow-x:auto}"
)


def _page(text: str, plots: dict[str, bytes], shown: Sequence[_Shown]) -> str:
    """One HTML page that needs no other file."""
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8"><title>Evaluation</title>',
        f"<style>{_STYLE}</style></head>",
        "<body>",
        *_html_of_markdown(text),
    ]
    if plots:
        parts.append("<h2>Plots</h2>")
        parts += [_figure(picture, name) for name, picture in plots.items()]
    if shown:
        parts.append("<h2>Best, median and worst cases</h2>")
        parts.append(
            "<p>X-ray; X-ray (blue) and DRR (orange) at the start and at the end, gray where they agree; "
            "edges of the DRR at the end on the X-ray.</p>"
        )
    for method in dict.fromkeys(one.method for one in shown):
        parts.append(f"<h3>{html.escape(method)}</h3>")
        parts += [_figure(one.picture, one.caption) for one in shown if one.method == method]
    return "\n".join([*parts, "</body></html>"]) + "\n"


def _figure(picture: bytes, caption: str) -> str:
    data = base64.b64encode(picture).decode("ascii")
    text = html.escape(caption)
    image = f'<img alt="{text}" src="data:image/png;base64,{data}">'
    return f"<figure>{image}<figcaption>{text}</figcaption></figure>"


def _html_of_markdown(text: str) -> list[str]:
    """Headings, lists, tables and paragraphs: what :func:`table` writes."""
    parts: list[str] = []
    kind = ""
    for line in text.splitlines():
        now = "table" if line.startswith("|") else "ul" if line.startswith("- ") else ""
        if kind and now != kind:
            parts.append("</table></div>" if kind == "table" else "</ul>")
        if now and now != kind:
            parts.append('<div class="wide"><table>' if now == "table" else "<ul>")
        if now == "table":
            cells = [html.escape(cell.strip()) for cell in line.strip("|").split("|")]
            if not all(cell == "---" for cell in cells):
                tag = "td" if kind == "table" else "th"
                parts.append("<tr>" + "".join(f"<{tag}>{cell}</{tag}>" for cell in cells) + "</tr>")
        elif now == "ul":
            parts.append(f"<li>{_inline(line[2:])}</li>")
        elif line.startswith("#"):
            level = len(line) - len(line.lstrip("#"))
            parts.append(f"<h{level}>{_inline(line[level:].strip())}</h{level}>")
        elif line:
            parts.append(f"<p>{_inline(line)}</p>")
        kind = now
    if kind:
        parts.append("</table></div>" if kind == "table" else "</ul>")
    return parts


def _inline(text: str) -> str:
    """Escaped, with `code` between backquotes."""
    pieces = html.escape(text).split("`")
    return "".join(f"<code>{piece}</code>" if i % 2 else piece for i, piece in enumerate(pieces))
