"""One registration as its parts see it: what is given, what is compared with what, and where it may stand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from SOPIRegistrationLib.compare.objective import (
    LevelObjective,
    around_object,
    at_level,
    comparable_pixels,
)
from SOPIRegistrationLib.compare.target import Level, Target, targets_of
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.radiograph import PreparedRadiograph
from SOPIRegistrationLib.projector import project
from SOPIRegistrationLib.similarity import gradient_correlation, ncc
from SOPIRegistrationLib.subject import Subject

# How far a pose may end from where it was expected: turned by so much, its depth changed by such a factor.
# Well beyond the range that is searched; further away little of the body shows, or all of it tiny, and so
# little can look like anything.
_LARGEST_TURN = np.deg2rad(85.0)
_DEPTH_FACTORS = (0.5, 1.7)
_MEASURE_PIXELS = 256

# Prepared X-rays of one world, as one hypothesis reads them: as detected, or with bright and dark exchanged.
Reading = tuple[PreparedRadiograph, ...]


@dataclass(frozen=True)
class Case:
    """What is to be registered.

    Attributes:
        subject: the CT.
        radiographs: prepared views of one world, as they were detected to be.
        frame: nominal view, source-object distance and rotation centre, in the first camera.
        content: what DRRs are made of: "body", "bone", or "auto" for whichever agrees.
        T_expected: (4, 4) T_lps_to_world about where the pose lies; the nominal one if None.
    """

    subject: Subject
    radiographs: Reading
    frame: PoseFrame
    content: str = "auto"
    T_expected: np.ndarray | None = None

    def __post_init__(self):
        if self.T_expected is None:
            T_nominal = np.linalg.inv(self.T_world_to_camera) @ self.frame.T_nominal
            object.__setattr__(self, "T_expected", T_nominal)

    @property
    def centre_lps_mm(self) -> np.ndarray:
        """(3,) rotation centre."""
        return self.frame.centre_lps_mm

    @property
    def T_world_to_camera(self) -> np.ndarray:
        """(4, 4) extrinsics of the first camera."""
        return self.radiographs[0].camera.T_world_to_camera

    @property
    def targets(self) -> tuple[Target, ...]:
        """What of the CT is compared, in the order in which it is tried."""
        return targets_of(self.subject, self.content)

    @property
    def readings(self) -> tuple[Reading, ...]:
        """The X-rays as detected; with bright and dark exchanged, where that was only detected."""
        if not any(radiograph.other_polarity for radiograph in self.radiographs):
            return (self.radiographs,)
        others = tuple(x.other_polarity() if x.other_polarity else x for x in self.radiographs)
        return self.radiographs, others

    def is_plausible(self, T_lps_to_world: np.ndarray) -> np.ndarray:
        """(n,) whether poses (n, 4, 4) lie as near the expected one as the pose sought can be."""
        T = self.T_world_to_camera @ np.concatenate([self.T_expected[None], T_lps_to_world])
        angle = se3.rotation_distance(np.repeat(T[:1, :3, :3], len(T) - 1, axis=0), T[1:, :3, :3])
        depth = (T @ np.append(self.centre_lps_mm, 1.0))[:, 2]
        nearest, furthest = depth[0] * np.array(_DEPTH_FACTORS)
        return (angle < _LARGEST_TURN) & (depth[1:] > nearest) & (depth[1:] < furthest)


@dataclass(frozen=True)
class Comparison:
    """A target compared with one reading of the X-rays.

    Attributes:
        case: the registration.
        radiographs: the X-rays as they are read.
        target: what is projected.
    """

    case: Case
    radiographs: Reading
    target: Target

    def objective(self, level: Level, T_start: np.ndarray) -> LevelObjective:
        """What least squares minimises at a level from poses (S, 4, 4)."""
        return LevelObjective(self.radiographs, self.target, level, T_start, self.case.centre_lps_mm)

    def cost(self, level: Level, T_lps_to_world: np.ndarray) -> np.ndarray:
        """(n,) 2 (1 - correlation) at a level, of poses (n, 4, 4)."""
        return self.objective(level, T_lps_to_world)(T_lps_to_world, np.arange(len(T_lps_to_world))).cost

    def structural_correlation(self, T_lps_to_world: np.ndarray) -> np.ndarray:
        """(n,) correlation of the locally normalised images at poses (n, 4, 4), mean over the views."""
        return 1 - self.cost(self.target.kind.check, T_lps_to_world) / 2

    def margin(self, T_lps_to_world: np.ndarray) -> float:
        """By how much a pose (4, 4) agrees better than an acceptable one; -1 if implausible."""
        if not self.case.is_plausible(T_lps_to_world[None])[0]:
            return -1.0
        correlation = self.structural_correlation(T_lps_to_world[None])[0]
        return float(correlation) - self.target.kind.thresholds.accept

    def image_similarity(self, T_lps_to_world: np.ndarray) -> dict[str, float]:
        """NCC and gradient correlation over the comparable pixels at a pose, mean over the views."""
        ncc_values, gradient_values, moving = [], [], self.target.moving
        T = T_lps_to_world[None]
        for radiograph in self.radiographs:
            view = at_level(around_object(radiograph, self.target, T), _MEASURE_PIXELS)
            drr = project(moving.for_camera(view.camera, T[0]), view.camera, T)
            valid = comparable_pixels(view, moving, T)[0]
            ncc_values.append(float(ncc(drr, view.image, valid)[0]))
            gradient_values.append(float(gradient_correlation(drr, view.image, valid)[0]))
        return {"ncc": float(np.mean(ncc_values)), "gradient_correlation": float(np.mean(gradient_values))}


@dataclass(frozen=True)
class Hypotheses:
    """Poses that may be right, best first, of one target in one reading of the X-rays.

    Attributes:
        comparison: target and reading.
        T: (n, 4, 4) T_lps_to_world.
        cost: (n,) 2 (1 - correlation) of the level they come from; infinite where not evaluated.
        T_initial: (4, 4) the pose that stands for where they come from.
    """

    comparison: Comparison
    T: np.ndarray
    cost: np.ndarray
    T_initial: np.ndarray

    @classmethod
    def unscored(
        cls, comparison: Comparison, T: np.ndarray, T_initial: np.ndarray | None = None
    ) -> Hypotheses:
        """Hypotheses of which nothing is known yet; they come from the first of them unless given."""
        return cls(comparison, T, np.full(len(T), np.inf), T[0] if T_initial is None else T_initial)
