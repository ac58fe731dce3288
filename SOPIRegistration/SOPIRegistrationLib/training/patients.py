"""Patients to train on: phantoms, random structures and real CTs, each bent, scaled and turned anew."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from SOPIRegistrationLib.images.attenuation import (
    METAL_CLAMP_HU,
    MU_WATER,
    attenuation_of_hu,
    more_than_tissue,
)
from SOPIRegistrationLib.images.ct_preparation import prepare_ct
from SOPIRegistrationLib.images.files import read_volume
from SOPIRegistrationLib.images.volume import Volume
from SOPIRegistrationLib.projector import ProjectorVolume
from SOPIRegistrationLib.simulation.phantom import lumbar_phantom
from SOPIRegistrationLib.simulation.regions import REGIONS, random_region
from SOPIRegistrationLib.simulation.structures import random_structures
from SOPIRegistrationLib.training.settings import PatientMix
from SOPIRegistrationLib.whole_files import written_aside

# Voxels of the anatomies: as large as the pixels of small images at the patient's place allow.
SPACING_MM = 3.0
# Phantoms of these seeds are for training, those from VALIDATION_SEEDS for the validation curve; studies
# take seeds below both.
TRAINING_SEEDS, VALIDATION_SEEDS = 100_000, 50_000
# The phantom of a lumbar spine; the others are named in ``simulation.regions``.
TRUNK = "trunk"
# What of an anatomy's bone mask is no bone of its own: calcified vessels, metal, contrast agent.
_NO_BONE_LABEL = 255
# Fewer voxels are no bone that anybody would segment, register alone, and find again.
_LEAST_OF_A_BONE = 80
# A prepared CT has no more, 1/mm: metal is denser in X-rays.
_CT_MAXIMUM = float(attenuation_of_hu(METAL_CLAMP_HU))
# Points that stand for where a CT's bones are.
_PLACES = 400


log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Anatomy:
    """A CT as training keeps it.

    Attributes:
        attenuation: float32, 1/mm, of the whole body.
        labels: uint8 on the same grid: 0 not bone, each bone its own number, 255 what else is in the bone
            mask, or all of it where single bones are not known.
    """

    attenuation: Volume
    labels: Volume

    @cached_property
    def bone(self) -> Volume:
        """Bool mask of all bones."""
        return self.labels.same_grid(self.labels.array > 0)

    @classmethod
    def from_ct(cls, ct: Volume) -> Anatomy:
        """Prepared as for a registration, on coarser voxels; single bones are not known."""
        spacing = max(SPACING_MM, float(ct.spacing_mm.min()))
        prepared = prepare_ct(ct, working_spacing_mm=spacing)
        mask = prepared.bone.array > 0
        labels = np.where(mask, np.uint8(_NO_BONE_LABEL), np.uint8(0))
        return cls(prepared.attenuation, prepared.bone.same_grid(labels))

    @classmethod
    def from_labelled(cls, ct: Volume, labels: Volume) -> Anatomy:
        """Prepared as for a registration, on its own isotropic voxels, but metal keeps its density.

        Args:
            ct: HU.
            labels: uint8, its bones' numbers on the same grid.
        """
        prepared = prepare_ct(ct, working_spacing_mm=float(ct.spacing_mm.min()))
        mask = prepared.bone.array > 0
        # Preparation keeps the voxels, and crops them.
        first = np.rint(ct.lps_to_index @ prepared.bone.index_to_lps[:, 3])[:3].astype(int)
        box = tuple(slice(low, low + n) for low, n in zip(first[::-1], mask.shape, strict=True))
        hu, known = ct.array[box], labels.array[box]
        denser = MU_WATER * (1 + hu / np.float32(1000))
        attenuation = np.where(hu > METAL_CLAMP_HU, denser, prepared.attenuation.array)
        numbers = np.where(mask, np.where(known > 0, known, np.uint8(_NO_BONE_LABEL)), np.uint8(0))
        return cls(
            prepared.attenuation.same_grid(attenuation.astype(np.float32)), prepared.bone.same_grid(numbers)
        )

    @classmethod
    def from_phantom(cls, seed: int, folder: Path | None = None, kind: str = TRUNK) -> Anatomy:
        """The phantom of a seed; read from ``folder`` if it is there, else made and left there.

        Args:
            seed: of the phantom.
            folder: of the phantoms made before.
            kind: ``TRUNK`` or one of ``simulation.regions.REGIONS``.
        """
        path = None if folder is None else folder / f"{kind}_{seed}.npz"
        if path is not None and path.exists():
            with np.load(path) as file:
                attenuation = Volume(file["attenuation"].astype(np.float32), file["index_to_lps"], path.stem)
                return cls(attenuation, attenuation.same_grid(file["labels"]))
        made = lumbar_phantom(seed, SPACING_MM) if kind == TRUNK else random_region(kind, seed, SPACING_MM)
        anatomy = cls.from_labelled(made.ct, made.labels)
        if path is not None:
            folder.mkdir(parents=True, exist_ok=True)
            with written_aside(path) as aside:
                np.savez(
                    aside,
                    attenuation=anatomy.attenuation.array.astype(np.float16),
                    labels=anatomy.labels.array,
                    index_to_lps=anatomy.attenuation.index_to_lps,
                )
        return anatomy

    @classmethod
    def from_structures(cls, seed: int) -> Anatomy:
        """Random structures of a seed, which are made as fast as read."""
        made = random_structures(seed, SPACING_MM)
        attenuation = attenuation_of_hu(made.ct.array).astype(np.float32)
        return cls(made.ct.same_grid(attenuation), made.labels)


@dataclass(frozen=True, eq=False)
class Patient:
    """What is X-rayed, and the CT of it that is registered.

    Attributes:
        body, bone: what the X-rays pass.
        ct_body, ct_bone: what the CT shows of it; the same where that is bones alone.
        is_part: whether that is one bone of several, as what it attenuates more than tissue.
        centre_lps_mm: (3,) middle of the CT's bones, as a registration takes it for the rotation centre.
        places_lps_mm: (n, 3) points all over the CT's bones.
    """

    body: ProjectorVolume
    bone: ProjectorVolume
    ct_body: ProjectorVolume
    ct_bone: ProjectorVolume
    centre_lps_mm: np.ndarray
    places_lps_mm: np.ndarray
    is_part: bool = False


def varied(
    anatomy: Anatomy, rng: np.random.Generator, mix: PatientMix | None = None, turned: bool = False
) -> Patient:
    """A new patient of an anatomy.

    Smooth random bending by some millimetres, other proportions, other bone and tissue densities; the CT is
    often shorter than what the X-ray sees, and sometimes shows bones alone, as may the X-ray, or one bone.

    Args:
        anatomy: of whom.
        rng: source of everything random.
        mix: of whom CT or X-ray show bones, or one bone.
        turned: lie in any orientation, so that a nominal view is one from anywhere.
    """
    mix = mix or PatientMix()
    attenuation, labels, affine = _deformed(anatomy, rng)
    bone = labels > 0
    if turned:
        turn = np.eye(4)
        turn[:3, :3] = Rotation.random(random_state=rng).as_matrix()
        affine = turn @ affine
    attenuation = attenuation * np.where(bone, rng.uniform(0.75, 1.3), rng.uniform(0.93, 1.07))
    xray_bones, ct_bones = _bones_alone(mix.bones, rng)
    skeleton = attenuation * bone

    def laid_out(array, index_to_lps):
        return ProjectorVolume(Volume(array.astype(np.float32), index_to_lps))

    whole_bone = laid_out(skeleton, affine)
    whole_body = whole_bone if xray_bones else laid_out(attenuation, affine)
    part = _one_bone(labels, rng) if rng.random() < mix.parts else None
    if part is None:
        box, shown = (_section(len(bone), rng), slice(None), slice(None)), bone
    else:
        box, shown, ct_bones = _around(part), part, True
    scanned = np.minimum(attenuation, np.float32(_CT_MAXIMUM))[box]
    if part is not None:
        scanned = more_than_tissue(scanned)
    ct_affine = affine.copy()
    ct_affine[:3, 3] += affine[:3, :3] @ [s.start or 0 for s in box[::-1]]
    ct_bone = laid_out(scanned * shown[box], ct_affine)
    ct_body = ct_bone if ct_bones else laid_out(scanned, ct_affine)
    indices = np.argwhere(shown[box])[:, ::-1]
    if not len(indices):
        indices = np.array([ct_bone.volume.array.shape[::-1]]) / 2
    places = indices[rng.integers(len(indices), size=_PLACES)] @ ct_affine[:3, :3].T + ct_affine[:3, 3]
    centre_lps_mm = ct_affine[:3, :3] @ indices.mean(axis=0) + ct_affine[:3, 3] + rng.normal(0, 4, 3)
    return Patient(whole_body, whole_bone, ct_body, ct_bone, centre_lps_mm, places, is_part=part is not None)


def _one_bone(labels: np.ndarray, rng) -> np.ndarray | None:
    """Mask of one of the bones, larger ones more likely; None if none is known."""
    count = np.bincount(labels.reshape(-1), minlength=256)
    count[[0, _NO_BONE_LABEL]] = 0
    weight = np.sqrt(np.where(count < _LEAST_OF_A_BONE, 0, count))
    if not weight.any():
        return None
    return labels == rng.choice(256, p=weight / weight.sum())


def _around(mask: np.ndarray) -> tuple[slice, slice, slice]:
    """(k, j, i) slices of the box around a mask, a voxel wider."""
    box = []
    for axis in range(3):
        where = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        box.append(slice(max(int(where[0]) - 1, 0), int(where[-1]) + 2))
    return tuple(box)


def _bones_alone(both: float, rng) -> tuple[bool, bool]:
    """Whether the X-ray shows bones alone, and whether the CT does."""
    if rng.random() < both:
        return True, True
    # Seldom the one without the other: a segmented bone, or bones drawn out of the X-ray.
    kind = rng.random()
    return kind < 0.06, 0.06 <= kind < 0.14


def _deformed(anatomy: Anatomy, rng) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Attenuation, labels and index-to-LPS matrix after a random smooth deformation."""
    array, labels = anatomy.attenuation.array, anatomy.labels.array
    spacing = anatomy.attenuation.spacing_mm[::-1]
    knots = [max(4, round(size * step / 70) + 3) for size, step in zip(array.shape, spacing, strict=True)]
    # Cubic splines, axis by axis: a matrix each.
    splines = [ndimage.zoom(np.eye(k), (n / k, 1), order=3) for n, k in zip(array.shape, knots, strict=True)]
    amplitude_mm = rng.uniform(0, 9)
    coordinates = list(np.meshgrid(*[np.arange(n, dtype=np.float32) for n in array.shape], indexing="ij"))
    for axis in range(3):
        field = rng.normal(size=knots)
        smooth = np.einsum("ia,jb,kc,abc->ijk", *splines, field, optimize=True)
        coordinates[axis] = coordinates[axis] + (amplitude_mm / spacing[axis] * smooth).astype(np.float32)
    moved = ndimage.map_coordinates(array, coordinates, order=1, mode="constant")
    moved_labels = ndimage.map_coordinates(labels, coordinates, order=0, mode="constant")
    scale = np.exp(rng.normal(0, 0.06)) * np.exp(rng.normal(0, 0.04, 3))
    affine = anatomy.attenuation.index_to_lps @ np.diag([*scale, 1.0])
    return moved, moved_labels, affine


