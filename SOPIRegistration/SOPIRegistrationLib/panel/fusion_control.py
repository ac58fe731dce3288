"""The mouse and the keys in the fusion view, and what is written there."""

from __future__ import annotations

from collections.abc import Callable

from SOPIRegistrationLib.panel.choices import OVERLAY_MODES, label_of
from SOPIRegistrationLib.panel.hand_adjustment import HandAdjustment
from SOPIRegistrationLib.panel.overlay_section import OverlaySection
from SOPIRegistrationLib.panel.session import Session
from SOPIRegistrationLib.panel.shown_pose import ShownPose
from SOPIRegistrationLib.scene import FusionListener, FusionView


class FusionControl:
    """Follows the fusion view; the same one as long as the application keeps it.

    Args:
        pose: what drags, wheel and arrow keys move.
        overlay: what the place of the mouse and the other keys change.
        may_move: whether a hand may move the CT now.
    """

    def __init__(self, pose: ShownPose, overlay: OverlaySection, may_move: Callable[[], bool]):
        self._pose, self._overlay, self._may_move = pose, overlay, may_move
        self._session: Session | None = None
        self._view: FusionView | None = None
        self._hand = HandAdjustment(lambda: pose.T_lps_to_camera)

    def use(self, session: Session | None) -> None:
        """The session with a prepared case that is moved; None for none, and the view is let go."""
        self._session = session
        self._hand.use(session)
        if session is None:
            if self._view is not None:
                self._view.close()
                self._view = None
            return
        view = session.views.fusion_view
        if view is not None and self._view is None:
            listener = FusionListener(
                on_drag=self._on_drag,
                on_drag_end=self.end_gesture,
                on_wheel=self._on_wheel,
                on_arrow=self._on_arrow,
                on_point=self._overlay.follow,
                on_digit=self._on_digit,
                on_space=self._overlay.hold_xray,
            )
            self._view = FusionView(session.scene, view, listener)
        self.follow_permission()

    def follow_permission(self) -> None:
        """Take mouse and keys from the application, or give them back."""
        if self._view is not None:
            self._view.moves_ct = self._may_move()

    def end_gesture(self) -> None:
        """The button was released, or something else begins."""
        self._hand.end_drag()
        self._pose.end_gesture()

    def write_label(self, words: str, colour: str) -> None:
        """Verdict (words, and their colour as #rrggbb), view and mode in the corner."""
        session = self._session
        if session is None:
            return
        geometry, mode = session.case.inputs.geometry, session.parameters.overlayMode
        about = [words, geometry.camera.name, geometry.view, label_of(OVERLAY_MODES, mode)]
        rgb = tuple(int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5))
        # Words on a picture are read where they are light.
        rgb = tuple(0.45 + 0.55 * value for value in rgb) if words else (1.0, 1.0, 1.0)
        session.views.write_label("\n".join(word for word in about if word), rgb)

    def _on_drag(self, *how) -> None:
        if self._may_move():
            self._pose.drag(self._hand.dragged(*how))

    def _on_wheel(self, turns: int, large: bool) -> None:
        if self._may_move():
            self._pose.step(self._hand.turned(turns, large))

    def _on_arrow(self, direction: tuple[int, int], large: bool) -> None:
        if self._may_move():
            self._pose.step(self._hand.stepped(direction, large))

    def _on_digit(self, digit: int) -> None:
        self._session.parameters.overlayMode = list(OVERLAY_MODES.values())[digit - 1]
