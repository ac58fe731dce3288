"""Fit and check the probability that a pose is right (registration/probability.py).

``collect`` registers simulated X-rays, of the CT's patient and of strangers, from starts near and far, read
rightly and mirrored, and writes the evidence on every pose reached, right or wrong. ``fit`` makes the
regression of the rows for fitting and shows how it does on those for checking, which share no CT, no phantom
and no degradation with them:

    python Testing/studies/fit_verdict.py collect [--of bone] [--use fit] --data DATA --out rows.csv
    python Testing/studies/fit_verdict.py fit rows.csv rows_of_bones.csv --out Resources/Evaluation

A run that was ended goes on where it was. A registration here differs from one of the program in one thing:
it starts from few poses, not from fifteen, so that more of them can be made, and more end in wrong poses.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from scipy.optimize import minimize
from SOPIRegistrationLib.compare import (
    Case,
    Comparison,
    Hypotheses,
    Proposal,
    Reading,
    Run,
    compared_target,
)
from SOPIRegistrationLib.evaluation.cases import EvaluationCase
from SOPIRegistrationLib.evaluation.metrics import pose_error, wilson_interval
from SOPIRegistrationLib.evaluation.simulated import Detector, SimulatedCases
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.refine.coarse_to_fine import CoarseToFine
from SOPIRegistrationLib.registration.evidence import Evidence
from SOPIRegistrationLib.registration.loop import find
from SOPIRegistrationLib.registration.probability import RESOURCE, TRUSTED, features
from SOPIRegistrationLib.registration.result import Verdict
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
# A bone is sought less far around.
_BONE_FAR = np.array([30.0, 30.0, 30.0, 20.0, 20.0, 40.0])
# Features and kinds of target of each regression.
REGRESSIONS = {
    "body": (("parts", "together", "share", "margin"), ("whole body", "bones")),
    "segmented bone": (
        ("parts", "turn", "detail margin", "together"),
        ("segmented bone",),
    ),
}
RIDGES = (0.1, 0.3, 1.0, 3.0, 10.0)
BINS = (0.0, 0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98, 1.0)
CARD = {
    "right": "within 2 mm in the plane, at the object, and 3 deg",
    "data": {
        "body": "simulated X-rays (RTK) of a CT of an abdomen from in front and from the side, of phantoms "
        "of loins, chests, hips, heads and bent spines, many with scatter, blur, noise, collimation, metal "
        "and steep curves; strangers: other phantoms, and CTs whose vertebrae were scaled by 5 to 15 % and "
        "spines bent; checked with a CT of a thorax and other phantoms",
        "segmented bone": "one bone of phantoms of loins, wrists, knees and limbs in simulated X-rays (RTK) "
        "of the whole, as above; wrong: starts far away, searches that ended elsewhere, turns about "
        "the long axis; "
        "strangers: the same bone of other phantoms; checked with other phantoms",
    },
    "limits": "no real X-ray among them",
    "made_by": "Testing/studies/fit_verdict.py",
}


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
    phantoms = {"cases_a_patient": 3, "phantoms": 50}
    for target, many in (("rtk-degraded", 30), ("rtk", 12)):
        add(f"CT, {target}", many, many, real, other, target=target)
        add(f"CT changed, {target}", many, many, real, other, target=target, stranger="changed")
        add(f"CT from the side, {target}", many, many, real, other, target=target, view="LLAT")
        add(f"phantoms, {target}", many, many, phantoms, target=target)
        add(f"other phantoms, {target}", many, many, phantoms, target=target, stranger="other")
        for region in ("chest", "hips", "head", "bent-spine"):
            add(f"{region}, {target}", many // 5, many // 5, phantoms, target=target, region=region)
        add(f"phantoms changed, {target}", many // 5, many // 5, phantoms, target=target, stranger="changed")
    return made


def bone_groups(data: Path) -> list[Group]:
    """Segmented bones in X-rays of the whole: vertebrae, and long bones and ends of them."""
    labels = {"cts": (data / "spine_labels_verse004.nii.gz",), "labels": True}
    large = Detector(1200.0, 900.0, 300.0)
    phantoms = {"cases_a_patient": 2, "phantoms": 50}
    # Region, label, how much of it, C-arm.
    bones = {
        "L3": {"bone": 22},
        "radius": {"region": "wrist", "bone": 1, "bone_mm": 80.0, "phantom_mm": (1.0, 1.0)},
        "femur": {"region": "knee", "bone": 1, "bone_mm": 110.0, "detector": large},
        "long bone": {"region": "long-bones", "bone": 1, "bone_mm": 100.0},
        "L1": {"bone": 20},
    }
    made = []
    for name, bone in bones.items():
        for target, stranger in itertools.product(("rtk", "rtk-degraded"), ("", "other")):
            for use, seed in (("fit", FIT_SEED), ("check", CHECK_SEED)):
                source = SimulatedCases(
                    protocol="near",
                    seed=seed,
                    target=target,
                    pixels=512,
                    stranger=stranger,
                    **phantoms,
                    **bone,
                )
                said = f"{stranger} {name}".strip()
                made.append(Group(f"{said}, {target}", source, 24, use))
    of_labels = SimulatedCases("near", "rtk-degraded", seed=CHECK_SEED, pixels=512, bone=22, **labels)
    made.append(Group("L3 of a patient's labels", of_labels, 12, "check"))
    return made


def interleaved(of: list[Group], at_once: int) -> Iterator[tuple[Group, int]]:
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
    is_bone = case.subject.is_segmented_bone
    twist = (_BONE_FAR if is_bone else _FAR) * rng.uniform(-1, 1, 6)
    twist[:3] = np.deg2rad(twist[:3])
    twist = (twist.reshape(2, 3) @ case.T_world_to_camera[:3, :3]).ravel()
    yield "far", reading, se3.move_about(T, twist, case.frame.centre_lps_mm)
    if not is_bone and case.number % 2 == 0:
        behind = PoseFrame(case.frame.centre_lps_mm, case.frame.sod_mm, "PA")
        yield "mirrored", reading.turned_over(), behind.T_nominal


def registered(case: EvaluationCase, reading: Reading, T_start: np.ndarray) -> Hypotheses:
    """Where the refinement leads from a start and four poses about it, and what it met on the way.

    Args:
        case: what is registered.
        reading: of its X-rays.
        T_start: (4, 4).
    """
    seen = Case(case.subject, reading, case.frame, T_expected=T_start)
    turns = np.deg2rad(_AROUND_DEG) * np.array([[0, 0, 0], [1, 1, 0], [-1, -1, 0], [1, -1, 0], [-1, 1, 0]])
    twists = np.hstack([turns, np.zeros_like(turns)])
    T = se3.move_about(np.repeat(T_start[None], len(twists), axis=0), twists, case.frame.centre_lps_mm)
    target = compared_target(case.subject)
    lots = (Hypotheses.unscored(Comparison(seen, one, target), T, T_start) for one in seen.readings)
    refiner, run = CoarseToFine(RegistrationSettings("given")), Run(seen)
    return refiner.refine(refiner.thin(Proposal("given", lots), run), run)


def reached(
    case: EvaluationCase, rng: np.random.Generator
) -> Iterator[tuple[str, Reading, np.ndarray, Verdict]]:
    """Of each registration its start's name, the reading, (4, 4) the pose reached and the verdict."""
    for start, reading, T_start in starts_of(case, rng):
        found = registered(case, reading, T_start)
        # Any view may have been meant, from any distance: what is implausible only from here counts, too.
        any_view = not case.subject.is_segmented_bone
        seen = replace(found.comparison.case, any_view=any_view, T_expected=None)
        found = replace(found, comparison=replace(found.comparison, case=seen))
        yield start, reading, found.T[0], judge(found)
    if case.subject.is_segmented_bone:
        # Of many poses, as a search tries them, the best wrong one looks better than those of few.
        settings = RegistrationSettings("auto", mirrored="no")
        found = find(case.subject, case.radiographs, case.frame, settings, case.T_start)
        yield "searched", Reading(case.radiographs), found.T_lps_to_world, found.verdict


