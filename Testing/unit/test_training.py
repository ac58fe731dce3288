"""The data engine gives true pairs, and the trainer learns, goes on where it stopped, and leaves weights."""

from __future__ import annotations

import csv
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from SOPIRegistrationLib.cli.main import main
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.networks.image_channels import fixed_channels
from SOPIRegistrationLib.networks.weights import load_weights
from SOPIRegistrationLib.projector import project
from SOPIRegistrationLib.similarity import ncc
from SOPIRegistrationLib.simulation.regions import REGIONS
from SOPIRegistrationLib.training.pair_training import PairTraining
from SOPIRegistrationLib.training.pairs import draw_pairs
from SOPIRegistrationLib.training.patients import (
    TRAINING_SEEDS,
    Anatomy,
    PatientPool,
    varied,
)
from SOPIRegistrationLib.training.placement import OneDevice, OnFabric
from SOPIRegistrationLib.training.pose_loss import pose_errors
from SOPIRegistrationLib.training.records import error_figures, score, score_of_use
from SOPIRegistrationLib.training.rtpi import ComparingTask, Stopwatch, TwoBranchTask, correction_loss
from SOPIRegistrationLib.training.settings import PairOptions, PairSettings, PatientMix
from SOPIRegistrationLib.training.trainer import Trainer
from support.networks import COMPARING, TWO_BRANCH

PIXELS = 24
# The trunk alone, as it is: other regions take longer to make.
PLAIN = dict.fromkeys(("structures", "regions", "parts", "elsewhere", "rolled", "shifted"), 0.0)
FEW = {"steps": 4, "patients": 2, "group": 2, "pool": 2, "phantoms": 1, "validation_patients": 1}
SETTINGS = PairSettings(**FEW, **PLAIN, validate_every=2, warm_up=1)


@pytest.fixture(scope="module")
def anatomy(phantoms):
    return Anatomy.from_phantom(TRAINING_SEEDS, phantoms)


@pytest.fixture
def out(tmp_path, phantoms):
    (tmp_path / "phantoms").symlink_to(phantoms)
    return tmp_path


def test_a_phantom_is_read_as_it_was_made(anatomy, phantoms):
    made = Anatomy.from_phantom(TRAINING_SEEDS)
    np.testing.assert_allclose(anatomy.attenuation.array, made.attenuation.array, atol=2e-5)
    assert (anatomy.bone.array == made.bone.array).all()
    np.testing.assert_array_equal(anatomy.attenuation.index_to_lps, made.attenuation.index_to_lps)


def test_patients_differ_but_are_alike(anatomy):
    rng = np.random.default_rng(0)
    patients = [varied(anatomy, rng) for _ in range(6)]
    share = anatomy.bone.array.mean()
    for patient in patients:
        bone = patient.bone.volume.array > 0
        assert bone.shape == anatomy.bone.array.shape
        assert 0.7 * share < bone.mean() < 1.3 * share
        # The rotation centre lies among the CT's bones.
        points = np.argwhere(patient.ct_bone.volume.array > 0)[:, ::-1]
        centroid = patient.ct_bone.volume.points_lps(points.mean(axis=0))
        assert np.linalg.norm(centroid - patient.centre_lps_mm) < 20
    scales = [patient.bone.volume.spacing_mm[2] for patient in patients]
    assert np.ptp(scales) > 0.05
    assert len({patient.ct_bone.volume.array.shape[0] for patient in patients}) > 1


def test_a_shorter_ct_lies_where_it_was_cut_from(anatomy):
    rng = np.random.default_rng(1)
    while True:
        patient = varied(anatomy, rng)
        part, whole = patient.ct_bone.volume, patient.bone.volume
        if part.array.shape != whole.array.shape:
            break
    first = np.round(whole.lps_to_index @ part.index_to_lps @ [0, 0, 0, 1], 6)[2]
    low = int(first)
    assert low == first
    np.testing.assert_array_equal(part.array, whole.array[low : low + len(part.array)])


