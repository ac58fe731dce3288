"""The CT moved with mouse and keys in the fusion view."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from SOPIRegistrationLib.geometry import adjusting
from SOPIRegistrationLib.registration.logic import PreparedCase
from SOPIRegistrationLib.scene import pixels_from_ras

# (small, large) steps of the arrow keys at the object, and of the wheel in depth, mm.
_ARROW_MM = (0.5, 5.0)
_WHEEL_MM = (2.0, 10.0)
_DRAGS = {"shift": adjusting.shifted, "tilt": adjusting.tilted, "roll": adjusting.rolled}


class HandAdjustment:
    """Makes poses of what a hand does in the fusion view.

    Args:
        pose: (4, 4) T_lps_to_camera as it is shown.
    """

    def __init__(self, pose: Callable[[], np.ndarray]):
        self._pose = pose
        self._case: PreparedCase | None = None
        self._start: np.ndarray | None = None

    def use(self, case: PreparedCase | None) -> None:
        """The case that is moved."""
        self._case, self._start = case, None

    def dragged(self, kind: str, pressed_at: np.ndarray, now: np.ndarray) -> np.ndarray:
        """The pose when the mouse is at another point than where it was pressed; points in world, RAS mm."""
        if self._start is None:
            self._start = self._pose()
        camera, frame = self._case.xray.camera, self._case.frame
        pixels = [pixels_from_ras(point, camera, frame) for point in (pressed_at, now)]
        return _DRAGS[kind](self._start, camera, frame.centre_lps_mm, *pixels)

    def end_drag(self) -> None:
        """The button was released."""
        self._start = None

    def turned(self, turns: int, large: bool) -> np.ndarray:
        """Deeper, away from the source, by turns of the wheel away from the user."""
        step = turns * _WHEEL_MM[large]
        return adjusting.moved_in_depth(self._pose(), self._case.frame.centre_lps_mm, step)

    def stepped(self, direction: tuple[int, int], large: bool) -> np.ndarray:
        """A step to the (right, down)."""
        right, down = np.array(direction) * _ARROW_MM[large]
        return adjusting.stepped(self._pose(), right, down)
