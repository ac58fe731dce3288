"""``sopi``: finds the subcommand and turns its errors into one line and an exit code."""

from __future__ import annotations

import argparse
import gc
import logging
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from SOPIRegistrationLib import __version__
from SOPIRegistrationLib.errors import Cancelled, InputError

# One module a subcommand, imported only when it is asked for: `sopi --help` is there at once.
COMMANDS = {
    "demo": "register a made-up patient to a simulated X-ray and compare with the known pose",
    "register": "find the pose of a CT in one X-ray, or in several calibrated ones",
    "track": "find the poses of bodies in every frame of an X-ray sequence",
    "batch": "run many registrations and tracks from a table",
    "info": "say what the program makes of a file: kind, size, axes, geometry and its sources",
    "drr": "project a CT at a given pose",
    "train": "train a network on simulated X-rays of made-up and given patients",
    "evaluate": "compare registration methods on simulated cases or on your own",
    "benchmark": "time the projector beside the other DRR renderers installed",
}
UNUSABLE, INTERRUPTED = 2, 130


class Parser(argparse.ArgumentParser):
    """Argument parser whose errors are one line."""

    def error(self, message: str):
        self.exit(UNUSABLE, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line.

    Returns:
        0; 2 where an input is unusable; 130 where the run was interrupted.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    name = next((word for word in argv if not word.startswith("-")), None)
    logging.basicConfig(format="sopi: %(levelname)s: %(message)s")
    try:
        args = _parser(name).parse_args(argv)
        return args.run(args)
    except InputError as error:
        print(f"sopi {name}: {error}", file=sys.stderr)
        return UNUSABLE
    except ModuleNotFoundError as error:
        print(f"sopi {name} needs the Python package '{error.name}': pip install it", file=sys.stderr)
        return UNUSABLE
    except (KeyboardInterrupt, Cancelled):
        print(f"sopi {name}: interrupted, nothing was written", file=sys.stderr)
        return INTERRUPTED


def process(argv: Sequence[str] | None = None) -> NoReturn:
    """The same as a process of its own, which ends."""
    try:
        sys.exit(main(argv))
    finally:
        # Else Python looks through all that was imported for garbage, half a second of it with torch.
        gc.freeze()


def _parser(chosen: str | None) -> argparse.ArgumentParser:
    parser = Parser(prog="sopi", description="Registration of a CT to X-rays (2D/3D), from files to files.")
    parser.add_argument("--version", action="version", version=f"sopi {__version__}")
    subcommands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        subcommand = subcommands.add_parser(
            name, help=summary, description=f"{summary[0].upper()}{summary[1:]}."
        )
        if name == chosen:
            module = import_module(f"SOPIRegistrationLib.cli.{name}")
            module.add_arguments(subcommand)
            subcommand.set_defaults(run=module.run)
    return parser
