"""Runs methods on cases: one process or several, resumable, a case that fails is a row with its error."""

from __future__ import annotations

import csv
import io
import json
import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from time import monotonic, perf_counter

from SOPIRegistrationLib import __version__
from SOPIRegistrationLib.errors import Cancelled, InputError
from SOPIRegistrationLib.evaluation.benchmark import processor
from SOPIRegistrationLib.evaluation.cases import CaseSource, EvaluationCase, digest
from SOPIRegistrationLib.evaluation.figures import COLUMNS, end_figures, start_figures
from SOPIRegistrationLib.evaluation.methods import (
    BASELINE_PIXELS,
    METHODS,
    NETWORKS,
    Estimate,
    Problem,
    weights_file,
)
from SOPIRegistrationLib.installed import RTPI
from SOPIRegistrationLib.progress import Progress

RESULTS, SETTINGS = "results.csv", "settings.json"
_THREADS = ("NUMBA", "OMP", "MKL", "OPENBLAS")
# A process silent for longer than the time limit by this much hangs: preparing a CT takes its time, too.
_GRACE_S = 300.0
_LEAVE_S = 5.0

Row = dict


@dataclass(frozen=True)
class Evaluation:
    """What to run.

    Attributes:
        source: the cases.
        methods: names in :data:`~SOPIRegistrationLib.evaluation.methods.METHODS`.
        cases: how many, from number 0.
        seed: of anything random in the methods.
        timeout_s: a method that takes longer on a case has failed there.
        workers: processes; 1 runs in this one.
        weights: files of weights by network, over the installed ones.
        baseline_pixels: longer edge of the images that the baselines compare.
    """

    source: CaseSource
    methods: tuple[str, ...]
    cases: int
    seed: int = 1
    timeout_s: float = 300.0
    workers: int = 1
    weights: Mapping[str, Path] = field(default_factory=dict)
    baseline_pixels: int = BASELINE_PIXELS

    def settings(self) -> dict:
        """What a row depends on besides its case number and its method: rows of one folder share it."""
        files = {network: weights_file(network, self.weights) for network in NETWORKS}
        return {
            "version": __version__,
            **self.source.settings(),
            "seed": self.seed,
            "timeout_s": self.timeout_s,
            "baseline_pixels": self.baseline_pixels,
            **{
                weights_setting(network): None if path is None else digest(path)
                for network, path in files.items()
            },
            "processor": processor(),
        }


def weights_setting(network: str) -> str:
    """Name of the setting that tells which weights of a network there were; its value is None without any."""
    return f"weights of {network}"


# No row can come from a network that was not there. Only `auto` does with the pose network or without.
_MAY_JOIN = {weights_setting(network) for network in NETWORKS if network != RTPI}


class Results:
    """The rows of a folder, kept as they come.

    Args:
        folder: made if it is not there.
        settings: what the rows depend on.

    Raises:
        InputError: the folder cannot be written to, or holds rows of other settings.
    """

    def __init__(self, folder: Path, settings: dict):
        self.folder = folder
        self.settings = json.loads(json.dumps(settings))
        self._path = folder / RESULTS
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._claim()
            self.rows = self._read()
        except OSError as error:
            raise InputError(
                f"cannot write to the output folder {folder} ({error.strerror or error}): choose another "
                "with --out"
            ) from None

    def _claim(self) -> None:
        path = self.folder / SETTINGS
        if not path.exists():
            if self._path.exists():
                raise InputError(f"{self._path} is there without its {SETTINGS}: choose another --out")
            write_aside(path, json.dumps(self.settings, indent=1) + "\n")
            return
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            raise InputError(f"{path} is damaged: choose another --out") from None
        names = [*self.settings, *(name for name in before if name not in self.settings)]
        for name in names:
            old, new = before.get(name), self.settings.get(name)
            if name in _MAY_JOIN and None in (old, new):
                self.settings[name] = old or new
            elif old != new:
                raise InputError(
                    f"{self.folder} holds an evaluation with {name} {_short(old)}, this one has "
                    f"{_short(new)}: choose another --out, or the same options to continue"
                )
        if self.settings != before:
            write_aside(path, json.dumps(self.settings, indent=1) + "\n")

    def _read(self) -> list[Row]:
        """All rows; the last of several of one case and method. Half a line at the end is cut off."""
        text = self._path.read_bytes() if self._path.exists() else b""
        whole = text[: text.rfind(b"\n") + 1]
        if len(whole) < len(text):
            with self._path.open("r+b") as stream:
                stream.truncate(len(whole))
        if not whole:
            self._append(COLUMNS)
            return []
        reader = csv.DictReader(io.StringIO(whole.decode("utf-8")))
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise InputError(f"{self._path} has other columns than this version's: choose another --out")
        rows = {(int(row["case"]), row["method"]): row for row in reader}
        return list(rows.values())

    def missing(self, evaluation: Evaluation, retry: bool = False) -> list[tuple[int, tuple[str, ...]]]:
        """(case, methods) still to run, cases of one patient together; with ``retry`` also what failed."""
        done = {(int(row["case"]), row["method"]) for row in self.rows if not (retry and row["error"])}
        tasks = []
        for number in range(evaluation.cases):
            methods = tuple(name for name in evaluation.methods if (number, name) not in done)
            if methods:
                tasks.append((number, methods))
        return sorted(tasks, key=lambda task: (evaluation.source.patient_of(task[0]), task[0]))

    def add(self, row: Row) -> None:
        """Write a row at once: whatever happens next, it is kept."""
        written = {name: _text(row.get(name)) for name in COLUMNS}
        self._append([written[name] for name in COLUMNS])
        key = written["case"], written["method"]
        self.rows = [old for old in self.rows if (old["case"], old["method"]) != key] + [written]

    def _append(self, cells: Sequence[str]) -> None:
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(cells)
        with self._path.open("a", encoding="utf-8", newline="") as stream:
            stream.write(line.getvalue())


