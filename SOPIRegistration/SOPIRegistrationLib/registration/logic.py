"""The way of one registration, from inputs to a result, without nodes or widgets.

The panel, scripts, the command line and tests drive it alike: :class:`RegistrationLogic` is in one of four
states, says so by signals, and computes in a thread of its own while :meth:`RegistrationLogic.poll` gives it
time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Generic, TypeVar

import numpy as np

from SOPIRegistrationLib.errors import Cancelled
from SOPIRegistrationLib.geometry.c_arm import CArmGeometry
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.ct_preparation import prepare_ct
from SOPIRegistrationLib.images.prepared_ct import PreparedCT
from SOPIRegistrationLib.images.radiograph import PreparedRadiograph, Radiograph
from SOPIRegistrationLib.images.radiograph_preparation import prepare_radiograph
from SOPIRegistrationLib.images.region import restricted
from SOPIRegistrationLib.images.volume import Volume
from SOPIRegistrationLib.progress import Progress
from SOPIRegistrationLib.projector import project
from SOPIRegistrationLib.registration.job import Job
from SOPIRegistrationLib.registration.loop import register
from SOPIRegistrationLib.registration.result import RegistrationResult
from SOPIRegistrationLib.settings import RegistrationSettings
from SOPIRegistrationLib.subject import Subject

# Longer edge of a DRR while something moves.
LIVE_PIXELS = 256
# What moves is made of voxels no smaller than this, in smaller pictures of larger ones: 15 pictures a second
# on two cores, from any CT.
_LIVE_STEP_MM = 1.5
# DRRs are made for looking at no more often than this while a registration runs.
_LIVE_INTERVAL_S = 0.15

# Source of what a registration has corrected in a geometry.
_FOUND = "found by the registration"

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
class OtherXray:
    """An X-ray that is registered jointly with the one that is looked at.

    Attributes:
        node_id: of its node.
        radiograph: as stored, in the camera's frame.
        camera: its camera, in the world of the calibrated set.
        key: tells it from another one.
    """

    node_id: str
    radiograph: Radiograph
    camera: Camera
    key: tuple


@dataclass(frozen=True)
class Inputs:
    """What is read of the scene; arrays, safe to hand to a thread.

    Attributes:
        ct: in the patient frame, HU.
        mask: bones, or None.
        radiograph: the X-ray as stored, in the camera's frame.
        region: (rows, columns) bool on the radiograph, where it is to be compared; None for everywhere.
        geometry: its one camera, in the world of its calibrated set, with a source-object distance.
        polarity: "auto", "bone-dark" or "bone-bright".
        others: X-rays that are registered jointly with it.
        ct_key: tells one CT and mask from another.
        xray_key: the same of X-ray and geometry.
    """

    ct: Volume
    mask: Volume | None
    radiograph: Radiograph
    region: np.ndarray | None
    geometry: CArmGeometry
    polarity: str
    others: tuple[OtherXray, ...]
    ct_key: tuple
    xray_key: tuple

    def as_found(self, result: RegistrationResult) -> Inputs:
        """The same with a geometry that states what a registration found of the first X-ray."""
        geometry, radiograph, region = self.geometry, self.radiograph, self.region
        if result.frame.view != geometry.view:
            sources = {**geometry.sources, "view": _FOUND}
            geometry = replace(geometry, view=result.frame.view, rotation=None, sources=sources)
        if result.mirrored:
            camera = geometry.camera.mirrored()
            sources = {**geometry.sources, "mirrored": _FOUND}
            geometry = replace(geometry, cameras=(camera,), mirrored=not geometry.mirrored, sources=sources)
            radiograph, region = radiograph.mirrored(), None if region is None else region[:, ::-1]
        return replace(self, geometry=geometry, radiograph=radiograph, region=region)


@dataclass(frozen=True)
class PreparedCase:
    """Inputs ready for registration.

    Attributes:
        subject: the CT.
        xray: the X-ray, bones bright.
        others: those registered jointly with it, in the order of the inputs.
        frame: what pose parameters are measured from.
        seconds: how long preparing took.
        inputs: what it was made from; None of files, which nobody changes meanwhile.
    """

    subject: Subject
    xray: PreparedRadiograph
    others: tuple[PreparedRadiograph, ...]
    frame: PoseFrame
    seconds: float
    inputs: Inputs | None = None

    @property
    def ct(self) -> PreparedCT:
        """Attenuation and bones."""
        return self.subject.ct

    @property
    def prepared(self) -> dict[tuple, PreparedRadiograph]:
        """The X-rays by their keys."""
        keys = self.inputs.xray_key, *(one.key for one in self.inputs.others)
        return dict(zip(keys, (self.xray, *self.others), strict=True))

    @property
    def geometry(self) -> CArmGeometry:
        """With the cameras of all X-rays, in their order."""
        cameras = tuple(one.camera for one in self.inputs.others)
        return replace(self.inputs.geometry, cameras=(*self.inputs.geometry.cameras, *cameras))

    def as_found(self, result: RegistrationResult) -> PreparedCase:
        """The case as a registration found it to be: polarity, way round, nominal view.

        Where the X-ray was found stored the other way round, or taken from another side, than its geometry
        states, the inputs are those of a geometry that states it.
        """
        first, *others = result.radiographs
        case = replace(self, xray=first, others=tuple(others))
        if not result.mirrored and result.frame is self.frame:
            return case
        return replace(case, inputs=self.inputs.as_found(result), frame=result.frame)

    @property
    def T_world_to_camera(self) -> np.ndarray:
        """(4, 4) extrinsics of the X-ray's camera; the identity for a single C-arm."""
        return self.xray.camera.T_world_to_camera

    @property
    def bone_dark(self) -> bool:
        """Whether bones are dark in the X-ray as stored: preparation has turned it over."""
        valid = self.xray.valid
        stored = self.inputs.radiograph.pixels
        return bool(np.cov(stored[valid], self.xray.image[valid])[0, 1] < 0)

    def render(self, T_lps_to_camera: np.ndarray, pixels: int) -> np.ndarray:
        """DRR (rows, columns) whose longer edge has at most ``pixels`` pixels; coarse where that is small."""
        camera, moving = _reduced(self.xray.camera.as_world(), pixels), self.subject.body
        volume, halvings = moving.for_camera(camera, T_lps_to_camera), 0
        least_mm = _LIVE_STEP_MM * LIVE_PIXELS / pixels
        while pixels <= LIVE_PIXELS and volume.default_step_mm < least_mm:
            halvings += 1
            volume = moving.level(halvings)
        return project(volume, camera, T_lps_to_camera)


