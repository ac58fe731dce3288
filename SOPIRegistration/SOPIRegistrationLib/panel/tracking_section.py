"""The section "Track": the bodies through the frames of the X-rays, corrected by hand where need be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import qt
import slicer

from SOPIRegistrationLib.panel.followed import followed, frame_shown, is_stack, xrays_of
from SOPIRegistrationLib.panel.messages import errors_shown, show_error
from SOPIRegistrationLib.panel.session import Session
from SOPIRegistrationLib.panel.shown_pose import ShownPose
from SOPIRegistrationLib.panel.tables import lay_out_table
from SOPIRegistrationLib.panel.timers import timer
from SOPIRegistrationLib.panel.track_plot import COORDINATES, Curve, TrackPlot
from SOPIRegistrationLib.progress import Progress
from SOPIRegistrationLib.registration.logic import PreparedCase
from SOPIRegistrationLib.scene.tracking import SceneTracking
from SOPIRegistrationLib.tracking.track import ACCEPT, STATUSES, Track

# Between two looks at the events the tracking gets this long; nobody sees a delay of that length.
_POLL_MS, _WORK_S = 5, 0.03
# The plot follows a pose that moves this often.
_REDRAW_MS = 200
# Before the application moves what a browser plays: what it moves then is no adjustment by hand.
_BEFORE_SEQUENCES = 100.0
_ALONE_COLOUR = (0.12, 0.47, 0.71)
_NOT_YET = (
    "Choose X-rays of several frames and put what moves to its place in one: it is followed from there."
)
_THEN = "Play the Sequence, or select a frame; where it is wrong, move what is wrong there and track on."


class TrackingSection(slicer.util.VTKObservationMixin):
    """Starts and shows a tracking; selecting a frame, here or in the Sequence browser, shows it everywhere.

    Args:
        ui: the panel's widgets by name.
        pose: the pose shown.
        when_ready: does something once the panel's case is prepared.
        session: what is in the scene; None while there is no scene to work on.
    """

    def __init__(
        self,
        ui,
        pose: ShownPose,
        when_ready: Callable[[Callable[[], None]], None],
        session: Callable[[], Session | None],
    ):
        super().__init__()
        self._ui, self._pose, self._when_ready, self._session = ui, pose, when_ready, session
        self._tracking: SceneTracking | None = None
        self._shown_frame = self._begun_at = 0
        self._timer = timer(_POLL_MS, self._poll, repeats=True)
        self._redraw = timer(_REDRAW_MS, self._show_plot)
        self.plot = TrackPlot(ui.trackPlotPlace, self._select, self._correct)
        for name, unit in COORDINATES:
            ui.trackCoordinateCombo.addItem(f"{name}, {unit}")
        ui.trackCoordinateCombo.connect("currentIndexChanged(int)", lambda _index: self._show_plot())
        ui.trackDragCheckBox.connect("toggled(bool)", self.plot.let_drag)
        lay_out_table(
            ui.trackTable, ("Frame", "Verdict", "Why"), lambda row, _: self._select(row + 1), stretches=False
        )
        ui.trackButton.connect("clicked(bool)", lambda *_: self._when_ready(self._start))
        ui.trackOnButton.connect("clicked(bool)", lambda *_: self._when_ready(self._track_on))
        ui.stopTrackButton.connect("clicked(bool)", lambda *_: self._tracking and self._tracking.cancel())
        self._show_running(False)
        ui.trackLabel.text = _NOT_YET

    @property
    def is_running(self) -> bool:
        """Whether it tracks."""
        return self._tracking is not None and self._tracking.is_running

    @property
    def browser(self):
        """The Sequence browser that plays what was tracked; None before there is one."""
        return None if self._tracking is None else self._tracking.browser

    @property
    def tracks(self) -> dict[str, Track]:
        """The last ones by the body's name; none before."""
        return {} if self._tracking is None else self._tracking.tracks

    def close(self) -> None:
        """Stop, and follow nothing in the scene any more."""
        self._timer.stop()
        self._redraw.stop()
        if self._tracking is not None:
            self._tracking.cancel()
        self._tracking = None
        self._shown_frame = self._begun_at = 0
        self.removeObservers()
        self.plot.clear()
        self._ui.trackTable.setRowCount(0)
        self._ui.trackBar.value = 0
        self._ui.trackLabel.text = _NOT_YET
        self._show_running(False)

    def use(self, case: PreparedCase | None) -> None:
        """The panel's case: the track of it that the scene was loaded with is shown, unless one is."""
        if case is None or self.is_running:
            return
        now = followed(self._session())
        if self._tracking is not None and self._tracking.tracks:
            if self._tracking.is_of(now):
                self._tracking.look(now)
                return
            self.close()
        tracking = self._made()
        if tracking.restore(now):
            self._tracking = tracking
            self._on_finished(tracking.tracks)

    def moves(self) -> None:
        """The pose is another one: the plot follows soon."""
        if self._tracking is not None and self._tracking.tracks and not self._redraw.active:
            self._redraw.start()

    def _made(self) -> SceneTracking:
        tracking = SceneTracking(self._session().scene)
        tracking.progressed.connect(self._on_progress)
        tracking.finished.connect(self._on_finished)
        tracking.stopped.connect(self._on_stopped)
        tracking.failed.connect(self._on_failed)
        return tracking

    def _start(self) -> None:
        self._tracking = self._tracking or self._made()
        self._begun_at = frame_shown(self._session())
        self._tracking.start(followed(self._session()), self._begun_at, self._session().placement)
        self._show_running(True)

    def _track_on(self) -> None:
        self._tracking.look(followed(self._session()))
        self._begun_at = frame_shown(self._session())
        self._tracking.track_on(self._begun_at, self._session().placement)
        self._show_running(True)

    def _poll(self) -> None:
        with errors_shown():
            self._tracking.poll(_WORK_S)

    def _on_progress(self, progress: Progress) -> None:
        self._ui.trackBar.value = round(100 * progress.fraction)
        self._ui.trackLabel.text = f"Tracking: {progress.stage}…"

    def _on_finished(self, tracks: dict[str, Track]) -> None:
        self._show_running(False)
        self._ui.trackBar.value = 100
        self._shown_frame = 0
        self._show_tracks(tracks)
        self.removeObservers()
        if self._tracking.browser is not None:
            self.addObserver(
                self._tracking.browser, "ModifiedEvent", self._on_browser, priority=_BEFORE_SEQUENCES
            )
            self._select(self._begun_at or self._tracking.browser.GetSelectedItemNumber() + 1)
            self._on_browser()

    def _on_stopped(self, why: str) -> None:
        self._show_running(False)
        self._ui.trackLabel.text = why

    def _on_failed(self, error: Exception) -> None:
        self._show_running(False)
        self._ui.trackLabel.text = "" if self._tracking.tracks else _NOT_YET
        show_error(error)

    def _show_tracks(self, tracks: dict[str, Track]) -> None:
        table, several = self._ui.trackTable, len(tracks) > 1
        columns = ["Frame", *(tracks if several else ["Verdict"]), "Why"]
        table.setColumnCount(len(columns))
        table.setHorizontalHeaderLabels(columns)
        rows = list(zip(*tracks.values(), strict=True))
        table.setRowCount(len(rows))
        for row, poses in enumerate(rows):
            reasons = [
                f"{name}: {reason}" if several else reason
                for name, pose in zip(tracks, poses, strict=True)
                for reason in pose.verdict.reasons
            ]
            texts = [str(row + 1), *(pose.status for pose in poses), "; ".join(reasons)]
            for column, text in enumerate(texts):
                item = qt.QTableWidgetItem(text)
                item.setToolTip("\n".join(reasons))
                table.setItem(row, column, item)
        self._ui.trackLabel.text = f"{_counted(tracks)}. {_THEN}"

    # The frame

    def _select(self, number: int) -> None:
        if self.browser is not None:
            self.browser.SetSelectedItemNumber(number - 1)

    def _on_browser(self, *_) -> None:
        """The browser is at another frame: bodies and X-rays of the panel are."""
        session, number = self._session(), self.browser.GetSelectedItemNumber() + 1
        if session is None or number < 1 or self.is_running:
            return
        self._ui.trackTable.selectRow(number - 1)
        if self._shown_frame == number:
            return
        self._shown_frame = number
        self._show_xrays_of(number)
        # Poses of another frame are no adjustments of this one's.
        self._pose.steps.clear()
        self._pose.go(self._tracking.placement(number))
        self._show_plot()

    def _show_xrays_of(self, number: int) -> None:
        """Let volumes of several frames show one; those of Sequences do so by themselves."""
        session = self._session()
        p, stacks = (
            session.parameters,
            [node for node in xrays_of(self._session()) if is_stack(session.scene, node)],
        )
        with slicer.util.NodeModify(p.parameterNode):
            if p.xray in stacks and p.frame != number:
                p.frame = number
            entries = [
                replace(one, frame=number) if one.node in stacks else one for one in session.state.xrays
            ]
            if entries != session.state.xrays:
                session.state.xrays = entries

    # The plot

    def _show_plot(self) -> None:
        session, tracking = self._session(), self._tracking
        if session is None or session.case is None or tracking is None or not tracking.tracks:
            return
        coordinate, number = max(self._ui.trackCoordinateCombo.currentIndex, 0), self._shown_frame
        colours = {one.name: one.colour for one in session.bodies}
        T_world_to_camera = session.case.T_world_to_camera
        poses = followed(self._session()).poses(session.placement)
        moved = tracking.moved(number, session.placement)
        curves = {}
        for body in tracking.bodies:
            track = tracking.tracks[body.name]
            T = {pose.frame: pose.T for pose in track if pose.T is not None}
            T |= {number: poses[body.name]} if body.name in moved else {}
            values = np.full(track.count, np.nan)
            for frame, T_lps_to_world in T.items():
                values[frame - 1] = body.frame.theta_from_T(T_world_to_camera @ T_lps_to_world)[coordinate]
            doubted = [pose.frame for pose in track if pose.T is not None and pose.status != ACCEPT]
            colour = colours.get(body.name, _ALONE_COLOUR)
            curves[body.name] = Curve(_shown_values(values, coordinate), doubted, colour)
        self.plot.show(session.scene, session.parameters.parameterNode, coordinate, curves, number)

    def _correct(self, name: str, number: int, value: float) -> None:
        """A point of the plot was dragged: that coordinate of the body in that frame, one step by hand."""
        if self.is_running:
            self._show_plot()
            return
        self._select(number)
        session, several = self._session(), self._session().case.has_several_bodies
        [frame] = [body.frame for body in self._tracking.bodies if body.name == name]
        coordinate = self._ui.trackCoordinateCombo.currentIndex
        placement = self._pose.placement
        theta = frame.theta_from_T(placement.of(name if several else ""))
        theta[coordinate] = np.deg2rad(value) if coordinate < 3 else value
        T = frame.T_from_theta(theta)
        session.placement = placement.with_pose(T, name if several else "")
        self._show_plot()

    def _show_running(self, running: bool) -> None:
        ui, has_track = self._ui, self._tracking is not None and bool(self._tracking.tracks)
        ui.trackButton.enabled = not running
        ui.trackOnButton.enabled = not running and has_track
        ui.stopTrackButton.enabled = running
        if running:
            self._pose.end_gesture()
            ui.trackBar.value = 0
            self._timer.start()
        else:
            self._timer.stop()


def _shown_values(theta: np.ndarray, coordinate: int) -> np.ndarray:
    """Degrees without jumps by whole turns, or mm."""
    if coordinate >= 3:
        return theta
    known, values = ~np.isnan(theta), theta.copy()
    values[known] = np.unwrap(theta[known])
    return np.rad2deg(values)


def _counted(tracks: dict[str, Track]) -> str:
    """How many frames of each verdict there are."""
    told = []
    for name, track in tracks.items():
        counts = {status: sum(pose.status == status for pose in track) for status in STATUSES}
        words = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
        told.append(f"{name}: {words}" if len(tracks) > 1 else words)
    return "; ".join(told)