def test_pairs_show_the_patient_at_the_true_pose(anatomy):
    rng = np.random.default_rng(2)
    patients = [varied(anatomy, rng) for _ in range(3)]
    pairs = draw_pairs(patients, 4, 48, PairOptions(strength=0.0, misjudged=0.0), rng)
    assert pairs.image.shape == (12, 48, 48)
    alike = []
    for number, where in enumerate(pairs.slices):
        shown = project(patients[number].body, pairs.cameras[number], pairs.T_true[where].numpy())
        moved = project(patients[number].body, pairs.cameras[number], pairs.T_true[where].numpy()[::-1])
        image, valid = pairs.image[where].numpy(), pairs.valid[where].numpy()
        alike.append(ncc(shown, image, valid))
        other = ncc(moved, image, valid)
        assert (alike[-1] > other).all()
        assert alike[-1].mean() > other.mean() + 0.1
        np.testing.assert_array_equal(pairs.K[where][0], pairs.cameras[number].K)
    # Scatter and dose make an image less alike here and there.
    assert np.median(alike) > 0.9


def test_pairs_are_drawn_anew_but_the_same_for_a_seed(anatomy):
    patient = varied(anatomy, np.random.default_rng(0))
    a, b, c = (
        draw_pairs([patient], 2, PIXELS, PairOptions(), np.random.default_rng(seed)) for seed in (3, 3, 4)
    )
    torch.testing.assert_close(a.image, b.image)
    torch.testing.assert_close(a.T_true, b.T_true)
    assert not torch.allclose(a.T_true, c.T_true)


def test_an_x_ray_with_several_starts_comes_as_often(anatomy):
    patients = [varied(anatomy, np.random.default_rng(seed)) for seed in (0, 1)]
    pairs = draw_pairs(patients, 3, PIXELS, PairOptions(starts=2), np.random.default_rng(0))
    assert pairs.group == 6
    assert pairs.image.shape[0] == len(pairs.T_start) == 12
    for same in (pairs.image, pairs.valid, pairs.T_true, pairs.K):
        torch.testing.assert_close(same[::2], same[1::2])
    assert (pairs.T_start[::2] - pairs.T_start[1::2]).abs().amax(dim=(1, 2)).max() > 1
    # The network sees an X-ray once and compares it with all its starts.
    network = ComparingTask(replace(COMPARING, pixels=PIXELS)).network().eval()
    moving, camera = torch.rand(12, 7, PIXELS, PIXELS), torch.rand(12, 9)
    fixed = fixed_channels(pairs.image, pairs.valid)
    torch.testing.assert_close(
        network(fixed[::2], moving, camera).deviation, network(fixed, moving, camera).deviation
    )


def test_starts_are_nominal_or_turned_views(anatomy):
    patient = varied(anatomy, np.random.default_rng(0))
    options = PairOptions(("AP",), 0.0, 0.0, nominal_starts=0.4)
    pairs = draw_pairs([patient], 600, PIXELS, options, np.random.default_rng(1))
    nominal = (pairs.T_start == pairs.T_nominal).all(dim=2).all(dim=1)
    assert 0.3 < nominal.double().mean() < 0.5
    from_nominal = pose_errors(pairs.T_start, pairs.T_nominal, pairs.centre_lps_mm)
    assert from_nominal[:, 1:].max() < 1e-6
    turned = pose_errors(pairs.T_start, pairs.T_true, pairs.centre_lps_mm)[~nominal, 0]
    # By 11 degrees about each axis: a chi distribution of three.
    assert turned.median() == pytest.approx(11 * 1.538, rel=0.1)


def test_patients_of_random_structures_lie_in_any_orientation():
    pool = PatientPool(6, 1, mix=PatientMix(structures=1.0))
    pool.fill()
    axes = [p.body.volume.index_to_lps[:3, 2] / p.body.volume.spacing_mm[2] for p in pool.patients]
    assert np.abs(np.array(axes) @ [0, 0, 1]).min() < 0.8
    assert len({p.bone.volume.array.sum() for p in pool.patients}) == 6


