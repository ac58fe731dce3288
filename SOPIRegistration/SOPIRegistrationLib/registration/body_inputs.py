"""Several bodies of a case as they are chosen, and what becomes of them: parts of the CT, CTs, surfaces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from SOPIRegistrationLib.images.ct_preparation import prepare_ct
from SOPIRegistrationLib.images.volume import Volume
from SOPIRegistrationLib.subject import Subject
from SOPIRegistrationLib.subject.bodies import Bodies, RigidBody
from SOPIRegistrationLib.subject.labelled import cut_up
from SOPIRegistrationLib.subject.surface import Surface, filled, material_named

# How a body moves: as its kind does (the parts of a CT with their neighbours, others freely), freely, not at
# all; or it is held to the body of the name that is given instead.
BY_KIND, FREE, FIXED = "", "free", "fixed"


@dataclass(frozen=True, eq=False)
class BodyInput:
    """A body that is chosen.

    Attributes:
        name: of the body.
        source: a CT of its own (HU), a closed surface, the number of its label in ``PartsInput.labels``, or
            None for the CT of the case as a whole.
        material: what a surface is filled with (``subject.surface.MATERIALS``).
        motion: ``BY_KIND``, ``FREE``, ``FIXED`` or the name of the body that it is held to.
        key: tells its voxels or faces, and its material, from others.
    """

    name: str
    source: Volume | Surface | int | None
    material: str = ""
    motion: str = BY_KIND
    key: tuple = ()


@dataclass(frozen=True, eq=False)
class BodiesInput:
    """The bodies of a case.

    Attributes:
        bodies: in their order; none where the CT is rigid as a whole.
        labels: label map of those that are parts of the CT; None where none is.
        key: tells them from others, their motions included.
    """

    bodies: tuple[BodyInput, ...] = ()
    labels: Volume | None = None
    key: tuple = ()

    def of(self, subject: Subject | None, known: Mapping[tuple, Subject]) -> Bodies:
        """The bodies, prepared.

        Args:
            subject: the CT; None where all bodies are surfaces.
            known: bodies prepared before, by their keys.

        Raises:
            InputError: one is unusable, held to none, or nothing moves.
        """
        if not self.bodies:
            return Bodies.one(subject)
        parts = {one.source: one.name for one in self.bodies if isinstance(one.source, int)}
        labelled = None
        if parts:
            key = tuple(one.key for one in self.bodies if isinstance(one.source, int)), tuple(parts.items())
            labelled = subject.kept("parts", key, lambda: cut_up(subject.ct, self.labels, parts))
        made = []
        for one in self.bodies:
            if isinstance(one.source, int):
                body = labelled[one.name]
            else:
                body = RigidBody(
                    one.name, subject if one.source is None else known.get(one.key) or _made(one)
                )
            made.append(replace(body, hold=None) if one.motion == FREE else body)
        bodies = Bodies(tuple(made))
        if labelled is not None:
            bodies = replace(labelled, whole=subject, bodies=tuple(made))
        fixed = [one.name for one in self.bodies if one.motion == FIXED]
        held = [one for one in self.bodies if one.motion not in (BY_KIND, FREE, FIXED)]
        return bodies.held([(one.name, one.motion) for one in held], fixed)


def _made(one: BodyInput) -> Subject:
    if isinstance(one.source, Surface):
        return Subject(filled(one.source, material_named(one.material)))
    return Subject(prepare_ct(one.source))
