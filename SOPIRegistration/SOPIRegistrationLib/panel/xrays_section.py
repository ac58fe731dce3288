"""The table of X-rays of a calibrated set: which are registered jointly, and which one is looked at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import qt
import slicer

from SOPIRegistrationLib.panel.entries import with_xray
from SOPIRegistrationLib.panel.geometry_section import GeometrySection
from SOPIRegistrationLib.panel.messages import errors_shown
from SOPIRegistrationLib.panel.session import Session
from SOPIRegistrationLib.panel.tables import lay_out_table
from SOPIRegistrationLib.scene import XrayEntry

_COLUMNS = ("Use", "X-ray", "Frame", "Camera")


class XraysSection:
    """Shows the X-rays that the scene keeps together.

    Args:
        ui: the panel's widgets by name.
        geometry: where the camera is chosen.
        prepare: prepares the case that is chosen.
        on_changed: called when the table changed.
    """

    def __init__(
        self, ui, geometry: GeometrySection, prepare: Callable[[], None], on_changed: Callable[[], None]
    ):
        self._ui, self._geometry, self._prepare, self._on_changed = ui, geometry, prepare, on_changed
        self._session: Session | None = None
        lay_out_table(ui.xrayTable, _COLUMNS, self._on_cell, narrow=(0, 2, 3))
        ui.addXrayButton.connect("clicked(bool)", self._on_add)
        ui.removeXrayButton.connect("clicked(bool)", self._remove)
        self.show(None)

    def show(self, session: Session | None) -> None:
        """The X-rays of a session; None for none."""
        self._session = session
        entries = [] if session is None else session.state.xrays
        table = self._ui.xrayTable
        table.setRowCount(len(entries))
        for row, entry in enumerate(entries):
            texts = ("✓" if entry.used else "–", entry.node.GetName(), str(entry.frame or ""), entry.camera)
            for column, text in enumerate(texts):
                item = qt.QTableWidgetItem(text)
                item.setToolTip(text)
                table.setItem(row, column, item)
        if session is not None:
            current = [n for n, entry in enumerate(entries) if entry.node is session.parameters.xray]
            if current:
                table.selectRow(current[0])
        self._ui.removeXrayButton.enabled = bool(entries)
        self._ui.jointCheckBox.enabled = len(entries) > 1

    def _on_add(self) -> None:
        """Take the X-ray that is chosen, with its frame and camera, into the table."""
        session, p = self._session, self._session.parameters
        geometry = session.state.geometry
        with errors_shown():
            camera = "" if geometry is None else geometry.camera.name
            session.state.xrays = with_xray(session.state, XrayEntry(p.xray, p.frame, camera))
            self._show_change()

    def _look_at(self, entry: XrayEntry) -> None:
        """Go on with another X-ray of the table; the CT stays where it is in the world of the set."""
        p = self._session.parameters
        with slicer.util.NodeModify(p.parameterNode):
            p.xray, p.frame = entry.node, entry.frame
        self._geometry.choose_camera(entry.camera)
        self.show(self._session)
        self._prepare()

    def _on_cell(self, row: int, column: int) -> None:
        entries = self._session.state.xrays
        if column > 0:
            self._look_at(entries[row])
            return
        entries[row] = replace(entries[row], used=not entries[row].used)
        self._session.state.xrays = entries
        self._show_change()

    def _remove(self, *_) -> None:
        row, entries = self._ui.xrayTable.currentRow(), self._session.state.xrays
        if 0 <= row < len(entries):
            del entries[row]
            self._session.state.xrays = entries
            self._show_change()

    def _show_change(self) -> None:
        self.show(self._session)
        self._on_changed()
