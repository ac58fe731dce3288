"""Which files are DICOM; told without pydicom, which takes longer to load than most X-rays."""

from __future__ import annotations

from pathlib import Path

# Old files begin at once with their first group: meta information, or the data set itself.
_FIRST_GROUPS = (b"\x02\x00", b"\x08\x00")


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM: by its preamble, or without one by naming the kind of its object."""
    with path.open("rb") as stream:
        start = stream.read(132)
    return start[128:] == b"DICM" or (start[:2] in _FIRST_GROUPS and _names_its_kind(path))


def _names_its_kind(path: Path) -> bool:
    import pydicom

    from SOPIRegistrationLib.images.dicom_tags import quiet_pydicom

    with quiet_pydicom():
        try:
            return "SOPClassUID" in pydicom.dcmread(path, force=True, specific_tags=["SOPClassUID"])
        except Exception:  # pydicom raises whatever its parser trips over
            return False
