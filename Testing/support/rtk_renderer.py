"""An independent renderer for tests: RTK's Joseph projector in this project's geometry."""

from __future__ import annotations

import numpy as np
from SOPIRegistrationLib.evaluation.peers import Rtk
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.images.volume import Volume


def render_rtk(volume: Volume, camera: Camera, T_lps_to_camera: np.ndarray) -> np.ndarray:
    """Line integrals (rows, columns) float32 of an attenuation volume (1/mm) at a pose (4, 4)."""
    return Rtk(volume, camera).image(T_lps_to_camera)
