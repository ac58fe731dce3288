"""Registration of several bodies: as one piece, then released, all jointly; a verdict for each."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from SOPIRegistrationLib.compare import StageRecord
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.radiograph import PreparedRadiograph
from SOPIRegistrationLib.progress import Progress, Report
from SOPIRegistrationLib.refine.joint_scene import Scene
from SOPIRegistrationLib.refine.released import release
from SOPIRegistrationLib.registration.bodies_result import BodiesResult, BodyPose
from SOPIRegistrationLib.registration.bodies_verdict import judge_bodies, not_better, not_in_one_place
from SOPIRegistrationLib.registration.loop import find, is_settled, register
from SOPIRegistrationLib.registration.result import SEVERITY, RegistrationResult, Verdict
from SOPIRegistrationLib.settings import GIVEN, RegistrationSettings
from SOPIRegistrationLib.subject import Subject
from SOPIRegistrationLib.subject.bodies import Bodies, require_several

# Names of the bodies that were registered as one piece, and its result.
Piece = tuple[tuple[str, ...], RegistrationResult]


def register_bodies(
    bodies: Bodies,
    radiographs: Sequence[PreparedRadiograph],
    frame: PoseFrame,
    settings: RegistrationSettings | None = None,
    starts: Mapping[str, np.ndarray] | None = None,
    report: Report | None = None,
    moved: Mapping[str, np.ndarray] | None = None,
) -> BodiesResult:
    """Find the pose of every body, in one X-ray or jointly in several calibrated ones.

    What was cut from one CT is registered as one piece first, other bodies each by itself; then all are
    released and refined jointly. One body alone is registered by ``register``, and no more.

    Args:
        bodies: what is registered.
        radiographs: prepared X-rays of one world.
        frame: nominal view and source-object distance, in the first camera; of its centre theta is told.
        settings: how what moves as one piece is registered.
        starts: (4, 4) T_lps_to_world by name of a body; of the parts of a CT the first one's counts for all.
        report: told several times a second; raises ``Cancelled`` to stop at once, and the result holds the
            best poses reached so far.
        moved: (4, 4) by name of a part of a CT: how it has left its place in the CT before, LPS to LPS, mm;
            it is released from there.

    Raises:
        InputError: as of ``register``; a body in no view, one body twice, or a start of none.
    """
    began, starts = time.perf_counter(), dict(starts or {})
    settings = settings or RegistrationSettings()
    bodies.require(starts)
    moved = {name: T for name, T in (moved or {}).items() if bodies[name].name in bodies.parts}
    if bodies.whole is None and len(bodies) > 1 and set(starts) == set(bodies.names):
        # What can be told at once is not told after a minute.
        T_start = np.array([starts[name] for name in bodies.names])
        require_several(bodies.bodies, T_start)
        Scene(bodies, radiographs).require_in_view(T_start)
    case = _BodiesCase(bodies, tuple(radiographs), frame, settings, starts, report, moved)
    if len(bodies) == 1 and bodies.rest is None:
        return case.of_one()
    # What bends agrees in part only as one piece: all that a search of it can try is tried where the first
    # that will do leads nowhere.
    pieces = case.pieces()
    quick = case.of_several(pieces, began)
    if quick is not None and (quick.stopped or case.is_enough(quick)):
        return quick
    thorough = case.of_several(case.pieces(known=dict(pieces)), began, must_be_in_view=True)
    if quick is None or thorough.stopped:
        return thorough
    return min(thorough, quick, key=_severity)


def _severity(result: BodiesResult) -> int:
    """Less for bodies that are to be trusted more."""
    return sum(SEVERITY.index(body.verdict.status) for body in result.bodies)


def _is_a_start(verdict: Verdict) -> bool:
    """Whether a piece stands where it may be released; where none does, all was tried that there is."""
    return verdict.status != "reject"


def _is_final(verdict: Verdict) -> bool:
    """Whether a piece that was sought until :func:`_is_a_start` would be no other after a longer search."""
    return is_settled(verdict) or not _is_a_start(verdict)


@dataclass(frozen=True)
class _BodiesCase:
    """The arguments of :func:`register_bodies`."""

    bodies: Bodies
    radiographs: tuple[PreparedRadiograph, ...]
    frame: PoseFrame
    settings: RegistrationSettings
    starts: Mapping[str, np.ndarray]
    report: Report | None
    moved: Mapping[str, np.ndarray]

    def of_one(self) -> BodiesResult:
        """One body alone."""
        [body] = self.bodies.bodies
        settings, start = self._settings([body.name])
        found = register(body.subject, self.radiographs, self.frame, settings, start, self.report)
        pose = BodyPose(body.name, found.T_lps_to_world, found.initial_T, found.verdict, found.alternatives)
        return BodiesResult((pose,), (), (found,), found.seconds)

    def of_several(
        self, pieces: Sequence[Piece], began: float, must_be_in_view: bool = False
    ) -> BodiesResult | None:
        """What was registered as pieces, released; None where a piece lies out of the X-rays.

        Args:
            pieces: as of :meth:`pieces`.
            began: when all began, s.
            must_be_in_view: whether such a piece is an error.
        """
        results = tuple(piece for _, piece in pieces)
        found = {name: piece for names, piece in pieces for name in names}
        T_piece = np.array([found[name].T_lps_to_world for name in self.bodies.names])
        T_start = T_piece @ [self.moved.get(name, np.eye(4)) for name in self.bodies.names]
        if any(piece.stopped for piece in results):
            return self._stopped(T_start, T_piece, results, began)
        scene = Scene(self.bodies, results[0].radiographs)
        try:
            scene.require_in_view(T_start)
        except InputError:
            if must_be_in_view:
                raise
            return None
        joint_began = time.perf_counter()
        released = release(scene, T_start, self.report)
        T = released.refined.T
        stage = StageRecord("all bodies jointly", time.perf_counter() - joint_began, None, T[0])
        results = (replace(results[0], stages=[*results[0].stages, stage]), *results[1:])
        if released.refined.stopped:
            return self._stopped(T, T_piece, results, began)
        verdicts, pairs = judge_bodies(scene, released.refined, released.others)
        for number, name in enumerate(self.bodies.names):
            if number not in released.taken or name in self.bodies.parts:
                verdicts[number] = not_better(verdicts[number], found[name].verdict)
        verdicts = not_in_one_place(verdicts, self.bodies.bodies, T)
        poses = zip(self.bodies.names, T, T_piece, verdicts, released.others, strict=False)
        seconds = time.perf_counter() - began
        return BodiesResult(tuple(BodyPose(*one) for one in poses), tuple(pairs), results, seconds)

    def is_enough(self, result: BodiesResult) -> bool:
        """Whether a thorough search need not follow: there is none, or no body is wrong by what it shows.

        Only the labelled CT as one piece was sought no longer than until it stood where it may be released.
        """
        parts = self.bodies.parts
        if not parts or _is_final(result.pieces[0].verdict):
            return True
        return not any(
            body.verdict.status == "reject" or (body.alternatives and body.alternatives[0].margin < 0)
            for body in result.bodies
            if body.name in parts
        )

    def pieces(self, known: Mapping[tuple[str, ...], RegistrationResult] | None = None) -> list[Piece]:
        """Names and result of the labelled CT as a whole and of every other body by itself.

        The search of the whole ends with what will do to be released; with results that are ``known`` it goes
        to its end, and all others are taken as they are.
        """
        known, pieces = known or {}, []
        bodies = self.bodies
        if bodies.whole is not None:
            pieces.append((bodies.parts, self._piece(bodies.parts, bodies.whole, pieces, known)))
        for body in bodies.bodies:
            if body.name not in bodies.parts:
                pieces.append(((body.name,), self._piece((body.name,), body.subject, pieces, known)))
        return pieces

    def _piece(
        self,
        names: tuple[str, ...],
        subject: Subject,
        before: Sequence[Piece],
        known: Mapping[tuple[str, ...], RegistrationResult],
    ) -> RegistrationResult:
        """What moves as one, registered."""
        is_whole = subject is self.bodies.whole
        if names in known and not (is_whole and not _is_final(known[names].verdict)):
            return known[names]
        settings, start = self._settings(names)
        seen = self.radiographs
        if before:
            # The X-rays are what the first piece found them to be.
            seen, settings = before[0][1].radiographs, replace(settings, mirrored="no")
        report = self._report_of(names)
        # What bends agrees in part only as one piece; what is a body of its own is sought until it stands.
        enough = _is_a_start if is_whole and not known else is_settled
        if is_whole:
            return find(subject, seen, self.frame, settings, start, report, enough)
        own = replace(self.frame, centre_lps_mm=subject.ct.rotation_centre_lps_mm)
        found = find(subject, seen, own, settings, start, report, enough)
        return replace(found, frame=self.frame)

    def _report_of(self, names: Sequence[str]) -> Report | None:
        """Tells where the bodies of a piece are; the first one's is that of the CT as one piece, too."""
        if self.report is None:
            return None
        whom = names[0] if len(names) == 1 else "as one piece"
        everything = {name: self.moved.get(name, np.eye(4)) for name in names}
        if self.bodies.names[0] in names:
            everything[""] = np.eye(4)

        def tell(state: Progress) -> None:
            known = state.T is not None
            poses = {name: state.T @ moved for name, moved in everything.items()} if known else {}
            self.report(replace(state, stage=f"{whom}: {state.stage}", bodies=poses))

        return tell

    def _settings(self, names: Sequence[str]) -> tuple[RegistrationSettings, np.ndarray | None]:
        """How a piece of bodies of these names is registered, and its start (4, 4) where one is given."""
        start = next((self.starts[name] for name in names if name in self.starts), None)
        return (self.settings if start is None else replace(self.settings, init=GIVEN)), start

    def _stopped(self, T_reached: np.ndarray, T_start: np.ndarray, results, began: float) -> BodiesResult:
        """Where the bodies were when the registration was stopped."""
        verdict = Verdict("review", ["stopped early: not verified"], None, None)
        poses = [
            BodyPose(name, T, T_initial, verdict)
            for name, T, T_initial in zip(self.bodies.names, T_reached, T_start, strict=False)
        ]
        results = (replace(results[0], stopped=True), *results[1:])
        return BodiesResult(tuple(poses), (), results, time.perf_counter() - began)
