"""X-ray sequences in files: frames of one camera in their order, read one at a time."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.images import dicom
from SOPIRegistrationLib.images.dicom_files import is_dicom
from SOPIRegistrationLib.images.files import read_frames, read_radiograph
from SOPIRegistrationLib.images.itk_reading import require_file
from SOPIRegistrationLib.images.radiograph import Radiograph

VIDEOS = (".avi", ".mp4", ".mov", ".mkv", ".m4v", ".wmv")
_PICTURES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp", ".dcm", ".ima", ".mha", ".nrrd", ".nii")
_TIFF = (".tif", ".tiff")
# What an X-ray was before a video compressed it may differ between the channels by rounding alone.
_GRAY_TOLERANCE = 12
# Of a video, for those who go backwards.
_KEPT_FRAMES = 64


class FrameSequence(Protocol):
    """Frames of one camera.

    Attributes:
        path: where they come from.
        count: how many.
        frames_per_second: as the file tells; None where it does not.
    """

    path: Path
    count: int
    frames_per_second: float | None

    def frame(self, number: int) -> Radiograph:
        """A frame as stored, counted from 1; InputError where it cannot be read, or none has this number."""


@dataclass(frozen=True)
class FileSequence:
    """Frames in a file or folder, whatever its kind.

    Attributes:
        path: of it.
        count: how many.
        read: (rows, columns) pixels, or the whole X-ray, of the frame of a number from 1.
        frames_per_second: as the file tells; None where it does not.
    """

    path: Path
    count: int
    read: Callable[[int], np.ndarray | Radiograph]
    frames_per_second: float | None = None

    def frame(self, number: int) -> Radiograph:
        """See :class:`FrameSequence`."""
        if not 1 <= number <= self.count:
            raise InputError(f"sequence {self.path} has no frame {number}: it has 1 to {self.count}")
        found = self.read(number)
        if isinstance(found, Radiograph):
            return found
        return Radiograph(found, f"{self.path.name} frame {number}", metadata={})


def open_sequence(path: Path) -> FileSequence:
    """The frames of a multi-frame DICOM, an image stack, a video, or a folder of numbered pictures.

    Args:
        path: file or folder; a single picture is a sequence of one frame.

    Raises:
        InputError: missing, nothing in it that can be read, or numbers that leave one out.
    """
    if path.is_dir():
        return _folder(path)
    require_file(path, "sequence")
    suffix = path.suffix.lower()
    if suffix in VIDEOS:
        return _video(path)
    if is_dicom(path):
        return _dicom(path)
    if suffix in _TIFF:
        return _tiff(path)
    # NRRD, MHA and NIfTI are mostly compressed as a whole: they are read once, as stored, and kept.
    stack = read_frames(path)
    return FileSequence(path, len(stack), lambda number: stack[number - 1])


def _folder(path: Path) -> FileSequence:
    # A Mac's copies bring hidden ._files beside the pictures.
    pictures = [
        file
        for file in path.iterdir()
        if file.suffix.lower() in _PICTURES and file.is_file() and not file.name.startswith(".")
    ]
    if not pictures:
        raise InputError(
            f"sequence {path} holds no pictures: give a folder of numbered pictures "
            f"({', '.join(one.lstrip('.') for one in _PICTURES)})"
        )
    kinds = sorted({file.suffix.lower() for file in pictures})
    if len(kinds) > 1:
        raise InputError(f"sequence {path} holds pictures of several kinds ({', '.join(kinds)}): keep one")
    numbered: dict[int, Path] = {}
    for file in sorted(pictures):
        numbers = re.findall(r"\d+", file.stem)
        if not numbers:
            raise InputError(
                f"sequence {path}: {file.name} has no number: number the pictures in their order"
            )
        number = int(numbers[-1])
        if number in numbered:
            raise InputError(
                f"sequence {path}: {numbered[number].name} and {file.name} have the same number: keep one"
            )
        numbered[number] = file
    order = sorted(numbered)
    steps = np.diff(order)
    if len(steps) and (steps != (usual := int(np.median(steps)))).any():
        broken = int(np.flatnonzero(steps != usual)[0])
        raise InputError(
            f"sequence {path}: from {numbered[order[broken]].name} to {numbered[order[broken + 1]].name} the "
            f"numbers step by {steps[broken]}, else by {usual}: a picture is missing or does not belong there"
        )
    files = [numbered[number] for number in order]
    return FileSequence(path, len(files), lambda number: read_radiograph(files[number - 1]))


def _dicom(path: Path) -> FileSequence:
    """Its rate is that of Frame Time (0018,1063) or Cine Rate (0018,0040)."""
    count, rate = dicom.frames_of(path)

    def read(number: int) -> Radiograph:
        radiograph = dicom.read_dicom_radiograph(path, number)
        return replace(radiograph, name=f"{path.name} frame {number}")

    return FileSequence(path, count, read, rate)


def _tiff(path: Path) -> FileSequence:
    """Page by page: a large TIFF takes ITK a pass over the file for every page."""
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(path)
        count = int(getattr(image, "n_frames", 1))
    except (UnidentifiedImageError, OSError, ValueError):
        raise InputError(f"sequence {path} is not a TIFF that can be read: export it again") from None

    def read(number: int) -> np.ndarray:
        try:
            image.seek(number - 1)
            pixels = np.array(image)
        except (OSError, ValueError, EOFError):
            raise InputError(f"sequence {path}: frame {number} is damaged: export it again") from None
        return _gray(pixels, path, 0)

    return FileSequence(path, count, read)


def _video(path: Path) -> FileSequence:
    video = _Video(path)
    # Frames that were dropped or added in writing make the header's count a guess: they are counted.
    count = sum(1 for _ in video.frames())
    if not count:
        raise InputError(f"video {path} holds no frames: convert it to MP4 or pictures")
    return FileSequence(path, count, video.read, video.frames_per_second())


class _Video:
    """A video, through imageio's PyAV plug-in.

    Videos are made to be read forwards, and only so are all their frames sure to be met in their order. The
    last ones read are kept: whoever goes backwards begins anew once for so many.

    Args:
        path: the file.
    """

    def __init__(self, path: Path):
        self._path = path
        self._kept: dict[int, np.ndarray] = {}
        self._at, self._following = 0, iter(())

    def read(self, number: int) -> np.ndarray:
        """(rows, columns) of a frame that is there."""
        if number not in self._kept:
            if number <= self._at or self._at == 0:
                self._at, self._following = 0, self.frames()
            while self._at < number:
                self._at += 1
                self._kept[self._at] = next(self._following)
                self._kept.pop(self._at - _KEPT_FRAMES, None)
            self._kept = {key: one for key, one in self._kept.items() if key > self._at - _KEPT_FRAMES}
        return _gray(self._kept[number], self._path, _GRAY_TOLERANCE)

    def frames_per_second(self) -> float | None:
        """As the file tells."""
        rate = self._open().metadata().get("fps")
        return float(rate) if rate else None

    def frames(self) -> Iterator[np.ndarray]:
        """All from the first on.

        Raises:
            InputError: it cannot be read, or the plug-in is not installed.
        """
        try:
            video = self._open()
            yield from video.iter(format=_pixel_format(video.metadata()), thread_type="FRAME")
        except InputError:
            raise
        except (OSError, ValueError, EOFError, IndexError) as error:
            raise InputError(f"video {self._path} cannot be read ({error}): convert it to MP4") from None

    def _open(self):
        try:
            import av  # noqa: F401 (imageio says only "unavailable" where it is missing)
            import imageio.v3

            return imageio.v3.imopen(self._path, "r", plugin="pyav")
        except ModuleNotFoundError as error:
            raise InputError(
                f"video {self._path} needs the Python package '{error.name}': install imageio[pyav] or give "
                "the frames as pictures"
            ) from None
        except (OSError, ValueError) as error:
            raise InputError(f"video {self._path} cannot be read ({error}): convert it to MP4") from None


def _pixel_format(metadata: dict) -> str:
    """What to decode a video's frames to, that keeps all of its bits."""
    import av

    stored = str(metadata.get("video_format", "")).partition("(")[0]
    try:
        is_deep = max(component.bits for component in av.VideoFormat(stored).components) > 8
    except ValueError:
        return "rgb24"
    if stored.startswith("gray"):
        return "gray16le" if is_deep else "gray"
    return "rgb48le" if is_deep else "rgb24"


def _gray(pixels: np.ndarray, path: Path, tolerance: int) -> np.ndarray:
    """(rows, columns) of a picture that may have been saved in colours.

    Raises:
        InputError: it shows colours.
    """
    if pixels.ndim == 2:
        return pixels
    if pixels.shape[-1] == 2:
        return np.ascontiguousarray(pixels[..., 0])
    colours = pixels[..., :3].astype(np.int64)
    tolerance *= 2 ** (8 * (pixels.itemsize - 1))
    if (colours.max(axis=-1) - colours.min(axis=-1)).max() > tolerance:
        raise InputError(f"sequence {path} shows colours: give it in grayscale")
    return np.ascontiguousarray(pixels[..., 1])
