"""Taking back adjustments of the pose."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np

from SOPIRegistrationLib.geometry.c_arm import CArmGeometry
from SOPIRegistrationLib.registration.prepared import Placement

# Changes closer together belong to one drag.
_ONE_DRAG_S = 0.6


@dataclass(frozen=True)
class Step:
    """Where a step back or forth leads to.

    Attributes:
        placement: where the bodies are.
        geometry: of the X-ray, where the step had changed it, too.
    """

    placement: Placement
    geometry: CArmGeometry | None = None


class PoseUndo:
    """Placements before each adjustment, and after those taken back."""

    def __init__(self, clock=time.monotonic):
        self._clock = clock
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._settled: Placement | None = None
        self._past: list[Step] = []
        self._future: list[Step] = []
        self._last = -np.inf
        self._held = False

    @property
    def is_held(self) -> bool:
        """Whether a gesture is under way, all of which is one adjustment."""
        return self._held

    def hold(self, before: Placement) -> None:
        """A gesture begins, however long it takes; ``before`` is the placement before it."""
        self._last = -np.inf
        self.changed(before)
        self._held = True

    def release(self) -> None:
        """The gesture has ended."""
        self._held = False
        self._last = -np.inf

    @property
    def can_undo(self) -> bool:
        """Whether there is an adjustment to take back."""
        return bool(self._past)

    @property
    def can_redo(self) -> bool:
        """Whether there is one to repeat."""
        return bool(self._future)

    @property
    def settled(self) -> Placement | None:
        """The placement from which adjustments by hand started; None before the first."""
        return self._settled

    def settle(self, placement: Placement) -> None:
        """Note a placement that was not made by hand, such as a registration's."""
        self._settled = placement
        self._last = -np.inf

    def changed(self, before: Placement) -> None:
        """Note an adjustment, by the placement before it."""
        if self._held:
            return
        now = self._clock()
        if self._settled is None:
            self._settled = before
        if now - self._last > _ONE_DRAG_S or not self._past:
            self._past.append(Step(before))
        self._future.clear()
        self._last = now

    def changed_geometry(self, before: CArmGeometry) -> None:
        """The adjustment noted last has changed the geometry, too; ``before`` is the one before it."""
        self._past[-1] = replace(self._past[-1], geometry=before)

    def undo(self, placement: Placement, geometry: CArmGeometry) -> Step:
        """Where to go back to, from a placement and geometry."""
        return self._take(self._past, self._future, placement, geometry)

    def redo(self, placement: Placement, geometry: CArmGeometry) -> Step:
        """Where the step that was taken back had led to."""
        return self._take(self._future, self._past, placement, geometry)

    def _take(self, source: list, target: list, placement: Placement, geometry: CArmGeometry) -> Step:
        step = source.pop()
        target.append(Step(placement, geometry if step.geometry is not None else None))
        self._last = -np.inf
        return step
