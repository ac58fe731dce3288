"""A computation in a thread of its own, watched by polling."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from SOPIRegistrationLib.errors import Cancelled


class Job:
    """Runs one function in a thread; reports come out where :meth:`take_report` is called.

    Nodes and widgets belong to the main thread: the work gets arrays and gives arrays back.

    Args:
        work: called with ``report(value)``, which the work calls with what it has reached; it raises
            ``Cancelled`` where the work shall stop.
    """

    def __init__(self, work: Callable[[Callable[[Any], None]], Any]):
        self._work = work
        self._cancelled = threading.Event()
        self._lock = threading.Lock()
        self._report = None
        self._result = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="SOPI registration", daemon=True)

    def start(self) -> Job:
        self._thread.start()
        return self

    def cancel(self) -> None:
        """Ask the work to stop; it does at its next report."""
        self._cancelled.set()

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def wait(self, seconds: float) -> None:
        """Let the work go on for a while: Slicer's main thread keeps Python's lock while it awaits events."""
        self._thread.join(seconds)

    def take_report(self) -> Any:
        """The newest report since the last call, or None."""
        with self._lock:
            report, self._report = self._report, None
        return report

    def result(self) -> Any:
        """What the work returned; raises what it raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._result

    def _run(self) -> None:
        try:
            self._result = self._work(self._take)
        except BaseException as error:
            self._error = error

    def _take(self, report: Any) -> None:
        with self._lock:
            self._report = report
        if self._cancelled.is_set():
            raise Cancelled("the job was cancelled")
