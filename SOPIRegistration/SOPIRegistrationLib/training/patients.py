"""Patients to train on: phantoms, random structures and real CTs, each bent, scaled and turned anew."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from SOPIRegistrationLib.images.ct_preparation import attenuation_of_hu, prepare_ct
from SOPIRegistrationLib.images.files import read_volume
from SOPIRegistrationLib.images.volume import Volume
from SOPIRegistrationLib.projector import ProjectorVolume
from SOPIRegistrationLib.simulation.phantom import lumbar_phantom
from SOPIRegistrationLib.simulation.structures import random_structures

# Voxels of the anatomies: as large as the pixels of small images at the patient's place allow.
SPACING_MM = 3.0
# Phantoms of these seeds are for training, those from VALIDATION_SEEDS for the validation curve; studies
# take seeds below both.
TRAINING_SEEDS, VALIDATION_SEEDS = 100_000, 50_000
# Share of patients of whom both CT and X-ray show bones alone.
BONES = 0.15


log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Anatomy:
    """A CT as training keeps it.

    Attributes:
        attenuation: float32, 1/mm, of the whole body.
        bone: bool mask on the same grid.
    """

    attenuation: Volume
    bone: Volume

    @classmethod
    def from_ct(cls, ct: Volume) -> Anatomy:
        """Prepared as for a registration, on coarser voxels."""
        spacing = max(SPACING_MM, float(ct.spacing_mm.min()))
        prepared = prepare_ct(ct, working_spacing_mm=spacing)
        return cls(prepared.attenuation, prepared.bone.same_grid(prepared.bone.array > 0))

    @classmethod
    def from_phantom(cls, seed: int, folder: Path | None = None) -> Anatomy:
        """The phantom of a seed; read from ``folder`` if it is there, else made and left there."""
        path = None if folder is None else folder / f"phantom_{seed}.npz"
        if path is not None and path.exists():
            with np.load(path) as file:
                attenuation = Volume(file["attenuation"].astype(np.float32), file["index_to_lps"], path.stem)
                return cls(attenuation, attenuation.same_grid(file["bone"]))
        anatomy = cls.from_ct(lumbar_phantom(seed, SPACING_MM).ct)
        if path is not None:
            folder.mkdir(parents=True, exist_ok=True)
            aside = folder / f"{path.stem}.{os.getpid()}.part.npz"
            np.savez(
                aside,
                attenuation=anatomy.attenuation.array.astype(np.float16),
                bone=anatomy.bone.array,
                index_to_lps=anatomy.attenuation.index_to_lps,
            )
            aside.replace(path)
        return anatomy

    @classmethod
    def from_structures(cls, seed: int) -> Anatomy:
        """Random structures of a seed, which are made as fast as read."""
        made = random_structures(seed, SPACING_MM)
        attenuation = attenuation_of_hu(made.ct.array).astype(np.float32)
        return cls(made.ct.same_grid(attenuation), made.bone)


@dataclass(frozen=True, eq=False)
class Patient:
    """What is X-rayed, and the CT of it that is registered.

    Attributes:
        body, bone: what the X-rays pass.
        ct_body, ct_bone: what the CT shows of it.
        centre_lps_mm: (3,) rotation centre.
    """

    body: ProjectorVolume
    bone: ProjectorVolume
    ct_body: ProjectorVolume
    ct_bone: ProjectorVolume
    centre_lps_mm: np.ndarray


def varied(anatomy: Anatomy, rng: np.random.Generator, bones: float = BONES, turned: bool = False) -> Patient:
    """A new patient of an anatomy.

    Smooth random bending by some millimetres, other proportions, other bone and tissue densities; the CT is
    often shorter than what the X-ray sees, and sometimes shows bones alone, as may the X-ray.

    Args:
        anatomy: of whom.
        rng: source of everything random.
        bones: share of patients of whom both CT and X-ray show bones alone.
        turned: lie in any orientation, so that a nominal view is one from anywhere.
    """
    attenuation, bone, affine = _deformed(anatomy, rng)
    if turned:
        turn = np.eye(4)
        turn[:3, :3] = Rotation.random(random_state=rng).as_matrix()
        affine = turn @ affine
    attenuation = attenuation * np.where(bone, rng.uniform(0.75, 1.3), rng.uniform(0.93, 1.07))
    xray_bones, ct_bones = _bones_alone(bones, rng)
    skeleton = attenuation * bone

    def laid_out(array, index_to_lps):
        return ProjectorVolume(Volume(array.astype(np.float32), index_to_lps))

    whole_bone = laid_out(skeleton, affine)
    whole_body = whole_bone if xray_bones else laid_out(attenuation, affine)
    low, high = _section(len(bone), rng)
    ct_affine = affine.copy()
    ct_affine[:3, 3] += affine[:3, 2] * low
    cut = high - low < len(bone)
    ct_bone = laid_out(skeleton[low:high], ct_affine) if cut else whole_bone
    if ct_bones:
        ct_body = ct_bone
    elif cut or xray_bones:
        ct_body = laid_out(attenuation[low:high], ct_affine)
    else:
        ct_body = whole_body
    indices = np.argwhere(bone[low:high])[:, ::-1]
    centre = indices.mean(axis=0) if len(indices) else np.array(ct_bone.volume.array.shape[::-1]) / 2
    centre_lps_mm = ct_affine[:3, :3] @ centre + ct_affine[:3, 3] + rng.normal(0, 4, 3)
    return Patient(whole_body, whole_bone, ct_body, ct_bone, centre_lps_mm)


def _bones_alone(both: float, rng) -> tuple[bool, bool]:
    """Whether the X-ray shows bones alone, and whether the CT does."""
    if rng.random() < both:
        return True, True
    # Seldom the one without the other: a segmented bone, or bones drawn out of the X-ray.
    kind = rng.random()
    return kind < 0.06, 0.06 <= kind < 0.14


def _deformed(anatomy: Anatomy, rng) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Attenuation, bone mask and index-to-LPS matrix after a random smooth deformation."""
    array, bone = anatomy.attenuation.array, anatomy.bone.array
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
    moved_bone = ndimage.map_coordinates(bone, coordinates, order=0, mode="constant")
    scale = np.exp(rng.normal(0, 0.06)) * np.exp(rng.normal(0, 0.04, 3))
    affine = anatomy.attenuation.index_to_lps @ np.diag([*scale, 1.0])
    return moved, moved_bone, affine


