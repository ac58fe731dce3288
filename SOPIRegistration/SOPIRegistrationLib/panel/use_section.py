"""The section "Use of the result": what the CT carries drawn in the X-ray, points of two X-rays in 3D."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
import slicer

from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.rays import meeting_point
from SOPIRegistrationLib.panel.readiness import Want
from SOPIRegistrationLib.panel.session import Session
from SOPIRegistrationLib.panel.shown_pose import ShownPose
from SOPIRegistrationLib.panel.timers import timer
from SOPIRegistrationLib.scene import Picks, Projected, put_points

# Changes that follow each other faster than this are read once.
_READ_MS = 100
# While the CT moves, outlines that take longer to find wait for the rest.
_MOST_S = 0.02


class UseSection(slicer.util.VTKObservationMixin):
    """Keeps what is drawn at the pose shown, and makes points of picks.

    Args:
        ui: the panel's widgets by name.
        pose: the pose shown.
        on_changed: called when points were picked or removed.
    """

    def __init__(self, ui, pose: ShownPose, on_changed: Callable[[], None]):
        super().__init__()
        self._ui, self._pose, self._on_changed = ui, pose, on_changed
        self._session: Session | None = None
        self._projected: Projected | None = None
        self._picks: Picks | None = None
        self._seconds = 0.0
        self._reading = timer(_READ_MS, self._read)
        ui.useSection.connect("contentsCollapsed(bool)", lambda: self._open())
        ui.pointsButton.connect("clicked(bool)", self._on_points)

    @property
    def drawn(self) -> list:
        """What is drawn, as :class:`~SOPIRegistrationLib.scene.projected.Drawn`."""
        return [] if self._projected is None else self._projected.drawn

    @property
    def is_pending(self) -> bool:
        """Whether something is still to be read and drawn."""
        return self._reading.active

    def stop(self) -> None:
        """Read nothing that is still to be read."""
        self._reading.stop()

    def use(self, session: Session | None) -> None:
        """The session with a prepared case; None for none."""
        self.stop()
        self.removeObservers()
        if self._projected is not None:
            self._projected.remove()
        self._session, self._projected, self._picks = session, None, None
        if session is not None:
            self._projected = Projected(
                session.scene, slicer.app.layoutManager(), lambda: self._reading.start()
            )
            self._picks = Picks(session.scene)
            self._read()
            self._picks.show(session.case.xray.camera, session.case.frame)
            self._open()
            self._follow_picks()
        self._show_counts()

    def moves(self) -> None:
        """The pose moves."""
        if self._projected is not None and self._seconds < _MOST_S:
            self._draw()

    def rests(self) -> None:
        """The pose rests."""
        if self._projected is not None:
            self._draw()

    def apply(self, parameters) -> None:
        """Show what the parameter node says."""
        if self._projected is not None and self._projected.is_following != parameters.projected:
            self._reading.start()

    def wants(self) -> Iterator[Want]:
        """(control, what it lacks in words, whether it waits for what runs) of each control."""
        lacks = ""
        if self._session is None:
            lacks = "a pose: press Show views or Register"
        elif not self._is_calibrated:
            lacks = "X-rays of a calibrated set: of one X-ray nobody knows how deep a point lies"
        yield self._ui.pickPlaceWidget, lacks, True
        pairs = "" if self._complete() else "a point picked in two X-rays of the set"
        yield self._ui.pointsButton, lacks or pairs, True

    def _read(self) -> None:
        session = self._session
        if session is None or session.case is None or session.parameters.transform is None:
            return
        if not session.parameters.projected:
            self._projected.remove()
            return
        case = session.case
        left_out = [node for node in (*session.views.shown.bodies, self._picks.node) if node is not None]
        self._projected.follow(session.parameters.transform, case.xray.camera, case.frame, left_out)
        self._draw()

    def _draw(self) -> None:
        T = self._pose.placement and self._pose.placement.T_lps_to_camera
        if T is not None:
            began = time.perf_counter()
            self._projected.draw(T)
            self._seconds = time.perf_counter() - began

    # Points in two X-rays

    def _open(self) -> None:
        """Make what points are picked into, once somebody opens the section and can use it."""
        if self._session is None or self._ui.useSection.collapsed or not self._is_calibrated:
            return
        self._picks.ensure_node()
        self._follow_picks()

    @property
    def _is_calibrated(self) -> bool:
        return self._session.state.calibrated_set is not None

    def _follow_picks(self) -> None:
        node = self._picks.node
        self._ui.pickPlaceWidget.setCurrentNode(node)
        if node is None:
            return
        for event in (node.PointPositionDefinedEvent, node.PointEndInteractionEvent, node.PointRemovedEvent):
            if not self.hasObserver(node, event, self._on_picks):
                self.addObserver(node, event, self._on_picks)

    def _on_picks(self, *_) -> None:
        case = self._session.case
        self._picks.note(case.xray.camera, case.frame)
        self._show_counts()
        self._on_changed()

    def _complete(self) -> list[dict[str, np.ndarray]]:
        """Pixels by camera of each point that was picked in two X-rays or more."""
        if self._session is None or not self._is_calibrated:
            return []
        names = {camera.name for camera in self._session.state.calibrated_set.cameras}
        picked = {name: pixels for name, pixels in self._picks.pixels().items() if name in names}
        most = max((len(pixels) for pixels in picked.values()), default=0)
        found = [
            {name: pixels[index] for name, pixels in picked.items() if index < len(pixels)}
            for index in range(most)
        ]
        return [one for one in found if len(one) > 1]

    def _on_points(self) -> None:
        session, case = self._session, self._session.case
        cameras = {camera.name: camera for camera in session.state.calibrated_set.cameras}
        T_world_to_lps = se3.invert_rigid(
            se3.invert_rigid(case.T_world_to_camera) @ self._pose.placement.T_lps_to_camera
        )
        points, words = [], []
        for number, pixels in enumerate(self._complete(), start=1):
            meeting = meeting_point([cameras[name] for name in pixels], list(pixels.values()))
            if meeting is not None:
                points.append(se3.transform_points(T_world_to_lps, meeting.point))
                words.append(f"{number} (rays {meeting.apart_mm:.1f} mm apart)")
        put_points(session.scene, session.parameters.transform, np.array(points).reshape(-1, 3), words)
        self._reading.start()

    def _show_counts(self) -> None:
        picked = {} if self._picks is None else self._picks.pixels()
        counts = [f"{name}: {len(pixels)}" for name, pixels in picked.items()]
        self._ui.pointsLabel.text = "Picked – " + ", ".join(counts) if counts else "No points yet."