def rows_of(group: Group, number: int) -> list[dict]:
    """Of each registration of a case what it reached."""
    case, rows = group.source.make(number), []
    rng = np.random.default_rng([group.source.seed, number, 7])
    for start, reading, T_found, verdict in reached(case, rng):
        row = {"use": group.use, "group": group.name, "case": number, "start": start}
        row |= {
            "kind": compared_target(case.subject).kind.name,
            "right": 0,
            "stranger": int(case.is_stranger),
        }
        if case.T_true is not None and not reading.mirrored:
            T, T_true = (case.T_world_to_camera @ pose for pose in (T_found, case.T_true))
            camera, ct = case.radiographs[0].camera, case.subject.ct
            error = pose_error(T, T_true, ct.surface_points_lps_mm, ct.rotation_centre_lps_mm, camera)
            row |= {"right": int(error.right), "in_plane_mm": error.in_plane_mm}
            row["rotation_deg"] = error.rotation_deg
        rows.append(row | {"status": verdict.status} | asdict(verdict.evidence))
    return rows


# What is registered of each kind, and how many cases of a group follow each other.
OF_KINDS = {"body": (groups, 3), "bone": (bone_groups, 2)}


def collect(kind: str, use: str, data: Path, out: Path, minutes: float) -> None:
    """Register for so many minutes, or until all is done; rows are written as they come.

    Args:
        kind: of ``OF_KINDS``.
        use: "fit" or "check", whose rows two processes may collect in files of their own; empty for both.
        data: folder of the sample data.
        out: the rows, a CSV file.
        minutes: for so long.
    """
    done = set()
    if out.exists():
        with out.open(newline="") as stream:
            done = {(row["use"], row["group"], row["case"]) for row in csv.DictReader(stream)}
    with out.open("a", newline="") as stream:
        writer = csv.DictWriter(stream, [*COLUMNS, *EVIDENCE], lineterminator="\n")
        if not done:
            writer.writeheader()
        until = time.monotonic() + 60 * minutes
        make, at_once = OF_KINDS[kind]
        of = [group for group in make(data) if use in ("", group.use)]
        for group, number in interleaved(of, at_once):
            if time.monotonic() > until:
                return
            if (group.use, group.name, str(number)) not in done:
                writer.writerows(rows_of(group, number))
                stream.flush()


