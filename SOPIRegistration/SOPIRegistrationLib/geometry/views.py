"""Nominal C-arm views and the six pose parameters theta (SOPI paper, Eq. 2 and 3).

theta is ``(rx, ry, rz, tx, ty, tz)`` in camera axes (rad, mm); see :class:`PoseFrame` for how it makes
the pose ``T_lps_to_camera``. The paper's depth translation is ``tz`` here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from array_api_compat import array_namespace

from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.camera import Camera

# Rows are the camera's x, y, z axes in LPS; with y = -S the patient's head is up in the image.
NOMINAL_VIEWS: dict[str, np.ndarray] = {
    "AP": np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]),
    "PA": np.array([[-1.0, 0, 0], [0, 0, -1], [0, -1, 0]]),
    "LLAT": np.array([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]]),
    "RLAT": np.array([[0.0, 1, 0], [0, 0, -1], [-1, 0, 0]]),
}
THETA_NAMES = ("rx_deg", "ry_deg", "rz_deg", "tx_mm", "ty_mm", "tz_mm")


def nominal_view(name: str) -> np.ndarray:
    """3x3 rotation LPS -> camera of a named view.

    Raises:
        ValueError: the name is none of AP, PA, LLAT, RLAT.
    """
    try:
        return NOMINAL_VIEWS[name.upper()]
    except KeyError:
        choices = ", ".join(NOMINAL_VIEWS)
        raise ValueError(f"unknown view '{name}': use one of {choices}") from None


def nominal_view_from_angles(primary_deg: float, secondary_deg: float) -> np.ndarray:
    """3x3 rotation LPS -> camera of a C-arm at DICOM positioner angles.

    DICOM PS3.3 C.8.7.5: at (0, 0) the X-ray beam runs from posterior to anterior, the detector in
    front of the patient; the primary angle is positive when the detector moves to the patient's left
    (LAO), the secondary when it moves to the head (cranial). The camera's image is the one seen from
    the source, head up; angiography systems often store its mirror image, see
    :func:`view_of_stored_image`.

    Args:
        primary_deg: Positioner Primary Angle (0018,1510).
        secondary_deg: Positioner Secondary Angle (0018,1511).
    """
    primary, secondary = np.deg2rad([primary_deg, secondary_deg])
    z = np.array(
        [
            np.sin(primary) * np.cos(secondary),
            -np.cos(primary) * np.cos(secondary),
            np.sin(secondary),
        ]
    )
    superior = np.array([0.0, 0.0, 1.0])
    y = -(superior - superior @ z * z)
    length = np.linalg.norm(y)
    if length < 1e-6:
        # Straight along the patient's axis, up in the image is what it was just before.
        y, length = np.array([np.sin(primary), -np.cos(primary), 0.0]) * np.sign(z[2]), 1.0
    y = y / length
    return np.stack([np.cross(y, z), y, z])


# An image plane's normal this much along the central ray is that of the view.
LEAST_FACING = 0.3
_DIRECTIONS_LPS = {
    "L": (1, 0, 0),
    "R": (-1, 0, 0),
    "P": (0, 1, 0),
    "A": (0, -1, 0),
    "H": (0, 0, 1),
    "F": (0, 0, -1),
}


def is_direction(value: str) -> bool:
    """Whether one value of Patient Orientation is a direction in a patient, such as "L" or "LA"."""
    return bool(value) and set(value) <= set(_DIRECTIONS_LPS)


def view_of_orientation(patient_orientation) -> str | None:
    """The view that an image's two directions (:func:`is_direction`) allow to be assumed, or None."""
    # Images in the frontal plane are AP unless something says PA: they are shown alike. A lateral image does
    # not tell on which side the source was.
    along_columns, along_rows = (direction_lps(value) for value in patient_orientation)
    frontal = NOMINAL_VIEWS["AP"][2] @ np.cross(along_columns, along_rows)
    return "AP" if abs(frontal) >= LEAST_FACING else None