def _section(slices: int, rng) -> tuple[int, int]:
    """First slice of the CT and the one after its last."""
    if rng.random() < 0.4:
        return 0, slices
    length = max(8, round(slices * rng.uniform(0.45, 1)))
    low = int(rng.integers(slices - length + 1)) if length < slices else 0
    return low, min(slices, low + length)


class PatientPool:
    """Patients at hand, a few of them replaced by new ones now and then.

    Args:
        size: how many patients at once.
        phantoms: how many different phantoms they are made from.
        cts: paths of real CTs that they are made from besides.
        ct_share: share of patients made from real CTs.
        structures: share of patients made of random structures, each another, who lie in any orientation.
        bones: share of patients of whom both CT and X-ray show bones alone.
        first_seed: of the phantoms.
        folder: where phantoms are kept between runs.
        seed: of the variations.
    """

    def __init__(
        self,
        size: int,
        phantoms: int,
        cts: Sequence[str | Path] = (),
        ct_share: float = 0.2,
        structures: float = 0.0,
        bones: float = BONES,
        first_seed: int = TRAINING_SEEDS,
        folder: Path | None = None,
        seed: int | Sequence[int] = 0,
    ):
        self._phantoms, self._first_seed, self._folder = phantoms, first_seed, folder
        self._real = [_anatomy_of(path) for path in cts]
        self._ct_share = ct_share if self._real else 0.0
        self._structures, self._bones = structures, bones
        self._rng = np.random.default_rng(seed)
        self._size = size
        self.patients: list[Patient] = []
        self._oldest = 0

    def fill(self, progress=lambda made: None) -> None:
        """Make all patients."""
        while len(self.patients) < self._size:
            self.patients.append(self._new())
            progress(len(self.patients))

    def renew(self) -> None:
        """Replace the oldest patient by a new one."""
        self.patients[self._oldest] = self._new()
        self._oldest = (self._oldest + 1) % self._size

    def _new(self) -> Patient:
        rng = self._rng
        if rng.random() < self._structures:
            anatomy = Anatomy.from_structures(self._first_seed + int(rng.integers(2**31)))
            return varied(anatomy, rng, self._bones, turned=True)
        if rng.random() < self._ct_share:
            anatomy = self._real[rng.integers(len(self._real))]
        else:
            anatomy = Anatomy.from_phantom(self._first_seed + int(rng.integers(self._phantoms)), self._folder)
        return varied(anatomy, rng, self._bones)


def _anatomy_of(path: str | Path) -> Anatomy:
    ct = read_volume(path)
    for note in ct.notes:
        log.warning("%s", note)
    return Anatomy.from_ct(ct)
