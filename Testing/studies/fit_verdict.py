"""Fit and check the probability that a pose is right (registration/probability.py).

``collect`` registers simulated X-rays, of the CT's patient and of strangers, from starts near and far, read
rightly and mirrored, and writes the evidence on every pose reached, right or wrong. ``fit`` makes the
regression of the rows for fitting and shows how it does on those for checking, which share no CT, no phantom
and no degradation with them:

    python Testing/studies/fit_verdict.py collect --data ../shared/data --out rows.csv [--minutes 40]
    python Testing/studies/fit_verdict.py fit rows.csv --out Resources/Evaluation

A run that was ended goes on where it was. A registration here differs from one of the program in one thing:
it starts from few poses, not from fifteen, so that more of them can be made, and more end in wrong poses.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
from SOPIRegistrationLib.compare import Case, Comparison, Hypotheses, Proposal, Reading, Run
from SOPIRegistrationLib.evaluation.cases import EvaluationCase
from SOPIRegistrationLib.evaluation.metrics import pose_error
from SOPIRegistrationLib.evaluation.simulated import SimulatedCases
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.refine.coarse_to_fine import CoarseToFine
from SOPIRegistrationLib.registration.evidence import Evidence
from SOPIRegistrationLib.registration.verdict import judge
from SOPIRegistrationLib.settings import RegistrationSettings

FIT_SEED, CHECK_SEED = 21, 22
COLUMNS = (
    "use",
    "group",
    "case",
    "start",
    "kind",
    "right",
    "stranger",
    "rotation_deg",
    "in_plane_mm",
    "status",
)
EVIDENCE = tuple(one.name for one in fields(Evidence))
# Turned by up to so much about each axis, shifted by up to so much across and along the central ray.
_FAR = np.array([45.0, 45.0, 30.0, 40.0, 40.0, 120.0])
_AROUND_DEG = 8.0


@dataclass(frozen=True)
class Group:
    """Cases of one kind.

    Attributes:
        name: of the group.
        source: its cases.
        cases: how many.
        use: "fit" or "check".
    """

    name: str
    source: SimulatedCases
    cases: int
    use: str


def groups(data: Path) -> list[Group]:
    """All that is registered, interleaved so that any beginning of it can be used."""
    abdomen, thorax = (data / f"ct_{name}.nii.gz" for name in ("abdomen_pelvis_3mm", "thorax_1p5mm"))
    made = []

    def add(name: str, fit: int, check: int, fit_of: dict, check_of: dict | None = None, **both) -> None:
        for use, cases, seed, of in (
            ("fit", fit, FIT_SEED, fit_of),
            ("check", check, CHECK_SEED, fit_of if check_of is None else check_of),
        ):
            if cases:
                made.append(Group(name, SimulatedCases(seed=seed, **{**both, **of}), cases, use))

    real, other = {"cts": (abdomen,)}, {"cts": (thorax,)}
    phantoms = {"cases_a_patient": 6, "phantoms": 50}
    for target, many in (("rtk-degraded", 30), ("rtk", 12)):
        add(f"CT, {target}", many, many, real, other, target=target)
        add(f"CT changed, {target}", many, many, real, other, target=target, stranger="changed")
        add(f"phantoms, {target}", many, many, phantoms, target=target)
        add(f"other phantoms, {target}", many, many, phantoms, target=target, stranger="other")
        for region in ("chest", "hips", "head", "bent-spine"):
            add(f"{region}, {target}", many // 5, many // 5, phantoms, target=target, region=region)
        add(f"phantoms changed, {target}", many // 5, many // 5, phantoms, target=target, stranger="changed")
    bones = {"cases_a_patient": 3, "phantoms": 50}
    for name, region, bone in (("radius", "wrist", 1), ("vertebra", "lumbar", 22), ("femur", "knee", 1)):
        for views in (1, 2):
            what = f"{name}, {views} views"
            add(what, 12, 9, bones, target="rtk", region=region, bone=bone, views=views)
    return made


def interleaved(of: list[Group], at_once: int = 6) -> Iterator[tuple[Group, int]]:
    """Groups and numbers of cases: some of each group, then some more."""
    for first in itertools.count(0, at_once):
        if all(first >= group.cases for group in of):
            return
        for group in of:
            for number in range(first, min(first + at_once, group.cases)):
                yield group, number


def starts_of(case: EvaluationCase, rng: np.random.Generator) -> Iterator[tuple[str, Reading, np.ndarray]]:
    """Name, reading and start pose (4, 4) of each registration of a case."""
    reading = Reading(case.radiographs)
    yield "near", reading, case.T_start
    T = np.linalg.inv(case.T_world_to_camera) @ case.frame.T_nominal
    twist = _FAR * rng.uniform(-1, 1, 6)
    twist[:3] = np.deg2rad(twist[:3])
    twist = (twist.reshape(2, 3) @ case.T_world_to_camera[:3, :3]).ravel()
    yield "far", reading, se3.move_about(T, twist, case.frame.centre_lps_mm)
    if len(case.radiographs) == 1 and not case.subject.is_segmented_bone:
        behind = PoseFrame(case.frame.centre_lps_mm, case.frame.sod_mm, "PA")
        yield "mirrored", reading.turned_over(), behind.T_nominal


def registered(case: EvaluationCase, reading: Reading, T_start: np.ndarray) -> Hypotheses:
    """Where the refinement leads from a start and four poses about it, and what it met on the way."""
    seen = Case(case.subject, reading, case.frame, T_expected=T_start)
    turns = np.deg2rad(_AROUND_DEG) * np.array([[0, 0, 0], [1, 1, 0], [-1, -1, 0], [1, -1, 0], [-1, 1, 0]])
    twists = np.hstack([turns, np.zeros_like(turns)])
    T = se3.move_about(np.repeat(T_start[None], len(twists), axis=0), twists, case.frame.centre_lps_mm)
    targets = [target for target in seen.targets if target.outline_lps_mm is not None] or seen.targets[:1]
    lots = (
        Hypotheses.unscored(Comparison(seen, one, target), T, T_start)
        for one in seen.readings
        for target in targets
    )
    refiner, run = CoarseToFine(RegistrationSettings("given")), Run(seen)
    return refiner.refine(refiner.thin(Proposal("given", lots), run), run)


def rows_of(group: Group, number: int) -> list[dict]:
    """Of each registration of a case what it reached."""
    case, rows = group.source.make(number), []
    rng = np.random.default_rng([group.source.seed, number, 7])
    for start, reading, T_start in starts_of(case, rng):
        found = registered(case, reading, T_start)
        # Any view may have been meant, from any distance: what is implausible only from here counts, too.
        seen = replace(found.comparison.case, any_view=True, T_expected=None)
        found = replace(found, comparison=replace(found.comparison, case=seen))
        verdict = judge(found)
        row = {"use": group.use, "group": group.name, "case": number, "start": start}
        row |= {"kind": found.comparison.target.kind.name, "right": 0, "stranger": int(case.is_stranger)}
        if case.T_true is not None and not reading.mirrored:
            T, T_true = (case.T_world_to_camera @ pose for pose in (found.T[0], case.T_true))
            camera, ct = case.radiographs[0].camera, case.subject.ct
            error = pose_error(T, T_true, ct.surface_points_lps_mm, ct.rotation_centre_lps_mm, camera)
            row |= {"right": int(error.right), "in_plane_mm": error.in_plane_mm}
            row["rotation_deg"] = error.rotation_deg
        rows.append(row | {"status": verdict.status} | asdict(verdict.evidence))
    return rows


def collect(data: Path, out: Path, minutes: float) -> None:
    """Register for so many minutes, or until all is done; rows are written as they come."""
    done = set()
    if out.exists():
        with out.open(newline="") as stream:
            done = {(row["use"], row["group"], row["case"]) for row in csv.DictReader(stream)}
    with out.open("a", newline="") as stream:
        writer = csv.DictWriter(stream, [*COLUMNS, *EVIDENCE], lineterminator="\n")
        if not done:
            writer.writeheader()
        until = time.monotonic() + 60 * minutes
        for group, number in interleaved(groups(data)):
            if time.monotonic() > until:
                return
            if (group.use, group.name, str(number)) not in done:
                writer.writerows(rows_of(group, number))
                stream.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("collect")
    one.add_argument("--data", type=Path, default=Path("../shared/data"))
    one.add_argument("--out", type=Path, required=True)
    one.add_argument("--minutes", type=float, default=60.0)
    given = parser.parse_args()
    if given.command == "collect":
        collect(given.data, given.out, given.minutes)


if __name__ == "__main__":
    main()
