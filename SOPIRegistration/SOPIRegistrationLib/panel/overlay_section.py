"""The overlay section: how X-ray and DRR are shown together."""

from __future__ import annotations

import qt

from SOPIRegistrationLib.panel.choices import OVERLAY_MODES
from SOPIRegistrationLib.scene import Overlay

_BLINK_MS = 500


class OverlaySection:
    """Keeps an overlay at what the panel says.

    Args:
        ui: the panel's widgets by name.
    """

    def __init__(self, ui):
        self._ui = ui
        self._overlay: Overlay | None = None
        self._timer = qt.QTimer()
        self._timer.setInterval(_BLINK_MS)
        self._timer.connect("timeout()", self._blink)
        ui.drrWindowRange.connect("valuesChanged(double,double)", self._on_window)

    def use(self, overlay: Overlay | None) -> None:
        """The overlay to act on from now on; None where nothing is shown."""
        self._overlay = overlay
        if overlay is None:
            self._timer.stop()
            return
        low, high = overlay.drr_window
        ranges = self._ui.drrWindowRange
        blocked = ranges.blockSignals(True)
        ranges.maximum = max(2.0 * high, 1.0)
        ranges.setValues(low, high)
        ranges.blockSignals(blocked)

    def apply(self, mode_text: str, opacity: float) -> None:
        """Show what the parameter node says."""
        if self._overlay is None or not self._overlay.is_complete:
            return
        mode = OVERLAY_MODES[mode_text]
        if self._overlay.mode != mode:
            self._overlay.mode = mode
        if self._overlay.opacity != opacity:
            self._overlay.opacity = opacity
        if mode == "blink":
            self._timer.start()
        else:
            self._timer.stop()

    def _on_window(self, low: float, high: float) -> None:
        if self._overlay is not None and self._overlay.is_complete and high > low:
            self._overlay.drr_window = (low, high)

    def _blink(self) -> None:
        if self._overlay is not None:
            self._overlay.blink()
