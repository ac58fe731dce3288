"""Tracking: every frame from its neighbour's pose, lost ones sought, poor ones tried from both sides."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from SOPIRegistrationLib.compare import Case, Comparison, Hypotheses, Reading, Run
from SOPIRegistrationLib.errors import Cancelled, InputError
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.progress import Progress, Report
from SOPIRegistrationLib.refine.levels import through_levels
from SOPIRegistrationLib.registration.loop import register
from SOPIRegistrationLib.registration.verdict import judge
from SOPIRegistrationLib.settings import GIVEN, RegistrationSettings
from SOPIRegistrationLib.subject import Subject
from SOPIRegistrationLib.tracking.foreign import without_foreign
from SOPIRegistrationLib.tracking.frames import Frame, Frames
from SOPIRegistrationLib.tracking.journal import Journal, Key
from SOPIRegistrationLib.tracking.others import without_others
from SOPIRegistrationLib.tracking.placing import share_in_field
from SOPIRegistrationLib.tracking.reaching import (
    ends_at_the_finest,
    reached,
    reached_from_around,
)
from SOPIRegistrationLib.tracking.track import ACCEPT, REJECT, FramePose, Track

# A pose so much further from where its neighbours lead than the body ever moved between two frames, and
# further than that, was not reached by moving.
_LEAP, _LEAST_LEAP_MM = 3.0, 15.0
# A pose that leaves the path of its neighbours by so many times what is usual, and by more than that.
_ASTRAY, _LEAST_ASTRAY_MM = 6.0, 2.0
# Images that agree less than in the frames nearby by more than this may be those of a minimum beside.
_WORSE_THAN_USUAL = 0.03
# Of a body's projection, what must lie in a view's field to be worth no word; less in all views is doubted.
_MOSTLY_IN_FIELD, _HALF = 0.9, 0.5
# So many frames are tried to begin at, where none was named.
_BEGINNINGS = 3


@dataclass(frozen=True)
class Body:
    """A body to be tracked.

    Attributes:
        name: in the tables.
        subject: its CT.
        frame: what its theta is measured from, in the first camera.
        starts: (4, 4) T_lps_to_world by frame; None for one that is to be found there. Empty for one that is
            to be found at the sequence's beginning.
        known: poses of an earlier track that stand as they are, by frame.
    """

    name: str
    subject: Subject
    frame: PoseFrame
    starts: dict[int, np.ndarray | None] = field(default_factory=dict)
    known: dict[int, FramePose] = field(default_factory=dict)

    def from_corrected(self, earlier: Track, number: int, T_lps_to_world: np.ndarray) -> Body:
        """The body to track on from a frame with a (4, 4) pose corrected by hand; poses before it stand."""
        stand = {pose.frame: pose for pose in earlier if pose.T is not None and pose.frame < number}
        return replace(self, starts={number: T_lps_to_world}, known=stand)

    def standing(self, earlier: Track) -> Body:
        """The body that is not tracked once more while others are: it is where an earlier track has it."""
        return replace(self, starts={}, known={pose.frame: pose for pose in earlier})

    @property
    def stands(self) -> bool:
        """Whether all of its poses are known."""
        return bool(self.known) and not self.starts


@dataclass(frozen=True)
class TrackingSettings:
    """How to track.

    Attributes:
        registration: of the first frame, and of those that are sought.
        search: whether lost bodies are sought as if nothing was known of them.
    """

    registration: RegistrationSettings = field(default_factory=RegistrationSettings)
    search: bool = True


def _judged(number: int, hypotheses: Hypotheses, source: str) -> FramePose:
    """The first of some hypotheses with its verdict."""
    verdict = judge(hypotheses)
    margin = hypotheses.comparison.margin(hypotheses.T[0])
    return _with_field(FramePose(number, hypotheses.T[0], verdict, margin, source), hypotheses.comparison)


def _radius_mm(body: Body) -> float:
    """The root mean square distance of a body's surface from its rotation centre."""
    away = body.subject.ct.surface_points_lps_mm - body.subject.ct.rotation_centre_lps_mm
    return float(np.sqrt((away**2).sum(axis=1).mean()))