def write_aside(path: Path, content: str | bytes) -> None:
    """Write a file aside, then rename it: never half a file."""
    aside = path.with_name(path.name + ".part")
    aside.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    aside.replace(path)


def _text(value) -> str:
    if value is None:
        return ""
    return repr(value) if isinstance(value, float) else str(value)


def _short(value) -> str:
    return "nothing" if value is None else ", ".join(value) if isinstance(value, list) else str(value)


def run(evaluation: Evaluation, results: Results, tick: Callable[[], None], retry: bool = False) -> None:
    """Run what is missing of an evaluation.

    Args:
        evaluation: what to run.
        results: where the rows go, one by one.
        tick: called after every row.
        retry: whether rows with an error are run again.
    """
    tasks = results.missing(evaluation, retry)
    if evaluation.workers > 1 and len(tasks) > 1:
        rows = _in_processes(evaluation, tasks)
    else:
        rows = (row for task in tasks for row in evaluate_case(evaluation, *task))
    for row in rows:
        results.add(row)
        tick()


def evaluate_case(evaluation: Evaluation, number: int, methods: Sequence[str]) -> Iterator[Row]:
    """Rows of one case, method by method; whatever goes wrong is a row with its error."""
    common = {"case": number, "workers": evaluation.workers}
    try:
        case = evaluation.source.make(number)
        common |= start_figures(case)
    except Exception as error:
        for name in methods:
            yield {**common, "method": name, "error": _line(error)}
        return
    for name in methods:
        try:
            figures = _solved(evaluation, case, name)
        except Exception as error:
            figures = {"error": _line(error)}
        yield {**common, "method": name, **figures}


def _solved(evaluation: Evaluation, case: EvaluationCase, name: str) -> Row:
    problem = Problem(
        case.subject,
        case.radiographs,
        case.frame,
        case.T_start,
        evaluation.seed + case.number,
        evaluation.weights,
        evaluation.baseline_pixels,
    )
    solve = METHODS[name].solve
    _warm_up(name, problem)
    began = perf_counter()
    deadline = began + evaluation.timeout_s

    def watch(progress: Progress) -> None:
        if perf_counter() > deadline:
            raise Cancelled("timed out")

    estimate = Estimate(case.T_start)
    with suppress(Cancelled):
        estimate = solve(problem, watch)
    seconds = perf_counter() - began
    figures = {"seconds": seconds, "device": estimate.device}
    if seconds > evaluation.timeout_s:
        return figures | {"error": f"timed out: {seconds:.1f} s, limit {evaluation.timeout_s:g} s"}
    return figures | {"verdict": estimate.verdict} | end_figures(case, estimate.T_lps_to_world)


_WARM: set[str] = set()


