"""Registration of several bodies: as one piece, then released, all jointly; a verdict for each."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from SOPIRegistrationLib.compare import StageRecord
from SOPIRegistrationLib.compare.target import Level
from SOPIRegistrationLib.errors import Cancelled, InputError
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.radiograph import PreparedRadiograph
from SOPIRegistrationLib.progress import Progress, Report
from SOPIRegistrationLib.projector.bodies import is_seen, window_of
from SOPIRegistrationLib.refine.alternatives import Alternative, alternatives
from SOPIRegistrationLib.refine.jointly import Refined, Scene, refine_jointly
from SOPIRegistrationLib.registration.loop import find, is_settled, register
from SOPIRegistrationLib.registration.predicted_error import Deviation
from SOPIRegistrationLib.registration.result import SEVERITY, RegistrationResult, Verdict
from SOPIRegistrationLib.registration.verdict import Finding, beside, on_thresholds
from SOPIRegistrationLib.settings import GIVEN, RegistrationSettings
from SOPIRegistrationLib.subject.bodies import Bodies, RigidBody, require_apart

# Errors of bent spines were this many times the deviations that the curvature of the images predicts, in one
# view (14 phantoms) and in several (6): what fills the holes, and overlaps, are not as in the patient.
# Checked on others in Docs/results/bodies.md.
_LARGER_ERRORS, _LARGER_ERRORS_OF_VIEWS = 1.9, 1.4
# Predicted errors that matter: across the central ray, along it, turned.
_LARGE_MM, _LARGE_DEPTH_MM, _LARGE_DEG = 1.0, 5.0, 1.5
# So many times bodies may take alternatives that agree better.
_ROUNDS = 3
# A body whose deviation is this share of what holds it alone would leave is held, not seen.
_MOSTLY_HELD = 0.5

# Names of the bodies that were registered as one piece, and its result.
Piece = tuple[tuple[str, ...], RegistrationResult]


@dataclass(frozen=True)
class BodyPose:
    """A registered body.

    Attributes:
        name: of the body.
        T_lps_to_world: (4, 4) pose, mm.
        initial_T: (4, 4) pose of the piece from which it was released.
        verdict: trust in this body.
        alternatives: other poses of it alone that the picture hardly tells from this one, or that are worth a
            look, the best first.
    """

    name: str
    T_lps_to_world: np.ndarray
    initial_T: np.ndarray
    verdict: Verdict
    alternatives: tuple[Alternative, ...] = ()


@dataclass(frozen=True)
class NeighbourPose:
    """How a body stands to the one that it is held to.

    Attributes:
        body, parent: their names.
        T_relative: (4, 4) ``T_parent^-1 T_body``, LPS to LPS, mm: the identity where both are as in the CT.
        predicted_error_mm: (3,) standard deviation of the body's centre against the parent, along the first
            camera's x, y and z.
        predicted_error_deg: (3,) of its turn against the parent about these axes.
    """

    body: str
    parent: str
    T_relative: np.ndarray
    predicted_error_mm: np.ndarray
    predicted_error_deg: np.ndarray


@dataclass(frozen=True)
class BodiesResult:
    """What a registration of several bodies found.

    Attributes:
        bodies: in their order.
        pairs: of each body that is held, how it stands to its parent.
        pieces: the registrations of what moved as one piece first.
        seconds: from prepared inputs to the verified poses.
    """

    bodies: tuple[BodyPose, ...]
    pairs: tuple[NeighbourPose, ...]
    pieces: tuple[RegistrationResult, ...]
    seconds: float

    @property
    def first(self) -> RegistrationResult:
        """The first body's result, in the form of a registration of one body."""
        return self.of(self.bodies[0])

    def of(self, body: BodyPose) -> RegistrationResult:
        """A body's result as a registration of one body; stages and images are the first piece's."""
        return replace(
            self.pieces[0],
            T_lps_to_world=body.T_lps_to_world,
            initial_T=body.initial_T,
            verdict=body.verdict,
            alternatives=body.alternatives,
            seconds=self.seconds,
        )

    @property
    def stopped(self) -> bool:
        """Whether it was cancelled."""
        return any(piece.stopped for piece in self.pieces)

    @property
    def intrinsics(self):
        """What of the cameras was estimated with the first piece's pose, as of ``RegistrationResult``."""
        return self.pieces[0].intrinsics

    @property
    def radiographs(self) -> tuple[PreparedRadiograph, ...]:
        """The X-rays as they were read."""
        return self.pieces[0].radiographs

    def to_dict(
        self,
        geometry: dict | None = None,
        seconds_preparation: float | None = None,
        given_mirrored: bool = False,
    ) -> dict:
        """The content of result.json; arguments as for ``RegistrationResult.to_dict``."""
        entry = self.first.to_dict(geometry, seconds_preparation, given_mirrored)
        kept = ("pose", "initial_pose", "verdict", "alternatives")
        entry["bodies"] = [
            {"name": body.name, **{key: told[key] for key in kept}}
            for body in self.bodies
            for told in [self.of(body).to_dict()]
        ]
        entry["pairs"] = [
            {
                "body": pair.body,
                "parent": pair.parent,
                "T_relative": pair.T_relative.tolist(),
                "predicted_error_mm": np.round(pair.predicted_error_mm, 4).tolist(),
                "predicted_error_deg": np.round(pair.predicted_error_deg, 4).tolist(),
            }
            for pair in self.pairs
        ]
        return entry


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
        InputError: as of ``register``; a body in no view, two bodies in one place, or a start of none.
    """
    began, starts = time.perf_counter(), dict(starts or {})
    settings = settings or RegistrationSettings()
    bodies.require(starts)
    moved = {name: T for name, T in (moved or {}).items() if bodies[name].name in bodies.parts}
    if bodies.whole is None and len(bodies) > 1 and set(starts) == set(bodies.names):
        # What can be told at once is not told after a minute.
        _require_in_view(Scene(bodies, radiographs), np.array([starts[name] for name in bodies.names]))
    case = _BodiesCase(bodies, tuple(radiographs), frame, settings, starts, report, moved)
    if len(bodies) == 1 and bodies.rest is None:
        return case.of_one()
    # What bends agrees in part only as one piece, and a body has its own alternatives: all that a search can
    # try is tried where these lead nowhere.
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
    """Whether a labelled CT stands where its parts may be released."""
    return verdict.status != "reject"


def _is_anything(verdict: Verdict) -> bool:
    """Of a body by itself the first pose is enough: others are sought of it beside all others."""
    return True


def _settled(
    known: Mapping[tuple[str, ...], RegistrationResult], names: tuple[str, ...]
) -> RegistrationResult | None:
    """A piece's known result, where a search to the end would be no other."""
    found = known.get(names)
    return found if found is not None and found.verdict.settled else None


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
            if self.bodies.whole is None:
                require_apart(self.bodies.bodies, T_start)
            _require_in_view(scene, T_start)
        except InputError:
            if must_be_in_view:
                raise
            return None
        joint_began = time.perf_counter()
        released = _released(scene, T_start, self.report)
        T = released.refined.T
        stage = StageRecord("all bodies jointly", time.perf_counter() - joint_began, None, T[0])
        results = (replace(results[0], stages=[*results[0].stages, stage]), *results[1:])
        if released.refined.stopped:
            return self._stopped(T, T_piece, results, began)
        verdicts, pairs = judge_bodies(scene, released.refined, released.others)
        for number, name in enumerate(self.bodies.names):
            if number not in released.taken or name in self.bodies.parts:
                verdicts[number] = _not_better(verdicts[number], found[name].verdict)
        poses = zip(self.bodies.names, T, T_piece, verdicts, released.others, strict=False)
        seconds = time.perf_counter() - began
        return BodiesResult(tuple(BodyPose(*one) for one in poses), tuple(pairs), results, seconds)

    def is_enough(self, result: BodiesResult) -> bool:
        """Whether a thorough search need not follow: there is none, or no body is wrong by what it shows.

        Of a body by itself that is not accepted the search knows further starts; a part of a CT has those of
        the whole, which stands where it may be released.
        """
        if all(piece.verdict.settled for piece in result.pieces):
            return True
        return not any(
            body.verdict.status == "reject"
            or (body.alternatives and body.alternatives[0].margin < 0)
            or (body.verdict.status == "review" and body.name not in self.bodies.parts)
            for body in result.bodies
        )

    def pieces(self, known: Mapping[tuple[str, ...], RegistrationResult] | None = None) -> list[Piece]:
        """Names and result of the labelled CT as a whole and of every other body by itself.

        The search ends with what will do to be released; with results that are ``known`` it goes to its end,
        and those that were settled are taken as they are.
        """
        known, pieces = known or {}, []
        bodies, seen = self.bodies, self.radiographs
        if bodies.whole is not None:
            settings, start = self._settings(bodies.parts)
            found = _settled(known, bodies.parts)
            if found is None:
                enough = is_settled if known else _is_a_start
                report = self._report_of(bodies.parts)
                found = find(bodies.whole, seen, self.frame, settings, start, report, enough)
            pieces.append((bodies.parts, found))
        for body in bodies.bodies:
            if body.name in bodies.parts:
                continue
            settings, start = self._settings([body.name])
            if pieces:
                # The X-rays are what the first piece found them to be.
                seen, settings = pieces[0][1].radiographs, replace(settings, mirrored="no")
            own = replace(self.frame, centre_lps_mm=body.centre_lps_mm)
            found = _settled(known, (body.name,))
            if found is None:
                enough = is_settled if known else _is_anything
                report = self._report_of([body.name])
                found = find(body.subject, seen, own, settings, start, report, enough)
            pieces.append(((body.name,), replace(found, frame=self.frame)))
        return pieces

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


