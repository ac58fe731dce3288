"""Several bodies as cases: X-rays of a CT whose bones have moved; a case is one of the bones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from SOPIRegistrationLib.evaluation.anatomies import ct_of_labels
from SOPIRegistrationLib.evaluation.cases import EvaluationCase, digest
from SOPIRegistrationLib.evaluation.detector import PAPER_C_ARM, Detector
from SOPIRegistrationLib.evaluation.peers import Rtk
from SOPIRegistrationLib.evaluation.problem import SeveralBodies
from SOPIRegistrationLib.evaluation.simulated import COARSE_MM, FINE_MM
from SOPIRegistrationLib.evaluation.targets import PHOTONS, displayed, require_target, with_quanta
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.ct_preparation import prepare_ct
from SOPIRegistrationLib.images.files import read_volume
from SOPIRegistrationLib.images.radiograph import Radiograph
from SOPIRegistrationLib.images.radiograph_preparation import prepare_radiograph
from SOPIRegistrationLib.simulation.bending import bent, bent_poses
from SOPIRegistrationLib.simulation.phantom import lumbar_phantom
from SOPIRegistrationLib.subject.bodies import Bodies
from SOPIRegistrationLib.subject.labelled import cut_up

# How the pose differs from the nominal view, and the start from the pose, at most about and along each axis.
_TURN_DEG, _SHIFT_MM = 8.0, (8.0, 8.0, 20.0)
_START_TURN_DEG, _START_SHIFT_MM = 5.0, 5.0


@dataclass(frozen=True)
class BentCases:
    """X-rays of CTs whose bones have been turned and shifted against each other (``simulation.bending``).

    The bones of one X-ray are cases that follow each other.

    Attributes:
        chain: labels of the bones, from the one that stays.
        cts: files of the CTs; lumbar phantoms by seed without any.
        label_maps: of the CTs; none where they are label maps of bones themselves, in air.
        seed: of everything drawn.
        views: X-rays at right angles, of one world.
        pixels: rows and columns of the X-rays.
        detector: the C-arm.
        turn_deg: each bone is turned by up to so much against the one before, by 12 deg in all at most,
        shift_mm: and shifted by up to so much.
        start_along_mm: by how much the start is slid towards the head besides: 34 is about a vertebra.
        looks_at: label of the bone of the chain that the X-rays are centred about; of all bone unless given.
    """

    chain: tuple[int, ...] = (24, 23, 22, 21, 20)
    cts: tuple[Path, ...] = ()
    label_maps: tuple[Path, ...] = ()
    seed: int = 1
    views: int = 1
    pixels: int = 256
    detector: Detector = PAPER_C_ARM
    turn_deg: float = 6.0
    shift_mm: float = 3.0
    start_along_mm: float = 0.0
    looks_at: int | None = None

    def patient_of(self, number: int) -> int:
        """The X-ray of a case: all of its bones are registered at once."""
        return number // len(self.chain)

    def check(self) -> None:
        """Whether the cases can be made.

        Raises:
            InputError: RTK is missing, or a file is unusable.
        """
        require_target("rtk")
        for path in self.cts:
            read_volume(path, "CT" if self.label_maps else "label map")
        for path in self.label_maps:
            read_volume(path, "label map")

    def settings(self) -> dict:
        """What the cases depend on, for the fingerprint of an evaluation."""
        of = [f"{path.name} {digest(path)}" for path in (*self.cts, *self.label_maps)]
        detector = self.detector
        return {
            "bent": list(self.chain),
            "of": of or "lumbar phantoms",
            "seed": self.seed,
            "views": self.views,
            "pixels": self.pixels,
            "detector_mm": [detector.sdd_mm, detector.sod_mm, detector.size_mm],
            "turn_deg": self.turn_deg,
            "shift_mm": self.shift_mm,
            "start_along_mm": self.start_along_mm,
            **({} if self.looks_at is None else {"looks_at": self.looks_at}),
        }

    def make(self, number: int) -> EvaluationCase:
        """Case of that number.

        Raises:
            InputError: its CT or label map is unusable.
        """
        exposure = _exposure(self, self.patient_of(number))
        body = exposure.several.bodies.bodies[number % len(self.chain)]
        return EvaluationCase(
            number,
            f"{exposure.name}, {body.name}",
            body.subject,
            exposure.several.radiographs,
            replace(exposure.several.frame, centre_lps_mm=body.centre_lps_mm),
            exposure.T_start,
            exposure.T_true[body.name],
            body=body.name,
            several=exposure.several,
        )

    def taken(self, index: int) -> _Exposure:
        """X-ray of that number."""
        rng = np.random.default_rng([self.seed, index])
        name, patient, bodies = self._patient(index)
        motions = bent_poses(
            np.array([body.centre_lps_mm for body in patient.bodies]), rng, self.turn_deg, self.shift_mm
        )
        moved = bent(patient, dict(zip(patient.names, motions, strict=True)))
        centre = bodies.whole.ct.rotation_centre_lps_mm
        if self.looks_at is not None:
            centre = bodies[str(self.looks_at)].centre_lps_mm
        frame = PoseFrame(centre, self.detector.sod_mm)
        furthest = np.array([*np.deg2rad([_TURN_DEG] * 3), *_SHIFT_MM])
        T = frame.T_from_theta(furthest * rng.uniform(-1, 1, 6))
        cameras = self.cameras(T, frame)
        radiographs = []
        for camera in cameras:
            integrals = Rtk(moved, camera.as_world()).image(camera.T_world_to_camera @ T)
            pixels = displayed(with_quanta(integrals, PHOTONS, rng), rng)
            radiographs.append(prepare_radiograph(Radiograph(pixels, camera.name, bone_dark=False), camera))
        away = np.array([*np.deg2rad([_START_TURN_DEG] * 3), *[_START_SHIFT_MM] * 3])
        start = se3.move_about(T, away * rng.uniform(-1, 1, 6), frame.centre_lps_mm)
        start[:3, 3] += start[:3, 2] * self.start_along_mm
        several = SeveralBodies(bodies, tuple(radiographs), frame, {bodies.names[0]: start})
        return _Exposure(name, several, start, dict(zip(bodies.names, T @ motions, strict=True)))

    def _patient(self, index: int) -> tuple[str, Bodies, Bodies]:
        """Name, the patient cut up, and the CT of the same that is registered."""
        names = {label: str(label) for label in self.chain}
        if not self.cts:
            fine, coarse = (lumbar_phantom(1000 * self.seed + index, mm) for mm in (FINE_MM, COARSE_MM))
            cut = (cut_up(prepare_ct(one.ct), one.labels, names) for one in (fine, coarse))
            return f"phantom {index}", *cut
        path = self.cts[index % len(self.cts)]
        if self.label_maps:
            ct = read_volume(path, "CT")
            labels = read_volume(self.label_maps[index % len(self.label_maps)], "label map")
        else:
            labels = read_volume(path, "label map")
            ct = ct_of_labels(labels)
        bodies = cut_up(prepare_ct(ct), labels, names)
        return path.name, bodies, bodies

    def cameras(self, T: np.ndarray, frame: PoseFrame) -> list[Camera]:
        """The C-arms of a patient at a pose (4, 4) in the first, which is the world.

        The others are turned by a quarter about the patient each.
        """
        front = self.detector.camera(self.pixels)
        cameras = [front]
        for number in range(1, self.views):
            turn = np.array([0, number * np.pi / 2, 0, 0, 0, 0])
            beside = se3.move_about(T, turn, frame.centre_lps_mm) @ se3.invert_rigid(T)
            cameras.append(replace(front, T_world_to_camera=beside, name=f"view {number + 1}"))
        return cameras


class _Exposure(NamedTuple):
    """One X-ray, or several, of a bent CT."""

    name: str
    several: SeveralBodies
    T_start: np.ndarray
    T_true: Mapping[str, np.ndarray]


# The bones of one X-ray follow each other.
@lru_cache(maxsize=1)
def _exposure(source: BentCases, index: int) -> _Exposure:
    return source.taken(index)
