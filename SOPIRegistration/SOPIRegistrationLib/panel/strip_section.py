"""The strip that is always in sight: what runs, the verdict with its reason, the predicted error."""

from __future__ import annotations

import qt

from SOPIRegistrationLib.panel.result_content import status_of, verdicts_of

# Colours that can be read on light and on dark windows.
VERDICTS = {
    "accept": ("Accepted", "#2f9440"),
    "review": ("Check by eye", "#c0740a"),
    "reject": ("Rejected", "#e04848"),
}
# What has become another one since a registration, and what its verdict is not of then.
POSE, INPUTS = "pose", "inputs"
_CHANGED = {
    POSE: "The pose was changed since: this is of the registration, not of the pose as it is now.",
    INPUTS: "Another image, frame or geometry is chosen by now: this is of the registration, not of that.",
}
_GRAY = "#808080"


class StripSection:
    """Shows the stage of what runs, and the verdict on what was registered last.

    Args:
        ui: the panel's widgets by name.
    """

    def __init__(self, ui):
        self._ui = ui
        self._verdict = self._words = self._note = ""
        self._colour, self._changed = _GRAY, ""

    @property
    def headline(self) -> tuple[str, str]:
        """(words, colour as #rrggbb) of the verdict, in short; no words where there is none."""
        if self._words and self._changed:
            return f"{self._words} ({self._changed} changed since)", _GRAY
        return self._words, self._colour

    def show_stage(self, stage: str, fraction: float = 0.0, busy: bool = False) -> None:
        """What runs, and how much of it is done; ``busy`` where nobody knows."""
        ui = self._ui
        ui.stageLabel.text = stage
        ui.progressBar.setRange(0, 0 if busy else 100)
        ui.progressBar.value = round(100 * fraction)
        ui.progressBar.format = "%p%" if stage else ""

    def show_result(self, result: dict | None) -> None:
        """The verdict in the content of a result.json; None for none."""
        if result is None:
            self._clear("")
            return
        verdicts = verdicts_of(result)
        self._words, self._colour = VERDICTS[status_of(result)]
        self._changed = ""
        if len(verdicts) == 1:
            [verdict] = verdicts.values()
            self._words = _words(verdict)
            self._verdict = _with_reasons(verdict)
            error = error_text(verdict.get("predicted_error_mm"))
        else:
            self._verdict = "\n".join(f"{name}: {_with_reasons(one)}" for name, one in verdicts.items())
            error = _errors_text({name: one["predicted_error_mm"] for name, one in verdicts.items()})
        ui = self._ui
        ui.verdictLabel.text = self._verdict
        ui.verdictLabel.styleSheet = f"color: {self._colour};"
        ui.errorLabel.text = "; ".join(filter(None, [error, f"{result['seconds']:.1f} s in all"]))

    def mark_changed(self, changed: str) -> None:
        """Say what has become another one since: :data:`POSE`, :data:`INPUTS`; empty for nothing."""
        if changed == self._changed and self._verdict in self._ui.verdictLabel.text:
            return
        self._changed = changed
        if self._verdict:
            # A colour that says accepted would be taken for what is shown now.
            self._ui.verdictLabel.styleSheet = f"color: {_GRAY if changed else self._colour};"
            self._ui.verdictLabel.text = "\n".join(filter(None, [self._verdict, _CHANGED.get(changed)]))

    def show_note(self, text: str) -> None:
        """Words instead of a result, until there is another one or a registration begins."""
        self._clear(text)
        self._note = text

    def show_readiness(self, text: str) -> None:
        """What can be done now, where neither a result nor a note has been shown."""
        if not self._verdict and not self._note:
            self._ui.verdictLabel.text = text

    def _clear(self, text: str) -> None:
        self._verdict = self._words = self._note = ""
        self._colour = _GRAY
        self._ui.verdictLabel.text, self._ui.verdictLabel.styleSheet = text, ""
        self._ui.errorLabel.text = ""


def verdict_item(status: str | None):
    """A cell with a verdict in its colour; without one a dash."""
    if status is None:
        return qt.QTableWidgetItem("–")
    words, colour = VERDICTS.get(status, (status, _GRAY))
    item = qt.QTableWidgetItem(words)
    item.setForeground(qt.QBrush(qt.QColor(colour)))
    return item


def _words(verdict: dict) -> str:
    words, _ = VERDICTS[verdict["status"]]
    probability = verdict.get("probability")
    return words if probability is None else f"{words} ({_percent(probability)} likely right)"


def _with_reasons(verdict: dict) -> str:
    return ": ".join(filter(None, [_words(verdict), "; ".join(verdict["reasons"])]))


def _errors_text(predicted: dict) -> str:
    """Of several bodies, in short."""
    told = [
        f"{name} {x:.2f}, {y:.2f}, {z:.2f}"
        for name, error in predicted.items()
        if error is not None
        for x, y, z in [error]
    ]
    return f"Predicted error, mm across, along, in depth: {'; '.join(told)}" if told else ""


def _percent(probability: float) -> str:
    """Never more sure than can be told in whole percents."""
    if probability > 0.99:
        return "over 99 %"
    return "under 1 %" if probability < 0.01 else f"{100 * probability:.0f} %"


def error_text(predicted) -> str:
    """The predicted error (3,) in words; none of None."""
    if predicted is None:
        return ""
    x, y, depth = predicted
    return f"Predicted error {x:.2f} mm across, {y:.2f} mm along, {depth:.2f} mm in depth"
