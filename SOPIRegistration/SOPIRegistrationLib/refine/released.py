"""Bodies that stood as pieces, released: refined jointly, each where it agrees best of all it may be."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from SOPIRegistrationLib.errors import Cancelled
from SOPIRegistrationLib.progress import Report
from SOPIRegistrationLib.refine.alternatives import Alternative, alternatives
from SOPIRegistrationLib.refine.joint_scene import Scene
from SOPIRegistrationLib.refine.jointly import Refined, refine_jointly

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
    search = _Search(scene, T_start, report)
    refined = refine_jointly(scene, T_start, report=report)
    found = Released(refined, [() for _ in scene.bodies.bodies])
    if refined.stopped:
        return found

    try:
        found = Released(refined, [search.sought(refined, number) for number in range(len(scene.bodies))])
        for _ in range(_ROUNDS):
            gained = search.better(found) if found.with_better_others else None
            if gained is None:
                break
            found = gained
    except Cancelled:
        return found._replace(refined=found.refined._replace(stopped=True))
    return found


class _Search(NamedTuple):
    """What else bodies may be, sought from where they were released."""

    scene: Scene
    T_start: np.ndarray
    report: Report | None

    def sought(self, refined: Refined, number: int) -> tuple[Alternative, ...]:
        """The alternatives of one body; none of one that is fixed."""
        if self.scene.bodies.bodies[number].fixed:
            return ()
        return alternatives(self.scene, refined.T, number, self.report, self.T_start)

    def better(self, found: Released) -> Released | None:
        """With the alternatives taken that agree better; none if all together do not."""
        numbers = found.with_better_others
        T = found.refined.T.copy()
        T[numbers] = [found.others[number][0].T_lps_to_world for number in numbers]
        again = refine_jointly(self.scene, T, report=self.report, T_rest=self.T_start)
        if again.stopped:
            raise Cancelled
        both = np.stack([found.refined.T, again.T])
        if np.diff(self.scene.agreements(self.scene.kind.check, both, numbers), axis=0).mean() <= 0:
            return None
        others = [self.sought(again, n) if n in numbers else one for n, one in enumerate(found.others)]
        return Released(again, others, found.taken.union(numbers))
