"""Losses of pose regression: the published one (SOPI paper, Eq. 4 and 5), and a geodesic one.

Everywhere ``theta`` and ``theta_true`` are (B, 6) predicted and true pose parameters, rad and mm;
``theta_half_range`` (6,) half of the range that each is sampled from; ``fixed`` (B, H, W) X-rays, ``valid``
their usable pixels, None for all; ``groups`` their CTs, cameras and frames, together every image once. Losses
are means over the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.views import PoseFrame, rotation_from_theta
from SOPIRegistrationLib.networks.comparing import centre_in_camera
from SOPIRegistrationLib.projector import ProjectorVolume
from SOPIRegistrationLib.projector.autograd import project_differentiable
from SOPIRegistrationLib.similarity import gradient_difference


@dataclass(frozen=True)
class ImageGroup:
    """Images of a batch that share CT, camera and nominal view.

    Attributes:
        volume: what their projections are made of.
        camera: theirs, with the number of pixels of the fixed images.
        frame: what their theta is measured from.
        images: which images of the batch they are.
        step_mm: sampling step of the projections, mm; the volume's smallest voxel edge unless given.
    """

    volume: ProjectorVolume
    camera: Camera
    frame: PoseFrame
    images: slice
    step_mm: float | None = None


@dataclass(frozen=True)
class RTPILossWeights:
    """Weights of Eq. 5: alpha of the similarity, beta of the error in theta, lambda_ of the penalty."""

    alpha: float = 1.0
    beta: float = 1.0
    lambda_: float = 0.01


class RTPILoss(NamedTuple):
    """Eq. 5 and its terms, without their weights; all scalar tensors."""

    total: torch.Tensor
    similarity: torch.Tensor
    theta: torch.Tensor
    penalty: torch.Tensor


@dataclass(frozen=True)
class GeodesicScales:
    """Sizes of error that weigh as much as each other in :func:`geodesic_pose_loss`.

    Attributes:
        rotation_rad: geodesic angle, rad.
        in_plane_mm: of the rotation centre, parallel to the detector, mm.
        depth_mm: of the rotation centre, along the central ray, mm. An image tells it about five times less
            well than the place in the plane.
    """

    rotation_rad: float = 0.05
    in_plane_mm: float = 3.0
    depth_mm: float = 15.0


def rtpi_loss(
    theta: torch.Tensor,
    theta_true: torch.Tensor,
    fixed: torch.Tensor,
    groups: Sequence[ImageGroup],
    theta_half_range: Sequence[float] | torch.Tensor,
    network: nn.Module,
    valid: torch.Tensor | None = None,
    weights: RTPILossWeights | None = None,
) -> RTPILoss:
    """Eq. 5, ``alpha L_sim(I_f, I_m) + beta L_mse + lambda R``, R of the network's weights."""
    weights = weights or RTPILossWeights()
    similarity = reprojection_loss(theta, fixed, groups, valid)
    error = theta_loss(theta, theta_true, theta_half_range)
    penalty = weight_penalty(network)
    total = weights.alpha * similarity + weights.beta * error + weights.lambda_ * penalty
    return RTPILoss(total, similarity, error, penalty)


def reprojection_loss(
    theta: torch.Tensor,
    fixed: torch.Tensor,
    groups: Sequence[ImageGroup],
    valid: torch.Tensor | None = None,
) -> torch.Tensor:
    """L_sim of Eq. 5: one less the gradient difference of X-rays and projections at predicted poses.

    In [0, 1), zero where both agree up to brightness and contrast: the gradient difference compares images of
    unit variance. A projection that is empty, its pose out of the image, has no gradient.

    Raises:
        ValueError: an image is in no group, or in several.
    """
    numbers = [number for group in groups for number in range(len(theta))[group.images]]
    if sorted(numbers) != list(range(len(theta))):
        raise ValueError(f"the groups hold images {numbers}, not each of {len(theta)} once")
    losses = []
    # Poses need all their digits: a thousandth of a radian is a millimetre at the detector.
    with torch.autocast(theta.device.type, enabled=False):
        for group in groups:
            T_lps_to_camera = group.frame.T_from_theta(theta[group.images].double())
            moving = project_differentiable(group.volume, group.camera, T_lps_to_camera, group.step_mm)
            mask = None if valid is None else valid[group.images]
            losses.append(1 - gradient_difference(moving, fixed[group.images], mask))
    return torch.cat(losses).mean().to(theta.dtype)


