"""Writes what the references hold of the code: options of ``sopi`` from its parsers, names of the Python
interface from their docstrings.

    python Docs/reference.py

Between ``<!-- help: COMMAND -->`` or ``<!-- python: NAME ... -->`` and ``<!-- end -->``; a test tells when a
page is behind. On the site the docstrings stand in full (site_hooks.py).
"""

from __future__ import annotations

import argparse
import inspect
import re
from importlib import import_module
from pathlib import Path

import SOPIRegistrationLib

DOCS = Path(__file__).parent
PAGES = (DOCS / "command-line.md", DOCS / "python.md")
SECTION = re.compile(r"(<!-- (help|python): ([\w. ]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled_in(page: str) -> str:
    """A page with its sections as the code is now."""
    written = {"help": options_of, "python": names_of}
    return SECTION.sub(lambda found: f"{found[1]}\n{written[found[2]](found[3])}\n{found[4]}", page)


def names_of(names: str) -> str:
    """A list of names of the package, such as "images.read_volume": what each is, linked to its code."""
    return "".join(f"- {_described(name)}\n" for name in names.split())


def _described(name: str) -> str:
    module, _, own = f"SOPIRegistrationLib.{name}".rpartition(".")
    thing = getattr(import_module(module), own)
    if not callable(thing):
        return f"`{own}`: {', '.join(thing)}"
    file = Path(inspect.getfile(thing)).relative_to(Path(SOPIRegistrationLib.__file__).parents[1]).as_posix()
    called = "" if inspect.isclass(thing) else f"({', '.join(inspect.signature(thing).parameters)})"
    summary = " ".join(inspect.getdoc(thing).partition("\n\n")[0].split())
    return f"[`{own}{called}`](../SOPIRegistration/{file}): {summary}"


def options_of(command: str) -> str:
    """A list of a command's arguments and options, with what they mean."""
    parser = argparse.ArgumentParser(prog=f"sopi {command}")
    import_module(f"SOPIRegistrationLib.cli.{command.replace(' ', '_')}").add_arguments(parser)
    lines: list[str] = []
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
    for page in PAGES:
        page.write_text(filled_in(page.read_text(encoding="utf-8")), encoding="utf-8")
