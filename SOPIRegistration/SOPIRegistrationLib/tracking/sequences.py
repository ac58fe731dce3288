"""X-ray sequences in files: frames of one camera in their order, read one at a time."""

from __future__ import annotations

import re
from collections.abc import Iterator
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
        """A frame as stored, counted from 1.

        Raises:
            InputError: it cannot be read, or none has this number.
        """


def open_sequence(path: Path) -> FrameSequence:
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
        return VideoFrames(path)
    if is_dicom(path):
        return _dicom(path)
    if suffix in _TIFF:
        return TiffFrames(path)
    return StackFrames(path)


def require_frame(sequence: FrameSequence, number: int) -> None:
    """Refuse a number that no frame has.

    Raises:
        InputError: there is no such frame.
    """
    if not 1 <= number <= sequence.count:
        raise InputError(f"sequence {sequence.path} has no frame {number}: it has 1 to {sequence.count}")


@dataclass(frozen=True)
class PictureFrames:
    """A folder's pictures, a file each.

    Attributes:
        path: the folder.
        files: in the order of their numbers.
    """

    path: Path
    files: tuple[Path, ...]
    frames_per_second: float | None = None

    @property
    def count(self) -> int:
        """How many."""
        return len(self.files)

    def frame(self, number: int) -> Radiograph:
        """See :class:`FrameSequence`."""
        require_frame(self, number)
        return read_radiograph(self.files[number - 1])


def _folder(path: Path) -> PictureFrames:
    pictures = [file for file in path.iterdir() if file.suffix.lower() in _PICTURES and file.is_file()]
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
    return PictureFrames(path, tuple(numbered[number] for number in order))


@dataclass(frozen=True)
class DicomFrames:
    """A multi-frame DICOM file.

    Attributes:
        path: the file.
        count: of its frames.
        frames_per_second: by Frame Time (0018,1063) or Cine Rate (0018,0040).
    """

    path: Path
    count: int
    frames_per_second: float | None

    def frame(self, number: int) -> Radiograph:
        """See :class:`FrameSequence`."""
        require_frame(self, number)
        radiograph = dicom.read_dicom_radiograph(self.path, number)
        return replace(radiograph, name=f"{self.path.name} frame {number}")


def _dicom(path: Path) -> DicomFrames:
    count, rate = dicom.frames_of(path)
    return DicomFrames(path, count, rate)


class TiffFrames:
    """A TIFF of several pages, read page by page.

    Args:
        path: the file.

    Raises:
        InputError: it cannot be read.
    """

    frames_per_second = None

    def __init__(self, path: Path):
        # A large TIFF takes ITK a pass over the file for every page.
        from PIL import Image, UnidentifiedImageError

        self.path = path
        try:
            self._image = Image.open(path)
            self.count = int(getattr(self._image, "n_frames", 1))
        except (UnidentifiedImageError, OSError, ValueError):
            raise InputError(f"sequence {path} is not a TIFF that can be read: export it again") from None

    def frame(self, number: int) -> Radiograph:
        """See :class:`FrameSequence`."""
        require_frame(self, number)
        name = f"{self.path.name} frame {number}"
        try:
            self._image.seek(number - 1)
            pixels = np.array(self._image)
        except (OSError, ValueError, EOFError):
            raise InputError(f"sequence {self.path}: frame {number} is damaged: export it again") from None
        return Radiograph(_gray(pixels, self.path, 0), name, metadata={})


class StackFrames:
    """An NRRD, MHA or NIfTI of several slices, a frame each, or any single picture.

    These files are mostly compressed as a whole: the stack is read once, as stored, and kept.

    Args:
        path: the file.

    Raises:
        InputError: it cannot be read.
    """

    frames_per_second = None

    def __init__(self, path: Path):
        self.path = path
        self._frames = read_frames(path)
        self.count = len(self._frames)

    def frame(self, number: int) -> Radiograph:
        """See :class:`FrameSequence`."""
        require_frame(self, number)
        return Radiograph(self._frames[number - 1], f"{self.path.name} frame {number}", metadata={})


class VideoFrames:
    """A video, through imageio's PyAV plug-in.

    Videos are made to be read forwards, and only so are all their frames sure to be met in their order. The
    last ones read are kept: whoever goes backwards begins anew once for so many.

    Args:
        path: the file.

    Raises:
        InputError: it cannot be read, or the plug-in is not installed.
    """

    def __init__(self, path: Path):
        self.path = path
        self._kept: dict[int, np.ndarray] = {}
        self._at, self._following = 0, iter(())
        # Frames that were dropped or added in writing make the header's count a guess: they are counted.
        self.count = sum(1 for _ in self._frames())
        if not self.count:
            raise InputError(f"video {path} holds no frames: convert it to MP4 or pictures")
        rate = self._open().metadata().get("fps")
        self.frames_per_second = float(rate) if rate else None

    def frame(self, number: int) -> Radiograph:
        """See :class:`FrameSequence`."""
        require_frame(self, number)
        if number not in self._kept:
            if number <= self._at:
                self._at, self._following = 0, self._frames()
            elif self._at == 0:
                self._following = self._frames()
            while self._at < number:
                self._at += 1
                self._kept[self._at] = next(self._following)
                self._kept.pop(self._at - _KEPT_FRAMES, None)
            self._kept = {key: one for key, one in self._kept.items() if key > self._at - _KEPT_FRAMES}
        pixels = _gray(self._kept[number], self.path, _GRAY_TOLERANCE)
        return Radiograph(pixels, f"{self.path.name} frame {number}", metadata={})

    def _frames(self) -> Iterator[np.ndarray]:
        try:
            yield from self._open().iter(thread_type="FRAME")
        except (OSError, ValueError, EOFError, IndexError) as error:
            raise InputError(f"video {self.path} cannot be read ({error}): convert it to MP4") from None

    def _open(self):
        try:
            import av  # noqa: F401 (imageio says only "unavailable" where it is missing)
            import imageio.v3

            return imageio.v3.imopen(self.path, "r", plugin="pyav")
        except ModuleNotFoundError as error:
            raise InputError(
                f"video {self.path} needs the Python package '{error.name}': install imageio[pyav] or give "
                "the frames as pictures"
            ) from None
        except (OSError, ValueError) as error:
            raise InputError(f"video {self.path} cannot be read ({error}): convert it to MP4") from None


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
    if (colours.max(axis=-1) - colours.min(axis=-1)).max() > tolerance:
        raise InputError(f"sequence {path} shows colours: give it in grayscale")
    return np.ascontiguousarray(pixels[..., 1])
