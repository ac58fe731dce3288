"""The six sliders of the pose."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


class PoseSection:
    """Six sliders, in degrees and mm, of the pose parameters theta.

    Args:
        ui: the panel's widgets by name.
        on_theta: called with theta (6,), rad and mm, when a slider is moved.
    """

    def __init__(self, ui, on_theta: Callable[[np.ndarray], None]):
        self.sliders = (ui.rxSlider, ui.rySlider, ui.rzSlider, ui.txSlider, ui.tySlider, ui.tzSlider)
        self._given = [(slider.value, slider.value) for slider in self.sliders]
        for slider in self.sliders:
            slider.connect("valueChanged(double)", lambda _value: on_theta(self.theta))

    @property
    def theta(self) -> np.ndarray:
        """(6,) what the sliders say, rad and mm; those not moved give back what they were set to."""
        values = np.array(
            [
                given if slider.value == shown else slider.value
                for slider, (given, shown) in zip(self.sliders, self._given, strict=True)
            ]
        )
        return np.concatenate([np.deg2rad(values[:3]), values[3:]])

    def clear(self) -> None:
        """Back to nought, where there is no pose to show."""
        self.show(np.zeros(6))

    def show(self, theta: np.ndarray) -> None:
        """Set the sliders, which round; a shift beyond their range widens it."""
        self._given = []
        for slider, value in zip(self.sliders, [*np.rad2deg(theta[:3]), *theta[3:]], strict=True):
            blocked = slider.blockSignals(True)
            if abs(value) > slider.maximum:
                slider.minimum, slider.maximum = -float(np.ceil(abs(value))), float(np.ceil(abs(value)))
            slider.value = float(value)
            slider.blockSignals(blocked)
            self._given.append((float(value), slider.value))
