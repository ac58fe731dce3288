"""Writes the options of every ``sopi`` command into Docs/command-line.md, from the parsers themselves.

    python Docs/command_line.py

Between ``<!-- help: COMMAND -->`` and ``<!-- end -->``; a test tells when the page is behind.
"""

from __future__ import annotations

import argparse
import re
from importlib import import_module
from pathlib import Path

PAGE = Path(__file__).with_name("command-line.md")
SECTION = re.compile(r"(<!-- help: ([\w ]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled_in(page: str) -> str:
    """The page with the options as they are now."""
    return SECTION.sub(lambda section: f"{section[1]}\n{options_of(section[2])}\n{section[3]}", page)


def options_of(command: str) -> str:
    """A list of a command's arguments and options, with what they mean."""
    parser = argparse.ArgumentParser(prog=f"sopi {command}")
    import_module(f"SOPIRegistrationLib.cli.{command.replace(' ', '_')}").add_arguments(parser)
    lines: list[str] = []
    # argparse has no public way to ask a parser for its options.
    for group in parser._action_groups:
        own = [action for action in group._group_actions if not isinstance(action, argparse._HelpAction)]
        if own and group.title not in ("positional arguments", "options"):
            lines += ["", f"*{group.title[0].upper()}{group.title[1:]}*", ""]
        lines += [f"- `{_shown(action)}`{_needed(action)}: {_help(action)}" for action in own]
    return "\n".join(lines) + "\n"


def _shown(action: argparse.Action) -> str:
    """An option as it is typed: its name, and what comes behind."""
    name = ", ".join(action.option_strings)
    if action.nargs == 0:
        return name
    value = action.metavar or (action.dest.upper() if action.choices is None else "|".join(action.choices))
    values = " ".join(value) if isinstance(value, tuple) else value
    if action.nargs in ("+", "*") and name:
        values += " ..."
    return f"{name} {values}".strip()


def _needed(action: argparse.Action) -> str:
    return " (needed)" if action.required and action.option_strings else ""


def _help(action: argparse.Action) -> str:
    return (action.help or "").replace("%%", "%").replace("<", r"\<").replace("*", r"\*")


if __name__ == "__main__":
    PAGE.write_text(filled_in(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
