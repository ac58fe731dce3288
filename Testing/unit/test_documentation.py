"""README and Docs/: their commands run, their links lead somewhere, and they tell of the program as it is.

Above every block of shell commands stands how it is tested: ``<!-- run -->``, ``<!-- run: wrist -->`` (needs
the real wrist data), ``<!-- run by .ci/run -->`` or ``<!-- not run: WHY -->``. The blocks of a page run one
after the other in one folder, which holds the files of ``sopi demo`` in ``demo/``.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from SOPIRegistrationLib import __version__
from SOPIRegistrationLib.cli.main import COMMANDS, main

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES += sorted((ROOT / "Docs").rglob("*.md"))
COMMAND_LINE = ROOT / "Docs" / "command-line.md"
MARKERS = re.compile(r"<!-- (run|run: wrist|run by \.ci/run|not run: \S.*) -->")
BLOCK = re.compile(r"(?:(<!-- .*? -->)\n)?```(?:sh|bash|shell|console)\n(.*?)\n```", re.DOTALL)
# Pictures as well.
LINK = re.compile(r"\]\(([^)\s]+)\)")


class Block(NamedTuple):
    """Shell commands of a page, and how they are tested ("" where nothing is said)."""

    marker: str
    commands: str


def blocks(page: Path) -> list[Block]:
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [Block(marker[5:-4], commands) for marker, commands in found]


def calls(page: Path) -> list[str]:
    """The calls of ``sopi`` in a page's blocks."""
    lines = "\n".join(block.commands for block in blocks(page)).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("sopi ")]


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def inline_calls(page: Path) -> list[list[str]]:
    """The words of the calls of ``sopi`` in a page's text, placeholders and all, such as COMMAND left out."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    found = [call.split() for call in re.findall(r"`sopi ([^`]+)`", text)]
    return [words for words in found if words[0] in COMMANDS]


with_commands = functools.partial(pytest.mark.parametrize, "page", ids=name_of)


@pytest.fixture
def folder(demo_run, tmp_path) -> Path:
    """A folder of its own with the files of ``sopi demo`` in ``demo/``."""
    shutil.copytree(demo_run.folder, tmp_path / "demo")
    return tmp_path


@with_commands([page for page in PAGES if blocks(page)])
def test_every_command_says_how_it_is_tested(page):
    unmarked = [b.commands for b in blocks(page) if not MARKERS.fullmatch(f"<!-- {b.marker} -->")]
    assert not unmarked, "put <!-- run -->, <!-- run: wrist --> or <!-- not run: WHY --> above these"


@with_commands([page for page in PAGES if calls(page)])
def test_commands_have_the_options_they_are_shown_with(page):
    for call in calls(page):
        _, name, *words = shlex.split(call)
        parser = argparse.ArgumentParser(prog=call, exit_on_error=False)
        importlib.import_module(f"SOPIRegistrationLib.cli.{name}").add_arguments(parser)
        parser.parse_args(words)


@with_commands([page for page in PAGES if inline_calls(page)])
def test_options_named_in_the_text_exist(page):
    for words in inline_calls(page):
        task = 2 if words[0] == "train" and len(words) > 1 and not words[1].startswith("-") else 1
        known = options_of(*words[:task])
        named = {word for word in words if word.startswith("--")}
        assert named <= known, f"sopi {' '.join(words)}"


@functools.cache
def options_of(*command: str) -> set[str]:
    """The options that ``sopi COMMAND --help`` shows."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), pytest.raises(SystemExit):
        main([*command, "--help"])
    return {*re.findall(r"--[\w-]+", printed.getvalue()), "--help"}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@with_commands([page for page in PAGES if any(block.marker == "run" for block in blocks(page))])
def test_commands_run(page, folder):
    run_in(folder, [block.commands for block in blocks(page) if block.marker == "run"])


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@with_commands([page for page in PAGES if any(block.marker == "run: wrist" for block in blocks(page))])
def test_commands_on_the_wrist_run(page, shared_data, tmp_path):
    shutil.copytree(shared_data / "wrist", tmp_path, dirs_exist_ok=True)
    gold = json.loads((tmp_path / "gold_0099.json").read_text())["T_lps_to_camera"]["cam01"]
    (tmp_path / "start.json").write_text(json.dumps({"pose": {"T_lps_to_camera": gold}}))
    run_in(tmp_path, [block.commands for block in blocks(page) if block.marker == "run: wrist"])


def run_in(folder: Path, commands: list[str]) -> None:
    """Run blocks one after the other, ``sopi`` being that of this checkout."""
    programs = folder / "programs"
    programs.mkdir()
    sopi = programs / "sopi"
    sopi.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m SOPIRegistrationLib "$@"\n')
    sopi.chmod(0o755)
    path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]])
    package = os.pathsep.join([str(ROOT / "SOPIRegistration"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": package.rstrip(os.pathsep)}
    for block in commands:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}{done.stderr}"


def test_the_python_example_registers_the_demo(folder, monkeypatch, capsys):
    names = run_python("python.md", folder, monkeypatch)
    assert names["result"].verdict.status == "accept"
    assert names["drr"].shape == names["geometry"].camera.shape
    assert capsys.readouterr().out.startswith("accept")


def run_python(page: str, folder: Path, monkeypatch) -> dict:
    """Run the Python blocks of a page of Docs/ in a folder, as one program; its names at the end."""
    text = (ROOT / "Docs" / page).read_text(encoding="utf-8")
    program = "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    monkeypatch.chdir(folder)
    names: dict = {"__name__": "__main__"}
    exec(compile(program, page, "exec", dont_inherit=True), names)
    return names


def test_importing_the_package_loads_nothing_and_every_public_name_is_there():
    program = (
        "import sys, SOPIRegistrationLib as package\n"
        "assert not {'numpy', 'SimpleITK', 'numba', 'torch'} & set(sys.modules)\n"
        "assert set(package.__all__) <= set(dir(package))\n"
        "assert all(hasattr(package, name) for name in package.__all__)\n"
        "assert not hasattr(package, 'no_such_name')\n"
        "assert 'torch' not in sys.modules\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "SOPIRegistration")}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@with_commands(PAGES)
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in LINK.findall(text):
        if re.match(r"\w+:", link):
            continue
        target, _, anchor = link.partition("#")
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), f"{name_of(page)} links to {link}"
        assert not anchor or anchor in anchors(file), f"{name_of(page)} links to {link}"


def anchors(page: Path) -> set[str]:
    """Of a page's headings, as GitHub and MkDocs form them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\s-]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def test_the_command_line_reference_has_every_command():
    text = COMMAND_LINE.read_text(encoding="utf-8")
    shown = {words.split()[0] for words in re.findall(r"<!-- help: ([\w ]+) -->", text)}
    assert shown == set(COMMANDS)


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("nav:")[1]
    listed = set(re.findall(r": (\S+\.md)", navigation))
    assert listed == {page.relative_to(ROOT / "Docs").as_posix() for page in (ROOT / "Docs").rglob("*.md")}


def test_the_readme_is_short():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150


def test_the_newest_entry_of_the_changes_is_this_version():
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest[1] == __version__
