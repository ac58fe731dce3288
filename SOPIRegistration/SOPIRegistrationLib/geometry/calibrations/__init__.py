"""Calibrations of other programs, as this project's geometry entries and back.

Every reader turns the text of a file into the entry of a geometry JSON
(:mod:`~SOPIRegistrationLib.geometry.files`), in our frames: K for pixels whose first has its centre at (0,
0), rows counted downwards, x_camera = R x_world + t in mm. What a format counts otherwise is said in its
module.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry.c_arm import CArmGeometry
from SOPIRegistrationLib.geometry.calibrations import jointtrack, opencv, projection, rtk, vtk_camera, xmalab
from SOPIRegistrationLib.geometry.camera import Camera


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        title: its name for people.
        recognises: whether a text is of this format.
        read: (text, name of its camera, entry given beside it) -> (entry of a geometry JSON, what was
            assumed). Raises InputError without the file's name.
        write: cameras, and whether their images are stored mirrored -> text. Raises InputError likewise. None
            where the format is only read.
        holds_several: whether one file holds several cameras.
        suffix: of a file of it.
    """

    title: str
    recognises: Callable[[str], bool]
    read: Callable[[str, str, dict], tuple[dict, str]]
    write: Callable[[Sequence[Camera], bool], str] | None
    holds_several: bool
    suffix: str


# A text is of the first format that recognises it.
FORMATS = {
    "xmalab": Format("XMALab", xmalab.recognises, xmalab.read, xmalab.write, False, ".txt"),
    "jointtrack": Format(
        "JointTrack", jointtrack.recognises, jointtrack.read, jointtrack.write, True, ".txt"
    ),
    "opencv": Format("OpenCV", opencv.recognises, opencv.read, opencv.write, False, ".yml"),
    "rtk": Format("RTK", rtk.recognises, rtk.read, rtk.write, True, ".xml"),
    "projection": Format(
        "projection matrix", projection.recognises, projection.read, projection.write, True, ".txt"
    ),
    "vtk": Format("Autoscoper's VTK camera", vtk_camera.recognises, vtk_camera.read, None, False, ".json"),
}


WRITABLE = tuple(name for name, known in FORMATS.items() if known.write is not None)


def read_calibration(text: str, path: Path, given: dict) -> tuple[dict, str] | None:
    """The entry of a geometry JSON of a calibration's text, and where it came from; None for another text.

    Args:
        text: the file's content.
        path: its path, for messages; its stem names a camera without a name.
        given: what else is known, as keys of a geometry JSON ("width", "height", "pixel_spacing_mm",
            "projection_origin_mm").

    Raises:
        InputError: the text is of a known format and unusable.
    """
    for known in FORMATS.values():
        if known.recognises(text):
            try:
                entry, assumed = known.read(text, path.stem, given)
            except InputError as error:
                raise InputError(f"{path} ({known.title}): {error}") from None
            return entry, f"{path} ({known.title}{assumed and f', {assumed}'})"
    return None


def camera_names(stems: Sequence[str]) -> list[str]:
    """Names of cameras from those of their files: what differs, in whole words."""
    first, last = min(stems), max(stems)
    pairs = zip(first, last, strict=False)
    common = next((n for n, (one, other) in enumerate(pairs) if one != other), len(first))
    while common and (first[common - 1].isalnum() or common >= min(len(stem) for stem in stems)):
        common -= 1
    return [stem[common:] for stem in stems]


def written_calibration(geometry: CArmGeometry, name: str, path: Path) -> dict[Path, str]:
    """Texts of a geometry in another program's format, by file: one, or one for each camera.

    Raises:
        InputError: the format cannot hold it.
    """
    known = FORMATS[name]
    cameras = geometry.cameras
    try:
        if known.holds_several or len(cameras) == 1:
            return {path: known.write(cameras, geometry.mirrored)}
        return {
            path.with_name(f"{path.stem}_{camera.name}{path.suffix}"): known.write(
                [camera], geometry.mirrored
            )
            for camera in cameras
        }
    except InputError as error:
        raise InputError(f"--as {name}: {error}") from None
