"""How exact a pose is: what the images fix, and what the model of them may be wrong in."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from SOPIRegistrationLib.compare import Comparison
from SOPIRegistrationLib.geometry import se3


class LocalModel(NamedTuple):
    """What the objective's slope and curvature at a pose say about it, along the first camera's axes.

    Attributes:
        rotation_rad: (3,) standard deviations.
        translation_mm: (3,) the same.
        to_best_mm: (3,) shift to where the images agree best.
    """

    rotation_rad: np.ndarray
    translation_mm: np.ndarray
    to_best_mm: np.ndarray


def local_model(comparison: Comparison, T_lps_to_world: np.ndarray) -> LocalModel:
    """Standard deviations of a pose (4, 4) and the Gauss-Newton step from it, at the finest level."""
    objective = comparison.objective(comparison.target.kind.finest, T_lps_to_world[None])
    equations = objective(T_lps_to_world[None], np.zeros(1, dtype=int))
    variance = equations.cost[0] / objective.pixel_count * comparison.target.kind.correlated_residuals**2
    inverse = np.linalg.pinv(equations.hessian[0], rcond=1e-12, hermitian=True)
    to_camera = np.eye(4)
    to_camera[:3, :3] = comparison.case.T_world_to_camera[:3, :3]
    A = se3.adjoint(to_camera)
    deviation = np.sqrt(np.maximum(np.diag(A @ (variance * inverse) @ A.T), 0))
    step = -A @ inverse @ equations.gradient[0]
    return LocalModel(deviation[:3], deviation[3:], step[3:])
