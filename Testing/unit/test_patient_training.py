"""Training for one patient: X-rays, losses, the loop, the command."""

from __future__ import annotations

import csv
import json
import os
import threading
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from SOPIRegistrationLib import patient_models
from SOPIRegistrationLib.cli import train_patient
from SOPIRegistrationLib.cli.main import main
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.ct_preparation import prepare_ct
from SOPIRegistrationLib.images.files import read_volume
from SOPIRegistrationLib.images.identity import ct_identity
from SOPIRegistrationLib.images.volume import Volume
from SOPIRegistrationLib.networks.comparing import correction_between
from SOPIRegistrationLib.networks.patient import CONFIGURATIONS, PatientConfig, PatientNetwork, PatientOutput
from SOPIRegistrationLib.patient_models import PatientModel, TrainingStatus
from SOPIRegistrationLib.projector import project
from SOPIRegistrationLib.similarity import ncc
from SOPIRegistrationLib.subject import Subject
from SOPIRegistrationLib.training.patient import configured, patient_trainer
from SOPIRegistrationLib.training.patient_loss import PatientLoss
from SOPIRegistrationLib.training.patient_xrays import PatientXrays, Xrays, default_deviation
from SOPIRegistrationLib.training.settings import LOSSES, PatientTrainingSettings
from SOPIRegistrationLib.training.trainer import Trainer
from support.patients import small_ct

CPU = torch.device("cpu")
QUICK = PatientTrainingSettings(
    budget_seconds=1e6, batch=8, first_drrs=16, new_drrs=2, validation_poses=16, strength=0.0
)


def quiet(progress) -> bool:
    return False


@pytest.fixture(scope="module")
def ct():
    return prepare_ct(small_ct())


@pytest.fixture(scope="module")
def config(ct) -> PatientConfig:
    camera = Camera.from_c_arm(1000.0, (1.5, 1.5), 200, 180)
    frame = PoseFrame(ct.rotation_centre_lps_mm, 700.0)
    return configured(PatientConfig("light", 32), ct, camera, frame.T_nominal)


# Whose network it is


def test_identity_does_not_depend_on_how_a_ct_is_stored():
    ct = small_ct()
    expected = ct_identity(ct)
    assert len(expected) == 16
    assert ct_identity(Volume(ct.array.astype(np.float32), ct.index_to_lps + 1e-9)) == expected
    # Slices the other way round, and axes in another order.
    flip = np.eye(4)
    flip[2, 2], flip[2, 3] = -1, ct.array.shape[0] - 1
    assert ct_identity(Volume(ct.array[::-1], ct.index_to_lps @ flip)) == expected
    # (i, j, k) = swap (i', j', k'): i and k have changed places.
    swap = np.eye(4)[[2, 1, 0, 3]]
    assert ct_identity(Volume(ct.array.transpose(2, 1, 0), ct.index_to_lps @ swap)) == expected


def test_identity_tells_cts_apart():
    ct = small_ct()
    changed = ct.array.copy()
    changed[20, 15, 18] += 40
    others = (Volume(changed, ct.index_to_lps), small_ct(shift_mm=0.5))
    assert len({ct_identity(ct), *map(ct_identity, others)}) == 3


def test_preparation_keeps_the_identity(ct):
    assert ct.identity == ct_identity(small_ct())


def test_configuration_holds_all_of_the_field_of_view(ct, config):
    assert config.ct_identity == ct.identity
    camera = config.camera
    # 200 x 180 pixels of 1.5 mm: 300 mm wide, the height filled up.
    assert camera.width * 1000 / camera.K[0, 0] == pytest.approx(300)
    assert camera.K[0, 0] == camera.K[1, 1]
    assert camera.K[:2, 2] == pytest.approx([15.5, 15.5])
    deviation = default_deviation(config)
    assert deviation[3] == pytest.approx(0.22 * 300 * 0.7)
    assert deviation[5] == pytest.approx(105)


# X-rays


