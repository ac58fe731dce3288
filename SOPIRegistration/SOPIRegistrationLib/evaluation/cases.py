"""What one case of an evaluation is, whatever it comes from.

A source of cases is :class:`~SOPIRegistrationLib.evaluation.simulated.SimulatedCases` or
:class:`~SOPIRegistrationLib.evaluation.listed.ListedCases`. Case N of a source is the same whenever and in
whatever process it is made.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from SOPIRegistrationLib.evaluation.problem import SeveralBodies
from SOPIRegistrationLib.evaluation.protocols import DrawnPoses
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.prepared_ct import PreparedCT
from SOPIRegistrationLib.images.radiograph import PreparedRadiograph
from SOPIRegistrationLib.subject import Subject


@dataclass(frozen=True)
class TruthDeviation:
    """How exact a true pose that was measured is, standard deviations.

    Attributes:
        turn_deg: of a turn about any axis across the bone's long one.
        long_axis_deg: of a turn about that.
        shift_mm: of the rotation centre along any axis.
    """

    turn_deg: float
    long_axis_deg: float
    shift_mm: float

    def about_axes(self, long_axis: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(3,) deg about and (3,) mm along the axes in which a unit vector (3,) is the bone's long one."""
        share = np.asarray(long_axis) ** 2
        turn = np.sqrt(self.turn_deg**2 * (1 - share) + self.long_axis_deg**2 * share)
        return turn, np.full(3, self.shift_mm)


@dataclass(frozen=True)
class EvaluationCase:
    """One case, ready to be registered.

    Attributes:
        number: in its source, from 0.
        name: for people.
        subject: the CT.
        radiographs: prepared X-rays of one world, one or several, as they are stored.
        frame: nominal view, source-object distance and rotation centre, in the first camera.
        T_start: (4, 4) T_lps_to_world of the start, mm.
        T_true: (4, 4) T_lps_to_world, of a mirrored picture turned over; None where it is not known, and of a
            stranger's X-ray, to which no pose is right.
        drawn: how the X-ray was taken and stored, where it was drawn.
        is_stranger: whether the X-ray is of another patient than the CT.
        true_cameras: that took the X-rays; those of the radiographs unless given.
        body: name of the one of ``several`` that the case is about.
        several: bodies that are in the X-rays; None where there is one only.
        truth_deviation: how exact the true pose is; None for exact.
    """

    number: int
    name: str
    subject: Subject
    radiographs: tuple[PreparedRadiograph, ...]
    frame: PoseFrame
    T_start: np.ndarray
    T_true: np.ndarray | None
    drawn: DrawnPoses | None = None
    is_stranger: bool = False
    true_cameras: tuple[Camera, ...] = ()
    body: str = ""
    several: SeveralBodies | None = None
    truth_deviation: TruthDeviation | None = None

    def __post_init__(self):
        if not self.true_cameras:
            object.__setattr__(self, "true_cameras", tuple(one.camera for one in self.radiographs))

    def turned_over(self) -> EvaluationCase:
        """The case with its X-rays turned over, left for right."""
        radiographs = tuple(one.mirrored() for one in self.radiographs)
        return replace(
            self, radiographs=radiographs, true_cameras=tuple(one.mirrored() for one in self.true_cameras)
        )

    def in_cameras(self, cameras: Iterable[Camera]) -> EvaluationCase:
        """The case with its X-rays taken to be of other cameras; those that took them stay."""
        found = zip(self.radiographs, cameras, strict=True)
        return replace(self, radiographs=tuple(one.in_camera(camera) for one, camera in found))

    @property
    def ct(self) -> PreparedCT:
        """The prepared CT."""
        return self.subject.ct

    @property
    def T_world_to_camera(self) -> np.ndarray:
        """(4, 4) extrinsics of the first camera."""
        return self.radiographs[0].camera.T_world_to_camera


class CaseSource(Protocol):
    """Makes cases by number; hashable, and small enough to be sent to other processes."""

    def check(self) -> None:
        """Raise InputError where the cases cannot be made, as far as a look tells."""

    def settings(self) -> dict:
        """What the cases depend on, for the fingerprint of an evaluation."""

    def patient_of(self, number: int) -> int:
        """The patient of a case: cases of one patient are best made one after the other."""

    def make(self, number: int) -> EvaluationCase:
        """Case of that number; InputError where one of its files is unusable."""


def digest(path: Path) -> str:
    """16 hexadecimal digits of the content of a file, or of all files of a folder."""
    whole = hashlib.sha256()
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if file.is_file():
            with file.open("rb") as stream:
                for block in iter(lambda: stream.read(1 << 20), b""):
                    whole.update(block)
    return whole.hexdigest()[:16]
