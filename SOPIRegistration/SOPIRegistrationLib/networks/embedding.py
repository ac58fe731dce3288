"""Learned similarity of X-ray and DRR: two encoders, the error of their features, its slope and curvature.

The error is Eq. 6 of the SOPI paper, L_N = sum M' |e_m - e_f| / sum M', with e_f and e_m the features of
X-ray and DRR and M' the projected bone mask. Its derivatives by the pose need no rendering beyond one pass:
the projector's Jacobian says how the DRR changes with the pose, and the encoder how the features change
with the DRR.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.networks.blocks import NORMS
from SOPIRegistrationLib.networks.image_channels import FIXED_CHANNELS, locally_standardised, standardised
from SOPIRegistrationLib.optimise.pose_chart import PoseScale
from SOPIRegistrationLib.projector import ProjectorVolume
from SOPIRegistrationLib.projector.autograd import poses_in_camera, project_tensors

MOVING_CHANNELS = 3
# Channels that mean the same of X-ray and DRR: the whole image standardised, and locally.
_SHARED = [0, 2]
# A line integral through the bones of a trunk; brings their DRRs to the order of one.
_THICK_BONE = 2.0
# Line integral from which a ray is in the projected bone mask: half a millimetre of bone.
_IN_BONE = 0.02
# How much the image itself weighs among its features before training, and the width of its curve's layer.
_IMAGE_GAIN, _CURVE_WIDTH = 40.0, 16
# Added, squared, to squared distances of features: the error stays smooth where they agree.
_SMOOTH = 0.1
# A millimetre or a hundredth of a radian are of one size in the image; so are ten millimetres of depth.
SCALE = PoseScale()


class MovingImages(NamedTuple):
    """DRRs of a CT and their change with the pose.

    Attributes:
        body: (B, N, N) line integrals through all of it.
        bone: (B, N, N) line integrals through its bones.
        body_jacobian: (B, 6, N, N) derivative of ``body`` by the twist (w rad, v mm) about the rotation
            centre, in camera axes; None if not asked for.
        bone_jacobian: (B, 6, N, N) the same of ``bone``.
    """

    body: torch.Tensor
    bone: torch.Tensor
    body_jacobian: torch.Tensor | None = None
    bone_jacobian: torch.Tensor | None = None

    def to(self, device: torch.device) -> MovingImages:
        """The same on a device."""
        return MovingImages(*(image if image is None else image.to(device) for image in self))

    def pose_gradient(self, by_body: torch.Tensor, by_bone: torch.Tensor) -> torch.Tensor:
        """(B, 6) derivative by the twist of what has the derivatives (B, N, N) by ``body`` and ``bone``."""
        # Linear in both, and so differentiable again at no cost: the double backward of the SOPI paper.
        through_body = torch.einsum("bkvu,bvu->bk", self.body_jacobian, by_body)
        return through_body + torch.einsum("bkvu,bvu->bk", self.bone_jacobian, by_bone)


def moving_images(
    body: ProjectorVolume,
    bone: ProjectorVolume,
    camera: Camera,
    T_lps_to_world: np.ndarray | torch.Tensor,
    centre_lps_mm: np.ndarray,
    with_jacobian: bool = True,
) -> MovingImages:
    """DRRs at (B, 4, 4) poses of a CT with its rotation centre (3,), LPS mm; Jacobians if asked for.

    All on the poses' device.
    """
    T = torch.as_tensor(T_lps_to_world)
    volumes = (body,) if body is bone else (body, bone)
    parts = [project_tensors(volume, camera, T, None, with_jacobian) for volume in volumes]
    if not with_jacobian:
        return MovingImages(parts[0][0], parts[-1][0])
    centre = se3.transform_points(poses_in_camera(T, camera), torch.as_tensor(centre_lps_mm, device=T.device))
    rays = torch.as_tensor(camera.unit_rays().astype(np.float32), device=T.device).permute(2, 0, 1)
    jacobians = [_about(centre.float(), rays, jacobian) for _, jacobian in parts]
    return MovingImages(parts[0][0], parts[-1][0], jacobians[0], jacobians[-1])


def _about(centre: torch.Tensor, rays: torch.Tensor, jacobian: torch.Tensor) -> torch.Tensor:
    """The Jacobian (B, 6, N, N) by twists about the source turned into one about the centre (B, 3), without
    what shifts along each pixel's own ray (3, N, N) do."""
    by_shift = jacobian[:, 3:]
    by_shift = by_shift - (by_shift * rays).sum(dim=1, keepdim=True) * rays
    centre = centre[:, :, None, None].expand_as(by_shift)
    return torch.cat([jacobian[:, :3] + torch.linalg.cross(by_shift, centre, dim=1), by_shift], dim=1)


