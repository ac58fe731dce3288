"""Networks trained for one patient, and trainings under way: what their folders hold.

Needs nothing beyond Python: the panel lists models and follows trainings where torch is missing. A training
and whoever watches it meet in its folder alone: it goes on when the panel is closed, and is found again
when it is opened.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from SOPIRegistrationLib.whole_files import write_whole

WEIGHTS, MODEL, STATUS, STOP = "patient.safetensors", "model.json", "status.json", "stop"
RUNNING, DONE, STOPPED, FAILED = "running", "done", "stopped", "failed"
# A training writes its status several times a second, once it has begun; reading a large CT takes longer.
_SILENT_SECONDS = 180.0


def models_folder() -> Path:
    """Where the panel keeps models: a folder of the user's, the same for all versions of Slicer."""
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME", Path.home() / ".local" / "share"))
    return base / "SOPIRegistration" / "models"


@dataclass(frozen=True)
class PatientModel:
    """A trained network and whose it is.

    Attributes:
        ct_identity: of the CT (``images.identity``).
        ct_name: for people.
        network: name of its configuration.
        view: nominal view that it was trained about.
        minutes: of training.
        date: when it was trained, ISO.
        figures: medians over held-out poses: rotation_deg, in_plane_mm, depth_mm.
        folder: where it lies; not part of the file.
    """

    ct_identity: str
    ct_name: str
    network: str
    view: str
    minutes: float
    date: str
    figures: dict[str, float]
    folder: Path = field(default=Path(), compare=False)

    @property
    def weights(self) -> Path:
        """File of the weights."""
        return self.folder / WEIGHTS

    @property
    def summary(self) -> str:
        """One line for a list."""
        return f"{self.ct_name}, {self.view}, {self.date}: {reached(self.figures)}"

    def write(self) -> None:
        """Leave it beside the weights."""
        content = asdict(self)
        content.pop("folder")
        write_whole(self.folder / MODEL, json.dumps(content))

    @classmethod
    def read(cls, folder: Path) -> PatientModel | None:
        """The model of a folder; None where there is none, or none that this version knows."""
        content = _read(folder / MODEL)
        if content is None or not (folder / WEIGHTS).is_file():
            return None
        try:
            return cls(**content, folder=folder)
        except TypeError:
            return None


def models_in(folder: Path) -> list[PatientModel]:
    """Models in the folders of a folder, the newest first."""
    found = (PatientModel.read(path.parent) for path in folder.glob(f"*/{MODEL}"))
    return sorted((model for model in found if model), key=lambda model: model.date, reverse=True)


def reached(figures: dict[str, float]) -> str:
    """Medians over held-out poses, in words."""
    return "{rotation_deg:.1f} deg, {in_plane_mm:.1f} mm in plane, {depth_mm:.0f} mm in depth".format(
        **figures
    )


@dataclass(frozen=True)
class TrainingStatus:
    """How far a training is.

    Attributes:
        state: ``RUNNING``, ``DONE``, ``STOPPED`` or ``FAILED``.
        stage: what it does, in words; of a failed one, why.
        ct_identity: of its CT, as soon as that is read.
        ct_name: for people.
        fraction: of its budget used.
        seconds_left: of its budget.
        curve: (minutes, rotation_deg, in_plane_mm, depth_mm) of every look at the held-out poses.
    """

    state: str
    stage: str
    ct_identity: str = ""
    ct_name: str = ""
    fraction: float = 0.0
    seconds_left: float | None = None
    curve: tuple[tuple[float, ...], ...] = ()

    def write(self, folder: Path) -> None:
        """Leave it in the training's folder."""
        write_whole(folder / STATUS, json.dumps(asdict(self)))

    @classmethod
    def read(cls, folder: Path) -> TrainingStatus | None:
        """The status of a folder, None without one; a training that was silent for minutes has failed."""
        path = folder / STATUS
        content = _read(path)
        if content is None:
            return None
        try:
            status = cls(**content | {"curve": tuple(map(tuple, content.get("curve", ())))})
            silent = time.time() - path.stat().st_mtime
        except (TypeError, OSError):
            return None
        if status.state == RUNNING and silent > _SILENT_SECONDS:
            return cls(
                FAILED, "ended unexpectedly; training again goes on from where it was", status.ct_identity
            )
        return status


def ask_to_stop(folder: Path) -> None:
    """Ask the training of a folder to end and keep its best."""
    (folder / STOP).touch()


def is_asked_to_stop(folder: Path) -> bool:
    """Whether somebody asked for it."""
    return (folder / STOP).exists()


def forget_request(folder: Path) -> None:
    """Take back what an earlier training was asked."""
    (folder / STOP).unlink(missing_ok=True)


def trainings_in(folder: Path) -> Iterator[Path]:
    """Folders of the trainings under way among those of a folder."""
    for path in sorted(folder.glob(f"*/{STATUS}")):
        status = TrainingStatus.read(path.parent)
        if status is not None and status.state == RUNNING:
            yield path.parent


def _read(path: Path) -> dict | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
