"""The cases of an evaluation: simulated ones by protocol and seed, or a user's own from a list of files.

Case N of a source is the same whenever and in whatever process it is made.
"""

from __future__ import annotations

import csv
import hashlib
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.evaluation.protocols import PROTOCOLS
from SOPIRegistrationLib.evaluation.targets import Photographer, photographer, require_target
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.c_arm import CArmGeometry
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.presets import PRESETS
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.ct_preparation import BONE_THRESHOLD_HU, prepare_ct
from SOPIRegistrationLib.images.files import open_radiograph, read_volume
from SOPIRegistrationLib.images.itk_reading import require_file
from SOPIRegistrationLib.images.prepared_ct import PreparedCT
from SOPIRegistrationLib.images.radiograph import PreparedRadiograph, Radiograph
from SOPIRegistrationLib.images.radiograph_preparation import prepare_radiograph
from SOPIRegistrationLib.images.volume import Volume
from SOPIRegistrationLib.registration.pose_files import read_start
from SOPIRegistrationLib.simulation.phantom import lumbar_phantom
from SOPIRegistrationLib.subject import Subject
from SOPIRegistrationLib.training.patients import VALIDATION_SEEDS

# The C-arm of the SOPI paper (Perlove PLX118F), its 1024 pixels of 0.19959 mm over the whole detector.
SDD_MM, SOD_MM, DETECTOR_MM = 1011.7, 700.0, 1024 * 0.19959
# Phantoms are registered on the coarse voxels and X-rayed on the fine ones.
COARSE_MM, FINE_MM = 2.0, 1.5
PHANTOMS_BY_DEFAULT = 20
CONTENTS = ("body", "bone")
_AIR_HU = -1000
_REQUIRED, _OPTIONAL = ("ct", "xray", "geometry"), ("truth", "start", "mask", "camera", "case")


@dataclass(frozen=True)
class EvaluationCase:
    """One case, ready to be registered.

    Attributes:
        number: in its source, from 0.
        name: for people.
        subject: the CT.
        radiographs: prepared X-rays of one world, one or several.
        frame: nominal view, source-object distance and rotation centre, in the first camera.
        T_start: (4, 4) T_lps_to_world of the start, mm.
        T_true: (4, 4) T_lps_to_world; None where it is not known.
    """

    number: int
    name: str
    subject: Subject
    radiographs: tuple[PreparedRadiograph, ...]
    frame: PoseFrame
    T_start: np.ndarray
    T_true: np.ndarray | None

    @property
    def ct(self) -> PreparedCT:
        """The prepared CT."""
        return self.subject.ct

    @property
    def T_world_to_camera(self) -> np.ndarray:
        """(4, 4) extrinsics of the first camera."""
        return self.radiographs[0].camera.T_world_to_camera


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
        frame = PoseFrame(patient.subject.ct.rotation_centre_lps_mm, SOD_MM, self.view)
        pose_rng, image_rng = (np.random.default_rng([self.seed, number, stream]) for stream in range(2))
        theta_true, theta_start = PROTOCOLS[self.protocol].draw(pose_rng)
        T_true = frame.T_from_theta(theta_true)
        xray = prepare_radiograph(patient.photograph(T_true, image_rng), patient.camera)
        T_start = frame.T_from_theta(theta_start)
        return EvaluationCase(number, patient.name, patient.subject, (xray,), frame, T_start, T_true)


@dataclass(frozen=True, eq=False)
class _Patient:
    name: str
    subject: Subject
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
    subject = Subject(prepare_ct(ct))
    subject.warm_up()
    pitch = DETECTOR_MM / source.pixels
    camera = Camera.from_c_arm(SDD_MM, (pitch, pitch), source.pixels, source.pixels)
    return _Patient(ct.name, subject, camera, photographer(source.target, subject.ct, patient, camera))


def _bones_of(ct: Volume) -> Volume:
    return ct.same_grid(np.where(ct.array > BONE_THRESHOLD_HU, ct.array, _AIR_HU).astype(ct.array.dtype))


@dataclass(frozen=True)
class ListedView:
    """One X-ray of a cases file: its line, its file and whose geometry it has."""

    line: int
    xray: Path
    geometry: str | None = None
    camera: str | None = None


@dataclass(frozen=True)
class ListedCase:
    """One case of a cases file, of one line or several; files as given there, relative ones to its folder."""

    name: str
    ct: Path
    views: tuple[ListedView, ...]
    truth: Path | None = None
    start: Path | None = None
    mask: Path | None = None