def direction_lps(value: str) -> np.ndarray:
    """(3,) direction in LPS, not of unit length, of a value of Patient Orientation."""
    # The first letter is the dominant direction (PS3.3 C.7.6.1.1.1).
    return sum(np.array(_DIRECTIONS_LPS[letter]) / 2**rank for rank, letter in enumerate(value))


def view_of_stored_image(rotation, patient_orientation) -> tuple[np.ndarray, bool]:
    """Turn a nominal view so that it agrees with how an image was stored.

    A detector's image may be stored mirrored (as if the viewer faced the patient, usual in angiography)
    or turned by quarter turns. DICOM Patient Orientation (0020,0020) tells: the patient's direction along
    increasing columns, then along increasing rows.

    Args:
        rotation: (3, 3) nominal rotation LPS -> camera, head up.
        patient_orientation: the two values, such as ``("L", "F")`` or ``("LA", "F")``.

    Returns:
        The rotation, turned about the central ray by 0, 90, 180 or 270 degrees, and whether the stored
        columns run against the camera's x, so that the pixels must be flipped left-right. Where the
        values are not directions, or not those of this view's image plane, ``(rotation, False)``.
    """
    rotation = np.asarray(rotation, dtype=np.float64)
    if len(patient_orientation) != 2 or not all(is_direction(value) for value in patient_orientation):
        return rotation, False
    along_columns, along_rows = (direction_lps(value) for value in patient_orientation)
    facing = rotation[2] @ np.cross(along_columns, along_rows)
    if abs(facing) < LEAST_FACING:
        return rotation, False
    mirrored = bool(facing < 0)
    x = -along_columns if mirrored else along_columns
    quarter = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    turned = [np.linalg.matrix_power(quarter, turns) @ rotation for turns in range(4)]
    return max(turned, key=lambda R: R[0] @ x + R[1] @ along_rows), mirrored


def rotation_from_theta(angles):
    """Mrx Mry Mrz of Eq. 2, 3.

    Args:
        angles: (..., 3) rx, ry, rz in rad; numpy or torch.

    Returns:
        (..., 3, 3) rotations.
    """
    xp = array_namespace(angles)
    sx, sy, sz = (xp.sin(angles[..., axis]) for axis in range(3))
    cx, cy, cz = (xp.cos(angles[..., axis]) for axis in range(3))
    rows = [
        [cy * cz, -cy * sz, sy],
        [cx * sz + sx * sy * cz, cx * cz - sx * sy * sz, -sx * cy],
        [sx * sz - cx * sy * cz, sx * cz + cx * sy * sz, cx * cy],
    ]
    return xp.stack([xp.stack(row, axis=-1) for row in rows], axis=-2)


def theta_from_rotation(R):
    """Inverse of :func:`rotation_from_theta` with ry in [-pi/2, pi/2].

    At ry = +-pi/2 (gimbal lock) rx and rz are not unique: rz is returned as zero.
    """
    R = np.asarray(R, dtype=np.float64)
    ry = np.arctan2(R[..., 0, 2], np.hypot(R[..., 0, 0], R[..., 0, 1]))
    locked = np.hypot(R[..., 0, 0], R[..., 0, 1]) < 1e-9
    rx = np.where(
        locked,
        np.arctan2(R[..., 2, 1], R[..., 1, 1]),
        np.arctan2(-R[..., 1, 2], R[..., 2, 2]),
    )
    rz = np.where(locked, 0.0, np.arctan2(-R[..., 0, 1], R[..., 0, 0]))
    return np.stack([rx, ry, rz], axis=-1)