@pytest.mark.parametrize("kind", ["knee", "hips"])
def test_a_region_is_read_as_it_was_made(kind, tmp_path):
    made, read = (Anatomy.from_phantom(TRAINING_SEEDS + 1, tmp_path, kind) for _ in range(2))
    assert (read.labels.array == made.labels.array).all()
    np.testing.assert_allclose(read.attenuation.array, made.attenuation.array, rtol=1e-3, atol=2e-5)
    numbers = np.unique(made.labels.array)
    assert len(numbers[(numbers > 0) & (numbers < 255)]) >= 4


def test_a_pool_has_patients_of_all_regions(tmp_path):
    pool = PatientPool(6, 1, mix=PatientMix(regions=1.0), folder=tmp_path)
    pool.fill()
    kinds = {path.name.split("_")[0] for path in tmp_path.iterdir()}
    assert kinds <= set(REGIONS)
    assert len(kinds) >= 3


def test_metal_is_denser_in_the_x_ray_than_in_the_ct(tmp_path):
    for seed in range(TRAINING_SEEDS, TRAINING_SEEDS + 20):
        anatomy = Anatomy.from_phantom(seed, tmp_path, "hips")
        if anatomy.attenuation.array.max() > 0.15:
            break
    patient = varied(anatomy, np.random.default_rng(0), PatientMix(bones=0.0))
    assert patient.body.volume.array.max() > 0.15
    assert patient.ct_body.volume.array.max() <= 0.0801


def test_one_segmented_bone_lies_where_it_is_in_the_x_ray(anatomy):
    rng = np.random.default_rng(4)
    patients = [varied(anatomy, rng, PatientMix(bones=0.0, parts=1.0)) for _ in range(6)]
    sizes = set()
    for patient in patients:
        assert patient.ct_body is patient.ct_bone
        part, whole = patient.ct_bone.volume, patient.bone.volume
        low = np.rint((whole.lps_to_index @ part.index_to_lps @ [0, 0, 0, 1])[:3]).astype(int)[::-1]
        there = whole.array[tuple(slice(a, a + n) for a, n in zip(low, part.array.shape, strict=True))]
        inside = part.array > 0
        # As what it attenuates more than muscle (50 HU).
        np.testing.assert_allclose(part.array[inside], np.minimum(there[inside], 0.08) - 0.021, atol=1e-6)
        assert patient.is_part
        # The others are not in it, but in the X-ray.
        assert inside.sum() < 0.6 * (whole.array > 0).sum()
        assert np.linalg.norm(patient.places_lps_mm.mean(axis=0) - patient.centre_lps_mm) < 25
        sizes.add(inside.sum())
    assert len(sizes) > 2


def test_x_rays_are_cut_to_the_one_bone_of_the_ct(anatomy):
    rng = np.random.default_rng(5)
    patient = varied(anatomy, rng, PatientMix(bones=0.0, parts=1.0))
    options = PairOptions(strength=0.0, c_arms=0.0, start_deviation=(3.0,) * 3 + (4.0,) * 3)
    for cut in (False, True):
        pairs = draw_pairs([patient], 6, PIXELS, replace(options, cut=cut, starts=2), rng)
        field_mm = pairs.cameras[0].width / pairs.cameras[0].K[0, 0] * 1011.7
        assert (field_mm < 200) == cut
        assert (float(pairs.valid.float().mean()) < 0.95) == cut
        if cut:
            # Valid is what its DRR at the start shows, and what is about that.
            shadow = project(patient.ct_body, pairs.cameras[0], pairs.T_start.numpy()) > 0
            assert pairs.valid.numpy()[shadow].mean() > 0.99
            assert len(np.unique(pairs.valid.numpy().reshape(12, -1), axis=0)) > 6


def test_close_x_rays_show_a_part_of_the_field(anatomy):
    rng = np.random.default_rng(6)
    patient = varied(anatomy, rng, PatientMix(bones=0.0))
    for close, least, most in ((0.0, 204.0, 205.0), (1.0, 81.0, 204.4)):
        options = PairOptions(c_arms=0.0, close=close)
        drawn = [draw_pairs([patient], 1, PIXELS, options, rng).cameras[0] for _ in range(8)]
        fields_mm = [camera.width / camera.K[0, 0] * 1011.7 for camera in drawn]
        assert least <= min(fields_mm) <= max(fields_mm) <= most
    assert max(fields_mm) - min(fields_mm) > 20


