"""Tracking in the scene: a case's bodies through its X-rays' frames, in a thread, shown as Sequences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from SOPIRegistrationLib.errors import Cancelled, InputError
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.progress import Progress
from SOPIRegistrationLib.registration.job import Job
from SOPIRegistrationLib.registration.logic import PreparedCase, Signal
from SOPIRegistrationLib.registration.prepared import Placement
from SOPIRegistrationLib.registration.result import Verdict
from SOPIRegistrationLib.scene.frames import RAS_FROM_LPS, matrix_from_pose, pose_from_matrix, rigid_matrix
from SOPIRegistrationLib.scene.sequences import (
    NodeFrames,
    browser_of_tracks,
    index_values,
    is_made_of,
    is_sequence,
    matrices_of_track,
    play_together,
    shown_sequence,
    track_of,
    track_sequence,
    verdicts_of_track,
    xray_sequence,
)
from SOPIRegistrationLib.settings import RegistrationSettings
from SOPIRegistrationLib.tracking.body import Body
from SOPIRegistrationLib.tracking.finding import TrackingSettings
from SOPIRegistrationLib.tracking.frames import Frames
from SOPIRegistrationLib.tracking.track import REVIEW, FramePose, Track
from SOPIRegistrationLib.tracking.tracker import track

# A body further from where the track has it was moved by a hand.
_MOVED_MM = 0.05


@dataclass(frozen=True)
class Followed:
    """What is tracked.

    Attributes:
        case: prepared from one frame of each X-ray.
        xrays: nodes of the X-rays in the order of the case's: volumes of several frames, volumes that show a
            Sequence's, or Sequences of volumes.
        transform: node that carries the CT, or what all bodies are under.
        settings: how frames that are lost are sought.
        transforms: nodes that carry several bodies under the common one, by name.
    """

    case: PreparedCase
    xrays: Sequence
    transform: object
    settings: RegistrationSettings
    transforms: Mapping[str, object] = field(default_factory=dict)

    @property
    def bodies(self) -> list[Body]:
        """What is tracked; one that is fixed is not."""
        case = self.case
        if not case.has_several_bodies:
            # A CT has its node's name; an implant alone is a body of the table.
            ct = case.inputs.ct
            name = case.bodies.names[0] if ct is None else ct.name.strip("'")
            return [Body(name, case.subject, case.frame)]
        return [
            Body(one.name, one.subject, replace(case.frame, centre_lps_mm=one.centre_lps_mm))
            for one in case.bodies.bodies
            if not one.fixed
        ]

    def poses(self, placement: Placement) -> dict[str, np.ndarray]:
        """(4, 4) T_lps_to_world by name of what is tracked."""
        T_camera_to_world = se3.invert_rigid(self.case.T_world_to_camera)
        return {body.name: T_camera_to_world @ placement.of(body.name) for body in self.bodies}

    def frames(self, scene) -> Frames:
        """The X-rays' frames, in their cameras.

        Raises:
            InputError: a single frame, or unequal counts.
        """
        sequences = [NodeFrames(shown_sequence(scene, node)[0] or node) for node in self.xrays]
        for pictures in sequences:
            if pictures.count < 2:
                raise InputError(f"X-ray {pictures.path} has a single frame: choose a sequence")
        case = self.case
        cameras = tuple(one.camera for one in (case.xray, *case.others))
        return Frames(sequences, replace(case.geometry, cameras=cameras), case.xray.polarity)

    def is_as(self, other: Followed) -> bool:
        """Whether the scene shows both alike: the same camera looks at them."""
        return np.array_equal(self.case.T_world_to_camera, other.case.T_world_to_camera) and np.array_equal(
            self.case.frame.T_nominal, other.case.frame.T_nominal
        )


class SceneTracking:
    """Tracks one thing at a time; poll it from the main thread.

    Args:
        scene: where the results go.

    Attributes:
        progressed: what the tracking has reached.
        finished: the tracks, shown in the scene.
        stopped: it was cancelled; nothing in the scene has changed.
        failed: an InputError, or a fault.
        tracks: the last ones by the body's name; none before.
        browser: the node that plays them.
    """

    def __init__(self, scene):
        self._scene = scene
        self.progressed: Signal[Progress] = Signal()
        self.finished: Signal[dict[str, Track]] = Signal()
        self.stopped: Signal[str] = Signal()
        self.failed: Signal[Exception] = Signal()
        self.tracks: dict[str, Track] = {}
        self.browser = None
        self._job: Job | None = None
        self._followed: Followed | None = None
        # (4, 4) T_lps_to_world of what all bodies are under: it stands still while they move.
        self._T_common = np.eye(4)

    @property
    def is_running(self) -> bool:
        """Whether it tracks."""
        return self._job is not None

    @property
    def bodies(self) -> list[Body]:
        """What was tracked."""
        return self._followed.bodies

    def is_of(self, followed: Followed) -> bool:
        """Whether it has tracked these bodies through one of these X-rays."""
        known = self._followed
        return (
            known is not None
            and self.tracks.keys() == {body.name for body in followed.bodies}
            and any(node in known.xrays for node in followed.xrays)
        )

    def start(self, followed: Followed, number: int, placement: Placement) -> None:
        """Track from where the bodies are in one frame (from 1), forwards and backwards; InputError where
        that is impossible."""
        poses = followed.poses(placement)
        bodies = [replace(body, starts={number: poses[body.name]}) for body in followed.bodies]
        self._begin(followed, bodies, number, placement)

    def track_on(self, number: int, placement: Placement) -> None:
        """Track once more from a frame that was corrected by hand; what lies before it stands.

        Bodies that were not moved in it stay as tracked; where none was, all are tracked once more.

        Args:
            number: of the frame, from 1.
            placement: where the bodies are in it.

        Raises:
            InputError: nothing was tracked, or something runs already.
        """
        if not self.tracks or self._followed is None:
            raise InputError("nothing was tracked yet: track first, then correct a frame")
        poses = self._followed.poses(placement)
        moved = self.moved(number, placement) or set(poses)
        bodies = [
            body.from_corrected(self.tracks[body.name], number, poses[body.name])
            if body.name in moved or body.name not in self.tracks
            else body.standing(self.tracks[body.name])
            for body in self._followed.bodies
        ]
        self._begin(self._followed, bodies, number, placement)

    def moved(self, number: int, placement: Placement) -> set[str]:
        """Names of bodies that are not where the browser has them in a frame."""
        found = set()
        for name, T in self._followed.poses(placement).items():
            track = self.tracks.get(name)
            shown = None if track is None else _shown(track, number)
            if shown is not None and track.distance_mm(shown, T) > _MOVED_MM:
                found.add(name)
        return found

    def placement(self, number: int) -> Placement:
        """Where the tracks have the bodies in a frame, in the camera that looks at them."""
        T_world_to_camera = self._followed.case.T_world_to_camera
        poses = {name: _shown(track, number) for name, track in self.tracks.items()}
        if not self._followed.case.has_several_bodies:
            [T] = poses.values()
            return Placement(T_world_to_camera @ T)
        away = se3.invert_rigid(self._T_common)
        relative = {name: away @ T for name, T in poses.items() if T is not None}
        return Placement(T_world_to_camera @ self._T_common, relative)

    def restore(self, followed: Followed) -> bool:
        """Take over the tracks that a scene was loaded with; whether there are some.

        Args:
            followed: what was tracked.

        Raises:
            InputError: a transform of them is not rigid.
        """
        case, browser = followed.case, browser_of_tracks(self._scene)
        xrays = None if browser is None else browser.GetMasterSequenceNode()
        sequences = {body.name: track_of(self._scene, body.name) for body in followed.bodies}
        if xrays is None or any(one is None or not one.GetNumberOfDataNodes() for one in sequences.values()):
            return False
        index, T_above = index_values(xrays), np.eye(4)
        if case.has_several_bodies:
            common = track_of(self._scene, "")
            if common is None:
                return False
            T_above = pose_from_matrix(matrices_of_track(common, index)[1], case.frame, "'all bodies'")
        T_camera_to_world = se3.invert_rigid(case.T_world_to_camera)
        self._followed, self.browser, self._T_common = followed, browser, T_camera_to_world @ T_above
        self.tracks = {}
        for body in followed.bodies:
            name = f"'{sequences[body.name].GetName()}'"
            verdicts = verdicts_of_track(sequences[body.name])
            known = {
                number: FramePose(number, None, Verdict(REVIEW, [], None, None), is_anchor=True)
                for number in range(1, len(index) + 1)
            }
            poses = {
                number: replace(verdicts.get(number, known[number]), T=self._pose_in_world(matrix, name))
                for number, matrix in matrices_of_track(sequences[body.name], index).items()
            }
            lost = {number: pose for number, pose in verdicts.items() if number not in poses}
            centre = body.subject.ct.rotation_centre_lps_mm
            self.tracks[body.name] = Track(body.name, len(index), centre, {**lost, **poses})
        return True

    def look(self, followed: Followed) -> None:
        """What is tracked on from now on: the same bodies, shown for the camera that looks at them now."""
        known, self._followed = self._followed, followed
        if self.tracks and known is not None and not followed.is_as(known):
            self._show()

    def cancel(self) -> None:
        """Stop what runs."""
        if self._job is not None:
            self._job.cancel()

    def poll(self, seconds: float = 0.0) -> None:
        """Give the tracking some time, and tell what has happened."""
        job = self._job
        if job is None:
            return
        job.wait(seconds)
        reached = job.take_report()
        if reached is not None and not job.cancelled:
            self.progressed.emit(reached)
        if job.running:
            return
        self._job = None
        try:
            self.tracks, self._followed, self._T_common = job.result()
        except Cancelled:
            self.stopped.emit("Stopped: the track is as it was.")
        except Exception as error:
            self.failed.emit(error)
        else:
            self._show()
            self.finished.emit(self.tracks)

    def _begin(self, followed: Followed, bodies: Sequence[Body], number: int, placement: Placement) -> None:
        if self._job is not None:
            raise InputError("a tracking runs already: wait, or stop it")
        frames = followed.frames(self._scene)
        if not 1 <= number <= frames.count:
            path = frames.sequences[0].path
            raise InputError(f"X-ray {path} has no frame {number}: choose 1 to {frames.count}")
        settings = TrackingSettings(followed.settings)
        T_common = se3.invert_rigid(followed.case.T_world_to_camera) @ placement.of()

        def work(report: Callable[[Progress], None]) -> tuple:
            try:
                tracks = track(bodies, frames, settings, report)
            finally:
                frames.close()
            return {one.body: one for one in tracks}, followed, T_common

        self._job = Job(work).start()

    def _pose_in_world(self, matrix: np.ndarray, name: str) -> np.ndarray:
        """(4, 4) T_lps_to_world of a body whose transform has a matrix."""
        case = self._followed.case
        if case.has_several_bodies:
            return self._T_common @ RAS_FROM_LPS @ rigid_matrix(matrix, name) @ RAS_FROM_LPS
        return se3.invert_rigid(case.T_world_to_camera) @ pose_from_matrix(matrix, case.frame, name)

    def _matrix(self, T_lps_to_world: np.ndarray) -> np.ndarray:
        """Inverse of :meth:`_pose_in_world`."""
        case = self._followed.case
        if case.has_several_bodies:
            return RAS_FROM_LPS @ se3.invert_rigid(self._T_common) @ T_lps_to_world @ RAS_FROM_LPS
        return matrix_from_pose(case.T_world_to_camera @ T_lps_to_world, case.frame)

    def _show(self) -> None:
        """The tracks as Sequences beside those of the X-rays, in one browser."""
        followed, case = self._followed, self._followed.case
        shown = [shown_sequence(self._scene, node) for node in followed.xrays]
        xrays, browser = self._played(shown)
        index = index_values(xrays)
        moved = [
            (sequence, node)
            for (sequence, _), node in zip(shown, followed.xrays, strict=True)
            if sequence not in (None, xrays)
        ]
        if case.has_several_bodies:
            T = matrix_from_pose(case.T_world_to_camera @ self._T_common, case.frame)
            common = dict.fromkeys(range(1, len(index) + 1), T)
            moved.append((track_sequence(self._scene, "", common, (), index), followed.transform))
        for name, found in self.tracks.items():
            matrices = {pose.frame: self._matrix(pose.T) for pose in found if pose.T is not None}
            sequence = track_sequence(self._scene, name, matrices, found, index)
            moved.append((sequence, followed.transforms.get(name, followed.transform)))
        self.browser = play_together(self._scene, xrays, moved, browser)

    def _played(self, shown: Sequence[tuple]) -> tuple:
        """(Sequence of X-rays, browser) that tracks are played with; None for a browser to be made.

        Args:
            shown: Sequence and browser of each X-ray, None of those that are volumes of several frames.
        """
        nodes, browser = self._followed.xrays, browser_of_tracks(self._scene)
        known = None if browser is None else browser.GetMasterSequenceNode()
        of_these = [sequence for sequence, _ in shown] + [node for node in nodes if is_sequence(node)]
        if known is not None and (known in of_these or any(is_made_of(known, node) for node in nodes)):
            return known, browser
        if shown[0][0] is not None:
            return shown[0]
        return nodes[0] if is_sequence(nodes[0]) else xray_sequence(self._scene, nodes[0]), None


def _shown(track: Track, number: int) -> np.ndarray | None:
    """(4, 4) where a Sequence has a body in a frame: where it was last, if it is lost there."""
    posed = [pose for pose in track if pose.T is not None]
    before = [pose for pose in posed if pose.frame <= number]
    return (before[-1] if before else posed[0]).T if posed else None
