"""Evaluations on Dask workers: processes of this machine, or a cluster's.

Dask's ``distributed`` keeps the processes: its nannies start a worker that died anew, its scheduler gives the
task that it was at to another one, and counts how often that happens. What is decided here is only which
case a free worker gets: one at a time, so that seconds mean something and a death costs one case, and of the
patient whose prepared CT it still has.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from time import monotonic

import dask
from distributed import Client, KilledWorker, LocalCluster, get_worker, wait

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.evaluation.results import Row
from SOPIRegistrationLib.evaluation.runner import (
    PREPARING,
    SOLVING,
    Evaluation,
    Task,
    evaluate_one,
    line_of,
)

# A case that has taken so many workers with it is not tried again. Two deaths are nobody's case's fault: two
# workers may be killed while they are at it.
ATTEMPTS = 3
# A task that does not heed its time limit is ended so much later; one that prepares its case has this long.
_LEEWAY_S, _PREPARING_S = 5.0, 300.0
_POLL_S, _CONNECT_S = 0.2, 20.0
_TOPIC = "sopi-evaluate"
_THREADS = ("NUMBA_NUM", "OMP_NUM", "MKL_NUM", "OPENBLAS_NUM", "ITK_GLOBAL_DEFAULT_NUMBER_OF")


def rows_of_workers(
    evaluation: Evaluation, tasks: Sequence[Task], scheduler: str | None = None
) -> Iterator[Row]:
    """Rows as they come.

    Args:
        evaluation: what the tasks belong to.
        tasks: what to run.
        scheduler: address of a Dask scheduler; processes of this machine without one.

    Raises:
        InputError: no scheduler answers there.
    """
    # What a row says of its case is enough: that a worker has ended is no news.
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    with _client(min(evaluation.workers, len(tasks)), evaluation.workers, scheduler) as client:
        yield from _Dispatch(evaluation, tasks, client).rows()


@contextmanager
def _client(count: int, workers: int, scheduler: str | None) -> Iterator[Client]:
    """A connection to a cluster, or to so many processes, each with one ``workers``-th of the cores."""
    if scheduler is not None:
        try:
            client = Client(scheduler, timeout=_CONNECT_S)
        except (OSError, ValueError) as error:
            raise InputError(
                f"no Dask scheduler answers at {scheduler} ({line_of(error)}): start one with `dask "
                "scheduler`, or leave out --scheduler"
            ) from None
        with client:
            yield client
        return
    threads = str(max(1, (os.cpu_count() or 1) // workers))
    settings = {
        # Before the process starts: libraries read these when they are imported.
        "distributed.nanny.pre-spawn-environ": {
            **{f"{name}_THREADS": threads for name in _THREADS},
            "DASK_LOGGING__DISTRIBUTED": "critical",
        },
        "distributed.scheduler.allowed-failures": ATTEMPTS - 1,
        # Compiled code may keep a worker from answering for long; a hanging one is found by its time limit.
        "distributed.scheduler.worker-ttl": None,
        # A task stays where it is put, unless its worker dies.
        "distributed.scheduler.work-stealing": False,
    }
    with (
        _environment_kept(),
        dask.config.set(settings),
        LocalCluster(
            n_workers=count,
            threads_per_worker=1,
            processes=True,
            memory_limit=0,
            dashboard_address=None,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


@contextmanager
def _environment_kept() -> Iterator[None]:
    """Nannies set what their workers shall inherit in this process, and leave it there."""
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _evaluated(evaluation: Evaluation, task: Task) -> Row:
    """In a worker: the row of a task; what it is at is told meanwhile."""
    worker = get_worker()
    return evaluate_one(evaluation, task, lambda phase: worker.log_event(_TOPIC, [*task, phase]))


@dataclass
class _Running:
    """A task that was given away, to whom, and since when it does what."""

    task: Task
    address: str
    phase: str = PREPARING
    since: float = 0.0


class _Dispatch:
    """Gives tasks to free workers until all have a row."""

    def __init__(self, evaluation: Evaluation, tasks: Sequence[Task], client: Client):
        self._evaluation, self._client = evaluation, client
        self._waiting: dict[tuple[str, int], deque[Task]] = {}
        for task in tasks:
            self._waiting.setdefault(evaluation.patient_of(task), deque()).append(task)
        self._running: dict = {}
        # Of whom a worker has the CT prepared; whom it has lost.
        self._patient: dict[str, tuple[str, int]] = {}
        self._given_up: set[str] = set()
        client.subscribe_topic(_TOPIC, self._hear)

    def rows(self) -> Iterator[Row]:
        """Rows as they come; one for each task."""
        while self._waiting or self._running:
            self._employ()
            if self._running:
                with suppress(TimeoutError):
                    wait(list(self._running), timeout=_POLL_S, return_when="FIRST_COMPLETED")
            for future in [future for future in self._running if future.done()]:
                running = self._running.pop(future)
                yield self._row(future, running)
            yield from self._overdue()

    def _hear(self, event) -> None:
        """Called by Dask's own thread when a task tells what it is at."""
        *words, phase = event[1]
        for running in list(self._running.values()):
            if running.task == tuple(words):
                running.phase, running.since = phase, monotonic()

    def _employ(self) -> None:
        """Give each free worker a task."""
        at_work = {address for address, keys in self._client.processing().items() if keys}
        at_work |= {running.address for running in self._running.values()} | self._given_up
        for address in self._client.nthreads():
            if not self._waiting:
                return
            if address not in at_work:
                task = self._next(address)
                future = self._client.submit(
                    _evaluated,
                    self._evaluation,
                    task,
                    pure=False,
                    workers=[address],
                    # If that one dies, any other.
                    allow_other_workers=True,
                )
                self._running[future] = _Running(task, address, since=monotonic())

    def _next(self, address: str) -> Task:
        """The next task for a worker: of its patient, else of one nobody is at, else of the fullest."""
        taken = {self._patient.get(running.address) for running in self._running.values()}
        free = [patient for patient in self._waiting if patient not in taken]
        patient = self._patient.get(address)
        if patient not in self._waiting:
            patient = free[0] if free else max(self._waiting, key=lambda one: len(self._waiting[one]))
        self._patient[address] = patient
        task = self._waiting[patient].popleft()
        if not self._waiting[patient]:
            del self._waiting[patient]
        return task

    def _row(self, future, running: _Running) -> Row:
        if future.status == "finished":
            return future.result() | {"workers": self._evaluation.workers}
        try:
            future.result()
        except KilledWorker as reason:
            error = f"the process ended {reason.allowed_failures + 1} times at it: out of memory?"
        except Exception as reason:
            error = line_of(reason)
        return self._error(running.task, error)

    def _overdue(self) -> Iterator[Row]:
        """Rows of the tasks that do not end; their processes are ended."""
        limit = self._evaluation.timeout_s
        for future, running in list(self._running.items()):
            allowed = limit + _LEEWAY_S
            if running.phase != SOLVING:
                allowed = _PREPARING_S + (2 * limit + _PREPARING_S if self._evaluation.fresh else 0.0)
            if monotonic() - running.since <= allowed:
                continue
            del self._running[future]
            at = [address for address, keys in self._client.processing().items() if future.key in keys]
            future.cancel(force=True)
            for address in at:
                self._end(address)
            yield self._error(running.task, f"timed out and did not stop: ended, limit {limit:g} s")

    def _end(self, address: str) -> None:
        """End a worker's process; its nanny starts another. One without a nanny gets no more tasks."""
        try:
            self._client.restart_workers([address], timeout=_CONNECT_S, raise_for_error=False)
        except (ValueError, TimeoutError):
            self._given_up.add(address)

    def _error(self, task: Task, error: str) -> Row:
        return {
            "group": task.group,
            "case": task.number,
            "method": task.method,
            "workers": self._evaluation.workers,
            "error": error,
        }
