"""The projector as a differentiable torch function.

Forward computes the image and, if the pose needs a gradient, its Jacobian J in the same pass; backward
is then J^T g, linear in the incoming gradient g, so double backward by g is a product with J. That is
what training through the gradient of a loss with respect to the pose needs (method of ProST and SOPI).
"""

from __future__ import annotations

import numpy as np
import torch

from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.projector import _march_function, reference, resolve_backend
from SOPIRegistrationLib.projector.physics import PolychromaticVolume
from SOPIRegistrationLib.projector.volume import ProjectorVolume


def project_differentiable(
    volume: ProjectorVolume | PolychromaticVolume,
    camera: Camera,
    T_lps_to_world: torch.Tensor,
    step_mm: float | None = None,
    backend: str | None = None,
) -> torch.Tensor:
    """Line integrals, differentiable by the pose.

    The fused backends return to ``T_lps_to_world`` the gradient's part tangent to SE(3): the derivative
    by any parameters of a rigid motion comes out exact. Differentiating the gradient again
    is exact in what came into backward; the second derivative of the image itself by the pose is
    left out there (use the reference backend if it is needed).

    Args:
        volume: what to project; of a :class:`PolychromaticVolume` the log attenuation of its beam.
        camera: intrinsics, image size and extrinsics; a single C-arm's camera is the world.
        T_lps_to_world: (B, 4, 4) rigid poses, mm.
        step_mm: sampling step along the ray; the smallest voxel edge unless given.
        backend: one of ``projector.BACKENDS``; the volume's own unless given ("auto" follows the
            tensor's device).

    Returns:
        (B, rows, columns), on the device of ``T_lps_to_world``; float32, or float64 from the reference
        backend with a float64 pose.
    """
    if isinstance(volume, PolychromaticVolume):
        integrals = [
            project_differentiable(part, camera, T_lps_to_world, step_mm, backend) for part in volume.parts
        ]
        return volume.response.differentiable(integrals)
    step_mm = step_mm or volume.default_step_mm
    name = backend or volume.backend
    if name == "auto" and T_lps_to_world.is_cuda:
        name = "fused_cuda"
    name = resolve_backend(name)
    if name == "reference":
        return project_reference(volume, camera, T_lps_to_world, step_mm)
    image, _ = _Project.apply(poses_in_camera(T_lps_to_world, camera), volume, camera, step_mm, name)
    return image


