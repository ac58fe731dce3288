"""Simulated cases: X-rays at poses drawn by a protocol, of CTs in files or of lumbar phantoms."""

from __future__ import annotations

import logging
from dataclasses import astuple, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from SOPIRegistrationLib.evaluation.anatomies import (
    bone_alone,
    bones_of,
    ct_of_labels,
    slices_about,
    stranger_of,
    thicker_end,
)
from SOPIRegistrationLib.evaluation.cases import EvaluationCase, digest
from SOPIRegistrationLib.evaluation.detector import PAPER_C_ARM, Detector, believed
from SOPIRegistrationLib.evaluation.protocols import PROTOCOLS, DrawnPoses
from SOPIRegistrationLib.evaluation.targets import Simulator, require_target, simulator
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.tolerances import EXACT, SourceTolerances
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.ct_preparation import prepare_ct
from SOPIRegistrationLib.images.files import read_volume
from SOPIRegistrationLib.images.prepared_ct import PreparedCT
from SOPIRegistrationLib.images.radiograph import Radiograph
from SOPIRegistrationLib.images.radiograph_preparation import prepare_radiograph
from SOPIRegistrationLib.images.volume import Volume
from SOPIRegistrationLib.simulation.phantom import lumbar_phantom
from SOPIRegistrationLib.simulation.regions import RegionPhantom, random_region
from SOPIRegistrationLib.subject import Subject
from SOPIRegistrationLib.training.patients import VALIDATION_SEEDS

log = logging.getLogger(__name__)

# Phantoms are registered on the coarse voxels and X-rayed on the fine ones.
COARSE_MM, FINE_MM = 2.0, 1.5
PHANTOMS_BY_DEFAULT = 20
CONTENTS = ("body", "bone")
STREAMS = {
    "apart": "a generator for the poses of each case and one for its image",
    "case": "a generator for each case: its poses, then its image",
    "sequence": "one generator for all cases, one after the other",
}
STRANGERS = {
    "": "",
    "other": "X-rays of another patient: the next CT of the list, or another phantom",
    "changed": "X-rays of the CT changed: vertebrae higher and lower by 5 to 15 %, the spine bent",
}
# The phantoms' region unless another one is named.
LUMBAR = "lumbar"
# Another phantom has a seed this much further.
_OTHER_PHANTOM = 500