def read_rows(paths: Iterable[Path], kinds: tuple[str, ...]) -> list[dict]:
    """Rows of some kinds of target, numbers as such; figures that older rows lack are not numbers."""
    rows = []
    for path in paths:
        with path.open(newline="") as stream:
            rows += [row for row in csv.DictReader(stream) if row["kind"] in kinds]
    for row in rows:
        row["evidence"] = Evidence(**{name: float(row.get(name) or "nan") for name in EVIDENCE})
    return rows


def matrix(rows: list[dict], names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """(n, features) what the regression sees, and (n,) whether right."""
    return (
        np.array([features(row["evidence"], names) for row in rows]),
        np.array([float(row["right"]) for row in rows]),
    )


def regression(x: np.ndarray, y: np.ndarray, ridge: float) -> tuple[float, np.ndarray]:
    """Intercept and weights (features,), none below zero: no evidence for a pose counts against it.

    Least negative log-likelihood plus ``ridge`` / 2 times the squared weights of standardised features.
    """
    mean, deviation = x.mean(axis=0), np.maximum(x.std(axis=0), 1e-6)
    z = (x - mean) / deviation

    def cost(theta):
        score = theta[0] + z @ theta[1:]
        value = np.logaddexp(0, -score)[y == 1].sum() + np.logaddexp(0, score)[y == 0].sum()
        slope = 1 / (1 + np.exp(-score)) - y
        gradient = np.concatenate([[slope.sum()], slope @ z + ridge * theta[1:]])
        return value + ridge / 2 * (theta[1:] ** 2).sum(), gradient

    bounds = [(None, None)] + [(0, None)] * z.shape[1]
    theta = minimize(cost, np.zeros(z.shape[1] + 1), jac=True, bounds=bounds, method="L-BFGS-B").x
    weights = theta[1:] / deviation
    return float(theta[0] - weights @ mean), weights


def log_loss(probability: np.ndarray, y: np.ndarray) -> float:
    """Mean negative log-likelihood."""
    p = np.clip(probability, 1e-3, 1 - 1e-3)
    return float(-np.mean(y * np.log(p) + (1 - y) * np.log(1 - p)))


def best_ridge(rows: list[dict], names: list[str]) -> float:
    """The ridge with the least loss on groups that were left out."""
    x, y = matrix(rows, names)
    of = np.array([row["group"] for row in rows])
    losses = {}
    for ridge in RIDGES:
        p = np.zeros(len(y))
        for group in np.unique(of):
            out = of == group
            intercept, weights = regression(x[~out], y[~out], ridge)
            p[out] = 1 / (1 + np.exp(-(intercept + x[out] @ weights)))
        losses[ridge] = log_loss(p, y)
    return min(losses, key=losses.get)


def fitted_kind(rows: list[dict], names: list[str]) -> dict:
    """The entry of a kind of target in the resource."""
    fit = [row for row in rows if row["use"] == "fit"]
    ridge = best_ridge(fit, names)
    intercept, weights = regression(*matrix(fit, names), ridge)
    kept = {name: round(float(w), 4) for name, w in zip(names, weights, strict=True) if w > 1e-3}
    right = sum(row["right"] == "1" for row in fit)
    return {
        "intercept": round(intercept, 4),
        "weights": kept,
        "ridge": ridge,
        "fitted_to": {"poses": len(fit), "right": right, "seed": FIT_SEED},
    }


def told(rows: list[dict], entry: dict) -> np.ndarray:
    """(n,) probabilities that a regression gives."""
    x, _ = matrix(rows, list(entry["weights"]))
    return 1 / (
        1 + np.exp(-np.clip(entry["intercept"] + x @ np.array(list(entry["weights"].values())), -50, 50))
    )


def reliability_lines(p: np.ndarray, y: np.ndarray) -> list[str]:
    """A table: of the poses with such a probability, how many are right."""
    lines = ["| probability | poses | mean | right | 95 % interval |", "|---|---|---|---|---|"]
    for low, high in itertools.pairwise(BINS):
        chosen = (p >= low) & ((p < high) | (high == 1))
        if chosen.any():
            n, right = int(chosen.sum()), int(y[chosen].sum())
            least, most = wilson_interval(right, n)
            lines.append(
                f"| {low:g} to {high:g} | {n} | {p[chosen].mean():.3f} | {right / n:.3f} | "
                f"{least:.2f} to {most:.2f} |"
            )
    return lines


def acceptance_lines(rows: list[dict], p: np.ndarray) -> list[str]:
    """A table: what would be accepted of each group."""
    lines = [
        "| cases | poses | right | of these accepted | wrong | accepted | most probable wrong one |",
        "|---|---|---|---|---|---|---|",
    ]
    groups_of = list(dict.fromkeys(row["group"] for row in rows))
    for group in [*groups_of, "all"]:
        of = np.array([group in ("all", row["group"]) for row in rows])
        right = np.array([row["right"] == "1" for row in rows])
        accepted = p >= TRUSTED.accept
        worst = p[of & ~right].max() if (of & ~right).any() else float("nan")
        lines.append(
            f"| {group} | {of.sum()} | {(of & right).sum()} | {(of & right & accepted).sum()} | "
            f"{(of & ~right).sum()} | {(of & ~right & accepted).sum()} | {worst:.3f} |"
        )
    return lines


def share_lines(rows: list[dict], p: np.ndarray) -> list[str]:
    """A table: wrong poses over the share of the X-ray that was compared."""
    lines = ["| share | wrong poses | with a probability above 0.5 | accepted |", "|---|---|---|---|"]
    share = np.array([row["evidence"].share for row in rows])
    wrong = np.array([row["right"] == "0" for row in rows])
    for low, high in itertools.pairwise((0.0, 0.15, 0.25, 0.35, 0.5, 0.75, 1.01)):
        of = wrong & (share >= low) & (share < high)
        lines.append(
            f"| {low:g} to {min(high, 1):g} | {of.sum()} | {(of & (p > 0.5)).sum()} | "
            f"{(of & (p >= TRUSTED.accept)).sum()} |"
        )
    return lines


def draw(path: Path, told_of: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Reliability diagram of the poses for checking, and where right and wrong poses lie."""
    figure, axes = plt.subplots(2, len(told_of), figsize=(5 * len(told_of), 7), squeeze=False)
    for (title, (p, y)), above, below in zip(told_of.items(), *axes, strict=True):
        above.plot([0, 1], [0, 1], color="0.7", linewidth=1)
        for low, high in itertools.pairwise(BINS):
            chosen = (p >= low) & ((p < high) | (high == 1))
            if chosen.any():
                rate, interval = y[chosen].mean(), wilson_interval(int(y[chosen].sum()), int(chosen.sum()))
                away = np.abs(np.array(interval) - rate)[:, None]
                above.errorbar(p[chosen].mean(), rate, away, fmt="o", color="#1f5fa8", capsize=3)
        above.set(title=title, xlabel="probability told", ylabel="share of right poses")
        score = np.log(np.clip(p, 1e-6, 1 - 1e-6) / np.clip(1 - p, 1e-6, 1))
        edges = np.linspace(-14, 14, 29)
        below.hist([score[y == 0], score[y == 1]], edges, stacked=True, color=["#c62828", "#2e7d32"])
        below.axvline(np.log(TRUSTED.accept / (1 - TRUSTED.accept)), color="0.3", linestyle=":")
        below.legend(["accepted from here", "wrong", "right"], frameon=False)
        below.set(xlabel="log odds told", ylabel="poses")
    figure.tight_layout()
    figure.savefig(path, dpi=90)


def fit(rows_files: list[Path], out: Path) -> None:
    """Fit each kind, write the resource, tables and the picture."""
    kinds, texts, pictures = {}, [], {}
    for judged_as, (names, of) in REGRESSIONS.items():
        rows = read_rows(rows_files, of)
        if not rows:
            continue
        entry = kinds[judged_as] = fitted_kind(rows, list(names))
        texts.append(f"## {judged_as.capitalize()}\n")
        weights = ", ".join(f"{name} {weight:g}" for name, weight in entry["weights"].items())
        texts.append(f"Weights: {weights}; intercept {entry['intercept']:g}.\n")
        for use in ("fit", "check"):
            chosen = [row for row in rows if row["use"] == use]
            p, y = told(chosen, entry), matrix(chosen, list(names))[1]
            texts += [f"### For {use}ting\n" if use == "fit" else "### For checking\n"]
            texts += [f"Log loss {log_loss(p, y):.4f}, Brier score {np.mean((p - y) ** 2):.4f}.\n"]
            texts += [*reliability_lines(p, y), "", *acceptance_lines(chosen, p), ""]
            if use == "check":
                pictures[f"{judged_as}: {len(y)} poses for checking"] = p, y
        p = told(rows, entry)
        texts += [
            "### Wrong poses over the share of the X-ray that was compared\n",
            *share_lines(rows, p),
            "",
        ]
    resource = {"kinds": kinds, "card": CARD}
    RESOURCE.write_text(json.dumps(resource, indent=1) + "\n", encoding="utf-8")
    (out / "verdict.md").write_text("\n".join(["# The verdict's probability\n", *texts]), encoding="utf-8")
    draw(out / "verdict.png", pictures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("collect")
    one.add_argument("--of", choices=OF_KINDS, default="body")
    one.add_argument("--use", choices=("fit", "check"), default="")
    one.add_argument("--data", type=Path, default=Path("../shared/data"))
    one.add_argument("--out", type=Path, required=True)
    one.add_argument("--minutes", type=float, default=60.0)
    one = commands.add_parser("fit")
    one.add_argument("rows", type=Path, nargs="+")
    one.add_argument("--out", type=Path, default=Path("Resources/Evaluation"))
    given = parser.parse_args()
    if given.command == "collect":
        collect(given.of, given.use, given.data, given.out, given.minutes)
    else:
        fit(given.rows, given.out)


if __name__ == "__main__":
    main()
