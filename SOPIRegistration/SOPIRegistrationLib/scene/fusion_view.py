"""The mouse and the keys in the fusion view."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import slicer

from SOPIRegistrationLib.scene.layout import FUSION_VIEW, slice_node
from SOPIRegistrationLib.scene.overlay import OVERLAY_MODES

# Before the application's own (0): what is taken here does not reach them.
_PRIORITY = 10.0
_ARROWS = {"Left": (-1, 0), "Right": (1, 0), "Up": (0, -1), "Down": (0, 1)}


@dataclass(frozen=True)
class FusionListener:
    """Who is told what happens in the fusion view; points are (3,) in world, RAS mm on the detector.

    Attributes:
        on_drag: (kind, point pressed at, point now) with kind "shift", "tilt" or "roll", at every move.
        on_drag_end: the button was released.
        on_wheel: (turns away from the user, whether Shift is held).
        on_arrow: ((right, down) of one key, whether Shift is held).
        on_point: the mouse moved without a button.
        on_digit: a digit key, from 1, that stands for an overlay's mode.
        on_space: whether the space bar went down.
    """

    on_drag: Callable[[str, np.ndarray, np.ndarray], None]
    on_drag_end: Callable[[], None]
    on_wheel: Callable[[int, bool], None]
    on_arrow: Callable[[tuple[int, int], bool], None]
    on_point: Callable[[np.ndarray], None]
    on_digit: Callable[[int], None]
    on_space: Callable[[bool], None]


class FusionView:
    """Follows the interactor of the fusion view.

    Keys for modes and the place of the mouse are always told. While :attr:`moves_ct`, the left button, the
    wheel, the arrow keys and the mouse with Shift are taken from the application; the middle and the right
    button still pan and zoom.

    Args:
        scene: the MRML scene.
        view: the application's slice view.
        listener: who is told.
    """

    def __init__(self, scene, view, listener: FusionListener):
        self._scene, self._view, self._tell = scene, view, listener
        self._interactor = view.interactor()
        self._pressed: tuple[str, np.ndarray] | None = None
        self.moves_ct = False
        self._tags: dict[str, int] = {}
        for event, action in (
            ("LeftButtonPressEvent", self._on_press),
            ("MouseMoveEvent", self._on_move),
            ("LeftButtonReleaseEvent", self._on_release),
            # The application would maximise the view.
            ("LeftButtonDoubleClickEvent", lambda: self.moves_ct),
            ("MouseWheelForwardEvent", lambda: self._on_wheel(1)),
            ("MouseWheelBackwardEvent", lambda: self._on_wheel(-1)),
            ("KeyPressEvent", self._on_key),
            ("KeyReleaseEvent", self._on_key_up),
            ("EnterEvent", self._on_enter),
        ):
            self._observe(event, action)

    def close(self) -> None:
        """Give everything back."""
        for tag in self._tags.values():
            self._interactor.RemoveObserver(tag)
        self._tags.clear()
        self.moves_ct = False

    def _observe(self, event: str, action: Callable[[], bool]) -> None:
        def call(_interactor, _event):
            if action():
                self._interactor.GetCommand(self._tags[event]).SetAbortFlag(1)

        self._tags[event] = self._interactor.AddObserver(event, call, _PRIORITY)

    @property
    def _point(self) -> np.ndarray:
        """(3,) where the mouse is, world RAS mm."""
        x, y = self._interactor.GetEventPosition()
        matrix = slicer.util.arrayFromVTKMatrix(slice_node(self._scene, FUSION_VIEW).GetXYToRAS())
        return matrix[:3] @ [x, y, 0, 1]

    def _on_press(self) -> bool:
        if not self.moves_ct:
            return False
        kind = "tilt" if self._interactor.GetShiftKey() else "shift"
        kind = "roll" if self._interactor.GetControlKey() else kind
        self._pressed = kind, self._point
        return True

    def _on_move(self) -> bool:
        if self._pressed is not None:
            kind, start = self._pressed
            self._tell.on_drag(kind, start, self._point)
            return True
        self._tell.on_point(self._point)
        # With Shift the application would move its crosshair and all slices with it.
        return self.moves_ct and bool(self._interactor.GetShiftKey())

    def _on_release(self) -> bool:
        if self._pressed is None:
            return False
        self._pressed = None
        self._tell.on_drag_end()
        return True

    def _on_wheel(self, turns: int) -> bool:
        if self.moves_ct:
            self._tell.on_wheel(turns, bool(self._interactor.GetShiftKey()))
        return self.moves_ct

    def _on_key(self) -> bool:
        key = self._interactor.GetKeySym() or ""
        if key == "space":
            self._tell.on_space(True)
            return True
        if key.isdigit() and 1 <= int(key) <= len(OVERLAY_MODES):
            self._tell.on_digit(int(key))
            return True
        if self.moves_ct and key in _ARROWS:
            self._tell.on_arrow(_ARROWS[key], bool(self._interactor.GetShiftKey()))
            return True
        return False

    def _on_key_up(self) -> bool:
        key = self._interactor.GetKeySym() or ""
        if key == "space":
            self._tell.on_space(False)
        return key == "space" or (self.moves_ct and key in _ARROWS)

    def _on_enter(self) -> bool:
        """Keys go to the view under the mouse: to its child that VTK draws in, itself it passes none on."""
        # Found among the children, which PythonQt always knows as the widgets that they are.
        drawn_in = [child for child in self._view.children() if hasattr(child, "setFocus")]
        (drawn_in or [self._view])[0].setFocus()
        return False
