"""The published RTPI: X-ray and CT in two branches of unlike build, six heads for the six pose parameters.

Source: SOPI paper, section 2.2 and Fig. 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import nn

from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.attenuation import MU_WATER
from SOPIRegistrationLib.images.pyramid import halved
from SOPIRegistrationLib.images.volume import Volume
from SOPIRegistrationLib.networks.blocks import (
    ConvolutionBlock2d,
    ConvolutionBlock3d,
    ResidualBlock,
    SplitAttentionBottleneck,
    group_norm,
)
from SOPIRegistrationLib.networks.weights import registered

CAMERA_PARAMETERS = 5
# A usual C-arm (Perlove PLX118F): camera parameters are measured from it, so that they are near zero.
_USUAL_FIELD_MM = 141.4
_USUAL_SOD_MM = 700.0
_STEM_POOL = 2


@dataclass(frozen=True)
class TwoBranchConfig:
    """Sizes of a :class:`TwoBranchRTPI`; as given here, those published.

    Attributes:
        volume_size: voxels along each edge of the CT cube.
        volume_edge_mm: edge of the CT cube, mm.
        xray_size: width and height of the X-ray, pixels.
        stem_channels: of the convolution before the 3D blocks.
        volume_channels: of the 3D blocks.
        volume_pool: pooling after each of them. The published maps have equal sizes only if one of the three
            poolings that are described is left out: the last, which costs the least.
        volume_map_channels: of the last map of the 3D branch, before it is flattened to 2D.
        xray_channels: of the 2D blocks; each halves the resolution.
        merged_channels: of the map that both branches are merged into.
        stage_channels: of the stages of the localisation net; each halves the resolution.
        head_widths: hidden layers of each parameter's own head.
        split_attention: blocks of the localisation net with split attention; plain residual ones otherwise.
        dropout: probability in the 3D branch.
        theta_half_range: largest magnitude of each pose parameter, rad and mm. By default three standard
            deviations of 22 deg and 32, 24, 105 mm.

    Raises:
        ValueError: the branches' maps cannot be brought to one size.
    """

    volume_size: int = 128
    volume_edge_mm: float = 256.0
    xray_size: int = 256
    stem_channels: int = 1
    volume_channels: tuple[int, ...] = (64, 128)
    volume_pool: tuple[int, ...] = (2, 1)
    volume_map_channels: int = 16
    xray_channels: tuple[int, ...] = (64, 128)
    merged_channels: int = 128
    stage_channels: tuple[int, ...] = (64, 32, 16)
    head_widths: tuple[int, ...] = (512, 128)
    split_attention: bool = True
    dropout: float = 0.2
    theta_half_range: tuple[float, ...] = (1.152, 1.152, 1.152, 96.0, 72.0, 315.0)

    def __post_init__(self):
        if len(self.volume_channels) != len(self.volume_pool):
            raise ValueError("volume_pool must have one entry for each of volume_channels")
        if len(self.theta_half_range) != 6 or min(self.theta_half_range) <= 0:
            raise ValueError("theta_half_range must be six numbers above zero")
        reduction = _STEM_POOL * math.prod(self.volume_pool)
        smallest = 2 ** len(self.stage_channels)
        if self.volume_size % reduction or self.map_size % self.volume_map_size or self.map_size % smallest:
            raise ValueError(
                f"maps of {self.map_size} (X-ray) and {self.volume_size}/{reduction} (CT) must be whole, "
                f"the first a multiple of the second and of {smallest}"
            )
        if self.volume_map_channels * self.volume_map_size % self.fold**2:
            raise ValueError(
                f"volume_map_channels x {self.volume_map_size} must be divisible by {self.fold**2}"
            )

    @property
    def map_size(self) -> int:
        """Width and height of the maps that are merged."""
        return self.xray_size // 2 ** len(self.xray_channels)

    @property
    def volume_map_size(self) -> int:
        """Edge of the last map of the 3D branch."""
        return self.volume_size // (_STEM_POOL * math.prod(self.volume_pool))

    @property
    def fold(self) -> int:
        """By how much a flattened slice is enlarged to the X-ray's map."""
        return max(1, self.map_size // self.volume_map_size)


# "light" trains on CPUs.
CONFIGURATIONS = {
    "published": TwoBranchConfig(),
    "light": TwoBranchConfig(
        volume_size=64,
        xray_size=64,
        stem_channels=8,
        volume_channels=(16, 32),
        volume_map_channels=8,
        xray_channels=(32, 64),
        merged_channels=96,
        stage_channels=(96, 64),
        head_widths=(64,),
    ),
}


def nominal_cube(volume: Volume, frame: PoseFrame, config: TwoBranchConfig) -> np.ndarray:
    """What the network sees of a CT: a cube about the rotation centre, along the axes of the nominal camera.

    So turned, its first axis is the depth of the X-ray, and one network serves every nominal view.

    Args:
        volume: attenuation, 1/mm.
        frame: rotation centre and nominal view.
        config: number and size of the voxels.

    Returns:
        (D, H, W) float32, one for water: depth (camera z), rows (y), columns (x); zero outside the CT.
    """
    voxel_mm = config.volume_edge_mm / config.volume_size
    # Averaged to about the new voxels first: sampled points of a fine CT would miss thin bone.
    while 2 * volume.spacing_mm.min() <= voxel_mm:
        volume = halved(volume)
    middle = (config.volume_size - 1) / 2
    # Cube index (z, y, x) -> nominal camera axes -> LPS -> CT index (k, j, i).
    flip = np.eye(3)[::-1]
    lps_to_index = volume.lps_to_index
    to_index = flip @ lps_to_index[:3, :3] @ frame.rotation.T @ flip * voxel_mm
    centre_index = lps_to_index[:3, :3] @ frame.centre_lps_mm + lps_to_index[:3, 3]
    offset = centre_index[::-1] - to_index @ np.full(3, middle)
    cube = ndimage.affine_transform(
        volume.array.astype(np.float32), to_index, offset, (config.volume_size,) * 3, order=1, mode="constant"
    )
    return cube / np.float32(MU_WATER)


def camera_parameters(K: torch.Tensor, shape: tuple[int, int], sod_mm: torch.Tensor | float) -> torch.Tensor:
    """Camera intrinsics as the network takes them: what it needs to turn a place in the image into mm.

    Args:
        K: (B, 3, 3) intrinsics, pixels.
        shape: (rows, columns) of the images that K is for.
        sod_mm: (B,) or one, source-object distance at theta = 0, mm.

    Returns:
        (B, 5) float32: logarithms of width and height of the field of view at that distance and of the
        distance, each relative to a usual C-arm's; principal point off the image's centre along u and v,
        in widths and heights. Without unit; those of a resampled image of the same field are the same.
    """
    rows, columns = shape
    sod = torch.as_tensor(sod_mm, dtype=K.dtype, device=K.device).expand(len(K))
    return torch.stack(
        [
            torch.log(columns * sod / K[:, 0, 0] / _USUAL_FIELD_MM),
            torch.log(rows * sod / K[:, 1, 1] / _USUAL_FIELD_MM),
            torch.log(sod / _USUAL_SOD_MM),
            (K[:, 0, 2] - (columns - 1) / 2) / columns,
            (K[:, 1, 2] - (rows - 1) / 2) / rows,
        ],
        dim=1,
    ).float()


def filled(image: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """(B, H, W) X-rays whose invalid pixels have the mean of the valid ones, so that they say nothing."""
    count = valid.sum(dim=(1, 2), keepdim=True).clamp(min=1)
    mean = torch.where(valid, image, 0).sum(dim=(1, 2), keepdim=True) / count
    return torch.where(valid, image, mean)


@registered("two_branch", TwoBranchConfig)
class TwoBranchRTPI(nn.Module):
    """Rigid transformation parameter initialisation (SOPI paper, section 2.2): one X-ray and one CT to theta.

    3D branch: convolution blocks on the CT, flattened to 2D; 2D branch: convolution blocks on the X-ray;
    both merged, then a localisation net of residual blocks, then a head for each of the six parameters. The
    camera enters the heads, beside the localisation net's output: where in the image something is, and how
    large, comes from the image alone, but what that is in mm depends on the camera.

    Not in the paper: the camera; group normalisation in the 3D branch; and that flattening keeps neighbours.
    """

    def __init__(self, config: TwoBranchConfig | None = None):
        super().__init__()
        self.config = config = config or TwoBranchConfig()
        blocks, channels = [], config.stem_channels
        for width, pool in zip(config.volume_channels, config.volume_pool, strict=True):
            blocks.append(ConvolutionBlock3d(channels, width, pool, config.dropout))
            channels = width
        self.volume_branch = nn.Sequential(
            nn.Conv3d(1, config.stem_channels, 3, padding=1, bias=False),
            group_norm(config.stem_channels),
            nn.ReLU(inplace=True),
            nn.MaxPool3d(_STEM_POOL),
            *blocks,
            nn.Conv3d(channels, config.volume_map_channels, 1),
        )
        blocks, channels = [], 1
        for width in config.xray_channels:
            blocks.append(ConvolutionBlock2d(channels, width))
            channels = width
        self.xray_branch = nn.Sequential(*blocks)

        # The convolution of two concatenated maps is the sum of one of each: the CT's is done once.
        flat_channels = config.volume_map_channels * config.volume_map_size // config.fold**2
        self.merge_volume = nn.Conv2d(flat_channels, config.merged_channels, 3, padding=1, bias=False)
        self.merge_xray = nn.Conv2d(channels, config.merged_channels, 3, padding=1, bias=False)
        layers: list[nn.Module] = [nn.BatchNorm2d(config.merged_channels), nn.ReLU(inplace=True)]
        channels = config.merged_channels
        for width in config.stage_channels:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
            block = SplitAttentionBottleneck if config.split_attention else ResidualBlock
            layers += [block(width, width), nn.MaxPool2d(2)]
            channels = width
        self.localisation = nn.Sequential(*layers, nn.Flatten())
        side = config.map_size // 2 ** len(config.stage_channels)
        inputs = channels * side**2 + CAMERA_PARAMETERS
        self.heads = nn.ModuleList(_head(inputs, config.head_widths) for _ in range(6))
        half_range = torch.tensor(config.theta_half_range, dtype=torch.float32)
        self.register_buffer("theta_half_range", half_range, persistent=False)

    def encode_volume(self, volume: torch.Tensor) -> torch.Tensor:
        """(V, merged_channels, h, w), the CTs' share of the merged map, of cubes (V, 1, D, H, W); once for
        all X-rays of a CT."""
        features = self.volume_branch(volume)
        # Depth into channels. Enlarging takes pixels from channels (Shi et al., CVPR 2016), so that what lies
        # beside each other in the CT does so in the map.
        flat = nn.functional.pixel_shuffle(features.flatten(1, 2), self.config.fold)
        return self.merge_volume(flat)

    def forward(self, xray: torch.Tensor, features: torch.Tensor, camera: torch.Tensor) -> torch.Tensor:
        """Pose parameters of X-rays.

        Args:
            xray: (B, 1, H, W), bone bright, on any scale: the network normalises to minimum and maximum.
            features: (V, merged_channels, h, w) of :meth:`encode_volume`, B a multiple of V: each CT's for
                B/V consecutive X-rays; or (V, 1, D, H, W), the CTs themselves, as a step of training in
                several processes needs it.
            camera: (B, 5), or (1, 5) for all, of :func:`camera_parameters`.

        Returns:
            (B, 6) float32 theta (rad, mm), see ``PoseFrame``, within ``theta_half_range``.

        Raises:
            ValueError: the X-rays cannot be shared out to the CTs.
        """
        count = len(xray)
        if count % len(features):
            raise ValueError(f"{count} X-rays cannot be shared out to {len(features)} CTs in equal parts")
        if features.ndim == 5:
            features = self.encode_volume(features)
        of_xray = self.merge_xray(self.xray_branch(_min_max_normalised(xray)))
        merged = of_xray.unflatten(0, (len(features), -1)) + features[:, None]
        found = self.localisation(merged.flatten(0, 1))
        found = torch.cat([found, camera.to(found).expand(count, -1)], dim=1)
        raw = torch.cat([head(found) for head in self.heads], dim=1)
        return self.theta_half_range * torch.tanh(raw.float())


def _head(inputs: int, widths: tuple[int, ...]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.Linear(inputs, width), nn.ReLU(inplace=True)]
        inputs = width
    last = nn.Linear(inputs, 1)
    # The first guess is close to the nominal view, where tanh is steep.
    nn.init.normal_(last.weight, std=0.01)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, last)


def _min_max_normalised(image: torch.Tensor) -> torch.Tensor:
    """Each image from 0 to 1; zero where constant."""
    low, high = image.amin(dim=(2, 3), keepdim=True), image.amax(dim=(2, 3), keepdim=True)
    return (image - low) / (high - low).clamp(min=torch.finfo(image.dtype).tiny)
