"""Errors that a user can mend, and the one way a run is stopped."""


class InputError(ValueError):
    """Unusable input: one line that names the file or value, what is wrong with it and the remedy."""


class Cancelled(RuntimeError):
    """A callback asked a running computation to stop."""


def line_of(error: BaseException) -> str:
    """An exception as one line of text."""
    text = " ".join(str(error).split())
    return text if isinstance(error, InputError) else f"{type(error).__name__}: {text}".rstrip(": ")
