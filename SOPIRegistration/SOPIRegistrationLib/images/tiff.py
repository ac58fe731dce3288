"""TIFFs of kinds that ITK reads otherwise than they are stored, and says nothing: which they are, and their
pixels.

ITK takes all pages to be like the first, gray with transparency for one row of grays, half floats for
integers, and makes eight bits of tiles that hold more. Fields and their meaning: *TIFF Revision 6.0*, 1992.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from SOPIRegistrationLib.errors import InputError

_IS_REDUCED = 1
_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3
# Bits of a value and its format, as ITK reads them; fewer than eight are spread over a byte.
_READ_RIGHT = {
    *((bits, _UNSIGNED) for bits in (1, 2, 4, 8, 16, 32)),
    *((bits, _SIGNED) for bits in (8, 16, 32)),
    (32, _FLOAT),
}
_GRAY_MODES = ("L", "LA", "I", "I;16", "I;16B", "I;16L", "F")


@dataclass(frozen=True)
class TiffPage:
    """What a page's directory says of its pixels.

    Attributes:
        number: among all directories of the file, from 0.
        size: columns, rows.
        bits: of a value.
        form: Sample Format: unsigned, signed or floating-point.
        samples: values a pixel.
        photometric: Photometric Interpretation.
        is_in_parts: whether they are stored in tiles, not strips, or each colour for itself.
        is_reduced: whether it is a smaller copy of another page.
    """

    number: int
    size: tuple[int, int]
    bits: int
    form: int
    samples: int
    photometric: int
    is_in_parts: bool
    is_reduced: bool


def itk_reads_right(pages: list[TiffPage], index: int) -> bool:
    """Whether ITK gives the pixels of a page as they are stored.

    Args:
        pages: of the file.
        index: of the page among them.
    """
    page, first = pages[index], pages[0]
    is_like_first = replace(page, number=0) == replace(first, number=0)
    is_known = (page.bits, page.form) in _READ_RIGHT and page.samples in (1, 3, 4)
    is_wide_part = page.is_in_parts and (page.bits > 8 or page.samples > 1)
    # Smaller copies before it would be counted.
    return is_like_first and is_known and not is_wide_part and page.number == index


def tiff_pages(path: Path) -> list[TiffPage]:
    """The pages of a TIFF, smaller copies left out; none of any other file, or of one that is damaged."""
    try:
        return [page for page in _directories(path) if not page.is_reduced]
    except Exception:  # Pillow raises whatever it trips over; who reads the pixels says what is wrong
        return []


def _directories(path: Path) -> Iterator[TiffPage]:
    # Here, for few X-rays are pictures.
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    with path.open("rb") as stream:
        start = stream.read(8)
        if 43 in start[2:4]:
            # Of more than 4 GB, offsets are longer.
            start += stream.read(8)
        following, number = ImageFileDirectory_v2(start).next, 0
        seen: set[int] = set()
        while following and following not in seen:
            seen.add(following)
            stream.seek(following)
            fields = ImageFileDirectory_v2(start)
            fields.load(stream)
            yield TiffPage(
                number,
                (int(fields[256]), int(fields[257])),
                int(np.ravel(fields.get(258, 1))[0]),
                # Of an undefined format everybody takes them for unsigned.
                {4: _UNSIGNED}.get(form := int(np.ravel(fields.get(339, _UNSIGNED))[0]), form),
                int(fields.get(277, 1)),
                int(fields.get(262, 1)),
                322 in fields or (int(fields.get(277, 1)) > 1 and int(fields.get(284, 1)) == 2),
                bool(int(fields.get(254, 0)) & _IS_REDUCED),
            )
            following, number = fields.next, number + 1


def read_tiff_page(path: Path, page: TiffPage) -> np.ndarray:
    """(rows, columns) or (rows, columns, colours) of a page that ITK does not read right, as stored.

    Raises:
        InputError: Pillow does not, either.
    """
    from PIL import Image

    try:
        with Image.open(path) as picture:
            picture.seek(page.number)
            pixels = np.array(picture.convert("RGB") if picture.mode == "P" else picture)
            is_gray = picture.mode in _GRAY_MODES
    except Exception:  # Pillow raises whatever it trips over
        raise _unreadable(path, page) from None
    # Pillow knows neither signed bytes nor colours of more than eight bits.
    if (page.bits, page.form) == (8, _SIGNED) or (page.bits > 8 and not is_gray):
        raise _unreadable(path, page)
    return pixels[..., 0] if pixels.shape[-1] == 2 and pixels.ndim == 3 else pixels


def _unreadable(path: Path, page: TiffPage) -> InputError:
    form = {_UNSIGNED: "unsigned", _SIGNED: "signed", _FLOAT: "floating-point"}.get(page.form, "unknown")
    return InputError(
        f"X-ray {path} keeps its pixels in a way that cannot be read ({page.samples} x {page.bits} bits, "
        f"{form}{', in parts' if page.is_in_parts else ''}): save it as grayscale of 8 or 16 bits"
    )