def test_xrays_show_the_patient_at_their_poses(ct, config):
    xrays = PatientXrays(ct, config, replace(QUICK, content="bone"), 0, exact=True)
    xrays.add(12)
    drawn = xrays.draw(12)
    bone = Subject(ct).bones.for_camera(config.camera, np.reshape(config.T_reference, (4, 4)))
    expected = project(bone, config.camera, drawn.T_true.numpy())
    np.testing.assert_allclose(drawn.clean.numpy(), expected, rtol=2e-3, atol=2e-3)
    visible = expected.reshape(12, -1).std(axis=1) > 0.05
    similarity = ncc(drawn.image.numpy()[visible], expected[visible], None)
    assert np.median(similarity) > 0.8
    others = ncc(drawn.image.numpy()[visible], np.roll(expected[visible], 1, axis=0), None)
    assert (similarity > others).mean() > 0.9


def test_poses_have_the_range_asked_for_and_show_the_patient(ct, config):
    deviation = (5.0, 10.0, 20.0, 10.0, 60.0, 30.0)
    xrays = PatientXrays(ct, config, replace(QUICK, deviation=deviation), 1)
    xrays.add(400)
    frame = PoseFrame(ct.rotation_centre_lps_mm, 700.0)
    theta = frame.theta_from_T(xrays.poses)
    spread = np.concatenate([np.rad2deg(theta[:, :3]), theta[:, 3:]], axis=1).std(axis=0)
    assert spread[[0, 1, 2, 3, 5]] == pytest.approx(np.array(deviation)[[0, 1, 2, 3, 5]], rel=0.2)
    centres = xrays.poses[:, :3, :3] @ ct.rotation_centre_lps_mm + xrays.poses[:, :3, 3]
    pixel = config.camera.project(centres)
    assert (np.abs(pixel - 15.5) <= 0.6 * 32 + 1e-6).all()


def test_the_set_grows_and_then_its_oldest_go(ct, config):
    xrays = PatientXrays(ct, config, QUICK, 2, capacity=100)
    for _ in range(4):
        xrays.add(40)
    assert xrays.made == 160
    assert len(xrays.poses) == 120
    with_same_seed = PatientXrays(ct, config, QUICK, 2)
    with_same_seed.add(40)
    assert not np.allclose(xrays.poses[:40], with_same_seed.poses)


def test_surroundings_are_added_to_segmented_bones(ct, config):
    alone, among = (PatientXrays(ct, config, replace(QUICK, content=c), 3) for c in ("bone", "part"))
    for xrays in (alone, among):
        xrays.add(24)
    a, b = alone.draw(24), among.draw(24)
    assert (b.image.flatten(1).std(dim=1) > 0).all()
    background = b.clean == 0
    assert (b.image[background].std() > 3 * a.image[a.clean == 0].std()) or a.image[a.clean == 0].numel() == 0


def test_xrays_follow_the_seed(ct, config):
    def drawn(seed):
        xrays = PatientXrays(ct, config, replace(QUICK, strength=1.0), seed)
        xrays.add(8)
        return xrays.draw(4)

    first, again, other = drawn(5), drawn(5), drawn(6)
    torch.testing.assert_close(first.image, again.image)
    assert not torch.equal(first.T_true, other.T_true)


# Losses


@pytest.mark.parametrize("kind", LOSSES)
def test_losses_are_least_at_the_truth(ct, config, kind):
    network = PatientNetwork(config)
    xrays = PatientXrays(ct, config, QUICK, 4)
    xrays.add(6)
    drawn = xrays.draw(6)
    loss = PatientLoss(config, ct.surface_points_lps_mm, kind)
    one = torch.ones(6, 1, 1, dtype=torch.float64)
    truth = correction_between(
        network.T_reference * one,
        drawn.T_true,
        network.K * one,
        network.centre_lps_mm.expand(6, 3),
        config.pixels,
    ).float()

    def value(values):
        return loss(network, PatientOutput(values, None, torch.zeros(1)), drawn).item()

    assert value(truth) == pytest.approx(0, abs=1e-4)
    for column in range(6):
        moved = truth.clone()
        moved[:, column] += 0.05
        assert value(moved) > 5e-4


