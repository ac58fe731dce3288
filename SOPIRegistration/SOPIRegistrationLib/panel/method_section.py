"""How to register: start, refinement, what is compared; and whether what a method needs is installed."""

from __future__ import annotations

from collections.abc import Callable

from SOPIRegistrationLib.methods import LEARNED_REFINEMENT
from SOPIRegistrationLib.panel.choice_box import ChoiceBox
from SOPIRegistrationLib.panel.choices import INITIALISERS, METHODS, NEEDS_TORCH, OFFERED, label_of
from SOPIRegistrationLib.panel.messages import errors_shown

_NO_WEIGHTS = "weights of the learned refinement (none are installed)"


class MethodSection:
    """The boxes of names, and the question for PyTorch.

    Args:
        ui: the panel's widgets by name.
        ensure_torch: makes sure that PyTorch is installed, asking first; answers whether it is, and raises
            InputError where installing fails.
        say: shows words where the stage is shown.
    """

    def __init__(self, ui, ensure_torch: Callable[[], bool], say: Callable[[str], None]):
        self._ui, self._ensure_torch, self._say = ui, ensure_torch, say
        self._parameters = None
        self._usable = next(iter(INITIALISERS.values()))
        self._boxes = [
            ChoiceBox(getattr(ui, f"{name}Combo"), offered, name) for name, offered in OFFERED.items()
        ]
        ui.initialiserCombo.connect("activated(int)", self._on_initialiser)

    def use(self, parameters) -> None:
        """Show and change the choices of a wrapped parameter node; None for none."""
        self._parameters = parameters
        if parameters is not None:
            self._usable = parameters.initialiser
        self.show()

    def show(self) -> None:
        """Show what the parameter node says now."""
        for box in self._boxes:
            box.show(self._parameters)

    def can_use(self, *methods: str) -> bool:
        """Whether what methods need is installed, or could be; asks before it installs anything."""
        if NEEDS_TORCH.isdisjoint(methods):
            return True
        with errors_shown():
            if self._ensure_torch():
                return True
        self._say("This method needs PyTorch, which is not installed: nothing was started.")
        return False

    def wants(self):
        """(control, what it lacks in words, whether it waits for what runs) of each control."""
        ui = self._ui
        for control in (ui.initialiserCombo, ui.methodCombo, ui.contentCombo, ui.timeLimitSpinBox):
            yield control, "", True

    @staticmethod
    def missing_for_refining() -> str:
        """What the learned refinement lacks, in words."""
        return "" if LEARNED_REFINEMENT in METHODS.values() else _NO_WEIGHTS

    def _on_initialiser(self, _index: int) -> None:
        """Somebody chose another initialiser: without what it needs, the choice goes back."""
        p = self._parameters
        if p is None:
            return
        chosen, before = p.initialiser, self._usable
        if self.can_use(chosen):
            self._usable = chosen
            self._say("")
            return
        # What a scene was saved with may need the same.
        back = next(iter(INITIALISERS.values())) if before in NEEDS_TORCH else before
        p.initialiser = self._usable = back
        chosen, back = (label_of(INITIALISERS, name) for name in (chosen, back))
        self._say(f"“{chosen}” needs PyTorch, which is not installed: back to “{back}”.")
