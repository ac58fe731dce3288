"""Timers of the panel."""

from __future__ import annotations

from collections.abc import Callable

import qt


def timer(milliseconds: int, action: Callable[[], None], repeats: bool = False):
    """A timer that is still to be started."""
    made = qt.QTimer()
    made.setInterval(milliseconds)
    made.setSingleShot(not repeats)
    made.connect("timeout()", action)
    return made