def _with_field(pose: FramePose, comparison: Comparison) -> FramePose:
    """A pose that says in which views the body is only partly; doubted if it is so in all of them."""
    shares = {
        radiograph.camera.name or radiograph.name: share
        for radiograph in comparison.radiographs
        if (share := share_in_field(comparison.target, radiograph, pose.T)) < _MOSTLY_IN_FIELD
    }
    reasons = [f"only {share:.0%} of it lies in the field of {name}" for name, share in shares.items()]
    if not reasons:
        return pose
    if len(shares) == len(comparison.radiographs) and max(shares.values()) < _HALF:
        return pose.doubted("; ".join(reasons))
    verdict = replace(pose.verdict, reasons=[*pose.verdict.reasons, *reasons])
    return replace(pose, verdict=verdict)


def track(
    bodies: Sequence[Body],
    frames: Frames,
    settings: TrackingSettings | None = None,
    report: Report | None = None,
    journal: Journal | None = None,
) -> list[Track]:
    """Find the poses of bodies in every frame.

    Args:
        bodies: each is tracked on its own.
        frames: prepared views; they are read as the first body's start finds them to be.
        settings: how to track.
        report: told several times a second; raises ``Cancelled`` to stop. What is done stays in the journal.
        journal: of an earlier run on the same inputs, to go on from.

    Returns:
        A track for each body.

    Raises:
        InputError: no start agrees with its frame, a start for a frame that is not there, frames of another
            size, or what is done cannot be kept.
        Cancelled: stopped by the report.
    """
    return _Tracker(
        bodies, frames, settings or TrackingSettings(), report, Journal() if journal is None else journal
    ).run()