@dataclass(frozen=True)
class PoseFrame:
    """What theta is measured from: rotation centre, source-object distance, nominal view.

    ``T_lps_to_camera = Trans(0, 0, SOD) A(theta) N Trans(-c)`` with A of Eq. 2; theta = 0 is the
    nominal view, the rotation centre on the central ray at the source-object distance.

    Attributes:
        centre_lps_mm: (3,) rotation centre c in patient LPS, mm.
        sod_mm: nominal source-object distance, mm.
        view: name of the nominal view, or "angles" where ``rotation`` is given.
        rotation: (3, 3) nominal rotation N, LPS -> camera; from ``view`` unless given.
    """

    centre_lps_mm: np.ndarray
    sod_mm: float
    view: str = "AP"
    rotation: np.ndarray | None = field(default=None)

    def __post_init__(self):
        centre = np.asarray(self.centre_lps_mm, dtype=np.float64).reshape(3)
        object.__setattr__(self, "centre_lps_mm", centre)
        if self.rotation is None:
            object.__setattr__(self, "rotation", nominal_view(self.view))

    def T_from_theta(self, theta) -> np.ndarray:
        """(..., 4, 4) T_lps_to_camera, mm, of theta (..., 6), rad and mm; numpy, or torch and then
        differentiable."""
        xp = array_namespace(theta)
        N, centre, sod = self._constants_like(theta)
        R = rotation_from_theta(theta[..., :3]) @ N
        t = theta[..., 3:] + sod - xp.sum(R * centre, axis=-1)
        return se3.rigid(R, t)

    def theta_from_T(self, T_lps_to_camera) -> np.ndarray:
        """Pose parameters (..., 6) of poses (..., 4, 4); numpy."""
        T = np.asarray(T_lps_to_camera, dtype=np.float64)
        angles = theta_from_rotation(T[..., :3, :3] @ self.rotation.T)
        t = T[..., :3, 3] + T[..., :3, :3] @ self.centre_lps_mm - [0.0, 0.0, self.sod_mm]
        return np.concatenate([angles, t], axis=-1)

    @property
    def T_nominal(self) -> np.ndarray:
        """(4, 4) T_lps_to_camera at theta = 0."""
        return self.T_from_theta(np.zeros(6))

    def T_expected(self, camera: Camera) -> np.ndarray:
        """(4, 4) T_lps_to_camera where an object is to be expected in an image: nominal, but in the
        picture."""
        # A crop of a larger detector has its principal point near its border or outside: there the rotation
        # centre is taken to lie on the ray of the image's middle, at the nominal depth.
        theta = np.zeros(6)
        if camera.is_off_centre:
            theta[3:5] = self.sod_mm * camera.middle_ray[:2]
        return self.T_from_theta(theta)

    def _constants_like(self, theta):
        sod = np.array([0.0, 0.0, self.sod_mm])
        constants = (self.rotation, self.centre_lps_mm, sod)
        if isinstance(theta, np.ndarray):
            return constants
        return tuple(theta.new_tensor(constant) for constant in constants)


def theta_as_dict(theta) -> dict[str, float]:
    """theta (6,) in rad and mm as the result.json entry, in deg and mm."""
    values = np.concatenate([np.rad2deg(theta[:3]), theta[3:]])
    return {name: float(value) for name, value in zip(THETA_NAMES, values, strict=True)}


def theta_from_dict(entry: dict[str, float]) -> np.ndarray:
    """Inverse of :func:`theta_as_dict`."""
    values = np.array([float(entry[name]) for name in THETA_NAMES])
    return np.concatenate([np.deg2rad(values[:3]), values[3:]])


# Tilted by more than this against its nominal view, an X-ray shows another one.
_ANOTHER_VIEW = np.cos(np.deg2rad(70.0))


def view_seen(rotation: np.ndarray) -> tuple[str, float]:
    """The nominal view whose central ray is nearest to that of a rotation (3, 3) LPS -> camera, and the
    picture's turn against it, deg, -180 to 180.
    """
    turned = {name: rotation @ nominal_view(name).T for name in NOMINAL_VIEWS}
    name = max(turned, key=lambda one: turned[one][2, 2])
    D = turned[name]
    return name, float(np.rad2deg(np.arctan2(D[1, 0] - D[0, 1], D[0, 0] + D[1, 1])))


def frame_of(frame: PoseFrame, T_lps_to_camera: np.ndarray) -> PoseFrame:
    """The given frame, or that of the named view which a pose shows, if it shows another."""
    if (T_lps_to_camera[:3, :3] @ frame.rotation.T)[2, 2] > _ANOTHER_VIEW:
        return frame
    return PoseFrame(frame.centre_lps_mm, frame.sod_mm, view_seen(T_lps_to_camera[:3, :3])[0])
