"""Images that change under a prepared case: a Sequence that is played, pixels that a script edits."""

from __future__ import annotations

from collections.abc import Callable

import slicer

from SOPIRegistrationLib.panel.session import Session
from SOPIRegistrationLib.panel.timers import timer

# What is done to an image and to its place in one go is followed once.
_DELAY_MS = 10
_EVENTS = "ModifiedEvent", slicer.vtkMRMLVolumeNode.ImageDataModifiedEvent


class ImageWatch(slicer.util.VTKObservationMixin):
    """Follows the images of a case; where other pixels appear it puts X-rays back onto their detectors.

    A browser that plays a Sequence gives an X-ray the pixels of the next frame, and the place that the file
    had; what is compared and what the verdict is of would be one frame, what is seen another.

    Args:
        on_changed: called when pixels are other ones.
    """

    def __init__(self, on_changed: Callable[[], None]):
        super().__init__()
        self._on_changed = on_changed
        self._session: Session | None = None
        self._seen: list = []
        self._looking = timer(_DELAY_MS, self._look)

    @property
    def is_pending(self) -> bool:
        """Whether a change is still to be looked at."""
        return self._looking.active

    def stop(self) -> None:
        """Look at nothing that is still to be looked at."""
        self._looking.stop()

    def use(self, session: Session | None) -> None:
        """The session with a prepared case; None for none."""
        self.stop()
        self.removeObservers()
        self._session = session
        if session is None:
            return
        self._seen = self._contents()
        for node in session.image_nodes:
            for event in _EVENTS:
                self.addObserver(node, event, self._on_modified)

    def _on_modified(self, *_) -> None:
        if self._session.case is not None and self._contents() != self._seen:
            self._looking.start()

    def _contents(self) -> list[tuple]:
        images = [(node.GetID(), node.GetImageData()) for node in self._session.image_nodes]
        return [(node_id, image and image.GetMTime()) for node_id, image in images]

    def _look(self) -> None:
        session = self._session
        # What is chosen now may not be what was prepared.
        if session is None or not session.reader.has_same_nodes(session.case):
            return
        self._seen = self._contents()
        session.place_xrays()
        self._on_changed()