class _Tracker:
    def __init__(self, bodies, frames: Frames, settings: TrackingSettings, report, journal: Journal):
        for body in bodies:
            for number in body.starts:
                if not 1 <= number <= frames.count:
                    raise InputError(
                        f"the start of {body.name} is for frame {number}: there are 1 to {frames.count}"
                    )
        self._bodies, self._frames, self._settings = bodies, frames, settings
        self._report, self._journal = report, journal
        self._tracks = {
            body.name: Track(
                body.name, frames.count, body.subject.ct.rotation_centre_lps_mm, radius_mm=_radius_mm(body)
            )
            for body in bodies
        }
        self._content: dict[str, str] = {}
        self._done, self._total = 0, frames.count * sum(not body.stands for body in bodies)

    def run(self) -> list[Track]:
        for body in self._bodies:
            self._begin(body)
        # One after the other, each frame is read once for all bodies.
        self._sweep(1)
        self._sweep(-1)
        for body in self._bodies:
            if not body.stands:
                self._again(body)
        return list(self._tracks.values())

    def _begin(self, body: Body) -> None:
        """Register the frames whose pose is given, or the first ones until one is accepted."""
        track, tried = self._tracks[body.name], {}
        track.poses.update(body.known)
        if body.stands:
            return
        for number, start in (body.starts or dict.fromkeys(range(1, self._frames.count + 1))).items():
            entry = self._kept(
                ("start", body.name, number), lambda n=number, T=start: self._begun(body, n, T)
            )
            pose = FramePose.from_dict(entry)
            if "found" in entry:
                tried[number] = pose
            if pose.T is not None and body.name not in self._content:
                self._read_as(body, entry["found"])
            if not body.starts and (pose.status == ACCEPT or len(tried) == _BEGINNINGS):
                break
        if not body.starts:
            tried = dict(sorted(tried.items(), key=lambda item: item[1].rank())[:1])
        track.poses.update({number: pose for number, pose in tried.items() if pose.T is not None})
        if not any(pose.T is not None for pose in tried.values()):
            reasons = [reason for pose in tried.values() for reason in pose.verdict.reasons]
            where = "at its start" if body.starts else "in the first frames"
            raise InputError(
                f"{body.name} was not found {where} ({reasons[0] if reasons else 'no pictures'}): start "
                "it nearer to where it is (--start POSE@FRAME)"
            )

    def _read_as(self, body: Body, found: Mapping) -> None:
        """From a body's first pose on, X-rays are read as there, and it is compared by the same content."""
        if not self._content:
            self._frames.read_as(found["polarity"], found["mirrored"])
        # Metal has one content, and it is not among those that may be asked for.
        is_metal = body.subject.ct.is_metal
        self._content[body.name] = self._settings.registration.content if is_metal else found["content"]

    def _begun(self, body: Body, number: int, start: np.ndarray | None) -> dict:
        frame = self._frame(body, number)
        if not frame.radiographs:
            return FramePose.lost(number, frame.missing[0]).to_dict()
        settings = self._settings.registration
        if start is not None:
            settings = replace(settings, init=GIVEN)
        if self._content:
            settings = self._settled(settings)
        result = self._registered(body, frame, settings, start)
        pose = FramePose.lost(number, result.verdict.reasons[0])
        if result.verdict.status != REJECT:
            pose = FramePose(number, result.T_lps_to_world, result.verdict, source=f"start: {result.method}")
        polarity = result.radiographs[0].polarity
        found = {"content": result.content, "polarity": polarity, "mirrored": result.mirrored}
        return {**pose.to_dict(), "found": found}

    def _sweep(self, direction: int) -> None:
        """Every frame from the one before (1), or those before the first start from the one after (-1)."""
        for number in range(1, self._frames.count + 1)[::direction]:
            for body in self._bodies:
                track = self._tracks[body.name]
                if number in track.poses or track.anchor(number, -direction) is None:
                    continue
                entry = self._kept(
                    (f"sweep {direction:+d}", body.name, number),
                    lambda b=body, n=number: self._reached(b, n, direction).to_dict(),
                )
                track.poses[number] = FramePose.from_dict(entry)
                self._done += 1

    def _reached(self, body: Body, number: int, direction: int) -> FramePose:
        """A frame's pose from the motion so far; sought where that leads nowhere."""
        track = self._tracks[body.name]
        self._frames.prepare(number + direction, body.subject.ct.is_metal)
        frame = self._frame(body, number)
        if not frame.radiographs:
            return FramePose.lost(number, f"nothing to compare: {frame.missing[0]}")
        last, predicted = track.anchor(number, -direction), track.predicted(number, direction)
        found = self._refined(body, frame, [predicted, last.T], "motion")
        gap = abs(number - last.frame)
        # What is gone is gone for longer: it is sought at ever greater intervals.
        if found.status == REJECT and gap & (gap - 1) == 0:
            found = min([found, *self._sought(body, frame, predicted)], key=FramePose.rank)
        return self._believed(found, track, predicted, gap, frame)

    def _again(self, body: Body) -> None:
        """Frames that are not accepted once more, from both neighbours: backwards, then forwards."""
        track, tried = self._tracks[body.name], {}
        self._doubt_strays(track)
        for stage, direction in (("again -1", -1), ("again +1", 1)):
            for number in range(1, self._frames.count + 1)[::direction]:
                pose = track.poses.get(number)
                if number in body.known or (pose is not None and pose.is_settled):
                    continue
                guesses = self._from_neighbours(track, number)
                # What led nowhere leads nowhere again.
                if not len(guesses) or np.array_equal(guesses, tried.get(number, ())):
                    continue
                tried[number] = guesses
                entry = self._kept(
                    (stage, body.name, number),
                    lambda n=number, p=pose, T=guesses: self._retried(body, n, p, T).to_dict(),
                )
                track.poses[number] = FramePose.from_dict(entry)
        self._doubt_strays(track)

    @staticmethod
    def _from_neighbours(track: Track, number: int) -> np.ndarray:
        """(n, 4, 4) where a frame's neighbours lead to: between them, and they themselves."""
        neighbours = [track.anchor(number, -1), track.anchor(number, 1)]
        guesses = [track.between(number), *(pose.T for pose in neighbours if pose is not None)]
        return np.array([T for T in guesses if T is not None])

    def _retried(self, body: Body, number: int, known: FramePose | None, guesses: np.ndarray) -> FramePose:
        track = self._tracks[body.name]
        known = known or FramePose.lost(number, "not reached")
        frame = self._frame(body, number)
        if not frame.radiographs:
            return known
        neighbours = (track.anchor(number, -1), track.anchor(number, 1))
        gap = min(abs(number - pose.frame) for pose in neighbours if pose is not None)
        found = self._refined(body, frame, list(guesses), "neighbours")
        found = self._believed(found, track, guesses[0], gap, frame)
        return min([known, found], key=FramePose.rank)

    def _refined(self, body: Body, frame: Frame, guesses: list[np.ndarray], source: str) -> FramePose:
        """The pose by few levels; from around it, without what lies in front, by all fine ones if need be."""
        frame = self._clear_of_others(body, frame)
        case = self._case(body, frame, guesses[0])
        target, run = case.targets[0], Run(case, self._told(frame.number))
        comparison = Comparison(case, case.reading, target)
        hypotheses = reached(comparison, guesses, run)
        best = _judged(frame.number, hypotheses, source)
        if best.margin < self._tracks[body.name].usual_margin(frame.number) - _WORSE_THAN_USUAL:
            around = reached_from_around(comparison, best.T, guesses[0], run)
            best = min(best, _judged(frame.number, around, f"{source}, from around"), key=FramePose.rank)
        if best.margin < 0:
            best = min([best, *self._cleared(body, frame, guesses, best.T, source)], key=FramePose.rank)
        if best.status == ACCEPT or ends_at_the_finest(target.kind):
            return best
        finer = _judged(frame.number, through_levels(hypotheses, target.kind.fine, run), source)
        return min(best, finer, key=FramePose.rank)

    def _clear_of_others(self, body: Body, frame: Frame) -> Frame:
        """A frame without what other bodies cover that are known to be where they are in it."""
        known = [
            (other.subject, pose.T)
            for other in self._bodies
            if other is not body
            and (pose := self._tracks[other.name].poses.get(frame.number)) is not None
            and pose.is_anchor
        ]
        return replace(frame, radiographs=tuple(without_others(one, known) for one in frame.radiographs))

    def _cleared(self, body: Body, frame: Frame, guesses, T_found, source: str) -> list[FramePose]:
        """Poses without what lies in front of the body, as seen from a guess and from the pose found."""
        poses, shares = [], []
        for T in (guesses[0], T_found):
            target = self._case(body, frame, T).targets[0]
            cleared = [without_foreign(one, target, T) for one in frame.radiographs]
            shares = [share for _, share in cleared]
            if not any(shares):
                continue
            seen = replace(frame, radiographs=tuple(radiograph for radiograph, _ in cleared))
            case = self._case(body, seen, guesses[0])
            run = Run(case, self._told(frame.number))
            hypotheses = reached(Comparison(case, case.reading, target), [T, *guesses], run)
            hypotheses = through_levels(hypotheses, target.kind.fine, run)
            pose = _judged(frame.number, hypotheses, source)
            reason = f"{100 * max(shares):.0f} % of the picture left out: something lies in front"
            verdict = replace(pose.verdict, reasons=[*pose.verdict.reasons, reason])
            poses.append(replace(pose, verdict=verdict))
            if pose.status == ACCEPT:
                break
        return poses

    def _sought(self, body: Body, frame: Frame, T_expected: np.ndarray) -> list[FramePose]:
        """Poses from wide around the expected one, and from anywhere if that fails."""
        found: list[FramePose] = []
        settings = replace(self._settled(self._settings.registration), content=self._content[body.name])
        searches = [(replace(settings, init=GIVEN), T_expected)]
        if self._settings.search:
            searches.append((replace(settings, init="auto"), None))
        for chosen, start in searches:
            try:
                result = self._registered(body, frame, chosen, start)
            except InputError:
                # The body lies outside the picture where it is expected.
                continue
            case = self._case(body, frame, T_expected)
            margin = Comparison(case, case.reading, case.targets[0]).margin(result.T_lps_to_world)
            pose = FramePose(frame.number, result.T_lps_to_world, result.verdict, margin, result.method)
            found.append(pose)
            if pose.status != REJECT:
                break
        return found

    def _believed(self, pose: FramePose, track: Track, T_expected, gap: int, frame: Frame) -> FramePose:
        """A pose as the motion allows it: lost where rejected, doubted where it was not reached by moving."""
        if pose.status == REJECT:
            return FramePose.lost(pose.frame, pose.verdict.reasons[0])
        if frame.missing:
            verdict = replace(pose.verdict, reasons=[*pose.verdict.reasons, *frame.missing])
            pose = replace(pose, verdict=verdict)
        apart = track.distance_mm(pose.T, T_expected)
        if apart > gap * max(_LEAST_LEAP_MM, _LEAP * self._longest_step(track)):
            return pose.doubted(f"{apart:.0f} mm from where the motion so far leads to", is_anchor=False)
        return pose

    @staticmethod
    def _longest_step(track: Track) -> float:
        """The furthest that a body moved between two frames, mm; 0 where none are known."""
        poses = track.poses
        pairs = ((poses[n], poses[n + 1]) for n in poses if n + 1 in poses)
        return max(
            (track.distance_mm(a.T, b.T) for a, b in pairs if a.is_anchor and b.is_anchor),
            default=0.0,
        )

    @staticmethod
    def _doubt_strays(track: Track) -> None:
        """Doubt poses that leave their neighbours' path, the worst first: they may be wrong all the same."""
        while True:
            known = [pose for pose in track.poses.values() if pose.is_anchor]
            away = {
                pose.frame: track.distance_mm(pose.T, between)
                for pose in known
                if (between := track.between(pose.frame)) is not None
            }
            if not away:
                return
            worst = max(away, key=away.get)
            # Beside a stray the path is bent, too.
            usual = [mm for number, mm in away.items() if abs(number - worst) > 1] or [0.0]
            if away[worst] <= max(_ASTRAY * float(np.median(usual)), _LEAST_ASTRAY_MM):
                return
            reason = f"{away[worst]:.1f} mm off the path of the frames beside it"
            track.poses[worst] = track.poses[worst].doubted(reason, is_anchor=False)

    def _frame(self, body: Body, number: int) -> Frame:
        return self._frames.frame(number, body.subject.ct.is_metal)

    def _case(self, body: Body, frame: Frame, T_expected: np.ndarray) -> Case:
        return Case(
            body.subject, Reading(frame.radiographs), body.frame, self._content[body.name], T_expected
        )

    def _settled(self, settings: RegistrationSettings) -> RegistrationSettings:
        """The settings with what is known of the X-rays by now: they are turned over already."""
        return replace(settings, mirrored="no", polarity=self._frames.polarity)

    def _registered(self, body: Body, frame: Frame, settings: RegistrationSettings, start):
        report = self._told(frame.number)
        result = register(body.subject, frame.radiographs, body.frame, settings, start, report)
        if result.stopped:
            raise Cancelled("stopped")
        return result

    def _kept(self, key: Key, make: Callable[[], dict]) -> dict:
        """An entry of the journal, made if it is not there."""
        entry = self._journal.get(key)
        if entry is None:
            entry = make()
            self._journal.add(key, entry)
        return entry

    def _told(self, number: int) -> Report | None:
        if self._report is None:
            return None
        fraction = min(1.0, self._done / self._total)
        return lambda state: self._report(Progress(f"frame {number}", fraction, state.T, state.similarity))
