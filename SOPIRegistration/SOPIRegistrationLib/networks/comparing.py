"""Pose initialisation by comparison: a network sees X-ray and projection of the CT and corrects the pose.

Where the published RTPI regresses the pose from X-ray and volume features in one go, this one compares the
X-ray with DRRs at a pose and says by how much that pose is off, again and again. Anatomy enters
through the projection, not through the weights, so that one set of weights serves any patient, view and
C-arm. The idea is that of DeepIM (Li et al., ECCV 2018), the separation of the correction into
rotation, shift in the image and ratio of depths that of Labbe et al. (CosyPose, ECCV 2020).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.networks.blocks import ResidualBlock
from SOPIRegistrationLib.networks.image_channels import FIXED_CHANNELS, locally_standardised
from SOPIRegistrationLib.networks.weights import registered
from SOPIRegistrationLib.projector import ProjectorVolume
from SOPIRegistrationLib.projector.autograd import project_tensors

MOVING_CHANNELS, CAMERA_FEATURES = 7, 9
# Learned combinations of a DRR's changes with the pose.
_CHANGES = 8
# Sampling steps along the ray, voxels: finer ones are not seen in images this small.
_BODY_STEP, _BONE_STEP = 2.0, 1.5
# A correction is never larger, in its own units: keeps wild guesses in view of the camera.
_LARGEST_CORRECTION = torch.tensor([1.0, 1.0, 1.0, 0.5, 0.5, 0.5])
# A line integral of attenuation through the middle of a patient; brings DRRs to the order of one.
_THICK = 4.0


@dataclass(frozen=True)
class ComparingConfig:
    """Sizes of a :class:`ComparingRTPI`.

    Attributes:
        pixels: width and height of the compared images, a multiple of four.
        stem_channels: of both encoders at half the resolution.
        feature_channels: of both encoders at a quarter of it.
        widths: channels of the stages that read the comparison, each at half the resolution of the one
            before, the first at a quarter of ``pixels``.
        blocks: residual blocks of each stage.
        hidden: width of the layer that the heads share.
        split_attention: whether the residual blocks have split attention.
        residual_channels: kinds of difference between X-ray and DRR that are multiplied with its changes.
    """

    pixels: int = 48
    stem_channels: int = 32
    feature_channels: int = 64
    widths: tuple[int, ...] = (96, 128, 160)
    blocks: tuple[int, ...] = (1, 2, 1)
    hidden: int = 256
    split_attention: bool = False
    residual_channels: int = 8

    def __post_init__(self):
        if self.pixels % 4:
            raise ValueError(f"pixels must be a multiple of four, not {self.pixels}")

    @property
    def cells(self) -> int:
        """Width and height of the feature maps."""
        return self.pixels // 4

    @property
    def reach(self) -> int:
        """How many cells a feature is looked for to each side."""
        return self.cells // 2 + 1


class Correction(NamedTuple):
    """By how much a pose is off, as the network says it.

    Attributes:
        values: (B, 6): rotation vector (rad, camera axes, about the rotation centre), shift of the rotation
            centre's projection along u and v (fractions of the image's width), logarithm of the ratio of the
            centre's depths.
        deviation: (B, 6) expected absolute error of each, in the same units.
    """

    values: torch.Tensor
    deviation: torch.Tensor


class EncodedFixed(NamedTuple):
    """What of X-rays is compared.

    Attributes:
        features: (B, features, cells, cells).
        pixels: (B, cells^2, residuals, pixels of a cell).
    """

    features: torch.Tensor
    pixels: torch.Tensor


class EncodedMoving(NamedTuple):
    """What of DRRs is compared.

    Attributes:
        features: (B, features, cells, cells).
        pixels: (B, cells^2, residuals, pixels of a cell).
        changes: (B, cells^2, changes, pixels of a cell).
    """

    features: torch.Tensor
    pixels: torch.Tensor
    changes: torch.Tensor


@registered("comparing", ComparingConfig)
class ComparingRTPI(nn.Module):
    """Encoders of X-ray and DRRs, the correlation of their features, a residual network, six heads.

    Each place of the X-ray is correlated with all places of the DRRs around it (as in FlowNet, Fischer et
    al., ICCV 2015): shift, roll and size of the difference need not be learned from pixels. Tilts move hardly
    anything: they show in what remains between images that lie on each other, times how the DRR changes
    with a tilt, the ``J^T r`` of a Gauss-Newton step. These products are made of learned differences and
    learned combinations of the changes, and summed over each cell.
    """

    def __init__(self, config: ComparingConfig | None = None):
        super().__init__()
        self.config = config = config or ComparingConfig()
        self.fixed_encoder = _encoder(FIXED_CHANNELS, config)
        self.moving_encoder = _encoder(MOVING_CHANNELS, config)
        self.fixed_pixels = nn.Conv2d(FIXED_CHANNELS, config.residual_channels, 3, padding=1)
        self.moving_pixels = nn.Conv2d(MOVING_CHANNELS, config.residual_channels, 3, padding=1)
        self.changing_pixels = nn.Conv2d(MOVING_CHANNELS, _CHANGES, 3, padding=1)
        products = (config.residual_channels + _CHANGES) * _CHANGES
        self.products_norm = nn.BatchNorm2d(products)
        shifts = (2 * config.reach + 1) ** 2
        width = config.widths[0]
        merged = shifts + 2 * config.feature_channels + products + CAMERA_FEATURES
        layers: list[nn.Module] = [
            nn.Conv2d(merged, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        ]
        size = config.cells
        for stage, (channels, blocks) in enumerate(zip(config.widths, config.blocks, strict=True)):
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                layers.append(ResidualBlock(width, channels, stride, config.split_attention))
                width = channels
            size = (size + 1) // 2 if stage else size
        self.body = nn.Sequential(*layers, nn.Flatten())
        # The place of what differs matters as much as what: no pooling over the image.
        self.shared = nn.Sequential(
            nn.Linear(width * size * size + CAMERA_FEATURES, config.hidden), nn.ReLU(inplace=True)
        )
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(config.hidden, 64), nn.ReLU(inplace=True), nn.Linear(64, 2))
            for _ in range(6)
        )
        for head in self.heads:
            # The first guess is that the pose is right.
            nn.init.zeros_(head[-1].weight)
            nn.init.zeros_(head[-1].bias)
        self.register_buffer("neighbours", _neighbours(config.cells, config.reach), persistent=False)

    def forward(self, fixed: torch.Tensor, moving: torch.Tensor, camera: torch.Tensor) -> Correction:
        """Compare X-rays (B / n, 4, N, N) with n DRRs each, (B, 7, N, N), by cameras (B, 9) of
        :func:`camera_features`."""
        return self.compare(self.encode_fixed(fixed), self.encode_moving(moving), camera)

    def encode_fixed(self, fixed: torch.Tensor) -> EncodedFixed:
        """What of X-rays is compared; ``fixed`` as in :meth:`forward`."""
        return EncodedFixed(self.fixed_encoder(fixed), self._in_cells(self.fixed_pixels(fixed)))

    def encode_moving(self, moving: torch.Tensor) -> EncodedMoving:
        """What of DRRs is compared; ``moving`` as in :meth:`forward`."""
        pixels, changes = self.moving_pixels(moving), self.changing_pixels(moving)
        return EncodedMoving(self.moving_encoder(moving), self._in_cells(pixels), self._in_cells(changes))

    def compare(self, fixed: EncodedFixed, moving: EncodedMoving, camera: torch.Tensor) -> Correction:
        """Compare what is encoded already; numbers of X-rays and DRRs as in :meth:`forward`."""
        count = len(moving.features) // len(fixed.features)
        a, a_pixels = (x.repeat_interleave(count, dim=0) for x in fixed)
        b = moving.features
        everywhere = camera[:, :, None, None].expand(-1, -1, *a.shape[2:])
        products = self._products(a_pixels - moving.pixels, moving.changes)
        merged = torch.cat([self.correlation(a, b), a, b, products, everywhere.to(a)], dim=1)
        features = self.body(merged)
        shared = self.shared(torch.cat([features, camera], dim=1))
        out = torch.stack([head(shared) for head in self.heads], dim=1).float()
        # Expected errors begin near the size that errors have.
        return Correction(out[..., 0], nn.functional.softplus(out[..., 1] - 2) + 1e-4)

    def _in_cells(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, N, N) to (B, cells^2, C, pixels of a cell)."""
        cells = self.config.cells
        parts = x.unflatten(3, (cells, -1)).unflatten(2, (cells, -1))
        return parts.permute(0, 2, 4, 1, 3, 5).flatten(4).flatten(1, 2)

    def _products(self, residual: torch.Tensor, changes: torch.Tensor) -> torch.Tensor:
        """(B, products, cells, cells) sums over each cell of what remains, and of changes, times changes."""
        sums = torch.cat([residual, changes], dim=2) @ changes.mT / changes.shape[3]
        sums = sums.flatten(2).mT.unflatten(2, (self.config.cells,) * 2)
        return self.products_norm(sums)

    def correlation(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """(B, shifts, cells, cells) cosines of the features of a with those of b so many cells away."""
        a, b = (nn.functional.normalize(x.flatten(2), dim=1) for x in (a, b))
        cosines = a.mT @ b
        # One more column, of zeros, stands for what lies outside.
        cosines = nn.functional.pad(cosines, (0, 1))
        index = self.neighbours.expand(len(a), -1, -1)
        return cosines.gather(2, index).mT.unflatten(2, (self.config.cells,) * 2)


def _encoder(channels: int, config: ComparingConfig) -> nn.Sequential:
    stem = config.stem_channels
    return nn.Sequential(
        nn.Conv2d(channels, stem, 5, stride=2, padding=2, bias=False),
        nn.BatchNorm2d(stem),
        nn.ReLU(inplace=True),
        ResidualBlock(stem, config.feature_channels, 2, config.split_attention),
        ResidualBlock(config.feature_channels, config.feature_channels, 1, config.split_attention),
        nn.Conv2d(config.feature_channels, config.feature_channels, 1),
    )


def _neighbours(cells: int, reach: int) -> torch.Tensor:
    """(cells^2, shifts) index of the cell at each shift; cells^2 where there is none."""
    v, u = torch.meshgrid(torch.arange(cells), torch.arange(cells), indexing="ij")
    steps = torch.arange(-reach, reach + 1)
    dv, du = torch.meshgrid(steps, steps, indexing="ij")
    v, u = v.reshape(-1, 1) + dv.reshape(1, -1), u.reshape(-1, 1) + du.reshape(1, -1)
    inside = (v >= 0) & (v < cells) & (u >= 0) & (u < cells)
    return torch.where(inside, v * cells + u, cells * cells)


class Drrs(NamedTuple):
    """What is rendered of a CT at a pose.

    Attributes:
        body: (B, N, N) line integrals through all of it.
        bone: (B, N, N) line integrals through its bones.
        change: (B, 4, N, N) change of ``bone`` with rotations about the camera's x, y, z axes (through the
            rotation centre; per rad) and with the logarithm of the depth.
    """

    body: torch.Tensor
    bone: torch.Tensor
    change: torch.Tensor


def drrs_to_compare(
    body: ProjectorVolume,
    bone: ProjectorVolume,
    camera: Camera,
    T_lps_to_camera: np.ndarray | torch.Tensor,
    centre_lps_mm: np.ndarray,
) -> Drrs:
    """DRRs at (B, 4, 4) poses of a CT with its rotation centre (3,), LPS mm; on the poses' device."""
    T = torch.as_tensor(T_lps_to_camera)
    bone_drr, jacobian = project_tensors(bone, camera, T, _BONE_STEP * bone.default_step_mm, True)
    if body is bone:
        body_drr = bone_drr
    else:
        body_drr, _ = project_tensors(body, camera, T, _BODY_STEP * body.default_step_mm)
    centre = (T[:, :3, :3] @ torch.as_tensor(centre_lps_mm, device=T.device) + T[:, :3, 3]).float()
    centre = centre[:, :, None, None]
    by_rotation, by_shift = jacobian[:, :3], jacobian[:, 3:]
    # The Jacobian's rotations are about the source: those about the centre also shift it back.
    by_turn = by_rotation + torch.linalg.cross(by_shift, centre.expand_as(by_shift), dim=1)
    # A larger depth at the same place in the image is a shift along the centre's ray. Its part along a
    # pixel's own ray changes no line integral, but would bring in the noise of the samples.
    rays = torch.as_tensor(camera.unit_rays().astype(np.float32), device=T.device).permute(2, 0, 1)
    across = centre - rays * (rays * centre).sum(dim=1, keepdim=True)
    change = torch.cat([by_turn, (by_shift * across).sum(dim=1, keepdim=True)], dim=1)
    return Drrs(body_drr, bone_drr, change)


def moving_channels(drrs: Drrs) -> torch.Tensor:
    """(B, 7, N, N) float32: body, bone, body locally standardised, the four changes, to the order of one."""
    # Of the changes a single projection tells nothing: which of two structures is nearer the source decides
    # which way they move.
    body = drrs.body / _THICK
    local = locally_standardised(body, torch.ones_like(body, dtype=torch.bool))
    images = torch.stack([body, 2 * drrs.bone / _THICK, local], dim=1)
    return torch.cat([images, drrs.change / _THICK], dim=1)


def camera_features(
    K: torch.Tensor, T_lps_to_camera: torch.Tensor, centre_lps_mm: torch.Tensor, pixels: int
) -> torch.Tensor:
    """(B, 9) what the network is told of cameras K (B, 3, 3) and poses (B, 4, 4), mm, of centres (B, 3)."""
    # Width over focal length, depth of the centre (m), mm at that depth per width; posterior and superior
    # axes.
    aperture = pixels / K[:, 0, 0]
    depth = centre_in_camera(T_lps_to_camera, centre_lps_mm)[:, 2] / 1000
    scalars = torch.stack([aperture * 3, depth, aperture * depth * 5], dim=1)
    return torch.cat([scalars, T_lps_to_camera[:, :3, 1], T_lps_to_camera[:, :3, 2]], dim=1).float()


def centre_in_camera(T_lps_to_camera: torch.Tensor, centre_lps_mm: torch.Tensor) -> torch.Tensor:
    """(B, 3) rotation centres in the camera frame, mm."""
    return (T_lps_to_camera[:, :3, :3] @ centre_lps_mm[:, :, None])[:, :, 0] + T_lps_to_camera[:, :3, 3]


def corrected(
    T_lps_to_camera: torch.Tensor,
    values: torch.Tensor,
    K: torch.Tensor,
    centre_lps_mm: torch.Tensor,
    pixels: int,
) -> torch.Tensor:
    """(B, 4, 4) poses after a correction (see :class:`Correction`); :func:`correction_between` undoes it.

    Excessive corrections are cut.
    """
    limit = _LARGEST_CORRECTION.to(T_lps_to_camera)
    values = values.to(T_lps_to_camera).clamp(-limit, limit)
    R = se3.exp_so3(values[:, :3]) @ T_lps_to_camera[:, :3, :3]
    centre = centre_in_camera(T_lps_to_camera, centre_lps_mm)
    focal = torch.stack([K[:, 0, 0], K[:, 1, 1]], dim=1)
    direction = centre[:, :2] / centre[:, 2:] + values[:, 3:5] * pixels / focal
    depth = centre[:, 2:] * torch.exp(values[:, 5:])
    moved = torch.cat([direction * depth, depth], dim=1)
    return se3.rigid(R, moved - (R @ centre_lps_mm[:, :, None])[:, :, 0])


def correction_between(
    T_from: torch.Tensor, T_to: torch.Tensor, K: torch.Tensor, centre_lps_mm: torch.Tensor, pixels: int
) -> torch.Tensor:
    """(B, 6) correction that leads from poses to others, T_lps_to_camera both (see :class:`Correction`)."""
    w = se3.log_so3(T_to[:, :3, :3] @ T_from[:, :3, :3].mT)
    a, b = centre_in_camera(T_from, centre_lps_mm), centre_in_camera(T_to, centre_lps_mm)
    focal = torch.stack([K[:, 0, 0], K[:, 1, 1]], dim=1)
    shift = (b[:, :2] / b[:, 2:] - a[:, :2] / a[:, 2:]) * focal / pixels
    return torch.cat([w, shift, torch.log(b[:, 2:] / a[:, 2:])], dim=1)
