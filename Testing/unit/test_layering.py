"""Imports run one way, as the list of the house in Docs/method.md says."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "SOPIRegistration" / "SOPIRegistrationLib"
# The way in, and the package itself, which has a version and imports nothing until it is asked.
OUTSIDE = {"", "__init__", "__main__", "__version__"}
# Of Slicer; VTK's surfaces are read without it.
SLICER = {"slicer", "qt", "ctk", "vtkSegmentationCorePython"}


def order() -> list[str]:
    """The rooms, from the top down."""
    text = (ROOT / "Docs" / "method.md").read_text(encoding="utf-8")
    table = text.split("## The house")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    return [room for row in rows for room in re.findall(r"`(\w+)`", row)]


def imports() -> Iterator[tuple[Path, str]]:
    """(file, dotted name) of every import, wherever it stands."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                of_package = node.module == PACKAGE.name
                names = (
                    [f"{node.module}.{alias.name}" for alias in node.names] if of_package else [node.module]
                )
            else:
                continue
            yield from ((path.relative_to(PACKAGE), name) for name in names)


def room_of(path: Path) -> str:
    return path.parts[0].removesuffix(".py")


def test_the_list_has_every_room():
    found = {path.name.removesuffix(".py") for path in PACKAGE.iterdir() if path.suffix == ".py"}
    found |= {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert sorted(order()) == sorted(found - OUTSIDE), "the list in Docs/method.md"


def test_imports_run_downwards():
    rank = {room: number for number, room in enumerate(order())}
    upwards = []
    for path, name in imports():
        package, _, inside = name.partition(".")
        importer, imported = room_of(path), inside.partition(".")[0]
        if package == PACKAGE.name and not {importer, imported} & OUTSIDE and rank[imported] < rank[importer]:
            upwards.append(f"{path} imports {name}")
    assert not upwards


def test_only_the_panel_and_the_scene_know_slicer():
    strangers = [
        f"{path} imports {name}"
        for path, name in imports()
        if name.partition(".")[0] in SLICER and room_of(path) not in ("panel", "scene")
    ]
    assert not strangers
