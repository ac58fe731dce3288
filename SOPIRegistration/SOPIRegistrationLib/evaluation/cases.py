"""The cases of an evaluation: simulated ones by protocol and seed, or a user's own from a list of files.

Case N of a source is the same whenever and in whatever process it is made.
"""

from __future__ import annotations

import csv
import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.evaluation.protocols import PROTOCOLS
from SOPIRegistrationLib.evaluation.targets import Photographer, photographer, require_target
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.presets import PRESETS
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.ct_preparation import BONE_THRESHOLD_HU, prepare_ct
from SOPIRegistrationLib.images.files import open_radiograph, read_volume
from SOPIRegistrationLib.images.itk_reading import require_file
from SOPIRegistrationLib.images.prepared_ct import PreparedCT
from SOPIRegistrationLib.images.radiograph import PreparedRadiograph
from SOPIRegistrationLib.images.radiograph_preparation import prepare_radiograph
from SOPIRegistrationLib.images.volume import Volume
from SOPIRegistrationLib.registration import lay_out
from SOPIRegistrationLib.registration.pose_files import read_start
from SOPIRegistrationLib.simulation.phantom import lumbar_phantom
from SOPIRegistrationLib.training.patients import VALIDATION_SEEDS

# The C-arm of the SOPI paper (Perlove PLX118F), its 1024 pixels of 0.19959 mm over the whole detector.
SDD_MM, SOD_MM, DETECTOR_MM = 1011.7, 700.0, 1024 * 0.19959
# Phantoms are registered on the coarse voxels and X-rayed on the fine ones.
COARSE_MM, FINE_MM = 2.0, 1.5
PHANTOMS_BY_DEFAULT = 20
CONTENTS = ("body", "bone")
_AIR_HU = -1000
_REQUIRED, _OPTIONAL = ("ct", "xray", "geometry"), ("truth", "start", "mask", "camera")


@dataclass(frozen=True)
class EvaluationCase:
    """One case, ready to be registered.

    Attributes:
        number: in its source, from 0.
        name: for people.
        ct: prepared CT.
        radiograph: prepared X-ray.
        frame: nominal view, source-object distance and rotation centre.
        T_start: (4, 4) T_lps_to_world of the start, mm.
        T_true: (4, 4) T_lps_to_world; None where it is not known.
    """

    number: int
    name: str
    ct: PreparedCT
    radiograph: PreparedRadiograph
    frame: PoseFrame
    T_start: np.ndarray
    T_true: np.ndarray | None


@dataclass(frozen=True)
class SimulatedCases:
    """X-rays at poses drawn by a protocol, of CTs in files or of lumbar phantoms.

    Case N is of patient N modulo the number of patients; its pose depends on the seed and N alone, so that
    more cases, other targets and other methods go with it.

    Attributes:
        protocol: name in :data:`~SOPIRegistrationLib.evaluation.protocols.PROTOCOLS`.
        target: name in :data:`~SOPIRegistrationLib.evaluation.targets.TARGETS`.
        cts: files of the CTs; phantoms by seed without any.
        seed: of everything drawn.
        view: nominal view.
        pixels: rows and columns of the X-rays; the detector's size stays.
        content: "body", or "bone": everything else is taken out of CT and X-ray, as in the papers.
        phantoms: how many different ones.
    """

    protocol: str = "paper"
    target: str = "rtk"
    cts: tuple[Path, ...] = ()
    seed: int = 1
    view: str = "AP"
    pixels: int = 256
    content: str = "body"
    phantoms: int = PHANTOMS_BY_DEFAULT

    @property
    def patients(self) -> int:
        return len(self.cts) or self.phantoms

    def patient_of(self, number: int) -> int:
        """The patient of a case: cases of one patient are best made one after the other."""
        return number % self.patients

    def check(self) -> None:
        """Whether the cases can be made.

        Raises:
            InputError: RTK is missing, or a CT is unusable.
        """
        require_target(self.target)
        for path in self.cts:
            read_volume(path)

    def settings(self) -> dict:
        """What the cases depend on, for the fingerprint of an evaluation."""
        patients = {"phantoms": self.phantoms}
        if self.cts:
            patients = {"cts": [f"{path.name} {digest(path)}" for path in self.cts]}
        return {
            "protocol": self.protocol,
            "target": self.target,
            "content": self.content,
            "seed": self.seed,
            "view": self.view,
            "pixels": self.pixels,
            **patients,
        }

    def make(self, number: int) -> EvaluationCase:
        """Case of that number.

        Raises:
            InputError: its CT is unusable.
        """
        patient = _simulated_patient(self, self.patient_of(number))
        frame = PoseFrame(patient.ct.rotation_centre_lps_mm, SOD_MM, self.view)
        pose_rng, image_rng = (np.random.default_rng([self.seed, number, stream]) for stream in range(2))
        theta_true, theta_start = PROTOCOLS[self.protocol].draw(pose_rng)
        T_true = frame.T_from_theta(theta_true)
        xray = prepare_radiograph(patient.photograph(T_true, image_rng), patient.camera)
        T_start = frame.T_from_theta(theta_start)
        return EvaluationCase(number, patient.name, patient.ct, xray, frame, T_start, T_true)


