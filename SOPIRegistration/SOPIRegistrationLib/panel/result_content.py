"""What the content of a result.json says of one body, or of several."""

from __future__ import annotations

import numpy as np

from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.registration.prepared import Placement
from SOPIRegistrationLib.registration.result import SEVERITY


def placement_of(result: dict, T_world_to_camera: np.ndarray) -> Placement:
    """Where a registration left the bodies: those of several under what moved as one piece first.

    Args:
        result: the content of its result.json.
        T_world_to_camera: (4, 4) extrinsics of the camera that looks at them.
    """
    bodies = result.get("bodies") or []
    piece = bodies[0]["initial_pose"] if bodies else result["pose"]
    T_piece = np.array(piece["T_lps_to_world"])
    relative = {
        one["name"]: se3.invert_rigid(T_piece) @ np.array(one["pose"]["T_lps_to_world"]) for one in bodies
    }
    return Placement(T_world_to_camera @ T_piece, relative)


def verdicts_of(result: dict) -> dict[str, dict]:
    """The verdict on each body by its name; of one body, which has none, by an empty one."""
    bodies = result.get("bodies") or []
    return {one["name"]: one["verdict"] for one in bodies} or {"": result["verdict"]}


def status_of(result: dict) -> str:
    """The severest of its verdicts."""
    return max((verdict["status"] for verdict in verdicts_of(result).values()), key=SEVERITY.index)
