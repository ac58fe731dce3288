"""The C-arm as a pinhole camera: intrinsics, extrinsics, and what resampling does to them.

Camera frame: origin at the X-ray source, +z along the central ray to the detector, +x along
increasing column u, +y along increasing row v; the centre of the first pixel is (0, 0) (Hartley and
Zisserman, *Multiple View Geometry*, ch. 6; OpenCV).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from SOPIRegistrationLib.geometry.rigidity import nearest_rigid
from SOPIRegistrationLib.geometry.se3 import invert_rigid, rigid
from SOPIRegistrationLib.geometry.tolerances import EXACTLY_KNOWN, Tolerances

# From a frame with y up that looks along -z (JointTrack's, a slice view's) to a camera's; its own inverse.
T_Y_UP_TO_CAMERA = np.diag([1.0, -1.0, -1.0, 1.0])


def looking_from(source: np.ndarray, forward: np.ndarray, up: np.ndarray) -> np.ndarray:
    """(4, 4) T_world_to_camera of a source (3,) that looks along one vector (3,), the image's upward
    direction nearest to another; of any length, not along each other."""
    right = np.cross(forward, up)
    z, x = forward / np.linalg.norm(forward), right / np.linalg.norm(right)
    R = np.stack([x, np.cross(z, x), z])
    return rigid(R, -R @ source)


@dataclass(frozen=True)
class Camera:
    """One calibrated X-ray view.

    Attributes:
        K: (3, 3) intrinsics, pixels.
        width, height: image size, pixels (columns, rows).
        sdd_mm: source-detector distance, mm. Fixes where the detector plane stands in a scene; projections
            depend on K alone. From a calibration without it, a detector pitch is not known: None.
        T_world_to_camera: (4, 4) extrinsics, mm; the identity for a single C-arm, whose camera is the world.
        name: label of the view.
        distortion: (5,) k1, k2, p1, p2, k3 of the picture as stored, OpenCV's model; None for none. An X-ray
            is undistorted where it is opened, everything else uses K alone.
        tolerances: how far K is to be trusted.
    """

    K: np.ndarray
    width: int
    height: int
    sdd_mm: float | None = None
    T_world_to_camera: np.ndarray = field(default_factory=lambda: np.eye(4))
    name: str = ""
    distortion: np.ndarray | None = None
    tolerances: Tolerances = EXACTLY_KNOWN

    def __post_init__(self):
        object.__setattr__(self, "K", _checked_K(self.K))
        object.__setattr__(self, "T_world_to_camera", _checked_pose(self.T_world_to_camera))
        if self.width < 1 or self.height < 1:
            raise ValueError("image width and height must be positive")
        if self.distortion is not None:
            distortion = np.asarray(self.distortion, dtype=np.float64)
            if distortion.shape != (5,) or not np.isfinite(distortion).all():
                raise ValueError("distortion must be five finite numbers [k1, k2, p1, p2, k3]")
            object.__setattr__(self, "distortion", distortion if distortion.any() else None)

    @classmethod
    def from_c_arm(
        cls,
        sdd_mm: float,
        pixel_spacing_mm: tuple[float, float],
        width: int,
        height: int,
        principal_point_px: tuple[float, float] | None = None,
        name: str = "",
    ) -> Camera:
        """Flat detector perpendicular to the central ray.

        Args:
            sdd_mm: source-detector distance, mm.
            pixel_spacing_mm: detector pitch, mm, as in DICOM: (row spacing along v, column spacing along u).
            width: columns.
            height: rows.
            principal_point_px: (u, v), pixels; the detector's centre unless given.
            name: label of the view.

        Raises:
            ValueError: a distance or spacing is not positive.
        """
        pitch_y, pitch_x = (float(pitch) for pitch in pixel_spacing_mm)
        if not sdd_mm > 0:
            raise ValueError(f"source-detector distance must be positive, not {sdd_mm} mm")
        if not (pitch_x > 0 and pitch_y > 0):
            raise ValueError(f"pixel spacing must be positive, not {pitch_y} x {pitch_x} mm")
        centre = (width - 1) / 2, (height - 1) / 2
        u, v = centre if principal_point_px is None else principal_point_px
        K = [[sdd_mm / pitch_x, 0, u], [0, sdd_mm / pitch_y, v], [0, 0, 1]]
        return cls(np.array(K), width, height, float(sdd_mm), name=name)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.height, self.width

    @property
    def pixel_spacing_mm(self) -> tuple[float, float] | None:
        """Detector pitch (row, column), mm; None where the source-detector distance is not known."""
        if self.sdd_mm is None:
            return None
        return self.sdd_mm / self.K[1, 1], self.sdd_mm / self.K[0, 0]

    @property
    def source_world_mm(self) -> np.ndarray:
        """(3,) where the X-ray source stands in the world, mm."""
        return invert_rigid(self.T_world_to_camera)[:3, 3]

    @property
    def K_inverse(self) -> np.ndarray:
        """(3, 3): pixel (u, v, 1) to the ray point at depth one."""
        return np.linalg.inv(self.K)

    @property
    def middle_px(self) -> np.ndarray:
        """(2,) the image's middle (u, v)."""
        return np.array([self.width - 1, self.height - 1]) / 2

    @property
    def middle_ray(self) -> np.ndarray:
        """(3,) ray of the image's middle, at depth one."""
        return self.K_inverse @ [*self.middle_px, 1.0]

    @property
    def is_off_centre(self) -> bool:
        """Whether the principal point lies outside the middle half of the image, as in a crop."""
        off = np.abs(self.K[:2, 2] - self.middle_px)
        return bool((off > [self.width / 4, self.height / 4]).any())

    def project(self, points_camera) -> np.ndarray:
        """Pixels (..., 2) of points (..., 3) in the camera frame, mm."""
        points = np.asarray(points_camera, dtype=np.float64)
        homogeneous = points @ self.K.T
        return homogeneous[..., :2] / homogeneous[..., 2:]

    def unit_rays(self) -> np.ndarray:
        """(rows, columns, 3) unit directions of every pixel's ray in the camera frame."""
        u, v = np.meshgrid(np.arange(self.width), np.arange(self.height))
        rays = np.stack([u, v, np.ones_like(u)], axis=-1) @ self.K_inverse.T
        return rays / np.linalg.norm(rays, axis=-1, keepdims=True)

    def mirrored(self) -> Camera:
        """The camera of the image with its columns in reverse order, of a scene mirrored likewise."""
        K = self.K.copy()
        K[0, 1], K[0, 2] = -K[0, 1], self.width - 1 - K[0, 2]
        distortion = None if self.distortion is None else self.distortion * [1, 1, 1, -1, 1]
        return replace(self, K=K, distortion=distortion)

    def as_world(self) -> Camera:
        """The same camera where its own frame is the world."""
        return replace(self, T_world_to_camera=np.eye(4))

    def cropped(self, column: int, row: int, width: int, height: int) -> Camera:
        """The camera of the sub-image that starts at (column, row)."""
        shift = np.array([[1.0, 0, -column], [0, 1, -row], [0, 0, 1]])
        return replace(self, K=shift @ self.K, width=width, height=height)

    def resampled(self, width: int, height: int) -> Camera:
        """The camera of the same field of view with another number of pixels.

        Pixel areas, not centres, are kept: u' = (u + 1/2) width'/width - 1/2.
        """
        sx, sy = width / self.width, height / self.height
        scale = np.array([[sx, 0, (sx - 1) / 2], [0, sy, (sy - 1) / 2], [0, 0, 1]])
        tolerances = self.tolerances.in_pixels_of(1 / sx)
        return replace(self, K=scale @ self.K, width=width, height=height, tolerances=tolerances)


