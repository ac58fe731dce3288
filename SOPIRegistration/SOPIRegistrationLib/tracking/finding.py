"""A body in one frame: registered there, refined from guesses, cleared of what covers it, or sought."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from SOPIRegistrationLib.compare import Case, Comparison, Hypotheses, Reading, Run
from SOPIRegistrationLib.errors import Cancelled, InputError
from SOPIRegistrationLib.progress import Report
from SOPIRegistrationLib.refine.levels import through_levels
from SOPIRegistrationLib.registration.loop import register
from SOPIRegistrationLib.registration.verdict import judge
from SOPIRegistrationLib.settings import GIVEN, RegistrationSettings
from SOPIRegistrationLib.tracking.body import Body
from SOPIRegistrationLib.tracking.foreign import without_foreign
from SOPIRegistrationLib.tracking.frames import Frame, Frames
from SOPIRegistrationLib.tracking.others import without_others
from SOPIRegistrationLib.tracking.placing import share_in_field
from SOPIRegistrationLib.tracking.reaching import ends_at_the_finest, reached, reached_from_around
from SOPIRegistrationLib.tracking.track import ACCEPT, REJECT, FramePose, Track

# Images that agree less than in the frames nearby by more than this may be those of a minimum beside.
_WORSE_THAN_USUAL = 0.03
# Of a body's projection, what must lie in a view's field to be worth no word; less in all views is doubted.
_MOSTLY_IN_FIELD, _HALF = 0.9, 0.5


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


def _with_field(pose: FramePose, comparison: Comparison) -> FramePose:
    """A pose that says in which views the body is only partly; doubted if it is so in all of them."""
    shares = {
        radiograph.camera.name or radiograph.name: share
        for radiograph in comparison.radiographs
        if (share := share_in_field(comparison.target, radiograph, pose.T)) < _MOSTLY_IN_FIELD
    }
    reasons = [f"only {share:.0%} of it lies in the field of {name}" for name, share in shares.items()]
    if reasons and len(shares) == len(comparison.radiographs) and max(shares.values()) < _HALF:
        return pose.doubted("; ".join(reasons))
    return pose.told(*reasons)


class Finder:
    """Finds bodies in frames; the first pose of a body settles how its X-rays are read and compared.

    Args:
        bodies: all that are tracked: each may cover the others.
        frames: prepared views.
        settings: how to track.
        tracks: of the bodies, by name, with the poses known so far.
        told: the report of a registration in a frame, or None.
    """

    def __init__(
        self,
        bodies: Sequence[Body],
        frames: Frames,
        settings: TrackingSettings,
        tracks: Mapping[str, Track],
        told: Callable[[int], Report | None],
    ):
        self._bodies, self._frames, self._settings = bodies, frames, settings
        self._tracks, self._told = tracks, told
        self._content: dict[str, str] = {}

    def knows(self, body: Body) -> bool:
        """Whether it is settled how the body's X-rays are read and compared."""
        return body.name in self._content

    def read_as(self, body: Body, found: Mapping) -> None:
        """From a body's first pose on, X-rays are read as there, and it is compared by the same content."""
        if not self._content:
            self._frames.read_as(found["polarity"], found["mirrored"])
        # Metal has one content, and it is not among those that may be asked for.
        is_metal = body.subject.ct.is_metal
        self._content[body.name] = self._settings.registration.content if is_metal else found["content"]

    def frame(self, body: Body, number: int) -> Frame:
        """A frame as it is prepared for the body."""
        return self._frames.frame(number, body.subject.ct.is_metal)

    def prepare(self, body: Body, number: int) -> None:
        """Have a frame made ready beside other work."""
        self._frames.prepare(number, body.subject.ct.is_metal)

    def begun(self, body: Body, number: int, start: np.ndarray | None) -> dict:
        """A frame's pose by a whole registration, and what the X-rays were found to be ("found")."""
        frame = self.frame(body, number)
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
            pose = pose.seen_in(frame)
        polarity = result.radiographs[0].polarity
        found = {"content": result.content, "polarity": polarity, "mirrored": result.mirrored}
        return {**pose.to_dict(), "found": found}

    def refined(self, body: Body, frame: Frame, guesses: list[np.ndarray], source: str) -> FramePose:
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
            poses.append(pose.told(reason))
            if pose.status == ACCEPT:
                break
        return poses

    def sought(self, body: Body, frame: Frame, T_expected: np.ndarray) -> list[FramePose]:
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
