"""Writes the report of an evaluation: table.md, plots, and one HTML page with pictures of cases."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from SOPIRegistrationLib.compare import compared_target
from SOPIRegistrationLib.compare.objective import compared_view
from SOPIRegistrationLib.evaluation.cases import CaseSource, EvaluationCase
from SOPIRegistrationLib.evaluation.figures import pose_of_row
from SOPIRegistrationLib.evaluation.plots import plots
from SOPIRegistrationLib.evaluation.results import Results
from SOPIRegistrationLib.evaluation.runner import Evaluation
from SOPIRegistrationLib.evaluation.series import Series, series_of
from SOPIRegistrationLib.evaluation.tables import table
from SOPIRegistrationLib.images.overlay import display_window, fusion_image, windowed
from SOPIRegistrationLib.images.radiograph import PreparedRadiograph
from SOPIRegistrationLib.projector import project
from SOPIRegistrationLib.whole_files import write_whole

TABLE, PAGE = "table.md", "report.html"
_PICTURE_PIXELS = 256


def write_report(evaluation: Evaluation, results: Results) -> list[str]:
    """Write table.md, plots and report.html from the rows of an evaluation, into their folder.

    Args:
        evaluation: what was run; its cases that are shown are made once more.
        results: its rows.

    Returns:
        The files' names.
    """
    folder = results.folder
    groups = {name: series_of(results.rows, evaluation.variants, name) for name in results.settings["groups"]}
    series = [one for own in groups.values() for one in own]
    within = {group.name: group.within for group in evaluation.groups}
    text = table(series, results.settings, evaluation.title, evaluation.tables, within)
    write_whole(folder / TABLE, text)
    pictures = {}
    for group, own in groups.items():
        marked = "".join(letter if letter.isalnum() else "-" for letter in f" {group}" if group)
        pictures |= {name.replace(".png", f"{marked}.png"): picture for name, picture in plots(own).items()}
    for name, picture in pictures.items():
        write_whole(folder / name, picture)
    shown = []
    for group in evaluation.groups:
        shown += _galleries(group.source, groups[group.name])
    write_whole(folder / PAGE, _page(text, pictures, shown))
    return [TABLE, *pictures, PAGE]


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
        label = f"{one.group}: {one.label}" if one.group else one.label
        chosen += [(label, word, rows[place]) for place, word in sorted(places.items())]
    # One after the other of one patient: its CT is prepared once.
    numbers = [int(row["case"]) for _, _, row in chosen]
    order = sorted(range(len(chosen)), key=lambda i: (source.patient_of(numbers[i]), numbers[i]))
    shown = {}
    case = None
    for index in order:
        label, word, row = chosen[index]
        if case is None or case.number != numbers[index]:
            case = source.make(numbers[index])
        as_found = case.turned_over() if row["found_mirrored"] == "1" else case
        shown[index] = _Shown(label, _caption(word, row), _strip(as_found, row))
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
    """PNG, one row a view: the X-ray, the fusion at the start and at the end, the DRR's edges at the end.

    Of a segmented bone in an X-ray of more, its surroundings.
    """
    T = np.stack([pose_of_row(row, case, prefix) for prefix in ("start", "end")])
    rows = []
    for radiograph in case.radiographs:
        strip = _view_strip(case, radiograph, T)
        rows += [np.full((6, strip.shape[1], 3), 255, np.uint8), strip]
    width = max(strip.shape[1] for strip in rows)
    rows = [
        np.pad(strip, ((0, 0), (0, width - strip.shape[1]), (0, 0)), constant_values=255) for strip in rows
    ]
    return _png_of_pixels(np.concatenate(rows[1:]))


def _view_strip(case: EvaluationCase, radiograph: PreparedRadiograph, T: np.ndarray) -> np.ndarray:
    """(rows, columns, 3) pixels of one view at the start and the end, T_lps_to_world (2, 4, 4)."""
    target = compared_target(case.subject)
    view = compared_view(radiograph, target, T, _PICTURE_PIXELS)
    start, end = project(target.moving.for_camera(view.camera, T[0]), view.camera, T)
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
    return np.concatenate(strip, axis=1)


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