def project_tensors(
    volume: ProjectorVolume,
    camera: Camera,
    T_lps_to_world: torch.Tensor,
    step_mm: float | None = None,
    with_jacobian: bool = False,
    backend: str | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Line integrals and their Jacobian as tensors that stay where the poses are; without gradients.

    Args:
        volume: what to project.
        camera: intrinsics, image size and extrinsics.
        T_lps_to_world: (B, 4, 4) rigid poses, mm.
        step_mm: sampling step along the ray; the smallest voxel edge unless given.
        with_jacobian: whether the Jacobian is wanted.
        backend: one of ``projector.BACKENDS``; the volume's own unless given ("auto" follows the poses'
            device).

    Returns:
        image (B, rows, columns) and Jacobian (B, 6, rows, columns), float32: the derivative by the twist
        (w rad, v mm) of ``exp(twist) T_world_to_camera T_lps_to_world``, in the camera frame; None unless
        wanted.
    """
    name = backend or volume.backend
    if name == "auto" and T_lps_to_world.is_cuda:
        name = "fused_cuda"
    step_mm = step_mm or volume.default_step_mm
    T = poses_in_camera(T_lps_to_world, camera)
    return _marched(volume, camera, T, step_mm, resolve_backend(name), with_jacobian)


def poses_in_camera(T_lps_to_world: torch.Tensor, camera: Camera) -> torch.Tensor:
    """(B, 4, 4) T_lps_to_camera of poses in the world, differentiable."""
    T_world_to_camera = torch.as_tensor(camera.T_world_to_camera)
    return T_world_to_camera.to(T_lps_to_world) @ T_lps_to_world


def project_reference(
    volume: ProjectorVolume,
    camera: Camera,
    T_lps_to_world: torch.Tensor,
    step_mm: float | None = None,
    voxels: torch.Tensor | None = None,
) -> torch.Tensor:
    """Line integrals by the reference backend.

    Args:
        volume: geometry, and the voxels unless those are given apart.
        camera: intrinsics, image size and extrinsics; a single C-arm's camera is the world.
        T_lps_to_world: (B, 4, 4) rigid poses; its dtype is the working precision.
        step_mm: sampling step along the ray.
        voxels: (k, j, i) tensor in place of the volume's own, e.g. to differentiate by it.

    Returns:
        (B, rows, columns).
    """
    options = {"dtype": T_lps_to_world.dtype, "device": T_lps_to_world.device}
    support = volume.support
    T_lps_to_camera = poses_in_camera(T_lps_to_world, camera)
    if voxels is None:
        padded = torch.as_tensor(volume.voxels, **options)
    else:
        padded = torch.nn.functional.pad(voxels.to(**options), (1, 2) * 3)
        support = np.array([[0, 0, 0], np.array(padded.shape[::-1]) - 1])
    camera_to_padded = torch.as_tensor(volume.lps_to_padded, **options) @ se3.invert_rigid(T_lps_to_camera)
    K_inverse = torch.as_tensor(camera.K_inverse, **options)
    step_mm = step_mm or volume.default_step_mm
    return reference.render(padded, camera_to_padded, K_inverse, camera.shape, step_mm, support)


def march_reference(volume, camera_to_padded, K_inverse, shape, step_mm, with_jacobian):
    """The reference with the fused backends' signature (see ``fused_cpu.march``)."""
    A = torch.as_tensor(camera_to_padded, dtype=torch.float32)
    K_inverse = torch.as_tensor(K_inverse, dtype=torch.float32)
    voxels = torch.as_tensor(volume.voxels)

    def render(twists):
        moved = A @ se3.exp_se3(-twists)
        return reference.render(voxels, moved, K_inverse, shape, step_mm, volume.support)

    twists = torch.zeros(len(A), 6)
    if not with_jacobian:
        return render(twists).numpy(), None
    # Six forward-mode passes: each pixel depends on all six parameters, not the other way round.
    columns = [torch.func.jvp(render, (twists,), (axis.expand_as(twists),)) for axis in torch.eye(6)]
    return columns[0][0].numpy(), torch.stack([tangent for _, tangent in columns], dim=1).numpy()


def _marched(volume, camera, T_lps_to_camera, step_mm, backend, with_jacobian):
    """Image and Jacobian on the poses' device."""
    T = T_lps_to_camera.detach().double()
    camera_to_padded = torch.as_tensor(volume.lps_to_padded, device=T.device) @ se3.invert_rigid(T)
    if backend == "fused_cpu":
        camera_to_padded = camera_to_padded.cpu().numpy()
    march = _march_function(backend)
    images = march(volume, camera_to_padded, camera.K_inverse, camera.shape, step_mm, with_jacobian)
    return tuple(None if i is None else torch.as_tensor(i, device=T.device) for i in images)


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(ctx, T_lps_to_camera, volume, camera, step_mm, backend):
        image, jacobian = _marched(volume, camera, T_lps_to_camera, step_mm, backend, ctx.needs_input_grad[0])
        if jacobian is None:
            jacobian = image.new_empty(0)
        ctx.mark_non_differentiable(jacobian)
        ctx.save_for_backward(T_lps_to_camera, jacobian)
        return image, jacobian

    @staticmethod
    def backward(ctx, gradient, _):
        T, jacobian = ctx.saved_tensors
        T = T.detach()
        # Differentiable torch code: autograd itself makes the double backward by the incoming gradient.
        twist_gradient = torch.einsum("bkvu,bvu->bk", jacobian, gradient).to(T.dtype)
        rotation, translation = twist_gradient[:, :3], twist_gradient[:, 3:]
        moment = rotation - torch.linalg.cross(T[:, :3, 3], translation)
        top = torch.cat([0.5 * se3.skew(moment) @ T[:, :3, :3], translation[:, :, None]], dim=-1)
        T_gradient = torch.cat([top, torch.zeros_like(top[:, :1])], dim=1)
        return T_gradient, None, None, None, None