@dataclass(frozen=True)
class DrawnStarts:
    """Starts about a known pose: as far from it, and in as many ways, as in the simulated cases.

    Attributes:
        number: of each case.
        protocol: name in :data:`~SOPIRegistrationLib.evaluation.protocols.PROTOCOLS`.
        seed: of their drawing.
    """

    number: int
    protocol: str = "paper"
    seed: int = 1

    def draw(self, case: int, start: int, T_true: np.ndarray, centre_lps_mm: np.ndarray) -> np.ndarray:
        """Start (4, 4) number ``start`` of a case, in the frame of its true pose (a camera's), mm."""
        rng = np.random.default_rng([self.seed, case, start])
        # The start of a simulated case as seen from its true pose, about the rotation centre.
        theta_true, theta_start = PROTOCOLS[self.protocol].draw(rng)
        about_origin = PoseFrame(np.zeros(3), 0.0, rotation=np.eye(3))
        T_true_to_start = about_origin.T_from_theta(theta_start) @ se3.invert_rigid(
            about_origin.T_from_theta(theta_true)
        )
        centre = T_true[:3, :3] @ centre_lps_mm + T_true[:3, 3]
        away, back = (se3.rigid(np.eye(3), shift) for shift in (centre, -centre))
        return away @ T_true_to_start @ back @ T_true