@dataclass(frozen=True)
class SimulatedCases:
    """X-rays at poses drawn by a protocol, of CTs in files or of lumbar phantoms.

    With ``streams`` "apart" or "case", the pose of case N depends on the seed and N alone, so that more
    cases, other targets and other methods go with it. With "sequence" what is drawn for a case depends on all
    cases before it, which are therefore made, too: tables made that way remain comparable.

    Attributes:
        protocol: name in :data:`~SOPIRegistrationLib.evaluation.protocols.PROTOCOLS`.
        target: name in :data:`~SOPIRegistrationLib.evaluation.targets.TARGETS`.
        cts: files of the CTs; phantoms by seed without any.
        seed: of everything drawn.
        view: nominal view.
        told_view: nominal view that a registration is told, where it is another one; empty for the same.
        pixels: rows and columns of the X-rays; the detector's size stays.
        content: "body", or "bone": everything else is taken out of CT and X-ray, as in the papers.
        phantoms: how many different ones.
        detector: the C-arm; that of the SOPI paper (Perlove PLX118F) by default.
        labels: whether the files are label maps of bones, to be made CTs.
        cases_a_patient: so many cases follow each other before the next patient's turn comes.
        scan_height_mm: only the slices within so much about the rotation centre are registered; the X-ray is
            of all of the CT, and start and truth are drawn about its rotation centre.
        streams: name in ``STREAMS``: how generators of random numbers are shared.
        stranger: name in ``STRANGERS``: the X-ray is not of the CT; no pose is right.
        region: of the phantoms: "lumbar", or name in ``simulation.regions.REGIONS``.
        bone: label of a bone, of a phantom or of a label map, that alone is registered, in the X-ray of the
            whole; all if None.
        phantom_mm: voxels of the phantoms as they are registered, and as they are X-rayed.
        bone_mm: only so much of that bone along the scan, from its thicker end; all of it if None.
        views: X-rays of a case, of one world, each a quarter turn about the patient further than the last.
        ct_scale_percent: by how much the CT's scale is off, one standard deviation: the X-rayed patient is so
            much larger or smaller about the rotation centre.
        geometry_error: by how much the C-arm that a registration is given is beside the one that took the
            X-ray, standard deviations.
        geometry_tolerance: what it is told of that.
    """

    protocol: str = "paper"
    target: str = "rtk"
    cts: tuple[Path, ...] = ()
    seed: int = 1
    view: str = "AP"
    pixels: int = 256
    content: str = "body"
    phantoms: int = PHANTOMS_BY_DEFAULT
    detector: Detector = PAPER_C_ARM
    labels: bool = False
    cases_a_patient: int = 1
    scan_height_mm: float | None = None
    streams: str = "apart"
    stranger: str = ""
    region: str = LUMBAR
    bone: int | None = None
    bone_mm: float | None = None
    phantom_mm: tuple[float, float] = (COARSE_MM, FINE_MM)
    views: int = 1
    told_view: str = ""
    ct_scale_percent: float = 0.0
    geometry_error: SourceTolerances = EXACT
    geometry_tolerance: SourceTolerances = EXACT

    @property
    def patients(self) -> int:
        return len(self.cts) or self.phantoms

    def patient_of(self, number: int) -> int:
        """The patient of a case: cases of one patient are best made one after the other."""
        return number // self.cases_a_patient % self.patients

    def check(self) -> None:
        """Raise InputError where RTK is missing, or a CT is unusable."""
        require_target(self.target)
        for path in self.cts:
            for note in read_volume(path, "mask" if self.labels else "CT").notes:
                log.warning("%s", note)

    def settings(self) -> dict:
        """What the cases depend on, for the fingerprint of an evaluation."""
        patients = {"phantoms": self.phantoms}
        if self.cts:
            patients = {"cts": [f"{path.name} {digest(path)}" for path in self.cts]}
        detector = self.detector
        return {
            "protocol": self.protocol,
            "target": self.target,
            "content": self.content,
            "seed": self.seed,
            "view": self.view,
            "pixels": self.pixels,
            **patients,
            "detector_mm": [detector.sdd_mm, detector.sod_mm, detector.size_mm],
            "labels": self.labels,
            "cases_a_patient": self.cases_a_patient,
            "scan_height_mm": self.scan_height_mm,
            "streams": self.streams,
            "stranger": self.stranger,
            "region": self.region,
            "bone": self.bone,
            "bone_mm": self.bone_mm,
            "phantom_mm": list(self.phantom_mm),
            "views": self.views,
            "told_view": self.told_view,
            "ct_scale_percent": self.ct_scale_percent,
            "geometry_error": list(astuple(self.geometry_error)),
            "geometry_tolerance": list(astuple(self.geometry_tolerance)),
        }

    def make(self, number: int) -> EvaluationCase:
        """Case of that number.

        Raises:
            InputError: its CT is unusable.
        """
        if self.streams == "sequence":
            exposure = _sequence(self).exposure(number)
        elif self.streams == "case":
            rng = np.random.default_rng([self.seed, number])
            exposure = self.exposure(number, rng, rng)
        else:
            exposure = self.exposure(
                number, *(np.random.default_rng([self.seed, number, i]) for i in range(2))
            )
        patient, drawn = exposure.patient, exposure.drawn
        cameras = self.detector.views(patient.camera, self.views)
        radiographs = tuple(
            prepare_radiograph(_stored(radiograph, drawn), self._believed(camera, number))
            for radiograph, camera in zip(exposure.radiographs, cameras, strict=True)
        )
        subject = patient.subject
        if self.bone is not None:
            subject = _one_bone(self, self.patient_of(number))
        if self.scan_height_mm is not None:
            subject = _short_scan(self, self.patient_of(number))
        return EvaluationCase(
            number,
            patient.name,
            subject,
            radiographs,
            self._frame(subject.ct, self.told_view),
            drawn.T_start,
            None if self.stranger else drawn.T_true,
            drawn,
            bool(self.stranger),
            tuple(camera.mirrored() if drawn.mirrored else camera for camera in cameras),
        )

    def exposure(
        self, number: int, pose_rng: np.random.Generator, image_rng: np.random.Generator
    ) -> _Exposure:
        """The X-ray of a case, not yet stored, from the generators' present state."""
        patient = _patient(self, self.patient_of(number))
        ct = patient.subject.ct
        if self.bone is not None:
            ct = _one_bone(self, self.patient_of(number)).ct
        frame = self._frame(ct)
        if not self.stranger:
            drawn = PROTOCOLS[self.protocol].draw_poses(pose_rng, frame, ct, patient.camera)
            larger = np.random.default_rng([self.seed, number, 4]).normal() * self.ct_scale_percent / 100
            radiographs = self._exposed(patient, drawn.T_true, image_rng, 1 + larger, frame.centre_lps_mm)
            return _Exposure(patient, drawn, radiographs)
        stranger = self._stranger(patient, number)
        theirs = self._frame(stranger.subject.ct)
        drawn = PROTOCOLS[self.protocol].draw_poses(pose_rng, theirs, stranger.subject.ct, stranger.camera)
        radiographs = self._exposed(stranger, drawn.T_true, image_rng)
        # The start is as far from the nominal view of the CT that is registered.
        T_start = frame.T_from_theta(theirs.theta_from_T(drawn.T_start))
        return _Exposure(patient, replace(drawn, T_start=T_start), radiographs)

    def _exposed(
        self,
        patient: _Patient,
        T_lps_to_world: np.ndarray,
        rng: np.random.Generator,
        scale: float = 1.0,
        centre_lps_mm: np.ndarray | None = None,
    ) -> tuple[Radiograph, ...]:
        """The X-rays of a patient at a pose, made so many times as large about a point.

        A point y of the patient is then at scale y + (1 - scale) y_c in a camera, on one ray with
        y + (1 / scale - 1) y_c: as if the patient were so far away.
        """
        radiographs = []
        for camera in self.detector.views(patient.camera, self.views):
            T = camera.T_world_to_camera @ T_lps_to_world
            if scale != 1.0:
                T[:3, 3] += (1 / scale - 1) * se3.transform_points(T, centre_lps_mm)
            radiographs.append(patient.expose(T, rng))
        return tuple(radiographs)

    def phantom(self, index: int, spacing_mm: float) -> RegionPhantom:
        """CT and labels of one of the phantoms."""
        # Below the seeds of training and validation.
        seed = (1000 * self.seed + index) % VALIDATION_SEEDS
        if self.region != LUMBAR:
            return random_region(self.region, seed, spacing_mm)
        made = lumbar_phantom(seed, spacing_mm)
        return RegionPhantom(made.ct, made.labels)

    def _believed(self, camera: Camera, number: int) -> Camera:
        """The camera that a registration is given for the one that took a case's X-ray."""
        if EXACT == self.geometry_error == self.geometry_tolerance:
            return camera
        rng = np.random.default_rng([self.seed, number, 3])
        return believed(camera, self.geometry_error, self.geometry_tolerance, rng)

    def _frame(self, ct: PreparedCT, view: str = "") -> PoseFrame:
        return PoseFrame(ct.rotation_centre_lps_mm, self.detector.sod_mm, view or self.view)

    def _stranger(self, patient: _Patient, number: int) -> _Patient:
        """Who is X-rayed in place of a patient."""
        if self.stranger == "changed":
            rng = np.random.default_rng([self.seed, number, 2])
            return _made_patient(self, stranger_of(patient.volume, rng))
        index = self.patient_of(number)
        return _other_patient(self, (index + 1) % self.patients if self.cts else index + _OTHER_PHANTOM)


