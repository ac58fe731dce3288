"""The projector as a torch function: gradients, and gradients of gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.projector import ProjectorVolume, project, project_with_jacobian
from SOPIRegistrationLib.projector.autograd import project_differentiable, project_reference
from support.objects import GaussianBlobs, oblique_grid
from support.projections import SOD_MM, oblique_poses, off_centre_camera, relative_difference
from torch.autograd import gradcheck

CPU_BACKENDS = ("reference", "fused_cpu")
THETA = np.array([[0.2, -0.3, 0.25, 4.0, -6.0, 20.0], [-0.1, 0.35, 0.15, -5.0, 2.0, -30.0]])


@pytest.fixture(scope="module")
def smooth() -> ProjectorVolume:
    grid = oblique_grid((1.4, 2.0, 3.2), (48, 36, 22))
    return ProjectorVolume(GaussianBlobs.asymmetric(grid).sampled(grid))


@pytest.fixture(scope="module")
def frame(smooth) -> PoseFrame:
    return PoseFrame(smooth.volume.centre_lps_mm, SOD_MM)


def theta_tensor(dtype=torch.float64) -> torch.Tensor:
    return torch.tensor(THETA, dtype=dtype, requires_grad=True)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_image_equals_project(smooth, frame, backend, dtype):
    camera = off_centre_camera()
    image = project_differentiable(smooth, camera, frame.T_from_theta(theta_tensor(dtype)), backend=backend)
    assert image.shape == (2, *camera.shape)
    expected = project(smooth, camera, frame.T_from_theta(THETA))
    assert relative_difference(image.detach().numpy(), expected) < 1e-4


def test_reference_passes_gradcheck(smooth, frame):
    """Through theta -> T; a bright corner of the image, where every parameter matters."""
    camera = off_centre_camera(8, 6)

    def render(theta):
        return project_differentiable(smooth, camera, frame.T_from_theta(theta), backend="reference")

    assert gradcheck(render, theta_tensor(), eps=1e-7, atol=1e-4, rtol=1e-3)


def test_reference_passes_gradgradcheck_in_the_incoming_gradient(smooth, frame):
    camera = off_centre_camera(6, 5)
    T = frame.T_from_theta(theta_tensor())
    image = project_differentiable(smooth, camera, T, backend="reference")

    def vector_jacobian(g):
        return torch.autograd.grad(image, T, g, create_graph=True)[0]

    assert gradcheck(vector_jacobian, torch.randn_like(image, requires_grad=True))


def test_reference_is_differentiable_in_the_voxels(smooth, frame):
    camera = off_centre_camera(5, 4)
    volume = ProjectorVolume(smooth.volume.same_grid(smooth.volume.array))
    T = torch.from_numpy(frame.T_from_theta(THETA[:1]))
    voxels = torch.tensor(smooth.volume.array, dtype=torch.float64, requires_grad=True)
    image = project_reference(volume, camera, T, voxels=voxels)
    np.testing.assert_allclose(
        image.detach().numpy(), project_reference(volume, camera, T).numpy(), atol=1e-12
    )
    # The projection is linear in the voxels: the gradient of <g, image>, times the voxels, is <g, image>.
    g = torch.randn_like(image)
    (gradient,) = torch.autograd.grad(image, voxels, g)
    assert (gradient * voxels).sum().item() == pytest.approx((g * image).sum().item(), rel=1e-9)
    assert gradient.abs().max() > 0


def test_fused_gradient_agrees_with_the_reference(smooth, frame):
    camera = off_centre_camera()
    gradients = []
    for backend in CPU_BACKENDS:
        theta = theta_tensor()
        image = project_differentiable(smooth, camera, frame.T_from_theta(theta), backend=backend)
        weights = torch.linspace(-1, 2, image.numel()).reshape(image.shape).to(image.dtype)
        (weights * image.square()).sum().backward()
        gradients.append(theta.grad.numpy())
    reference, fused = gradients
    for column in range(6):
        assert fused[:, column] == pytest.approx(reference[:, column], rel=2e-3, abs=1e-3)


def test_gradient_is_the_jacobian_transposed(smooth, frame):
    """Also by parameters that are no theta: here a plain translation of the pose."""
    camera = off_centre_camera()
    shift = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    T = torch.from_numpy(frame.T_from_theta(THETA))
    moved = torch.cat([torch.cat([T[:, :3, :3], T[:, :3, 3:] + shift[..., None]], dim=-1), T[:, 3:]], dim=1)
    image = project_differentiable(smooth, camera, moved, backend="fused_cpu")
    g = torch.randn_like(image)
    (gradient,) = torch.autograd.grad(image, shift, g)
    _, jacobian = project_with_jacobian(smooth, camera, T.numpy())
    expected = np.einsum("bvu,bvuk->bk", g.numpy(), jacobian[..., 3:])
    np.testing.assert_allclose(gradient.numpy(), expected, rtol=1e-4, atol=1e-4)


def test_fused_double_backward_in_the_incoming_gradient(smooth, frame):
    """J^T g is linear in g: central differences are exact for any step, a large one suits float32."""
    camera = off_centre_camera(8, 6)
    theta = theta_tensor()
    image = project_differentiable(smooth, camera, frame.T_from_theta(theta), backend="fused_cpu")

    def vector_jacobian(g):
        return torch.autograd.grad(image, theta, g.float(), create_graph=True)[0]

    g = torch.randn(image.shape, dtype=torch.float64, requires_grad=True)
    assert gradcheck(vector_jacobian, g, eps=0.5, atol=1e-3, rtol=1e-3)


def test_training_through_the_pose_gradient(smooth, frame):
    """SOPI's double backward: a loss on d(similarity)/d(theta) reaches the similarity's own weights."""
    camera = off_centre_camera(16, 12)
    pattern = torch.from_numpy(np.random.default_rng(0).normal(size=(1, *camera.shape)))
    results = []
    for backend in CPU_BACKENDS:
        theta = theta_tensor()
        weights = pattern.clone().requires_grad_()
        image = project_differentiable(smooth, camera, frame.T_from_theta(theta), backend=backend)
        similarity = (torch.tanh(weights) * image).sum()
        (direction,) = torch.autograd.grad(similarity, theta, create_graph=True)
        unit = direction / direction.norm(dim=-1, keepdim=True)
        (unit * torch.arange(1.0, 7.0)).sum().backward()
        results.append(weights.grad.numpy())
    reference, fused = results
    assert np.abs(reference).max() > 0
    assert relative_difference(fused, reference) < 1e-2


def test_batch_gradients_are_those_of_singles(smooth):
    camera = off_centre_camera(16, 12)
    poses = torch.from_numpy(oblique_poses(smooth.volume, 3)).requires_grad_()
    project_differentiable(smooth, camera, poses, backend="fused_cpu").square().sum().backward()
    for pose, gradient in zip(poses.detach(), poses.grad, strict=True):
        single = pose[None].clone().requires_grad_()
        project_differentiable(smooth, camera, single, backend="fused_cpu").square().sum().backward()
        np.testing.assert_allclose(single.grad[0].numpy(), gradient.numpy(), rtol=1e-6, atol=1e-8)
