"""The view of an X-ray in its DICOM tags, and how its picture was stored (C.7.6.1.1.1, C.8.7.5, C.8.11.5)."""

from __future__ import annotations

from typing import Any

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry.dicom_tag_values import ASK_VIEW, NAMES, UNREADABLE_ANGLES, Tags
from SOPIRegistrationLib.geometry.values import Values
from SOPIRegistrationLib.geometry.views import is_direction, nominal_view_from_angles, view_of_orientation

# View Position: the side towards the detector for the laterals, the beam's way for the others.
_VIEWS = {"AP": "AP", "PA": "PA", "LL": "LLAT", "RL": "RLAT", "LLAT": "LLAT", "RLAT": "RLAT"}
# SNOMED CT's and SNOMED-RT's codes of the same (PS3.16 CID 4010).
_VIEW_CODES = {
    "399348003": "AP",
    "R-10206": "AP",
    "272479007": "PA",
    "R-10214": "PA",
    "399173006": "LLAT",
    "R-10236": "LLAT",
    "399198007": "RLAT",
    "R-10232": "RLAT",
}
# A view, or the error that using it raises; and its source.
View = tuple[Any, str]


def view_of_tags(tags: Tags) -> Values:
    """The view and how the image was stored; an InputError as the view where a tag only half tells it."""
    written = tags.text("PatientOrientation")
    orientation = tuple(written.split("\\")) if written else ()
    usable = len(orientation) == 2 and all(is_direction(one) for one in orientation)
    values: Values = {}
    if usable:
        values["patient_orientation"] = orientation, "DICOM"
    elif orientation:
        values["patient_orientation"] = (
            None,
            f"DICOM {NAMES['PatientOrientation']} '{written}' does not tell: taken as not mirrored",
        )
    view = (
        _of_angles(tags)
        or _stated_view(tags)
        or _of_orientation(tags, written, orientation if usable else None)
        or _of_the_room(tags)
    )
    return values if view is None else {**values, "view": view}


def _of_angles(tags: Tags) -> View | None:
    primary, secondary = (tags.angle(f"Positioner{which}Angle") for which in ("Primary", "Secondary"))
    for angle in (primary, secondary):
        if isinstance(angle, InputError):
            return angle, UNREADABLE_ANGLES
    if primary is None:
        return None
    said = f"{secondary:g}" if secondary is not None else "none, taken as 0"
    rotation = nominal_view_from_angles(primary, secondary or 0.0)
    return rotation, f"DICOM positioner angles {primary:g} and {said} deg"


def _stated_view(tags: Tags) -> View | None:
    """The view that a radiographer's tags name, an error where they name another; None without them."""
    position, code = tags.text("ViewPosition"), tags.text("ViewCodeSequence")
    if position in _VIEWS:
        return _VIEWS[position], "DICOM View Position"
    if code.partition("\\")[0] in _VIEW_CODES:
        return _VIEW_CODES[code.partition("\\")[0]], "DICOM View Code"
    for keyword, written in (("ViewPosition", position), ("ViewCodeSequence", code)):
        if written:
            return tags.unusable(keyword, "AP, PA, left or right lateral", "view"), "DICOM"
    return None


def _of_orientation(tags: Tags, written: str, orientation: tuple[str, ...] | None) -> View | None:
    """From two directions, or None where they cannot be read; nothing where nothing is ``written``."""
    if not written:
        return None
    view = None if orientation is None else view_of_orientation(orientation)
    if view is not None:
        return view, "default for DICOM Patient Orientation"
    error = InputError(
        f"{tags.image_name}: {NAMES['PatientOrientation']} is '{written}', which does not tell the view: "
        f"{ASK_VIEW}"
    )
    return error, "DICOM"


def _of_the_room(tags: Tags) -> View | None:
    if not tags.text("PositionerIsocenterPrimaryAngle"):
        return None
    error = InputError(
        f"{tags.image_name} tells the C-arm's angles against the room alone "
        f"({NAMES['PositionerIsocenterPrimaryAngle']}), not against the patient: {ASK_VIEW}"
    )
    return error, "DICOM"
