"""The CT moved with mouse and keys in the fusion view."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from SOPIRegistrationLib.geometry import adjusting
from SOPIRegistrationLib.panel.session import Session
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
        self._session: Session | None = None
        self._start: np.ndarray | None = None

    def use(self, session: Session | None) -> None:
        """The session with the case that is moved."""
        self._session, self._start = session, None

    def dragged(self, kind: str, pressed_at: np.ndarray, now: np.ndarray) -> np.ndarray:
        """The pose when the mouse is at another point than where it was pressed; points in world, RAS mm."""
        if self._start is None:
            self._start = self._pose()
        case, centre = self._session.case, self._session.moved_frame.centre_lps_mm
        camera = case.xray.camera
        pixels = [pixels_from_ras(point, camera, case.frame) for point in (pressed_at, now)]
        return _DRAGS[kind](self._start, camera, centre, *pixels)

    def end_drag(self) -> None:
        """The button was released."""
        self._start = None

    def turned(self, turns: int, large: bool) -> np.ndarray:
        """Deeper, away from the source, by turns of the wheel away from the user."""
        step = turns * _WHEEL_MM[large]
        return adjusting.moved_in_depth(self._pose(), self._session.moved_frame.centre_lps_mm, step)

    def stepped(self, direction: tuple[int, int], large: bool) -> np.ndarray:
        """A step to the (right, down)."""
        right, down = np.array(direction) * _ARROW_MM[large]
        return adjusting.stepped(self._pose(), right, down)
