"""The strip that is always in sight: what runs, the verdict with its reason, the predicted error."""

from __future__ import annotations

VERDICTS = {
    "accept": ("Accepted", "#2e7d32"),
    "review": ("Check by eye", "#b26a00"),
    "reject": ("Rejected", "#c62828"),
}
_MOVED = "\nThe pose was changed since: this is of the registration, not of the pose as it is now."
_GRAY = "#808080"


class StripSection:
    """Shows the stage of what runs, and the verdict on what was registered last.

    Args:
        ui: the panel's widgets by name.
    """

    def __init__(self, ui):
        self._ui = ui
        self._verdict = self._words = self._note = ""
        self._colour, self._moved = _GRAY, False

    @property
    def headline(self) -> tuple[str, str]:
        """(words, colour as #rrggbb) of the verdict, in short; no words where there is none."""
        if self._words and self._moved:
            return f"{self._words} (pose changed since)", _GRAY
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
        verdict = result["verdict"]
        words, colour = VERDICTS[verdict["status"]]
        self._words, self._colour, self._moved = words, colour, False
        if (probability := verdict.get("probability")) is not None:
            self._words += f" ({_percent(probability)} likely right)"
        reasons = "; ".join(verdict["reasons"])
        self._verdict = f"{self._words}: {reasons}" if reasons else self._words
        ui = self._ui
        ui.verdictLabel.text = self._verdict
        ui.verdictLabel.styleSheet = f"color: {colour};"
        seconds = f"{result['seconds']:.1f} s in all"
        error = _error_text(verdict.get("predicted_error_mm"))
        ui.errorLabel.text = f"{error}; {seconds}" if error else seconds

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
        self._verdict = self._words = self._note = ""
        self._colour = _GRAY
        self._ui.verdictLabel.text, self._ui.verdictLabel.styleSheet = text, ""
        self._ui.errorLabel.text = ""


def _percent(probability: float) -> str:
    """Never more sure than can be told in whole percents."""
    if probability > 0.99:
        return "over 99 %"
    return "under 1 %" if probability < 0.01 else f"{100 * probability:.0f} %"


def _error_text(predicted) -> str:
    if predicted is None:
        return ""
    x, y, depth = predicted
    return f"Predicted error {x:.2f} mm across, {y:.2f} mm along, {depth:.2f} mm in depth"
