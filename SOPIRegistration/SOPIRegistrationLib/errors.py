"""Errors that a user can mend, and the one way a run is stopped."""


class InputError(ValueError):
    """Unusable input: one line that names the file or value, what is wrong with it and the remedy."""


class Cancelled(RuntimeError):
    """A callback asked a running computation to stop."""