def moving_channels(body: torch.Tensor, bone: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """(B, 3, N, N) float32 of line integrals (B, N, N): body standardised, bones, body locally
    standardised."""
    values = standardised(body, valid)
    bones = torch.where(valid, bone / _THICK_BONE, 0)
    return torch.stack([values, bones, locally_standardised(values, valid)], dim=1)


class Embedded(NamedTuple):
    """Features of X-rays and DRRs, at one or several scales.

    Attributes:
        fixed: of each scale (B, C, H, W).
        moving: of each scale (B, C, H, W).
        jacobian: of each scale (B, 6, C, H, W), change of ``moving`` with the pose, in units of ``SCALE``;
            None if not asked for.
        weights: of each scale (B, H, W): M' of Eq. 6, adding up to one for each image.
    """

    fixed: tuple[torch.Tensor, ...]
    moving: tuple[torch.Tensor, ...]
    jacobian: tuple[torch.Tensor, ...] | None
    weights: tuple[torch.Tensor, ...]


class ImageCurve(nn.Module):
    """The first channel of an image and what a curve of all channels, pixel by pixel, adds: nothing at first.

    Args:
        channels: of the image.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.added = nn.Sequential(
            nn.Conv2d(channels, _CURVE_WIDTH, 1), nn.GELU(), nn.Conv2d(_CURVE_WIDTH, 1, 1)
        )
        nn.init.zeros_(self.added[-1].weight)
        nn.init.zeros_(self.added[-1].bias)

    def forward(self, channels: torch.Tensor) -> torch.Tensor:
        """(B, channels, N, N) to (B, 1, N, N)."""
        return channels[:, :1] + self.added(channels)


@dataclass(frozen=True, kw_only=True)
class EmbeddingConfig:
    """What every learned similarity is configured by; its sizes are its own.

    Features of structures say where home is from nearby; far from it they are all equally unlike, but the
    images of bodies go on to differ more. The encoders are convolutions, trained on structures of many sizes:
    on finer images they see finer ones.

    Attributes:
        pixels: width and height of the compared images.
        norm: "batch" or "layer"; the latter is the same in training and use.
        masked: whether M' of Eq. 6 is the projected bone mask; otherwise all valid pixels count.
        image: whether the image itself is one more feature at the coarsest scale.
        reach: how many times more it weighs than in training while home is far.
        near_pixels: width and height of the images that are compared at the end; None for the same.
        inference: how poses are found: by "least squares" or, as published, "descent".
    """

    pixels: int = 64
    norm: str = "batch"
    masked: bool = True
    image: bool = False
    reach: float = 1.0
    near_pixels: int | None = None
    inference: str = "descent"

    def __post_init__(self):
        if self.norm not in NORMS:
            raise ValueError(f"unknown norm '{self.norm}': use {' or '.join(NORMS)}")
        for pixels in (self.pixels, self.near_pixels or self.pixels):
            if pixels % self.divisor:
                raise ValueError(f"pixels must be a multiple of {self.divisor}, not {pixels}")

    @property
    def divisor(self) -> int:
        """Of what number ``pixels`` must be a multiple."""
        return 1


class EmbeddingNetwork(nn.Module):
    """Encoders of X-ray and DRR, of the same structure, that share no weights.

    Args:
        config: kept as ``config``.
        encoder: makes the encoder of images with so many channels, a module from (B, channels, N, N) to a
            tuple of maps, the coarsest last.

    Attributes:
        difference: steps of the difference quotients of features, as shares of the scale's unit: 0.05, a
            fiftieth of a pixel.
    """

    difference = 0.05

    def __init__(self, config: EmbeddingConfig, encoder: Callable[[int], nn.Module]):
        super().__init__()
        self.config = config
        self.fixed_encoder = encoder(FIXED_CHANNELS)
        self.moving_encoder = encoder(MOVING_CHANNELS)
        self._begin_alike()
        if config.image:
            self.fixed_curve, self.moving_curve = ImageCurve(FIXED_CHANNELS), ImageCurve(MOVING_CHANNELS)
            self.log_image_gain = nn.Parameter(torch.tensor(math.log(_IMAGE_GAIN)))
        # Convolutions with few channels are up to a third faster so.
        self.to(memory_format=torch.channels_last)

    def forward(
        self, fixed: torch.Tensor, valid: torch.Tensor, images: MovingImages, with_jacobian: bool = False
    ) -> Embedded:
        """Embed X-rays (B, 4, N, N) of ``fixed_channels``, valid in (B, N, N), and DRRs."""
        return self.embed(self.fixed_features(fixed), valid, images, with_jacobian)

    def fixed_features(self, channels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Features of X-rays at every scale, from (B, 4, N, N) of :func:`~.image_channels.fixed_channels`."""
        maps = self.fixed_encoder(channels)
        return _with_image(maps, self.fixed_curve(channels)) if self.config.image else maps

    def moving_features(self, channels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Features of DRRs at every scale, from (B, 3, N, N) of :func:`moving_channels`."""
        maps = self.moving_encoder(channels)
        return _with_image(maps, self.moving_curve(channels)) if self.config.image else maps

    def embed(
        self,
        fixed: tuple[torch.Tensor, ...],
        valid: torch.Tensor,
        images: MovingImages,
        with_jacobian: bool = False,
        reach: float = 1.0,
    ) -> Embedded:
        """Embed DRRs.

        Args:
            fixed: features of the X-rays, known already.
            valid: as for :meth:`forward`.
            images: the same.
            with_jacobian: the same.
            reach: how many times more the image itself weighs among the features than in training.
        """
        moving = jacobian = None
        if with_jacobian:
            moving, jacobian = self._with_jacobian(images, valid)
        if moving is None or images.body.requires_grad:
            # Alone, so that a second derivative goes through these images only.
            moving = self.moving_features(moving_channels(images.body, images.bone, valid))
        weights = _weights(images.bone, valid, moving, self.config.masked)
        fixed, moving = self._weighed(fixed, reach), self._weighed(moving, reach)
        if jacobian is not None:
            jacobian = self._weighed(jacobian, reach)
        return Embedded(fixed, moving, jacobian, weights)

    @torch.no_grad()
    def _begin_alike(self) -> None:
        """The same weights on the channels that both images have, none on the others.

        The error is then least at the true pose, or near, before any training: that begins with a similarity
        and not with noise.
        """
        first_fixed, first_moving = (
            next(layer for layer in encoder.modules() if isinstance(layer, nn.Conv2d))
            for encoder in (self.fixed_encoder, self.moving_encoder)
        )
        shared = first_fixed.weight[:, _SHARED].clone()
        own, other = self.moving_encoder.state_dict(), self.fixed_encoder.state_dict()
        alike = {name: other[name] if other[name].shape == own[name].shape else own[name] for name in own}
        self.moving_encoder.load_state_dict(alike)
        for first in (first_fixed, first_moving):
            first.weight.zero_()
            first.weight[:, _SHARED] = shared

    def _weighed(self, maps: tuple[torch.Tensor, ...], reach: float) -> tuple[torch.Tensor, ...]:
        """The maps, (..., C, H, W), with the image's gain."""
        if not self.config.image:
            return maps
        *finer, coarsest = maps
        gain = reach * self.log_image_gain.exp()
        return *finer, torch.cat([coarsest[..., :-1, :, :], gain * coarsest[..., -1:, :, :]], dim=-3)

    def _with_jacobian(self, images: MovingImages, valid: torch.Tensor):
        """Features, and their difference quotients along the six twists.

        Differences of features between images moved a fraction of a pixel along the rendered Jacobian: good
        to some hundredths, and no more work than forward-mode differentiation.
        """
        steps = self.difference * torch.as_tensor(SCALE.twist, dtype=torch.float32, device=images.body.device)

        def with_moved(image, jacobian):
            moved = image[:, None] + steps[:, None, None] * jacobian
            return torch.cat([image[:, None], moved], dim=1).flatten(0, 1)

        body = with_moved(images.body.detach(), images.body_jacobian)
        bone = body
        if images.bone_jacobian is not images.body_jacobian:
            bone = with_moved(images.bone.detach(), images.bone_jacobian)
        channels = moving_channels(body, bone, valid.repeat_interleave(7, dim=0))
        maps = [m.unflatten(0, (-1, 7)) for m in self.moving_features(channels)]
        moving = tuple(m[:, 0] for m in maps)
        return moving, tuple((m[:, 1:] - m[:, :1]) / self.difference for m in maps)


def _weights(bone, valid, maps, masked: bool) -> tuple[torch.Tensor, ...]:
    """M' of Eq. 6 at the maps' scales."""
    valid = valid.float()
    mask = valid
    if masked:
        inside = valid * (bone.detach() > _IN_BONE)
        # Without any bone in view there is still something to compare.
        mask = torch.where(inside.sum(dim=(1, 2), keepdim=True) > 0, inside, valid)
    pooled = [nn.functional.adaptive_avg_pool2d(mask, m.shape[-2:]) for m in maps]
    return tuple(w / w.sum(dim=(1, 2), keepdim=True).clamp(min=1e-6) for w in pooled)


def _with_image(maps: tuple[torch.Tensor, ...], image: torch.Tensor) -> tuple[torch.Tensor, ...]:
    *finer, coarsest = maps
    pooled = nn.functional.adaptive_avg_pool2d(image, coarsest.shape[-2:])
    return *finer, torch.cat([coarsest, pooled], dim=1)


def embedding_error(embedded: Embedded) -> torch.Tensor:
    """(B,) L_N of Eq. 6, mean over the scales; distances of features slightly smoothed at zero."""
    terms = []
    for fixed, moving, weights in zip(embedded.fixed, embedded.moving, embedded.weights, strict=True):
        distance = ((moving - fixed).square().sum(dim=1) + _SMOOTH**2).sqrt()
        terms.append((weights * distance).sum(dim=(1, 2)))
    return torch.stack(terms).mean(dim=0)


@dataclass(frozen=True)
class ErrorModel:
    """L_N at poses and its quadratic model ``error + 2 gradient.x + x.hessian x``, x in units of ``SCALE``.

    Attributes:
        error: (B,).
        gradient: (B, 6).
        hessian: (B, 6, 6).
    """

    error: torch.Tensor
    gradient: torch.Tensor
    hessian: torch.Tensor

    def step(self, damping: float = 1e-2) -> torch.Tensor:
        """(B, 6) Gauss-Newton step, in units of ``SCALE``, damped by a share of the diagonal (Marquardt);
        differentiable."""
        diagonal = self.hessian.diagonal(dim1=1, dim2=2)
        # What no parameter says anything about must not make the system singular.
        added = damping * (diagonal + 0.1 * diagonal.mean(dim=1, keepdim=True)) + 1e-8
        return -torch.linalg.solve(self.hessian + torch.diag_embed(added), self.gradient)


def error_model(embedded: Embedded) -> ErrorModel:
    """Gauss-Newton model of L_N, from features embedded with their Jacobian.

    The distance |e_m - e_f| of each place is a square root of squares; as in iteratively reweighted least
    squares it is replaced by the parabola that touches it from above, so that a step down the model is one
    down L_N, and places that will never agree (metal, another structure) pull no more than others.
    """
    error = embedding_error(embedded)
    gradient, hessian = 0.0, 0.0
    maps = zip(embedded.fixed, embedded.moving, embedded.jacobian, embedded.weights, strict=True)
    for fixed, moving, jacobian, weights in maps:
        residual = moving - fixed
        distance = (residual.square().sum(dim=1) + _SMOOTH**2).sqrt()
        # Two roots: that of the weights, zero here and there, is not differentiated.
        root = (weights.sqrt() * (0.5 / len(embedded.fixed) / distance).sqrt())[:, None]
        r = (root * residual).flatten(1)
        J = (root[:, None] * jacobian).flatten(2)
        gradient = gradient + (J @ r[..., None])[..., 0]
        hessian = hessian + J @ J.mT
    return ErrorModel(error, gradient, hessian)
