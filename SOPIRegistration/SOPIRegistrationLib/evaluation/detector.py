"""The C-arm of simulated cases: what it is, and what a registration is told of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.tolerances import SourceTolerances, Tolerances


@dataclass(frozen=True)
class Detector:
    """A C-arm with a square detector, its principal point in the middle.

    Attributes:
        sdd_mm: source-detector distance.
        sod_mm: nominal source-object distance.
        size_mm: edge of the detector.
    """

    sdd_mm: float = 1011.7
    sod_mm: float = 700.0
    size_mm: float = 1024 * 0.19959

    def camera(self, pixels: int) -> Camera:
        """The whole detector in ``pixels`` x ``pixels``."""
        pitch = self.size_mm / pixels
        return Camera.from_c_arm(self.sdd_mm, (pitch, pitch), pixels, pixels)

    def views(self, first: Camera, count: int) -> list[Camera]:
        """So many cameras, each a quarter turn about the patient further; the world is the first's frame."""
        middle = np.array([0.0, 0.0, self.sod_mm])
        cameras = [first]
        for number in range(1, count):
            turn = se3.exp_so3(np.array([0.0, np.deg2rad(90.0 * number), 0.0]))
            T = se3.rigid(turn, middle - turn @ middle)
            cameras.append(replace(first, T_world_to_camera=T, name=f"view {number + 1}"))
        return cameras


# The C-arm of the SOPI paper (Perlove PLX118F).
PAPER_C_ARM = Detector()


def believed(
    camera: Camera, error: SourceTolerances, told: SourceTolerances, rng: np.random.Generator
) -> Camera:
    """A camera beside the true one, off by ``error`` (standard deviations), with the tolerances that are
    ``told``."""
    distance, spacing, *shift = rng.normal(size=4)
    sdd = camera.sdd_mm * (1 + distance * error.sdd_percent / 100)
    pitch = np.array(camera.pixel_spacing_mm) * (1 + spacing * error.pixel_spacing_percent / 100)
    centre = camera.K[:2, 2] + np.multiply(shift, error.principal_point_px)
    beside = Camera.from_c_arm(sdd, pitch, camera.width, camera.height, centre, camera.name)
    tolerances = Tolerances(told.sdd_percent / 100 * sdd, told.principal_point_px, told.pixel_spacing_percent)
    return replace(beside, T_world_to_camera=camera.T_world_to_camera, tolerances=tolerances)