def test_of_weights_that_are_refined_by_the_failures_count():
    near, far = np.array([[0.2, 0.3, 2.0]] * 9), np.array([[20.0, 1.0, 5.0]])
    few, many = (
        error_figures(np.concatenate([near * scale, far.repeat(n, 0)])) for scale, n in ((4, 1), (1, 2))
    )
    assert few["failures"] == pytest.approx(1 / 10)
    assert score_of_use(few) < score_of_use(many)
    assert score(few) > score(many)


def test_x_rays_are_centred_anywhere_along_the_bones(anatomy):
    patient = varied(anatomy, np.random.default_rng(0), PatientMix(bones=0.0))
    rng = np.random.default_rng(1)

    def centres(elsewhere):
        options = PairOptions(("AP",), elsewhere=elsewhere)
        pairs = [draw_pairs([patient], 1, PIXELS, options, rng) for _ in range(60)]
        found = np.concatenate([p.centre_lps_mm.numpy() for p in pairs])
        for p in pairs:
            # The nominal view looks at the centre, and it is the centre that poses are about.
            at = (p.T_nominal[0, :3, :3] @ p.centre_lps_mm[0] + p.T_nominal[0, :3, 3]).numpy()
            np.testing.assert_allclose(at[:2], 0, atol=1e-9)
        return found

    np.testing.assert_array_equal(np.ptp(centres(0.0), axis=0), 0)
    extent = np.ptp(patient.places_lps_mm[:, 2])
    assert np.ptp(centres(1.0)[:, 2]) > 0.6 * extent


def test_x_rays_are_turned_by_any_angle(anatomy):
    patient = varied(anatomy, np.random.default_rng(0))

    def rolls(rolled):
        options = PairOptions(("AP",), rolled=rolled, nominal_starts=1.0)
        rng = np.random.default_rng(2)
        T = np.stack([draw_pairs([patient], 1, PIXELS, options, rng).T_nominal[0].numpy() for _ in range(40)])
        # The central ray still runs from front to back.
        np.testing.assert_allclose(T[:, 2, :3], np.tile([0, 1, 0], (40, 1)), atol=1e-9)
        return np.rad2deg(np.arctan2(T[:, 1, 0], T[:, 0, 0]))

    np.testing.assert_allclose(rolls(0.0), 0, atol=1e-9)
    angles = rolls(1.0)
    assert np.histogram(angles, 4, (-180, 180))[0].min() >= 4


def test_centres_lie_anywhere_in_shifted_x_rays(anatomy):
    patient = varied(anatomy, np.random.default_rng(0))

    def shares(shifted):
        """Of the image's width, how far the centre's projection is from its middle."""
        options = PairOptions(("AP",), c_arms=0.0, shifted=shifted)
        pairs = draw_pairs([patient], 300, PIXELS, options, np.random.default_rng(3))
        at = (pairs.T_true[:, :3, :3] @ pairs.centre_lps_mm[:, :, None])[:, :, 0] + pairs.T_true[:, :3, 3]
        sod = pairs.T_nominal[0, 2, :3] @ pairs.centre_lps_mm[0] + pairs.T_nominal[0, 2, 3]
        return (at[:, :2] * pairs.K[0, 0, 0] / sod / PIXELS).numpy()

    found = shares(1.0)
    assert np.abs(found).max() <= 0.4501
    assert np.histogram(found[:, 0], 5, (-0.45, 0.45))[0].min() > 35
    assert np.abs(shares(0.0)).std() < found.std()


def test_the_pool_renews_its_oldest(phantoms):
    pool = PatientPool(2, 1, folder=phantoms)
    pool.fill()
    first, second = pool.patients
    pool.renew()
    assert pool.patients[0] is not first
    assert pool.patients[1] is second
    third = pool.patients[0]
    pool.renew()
    pool.close()
    assert pool.patients[0] is third
    # The same ones in the same order, whatever else is done meanwhile.
    again = PatientPool(2, 1, folder=phantoms)
    again.fill()
    again.renew()
    again.renew()
    again.close()
    for one, other in zip(pool.patients, again.patients, strict=True):
        np.testing.assert_array_equal(one.body.volume.array, other.body.volume.array)


