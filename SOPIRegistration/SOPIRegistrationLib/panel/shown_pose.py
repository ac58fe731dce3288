"""The pose as it is shown: under a hand, in the scene, and the way back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import slicer

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.panel.pose_undo import PoseUndo
from SOPIRegistrationLib.panel.session import Session
from SOPIRegistrationLib.panel.timers import timer
from SOPIRegistrationLib.registration.prepared import Placement

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
        self._placement: Placement | None = None
        self.steps = PoseUndo()
        self._follow = timer(_FOLLOW_MS, self._move_transform)
        self._gesture = timer(_GESTURE_MS, self.end_gesture)

    @property
    def placement(self) -> Placement | None:
        """Where the bodies are; None where there is nothing to show."""
        return self._placement

    @property
    def T_lps_to_camera(self) -> np.ndarray | None:
        """(4, 4) the pose of what a hand moves; None where there is none to show."""
        return None if self._placement is None else self._placement.of(self._session.moved_body)

    @property
    def is_pending(self) -> bool:
        """Whether the scene is still to follow."""
        return self._follow.active or self._gesture.active

    @property
    def has_left_settled(self) -> bool:
        """Whether it is another one than before the adjustments by hand."""
        settled = self.steps.settled
        return settled is not None and self._placement is not None and not settled.is_near(self._placement)

    def use(self, session: Session | None) -> None:
        """Follow the transform of a session with a prepared case; None for none."""
        self.stop()
        self.removeObservers()
        self._session, self._placement = session, None
        self.follow()

    def follow(self) -> None:
        """Follow the transform that is chosen now, which carries the CT, and show its pose."""
        transforms = [] if self._session is None else self._session.transforms
        event = slicer.vtkMRMLTransformNode.TransformModifiedEvent
        if transforms and all(self.hasObserver(one, event, self._on_transform) for one in transforms):
            return
        self.removeObservers()
        for transform in transforms:
            self.addObserver(transform, event, self._on_transform)
        if transforms:
            self._session.attach()
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

    def go(self, placement: Placement) -> None:
        """Show a placement that is no adjustment by hand."""
        self._placement = placement
        self._session.placement = placement
        self._on_moved(False)

    def adjust(self, T_lps_to_camera: np.ndarray) -> None:
        """A step by hand."""
        self.take_back(self._placement.with_pose(T_lps_to_camera, self._session.moved_body))

    def take_back(self, placement: Placement) -> None:
        """A step by hand of all bodies at once."""
        self._session.placement = placement

    def drag(self, T_lps_to_camera: np.ndarray) -> None:
        """A pose under the mouse: one of a gesture, which is one step; the scene follows it soon."""
        if not self.steps.is_held:
            self.steps.hold(self._placement)
        self._placement = self._placement.with_pose(T_lps_to_camera, self._session.moved_body)
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
        if self._session is not None and self._session.case is not None and self._placement is not None:
            self._session.placement = self._placement

    def _on_transform(self, *_) -> None:
        session = self._session
        if session is None or session.case is None:
            return
        try:
            placement = session.placement
        except InputError:
            return
        known = self._placement
        if placement.is_near(known):
            return
        if known is not None:
            self.steps.changed(known)
        self._placement = placement
        self._on_moved(known is not None)
