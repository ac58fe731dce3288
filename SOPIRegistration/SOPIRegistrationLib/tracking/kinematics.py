"""Joint angles: anatomical axes of two bodies, and how one moves against the other."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.rigidity import is_rotation
from SOPIRegistrationLib.tracking.track import Track

SIDES = ("left", "right")
GROOD_SUNTAY = "grood-suntay"
_SEQUENCES = ("XYZ", "XZY", "YXZ", "YZX", "ZXY", "ZYX")
_LEAST_LENGTH_MM = 1.0


def axes_from_landmarks(
    medial: np.ndarray,
    lateral: np.ndarray,
    side: str,
    proximal: np.ndarray | None = None,
    distal: np.ndarray | None = None,
) -> np.ndarray:
    """Anatomical axes of a long bone: x to the patient's right, y to the front, z proximally.

    These are the axes of Grood and Suntay (*A joint coordinate system for the clinical description of
    three-dimensional motions*, 1983) for both bones. The origin lies midway between the medial and the
    lateral point; z runs along the bone, x is what of the line between these points is perpendicular to z.

    Args:
        medial: (3,) LPS mm, at the joint: epicondyle or edge of the plateau.
        lateral: (3,) the same on the other side.
        side: "left" or "right": which side lateral is on.
        proximal: (3,) a point of the bone's axis further up, such as the centre of the hip.
        distal: (3,) or one further down, such as the centre of the ankle; one of both.

    Returns:
        (4, 4) T_axes_to_lps, mm.

    Raises:
        InputError: another side, neither or both of proximal and distal, or points on one line.
    """
    if side not in SIDES:
        raise InputError(f"the side is '{side}': give left or right")
    if (proximal is None) == (distal is None):
        raise InputError("anatomical axes need a proximal or a distal point of the bone's axis, one of both")
    medial, lateral = np.asarray(medial, float), np.asarray(lateral, float)
    origin = (medial + lateral) / 2
    z = np.asarray(proximal, float) - origin if distal is None else origin - np.asarray(distal, float)
    across = lateral - medial if side == "right" else medial - lateral
    length = np.linalg.norm(z)
    z = z / max(length, 1e-12)
    x = across - across @ z * z
    if length < _LEAST_LENGTH_MM or np.linalg.norm(x) < _LEAST_LENGTH_MM:
        raise InputError(
            "the landmarks of the anatomical axes lie on one line or on one point: place them again"
        )
    x = x / np.linalg.norm(x)
    T = np.eye(4)
    T[:3, :3] = np.stack([x, np.cross(z, x), z], axis=-1)
    T[:3, 3] = origin
    return T


def grood_suntay(T_distal_to_proximal: np.ndarray, side: str) -> dict[str, float]:
    """Angles and translations of a knee.

    Grood and Suntay 1983: e1 the femur's x axis, e3 the tibia's z axis, e2 = e3 x e1 the floating axis
    between. The translations are those of the tibia's origin from the femur's along these axes.

    Args:
        T_distal_to_proximal: (4, 4) pose of the tibia's anatomical axes in the femur's, mm; both as in
            :func:`axes_from_landmarks`.
        side: "left" or "right".

    Returns:
        ``flexion_deg``, ``adduction_deg`` (varus), ``external_rotation_deg`` of the tibia; its
        ``lateral_mm`` and ``anterior_mm`` shift and ``distraction_mm``; each positive for what its name
        says, on either side.
    """
    if side not in SIDES:
        raise InputError(f"the side is '{side}': give left or right")
    R, shift = T_distal_to_proximal[:3, :3], T_distal_to_proximal[:3, 3]
    to_lateral = 1.0 if side == "right" else -1.0
    e1, e3, tibia_x, tibia_y = np.array([1.0, 0, 0]), R[:, 2], R[:, 0], R[:, 1]
    e2 = np.cross(e3, e1)
    e2 = e2 / np.linalg.norm(e2)
    # e2 points forward: y of the femur turned about its x by minus the flexion.
    flexion = np.arctan2(-e2[2], e2[1])
    # Between e1 and e3, 90 deg where the leg is straight; less where a right tibia's foot goes to the left.
    beta = np.arccos(np.clip(e1 @ e3, -1, 1))
    adduction = to_lateral * (np.pi / 2 - beta)
    external = to_lateral * np.arctan2(-e2 @ tibia_x, e2 @ tibia_y)
    return {
        "flexion_deg": float(np.rad2deg(flexion)),
        "adduction_deg": float(np.rad2deg(adduction)),
        "external_rotation_deg": float(np.rad2deg(external)),
        "lateral_mm": float(to_lateral * (shift @ e1)),
        "anterior_mm": float(shift @ e2),
        "distraction_mm": float(-shift @ e3),
    }


def cardan_angles(T_distal_to_proximal: np.ndarray, sequence: str = "ZXY") -> dict[str, float]:
    """Cardan angles (ISB: Wu 2002, 2005) of the distal axes in the proximal ones, (4, 4) mm, each about the
    axis as turned so far: ``AXIS_deg`` in the sequence's order, ``x_mm`` to ``z_mm``; InputError for other
    sequences."""
    if sequence not in _SEQUENCES:
        raise InputError(f"Cardan sequence '{sequence}' is unknown: use one of {', '.join(_SEQUENCES)}")
    angles = Rotation.from_matrix(T_distal_to_proximal[:3, :3]).as_euler(sequence, degrees=True)
    named = {f"{axis.lower()}_deg": float(angle) for axis, angle in zip(sequence, angles, strict=True)}
    place = T_distal_to_proximal[:3, 3]
    return named | {f"{axis}_mm": float(value) for axis, value in zip("xyz", place, strict=True)}


@dataclass(frozen=True)
class Joint:
    """Two bodies and how their motion is told.

    Attributes:
        proximal: name of the body that stands still in the table.
        distal: name of the body that moves.
        side: "left" or "right".
        convention: "grood-suntay", or the sequence of Cardan angles.
        T_proximal_axes: (4, 4) T_axes_to_lps of the proximal body, mm.
        T_distal_axes: (4, 4) the same of the distal one.
    """

    proximal: str
    distal: str
    side: str
    convention: str
    T_proximal_axes: np.ndarray
    T_distal_axes: np.ndarray

    def values(self, T_proximal: np.ndarray, T_distal: np.ndarray) -> dict[str, float]:
        """Angles and translations at poses (4, 4) T_lps_to_world of both bodies."""
        T = se3.invert_rigid(T_proximal @ self.T_proximal_axes) @ T_distal @ self.T_distal_axes
        if self.convention == GROOD_SUNTAY:
            return grood_suntay(T, self.side)
        return cardan_angles(T, self.convention)


def read_joint(path: Path, bodies: Sequence[str]) -> Joint:
    """A joint from a JSON file.

    ``{"proximal": BODY, "distal": BODY, "side": "left" | "right", "convention": "grood-suntay" | "ZXY"...,
    "axes": {BODY: {"matrix": 4x4, axes to LPS}
    | {"medial": [L, P, S], "lateral": [...], "proximal" | "distal": [...]}}}``;
    points in LPS, mm, of the body's CT.

    Args:
        path: the file.
        bodies: names that there are.

    Raises:
        InputError: unreadable, another body, or axes that are not whole.
    """
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
        names, side = (entry["proximal"], entry["distal"]), entry["side"]
        axes = [_axes(entry["axes"][name], side) for name in names]
        convention = entry.get("convention", GROOD_SUNTAY)
    except InputError as error:
        raise InputError(f"joint {path}: {error}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"joint {path} is not one ({error}): give proximal, distal, side and axes") from None
    for name in names:
        if name not in bodies:
            raise InputError(f"joint {path}: no body is called {name}: there are {', '.join(bodies)}")
    if convention != GROOD_SUNTAY and convention not in _SEQUENCES:
        raise InputError(f"joint {path}: convention '{convention}' is unknown: use {GROOD_SUNTAY} or ZXY ...")
    return Joint(*names, side, convention, *axes)


def _axes(entry: Mapping, side: str) -> np.ndarray:
    if "matrix" not in entry:
        points = {name: np.array(value, dtype=np.float64).reshape(3) for name, value in entry.items()}
        return axes_from_landmarks(side=side, **points)
    T = np.array(entry["matrix"], dtype=np.float64)
    if T.shape != (4, 4) or not is_rotation(T[:3, :3]):
        raise InputError("a matrix of axes must be a rigid, right-handed 4x4 one, axes to LPS in mm")
    return T


def joint_values(joint: Joint, tracks: Sequence[Track]) -> dict[tuple[int, str], dict[str, float]]:
    """Columns ``joint_*`` by frame and distal body, where both bodies have a pose."""
    named = {track.body: track for track in tracks}
    pairs = zip(named[joint.proximal], named[joint.distal], strict=True)
    return {
        (distal.frame, joint.distal): {
            f"joint_{name}": value for name, value in joint.values(proximal.T, distal.T).items()
        }
        for proximal, distal in pairs
        if proximal.T is not None and distal.T is not None
    }
