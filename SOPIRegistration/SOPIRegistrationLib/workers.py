"""Much work on Dask workers: processes of this machine, or a cluster's.

Dask's ``distributed`` keeps the processes, here or on other machines: its nannies start a worker that died
anew, and end one that hangs. What is decided here is which case a free worker gets: one at a time, so that
seconds mean something and a death costs one case, and of the patient whose prepared CT it still has. Dask's
own scheduling knows neither; and what it binds to a worker waits for ever once that one is gone.
"""

from __future__ import annotations

import logging
import os
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from time import monotonic, sleep
from typing import Protocol

import dask
from distributed import Client, Future, KilledWorker, LocalCluster, get_worker, wait

from SOPIRegistrationLib.errors import InputError, line_of

# A case that has taken so many workers with it is not tried again. Two deaths are nobody's case's fault: two
# workers may be killed while they are at it.
ATTEMPTS = 3
_POLL_S, _CONNECT_S = 0.2, 10.0
_TOPIC = "sopi-work"
_THREADS = ("NUMBA_NUM", "OMP_NUM", "MKL_NUM", "OPENBLAS_NUM", "ITK_GLOBAL_DEFAULT_NUMBER_OF")


Row = dict
Task = tuple


class Work(Protocol):
    """What workers do; it travels to them.

    Attributes:
        workers: processes that share this machine.
    """

    workers: int

    def on(self, workers: int) -> Work:
        """The same for so many workers."""

    def patient_of(self, task: Task) -> Hashable:
        """Tasks of the same one are best run one after the other, in one process."""

    def row(self, task: Task, tell: Callable[[str], None]) -> Row:
        """The row of a task; whatever goes wrong is in it. What it is at is told, in words of its own."""

    def allowed_s(self, phase: str) -> float:
        """How long a task may be at what it told last; an empty word before it told anything."""

    def failed(self, task: Task, reason: str) -> Row:
        """The row of a task that took its process with it or could not be stopped."""


def rows_of_workers(
    work: Work, tasks: Sequence[Task], scheduler: str | None = None, connect_s: float = _CONNECT_S
) -> Iterator[Row]:
    """Rows as they come.

    Args:
        work: what the tasks belong to.
        tasks: what to run.
        scheduler: address of a Dask scheduler; processes of this machine without one.
        connect_s: how long the scheduler may take to answer.

    Raises:
        InputError: no scheduler answers there, or no longer.
    """
    # What a row says of its case is enough: that a worker has ended is no news.
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    count = min(work.workers, len(tasks))
    with _client(count, work.workers, scheduler, connect_s) as client:
        try:
            if scheduler is not None:
                work = work.on(max(1, len(client.nthreads())))
            yield from _Dispatch(work, tasks, client).rows()
        except (CancelledError, OSError) as error:
            raise InputError(
                f"the Dask scheduler was lost ({line_of(error)}): what is done is kept, the same command "
                "continues"
            ) from None


@contextmanager
def _client(count: int, workers: int, scheduler: str | None, connect_s: float) -> Iterator[Client]:
    """A connection to a cluster, or to so many processes, each with one ``workers``-th of the cores."""
    if scheduler is not None:
        try:
            client = Client(scheduler, timeout=connect_s)
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
        # Compiled code may keep a worker from answering for long; a hanging one is found by its time limit.
        "distributed.scheduler.worker-ttl": None,
    }
    with (
        _environment_kept(),
        dask.config.set(settings),
        _local_cluster(count) as cluster,
        Client(cluster) as client,
    ):
        yield client


def _local_cluster(count: int) -> LocalCluster:
    """So many processes of this machine.

    Raises:
        InputError: they do not start.
    """
    try:
        return LocalCluster(
            n_workers=count,
            threads_per_worker=1,
            processes=True,
            memory_limit=0,
            dashboard_address=None,
        )
    except RuntimeError as error:
        raise InputError(
            f"{count} processes could not be started ({line_of(error)}): try again, or with fewer --workers"
        ) from None


