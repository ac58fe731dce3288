"""A user's own cases, from a list of files."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import astuple, dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.evaluation.case_list import ListedCase, ListedView, cases_of_rows, read_rows
from SOPIRegistrationLib.evaluation.cases import EvaluationCase, TruthDeviation, digest
from SOPIRegistrationLib.evaluation.starts import Starts
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.c_arm import CArmGeometry
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.rigidity import is_rotation
from SOPIRegistrationLib.images.ct_preparation import prepare_ct
from SOPIRegistrationLib.images.files import open_radiograph, read_volume
from SOPIRegistrationLib.images.itk_reading import require_file
from SOPIRegistrationLib.images.radiograph import Radiograph
from SOPIRegistrationLib.images.radiograph_preparation import prepare_radiograph
from SOPIRegistrationLib.registration.pose_files import read_start
from SOPIRegistrationLib.subject import Subject

log = logging.getLogger(__name__)


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

    def listed_case(self, index: int) -> EvaluationCase:
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
        T_start = se3.invert_rigid(first.T_world_to_camera) @ frame.T_nominal
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
    return source.listed_case(index)


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
    except (ValueError, KeyError, TypeError):
        T = np.empty(0)
    if T.shape != (4, 4) or not is_rotation(T[:3, :3]):
        raise InputError(f"truth {path} has no rigid 4x4 pose '{key}': correct the file or truth_key")
    return T


@lru_cache(maxsize=1)
def _subject(ct: Path, mask: Path | None) -> Subject:
    prepared = prepare_ct(read_volume(ct), None if mask is None else read_volume(mask, "mask"))
    for note in prepared.notes:
        log.warning("%s", note)
    return Subject(prepared)


def read_cases_file(path: Path, starts: Starts | None = None) -> ListedCases:
    """The cases of a CSV file (``case_list.read_rows``), with starts about their truths where these are
    given."""
    return ListedCases(path, cases_of_rows(path, read_rows(path)), starts)
