"""A user's own cases, from a list of files."""

from __future__ import annotations

import csv
import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.evaluation.cases import EvaluationCase, TruthDeviation, digest
from SOPIRegistrationLib.evaluation.protocols import PROTOCOLS
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.c_arm import CArmGeometry
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.presets import PRESETS
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.ct_preparation import prepare_ct
from SOPIRegistrationLib.images.files import open_radiograph, read_volume
from SOPIRegistrationLib.images.itk_reading import require_file
from SOPIRegistrationLib.images.radiograph import Radiograph
from SOPIRegistrationLib.images.radiograph_preparation import prepare_radiograph
from SOPIRegistrationLib.registration.pose_files import read_start
from SOPIRegistrationLib.subject import Subject

log = logging.getLogger(__name__)

_REQUIRED = ("ct", "xray", "geometry")
_OPTIONAL = ("truth", "start", "mask", "camera", "case", "truth_key")
COLUMNS = _REQUIRED + _OPTIONAL


@dataclass(frozen=True)
class ListedView:
    """One X-ray of a list: where it stands there, its file and whose geometry it has."""

    place: str
    xray: Path
    geometry: str | None = None
    camera: str | None = None


@dataclass(frozen=True)
class ListedCase:
    """One case, of one X-ray or several; files as given, relative ones to the list's folder.

    Attributes:
        name: for people.
        ct: the CT.
        views: its X-rays.
        truth: file of the true pose: a result.json or a transform.
        start: file of the start pose, likewise.
        mask: label map of the bones.
        truth_key: of a JSON file of another layout, what its (4, 4) T_lps_to_world (mm) is called there.
    """

    name: str
    ct: Path
    views: tuple[ListedView, ...]
    truth: Path | None = None
    start: Path | None = None
    mask: Path | None = None
    truth_key: str | None = None


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

    def of(self, case: EvaluationCase, index: int, start: int) -> np.ndarray:
        """Start (4, 4) T_lps_to_world number ``start`` of the listed case ``index``, mm."""
        T_world_to_camera = case.T_world_to_camera
        T_true = T_world_to_camera @ case.T_true
        return np.linalg.inv(T_world_to_camera) @ self.draw(index, start, T_true, case.frame.centre_lps_mm)

    def __str__(self) -> str:
        return f"{self.number} by protocol {self.protocol}"


@dataclass(frozen=True)
class BoundedStarts:
    """Starts about a known pose, turned and shifted in any direction, uniform in size; alike for all cases.

    Attributes:
        number: of each case.
        angle_deg: largest turn about the rotation centre.
        shift_mm: largest shift.
        seed: of their drawing.
    """

    number: int
    angle_deg: float
    shift_mm: float
    seed: int = 1

    def twist(self, start: int) -> np.ndarray:
        """(6,) twist of a start, world axes, rad and mm."""
        # One generator for all of a case, as in the tables that were made before.
        rng = np.random.default_rng(self.seed)
        for _ in range(start + 1):
            directions = rng.normal(size=(2, 3))
            directions /= np.linalg.norm(directions, axis=1, keepdims=True)
            sizes = rng.uniform(size=(2, 1)) * [[np.deg2rad(self.angle_deg)], [self.shift_mm]]
        return (directions * sizes).ravel()

    def of(self, case: EvaluationCase, index: int, start: int) -> np.ndarray:
        """Start (4, 4) T_lps_to_world number ``start``, mm."""
        return se3.move_about(case.T_true, self.twist(start), case.frame.centre_lps_mm)

    def __str__(self) -> str:
        return f"{self.number} up to {self.angle_deg:g} deg and {self.shift_mm:g} mm off"


Starts = DrawnStarts | BoundedStarts


