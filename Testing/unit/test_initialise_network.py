"""Poses from a network within the pipeline: untrained ones, whose answers are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from SOPIRegistrationLib.compare import Case, Comparison, Reading, compared_target
from SOPIRegistrationLib.errors import Cancelled, InputError
from SOPIRegistrationLib.evaluation.metrics import pose_error
from SOPIRegistrationLib.geometry.se3 import exp_so3, log_so3, move_about, rotation_distance
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.ct_preparation import prepare_ct
from SOPIRegistrationLib.images.pyramid import square_radiograph
from SOPIRegistrationLib.images.radiograph import Radiograph
from SOPIRegistrationLib.images.radiograph_preparation import prepare_radiograph
from SOPIRegistrationLib.initialise.network import load_network, network_poses
from SOPIRegistrationLib.initialise.networks import PoseNetwork
from SOPIRegistrationLib.initialise.views_around import ViewsAround, places_along, views_around
from SOPIRegistrationLib.networks.comparing import ComparingConfig, ComparingRTPI, Correction
from SOPIRegistrationLib.networks.two_branch import TwoBranchRTPI
from SOPIRegistrationLib.networks.weights import CARD_HEADINGS, registered, save_weights
from SOPIRegistrationLib.projector import ProjectorVolume, project
from SOPIRegistrationLib.registration import register
from SOPIRegistrationLib.settings import RegistrationSettings
from SOPIRegistrationLib.simulation import demo
from SOPIRegistrationLib.subject import Subject
from support.networks import COMPARING, TWO_BRANCH

CARD = dict.fromkeys(("name", *CARD_HEADINGS), "x")


class Scene:
    """The demo case, prepared."""

    def __init__(self, case):
        self.case = case
        self.subject = Subject(prepare_ct(self.case.ct))
        self.ct = self.subject.ct
        self.frame = PoseFrame(self.ct.rotation_centre_lps_mm, 700.0)
        self.xray = prepare_radiograph(self.case.radiograph, self.case.camera, "bone-dark")

    def register(self, settings, report=None):
        return register(self.subject, [self.xray], self.frame, settings, report=report)


@pytest.fixture(scope="module")
def scene(demo_case):
    return Scene(demo_case)


@pytest.fixture
def weights(tmp_path):
    """A comparing network that finds every pose right."""
    torch.manual_seed(0)
    path = tmp_path / "rtpi.safetensors"
    save_weights(path, ComparingRTPI(COMPARING), CARD)
    return path


def test_the_network_is_asked_from_views_all_around(scene, weights):
    found = network_poses(load_network(weights), scene.xray, scene.subject, scene.frame)
    # The untrained network corrects nothing, and is as sure of one view as of another.
    views = views_around(scene.frame)
    apart = np.abs(found[:, None] - views).max(axis=(2, 3))
    assert (apart.min(axis=1) < 1e-9).all()
    assert sorted(apart.argmin(axis=1)) == list(range(len(views)))


def test_the_network_looks_from_all_along_the_scan_when_asked_again(scene, weights):
    bones = scene.ct.bone
    places = places_along(bones, scene.frame.centre_lps_mm)
    np.testing.assert_array_equal(places[0], scene.frame.centre_lps_mm)
    assert len(places) > 3
    # All bones lie near one of them, as far as the scan's axis is concerned.
    heights = bones.points_lps(np.argwhere(bones.array > 0)[:, ::-1])[:, 2]
    near = np.abs(heights[:, None] - places[:, 2]).min(axis=1)
    assert np.percentile(near, 95) < 35
    network = load_network(weights)
    T = network_poses(network, scene.xray, scene.subject, scene.frame, along_scan=True)
    # The untrained network corrects nothing: every pose looks at one of them, and as often at each.
    at = np.einsum("nij,pj->npi", T[:, :3, :3], places) + T[:, None, :3, 3] - [0, 0, scene.frame.sod_mm]
    away = np.linalg.norm(at, axis=2)
    assert away.min(axis=1).max() < 6
    assert set(np.bincount(away.argmin(axis=1))) == {len(views_around(scene.frame))}
    assert PoseNetwork("rtpi").thorough().along_scan


def test_a_scan_of_one_bone_has_one_place(scene):
    part = np.zeros_like(scene.ct.bone.array)
    part[40:50, 40:60, 40:60] = 1
    mask = scene.ct.bone.same_grid(part)
    centre = mask.points_lps([49.5, 49.5, 44.5])
    np.testing.assert_allclose(places_along(mask, centre), [centre])


def test_views_reach_all_around_the_nominal_one(scene):
    T = views_around(scene.frame)
    rng = np.random.default_rng(0)
    w = rng.normal(size=(200, 3))
    w *= np.deg2rad(55) * rng.random((200, 1)) ** (1 / 3) / np.linalg.norm(w, axis=1, keepdims=True)
    R = exp_so3(w) @ scene.frame.rotation
    nearest = rotation_distance(R[:, None], T[None, :, :3, :3]).min(axis=1)
    assert np.rad2deg(nearest).max() < 24
    assert len(T) < 100
    np.testing.assert_allclose(T[0], scene.frame.T_nominal, atol=1e-9)
    centre = T[:, :3, :3] @ scene.frame.centre_lps_mm + T[:, :3, 3]
    np.testing.assert_allclose(centre, [[0, 0, 700]] * len(T), atol=1e-9)


def test_the_surest_pose_comes_first(scene):
    """A network that corrects nothing and doubts a view the more, the further it is from one of them."""
    wanted = views_around(scene.frame)[30]

    class Doubting(ComparingRTPI):
        def compare(self, fixed, moving, camera):
            axes = torch.from_numpy(wanted[:3, 1:3]).T.reshape(1, 6).float()
            doubt = (camera[:, 3:] - axes).norm(dim=1, keepdim=True)
            return Correction(torch.zeros(len(camera), 6), doubt.expand(-1, 6) + 1e-3)

    found = network_poses(Doubting(COMPARING).eval(), scene.xray, scene.subject, scene.frame)
    np.testing.assert_allclose(found[0], wanted, atol=1e-9)
    away = np.linalg.norm(found[:, :3, 1:3] - wanted[:3, 1:3], axis=(1, 2))
    assert (np.diff(away) >= -1e-6).all()


def test_views_are_rendered_once_for_a_ct(scene):
    network, seen = ComparingRTPI(COMPARING).eval(), []
    network.moving_encoder.register_forward_hook(lambda _, given, __: seen.append(len(given[0])))
    subject = Subject(scene.ct)
    first = network_poses(network, scene.xray, subject, scene.frame)
    views, again = len(views_around(scene.frame)), sum(seen) - len(views_around(scene.frame))
    assert again > 0
    second = network_poses(network, scene.xray, subject, scene.frame)
    np.testing.assert_array_equal(first, second)
    assert sum(seen) == views + 2 * again
    # Another nominal view is another set of views.
    network_poses(network, scene.xray, subject, PoseFrame(scene.frame.centre_lps_mm, 650.0))
    assert sum(seen) == 2 * views + 3 * again


def test_the_network_looks_again_from_its_own_answers(scene):
    """A network that turns every view by a fifth of the way to one pose, and is as unsure as it is off."""
    wanted = torch.from_numpy(scene.frame.T_nominal.copy())
    wanted[:3, :3] = torch.from_numpy(exp_so3(np.array([0.3, -0.2, 0.25]))) @ wanted[:3, :3]

    class Approaching(ComparingRTPI):
        def compare(self, fixed, moving, camera):
            axes = camera[:, 3:].double().view(-1, 2, 3).mT
            R = torch.cat([torch.linalg.cross(axes[..., :1], axes[..., 1:], dim=1), axes], dim=2)
            w = log_so3(wanted[:3, :3] @ R.mT)
            values = torch.cat([w / 5, torch.zeros_like(w)], dim=1)
            return Correction(values.float(), torch.cat([w, w], dim=1).abs().float() + 1e-4)

    square = square_radiograph(scene.xray, COMPARING.pixels)
    volumes = (
        m.for_camera(square.camera, scene.frame.T_nominal) for m in (scene.subject.body, scene.subject.bones)
    )
    around = ViewsAround(Approaching(COMPARING).eval(), *volumes, square.camera, scene.frame)
    image, valid = torch.from_numpy(square.image), torch.from_numpy(square.valid)

    first, last = (
        found.T_lps_to_camera for found in (around.first_look(image, valid), around.poses(image, valid))
    )
    off = [np.rad2deg(rotation_distance(T[:, :3, :3], wanted[:3, :3].numpy())) for T in (first, last)]
    assert len(first) == len(last) == len(views_around(scene.frame))
    # Seven looks in all: the first, and six from its answers.
    assert off[1][0] == pytest.approx(off[0].min() * 0.8**6, rel=0.02)
    # Those far off were looked from once.
    stayed = np.abs(last[:, None] - first).max(axis=(2, 3)).min(axis=1) < 1e-9
    assert 0.3 * len(first) < stayed.sum() < 0.7 * len(first)
    assert off[1][stayed].min() > np.median(off[1][~stayed])


def test_promising_poses_are_those_in_which_the_images_agree_at_other_depths_too(scene):
    case = Case(scene.subject, Reading((scene.xray,)), scene.frame)
    comparison = Comparison(case, case.reading, compared_target(scene.subject))
    T_true, centre = scene.case.T_true, scene.frame.centre_lps_mm
    further = T_true.copy()
    further[:3, 3] += 0.2 * (T_true[:3, :3] @ centre + T_true[:3, 3])
    turned = move_about(T_true, np.array([0.3, 0.2, 0.4, 0, 0, 0]), centre)
    poses = np.stack([further, turned])
    asked = PoseNetwork("x", depth_factors=(1.0, 1 / 1.2), keep=3)
    found = asked.promising(comparison, poses)
    assert len(found) == 3
    np.testing.assert_allclose(found[0], T_true, atol=1e-6)
    # As certain as the place in the row says: both count.
    near = move_about(T_true, np.array([0.02, 0, 0, 0, 0, 0]), centre)
    sure = PoseNetwork("x", keep=1).promising(comparison, np.stack([turned, near, further]))
    np.testing.assert_array_equal(sure[0], near)


@pytest.mark.slow
def test_registration_goes_on_from_the_network(scene, weights):
    result = scene.register(RegistrationSettings("rtpi", weights={"rtpi": weights}))
    assert result.method == "rtpi + opt"
    assert result.stages[0].name == "pose network"
    assert result.verdict.status == "accept"
    error = pose_error(
        result.T_lps_to_world,
        scene.case.T_true,
        scene.ct.surface_points_lps_mm,
        scene.frame.centre_lps_mm,
        scene.case.camera,
    )
    assert error.mtre_mm < 0.5


def test_without_refinement_the_pose_is_a_networks_brought_onto_the_x_ray(scene, weights):
    result = scene.register(RegistrationSettings("rtpi", "none", weights={"rtpi": weights}))
    assert [stage.name for stage in result.stages] == ["pose network"]
    np.testing.assert_array_equal(result.T_lps_to_world, result.stages[0].T)
    # None of the views is as near to the pose as this.
    views = views_around(scene.frame)
    turned = rotation_distance(views[:, :3, :3], scene.case.T_true[:3, :3]).min()
    error = rotation_distance(result.T_lps_to_world[:3, :3], scene.case.T_true[:3, :3])
    assert error < 0.5 * turned


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 5])
def test_the_shipped_network_finds_patients_it_never_saw(seed, demo_case):
    """From no start, poses of the demo; then the optimiser ends at the truth."""
    case = demo_case if seed == 1 else demo.demo_case(seed)
    subject = Subject(prepare_ct(case.ct))
    ct = subject.ct
    frame = PoseFrame(ct.rotation_centre_lps_mm, 700.0)
    xray = prepare_radiograph(case.radiograph, case.camera, "bone-dark")

    def error(refine):
        T = register(subject, [xray], frame, RegistrationSettings("rtpi", refine)).T_lps_to_world
        return pose_error(T, case.T_true, ct.surface_points_lps_mm, frame.centre_lps_mm, case.camera)

    alone, refined = error("none"), error("opt")
    assert alone.rotation_deg < 4
    assert alone.in_plane_mm < 4
    assert refined.mtre_mm < 1.5


@pytest.mark.slow
def test_the_shipped_network_finds_an_x_ray_centred_elsewhere_along_the_scan(scene):
    """What its first look misses: X-rays that show none of the bones' middle."""
    centre = scene.frame.centre_lps_mm + np.array([0, 0, 85.0])
    theta = np.array([*np.deg2rad([4.0, -3.0, 5.0]), 4.0, -3.0, 8.0])
    T_true = replace(scene.frame, centre_lps_mm=centre).T_from_theta(theta)
    image = project(ProjectorVolume(scene.ct.attenuation), scene.case.camera, T_true)
    xray = prepare_radiograph(Radiograph(image, "elsewhere", bone_dark=False), scene.case.camera)
    result = register(scene.subject, [xray], scene.frame, RegistrationSettings("rtpi", "opt"))
    assert result.verdict.status == "accept"
    error = pose_error(
        result.T_lps_to_world, T_true, scene.ct.surface_points_lps_mm, centre, scene.case.camera
    )
    assert error.mtre_mm < 1.5


