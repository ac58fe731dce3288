"""Train for this patient: models of the CT at hand, and a training that is followed through its folder."""

from __future__ import annotations

import shutil

import pytest
from SOPIRegistrationLib import patient_models
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.patient_models import DONE, FAILED, RUNNING, PatientModel, TrainingStatus

FIGURES = {"rotation_deg": 1.6, "in_plane_mm": 1.3, "depth_mm": 5.0}


@pytest.fixture(autouse=True)
def _no_models_left():
    yield
    shutil.rmtree(patient_models.models_folder(), ignore_errors=True)


@pytest.fixture
def started():
    """Arguments of the trainings that were started; none really is."""
    return []


@pytest.fixture
def tasks():
    """What the panel asked to be registered; nothing is."""
    return []


@pytest.fixture
def prepared(open_with, demo_case, started, tasks):
    """A user before the demo case, prepared, with PyTorch; trainings and registrations are not run."""
    from SOPIRegistrationLib.registration.logic import RegistrationLogic

    def start_training(out, *arguments):
        out.mkdir(parents=True, exist_ok=True)
        TrainingStatus(RUNNING, "starting").write(out)
        started.append((out, *arguments))

    def run(task, report):
        tasks.append(task)
        raise InputError("no more than this is needed")

    user = open_with(start_training=start_training, logic=RegistrationLogic(run=run))
    user.take_demo(demo_case)
    user.show_views()
    return user


def leave_model(identity, name="model", date="2026-11-20T10:00"):
    folder = patient_models.models_folder() / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / patient_models.WEIGHTS).write_bytes(b"")
    PatientModel(identity, "Demo CT", "light", "AP", 10.0, date, FIGURES, folder).write()
    return folder


def identity_of(user):
    return user.session.case.ct.identity


def follow(user):
    user.panel.training.follow()


def test_nothing_can_be_trained_without_inputs(user):
    assert not user.ui.trainButton.enabled
    assert "a CT" in user.ui.trainButton.toolTip
    assert not user.ui.stopTrainingButton.enabled
    assert user.ui.modelCombo.currentText == "None for this CT yet"


def test_training_is_followed_to_its_model(prepared, started):
    user, ui = prepared, prepared.ui
    ui.trainingBudgetSpin.value = 7
    user.click("trainButton")
    user.wait()
    [(out, ct, _mask, geometry, _name, minutes, options, about)] = started
    assert out.name.startswith(identity_of(user))
    assert ct is user.session.case.inputs.ct
    assert geometry is user.session.case.inputs.geometry
    assert (minutes, options, about) == (7, (), None)
    assert ui.stopTrainingButton.enabled

    curve = tuple((minute, 20.0 / minute, 15.0 / minute, 60.0 / minute) for minute in range(1, 9))
    TrainingStatus(RUNNING, "training", identity_of(user), "CT", 0.4, 250.0, curve).write(out)
    follow(user)
    assert ui.trainingBar.value == 40
    assert "4 min left" in ui.trainingLabel.text
    assert "20.0 → " in ui.trainingLabel.text
    assert "2.5 deg; now 1.9 mm in plane" in ui.trainingLabel.text

    shutil.copytree(leave_model(identity_of(user)), out, dirs_exist_ok=True)
    shutil.rmtree(patient_models.models_folder() / "model")
    TrainingStatus(DONE, "reached 1.6 deg", identity_of(user), "CT", 1.0, None, curve).write(out)
    follow(user)
    assert "Training ended" in ui.trainingLabel.text
    assert "1.6 deg, 1.3 mm in plane" in ui.modelCombo.currentText
    assert not ui.stopTrainingButton.enabled


def test_trainings_of_other_ranges_left_found_stopped_and_failed(prepared, started):
    """One panel after the other: preparing the case is what takes time."""
    user, ui, section = prepared, prepared.ui, prepared.panel.training
    for index in (1, 2):
        ui.trainingRangeCombo.setCurrentIndex(index)
        user.click("trainButton")
        user.wait()
        assert not ui.trainButton.enabled
        assert "the end of the training" in ui.trainButton.toolTip
        if index == 1:
            TrainingStatus(DONE, "reached").write(started[0][0])
            follow(user)
            assert ui.trainButton.enabled
    near, about = started
    assert near[6][:2] == ("--range", "8")
    assert near[7] is None
    assert about[7] == pytest.approx(user.session.pose)
    assert near[0] != about[0]

    # As when the panel is closed and opened again.
    case = user.session.case
    section.use(None)
    assert not section.is_running
    assert not ui.stopTrainingButton.enabled
    section.use(case)
    assert section.is_running

    user.click("stopTrainingButton")
    assert patient_models.is_asked_to_stop(about[0])
    follow(user)
    assert "Stopping" in ui.trainingLabel.text

    TrainingStatus(FAILED, "CT x has no bone above 200 HU").write(about[0])
    follow(user)
    assert "Training failed: CT x has no bone" in ui.trainingLabel.text
    assert ui.trainButton.enabled


def test_models_of_other_cts_are_not_offered(prepared, tasks):
    prepared.parameters.initialiser = "patient"
    prepared.click("registerButton")
    prepared.wait()
    assert "network was trained for this CT yet" in prepared.last_message()

    leave_model("0" * 16, "other")
    leave_model(identity_of(prepared), "older", "2026-11-19T10:00")
    newest = leave_model(identity_of(prepared), "newest", "2026-11-21T10:00")
    case = prepared.session.case
    prepared.panel.training.use(None)
    prepared.panel.training.use(case)
    assert prepared.ui.modelCombo.count == 2
    assert prepared.panel.training.model.folder == newest

    for start in ("auto", "patient", "nominal"):
        prepared.parameters.initialiser = start
        prepared.click("registerButton")
        prepared.wait()
    automatic, patient, nominal = (task.settings for task in tasks)
    assert automatic.weights == patient.weights == {"patient": newest / "patient.safetensors"}
    assert (automatic.init, patient.init) == ("auto", "patient")
    assert nominal.weights == {}
