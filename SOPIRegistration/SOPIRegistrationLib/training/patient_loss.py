"""What is minimised while a network for one patient is trained."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from SOPIRegistrationLib.networks.comparing import correction_between
from SOPIRegistrationLib.networks.image_channels import standardised
from SOPIRegistrationLib.networks.patient import PatientConfig, PatientNetwork, PatientOutput
from SOPIRegistrationLib.training.patient_xrays import Xrays
from SOPIRegistrationLib.training.pose_loss import geodesic_pose_loss

# Of the regularised autoencoder (Ghosh et al., *From Variational to Deterministic Autoencoders*, ICLR 2020).
_RESTORATION_WEIGHT, _FEATURE_WEIGHT = 0.1, 1e-3
_WEIGHT_POINTS = 64


class PatientLoss:
    """What is minimised: the pose's error, and that of the autoencoder where there is one.

    Args:
        config: whose poses.
        points_lps_mm: (n, 3) points of the bones' surface, for the pose-dependent weights.
        kind: one of ``LOSSES``.
    """

    def __init__(self, config: PatientConfig, points_lps_mm: np.ndarray, kind: str = "correction"):
        self._pixels, self._kind = config.pixels, kind
        chosen = np.linspace(0, len(points_lps_mm) - 1, min(_WEIGHT_POINTS, len(points_lps_mm))).astype(int)
        self._points = torch.from_numpy(np.asarray(points_lps_mm, dtype=np.float64)[chosen])

    def __call__(self, network: PatientNetwork, output: PatientOutput, xrays: Xrays) -> torch.Tensor:
        """Mean over a batch; ``network`` has the frame that values are measured in."""
        loss = self._pose_loss(network, output.values, xrays.T_true)
        if output.restored is not None:
            everywhere = torch.ones_like(xrays.clean, dtype=torch.bool)
            target = nn.functional.avg_pool2d(standardised(xrays.clean, everywhere), 2)
            restoration = (output.restored - target).square().mean()
            features = output.features.float().square().mean()
            loss = loss + _RESTORATION_WEIGHT * (restoration + _FEATURE_WEIGHT * features)
        return loss

    def _pose_loss(self, network: PatientNetwork, values: torch.Tensor, T_true: torch.Tensor) -> torch.Tensor:
        count = len(values)
        centre = network.centre_lps_mm.expand(count, 3)
        if self._kind == "geodesic":
            return geodesic_pose_loss(network.poses(values), T_true, centre).float()
        T_reference, K = network.T_reference.expand(count, 4, 4), network.K.expand(count, 3, 3)
        target = correction_between(T_reference, T_true, K, centre, self._pixels)
        error = (values - target.float()).abs()
        if self._kind == "pose-dependent":
            error = error * self.weights(network, target).float()
        return error.mean()

    def weights(self, network: PatientNetwork, values: torch.Tensor) -> torch.Tensor:
        """(B, 6) mean motion of the projected points, in image widths, by a change of each value."""
        step = 1e-4
        moved = torch.cat([values[:, None], values[:, None] + step * torch.eye(6).to(values)], dim=1)
        T = network.poses(moved.flatten(0, 1)).unflatten(0, (len(values), 7))
        points = self._points.to(T) @ T[..., :3, :3].mT + T[..., None, :3, 3]
        directions = points[..., :2] / points[..., 2:]
        focal = torch.stack([network.K[0, 0], network.K[1, 1]])
        motion = (directions[:, 1:] - directions[:, :1]) * focal / (step * self._pixels)
        return motion.norm(dim=-1).mean(dim=-1)
