"""The fusion section: how X-ray and DRR are shown together."""

from __future__ import annotations

import numpy as np
import slicer

from SOPIRegistrationLib.panel.timers import timer
from SOPIRegistrationLib.scene import Overlay, pixels_from_ras

# A curtain or lens that follows the mouse is drawn no more often than this.
_CURTAIN_MS = 15
# A key that is held repeats: it comes as released and pressed again at once, every time.
_RELEASE_MS = 60
# Windows that a mouse drags in a view are followed this often.
_WINDOW_MS = 30
# Pixel values between the ends of a range are told in about so many steps.
_STEPS = 256
# What a mode is set by: its rows in the panel.
_ROWS = {"fusion": "mixSlider", "edges": "edgeSlider", "blink": "blinkSlider"}


class OverlaySection(slicer.util.VTKObservationMixin):
    """Keeps an overlay at what the panel says, and at the windows that X-ray and DRR have in the application.

    Args:
        ui: the panel's widgets by name.
    """

    def __init__(self, ui):
        super().__init__()
        self._ui = ui
        self._overlay: Overlay | None = None
        self._case = None
        self._at: np.ndarray | None = None
        self._is_held = False
        self._blinking = timer(0, self._blink, repeats=True)
        self._drawing = timer(_CURTAIN_MS, self._draw_curtain)
        self._releasing = timer(_RELEASE_MS, lambda: self._show_xray_alone(False))
        self._windows = timer(_WINDOW_MS, self._follow_windows)
        ui.xrayWindowRange.connect("valuesChanged(double,double)", self._on_xray_window)
        ui.drrWindowRange.connect("valuesChanged(double,double)", self._on_drr_window)

    @property
    def is_pending(self) -> bool:
        """Whether a window is still to be followed."""
        return self._windows.active

    def use(self, overlay: Overlay | None, case=None) -> None:
        """The overlay of a prepared case to act on from now on; None where nothing is shown."""
        self._overlay, self._case = overlay, case
        self.removeObservers()
        if overlay is None:
            self._is_held = False
            for pending in (self._blinking, self._drawing, self._releasing, self._windows):
                pending.stop()
            for ranges in (self._ui.xrayWindowRange, self._ui.drrWindowRange):
                _show_range(ranges, (0.0, 1.0), (0.0, 0.0), decimals=0)
            return
        for one in (overlay, *overlay.beside):
            for display in one.displays if one.is_complete else ():
                self.addObserver(display, "ModifiedEvent", self._on_display)
        self._show_windows()

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
        if held:
            self._releasing.stop()
            self._show_xray_alone(True)
        elif self._is_held:
            self._releasing.start()

    def _show_xray_alone(self, alone: bool) -> None:
        if self._overlay is not None and alone != self._is_held:
            self._is_held = alone
            self._overlay.xray_alone = alone

    def _draw_curtain(self) -> None:
        if self._overlay is not None and self._overlay.is_complete and self._at is not None:
            across, down = (float(share) for share in self._at)
            self._overlay.set(curtain=across, lens_down=down)

    def _on_xray_window(self, low: float, high: float) -> None:
        if self._overlay is not None and self._overlay.is_complete and high > low:
            self._overlay.xray_window = (low, high)

    def _on_drr_window(self, low: float, high: float) -> None:
        if self._overlay is not None and self._overlay.is_complete and high > low:
            self._overlay.drr_window = (low, high)

    def _on_display(self, *_) -> None:
        if not self._windows.active:
            self._windows.start()

    def _follow_windows(self) -> None:
        if self._overlay is None or not self._overlay.is_complete:
            return
        for one in (self._overlay, *self._overlay.beside):
            one.follow_windows()
        self._show_windows()

    def _show_windows(self) -> None:
        """What the boxes say: the X-ray's window among its pixel values, the DRR's."""
        overlay, ui = self._overlay, self._ui
        (least, greatest), window = overlay.xray_range, overlay.xray_window
        span = max(greatest - least, 1e-6)
        # A window may reach beyond the pixels: one for the whole of a 16 bit image.
        limits = min(least, window[0]), max(greatest, window[1])
        _show_range(ui.xrayWindowRange, limits, window, decimals=int(np.clip(3 - np.log10(span), 0, 5)))
        window = overlay.drr_window
        _show_range(ui.drrWindowRange, (0.0, max(2.0 * window[1], 1.0)), window, decimals=1)

    def _blink(self) -> None:
        if self._overlay is not None and not self._is_held:
            self._overlay.xray_alone = not self._overlay.xray_alone


def _show_range(ranges, limits: tuple[float, float], values: tuple[float, float], decimals: int) -> None:
    """Set a range, reporting nothing; the values that it shows are rounded."""
    blocked = ranges.blockSignals(True)
    ranges.decimals = decimals
    ranges.setRange(*limits)
    ranges.singleStep = max(10.0**-decimals, round((limits[1] - limits[0]) / _STEPS, decimals))
    ranges.setValues(*values)
    ranges.blockSignals(blocked)