def _checked_K(K) -> np.ndarray:
    """(3, 3) intrinsics with a last entry of one."""
    K = np.asarray(K, dtype=np.float64)
    if K.shape != (3, 3) or not np.isfinite(K).all():
        raise ValueError("K must be a finite 3x3 matrix in pixels")
    if K[2, 2] == 0 or K[1, 0] or K[2, 0] or K[2, 1]:
        raise ValueError("K must be [[fx, skew, cu], [0, fy, cv], [0, 0, 1]] in pixels")
    K = K / K[2, 2]
    if not (K[0, 0] > 0 and K[1, 1] > 0):
        raise ValueError(
            "K must have positive focal lengths fx and fy: columns are counted to the right, rows down, "
            "and a camera looks along +z (give R and t of such axes, too)"
        )
    return K


def _checked_pose(T) -> np.ndarray:
    """(4, 4) extrinsics whose rotation is one to the last digit."""
    T = np.array(T, dtype=np.float64)
    if T.shape != (4, 4) or not np.isfinite(T).all():
        raise ValueError("T_world_to_camera must be a finite 4x4 matrix in mm")
    nearest = nearest_rigid(T)
    if nearest is None:
        raise ValueError("the camera's R must be a rotation (orthonormal, determinant +1)")
    return nearest
