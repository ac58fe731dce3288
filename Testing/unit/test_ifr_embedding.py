"""The learned error of Eq. 6: its masks, its slope by the pose, its Gauss-Newton model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.images.volume import Volume
from SOPIRegistrationLib.networks.composite import CompositeSimilarity
from SOPIRegistrationLib.networks.embedding import (
    SCALE,
    Embedded,
    ErrorModel,
    MovingImages,
    embedding_error,
    error_model,
    moving_channels,
    moving_images,
)
from SOPIRegistrationLib.networks.image_channels import fixed_channels
from SOPIRegistrationLib.projector import ProjectorVolume
from support.networks import COMPOSITE
from support.objects import GaussianBlobs, oblique_grid
from support.projections import oblique_poses
from torch.autograd import gradcheck

PIXELS = COMPOSITE.pixels
CAMERA = Camera.from_c_arm(1011.7, (110.0 / PIXELS, 110.0 / PIXELS), PIXELS, PIXELS, (14.0, 17.0))


class Scene:
    """Blobs, "bones", in a larger one that fills the image; seen from two poses, X-rays from elsewhere."""

    def __init__(self):
        grid = oblique_grid((1.4, 1.5, 1.6), (90, 84, 80))
        self.bones = bones = GaussianBlobs.asymmetric(grid)
        self.flesh = flesh = GaussianBlobs(grid.centre_lps_mm[None] + 6.0, np.array([24.0]), np.array([0.02]))
        bone = bones.sampled(grid)
        body = grid.same_grid(bone.array + flesh.sampled(grid).array)
        self.body, self.bone = ProjectorVolume(body), ProjectorVolume(bone)
        self.centre = grid.centre_lps_mm + np.array([4.0, -3.0, 5.0])
        self.T = oblique_poses(grid, 2)
        self.xray = self.images(oblique_poses(grid, 2, seed=8)).body
        self.valid = torch.ones_like(self.xray, dtype=torch.bool)
        self.valid[:, :, :5] = False

    def exact(self, T) -> np.ndarray:
        """(2, 2, N, N) line integrals of body and bone at two poses."""
        bone, flesh = (
            np.stack([blobs.line_integrals(CAMERA, pose) for pose in T]) for blobs in (self.bones, self.flesh)
        )
        return np.stack([bone + flesh, bone])

    def images(self, T) -> MovingImages:
        return moving_images(self.body, self.bone, CAMERA, T, self.centre)

    def embedded(self, network, images, with_jacobian=False) -> Embedded:
        return network(fixed_channels(self.xray, self.valid), self.valid, images, with_jacobian)


@pytest.fixture(scope="module")
def scene():
    return Scene()


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    network = CompositeSimilarity(COMPOSITE).eval()
    for parameter in network.parameters():  # no longer alike
        parameter.data += 0.05 * torch.randn_like(parameter)
    return network


def test_jacobians_are_by_twists_about_the_rotation_centre(scene):
    """Against differences of exact projections."""
    images = scene.images(scene.T)
    for axis, unit in enumerate(SCALE.twist):
        twist = np.zeros((2, 6))
        twist[:, axis] = unit
        ahead, behind = (scene.exact(se3.move_about(scene.T, sign * twist, scene.centre)) for sign in (1, -1))
        both = images.body_jacobian, images.bone_jacobian
        # Of something so smooth the steps of the interpolant are a larger part.
        for expected, jacobian, tolerance in zip((ahead - behind) / 2, both, (0.15, 0.06), strict=True):
            found = jacobian[:, axis].numpy() * unit
            assert np.abs(expected).max() > 2e-3
            assert np.linalg.norm(found - expected) < tolerance * np.linalg.norm(expected)


def test_a_segmented_bone_is_rendered_once(scene):
    images = moving_images(scene.bone, scene.bone, CAMERA, scene.T, scene.centre)
    assert images.body is images.bone
    assert images.body_jacobian is images.bone_jacobian
    torch.testing.assert_close(images.bone, scene.images(scene.T).bone)


def test_channels_of_drrs(scene):
    images = scene.images(scene.T)
    channels = moving_channels(images.body, images.bone, scene.valid)
    assert channels.shape == (2, 3, PIXELS, PIXELS)
    assert (channels[~scene.valid[:, None].expand(-1, 3, -1, -1)] == 0).all()
    brighter = moving_channels(3 * images.body + 1, images.bone, scene.valid)
    torch.testing.assert_close(channels, brighter, atol=1e-4, rtol=1e-4)
    same = fixed_channels(images.body, scene.valid)
    torch.testing.assert_close(channels[:, [0, 2]], same[:, [0, 2]])


def test_an_empty_drr_has_finite_channels_and_gradients():
    empty = torch.zeros(1, 8, 8, requires_grad=True)
    channels = moving_channels(empty, empty, torch.ones(1, 8, 8, dtype=torch.bool))
    (gradient,) = torch.autograd.grad(channels.sum(), empty)
    assert torch.isfinite(channels).all()
    assert torch.isfinite(gradient).all()


def test_error_is_eq_6(scene, network):
    embedded = scene.embedded(network, scene.images(scene.T))
    expected = np.zeros(2)
    for fixed, moving, weights in zip(embedded.fixed, embedded.moving, embedded.weights, strict=True):
        distance = np.linalg.norm((moving - fixed).detach().numpy(), axis=1)
        expected += (weights.numpy() * distance).sum(axis=(1, 2)) / weights.numpy().sum(axis=(1, 2)) / 3
    found = embedding_error(embedded).detach().numpy()
    # Smoothed by 0.1 at most.
    assert (found >= expected).all()
    np.testing.assert_allclose(found, expected, atol=0.1)
    alike = embedded._replace(moving=embedded.fixed)
    np.testing.assert_allclose(embedding_error(alike).detach(), 0.1, rtol=1e-5)


def test_the_mask_is_where_bones_project(scene, network):
    images = scene.images(scene.T)
    for weights in scene.embedded(network, images).weights:
        torch.testing.assert_close(weights.sum(dim=(1, 2)), torch.ones(2))
        cell = PIXELS // weights.shape[-1]
        inside = (images.bone > 0.02) & scene.valid
        touched = inside.unfold(1, cell, cell).unfold(2, cell, cell).any(dim=(3, 4))
        assert ((weights > 0) == touched).all()
        assert 0 < touched.float().mean() < 1


def test_the_image_itself_is_the_last_feature(scene):
    torch.manual_seed(0)
    network = CompositeSimilarity(COMPOSITE).eval()
    images = scene.images(scene.T)
    fixed = fixed_channels(scene.xray, scene.valid)
    moving = moving_channels(images.body, images.bone, scene.valid)
    embedded = network(fixed, scene.valid, images)
    for features, channels in ((embedded.fixed[-1], fixed), (embedded.moving[-1], moving)):
        pooled = torch.nn.functional.adaptive_avg_pool2d(channels[:, 0], features.shape[-1])
        # A gain of 40 to begin with, and no curve.
        torch.testing.assert_close(features[:, -1], 40 * pooled, atol=1e-3, rtol=1e-4)
    assert [m.shape[1] for m in embedded.moving] == [6, 6, 7]
    wide = network.embed(network.fixed_features(fixed), scene.valid, images, True, reach=8.0)
    near = network.embed(network.fixed_features(fixed), scene.valid, images, True)
    for one, other in ((wide.fixed, near.fixed), (wide.moving, near.moving), (wide.jacobian, near.jacobian)):
        torch.testing.assert_close(one[0], other[0])
        torch.testing.assert_close(one[-1][..., -1, :, :], 8 * other[-1][..., -1, :, :])
        torch.testing.assert_close(one[-1][..., :-1, :, :], other[-1][..., :-1, :, :])
    torch.nn.init.ones_(network.moving_curve.added[-1].weight)
    assert not torch.allclose(40 * network.moving_features(moving)[-1][:, -1], embedded.moving[-1][:, -1])


def test_with_the_image_the_error_grows_beyond_the_reach_of_structures(scene):
    """An untrained network: X-ray and DRRs of the body, shifted by up to a third of the field of view."""
    torch.manual_seed(0)
    shifts = np.arange(0.0, 31.0, 3.0)
    twists = np.zeros((len(shifts), 6))
    twists[:, 3] = shifts
    T = se3.move_about(np.repeat(scene.T[:1], len(shifts), axis=0), twists, scene.centre)
    images = scene.images(T)
    valid = torch.ones_like(images.body, dtype=torch.bool)
    fixed = fixed_channels(images.body[:1].expand(len(T), -1, -1), valid)
    network = CompositeSimilarity(replace(COMPOSITE, masked=False)).eval()
    error = embedding_error(network(fixed, valid, images)).detach().numpy()
    assert (np.diff(error) > 0).all()


def test_without_a_mask_all_valid_pixels_count(scene, network):
    whole = CompositeSimilarity(replace(COMPOSITE, masked=False)).eval()
    images = scene.images(scene.T)
    boneless = images._replace(bone=torch.zeros_like(images.bone))
    for weights, without in zip(
        scene.embedded(whole, images).weights, scene.embedded(network, boneless).weights, strict=True
    ):
        torch.testing.assert_close(weights, without)
        share = scene.valid[:, :, : PIXELS // weights.shape[-1]].float().mean()
        torch.testing.assert_close(weights[:, :, 0] / weights[:, :, -1], share.expand(weights.shape[:2]))


def test_gradient_to_the_pose_against_differences_of_renderings(scene, network):
    """What Eq. 7 is about: dL_N/dtheta, from one rendering."""
    images = scene.images(scene.T)
    leaves = images._replace(body=images.body.requires_grad_(), bone=images.bone.requires_grad_())
    error = embedding_error(scene.embedded(network, leaves)).sum()
    by_image = torch.autograd.grad(error, (leaves.body, leaves.bone))
    found = leaves.pose_gradient(*by_image).numpy() * SCALE.twist
    # Not along the depth, where differences so close have more noise of the samples than signal.
    expected = np.zeros((2, 5))
    for axis, unit in enumerate(SCALE.twist[:5]):
        twist = np.zeros((2, 6))
        twist[:, axis] = 0.02 * unit
        ahead, behind = (
            scene.images(se3.move_about(scene.T, sign * twist, scene.centre)) for sign in (1, -1)
        )
        # Through the images' change alone: L_N itself bends within steps that the renderings can tell apart.
        changes = ahead.body - behind.body, ahead.bone - behind.bone
        change = sum((by * moved).sum(dim=(1, 2)) for by, moved in zip(by_image, changes, strict=True))
        expected[:, axis] = change.numpy() / 0.04
    scale = np.abs(expected).max()
    assert scale > 1e-3
    np.testing.assert_allclose(found[:, :5], expected, atol=0.08 * scale)


def test_the_gradient_is_differentiable_by_the_weights(scene, network):
    """Double backward, against a difference."""
    double = CompositeSimilarity(COMPOSITE).eval().double()
    double.load_state_dict(network.state_dict())
    images = MovingImages(*(image.double() for image in scene.images(scene.T)))
    weight = double.moving_encoder.ends[1].weight

    def slope():
        leaves = images._replace(
            body=images.body.clone().requires_grad_(), bone=images.bone.clone().requires_grad_()
        )
        # Channels are float32 for the networks; here every digit counts.
        embedded = _embedded_in_double(double, scene, leaves)
        by_image = torch.autograd.grad(
            embedding_error(embedded).sum(), (leaves.body, leaves.bone), create_graph=True
        )
        return (leaves.pose_gradient(*by_image) * torch.from_numpy(SCALE.twist)).square().sum()

    (found,) = torch.autograd.grad(slope(), weight)
    direction = torch.randn_like(weight)
    step = 1e-3
    with torch.no_grad():
        weight += step * direction
    ahead = slope().item()
    with torch.no_grad():
        weight -= 2 * step * direction
    behind = slope().item()
    assert (found * direction).sum().item() == pytest.approx((ahead - behind) / (2 * step), rel=1e-2)


def _embedded_in_double(network, scene, images):
    fixed = network.fixed_features(fixed_channels(scene.xray, scene.valid).double())
    moving = network.moving_features(moving_channels(images.body, images.bone, scene.valid).double())
    weights = tuple(torch.full((2, *m.shape[-2:]), 1 / m[0, 0].numel()).double() for m in moving)
    return Embedded(fixed, moving, None, weights)


def test_jacobian_of_the_features_against_backpropagation(scene, network):
    # An untrained network is more curved than a trained one: differences closer by.
    network.difference = 0.01
    images = scene.images(scene.T)
    embedded = scene.embedded(network, images, with_jacobian=True)
    leaves = images._replace(body=images.body.requires_grad_(), bone=images.bone.requires_grad_())
    maps = scene.embedded(network, leaves).moving
    for found, own, exact in zip(embedded.jacobian, embedded.moving, maps, strict=True):
        torch.testing.assert_close(own, exact, atol=1e-4, rtol=1e-4)
        seen, expected = [], []
        for _ in range(8):
            cotangent = torch.randn_like(exact)
            by_image = torch.autograd.grad(
                (cotangent * exact).sum(), (leaves.body, leaves.bone), retain_graph=True
            )
            expected.append(leaves.pose_gradient(*by_image) * torch.from_numpy(SCALE.twist))
            seen.append(torch.einsum("bkcvu,bcvu->bk", found, cotangent))
        seen, expected = torch.stack(seen).double(), torch.stack(expected)
        assert (seen - expected).norm() < 0.2 * expected.norm()


def test_the_model_touches_the_error_from_above():
    """For features that are linear in the pose."""
    embedded, at = linear_features()
    model = error_model(embedded)
    torch.testing.assert_close(model.error, at(torch.zeros(1, 6)))
    x = torch.zeros(1, 6, requires_grad=True)
    (gradient,) = torch.autograd.grad(at(x).sum(), x)
    torch.testing.assert_close(2 * model.gradient, gradient, atol=1e-5, rtol=1e-4)
    for x in 3 * torch.randn(20, 1, 6):
        parabola = model.error + 2 * (model.gradient * x).sum(dim=1) + ((x @ model.hessian[0]) * x).sum(dim=1)
        assert (parabola >= at(x) - 1e-5).all()


def test_steps_reach_the_pose_where_features_agree():
    embedded, at = linear_features()
    jacobian, x = embedded.jacobian, torch.zeros(1, 6)
    for _ in range(30):
        moved = tuple(
            m + torch.einsum("bk,bkcvu->bcvu", x, J) for m, J in zip(embedded.moving, jacobian, strict=True)
        )
        x = x + error_model(embedded._replace(moving=moved)).step()
    torch.testing.assert_close(x, torch.tensor([[1.0, -2, 3, 0.5, -1, 2]]), atol=1e-2, rtol=0)
    assert at(x) == pytest.approx(0.1, abs=1e-3)


def linear_features():
    """Features that agree at a twist of (1, -2, 3, 0.5, -1, 2) units, and their error at any other."""
    generator = torch.Generator().manual_seed(0)
    jacobian = tuple(torch.randn(1, 6, 3, n, n, generator=generator) for n in (6, 3))
    moving = tuple(torch.randn(1, 3, n, n, generator=generator) for n in (6, 3))
    there = torch.tensor([[1.0, -2, 3, 0.5, -1, 2]])

    def moved(x):
        return tuple(m + torch.einsum("bk,bkcvu->bcvu", x, J) for m, J in zip(moving, jacobian, strict=True))

    weights = tuple(torch.full((1, n, n), 1.0 / n**2) for n in (6, 3))
    embedded = Embedded(moved(there), moving, jacobian, weights)
    return embedded, lambda x: embedding_error(embedded._replace(moving=moved(x)))


def test_a_step_where_nothing_depends_on_the_pose_is_none():
    model = ErrorModel(torch.ones(2), torch.zeros(2, 6), torch.zeros(2, 6, 6))
    assert (model.step() == 0).all()


def test_step_passes_gradcheck():
    generator = torch.Generator().manual_seed(1)
    J = torch.randn(1, 9, 6, dtype=torch.float64, generator=generator, requires_grad=True)
    r = torch.randn(1, 9, dtype=torch.float64, generator=generator, requires_grad=True)

    def step(J, r):
        return ErrorModel(r.square().sum(dim=1), (J.mT @ r[..., None])[..., 0], J.mT @ J).step()

    assert gradcheck(step, (J, r))


def test_volumes_of_another_grid(scene):
    """Rotation centre and CT need have nothing to do with the origin."""
    shift = np.eye(4)
    shift[:3, 3] = [100.0, -40.0, 7.0]
    moved = [
        ProjectorVolume(Volume(v.volume.array, shift @ v.volume.index_to_lps))
        for v in (scene.body, scene.bone)
    ]
    there = moving_images(*moved, CAMERA, scene.T @ np.linalg.inv(shift), scene.centre + shift[:3, 3])
    for a, b in zip(there, scene.images(scene.T), strict=True):
        torch.testing.assert_close(a, b, atol=2e-3 * float(b.abs().max()), rtol=0)
