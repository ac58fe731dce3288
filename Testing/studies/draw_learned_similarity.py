"""The shape of the learned similarity's basin: L_N, NCC and GC along each of six axes through the true pose.

    python Testing/studies/draw_learned_similarity.py --cases 50 --out DIR                        (phantoms)
    python Testing/studies/draw_learned_similarity.py --ct CT.nii.gz --cases 50 --out DIR

Turns about the rotation centre and shifts, camera axes, over +-30 degrees and +-60 mm. Counted are the local
minima (of L_N, 1 - NCC, 1 - GC), and the capture radius: how far from the truth a descent along the axis
still ends near it, both sides. The poses that it leads to are evaluated by the configurations
``Resources/Evaluation/configs/learned_similarity*.toml``. Phantoms have seeds below those of training and
validation, and are X-rayed on finer voxels.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import replace
from datetime import date
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from SOPIRegistrationLib.compare import Case, Comparison, Reading, compared_target
from SOPIRegistrationLib.compare.objective import at_level, comparable_pixels
from SOPIRegistrationLib.evaluation.benchmark import processor
from SOPIRegistrationLib.evaluation.cases import EvaluationCase
from SOPIRegistrationLib.evaluation.metrics import mean_interval
from SOPIRegistrationLib.evaluation.simulated import SimulatedCases
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.projector import project
from SOPIRegistrationLib.refine.learned import LearnedObjective
from SOPIRegistrationLib.refine.network import load_network
from SOPIRegistrationLib.similarity import get_similarity
from tqdm import tqdm

AXES = ("rx, deg", "ry, deg", "rz, deg", "tx, mm", "ty, mm", "tz (depth), mm")
# Of each axis: how far, in what steps, and how near the truth a descent must end.
RANGES = [(30.0, 1.0, 3.0)] * 3 + [(60.0, 2.0, 4.0)] * 2 + [(60.0, 2.0, 10.0)]
MEASURES = {"L_N": None, "1 - NCC": "ncc", "1 - GC": "gc"}
MEASURE_PIXELS = 128
COLUMNS = ("case", "axis", "measure", "local_minima", "capture_radius")


def in_order(cases: SimulatedCases, count: int):
    """Cases, those of one patient one after the other."""
    for number in sorted(range(count), key=cases.patient_of):
        yield cases.make(number)


def objective_of(case: EvaluationCase, network, T: np.ndarray) -> LearnedObjective:
    reading = Reading(case.radiographs)
    compared = Case(case.subject, reading, case.frame)
    return LearnedObjective(network, Comparison(compared, reading, compared_target(case.subject)), T)


def offsets(axis: int) -> np.ndarray:
    reach, step, _ = RANGES[axis]
    return np.arange(-reach, reach + step / 2, step)


def profiles(case: EvaluationCase, network) -> list[dict[str, np.ndarray]]:
    """Of each axis and measure, the values along it."""
    body = case.subject.body
    view = at_level(case.radiographs[0], MEASURE_PIXELS)
    valid = comparable_pixels(view, body, case.T_true[None])[0]
    found = []
    for axis in range(6):
        twists = np.zeros((len(offsets(axis)), 6))
        twists[:, axis] = np.deg2rad(offsets(axis)) if axis < 3 else offsets(axis)
        start = np.repeat(case.T_true[None], len(twists), axis=0)
        T = se3.move_about(start, twists, case.frame.centre_lps_mm)
        drrs = project(body.for_camera(view.camera, T[0]), view.camera, T)
        # Rays that leave the scan are left out as they do at the true pose, of all measures alike.
        objective = objective_of(case, network, case.T_true[None])
        values = {"L_N": objective.errors(T, np.zeros(len(T), dtype=int))}
        for name, measure in MEASURES.items():
            if measure:
                values[name] = 1 - np.asarray(get_similarity(measure)(drrs, view.image, valid))
        found.append(values)
    return found


def shape(axis: int, values: np.ndarray) -> tuple[int, float]:
    """Number of local minima, and the capture radius (0 if the nearest minimum is away from the truth)."""
    _, _, near = RANGES[axis]
    places = offsets(axis)
    padded = np.concatenate([[np.inf], values, [np.inf]])
    minima = np.flatnonzero((values < padded[:-2]) & (values <= padded[2:]))
    bottom = len(values) // 2
    while True:
        beside = [n for n in (bottom - 1, bottom + 1) if 0 <= n < len(values)]
        lower = min(beside, key=lambda n: values[n])
        if values[lower] >= values[bottom]:
            break
        bottom = lower
    if abs(places[bottom]) > near:
        return len(minima), 0.0
    left = right = bottom
    while left > 0 and values[left - 1] > values[left]:
        left -= 1
    while right < len(values) - 1 and values[right + 1] > values[right]:
        right += 1
    return len(minima), float((abs(places[left]) + abs(places[right])) / 2)


def draw_profiles(curves: list[dict[str, list[np.ndarray]]], path: Path) -> None:
    """Median and quartiles over the cases, each case scaled from 0 to 1."""
    figure, grid = plt.subplots(2, 3, figsize=(12, 6.5), constrained_layout=True, sharey=True)
    for axis, axes in enumerate(grid.flat):
        for name, colour in zip(MEASURES, ("tab:red", "tab:blue", "tab:green"), strict=True):
            scaled = np.array([(v - v.min()) / np.ptp(v) for v in curves[axis][name]])
            low, middle, high = np.percentile(scaled, [25, 50, 75], axis=0)
            axes.plot(offsets(axis), middle, color=colour, label=name)
            axes.fill_between(offsets(axis), low, high, color=colour, alpha=0.15, linewidth=0)
        axes.axvline(0, color="0.6", linewidth=0.8)
        axes.set(xlabel=AXES[axis])
        axes.grid(alpha=0.3)
    grid[0, 0].legend()
    figure.suptitle(f"{len(curves[0]['L_N'])} cases: median and quartiles, each case scaled from 0 to 1")
    figure.savefig(path, dpi=90)


def shape_study(options, network) -> tuple[list[dict], str]:
    rows, curves = [], [{name: [] for name in MEASURES} for _ in AXES]
    cases = SimulatedCases(
        "paper", options.target, tuple(options.ct), options.seed, options.view, content=options.content
    )
    for case in tqdm(in_order(cases, options.cases), total=options.cases, desc="shape"):
        for axis, values in enumerate(profiles(case, network)):
            for name, one in values.items():
                curves[axis][name].append(one)
                rows.append(
                    dict(zip(COLUMNS, (case.number, AXES[axis], name, *shape(axis, one)), strict=True))
                )
    if options.out:
        draw_profiles(curves, options.out / "ifr_shape.png")
    heads = ("axis", *(f"{name}: minima" for name in MEASURES), *(f"{name}: radius" for name in MEASURES))
    lines = [f"Target {options.target}; means, 95 % intervals of the radius.", ""]
    lines += [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for axis in AXES:
        cells = [axis]
        chosen = {
            name: [row for row in rows if row["axis"] == axis and row["measure"] == name] for name in MEASURES
        }
        cells += [f"{np.mean([row['local_minima'] for row in own]):.1f}" for own in chosen.values()]
        for own in chosen.values():
            radii = np.array([row["capture_radius"] for row in own])
            low, high = mean_interval(radii)
            cells.append(f"{radii.mean():.1f} ({low:.1f} to {high:.1f})")
        lines.append(f"| {' | '.join(cells)} |")
    return rows, "\n".join(lines)


def main() -> None:
    """Measure, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--ct", type=Path, nargs="+", default=[], help="CTs; phantoms if none are given")
    parser.add_argument("--cases", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--view", default="AP")
    parser.add_argument("--content", choices=("body", "bone"), default="body")
    parser.add_argument("--target", default="rtk", help="kind of X-ray")
    parser.add_argument("--weights", type=Path, help="other weights than those installed")
    parser.add_argument("--reach", type=float, help="another weight of the image than theirs, far from home")
    parser.add_argument("--out", type=Path, help="folder for ifr_shape.csv, .md and .png")
    options = parser.parse_args()
    network = load_network(options.weights)
    if options.reach is not None:
        network.config = replace(network.config, reach=options.reach)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
    names = ", ".join(path.name for path in options.ct) or "phantoms"
    masked = "with" if network.config.masked else "without"
    rows, table = shape_study(options, network)
    text = (
        f"Protocol `paper`, seed {options.seed}, {names}, {options.content}, view {options.view}, reach "
        f"{network.config.reach:g}, {masked} mask, {processor()}, {date.today()}\n\n{table}\n"
    )
    print(text)
    if options.out:
        (options.out / "ifr_shape.md").write_text(text, encoding="utf-8")
        with (options.out / "ifr_shape.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