@contextmanager
def _environment_kept() -> Iterator[None]:
    """Nannies set what their workers shall inherit in this process, and leave it there."""
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _worked(work: Work, task: Task) -> Row:
    """In a worker: the row of a task; what it is at is told meanwhile."""
    worker = get_worker()
    return work.row(task, lambda phase: worker.log_event(_TOPIC, [*task, phase]))


@dataclass
class _Running:
    """A task that was given away, to whom, and since when it does what."""

    task: Task
    address: str
    phase: str = ""
    since: float = 0.0


class _Dispatch:
    """Gives tasks to free workers until all have a row."""

    def __init__(self, work: Work, tasks: Sequence[Task], client: Client):
        self._work, self._client = work, client
        self._waiting: dict[Hashable, deque[Task]] = {}
        for task in tasks:
            self._waiting.setdefault(work.patient_of(task), deque()).append(task)
        self._running: dict[Future, _Running] = {}
        self._deaths: Counter[Task] = Counter()
        # Of whom a worker has the CT prepared; who could not be ended.
        self._patient: dict[str, Hashable] = {}
        self._given_up: set[str] = set()
        client.subscribe_topic(_TOPIC, self._hear)

    def rows(self) -> Iterator[Row]:
        """Rows as they come; one for each task."""
        while self._waiting or self._running:
            alive = set(self._client.nthreads())
            self._employ(alive)
            if self._running:
                with suppress(TimeoutError):
                    wait(list(self._running), timeout=_POLL_S, return_when="FIRST_COMPLETED")
            else:
                sleep(_POLL_S)
            for future, running in list(self._running.items()):
                if future.done():
                    yield from self._ended(future, running)
                elif running.address not in alive:
                    yield from self._died(future, running)
                elif monotonic() - running.since > self._work.allowed_s(running.phase):
                    yield self._overdue(future, running)

    def _hear(self, event) -> None:
        """Called by Dask's own thread when a task tells what it is at."""
        *words, phase = event[1]
        for running in list(self._running.values()):
            if running.task == tuple(words):
                running.phase, running.since = phase, monotonic()

    def _employ(self, alive: set[str]) -> None:
        """Give each free worker a task."""
        busy = {running.address for running in self._running.values()} | self._given_up
        for address in sorted(alive - busy):
            if not self._waiting:
                return
            task = self._next(address)
            # Bound to that worker: where else it may go when the worker dies is decided here.
            future = self._client.submit(
                _worked, self._work, task, pure=False, workers=[address], allow_other_workers=False
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

    def _ended(self, future: Future, running: _Running) -> Iterator[Row]:
        """The row of a task that has ended; none yet where its worker died with it."""
        try:
            # The row is still the worker's: it may die before it is fetched.
            row = future.result(timeout=_CONNECT_S)
        except (TimeoutError, CancelledError, KilledWorker):
            yield from self._died(future, running)
            return
        except Exception as error:
            row = self._work.failed(running.task, line_of(error))
        del self._running[future]
        yield row

    def _died(self, future: Future, running: _Running) -> Iterator[Row]:
        """Another worker gets the task of one that died, unless too many did."""
        del self._running[future]
        future.cancel()
        task = running.task
        self._deaths[task] += 1
        if self._deaths[task] < ATTEMPTS:
            self._waiting.setdefault(self._work.patient_of(task), deque()).appendleft(task)
        else:
            yield self._work.failed(task, f"the process ended {ATTEMPTS} times at it: out of memory?")

    def _overdue(self, future: Future, running: _Running) -> Row:
        """The row of a task that does not end. Its process does: a nanny starts another in its place."""
        del self._running[future]
        future.cancel()
        try:
            self._client.restart_workers([running.address], timeout=_CONNECT_S, raise_for_error=False)
        except (ValueError, TimeoutError):
            # Without a nanny nobody can: it gets no more tasks.
            self._given_up.add(running.address)
        return self._work.failed(running.task, "timed out and did not stop: its process was ended")
