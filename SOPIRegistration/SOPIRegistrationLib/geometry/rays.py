"""Where rays of several cameras meet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from SOPIRegistrationLib.geometry.camera import Camera

# Nearly parallel rays meet anywhere: half a degree apart, the smallest eigenvalue is about 4e-5.
_LEAST_ACROSS = 1e-3


class Meeting(NamedTuple):
    """The point nearest to some rays.

    Attributes:
        point: (3,) world, mm.
        apart_mm: root mean square of its distances from the rays, mm.
    """

    point: np.ndarray
    apart_mm: float


def meeting_point(cameras: Sequence[Camera], pixels: Sequence[np.ndarray]) -> Meeting | None:
    """The point nearest to the rays of pixels, one in each camera; None where they are nearly parallel.

    Args:
        cameras: in one world.
        pixels: (2,) of each.
    """
    origins, directions = [], []
    for camera, (u, v) in zip(cameras, pixels, strict=True):
        R, t = camera.T_world_to_camera[:3, :3], camera.T_world_to_camera[:3, 3]
        ray = R.T @ camera.K_inverse @ [u, v, 1.0]
        directions.append(ray / np.linalg.norm(ray))
        origins.append(-R.T @ t)
    origins = np.array(origins)
    across = np.stack([np.eye(3) - np.outer(d, d) for d in directions])
    normal = across.sum(axis=0)
    if np.linalg.eigvalsh(normal)[0] < _LEAST_ACROSS:
        return None
    point = np.linalg.solve(normal, np.einsum("nij,nj->i", across, origins))
    off = np.einsum("nij,nj->ni", across, point - origins)
    return Meeting(point, float(np.sqrt((off**2).sum(axis=-1).mean())))
