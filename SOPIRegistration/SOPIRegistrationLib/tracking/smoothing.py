"""A smooth track through raw poses, the uncertain ones followed less."""

from __future__ import annotations

import numpy as np
from scipy.linalg import solveh_banded

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.tracking.track import Track

_LEAST_ERROR = 1e-3


def smoothed(track: Track, period_frames: float, T_world_to_camera: np.ndarray) -> dict[int, np.ndarray]:
    """Poses (4, 4) T_lps_to_world of a smoothed track by frame, of those that have a raw one.

    Whittaker's smoother (Eilers, *A perfect smoother*, 2003): sum of w (x - raw)^2 and of lambda times the
    squared second differences, for each component of the rotation vector and the centre's place along the
    first camera's axes; w is the inverse of the squared predicted error, relative to its median. Frames
    without a pose weigh nothing. Where nothing is weighted, an oscillation of the given period keeps half its
    amplitude.

    Args:
        track: raw poses.
        period_frames: shorter oscillations are damped by more than half.
        T_world_to_camera: (4, 4) extrinsics of the first camera.

    Raises:
        InputError: a period of two frames or less.
    """
    if not period_frames > 2:
        raise InputError(f"a smoothing of {period_frames:g} frames does nothing: give more than 2")
    known = {pose.frame: pose for pose in track if pose.T is not None}
    if len(known) < 3:
        return {frame: pose.T for frame, pose in known.items()}
    first, last = min(known), max(known)
    T = T_world_to_camera @ np.stack([pose.T for pose in known.values()])
    rows = np.array(list(known)) - first
    # Rotation vectors from the middle of the way: far from the turn of 180 deg where they jump.
    R_middle = T[len(T) // 2, :3, :3]
    w = se3.log_so3(T[:, :3, :3] @ R_middle.T)
    places = se3.transform_points(T, track.centre_lps_mm)
    raw, weights = np.hstack([w, places]), np.ones((len(T), 6))
    for row, pose in enumerate(known.values()):
        # What the model may be wrong in is the same in every frame.
        verdict = pose.verdict
        mm, deg = verdict.statistical_error_mm, verdict.statistical_error_deg
        if mm is None:
            mm, deg = verdict.predicted_error_mm, verdict.predicted_error_deg
        if mm is not None:
            weights[row, :3] = np.deg2rad(np.maximum(deg, _LEAST_ERROR)) ** -2.0
            weights[row, 3:] = np.maximum(mm, _LEAST_ERROR) ** -2.0
    weights /= np.median(weights, axis=0)
    strength = (2 * np.sin(np.pi / period_frames)) ** -4.0
    smooth = np.stack(
        [_whittaker(last - first + 1, rows, raw[:, k], weights[:, k], strength) for k in range(6)], axis=1
    )[rows]
    R = se3.exp_so3(smooth[:, :3]) @ R_middle
    shift = smooth[:, 3:] - (R @ track.centre_lps_mm)
    T_smooth = se3.invert_rigid(T_world_to_camera) @ se3.rigid(R, shift)
    return dict(zip(known, T_smooth, strict=True))


def _whittaker(count: int, rows: np.ndarray, raw: np.ndarray, weights: np.ndarray, strength: float):
    """(count,) minimiser for values at some of the rows."""
    D = np.diff(np.eye(3), 2, axis=0)[0]
    bands = np.zeros((3, count))
    for offset in range(3):
        for k in range(3 - offset):
            # Second difference i takes the rows i, i + 1 and i + 2.
            bands[2 - offset, k + offset : count - 2 + k + offset] += strength * D[k] * D[k + offset]
    bands[2, rows] += weights
    right = np.zeros(count)
    right[rows] = weights * raw
    return solveh_banded(bands, right)
