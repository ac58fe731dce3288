"""The process that trains a network for a patient: started from the panel, on its own from then on."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

import SOPIRegistrationLib
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry.c_arm import CArmGeometry
from SOPIRegistrationLib.geometry.files import geometry_as_dict, write_geometry
from SOPIRegistrationLib.images.volume import Volume
from SOPIRegistrationLib.patient_models import FAILED, RUNNING, TrainingStatus, forget_request
from SOPIRegistrationLib.registration.outputs import write_volume

# Copies of the patient's images, which the training needs and nobody afterwards.
_COPIES = ("ct.nrrd", "mask.nrrd")
_OUTPUT = "output.txt"


def training_folder(folder: Path, ct_identity: str, geometry: CArmGeometry, options: Sequence[str]) -> Path:
    """Where a CT is trained for with a C-arm and range of poses: the same ones go on where they were."""
    what = json.dumps([geometry_as_dict(geometry), list(options)], sort_keys=True)
    return folder / f"{ct_identity}-{hashlib.sha256(what.encode()).hexdigest()[:8]}"


def start_training(
    out: Path,
    ct: Volume,
    mask: Volume | None,
    geometry: CArmGeometry,
    name: str,
    budget_minutes: float,
    options: Sequence[str] = (),
    about: np.ndarray | None = None,
) -> subprocess.Popen:
    """Start ``sopi train patient`` in a process that goes on when this one ends.

    Args:
        out: folder of the training (:func:`training_folder`).
        ct: HU.
        mask: bones, or None.
        geometry: of the X-rays to come, one camera.
        name: of the CT, for people.
        budget_minutes: how long.
        options: further ones of the command.
        about: (4, 4) T_lps_to_camera of the pose to expect; the nominal view if None.

    Raises:
        InputError: the folder cannot be written to, or the process not be started.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        forget_request(out)
        TrainingStatus(RUNNING, "starting", ct_name=name).write(out)
        write_volume(out / "ct.nrrd", ct)
        words = ["--ct", str(out / "ct.nrrd"), "--name", name]
        if mask is not None:
            write_volume(out / "mask.nrrd", mask)
            words += ["--mask", str(out / "mask.nrrd")]
        write_geometry(geometry, out / "geometry.json")
        if about is not None:
            pose = {"pose": {"T_lps_to_camera": np.asarray(about).tolist()}}
            (out / "about.json").write_text(json.dumps(pose), encoding="utf-8")
            words += ["--about", str(out / "about.json")]
        words += ["--geometry", str(out / "geometry.json"), "--out", str(out)]
        words += ["--budget", f"{budget_minutes:g}", *options]
        with (out / _OUTPUT).open("w", encoding="utf-8") as output:
            return subprocess.Popen(
                [_python(), "-m", "SOPIRegistrationLib", "train", "patient", *words],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | {"PYTHONPATH": _search_path()},
                **_on_its_own(),
            )
    except (OSError, RuntimeError) as error:
        problem = f"the training could not be started in {out} ({error}): check the folder"
        with suppress(OSError):
            TrainingStatus(FAILED, problem, ct_name=name).write(out)
        raise InputError(problem) from None


def status_of(out: Path, process: subprocess.Popen | None) -> TrainingStatus | None:
    """The status of a training; one whose process is gone without a word has failed with its last line.

    Args:
        out: its folder.
        process: the process, where it was started from here.
    """
    gone = process is not None and process.poll() is not None
    # Read after looking at the process: what it wrote last is in it.
    status = TrainingStatus.read(out)
    if status is None or status.state != RUNNING or not gone:
        return status
    lines = (out / _OUTPUT).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return TrainingStatus(FAILED, lines[-1] if lines else "ended unexpectedly", status.ct_identity)


def forget_copies(folder: Path) -> None:
    """Remove the copies of CTs whose training is over."""
    for path in folder.glob("*/"):
        status = TrainingStatus.read(path)
        if status is None or status.state != RUNNING:
            for name in _COPIES:
                (path / name).unlink(missing_ok=True)


def _python() -> str:
    """The interpreter: in Slicer the one with its libraries."""
    python = shutil.which("PythonSlicer") or sys.executable
    if not python:
        raise RuntimeError("this build of the application has no Python program beside it")
    return python


def _search_path() -> str:
    package = str(Path(SOPIRegistrationLib.__file__).parents[1])
    return os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))


def _on_its_own() -> dict:
    """Options of Popen for a process that does not end with this one, nor shows a window."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
    return {"start_new_session": True}