@dataclass(frozen=True)
class Task:
    """A registration to be made.

    Attributes:
        case: what is registered.
        settings: how.
        start: (4, 4) T_lps_to_world, where a start pose is given.
        shows_pictures: whether somebody looks at DRRs meanwhile.
    """

    case: PreparedCase
    settings: RegistrationSettings
    start: np.ndarray | None = None
    shows_pictures: bool = True


@dataclass(frozen=True)
class LiveView:
    """What a running registration shows.

    Attributes:
        stage: name of the running stage.
        fraction: of the whole that is done, 0 to 1.
        T_lps_to_camera: (4, 4) best pose so far, or None while preparing.
        drr: the projection there, or None where none was made.
    """

    stage: str
    fraction: float
    T_lps_to_camera: np.ndarray | None = None
    drr: np.ndarray | None = None


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
    if known is not None and known.inputs.ct_key == inputs.ct_key:
        subject = known.subject
    else:
        subject = Subject(prepare_ct(inputs.ct, inputs.mask, progress=progress))
        subject.warm_up()
    ready = {} if known is None else known.prepared
    xray = ready.get(inputs.xray_key)
    if xray is None:
        xray = prepare_radiograph(inputs.radiograph, inputs.geometry.camera, inputs.polarity)
        if inputs.region is not None:
            xray = restricted(xray, inputs.region)
    others = tuple(
        ready.get(one.key) or prepare_radiograph(one.radiograph, one.camera, inputs.polarity)
        for one in inputs.others
    )
    frame = inputs.geometry.pose_frame(subject.ct.rotation_centre_lps_mm)
    return PreparedCase(subject, xray, others, frame, round(time.perf_counter() - began, 3), inputs)


def run(task: Task, report: Callable[[LiveView], None]) -> RegistrationResult:
    """Register a prepared case; any thread."""
    last, case = 0.0, task.case

    def show(progress: Progress) -> None:
        nonlocal last
        T_lps_to_camera, drr = case.T_world_to_camera @ progress.T, None
        if task.shows_pictures and time.perf_counter() - last > _LIVE_INTERVAL_S:
            drr = case.render(T_lps_to_camera, LIVE_PIXELS)
            last = time.perf_counter()
        report(LiveView(progress.stage, progress.fraction, T_lps_to_camera, drr))

    return register(case.subject, [case.xray, *case.others], case.frame, task.settings, task.start, show)


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

    Attributes:
        state_changed: the state, whenever it is another one.
        progressed: what the running computation has reached.
        prepared: a case is ready.
        finished: a registration has ended, of itself or stopped with the pose it had reached.
        stopped: something was stopped and left nothing; why, in words for a person.
        failed: an InputError, or a fault.
    """

    def __init__(self):
        self.state_changed: Signal[State] = Signal()
        self.progressed: Signal[LiveView] = Signal()
        self.prepared: Signal[PreparedCase] = Signal()
        self.finished: Signal[RegistrationResult] = Signal()
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

        self._begin(_Run(Job(lambda report: prepare(inputs, known, report)), State.PREPARING, done))

    def register(self, task: Task) -> None:
        """Register; ``finished`` tells the result."""
        self._begin(_Run(Job(lambda report: run(task, report)), State.REGISTERING, self.finished.emit))

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
) -> Any:
    """Let a RegistrationLogic do one thing, and wait for it: for who has no events to go back to.

    Args:
        start: starts it.
        outcome: name of the signal that tells what comes of it.
        follow: told what is reached; a true answer stops it.
        between: done again and again meanwhile.

    Raises:
        InputError: an input is unusable.
        Cancelled: it was stopped and left nothing.
    """
    logic, outcomes, errors = RegistrationLogic(), [], []

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


def _reduced(camera, pixels: int):
    scale = min(1.0, pixels / max(camera.shape))
    return camera.resampled(round(camera.width * scale), round(camera.height * scale))
