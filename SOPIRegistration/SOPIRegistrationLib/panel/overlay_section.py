"""The fusion section: how X-ray and DRR are shown together."""

from __future__ import annotations

import numpy as np
import qt

from SOPIRegistrationLib.scene import Overlay, pixels_from_ras

# A curtain or lens that follows the mouse is drawn no more often than this.
_CURTAIN_MS = 15
# What a mode is set by: its rows in the panel.
_ROWS = {"fusion": "mixSlider", "edges": "edgeSlider", "blink": "blinkSlider"}


class OverlaySection:
    """Keeps an overlay at what the panel says.

    Args:
        ui: the panel's widgets by name.
    """

    def __init__(self, ui):
        self._ui = ui
        self._overlay: Overlay | None = None
        self._case = None
        self._at: np.ndarray | None = None
        self._is_held = False
        self._blinking = qt.QTimer()
        self._blinking.connect("timeout()", self._blink)
        self._drawing = qt.QTimer()
        self._drawing.setSingleShot(True)
        self._drawing.setInterval(_CURTAIN_MS)
        self._drawing.connect("timeout()", self._draw_curtain)
        ui.drrWindowRange.connect("valuesChanged(double,double)", self._on_window)

    def use(self, overlay: Overlay | None, case=None) -> None:
        """The overlay of a prepared case to act on from now on; None where nothing is shown."""
        self._overlay, self._case = overlay, case
        if overlay is None:
            self._blinking.stop()
            self._drawing.stop()
            return
        low, high = overlay.drr_window
        ranges = self._ui.drrWindowRange
        blocked = ranges.blockSignals(True)
        ranges.maximum = max(2.0 * high, 1.0)
        ranges.setValues(low, high)
        ranges.blockSignals(blocked)

    def apply(self, parameters) -> None:
        """Show what the parameter node says."""
        mode = parameters.overlayMode
        for name, row in _ROWS.items():
            for widget in (getattr(self._ui, row), getattr(self._ui, row + "Label")):
                widget.visible = name == mode
        if self._overlay is None or not self._overlay.is_complete:
            return
        self._overlay.set(
            mix=parameters.mix,
            edge_strength=parameters.edgeStrength,
            local_contrast=parameters.localContrast,
        )
        if self._overlay.mode != mode:
            self._overlay.mode = mode
        if mode != "blink":
            self._blinking.stop()
            return
        self._blinking.setInterval(round(1000 / parameters.blinkRate))
        if not self._blinking.active:
            self._blinking.start()

    def follow(self, point_ras: np.ndarray) -> None:
        """The mouse is at a point of the fusion view, world RAS mm: there stands the curtain, or the lens."""
        if self._overlay is None or self._overlay.mode not in ("curtain", "lens"):
            return
        camera = self._case.xray.camera
        pixel = pixels_from_ras(point_ras, camera, self._case.frame)
        self._at = np.clip((pixel + 0.5) / [camera.width, camera.height], 0, 1)
        if not self._drawing.active:
            self._drawing.start()

    def hold_xray(self, held: bool) -> None:
        """Show the X-ray alone for as long as a key is held."""
        if self._overlay is not None and held != self._is_held:
            self._is_held = held
            self._overlay.xray_alone = held

    def _draw_curtain(self) -> None:
        if self._overlay is not None and self._overlay.is_complete and self._at is not None:
            across, down = (float(share) for share in self._at)
            self._overlay.set(curtain=across, lens_down=down)

    def _on_window(self, low: float, high: float) -> None:
        if self._overlay is not None and self._overlay.is_complete and high > low:
            self._overlay.drr_window = (low, high)

    def _blink(self) -> None:
        if self._overlay is not None and not self._is_held:
            self._overlay.xray_alone = not self._overlay.xray_alone
