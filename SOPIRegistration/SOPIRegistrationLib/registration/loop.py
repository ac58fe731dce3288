"""A registration: propose, score and thin, refine, judge; from prepared inputs to a verified pose."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from SOPIRegistrationLib import methods
from SOPIRegistrationLib.compare import Case, Hypotheses, Reading, Run, StageRecord, compared_target
from SOPIRegistrationLib.errors import Cancelled
from SOPIRegistrationLib.geometry.views import PoseFrame, frame_of
from SOPIRegistrationLib.images.radiograph import PreparedRadiograph
from SOPIRegistrationLib.initialise.initialiser import Initialiser
from SOPIRegistrationLib.progress import Report
from SOPIRegistrationLib.refine.alternatives import alternatives
from SOPIRegistrationLib.refine.joint_scene import Scene
from SOPIRegistrationLib.refine.refiner import Refiner
from SOPIRegistrationLib.registration.result import SEVERITY, RegistrationResult
from SOPIRegistrationLib.registration.verdict import Verdict, beside, judge
from SOPIRegistrationLib.settings import RegistrationSettings
from SOPIRegistrationLib.subject import Subject
from SOPIRegistrationLib.subject.bodies import Bodies


def warm_up(subject: Subject, settings: RegistrationSettings) -> None:
    """Load and compile what a registration would have to wait for; InputError for weights that are not for
    it."""
    subject.warm_up()
    methods.initialiser(settings).warm_up(subject)
    methods.refiner(settings).warm_up(subject)


def is_settled(verdict: Verdict) -> bool:
    """Whether the images agree as at a right pose."""
    return verdict.settled


def register(
    subject: Subject,
    radiographs: Sequence[PreparedRadiograph],
    frame: PoseFrame,
    settings: RegistrationSettings | None = None,
    start: np.ndarray | None = None,
    report: Report | None = None,
) -> RegistrationResult:
    """Find the pose of a CT in one X-ray, or jointly in several calibrated ones.

    Args:
        subject: the CT.
        radiographs: prepared X-rays; several share one world (``Camera.T_world_to_camera``).
        frame: nominal view, source-object distance and rotation centre, in the first camera.
        settings: how to register.
        start: (4, 4) T_lps_to_world, the start pose of the initialiser "given".
        report: told several times a second; raises ``Cancelled`` to stop at once, and the result holds the
            best pose reached so far.

    Raises:
        InputError: the object lies outside the X-ray at the start pose, or weights cannot be used.
    """
    return with_alternatives(find(subject, radiographs, frame, settings, start, report), subject, report)


def find(
    subject: Subject,
    radiographs: Sequence[PreparedRadiograph],
    frame: PoseFrame,
    settings: RegistrationSettings | None = None,
    start: np.ndarray | None = None,
    report: Report | None = None,
    enough: Callable[[Verdict], bool] = is_settled,
) -> RegistrationResult:
    """The same, but that the found pose's look-alikes are not sought.

    The arguments are those of :func:`register`, and ``enough``: whether the verdict on a proposal ends the
    search; else the next one is tried.
    """
    began = time.perf_counter()
    settings = settings or RegistrationSettings()
    initialiser, refiner = methods.initialiser(settings, start), methods.refiner(settings)
    case = _case(subject, radiographs, frame, settings, initialiser)
    run = Run(case, report, settings.time_limit)
    try:
        best = min(_outcomes(initialiser, refiner, run, case, enough), key=_Outcome.rank)
    except Cancelled:
        best = _Outcome.stopped(settings.init, run)
    return best.result(run, settings, time.perf_counter() - began)


def with_alternatives(
    result: RegistrationResult, subject: Subject, report: Report | None = None
) -> RegistrationResult:
    """A result with the poses that look alike, of a kind of target without a probability: an implant.

    Of others the refinement has tried them, and the probability counts them.

    Args:
        result: without them.
        subject: what was registered.
        report: told as they are sought; raises ``Cancelled`` to stop.
    """
    if compared_target(subject).kind.judged_as or result.stopped or result.verdict.status == "reject":
        return result
    scene = Scene(Bodies.one(subject), result.radiographs)
    began = time.perf_counter()
    try:
        found = alternatives(scene, result.T_lps_to_world[None], 0, report)
    except Cancelled:
        reasons = [*result.verdict.reasons, "stopped early: no other poses were tried"]
        verdict = replace(result.verdict, status="review", reasons=reasons)
        return replace(result, verdict=verdict, stopped=True)
    status, reason = beside(found)
    verdict = result.verdict
    if status != "accept":
        verdict = replace(verdict, status=status, reasons=[*verdict.reasons, reason], ambiguous=reason)
    seconds = time.perf_counter() - began
    stage = StageRecord("other poses", seconds, None, result.T_lps_to_world)
    return replace(
        result,
        verdict=verdict,
        alternatives=found,
        stages=[*result.stages, stage],
        seconds=result.seconds + seconds,
    )


def _case(
    subject: Subject,
    radiographs: Sequence[PreparedRadiograph],
    frame: PoseFrame,
    settings: RegistrationSettings,
    initialiser: Initialiser,
) -> Case:
    """What is registered, and where the initialiser expects it."""
    reading = Reading(tuple(radiographs))
    if settings.mirrored == "yes":
        reading = reading.turned_over()
    case = Case(subject, reading, frame, settings.content)
    return replace(case, T_expected=initialiser.expected(case))


def _outcomes(
    initialiser: Initialiser, refiner: Refiner, run: Run, case: Case, enough: Callable[[Verdict], bool]
) -> Iterator[_Outcome]:
    """Of each proposal, thinned, refined and judged, until that is enough."""
    statuses: list[str] = []
    for proposal in initialiser.propose(case, run):
        if not refiner.takes(proposal, statuses):
            return
        with run.share(1 / 2):
            hypotheses = refiner.thin(proposal, run)
            if hypotheses is None:
                continue
            refined = refiner.refine(hypotheses, run)
        outcome = _Outcome(refined.source or proposal.source, refined, judge(refined, run.timed_out))
        yield outcome
        statuses.append(outcome.verdict.status)
        if enough(outcome.verdict):
            return


@dataclass(frozen=True)
class _Outcome:
    """What became of a proposal."""

    source: str
    refined: Hypotheses
    verdict: Verdict
    was_stopped: bool = False

    @classmethod
    def stopped(cls, source: str, run: Run) -> _Outcome:
        """Where the run was when it was stopped."""
        # Whoever stops wants to go on at once: nothing is computed any more but what the images say.
        reached = Hypotheses.unscored(run.comparison, run.T[None], run.comparison.case.T_expected)
        verdict = Verdict("review", ["stopped early: not verified"], None, None)
        return cls(source, reached, verdict, was_stopped=True)

    def rank(self) -> tuple[int, float, float]:
        """Smaller for what is to be trusted more."""
        margin = self.refined.comparison.margin(self.refined.T[0])
        return SEVERITY.index(self.verdict.status), -(self.verdict.probability or 0.0), -margin

    def result(self, run: Run, settings: RegistrationSettings, seconds: float) -> RegistrationResult:
        """The same for the caller."""
        comparison, T, T_initial = self.refined.comparison, self.refined.T[0], self.refined.T_initial
        case, reasons = comparison.case, list(self.verdict.reasons)
        if run.timed_out and self.verdict.status != "accept":
            reasons.append(f"the time limit of {settings.time_limit:g} s was reached: not all was tried")
        return RegistrationResult(
            T_lps_to_world=T,
            initial_T=T_initial,
            frame=frame_of(case.frame, case.T_world_to_camera @ T),
            T_world_to_camera=case.T_world_to_camera,
            radiographs=comparison.radiographs,
            mirrored=comparison.reading.mirrored,
            intrinsics=comparison.reading.intrinsics,
            stated_view=case.frame.view,
            method=f"{self.source} + {settings.refine}",
            content=comparison.target.content,
            stages=run.stages,
            similarity=comparison.image_similarity(T),
            initial_similarity=None if self.was_stopped else comparison.image_similarity(T_initial),
            verdict=replace(self.verdict, reasons=reasons),
            seconds=seconds,
            stopped=self.was_stopped,
        )