class _Released(NamedTuple):
    """Where released bodies ended.

    Attributes:
        refined: their poses.
        others: of each what else it may be.
        taken: numbers of those that stand where an alternative led: what was found as one piece no longer
            counts for them.
    """

    refined: Refined
    others: list[tuple[Alternative, ...]]
    taken: frozenset[int] = frozenset()

    @property
    def with_better_others(self) -> list[int]:
        """Numbers of bodies of which another pose agrees better."""
        return [number for number, one in enumerate(self.others) if one and one[0].margin < 0]


def _released(scene: Scene, T_start: np.ndarray, report: Report | None) -> _Released:
    """All bodies refined jointly, and what else each may be; one whose alternative agrees better takes it."""

    def sought(refined: Refined, number: int) -> tuple[Alternative, ...]:
        if scene.bodies.bodies[number].fixed:
            return ()
        return alternatives(scene, refined.T, number, report, T_start)

    refined = refine_jointly(scene, T_start, report=report)
    found = _Released(refined, [() for _ in scene.bodies.bodies])
    if refined.stopped:
        return found
    try:
        found = _Released(refined, [sought(refined, number) for number in range(len(scene.bodies))])
        for _ in range(_ROUNDS):
            better = found.with_better_others
            if not better:
                break
            T = found.refined.T.copy()
            T[better] = [found.others[number][0].T_lps_to_world for number in better]
            again = refine_jointly(scene, T, report=report, T_rest=T_start)
            gains = scene.agreements(scene.kind.check, np.stack([found.refined.T, again.T]), better)
            if again.stopped:
                raise Cancelled
            if np.diff(gains, axis=0).mean() <= 0:
                break
            others = [
                sought(again, number) if number in better else one for number, one in enumerate(found.others)
            ]
            found = _Released(again, others, found.taken.union(better))
    except Cancelled:
        return found._replace(refined=found.refined._replace(stopped=True))
    return found


