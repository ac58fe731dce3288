"""The result section: figures of the registration shown, the table of all of them, exports."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import qt
import slicer

from SOPIRegistrationLib.geometry.c_arm import CArmGeometry
from SOPIRegistrationLib.panel.result_content import estimated_lines, placement_of
from SOPIRegistrationLib.panel.session import Session
from SOPIRegistrationLib.panel.shown_pose import ShownPose
from SOPIRegistrationLib.panel.strip_section import INPUTS, POSE, StripSection, verdict_item
from SOPIRegistrationLib.panel.tables import lay_out_table
from SOPIRegistrationLib.registration.outputs import write_content
from SOPIRegistrationLib.scene import HistoryEntry, RegistrationState

_MEASURES = {"gradient_correlation": "gradient correlation", "ncc": "NCC"}
_COLUMNS = ("Time", "Method", "Verdict", "Similarity", "Took")


class ResultSection:
    """Shows a result and the history, and writes files.

    Attributes:
        entry: the registration whose result is shown; None for none.

    Args:
        ui: the panel's widgets by name.
        pose: the pose shown, which the history leads back to.
        strip: where the verdict is shown.
        when_ready: does something once the case is prepared.
    """

    def __init__(
        self,
        ui,
        pose: ShownPose,
        strip: StripSection,
        when_ready: Callable[[Callable[[], None]], None],
    ):
        self._ui, self._pose, self._strip, self._when_ready = ui, pose, strip, when_ready
        self._session: Session | None = None
        self._shown: tuple[int, int | None] = 0, None
        self.entry: HistoryEntry | None = None
        lay_out_table(ui.historyTable, _COLUMNS, lambda row, _: self._go_back_to(row), stretches=False)
        ui.exportResultButton.connect("clicked(bool)", self._export_result)
        ui.exportTransformButton.connect("clicked(bool)", self._export_transform)
        ui.exportPictureButton.connect("clicked(bool)", self._export_picture)

    def use(self, session: Session | None) -> None:
        """The session whose results are shown; None for none."""
        self._session = session

    def shows(self, state: RegistrationState) -> bool:
        """Whether what a scene keeps as its last result is shown."""
        return self._shown == (state.count, state.shown)

    def show(self) -> None:
        """Show the result that the scene keeps as its last one, and the history."""
        state, ui = self._session and self._session.state, self._ui
        self._shown = (state.count, state.shown) if state else (0, None)
        self.entry = state.shown_entry if state else None
        result = self.entry and self.entry.result
        ui.similarityLabel.text = _similarity_text(result) if result else "–"
        lines = [f"{result['seconds']:.1f} s in all", *_stage_times(result["stages"])] if result else ["–"]
        estimated = "\n".join(estimated_lines(result)) if result else ""
        for label in (ui.estimatedLabel, ui.geometryEstimatedLabel):
            label.text, label.visible = estimated, bool(estimated)
        ui.estimatedLabelLabel.visible = bool(estimated)
        if estimated:
            ui.geometryEstimatedLabel.text = f"Estimated by the registration shown:\n{estimated}"
        ui.timeLabel.text = "\n".join(lines)
        self._show_history()
        self._strip.show_result(result)
        self.mark_changed()

    def mark_changed(self) -> None:
        """Say whether the result shown is that of the inputs chosen, and of the pose as it is."""
        now, session = self._pose.placement, self._session
        if now is None or session is None or session.case is None:
            return
        if self.entry is None or self.entry.result is None:
            return
        of_result = placement_of(self.entry.result, session.case.T_world_to_camera)
        moved = "" if of_result.is_near(now, atol=1e-4) else POSE
        self._strip.mark_changed(moved if session.is_of_inputs(self.entry) else INPUTS)

    def _go_back_to(self, row: int) -> None:
        """Go back to a registration of the history: its geometry, pose and result."""
        session = self._session
        entry, known = session.state.history[row], session.state.geometry

        def go_back():
            with self._pose.rearranged():
                session.restore(row)
            self._pose.steps.settle(self._pose.placement)

        if entry.geometry is not None and _is_of_same_image(entry.geometry, known):
            session.state.set_geometry(entry.geometry, session.state.calibrated_set)
        self._when_ready(go_back)

    def wants(self):
        """(control, what it lacks in words, whether it waits for what runs) of each control."""
        ui, session = self._ui, self._session
        shown = session is not None and session.state.shown is not None
        prepared = session is not None and session.case is not None
        pose = "" if prepared else "a pose: press Show views or Register"
        yield ui.exportResultButton, "" if shown else "a registration", True
        yield ui.exportTransformButton, pose, True
        yield ui.exportPictureButton, pose, True
        yield ui.historyTable, "", True

    def _show_history(self) -> None:
        """Fill the table, newest last, with the one shown selected."""
        table = self._ui.historyTable
        state = self._session.state if self._session is not None else None
        entries = state.history if state is not None else []
        table.setRowCount(len(entries))
        for row, entry in enumerate(entries):
            similarity = entry.similarity.get("gradient_correlation", float("nan"))
            date, _, time = entry.time.partition("T")
            items = [
                *map(qt.QTableWidgetItem, (time, entry.method)),
                verdict_item(entry.verdict),
                *map(qt.QTableWidgetItem, (f"{similarity:.3f}", f"{entry.seconds:.1f} s")),
            ]
            items[0].setToolTip(date)
            for column, item in enumerate(items):
                table.setItem(row, column, item)
        table.resizeColumnsToContents()
        table.horizontalHeader().setStretchLastSection(True)
        if entries:
            table.selectRow(len(entries) - 1 if state.shown is None else state.shown)

    def _export_result(self) -> None:
        content = self._session.state.shown_entry.result
        _export("result.json", "Result (*.json)", lambda path: write_content(path, content))

    def _export_transform(self) -> None:
        _export("ct_to_carm.tfm", "Transform (*.tfm)", self._session.write_transform)

    def _export_picture(self) -> None:
        _export("overlay.png", "Picture (*.png)", self._session.write_picture)


def _is_of_same_image(geometry: CArmGeometry, other: CArmGeometry | None) -> bool:
    """Whether two geometries are of one camera and image size."""
    cameras = [one and (one.camera.name, one.camera.shape) for one in (geometry, other)]
    return cameras[0] == cameras[1]


def _export(name: str, kinds: str, write: Callable[[Path], None]) -> None:
    path = qt.QFileDialog.getSaveFileName(None, f"Export {name}", name, kinds)
    if not path:
        return
    try:
        write(Path(path))
    except (OSError, RuntimeError) as error:
        # SimpleITK tells of files that it cannot write by RuntimeError, in many lines.
        reason = getattr(error, "strerror", None) or "check the folder and the file's ending"
        slicer.util.errorDisplay(f"Cannot write {path}: {reason}")


def _stage_times(stages: list[dict]) -> list[str]:
    """A line for each kind of stage; several tries go through the same ones."""
    seconds: dict[str, list[float]] = {}
    for stage in stages:
        seconds.setdefault(stage["name"], []).append(stage["seconds"])
    return [
        f"{sum(times):.1f} s  {name}" + (f" ({len(times)} times)" if len(times) > 1 else "")
        for name, times in seconds.items()
    ]


def _similarity_text(result: dict) -> str:
    before = result.get("initial_similarity") or {}
    lines = []
    for name, words in _MEASURES.items():
        if name in result["similarity"]:
            was = f"{before[name]:.3f} → " if name in before else ""
            lines.append(f"{words} {was}{result['similarity'][name]:.3f}")
    return "\n".join(lines)
