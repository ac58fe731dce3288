"""A CT whose bodies have moved against each other."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np

from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.images.resampling import looked_up
from SOPIRegistrationLib.images.volume import Volume
from SOPIRegistrationLib.subject.bodies import Bodies

# Each turn and shift of a body against the one below, and the largest turn of all together.
_TURN_DEG, _SHIFT_MM, _TURN_IN_ALL_DEG = 6.0, 3.0, 12.0


def bent_poses(
    centres_lps_mm: np.ndarray,
    rng: np.random.Generator,
    turn_deg: float = _TURN_DEG,
    shift_mm: float = _SHIFT_MM,
) -> np.ndarray:
    """(N, 4, 4) motions, LPS to LPS, of a chain's bodies, each turned and shifted against the one before.

    Args:
        centres_lps_mm: (N, 3) the bodies' centres, from the one that stays.
        rng: of everything drawn.
        turn_deg: each is turned by up to so much, about any axis; by 12 deg at most in all.
        shift_mm: and shifted by up to so much, in any direction.
    """
    T, moved = [np.eye(4)], np.eye(4)
    for before, centre in pairwise(centres_lps_mm):
        # It turns about the middle between the two, as at a disc.
        hinge = (before + centre) / 2
        while True:
            axis, way = rng.normal(size=(2, 3))
            twist = np.concatenate(
                [
                    np.deg2rad(rng.uniform(0, turn_deg)) * axis / np.linalg.norm(axis),
                    rng.uniform(0, shift_mm) * way / np.linalg.norm(way),
                ]
            )
            after = moved @ se3.move_about(np.eye(4), twist, hinge)
            if np.rad2deg(se3.rotation_distance(np.eye(3), after[:3, :3])) <= _TURN_IN_ALL_DEG:
                break
        moved = after
        T.append(moved)
    return np.array(T)


def bent(bodies: Bodies, motions: Mapping[str, np.ndarray]) -> Volume:
    """Attenuation of a CT whose bodies have moved; where two overlap, the larger one counts.

    Args:
        bodies: parts of one CT and its rest; without a rest, in air.
        motions: (4, 4) LPS to LPS by name; who is not named stays.
    """
    grid = bodies.whole.ct.attenuation
    rest = bodies.rest
    surroundings = np.zeros_like(grid.array) if rest is None else rest.subject.ct.attenuation.array
    most = np.zeros_like(grid.array)
    for body in bodies.bodies:
        part = body.subject.ct.attenuation
        back = se3.invert_rigid(motions.get(body.name, np.eye(4)))
        moved = looked_up(part, back @ grid.index_to_lps, grid.array.shape, order=1)
        most = np.where(np.abs(moved) > np.abs(most), moved, most)
    return grid.same_grid(np.maximum(surroundings + most, 0).astype(np.float32))