@dataclass(frozen=True, eq=False)
class _Patient:
    name: str
    ct: PreparedCT
    camera: Camera
    photograph: Photographer


# Cases come patient by patient: keeping more than one would only take memory.
@lru_cache(maxsize=1)
def _simulated_patient(source: SimulatedCases, index: int) -> _Patient:
    if source.cts:
        ct = patient = read_volume(source.cts[index])
    else:
        # Below the seeds of training and validation.
        seed = (1000 * source.seed + index) % VALIDATION_SEEDS
        ct = lumbar_phantom(seed, COARSE_MM).ct
        patient = ct if source.target == "ours" else lumbar_phantom(seed, FINE_MM).ct
    if source.content == "bone":
        ct, patient = (_bones_of(volume) for volume in (ct, patient))
    prepared = prepare_ct(ct)
    lay_out(prepared)
    pitch = DETECTOR_MM / source.pixels
    camera = Camera.from_c_arm(SDD_MM, (pitch, pitch), source.pixels, source.pixels)
    return _Patient(ct.name, prepared, camera, photographer(source.target, prepared, patient, camera))


def _bones_of(ct: Volume) -> Volume:
    return ct.same_grid(np.where(ct.array > BONE_THRESHOLD_HU, ct.array, _AIR_HU).astype(ct.array.dtype))


@dataclass(frozen=True)
class ListedCase:
    """One line of a cases file; files as given there, relative ones to its folder."""

    line: int
    ct: Path
    xray: Path
    geometry: str | None = None
    truth: Path | None = None
    start: Path | None = None
    mask: Path | None = None
    camera: str | None = None


@dataclass(frozen=True)
class ListedCases:
    """A user's own cases, from a CSV file (see :func:`read_cases_file`).

    Attributes:
        path: the CSV file.
        cases: its lines.
    """

    path: Path
    cases: tuple[ListedCase, ...]

    def patient_of(self, number: int) -> int:
        """The first case with the same CT and mask."""
        wanted = self.cases[number]
        return next(
            i for i, case in enumerate(self.cases) if (case.ct, case.mask) == (wanted.ct, wanted.mask)
        )

    def check(self) -> None:
        """Nothing: the files were found when the list was read; unusable ones become rows with errors."""

    def settings(self) -> dict:
        """What the cases depend on, for the fingerprint of an evaluation."""
        files = {self.path}
        for case in self.cases:
            named = (case.ct, case.xray, case.geometry, case.truth, case.start, case.mask)
            files.update(Path(path) for path in named if path is not None and Path(path).exists())
        digests = "".join(digest(path) for path in sorted(files))
        return {"cases": self.path.name, "files": hashlib.sha256(digests.encode()).hexdigest()[:16]}

    def make(self, number: int) -> EvaluationCase:
        """Case of that number.

        Raises:
            InputError: one of its files is unusable.
        """
        listed = self.cases[number]
        ct = _prepared_ct(listed.ct, listed.mask)
        radiograph, geometry = open_radiograph(listed.xray, listed.geometry)
        cameras = geometry.cameras
        name = listed.camera
        if name is None and len(cameras) > 1:
            name = geometry.camera_named_in(listed.xray.name)
            if name is None:
                known = ", ".join(camera.name for camera in cameras)
                raise InputError(
                    f"{self.path} line {listed.line}: {listed.geometry} has the cameras {known}: choose "
                    "one in the column camera"
                )
        if name is not None:
            geometry = geometry.for_camera(name)
        try:
            frame = geometry.pose_frame(ct.rotation_centre_lps_mm)
        except InputError as error:
            raise InputError(f"{listed.geometry or listed.xray}: {error}") from None
        xray = prepare_radiograph(radiograph, geometry.camera)
        T_start = np.linalg.inv(geometry.camera.T_world_to_camera) @ frame.T_nominal
        if listed.start is not None:
            T_start = read_start(listed.start, frame, cameras, geometry.camera)
        T_true = None
        if listed.truth is not None:
            T_true = read_start(listed.truth, frame, cameras, geometry.camera)
        return EvaluationCase(number, listed.xray.name, ct, xray, frame, T_start, T_true)


