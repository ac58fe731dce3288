"""The geometry of an acquisition: one C-arm view or a calibrated set, and where each value came from."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.rays import meeting_point
from SOPIRegistrationLib.geometry.tolerances import EXACTLY_KNOWN, Tolerances
from SOPIRegistrationLib.geometry.views import PoseFrame

# Where a C-arm holds the patient when nothing says so: 700 mm of the 1011.7 mm of the paper's C-arm.
DEFAULT_SOD_FRACTION = 0.7
_NOT_GIVEN = "not given"
_START_POSE = "start pose: depth of the CT's rotation centre"
_CALIBRATION_ORIGIN = "estimated: depth of the calibration's origin"
_RAYS_MEET = "estimated: where the central rays meet"


@dataclass(frozen=True)
class CArmGeometry:
    """Cameras of an acquisition and the nominal place of the patient in them.

    Attributes:
        cameras: one camera, or several sharing one world.
        sod_mm: nominal source-object distance in the first camera, mm; None where nothing gives it.
        view: name of the nominal view, or "angles" where it comes from positioner angles.
        rotation: (3, 3) nominal rotation LPS -> camera where it is not simply that of ``view``.
        mirrored: the stored images run against the camera's x; the cameras are those of the images flipped
            left-right.
        sources: for each value, where it came from, for messages and reports.
    """

    cameras: tuple[Camera, ...]
    sod_mm: float | None = None
    view: str = "AP"
    rotation: np.ndarray | None = None
    mirrored: bool = False
    sources: dict[str, str] = field(default_factory=dict)

    @property
    def camera(self) -> Camera:
        """The first, or only, camera."""
        return self.cameras[0]

    @property
    def tolerances(self) -> Tolerances:
        """How far the intrinsics are to be trusted, of the first camera."""
        return self.camera.tolerances

    def without_tolerances(self) -> CArmGeometry:
        """The same, its intrinsics taken as they are."""
        return replace(
            self, cameras=tuple(replace(camera, tolerances=EXACTLY_KNOWN) for camera in self.cameras)
        )

    def camera_named_in(self, text: str) -> str | None:
        """The camera whose name a file's or node's name holds, of cam1 and cam10 the longer; or None."""
        held = (c.name for c in self.cameras if c.name and c.name.lower() in text.lower())
        return max(held, key=len, default=None)

    def for_camera(self, name: str) -> CArmGeometry:
        """The geometry of one camera of the set; a source-object distance not given is where the rays meet.

        Raises:
            InputError: no camera has this name.
        """
        for camera in self.cameras:
            if camera.name == name:
                break
        else:
            known = ", ".join(camera.name for camera in self.cameras)
            raise InputError(f"no camera is called '{name}': the geometry has {known}")
        alone = replace(self, cameras=(camera,))
        depth = meeting_depth_mm(self.cameras, camera)
        if depth is None or self.sources.get("sod_mm", _NOT_GIVEN) not in (_NOT_GIVEN, _RAYS_MEET):
            return alone
        return replace(alone, sod_mm=depth, sources={**self.sources, "sod_mm": _RAYS_MEET})

    def with_default_sod(self) -> CArmGeometry:
        """The same with a source-object distance wherever one can be had, its source recorded.

        In this order: the given one; in a calibrated set, where the central rays meet; the world's origin in
        a camera calibrated alone, for the calibration object stands where the patient does; 0.7 of the
        source-detector distance. A single camera known by K alone has no scale to take one from: None
        stays.
        """
        if self.sod_mm is not None:
            return self
        sod, source = meeting_depth_mm(self.cameras, self.camera), _RAYS_MEET
        if sod is None and self.camera.T_world_to_camera[2, 3] > 0:
            sod, source = float(self.camera.T_world_to_camera[2, 3]), _CALIBRATION_ORIGIN
        if sod is None and self.camera.sdd_mm is not None:
            sod = DEFAULT_SOD_FRACTION * self.camera.sdd_mm
            source = f"default: {DEFAULT_SOD_FRACTION:g} of the source-detector distance"
        if sod is None:
            return self
        return replace(self, sod_mm=sod, sources={**self.sources, "sod_mm": source})

    def with_sod_of(self, T_lps_to_camera: np.ndarray, centre_lps_mm) -> CArmGeometry:
        """The same; where none is known, with the depth of a centre (LPS, mm) at a pose (4, 4) as
        source-object distance.

        Raises:
            InputError: the centre is not in front of the source.
        """
        if self.with_default_sod().sod_mm is not None:
            return self
        depth = float((T_lps_to_camera @ [*centre_lps_mm, 1.0])[2])
        if depth <= 0:
            raise InputError("it has the CT behind the X-ray source: give another")
        return replace(self, sod_mm=depth, sources={**self.sources, "sod_mm": _START_POSE})

    def pose_frame(self, centre_lps_mm) -> PoseFrame:
        """Frame of theta about a rotation centre (LPS, mm).

        Raises:
            InputError: no source-object distance is known.
        """
        known = self.with_default_sod()
        if known.sod_mm is None:
            raise InputError(
                "the geometry has no source-object distance: add sod_mm to the geometry file, or start from "
                "a result.json"
            )
        return PoseFrame(centre_lps_mm, known.sod_mm, self.view, self.rotation)


def meeting_depth_mm(cameras, camera: Camera) -> float | None:
    """Depth in ``camera`` of the point nearest to all image-centre rays, mm; None if they do not meet."""
    meeting = meeting_point(cameras, [other.middle_px for other in cameras])
    if meeting is None:
        return None
    depth = float(se3.transform_points(camera.T_world_to_camera, meeting.point)[2])
    return depth if depth > 0 else None