def test_pose_dependent_weights_are_motions_in_the_image(ct, config):
    """A shift moves everything by itself; a turn and a change of depth move what is far from the centre."""
    weights = PatientLoss(config, ct.surface_points_lps_mm).weights(PatientNetwork(config), torch.zeros(2, 6))
    np.testing.assert_allclose(weights[:, 3:5].numpy(), 1, atol=0.05)
    assert (weights[:, [0, 1, 2, 5]] > 0.02).all()
    assert (weights[:, [0, 1, 2, 5]] < 0.6).all()


def test_autoencoder_is_part_of_the_loss(ct, config):
    with_decoder = replace(config, autoencoder=True)
    network = PatientNetwork(with_decoder)
    clean = torch.rand(2, 32, 32)
    xrays = Xrays(clean, clean > -1, clean, network.T_reference.expand(2, 4, 4))
    loss = PatientLoss(with_decoder, ct.surface_points_lps_mm)
    output = network(torch.randn(2, 4, 32, 32))
    whole = loss(network, output, xrays)
    assert whole > loss(network, output._replace(restored=None), xrays) + 0.01
    whole.backward()
    assert network.decoder[0].weight.grad.abs().max() > 0


# The loop


def trainer(ct, config, settings, out, report=quiet) -> Trainer:
    return patient_trainer(ct, config, settings, out, CPU, report)


@pytest.mark.slow
def test_learns(ct, config, tmp_path):
    """A small task: where in the image, of a patient that does not turn."""
    settings = replace(
        QUICK,
        steps=60,
        deviation=(0, 0, 0, 40, 30, 0),
        content="bone",
        averaging=0.8,
        batch=16,
        first_drrs=64,
    )
    rows = []

    def look(progress):
        rows.append(progress.row)
        return False

    trained = trainer(ct, config, settings, tmp_path, look).run()
    untrained = PatientNetwork(config)
    # The poses lie 40 mm from the reference, in the middle of them.
    assert trained.best["in_plane_mm"] < 22
    assert not trained.stopped
    assert rows[-1] == trained.log[-1]
    assert not torch.equal(trained.network.heads.weight, untrained.heads.weight)


def test_goes_on_where_it_was(ct, config, tmp_path):
    first = trainer(ct, config, replace(QUICK, steps=2), tmp_path).run()
    second = trainer(ct, config, replace(QUICK, steps=4), tmp_path).run()
    assert [row["step"] for row in first.log] == [2]
    assert [row["step"] for row in second.log] == [2, 4]
    with (tmp_path / "log.csv").open() as file:
        assert [float(row["step"]) for row in csv.DictReader(file)] == [2, 4]
    # Nothing is left to do.
    assert trainer(ct, config, replace(QUICK, steps=4), tmp_path).run().log == second.log


def test_goes_on_from_a_checkpoint_of_before(ct, config, tmp_path):
    """When one loop trained patients and another all else, their states had fewer entries."""
    first = trainer(ct, config, replace(QUICK, steps=2), tmp_path).run()
    checkpoint = torch.load(tmp_path / "last.pt", weights_only=True)
    checkpoint["state"] = {key: checkpoint["state"][key] for key in ("step", "seconds", "drrs", "best")}
    torch.save(checkpoint, tmp_path / "last.pt")
    second = trainer(ct, config, replace(QUICK, steps=3), tmp_path).run()
    assert second.log[0] == first.log[0]
    assert second.steps == 3
    assert second.count > first.count
    assert second.best in second.log


def test_ends_with_its_budget(ct, config, tmp_path):
    trained = trainer(ct, config, replace(QUICK, budget_seconds=1.0), tmp_path).run()
    assert not trained.stopped
    assert trained.log[-1]["seconds"] < 30


def test_stopping_keeps_the_best_so_far(ct, config, tmp_path):
    trained = trainer(ct, config, QUICK, tmp_path, lambda progress: progress.step >= 2).run()
    assert trained.stopped
    assert trained.best["step"] == 2
    further = trainer(ct, config, replace(QUICK, steps=3), tmp_path).run()
    assert further.log[-1]["step"] == 3


