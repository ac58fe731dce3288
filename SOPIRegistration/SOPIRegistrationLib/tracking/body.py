"""What is tracked."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.subject import Subject
from SOPIRegistrationLib.tracking.track import FramePose, Track


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
    def radius_mm(self) -> float:
        """Root mean square distance of its surface from its rotation centre."""
        away = self.subject.ct.surface_points_lps_mm - self.subject.ct.rotation_centre_lps_mm
        return float(np.sqrt((away**2).sum(axis=1).mean()))

    @property
    def stands(self) -> bool:
        """Whether all of its poses are known."""
        return bool(self.known) and not self.starts
