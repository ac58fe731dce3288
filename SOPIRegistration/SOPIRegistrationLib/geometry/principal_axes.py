"""Principal axes of points."""

from __future__ import annotations

import numpy as np


def long_axis(points_mm: np.ndarray) -> np.ndarray:
    """(3,) unit vector along which points (n, 3) spread furthest."""
    return _axes(points_mm)[1][:, -1]


def elongation(points_mm: np.ndarray) -> float:
    """How many times as far points (n, 3) spread along their long axis as along the next one."""
    squares, _ = _axes(points_mm)
    return float(np.sqrt(squares[-1] / max(squares[-2], 1e-12)))


def _axes(points_mm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    spread = points_mm - points_mm.mean(axis=0)
    return np.linalg.eigh(spread.T @ spread)
