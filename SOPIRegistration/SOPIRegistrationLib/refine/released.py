"""Bodies that stood as pieces, released: refined jointly, each where it agrees best of all it may be."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from SOPIRegistrationLib.errors import Cancelled
from SOPIRegistrationLib.progress import Report
from SOPIRegistrationLib.refine.alternatives import Alternative, alternatives
from SOPIRegistrationLib.refine.jointly import Refined, Scene, refine_jointly

# So many times bodies may take alternatives that agree better.
_ROUNDS = 3


class Released(NamedTuple):
    """Where released bodies ended.

    Attributes:
        refined: their poses.
        others: of each what else it may be.
        taken: numbers of those that stand where an alternative led: what was found as one piece no longer
            counts for them.
    """

    refined: Refined
    others: list[tuple[Alternative, ...]]
    taken: frozenset[int] = frozenset()

    @property
    def with_better_others(self) -> list[int]:
        """Numbers of bodies of which another pose agrees better."""
        return [number for number, one in enumerate(self.others) if one and one[0].margin < 0]


def release(scene: Scene, T_start: np.ndarray, report: Report | None) -> Released:
    """All bodies refined jointly, and what else each may be; one whose alternative agrees better takes it."""

    def sought(refined: Refined, number: int) -> tuple[Alternative, ...]:
        if scene.bodies.bodies[number].fixed:
            return ()
        return alternatives(scene, refined.T, number, report, T_start)

    refined = refine_jointly(scene, T_start, report=report)
    found = Released(refined, [() for _ in scene.bodies.bodies])
    if refined.stopped:
        return found
    try:
        found = Released(refined, [sought(refined, number) for number in range(len(scene.bodies))])
        for _ in range(_ROUNDS):
            better = found.with_better_others
            if not better:
                break
            T = found.refined.T.copy()
            T[better] = [found.others[number][0].T_lps_to_world for number in better]
            again = refine_jointly(scene, T, report=report, T_rest=T_start)
            gains = scene.agreements(scene.kind.check, np.stack([found.refined.T, again.T]), better)
            if again.stopped:
                raise Cancelled
            if np.diff(gains, axis=0).mean() <= 0:
                break
            others = [
                sought(again, number) if number in better else one for number, one in enumerate(found.others)
            ]
            found = Released(again, others, found.taken.union(better))
    except Cancelled:
        return found._replace(refined=found.refined._replace(stopped=True))
    return found
