"""Whether a matrix that was typed, saved or dragged is a rigid motion, and the nearest one that is."""

from __future__ import annotations

import numpy as np

from SOPIRegistrationLib.geometry.se3 import rigid

# Files round a rotation, handles and sliders leave rounding in it; a scaling of 0.1 % is something else.
_TOLERANCE = 1e-3


def is_rotation(R) -> bool:
    """Whether a matrix (3, 3) is one but for rounding: orthonormal and right-handed."""
    R = np.asarray(R, dtype=np.float64)
    if R.shape != (3, 3) or not np.isfinite(R).all():
        return False
    return bool(np.abs(R @ R.T - np.eye(3)).max() < _TOLERANCE and np.linalg.det(R) > 0)


def nearest_rigid(T) -> np.ndarray | None:
    """(4, 4) the rigid motion nearest to a matrix (4, 4); None where that scales, shears or mirrors.

    A rotation typed with a few digits would, a metre from the patient, be off by millimetres.
    """
    T = np.asarray(T, dtype=np.float64)
    if T.shape != (4, 4) or not np.isfinite(T).all() or not is_rotation(T[:3, :3]):
        return None
    U, _, Vt = np.linalg.svd(T[:3, :3])
    return rigid(U @ Vt, T[:3, 3])
