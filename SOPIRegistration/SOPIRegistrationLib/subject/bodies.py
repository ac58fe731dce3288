"""Several rigid bodies that are registered together; one rigid CT is the case of one body."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree
from scipy.spatial import cKDTree

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.subject.subject import Subject

# Bodies further apart than this are no neighbours: between two vertebrae are 5 to 15 mm.
_NEIGHBOURS_MM = 40.0
# Of two bodies in one place so large a share of the smaller one lies in the other.
_SAME_PLACE = 0.5
# What is the same body given twice lies in the other so far, either in either.
_SAME_BODY = 0.9


@dataclass(frozen=True)
class Hold:
    """What is known of a body's motion against its parent: normal, about where they were at the start.

    Attributes:
        parent: name of the body that it is held to.
        rotation_deg: standard deviation of its turn about each axis.
        translation_mm: standard deviation of its centre's shift along each axis. As of vertebrae by default.
    """

    parent: str
    rotation_deg: float = 4.0
    translation_mm: float = 3.0


@dataclass(frozen=True, eq=False)
class RigidBody:
    """One body of a case.

    Attributes:
        name: of its file, or of its label.
        subject: attenuation. Of a part of a CT this is what it has more than its surroundings.
        hold: what it is held to; None for a body that moves freely.
        fixed: whether it stays where it is at the start.
    """

    name: str
    subject: Subject
    hold: Hold | None = None
    fixed: bool = False

    @property
    def centre_lps_mm(self) -> np.ndarray:
        """(3,) point about which it turns."""
        return self.subject.ct.rotation_centre_lps_mm


@dataclass(frozen=True, eq=False)
class Bodies:
    """The bodies of a case.

    Attributes:
        bodies: in their order; each has a name of its own.
        whole: the CT that was cut up into some of them, as one piece; None where none was.
        parts: names of the bodies that are parts of it.
        rest: what is left of that CT, the holes filled; a body that moves, too, but is not reported. None
            where nothing is left.

    Raises:
        InputError: two bodies of one name, a body that is held to itself, to one that is not there or in a
            circle, or nothing that moves.
    """

    bodies: tuple[RigidBody, ...]
    whole: Subject | None = None
    parts: tuple[str, ...] = ()
    rest: RigidBody | None = None

    def __post_init__(self):
        names = self.names
        if not names:
            raise InputError("there is no body to register: give a CT or a surface")
        for name in names:
            if names.count(name) > 1:
                raise InputError(f"two bodies are called '{name}': rename one of their files or labels")
        for body in self.bodies:
            self._require_parent(body)
        if all(body.fixed for body in self.bodies):
            raise InputError("all bodies are fixed: leave one of them free")

    @classmethod
    def one(cls, subject: Subject, name: str = "ct") -> Bodies:
        """A CT or surface that is rigid as a whole."""
        return cls((RigidBody(name, subject),))

    def __len__(self) -> int:
        return len(self.bodies)

    def __getitem__(self, name: str) -> RigidBody:
        """The body of that name; InputError for none."""
        for body in self.bodies:
            if body.name == name:
                return body
        raise InputError(f"no body is called '{name}': there are {', '.join(self.names)}")

    def require(self, names: Iterable[str]) -> None:
        """Raise InputError where no body has one of these names."""
        for name in names:
            _ = self[name]

    @property
    def names(self) -> list[str]:
        """Of the bodies, in their order."""
        return [body.name for body in self.bodies]

    @property
    def moving(self) -> tuple[RigidBody, ...]:
        """The bodies, and the rest of the CT after them."""
        return self.bodies if self.rest is None else (*self.bodies, self.rest)

    @property
    def are_metal(self) -> bool:
        """Whether one of them is of metal: the picture is then what a detector sees."""
        return any(body.subject.ct.is_metal for body in self.bodies)

    def held(self, holds: Sequence[tuple[str, str]], fixed: Sequence[str] = ()) -> Bodies:
        """The same with bodies held to others than they were, or fixed.

        Args:
            holds: (body, parent) names.
            fixed: names of those that stay where they are at the start.

        Raises:
            InputError: a name that is not there, or holds in a circle.
        """
        parents = {self[child].name: Hold(self[parent].name) for child, parent in holds}
        stay = {self[name].name for name in fixed}
        bodies = []
        for body in self.bodies:
            hold = parents.get(body.name, body.hold)
            # Who is now held by a body no longer holds it.
            if hold is not None and body.name not in parents and parents.get(hold.parent) == Hold(body.name):
                hold = None
            bodies.append(replace(body, hold=hold, fixed=body.name in stay or body.fixed))
        return replace(self, bodies=tuple(bodies))

    def _require_parent(self, body: RigidBody) -> None:
        seen, hold = [body.name], body.hold
        while hold is not None:
            if hold.parent not in self.names:
                known = ", ".join(self.names)
                raise InputError(f"{seen[-1]} is held to '{hold.parent}', which is not there: name {known}")
            if hold.parent in seen:
                raise InputError(
                    f"{body.name} is held to itself, by {', '.join(seen)}: leave out one of these"
                )
            seen.append(hold.parent)
            hold = self[hold.parent].hold


class OnePlace(NamedTuple):
    """Two bodies one of which stands in the other, and the share of either that does."""

    larger: int
    smaller: int
    share_of_larger: float
    share_of_smaller: float


def in_one_place(bodies: Sequence[RigidBody], T_lps_to_world: np.ndarray) -> list[OnePlace]:
    """Which bodies stand in one place; metal may stand in bone.

    Args:
        bodies: N bodies.
        T_lps_to_world: (N, 4, 4) their poses.
    """
    found = []
    masks = [body.subject.ct.bone for body in bodies]
    volumes = np.array([mask.array.sum() * abs(np.linalg.det(mask.index_to_lps[:3, :3])) for mask in masks])
    for larger, smaller in itertools.combinations(np.argsort(-volumes, kind="stable").tolist(), 2):
        if bodies[larger].subject.ct.is_metal != bodies[smaller].subject.ct.is_metal:
            continue
        there, here = masks[larger], masks[smaller]
        points = here.points_lps(np.argwhere(here.array)[::7, ::-1])
        T = se3.invert_rigid(T_lps_to_world[larger]) @ T_lps_to_world[smaller]
        indices = np.rint(se3.transform_points(there.lps_to_index @ T, points)).astype(int)[:, ::-1]
        within = indices[((indices >= 0) & (indices < there.array.shape)).all(axis=1)]
        share = float(there.array[tuple(within.T)].astype(bool).sum() / max(len(points), 1))
        if share > _SAME_PLACE:
            found.append(OnePlace(larger, smaller, share * volumes[smaller] / volumes[larger], share))
    return found


def require_several(bodies: Sequence[RigidBody], T_lps_to_world: np.ndarray) -> None:
    """Raise InputError where one of N bodies is another once more: alike, and at the same pose (N, 4, 4)."""
    for larger, smaller, of_larger, of_smaller in in_one_place(bodies, T_lps_to_world):
        if min(of_larger, of_smaller) > _SAME_BODY:
            raise InputError(
                f"{bodies[larger].name} and {bodies[smaller].name} stand in one place: {of_smaller:.0%} of "
                f"{bodies[smaller].name} lies in the other: give each its own start, or leave one out"
            )


def neighbours(bodies: Sequence[RigidBody]) -> tuple[RigidBody, ...]:
    """Bodies of one CT, each held to its neighbour: along the shortest tree between their surfaces.

    Args:
        bodies: as they lie in the CT; the first of them is held to none.
    """
    trees = [cKDTree(body.subject.ct.surface_points_lps_mm) for body in bodies]
    gaps = np.zeros((len(bodies), len(bodies)))
    for a, tree in enumerate(trees):
        for b in range(a):
            gap = float(tree.query(trees[b].data)[0].min())
            # Those that touch are neighbours, too, and zero would mean that they are not.
            gaps[a, b] = max(gap, 1e-3) if gap < _NEIGHBOURS_MM else 0.0
    tree = minimum_spanning_tree(gaps)
    held, seen = list(bodies), set()
    for root in range(len(bodies)):
        if root in seen:
            continue
        order, parents = breadth_first_order(tree, root, directed=False)
        seen.update(order.tolist())
        for child in order[1:]:
            held[child] = replace(bodies[child], hold=Hold(bodies[parents[child]].name))
    return tuple(held)
