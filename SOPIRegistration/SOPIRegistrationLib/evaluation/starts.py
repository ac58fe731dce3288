"""Starts about known poses, in place of those that a list of cases gives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from SOPIRegistrationLib.evaluation.cases import EvaluationCase
from SOPIRegistrationLib.evaluation.protocols import PROTOCOLS
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.views import PoseFrame


@dataclass(frozen=True)
class DrawnStarts:
    """Starts about a known pose: as far from it, and in as many ways, as in the simulated cases.

    Attributes:
        number: of each case.
        protocol: name in :data:`~SOPIRegistrationLib.evaluation.protocols.PROTOCOLS`.
        seed: of their drawing.
    """

    number: int
    protocol: str = "paper"
    seed: int = 1

    def draw(self, case: int, start: int, T_true: np.ndarray, centre_lps_mm: np.ndarray) -> np.ndarray:
        """Start (4, 4) number ``start`` of a case, in the frame of its true pose (a camera's), mm."""
        rng = np.random.default_rng([self.seed, case, start])
        # The start of a simulated case as seen from its true pose, about the rotation centre.
        theta_true, theta_start = PROTOCOLS[self.protocol].draw(rng)
        about_origin = PoseFrame(np.zeros(3), 0.0, rotation=np.eye(3))
        T_true_to_start = about_origin.T_from_theta(theta_start) @ se3.invert_rigid(
            about_origin.T_from_theta(theta_true)
        )
        centre = T_true[:3, :3] @ centre_lps_mm + T_true[:3, 3]
        away, back = (se3.rigid(np.eye(3), shift) for shift in (centre, -centre))
        return away @ T_true_to_start @ back @ T_true

    def of(self, case: EvaluationCase, index: int, start: int) -> np.ndarray:
        """Start (4, 4) T_lps_to_world number ``start`` of the listed case ``index``, mm."""
        T_world_to_camera = case.T_world_to_camera
        T_true = T_world_to_camera @ case.T_true
        return se3.invert_rigid(T_world_to_camera) @ self.draw(index, start, T_true, case.frame.centre_lps_mm)

    def __str__(self) -> str:
        return f"{self.number} by protocol {self.protocol}"


@dataclass(frozen=True)
class BoundedStarts:
    """Starts about a known pose, turned and shifted in any direction, uniform in size; alike for all cases.

    Attributes:
        number: of each case.
        angle_deg: largest turn about the rotation centre.
        shift_mm: largest shift.
        seed: of their drawing.
    """

    number: int
    angle_deg: float
    shift_mm: float
    seed: int = 1

    def twist(self, start: int) -> np.ndarray:
        """(6,) twist of a start, world axes, rad and mm."""
        # One generator for all of a case, as in the tables that were made before.
        rng = np.random.default_rng(self.seed)
        for _ in range(start + 1):
            directions = rng.normal(size=(2, 3))
            directions /= np.linalg.norm(directions, axis=1, keepdims=True)
            sizes = rng.uniform(size=(2, 1)) * [[np.deg2rad(self.angle_deg)], [self.shift_mm]]
        return (directions * sizes).ravel()

    def of(self, case: EvaluationCase, index: int, start: int) -> np.ndarray:
        """Start (4, 4) T_lps_to_world number ``start``, mm."""
        return se3.move_about(case.T_true, self.twist(start), case.frame.centre_lps_mm)

    def __str__(self) -> str:
        return f"{self.number} up to {self.angle_deg:g} deg and {self.shift_mm:g} mm off"


Starts = DrawnStarts | BoundedStarts
