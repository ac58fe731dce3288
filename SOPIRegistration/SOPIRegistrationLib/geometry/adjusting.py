"""A pose moved by hand in the X-ray's picture: what a drag, the wheel or an arrow key does to it.

Everywhere ``T`` is (4, 4) T_lps_to_camera, mm, and so is what comes back; ``centre`` (3,) a point of the
object, LPS mm; ``from_px`` and ``to_px`` the (2,) pixels (u, v) of a drag in the X-ray of ``camera``.
"""

from __future__ import annotations

import numpy as np

from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.camera import Camera

# A drag across the whole picture tilts the object by so much.
_RAD_PER_WIDTH = np.pi / 2


def shifted(T, camera: Camera, centre, from_px, to_px) -> np.ndarray:
    """Pose shifted parallel to the detector, so that what was seen at one pixel is seen at another."""
    # Exact at the depth of the centre, near to it elsewhere: the picture stays under the mouse.
    depth = _place(T, centre)[2]
    on_plane = camera.K_inverse @ np.append(np.subtract(to_px, from_px), 0.0)
    return _moved(T, shift=depth * on_plane)


def tilted(T, camera: Camera, centre, from_px, to_px) -> np.ndarray:
    """Pose turned out of the picture's plane about the centre, as a ball is by the mouse on its front."""
    du, dv = np.subtract(to_px, from_px) * _RAD_PER_WIDTH / max(camera.shape)
    # The front, nearer to the source, moves with the mouse: u to the right is a turn about -y.
    return se3.move_about(T, np.array([dv, -du, 0.0, 0, 0, 0]), np.asarray(centre))


def rolled(T, camera: Camera, centre, from_px, to_px) -> np.ndarray:
    """Pose turned in the picture's plane about where the centre is seen, by the angle of the drag there."""
    seen = camera.project(_place(T, centre))
    before, after = np.subtract(from_px, seen), np.subtract(to_px, seen)
    angle = np.arctan2(before[0] * after[1] - before[1] * after[0], before @ after)
    return se3.move_about(T, np.array([0, 0, angle, 0.0, 0, 0]), np.asarray(centre))


def moved_in_depth(T, centre, mm: float) -> np.ndarray:
    """Pose moved along the ray through the centre, away from the source: it stays where it is seen."""
    place = _place(T, centre)
    return _moved(T, shift=mm * place / np.linalg.norm(place))


def stepped(T, right_mm: float, down_mm: float) -> np.ndarray:
    """Pose shifted along the picture's rows and columns, mm at the object."""
    return _moved(T, shift=np.array([right_mm, down_mm, 0.0]))


def _place(T, centre) -> np.ndarray:
    return T[:3, :3] @ np.asarray(centre) + T[:3, 3]


def _moved(T, shift) -> np.ndarray:
    moved = np.array(T, dtype=np.float64)
    moved[:3, 3] += shift
    return moved