def _section(slices: int, rng) -> slice:
    """The slices of the CT."""
    if rng.random() < 0.4:
        return slice(0, slices)
    length = max(8, round(slices * rng.uniform(0.45, 1)))
    low = int(rng.integers(slices - length + 1)) if length < slices else 0
    return slice(low, min(slices, low + length))


class PatientPool:
    """Patients at hand, a few of them replaced by new ones now and then.

    From the first renewal on the next one is made beside whatever else is done, until :meth:`close`.

    Args:
        size: how many patients at once.
        phantoms: how many different phantoms they are made from, and a quarter as many of each other region.
        cts: paths of real CTs that they are made from besides.
        mix: shares of the kinds of patients.
        first_seed: of the phantoms.
        folder: where phantoms are kept between runs.
        seed: of the variations.
    """

    def __init__(
        self,
        size: int,
        phantoms: int,
        cts: Sequence[str | Path] = (),
        mix: PatientMix | None = None,
        first_seed: int = TRAINING_SEEDS,
        folder: Path | None = None,
        seed: int | Sequence[int] = 0,
    ):
        self._phantoms, self._first_seed, self._folder = phantoms, first_seed, folder
        self._real = [_anatomy_of(path) for path in cts]
        self._mix = mix or PatientMix()
        self._rng = np.random.default_rng(seed)
        self._size = size
        self.patients: list[Patient] = []
        self._oldest = 0
        self._maker: ThreadPoolExecutor | None = None
        self._coming: Future[Patient] | None = None

    def fill(self, progress=lambda made: None) -> None:
        """Make all patients."""
        while len(self.patients) < self._size:
            self.patients.append(self._new())
            progress(len(self.patients))

    def renew(self) -> None:
        """Replace the oldest patient by a new one."""
        if self._maker is None:
            self._maker = ThreadPoolExecutor(1)
            self._coming = self._maker.submit(self._new)
        self.patients[self._oldest] = self._coming.result()
        # It alone draws from now on: patients come in the same order, however long each takes.
        self._coming = self._maker.submit(self._new)
        self._oldest = (self._oldest + 1) % self._size

    def close(self) -> None:
        """Make no more."""
        if self._maker is not None:
            self._maker.shutdown(cancel_futures=True)

    def _new(self) -> Patient:
        rng, mix = self._rng, self._mix
        if rng.random() < mix.structures:
            anatomy = Anatomy.from_structures(self._first_seed + int(rng.integers(2**31)))
            return varied(anatomy, rng, mix, turned=True)
        if rng.random() < mix.regions:
            kind = str(rng.choice(list(REGIONS)))
            return varied(self._phantom(kind, -(-self._phantoms // 4)), rng, mix, rng.random() < 0.5)
        if self._real and rng.random() < mix.real:
            anatomy = self._real[rng.integers(len(self._real))]
        else:
            anatomy = self._phantom(TRUNK, self._phantoms)
        return varied(anatomy, rng, mix)

    def _phantom(self, kind: str, different: int) -> Anatomy:
        seed = self._first_seed + int(self._rng.integers(different))
        return Anatomy.from_phantom(seed, self._folder, kind)


def _anatomy_of(path: str | Path) -> Anatomy:
    ct = read_volume(path)
    for note in ct.notes:
        log.warning("%s", note)
    return Anatomy.from_ct(ct)
