"""Hypotheses of the exhaustive template search."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from SOPIRegistrationLib.compare import Case, Comparison, Hypotheses, Reading
from SOPIRegistrationLib.compare.objective import at_level
from SOPIRegistrationLib.compare.run import Run
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.initialise.initialiser import InTurn
from SOPIRegistrationLib.initialise.template_search import STAGE, SearchRange, template_search

_PIXELS = 32


@dataclass(frozen=True)
class Templates:
    """The template search in the first view.

    Tilted views look through the end of a short scan. Leaving those rays out is right where the body goes on
    in the X-ray, but may leave little to go by: where that finds nothing, it is searched with them, too.

    Attributes:
        grid: poses that are compared.
        candidates: how many of them become hypotheses.
    """

    grid: SearchRange
    candidates: int
    name = "search"
    from_afar = False

    def lots(self, case: Case, reading: Reading, run: Run) -> Iterator[Hypotheses]:
        """Of each target; see ``initialiser.Source``."""
        for target in case.targets:
            found = self._search(Comparison(case, reading, target), run)
            yield found
            if target.moving.unscanned and target.kind.searches_unscanned:
                further = self._search(Comparison(case, reading, target.with_all_rays()), run)
                yield _better_halves(further, found)

    def _search(self, comparison: Comparison, run: Run) -> Hypotheses:
        case, moving = comparison.case, comparison.target.moving
        first = at_level(comparison.radiographs[0], _PIXELS)
        T_nominal = se3.invert_rigid(case.T_world_to_camera) @ case.frame.T_nominal
        with run.share(1 / 8), run.stage(STAGE) as stage:
            found = template_search(
                first,
                moving.for_camera(first.camera, T_nominal),
                case.frame,
                self.grid,
                unscanned=moving.unscanned,
                max_candidates=self.candidates,
                report=lambda progress: run.report(STAGE, fraction=progress.fraction),
            )
            T = se3.invert_rigid(case.T_world_to_camera) @ found.T_lps_to_camera
            stage.ended(T[0], float(found.scores[0]))
        return Hypotheses(comparison, T, 2 * (1 - found.scores), T[0])


SEARCH = Templates(SearchRange(), 64)
# For the few whose first search ends in no agreement.
THOROUGH_SEARCH = Templates(
    SearchRange(60.0, 7.5, 60.0, 7.5, (0.65, 0.74, 0.84, 0.94, 1.06, 1.2, 1.36), 90.0), 160
)


def _better_halves(a: Hypotheses, b: Hypotheses) -> Hypotheses:
    """The better half of each of two sets of hypotheses, best first, compared as the first of them."""
    T = np.concatenate([b.T[: len(b.T) // 2], a.T[: len(a.T) // 2]])
    cost = np.concatenate([b.cost[: len(b.T) // 2], a.cost[: len(a.T) // 2]])
    order = np.argsort(cost, kind="stable")
    return replace(a, T=T[order], cost=cost[order], T_initial=b.T[0])


class Search(InTurn):
    """The template search, then a more thorough one."""

    def sources(self, case: Case):
        """Both searches."""
        return SEARCH, THOROUGH_SEARCH
