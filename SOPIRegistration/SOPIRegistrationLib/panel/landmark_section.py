"""Landmark pairs: picked in the CT and in the X-ray, solved for the pose."""

from __future__ import annotations

from collections.abc import Callable

import qt
import slicer

from SOPIRegistrationLib.initialise.landmarks import LandmarkPose, pose_from_landmarks
from SOPIRegistrationLib.panel.session import Session
from SOPIRegistrationLib.panel.tables import lay_out_table
from SOPIRegistrationLib.scene import LANDMARK_LAYOUT_ID, LAYOUT_ID, attach, landmark_pairs

_COLUMNS = ("Pair", "CT", "X-ray", "Residual")
_LEAST_PAIRS = 4
# Told from those of the CT, which are drawn where they project.
_XRAY_COLOUR = (1.0, 0.85, 0.2)


class LandmarkSection(slicer.util.VTKObservationMixin):
    """The two point lists of a session and what they say of the pose.

    Args:
        ui: the panel's widgets by name.
        on_changed: called when points were added, moved or removed.
        when_ready: does something once the case is prepared.
    """

    def __init__(self, ui, on_changed, when_ready: Callable[[Callable[[], None]], None]):
        super().__init__()
        self._ui = ui
        self._on_changed, self._when_ready = on_changed, when_ready
        self._session: Session | None = None
        self._solved: LandmarkPose | None = None
        lay_out_table(ui.landmarkTable, _COLUMNS)
        ui.clearLandmarksButton.connect("clicked(bool)", self.clear)
        ui.landmarksSection.connect("contentsCollapsed(bool)", self._on_collapsed)
        self._show()

    def use(self, session: Session | None) -> None:
        """Work on the landmarks of a session with a prepared case; None: nothing to work on."""
        self._session, self._solved = session, None
        self._observe()

    def lay_out(self) -> None:
        """Lay the views out for picking, while the section is open."""
        if self._session is not None and not self._ui.landmarksSection.collapsed:
            self._ensure_nodes()
            self._draw_points(True)
            if self._session.views.layout != LANDMARK_LAYOUT_ID:
                self._session.views.lay_out(LANDMARK_LAYOUT_ID)

    def _on_collapsed(self, collapsed: bool) -> None:
        if not collapsed:
            self._when_ready(self.lay_out)
        elif self._session is not None:
            # They have done what they are for, and would cover what is looked at.
            self._draw_points(False)
            self._session.views.lay_out(LAYOUT_ID)

    def _draw_points(self, drawn: bool) -> None:
        for node in self._nodes():
            node.SetDisplayVisibility(drawn)

    def _ensure_nodes(self) -> None:
        """Make the point lists that are missing; the CT's moves with the CT."""
        p = self._session.parameters
        if p.ctLandmarks is None:
            p.ctLandmarks = self._session.scene.AddNewNodeByClass(
                "vtkMRMLMarkupsFiducialNode", "Landmarks in CT"
            )
        if p.xrayLandmarks is None:
            p.xrayLandmarks = self._session.scene.AddNewNodeByClass(
                "vtkMRMLMarkupsFiducialNode", "Landmarks in X-ray"
            )
            p.xrayLandmarks.CreateDefaultDisplayNodes()
            p.xrayLandmarks.GetDisplayNode().SetSelectedColor(*_XRAY_COLOUR)
        attach(p.transform, p.ctLandmarks)
        for node in (p.ctLandmarks, p.xrayLandmarks):
            # Numbers, as in the table: long names would cover what is looked at.
            node.SetControlPointLabelFormat("%d")
        self._observe()

    def missing(self) -> str:
        """What is still needed to solve, in words."""
        pairs = min(self._counts())
        return "" if pairs >= _LEAST_PAIRS else f"{_LEAST_PAIRS - pairs} more landmark pairs"

    def solve(self):
        """(4, 4) T_lps_to_camera of the pairs.

        Raises:
            InputError: they are too few, or do not determine a pose.
        """
        session, p = self._session, self._session.parameters
        camera, frame = session.case.xray.camera, session.case.frame
        points, pixels = landmark_pairs(p.ctLandmarks, p.xrayLandmarks, camera, frame)
        solved = pose_from_landmarks(points, pixels, camera, T_hint=session.pose)
        self._solved = solved
        self._show()
        return solved.T_lps_to_camera

    def clear(self) -> None:
        """Remove all landmarks."""
        for node in self._nodes():
            node.RemoveAllControlPoints()

    def _nodes(self) -> list:
        if self._session is None:
            return []
        p = self._session.parameters
        return [node for node in (p.ctLandmarks, p.xrayLandmarks) if node is not None]

    def _counts(self) -> tuple[int, int]:
        nodes = self._nodes()
        if len(nodes) < 2:
            return 0, 0
        return tuple(node.GetNumberOfDefinedControlPoints() for node in nodes)

    def _observe(self) -> None:
        self.removeObservers()
        nodes = self._nodes()
        for place, node in zip((self._ui.ctPlaceWidget, self._ui.xrayPlaceWidget), nodes, strict=False):
            place.setCurrentNode(node)
        for node in nodes:
            for event in (node.PointPositionDefinedEvent, node.PointModifiedEvent, node.PointRemovedEvent):
                self.addObserver(node, event, self._on_points)
        self._show()

    def _on_points(self, *_) -> None:
        self._solved = None
        self._show()
        self._on_changed()

    def _show(self) -> None:
        counts, solved, table = self._counts(), self._solved, self._ui.landmarkTable
        table.setRowCount(max(counts))
        for row in range(max(counts)):
            residual = (
                f"{solved.residuals_px[row]:.1f} px" if solved and row < len(solved.residuals_px) else "–"
            )
            marks = ["picked" if row < count else "–" for count in counts]
            for column, text in enumerate((str(row + 1), *marks, residual)):
                table.setItem(row, column, qt.QTableWidgetItem(text))
        if solved is None:
            text = f"{min(counts)} pairs"
        else:
            rms = f"RMS {solved.rms_px:.1f} px, {solved.rms_mm_at_object:.1f} mm at the object"
            text = f"{min(counts)} pairs, {rms}"
            if solved.ambiguous:
                text += "; another pose fits as well: add a pair well off the plane of the others"
        self._ui.landmarkLabel.text = text
        self._ui.clearLandmarksButton.enabled = max(counts) > 0
