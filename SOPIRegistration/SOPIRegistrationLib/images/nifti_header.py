"""What a NIfTI header says of a volume's place, which ITK reads in part only.

ITK wants axes that are perpendicular: of a sheared sform it silently takes the rigid qform instead, or
refuses the file. Fields and their meaning: ``nifti1.h`` and ``nifti2.h`` of the NIfTI Data Format Working
Group (nifti.nimh.nih.gov).
"""

from __future__ import annotations

import contextlib
import gzip
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.images.shear import perpendicular_frame

NIFTI_SUFFIXES = (".nii", ".nii.gz", ".hdr", ".img", ".img.gz")
# Units of length (xyzt_units), in mm; anything else is taken for mm, as everybody does.
_UNITS_MM = {1: 1000.0, 2: 1.0, 3: 0.001}
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
# NIFTI_INTENT_LABEL, and the floating-point types by their codes.
_LABELS = 1002
_FLOATS = {16: "f4", 64: "f8"}
# Multiples of the types' sizes are read at once.
_BLOCK = 1 << 24
# How far two descriptions of one place may be apart.
_PLACE_MM, _TURN_DEG, _SIZE = 1e-3, 0.01, 1e-4


@dataclass(frozen=True)
class NiftiHeader:
    """The fields that tell where the voxels of a file lie.

    Attributes:
        shape: voxels along i, j, k and what follows.
        spacing: (3,) voxel size along i, j, k as stored (pixdim), mm.
        sform_code: 0 where there is no sform.
        qform_code: 0 where there is no qform.
        sform: (4, 4) index to LPS, mm.
        qform: the same.
        turn_tolerance_deg: rounding of the quaternion, which near a half turn is more than that of the rest.
        data_path: the file with the voxels, the .img of a pair.
        data_bytes: from its start to the end of the voxels.
        void_intercept: scl_inter of a scl_slope of 0, which says that nothing is scaled; ITK adds it.
        is_labels: whether the header's intent is that of a label map.
        floats: type of the voxels as stored, where they are floating-point numbers.
    """

    shape: tuple[int, ...]
    spacing: np.ndarray
    sform_code: int
    qform_code: int
    sform: np.ndarray
    qform: np.ndarray
    turn_tolerance_deg: float
    data_path: Path
    data_bytes: int
    void_intercept: float = 0.0
    is_labels: bool = False
    floats: np.dtype | None = None

    def not_finite(self) -> int:
        """How many voxels are no number or infinite: ITK makes zeros of them, which in a CT are water."""
        if self.floats is None:
            return 0
        size = self.floats.itemsize
        left, count = int(np.prod(self.shape, dtype=object)) * size, 0
        with _unpacked(self.data_path) as stream:
            stream.seek(self.data_bytes - left)
            while left and (block := stream.read(min(left, _BLOCK))):
                values = np.frombuffer(block[: len(block) // size * size], self.floats)
                count += int((~np.isfinite(values)).sum())
                left -= len(block)
        return count

    def require_sound_forms(self, path, what: str) -> None:
        """Refuse a place that is none; ITK never comes back from a form with an infinite number.

        Raises:
            InputError: the sform or qform is singular or no number.
        """
        for code, form, name in (
            (self.sform_code, self.sform, "sform"),
            (self.qform_code, self.qform, "qform"),
        ):
            if code > 0 and not (np.isfinite(form).all() and np.linalg.norm(form[:3, :3], axis=0).min() > 0):
                raise InputError(
                    f"{what} {path} has a {name} that is singular or no number: convert it again from the "
                    "DICOM files"
                )

    def index_to_lps(self, path, what: str) -> tuple[np.ndarray | None, tuple[str, ...]]:
        """Where the voxels lie, and what the user should know of it.

        Returns:
            (4, 4) index to LPS, mm, or None where the header does not say; notes.

        Raises:
            InputError: sform and qform contradict each other, or the one there is is damaged.
        """
        if self.sform_code <= 0 and self.qform_code <= 0:
            return None, (guessed_axes(path, what, "sform_code and qform_code are 0"),)
        self.require_sound_forms(path, what)
        if self.qform_code <= 0:
            return self.sform, ()
        if self.sform_code <= 0:
            return self.qform, ()
        differences = [self._difference(rigid) for rigid in _rigid_readings(self.sform)]
        if not all(differences):
            # The qform is what a rigid one can say of the sform, which may be sheared (a tilted gantry).
            return self.sform, ()
        difference = differences[0]
        if "size" not in difference and self.sform_code > self.qform_code:
            note = (
                f"{what} {path.name} has two places in its header, {difference} apart: the sform (code "
                f"{self.sform_code}) is taken, not the qform (code {self.qform_code})"
            )
            return self.sform, (note,)
        raise InputError(
            f"{what} {path} has two places in its header, sform (code {self.sform_code}) and qform (code "
            f"{self.qform_code}), {difference} apart: set the code of the wrong one to 0, or convert it "
            "again from the DICOM files"
        )

    def _difference(self, sform: np.ndarray) -> str:
        """How a rigid sform differs from the qform, in words; empty where it does not."""
        steps = [np.linalg.norm(form[:3, :3], axis=0) for form in (sform, self.qform)]
        if np.abs(steps[0] / steps[1] - 1).max() > _SIZE:
            sizes = [" x ".join(f"{step:.4g}" for step in one) for one in steps]
            return f"in voxel size ({sizes[0]} and {sizes[1]} mm)"
        relative = (sform[:3, :3] / steps[0]) @ (self.qform[:3, :3] / steps[1]).T
        # Of a small turn the sine is exact where the cosine is not.
        sine = np.linalg.norm(relative - relative.T) / np.sqrt(8)
        turn = float(np.degrees(np.arctan2(sine, (np.trace(relative) - 1) / 2)))
        if np.linalg.det(relative) < 0:
            return "mirrored and"
        shift = float(np.linalg.norm(sform[:3, 3] - self.qform[:3, 3]))
        reach = np.abs(sform[:3, 3]).max() * np.finfo(np.float32).eps
        words = []
        if turn > max(_TURN_DEG, self.turn_tolerance_deg):
            words.append(f"{turn:.3g} deg")
        if shift > _PLACE_MM + 2 * reach:
            words.append(f"{shift:.4g} mm")
        return " and ".join(words)


def guessed_axes(path: Path, what: str, why: str) -> str:
    """The note of a file without directions, which ITK, and with it Slicer, reads along its axes."""
    return (
        f"{what} {path.name} does not say how its axes lie in the patient ({why}): i, j, k are taken for "
        "left, posterior, superior, which is a guess"
    )


def read_nifti_header(path: Path) -> NiftiHeader | None:
    """The header of a NIfTI file (1 or 2, one file or the .hdr of a pair); None for any other file.

    Raises:
        OSError, EOFError: the file cannot be unpacked.
    """
    name = path.name.lower()
    if not name.endswith(NIFTI_SUFFIXES):
        return None
    header_path, data_path = path, path
    if ".img" in path.suffixes[-2:]:
        stem = path.name.removesuffix(".gz").removesuffix(".img")
        header_path = next(
            (file for suffix in (".hdr", ".hdr.gz") if (file := path.with_name(stem + suffix)).exists()), path
        )
    elif ".hdr" in path.suffixes[-2:]:
        stem = path.name.removesuffix(".gz").removesuffix(".hdr")
        data_path = next(
            (file for suffix in (".img", ".img.gz") if (file := path.with_name(stem + suffix)).exists()), path
        )
    with _unpacked(header_path) as stream:
        content = stream.read(540)
    for order in "<>":
        if len(content) >= 348 and struct.unpack_from(order + "i", content)[0] == 348:
            return _parse(content, order, _NIFTI_1, data_path)
        if len(content) == 540 and struct.unpack_from(order + "i", content)[0] == 540:
            return _parse(content, order, _NIFTI_2, data_path)
    return None


def is_nifti_2(path: Path) -> bool:
    """Whether a file begins as NIfTI-2 does: with 540, the size of its header."""
    try:
        with _unpacked(path) as stream:
            return stream.read(4) in (struct.pack("<i", 540), struct.pack(">i", 540))
    except (OSError, EOFError):
        return False


def _unpacked(path: Path):
    return gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb")


@contextlib.contextmanager
def any_axes_allowed() -> Iterator[None]:
    """Let ITK read the voxels of files whose axes it would refuse; their place is ours to know."""
    name = "ITK_NIFTI_SFORM_PERMISSIVE"
    before = os.environ.get(name)
    os.environ[name] = "YES"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


# Where the fields are: (format, offset) each.
_NIFTI_1 = {
    "dim": ("8h", 40),
    "intent": ("h", 68),
    "type": ("h", 70),
    "bits": ("h", 72),
    "pixdim": ("8f", 76),
    "offset": ("f", 108),
    "scaling": ("2f", 112),
    "units": ("B", 123),
    "qform_code": ("h", 252),
    "sform_code": ("h", 254),
    "quaternion": ("3f", 256),
    "offsets": ("3f", 268),
    "sform": ("12f", 280),
    "magic": ("4s", 344),
}
_NIFTI_2 = {
    "magic": ("4s", 4),
    "type": ("h", 12),
    "bits": ("h", 14),
    "dim": ("8q", 16),
    "pixdim": ("8d", 104),
    "offset": ("q", 168),
    "scaling": ("2d", 176),
    "qform_code": ("i", 344),
    "sform_code": ("i", 348),
    "quaternion": ("3d", 352),
    "offsets": ("3d", 376),
    "sform": ("12d", 400),
    "units": ("i", 500),
    "intent": ("i", 504),
}


def _parse(content: bytes, order: str, fields: dict, data_path: Path) -> NiftiHeader | None:
    found = {name: struct.unpack_from(order + form, content, at) for name, (form, at) in fields.items()}
    dim, pixdim = found["dim"], found["pixdim"]
    if not 1 <= dim[0] <= 7 or min(dim[1 : dim[0] + 1]) < 1:
        return None
    shape = tuple(int(n) for n in dim[1 : dim[0] + 1])
    magic = found["magic"][0][:3]
    is_nifti = magic[:1] == b"n" and magic[1:2] in (b"i", b"+")
    scale = _UNITS_MM.get(found["units"][0] & 7, 1.0) if is_nifti else 1.0
    slope, intercept = found["scaling"]
    offset = found["offset"][0] if np.isfinite(found["offset"][0]) else 0
    data_bytes = int(offset) + int(np.prod(shape, dtype=object)) * found["bits"][0] // 8
    with np.errstate(all="ignore"):
        sform = np.eye(4)
        sform[:3] = np.reshape(found["sform"], (3, 4))
        qform, tolerance = _qform(np.array(found["quaternion"]), pixdim, found["offsets"])
        for form in (sform, qform):
            form[:3] *= scale
        return NiftiHeader(
            shape,
            np.array(pixdim[1 : min(dim[0], 3) + 1], dtype=np.float64) * scale,
            # An Analyze header has other things in these places.
            found["sform_code"][0] if is_nifti else 0,
            found["qform_code"][0] if is_nifti else 0,
            _RAS_TO_LPS @ sform,
            _RAS_TO_LPS @ qform,
            tolerance,
            data_path,
            data_bytes,
            float(intercept) if is_nifti and slope == 0 and np.isfinite(intercept) else 0.0,
            is_nifti and found["intent"][0] == _LABELS,
            np.dtype(order + _FLOATS[found["type"][0]]) if found["type"][0] in _FLOATS else None,
        )


def _qform(bcd: np.ndarray, pixdim, offsets) -> tuple[np.ndarray, float]:
    """(4, 4) index to RAS of quaternion, voxel sizes and offsets; rounding of its turn, degrees."""
    b, c, d = bcd.astype(np.float64)
    square = 1 - (b * b + c * c + d * d)
    if square < 1e-7:
        a = 0.0
        b, c, d = np.array([b, c, d]) / np.sqrt(b * b + c * c + d * d)
    else:
        a = np.sqrt(square)
    epsilon = np.finfo(np.float32).eps
    tolerance = float(np.degrees(4 * epsilon / max(a, np.sqrt(epsilon))))
    form = np.eye(4)
    form[:3, :3] = [
        [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
        [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
        [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
    ]
    # pixdim[0] holds the handedness; anything but -1 counts as 1.
    form[:3, :3] *= np.array(pixdim[1:4]) * [1, 1, -1 if pixdim[0] == -1 else 1]
    form[:3, 3] = offsets
    return form, tolerance


def _rigid_readings(form: np.ndarray) -> list[np.ndarray]:
    """What writers put into a qform for an affine: itself, where it is not sheared.

    Of a sheared one the rotation nearest to its axes, or slices stacked along their normal, as far apart as
    their first voxels or as their planes.
    """
    axes = form[:3, :3]
    lengths = np.linalg.norm(axes, axis=0)
    u, _, vt = np.linalg.svd(axes / lengths)
    frame, steps = perpendicular_frame(axes)
    readings = []
    for rotation, sizes in ((u @ vt, lengths), (frame, lengths), (frame, steps)):
        rigid = form.copy()
        rigid[:3, :3] = rotation * sizes
        readings.append(rigid)
    return readings