def test_pose_errors_in_the_camera_frame():
    T = torch.eye(4, dtype=torch.float64).repeat(2, 1, 1)
    moved = T.clone()
    moved[0, :3, 3] = torch.tensor([3.0, 4.0, -12.0])
    moved[1, :2, :2] = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    errors = pose_errors(moved, T, torch.tensor([[0.0, 0, 0], [10.0, 0, 5]], dtype=torch.float64))
    np.testing.assert_allclose(errors, [[0, 5, 12], [90, np.sqrt(200), 0]], atol=1e-5)


def test_the_loss_is_least_at_the_truth_and_at_the_size_of_the_errors():
    values = torch.zeros(2, 6, requires_grad=True)
    target = torch.full((2, 6), 0.3)

    def loss(values, deviation):
        correction = type("C", (), {"values": values, "deviation": torch.full((2, 6), deviation)})
        return correction_loss(correction, target).item()

    assert loss(target, 0.1) < loss(target + 0.1, 0.1) < loss(target + 0.2, 0.1)
    assert loss(values, 0.3) < min(loss(values, 0.15), loss(values, 0.6))


def trainer(out, task, settings=SETTINGS, report=lambda progress: None, placement=None):
    torch.manual_seed(settings.seed)
    placement = placement or OneDevice(torch.device("cpu"))
    pairs = PairTraining(task, settings, [], out / "phantoms")
    return Trainer(placement, out, pairs, task.network(), settings, report)


@pytest.mark.parametrize(
    "task", [ComparingTask(COMPARING), TwoBranchTask(TWO_BRANCH)], ids=["comparing", "two"]
)
def test_training_learns_from_its_pairs(out, phantoms, task):
    pool = PatientPool(1, 1, folder=phantoms)
    pool.fill()
    pairs = draw_pairs(pool.patients, 8, task.pixels, PairOptions(strength=0.0), np.random.default_rng(0))
    torch.manual_seed(0)
    network = task.network()
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    losses = []
    for _ in range(40):
        values = []
        for loss in task.losses(network, pairs, Stopwatch()):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            values.append(loss.item())
        losses.append(values[0])
    assert np.mean(losses[-3:]) < 0.7 * losses[0]
    network.eval()
    T_lps_to_camera = task.poses(network, pairs)
    R = T_lps_to_camera[:, :3, :3]
    torch.testing.assert_close(R @ R.mT, torch.eye(3).to(R).expand_as(R), atol=1e-6, rtol=0)
    assert (T_lps_to_camera - pairs.T_nominal).abs().amax(dim=(1, 2)).min() > 1e-3


