"""What the content of a result.json says of one body, or of several."""

from __future__ import annotations

import numpy as np

from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.files import geometry_from_dict
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


def estimated_cameras(result: dict) -> dict[str, Camera]:
    """The cameras that were estimated with the pose, by their names."""
    if not result.get("intrinsics"):
        return {}
    geometry = geometry_from_dict(result["geometry"], "the geometry of a registration")
    return {camera.name: camera for camera in geometry.cameras}


def estimated_lines(result: dict) -> list[str]:
    """What was estimated of the C-arm, what is stated, whether the images fixed it; a line a value."""
    lines = []
    for one in result.get("intrinsics") or ():
        camera = f"{one['camera']}: " if one["camera"] else ""
        for name, (value, stated, left, unit, by) in _estimates(one).items():
            if left:
                fixed = "fixed by the image" if by else "the image does not fix it"
                lines.append(f"{camera}{name} {value} ± {left:.2g} {unit} (stated {stated}), {fixed}")
    return lines


def _estimates(one: dict):
    """By name: (value, stated value, what remains open, its unit, whether the image fixed it)."""
    given, fixed = one["given"], one["fixed_by_image"]
    focal = fixed.get("focal_length", False)
    found = {}
    if one["sdd_mm"] is not None:
        values = (f"{entry['sdd_mm']:.1f}" for entry in (one, given))
        found["source-detector distance"] = (*values, one["sdd_sd_mm"], "mm", focal)
    if one["pixel_spacing_mm"] is not None:
        values = (" x ".join(f"{mm:.4f}" for mm in entry["pixel_spacing_mm"]) for entry in (one, given))
        found["pixel spacing"] = (*values, one["pixel_spacing_sd_percent"], "%", focal)
    values = (", ".join(f"{px:.1f}" for px in entry["principal_point_px"]) for entry in (one, given))
    both = all(fixed.get(f"principal_point_{axis}", False) for axis in "uv")
    found["principal point"] = (*values, one["principal_point_sd_px"], "px", both)
    return found


def status_of(result: dict) -> str:
    """The severest of its verdicts."""
    return max((verdict["status"] for verdict in verdicts_of(result).values()), key=SEVERITY.index)
