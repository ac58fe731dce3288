"""What may stand together in the tables of bodies and of X-rays, whoever fills them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import vtk

from SOPIRegistrationLib import scene as bridge
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.images.overlay import BODY_COLOURS
from SOPIRegistrationLib.registration.body_inputs import BY_KIND, FIXED, FREE
from SOPIRegistrationLib.scene import BodyEntry, RegistrationState, XrayEntry

_NOT_CALIBRATED = (
    "X-rays of a C-arm that was moved between them cannot be combined: where it stood for one is not known "
    "with respect to the other. Load a geometry with a camera for each X-ray (C-arm, Load…), all in one world"
)


def with_body(entries: Sequence[BodyEntry], node, ct, xray) -> list[BodyEntry]:
    """The bodies with those of one more node: a CT, a model, or the visible segments of the CT.

    Args:
        entries: the bodies so far.
        node: volume, model or segmentation.
        ct: the CT that is chosen; None for none.
        xray: the X-ray that is chosen.

    Raises:
        InputError: it does not go with what is there.
    """
    entries = list(entries)
    has_ct = any(one.node is None for one in entries)
    if node is xray or any(node is one.node for one in entries):
        raise InputError(f"'{node.GetName()}' is chosen already: choose another node")
    if node is ct and (has_ct or not entries or any(one.segment for one in entries)):
        raise InputError(f"'{node.GetName()}' is chosen already, as the CT: choose another node")
    if bridge.is_own(node):
        raise InputError(
            f"'{node.GetName()}' was made by this module: choose a segmentation, CT or model of your own"
        )
    if ct is None and not node.IsA("vtkMRMLModelNode"):
        raise InputError("no CT is chosen: choose the CT first, then what else moves")
    if node.IsA("vtkMRMLSegmentationNode"):
        entries = [*_parts(node, entries), *(one for one in entries if one.node is not None)]
    elif node is ct:
        entries = [BodyEntry(None, "", ct.GetName(), _colour(len(entries))), *entries]
    else:
        if not entries and ct is not None:
            entries = [BodyEntry(None, "", ct.GetName(), _colour(0))]
        entries = [*entries, BodyEntry(node, "", node.GetName(), _colour(len(entries)))]
    return _with_own_names(entries)


def with_xray(state: RegistrationState, entry: XrayEntry) -> list[XrayEntry]:
    """The X-rays of a calibrated set with one more, in place of what is known of its node.

    Args:
        state: what the scene keeps of the set.
        entry: the X-ray.

    Raises:
        InputError: it has no place in a world that it shares with others, or its camera is taken.
    """
    if state.calibrated_set is None:
        raise InputError(_NOT_CALIBRATED)
    known = [camera.name for camera in state.calibrated_set.cameras]
    if entry.camera not in known:
        raise InputError(
            f"it is not known which camera took '{entry.node.GetName()}': choose one of {', '.join(known)}"
        )
    others = [one for one in state.xrays if one.node is not entry.node]
    taken = [one.node.GetName() for one in others if one.camera == entry.camera]
    if taken:
        raise InputError(
            f"camera '{entry.camera}' has X-ray '{taken[0]}' in the table already: choose the camera "
            f"that took '{entry.node.GetName()}'"
        )
    return [*others, entry]


def _parts(node, entries: list[BodyEntry]) -> list[BodyEntry]:
    """The segments of a node that cuts up the CT, as bodies.

    Raises:
        InputError: there is none, or another node does that already.
    """
    if any(one.segment for one in entries):
        raise InputError("a segmentation cuts up the CT already: remove its segments first")
    parts = [BodyEntry(node, *part) for part in _segments(node)]
    if not parts:
        raise InputError(f"segmentation '{node.GetName()}' has no visible segment: show those of bodies")
    return parts


def _segments(node) -> list[tuple[str, str, tuple[float, float, float]]]:
    """(ID, name, colour) of the visible segments."""
    ids = vtk.vtkStringArray()
    if node.GetDisplayNode() is None:
        node.GetSegmentation().GetSegmentIDs(ids)
    else:
        node.GetDisplayNode().GetVisibleSegmentIDs(ids)
    found = [ids.GetValue(index) for index in range(ids.GetNumberOfValues())]
    segments = [(one, node.GetSegmentation().GetSegment(one)) for one in found]
    return [(one, segment.GetName(), tuple(segment.GetColor())) for one, segment in segments]


def _with_own_names(entries: list[BodyEntry]) -> list[BodyEntry]:
    """The bodies, those of a name that another one has with a number behind it."""
    named: list[BodyEntry] = []
    for one in entries:
        names, name, number = {other.name for other in named}, one.name, 1
        while name in names or name in (FREE, FIXED, BY_KIND):
            number += 1
            name = f"{one.name} {number}"
        named.append(replace(one, name=name))
    return named


def _colour(number: int) -> tuple[float, float, float]:
    return tuple(float(value) for value in BODY_COLOURS[number % len(BODY_COLOURS)])
