"""A body's poses over the frames of a sequence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.registration.result import Verdict
from SOPIRegistrationLib.tracking.frames import Frame

ACCEPT, REVIEW, REJECT, LOST = "accept", "review", "reject", "lost"
# From the most to the least trusted.
STATUSES = (ACCEPT, REVIEW, REJECT, LOST)
# So many frames tell what is usual.
_USUAL_OF = 5


@dataclass(frozen=True)
class FramePose:
    """What became of a body in a frame.

    Attributes:
        frame: number, from 1.
        T: (4, 4) T_lps_to_world, mm; None where it is lost.
        verdict: trust; its status is "lost" where there is no pose.
        margin: by how much the images agree better than an acceptable pose's would; -inf where lost
            or not known.
        source: how it was found.
        is_anchor: whether others may start from it.
    """

    frame: int
    T: np.ndarray | None
    verdict: Verdict
    margin: float = -np.inf
    source: str = ""
    is_anchor: bool = True

    @classmethod
    def lost(cls, frame: int, reason: str) -> FramePose:
        """No pose, and why."""
        return cls(frame, None, Verdict(LOST, [reason], None, None), is_anchor=False)

    @property
    def status(self) -> str:
        """ "accept", "review" or "lost"."""
        return self.verdict.status

    @property
    def is_settled(self) -> bool:
        """Whether other starts would lead to the same pose: accepted, or doubted though the images agree."""
        return self.status == ACCEPT or (self.is_anchor and self.margin >= 0)

    def told(self, *reasons: str) -> FramePose:
        """The same with more to be said of it."""
        return replace(self, verdict=replace(self.verdict, reasons=[*self.verdict.reasons, *reasons]))

    def doubted(self, reason: str, is_anchor: bool = True) -> FramePose:
        """The same, to be looked at by a person for this reason, too."""
        told = self.told(reason)
        status = max(self.status, REVIEW, key=STATUSES.index)
        return replace(told, verdict=replace(told.verdict, status=status), is_anchor=is_anchor)

    def seen_in(self, frame: Frame) -> FramePose:
        """The same, saying which of the frame's views are missing; doubted where they leave it to one."""
        if frame.is_left_to_one_view:
            return self.doubted(f"one view alone decides: {'; '.join(frame.missing)}")
        return self.told(*frame.missing)

    def rank(self) -> tuple[int, float]:
        """Smaller for what is to be trusted more."""
        return STATUSES.index(self.status), -self.margin

    def to_dict(self) -> dict:
        """All of it in JSON's types; numbers come back as they were."""
        verdict = self.verdict
        return {
            "frame": self.frame,
            "T_lps_to_world": None if self.T is None else self.T.tolist(),
            "status": verdict.status,
            "reasons": verdict.reasons,
            "predicted_error_mm": _listed(verdict.predicted_error_mm),
            "predicted_error_deg": _listed(verdict.predicted_error_deg),
            "statistical_error_mm": _listed(verdict.statistical_error_mm),
            "statistical_error_deg": _listed(verdict.statistical_error_deg),
            "probability": verdict.probability,
            "share": verdict.share,
            "margin": None if np.isinf(self.margin) else self.margin,
            "source": self.source,
            "is_anchor": self.is_anchor,
        }

    @classmethod
    def from_dict(cls, entry: Mapping) -> FramePose:
        """Inverse of :meth:`to_dict`."""
        # Scenes saved by earlier versions have no statistical errors.
        errors = {
            name: _array(entry.get(name))
            for name in (
                f"{of}_error_{unit}" for of in ("predicted", "statistical") for unit in ("mm", "deg")
            )
        }
        margin = -np.inf if entry["margin"] is None else entry["margin"]
        verdict = Verdict(
            entry["status"],
            list(entry["reasons"]),
            share=entry["share"],
            probability=entry["probability"],
            **errors,
        )
        T = _array(entry["T_lps_to_world"])
        return cls(entry["frame"], T, verdict, margin, entry["source"], entry["is_anchor"])


def _listed(values: np.ndarray | None) -> list | None:
    return None if values is None else np.asarray(values).tolist()


def _array(values) -> np.ndarray | None:
    return None if values is None else np.array(values, dtype=np.float64)


@dataclass
class Track:
    """A body's poses; of each frame the one trusted most.

    Attributes:
        body: its name.
        count: frames of the sequence.
        centre_lps_mm: (3,) point of the body that stands for its place.
        poses: by frame.
        radius_mm: of the body about that point: turns angles into distances.
    """

    body: str
    count: int
    centre_lps_mm: np.ndarray
    poses: dict[int, FramePose] = field(default_factory=dict)
    radius_mm: float = 60.0

    def distance_mm(self, T_a: np.ndarray, T_b: np.ndarray) -> float:
        """By how much two poses (4, 4) differ at the body's surface, mm: its shift and its turn there."""
        angle = float(se3.rotation_distance(T_a[:3, :3], T_b[:3, :3]))
        shift = se3.transform_points(T_a, self.centre_lps_mm) - se3.transform_points(T_b, self.centre_lps_mm)
        return float(np.linalg.norm(shift)) + self.radius_mm * angle

    def __iter__(self) -> Iterator[FramePose]:
        """Frames in order, those not reached as lost."""
        for frame in range(1, self.count + 1):
            yield self.poses.get(frame) or FramePose.lost(frame, "not reached")

    def anchor(self, frame: int, direction: int) -> FramePose | None:
        """The nearest pose to start from before (-1) or after (1) a frame, not at it, or None."""
        reachable = range(frame + direction, self.count + 1 if direction > 0 else 0, direction)
        known = (self.poses[number] for number in reachable if number in self.poses)
        return next((pose for pose in known if pose.is_anchor), None)

    def usual_margin(self, frame: int) -> float:
        """The median margin of the poses nearest to a frame; -inf where there are too few to tell."""
        known = [
            pose
            for pose in self.poses.values()
            if pose.is_anchor and pose.frame != frame and np.isfinite(pose.margin)
        ]
        known = sorted(known, key=lambda pose: (abs(pose.frame - frame), pose.frame))[:_USUAL_OF]
        return float(np.median([pose.margin for pose in known])) if len(known) == _USUAL_OF else -np.inf

    def predicted(self, frame: int, direction: int) -> np.ndarray | None:
        """(4, 4) where the motion so far leads to in a frame, coming from before (1) or after it (-1).

        With one pose to start from only, that one; None without any. The motion of the last two is taken to
        go on, for at most as many frames as lie between them: what it is after that nobody knows.
        """
        last = self.anchor(frame, -direction)
        if last is None:
            return None
        before = self.anchor(last.frame, -direction)
        if before is None:
            return last.T
        steps = abs(frame - last.frame) / abs(last.frame - before.frame)
        return self.moved(before.T, last.T, 1 + min(steps, 1.0))

    def between(self, frame: int) -> np.ndarray | None:
        """(4, 4) where the neighbours on both sides lead to; None unless there are both."""
        before, after = self.anchor(frame, -1), self.anchor(frame, 1)
        if before is None or after is None:
            return None
        return self.moved(before.T, after.T, (frame - before.frame) / (after.frame - before.frame))

    def moved(self, T_from: np.ndarray, T_to: np.ndarray, share: float) -> np.ndarray:
        """(4, 4) a share of the way: along a screw; beyond it if above 1."""
        twist = share * se3.twist_about(T_from, T_to, self.centre_lps_mm)
        return se3.move_about(T_from[None], twist[None], self.centre_lps_mm)[0]
