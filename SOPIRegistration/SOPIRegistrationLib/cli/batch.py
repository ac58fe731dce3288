"""``sopi batch``: many registrations and tracks from a table, on the processes that evaluations run on."""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from tqdm import tqdm

from SOPIRegistrationLib.cli.common import require_range
from SOPIRegistrationLib.cli.main import INTERRUPTED, main
from SOPIRegistrationLib.errors import InputError, line_of
from SOPIRegistrationLib.evaluation.runner import default_workers
from SOPIRegistrationLib.whole_files import write_whole

TABLE = "batch.csv"
_COLUMNS = ("row", "command", "out", "exit_code", "status", "message")
_COMMANDS = ("register", "track")
# Columns of words that stand without an option's name, of each command, in their order.
_PLAIN = {"register": ("ct", "xray"), "track": ("body",)}
# A column with several words in one cell divides them with this.
_DIVIDER = ";"
# A row that takes longer hangs: 1,000 frames of two bodies take less.
_LONGEST_S = 4 * 3600.0

Row = dict


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the subcommand."""
    parser.add_argument(
        "cases",
        type=Path,
        metavar="CASES.csv",
        help="a registration or track a row: columns command (register or track; register without it), out "
        "(folder of the row in --out; its number if there is none), ct and xray, or body and xrays, and any "
        f"option of the command by its name; several words in a cell are divided by '{_DIVIDER}'; relative "
        "files are looked for beside the table",
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help=f"folder of the rows' folders and of {TABLE}; a stopped batch goes on there",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=default_workers(),
        metavar="N",
        help="processes (one for four cores)",
    )
    parser.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="of a Dask scheduler, such as tcp://host:8786, whose workers see the same files",
    )
    parser.add_argument("--retry", action="store_true", help="run rows that failed once more")


@dataclass(frozen=True)
class Batch:
    """Rows as command lines; see :class:`~SOPIRegistrationLib.workers.Work`.

    Attributes:
        commands: words of ``sopi`` by row, from 1.
        workers: processes.
    """

    commands: dict[int, tuple[str, ...]]
    workers: int = 1

    def on(self, workers: int) -> Batch:
        """The same for so many workers."""
        return replace(self, workers=workers)

    def patient_of(self, task: tuple[int]) -> str:
        """Rows of the same CT follow each other."""
        return self.commands[task[0]][1]

    def allowed_s(self, phase: str) -> float:
        """How long a row may take."""
        return _LONGEST_S

    def row(self, task: tuple[int], tell: Callable[[str], None]) -> Row:
        """Run a row's command line in this process; what it printed last stands for it."""
        [number] = task
        words, said = self.commands[number], io.StringIO()
        try:
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                code = main(list(words))
        except SystemExit as error:
            code = int(error.code or 0)
        except Exception as error:
            return self.failed(task, line_of(error))
        lines = [line for line in said.getvalue().splitlines() if line.strip()]
        return {
            "row": number,
            "command": words[0],
            "out": words[-1],
            "exit_code": code,
            "status": _status(Path(words[-1])) if code == 0 else "failed",
            "message": "" if code == 0 or not lines else lines[-1],
        }

    def failed(self, task: tuple[int], reason: str) -> Row:
        """The row of one that could not be run."""
        words = self.commands[task[0]]
        named = {"row": task[0], "command": words[0], "out": words[-1]}
        return {**named, "exit_code": "", "status": "failed", "message": reason}


def run(args: argparse.Namespace) -> int:
    """Run the rows that are missing, and print how they ended.

    Returns:
        0; 2 where rows failed; 130 where it was interrupted (finished rows are kept).

    Raises:
        InputError: the table or an option is unusable.
    """
    require_range("workers", args.workers, 1)
    batch = Batch(read_table(args.cases, args.out), args.workers)
    path = args.out / TABLE
    done = _done(path, batch)
    if args.retry:
        done = {number: row for number, row in done.items() if row["status"] != "failed"}
    left = [(number,) for number in batch.commands if number not in done]
    try:
        with tqdm(
            total=len(batch.commands), initial=len(done), desc="batch", unit="row", disable=None
        ) as bar:
            for row in _rows(batch, left, args.scheduler):
                done[row["row"]] = row
                _write(path, done)
                bar.update()
    except KeyboardInterrupt:
        print(
            f"sopi batch: interrupted; {len(done)} rows are in {path}, the same command goes on",
            file=sys.stderr,
        )
        return INTERRUPTED
    failed = [row for row in done.values() if row["status"] == "failed"]
    for row in failed:
        print(f"row {row['row']} failed: {row['message']}", file=sys.stderr)
    print(f"{len(done) - len(failed)} rows done, {len(failed)} failed; written {path}")
    return 2 if failed else 0