def _warm_up(name: str, problem: Problem) -> None:
    """Begin a method once and stop it, so that its first case does not count imports and compilation."""
    if name in _WARM:
        return
    _WARM.add(name)
    # If it cannot even begin, the timed call says why.
    with suppress(Exception):
        METHODS[name].solve(problem, _stop_at_once)


def _stop_at_once(progress: Progress) -> None:
    raise Cancelled("only begun")


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, InputError) else f"{type(error).__name__}: {text}".rstrip(": ")


def default_workers() -> int:
    """One process for every four cores, at least one: a registration alone keeps a few cores busy, and
    times of registrations that wait for each other mean nothing."""
    return max(1, (os.cpu_count() or 1) // 4)


class _Worker:
    """A process with the case it is at."""

    def __init__(self, context, evaluation: Evaluation):
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, evaluation), daemon=True)
        self.process.start()
        # With this end closed here, the process's death closes the pipe.
        theirs.close()
        self.patient: int | None = None
        self.number = -1
        self.left: deque[str] = deque()
        self.heard = monotonic()

    def give(self, patient: int, task: tuple[int, tuple[str, ...]]) -> None:
        self.patient, self.number, self.left = patient, task[0], deque(task[1])
        self.heard = monotonic()
        self.connection.send(task)

    def end(self) -> None:
        """Ask the process to leave; make it, if it does not."""
        self.process.terminate()
        self.process.join(_LEAVE_S)
        self.process.kill()
        self.process.join()
        self.connection.close()


def _work(connection: Connection, evaluation: Evaluation) -> None:
    """In a process of its own: rows of the cases asked for, then None after each case."""
    # The parent decides what an interruption means, and ends its processes when it is done.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with suppress(EOFError):
        while True:
            for row in evaluate_case(evaluation, *connection.recv()):
                connection.send(row)
            connection.send(None)


def _in_processes(evaluation: Evaluation, tasks) -> Iterator[Row]:
    """Rows as they come from several processes; one that dies or hangs costs the method it was at."""
    waiting: dict[int, deque] = {}
    for task in tasks:
        waiting.setdefault(evaluation.source.patient_of(task[0]), deque()).append(task)
    context = multiprocessing.get_context("spawn")
    workers: list[_Worker] = []

    def employ(worker: _Worker | None = None) -> None:
        """Give a worker, or a new one, the next case: of its own patient, else of one nobody is at."""
        if not waiting:
            if worker is not None:
                workers.remove(worker)
                worker.end()
            return
        if worker is None:
            worker = _Worker(context, evaluation)
            workers.append(worker)
        taken = {other.patient for other in workers}
        free = [patient for patient in waiting if patient not in taken]
        fullest = max(waiting, key=lambda one: len(waiting[one]))
        patient = worker.patient if worker.patient in waiting else (free or [fullest])[0]
        worker.give(patient, waiting[patient].popleft())
        if not waiting[patient]:
            del waiting[patient]

    with _threads_each(evaluation.workers):
        try:
            for _ in range(min(evaluation.workers, len(tasks))):
                employ()
            while workers:
                ready = wait([worker.connection for worker in workers], timeout=1.0)
                for worker in list(workers):
                    reason = None
                    if worker.connection in ready:
                        try:
                            row = worker.connection.recv()
                        except (EOFError, OSError):
                            worker.process.join()
                            reason = f"the process ended with code {worker.process.exitcode}: out of memory?"
                        else:
                            worker.heard = monotonic()
                            if row is None:
                                employ(worker)
                            else:
                                worker.left.popleft()
                                yield row
                    elif monotonic() - worker.heard > evaluation.timeout_s + _GRACE_S:
                        reason = f"timed out and did not stop: killed, limit {evaluation.timeout_s:g} s"
                    if reason is None:
                        continue
                    worker.end()
                    workers.remove(worker)
                    if worker.left:
                        name = worker.left.popleft()
                        yield {
                            "case": worker.number,
                            "method": name,
                            "error": reason,
                            "workers": evaluation.workers,
                        }
                    if worker.left:
                        again = worker.number, tuple(worker.left)
                        waiting.setdefault(worker.patient, deque()).appendleft(again)
                    employ()
        finally:
            for worker in workers:
                worker.end()


@contextmanager
def _threads_each(workers: int) -> Iterator[None]:
    """Processes started meanwhile share the cores: so many threads each, all together one a core."""
    threads = str(max(1, (os.cpu_count() or 1) // workers))
    names = [*(f"{name}_NUM_THREADS" for name in _THREADS), "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"]
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, threads))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