def test_another_patient_or_c_arm_does_not_go_on(ct, config, tmp_path):
    trainer(ct, config, replace(QUICK, steps=1), tmp_path).run()
    with pytest.raises(InputError, match="the training of another CT: give another --out"):
        trainer(ct, replace(config, ct_identity="0" * 16), QUICK, tmp_path)
    with pytest.raises(InputError, match="another C-arm, view or network"):
        trainer(ct, replace(config, intrinsics_px=(1.0, 1.0, 0.0, 0.0)), QUICK, tmp_path)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"budget_seconds": 0.0}, "budget must be above 0 minutes"),
        ({"content": "muscle"}, "unknown content 'muscle': use auto"),
        ({"loss": "hinge"}, "unknown loss 'hinge': use correction"),
        ({"deviation": (1.0, 2.0)}, "six numbers"),
    ],
)
def test_unusable_settings(options, complaint):
    with pytest.raises(InputError, match=complaint):
        PatientTrainingSettings(**options)


# Folders of models


def test_status_is_read_as_it_was_written(tmp_path):
    assert TrainingStatus.read(tmp_path) is None
    status = TrainingStatus(
        patient_models.RUNNING, "training", "abc", "ct", 0.4, 300.0, ((1.0, 5.0, 4.0, 20.0),)
    )
    status.write(tmp_path)
    assert TrainingStatus.read(tmp_path) == status


def test_a_silent_training_has_failed(tmp_path):
    TrainingStatus(patient_models.RUNNING, "training").write(tmp_path)
    os.utime(tmp_path / patient_models.STATUS, (0, 0))
    assert TrainingStatus.read(tmp_path).state == patient_models.FAILED
    TrainingStatus(patient_models.DONE, "reached").write(tmp_path)
    os.utime(tmp_path / patient_models.STATUS, (0, 0))
    assert TrainingStatus.read(tmp_path).state == patient_models.DONE


def test_models_are_listed_the_newest_first(tmp_path):
    figures = {"rotation_deg": 1.5, "in_plane_mm": 1.2, "depth_mm": 5.0}
    for number in range(3):
        folder = tmp_path / f"model{number}"
        folder.mkdir()
        date = f"2026-11-2{number}T10:00"
        PatientModel(f"id{number}", "ct", "light", "AP", 10.0, date, figures, folder).write()
        if number < 2:
            (folder / patient_models.WEIGHTS).write_bytes(b"")
    (tmp_path / "model0" / "model.json").write_text("{damaged")
    [model] = patient_models.models_in(tmp_path)
    assert model.ct_identity == "id1"
    assert model.weights == tmp_path / "model1" / "patient.safetensors"
    assert "1.5 deg, 1.2 mm in plane, 5 mm in depth" in model.summary


# The command


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """CT and geometry files."""
    folder = tmp_path_factory.mktemp("patient")
    ct = small_ct()
    image = sitk.GetImageFromArray(ct.array)
    image.SetSpacing(ct.spacing_mm.tolist())
    image.SetOrigin(ct.index_to_lps[:3, 3].tolist())
    sitk.WriteImage(image, str(folder / "ct.nrrd"))
    geometry = {"sdd_mm": 1000, "sod_mm": 700, "pixel_spacing_mm": [1.5, 1.5], "width": 200, "height": 200}
    (folder / "geometry.json").write_text(json.dumps(geometry))
    return folder


def command(files, out, *options) -> list[str]:
    words = ["train", "patient", "--ct", str(files / "ct.nrrd"), "--geometry", str(files / "geometry.json")]
    return [*words, "--out", str(out), "--drrs", "16", "--device", "cpu", *options]


@pytest.fixture(scope="module")
def trained(files, tmp_path_factory):
    """Folder of a very short training."""
    out = tmp_path_factory.mktemp("model") / "small"
    assert main(command(files, out, "--steps", "2", "--name", "Small CT")) == 0
    return out