class _Patient(NamedTuple):
    name: str
    subject: Subject
    volume: Volume
    camera: Camera
    expose: Simulator


class _Exposure(NamedTuple):
    """A case's X-rays as they were taken."""

    patient: _Patient
    drawn: DrawnPoses
    radiographs: tuple[Radiograph, ...]


def _stored(radiograph: Radiograph, drawn: DrawnPoses) -> Radiograph:
    """An X-ray as it is stored."""
    if not drawn.mirrored:
        return radiograph
    return replace(radiograph, pixels=np.ascontiguousarray(radiograph.pixels[:, ::-1]))


# Cases come patient by patient: keeping more than one would only take memory.
@lru_cache(maxsize=1)
def _patient(source: SimulatedCases, index: int) -> _Patient:
    return _made_patient(source, *_volumes(source, index))


@lru_cache(maxsize=1)
def _other_patient(source: SimulatedCases, index: int) -> _Patient:
    return _made_patient(source, *_volumes(source, index))


@lru_cache(maxsize=1)
def _short_scan(source: SimulatedCases, index: int) -> Subject:
    patient = _patient(source, index)
    middle = patient.subject.ct.rotation_centre_lps_mm
    return Subject(prepare_ct(slices_about(patient.volume, middle, source.scan_height_mm)))