def judge_bodies(
    scene: Scene, refined: Refined, others: Sequence[Sequence[Alternative]] = ()
) -> tuple[list[Verdict], list[NeighbourPose]]:
    """A verdict for each body, and how each held one stands to its parent.

    Args:
        scene: bodies and X-rays.
        refined: where the bodies ended.
        others: of each body where else it may stand (``refine.alternatives``); of none if empty.
    """
    T, objective = refined.T, refined.objective
    equations = objective.at(T)
    covariance = _larger_errors(scene) ** 2 * objective.unit * _inverse(equations.hessian[0])
    to_camera = np.kron(np.eye(2), scene.radiographs[0].camera.T_world_to_camera[:3, :3])
    agreement = scene.agreement(scene.kind.check, T)
    verdicts, pairs = [], []
    for number, body in enumerate(scene.bodies.bodies):
        own = slice(6 * number, 6 * number + 6)
        deviation = Deviation.of(to_camera @ covariance[own, own] @ to_camera.T)
        figure = f"structural correlation about it {agreement[number]:.3f}"
        ambiguous = beside(others[number]) if others else ("accept", "")
        findings = [
            on_thresholds(agreement[number], scene.kind.thresholds, figure),
            ("accept", "") if body.fixed else _determined(body, deviation, _larger_errors(scene)),
            ambiguous,
        ]
        status = max((status for status, _ in findings), key=SEVERITY.index)
        reasons = [reason for _, reason in findings if reason]
        if body.fixed:
            reasons.append("fixed: it stays where it was as one piece")
        verdicts.append(
            Verdict(
                status,
                reasons,
                deviation.translation_mm,
                np.rad2deg(deviation.rotation_rad),
                ambiguous=ambiguous[1],
            )
        )
        if body.hold is not None:
            pairs.append(_pair(scene, refined, number, to_camera, covariance))
    return verdicts, pairs


