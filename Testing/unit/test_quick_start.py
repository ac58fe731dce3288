"""The README's two commands and what the automatic run does."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_automatic_run_begins_with_the_quick_start_commands():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    quick_start = readme.split("## Quick start")[1].split("\n## ")[0]
    commands = re.findall(r"```sh\n(.*?)\n```", quick_start, re.DOTALL)
    assert len(commands) == 2
    assert all("\n" not in command for command in commands)
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    first = script.index(commands[0])
    assert script[first + 1] == commands[1]
    assert commands[1].endswith(".venv/bin/python -m pytest")
    assert script[first + 2].endswith("mkdocs build")
    assert script[first + 3] == f"{commands[1].rpartition(' && ')[2]} -m slow -n 0"


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_automatic_run_is_a_script():
    subprocess.run(["bash", "-n", str(ROOT / ".ci" / "run")], check=True)


def test_pictures_of_the_readme_exist():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", readme)
    assert pictures
    assert all((ROOT / picture).is_file() for picture in pictures)
