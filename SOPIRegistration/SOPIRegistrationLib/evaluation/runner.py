"""Runs methods on cases, in this process or on Dask workers; a case that fails is a row with its error."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import NamedTuple
from weakref import WeakSet

from SOPIRegistrationLib import __version__
from SOPIRegistrationLib.errors import Cancelled, InputError, line_of
from SOPIRegistrationLib.evaluation.benchmark import processor
from SOPIRegistrationLib.evaluation.cases import CaseSource, EvaluationCase, digest
from SOPIRegistrationLib.evaluation.figures import end_figures, judgement_figures, start_figures
from SOPIRegistrationLib.evaluation.methods import INITIAL, METHODS, NETWORKS, EvaluatedMethod, weights_file
from SOPIRegistrationLib.evaluation.problem import BASELINE_PIXELS, Estimate, Problem
from SOPIRegistrationLib.evaluation.results import Results, Row, weights_setting
from SOPIRegistrationLib.progress import Progress
from SOPIRegistrationLib.subject import Subject

# What a task is at, as its process tells it.
PREPARING, SOLVING = "preparing", "solving"
# Reading and preparing the inputs, imports and compiling are not limited as a registration is: cases that are
# drawn in sequence make all those before them.
PREPARING_S = 1800.0
# A method that does not heed its time limit is ended so much later, where it can be: with its process.
LEEWAY_S = 5.0


class Task(NamedTuple):
    """One method on one case: a row."""

    group: str
    number: int
    method: str


@dataclass(frozen=True)
class Group:
    """Cases of one source that are told of together.

    Attributes:
        name: in the tables; empty where there is one group only.
        source: the cases.
        methods: names of the evaluation's methods.
        numbers: of the cases.
        within: what is counted as within limits: (column of errors, largest value) each.
    """

    name: str
    source: CaseSource
    methods: tuple[str, ...]
    numbers: range
    within: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Evaluation:
    """What to run.

    Attributes:
        groups: of cases.
        seed: of anything random in the methods.
        timeout_s: a method that takes longer on a case has failed there.
        workers: processes; 1 runs in this one.
        weights: files of weights by network, over the installed ones.
        baseline_pixels: longer edge of the images that the baselines compare.
        fresh: whether each registration has a process of its own, and its first run there is timed, too.
        variants: methods by name besides those of :data:`~SOPIRegistrationLib.evaluation.methods.METHODS`.
        variant_settings: what they depend on, for the fingerprint.
        title: of the report.
        tables: names of the report's sections; those that fit if empty.
    """

    groups: tuple[Group, ...]
    seed: int = 1
    timeout_s: float = 300.0
    workers: int = 1
    weights: Mapping[str, Path] = field(default_factory=dict)
    baseline_pixels: int = BASELINE_PIXELS
    fresh: bool = False
    variants: Mapping[str, EvaluatedMethod] = field(default_factory=dict)
    variant_settings: Mapping[str, dict] = field(default_factory=dict)
    title: str = "Evaluation"
    tables: tuple[str, ...] = ()

    def method(self, name: str) -> EvaluatedMethod:
        """The method of a name."""
        return self.variants.get(name) or METHODS[name]

    def group(self, name: str) -> Group:
        """The group of a name."""
        return next(group for group in self.groups if group.name == name)

    def patient_of(self, task: Task) -> tuple[str, int]:
        """Group and patient of a task: tasks of one are best run one after the other, in one process."""
        return task.group, self.group(task.group).source.patient_of(task.number)

    @property
    def tasks(self) -> list[Task]:
        """All of it, case by case, the cases of one patient together."""
        tasks = []
        for group in self.groups:
            numbers = sorted(group.numbers, key=lambda number: (group.source.patient_of(number), number))
            tasks += [Task(group.name, number, name) for number in numbers for name in group.methods]
        return tasks

    def on(self, workers: int) -> Evaluation:
        """See :class:`~SOPIRegistrationLib.workers.Work`."""
        return replace(self, workers=workers)

    def row(self, task: Task, tell: Callable[[str], None]) -> Row:
        """See :class:`~SOPIRegistrationLib.workers.Work`."""
        return evaluate_one(self, Task(*task), tell)

    def allowed_s(self, phase: str) -> float:
        """See :class:`~SOPIRegistrationLib.workers.Work`."""
        if phase == SOLVING:
            return self.timeout_s + LEEWAY_S
        # A fresh process registers twice, and prepares; its own limit ends it.
        return PREPARING_S + (2 * self.timeout_s + PREPARING_S if self.fresh else 0.0)

    def failed(self, task: Task, reason: str) -> Row:
        """See :class:`~SOPIRegistrationLib.workers.Work`."""
        group, number, method = task
        return {"group": group, "case": number, "method": method, "workers": self.workers, "error": reason}

    def check(self) -> None:
        """Raise InputError where the cases cannot be made."""
        for group in self.groups:
            group.source.check()

    def settings(self) -> dict:
        """What a row depends on besides its case number and its method: rows of one folder share it."""
        files = {network: weights_file(network, self.weights) for network in NETWORKS}
        return {
            "version": __version__,
            "seed": self.seed,
            "timeout_s": self.timeout_s,
            "baseline_pixels": self.baseline_pixels,
            "fresh": self.fresh,
            **{
                weights_setting(network): None if path is None else digest(path)
                for network, path in files.items()
            },
            "processor": processor(),
            "groups": {group.name: group.source.settings() for group in self.groups},
            "variants": dict(self.variant_settings),
        }


def run(
    evaluation: Evaluation,
    results: Results,
    tick: Callable[[], None],
    retry: bool = False,
    scheduler: str | None = None,
) -> None:
    """Run what is missing of an evaluation.

    Args:
        evaluation: what to run.
        results: where the rows go, one by one.
        tick: called after every row.
        retry: whether rows with an error are run again.
        scheduler: address of a Dask scheduler whose workers to use in place of processes of this machine.

    Raises:
        InputError: no scheduler answers there, or Dask is not installed.
    """
    tasks = results.missing(evaluation.tasks, retry)
    if scheduler is None and (evaluation.workers == 1 or len(tasks) < 2):
        rows: Iterator[Row] = (evaluate_one(evaluation, task) for task in tasks)
    else:
        if find_spec("distributed") is None:
            raise InputError(
                "several processes need the Python package 'distributed': pip install it, or use --workers 1"
            )
        # Dask takes a second to import; one process needs none of it.
        from SOPIRegistrationLib.workers import rows_of_workers

        rows = rows_of_workers(evaluation, tasks, scheduler)
    for row in rows:
        results.add(row)
        tick()


def evaluate_one(evaluation: Evaluation, task: Task, tell: Callable[[str], None] = lambda phase: None) -> Row:
    """The row of one method on one case; whatever goes wrong is in its error.

    Args:
        evaluation: what it belongs to.
        task: what to run.
        tell: told what it is at, ``PREPARING`` or ``SOLVING``: only the latter has a time limit.
    """
    tell(PREPARING)
    row: Row = {**task._asdict(), "workers": evaluation.workers}
    row["case"] = row.pop("number")
    try:
        case = _case(evaluation.group(task.group).source, task.number)
        row |= start_figures(case)
        if evaluation.fresh:
            from SOPIRegistrationLib.evaluation.fresh import figures_of_fresh_process

            return row | figures_of_fresh_process(evaluation, task, case)
    except Exception as error:
        return row | {"error": line_of(error)}
    return row | solved(evaluation, task, case, tell)


def solved(
    evaluation: Evaluation,
    task: Task,
    case: EvaluationCase,
    tell: Callable[[str], None],
    cold: bool = False,
) -> Row:
    """What a method that is run in this very process adds to a row.

    Args:
        evaluation: what it belongs to.
        task: what to run.
        case: its case.
        tell: as for :func:`evaluate_one`.
        cold: whether this process is a fresh one, where the first run is timed as well as a second.
    """
    figures: Row = {}
    try:
        method = evaluation.method(task.method)
        problem = Problem(
            case.subject,
            case.radiographs,
            case.frame,
            case.T_start,
            evaluation.seed + case.number,
            evaluation.weights,
            evaluation.baseline_pixels,
            case.body,
            case.several,
        )
        if not cold and task.method != INITIAL:
            _warm_up(task.method, method, problem)
        tell(SOLVING)
        estimate, seconds = _timed(method, problem, evaluation.timeout_s)
        if cold:
            figures["seconds_first"] = seconds
            estimate, seconds = _timed(method, problem, evaluation.timeout_s)
        figures["seconds"] = seconds if estimate.seconds is None else estimate.seconds
        tell(PREPARING)
        figures |= judgement_figures(case, estimate)
        if estimate.result is not None and estimate.result.mirrored:
            case = case.turned_over()
        if estimate.result is not None and estimate.result.intrinsics:
            case = case.in_cameras(one.camera for one in estimate.result.radiographs)
        figures |= end_figures(case, estimate.T_lps_to_world)
    except _TimedOut as error:
        figures |= {"seconds": error.seconds, "error": str(error)}
    except Exception as error:
        figures["error"] = line_of(error)
    return figures


class _TimedOut(Exception):
    def __init__(self, seconds: float, limit: float):
        super().__init__(f"timed out: {seconds:.1f} s, limit {limit:g} s")
        self.seconds = seconds


def _timed(method: EvaluatedMethod, problem: Problem, limit_s: float) -> tuple[Estimate, float]:
    """A method's estimate and its seconds.

    Raises:
        _TimedOut: it took longer than the limit.
    """
    began = perf_counter()

    def watch(progress: Progress) -> None:
        if perf_counter() - began > limit_s:
            raise Cancelled("timed out")

    estimate = None
    with suppress(Cancelled):
        estimate = method.solve(problem, watch)
    seconds = perf_counter() - began
    # A registration that is cancelled still says where it was.
    if estimate is None or seconds > limit_s:
        raise _TimedOut(seconds, limit_s)
    return estimate, seconds


# The methods of a case follow each other.
@lru_cache(maxsize=1)
def _case(source: CaseSource, number: int) -> EvaluationCase:
    return source.make(number)


_WARM: set[str] = set()
_WARM_SUBJECTS: WeakSet[Subject] = WeakSet()


def _warm_up(name: str, method: EvaluatedMethod, problem: Problem) -> None:
    """Lay out a CT, and begin a method once and stop it: imports and compilation count for no case."""
    if problem.subject not in _WARM_SUBJECTS:
        problem.subject.warm_up()
        _WARM_SUBJECTS.add(problem.subject)
    if name in _WARM:
        return
    _WARM.add(name)
    # If it cannot even begin, the timed call says why.
    with suppress(Exception):
        method.solve(problem, _stop_at_once)


def _stop_at_once(progress: Progress) -> None:
    raise Cancelled("only begun")


def default_workers(cores: int | None = None) -> int:
    """One process for every four cores: times of registrations that wait for each other mean nothing."""
    return max(1, (cores or os.cpu_count() or 1) // 4)
