"""The table of bodies: what moves by itself, how, in which colour, and the verdict on each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import qt

from SOPIRegistrationLib import scene as bridge
from SOPIRegistrationLib.panel.entries import with_body
from SOPIRegistrationLib.panel.messages import errors_shown
from SOPIRegistrationLib.panel.result_content import verdicts_of
from SOPIRegistrationLib.panel.session import Session
from SOPIRegistrationLib.panel.strip_section import error_text, verdict_item
from SOPIRegistrationLib.panel.tables import lay_out_table
from SOPIRegistrationLib.registration.body_inputs import BY_KIND, FIXED, FREE
from SOPIRegistrationLib.scene import BodyEntry
from SOPIRegistrationLib.subject.surface import MATERIALS

_COLUMNS = ("Body", "Made of", "Motion", "Verdict")
_NO_MATERIAL = "Material?"
_EMPTY = (
    "The CT moves as one piece. Add a segmentation of it, another CT or a model to let bones and implants "
    "move by themselves; models need no CT."
)
_HINT = "Click a row to set colour, material and motion of that body below."


class BodiesSection:
    """Shows the bodies that the scene keeps.

    Args:
        ui: the panel's widgets by name.
        on_changed: called when the table changed.
    """

    def __init__(self, ui, on_changed: Callable[[], None]):
        self._ui, self._on_changed = ui, on_changed
        self._session: Session | None = None
        self._shown: tuple | None = None
        lay_out_table(ui.bodyTable, _COLUMNS, lambda _row, _column: None)
        ui.bodyTable.connect("itemSelectionChanged()", self._show_row)
        for name in (_NO_MATERIAL, *MATERIALS):
            ui.bodyMaterialCombo.addItem(name)
        ui.addBodyButton.connect("clicked(bool)", self._on_add)
        ui.removeBodyButton.connect("clicked(bool)", self._on_remove)
        ui.bodySelector.connect("currentNodeChanged(vtkMRMLNode*)", lambda _node: self._show_row())
        ui.bodyColourButton.connect("colorNameChanged(QString)", self._on_colour)
        ui.bodyMaterialCombo.connect("currentIndexChanged(int)", self._on_material)
        ui.bodyMotionCombo.connect("currentIndexChanged(int)", self._on_motion)
        self.show(None)

    def show(self, session: Session | None) -> None:
        """The bodies of a session and the verdicts on them; None for none."""
        self._session = session
        entries = [] if session is None else session.bodies
        entry = None if session is None else session.state.shown_entry
        verdicts = verdicts_of(entry.result) if entry is not None and entry.result else {}
        if self._shown == (entries, verdicts):
            self._show_row()
            return
        self._shown = entries, verdicts
        self._ui.bodiesLabel.text = _HINT if entries else _EMPTY
        table = self._ui.bodyTable
        selected = table.currentRow()
        table.setRowCount(len(entries))
        for row, one in enumerate(entries):
            verdict = verdicts.get(one.name if len(entries) > 1 else "", verdicts.get(one.name))
            texts = one.name, self._made_of(one), self._motion_text(one)
            items = [*map(qt.QTableWidgetItem, texts), verdict_item(verdict and verdict["status"])]
            items[0].setIcon(_swatch(one.colour))
            items[3].setToolTip(_reasons(verdict))
            for column, item in enumerate(items):
                table.setItem(row, column, item)
        if entries:
            table.selectRow(min(max(selected, 0), len(entries) - 1))
        self._show_row()

    @property
    def _row(self) -> int:
        """The row selected; -1 of none."""
        row = self._ui.bodyTable.currentRow()
        return row if self._session is not None and row < len(self._session.bodies) else -1

    def _made_of(self, one: BodyEntry) -> str:
        if one.node is None:
            return "the CT"
        if one.segment:
            return "part of the CT"
        return (one.material or _NO_MATERIAL) if one.node.IsA("vtkMRMLModelNode") else "a CT of its own"

    def _motion_text(self, one: BodyEntry) -> str:
        return self._motions(one).get(one.motion, f"held to {one.motion} (gone)")

    def _motions(self, one: BodyEntry) -> dict[str, str]:
        """What a person reads of each motion that a body may have."""
        by_kind = {BY_KIND: "held to neighbours", FREE: "free"} if one.segment else {BY_KIND: "free"}
        held = {
            other.name: f"held to {other.name}" for other in self._session.bodies if other.name != one.name
        }
        return {**by_kind, FIXED: "fixed", **held}

    def _show_row(self) -> None:
        """The selected body in the controls below the table."""
        ui, row = self._ui, self._row
        one = self._session.bodies[row] if row >= 0 else None
        is_model = one is not None and one.node is not None and one.node.IsA("vtkMRMLModelNode")
        motions = self._motions(one) if one is not None else {}
        controls = ui.bodyColourButton, ui.bodyMaterialCombo, ui.bodyMotionCombo
        before = [control.blockSignals(True) for control in controls]
        ui.bodyMotionCombo.clear()
        for text in motions.values():
            ui.bodyMotionCombo.addItem(text)
        if one is not None:
            ui.bodyColourButton.colorName = _hex(one.colour)
            ui.bodyMaterialCombo.setCurrentIndex(max(ui.bodyMaterialCombo.findText(one.material), 0))
            ui.bodyMotionCombo.setCurrentIndex(
                list(motions).index(one.motion) if one.motion in motions else -1
            )
        for control, blocked in zip(controls, before, strict=True):
            control.blockSignals(blocked)
        ui.bodyColourButton.enabled = ui.bodyMotionCombo.enabled = ui.removeBodyButton.enabled = row >= 0
        ui.bodyMaterialCombo.enabled = is_model
        can_add = self._session is not None and ui.bodySelector.currentNode() is not None
        ui.addBodyButton.enabled = can_add

    def _on_add(self, _checked: bool) -> None:
        with errors_shown():
            node = self._ui.bodySelector.currentNode()
            p = self._session.parameters
            self._set(with_body(self._session.bodies, node, p.ct, p.xray))

    def _on_remove(self, _checked: bool) -> None:
        session, entries = self._session, self._session.bodies
        gone = [entries.pop(self._row)]
        if len(entries) == 1 and entries[0].node is None:
            # The CT alone moves as one piece.
            gone.append(entries.pop())
        elif len(entries) == 1 and not entries[0].segment:
            # A body alone moves with the common transform, from where it is.
            gone.append(entries[0])
            if session.case is not None and entries[0].transform is not None:
                session.pose = session.placement.of(entries[0].name)
            entries[0] = replace(entries[0], transform=None)
        self._set(entries)
        for one in gone:
            bridge.release_body(session.scene, one)
        if session.parameters.transform is not None:
            session.attach()

    def _on_colour(self, name: str) -> None:
        # The last six digits: a button that shows how opaque a colour is puts that before them.
        rgb = tuple(int(name[-6:][n : n + 2], 16) / 255 for n in (0, 2, 4))
        self._change(colour=rgb)

    def _on_material(self, index: int) -> None:
        self._change(material=["", *MATERIALS][index])

    def _on_motion(self, index: int) -> None:
        if index >= 0:
            self._change(motion=list(self._motions(self._session.bodies[self._row]))[index])

    def _change(self, **changes) -> None:
        entries = self._session.bodies
        entries[self._row] = replace(entries[self._row], **changes)
        self._set(entries)

    def _set(self, entries: list[BodyEntry]) -> None:
        self._session.state.bodies = entries
        self.show(self._session)
        self._on_changed()


def _hex(colour) -> str:
    return "#" + "".join(f"{round(255 * value):02x}" for value in np.clip(colour, 0, 1))


def _swatch(colour):
    pixmap = qt.QPixmap(14, 14)
    pixmap.fill(qt.QColor(_hex(colour)))
    icon = qt.QIcon(pixmap)
    # Qt would tint that of a selected row.
    icon.addPixmap(pixmap, qt.QIcon.Selected)
    return icon


def _reasons(verdict: dict | None) -> str:
    """What the verdict on a body rests on."""
    if verdict is None:
        return ""
    return "\n".join(filter(None, [*verdict["reasons"], error_text(verdict.get("predicted_error_mm"))]))