def theta_loss(
    theta: torch.Tensor, theta_true: torch.Tensor, theta_half_range: Sequence[float] | torch.Tensor
) -> torch.Tensor:
    """L_mse of Eq. 4: mean squared error of the pose parameters, each in units of half its sampled range."""
    # Unscaled, depth in mm would be all that is learned. (Eq. 4 prints a norm that is not squared; what it is
    # called, and what has a derivative at the truth, is.)
    scale = torch.as_tensor(theta_half_range, dtype=theta.dtype, device=theta.device)
    return ((theta - theta_true.to(theta)) / scale).square().mean()


def weight_penalty(network: nn.Module) -> torch.Tensor:
    """R of Eq. 5: half the sum of squares of all kernels and matrices, without biases and norms."""
    return 0.5 * sum(p.square().sum() for p in network.parameters() if p.ndim > 1)


def geodesic_pose_loss(
    pose: torch.Tensor,
    pose_true: torch.Tensor,
    centre_lps_mm: torch.Tensor | None = None,
    scales: GeodesicScales | None = None,
) -> torch.Tensor:
    """Rotation, in-plane and depth error, each in units of its scale e, as ``sqrt(1 + e^2) - 1``, added.

    Rotation errors are geodesic on SO(3), hence the same for any choice of angles; translation errors are
    those of the rotation centre, so that they do not depend on where the CT's origin is. Smooth at the truth;
    grows as the error and not its square, so that far starts do not drown the near ones (Charbonnier et
    al., ICIP 1994; geodesic regression: Salehi et al., IEEE TMI 38(2), 2019).

    Args:
        pose: (B, 6) theta (rad, mm), or (B, 4, 4) T_lps_to_camera, mm.
        pose_true: of the same form and frame.
        centre_lps_mm: (3,) or (B, 3) rotation centres, mm; for matrices only, which need them.
        scales: sizes of errors that weigh the same.

    Raises:
        ValueError: matrices without rotation centres, or theta with them.
    """
    scales = scales or GeodesicScales()
    is_matrix = pose.shape[-1] == 4
    if is_matrix != (centre_lps_mm is not None):
        raise ValueError("rotation centres go with 4x4 matrices, and with those only")
    with torch.autocast(pose.device.type, enabled=False):
        R, centre = _rotation_and_centre(pose, centre_lps_mm)
        R_true, centre_true = _rotation_and_centre(pose_true.to(pose), centre_lps_mm)
        w = se3.log_so3(R.mT @ R_true) / scales.rotation_rad
        shift = centre - centre_true
        in_plane, depth = shift[..., :2] / scales.in_plane_mm, shift[..., 2:] / scales.depth_mm
        terms = [torch.sqrt(1 + e.square().sum(dim=-1)) - 1 for e in (w, in_plane, depth)]
        return sum(terms).mean()


def pose_errors(
    T_lps_to_camera: torch.Tensor, T_true: torch.Tensor, centre_lps_mm: torch.Tensor
) -> torch.Tensor:
    """(B, 3) rotation (deg), in-plane and depth errors (mm) of rotation centres (B, 3) at poses (B, 4, 4)."""
    angle = se3.rotation_distance(T_lps_to_camera[:, :3, :3], T_true[:, :3, :3])
    shift = centre_in_camera(T_lps_to_camera, centre_lps_mm) - centre_in_camera(T_true, centre_lps_mm)
    return torch.stack([torch.rad2deg(angle), shift[:, :2].norm(dim=1), shift[:, 2].abs()], dim=1)


def _rotation_and_centre(pose: torch.Tensor, centre_lps_mm: torch.Tensor | None):
    """Rotations (B, 3, 3), up to a common factor from the right, and camera places (B, 3) of the centre, mm.

    For theta the latter are relative to the nominal one.
    """
    if centre_lps_mm is None:
        return rotation_from_theta(pose[..., :3]), pose[..., 3:]
    R = pose[..., :3, :3]
    return R, (R @ centre_lps_mm.to(pose)[..., None])[..., 0] + pose[..., :3, 3]