@dataclass(frozen=True)
class ListedCases:
    """A user's own cases, from a CSV file (see :func:`read_cases_file`) or a configuration.

    Attributes:
        path: the file that lists them.
        listed: its cases.
        starts: drawn in place of the listed ones: then every listed case is as many cases as it has starts.
        truth_deviation: how exact the true poses are; None for exact.
    """

    path: Path
    listed: tuple[ListedCase, ...]
    starts: Starts | None = None
    truth_deviation: TruthDeviation | None = None

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
                    f"cases file {self.path} {case.views[0].place} has no truth to draw starts about: "
                    "fill in that cell, or leave out --starts"
                )

    def settings(self) -> dict:
        """What the cases depend on, for the fingerprint of an evaluation."""
        files: set[Path] = set()
        said = []
        for case in self.listed:
            said.append((case.name, case.truth_key, [view.camera for view in case.views]))
            named = [case.ct, case.truth, case.start, case.mask]
            named += [path for view in case.views for path in (view.xray, view.geometry)]
            files.update(Path(path) for path in named if path is not None and Path(path).exists())
        content = repr(said) + "".join(digest(path) for path in sorted(files))
        settings = {"cases": self.path.name, "files": hashlib.sha256(content.encode()).hexdigest()[:16]}
        if self.starts is not None:
            settings["starts"] = str(self.starts)
        if self.truth_deviation is not None:
            settings["truth_deviation"] = list(astuple(self.truth_deviation))
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
        T_start = self.starts.of(case, index, start)
        return replace(case, number=number, name=f"{case.name}, start {start}", T_start=T_start)

    def _make_listed(self, index: int) -> EvaluationCase:
        """A case with its listed start."""
        listed = self.listed[index]
        subject = _subject(listed.ct, listed.mask)
        opened = [self._open(view) for view in listed.views]
        geometry, known = opened[0][1:]
        cameras = tuple(camera for _, one, _ in opened for camera in one.cameras)
        _require_places(cameras, f"{self.path} {listed.views[-1].place}")
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
        if listed.truth is not None and listed.truth_key is not None:
            T_true = _pose_named(listed.truth, listed.truth_key)
        elif listed.truth is not None:
            T_true = read_start(listed.truth, frame, known.cameras, first)
        return EvaluationCase(
            index,
            listed.name,
            subject,
            xrays,
            frame,
            T_start,
            T_true,
            truth_deviation=self.truth_deviation,
        )

    def _open(self, view: ListedView) -> tuple[Radiograph, CArmGeometry, CArmGeometry]:
        """X-ray, geometry of its camera, and of all cameras that were calibrated with it."""
        radiograph, known = open_radiograph(view.xray, view.geometry, camera=view.camera)
        name = view.camera
        if name is None and len(known.cameras) > 1:
            name = known.camera_named_in(view.xray.name)
            if name is None:
                names = ", ".join(camera.name for camera in known.cameras)
                raise InputError(
                    f"{self.path} {view.place}: {view.geometry} has the cameras {names}: choose one in "
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


def _pose_named(path: Path, key: str) -> np.ndarray:
    """(4, 4) T_lps_to_world, mm, of a JSON file.

    Raises:
        InputError: the file cannot be read, or holds no such pose.
    """
    require_file(path, "truth")
    try:
        T = np.array(json.loads(path.read_text(encoding="utf-8"))[key], dtype=np.float64)
        R = T[:3, :3]
        is_rigid = T.shape == (4, 4) and np.abs(R @ R.T - np.eye(3)).max() < 1e-3 and np.linalg.det(R) > 0
    except (ValueError, KeyError, TypeError, IndexError):
        is_rigid = False
    if not is_rigid:
        raise InputError(f"truth {path} has no rigid 4x4 pose '{key}': correct the file or truth_key")
    return T


@lru_cache(maxsize=1)
def _subject(ct: Path, mask: Path | None) -> Subject:
    prepared = prepare_ct(read_volume(ct), None if mask is None else read_volume(mask, "mask"))
    for note in prepared.notes:
        log.warning("%s", note)
    return Subject(prepared)


def read_cases_file(path: Path, starts: Starts | None = None) -> ListedCases:
    """The cases of a CSV file with a header line.

    Columns: ct, xray, geometry (JSON file or C-arm preset; empty for the X-ray's DICOM tags); optionally
    truth and start (a result.json or a transform file), mask (label map of the bones), camera (name in the
    geometry), case (X-rays with the same one are registered jointly: the geometry has a camera for each, ct
    and mask are the same, truth and start those of the first line that has them). Empty cells of optional
    columns stand for nothing; relative paths start at the CSV file's folder. With truth_key, truth is a JSON
    file that holds T_lps_to_world (4x4, mm) under that name.

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
    if not lines:
        raise InputError(f"cases file {path} lists no case: add a line for each X-ray")
    return listed_cases(path, [(f"line {number}", row) for number, row in lines], starts)


def listed_cases(path: Path, rows: Sequence[tuple[str, dict]], starts: Starts | None = None) -> ListedCases:
    """Cases of rows with the columns of :func:`read_cases_file`.

    Args:
        path: the file that they stand in; relative paths start at its folder.
        rows: where each stands in the file, and its cells by column.
        starts: drawn about the truths in place of the listed starts.

    Raises:
        InputError: a row names no CT or X-ray, or a missing file.
    """
    cases: dict[str, ListedCase] = {}
    for place, row in rows:
        name, case = _listed_case(path, place, row)
        cases[name] = _joined(cases[name], case, path) if name in cases else case
    return ListedCases(path, tuple(cases.values()), starts)


def _listed_case(path: Path, place: str, row: dict) -> tuple[str, ListedCase]:
    """A row as a case of its own, and what it is joined with others by."""
    where = f"cases file {path} {place}"
    if None in row:
        raise InputError(f"{where} has more cells than the header: put values with a comma in quotes")
    cells = {name: (value or "").strip() for name, value in row.items()}
    for name in ("ct", "xray"):
        if not cells.get(name):
            raise InputError(f"{where} has no {name}: fill in that cell")
    files = {}
    for name in ("ct", "xray", "truth", "start", "mask"):
        text = cells.get(name, "")
        if not text:
            continue
        files[name] = path.parent / text
        if not files[name].exists():
            raise InputError(f"{where}: {name} {files[name]} does not exist: correct that cell")
    geometry = cells.get("geometry") or None
    if geometry is not None and (path.parent / geometry).exists():
        geometry = str(path.parent / geometry)
    elif geometry is not None and geometry.lower() not in PRESETS:
        raise InputError(
            f"{where}: geometry {path.parent / geometry} does not exist, nor is it a preset: correct that "
            "cell"
        )
    view = ListedView(place, files.pop("xray"), geometry, cells.get("camera") or None)
    named = cells.get("case", "")
    key = cells.get("truth_key") or None
    case = ListedCase(named or view.xray.name, views=(view,), truth_key=key, **files)
    return (f"case {named}" if named else place), case


def _joined(case: ListedCase, further: ListedCase, path: Path) -> ListedCase:
    """A case with one more X-ray."""
    for name in ("ct", "mask"):
        if getattr(further, name) != getattr(case, name):
            raise InputError(
                f"cases file {path} {further.views[0].place}: case {case.name} has another {name} than "
                "on its line before: give X-rays of one case the same"
            )
    return replace(
        case,
        views=case.views + further.views,
        truth=case.truth or further.truth,
        truth_key=case.truth_key or further.truth_key,
        start=case.start or further.start,
    )
