"""Writes the report of an evaluation: table.md, plots, and one HTML page with pictures of cases."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np

from SOPIRegistrationLib.compare import compared_target
from SOPIRegistrationLib.compare.objective import compared_view
from SOPIRegistrationLib.evaluation.cases import CaseSource, EvaluationCase
from SOPIRegistrationLib.evaluation.figures import pose_of_row
from SOPIRegistrationLib.evaluation.page import Shown, page_of
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
    write_whole(folder / PAGE, page_of(text, pictures, shown))
    return [TABLE, *pictures, PAGE]


def _galleries(source: CaseSource, series: Sequence[Series]) -> list[Shown]:
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
        shown[index] = Shown(label, _caption(word, row), _strip(as_found, row))
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
