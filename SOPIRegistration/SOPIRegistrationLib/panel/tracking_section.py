"""The section "Track": the CT through the frames of the X-ray, corrected by hand where need be."""

from __future__ import annotations

from collections.abc import Callable

import qt
import slicer

from SOPIRegistrationLib.panel.messages import errors_shown, show_error
from SOPIRegistrationLib.panel.session import Session
from SOPIRegistrationLib.panel.tables import lay_out_table
from SOPIRegistrationLib.progress import Progress
from SOPIRegistrationLib.registration.logic import PreparedCase
from SOPIRegistrationLib.scene.tracking import Followed, SceneTracking
from SOPIRegistrationLib.settings import RegistrationSettings
from SOPIRegistrationLib.tracking.track import STATUSES, FramePose, Track

# Between two looks at the events the tracking gets this long; nobody sees a delay of that length.
_POLL_MS, _WORK_S = 5, 0.03
_COLUMNS = ("Frame", "Verdict", "Why")
_NOT_YET = "Choose an X-ray of several frames and put the CT to its place in one: it is followed from there."
_THEN = "Play the Sequence, or select a frame; where it is wrong, move the CT there and track on."


class TrackingSection(slicer.util.VTKObservationMixin):
    """Starts and shows a tracking; selecting a frame, here or in the Sequence browser, shows it everywhere.

    Args:
        ui: the panel's widgets by name.
        when_ready: does something once the panel's case is prepared.
        session: what is in the scene; None while there is no scene to work on.
    """

    def __init__(
        self, ui, when_ready: Callable[[Callable[[], None]], None], session: Callable[[], Session | None]
    ):
        super().__init__()
        self._ui, self._when_ready, self._session = ui, when_ready, session
        self._tracking: SceneTracking | None = None
        self._timer = qt.QTimer()
        self._timer.setInterval(_POLL_MS)
        self._timer.connect("timeout()", self._poll)
        lay_out_table(ui.trackTable, _COLUMNS, lambda row, _: self._select(row), stretches=False)
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

    def close(self) -> None:
        """Stop, and follow nothing in the scene any more."""
        self._timer.stop()
        if self._tracking is not None:
            self._tracking.cancel()
        self._tracking = None
        self.removeObservers()
        self._ui.trackTable.setRowCount(0)
        self._ui.trackLabel.text = _NOT_YET
        self._show_running(False)

    def use(self, case: PreparedCase | None) -> None:
        """The panel's case: the track of it that the scene was loaded with is shown, unless one is."""
        if case is not None and self._tracking is None:
            tracking = self._made()
            if tracking.restore(self._followed()):
                self._tracking = tracking
                self._on_finished(tracking.track)

    def _made(self) -> SceneTracking:
        tracking = SceneTracking(self._session().scene)
        tracking.progressed.connect(self._on_progress)
        tracking.finished.connect(self._on_finished)
        tracking.stopped.connect(self._on_stopped)
        tracking.failed.connect(self._on_failed)
        return tracking

    def _followed(self) -> Followed:
        session, p = self._session(), self._session().parameters
        return Followed(session.case, p.xray, p.transform, RegistrationSettings(polarity=p.polarity))

    def _start(self) -> None:
        session = self._session()
        self._tracking = self._tracking or self._made()
        self._tracking.start(self._followed(), session.parameters.frame or 1, session.pose)
        self._show_running(True)

    def _track_on(self) -> None:
        session = self._session()
        self._tracking.track_on(session.parameters.frame or 1, session.pose)
        self._show_running(True)

    def _poll(self) -> None:
        with errors_shown():
            self._tracking.poll(_WORK_S)

    def _on_progress(self, progress: Progress) -> None:
        self._ui.trackBar.value = round(100 * progress.fraction)
        self._ui.trackLabel.text = f"Tracking: {progress.stage}…"

    def _on_finished(self, track: Track) -> None:
        self._show_running(False)
        self._show_track(track)
        self.removeObservers()
        if self._tracking.browser is not None:
            self.addObserver(self._tracking.browser, "ModifiedEvent", self._on_browser)
            self._on_browser()

    def _on_stopped(self, why: str) -> None:
        self._show_running(False)
        self._ui.trackLabel.text = why

    def _on_failed(self, error: Exception) -> None:
        self._show_running(False)
        self._ui.trackLabel.text = _NOT_YET if self._tracking.track is None else ""
        show_error(error)

    def _show_track(self, track: Track) -> None:
        poses = list(track)
        table = self._ui.trackTable
        table.setRowCount(len(poses))
        for row, pose in enumerate(poses):
            for column, text in enumerate(_texts(pose)):
                table.setItem(row, column, qt.QTableWidgetItem(text))
        counts = {status: sum(pose.status == status for pose in poses) for status in STATUSES}
        told = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
        self._ui.trackLabel.text = f"{told}. {_THEN}"

    def _select(self, row: int) -> None:
        if self._tracking is not None and self._tracking.browser is not None:
            self._tracking.browser.SetSelectedItemNumber(row)

    def _on_browser(self, *_) -> None:
        """The browser is at another frame: the panel's X-ray shows it."""
        session, row = self._session(), self._tracking.browser.GetSelectedItemNumber()
        if session is None or row < 0:
            return
        self._ui.trackTable.selectRow(row)
        if session.parameters.frame != row + 1:
            session.parameters.frame = row + 1

    def _show_running(self, running: bool) -> None:
        ui, has_track = self._ui, self._tracking is not None and self._tracking.track is not None
        ui.trackButton.enabled = not running
        ui.trackOnButton.enabled = not running and has_track
        ui.stopTrackButton.enabled = running
        if running:
            ui.trackBar.value = 0
            self._timer.start()
        else:
            self._timer.stop()


def _texts(pose: FramePose) -> tuple[str, str, str]:
    """A frame's row."""
    return str(pose.frame), pose.status, "; ".join(pose.verdict.reasons)
