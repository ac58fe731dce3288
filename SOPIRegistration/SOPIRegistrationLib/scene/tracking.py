"""Tracking in the scene: a case's CT through the frames of its X-ray, in a thread, shown as Sequences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from SOPIRegistrationLib.errors import Cancelled, InputError
from SOPIRegistrationLib.progress import Progress
from SOPIRegistrationLib.registration.job import Job
from SOPIRegistrationLib.registration.logic import PreparedCase, Signal
from SOPIRegistrationLib.registration.result import Verdict
from SOPIRegistrationLib.scene.sequences import (
    NodeFrames,
    browser_of_tracks,
    play_together,
    poses_of_track,
    track_of,
    track_sequence,
    xray_sequence,
)
from SOPIRegistrationLib.settings import RegistrationSettings
from SOPIRegistrationLib.tracking.frames import Frames
from SOPIRegistrationLib.tracking.track import REVIEW, FramePose, Track
from SOPIRegistrationLib.tracking.tracker import Body, TrackingSettings, track


@dataclass(frozen=True)
class Followed:
    """What is tracked.

    Attributes:
        case: prepared from one frame of the X-ray.
        xray: node of the X-ray: a volume of several frames, or a Sequence of volumes.
        transform: node that carries the CT.
        settings: how frames that are lost are sought.
    """

    case: PreparedCase
    xray: object
    transform: object
    settings: RegistrationSettings


def _name(case: PreparedCase) -> str:
    """Of the body: its node's."""
    return case.bodies.names[0] if case.inputs.ct is None else case.inputs.ct.name.strip("'")


class SceneTracking:
    """Tracks one thing at a time; poll it from the main thread.

    Args:
        scene: where the results go.

    Attributes:
        progressed: what the tracking has reached.
        finished: a track, shown in the scene.
        stopped: it was cancelled; nothing in the scene has changed.
        failed: an InputError, or a fault.
        track: the last one; None before.
        browser: the node that plays it.
    """

    def __init__(self, scene):
        self._scene = scene
        self.progressed: Signal[Progress] = Signal()
        self.finished: Signal[Track] = Signal()
        self.stopped: Signal[str] = Signal()
        self.failed: Signal[Exception] = Signal()
        self.track: Track | None = None
        self.browser = None
        self._job: Job | None = None
        self._followed: Followed | None = None
        self._sequence = None

    @property
    def is_running(self) -> bool:
        """Whether it tracks."""
        return self._job is not None

    def start(self, followed: Followed, number: int, T_lps_to_camera: np.ndarray) -> None:
        """Track from a pose in one frame, forwards and backwards.

        Args:
            followed: what is tracked.
            number: of the frame, from 1.
            T_lps_to_camera: (4, 4) the pose there.

        Raises:
            InputError: the X-ray has a single frame, or no such one; something runs already.
        """
        self._begin(followed, lambda body, T: replace(body, starts={number: T}), number, T_lps_to_camera)

    def track_on(self, number: int, T_lps_to_camera: np.ndarray) -> None:
        """Track once more from a frame that was corrected by hand; what lies before it stands.

        Args:
            number: of the frame, from 1.
            T_lps_to_camera: (4, 4) the corrected pose.

        Raises:
            InputError: nothing was tracked, or something runs already.
        """
        if self.track is None or self._followed is None:
            raise InputError("nothing was tracked yet: track first, then correct a frame")
        earlier = self.track
        self._begin(
            self._followed,
            lambda body, T: body.from_corrected(earlier, number, T),
            number,
            T_lps_to_camera,
        )

    def restore(self, followed: Followed) -> bool:
        """Take over the track that a scene was loaded with; whether there is one.

        Args:
            followed: what was tracked.

        Raises:
            InputError: a transform of it is not rigid.
        """
        name, case = _name(followed.case), followed.case
        sequence = track_of(self._scene, name)
        if sequence is None:
            return False
        poses = {
            number: FramePose(
                number, np.linalg.inv(case.T_world_to_camera) @ T, Verdict(status or REVIEW, [], None, None)
            )
            for number, (T, status) in poses_of_track(sequence, case.frame).items()
        }
        self._followed, self.browser = followed, browser_of_tracks(self._scene)
        xrays = None if self.browser is None else self.browser.GetMasterSequenceNode()
        self._sequence = xrays
        count = max(poses, default=0) if xrays is None else xrays.GetNumberOfDataNodes()
        self.track = Track(name, count, case.ct.rotation_centre_lps_mm, poses)
        return True

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
            found = job.result()
        except Cancelled:
            self.stopped.emit("Stopped: the track is as it was.")
        except Exception as error:
            self.failed.emit(error)
        else:
            self._show(found)
            self.finished.emit(found)

    def _begin(
        self, followed: Followed, started: Callable[[Body, np.ndarray], Body], number: int, T: np.ndarray
    ) -> None:
        if self._job is not None:
            raise InputError("a tracking runs already: wait, or stop it")
        pictures = NodeFrames(followed.xray)
        if pictures.count < 2:
            raise InputError(f"X-ray {pictures.path} has a single frame: choose a sequence")
        if not 1 <= number <= pictures.count:
            raise InputError(f"X-ray {pictures.path} has no frame {number}: choose 1 to {pictures.count}")
        case = followed.case
        body = Body(_name(case), case.subject, case.frame)
        body = started(body, np.linalg.inv(case.T_world_to_camera) @ T)
        frames = Frames([pictures], case.inputs.geometry, case.xray.polarity)
        settings = TrackingSettings(followed.settings)
        self._followed = followed

        def work(report: Callable[[Progress], None]) -> Track:
            try:
                return track([body], frames, settings, report)[0]
            finally:
                frames.close()

        self._job = Job(work).start()

    def _show(self, found: Track) -> None:
        """The track as a Sequence beside that of the X-rays, in one browser."""
        followed, case = self._followed, self._followed.case
        poses = {
            pose.frame: (case.T_world_to_camera @ pose.T, pose.status) for pose in found if pose.T is not None
        }
        xrays = followed.xray
        if not xrays.IsA("vtkMRMLSequenceNode"):
            if self._sequence is None or self._scene.GetNodeByID(self._sequence.GetID()) is None:
                self._sequence = xray_sequence(self._scene, xrays)
            xrays = self._sequence
        tracked = track_sequence(self._scene, found.body, poses, case.frame)
        self.browser = play_together(self._scene, xrays, [(tracked, followed.transform)])
        self.track = found