def test_training_goes_on_where_it_stopped(out):
    lines = []
    first = trainer(out, ComparingTask(COMPARING), replace(SETTINGS, steps=2)).run()
    assert first.steps == 2
    second = trainer(out, ComparingTask(COMPARING), SETTINGS, lines.append).run()
    assert second.steps == 4
    assert second.count == 16
    assert (lines[0].fraction, lines[0].said) == (0.5, "resumed at step 2")
    assert [row["step"] for row in second.log] == [2, 4]
    with (out / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [2, 4]
    assert all(float(row["pairs_per_second"]) > 0 and 0 < float(row["rendering_share"]) < 1 for row in rows)
    with pytest.raises(InputError, match="of another network"):
        trainer(out, TwoBranchTask(TWO_BRANCH)).run()


def test_it_is_the_same_by_itself_and_on_lightning_fabric(out):
    fabric = pytest.importorskip("lightning_fabric").Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    alone = OneDevice(torch.device("cpu"))
    alone.is_half = False
    found = []
    for placement in (alone, OnFabric(fabric)):
        settings = replace(SETTINGS, steps=2, warm_up=1)
        trained = trainer(out, ComparingTask(COMPARING), settings, placement=placement).run()
        assert not trained.stopped
        found.append((trained.network.state_dict(), trained.best))
        for name in ("last.pt", "best.pt", "log.csv"):
            (out / name).unlink()
    torch.testing.assert_close(found[0][0], found[1][0])
    same = ("step", "pairs", "learning_rate", "loss", "rotation_deg", "depth_mm")
    assert [found[0][1][name] for name in same] == pytest.approx([found[1][1][name] for name in same])


def test_a_stop_keeps_the_best_so_far(out):
    told = []

    def report(progress):
        told.append(progress)
        return progress.step == 3

    trained = trainer(out, ComparingTask(COMPARING), replace(SETTINGS, steps=9), report).run()
    assert trained.stopped
    assert trained.steps == trained.log[-1]["step"] == 3
    assert trained.best in trained.log
    assert told[0].said == "patient 1 of 2 made"
    assert [p.row["step"] for p in told if p.row] == [2, 3]


def test_a_training_stops_when_its_time_is_up_and_goes_on_later(out):
    settings = replace(SETTINGS, time_limit=1e-6)
    first = trainer(out, ComparingTask(COMPARING), settings).run()
    assert first.steps == 1
    assert [row["step"] for row in first.log] == [1]
    assert trainer(out, ComparingTask(COMPARING), settings).run().steps == 2
    assert trainer(out, ComparingTask(COMPARING), SETTINGS).run().steps == SETTINGS.steps


def test_a_training_cut_off_between_validations_knows_what_it_has_seen(out):
    class CutOff(ComparingTask):
        steps = 0

        def losses(self, *inputs):
            self.steps += 1
            if self.steps == 3:
                raise KeyboardInterrupt
            yield from super().losses(*inputs)

    settings = replace(SETTINGS, validate_every=4, checkpoint_seconds=0.0)
    with pytest.raises(KeyboardInterrupt):
        trainer(out, CutOff(COMPARING), settings).run()
    trained = trainer(out, ComparingTask(COMPARING), settings).run()
    assert trained.count == 4 * SETTINGS.patients * SETTINGS.group
    assert trained.seconds > 0


def test_weights_begun_with_are_kept_where_none_are_better(out):
    settings = replace(SETTINGS, steps=1, learning_rate=1.0, warm_up=1, averaging=0.0, validate_first=True)
    trained = trainer(out, ComparingTask(COMPARING), settings).run()
    assert [row["step"] for row in trained.log] == [0, 1]
    assert trained.best == min(trained.log, key=score)


@pytest.mark.slow
def test_the_best_weights_stay_the_best_until_the_x_rays_are_others(out):
    def bests(**changes):
        settings = replace(SETTINGS, learning_rate=0.0, validate_every=1, **changes)
        trainer(out, ComparingTask(COMPARING), settings).run()
        return (out / "best.pt").stat().st_mtime_ns

    # Nothing is learned, so that no later weights are better.
    first = bests(steps=1)
    assert bests(steps=2) == first
    assert bests(steps=3, strength=0.5) > first


@pytest.mark.slow
def test_the_command_line_trains_and_leaves_weights(out, capsys):
    words = (
        "--steps 2 --patients 2 --group 2 --pool 2 --phantoms 1 --validate-every 2 --validation-patients 1"
    )
    assert main(["train", "rtpi", "--out", str(out), *words.split()]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert all(re.fullmatch(r"progress [01]\.\d{4} .+|wrote .+", line) for line in printed)
    network, card = load_weights(out / "rtpi.safetensors")
    assert card["steps"] == 2
    assert "Licence" in (out / "MODEL_CARD.md").read_text()
    begun = out / "begun"
    begun.mkdir()
    (begun / "phantoms").symlink_to(out / "phantoms")
    start = ["--start", str(out / "rtpi.safetensors")]
    assert main(["train", "rtpi", "--out", str(begun), *words.split(), *start, "--learning-rate", "0"]) == 0
    again = load_weights(begun / "rtpi.safetensors").network
    torch.testing.assert_close(dict(again.named_parameters()), dict(network.named_parameters()))
    assert main(["train", "rtpi", "--out", str(out / "x"), "--network", "light", *start]) == 2
    assert "another network" in capsys.readouterr().err
    inputs = torch.rand(1, 48, 48), torch.ones(1, 48, 48, dtype=torch.bool)
    assert torch.isfinite(
        network(fixed_channels(*inputs), torch.rand(1, 7, 48, 48), torch.zeros(1, 9)).values
    ).all()
