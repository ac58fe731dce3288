"""The way of one registration, from inputs to a result, without nodes or widgets.

The panel, scripts, the command line and tests drive it alike: :class:`RegistrationLogic` is in one of four
states, says so by signals, and computes in a thread of its own while :meth:`RegistrationLogic.poll` gives it
time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Generic, TypeVar

import numpy as np

from SOPIRegistrationLib.errors import Cancelled
from SOPIRegistrationLib.images.ct_preparation import prepare_ct
from SOPIRegistrationLib.images.radiograph_preparation import prepare_radiograph
from SOPIRegistrationLib.images.region import restricted
from SOPIRegistrationLib.progress import Progress
from SOPIRegistrationLib.registration.bodies import register_bodies
from SOPIRegistrationLib.registration.bodies_result import BodiesResult
from SOPIRegistrationLib.registration.job import Job
from SOPIRegistrationLib.registration.loop import register
from SOPIRegistrationLib.registration.prepared import LIVE_PIXELS, Inputs, Placement, PreparedCase
from SOPIRegistrationLib.registration.result import RegistrationResult
from SOPIRegistrationLib.settings import RegistrationSettings
from SOPIRegistrationLib.subject import Subject

# DRRs are made for looking at no more often than this while a registration runs.
_LIVE_INTERVAL_S = 0.15

T = TypeVar("T")


class State(Enum):
    """What a registration is at."""

    IDLE = "idle"
    PREPARING = "preparing"
    REGISTERING = "registering"
    STOPPING = "stopping"


class Signal(Generic[T]):
    """Something that happens, told to whoever has asked for it, in the thread in which it is polled."""

    def __init__(self):
        self._receivers: list[Callable[[T], None]] = []

    def connect(self, receiver: Callable[[T], None]) -> None:
        """Call a function whenever it happens."""
        self._receivers.append(receiver)

    def emit(self, value: T) -> None:
        """Tell that it has happened."""
        for receiver in self._receivers:
            receiver(value)


@dataclass(frozen=True)
class Task:
    """A registration to be made.

    Attributes:
        case: what is registered.
        settings: how.
        start: (4, 4) T_lps_to_world, where a start pose is given: of the CT as one piece.
        starts: the same by name of several bodies.
        moved: (4, 4) by name of a part of the CT, how it has left its place in it (``register_bodies``).
        shows_pictures: whether somebody looks at DRRs meanwhile.
        shown: where several bodies are shown as it begins; at the start unless given.
    """

    case: PreparedCase
    settings: RegistrationSettings
    start: np.ndarray | None = None
    shows_pictures: bool = True
    starts: Mapping[str, np.ndarray] = field(default_factory=dict)
    moved: Mapping[str, np.ndarray] = field(default_factory=dict)
    shown: Placement | None = None


@dataclass(frozen=True)
class LiveView:
    """What a running registration shows.

    Attributes:
        stage: name of the running stage.
        fraction: of the whole that is done, 0 to 1.
        placement: best poses so far, or None while there are none.
        drr: the projection there, or None where none was made.
        alone: of several bodies the DRR of each by itself, by its name.
    """

    stage: str
    fraction: float
    placement: Placement | None = None
    drr: np.ndarray | None = None
    alone: Mapping[str, np.ndarray] = field(default_factory=dict)


def prepare(inputs: Inputs, known: PreparedCase | None, report: Callable[[LiveView], None]) -> PreparedCase:
    """Prepare inputs; any thread.

    Args:
        inputs: what to prepare.
        known: the case before; what did not change is taken from it.
        report: told what is done.

    Raises:
        InputError: an input is unusable.
        Cancelled: the report raised it.
    """

    def progress(fraction, what):
        report(LiveView(f"Preparing the CT: {what}", fraction))

    began = time.perf_counter()
    if inputs.ct is None:
        subject = None
    elif known is not None and known.inputs.ct_key == inputs.ct_key:
        subject = known.subject
    else:
        subject = Subject(prepare_ct(inputs.ct, inputs.mask, progress=progress))
        subject.warm_up()
    report(LiveView("Preparing the bodies" if inputs.bodies.bodies else "Preparing the X-ray", 1.0))
    bodies = inputs.bodies.of(subject, {} if known is None else known.bodies_by_key)
    if subject is None:
        subject = bodies.bodies[0].subject
        subject.warm_up()
    ready = known.prepared if known is not None and known.bodies.are_metal == bodies.are_metal else {}
    xray = ready.get(inputs.xray_key)
    if xray is None:
        camera = inputs.geometry.camera
        xray = prepare_radiograph(inputs.radiograph, camera, inputs.polarity, of_metal=bodies.are_metal)
        if inputs.region is not None:
            xray = restricted(xray, inputs.region)
    others = tuple(
        ready.get(one.key)
        or prepare_radiograph(one.radiograph, one.camera, inputs.polarity, of_metal=bodies.are_metal)
        for one in inputs.others
    )
    frame = inputs.geometry.pose_frame(subject.ct.rotation_centre_lps_mm)
    return PreparedCase(bodies, xray, others, frame, round(time.perf_counter() - began, 3), inputs)


def run(task: Task, report: Callable[[LiveView], None]) -> RegistrationResult | BodiesResult:
    """Register a prepared case; any thread."""
    last, case = 0.0, task.case
    xrays = [case.xray, *case.others]
    placement = task.shown or Placement(case.frame.T_nominal)

    def show(progress: Progress) -> None:
        nonlocal last, placement
        placement = _reached(placement, progress, case)
        drr, alone = None, {}
        if task.shows_pictures and time.perf_counter() - last > _LIVE_INTERVAL_S:
            drr, alone = case.render_bodies(placement, LIVE_PIXELS)
            last = time.perf_counter()
        report(LiveView(progress.stage, progress.fraction, placement, drr, alone))

    if case.has_several_bodies:
        return register_bodies(case.bodies, xrays, case.frame, task.settings, task.starts, show, task.moved)
    return register(case.subject, xrays, case.frame, task.settings, task.start, show)


def _reached(before: Placement, progress: Progress, case: PreparedCase) -> Placement:
    """Where the bodies are by now; those of which nothing is told stay."""
    if not case.has_several_bodies:
        return before if progress.T is None else before.with_pose(case.T_world_to_camera @ progress.T)
    told = {name: case.T_world_to_camera @ T for name, T in progress.bodies.items()}
    others = {name: before.of(name) for name in case.bodies.names if name not in told}
    placement = Placement(told.pop("", before.T_lps_to_camera))
    for name, T in {**others, **told}.items():
        placement = placement.with_pose(T, name)
    return placement


@dataclass(frozen=True)
class _Run:
    """What is computed: the job, the state it stands for, who is told of its outcome.

    One that does not listen cannot be stopped; of one that is discarded only the reason is told.
    """

    job: Job
    state: State
    done: Callable[[Any], None]
    listens: bool = True
    discarded: str = ""


class RegistrationLogic:
    """Prepares and registers, one thing at a time.

    Args:
        prepare: prepares inputs.
        run: registers a case.

    Attributes:
        state_changed: the state, whenever it is another one.
        progressed: what the running computation has reached.
        prepared: a case is ready.
        finished: a registration has ended, of itself or stopped with the pose it had reached.
        stopped: something was stopped and left nothing; why, in words for a person.
        failed: an InputError, or a fault.
    """

    def __init__(self, prepare: Callable = prepare, run: Callable = run):
        self._prepare_inputs, self._run_task = prepare, run
        self.state_changed: Signal[State] = Signal()
        self.progressed: Signal[LiveView] = Signal()
        self.prepared: Signal[PreparedCase] = Signal()
        self.finished: Signal[RegistrationResult | BodiesResult] = Signal()
        self.stopped: Signal[str] = Signal()
        self.failed: Signal[Exception] = Signal()
        self._run: _Run | None = None

    @property
    def state(self) -> State:
        """What it is at."""
        if self._run is None:
            return State.IDLE
        return State.STOPPING if self._run.job.cancelled else self._run.state

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs."""
        return self._run is None

    @property
    def moves_ct(self) -> bool:
        """Whether a registration runs, or is being stopped: the CT goes where it is."""
        return self._run is not None and self._run.state is State.REGISTERING

    def prepare(
        self, inputs: Inputs, known: PreparedCase | None = None, then: Callable[[], Any] = lambda: None
    ) -> None:
        """Prepare inputs; ``prepared`` tells the case.

        Args:
            inputs: what to prepare.
            known: the case before; what did not change is taken from it.
            then: called once the case has been told; never where it was stopped or has failed.
        """

        def done(case: PreparedCase) -> None:
            self.prepared.emit(case)
            then()

        self._begin(
            _Run(Job(lambda report: self._prepare_inputs(inputs, known, report)), State.PREPARING, done)
        )

    def register(self, task: Task) -> None:
        """Register; ``finished`` tells the result."""
        self._begin(
            _Run(Job(lambda report: self._run_task(task, report)), State.REGISTERING, self.finished.emit)
        )

    def compute(self, work: Callable[[], T], then: Callable[[T], Any]) -> None:
        """Compute something else ahead of a registration; it cannot be stopped, only forgotten."""
        self._begin(_Run(Job(lambda report: work()), State.PREPARING, then, listens=False))

    def stop(self, discard: str = "") -> None:
        """Stop what runs; a registration leaves the pose it has reached.

        Args:
            discard: why what was reached shall be forgotten; ``stopped`` tells it.
        """
        current = self._run
        if current is None:
            return
        if not current.listens:
            self.abandon()
            return
        current.job.cancel()
        if discard:
            self._run = replace(current, discarded=discard)
        self.state_changed.emit(self.state)

    def abandon(self) -> None:
        """Forget what runs; nobody is told of its outcome."""
        if self._run is not None:
            self._run.job.cancel()
            self._run = None
            self.state_changed.emit(State.IDLE)

    def poll(self, seconds: float = 0.0) -> None:
        """Give the computation some time, and tell what has happened."""
        current = self._run
        if current is None:
            return
        current.job.wait(seconds)
        live = current.job.take_report()
        if live is not None and not current.discarded:
            self.progressed.emit(live)
        current = self._run
        if current is None or current.job.running:
            return
        self._run = None
        self.state_changed.emit(State.IDLE)
        try:
            outcome = current.job.result()
        except Cancelled:
            self.stopped.emit(current.discarded or "Stopped.")
        except Exception as error:
            self.failed.emit(error)
        else:
            if current.discarded:
                self.stopped.emit(current.discarded)
            else:
                current.done(outcome)

    def wait(self, between: Callable[[], Any] = lambda: None, seconds: float = 0.03) -> None:
        """Poll until it is idle, doing something in between."""
        while not self.is_idle:
            self.poll(seconds)
            between()

    def _begin(self, run: _Run) -> None:
        if self._run is not None:
            raise RuntimeError(f"the registration is {self.state.value}: wait until it is idle")
        run.job.start()
        self._run = run
        self.state_changed.emit(run.state)


def outcome_of(
    start: Callable[[RegistrationLogic], None],
    outcome: str,
    follow: Callable[[LiveView], Any] = lambda live: None,
    between: Callable[[], Any] = lambda: None,
    logic: RegistrationLogic | None = None,
) -> Any:
    """Let a RegistrationLogic do one thing, and wait for it: for who has no events to go back to.

    Args:
        start: starts it.
        outcome: name of the signal that tells what comes of it.
        follow: told what is reached; a true answer stops it.
        between: done again and again meanwhile.
        logic: does it; one of its own unless given.

    Raises:
        InputError: an input is unusable.
        Cancelled: it was stopped and left nothing.
    """
    logic = logic or RegistrationLogic()
    outcomes, errors = [], []

    def on_progress(live: LiveView) -> None:
        if follow(live):
            logic.stop()

    logic.progressed.connect(on_progress)
    getattr(logic, outcome).connect(outcomes.append)
    logic.failed.connect(errors.append)
    start(logic)
    logic.wait(between)
    if errors:
        raise errors[0]
    if not outcomes:
        raise Cancelled("stopped before there was anything to keep")
    return outcomes[0]
