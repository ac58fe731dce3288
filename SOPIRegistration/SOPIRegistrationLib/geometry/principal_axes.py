"""Principal axes of a body's surface."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np


class PrincipalAxes(NamedTuple):
    """Along which points spread.

    Attributes:
        centre_mm: (3,) their centroid.
        directions: (3, 3) unit axes in its columns, the longest first.
        moments: (3,) variances along these, mm^2.
    """

    centre_mm: np.ndarray
    directions: np.ndarray
    moments: np.ndarray

    @property
    def long(self) -> np.ndarray:
        """(3,) the axis along which they spread furthest."""
        return self.directions[:, 0]

    @property
    def elongation(self) -> float:
        """How many times as far they spread along the long axis as along the next one."""
        return float(np.sqrt(self.moments[0] / max(self.moments[1], 1e-12)))

    @property
    def round_about(self) -> int:
        """Number of the axis across which they are most alike in all directions."""
        across = itertools.combinations(self.moments[::-1], 2)
        return int(np.argmin([max(pair) / max(min(pair), 1e-9) for pair in across]))


def principal_axes(points_mm: np.ndarray) -> PrincipalAxes:
    """The principal axes of points (n, 3)."""
    centre = points_mm.mean(axis=0)
    moments, directions = np.linalg.eigh(np.cov((points_mm - centre).T))
    return PrincipalAxes(centre, directions[:, ::-1], moments[::-1])
