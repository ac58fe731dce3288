"""Planes of a CT put in order: those of one volume, along their normal, at even steps."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import numpy as np

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.images.ct_pixels import PlaneReader
from SOPIRegistrationLib.images.ct_planes import Plane

# Slices may be placed to a hundredth of a millimetre, or to a fiftieth of their distance.
_STEP_TOLERANCE, _STEP_TOLERANCE_MM = 0.02, 0.01
# Interpolated planes so near to a stored one, in steps, are that one.
_SAME_PLACE = 0.005
# A gap of up to so many usual steps is interpolated across.
_LARGEST_GAP = 2.5
# Slices may be beside the line of the others by this share of a pixel.
_LINE_TOLERANCE = 0.1


def of_one_volume(planes: list[Plane], path: Path, what: str) -> list[Plane]:
    """The planes that most agree on, scout views left out.

    Raises:
        InputError: there are scout views only, or colours.
    """
    slices = [plane for plane in planes if not plane.is_localizer]
    if not slices:
        raise InputError(f"{what} {path} holds nothing but localizers (scout views): give the CT itself")
    kinds: list[list[Plane]] = []
    for plane in slices:
        for kind in reversed(kinds):
            if plane.belongs_with(kind[0]):
                kind.append(plane)
                break
        else:
            kinds.append([plane])
    chosen = max(kinds, key=len)
    if sum(len(kind) == len(chosen) for kind in kinds) > 1:
        raise InputError(
            f"{what} {path} holds several stacks of {len(chosen)} images in one series, of other sizes or "
            "directions: keep the files of one"
        )
    rows, columns, samples, _ = chosen[0].layout
    if samples > 1:
        raise InputError(f"{what} {path} has {samples} values a voxel (RGB or vectors): one is needed")
    if len(chosen) < 2 or min(rows, columns) < 2:
        # A damaged file is said to be so.
        PlaneReader(what)(chosen[0])
        raise InputError(
            f"{what} {path} is a single slice ({columns} x {rows} x {len(chosen)}): a 3D volume is needed (a "
            "folder with all slices, or an Enhanced CT)"
        )
    return chosen


def require_one_scan(planes: list[Plane], path: Path, what: str) -> None:
    """Refuse acquisitions that go through each other: phases, or scans before and after something.

    Acquisitions one after the other (of a moving table) are one scan.

    Raises:
        InputError: several scans.
    """
    scans: dict[str, list[float]] = {}
    for plane in planes:
        scans.setdefault(plane.acquisition, []).append(float(plane.position @ planes[0].normal))
    places = {number: np.sort(along) for number, along in scans.items() if len(along) > 2}
    for one, other in itertools.combinations(places.values(), 2):
        # A spiral's ends may reach a few slices into the next.
        shared = min(one[-1], other[-1]) - max(one[0], other[0])
        if shared > 0.5 * min(np.ptp(one), np.ptp(other)):
            counts = ", ".join(
                f"{len(along)} of number {number or 'none'}" for number, along in scans.items()
            )
            raise InputError(
                f"{what} {path} holds several scans of one place in one series, told by Acquisition Number "
                f"(0020,0012) ({counts}): give the images of one"
            )


def require_one_scale(planes: list[Plane], path: Path, what: str) -> None:
    """Raise InputError where some planes have lost the rescale that the others have."""
    without = [plane for plane in planes if not plane.has_rescale]
    if without and any(plane.rescale != (1.0, 0.0) for plane in planes):
        raise InputError(
            f"{what} {path} has {len(without)} of {len(planes)} images without Rescale Slope and Intercept "
            f"(0028,1053, 1052), as {without[0].path.name}, which the others have: export the series again"
        )


def without_copies(planes: list[Plane], path: Path, what: str, notes: list[str]) -> list[Plane]:
    """The planes, each once: images that are there again under another name are left out, with a note."""
    at: dict[float, list[Plane]] = {}
    for plane in planes:
        at.setdefault(round(float(plane.position @ planes[0].normal), 3), []).append(plane)
    read, copies = PlaneReader(what), 0
    kept = []
    for here in at.values():
        first = read(here[0]) if len(here) > 1 else None
        differing = [plane for plane in here[1:] if not np.array_equal(read(plane), first)]
        copies += len(here) - 1 - len(differing)
        kept += [here[0], *differing]
    if copies:
        notes.append(f"{what} {path.name} has images that are there twice ({copies}): each is read once")
    return kept


def sorted_along_normal(
    planes: list[Plane], path: Path, what: str
) -> tuple[list[Plane], np.ndarray, np.ndarray]:
    """Planes in order; how far each is along the normal, mm; the line from plane to plane, per mm of it.

    Raises:
        InputError: several are at one place, or they are not in line.
    """
    normal = planes[0].normal
    planes = sorted(planes, key=lambda plane: float(plane.position @ normal))
    shifts = np.array([plane.position - planes[0].position for plane in planes])
    along = shifts @ normal
    steps = np.diff(along)
    if steps.min() <= _STEP_TOLERANCE * np.median(steps) or along[-1] <= 0:
        count = max(Counter(np.round(along, 3)).values())
        raise InputError(
            f"{what} {path} has several slices at one place (up to {count}): export a single phase or series"
        )
    line = along @ shifts / (along @ along)
    aside = np.linalg.norm(shifts - along[:, None] * line, axis=1)
    worst = int(aside.argmax())
    if aside[worst] > _LINE_TOLERANCE * planes[0].spacing.min() + _STEP_TOLERANCE_MM:
        raise InputError(
            f"{what} {path} has slices that are not in line: {planes[worst].path.name} is "
            f"{aside[worst]:.3g} mm aside (Image Position (Patient) (0020,0032)): export the series again"
        )
    return planes, along, line


def even_steps(along: np.ndarray, path: Path, what: str, notes: list[str]) -> tuple[np.ndarray, float]:
    """What even planes are made of, and their distance, mm.

    Args:
        along: (n,) where the planes are, mm, rising from 0.
        path: for messages.
        what: the same.
        notes: a sentence is added where planes are interpolated.

    Returns:
        (m,) places in units of planes: 2.25 is a quarter of the way from plane 2 to plane 3.

    Raises:
        InputError: the planes are too far apart somewhere.
    """
    steps = np.diff(along)
    usual = float(np.quantile(steps, 0.5, method="lower"))
    widest = int(steps.argmax())
    if np.abs(steps - usual).max() <= _STEP_TOLERANCE * usual + _STEP_TOLERANCE_MM:
        return np.arange(len(along), dtype=np.float64), along[-1] / (len(along) - 1)
    if steps[widest] > (_LARGEST_GAP + _STEP_TOLERANCE) * usual:
        raise InputError(
            f"{what} {path} has slices {usual:.4g} mm apart but a step of {steps[widest]:.4g} mm after the "
            f"{widest + 1}. of {len(along)}: too much to interpolate, export the complete series"
        )
    # As fine as most of the planes are; a few odd ones need not make all voxels smaller.
    fine = max(float(np.quantile(steps, 0.1, method="lower")), usual / 4)
    regular = steps[np.abs(steps - fine) <= _STEP_TOLERANCE * fine]
    step = float(regular.mean()) if len(regular) else fine
    count = int(np.floor(along[-1] / step + 1e-6)) + 1
    places = np.interp(np.arange(count) * step, along, np.arange(len(along)))
    # What is stored stays as it is, but for the rounding of its place.
    stored = np.rint(places)
    places = np.where(np.abs(places - stored) <= _SAME_PLACE, stored, places)
    gaps = int((steps > 1.5 * usual).sum())
    are_missing = 0 < gaps <= 0.1 * len(steps)
    reason = f"slices are missing (gaps: {gaps})" if are_missing else "slices are not evenly spaced"
    notes.append(
        f"{what} {path.name}: {reason} (steps of {steps.min():.4g} to {steps.max():.4g} mm, mostly "
        f"{usual:.4g} mm): interpolated to even {step:.4g} mm"
    )
    return places, step
