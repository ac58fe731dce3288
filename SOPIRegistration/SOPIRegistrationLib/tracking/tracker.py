"""Tracking: every frame from its neighbour's pose, lost ones sought, poor ones tried from both sides."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.progress import Progress, Report
from SOPIRegistrationLib.tracking.body import Body
from SOPIRegistrationLib.tracking.finding import Finder, TrackingSettings
from SOPIRegistrationLib.tracking.frames import Frame, Frames
from SOPIRegistrationLib.tracking.journal import Journal, Key
from SOPIRegistrationLib.tracking.track import ACCEPT, REJECT, FramePose, Track

# A pose so much further from where its neighbours lead than the body ever moved between two frames, and
# further than that, was not reached by moving.
_LEAP, _LEAST_LEAP_MM = 3.0, 15.0
# A pose that leaves the path of its neighbours by so many times what is usual, and by more than that.
_ASTRAY, _LEAST_ASTRAY_MM = 6.0, 2.0
# So many frames are tried to begin at, where none was named.
_BEGINNINGS = 3


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
    """In what order frames are looked at, what is kept of each, and which poses the motion allows."""

    def __init__(self, bodies, frames: Frames, settings: TrackingSettings, report, journal: Journal):
        for body in bodies:
            for number in body.starts:
                if not 1 <= number <= frames.count:
                    raise InputError(
                        f"the start of {body.name} is for frame {number}: there are 1 to {frames.count}"
                    )
        self._bodies, self._count = bodies, frames.count
        self._report, self._journal = report, journal
        self._tracks = {
            body.name: Track(
                body.name, frames.count, body.subject.ct.rotation_centre_lps_mm, radius_mm=body.radius_mm
            )
            for body in bodies
        }
        self._finder = Finder(bodies, frames, settings, self._tracks, self._told)
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
        for number, start in (body.starts or dict.fromkeys(range(1, self._count + 1))).items():
            entry = self._kept(
                ("start", body.name, number), lambda n=number, T=start: self._finder.begun(body, n, T)
            )
            pose = FramePose.from_dict(entry)
            if "found" in entry:
                tried[number] = pose
            if pose.T is not None and not self._finder.knows(body):
                self._finder.read_as(body, entry["found"])
            if not body.starts and (pose.status == ACCEPT or len(tried) == _BEGINNINGS):
                break
        if not body.starts:
            tried = dict(sorted(tried.items(), key=lambda item: item[1].rank())[:1])
        found = {number: pose for number, pose in tried.items() if pose.T is not None}
        if not found:
            raise _not_found(body, tried.values())
        track.poses.update(found)

    def _sweep(self, direction: int) -> None:
        """Every frame from the one before (1), or those before the first start from the one after (-1)."""
        for number in range(1, self._count + 1)[::direction]:
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
        self._finder.prepare(body, number + direction)
        frame = self._finder.frame(body, number)
        if not frame.radiographs:
            return FramePose.lost(number, f"nothing to compare: {frame.missing[0]}")
        last, predicted = track.anchor(number, -direction), track.predicted(number, direction)
        found = self._finder.refined(body, frame, [predicted, last.T], "motion")
        gap = abs(number - last.frame)
        # What is gone is gone for longer: it is sought at ever greater intervals.
        if found.status == REJECT and gap & (gap - 1) == 0:
            found = min([found, *self._finder.sought(body, frame, predicted)], key=FramePose.rank)
        return self._believed(found, track, predicted, gap, frame)

    def _again(self, body: Body) -> None:
        """Frames that are not accepted once more, from both neighbours: backwards, then forwards."""
        track, tried = self._tracks[body.name], {}
        self._doubt_strays(track)
        for stage, direction in (("again -1", -1), ("again +1", 1)):
            for number in range(1, self._count + 1)[::direction]:
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
        frame = self._finder.frame(body, number)
        if not frame.radiographs:
            return known
        neighbours = (track.anchor(number, -1), track.anchor(number, 1))
        gap = min(abs(number - pose.frame) for pose in neighbours if pose is not None)
        found = self._finder.refined(body, frame, list(guesses), "neighbours")
        found = self._believed(found, track, guesses[0], gap, frame)
        return min([known, found], key=FramePose.rank)

    def _believed(self, pose: FramePose, track: Track, T_expected, gap: int, frame: Frame) -> FramePose:
        """A pose as the motion allows it: lost where rejected, doubted where it was not reached by moving."""
        if pose.status == REJECT:
            return FramePose.lost(pose.frame, pose.verdict.reasons[0])
        pose = pose.seen_in(frame)
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


def _not_found(body: Body, tried: Iterable[FramePose]) -> InputError:
    reasons = [reason for pose in tried for reason in pose.verdict.reasons]
    where = "at its start" if body.starts else "in the first frames"
    return InputError(
        f"{body.name} was not found {where} ({reasons[0] if reasons else 'no pictures'}): start "
        "it nearer to where it is (--start POSE@FRAME)"
    )
