"""What a track has done so far, on disk line by line: a stopped one goes on from there."""

from __future__ import annotations

import json
import os
from pathlib import Path

from SOPIRegistrationLib.errors import InputError

NAME = "track.unfinished.jsonl"
Key = tuple[str, str, int]


class Journal:
    """Entries by what was done (stage, body, frame); in memory only without a folder.

    Args:
        folder: where the file is; None for none.
        inputs: what the entries depend on, in JSON's types.

    Raises:
        InputError: nothing can be written there, or the folder holds the journal of other inputs.
    """

    def __init__(self, folder: Path | None = None, inputs: dict | None = None):
        self._entries: dict[Key, dict] = {}
        self._path = None if folder is None else folder / NAME
        # Written with the first entry: inputs that turn out to be unusable leave nothing to stumble over.
        self._head: str | None = None
        if self._path is None:
            return
        head = json.dumps({"inputs": inputs or {}}, sort_keys=True)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lines = self._whole_lines()
            if lines and lines[0] != head:
                raise InputError(
                    f"{self._path} is of an unfinished track with other inputs: delete it, or choose "
                    "another --out"
                )
            for line in lines[1:]:
                key, entry = json.loads(line)
                self._entries[tuple(key)] = entry
            if not lines:
                self._head = head
        except (OSError, ValueError, TypeError) as error:
            if isinstance(error, InputError):
                raise
            raise self._unusable(error) from None

    def __len__(self) -> int:
        """Number of entries."""
        return len(self._entries)

    def get(self, key: Key) -> dict | None:
        """The entry of what was done before, or None."""
        return self._entries.get(key)

    def add(self, key: Key, entry: dict) -> None:
        """Write an entry at once: whatever happens next, it is kept.

        Raises:
            InputError: it cannot be written.
        """
        self._entries[key] = entry
        if self._path is not None:
            try:
                if self._head is not None:
                    self._write(self._head)
                    self._head = None
                self._write(json.dumps([key, entry]))
            except OSError as error:
                raise self._unusable(error) from None

    def finish(self) -> None:
        """The track is written: nothing is to go on from."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _whole_lines(self) -> list[str]:
        """The lines of the file; half a line at its end, of a run that was killed, is cut off."""
        if not self._path.exists():
            return []
        content = self._path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            with self._path.open("r+b") as stream:
                stream.truncate(len(whole))
        return whole.decode("utf-8").splitlines()

    def _write(self, line: str) -> None:
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")
            stream.flush()
            os.fsync(stream.fileno())

    def _unusable(self, error: Exception) -> InputError:
        return InputError(
            f"cannot keep the track in {self._path} ({getattr(error, 'strerror', None) or error}): what is "
            "done is kept; make room or choose another --out"
        )