def read_table(path: Path, out: Path) -> dict[int, tuple[str, ...]]:
    """The command line of each row of a table, from 1; the last word is its folder.

    Raises:
        InputError: unreadable, a row without a needed column, or two rows with one folder.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows = list(csv.DictReader(io.StringIO(text), delimiter=_delimiter(text), strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"table {path} cannot be read ({line_of(error)}): give a CSV file in UTF-8"
        ) from None
    if not rows:
        raise InputError(f"table {path} has no rows: a row is one registration or track")
    commands, folders = {}, {}
    for number, row in enumerate(rows, start=1):
        if None in row:
            raise InputError(f"table {path}, row {number} has more cells than there are columns")
        cells = {name.strip().replace("-", "_"): (cell or "").strip() for name, cell in row.items()}
        folder = cells.pop("out", "") or f"{number:04d}"
        if folder in folders:
            raise InputError(
                f"table {path}, rows {folders[folder]} and {number} have the same out '{folder}'"
            )
        folders[folder] = number
        words = _command_line(cells, f"table {path}, row {number}", path.parent)
        commands[number] = (*words, "--out", str((out / folder).absolute()))
    return commands


def _delimiter(text: str) -> str:
    """What divides a table's columns: spreadsheets write semicolons where the comma is the decimal point."""
    head = text.partition("\n")[0]
    return max(",;\t", key=head.count)


def _words(cell: str, beside: Path) -> Iterator[str]:
    """The words of a cell; files beside the table by their full path."""
    for word in cell.split(_DIVIDER):
        word = word.strip()
        head, mark, rest = word.rpartition("=")
        file, at, frame = rest.rpartition("@") if "@" in rest else (rest, "", "")
        found = beside / file
        yield f"{head}{mark}{found.absolute()}{at}{frame}" if file and found.exists() else word


def _command_line(cells: dict[str, str], where: str, beside: Path) -> list[str]:
    """The words of a row but for its folder; ``where`` it stands, for messages."""
    command = cells.pop("command", "") or _COMMANDS[0]
    if command not in _COMMANDS:
        raise InputError(f"{where}: command '{command}' is not register or track")
    words = [command]
    for name in _PLAIN[command]:
        cell = cells.pop(name, "")
        if not cell:
            raise InputError(f"{where} has no {name}: fill in that column")
        words += _words(cell, beside)
    for name, cell in cells.items():
        if cell.lower() in ("", "no", "false"):
            continue
        words.append(f"--{name.replace('_', '-')}")
        # Options that are asked for or not stand alone; this one has yes and no for its values.
        if cell.lower() not in ("yes", "true") or name == "mirrored":
            words += _words(cell, beside)
    return words


def _rows(batch: Batch, tasks: Sequence[tuple[int]], scheduler: str | None) -> Iterator[Row]:
    if scheduler is None and (batch.workers == 1 or len(tasks) < 2):
        return (batch.row(task, lambda phase: None) for task in tasks)
    if find_spec("distributed") is None:
        raise InputError(
            "several processes need the Python package 'distributed': pip install it, or use --workers 1"
        )
    from SOPIRegistrationLib.workers import rows_of_workers

    return rows_of_workers(batch, tasks, scheduler)


def _status(folder: Path) -> str:
    """What a row's results say: a registration's verdict, a track's counts."""
    if (folder / "result.json").exists():
        return json.loads((folder / "result.json").read_text(encoding="utf-8"))["verdict"]["status"]
    bodies = json.loads((folder / "track.json").read_text(encoding="utf-8"))["bodies"]
    return "; ".join(
        body["name"] + " " + ", ".join(f"{n} {status}" for status, n in body["counts"].items() if n)
        for body in bodies
    )


def _done(path: Path, batch: Batch) -> dict[int, Row]:
    """Rows of an earlier run of the same table.

    Raises:
        InputError: the folder holds another batch.
    """
    if not path.exists():
        return {}
    with path.open(encoding="utf-8", newline="") as stream:
        known = {int(row["row"]): {**row, "row": int(row["row"])} for row in csv.DictReader(stream)}
    for number, row in known.items():
        words = batch.commands.get(number)
        if words is None or (row["command"], row["out"]) != (words[0], words[-1]):
            raise InputError(f"{path} is of another table: choose another --out")
    return known


def _write(path: Path, rows: dict[int, Row]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(row for _, row in sorted(rows.items()))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text.getvalue())
    except OSError as error:
        raise InputError(f"cannot write {path} ({error.strerror or error}): choose another --out") from None
