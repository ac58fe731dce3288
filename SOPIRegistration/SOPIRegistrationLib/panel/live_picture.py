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

    Of several X-rays the pictures are drawn in turn, every other time that of the one that is looked at: the
    application takes long to show one, and the hand is not to wait for all of them.

    Args:
        pose: what is drawn.
        may_draw: whether the pictures are not those of something that runs.
        at_rest: called when the full picture is drawn.
    """

    def __init__(self, pose: ShownPose, may_draw: Callable[[], bool], at_rest: Callable[[], None]):
        self._pose, self._may_draw, self._at_rest = pose, may_draw, at_rest
        self._session: Session | None = None
        self._size = 0
        self._turns = Turns()
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
        """The pose moves: live pictures soon, without the full ones until it rests."""
        if self._session is not None:
            self._turns.all_wait(self._session.xrays_shown)
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
            # Those beside follow, one each time.
            self._turns.all_wait(self._session.xrays_shown, made=0)
            self._draw_next()

    def draw(self) -> None:
        """Draw in full."""
        if self._can_draw:
            self._session.show(self._pose.placement, REST_PIXELS)
            self._at_rest()

    @property
    def _can_draw(self) -> bool:
        return self._session is not None and self._pose.placement is not None and self._may_draw()

    def _draw_live(self) -> None:
        if self._can_draw:
            began = time.perf_counter()
            self._draw_next()
            self._size = next_size(self._size, time.perf_counter() - began)
            if self._turns.someone_waits:
                self._live.start()

    def _draw_next(self) -> None:
        if self._turns.someone_waits and self._pose.placement is not None:
            self._session.draw(self._turns.take(), self._pose.placement, SIZES[self._size])


class Turns:
    """Whose picture of several X-rays is drawn next; 0 is the one that is looked at."""

    def __init__(self):
        self._waiting: set[int] = set()
        self._last, self._last_other = -1, 0

    @property
    def someone_waits(self) -> bool:
        """Whether a picture is still of another pose."""
        return bool(self._waiting)

    def all_wait(self, count: int, made: int | None = None) -> None:
        """The pose moved: all of so many pictures are of another one, unless one is made already."""
        self._waiting = set(range(count)) - {made}

    def take(self) -> int:
        """The number of the picture to be drawn now: every other time 0, the others one after the other."""
        others = sorted(self._waiting - {0}, key=lambda number: (number <= self._last_other, number))
        is_first = 0 in self._waiting and (self._last != 0 or not others)
        self._last = 0 if is_first else others[0]
        self._last_other = self._last or self._last_other
        self._waiting.discard(self._last)
        return self._last


def next_size(size: int, seconds: float) -> int:
    """Index into ``SIZES`` for the next picture, from how long one took until it was shown."""
    # As large as this machine and its views can follow.
    if seconds > _MOST_S:
        return min(size + 1, len(SIZES) - 1)
    return max(size - 1, 0) if seconds < _PLENTY_S else size
