"""The rows of an evaluation on disk: each there as soon as it is known, none twice."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.evaluation.figures import COLUMNS
from SOPIRegistrationLib.evaluation.methods import NETWORKS
from SOPIRegistrationLib.installed import RTPI
from SOPIRegistrationLib.whole_files import write_whole

RESULTS, SETTINGS = "results.csv", "settings.json"
# Settings whose entries are known by name: new ones may join.
_NAMED = {"groups": "group", "variants": "method"}

Row = dict


def weights_setting(network: str) -> str:
    """Name of the setting that tells which weights of a network there were; its value is None without any."""
    return f"weights of {network}"


# No row can come from a network that was not there. Only `auto` does with the pose network or without.
_MAY_JOIN = {weights_setting(network) for network in NETWORKS if network != RTPI}


class Results:
    """The rows of a folder, kept as they come.

    Args:
        folder: made if it is not there.
        settings: what the rows depend on.

    Raises:
        InputError: the folder cannot be written to, is in use, or holds rows of other settings.
    """

    def __init__(self, folder: Path, settings: dict):
        self.folder = folder
        self.settings = json.loads(json.dumps(settings))
        self._path = folder / RESULTS
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(folder)
            self._claim()
            self._rows = self._read()
        except OSError as error:
            raise InputError(
                f"cannot write to the output folder {folder} ({error.strerror or error}): choose another "
                "with --out"
            ) from None

    @property
    def rows(self) -> list[Row]:
        """All rows in the order of the groups, cases and methods, not of their making: what is computed of
        them is the same whoever was first."""
        groups = list(self.settings["groups"])
        return sorted(
            self._rows.values(),
            key=lambda row: (groups.index(row["group"]), int(row["case"]), row["method"]),
        )

    def close(self) -> None:
        """Let others use the folder."""
        self._lock.close()

    def missing(self, tasks: Sequence[tuple[str, int, str]], retry: bool = False) -> list:
        """Those of the tasks (group, case, method) that have no row; with ``retry`` also what failed."""
        return [
            task for task in tasks if (row := self._rows.get(tuple(task))) is None or (retry and row["error"])
        ]

    def add(self, row: Row) -> None:
        """Write a row at once: whatever happens next, it is kept. It replaces one with an error."""
        written = {name: _text(row.get(name)) for name in COLUMNS}
        key = _key(written)
        known = self._rows.get(key)
        if known is not None and not known["error"]:
            raise ValueError(f"there is a row of {key} already")
        self._rows[key] = written
        if known is None:
            self._append([written])
        else:
            write_whole(self._path, _csv([dict(zip(COLUMNS, COLUMNS, strict=True)), *self._rows.values()]))

    def _claim(self) -> None:
        path = self.folder / SETTINGS
        if not path.exists():
            if self._path.exists():
                raise InputError(f"{self._path} is there without its {SETTINGS}: choose another --out")
            write_whole(path, json.dumps(self.settings, indent=1) + "\n")
            return
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            raise InputError(f"{path} is damaged: choose another --out") from None
        self._compare(before, self.settings)
        for named, what in _NAMED.items():
            old, new = before.get(named, {}), self.settings[named]
            for name in old.keys() & new.keys():
                self._compare(old[name], new[name], f"{what} {name}, " if name else "")
            self.settings[named] = old | new
        if self.settings != before:
            write_whole(path, json.dumps(self.settings, indent=1) + "\n")

    def _compare(self, before: dict, now: dict, of: str = "") -> None:
        """Whether rows of both settings may stand together; what was not known before is filled in.

        Raises:
            InputError: they may not.
        """
        for name in dict.fromkeys([*now, *before]):
            if name in _NAMED:
                continue
            old, new = before.get(name), now.get(name)
            if name in _MAY_JOIN and None in (old, new):
                now[name] = old or new
            elif old != new:
                raise InputError(
                    f"{self.folder} holds an evaluation with {of}{name} {_short(old)}, this one has "
                    f"{_short(new)}: choose another --out, or the same options to continue"
                )

    def _read(self) -> dict[tuple[str, int, str], Row]:
        """All rows by group, case and method. Half a line at the end is cut off."""
        text = self._path.read_bytes() if self._path.exists() else b""
        whole = text[: text.rfind(b"\n") + 1]
        if len(whole) < len(text):
            with self._path.open("r+b") as stream:
                stream.truncate(len(whole))
        if not whole:
            self._append([dict(zip(COLUMNS, COLUMNS, strict=True))])
            return {}
        reader = csv.DictReader(io.StringIO(whole.decode("utf-8")))
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise InputError(f"{self._path} has other columns than this version's: choose another --out")
        return {_key(row): row for row in reader}

    def _append(self, rows: Sequence[Row]) -> None:
        with self._path.open("a", encoding="utf-8", newline="") as stream:
            stream.write(_csv(rows))
            stream.flush()
            os.fsync(stream.fileno())


def _locked(folder: Path):
    """A file that this process alone has locked; the system unlocks it when the process ends, however.

    Raises:
        InputError: another process has it.
    """
    stream = (folder / ".lock").open("a")
    try:
        try:
            import fcntl
        except ModuleNotFoundError:
            import msvcrt

            msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        stream.close()
        raise InputError(
            f"another evaluation writes to {folder}: wait for it, or choose another --out"
        ) from None
    return stream


def _key(row: Row) -> tuple[str, int, str]:
    return row["group"], int(row["case"]), row["method"]


def _csv(rows: Sequence[Row]) -> str:
    text = io.StringIO()
    csv.DictWriter(text, COLUMNS, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _text(value) -> str:
    if value is None:
        return ""
    return repr(value) if isinstance(value, float) else str(value)


def _short(value) -> str:
    return (
        "nothing" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    )
