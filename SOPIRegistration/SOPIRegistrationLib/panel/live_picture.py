"""The DRR and the fused picture while something moves, and at rest."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from SOPIRegistrationLib.panel.session import REST_PIXELS, Session
from SOPIRegistrationLib.panel.shown_pose import ShownPose
from SOPIRegistrationLib.panel.timers import timer
from SOPIRegistrationLib.registration.prepared import LIVE_PIXELS

# Longer edge, pixels. Below the least nobody could tell what matches.
SIZES = (LIVE_PIXELS, 192, 128)
# A picture has this long, with all that the application does to show it: 15 a second, and some to spare.
_MOST_S, _PLENTY_S = 0.06, 0.03
# Moves that follow each other faster than this are drawn once.
_LIVE_DELAY_MS = 5
_REST_DELAY_MS = 250


class LivePicture:
    """Draws the pose shown: at once and small while it moves, in full when it rests.

    Args:
        pose: what is drawn.
        may_draw: whether the pictures are not those of something that runs.
        at_rest: called when the full picture is drawn.
    """

    def __init__(self, pose: ShownPose, may_draw: Callable[[], bool], at_rest: Callable[[], None]):
        self._pose, self._may_draw, self._at_rest = pose, may_draw, at_rest
        self._session: Session | None = None
        self._size = 0
        self._live = timer(_LIVE_DELAY_MS, self._draw_live)
        self._rest = timer(_REST_DELAY_MS, self.draw)

    @property
    def is_pending(self) -> bool:
        """Whether something is still to be drawn."""
        return self._live.active or self._rest.active

    def use(self, session: Session | None) -> None:
        """The session with a prepared case to draw in; None for none."""
        self._session = session

    def moves(self) -> None:
        """The pose moves: a live picture soon, without the full one until it rests."""
        if not self._live.active:
            self._live.start()

    def rests(self) -> None:
        """Draw in full, unless it moves again."""
        self._rest.start()

    def stop(self) -> None:
        """Draw nothing that is still to be drawn."""
        self._live.stop()
        self._rest.stop()

    def show(self, drr, alone: Mapping) -> None:
        """Show a picture that was made elsewhere, of a pose on its way; of several bodies each one's, too."""
        if self._session is not None:
            self._session.show_made(drr, alone)

    def draw(self) -> None:
        """Draw in full."""
        if self._show(REST_PIXELS):
            self._at_rest()

    def _draw_live(self) -> None:
        began = time.perf_counter()
        if self._show(SIZES[self._size], live=True):
            self._size = next_size(self._size, time.perf_counter() - began)

    def _show(self, pixels: int, live: bool = False) -> bool:
        """Draw the DRR at the pose shown; False where there is none to draw."""
        placement = self._pose.placement
        if self._session is None or placement is None or not self._may_draw():
            return False
        self._session.show(placement, pixels, live)
        return True


def next_size(size: int, seconds: float) -> int:
    """Index into ``SIZES`` for the next picture, from how long one took until it was shown.

    As large as this machine and its views can follow.
    """
    if seconds > _MOST_S:
        return min(size + 1, len(SIZES) - 1)
    return max(size - 1, 0) if seconds < _PLENTY_S else size
