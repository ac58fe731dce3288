"""Losses of pose regression: least at the truth, their gradients, and what they must not depend on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.networks.two_branch import (
    CONFIGURATIONS,
    TwoBranchRTPI,
    camera_parameters,
    nominal_cube,
)
from SOPIRegistrationLib.projector import ProjectorVolume, project
from SOPIRegistrationLib.similarity import gradient_difference
from SOPIRegistrationLib.training.pose_loss import (
    GeodesicScales,
    ImageGroup,
    RTPILossWeights,
    geodesic_pose_loss,
    reprojection_loss,
    rtpi_loss,
    theta_loss,
    weight_penalty,
)
from support.objects import GaussianBlobs, oblique_grid
from support.projections import SOD_MM, off_centre_camera
from torch import nn
from torch.autograd import gradcheck

HALF_RANGE = (1.2, 1.0, 0.8, 90.0, 60.0, 300.0)
# Out of symmetric places, two images.
TRUTH = np.array([[0.2, -0.3, 0.25, 4.0, -6.0, 20.0], [-0.1, 0.35, 0.15, -5.0, 2.0, -30.0]])
# An error that shows clearly in the image, for each parameter: rad, mm.
ERRORS = np.diag([0.25, 0.25, 0.25, 6.0, 6.0, 80.0])


def tensor(values, **options) -> torch.Tensor:
    return torch.tensor(np.asarray(values), dtype=torch.float64, **options)


@pytest.fixture(scope="module")
def blobs():
    grid = oblique_grid((1.4, 2.0, 3.2), (48, 36, 22))
    return GaussianBlobs.asymmetric(grid).sampled(grid)


@pytest.fixture(scope="module")
def frame(blobs) -> PoseFrame:
    return PoseFrame(blobs.centre_lps_mm, SOD_MM)


def group(blobs, frame, images=slice(None), backend="fused_cpu", size=(61, 48)) -> ImageGroup:
    return ImageGroup(ProjectorVolume(blobs, backend), off_centre_camera(*size), frame, images)


def xrays(group: ImageGroup, theta=TRUTH) -> torch.Tensor:
    return torch.from_numpy(project(group.volume, group.camera, group.frame.T_from_theta(np.asarray(theta))))


def test_reprojection_is_least_at_the_truth_and_grows_away(blobs, frame):
    one = group(blobs, frame)
    fixed = xrays(one)
    assert reprojection_loss(tensor(TRUTH), fixed, [one]) < 1e-6
    for error in ERRORS:
        for sign in (-1, 1):
            losses = [
                reprojection_loss(tensor(TRUTH + sign * share * error), fixed, [one]).item()
                for share in (0, 0.25, 0.5, 1)
            ]
            assert losses == sorted(losses)
            assert losses[1] > 1e-4
            assert losses[3] > 0.02
            assert losses[3] < 1


def test_reprojection_gradient_points_away_from_the_truth(blobs, frame):
    one = group(blobs, frame)
    fixed = xrays(one)
    for error in ERRORS:
        theta = tensor(TRUTH + 0.5 * error, requires_grad=True)
        (gradient,) = torch.autograd.grad(reprojection_loss(theta, fixed, [one]), theta)
        assert ((gradient * tensor(error)).sum(dim=1) > 0).all()


def test_reprojection_passes_gradcheck(blobs, frame):
    one = group(blobs, frame, backend="reference", size=(12, 10))
    fixed = xrays(one).double()
    theta = tensor(TRUTH + 0.4 * ERRORS.sum(axis=0), requires_grad=True)
    assert gradcheck(lambda t: reprojection_loss(t, fixed, [one]), theta, eps=1e-7, atol=1e-5, rtol=1e-3)


def test_reprojection_gradients_of_the_backends_agree(blobs, frame):
    gradients = []
    for backend in ("reference", "fused_cpu"):
        one = group(blobs, frame, backend=backend)
        theta = tensor(TRUTH + 0.4 * ERRORS.sum(axis=0), requires_grad=True)
        loss = reprojection_loss(theta, xrays(one), [one])
        gradients.append(torch.autograd.grad(loss, theta)[0] * tensor(HALF_RANGE))
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-2, atol=1e-4)


def test_reprojection_is_the_gradient_difference_of_single_images(blobs, frame):
    """Two CTs with a camera and a frame each, unequal shares of the batch, in any order."""
    other_grid = oblique_grid((2.0, 2.0, 2.0), (30, 30, 30), left_handed=True)
    other_volume = GaussianBlobs.asymmetric(other_grid).sampled(other_grid)
    lateral = PoseFrame(other_grid.centre_lps_mm, 650.0, "LLAT")
    theta_true = np.concatenate([TRUTH, -TRUTH[:1]])
    groups = [
        ImageGroup(ProjectorVolume(blobs), off_centre_camera(50, 48), frame, slice(1, 3)),
        ImageGroup(
            ProjectorVolume(other_volume), off_centre_camera(50, 48), lateral, slice(0, 1), step_mm=1.0
        ),
    ]
    fixed = torch.empty(3, 48, 50)
    for one in groups:
        fixed[one.images] = xrays(one, theta_true[one.images])
    theta = theta_true + 0.3 * ERRORS.sum(axis=0)
    expected = []
    for one in groups:
        poses = one.frame.T_from_theta(theta[one.images])
        moving = project(one.volume, one.camera, poses, step_mm=one.step_mm)
        expected += list(1 - gradient_difference(moving, fixed[one.images].numpy()))
    assert reprojection_loss(tensor(theta), fixed, groups).item() == pytest.approx(
        np.mean(expected), rel=1e-4
    )


@pytest.mark.parametrize("images", [[slice(0, 1)], [slice(0, 2), slice(1, 2)]])
def test_groups_hold_every_image_once(blobs, frame, images):
    groups = [group(blobs, frame, one) for one in images]
    with pytest.raises(ValueError, match="not each of 2 once"):
        reprojection_loss(tensor(TRUTH), xrays(group(blobs, frame)), groups)


def test_brightness_and_contrast_make_no_difference(blobs, frame):
    one = group(blobs, frame)
    fixed = xrays(one)
    scaled = fixed * torch.tensor([3.0, 0.2])[:, None, None] + torch.tensor([5.0, -1.0])[:, None, None]
    theta = tensor(TRUTH + 0.4 * ERRORS.sum(axis=0))
    losses = [reprojection_loss(theta, image, [one]).item() for image in (fixed, scaled)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_unusable_pixels_make_no_difference(blobs, frame):
    one = group(blobs, frame)
    fixed = xrays(one)
    valid = torch.ones_like(fixed, dtype=torch.bool)
    valid[0, :15] = False
    valid[1, :, 40:] = False
    marked = torch.where(valid, fixed, torch.nan)
    theta = tensor(TRUTH + 0.4 * ERRORS.sum(axis=0), requires_grad=True)
    losses = [reprojection_loss(theta, image, [one], valid) for image in (fixed, marked)]
    gradients = [torch.autograd.grad(loss, theta)[0] for loss in losses]
    assert losses[0] == losses[1]
    assert torch.equal(*gradients)
    assert gradients[0].abs().min() > 0
    assert reprojection_loss(tensor(TRUTH), marked, [one], valid) < 1e-6
    assert losses[0] != reprojection_loss(theta, fixed, [one])


def test_a_pose_out_of_the_image_has_a_loss_and_no_gradient(blobs, frame):
    one = group(blobs, frame)
    theta = tensor(TRUTH + np.array([0, 0, 0, 500.0, 0, 0]), requires_grad=True)
    loss = reprojection_loss(theta, xrays(one), [one])
    (gradient,) = torch.autograd.grad(loss, theta)
    assert 0.1 < loss < 1
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_autocast_takes_no_digits_from_poses(blobs, frame):
    one = group(blobs, frame)
    fixed = xrays(one)
    theta = torch.tensor(TRUTH, dtype=torch.float32)
    moved = theta + torch.tensor(0.1 * ERRORS.sum(axis=0), dtype=torch.float32)
    T = frame.T_from_theta(theta.double()).float(), frame.T_from_theta(moved.double()).float()
    centre = torch.from_numpy(frame.centre_lps_mm)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = reprojection_loss(moved, fixed, [one]), geodesic_pose_loss(*T, centre)
    assert inside[0] == reprojection_loss(moved, fixed, [one])
    assert inside[1] == geodesic_pose_loss(*T, centre)


def test_theta_loss_is_in_units_of_the_sampled_range():
    error = np.array([[1.2, 0, 0, 0, 0, 0], [0, 0, 0, 0, -30.0, 150.0]])
    loss = theta_loss(tensor(TRUTH + error), tensor(TRUTH), HALF_RANGE)
    assert loss.item() == pytest.approx((1 + 0.25 + 0.25) / 12)
    assert theta_loss(tensor(TRUTH), tensor(TRUTH), HALF_RANGE) == 0


def test_penalty_is_a_weight_decay():
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, 4)).double()
    penalty = weight_penalty(network)
    kernels = network[0].weight, network[3].weight
    assert penalty.item() == pytest.approx(sum((k.detach().numpy() ** 2).sum() for k in kernels) / 2)
    penalty.backward()
    assert all(torch.equal(k.grad, k.detach()) for k in kernels)
    assert all(p.grad is None for p in network.parameters() if p.ndim == 1)


def test_published_loss_is_the_weighted_sum_of_its_terms(blobs, frame):
    one = group(blobs, frame)
    fixed, network = xrays(one), nn.Linear(3, 3)
    theta = tensor(TRUTH + 0.3 * ERRORS.sum(axis=0), requires_grad=True)
    loss = rtpi_loss(theta, tensor(TRUTH), fixed, [one], HALF_RANGE, network)
    assert loss.similarity == reprojection_loss(theta, fixed, [one])
    assert loss.theta == theta_loss(theta, tensor(TRUTH), HALF_RANGE)
    assert loss.penalty == weight_penalty(network)
    terms = [loss.similarity.item(), loss.theta.item(), loss.penalty.item()]
    assert min(terms) > 1e-3
    assert loss.total.item() == pytest.approx(terms[0] + terms[1] + 0.01 * terms[2], rel=1e-6)
    loss.total.backward()
    assert (theta.grad.abs() > 0).all()
    assert torch.allclose(network.weight.grad, 0.01 * network.weight)

    weights = RTPILossWeights(alpha=2.0, beta=3.0, lambda_=0.5)
    other = rtpi_loss(theta, tensor(TRUTH), fixed, [one], HALF_RANGE, network, weights=weights)
    assert other.total.item() == pytest.approx(2 * terms[0] + 3 * terms[1] + 0.5 * terms[2], rel=1e-6)


def test_similarity_reaches_every_weight_through_the_projector(blobs, frame):
    """A small step down the gradient takes from L_sim what the gradient promises."""
    one = group(blobs, frame, size=(64, 64))
    fixed = xrays(one, 0.7 * TRUTH)
    torch.manual_seed(0)
    config = replace(CONFIGURATIONS["light"], volume_size=32, volume_edge_mm=64.0, dropout=0.0)
    network = TwoBranchRTPI(config)
    cube = torch.from_numpy(nominal_cube(blobs, frame, config))[None, None]
    camera = camera_parameters(torch.from_numpy(one.camera.K)[None], one.camera.shape, SOD_MM)

    def similarity() -> torch.Tensor:
        return reprojection_loss(network(fixed[:, None], cube, camera), fixed, [one])

    before = similarity()
    before.backward()
    assert all(p.grad.abs().max() > 0 for p in network.parameters())
    slope = sum(p.grad.square().sum() for p in network.parameters()).item()
    step = 1e-3 / slope
    with torch.no_grad():
        for parameter in network.parameters():
            parameter -= step * parameter.grad
    assert (before - similarity()).item() == pytest.approx(1e-3, rel=0.3)


@pytest.mark.parametrize(
    ("error", "size"),
    [
        ([0.05, 0, 0, 0, 0, 0], 1),
        ([0, 0, 0, 1.8, 2.4, 0], 1),
        ([0, 0, 0, 0, 0, -15.0], 1),
        ([0.5, 0, 0, 0, 0, 0], 10),
    ],
)
def test_geodesic_loss_in_units_of_its_scales(error, size):
    truth = np.zeros((1, 6))
    loss = geodesic_pose_loss(tensor(truth + error), tensor(truth))
    assert loss.item() == pytest.approx(np.sqrt(1 + size**2) - 1, rel=1e-9)


def test_geodesic_loss_adds_the_errors_of_the_field():
    theta = TRUTH + ERRORS.sum(axis=0)
    scales = GeodesicScales(rotation_rad=0.1, in_plane_mm=5.0, depth_mm=25.0)
    frame = PoseFrame(np.zeros(3), SOD_MM)
    expected = []
    for a, b in zip(frame.T_from_theta(theta), frame.T_from_theta(TRUTH), strict=True):
        angle = np.arccos((np.trace(a[:3, :3].T @ b[:3, :3]) - 1) / 2)
        shift = a[:3, 3] - b[:3, 3]
        sizes = np.array([angle / 0.1, np.hypot(*shift[:2]) / 5, abs(shift[2]) / 25])
        expected.append((np.sqrt(1 + sizes**2) - 1).sum())
    loss = geodesic_pose_loss(tensor(theta), tensor(TRUTH), scales=scales)
    assert loss.item() == pytest.approx(np.mean(expected), rel=1e-9)


def test_geodesic_loss_of_matrices_is_that_of_theta(frame):
    theta = tensor(TRUTH + 0.5 * ERRORS.sum(axis=0))
    T, T_true = frame.T_from_theta(theta), frame.T_from_theta(tensor(TRUTH))
    centre = torch.from_numpy(frame.centre_lps_mm)
    expected = geodesic_pose_loss(theta, tensor(TRUTH)).item()
    assert geodesic_pose_loss(T, T_true, centre).item() == pytest.approx(expected, rel=1e-9)
    each = centre.expand(2, 3)
    assert geodesic_pose_loss(T, T_true, each).item() == pytest.approx(expected, rel=1e-9)
    # Another origin of the patient's frame.
    move = se3.rigid(se3.exp_so3(tensor([0.3, 0.2, -0.5])), tensor([200.0, -90.0, 1000.0]))
    moved = (se3.invert_rigid(move)[:3, :3] @ (centre - move[:3, 3])).expand(3)
    assert geodesic_pose_loss(T @ move, T_true @ move, moved).item() == pytest.approx(expected, rel=1e-9)


def test_geodesic_loss_is_smooth_at_the_truth(frame):
    truth = tensor(TRUTH)
    theta = truth.clone().requires_grad_()
    loss = geodesic_pose_loss(theta, truth)
    (gradient,) = torch.autograd.grad(loss, theta)
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert gradient.abs().max() < 1e-6
    assert gradcheck(lambda t: geodesic_pose_loss(t, truth), theta, eps=1e-6, atol=1e-5)
    away = (truth + 0.5 * tensor(ERRORS.sum(axis=0))).requires_grad_()
    assert gradcheck(lambda t: geodesic_pose_loss(t, truth), away)
    centre = torch.from_numpy(frame.centre_lps_mm)
    T_true = frame.T_from_theta(truth)
    assert gradcheck(lambda t: geodesic_pose_loss(frame.T_from_theta(t), T_true, centre), away)


def test_geodesic_loss_grows_along_each_parameter():
    for error in ERRORS:
        losses = [
            geodesic_pose_loss(tensor(TRUTH + s * error), tensor(TRUTH)).item() for s in (0, 0.2, 0.5, 1)
        ]
        assert losses == sorted(losses)
        assert losses[1] > 0.01


def test_rotation_centres_go_with_matrices(frame):
    T = frame.T_from_theta(tensor(TRUTH))
    with pytest.raises(ValueError, match="rotation centres"):
        geodesic_pose_loss(T, T)
    with pytest.raises(ValueError, match="rotation centres"):
        geodesic_pose_loss(tensor(TRUTH), tensor(TRUTH), torch.zeros(3))
