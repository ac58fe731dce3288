"""Start poses about other poses."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np

from SOPIRegistrationLib.compare.case import Case, Hypotheses
from SOPIRegistrationLib.compare.target import MultiStart
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.distinct import distinct_poses


def multi_start(case: Case, T_lps_to_world: np.ndarray, plan: MultiStart) -> np.ndarray:
    """(n, 4, 4): a pose and 14 neighbours turned about one axis or all three; 28 more of them shifted."""
    angle = np.deg2rad(plan.turn_deg)
    signs = np.array([s for s in itertools.product((0, -1, 1), repeat=3) if np.count_nonzero(s) != 2])
    few = signs[np.count_nonzero(signs, axis=1) < 2]
    twists = [np.hstack([angle * signs, np.zeros_like(signs)])]
    if plan.shift_mm:
        for direction in (*case.T_world_to_camera[:2, :3], *-case.T_world_to_camera[:2, :3]):
            shifts = np.repeat(plan.shift_mm * direction[None], len(few), axis=0)
            twists.append(np.hstack([angle * few, shifts]))
    twists = np.concatenate(twists)
    return se3.move_about(np.repeat(T_lps_to_world[None], len(twists), axis=0), twists, case.centre_lps_mm)


def with_starts_around(
    hypotheses: Hypotheses, plan: MultiStart, T_also: np.ndarray | None = None
) -> Hypotheses:
    """The hypotheses with views around the first of them, and around another pose (4, 4) if there is one."""
    case = hypotheses.comparison.case
    centres = [hypotheses.T[0], *([] if T_also is None else [T_also])]
    T = np.concatenate([*(multi_start(case, T, plan) for T in centres), hypotheses.T[1:]])
    T = T[distinct_poses(T, case.centre_lps_mm, np.deg2rad(4), 4.0, 25.0, len(T))]
    return replace(hypotheses, T=T, cost=np.full(len(T), np.inf))
