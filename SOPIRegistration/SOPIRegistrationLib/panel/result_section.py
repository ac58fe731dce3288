"""The result section: verdict, figures, and the table of registrations so far."""

from __future__ import annotations

from collections.abc import Callable

import qt

_VERDICTS = {
    "accept": ("Accepted", "#2e7d32"),
    "review": ("Check by eye", "#b26a00"),
    "reject": ("Rejected", "#c62828"),
}
_MEASURES = {"gradient_correlation": "gradient correlation", "ncc": "NCC"}
_MOVED = "\nThe pose was changed since: this is of the registration, not of the pose as it is now."
_GRAY = "#808080"
_COLUMNS = ("Time", "Method", "Verdict", "Similarity", "Duration")


class ResultSection:
    """Shows the last result and the history.

    Args:
        ui: the panel's widgets by name.
        on_chosen: called with the number of a history row that was clicked.
    """

    def __init__(self, ui, on_chosen: Callable[[int], None]):
        self._ui = ui
        table = ui.historyTable
        table.setColumnCount(len(_COLUMNS))
        table.setHorizontalHeaderLabels(list(_COLUMNS))
        table.verticalHeader().setVisible(False)
        table.horizontalHeader().setStretchLastSection(True)
        table.setSelectionBehavior(qt.QAbstractItemView.SelectRows)
        table.setSelectionMode(qt.QAbstractItemView.SingleSelection)
        table.setEditTriggers(qt.QAbstractItemView.NoEditTriggers)
        table.connect("cellClicked(int,int)", lambda row, _column: on_chosen(row))
        self._verdict = self._words = self._note = ""
        self._colour, self._moved = _GRAY, False

    @property
    def headline(self) -> tuple[str, str]:
        """(words, colour as #rrggbb) of the verdict, in short; no words where there is none."""
        if self._words and self._moved:
            return f"{self._words} (pose changed since)", _GRAY
        return self._words, self._colour

    def show_result(self, result: dict | None) -> None:
        """Show the content of a result.json, or nothing."""
        ui = self._ui
        if result is None:
            self._clear("")
            return
        words, colour = _VERDICTS[result["verdict"]["status"]]
        if (probability := result["verdict"].get("probability")) is not None:
            words += f" ({100 * probability:.3g} %)"
        self._words, self._colour, self._moved = words, colour, False
        reasons = "; ".join(result["verdict"]["reasons"])
        self._verdict = f"{words}: {reasons}" if reasons else words
        ui.verdictLabel.text = self._verdict
        ui.verdictLabel.styleSheet = f"color: {colour};"
        ui.similarityLabel.text = _similarity_text(result)
        seconds = f"{result['seconds']:.1f} s in all"
        error = _error_text(result["verdict"].get("predicted_error_mm"))
        ui.errorLabel.text = f"{error}; {seconds}" if error else seconds
        ui.timeLabel.text = "\n".join([seconds, *_stage_times(result["stages"])])

    def mark_moved(self, moved: bool) -> None:
        """Say whether the CT has left the pose that the result shown is of."""
        self._moved = moved
        if self._verdict:
            # A colour that says accepted would be taken for the pose as it is now.
            self._ui.verdictLabel.styleSheet = f"color: {_GRAY if moved else self._colour};"
            self._ui.verdictLabel.text = self._verdict + (_MOVED if moved else "")

    def show_note(self, text: str) -> None:
        """Words instead of a result, until there is another one or a registration begins."""
        self._clear(text)
        self._note = text

    def show_readiness(self, text: str) -> None:
        """What can be done now, where neither a result nor a note has been shown."""
        if not self._verdict and not self._note:
            self._ui.verdictLabel.text = text

    def _clear(self, text: str) -> None:
        ui = self._ui
        self._verdict = self._words = self._note = ""
        self._colour = _GRAY
        ui.verdictLabel.text, ui.verdictLabel.styleSheet = text, ""
        for label in (ui.similarityLabel, ui.timeLabel):
            label.text = "–"
        ui.errorLabel.text = ""

    def show_history(self, entries) -> None:
        """Fill the table, newest last and selected."""
        table = self._ui.historyTable
        table.setRowCount(len(entries))
        for row, entry in enumerate(entries):
            words, colour = _VERDICTS.get(entry.verdict, (entry.verdict, "#000000"))
            similarity = entry.similarity.get("gradient_correlation", float("nan"))
            texts = (
                entry.time.replace("T", " ")[5:],
                entry.method,
                words,
                f"{similarity:.3f}",
                f"{entry.seconds:.1f} s",
            )
            for column, text in enumerate(texts):
                item = qt.QTableWidgetItem(text)
                if column == 2:
                    item.setForeground(qt.QBrush(qt.QColor(colour)))
                table.setItem(row, column, item)
        table.resizeColumnsToContents()
        table.horizontalHeader().setStretchLastSection(True)
        if entries:
            table.selectRow(len(entries) - 1)


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


def _error_text(predicted) -> str:
    if predicted is None:
        return ""
    x, y, depth = predicted
    return f"Predicted error {x:.2f} mm across, {y:.2f} mm along, {depth:.2f} mm in depth"