CaseSource = SimulatedCases | ListedCases


@lru_cache(maxsize=1)
def _prepared_ct(ct: Path, mask: Path | None) -> PreparedCT:
    prepared = prepare_ct(read_volume(ct), None if mask is None else read_volume(mask, "mask"))
    lay_out(prepared)
    return prepared


def read_cases_file(path: Path) -> ListedCases:
    """The cases of a CSV file with a header line.

    Columns: ct, xray, geometry (JSON file or C-arm preset; empty for the X-ray's DICOM tags); optionally
    truth and start (a result.json or a transform file), mask (label map of the bones), camera (name in the
    geometry). Empty cells of optional columns stand for nothing; relative paths start at the CSV file's
    folder.

    Raises:
        InputError: no such file, another layout, or a line that names a missing file.
    """
    require_file(path, "cases file")
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            header = [(name or "").strip().lower() for name in reader.fieldnames or ()]
            reader.fieldnames = header
            lines = [(reader.line_num, row) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cases file {path} is no CSV text ({error}): give one as UTF-8") from None
    columns = f"needs the columns {', '.join(_REQUIRED)} and may have {', '.join(_OPTIONAL)}"
    missing = [name for name in _REQUIRED if name not in header]
    unknown = [name for name in header if name not in _REQUIRED + _OPTIONAL]
    if missing or unknown:
        wrong = f"has no column {missing[0]}" if missing else f"has a column '{unknown[0]}'"
        raise InputError(f"cases file {path} {wrong}: it {columns}")
    cases = tuple(_listed_case(path, number, row) for number, row in lines)
    if not cases:
        raise InputError(f"cases file {path} lists no case: add a line for each X-ray")
    return ListedCases(path, cases)


def _listed_case(path: Path, line: int, row: dict) -> ListedCase:
    where = f"cases file {path} line {line}"
    if None in row:
        raise InputError(f"{where} has more cells than the header: put values with a comma in quotes")
    cells = {name: (value or "").strip() for name, value in row.items()}
    for name in ("ct", "xray"):
        if not cells[name]:
            raise InputError(f"{where} has no {name}: fill in that cell")
    files = {}
    for name in ("ct", "xray", "truth", "start", "mask"):
        text = cells.get(name, "")
        if not text:
            continue
        files[name] = path.parent / text
        if not files[name].exists():
            raise InputError(f"{where}: {name} {files[name]} does not exist: correct that cell")
    geometry = cells["geometry"] or None
    if geometry is not None and (path.parent / geometry).exists():
        geometry = str(path.parent / geometry)
    elif geometry is not None and geometry.lower() not in PRESETS:
        raise InputError(
            f"{where}: geometry {path.parent / geometry} does not exist, nor is it a preset: correct that "
            "cell"
        )
    return ListedCase(line, geometry=geometry, camera=cells.get("camera") or None, **files)


def digest(path: Path) -> str:
    """16 hexadecimal digits of the content of a file, or of all files of a folder."""
    whole = hashlib.sha256()
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if file.is_file():
            with file.open("rb") as stream:
                for block in iter(lambda: stream.read(1 << 20), b""):
                    whole.update(block)
    return whole.hexdigest()[:16]
