"""Figures of merit of poses, images and series of registrations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from scipy.ndimage import gaussian_filter

from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.camera import Camera

FAILURE_ROTATION_DEG = 3.0
FAILURE_TRANSLATION_MM = 3.0
SUCCESS_MTRE_MM = 10.0
RIGHT_IN_PLANE_MM, RIGHT_ROTATION_DEG = 2.0, 3.0

# Wang et al. 2004: an 11x11 Gaussian window of 1.5 pixels, K1 and K2.
_SSIM_RADIUS, _SSIM_SIGMA_PX, _SSIM_K1, _SSIM_K2 = 5, 1.5, 0.01, 0.03


@dataclass(frozen=True)
class PoseError:
    """How far an estimated pose is from the true one.

    Attributes:
        rotation_deg: geodesic distance on SO(3), the angle of ``R_true^T R_estimate``, deg.
        translation_mm: distance of the rotation centre's two positions in the camera frame, mm.
        in_plane_mm: its part across the central ray (camera x, y), mm.
        depth_mm: its part along the central ray (camera z), unsigned, mm.
        mtre_mm: mean target registration error, the mean distance of the points' two positions, mm (van
            de Kraats et al., *Standardized evaluation methodology for 2-D-3-D registration*, IEEE TMI 24(9),
            2005).
        mpd_detector_mm: mean projection distance, the mean distance of the points' two projections, mm on the
            detector (ibid.); None for a camera whose source-detector distance is not known.
        mpd_object_mm: the same with each distance divided by its point's magnification, mm at the object.
    """

    rotation_deg: float
    translation_mm: float
    in_plane_mm: float
    depth_mm: float
    mtre_mm: float
    mpd_detector_mm: float | None
    mpd_object_mm: float

    @property
    def right(self) -> bool:
        """Within 2 mm in the plane, at the object, and 3 deg."""
        # Depth, which one view hardly fixes, is judged by its predicted error.
        return self.in_plane_mm <= RIGHT_IN_PLANE_MM and self.rotation_deg <= RIGHT_ROTATION_DEG

    @property
    def failed(self) -> bool:
        """Rotation above 3 deg or translation above 3 mm (the SOPI paper's failure rate)."""
        return self.rotation_deg > FAILURE_ROTATION_DEG or self.translation_mm > FAILURE_TRANSLATION_MM

    @property
    def succeeded(self) -> bool:
        """mTRE of at most 10 mm (the success rate of ProST and its successors)."""
        return self.mtre_mm <= SUCCESS_MTRE_MM


def pose_error(
    T_estimate: np.ndarray,
    T_truth: np.ndarray,
    points_lps_mm: np.ndarray,
    centre_lps_mm: np.ndarray,
    camera: Camera,
    true_camera: Camera | None = None,
) -> PoseError:
    """Compare two poses T_lps_to_camera.

    Args:
        T_estimate: (4, 4) pose to judge, mm.
        T_truth: (4, 4) true pose, mm.
        points_lps_mm: (n, 3) points of the bone surface, in front of the camera in both poses, mm.
        centre_lps_mm: (3,) rotation centre, mm.
        camera: of the view whose frame the poses lead to; of the estimated pose.
        true_camera: of the true pose, where its intrinsics are others.
    """
    true_camera = true_camera or camera
    shift = se3.transform_points(T_estimate, centre_lps_mm) - se3.transform_points(T_truth, centre_lps_mm)
    estimated, true = (se3.transform_points(T, points_lps_mm) for T in (T_estimate, T_truth))
    distance_px = camera.project(estimated) - true_camera.project(true)
    at_depth_one = distance_px @ true_camera.K_inverse[:2, :2].T
    sdd = true_camera.sdd_mm
    return PoseError(
        rotation_deg=float(np.rad2deg(se3.rotation_distance(T_truth[:3, :3], T_estimate[:3, :3]))),
        translation_mm=float(np.linalg.norm(shift)),
        in_plane_mm=float(np.linalg.norm(shift[:2])),
        depth_mm=float(abs(shift[2])),
        mtre_mm=_mean_length(estimated - true),
        mpd_detector_mm=None if sdd is None else _mean_length(at_depth_one * sdd),
        mpd_object_mm=_mean_length(at_depth_one * true[:, 2:]),
    )


def _mean_length(vectors: np.ndarray) -> float:
    return float(np.linalg.norm(vectors, axis=-1).mean())


@dataclass(frozen=True)
class StructuralSimilarity:
    """SSIM and its contrast-structure part (CSS), the factor that a change of brightness leaves alone."""

    ssim: float
    contrast_structure: float


def structural_similarity(
    image: np.ndarray,
    reference: np.ndarray,
    mask: np.ndarray | None = None,
    data_range: float | None = None,
) -> StructuralSimilarity:
    """Mean structural similarity index, ``SSIM = l c s``, and the mean of ``c s``.

    Wang et al., *Image quality assessment: from error visibility to structural similarity*, IEEE TIP 13(4),
    2004, Eq. 13: Gaussian 11x11 windows of 1.5 pixels, K1 = 0.01, K2 = 0.03; windows that reach over the
    border are left out.

    Args:
        image: (rows, columns), at least 11 x 11.
        reference: (rows, columns) on the same intensity scale.
        mask: (rows, columns) bool, the windows' centres to average over; None takes all.
        data_range: range L of the intensities; that of ``reference`` unless given.
    """
    a, b = np.asarray(image, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if data_range is None:
        data_range = np.ptp(b)

    def local_mean(values):
        return gaussian_filter(values, _SSIM_SIGMA_PX, radius=_SSIM_RADIUS)

    mean_a, mean_b = local_mean(a), local_mean(b)
    variances = local_mean(a * a) - mean_a**2 + local_mean(b * b) - mean_b**2
    covariance = local_mean(a * b) - mean_a * mean_b
    c1, c2 = (_SSIM_K1 * data_range) ** 2, (_SSIM_K2 * data_range) ** 2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    contrast_structure = (2 * covariance + c2) / (variances + c2)

    inside = np.zeros(a.shape, dtype=bool)
    inside[_SSIM_RADIUS:-_SSIM_RADIUS, _SSIM_RADIUS:-_SSIM_RADIUS] = True
    if mask is not None:
        inside &= np.asarray(mask, dtype=bool)
    return StructuralSimilarity(
        float((luminance * contrast_structure)[inside].mean()), float(contrast_structure[inside].mean())
    )


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """(low, high) of a rate of ``trials`` > 0 (Wilson, *Probable inference*, JASA 22, 1927; the score
    interval)."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    rate = successes / trials
    centre = rate + z**2 / (2 * trials)
    half = z * np.sqrt(rate * (1 - rate) / trials + z**2 / (4 * trials**2))
    scale = 1 + z**2 / trials
    return max(0.0, float((centre - half) / scale)), min(1.0, float((centre + half) / scale))


def median_interval(values: np.ndarray, **options: float) -> tuple[float, float]:
    """Confidence interval of a median; arguments as for :func:`bootstrap_interval`."""
    return bootstrap_interval(values, np.median, **options)


def mean_interval(values: np.ndarray, **options: float) -> tuple[float, float]:
    """Confidence interval of a mean; arguments as for :func:`bootstrap_interval`."""
    return bootstrap_interval(values, np.mean, **options)


def bootstrap_interval(
    values: np.ndarray,
    statistic: Callable[..., np.ndarray],
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """(low, high) of a statistic of samples (n,), as ``np.median`` along an axis, by the percentile bootstrap
    (Efron and Tibshirani 1993, ch. 13).
    """
    values = np.asarray(values, dtype=np.float64)
    drawn = np.random.default_rng(seed).integers(len(values), size=(resamples, len(values)))
    tail = (1 - confidence) / 2
    low, high = np.quantile(statistic(values[drawn], axis=1), [tail, 1 - tail])
    return float(low), float(high)
