"""Taking back adjustments of the pose."""

from __future__ import annotations

import time

import numpy as np

# Changes closer together belong to one drag.
_ONE_DRAG_S = 0.6


class PoseUndo:
    """Poses before each adjustment, and after those taken back; (4, 4) matrices in any one frame."""

    def __init__(self, clock=time.monotonic):
        self._clock = clock
        self.clear()

    def clear(self) -> None:
        self._settled: np.ndarray | None = None
        self._past: list[np.ndarray] = []
        self._future: list[np.ndarray] = []
        self._last = -np.inf
        self._held = False

    @property
    def is_held(self) -> bool:
        """Whether a gesture is under way, all of which is one adjustment."""
        return self._held

    def hold(self, before: np.ndarray) -> None:
        """A gesture begins, however long it takes; ``before`` is the pose before it."""
        self._last = -np.inf
        self.changed(before)
        self._held = True

    def release(self) -> None:
        """The gesture has ended."""
        self._held = False
        self._last = -np.inf

    @property
    def can_undo(self) -> bool:
        return bool(self._past)

    @property
    def can_redo(self) -> bool:
        return bool(self._future)

    @property
    def settled(self) -> np.ndarray | None:
        """The pose from which adjustments by hand started; None before the first."""
        return self._settled

    def settle(self, pose: np.ndarray) -> None:
        """Note a pose that was not made by hand, such as a registration's."""
        self._settled = pose
        self._last = -np.inf

    def changed(self, before: np.ndarray) -> None:
        """Note an adjustment, by the pose before it."""
        if self._held:
            return
        now = self._clock()
        if self._settled is None:
            self._settled = before
        if now - self._last > _ONE_DRAG_S or not self._past:
            self._past.append(before)
        self._future.clear()
        self._last = now

    def undo(self, current: np.ndarray) -> np.ndarray:
        """The pose to go back to."""
        self._future.append(current)
        self._last = -np.inf
        return self._past.pop()

    def redo(self, current: np.ndarray) -> np.ndarray:
        """The pose that was taken back."""
        self._past.append(current)
        self._last = -np.inf
        return self._future.pop()
