"""How large pictures are while something moves."""

from __future__ import annotations

from SOPIRegistrationLib.registration.logic import LIVE_PIXELS

# Longer edge, pixels. Below the least nobody could tell what matches.
SIZES = (LIVE_PIXELS, 192, 128)
# A picture has this long, with all that the application does to show it: 15 a second, and some to spare.
_MOST_S, _PLENTY_S = 0.06, 0.03


class LiveSize:
    """Longer edge of moving pictures: as large as this machine and its views can follow."""

    def __init__(self):
        self._index = 0

    @property
    def pixels(self) -> int:
        """For the next picture."""
        return SIZES[self._index]

    def took(self, seconds: float) -> None:
        """Note how long the last picture took until it was shown."""
        if seconds > _MOST_S:
            self._index = min(self._index + 1, len(SIZES) - 1)
        elif seconds < _PLENTY_S:
            self._index = max(self._index - 1, 0)
