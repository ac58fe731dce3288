"""Volumes whose images are what a detector makes of line integrals, not these themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from SOPIRegistrationLib.projector.volume import ProjectorVolume


class Response(Protocol):
    """What becomes of the line integrals of one or several volumes."""

    def projection(self, integrals: Sequence, jacobians: Sequence, with_jacobian: bool):
        """Image (..., rows, columns) and Jacobian (..., rows, columns, 6), or None, from each volume's own,
        which may be overwritten."""


class SeenVolume:
    """Volumes and a response: give it to ``project`` like a :class:`ProjectorVolume`.

    Attributes:
        parts: the volumes whose line integrals are needed.
        response: what the image is of them.
    """

    def __init__(self, parts: Sequence[ProjectorVolume], response: Response):
        self.parts = tuple(parts)
        self.response = response


class Opacity:
    """The share of the beam that an object takes: ``1 - exp(-L)`` of the line integral L.

    Behind metal it saturates at 1, whatever the thickness: what is left is the silhouette.
    """

    def projection(
        self, integrals: Sequence[np.ndarray], jacobians: Sequence[np.ndarray], with_jacobian: bool
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """See :class:`Response`; of one volume."""
        [integral] = integrals
        opacity = -np.expm1(-integral)
        if not with_jacobian:
            return opacity, None
        [jacobian] = jacobians
        # In place: the integral's Jacobian is of no use to anyone else.
        jacobian *= (1 - opacity)[..., None]
        return opacity, jacobian
