"""The section "Train for this patient": models of the CT at hand, and the training of one."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import qt

from SOPIRegistrationLib import patient_models
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.installed import PATIENT
from SOPIRegistrationLib.panel.training_process import (
    forget_copies,
    status_of,
    training_folder,
)
from SOPIRegistrationLib.patient_models import FAILED, RUNNING, PatientModel, TrainingStatus
from SOPIRegistrationLib.registration.prepared import PreparedCase

_POLL_MS = 1000
_NO_MODEL = "None for this CT yet"
# What to expect, and the options of the command that say so; whether it is the pose as it is now.
_RANGES = {
    "All usual views (about ±45°)": ((), False),
    "Near the nominal view (±15°)": (("--range", "8", "8", "8", "10", "10", "35"), False),
    "Near the pose as it is now (±30°)": (("--range", "15", "15", "15", "15", "15", "50"), True),
}
_SHOWN_LOOKS = 4


class TrainingSection:
    """Lists the models of a CT, starts and follows trainings in processes of their own.

    Args:
        ui: the panel's widgets by name.
        on_changed: called when a training was started or has ended.
        start_training: as ``training_process.start_training``.
    """

    def __init__(self, ui, on_changed: Callable[[], None], start_training: Callable):
        self._ui = ui
        self._on_changed, self._start_training = on_changed, start_training
        self._case: PreparedCase | None = None
        self._folder: Path | None = None
        self._process = None
        self._models: list[PatientModel] = []
        self._timer = qt.QTimer()
        self._timer.setInterval(_POLL_MS)
        self._timer.connect("timeout()", self.follow)
        for text in _RANGES:
            ui.trainingRangeCombo.addItem(text)
        ui.stopTrainingButton.connect("clicked(bool)", self.stop)
        forget_copies(patient_models.models_folder())
        self._list_models()
        self._show(None)

    def use(self, case: PreparedCase | None) -> None:
        """The case whose CT models are listed for; a training of it that is under way is followed."""
        is_another = self._identity(case) != self._identity(self._case)
        self._case = case
        if not is_another:
            return
        self._folder = None
        self._timer.stop()
        self._list_models()
        self._show(None)
        for folder in patient_models.trainings_in(patient_models.models_folder()):
            if case is not None and folder.name.startswith(self._identity(case)):
                self._begin_following(folder)

    @property
    def model(self) -> PatientModel | None:
        """The model chosen for the CT at hand; None where there is none."""
        index = self._ui.modelCombo.currentIndex
        return self._models[index] if 0 <= index < len(self._models) else None

    def weights(self, init: str) -> dict[str, Path]:
        """Weights of the network trained for this CT, where the start asks for it or is left to the program.

        Raises:
            InputError: it was chosen, and there is none.
        """
        model = self.model
        if init == PATIENT and model is None:
            raise InputError(
                "no network was trained for this CT yet: press Train under “Train for this patient”, or "
                "choose another start"
            )
        if model is None or init not in ("auto", PATIENT) or not find_spec("torch"):
            return {}
        return {PATIENT: model.weights}

    @property
    def is_running(self) -> bool:
        """Whether a training for this CT is under way."""
        return self._folder is not None

    def missing(self) -> str:
        """What is still needed to train, in words."""
        if self._case is not None and self._case.inputs.ct is None:
            return "a CT: networks learn from a patient's bones"
        return "the end of the training that runs" if self.is_running else ""

    def start(self, pose) -> None:
        """Train for the CT at hand.

        Args:
            pose: (4, 4) T_lps_to_camera as it is now.

        Raises:
            InputError: it cannot be started.
        """
        inputs, ui = self._case.inputs, self._ui
        options, about_pose = _RANGES[ui.trainingRangeCombo.currentText]
        about = pose if about_pose else None
        what = [*options, *([] if about is None else [str(about.round(6).tolist())])]
        identity = self._identity(self._case)
        folder = training_folder(patient_models.models_folder(), identity, inputs.geometry, what)
        name = inputs.ct.name or "CT"
        minutes = ui.trainingBudgetSpin.value
        self._process = self._start_training(
            folder, inputs.ct, inputs.mask, inputs.geometry, name, minutes, options, about
        )
        self._begin_following(folder)

    def stop(self, *_) -> None:
        """Ask the training to end; its best so far is kept."""
        if self._folder is not None:
            patient_models.ask_to_stop(self._folder)
            self._ui.trainingLabel.text = "Stopping…"
            self._ui.stopTrainingButton.enabled = False

    def close(self) -> None:
        """Look no more; the training goes on."""
        self._timer.stop()

    def _begin_following(self, folder: Path) -> None:
        self._folder = folder
        self._ui.stopTrainingButton.enabled = True
        self._timer.start()
        self.follow()

    def follow(self) -> None:
        """Look at the training that runs: what it says, and whether it has ended."""
        status = status_of(self._folder, self._process)
        if status is not None and status.state == RUNNING:
            if not patient_models.is_asked_to_stop(self._folder):
                self._show(status)
            return
        self._timer.stop()
        self._folder = self._process = None
        forget_copies(patient_models.models_folder())
        self._list_models()
        self._show(status)
        self._on_changed()

    def _list_models(self) -> None:
        """The models of the CT at hand, the newest first and chosen."""
        identity, combo = self._identity(self._case), self._ui.modelCombo
        known = patient_models.models_in(patient_models.models_folder())
        self._models = [model for model in known if identity and model.ct_identity == identity]
        combo.clear()
        for model in self._models:
            combo.addItem(model.summary)
        if not self._models:
            combo.addItem(_NO_MODEL)
        combo.enabled = bool(self._models)

    def _show(self, status: TrainingStatus | None) -> None:
        ui, running = self._ui, self.is_running
        ui.stopTrainingButton.enabled = running
        ui.trainingBar.visible = running
        if status is None:
            ui.trainingLabel.text = ""
            return
        ui.trainingBar.value = round(100 * status.fraction)
        lines = [_state(status), _looks(status)]
        ui.trainingLabel.text = "\n".join(line for line in lines if line)

    @staticmethod
    def _identity(case: PreparedCase | None) -> str:
        return case.ct.identity if case is not None else ""


def _state(status: TrainingStatus) -> str:
    if status.state == FAILED:
        return f"Training failed: {status.stage}"
    if status.state != RUNNING:
        return f"Training ended: {status.stage}"
    if status.seconds_left is None:
        return status.stage[:1].upper() + status.stage[1:]
    minutes = status.seconds_left / 60
    return f"Training, {minutes:.0f} min left" if minutes >= 1.5 else "Training, about a minute left"


def _looks(status: TrainingStatus) -> str:
    """How the errors at held-out poses fell."""
    if not status.curve:
        return ""
    curve = status.curve
    shown = [curve[round(n)] for n in _evenly(len(curve), _SHOWN_LOOKS)]
    rotation = " → ".join(f"{point[1]:.1f}" for point in shown)
    _, _, in_plane, depth = curve[-1]
    return f"Held-out poses, median: {rotation} deg; now {in_plane:.1f} mm in plane, {depth:.0f} mm in depth"


def _evenly(count: int, most: int) -> list[float]:
    """At most so many of the numbers below ``count``, the first and the last among them."""
    shown = min(count, most)
    return [n * (count - 1) / max(shown - 1, 1) for n in range(shown)] if shown > 1 else [count - 1]
