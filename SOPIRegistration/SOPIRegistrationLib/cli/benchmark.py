"""``sopi benchmark``: speed and memory of this projector beside the DRR renderers installed."""

from __future__ import annotations

import argparse
import csv
import io
import os
from datetime import date
from pathlib import Path

import numpy as np
from tqdm import tqdm

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.evaluation.benchmark import (
    DETECTOR_MM,
    IMAGE,
    IMAGE_AND_GRADIENT,
    SDD_MM,
    SOD_MM,
    Measurement,
    compare,
    machine,
)
from SOPIRegistrationLib.images.attenuation import attenuation_of_hu
from SOPIRegistrationLib.images.volume import Volume
from SOPIRegistrationLib.simulation.phantom import lumbar_phantom
from SOPIRegistrationLib.whole_files import write_whole

VOLUME_MM = 256.0
# Below this correlation two images do not show the same thing, and their times say nothing.
SAME_IMAGE = 0.99


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the subcommand."""
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the results")
    parser.add_argument(
        "--pixels", type=_positive, nargs="+", default=[128, 256], metavar="N", help="image edges (128 256)"
    )
    parser.add_argument(
        "--voxels",
        type=_positive,
        default=128,
        metavar="N",
        help=f"voxels along an edge of the {VOLUME_MM:.0f} mm volume (128)",
    )
    parser.add_argument(
        "--repeats", type=_positive, default=5, metavar="N", help="measurements of each renderer (5)"
    )


def run(args: argparse.Namespace) -> int:
    """Measure, print the table, write ``benchmark.csv`` and ``benchmark.md``.

    Raises:
        InputError: the output folder cannot be written to.
    """
    _require_writable(args.out)
    conditions = machine()
    volumes = phantom_volumes(args.voxels)
    measurements: list[Measurement] = []
    rounds = len(volumes) * len(args.pixels) * (args.repeats + 1)
    with tqdm(total=rounds, desc="benchmark", unit="round") as bar:
        for content, volume in volumes.items():
            for pixels in args.pixels:
                rows, missing = compare(content, volume, pixels, args.repeats, bar.update)
                measurements += rows
    report = markdown(measurements, missing, conditions, args)
    print(report)
    write_whole(args.out / "benchmark.csv", csv_text(measurements))
    write_whole(args.out / "benchmark.md", report)
    return 0


def phantom_volumes(voxels: int) -> dict[str, Volume]:
    """Attenuation of a lumbar phantom: the whole body, hardly empty, and the bones alone, mostly empty."""
    phantom = lumbar_phantom(0, VOLUME_MM / voxels, (VOLUME_MM,) * 3)
    body = attenuation_of_hu(phantom.ct.array)
    bone = np.where(phantom.labels.array > 0, body, np.float32(0))
    return {"body": phantom.ct.same_grid(body), "bone": phantom.ct.same_grid(bone)}


def markdown(
    measurements: list[Measurement],
    missing: dict[str, str],
    conditions: dict[str, str],
    args: argparse.Namespace,
) -> str:
    """The report: conditions, a table a volume and image size, and the comparisons that matter."""
    lines = [
        "# Projector benchmark",
        "",
        f"{date.today().isoformat()}. Lumbar phantom of {args.voxels}^3 voxels ({VOLUME_MM:.0f} mm), "
        f"source-detector {SDD_MM} mm, source-object {SOD_MM:.0f} mm, detector {DETECTOR_MM:.0f} mm square, "
        "AP view turned by a few degrees; float32 on the CPU. Peers run as installed: torch.compile is left "
        "out, for it needs a C++ compiler.",
        "",
        *(f"- {name}: {value}" for name, value in conditions.items()),
        *(f"- {package}: not installed ({reason})" for package, reason in missing.items()),
        "",
        f"Medians of {args.repeats} interleaved repeats [least, greatest]. The ratio is to our time for the "
        "same thing, repeat by repeat. Agreement with ours: correlation of the images, cosine of the pose "
        "gradients. Memory: what a call adds at its peak.",
    ]
    groups = dict.fromkeys((m.content, m.pixels) for m in measurements)
    for content, pixels in groups:
        rows = [m for m in measurements if (m.content, m.pixels) == (content, pixels)]
        lines += ["", f"## {content}, {pixels} x {pixels} pixels", "", *_table(rows), "", *_conclusions(rows)]
    return "\n".join(lines) + "\n"


def _table(rows: list[Measurement]) -> list[str]:
    lines = [
        "| renderer | operation | ms | ratio | memory MB | agreement |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        ms = np.median(row.seconds) * 1e3, row.seconds.min() * 1e3, row.seconds.max() * 1e3
        ratio = row.over(_ours(rows, row.operation))
        memory = "not known" if row.peak_mb is None else f"{row.peak_mb:.0f}"
        cells = (row.renderer, row.operation, _spread(ms), _spread(ratio), memory, f"{row.agreement:.5f}")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _conclusions(rows: list[Measurement]) -> list[str]:
    """Gradients against the peers', our gradient against RTK's image alone, and images that differ."""
    jacobian = _ours(rows, IMAGE_AND_GRADIENT)
    lines = []
    for row in rows:
        if row.is_ours:
            continue
        if row.operation == IMAGE_AND_GRADIENT:
            times = _spread(row.over(jacobian))
            lines.append(f"- {row.renderer}: image + pose gradient takes {times} times ours.")
        elif row.renderer.startswith("RTK"):
            share = _spread(jacobian.over(row))
            lines.append(f"- Our image + Jacobian takes {share} times {row.renderer}'s image alone.")
        if row.operation == IMAGE and row.agreement < SAME_IMAGE:
            difference = f"correlation {row.agreement:.3f}"
            lines.append(f"- {row.renderer} shows another image ({difference}): not comparable.")
    return lines


def _ours(rows: list[Measurement], operation: str) -> Measurement:
    return next(row for row in rows if row.is_ours and row.operation == operation)


def _spread(values: tuple[float, float, float]) -> str:
    median, least, greatest = (f"{value:.3g}" for value in values)
    return f"{median} [{least}, {greatest}]"


def csv_text(measurements: list[Measurement]) -> str:
    """One row a measurement, every repeat's time kept."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    header = ("content", "pixels", "renderer", "operation", "median_ms", "peak_mb", "agreement", "repeats_ms")
    writer.writerow(header)
    for m in measurements:
        peak_mb = "" if m.peak_mb is None else round(m.peak_mb, 1)
        milliseconds = " ".join(f"{1e3 * seconds:.4g}" for seconds in m.seconds)
        figures = (f"{1e3 * np.median(m.seconds):.4g}", peak_mb, f"{m.agreement:.6f}", milliseconds)
        writer.writerow((m.content, m.pixels, m.renderer, m.operation, *figures))
    return stream.getvalue()


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not a positive number")
    return value


def _require_writable(folder: Path) -> None:
    """Before minutes of work, not after."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write to the output folder {folder}: {error.strerror or error}") from None
    if not os.access(folder, os.W_OK):
        raise InputError(f"cannot write to the output folder {folder}: choose another with --out")
