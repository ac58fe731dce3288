"""Six dimensionless coordinates of the poses around a start, for optimisers that know nothing of units."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from array_api_compat import array_namespace

from SOPIRegistrationLib.geometry import se3


@dataclass(frozen=True)
class PoseScale:
    """How far one unit of a coordinate moves the pose.

    The defaults move the projection of an object of 50 mm radius, 700 mm from the source, by about the
    same amount on every axis, so that a first-order method sees an evenly curved objective: depth changes the
    projection only by its magnification.

    Attributes:
        rotation_rad: about each axis, rad.
        in_plane_mm: along the pose's target x and y (an image's columns and rows), mm.
        depth_mm: along z (a camera's central ray), mm.
    """

    rotation_rad: float = 0.02
    in_plane_mm: float = 1.0
    depth_mm: float = 10.0

    @property
    def twist(self) -> np.ndarray:
        """(6,) the same as a twist (w, v), rad and mm."""
        rotation, in_plane = [self.rotation_rad] * 3, [self.in_plane_mm] * 2
        return np.array([*rotation, *in_plane, self.depth_mm])


@dataclass(frozen=True)
class PoseChart:
    """``T(x) = Trans(c) exp(scale x) Trans(-c) T_start``: the object turns about c, where it is at the start.

    Turning about the object and not about the frame's origin (the X-ray source) keeps rotation and
    translation apart.

    Attributes:
        T_start: (4, 4) rigid pose, object -> frame (patient LPS -> camera, or -> world), mm.
        centre_mm: (3,) point of the object, in the object's own frame, about which rotations turn.
        scale: size of one unit.
    """

    T_start: np.ndarray
    centre_mm: np.ndarray
    scale: PoseScale

    def T(self, x):
        """Poses (..., 4, 4) of coordinates (..., 6); numpy, or torch and then differentiable."""
        xp = array_namespace(x)
        centre = se3.transform_points(self.T_start, self.centre_mm)
        to_centre = se3.rigid(np.eye(3), -centre) @ self.T_start
        from_centre = se3.rigid(np.eye(3), centre)
        scale, to_centre, from_centre = (
            xp.asarray(constant, dtype=x.dtype) for constant in (self.scale.twist, to_centre, from_centre)
        )
        return from_centre @ se3.exp_se3(x * scale) @ to_centre
