"""What the panel knows of the X-ray that is chosen before it is prepared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.scene import radiograph_from_node


@dataclass(frozen=True)
class XrayFacts:
    """What the C-arm section knows of the chosen X-ray.

    Attributes:
        name: of its node.
        shape: (rows, columns); None where it cannot be used as it is.
        metadata: DICOM tags by keyword.
        problem: why it cannot be used, and the remedy.
    """

    name: str
    shape: tuple[int, int] | None = None
    metadata: dict = field(default_factory=dict)
    problem: str = ""


class ChosenXray:
    """Reads the X-ray of a parameter node when another one, or another frame or size of it, is chosen.

    Args:
        on_chosen: called with the facts, None for no X-ray, and whether another node was chosen before.
    """

    def __init__(self, on_chosen: Callable[[XrayFacts | None, bool], None]):
        self._on_chosen = on_chosen
        self._read: tuple[str, int, tuple | None] | None = None

    def forget(self) -> None:
        """There is none; the next one is the first."""
        self._read = None
        self._on_chosen(None, False)

    def follow(self, parameters) -> None:
        """Tell of the X-ray in a wrapped parameter node, if it is another one."""
        node, frame = parameters.xray, parameters.frame
        image = node and node.GetImageData()
        chosen = (node.GetID(), frame, image and image.GetDimensions()) if node is not None else None
        before, self._read = self._read, chosen
        if chosen != before:
            is_another = before is not None and chosen is not None and before[0] != chosen[0]
            self._on_chosen(_facts(node, frame) if node is not None else None, is_another)


def _facts(node, frame: int) -> XrayFacts:
    name = node.GetName()
    try:
        radiograph = radiograph_from_node(node, frame or None)
    except InputError as error:
        # A choice alone is no mistake yet: no message box before a button is pressed.
        return XrayFacts(name, problem=str(error))
    return XrayFacts(name, radiograph.pixels.shape, radiograph.metadata or {})
