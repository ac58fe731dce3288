"""The pose as it is shown: under a hand, in the scene, and the way back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import slicer

from SOPIRegistrationLib import scene as bridge
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.panel.pose_undo import PoseUndo
from SOPIRegistrationLib.panel.session import Session
from SOPIRegistrationLib.panel.timers import timer

# While a hand moves the CT, the picture shows the pose; the scene, slow to answer, follows this often.
_FOLLOW_MS = 500
# A wheel or key that rests for this long has ended its gesture.
_GESTURE_MS = 400


class ShownPose(slicer.util.VTKObservationMixin):
    """One pose, which the transform node follows, and which follows it where somebody else moves it.

    What is set here is known here before the node is told: a node that says something else was moved by a
    hand (handles, another module, a script).

    Args:
        on_moved: called when the pose is another one, with whether a hand has moved it.
        on_settled: called when a gesture of the mouse or keys has ended.
    """

    def __init__(self, on_moved: Callable[[bool], None], on_settled: Callable[[], None]):
        super().__init__()
        self._on_moved, self._on_settled = on_moved, on_settled
        self._session: Session | None = None
        self._T: np.ndarray | None = None
        self.steps = PoseUndo()
        self._follow = timer(_FOLLOW_MS, self._move_transform)
        self._gesture = timer(_GESTURE_MS, self.end_gesture)

    @property
    def T_lps_to_camera(self) -> np.ndarray | None:
        """(4, 4) the pose; None where there is none to show."""
        return self._T

    @property
    def is_pending(self) -> bool:
        """Whether the scene is still to follow."""
        return self._follow.active or self._gesture.active

    @property
    def has_left_settled(self) -> bool:
        """Whether it is another one than before the adjustments by hand."""
        settled = self.steps.settled
        return settled is not None and self._T is not None and not np.allclose(settled, self._T, atol=1e-6)

    def use(self, session: Session | None) -> None:
        """Follow the transform of a session with a prepared case; None for none."""
        self.stop()
        self.removeObservers()
        self._session, self._T = session, None
        self.follow()

    def follow(self) -> None:
        """Follow the transform that is chosen now, which carries the CT, and show its pose."""
        transform = None if self._session is None else self._session.parameters.transform
        event = slicer.vtkMRMLTransformNode.TransformModifiedEvent
        if transform is not None and self.hasObserver(transform, event, self._on_transform):
            return
        self.removeObservers()
        if transform is not None:
            self.addObserver(transform, event, self._on_transform)
            bridge.attach(transform, *self._session.moving_nodes())
            self._on_transform()

    @contextmanager
    def rearranged(self) -> Iterator[None]:
        """The scene is rearranged inside; its pose afterwards is nobody's adjustment."""
        session = self._session
        self.use(None)
        try:
            yield
        finally:
            self.use(session)

    def go(self, T_lps_to_camera: np.ndarray) -> None:
        """Show a pose that is no adjustment by hand."""
        self._T = T_lps_to_camera
        self._session.pose = T_lps_to_camera
        self._on_moved(False)

    def adjust(self, T_lps_to_camera: np.ndarray) -> None:
        """A step by hand."""
        self._session.pose = T_lps_to_camera

    def drag(self, T_lps_to_camera: np.ndarray) -> None:
        """A pose under the mouse: one of a gesture, which is one step; the scene follows it soon."""
        if not self.steps.is_held:
            self.steps.hold(self._T)
        self._T = T_lps_to_camera
        if not self._follow.active:
            self._follow.start()
        self._on_moved(True)

    def step(self, T_lps_to_camera: np.ndarray) -> None:
        """The same by turns of the wheel or keys: those that follow each other are one gesture."""
        self.drag(T_lps_to_camera)
        self._gesture.start()

    def end_gesture(self) -> None:
        """The gesture has ended: the scene follows at once."""
        self._follow.stop()
        self._gesture.stop()
        if self.steps.is_held:
            self._move_transform()
            self.steps.release()
            self._on_settled()

    def stop(self) -> None:
        """Give up a gesture under way."""
        self._follow.stop()
        self._gesture.stop()
        self.steps.release()

    def _move_transform(self) -> None:
        if self._session is not None and self._session.case is not None and self._T is not None:
            self._session.pose = self._T

    def _on_transform(self, *_) -> None:
        session = self._session
        if session is None or session.case is None:
            return
        try:
            T = session.pose
        except InputError:
            return
        known = self._T
        if known is not None and np.allclose(T, known, atol=1e-6):
            return
        if known is not None:
            self.steps.changed(known)
        self._T = T
        self._on_moved(known is not None)
