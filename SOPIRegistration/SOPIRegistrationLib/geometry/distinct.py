"""Which of many poses are different ones."""

from __future__ import annotations

import numpy as np

from SOPIRegistrationLib.geometry import se3

# Within so much (rad; mm across the central ray, along it) ends of minimisations are one minimum's.
SAME_MINIMUM = np.deg2rad(2), 2.0, 15.0


def distinct_poses(
    T: np.ndarray, centre: np.ndarray, angle: float, shift_mm: float, depth_mm: float, limit: int
) -> list[int]:
    """Indices of poses, in the given order, that differ from all kept before them.

    Args:
        T: (n, 4, 4) poses, best first.
        centre: (3,) point of the object whose translation counts, mm.
        angle: two poses are the same if they differ by less than this (rad), and
        shift_mm: by less than this across the central ray, and
        depth_mm: by less than this along it.
        limit: at most so many are kept.
    """
    centres = se3.transform_points(T, centre)
    cosine = np.cos(angle)
    kept: list[int] = []
    for k in range(len(T)):
        trace = np.einsum("nij,ij->n", T[kept, :3, :3], T[k, :3, :3])
        offset = centres[kept] - centres[k]
        same = (trace - 1) / 2 > cosine
        same &= np.hypot(offset[:, 0], offset[:, 1]) < shift_mm
        same &= np.abs(offset[:, 2]) < depth_mm
        if not same.any():
            kept.append(k)
        if len(kept) == limit:
            break
    return kept