@dataclass(frozen=True)
class ListedCases:
    """A user's own cases, from a CSV file (see :func:`read_cases_file`).

    Attributes:
        path: the CSV file.
        listed: its cases.
        starts: drawn in place of the listed ones: then every listed case is as many cases as it has starts.
    """

    path: Path
    listed: tuple[ListedCase, ...]
    starts: DrawnStarts | None = None

    @property
    def count(self) -> int:
        """How many cases there are."""
        return len(self.listed) * self._starts_each

    @property
    def _starts_each(self) -> int:
        return 1 if self.starts is None else self.starts.number

    def patient_of(self, number: int) -> int:
        """The first listed case with the same CT and mask."""
        wanted = self.listed[number // self._starts_each]
        return next(
            i for i, case in enumerate(self.listed) if (case.ct, case.mask) == (wanted.ct, wanted.mask)
        )

    def check(self) -> None:
        """Whether the cases can be made, as far as the list tells; unusable files become rows with errors.

        Raises:
            InputError: starts shall be drawn about a truth that a case has not.
        """
        if self.starts is None:
            return
        for case in self.listed:
            if case.truth is None:
                raise InputError(
                    f"cases file {self.path} line {case.views[0].line} has no truth to draw starts about: "
                    "fill in that cell, or leave out --starts"
                )

    def settings(self) -> dict:
        """What the cases depend on, for the fingerprint of an evaluation."""
        files = {self.path}
        for case in self.listed:
            named = [case.ct, case.truth, case.start, case.mask]
            named += [path for view in case.views for path in (view.xray, view.geometry)]
            files.update(Path(path) for path in named if path is not None and Path(path).exists())
        digests = "".join(digest(path) for path in sorted(files))
        settings = {"cases": self.path.name, "files": hashlib.sha256(digests.encode()).hexdigest()[:16]}
        if self.starts is not None:
            settings["starts"] = f"{self.starts.number} by protocol {self.starts.protocol}"
        return settings

    def make(self, number: int) -> EvaluationCase:
        """Case of that number.

        Raises:
            InputError: one of its files is unusable.
        """
        index, start = divmod(number, self._starts_each)
        case = _made_case(replace(self, starts=None), index)
        if self.starts is None:
            return case
        T_world_to_camera = case.T_world_to_camera
        T_true = T_world_to_camera @ case.T_true
        T_start = np.linalg.inv(T_world_to_camera) @ self.starts.draw(
            index, start, T_true, case.frame.centre_lps_mm
        )
        return replace(case, number=number, name=f"{case.name}, start {start}", T_start=T_start)

    def _make_listed(self, index: int) -> EvaluationCase:
        """A case with its listed start."""
        listed = self.listed[index]
        subject = _subject(listed.ct, listed.mask)
        opened = [self._open(view) for view in listed.views]
        geometry, known = opened[0][1:]
        cameras = tuple(camera for _, one, _ in opened for camera in one.cameras)
        _require_places(cameras, f"{self.path} line {listed.views[-1].line}")
        if len(cameras) > 1:
            # Where the central rays meet is a better guess of the distance than any for one camera.
            geometry = replace(known, cameras=cameras)
        try:
            frame = geometry.pose_frame(subject.ct.rotation_centre_lps_mm)
        except InputError as error:
            raise InputError(f"{listed.views[0].geometry or listed.views[0].xray}: {error}") from None
        xrays = tuple(
            prepare_radiograph(xray, camera) for (xray, _, _), camera in zip(opened, cameras, strict=True)
        )
        first = cameras[0]
        T_start = np.linalg.inv(first.T_world_to_camera) @ frame.T_nominal
        if listed.start is not None:
            T_start = read_start(listed.start, frame, known.cameras, first)
        T_true = None
        if listed.truth is not None:
            T_true = read_start(listed.truth, frame, known.cameras, first)
        return EvaluationCase(index, listed.name, subject, xrays, frame, T_start, T_true)

    def _open(self, view: ListedView) -> tuple[Radiograph, CArmGeometry, CArmGeometry]:
        """X-ray, geometry of its camera, and of all cameras that were calibrated with it."""
        radiograph, known = open_radiograph(view.xray, view.geometry)
        name = view.camera
        if name is None and len(known.cameras) > 1:
            name = known.camera_named_in(view.xray.name)
            if name is None:
                names = ", ".join(camera.name for camera in known.cameras)
                raise InputError(
                    f"{self.path} line {view.line}: {view.geometry} has the cameras {names}: choose one in "
                    "the column camera"
                )
        return radiograph, known if name is None else known.for_camera(name), known


# Many starts of a case follow each other.
@lru_cache(maxsize=1)
def _made_case(source: ListedCases, index: int) -> EvaluationCase:
    return source._make_listed(index)


def _require_places(cameras: tuple[Camera, ...], where: str) -> None:
    """Whether cameras of one world stand at different places in it.

    Raises:
        InputError: two stand at the same, as cameras without a common calibration do.
    """
    places = {tuple(np.round(camera.T_world_to_camera, 6).ravel()) for camera in cameras}
    if len(places) < len(cameras):
        raise InputError(
            f"{where}: two X-rays of the case have the same camera: give a geometry file with R and t of "
            "each, or other names in the column case"
        )


CaseSource = SimulatedCases | ListedCases


@lru_cache(maxsize=1)
def _subject(ct: Path, mask: Path | None) -> Subject:
    subject = Subject(prepare_ct(read_volume(ct), None if mask is None else read_volume(mask, "mask")))
    subject.warm_up()
    return subject


def read_cases_file(path: Path, starts: DrawnStarts | None = None) -> ListedCases:
    """The cases of a CSV file with a header line.

    Columns: ct, xray, geometry (JSON file or C-arm preset; empty for the X-ray's DICOM tags); optionally
    truth and start (a result.json or a transform file), mask (label map of the bones), camera (name in the
    geometry), case (X-rays with the same one are registered jointly: the geometry has a camera for each, ct
    and mask are the same, truth and start those of the first line that has them). Empty cells of optional
    columns stand for nothing; relative paths start at the CSV file's folder.

    Args:
        path: the CSV file.
        starts: drawn about the truths in place of the listed starts.

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
    cases: dict[str, ListedCase] = {}
    for number, row in lines:
        name, case = _listed_case(path, number, row)
        cases[name] = _joined(cases[name], case, path) if name in cases else case
    if not cases:
        raise InputError(f"cases file {path} lists no case: add a line for each X-ray")
    return ListedCases(path, tuple(cases.values()), starts)


def _listed_case(path: Path, line: int, row: dict) -> tuple[str, ListedCase]:
    """A line as a case of its own, and what it is joined with others by."""
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
    view = ListedView(line, files.pop("xray"), geometry, cells.get("camera") or None)
    named = cells.get("case", "")
    case = ListedCase(named or view.xray.name, views=(view,), **files)
    return (f"case {named}" if named else f"line {line}"), case


def _joined(case: ListedCase, further: ListedCase, path: Path) -> ListedCase:
    """A case with one more X-ray."""
    for name in ("ct", "mask"):
        if getattr(further, name) != getattr(case, name):
            raise InputError(
                f"cases file {path} line {further.views[0].line}: case {case.name} has another {name} than "
                "on its line before: give X-rays of one case the same"
            )
    return replace(
        case,
        views=case.views + further.views,
        truth=case.truth or further.truth,
        start=case.start or further.start,
    )


def digest(path: Path) -> str:
    """16 hexadecimal digits of the content of a file, or of all files of a folder."""
    whole = hashlib.sha256()
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if file.is_file():
            with file.open("rb") as stream:
                for block in iter(lambda: stream.read(1 << 20), b""):
                    whole.update(block)
    return whole.hexdigest()[:16]
