"""The inputs of a registration as arrays, and what is prepared of them once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.c_arm import CArmGeometry
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.prepared_ct import PreparedCT
from SOPIRegistrationLib.images.radiograph import PreparedRadiograph, Radiograph
from SOPIRegistrationLib.images.volume import Volume
from SOPIRegistrationLib.projector import project
from SOPIRegistrationLib.projector.bodies import project_bodies
from SOPIRegistrationLib.registration.body_inputs import BodiesInput
from SOPIRegistrationLib.registration.result import RegistrationResult
from SOPIRegistrationLib.subject import Subject
from SOPIRegistrationLib.subject.bodies import Bodies

# Longer edge of a DRR while something moves.
LIVE_PIXELS = 256
# What moves is made of voxels no smaller than this, in smaller pictures of larger ones: 15 pictures a second
# on two cores, from any CT.
_LIVE_STEP_MM = 1.5
# Source of what a registration has corrected in a geometry.
_FOUND = "found by the registration"


@dataclass(frozen=True)
class OtherXray:
    """An X-ray that is registered jointly with the one that is looked at.

    Attributes:
        node_id: of its node.
        radiograph: as stored, in the camera's frame.
        camera: its camera, in the world of the calibrated set.
        key: tells it from another one.
    """

    node_id: str
    radiograph: Radiograph
    camera: Camera
    key: tuple


@dataclass(frozen=True)
class Inputs:
    """What is read of the scene; arrays, safe to hand to a thread.

    Attributes:
        ct: in the patient frame, HU; None where the bodies are surfaces alone.
        mask: bones, or None.
        radiograph: the X-ray as stored, in the camera's frame.
        region: (rows, columns) bool on the radiograph, where it is to be compared; None for everywhere.
        geometry: its one camera, in the world of its calibrated set, with a source-object distance.
        polarity: "auto", "bone-dark" or "bone-bright".
        others: X-rays that are registered jointly with it.
        ct_key: tells one CT and mask from another.
        xray_key: the same of X-ray and geometry.
        bodies: what moves by itself; of one rigid CT, none.
    """

    ct: Volume | None
    mask: Volume | None
    radiograph: Radiograph
    region: np.ndarray | None
    geometry: CArmGeometry
    polarity: str
    others: tuple[OtherXray, ...]
    ct_key: tuple
    xray_key: tuple
    bodies: BodiesInput = field(default_factory=BodiesInput)

    def as_found(self, result: RegistrationResult) -> Inputs:
        """The same with a geometry that states what a registration found of the first X-ray."""
        geometry, radiograph, region = self.geometry, self.radiograph, self.region
        if result.frame.view != geometry.view:
            sources = {**geometry.sources, "view": _FOUND}
            geometry = replace(geometry, view=result.frame.view, rotation=None, sources=sources)
        if result.mirrored:
            camera = geometry.camera.mirrored()
            sources = {**geometry.sources, "mirrored": _FOUND}
            geometry = replace(geometry, cameras=(camera,), mirrored=not geometry.mirrored, sources=sources)
            radiograph, region = radiograph.mirrored(), None if region is None else region[:, ::-1]
        return replace(self, geometry=geometry, radiograph=radiograph, region=region)


@dataclass(frozen=True, eq=False)
class Placement:
    """Where the bodies of a case are.

    Attributes:
        T_lps_to_camera: (4, 4) pose of the CT as one piece, and of all bodies that have not left it.
        relative: (4, 4) by name of a body: its patient frame to that of the CT as one piece.
    """

    T_lps_to_camera: np.ndarray
    relative: Mapping[str, np.ndarray] = field(default_factory=dict)

    def of(self, body: str = "") -> np.ndarray:
        """(4, 4) T_lps_to_camera of a body; of the CT as one piece without a name."""
        return self.T_lps_to_camera @ self.relative[body] if body in self.relative else self.T_lps_to_camera

    def with_pose(self, T_lps_to_camera: np.ndarray, body: str = "") -> Placement:
        """One body at another pose, the others where they are; without a name all of them go along."""
        if not body:
            return Placement(T_lps_to_camera, self.relative)
        own = se3.invert_rigid(self.T_lps_to_camera) @ T_lps_to_camera
        return Placement(self.T_lps_to_camera, {**self.relative, body: own})

    def is_near(self, other: Placement | None, atol: float = 1e-6) -> bool:
        """Whether another one is the same but for rounding."""
        if other is None or self.relative.keys() != other.relative.keys():
            return False
        return all(np.allclose(self.of(body), other.of(body), atol=atol) for body in ("", *self.relative))


@dataclass(frozen=True)
class PreparedCase:
    """Inputs ready for registration.

    Attributes:
        bodies: what is registered.
        xray: the X-ray, bones bright.
        others: those registered jointly with it, in the order of the inputs.
        frame: what pose parameters are measured from.
        seconds: how long preparing took.
        inputs: what it was made from; None of files, which nobody changes meanwhile.
    """

    bodies: Bodies
    xray: PreparedRadiograph
    others: tuple[PreparedRadiograph, ...]
    frame: PoseFrame
    seconds: float
    inputs: Inputs | None = None

    @property
    def subject(self) -> Subject:
        """The CT as one piece; the first body where there is none."""
        return self.bodies.whole or self.bodies.bodies[0].subject

    @property
    def has_several_bodies(self) -> bool:
        """Whether not all of it moves as one."""
        return len(self.bodies.moving) > 1

    @property
    def ct(self) -> PreparedCT:
        """Attenuation and bones."""
        return self.subject.ct

    @property
    def notes(self) -> tuple[str, ...]:
        """What was assumed or mended in the CT and in the other bodies, each a sentence for the user."""
        alone = [one.subject for one in self.bodies.bodies if one.name not in self.bodies.parts]
        subjects = [self.subject, *(one for one in alone if one is not self.subject)]
        return tuple(note for subject in subjects for note in subject.ct.notes)

    @property
    def prepared(self) -> dict[tuple, PreparedRadiograph]:
        """The X-rays by their keys."""
        keys = self.inputs.xray_key, *(one.key for one in self.inputs.others)
        return dict(zip(keys, (self.xray, *self.others), strict=True))

    @property
    def bodies_by_key(self) -> dict[tuple, Subject]:
        """The bodies by the keys of their inputs."""
        return {one.key: self.bodies[one.name].subject for one in self.inputs.bodies.bodies}

    @property
    def geometry(self) -> CArmGeometry:
        """With the cameras of all X-rays, in their order."""
        cameras = tuple(one.camera for one in self.inputs.others)
        return replace(self.inputs.geometry, cameras=(*self.inputs.geometry.cameras, *cameras))

    def as_found(self, result: RegistrationResult) -> PreparedCase:
        """The case as a registration found it to be: polarity, way round, nominal view.

        Where the X-ray was found stored the other way round, or taken from another side, than its geometry
        states, the inputs are those of a geometry that states it.
        """
        first, *others = result.radiographs
        case = replace(self, xray=first, others=tuple(others))
        if not result.mirrored and result.frame is self.frame:
            return case
        return replace(case, inputs=self.inputs.as_found(result), frame=result.frame)

    def in_cameras(self, cameras: Sequence[Camera]) -> PreparedCase:
        """The same X-rays with the intrinsics of these cameras, in their order."""
        xrays = [
            one.in_camera(replace(one.camera, K=other.K, sdd_mm=other.sdd_mm, tolerances=other.tolerances))
            for one, other in zip((self.xray, *self.others), cameras, strict=True)
        ]
        return replace(self, xray=xrays[0], others=tuple(xrays[1:]))

    @property
    def as_stated(self) -> PreparedCase:
        """The same without what was estimated of its cameras: what the next estimate starts from."""
        return self.in_cameras(self.geometry.cameras)

    def beside(self, number: int) -> PreparedCase:
        """The same as another of its X-rays shows it, by itself."""
        xray, known = self.others[number], self.inputs.others[number]
        geometry = replace(self.inputs.geometry, cameras=(xray.camera,))
        inputs = replace(
            self.inputs,
            radiograph=known.radiograph,
            region=None,
            geometry=geometry,
            others=(),
            xray_key=known.key,
        )
        return replace(self, xray=xray, others=(), inputs=inputs)

    @property
    def T_world_to_camera(self) -> np.ndarray:
        """(4, 4) extrinsics of the X-ray's camera; the identity for a single C-arm."""
        return self.xray.camera.T_world_to_camera

    @property
    def bone_dark(self) -> bool:
        """Whether bones are dark in the X-ray as stored."""
        return self.xray.bone_dark

    def render(self, placement: Placement, pixels: int) -> np.ndarray:
        """DRR (rows, columns) whose longer edge has at most ``pixels`` pixels; coarse where that is small."""
        camera, bodies = self._laid_out(placement, pixels)
        if not self.has_several_bodies:
            [(_, volume, T)] = bodies
            return project(volume, camera, T)
        return project_bodies([volume for _, volume, _ in bodies], camera, [T for *_, T in bodies])

    def render_bodies(self, placement: Placement, pixels: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The same, and of several bodies the DRR of each by itself, by its name."""
        if not self.has_several_bodies:
            return self.render(placement, pixels), {}
        camera, bodies = self._laid_out(placement, pixels)
        alone = {name: project_bodies([volume], camera, [T]) for name, volume, T in bodies}
        # What a detector makes of metal does not add up.
        metal = self.bodies.are_metal
        image = self.render(placement, pixels) if metal else np.sum(list(alone.values()), axis=0)
        if self.bodies.rest is not None:
            del alone[self.bodies.rest.name]
        return image, alone

    def _laid_out(self, placement: Placement, pixels: int):
        """The camera, and (name, volume, pose) of all that moves, as fine as a picture of that size needs."""
        camera = _reduced(self.xray.camera.as_world(), pixels)
        bodies = []
        for body in self.bodies.moving:
            T = placement.of(body.name)
            bodies.append((body.name, _volume_for(body.subject, camera, T, pixels), T))
        return camera, bodies


def _volume_for(subject: Subject, camera: Camera, T_lps_to_camera: np.ndarray, pixels: int):
    volume, halvings = subject.shown.for_camera(camera, T_lps_to_camera), 0
    if subject.ct.is_metal:
        # Its outline is all that there is of it.
        return volume
    least_mm = _LIVE_STEP_MM * LIVE_PIXELS / pixels
    while pixels <= LIVE_PIXELS and volume.default_step_mm < least_mm:
        halvings += 1
        volume = subject.shown.level(halvings)
    return volume


def _reduced(camera, pixels: int):
    scale = min(1.0, pixels / max(camera.shape))
    return camera.resampled(round(camera.width * scale), round(camera.height * scale))
