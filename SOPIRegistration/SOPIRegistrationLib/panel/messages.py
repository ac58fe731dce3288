"""Message boxes for what a user can mend."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import slicer

from SOPIRegistrationLib.errors import InputError


@contextmanager
def errors_shown() -> Iterator[None]:
    """Show an InputError raised inside in a message box, and go on after the block."""
    try:
        yield
    except InputError as error:
        show_error(error)


def show_notes(notes: Iterable[str]) -> None:
    """What was assumed or mended in an input, each a line; nothing where there is none."""
    text = "\n".join(notes)
    if text:
        slicer.util.infoDisplay(text)


def show_error(error: BaseException) -> None:
    """An InputError as it is; anything else as a fault of this module, with its traceback in the log."""
    if isinstance(error, InputError):
        text = str(error)
        slicer.util.errorDisplay(text[:1].upper() + text[1:])
        return
    logging.getLogger(__name__).error("registration failed", exc_info=error)
    slicer.util.errorDisplay(
        f"Something unexpected went wrong ({type(error).__name__}: {error}); the error log has more."
    )
