"""What can be done now: controls that can be used, and in the tooltips of the others what they lack."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

# (control, what it lacks in words, whether it waits for what runs)
Want = tuple[Any, str, bool]


class Readiness:
    """Enables controls; a control that lacks something says in its tooltip what.

    Args:
        ui: the panel's widgets by name.
        is_running: whether something runs that the controls wait for.
    """

    def __init__(self, ui, is_running: Callable[[], bool]):
        self._ui, self._is_running = ui, is_running
        self._tips: dict[str, str] = {}

    def apply(self, wants: Iterator[Want]) -> None:
        """Enable each control where nothing is missing, and nothing runs that it waits for."""
        for control, missing, waits in wants:
            tip = self._tips.setdefault(control.name, control.toolTip)
            control.enabled = not missing and not (waits and self._is_running())
            control.toolTip = f"{tip}\nMissing: {missing}." if missing else tip

    def missing(self, session, of_geometry: str) -> str:
        """What inputs lack, in words, with what the geometry lacks; no session is no scene."""
        if session is None:
            return "a scene"
        lacks_ct = session.parameters.ct is None and session.reader.needs_ct
        return _listed(["a CT"] * lacks_ct + self._of_xray(session, of_geometry))

    def missing_of_xray(self, session, of_geometry: str) -> str:
        """What an X-ray lacks, whatever is to be registered to it; arguments as above."""
        return "a scene" if session is None else _listed(self._of_xray(session, of_geometry))

    @staticmethod
    def _of_xray(session, of_geometry: str) -> list[str]:
        lacks_xray = session.parameters.xray is None
        return ["an X-ray"] * lacks_xray + [of_geometry] * bool(of_geometry)

    def wants(self, session, missing: str, special: dict[str, str], stoppable: bool) -> Iterator[Want]:
        """Of the controls that belong to no section.

        Args:
            session: see above.
            missing: what inputs lack.
            special: what some buttons lack beyond that, by name; of "addXray" all that it lacks.
            stoppable: whether something runs that can be stopped.
        """
        ui = self._ui
        for name in (
            "showViews",
            "register",
            "initialise",
            "refine",
            "optimise",
            "train",
            "solve",
        ):
            yield getattr(ui, name + "Button"), missing or special.get(name, ""), True
        yield ui.addXrayButton, special["addXray"], True
        yield ui.demoButton, "a scene" if session is None else "", True
        yield ui.inputsSection, "", True
        yield ui.cancelButton, "" if stoppable else "a running computation", False
        prepared = session is not None and session.case is not None
        for control in (ui.xrayWindowRange, ui.drrWindowRange):
            yield control, "" if prepared else "a DRR: press Show views or Register", False


def _listed(words: list[str]) -> str:
    """Words as a person lists them."""
    *others, last = words or [""]
    return f"{', '.join(others)} and {last}" if others else last
