"""The training in a process of its own, as the panel starts it."""

from __future__ import annotations

import time

import numpy as np
import pytest
from SOPIRegistrationLib import patient_models
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry.c_arm import CArmGeometry
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.images.identity import ct_identity
from SOPIRegistrationLib.panel.training_process import (
    forget_copies,
    start_training,
    status_of,
    training_folder,
)
from SOPIRegistrationLib.patient_models import DONE, FAILED, RUNNING, PatientModel, TrainingStatus
from support.patients import small_ct

GEOMETRY = CArmGeometry((Camera.from_c_arm(1000.0, (1.5, 1.5), 200, 200),), 700.0, "AP")
QUICK = ("--steps", "1", "--drrs", "16", "--device", "cpu")


def finished(out, process) -> TrainingStatus:
    """The status when it is no longer running; one that never ends meets the test's time limit."""
    try:
        while (status := status_of(out, process)).state == RUNNING:
            time.sleep(0.1)
    except BaseException:
        process.kill()
        raise
    return status


@pytest.mark.slow
def test_trains_for_the_ct_it_was_given(tmp_path):
    ct = small_ct()
    mask = ct.same_grid((ct.array > 200).astype(np.uint8), "mask")
    out = training_folder(tmp_path, ct_identity(ct), GEOMETRY, QUICK)
    about = np.diag([1.0, -1.0, -1.0, 1.0])
    about[:3, 3] = 10.0, 120.0, 850.0
    process = start_training(out, ct, mask, GEOMETRY, "Wrist of somebody", 5.0, QUICK, about)
    status = finished(out, process)
    assert status.state == DONE, (out / "output.txt").read_text()
    assert process.wait(30) == 0
    model = PatientModel.read(out)
    # The same CT, though written to a file and read again.
    assert model.ct_identity == ct_identity(ct)
    assert out.name.startswith(model.ct_identity)
    assert model.ct_name == "Wrist of somebody"
    assert [m.folder for m in patient_models.models_in(tmp_path)] == [out]
    assert (out / "ct.nrrd").exists()
    forget_copies(tmp_path)
    assert not (out / "ct.nrrd").exists()
    assert not (out / "mask.nrrd").exists()
    assert model.weights.exists()


def test_copies_stay_while_it_runs(tmp_path):
    out = tmp_path / "training"
    out.mkdir()
    (out / "ct.nrrd").write_bytes(b"")
    TrainingStatus(RUNNING, "training").write(out)
    forget_copies(tmp_path)
    assert (out / "ct.nrrd").exists()
    assert list(patient_models.trainings_in(tmp_path)) == [out]


def test_a_process_that_is_gone_has_failed(tmp_path):
    class Gone:
        def poll(self):
            return 2

    TrainingStatus(RUNNING, "training").write(tmp_path)
    (tmp_path / "output.txt").write_text("progress 0.1\nout of memory\n")
    status = status_of(tmp_path, Gone())
    assert (status.state, status.stage) == (FAILED, "out of memory")
    assert status_of(tmp_path, None).state == RUNNING


def test_other_c_arms_and_ranges_have_folders_of_their_own(tmp_path):
    other = CArmGeometry(GEOMETRY.cameras, 800.0, "AP")
    folders = {
        training_folder(tmp_path, "0" * 16, geometry, options)
        for geometry in (GEOMETRY, other)
        for options in ((), ("--range", "1"))
    }
    assert len(folders) == 4
    assert training_folder(tmp_path, "0" * 16, GEOMETRY, ()) in folders


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"could not be started in .*file"):
        start_training(tmp_path / "file" / "out", small_ct(), None, GEOMETRY, "CT", 1.0)
