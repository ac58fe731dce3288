"""The prepared X-rays of a frame, of all views, read when they are asked for."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry.c_arm import CArmGeometry
from SOPIRegistrationLib.images.radiograph import PreparedRadiograph
from SOPIRegistrationLib.images.radiograph_preparation import prepare_radiograph
from SOPIRegistrationLib.images.stored import as_seen_from_the_source
from SOPIRegistrationLib.tracking.sequences import FrameSequence

# Prepared frames that are kept: the one in work, and those ahead.
_KEPT = 3


@dataclass(frozen=True)
class Frame:
    """What a frame shows.

    Attributes:
        number: from 1.
        radiographs: of the views that show something, in the cameras' order.
        missing: of the others, a line each.
    """

    number: int
    radiographs: tuple[PreparedRadiograph, ...]
    missing: tuple[str, ...] = ()


class Frames:
    """Prepared frames of one or several synchronised views.

    Args:
        sequences: one a camera, in the cameras' order.
        geometry: their cameras.
        polarity: as in the settings of a registration.

    Attributes:
        count: frames of each sequence.
        polarity: the same; that of the X-rays once it is known.
        turned_over: whether the pictures are stored mirrored.

    Raises:
        InputError: unequal counts, or as many sequences as there are no cameras.
    """

    def __init__(self, sequences: Sequence[FrameSequence], geometry: CArmGeometry, polarity: str = "auto"):
        if len(sequences) != len(geometry.cameras):
            raise InputError(
                f"{len(sequences)} sequences are given for {len(geometry.cameras)} cameras "
                f"({', '.join(camera.name or '?' for camera in geometry.cameras)}): give one for each, in "
                "their order"
            )
        counts = {sequence.count for sequence in sequences}
        if len(counts) > 1:
            told = ", ".join(f"{sequence.path} has {sequence.count}" for sequence in sequences)
            raise InputError(f"the views have unequal numbers of frames: {told}: cut them to the same frames")
        # All frames are of one geometry: it is not estimated in some of them.
        self.sequences, self.geometry = tuple(sequences), geometry.without_tolerances()
        self.count = counts.pop()
        self.polarity, self.turned_over = polarity, False
        self._ahead: OrderedDict[tuple[int, bool], Future[Frame]] = OrderedDict()
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="frames")

    @property
    def frames_per_second(self) -> float | None:
        """As the first file tells; None where it does not."""
        return self.sequences[0].frames_per_second

    def close(self) -> None:
        """End the thread that reads ahead."""
        self._reader.shutdown(cancel_futures=True)

    def read_as(self, polarity: str, turned_over: bool) -> None:
        """Take the X-rays for this from now on."""
        if (polarity, turned_over) != (self.polarity, self.turned_over):
            self.polarity, self.turned_over = polarity, turned_over
            self._ahead.clear()

    def frame(self, number: int, of_metal: bool = False) -> Frame:
        """A frame, from 1; ``of_metal``: metal is sought in it; InputError for one that is missing or of
        another size."""
        return self._asked(number, of_metal).result()

    def prepare(self, number: int, of_metal: bool = False) -> None:
        """Read a frame ahead, while another one is worked on; one that does not exist is passed over."""
        if 1 <= number <= self.count:
            self._asked(number, of_metal)

    def _asked(self, number: int, of_metal: bool) -> Future[Frame]:
        key = number, of_metal
        if key not in self._ahead:
            self._ahead[key] = self._reader.submit(self._made, *key, self.polarity, self.turned_over)
            while len(self._ahead) > _KEPT:
                self._ahead.popitem(last=False)
        self._ahead.move_to_end(key)
        return self._ahead[key]

    def _made(self, number: int, of_metal: bool, polarity: str, turned_over: bool) -> Frame:
        radiographs, missing = [], []
        for sequence, camera in zip(self.sequences, self.geometry.cameras, strict=True):
            try:
                stored = sequence.frame(number)
            except InputError as error:
                if not 1 <= number <= sequence.count:
                    raise
                missing.append(str(error))
                continue
            if stored.pixels.shape != camera.shape:
                rows, columns = stored.pixels.shape
                raise InputError(
                    f"frame {number} of {sequence.path} has {columns} x {rows} pixels, its camera "
                    f"{camera.width} x {camera.height} (columns x rows): all must have the camera's size"
                )
            try:
                seen = as_seen_from_the_source(stored, self.geometry.mirrored, camera)
                prepared = prepare_radiograph(seen, camera, polarity, of_metal=of_metal)
            except InputError as error:
                missing.append(str(error))
                continue
            radiographs.append(prepared.mirrored() if turned_over else prepared)
        # Which polarity there is was settled at the start: no frame is tried the other way round.
        settled = tuple(replace(one, other_polarity=None) for one in radiographs)
        return Frame(number, settled if polarity != "auto" else tuple(radiographs), tuple(missing))
