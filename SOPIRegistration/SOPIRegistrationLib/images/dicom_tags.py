"""Values of DICOM tags as they are, whether well written or not."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator

from pydicom.datadict import dictionary_description, tag_for_keyword

# A number where the tag holds one, else its text; a list of several.
Value = float | str | list


@contextlib.contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Keep what pydicom says of odd values away from the user: what matters of it is said by name."""
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def tag_name(keyword: str) -> str:
    """A tag as messages name it: Rows (0028,0010)."""
    tag = tag_for_keyword(keyword)
    return f"{dictionary_description(keyword)} ({tag >> 16:04X},{tag & 0xFFFF:04X})"


def frame_value(dataset, keyword: str, index: int) -> Value | None:
    """A value of a frame: from its own functional groups, the shared ones, or the data set itself.

    Args:
        dataset: pydicom data set.
        keyword: of the tag.
        index: of the frame, from 0.
    """
    for groups, item in (
        ("PerFrameFunctionalGroupsSequence", index),
        ("SharedFunctionalGroupsSequence", 0),
    ):
        items = sequence_items(dataset, groups)
        if len(items) > item:
            value = _nested_value(items[item], keyword)
            if value is not None:
                return value
    return plain_value(dataset, keyword)


def sequence_items(dataset, keyword: str) -> list:
    """Items of a sequence; none where it is absent, damaged or no sequence."""
    return _tag_items(dataset, tag_for_keyword(keyword))


def _tag_items(dataset, tag) -> list:
    if tag not in dataset or dataset.get_item(tag).VR not in ("SQ", None):
        return []
    try:
        element = dataset[tag]
        return list(element.value or []) if element.VR == "SQ" else []
    except Exception:  # pydicom raises whatever its parser trips over
        return []


def _nested_value(dataset, keyword: str) -> Value | None:
    value = plain_value(dataset, keyword)
    if value is not None:
        return value
    for tag in sorted(dataset.keys()):
        for item in _tag_items(dataset, tag):
            value = _nested_value(item, keyword)
            if value is not None:
                return value
    return None


def plain_value(dataset, keyword: str) -> Value | None:
    """A number, a text, a list of either, or None where there is none; never an error of the parser's."""
    tag = tag_for_keyword(keyword)
    if tag not in dataset:
        return None
    try:
        value = dataset[tag].value
    except Exception:  # the parser trips over the text of a number: the text is what the user has to mend
        raw = dataset.get_item(tag).value
        value = raw.decode("latin-1") if isinstance(raw, bytes) else str(raw)
        value = value.strip("\0 ").split("\\")
    if isinstance(value, str) or not hasattr(value, "__len__"):
        return _plain(value)
    values = [_plain(one) for one in value]
    if all(one is None for one in values):
        return None
    return values if len(values) > 1 else values[0]


def _plain(value) -> float | str | None:
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        # A text that is a number is not meant as one: pydicom has made floats of the numbers.
        return str(value).strip() if isinstance(value, str) else float(value)
    except (TypeError, ValueError):
        return str(value)
