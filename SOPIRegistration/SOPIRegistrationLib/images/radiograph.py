"""X-ray images and the camera that took them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry.camera import Camera


@dataclass(frozen=True)
class Radiograph:
    """One X-ray frame as it was stored.

    Attributes:
        pixels: (rows, columns) stored values, any real dtype.
        name: where it came from, for messages.
        bone_dark: whether bone is darker than soft tissue where the file says so (DICOM Pixel Intensity
            Relationship and its Sign); None where it must be detected.
        metadata: geometry tags of the file, by keyword; empty where the file has none.
        bone_dark_expected: the same where the file only says how the image is displayed: tried first, the
            other polarity after it; None where nothing is to be expected.
        seen: (rows, columns) bool, where the stored picture has something; None for everywhere.
    """

    pixels: np.ndarray
    name: str = ""
    bone_dark: bool | None = None
    metadata: dict | None = None
    bone_dark_expected: bool | None = None
    seen: np.ndarray | None = None

    def mirrored(self) -> Radiograph:
        """The X-ray turned over, left for right."""
        seen = None if self.seen is None else self.seen[:, ::-1]
        return replace(self, pixels=self.pixels[:, ::-1], seen=seen)


@dataclass(frozen=True)
class PreparedRadiograph:
    """An X-ray ready to be compared with DRRs.

    Attributes:
        image: (rows, columns) float32, proportional (up to an unknown monotone curve) to the line integral
            of attenuation: bone BRIGHT. Finite everywhere.
        valid: (rows, columns) bool, False outside the intensifier circle or collimator, on saturated or
            unexposed pixels and on burnt-in markers.
        camera: geometry of ``image``'s own pixels.
        name: where it came from, for messages.
        bone_dark: whether bone is dark in the X-ray as stored.
        other_polarity: prepares the same X-ray with bright and dark exchanged, where which is bone was only
            detected and may be wrong; None where it is known.
    """

    image: np.ndarray
    valid: np.ndarray
    camera: Camera
    name: str = ""
    other_polarity: Callable[[], PreparedRadiograph] | None = field(default=None, repr=False)
    bone_dark: bool = False

    @property
    def polarity(self) -> str:
        """Of the X-ray as stored, "bone-dark" or "bone-bright"."""
        return "bone-dark" if self.bone_dark else "bone-bright"

    def on_pixels(self, image: np.ndarray, valid: np.ndarray, camera: Camera) -> PreparedRadiograph:
        """The same X-ray on other pixels, a part of it or coarser ones; nothing else is tried of it."""
        return replace(self, image=image, valid=valid, camera=camera, other_polarity=None)

    def in_camera(self, camera: Camera) -> PreparedRadiograph:
        """The same pixels, taken by a camera of other intrinsics."""
        other = self.other_polarity
        return replace(
            self,
            camera=camera,
            other_polarity=None if other is None else lambda: other().in_camera(camera),
        )

    def mirrored(self) -> PreparedRadiograph:
        """The X-ray turned over, left for right: of one stored mirrored, what is seen from the source."""
        other = self.other_polarity
        return replace(
            self,
            image=np.ascontiguousarray(self.image[:, ::-1]),
            valid=np.ascontiguousarray(self.valid[:, ::-1]),
            camera=self.camera.mirrored(),
            other_polarity=None if other is None else lambda: other().mirrored(),
        )


def chosen_frame(frame: int | None, frames: int, path) -> int:
    """Index from 0 of the frame numbered ``frame`` from 1, as DICOM numbers them.

    Raises:
        InputError: there are several and none is chosen, or none has this number.
    """
    if frame is None and frames == 1:
        return 0
    if frame is None:
        raise InputError(
            f"X-ray {path} has {frames} frames: choose one with --frame 1 to {frames}; a CT is named "
            "first, of several the X-rays after --xrays"
        )
    if not 1 <= frame <= frames:
        raise InputError(f"X-ray {path} has no frame {frame}: choose --frame 1 to {frames}")
    return frame - 1
