"""One registration as its parts see it: what is given, what is compared with what, and where it may stand."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from SOPIRegistrationLib.compare.objective import (
    LevelObjective,
    at_level,
    comparable_pixels,
    compared_view,
)
from SOPIRegistrationLib.compare.target import Level, Target, targets_of
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.intrinsics import EstimatedIntrinsics
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
# Nobody is nearer to an X-ray source. What attenuates more, 1/mm, is body.
_NEAREST_MM, _BODY_PER_MM = 50.0, 0.01
# Where fewer of an X-ray's rays than this can be compared, what is left is easily alike; the more easily the
# more poses are tried.
_LEAST_SHARE, _LEAST_SHARE_OF_ANY_VIEW = 0.25, 0.5
# Seen from very near any body is as smooth as another. A depth of any view counts for less beyond this factor
# (logarithm) of the stated one: so much for each further such factor.
_USUAL_DEPTH, _DEPTH_COST = 0.2, 0.1
# Objectives that are kept, of so many poses at most.
_KEPT_OBJECTIVES, _FEW_POSES = 3, 4


@dataclass(frozen=True)
class Reading:
    """What the X-rays are taken to be.

    Attributes:
        radiographs: prepared X-rays of one world.
        mirrored: whether they are the stored ones turned over, left for right.
        intrinsics: of each, where they were estimated; the radiographs have them.
        intrinsics_covariance: (6, 6) what is left open of them adds to that of the pose: a twist about the
            rotation centre, world axes, rad and mm. None where nothing is.
    """

    radiographs: tuple[PreparedRadiograph, ...]
    mirrored: bool = False
    intrinsics: tuple[EstimatedIntrinsics, ...] = ()
    intrinsics_covariance: np.ndarray | None = None

    def in_cameras(self, intrinsics: Sequence[EstimatedIntrinsics], covariance: np.ndarray) -> Reading:
        """The same with estimated intrinsics, which leave so much (6, 6) open of the pose."""
        radiographs = tuple(
            one.in_camera(found.camera) for one, found in zip(self.radiographs, intrinsics, strict=True)
        )
        return replace(
            self, radiographs=radiographs, intrinsics=tuple(intrinsics), intrinsics_covariance=covariance
        )

    def turned_over(self) -> Reading:
        """The same, stored the other way round."""
        return Reading(tuple(one.mirrored() for one in self.radiographs), not self.mirrored)

    def other_polarity(self) -> Reading | None:
        """The same with bright and dark exchanged where that was only detected; None where all is known."""
        if not any(one.other_polarity for one in self.radiographs):
            return None
        others = tuple(one.other_polarity() if one.other_polarity else one for one in self.radiographs)
        return Reading(others, self.mirrored)

    def polarities(self) -> tuple[Reading, ...]:
        """What bright and dark may be, as detected first; where X-rays differ, all of them alike next.

        X-rays of one set are mostly stored alike, and the one that differs was detected wrongly.
        """
        alike = [
            Reading(
                tuple(
                    one.other_polarity() if one.other_polarity and one.bone_dark != dark else one
                    for one in self.radiographs
                ),
                self.mirrored,
            )
            for dark in (True, False)
            if len({one.bone_dark for one in self.radiographs}) > 1
        ]
        found = {}
        for reading in filter(None, (self, *alike, self.other_polarity())):
            found.setdefault(tuple(one.bone_dark for one in reading.radiographs), reading)
        return tuple(found.values())


@dataclass(frozen=True)
class Case:
    """What is to be registered.

    Attributes:
        subject: the CT.
        reading: prepared views of one world, as they were detected to be.
        frame: nominal view, source-object distance and rotation centre, in the first camera.
        content: what DRRs are made of: "body", "bone", or "auto" for whichever agrees.
        T_expected: (4, 4) T_lps_to_world about where the pose lies; the nominal one if None.
        any_view: whether the X-ray may be taken from any side and turned by any angle.
        may_be_mirrored: whether nobody knows which way round it is stored.
    """

    subject: Subject
    reading: Reading
    frame: PoseFrame
    content: str = "auto"
    T_expected: np.ndarray | None = None
    any_view: bool = False
    may_be_mirrored: bool = False

    def __post_init__(self):
        if self.T_expected is None:
            T_lps_to_camera = self.frame.T_expected(self.reading.radiographs[0].camera)
            object.__setattr__(self, "T_expected", se3.invert_rigid(self.T_world_to_camera) @ T_lps_to_camera)

    @property
    def centre_lps_mm(self) -> np.ndarray:
        """(3,) rotation centre."""
        return self.frame.centre_lps_mm

    @property
    def T_world_to_camera(self) -> np.ndarray:
        """(4, 4) extrinsics of the first camera."""
        return self.reading.radiographs[0].camera.T_world_to_camera

    @property
    def is_single_view(self) -> bool:
        """Whether there is one X-ray only. How several calibrated ones were taken is known."""
        return len(self.reading.radiographs) == 1

    @property
    def is_of_a_part(self) -> bool:
        """Whether it is one bone or implant in X-rays that show more."""
        return any(target.outline_lps_mm is not None for target in self.targets)

    @property
    def targets(self) -> tuple[Target, ...]:
        """What of the CT is compared, in the order in which it is tried."""
        return targets_of(self.subject, self.content)

    @property
    def readings(self) -> tuple[Reading, ...]:
        """The X-rays as detected; with bright and dark exchanged, where that was only detected."""
        return self.reading.polarities()

    @property
    def least_share(self) -> float:
        """Of an X-ray's valid rays, how many must be compared to be believed."""
        return _LEAST_SHARE_OF_ANY_VIEW if self.any_view else _LEAST_SHARE

    def depth_cost(self, T_lps_to_world: np.ndarray) -> np.ndarray:
        """(n,) by how much the agreement of poses (n, 4, 4) counts for less, for their depth alone."""
        if not self.any_view:
            return np.zeros(len(T_lps_to_world))
        T = self.T_world_to_camera @ np.concatenate([self.T_expected[None], T_lps_to_world])
        depth = np.maximum((T @ np.append(self.centre_lps_mm, 1.0))[:, 2], 1e-3)
        unusual = np.maximum(0.0, np.abs(np.log(depth[1:] / depth[0])) - _USUAL_DEPTH)
        return _DEPTH_COST * unusual / _USUAL_DEPTH

    def stored_either_way(self, reading: Reading) -> tuple[Reading, ...]:
        """A reading, and the same turned over where the X-ray may be stored mirrored."""
        return (reading, reading.turned_over()) if self.may_be_mirrored else (reading,)

    def is_plausible(self, T_lps_to_world: np.ndarray) -> np.ndarray:
        """(n,) whether poses (n, 4, 4) lie as near the expected one as the pose sought can be."""
        T = self.T_world_to_camera @ np.concatenate([self.T_expected[None], T_lps_to_world])
        angle = se3.rotation_distance(np.repeat(T[:1, :3, :3], len(T) - 1, axis=0), T[1:, :3, :3])
        depth = (T @ np.append(self.centre_lps_mm, 1.0))[:, 2]
        nearest, furthest = depth[0] * np.array(_DEPTH_FACTORS)
        near = (depth[1:] > nearest) & (depth[1:] < furthest)
        return near if self.any_view else near & (angle < _LARGEST_TURN)

    def impossible_place(self, T_lps_to_world: np.ndarray) -> str:
        """Where no patient can be and a pose (4, 4) has this one, in words; empty where all is well.

        Wrong units of a geometry end there, however well the images agree.
        """
        for camera in (one.camera for one in self.reading.radiographs):
            T = camera.T_world_to_camera @ T_lps_to_world
            if self._is_near(-T[:3, :3].T @ T[:3, 3]):
                return "the X-ray source within the patient"
            if camera.sdd_mm is not None and (T @ np.append(self.centre_lps_mm, 1.0))[2] >= camera.sdd_mm:
                return "the patient behind the detector"
        return ""

    def _is_near(self, point_lps_mm: np.ndarray) -> bool:
        """Whether a point (3,) lies in the body or just beside it."""
        attenuation = self.subject.ct.attenuation
        kji = se3.transform_points(attenuation.lps_to_index, point_lps_mm)[::-1]
        reach = _NEAREST_MM / attenuation.spacing_mm[::-1]
        low = np.maximum(np.ceil(kji - reach), 0).astype(int)
        high = np.maximum(np.floor(kji + reach) + 1, 0).astype(int)
        part = attenuation.array[tuple(slice(*ends) for ends in zip(low, high, strict=True))]
        return bool((part > _BODY_PER_MM).any())


