"""Hypotheses of one bone, or one implant, in an X-ray that shows more."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from SOPIRegistrationLib.compare import Case, Comparison, Hypotheses, Reading, Run, Target
from SOPIRegistrationLib.compare.objective import compared_view
from SOPIRegistrationLib.compare.starts import multi_start
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.principal_axes import principal_axes
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.initialise.template_search import SearchRange, template_search

STAGE = "search of the bone"
# As the windows of the normalisation, to either side.
_SURROUNDINGS_PX = 4
# A bone so many times longer than it is wide has a long axis, about which limbs turn.
_LONG = 2.0


@dataclass(frozen=True)
class BonePool:
    """The expected pose and its neighbours, and the best templates of all around it.

    Templates are compared with their own surroundings in the X-ray, of either polarity where it is not known.
    Only where the bone is expected, and as far around as it may have been shifted, is looked at.

    Attributes:
        name: of the source.
        reach_deg: how far turned about each axis.
        step_deg: between templates.
        reach_mm: how far shifted across the view.
        depth_factors: depths, multiples of the expected one, where one view alone is compared.
        depths_mm: farther than expected by so much, where another view sees depth as a shift.
        likely_depths: at so many of these, where all views agree best, each goes on.
        pixels: longer edge of the part of the X-ray that is searched.
        candidates: so many go on, of each turn.
        turns_deg: turns of the expected pose about the bone's long axis, of each of which all is looked at.
            Other turns than 0 are of long bones alone: a forearm turns about itself far more than it tilts.
        from_afar: whether it is asked only where other starts led nowhere.
    """

    name: str = "search of the bone"
    reach_deg: float = 33.0
    step_deg: float = 11.0
    reach_mm: float = 24.0
    depth_factors: tuple[float, ...] = (0.93, 1.07)
    depths_mm: tuple[float, ...] = (-24.0, -8.0, 8.0, 24.0)
    likely_depths: int = 2
    pixels: int = 80
    candidates: int = 120
    turns_deg: tuple[float, ...] = (0.0,)
    from_afar: bool = False

    def lots(self, case: Case, reading: Reading, run: Run) -> Iterator[Hypotheses]:
        """Of each target, one lot a polarity; see ``initialiser.Source``."""
        for target in case.targets:
            if target.outline_lps_mm is not None:
                yield from self._of_target(case, reading, run, target)

    def _of_target(self, case: Case, reading: Reading, run: Run, target: Target) -> Iterator[Hypotheses]:
        other = reading.other_polarity()
        expected = self._turned(case, target)
        if not len(expected):
            return
        with run.share(1 / 8), run.stage(STAGE) as stage:
            found = [self._templates(case, reading, run, target, T, other is not None) for T in expected]
            T_found, negative = (np.concatenate(parts) for parts in zip(*found, strict=True))
            stage.ended(T_found[0])
        about = np.concatenate([multi_start(case, T, target.kind.starts[0]) for T in expected])
        for one, T, also in ((reading, T_found[~negative], about), (other, T_found[negative], about[:0])):
            if one is not None and len(T) + len(also):
                comparison = Comparison(case, one, target)
                T = np.concatenate([also, T if case.is_single_view else self._likely(comparison, T)])
                yield Hypotheses.unscored(comparison, T, case.T_expected)

    def _turned(self, case: Case, target: Target) -> np.ndarray:
        """(n, 4, 4) the expected pose, turned about the bone's long axis."""
        axes = principal_axes(target.outline_lps_mm)
        turns = np.deg2rad([turn for turn in self.turns_deg if turn == 0 or axes.elongation > _LONG])
        twists = np.zeros((len(turns), 6))
        twists[:, :3] = turns[:, None] * (case.T_expected[:3, :3] @ axes.long)
        T = np.repeat(case.T_expected[None], len(turns), axis=0)
        return se3.move_about(T, twists, case.centre_lps_mm)

    def _templates(
        self, case: Case, reading: Reading, run: Run, target: Target, T_about: np.ndarray, both_signs: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """(n, 4, 4) T_lps_to_world, best first, and (n,) whether bright and dark are exchanged there."""
        first = reading.radiographs[0]
        T_world_to_camera = first.camera.T_world_to_camera
        T_expected = T_world_to_camera @ T_about
        depth = float(se3.transform_points(T_expected, case.centre_lps_mm)[2])
        frame = PoseFrame(case.centre_lps_mm, depth, "angles", T_expected[:3, :3])
        shifts = self.reach_mm * np.array([[-1, 0], [1, 0], [0, -1], [0, 1]])
        T = np.repeat(T_expected[None], len(shifts), axis=0)
        T[:, :2, 3] += shifts
        T_camera_to_world = se3.invert_rigid(T_world_to_camera)
        view = compared_view(first, target, T_camera_to_world @ T, self.pixels)
        found = template_search(
            view,
            target.moving.for_camera(view.camera, T_about),
            frame,
            SearchRange(
                self.reach_deg,
                self.step_deg,
                self.reach_deg,
                self.step_deg,
                self.depth_factors if case.is_single_view else (1.0,),
                self.reach_mm,
                both_signs=both_signs,
                surroundings_px=_SURROUNDINGS_PX,
            ),
            max_candidates=self.candidates,
            report=lambda progress: run.report(STAGE, fraction=progress.fraction),
        )
        T_found, negative = found.T_lps_to_camera, found.negative
        if not case.is_single_view:
            T_found, negative = (
                self._at_depths(T_found, case.centre_lps_mm),
                np.repeat(negative, len(self.depths_mm)),
            )
        return T_camera_to_world @ T_found, negative

    def _at_depths(self, T_lps_to_camera: np.ndarray, centre_lps_mm: np.ndarray) -> np.ndarray:
        """(n * depths, 4, 4) each pose moved along the ray through its centre: the view stays the same."""
        centres = T_lps_to_camera[:, :3, :3] @ centre_lps_mm + T_lps_to_camera[:, :3, 3]
        T = np.repeat(T_lps_to_camera, len(self.depths_mm), axis=0)
        shares = np.tile(self.depths_mm, len(T_lps_to_camera)) / np.repeat(centres[:, 2], len(self.depths_mm))
        T[:, :3, 3] += shares[:, None] * np.repeat(centres, len(self.depths_mm), axis=0)
        return T

    def _likely(self, comparison: Comparison, T_at_depths: np.ndarray) -> np.ndarray:
        """Poses (n * depths, 4, 4), of each n those at which the views agree best."""
        if not len(T_at_depths):
            return T_at_depths
        level = comparison.target.kind.coarse_of_many[0][0].level
        cost = comparison.cost(level, T_at_depths).reshape(-1, len(self.depths_mm))
        best = np.sort(np.argsort(cost, axis=1, kind="stable")[:, : self.likely_depths], axis=1)
        T = T_at_depths.reshape(*cost.shape, 4, 4)
        return T[np.arange(len(T))[:, None], best].reshape(-1, 4, 4)


def turned_pool(name: str = BonePool.name) -> BonePool:
    """The pool of a long bone turned about itself to where :class:`BonePool` does not reach."""
    return BonePool(name, candidates=40, turns_deg=(66.0, -66.0, 132.0, -132.0, 180.0), from_afar=True)
