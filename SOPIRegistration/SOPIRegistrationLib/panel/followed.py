"""What a session's X-rays of several frames show, to be tracked through them."""

from __future__ import annotations

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.panel.session import Session
from SOPIRegistrationLib.scene.sequences import shown_sequence
from SOPIRegistrationLib.scene.tracking import Followed
from SOPIRegistrationLib.settings import RegistrationSettings


def followed(session: Session) -> Followed:
    """The bodies of a session with a prepared case, in its X-rays."""
    p = session.parameters
    transforms = {one.name: one.transform for one in session.bodies}
    settings = RegistrationSettings(polarity=p.polarity)
    return Followed(session.case, xrays_of(session), p.transform, settings, transforms)


def xrays_of(session: Session) -> list:
    """Nodes of the X-rays of a prepared case, in their order."""
    others = session.case.inputs.others
    return [session.parameters.xray, *(session.scene.GetNodeByID(one.node_id) for one in others)]


def frame_shown(session: Session) -> int:
    """Number of the frame, from 1, that all X-rays of a prepared case show.

    Raises:
        InputError: they show different ones.
    """
    frames = {one.node.GetID(): one.frame for one in session.state.xrays}
    frames[session.parameters.xray.GetID()] = session.parameters.frame
    shown = {}
    for node in xrays_of(session):
        _, browser = shown_sequence(session.scene, node)
        number = frames[node.GetID()] or 1
        shown[node.GetName()] = number if browser is None else browser.GetSelectedItemNumber() + 1
    if len(set(shown.values())) > 1:
        told = ", ".join(f"'{name}' frame {number}" for name, number in shown.items())
        raise InputError(
            f"the X-rays show different frames ({told}): synchronised ones have the same number, choose "
            "it in each and take it into the table again (Add)"
        )
    return next(iter(shown.values()))


def is_stack(scene, node) -> bool:
    """Whether a volume is one of several frames."""
    image = node.GetImageData()
    several = image is not None and image.GetDimensions()[2] > 1
    return several and shown_sequence(scene, node)[0] is None