@dataclass(frozen=True)
class Comparison:
    """A target compared with one reading of the X-rays.

    Attributes:
        case: the registration.
        reading: the X-rays as they are read.
        target: what is projected.
    """

    case: Case
    reading: Reading
    target: Target
    _kept: OrderedDict[tuple[Level, bytes], LevelObjective] = field(
        default_factory=OrderedDict, init=False, repr=False, compare=False
    )

    @property
    def radiographs(self) -> tuple[PreparedRadiograph, ...]:
        """The X-rays."""
        return self.reading.radiographs

    def objective(self, level: Level, T_start: np.ndarray) -> LevelObjective:
        """What least squares minimises at a level from poses (S, 4, 4)."""
        key = level, T_start.tobytes()
        objective = self._kept.pop(key, None)
        if objective is None:
            objective = LevelObjective(self.radiographs, self.target, level, T_start, self.case.centre_lps_mm)
        # A verdict looks at the same pose from several sides; many poses would be large.
        if len(T_start) <= _FEW_POSES:
            self._kept[key] = objective
            while len(self._kept) > _KEPT_OBJECTIVES:
                self._kept.popitem(last=False)
        return objective

    def cost(self, level: Level, T_lps_to_world: np.ndarray) -> np.ndarray:
        """(n,) 2 (1 - correlation) at a level, of poses (n, 4, 4)."""
        return self.objective(level, T_lps_to_world)(T_lps_to_world, np.arange(len(T_lps_to_world))).cost

    def share(self, T_lps_to_world: np.ndarray) -> np.ndarray:
        """(n,) of the X-rays' valid rays, those that are compared at poses (n, 4, 4), mean over the views.

        Of a target with an outline only its surroundings are: then 1.
        """
        if self.target.outline_lps_mm is not None:
            return np.ones(len(T_lps_to_world))
        shares = []
        for radiograph in self.radiographs:
            view = at_level(radiograph, self.target.kind.check.pixels)
            compared = comparable_pixels(view, self.target.moving, T_lps_to_world)
            share = compared.mean(axis=(1, 2)) / max(view.valid.mean(), 1e-9)
            shares.append(np.broadcast_to(share, len(T_lps_to_world)))
        return np.mean(shares, axis=0)

    @cached_property
    def usual_share(self) -> float:
        """Share at the expected pose: more than that of a short scan cannot be compared."""
        return float(self.share(self.case.T_expected[None])[0])

    def agreement(self, T_lps_to_world: np.ndarray) -> np.ndarray:
        """(n,) structural correlation, less where few rays are left to compare or the depth is unusual."""
        few = np.minimum(1.0, self.share(T_lps_to_world) / min(self.case.least_share, self.usual_share))
        agreement = self.structural_correlation(T_lps_to_world) * np.sqrt(few)
        return agreement - self.case.depth_cost(T_lps_to_world)

    def structural_correlation(self, T_lps_to_world: np.ndarray) -> np.ndarray:
        """(n,) correlation of the locally normalised images at poses (n, 4, 4), mean over the views."""
        return 1 - self.cost(self.target.kind.check, T_lps_to_world) / 2

    def margin(self, T_lps_to_world: np.ndarray) -> float:
        """By how much a pose (4, 4) agrees better than an acceptable one; -1 if implausible."""
        if not self.case.is_plausible(T_lps_to_world[None])[0]:
            return -1.0
        return float(self.agreement(T_lps_to_world[None])[0]) - self.target.kind.thresholds.accept

    def pictures(self, T_lps_to_world: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Of each view DRR, X-ray and comparable pixels (rows, columns) at a pose (4, 4), to be measured."""
        moving, T = self.target.moving, T_lps_to_world[None]
        for radiograph in self.radiographs:
            view = compared_view(radiograph, self.target, T, _MEASURE_PIXELS)
            drr = project(moving.for_camera(view.camera, T[0]), view.camera, T[0])
            yield drr, view.image, comparable_pixels(view, moving, T)[0]

    def image_similarity(self, T_lps_to_world: np.ndarray) -> dict[str, float]:
        """NCC and gradient correlation over the comparable pixels at a pose, mean over the views."""
        found = [(ncc(*views), gradient_correlation(*views)) for views in self.pictures(T_lps_to_world)]
        return dict(zip(("ncc", "gradient_correlation"), np.mean(found, axis=0).tolist(), strict=True))


@dataclass(frozen=True, eq=False)
class Hypotheses:
    """Poses that may be right, best first, of one target in one reading of the X-rays.

    Attributes:
        comparison: target and reading.
        T: (n, 4, 4) T_lps_to_world.
        cost: (n,) 2 (1 - correlation) of the level they come from; infinite where not evaluated.
        T_initial: (4, 4) the pose that stands for where they come from.
        source: name of where they come from, where it is not that of the whole proposal.
        rival: best agreement reached elsewhere: in another reading of the X-rays, or from another source.
    """

    comparison: Comparison
    T: np.ndarray
    cost: np.ndarray
    T_initial: np.ndarray
    source: str = ""
    rival: float = -np.inf

    @classmethod
    def unscored(
        cls, comparison: Comparison, T: np.ndarray, T_initial: np.ndarray | None = None
    ) -> Hypotheses:
        """Hypotheses of which nothing is known yet; they come from the first of them unless given."""
        return cls(comparison, T, np.full(len(T), np.inf), T[0] if T_initial is None else T_initial)
