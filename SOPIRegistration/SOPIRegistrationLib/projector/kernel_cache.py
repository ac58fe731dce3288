"""Where compiled kernels are kept from one process to the next."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

import numba


def compiled(**options) -> Callable:
    """Decorator: compile a function with numba, and keep the machine code for the next process.

    It is kept beside the source, or in the user's own cache folder. Where neither can be written, as in an
    installation that is read-only for a user without a home, a folder for temporary files serves, and where
    there is none, every process compiles anew.

    Args:
        options: of ``numba.njit``.
    """

    def compile_and_keep(function: Callable) -> Callable:
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:
            # numba has nowhere to keep it.
            pass
        folder = _private_temporary_folder()
        if folder is None:
            return numba.njit(**options)(function)
        before = numba.config.CACHE_DIR
        # Read when a function is declared; other programs' kernels in this process stay where they were.
        numba.config.CACHE_DIR = str(folder)
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:
            return numba.njit(**options)(function)
        finally:
            numba.config.CACHE_DIR = before

    return compile_and_keep


def _private_temporary_folder() -> Path | None:
    """A folder for temporary files that only this user can write to: what is in it is run."""
    user = os.getuid() if hasattr(os, "getuid") else None
    try:
        folder = Path(tempfile.gettempdir()) / f"sopi-kernels-{'user' if user is None else user}"
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return None
    is_private = user is None or (found.st_uid == user and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH))
    return folder if stat.S_ISDIR(found.st_mode) and is_private and os.access(folder, os.W_OK) else None