@pytest.mark.slow
def test_auto_asks_the_network_where_there_is_one(scene, weights, monkeypatch, tmp_path):
    monkeypatch.setenv("SOPI_WEIGHTS", str(weights.parent))
    assert scene.register(RegistrationSettings("auto")).method == "rtpi + opt"
    monkeypatch.setenv("SOPI_WEIGHTS", str(tmp_path / "none"))
    assert scene.register(RegistrationSettings("auto")).method == "nominal + opt"
    with pytest.raises(InputError, match="no weights 'rtpi' are installed"):
        scene.register(RegistrationSettings("rtpi"))


def test_it_stops_while_the_network_is_asked(scene, weights):
    reports = []

    def stop(progress):
        reports.append(progress.stage)
        raise Cancelled("enough")

    result = scene.register(RegistrationSettings("rtpi", weights={"rtpi": weights}), stop)
    assert result.stopped
    assert reports == ["pose network"]
    assert result.stages == []


def test_the_published_network_runs_and_sees_a_ct_once(scene, tmp_path):
    torch.manual_seed(0)
    network = TwoBranchRTPI(TWO_BRANCH)
    save_weights(tmp_path / "two.safetensors", network, CARD)
    loaded = load_network(tmp_path / "two.safetensors")
    encoded = []
    loaded.volume_branch.register_forward_hook(lambda *_: encoded.append(1))
    result = [
        scene.register(RegistrationSettings("rtpi", "none", weights={"rtpi": tmp_path / "two.safetensors"}))
        for _ in range(2)
    ]
    assert len(encoded) == 1
    np.testing.assert_array_equal(result[0].T_lps_to_world, result[1].T_lps_to_world)


def test_weights_of_another_network_are_refused(tmp_path):
    @registered("stranger", ComparingConfig)
    class Stranger(torch.nn.Linear):
        def __init__(self, config):
            super().__init__(2, 2)
            self.config = config

    save_weights(tmp_path / "w.safetensors", Stranger(COMPARING), CARD)
    with pytest.raises(InputError, match="another network"):
        load_network(tmp_path / "w.safetensors")


def test_a_square_view_keeps_the_geometry(scene):
    camera = scene.xray.camera.cropped(10, 40, 200, 120)
    image, valid = scene.xray.image[40:160, 10:210], scene.xray.valid[40:160, 10:210]
    view = square_radiograph(replace(scene.xray, image=image, valid=valid, camera=camera), 50)
    assert view.image.shape == view.camera.shape == (50, 50)
    assert not view.valid[:10].any()
    assert not view.valid[-10:].any()
    point = np.array([12.0, -7.0, 700.0])
    before, after = camera.project(point), view.camera.project(point)
    np.testing.assert_allclose((after + 0.5) * 4, before + np.array([0.5, 40.5]), atol=1e-9)
    np.testing.assert_allclose(view.image[20, 30], image[40:44, 120:124].mean(), rtol=1e-4)
