"""One CT cut up by a label map: every label a body, and the rest with the holes filled."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.images.bone_surface import centroid_lps, surface_points_lps
from SOPIRegistrationLib.images.prepared_ct import PreparedCT
from SOPIRegistrationLib.images.resampling import looked_up
from SOPIRegistrationLib.images.volume import Volume
from SOPIRegistrationLib.subject.bodies import Bodies, Hold, RigidBody, neighbours
from SOPIRegistrationLib.subject.subject import Subject

# So much beyond its label a bone's edge still attenuates: it moves with the bone.
_EDGE_VOXELS = 1.5
# What fills a hole is the mean of what surrounds it within about this.
_SURROUNDINGS_MM = 8.0
# A label of which less than this lies in the CT is another CT's.
_LEAST_INSIDE = 0.5
_LEAST_VOXELS = 20
# Whole-body segmentations have 120 labels; an image has more values than this.
_MOST_LABELS = 1000
# The rest is soft, and moves less like one body than bones do.
_REST_ROTATION_DEG, _REST_TRANSLATION_MM = 8.0, 6.0
REST = "rest of the CT"


def cut_up(ct: PreparedCT, labels: Volume, names: dict[int, str] | None = None) -> Bodies:
    """The bodies of a CT by a label map, each held to its neighbours.

    A body holds what it attenuates more than its surroundings: with every body where it was, the sum of all
    and of the rest is the CT, and where one of them goes it takes the place of soft tissue.

    Args:
        ct: prepared CT, as one piece.
        labels: label map on any grid; 0 is no body.
        names: of the labels that become bodies, in the order of the bodies; all, by their numbers, unless
            given.

    Raises:
        InputError: the label map is empty, or elsewhere; a label that is not there, or mostly beside the CT.
    """
    present = _present(labels)
    names = {label: str(label) for label in present} if names is None else names
    for label in names:
        if label not in present:
            known = ", ".join(map(str, present))
            raise InputError(f"label map {labels.name} has no label {label}: it has {known}")
    numbers = list(names)
    owner = _on_grid_of(ct, labels, numbers)
    whole = Subject(ct)
    surroundings = _filled(ct, owner > 0, whole.is_segmented_bone)
    bodies = []
    for number, label in enumerate(numbers, start=1):
        bodies.append(RigidBody(names[label], Subject(_part(ct, surroundings, owner, number, names[label]))))
    bodies = neighbours(bodies)
    return Bodies(bodies, whole, tuple(names.values()), _rest(ct, surroundings, owner, bodies))


def label_names(path: Path, labels: Volume, words: Sequence[str] = ()) -> dict[int, str]:
    """The names of a label map's bodies.

    Args:
        path: of the label map; segmentations of 3D Slicer (.seg.nrrd) name their segments.
        labels: the same, read.
        words: names that are asked for. Names (or numbers) that the file has choose these labels, in this
            order; others name its labels, in ascending order, one for each.

    Raises:
        InputError: words that do neither, or labels of two segments' names alike.
    """
    present = _present(labels)
    known = {label: segment for label, segment in _segment_names(path).items() if label in present}
    named = {label: known.get(label, str(label)) for label in present}
    if not words:
        return named
    by_name = {**{str(label): label for label in named}, **{name: label for label, name in named.items()}}
    if all(word in by_name for word in words):
        return {by_name[word]: named[by_name[word]] for word in words}
    if len(words) != len(present):
        unknown = ", ".join(word for word in words if word not in by_name)
        raise InputError(
            f"label map {path} has no {unknown}: it has {', '.join(named.values())}; choose of these, or "
            "give as many names as there are labels, in ascending order"
        )
    return dict(zip(present, words, strict=True))


def _present(labels: Volume) -> list[int]:
    values = np.unique(labels.array)
    if (values != np.rint(values)).any():
        raise InputError(f"label map {labels.name} holds values that are no whole numbers: give a label map")
    if values[0] < 0 or len(values) > _MOST_LABELS:
        found = f"{len(values)} different values, from {values[0]:g} to {values[-1]:g}"
        raise InputError(f"label map {labels.name} holds {found}: give a label map, not an image")
    present = [int(value) for value in values if value > 0]
    if not present:
        raise InputError(f"label map {labels.name} is empty: it needs a number above 0 for each body")
    return present


def _segment_names(path: Path) -> dict[int, str]:
    """Names by label of a Slicer segmentation; empty of other files."""
    if path.is_dir() or not path.name.lower().endswith((".nrrd", ".nhdr")):
        return {}
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    names = {}
    for key in reader.GetMetaDataKeys():
        if match := re.fullmatch(r"Segment(\d+)_LabelValue", key):
            name = f"Segment{match[1]}_Name"
            if reader.HasMetaDataKey(name):
                names[int(reader.GetMetaData(key))] = reader.GetMetaData(name)
    return names


def _on_grid_of(ct: PreparedCT, labels: Volume, numbers: Sequence[int]) -> np.ndarray:
    """(k, j, i) uint16 on the CT's grid: 1 for the first body's voxels and so on, 0 elsewhere.

    Raises:
        InputError: a body is not in the CT.
    """
    numbered = np.zeros(labels.array.shape, np.uint16)
    for number, label in enumerate(numbers, start=1):
        numbered[labels.array == label] = number
    grid = ct.attenuation
    owner = looked_up(replace(labels, array=numbered), grid.index_to_lps, grid.array.shape)
    voxels = np.bincount(owner.ravel(), minlength=len(numbers) + 1)[1:]
    in_map = np.bincount(numbered.ravel(), minlength=len(numbers) + 1)[1:]
    share = voxels * grid.spacing_mm.prod() / np.maximum(in_map * labels.spacing_mm.prod(), 1e-9)
    if not voxels.any():
        raise InputError(
            f"label map {labels.name} does not overlap CT {grid.name}: give the label map of this CT"
        )
    for number, (count, inside) in enumerate(zip(voxels, share, strict=True)):
        if inside < _LEAST_INSIDE or count < _LEAST_VOXELS:
            raise InputError(
                f"label {numbers[number]} of {labels.name} lies mostly beside CT {grid.name}, or is hardly "
                f"there ({count} voxels): leave it out, or give the label map of this CT"
            )
    distance, nearest = ndimage.distance_transform_edt(owner == 0, return_indices=True)
    return np.where(distance <= _EDGE_VOXELS, owner[tuple(nearest)], 0).astype(np.uint16)


def _filled(ct: PreparedCT, hole: np.ndarray, in_air: bool) -> np.ndarray:
    """(k, j, i) float32 attenuation with the holes filled by the soft tissue around them; air in air."""
    attenuation = ct.attenuation.array
    if in_air:
        return np.where(hole, np.float32(0), attenuation)
    # Of a neighbouring rib or pelvis a hole is not filled.
    around = (~hole & (ct.bone.array == 0)).astype(np.float32)
    sigma = _SURROUNDINGS_MM / ct.attenuation.spacing_mm[::-1]
    weight = ndimage.gaussian_filter(around, sigma)
    mean = ndimage.gaussian_filter(attenuation * around, sigma) / np.maximum(weight, 1e-6)
    far = hole & (weight < 1e-3)
    if far.any() and not far.all():
        nearest = ndimage.distance_transform_edt(far, return_distances=False, return_indices=True)
        mean = mean[tuple(nearest)]
    return np.where(hole, mean, attenuation).astype(np.float32)


def _part(ct: PreparedCT, surroundings: np.ndarray, owner: np.ndarray, number: int, name: str) -> PreparedCT:
    """A body of the CT, cropped to its box and a voxel of nothing."""
    [box] = ndimage.find_objects((owner == number).astype(np.uint8))
    box = tuple(slice(max(0, one.start - 1), one.stop + 1) for one in box)
    inside = owner[box] == number
    grid = ct.attenuation
    index_to_lps = grid.index_to_lps.copy()
    index_to_lps[:3, 3] = grid.points_lps([one.start for one in box[::-1]])
    more = (grid.array[box] - surroundings[box]) * inside
    bone = Volume(
        ((ndimage.binary_erosion(inside) | (ct.bone.array[box] > 0)) & inside).astype(np.uint8), index_to_lps
    )
    return PreparedCT(
        attenuation=Volume(more.astype(np.float32), index_to_lps, name),
        bone=bone,
        rotation_centre_lps_mm=centroid_lps(bone),
        surface_points_lps_mm=surface_points_lps(bone),
        truncated=bone.same_grid((ct.truncated.array[box] * inside).astype(np.uint8)),
        identity=f"{ct.identity}:{name}",
        is_excess=bool(surroundings.any()),
    )


def _rest(ct: PreparedCT, surroundings, owner, bodies: Sequence[RigidBody]) -> RigidBody | None:
    """What is left of the CT; held to the body nearest to its middle."""
    if not surroundings.any():
        return None
    bone = ct.bone.array * (owner == 0)
    left = replace(
        ct,
        attenuation=ct.attenuation.same_grid(surroundings),
        bone=ct.bone.same_grid(bone.astype(np.uint8)),
        identity=f"{ct.identity}:{REST}",
    )
    middle = ct.rotation_centre_lps_mm
    nearest = min(bodies, key=lambda body: float(np.linalg.norm(body.centre_lps_mm - middle)))
    return RigidBody(REST, Subject(left), Hold(nearest.name, _REST_ROTATION_DEG, _REST_TRANSLATION_MM))
