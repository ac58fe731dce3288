"""Pictures (PNG, TIFF, JPEG, BMP) that are to be shown otherwise than they are stored."""

from __future__ import annotations

from pathlib import Path

from SOPIRegistrationLib.errors import InputError

# ITK's names of the readers of formats without a voxel size along the third axis.
PICTURE_READERS = ("TIFFImageIO", "PNGImageIO", "JPEGImageIO", "JPEG2000ImageIO", "BMPImageIO", "LSMImageIO")
_ORIENTATION = 0x0112
_UPRIGHT = 1


def require_upright(path: Path) -> None:
    """Refuse a picture whose header (EXIF, TIFF) turns or mirrors it: some readers follow it, others do not.

    Raises:
        InputError: its Orientation is another than upright.
    """
    # Here, for few X-rays are pictures.
    from PIL import Image

    try:
        with Image.open(path) as picture:
            orientation = picture.getexif().get(_ORIENTATION, _UPRIGHT)
    except Exception:  # Pillow raises whatever it trips over; ITK says what is wrong with the file
        return
    if orientation != _UPRIGHT:
        raise InputError(
            f"X-ray {path} is stored turned or mirrored (Orientation {orientation} in its header), which "
            "programs follow or not: save it again as it is to be seen"
        )
