"""Hypotheses of one bone, or one implant, in an X-ray that shows more."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from SOPIRegistrationLib.compare import Case, Comparison, Hypotheses, Reading, Run, Target
from SOPIRegistrationLib.compare.objective import compared_view
from SOPIRegistrationLib.compare.starts import multi_start
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.initialise.template_search import SearchRange, template_search

STAGE = "search of the bone"
# As the windows of the normalisation, to either side.
_SURROUNDINGS_PX = 4


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
        depth_factors: depths, multiples of the expected one.
        pixels: longer edge of the part of the X-ray that is searched.
        candidates: so many go on.
        from_afar: whether it is asked only where nothing before was better than rejected.
    """

    name: str = "search of the bone"
    reach_deg: float = 33.0
    step_deg: float = 11.0
    reach_mm: float = 24.0
    depth_factors: tuple[float, ...] = (0.93, 1.07)
    pixels: int = 80
    candidates: int = 120
    from_afar: bool = False

    def lots(self, case: Case, reading: Reading, run: Run) -> Iterator[Hypotheses]:
        """Of each target, one lot a polarity; see ``initialiser.Source``."""
        for target in case.targets:
            if target.outline_lps_mm is not None:
                yield from self._of_target(case, reading, run, target)

    def _of_target(self, case: Case, reading: Reading, run: Run, target: Target) -> Iterator[Hypotheses]:
        other = reading.other_polarity()
        with run.share(1 / 8), run.stage(STAGE) as stage:
            T_found, negative = self._templates(case, reading, run, target, other is not None)
            stage.ended(T_found[0])
        about = multi_start(case, case.T_expected, target.kind.starts[0])
        for one, T in ((reading, np.concatenate([about, T_found[~negative]])), (other, T_found[negative])):
            if one is not None and len(T):
                yield Hypotheses.unscored(Comparison(case, one, target), T, case.T_expected)

    def _templates(
        self, case: Case, reading: Reading, run: Run, target: Target, both_signs: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """(n, 4, 4) T_lps_to_world, best first, and (n,) whether bright and dark are exchanged there."""
        first = reading.radiographs[0]
        T_world_to_camera = first.camera.T_world_to_camera
        T_expected = T_world_to_camera @ case.T_expected
        depth = float(se3.transform_points(T_expected, case.centre_lps_mm)[2])
        frame = PoseFrame(case.centre_lps_mm, depth, "angles", T_expected[:3, :3])
        shifts = self.reach_mm * np.array([[-1, 0], [1, 0], [0, -1], [0, 1]])
        T = np.repeat(T_expected[None], len(shifts), axis=0)
        T[:, :2, 3] += shifts
        T_camera_to_world = se3.invert_rigid(T_world_to_camera)
        view = compared_view(first, target, T_camera_to_world @ T, self.pixels)
        found = template_search(
            view,
            target.moving.for_camera(view.camera, case.T_expected),
            frame,
            SearchRange(
                self.reach_deg,
                self.step_deg,
                self.reach_deg,
                self.step_deg,
                self.depth_factors,
                self.reach_mm,
                both_signs=both_signs,
                surroundings_px=_SURROUNDINGS_PX,
            ),
            max_candidates=self.candidates,
            report=lambda progress: run.report(STAGE, fraction=progress.fraction),
        )
        return T_camera_to_world @ found.T_lps_to_camera, found.negative
