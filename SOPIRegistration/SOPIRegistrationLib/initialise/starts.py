"""Starts about an expected pose: the nominal view, or a given pose."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from SOPIRegistrationLib.compare import Case, Comparison, Hypotheses, Proposal, Reading, Run
from SOPIRegistrationLib.compare.starts import multi_start
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.initialise.bone_pool import BonePool, turned_pool
from SOPIRegistrationLib.initialise.initialiser import InTurn


@dataclass(frozen=True)
class AboutExpected:
    """Starts about the expected pose, as near or as far as suits the target.

    Attributes:
        name: of the source.
        further: the second time, from further around.
    """

    name: str
    further: bool = False
    from_afar = False

    def lots(self, case: Case, reading: Reading, run: Run) -> Iterator[Hypotheses]:
        """Of each target; see ``initialiser.Source``."""
        for target in case.targets:
            T = multi_start(case, case.T_expected, target.kind.starts[self.further])
            yield Hypotheses.unscored(Comparison(case, reading, target), T, case.T_expected)


class Nominal(InTurn):
    """The nominal view, and poses about it."""

    name = "nominal"

    def sources(self, case: Case):
        """Nearby, from further around; of one bone in an X-ray of more all around."""
        around = (BonePool(self.name, from_afar=True), turned_pool(self.name)) if case.is_of_a_part else ()
        return AboutExpected(self.name), AboutExpected(self.name, further=True), *around

    def propose(self, case: Case, run: Run) -> Iterator[Proposal]:
        """See ``initialiser.Initialiser``; InputError where the object lies outside the X-ray."""
        _require_in_view(case)
        return super().propose(case, run)


class Given(Nominal):
    """The start pose that was given, and poses about it."""

    name = "given pose"

    def expected(self, case: Case) -> np.ndarray:
        """(4, 4) the given pose; InputError for none."""
        if self.start is None:
            raise InputError("no start pose is given: give one, or choose another way to start")
        return np.asarray(self.start, dtype=np.float64)


def _require_in_view(case: Case) -> None:
    """Refuse an expected pose at which the object lies outside an X-ray."""
    for radiograph in case.reading.radiographs:
        camera = radiograph.camera
        points = np.vstack([case.subject.ct.surface_points_lps_mm, case.centre_lps_mm])
        x = se3.transform_points(camera.T_world_to_camera @ case.T_expected, points)
        uv = camera.project(x[x[:, 2] > 0])
        # What is half an image beyond the edge may still be found.
        off = np.abs(uv - np.array([camera.width, camera.height]) / 2)
        if not (off <= [camera.width, camera.height]).all(axis=1).any():
            name = radiograph.name or "the X-ray"
            raise InputError(
                f"{name}: the CT lies outside the field of view at the start pose: check the geometry "
                "and the start pose, or use the search"
            )