def test_command_leaves_weights_with_their_card(trained, files):
    names = {path.name for path in trained.iterdir()}
    assert {
        "patient.safetensors",
        "MODEL_CARD.md",
        "model.json",
        "log.csv",
        "status.json",
        "last.pt",
    } <= names
    model = PatientModel.read(trained)
    assert model.ct_identity == ct_identity(read_volume(files / "ct.nrrd"))
    assert model.ct_name == "Small CT"
    assert model.view == "AP"
    status = TrainingStatus.read(trained)
    assert status.state == patient_models.DONE
    assert len(status.curve) == 1
    assert "Small CT" in (trained / "MODEL_CARD.md").read_text()


def test_command_says_what_it_reached_and_goes_on(trained, files, capsys):
    assert main(command(files, trained, "--steps", "3")) == 0
    printed = capsys.readouterr().out
    assert "held-out poses, median:" in printed
    assert "progress 1.0000 step 3" in printed


def test_command_stops_when_asked_to(files, tmp_path):
    ended = threading.Event()

    def ask():
        """What an earlier training was asked is forgotten: asked until it is heard."""
        while not ended.wait(0.05):
            patient_models.ask_to_stop(tmp_path)

    somebody = threading.Thread(target=ask)
    somebody.start()
    try:
        assert main(command(files, tmp_path)) == 0
    finally:
        ended.set()
        somebody.join()
    assert TrainingStatus.read(tmp_path).state == patient_models.STOPPED
    assert PatientModel.read(tmp_path) is not None


def test_command_refuses_the_folder_of_another_ct(trained, files, tmp_path, capsys):
    moved = sitk.ReadImage(str(files / "ct.nrrd"))
    moved.SetOrigin((0.0, 0.0, 0.0))
    sitk.WriteImage(moved, str(tmp_path / "other.nrrd"))
    words = command(files, trained)
    words[words.index("--ct") + 1] = str(tmp_path / "other.nrrd")
    assert main(words) == 2
    assert "the training of another CT" in capsys.readouterr().err
    assert TrainingStatus.read(trained).state == patient_models.FAILED


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--budget", "0"), "budget must be above 0 minutes"),
        (("--steps", "0"), "--steps is 0"),
        (("--strength", "2"), "--strength is 2"),
        (("--range", "1", "1", "1", "1", "1", "-1"), "six numbers, 0 or above"),
        (("--about", "absent.json"), "absent.json does not exist"),
    ],
)
def test_command_with_unusable_options(files, tmp_path, capsys, options, expected):
    assert main(command(files, tmp_path, *options)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert expected in error


def test_command_offers_what_there_is():
    assert tuple(CONFIGURATIONS) == train_patient.NETWORKS


def test_register_asks_the_network_of_its_own_ct_only(trained, files, tmp_path, capsys):
    ct = prepare_ct(small_ct())
    frame = PoseFrame(ct.rotation_centre_lps_mm, 700.0)
    camera = Camera.from_c_arm(1000.0, (1.5, 1.5), 200, 200)
    T_true = frame.T_from_theta(np.array([0.05, -0.04, 0.03, 5.0, 4.0, 10.0]))
    drr = project(Subject(ct).body.level(0), camera, T_true)
    sitk.WriteImage(sitk.GetImageFromArray(drr), str(tmp_path / "xray.nrrd"))
    moved = sitk.ReadImage(str(files / "ct.nrrd"))
    moved.SetOrigin((0.0, 0.0, 0.0))
    sitk.WriteImage(moved, str(tmp_path / "other.nrrd"))

    def register(ct_file, *options):
        words = ["register", str(ct_file), str(tmp_path / "xray.nrrd"), "--init", "patient", *options]
        words += ["--geometry", str(files / "geometry.json"), "--out", str(tmp_path / "out")]
        return main([*words, "--polarity", "bone-bright"])

    weights = str(trained / "patient.safetensors")
    assert register(files / "ct.nrrd", "--weights", weights) == 0
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["method"] == "patient + opt"
    assert result["stages"][0]["name"] == "pose network"
    capsys.readouterr()
    assert register(tmp_path / "other.nrrd", "--weights", weights) == 2
    assert "trained on another CT" in capsys.readouterr().err
    assert register(files / "ct.nrrd") == 2
    assert "give the file that sopi train patient made" in capsys.readouterr().err
