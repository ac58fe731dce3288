"""Poses from a network within the pipeline: untrained ones, whose answers are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from SOPIRegistrationLib import installed
from SOPIRegistrationLib.errors import Cancelled, InputError
from SOPIRegistrationLib.evaluation.metrics import pose_error
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.ct_preparation import prepare_ct
from SOPIRegistrationLib.images.pyramid import square_radiograph
from SOPIRegistrationLib.images.radiograph_preparation import prepare_radiograph
from SOPIRegistrationLib.initialise.network import load_network, network_poses
from SOPIRegistrationLib.networks.comparing import ComparingConfig, ComparingRTPI
from SOPIRegistrationLib.networks.two_branch import TwoBranchRTPI
from SOPIRegistrationLib.networks.weights import CARD_HEADINGS, registered, save_weights
from SOPIRegistrationLib.registration import RegistrationSettings, moving_volumes, register
from SOPIRegistrationLib.simulation.demo import demo_case
from support.networks import COMPARING, TWO_BRANCH

CARD = dict.fromkeys(("name", *CARD_HEADINGS), "x")


class Scene:
    """The demo case, prepared."""

    def __init__(self):
        self.case = demo_case(1)
        self.ct = prepare_ct(self.case.ct)
        self.frame = PoseFrame(self.ct.rotation_centre_lps_mm, 700.0)
        self.xray = prepare_radiograph(self.case.radiograph, self.case.camera, "bone-dark")

    def register(self, settings, callback=None):
        return register(self.ct, [self.xray], self.frame, settings, callback)


@pytest.fixture(scope="module")
def scene():
    return Scene()


@pytest.fixture
def weights(tmp_path):
    """A comparing network that finds every pose right."""
    torch.manual_seed(0)
    path = tmp_path / "rtpi.safetensors"
    save_weights(path, ComparingRTPI(COMPARING), CARD)
    return path


def test_the_network_is_asked_from_several_starts(scene, weights):
    volumes = [moving.level(2) for moving in moving_volumes(scene.ct).values()]
    found = network_poses(load_network(weights), scene.xray, *volumes, scene.frame)
    theta = scene.frame.theta_from_T(found.T_lps_to_camera)
    assert len(theta) == 9
    # The untrained network corrects nothing: these are the starts, the nominal view and others well apart.
    assert np.abs(theta[0]).sum() < 1e-6
    assert np.abs(theta[1:]).sum(axis=1).min() > 0.1
    assert np.abs(np.rad2deg(theta[:, :3])).max() == pytest.approx(28)
    assert np.abs(theta[:, 5]).max() == pytest.approx(110)
    assert found.expected_error.shape == (9, 3)
    assert (found.expected_error > 0).all()


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


def test_without_refinement_the_pose_is_the_networks(scene, weights):
    result = scene.register(RegistrationSettings("rtpi", "none", weights={"rtpi": weights}))
    assert [stage.name for stage in result.stages] == ["pose network"]
    np.testing.assert_array_equal(result.T_lps_to_world, result.stages[0].T)
    assert result.verdict.status != "accept"


def test_auto_asks_the_network_where_there_is_one(scene, weights, monkeypatch, tmp_path):
    monkeypatch.setattr(installed, "WEIGHTS_FOLDER", weights.parent)
    assert scene.register(RegistrationSettings("auto")).method == "rtpi + opt"
    monkeypatch.setattr(installed, "WEIGHTS_FOLDER", tmp_path / "none")
    assert scene.register(RegistrationSettings("auto")).method == "nominal + opt"
    with pytest.raises(InputError, match="no weights 'rtpi' are installed"):
        scene.register(RegistrationSettings("rtpi"))


def test_it_stops_while_the_network_is_asked(scene, weights):
    result = scene.register(
        RegistrationSettings("rtpi", weights={"rtpi": weights}), lambda state: state.stage == "pose network"
    )
    assert result.stopped
    volumes = [moving.level(2) for moving in moving_volumes(scene.ct).values()]
    with pytest.raises(Cancelled):
        network_poses(load_network(weights), scene.xray, *volumes, scene.frame, lambda fraction: True)


def test_the_published_network_runs_and_sees_a_ct_once(scene, tmp_path, monkeypatch):
    torch.manual_seed(0)
    network = TwoBranchRTPI(TWO_BRANCH)
    save_weights(tmp_path / "two.safetensors", network, CARD)
    loaded = load_network(tmp_path / "two.safetensors")
    encoded = []
    encode = loaded.encode_volume
    monkeypatch.setattr(loaded, "encode_volume", lambda volume: encoded.append(1) or encode(volume))
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
