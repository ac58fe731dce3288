"""Trials of Autoscoper (.cfg): which cameras took which pictures of which volumes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from SOPIRegistrationLib.errors import InputError

SUFFIX = ".cfg"


@dataclass(frozen=True)
class AutoscoperTrial:
    """A trial's files (.cfg).

    Attributes:
        cameras: MayaCam files, in order.
        sequences: folders of the radiographs, in the same order.
        volumes: TIFF stacks.
        flips: (3,) bool for each volume, whether its axes are reversed when it is read.
        voxel_sizes_mm: (3,) for each volume.
    """

    cameras: tuple[Path, ...]
    sequences: tuple[Path, ...]
    volumes: tuple[Path, ...]
    flips: tuple[tuple[bool, bool, bool], ...]
    voxel_sizes_mm: tuple[tuple[float, float, float], ...]


def read_autoscoper_trial(path: Path) -> AutoscoperTrial:
    """A trial; relative paths (from version 1.1 on) are beside the file.

    Raises:
        InputError: unreadable, or as many folders as there are no cameras, or volumes without a voxel size.
    """
    found: dict[str, list[str]] = {}
    for line in _text(path).splitlines():
        key, _, value = line.strip().partition(" ")
        if key and not key.startswith("#"):
            found.setdefault(key, []).append(value.strip())
    cameras, folders, volumes = (
        tuple(path.parent / word.replace("\\", "/") for word in found.get(key, ()))
        for key in ("mayaCam_csv", "CameraRootDir", "VolumeFile")
    )
    sizes = [_triple(text, path, "VoxelSize") for text in found.get("VoxelSize", ())]
    if not cameras or len(cameras) != len(folders):
        raise InputError(f"{path} has {len(cameras)} mayaCam_csv and {len(folders)} CameraRootDir: one each")
    if not volumes or len(volumes) != len(sizes):
        raise InputError(f"{path} has {len(volumes)} VolumeFile and {len(sizes)} VoxelSize: one each")
    flips = [
        tuple(bool(v) for v in _triple(text, path, "VolumeFlip")) for text in found.get("VolumeFlip", ())
    ]
    flips += [(False, False, False)] * (len(volumes) - len(flips))
    return AutoscoperTrial(cameras, folders, volumes, tuple(flips), tuple(sizes))


def write_autoscoper_trial(path: Path, trial: AutoscoperTrial) -> None:
    """Write a trial, version 1.1; paths relative to the file where they lie below it."""

    def told(file: Path) -> str:
        inside = file.is_relative_to(path.parent)
        return (file.relative_to(path.parent) if inside else file.absolute()).as_posix()

    lines = ["Version 1.1"]
    lines += [f"mayaCam_csv {told(file)}" for file in trial.cameras]
    lines += [f"CameraRootDir {told(file)}" for file in trial.sequences]
    for file, flip, size in zip(trial.volumes, trial.flips, trial.voxel_sizes_mm, strict=True):
        lines.append(f"VolumeFile {told(file)}")
        lines.append("VolumeFlip " + " ".join(str(int(one)) for one in flip))
        lines.append("VoxelSize " + " ".join(f"{one:.12g}" for one in size))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        raise InputError(f"trial {path} cannot be read as text: export it again") from None


def _triple(text: str, path: Path, key: str) -> tuple[float, float, float]:
    try:
        x, y, z = map(float, text.split())
    except ValueError:
        raise InputError(f"{path}: {key} '{text}' is not three numbers") from None
    return x, y, z
