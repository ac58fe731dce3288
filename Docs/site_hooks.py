"""What MkDocs needs to know of this repository: pictures outside Docs/, links to code, docstrings.

The pages are written to be read on GitHub as well, so their links to pictures and code are plain relative
paths that leave Docs/. On the site pictures are copied along and everything else leads to the repository.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
PICTURE_FOLDERS = ("Resources/Figures", "Resources/Screenshots", "Resources/Training", "Resources/Evaluation")
_LINK = re.compile(r"(?<=\]\()(?!\w+:|#|/)([^)#\s]+)(#[^)\s]*)?(?=\))")
_NAMES = re.compile(r"<!-- python: ([\w. ]+) -->.*?<!-- end -->", re.DOTALL)


def on_files(files, config):
    """Add the pictures."""
    for folder in PICTURE_FOLDERS:
        for picture in sorted((ROOT / folder).glob("*.png")):
            name = picture.relative_to(ROOT).as_posix()
            files.append(File.generated(config, name, abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, page, config, files) -> str:
    """Turn links that leave Docs/ into links of the site."""
    folder = PurePosixPath("Docs", page.file.src_uri).parent

    def link(match: re.Match) -> str:
        target, anchor = match[1], match[2] or ""
        place = os.path.normpath(folder / target)
        if place.startswith("Docs" + os.sep):
            return match[0]
        if not (ROOT / place).exists():
            raise FileNotFoundError(f"{page.file.src_uri} links to {target}, which does not exist")
        place = Path(place).as_posix()
        if place.endswith(".png"):
            return os.path.relpath(place, PurePosixPath(page.file.src_uri).parent).replace(os.sep, "/")
        kind = "tree" if (ROOT / place).is_dir() else "blob"
        return f"{config.repo_url.rstrip('/')}/{kind}/main/{place}{anchor}"

    return _NAMES.sub(_docstrings, _LINK.sub(link, markdown))


def _docstrings(names: re.Match) -> str:
    """What mkdocstrings turns into the docstrings of a page's list of names."""
    return "\n\n".join(f"::: SOPIRegistrationLib.{name}" for name in names[1].split())
