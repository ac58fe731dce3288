"""Several bodies in the scene: each under a transform of its own, which the common one carries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from SOPIRegistrationLib.scene.bones_model import COLOUR, remove_bones, show_bones
from SOPIRegistrationLib.scene.nodes import remove_node
from SOPIRegistrationLib.scene.pose import attach, own_transforms, relative_of, set_centre, set_relative
from SOPIRegistrationLib.scene.state import BodyEntry
from SOPIRegistrationLib.subject.bodies import Bodies


def with_transforms(scene, entries: Sequence[BodyEntry]) -> list[BodyEntry]:
    """The bodies with a transform each, made where there is none yet; one alone moves with the common one."""
    if len(entries) == 1 and not entries[0].segment:
        return list(entries)
    return [
        one
        if one.transform is not None
        else replace(
            one, transform=scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", f"{one.name} in CT")
        )
        for one in entries
    ]


def attach_bodies(common, entries: Sequence[BodyEntry], ct_nodes) -> None:
    """Put every body under its transform, and these under the common one.

    Args:
        common: the registration's transform.
        entries: the bodies; without any, or of one alone, all is carried by the common transform.
        ct_nodes: the CT and what belongs to it. Where it is a body as a whole it moves with that one, else as
            the piece that bodies have left.
    """
    ct_body = next((one for one in entries if one.node is None), None)
    attach(common, *(ct_nodes if ct_body is None else ()))
    for one in entries:
        nodes = ct_nodes if one is ct_body else () if one.segment else (one.node,)
        if one.transform is None:
            attach(common, *nodes)
        else:
            attach(one.transform, *nodes, common=common)


def show_bodies(scene, common, bodies: Bodies, entries: Sequence[BodyEntry]) -> list:
    """Show what is registered as surfaces that move with it, each body in its colour.

    Args:
        scene: the MRML scene.
        common: the registration's transform.
        bodies: as prepared.
        entries: with their transforms; none where all is one piece. A body whose node has left the scene has
            none, and is not shown.

    Returns:
        The model nodes, that of the first body first.
    """
    if not entries:
        shown = [show_bones(scene, bodies.bodies[0].subject.ct.bone, common)]
        remove_bones(scene, shown)
        return shown
    shown = []
    by_name = {one.name: one for one in entries}
    for body in bodies.bodies:
        if (entry := by_name.get(body.name)) is None:
            continue
        carried_by = entry.transform or common
        set_centre(carried_by, body.centre_lps_mm)
        if entry.node is not None and entry.node.IsA("vtkMRMLModelNode"):
            entry.node.CreateDefaultDisplayNodes()
            entry.node.GetDisplayNode().SetColor(*entry.colour)
            shown.append(entry.node)
        else:
            bone = body.subject.ct.bone
            above = None if entry.transform is None else common
            shown.append(show_bones(scene, bone, carried_by, body.name, entry.colour, above))
    if bodies.rest is not None and bodies.rest.subject.ct.bone.array.any():
        shown.append(show_bones(scene, bodies.rest.subject.ct.bone, common, "", COLOUR))
    remove_bones(scene, shown)
    return shown


def relative_poses(entries: Sequence[BodyEntry]) -> dict[str, np.ndarray]:
    """(4, 4) by name: how bodies have left their places in the CT, LPS, mm; InputError where one is not
    rigid."""
    return {one.name: relative_of(one.transform) for one in entries if one.transform is not None}


def put_relative(entries: Sequence[BodyEntry], relative: Mapping[str, np.ndarray]) -> None:
    """Move bodies under the common transform; those without a pose go back to where they are in the CT."""
    for one in entries:
        if one.transform is not None:
            set_relative(one.transform, relative.get(one.name, np.eye(4)))


def release_body(scene, entry: BodyEntry) -> None:
    """Take a body's transform out of the scene; its node stays where the CT holds it no more."""
    if entry.transform is None or entry.transform.GetScene() is not scene:
        return
    if entry.node is not None and not entry.segment:
        chain = own_transforms(entry.node)
        (chain[-1] if chain else entry.node).SetAndObserveTransformNodeID(None)
    remove_node(entry.transform)
