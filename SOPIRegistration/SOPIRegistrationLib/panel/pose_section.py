"""The start pose: six sliders, handles, buttons that lead to a pose and back."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from SOPIRegistrationLib.panel.pose_undo import Step
from SOPIRegistrationLib.panel.session import Session
from SOPIRegistrationLib.panel.shown_pose import ShownPose
from SOPIRegistrationLib.scene import pose_of

# What a hand moves where no body is chosen.
_ALL = "All bodies"


class PoseSection:
    """Six sliders, in degrees and mm, of the pose parameters theta, and the other ways to a pose by hand.

    Args:
        ui: the panel's widgets by name.
        pose: the pose shown.
        when_ready: does something once the case is prepared.
        go_back: goes where a step back or forth leads.
    """

    def __init__(
        self,
        ui,
        pose: ShownPose,
        when_ready: Callable[[Callable[[], None]], None],
        go_back: Callable[[Step], None],
    ):
        self._ui, self._pose, self._when_ready, self._go_back = ui, pose, when_ready, go_back
        self._session: Session | None = None
        self._sliders = (ui.rxSlider, ui.rySlider, ui.rzSlider, ui.txSlider, ui.tySlider, ui.tzSlider)
        self._given = [(slider.value, slider.value) for slider in self._sliders]
        for slider in self._sliders:
            slider.connect("valueChanged(double)", self._on_slider)
        ui.handlesCheckBox.connect("toggled(bool)", self._on_handles)
        for button, adjusted in (
            (ui.nominalButton, lambda: self._session.case.frame.T_nominal),
            (ui.copyButton, lambda: pose_of(ui.copySelector.currentNode(), self._session.case.frame)),
        ):
            button.connect("clicked(bool)", lambda _checked, adjusted=adjusted: self._adjust(adjusted))
        ui.resetButton.connect("clicked(bool)", lambda _checked: self._reset())
        ui.movedBodyCombo.connect("currentIndexChanged(int)", self._on_moved_body)
        ui.undoButton.connect("clicked(bool)", lambda: self._step(self._pose.steps.undo))
        ui.redoButton.connect("clicked(bool)", lambda: self._step(self._pose.steps.redo))

    def use(self, session: Session | None) -> None:
        """The session whose CT is moved; None for none."""
        self._session = session
        if session is None:
            self._show(np.zeros(6))

    def show(self) -> None:
        """Show the pose as it is."""
        self._show_bodies()
        if self._pose.T_lps_to_camera is not None:
            self._show(self._session.moved_frame.theta_from_T(self._pose.T_lps_to_camera))

    def wants(self, missing: str):
        """(control, what it lacks in words, whether it waits for what runs) of each control.

        Args:
            missing: what the inputs lack.
        """
        ui, steps = self._ui, self._pose.steps
        for control in (*self._sliders, ui.handlesCheckBox, ui.adjustCheckBox, ui.nominalButton):
            yield control, missing, True
        source = "" if ui.copySelector.currentNode() else "a transform to copy from"
        yield ui.copyButton, missing or source, True
        moved = self._pose.has_left_settled
        for button, can, what in (
            (ui.undoButton, steps.can_undo, "take back"),
            (ui.redoButton, steps.can_redo, "repeat"),
            (ui.resetButton, moved, "take back"),
        ):
            can = can and self._pose.T_lps_to_camera is not None
            yield button, "" if can else f"an adjustment to {what}", True

    def lock_handles(self) -> None:
        """Take the handles away while a registration moves the CT under the mouse."""
        if self._session is not None and self._session.handles_shown:
            self._session.show_handles(False)

    def unlock_handles(self) -> None:
        """Give back what :meth:`lock_handles` took."""
        session, wanted = self._session, self._ui.handlesCheckBox.checked
        if session is None or session.case is None or session.parameters.transform is None:
            return
        session.show_handles(wanted)

    def follow_handles(self) -> None:
        """Show whether the scene has handles, as a loaded one may."""
        box, session = self._ui.handlesCheckBox, self._session
        blocked = box.blockSignals(True)
        box.checked = session is not None and session.case is not None and session.handles_shown
        box.blockSignals(blocked)

    @property
    def _theta(self) -> np.ndarray:
        """(6,) what the sliders say, rad and mm; those not moved give back what they were set to."""
        values = np.array(
            [
                given if slider.value == shown else slider.value
                for slider, (given, shown) in zip(self._sliders, self._given, strict=True)
            ]
        )
        return np.concatenate([np.deg2rad(values[:3]), values[3:]])

    def _show(self, theta: np.ndarray) -> None:
        """Set the sliders, which round; a shift beyond their range widens it."""
        self._given = []
        for slider, value in zip(self._sliders, [*np.rad2deg(theta[:3]), *theta[3:]], strict=True):
            blocked = slider.blockSignals(True)
            if abs(value) > slider.maximum:
                slider.minimum, slider.maximum = -float(np.ceil(abs(value))), float(np.ceil(abs(value)))
            slider.value = float(value)
            slider.blockSignals(blocked)
            self._given.append((float(value), slider.value))

    def _on_slider(self, _value: float) -> None:
        theta = self._theta
        self._adjust(lambda: self._session.moved_frame.T_from_theta(theta))

    def _adjust(self, adjusted: Callable[[], np.ndarray]) -> None:
        """Go to a pose by hand; it is computed when the case is prepared."""
        self._when_ready(lambda: self._pose.adjust(adjusted()))

    def _step(self, take: Callable[..., Step]) -> None:
        self._go_back(take(self._pose.placement, self._session.state.geometry))

    def _reset(self) -> None:
        self._when_ready(lambda: self._pose.take_back(self._pose.steps.settled))

    # One of several bodies

    def _show_bodies(self) -> None:
        """What can be moved by itself, and what is."""
        ui, session = self._ui, self._session
        names = [] if session is None or session.case is None else session.case.bodies.names
        names = names if len(names) > 1 else []
        combo = ui.movedBodyCombo
        for widget in (combo, ui.movedBodyComboLabel):
            widget.visible = bool(names)
        if [combo.itemText(index) for index in range(combo.count)] != [_ALL, *names]:
            blocked = combo.blockSignals(True)
            combo.clear()
            for name in (_ALL, *names):
                combo.addItem(name)
            combo.blockSignals(blocked)
        if (
            session is not None
            and (index := max(combo.findText(session.moved_body), 0)) != combo.currentIndex
        ):
            blocked = combo.blockSignals(True)
            combo.setCurrentIndex(index)
            combo.blockSignals(blocked)

    def _on_moved_body(self, index: int) -> None:
        with_handles = self._session.handles_shown
        self._session.parameters.movedBody = self._ui.movedBodyCombo.currentText if index > 0 else ""
        self._session.show_handles(with_handles)
        self.follow_handles()
        self.show()

    def _on_handles(self, shown: bool) -> None:
        def show():
            self._session.show_handles(shown)
            self.follow_handles()

        self._when_ready(show)
