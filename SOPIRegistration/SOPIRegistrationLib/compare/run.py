"""A registration under way: what it tells its caller, and what it has reached when it is stopped."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from SOPIRegistrationLib.compare.case import Case, Comparison, Hypotheses
from SOPIRegistrationLib.progress import Progress, Report


@dataclass(frozen=True)
class StageRecord:
    """A finished stage: its name, duration, the correlation and the pose (T_lps_to_world) it ended with.

    The correlation is None for a stage that measures none.
    """

    name: str
    seconds: float
    similarity: float | None
    T: np.ndarray


class Run:
    """Stages done, best pose so far, and the share of the work that is done.

    Args:
        case: what is registered.
        report: told several times a second; raises ``Cancelled`` to stop.
        time_limit_s: after which nothing new is to be tried.

    Attributes:
        comparison: what is being compared; of the pose reached so far.
        T: (4, 4) T_lps_to_world, best pose so far.
        stages: those done.
        timed_out: whether something was left out for want of time.
        seen: margin and hypotheses of all that was refined coarsely, in every proposal.
        margin: the best so far, by which a pose agreed better than an acceptable one (``Comparison.margin``).
    """

    def __init__(self, case: Case, report: Report | None = None, time_limit_s: float = np.inf):
        self.comparison = Comparison(case, case.reading, case.targets[0])
        self.T = case.T_expected
        self.stages: list[StageRecord] = []
        self._report = report
        self._deadline = time.perf_counter() + time_limit_s
        self.timed_out = False
        self.margin = -np.inf
        self.seen: list[tuple[float, Hypotheses]] = []
        self._done, self._until, self._shown = 0.0, 1.0, 0.0

    def report(
        self,
        stage: str,
        T: np.ndarray | None = None,
        similarity: float | None = None,
        fraction: float = 0.0,
    ) -> None:
        """Tell the caller of a stage under way, its best pose T (4, 4) T_lps_to_world so far, and the
        correlation there.

        ``fraction`` is the share of the stage that is done. Raises Cancelled where the caller wants it to
        stop.
        """
        if T is not None:
            self.T = T
        if self._report is not None:
            # A stage may go through its work more than once.
            self._shown = max(self._shown, self._done + fraction * (self._until - self._done))
            self._report(Progress(stage, self._shown, self.T, similarity))

    def has_time(self) -> bool:
        """Whether something new may be tried; asked before it is."""
        self.timed_out |= time.perf_counter() > self._deadline
        return not self.timed_out

    @contextmanager
    def share(self, part: float) -> Iterator[None]:
        """Work that is this part of what is left to do."""
        until = self._until
        self._until = self._done + part * (until - self._done)
        yield
        self._done, self._until = self._until, until

    @contextmanager
    def stage(self, name: str, shows_poses: bool = True) -> Iterator[Stage]:
        """A stage; what it reached is recorded at its end. Its poses on the way may stand for the best so
        far, or not."""
        began, stage = time.perf_counter(), Stage(self, name, shows_poses)
        yield stage
        if stage.T is not None:
            seconds = time.perf_counter() - began
            self.stages.append(StageRecord(name, seconds, stage.similarity, stage.T))


class Stage:
    """A stage under way.

    Args:
        run: the registration.
        name: of the stage.
        shows_poses: as for :meth:`Run.stage`.

    Attributes:
        T: (4, 4) T_lps_to_world where it ended; None leaves no record of it.
        similarity: correlation there, if it measures one.
    """

    def __init__(self, run: Run, name: str, shows_poses: bool = True):
        self._run, self.name, self._shows_poses = run, name, shows_poses
        self.T: np.ndarray | None = None
        self.similarity: float | None = None

    def ended(self, T: np.ndarray, similarity: float | None = None) -> None:
        """Where the stage ended."""
        self.T, self.similarity = T, similarity
        self._run.T = T

    def optimiser_report(self, progress: Progress) -> None:
        """What an optimiser tells whose objective is minus the cost 2 (1 - correlation)."""
        if self._shows_poses:
            self._run.report(self.name, progress.T, 1 + progress.similarity / 2, progress.fraction)
        else:
            self._run.report(self.name, fraction=progress.fraction)
