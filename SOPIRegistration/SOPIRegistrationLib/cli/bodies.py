"""The bodies of a command line: CTs and closed surfaces, and what the surfaces are made of."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from SOPIRegistrationLib.cli.common import progress_bar, read_ct
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.images.prepared_ct import PreparedCT
from SOPIRegistrationLib.subject.surface import (
    MATERIALS,
    SURFACE_SUFFIXES,
    filled,
    is_surface,
    material_named,
    read_surface,
)

# Of volumes; "brain.nii.gz" is called "brain".
_VOLUME_SUFFIXES = (".gz", ".nii", ".nrrd", ".mha", ".mhd", ".hdr")

BODY_HELP = (
    "a CT (DICOM series folder, NIfTI, NRRD or MHA, in HU), or a closed surface in mm "
    f"({', '.join(suffix[1:].upper() for suffix in SURFACE_SUFFIXES)}; give its --material)"
)


def add_body_arguments(parser: argparse.ArgumentParser) -> None:
    """What surfaces are made of, and what a CT is cut up into."""
    parser.add_argument(
        "--material",
        nargs="+",
        default=[],
        metavar="[BODY=]MATERIAL",
        help=f"what a surface is made of: {', '.join(MATERIALS)}; BODY is its file's name without the ending",
    )
    parser.add_argument(
        "--labels",
        metavar="FILE[:NAME,...]",
        help="label map or segmentation that cuts up the CT: every label is a body, the rest another; NAMEs "
        "choose labels by their names or numbers, or name all of them in ascending order",
    )


def add_hold_arguments(parser: argparse.ArgumentParser) -> None:
    """What bodies that are registered together are held to."""
    parser.add_argument(
        "--held",
        nargs="+",
        default=[],
        metavar="BODY=PARENT",
        help="bodies that move little against others (standard deviation 4 deg, 3 mm); the parts of a CT are "
        "held to their neighbours unless given",
    )
    parser.add_argument(
        "--fixed", nargs="+", default=[], metavar="BODY", help="bodies that stay where they are at the start"
    )


def read_body(
    path: Path, mask: Path | None, bone_threshold_hu: float | None, materials: Sequence[str]
) -> PreparedCT:
    """Read and prepare a CT or a surface, showing how far it is.

    What was assumed or mended is printed to stderr, a line each.

    Args:
        path: of the body.
        mask: label map of a CT's bones.
        bone_threshold_hu: threshold of a CT's bones.
        materials: words of ``--material``.

    Raises:
        InputError: it is unusable, or an option does not go with it.
    """
    if not is_surface(path):
        if materials:
            raise InputError(
                f"--material {materials[0]}: {path} is no surface, and a CT has its own materials"
            )
        return read_ct(path, mask, bone_threshold_hu)
    if mask is not None or bone_threshold_hu is not None:
        option = "--mask" if mask is not None else "--bone-threshold"
        raise InputError(f"{option} is for a CT, and {path} is a surface: leave it out")
    name = material_word(materials, path.stem)
    if name is None:
        raise InputError(
            f"surface {path} has no material: give --material with one of {', '.join(MATERIALS)}"
        )
    material = material_named(name)
    with progress_bar("surface") as update:
        update(0.0, "reading")
        surface = read_surface(path)
        update(0.3, "filling")
        prepared = filled(surface, material)
    for note in prepared.notes:
        print(f"note: {note}", file=sys.stderr)
    return prepared


def material_word(words: Sequence[str], body: str) -> str | None:
    """The material that words of ``--material`` name for a body; None where they name none.

    Args:
        words: ``BODY=MATERIAL``, or ``MATERIAL`` for all bodies.
        body: its name.

    Raises:
        InputError: a word names another body, or two are for this one.
    """
    found: dict[bool, str] = {}
    for word in words:
        named, separator, material = word.rpartition("=")
        if separator and named != body:
            raise InputError(
                f"--material {word} is for no body of this command: name {body}, or leave it out"
            )
        if bool(separator) in found:
            raise InputError(f"--material names two materials for {body}: give one")
        found[bool(separator)] = material
    return found.get(True, found.get(False))


def body_names(paths: Sequence[Path]) -> list[str]:
    """Of bodies: their files' without the endings.

    Raises:
        InputError: two have the same.
    """
    names = []
    for path in paths:
        name = path.name
        while Path(name).suffix.lower() in _VOLUME_SUFFIXES + SURFACE_SUFFIXES:
            name = Path(name).stem
        if name in names:
            raise InputError(f"two bodies are called {name}: rename the file {path}")
        names.append(name)
    return names


def materials_of(words: Sequence[str], path: Path, name: str, names: Sequence[str]) -> list[str]:
    """Words of ``--material`` for one of several bodies; those for all are for its surfaces.

    Raises:
        InputError: a word names no body.
    """
    own = []
    for word in words:
        named = word.rpartition("=")[0]
        if named and named not in names:
            raise InputError(f"--material {word} is for no body: name one of {', '.join(names)}")
        if named == name or (not named and (is_surface(path) or len(names) == 1)):
            own.append(word)
    return own
