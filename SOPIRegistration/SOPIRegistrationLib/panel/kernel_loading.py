"""The compiled kernels, loaded while the panel opens: compiled first where this computer has none yet."""

from __future__ import annotations

import time
from collections.abc import Callable

import slicer

from SOPIRegistrationLib.panel.timers import timer
from SOPIRegistrationLib.projector import load_kernels
from SOPIRegistrationLib.registration.job import Job

# Between two looks at the events the compiler gets this long; nobody sees a delay of that length.
_POLL_MS, _WORK_S = 2, 0.03
# Loading takes less; what takes longer is compiled, and that is told.
_TOLD_AFTER_S = 1.5
_WORDS = "SOPI Registration: compiling for this computer, once (some ten seconds)…"


class KernelLoading:
    """Loads kernels in a thread of its own, from now on; who needs them earlier waits for the same ones.

    Args:
        load: loads them, or compiles them.
        told_after_s: what takes longer is told.
    """

    def __init__(self, load: Callable[[], object] = load_kernels, told_after_s: float = _TOLD_AFTER_S):
        self._told_after_s = told_after_s
        self._poll = timer(_POLL_MS, self._on_poll, repeats=True)
        self._began = time.perf_counter()
        self._is_told = False
        self._job = Job(lambda report: load()).start()
        self._poll.start()

    @property
    def is_running(self) -> bool:
        """Whether kernels are still being loaded."""
        return self._poll.active

    def stop(self) -> None:
        """Give it no more time; what is compiled by then is kept."""
        self._poll.stop()

    def _on_poll(self) -> None:
        self._job.wait(_WORK_S)
        if self._job.running:
            if not self._is_told and time.perf_counter() - self._began > self._told_after_s:
                self._is_told = True
                slicer.util.showStatusMessage(_WORDS)
            return
        self._poll.stop()
        if self._is_told:
            slicer.util.showStatusMessage("SOPI Registration: ready.", 3000)