@lru_cache(maxsize=1)
def _one_bone(source: SimulatedCases, index: int) -> Subject:
    if source.labels:
        labels = read_volume(source.cts[index], "mask")
        bone = bone_alone(ct_of_labels(labels), labels, source.bone)
    else:
        made = source.phantom(index, source.phantom_mm[0])
        bone = bone_alone(made.ct, made.labels, source.bone)
    return Subject(prepare_ct(bone if source.bone_mm is None else thicker_end(bone, source.bone_mm)))


def _volumes(source: SimulatedCases, index: int) -> tuple[Volume, Volume]:
    """HU of what is registered, and of what is X-rayed."""
    if source.cts:
        path = source.cts[index]
        ct = ct_of_labels(read_volume(path, "mask")) if source.labels else read_volume(path)
        patient = ct
    else:
        coarse, fine = source.phantom_mm
        ct = source.phantom(index, coarse).ct
        patient = ct if source.target == "ours" or fine == coarse else source.phantom(index, fine).ct
    if source.content == "bone":
        ct, patient = bones_of(ct), bones_of(patient)
    return ct, patient


def _made_patient(source: SimulatedCases, ct: Volume, patient: Volume | None = None) -> _Patient:
    prepared = prepare_ct(ct)
    camera = source.detector.camera(source.pixels)
    made = simulator(source.target, prepared, ct if patient is None else patient, camera)
    return _Patient(ct.name, Subject(prepared), ct, camera, made)


class _Sequence:
    """X-rays drawn from one generator, one after the other; where each began is remembered."""

    def __init__(self, source: SimulatedCases):
        self._source = source
        self._rng = np.random.default_rng(source.seed)
        self._states = [self._rng.bit_generator.state]

    def exposure(self, number: int) -> _Exposure:
        """The X-ray of a case; all before it that were never made are made first."""
        for current in range(min(number, len(self._states) - 1), number + 1):
            self._rng.bit_generator.state = self._states[current]
            exposure = self._source.exposure(current, self._rng, self._rng)
            if current + 1 == len(self._states):
                self._states.append(self._rng.bit_generator.state)
        return exposure


@lru_cache(maxsize=8)
def _sequence(source: SimulatedCases) -> _Sequence:
    return _Sequence(source)
