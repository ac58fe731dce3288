"""Pose from landmarks picked in the CT and in the X-ray (perspective n-point)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.optimise.least_squares import NormalEquations, levenberg_marquardt

_MIN_PAIRS = 4
# Second over first singular value of centred points, below which they count as lying on a line.
_COLLINEAR = 0.02
# Difference of chi squared (three standard deviations) within which two poses explain the picks equally well.
_INDISTINGUISHABLE = 9.0
# Minima nearer to each other than this are one.
_SAME_MINIMUM_RAD = np.deg2rad(3)
_ITERATIONS = 60


@dataclass(frozen=True)
class LandmarkPose:
    """A pose from landmarks and how well it explains them.

    Attributes:
        T_lps_to_camera: (4, 4) pose, mm.
        residuals_px: (n,) distance of each projected landmark to its pick, pixels.
        rms_px: their root mean square, pixels.
        rms_mm_at_object: the same at the depth of the landmarks, mm.
        ambiguous: whether another pose, turned by more than 3 deg, explains the picks as well: few,
            coplanar or distant landmarks. This one is the nearest to the hint; without one, the best fit.
    """

    T_lps_to_camera: np.ndarray
    residuals_px: np.ndarray
    rms_px: float
    rms_mm_at_object: float
    ambiguous: bool


def pose_from_landmarks(
    points_lps_mm: np.ndarray,
    pixels: np.ndarray,
    camera: Camera,
    *,
    T_hint: np.ndarray | None = None,
    pick_sigma_px: float = 2.0,
) -> LandmarkPose:
    """Pose whose projections of CT landmarks fall nearest to their picks in the X-ray.

    The sum of squared reprojection errors (Hartley and Zisserman, *Multiple View Geometry*, sec. 7.2) is
    minimised by Levenberg-Marquardt from the 60 rotations of the icosahedral group, each with the
    translation of its scaled-orthographic projection (DeMenthon and Davis, *Model-based object pose in 25
    lines of code*, IJCV 15, 1995). So no minimum is missed where a linear start fails: four points, coplanar
    points, objects small against their distance.

    Args:
        points_lps_mm: (n, 3) landmarks in patient LPS, mm; n >= 4.
        pixels: (n, 2) their picks (u, v) in the X-ray, pixels.
        camera: the X-ray's camera.
        T_hint: (4, 4) rough T_lps_to_camera that decides between poses that explain the picks equally well.
        pick_sigma_px: accuracy of a pick, pixels, which says what "equally well" is.

    Raises:
        InputError: fewer than four pairs, repeated or collinear landmarks, or numbers that are not finite.
    """
    points, pixels = _checked_pairs(points_lps_mm, pixels)
    problem = _Reprojection(points, pixels, camera)
    R, t = problem.starts()
    if T_hint is not None:
        T_hint = np.asarray(T_hint, dtype=np.float64)
        hint_R, hint_t = T_hint[None, :3, :3], T_hint[None, :3, 3]
        R, t = np.concatenate([R, hint_R]), np.concatenate([t, hint_t + hint_R @ problem.centroid])
    R, t, cost = problem.minima(R, t, within=_INDISTINGUISHABLE * pick_sigma_px**2)

    best = int(np.argmin(cost if T_hint is None else se3.rotation_distance(R, T_hint[None, :3, :3])))
    T = se3.rigid(R[best], t[best] - R[best] @ problem.centroid)
    in_camera = se3.transform_points(T, points)
    errors_px = camera.project(in_camera) - pixels
    errors_mm = errors_px @ camera.K_inverse[:2, :2].T * in_camera[:, 2:]
    return LandmarkPose(
        T_lps_to_camera=T,
        residuals_px=np.linalg.norm(errors_px, axis=1),
        rms_px=_rms(errors_px),
        rms_mm_at_object=_rms(errors_mm),
        ambiguous=len(cost) > 1,
    )


def _rms(errors: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.sum(errors**2, axis=1))))


def _checked_pairs(points, pixels) -> tuple[np.ndarray, np.ndarray]:
    points = np.asarray(points, dtype=np.float64).reshape(-1, 3)
    pixels = np.asarray(pixels, dtype=np.float64).reshape(-1, 2)
    if len(points) != len(pixels):
        raise InputError(
            f"landmarks: {len(points)} in the CT but {len(pixels)} in the X-ray: pick the same ones in both"
        )
    if len(points) < _MIN_PAIRS:
        raise InputError(f"landmarks: {len(points)} pairs are too few: pick at least {_MIN_PAIRS}")
    if not (np.isfinite(points).all() and np.isfinite(pixels).all()):
        raise InputError("landmarks: a coordinate is not a finite number: pick that landmark again")
    gaps = np.linalg.norm(points[:, None] - points, axis=-1)
    repeated = np.argwhere(np.triu(gaps <= 1e-6 * gaps.max(), k=1))
    if len(repeated):
        first, second = repeated[0] + 1
        raise InputError(f"landmarks: {first} and {second} are the same point of the CT: remove one of them")
    for place, positions in (("CT", points), ("X-ray", pixels)):
        spread = np.linalg.svd(positions - positions.mean(axis=0), compute_uv=False)
        if spread[1] <= _COLLINEAR * spread[0]:
            raise InputError(f"landmarks: in the {place} they lie on one line: add one well off that line")
    return points, pixels


class _Reprojection:
    """Reprojection errors of n landmarks for s poses R (s, 3, 3), t (s, 3): p_camera = R (p - centroid) + t.

    Poses turn about the landmarks' centroid: about the distant camera, turning and shifting look alike.
    """

    def __init__(self, points: np.ndarray, pixels: np.ndarray, camera: Camera):
        self.centroid = points.mean(axis=0)
        self.points = points - self.centroid
        self.pixels = pixels
        self.camera = camera

    def starts(self) -> tuple[np.ndarray, np.ndarray]:
        """Poses all around, at the depth where the landmarks' projection has the size of the picks."""
        R = Rotation.create_group("I").as_matrix()
        rays = np.column_stack([self.pixels, np.ones(len(self.pixels))]) @ self.camera.K_inverse.T
        centre = rays.mean(axis=0)
        seen = np.linalg.norm(rays - centre)
        turned = self.points @ R.swapaxes(-1, -2)
        depth = np.linalg.norm(turned[..., :2], axis=(-2, -1)) / seen
        in_front = 2 * np.linalg.norm(self.points, axis=1).max()
        return R, np.maximum(depth, in_front)[:, None] * centre

    def minima(self, R, t, within: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Distinct minima below the starts, of a cost (pixels^2) at most ``within`` above the least."""
        R, t, cost = self._descend(R, t)
        found = []
        for start in np.argsort(cost):
            if cost[start] > cost.min() + within:
                break
            if self._is_new(R[start], found):
                minimum = self._polish(R[start], t[start])
                if self._is_new(minimum[0], found):
                    found.append(minimum)
        R, t, cost = (np.array(values) for values in zip(*found, strict=True))
        near = cost <= cost.min() + within
        return R[near], t[near], cost[near]

    @staticmethod
    def _is_new(R, found) -> bool:
        return all(se3.rotation_distance(R, known) > _SAME_MINIMUM_RAD for known, *_ in found)

    def _errors(self, R, t) -> tuple[np.ndarray, np.ndarray]:
        """Pixel errors (s, n, 2), and the points in the camera (s, n, 3)."""
        in_camera = self.points @ R.swapaxes(-1, -2) + t[:, None]
        return self.camera.project(in_camera) - self.pixels, in_camera

    def _descend(self, R, t) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Levenberg-Marquardt on every pose at once; no step may take a point behind the camera."""
        # The points turn about their centroid, which is their frame's origin here.
        found = levenberg_marquardt(self._equations, se3.rigid(R, t), np.zeros(3), _ITERATIONS)
        return found.T[:, :3, :3], found.T[:, :3, 3], found.equations.cost

    def _equations(self, T: np.ndarray, _) -> NormalEquations:
        R, t = T[:, :3, :3], T[:, :3, 3]
        errors, in_camera = self._errors(R, t)
        in_front = (in_camera[..., 2] > 0).all(axis=1)
        r, J = errors.reshape(len(T), -1, 1), self._jacobian(in_camera, t)
        cost = np.where(in_front, (r * r).sum(axis=(1, 2)), np.inf)
        return NormalEquations(cost, (J.swapaxes(-1, -2) @ r)[..., 0], J.swapaxes(-1, -2) @ J)

    def _jacobian(self, in_camera, t) -> np.ndarray:
        """(s, 2n, 6) derivatives of the errors by (w, v): R -> exp(w) R, t -> t + v."""
        x, y, z = np.moveaxis(in_camera, -1, 0)
        zero = np.zeros_like(z)
        by_u = np.stack([1 / z, zero, -x / z**2], axis=-1)
        by_v = np.stack([zero, 1 / z, -y / z**2], axis=-1)
        by_shift = self.camera.K[:2, :2] @ np.stack([by_u, by_v], axis=-2)
        by_turn = -by_shift @ se3.skew(in_camera - t[:, None])
        return np.concatenate([by_turn, by_shift], axis=-1).reshape(len(t), -1, 6)

    def _polish(self, R, t) -> tuple[np.ndarray, np.ndarray, float]:
        """One pose to full convergence, and its cost, pixels^2."""

        def errors(twist):
            return self._errors((se3.exp_so3(twist[:3]) @ R)[None], (t + twist[3:])[None])[0].ravel()

        result = least_squares(errors, np.zeros(6), x_scale="jac", xtol=1e-12, ftol=1e-12, gtol=1e-12)
        return se3.exp_so3(result.x[:3]) @ R, t + result.x[3:], 2 * result.cost
