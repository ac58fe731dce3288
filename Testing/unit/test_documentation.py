"""README and Docs/: their commands run, their links lead somewhere, and they tell of the program as it is.

Above every block of shell commands stands how it is tested: ``<!-- run -->``, ``<!-- run: wrist -->`` (with
files of :func:`wrist`, :func:`knee` or :func:`spine`), ``<!-- run by .ci/run -->`` or ``<!-- not run: WHY
-->``. The blocks of a page with the same marker run one after the other in one folder; that of ``run`` holds
the files of ``sopi demo`` in ``demo/``.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.util
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

import numpy as np
import pytest
import SimpleITK as sitk
import SOPIRegistrationLib
from SOPIRegistrationLib import (
    Camera,
    CArmGeometry,
    PoseFrame,
    ProjectorVolume,
    __version__,
    cut_up,
    prepare_ct,
    project,
    write_geometry,
)
from SOPIRegistrationLib.cli.main import COMMANDS, main
from SOPIRegistrationLib.registration.outputs import write_volume
from SOPIRegistrationLib.simulation.bending import bent, bent_poses
from SOPIRegistrationLib.simulation.phantom import lumbar_phantom

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES += sorted((ROOT / "Docs").rglob("*.md"))
COMMAND_LINE = ROOT / "Docs" / "command-line.md"
MARKERS = re.compile(r"<!-- (run|run: (?:wrist|knee|spine)|run by \.ci/run|not run: \S.*) -->")
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


def untagged(page: Path) -> list[str]:
    """Calls of ``sopi`` in fenced blocks that are not said to be of a shell."""
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    fenced = re.findall(r"^```.*?^```", text, re.DOTALL | re.MULTILINE)
    return [line for block in fenced for line in block.splitlines() if line.startswith("sopi ")]


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


@with_commands(PAGES)
def test_every_command_says_how_it_is_tested(page):
    unmarked = [b.commands for b in blocks(page) if not MARKERS.fullmatch(f"<!-- {b.marker} -->")]
    assert not untagged(page), "begin the block with ```sh"
    assert not unmarked, "put <!-- run -->, <!-- run: wrist --> or <!-- not run: WHY --> above these"


@with_commands([page for page in PAGES if calls(page)])
def test_commands_have_the_options_they_are_shown_with(page):
    for call in calls(page):
        _, name, *words = shlex.split(call, comments=True)
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


def wrist(folder: Path, request) -> None:
    """The real wrist, with a start pose."""
    shutil.copytree(request.getfixturevalue("shared_data") / "wrist", folder, dirs_exist_ok=True)
    gold = json.loads((folder / "gold_0099.json").read_text())["T_lps_to_camera"]["cam01"]
    (folder / "start.json").write_text(json.dumps({"pose": {"T_lps_to_camera": gold}}))


def knee(folder: Path, request) -> None:
    """The real knee replacement, two moments of it."""
    data = request.getfixturevalue("shared_data") / "knee_implant"
    for file in [*data.glob("*.stl"), *data.glob("*.json"), *data.glob("cam0*/frame_00[01]2.png")]:
        (folder / file.relative_to(data)).parent.mkdir(exist_ok=True)
        shutil.copy(file, folder / file.relative_to(data))


def spine(folder: Path, request) -> None:
    """A trunk with labelled vertebrae that bent a little between CT and X-ray."""
    phantom = lumbar_phantom(3, 4.0, (256.0, 256.0, 200.0))
    bodies = cut_up(prepare_ct(phantom.ct), phantom.labels, {22: "L3", 23: "L4", 24: "L5"})
    centres = np.array([body.centre_lps_mm for body in bodies.bodies])
    motions = bent_poses(centres, np.random.default_rng(5), 4.0, 2.0)
    volume = bent(bodies, dict(zip(bodies.names, motions, strict=True)))
    camera = Camera.from_c_arm(1011.7, (1.6, 1.6), 128, 128)
    frame = PoseFrame(bodies.whole.ct.rotation_centre_lps_mm, 700.0)
    image = np.exp(-project(ProjectorVolume(volume), camera, frame.T_nominal))
    write_volume(folder / "ct.nii.gz", phantom.ct)
    labels = np.where(np.isin(phantom.labels.array, [22, 23, 24]), phantom.labels.array, 0)
    write_volume(folder / "vertebrae.nii.gz", phantom.labels.same_grid(labels))
    sitk.WriteImage(sitk.GetImageFromArray((60000 * image).astype(np.uint16)), str(folder / "xray.png"))
    write_geometry(CArmGeometry((camera,), 700.0, "AP"), folder / "carm.json")


def blocks_with(page: Path, files) -> list[str]:
    """Commands of a page that run with the files which a function of this name makes."""
    return [block.commands for block in blocks(page) if block.marker == f"run: {files.__name__}"]


with_files = [
    pytest.param(page, files, id=f"{name_of(page)}-{files.__name__}")
    for page in PAGES
    for files in (wrist, knee, spine)
    if blocks_with(page, files)
]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(("page", "files"), with_files)
def test_commands_with_files_of_their_own_run(page, files, tmp_path, request):
    files(tmp_path, request)
    run_in(tmp_path, blocks_with(page, files))
    for path in tmp_path.glob("*/result.json"):
        result = json.loads(path.read_text())
        for one in [result, *result.get("bodies", ())]:
            assert one["verdict"]["status"] != "reject", f"{path}: {one['verdict']['reasons']}"


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


@pytest.mark.slow
def test_the_python_examples_of_several_bodies(tmp_path, monkeypatch, capsys, request):
    spine(tmp_path, request)
    names = run_python("bodies.md", tmp_path, monkeypatch)
    assert [body.verdict.status for body in names["result"].bodies] == ["accept"] * 3
    assert capsys.readouterr().out.startswith("L3 accept")


def run_python(page: str, folder: Path, monkeypatch) -> dict:
    """Run the Python blocks of a page of Docs/ in a folder, as one program; its names at the end."""
    text = (ROOT / "Docs" / page).read_text(encoding="utf-8")
    program = "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    monkeypatch.chdir(folder)
    names: dict = {"__name__": "__main__"}
    exec(compile(program, page, "exec", dont_inherit=True), names)
    return names


def test_every_public_name_is_on_the_python_page():
    page = (ROOT / "Docs" / "python.md").read_text(encoding="utf-8")
    sections = re.findall(r"^<!-- python: (.*) -->$", page, re.MULTILINE)
    shown = {name.rpartition(".")[2] for names in sections for name in names.split()}
    assert shown == {*SOPIRegistrationLib.__all__} - {"__version__"}


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


def test_the_references_are_as_the_code_is():
    spec = importlib.util.spec_from_file_location("reference", ROOT / "Docs" / "reference.py")
    writer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(writer)
    for page in writer.PAGES:
        text = page.read_text(encoding="utf-8")
        assert writer.filled_in(text) == text, "run python Docs/reference.py"


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
