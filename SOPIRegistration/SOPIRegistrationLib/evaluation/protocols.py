"""Where evaluated registrations start and where their targets lie."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.prepared_ct import PreparedCT
from SOPIRegistrationLib.simulation.demo import PAPER_VARIANCE

# The same numbers, read as standard deviations: rx, ry, rz (deg), tx, ty, tz (mm).
WIDE_DEVIATION = PAPER_VARIANCE
# As far off as a pose network leaves a pose once it is aligned: a coarse-to-fine refinement's fine levels.
NEAR_DEVIATION = np.array([1.5, 1.5, 1.5, 1.5, 1.5, 5.0])
# Seen from behind in place of the front: half a turn about the image's vertical axis.
_BEHIND = np.diag([-1.0, 1.0, -1.0])


def draw_theta(rng: np.random.Generator, deviation: np.ndarray) -> np.ndarray:
    """(6,) normal pose parameters, rad and mm, of deviations in deg and mm."""
    theta = rng.normal(size=6) * deviation
    theta[:3] = np.deg2rad(theta[:3])
    return theta


@dataclass(frozen=True)
class DrawnPoses:
    """Where an X-ray is taken from, how it is stored, and where a registration of it starts.

    Attributes:
        T_true: (4, 4) T_lps_to_camera of the picture as seen from the source, mm.
        T_start: (4, 4) T_lps_to_camera, mm.
        mirrored: whether the picture is stored with its columns in reverse.
        behind: whether it is taken from the side opposite to the nominal view's.
        roll_deg: turn of the camera about the central ray, from the nominal view's, besides that of theta.
        along_mm: how far along the scan its middle lies from the CT's rotation centre.
    """

    T_true: np.ndarray
    T_start: np.ndarray
    mirrored: bool = False
    behind: bool = False
    roll_deg: float = 0.0
    along_mm: float = 0.0


@dataclass(frozen=True)
class Protocol:
    """How poses are drawn.

    The SOPI paper writes N(0, 20), N(0, 100), N(0, 30), N(0, 15) and does not say whether the second number
    is a variance: both readings are protocols.

    Attributes:
        name: as on the command line.
        summary: one line for reports.
        deviation: (6,) standard deviations of rx, ry, rz (deg), tx, ty, tz (mm).
        start_drawn: whether the start is drawn as well; otherwise it is the nominal view.
    """

    name: str
    summary: str
    deviation: np.ndarray
    start_drawn: bool

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Pose parameters (6,) of a target and of a start, rad and mm."""
        true = draw_theta(rng, self.deviation)
        start = draw_theta(rng, self.deviation) if self.start_drawn else np.zeros(6)
        return true, start

    def draw_poses(
        self, rng: np.random.Generator, frame: PoseFrame, ct: PreparedCT, camera: Camera
    ) -> DrawnPoses:
        """Poses of one case, of a CT in a camera, about the frame that the registration is told."""
        theta_true, theta_start = self.draw(rng)
        return DrawnPoses(frame.T_from_theta(theta_true), frame.T_from_theta(theta_start))


@dataclass(frozen=True)
class NearProtocol(Protocol):
    """A target as another protocol draws it, and a start near it.

    Attributes:
        start_deviation: (6,) standard deviations of the start from the target: twist about the rotation
            centre, camera axes, deg and mm.
    """

    start_deviation: np.ndarray = field(default_factory=lambda: NEAR_DEVIATION)

    def draw_poses(self, rng, frame, ct, camera) -> DrawnPoses:
        T_true = frame.T_from_theta(draw_theta(rng, self.deviation))
        twist = self.start_deviation * rng.standard_normal(6)
        twist[:3] = np.deg2rad(twist[:3])
        return DrawnPoses(T_true, se3.move_about(T_true, twist, frame.centre_lps_mm))