def _pair(scene: Scene, refined: Refined, number: int, to_camera, covariance) -> NeighbourPose:
    """How a held body stands to its parent."""
    body = scene.bodies.bodies[number]
    parent = scene.bodies.names.index(body.hold.parent)
    relative = refined.objective.relative_jacobian(refined.T, number, parent)
    deviation = Deviation.of(to_camera @ relative @ covariance @ relative.T @ to_camera.T)
    T_relative = se3.invert_rigid(refined.T[parent]) @ refined.T[number]
    return NeighbourPose(
        body.name, body.hold.parent, T_relative, deviation.translation_mm, np.rad2deg(deviation.rotation_rad)
    )


def _require_in_view(scene: Scene, T_lps_to_world: np.ndarray) -> None:
    level = Level(scene.kind.check.pixels)
    views = [
        scene.view(one, replace(level, window_px=11), scene.with_rest(T_lps_to_world))
        for one in scene.radiographs
    ]
    for number, body in enumerate(scene.bodies.bodies):
        if not any(
            is_seen(window_of(view.volumes[number], view.radiograph.camera, T_lps_to_world[number]))
            for view in views
        ):
            raise InputError(
                f"{body.name} lies outside every X-ray where it is expected: leave it out, or give a start "
                "pose"
            )


def _inverse(hessian: np.ndarray) -> np.ndarray:
    """Of a Hessian some of whose parameters nothing depends on: these have variances of zero."""
    used = np.diag(hessian) > 0
    inverse = np.zeros_like(hessian)
    inverse[np.ix_(used, used)] = np.linalg.pinv(hessian[np.ix_(used, used)], rcond=1e-12, hermitian=True)
    return inverse


def _larger_errors(scene: Scene) -> float:
    """By what deviations from the curvature of the images are to be multiplied."""
    return _LARGER_ERRORS if len(scene.radiographs) == 1 else _LARGER_ERRORS_OF_VIEWS


def _determined(body: RigidBody, deviation: Deviation, larger: float) -> Finding:
    """Whether the picture, not what holds it, fixes a body."""
    x, y, z = deviation.translation_mm
    turn = float(np.rad2deg(deviation.rotation_rad.max()))
    if not (deviation.translation_mm.any() or turn):
        return "review", "the picture does not show it"
    if body.hold is not None:
        across = max(x, y) / (larger * body.hold.translation_mm)
        if max(across, turn / (larger * body.hold.rotation_deg)) > _MOSTLY_HELD:
            return "review", f"the picture hardly determines it: it stays where {body.hold.parent} holds it"
    if max(x, y) > _LARGE_MM or z > _LARGE_DEPTH_MM or turn > _LARGE_DEG:
        return "review", (
            f"the picture hardly fixes it: predicted error {x:.1f}, {y:.1f}, {z:.1f} mm, {turn:.1f} deg"
        )
    return "accept", ""


def _not_better(verdict: Verdict, piece: Verdict) -> Verdict:
    """No body of a piece that was rejected, or that may stand elsewhere, is accepted: released bodies find
    something alike anywhere."""
    reason = piece.ambiguous or (piece.reasons[0] if piece.status == "reject" else "")
    if not reason or verdict.status != "accept":
        return verdict
    return replace(verdict, status="review", reasons=[*verdict.reasons, f"as one piece: {reason}"])