@dataclass(frozen=True)
class AroundProtocol(Protocol):
    """Targets about the nominal view, which is the start: in any direction, uniform in how far.

    Attributes:
        angle_deg: largest turn.
        shift_mm: largest shift of the rotation centre.
    """

    angle_deg: float = 30.0
    shift_mm: float = 20.0

    def draw_poses(self, rng, frame, ct, camera) -> DrawnPoses:
        directions = rng.normal(size=(2, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        sizes = rng.uniform(size=(2, 1)) * [[np.deg2rad(self.angle_deg)], [self.shift_mm]]
        twist = (directions * sizes).ravel()
        return DrawnPoses(se3.move_about(frame.T_nominal, twist, frame.centre_lps_mm), frame.T_nominal)


@dataclass(frozen=True)
class AnyViewProtocol(Protocol):
    """Poses about a reading of the picture that nobody states: any roll, mirrored or not, from the front or
    from behind, anywhere along the CT."""

    def draw_poses(self, rng, frame, ct, camera) -> DrawnPoses:
        mirrored, behind = (bool(rng.random() < 0.5) for _ in range(2))
        roll = rng.uniform(-np.pi, np.pi)
        axis, low, high = _along_the_scan(ct, frame, camera)
        along = rng.uniform(low, high)
        turned = se3.exp_so3(np.array([0.0, 0.0, roll])) @ (_BEHIND if behind else np.eye(3)) @ frame.rotation
        reading = PoseFrame(frame.centre_lps_mm + along * axis, frame.sod_mm, "angles", turned)
        T_true = reading.T_from_theta(draw_theta(rng, self.deviation))
        return DrawnPoses(T_true, frame.T_nominal, mirrored, behind, float(np.rad2deg(roll)), float(along))


def _along_the_scan(ct: PreparedCT, frame: PoseFrame, camera: Camera) -> tuple[np.ndarray, float, float]:
    """(3,) axis of the scan, LPS, and between what offsets along it, mm, an X-ray's middle may lie.

    The field of view at the nominal distance stays inside the scan: what a scan shorter than the X-ray makes
    hard is another question. Of a scan shorter than the field the middle is the only place.
    """
    volume = ct.attenuation
    directions = volume.index_to_lps[:3, :3] / volume.spacing_mm
    k = int(np.argmax(np.abs(directions[2])))
    axis = directions[:, k] * np.sign(directions[2, k])
    half = volume.array.shape[2 - k] * volume.spacing_mm[k] / 2
    middle = float((volume.centre_lps_mm - frame.centre_lps_mm) @ axis)
    field_mm = min(camera.height / camera.K[1, 1], camera.width / camera.K[0, 0]) * frame.sod_mm
    reach = max(0.0, half - field_mm / 2)
    return axis, middle - reach, middle + reach


_PAPER = np.sqrt(PAPER_VARIANCE)
PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "paper",
            "start and target both drawn about the nominal view: variances 20 deg^2 about each axis, 100 "
            "mm^2 in depth, 30 and 15 mm^2 in plane",
            _PAPER,
            True,
        ),
        Protocol(
            "wide",
            "target drawn about the nominal view, which is the start: standard deviations 20 deg about each "
            "axis, 100 mm in depth, 30 and 15 mm in plane",
            WIDE_DEVIATION,
            False,
        ),
        NearProtocol(
            "near",
            "target as in `paper`; start as far from it as a pose network leaves it: standard deviations 1.5 "
            "deg about each axis, 5 mm in depth, 1.5 mm in plane",
            _PAPER,
            True,
        ),
        AroundProtocol(
            "around",
            "target turned by up to 30 deg and shifted by up to 20 mm in any direction from the nominal "
            "view, which is the start",
            np.array([10.0, 10.0, 10.0, 6.7, 6.7, 6.7]),
            False,
        ),
        AnyViewProtocol(
            "any-view",
            "target as in `paper`, but about a reading that is not told: any roll, half of them stored "
            "mirrored, half taken from behind, anywhere along the CT; start at the nominal view",
            _PAPER,
            False,
        ),
    )
}
# Those that say how far a start is off whatever the target is.
START_PROTOCOLS = ("paper", "wide")
