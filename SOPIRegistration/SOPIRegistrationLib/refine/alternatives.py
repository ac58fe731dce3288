"""Other poses of one body in which its picture is much alike, sought from the body's own shape.

Whoever registers one bone or implant in one view knows them: a long bone turned about itself, a tibial tray
and its mirror pose (Banks and Hodge, *Accurate measurement of three-dimensional knee replacement kinematics
using single-plane fluoroscopy*, 1996), a vertebra that has slid. Of a body of which E is a plane of symmetry,
with D the reflection in a plane across the ray through its centre: D changes no picture of parallel rays, E
does not change the body, and so R and D R E, a proper rotation, look alike. Turns by half about an axis of
symmetry look alike anyway. Planes and axes are taken to be the principal ones; refinement does the rest.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from SOPIRegistrationLib.compare.target import Level
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.distinct import SAME_MINIMUM, distinct_poses
from SOPIRegistrationLib.geometry.principal_axes import PrincipalAxes, principal_axes
from SOPIRegistrationLib.optimise.least_squares import levenberg_marquardt
from SOPIRegistrationLib.progress import Progress, Report
from SOPIRegistrationLib.projector.bodies import as_seen, line_integrals
from SOPIRegistrationLib.refine.joint_scene import Scene, released_levels
from SOPIRegistrationLib.refine.jointly import JointObjective
from SOPIRegistrationLib.similarity.residuals import LocalResidual

# Neighbouring minima of a body lie about so far: turned about its axes, slid along them.
_NEAR_DEG, _NEAR_MM = 12.0, 8.0
# A turn of a nearly round body about its axis; refinement finds home from half of it.
_ROUND_DEG = 30.0
# And a long one may have slid along it besides.
_SLIDES_MM = (0.0, -10.0, 10.0, -20.0, 20.0)
# What holds a body lets it go no further than so many deviations.
_REACH = 5.0
# Alternatives are refined on so many pixels: coarser ones hardly show one body of several, and finer ones are
# more than the agreement is looked at with; one that takes the body's place is refined on with all others.
_LEAST_PX, _MOST_PX = 64, 128
# So many starts go through all levels, those that look best; so many different ends are told.
_REFINED, _TOLD = 8, 3
# Poses whose agreement differs by less are not told apart by the picture: correlations of right poses rose by
# so much and more over those of wrong ones (Docs/results/bodies.md).
AMBIGUOUS = 0.08
# Nearer to the pose found an end is the same: a body's points have moved by less.
_SAME_MM = 4.0


class Alternative(NamedTuple):
    """Another pose of one body, where all others stay.

    Attributes:
        T_lps_to_world: (4, 4) pose, mm; refined.
        way: how it was come by, for people: "mirror pose", "half turn", "turned about its axis", "slid along
            its axis", "slid" or "near".
        turned_deg: by how much it is turned against the pose found.
        shifted_mm: by how much its centre is shifted across the first view.
        agreement: structural correlation about the body, at either pose.
        margin: by how much the pose found agrees better there; negative where this one is the better.
    """

    T_lps_to_world: np.ndarray
    way: str
    turned_deg: float
    shifted_mm: float
    agreement: float
    margin: float

    @property
    def summary(self) -> str:
        """It in a line."""
        place = f"turned by {self.turned_deg:.0f} deg, shifted by {self.shifted_mm:.1f} mm"
        than = "less" if self.margin >= 0 else "more"
        return (
            f"{self.way}, {place}; structural correlation {self.agreement:.3f}, {abs(self.margin):.3f} {than}"
        )

    def to_dict(self) -> dict:
        """The entry of result.json, without the pose."""
        return {
            "way": self.way,
            "turned_deg": round(self.turned_deg, 2),
            "shifted_mm": round(self.shifted_mm, 2),
            "agreement": round(self.agreement, 4),
            "margin": round(self.margin, 4),
        }


def alike_poses(
    axes: PrincipalAxes, T_lps_to_world: np.ndarray, sources_mm: Sequence[np.ndarray]
) -> list[tuple[str, np.ndarray]]:
    """Poses (4, 4) in which a body looks alike if it is symmetric, each after the way to it.

    Args:
        axes: of the body.
        T_lps_to_world: (4, 4) its pose, mm.
        sources_mm: (3,) where each X-ray's source stands in the world.
    """
    R, centre = T_lps_to_world[:3, :3], axes.centre_mm
    place = se3.transform_points(T_lps_to_world, centre)
    found: list[tuple[str, np.ndarray]] = []
    for axis in axes.directions.T:
        found.append(("half turn", R @ (2 * np.outer(axis, axis) - np.eye(3))))
    for source in sources_mm:
        # A body that is its own inverse has these.
        found.append(("half turn", -_deeper(place - source) @ R))
    poses = [(way, se3.rigid(turned, place - turned @ centre)) for way, turned in found]
    poses += [("mirror pose", T) for T in mirror_poses(axes, T_lps_to_world, sources_mm)]
    for axis in sorted({0, axes.round_about}):
        direction = axes.directions[:, axis]
        for turn, slide in itertools.product(np.arange(0.0, 360.0, _ROUND_DEG), _SLIDES_MM):
            if slide == 0 and turn in (0.0, 180.0):
                continue
            turned = R @ se3.exp_so3(np.deg2rad(turn) * direction)
            shifted = place + slide * (R @ direction)
            way = "turned about its axis" if turn else "slid along its axis"
            poses.append((way, se3.rigid(turned, shifted - turned @ centre)))
    return poses


def mirror_poses(
    axes: PrincipalAxes, T_lps_to_world: np.ndarray, sources_mm: Sequence[np.ndarray]
) -> np.ndarray:
    """(3 n, 4, 4) poses in which a body that is symmetric about a principal plane looks alike in one of n
    X-rays. The arguments are those of :func:`alike_poses`.
    """
    R, centre = T_lps_to_world[:3, :3], axes.centre_mm
    place = se3.transform_points(T_lps_to_world, centre)
    turned = [
        _deeper(place - source) @ R @ (np.eye(3) - 2 * np.outer(axis, axis))
        for source in sources_mm
        for axis in axes.directions.T
    ]
    return np.array([se3.rigid(one, place - one @ centre) for one in turned])


def _deeper(ray: np.ndarray) -> np.ndarray:
    """(3, 3) reflection in the plane across a ray (3,)."""
    return np.eye(3) - 2 * np.outer(ray, ray) / (ray @ ray)


def near_poses(axes: PrincipalAxes, T_lps_to_world: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Poses (4, 4) turned about each of a body's axes, and slid along it, each after the way to it."""
    found = []
    for axis, sign in itertools.product(axes.directions.T, (1, -1)):
        in_world = sign * T_lps_to_world[:3, :3] @ axis
        for way, twist in (
            ("near", np.concatenate([np.deg2rad(_NEAR_DEG) * in_world, np.zeros(3)])),
            ("slid", np.concatenate([np.zeros(3), _NEAR_MM * in_world])),
        ):
            found.append((way, se3.move_about(T_lps_to_world, twist, axes.centre_mm)))
    return found


def alternatives(
    scene: Scene,
    T_lps_to_world: np.ndarray,
    number: int,
    report: Report | None = None,
    T_rest: np.ndarray | None = None,
) -> tuple[Alternative, ...]:
    """Where else one body may stand, the best first: ends of refinements of it alone from poses near it and
    from those that its shape makes alike. Those are told that agree well enough to be worth a review, or
    nearly as well as the pose found.

    Of a single subject in its X-rays: ``alternatives(Scene(Bodies.one(subject), radiographs), T[None], 0)``.

    Args:
        scene: bodies and X-rays.
        T_lps_to_world: (N, 4, 4) or, with the rest, (M, 4, 4) poses found.
        number: of the body.
        report: told as refinements go on; raises ``Cancelled`` to stop.
        T_rest: (N, 4, 4) or (M, 4, 4) poses about which holds expect the motion, if not those found.
    """
    T_found = scene.with_rest(T_lps_to_world)
    T_rest = T_found if T_rest is None else scene.with_rest(T_rest)
    body = scene.bodies.bodies[number]
    ways, starts = zip(*_starts(scene, T_found, number), strict=True)
    sets = np.repeat(T_found[None], len(starts), axis=0)
    sets[:, number] = starts
    levels = [one for one in released_levels(scene.kind) if _LEAST_PX <= one.pixels <= _MOST_PX]
    going = _looking_best(scene, levels[0], sets, number, _REFINED)
    ways, sets = [ways[start] for start in going], sets[going]
    for done, level in enumerate(levels):

        def tell(state: Progress, done=done) -> None:
            fraction = (done + state.fraction) / len(levels)
            report(Progress(f"other poses of {body.name}", fraction, T_found[0]))

        objective = JointObjective(scene, level, T_found, T_rest, number, sets)
        solution = levenberg_marquardt(
            objective,
            sets,
            scene.centres_lps_mm,
            level.max_iterations,
            level.step_tolerance_mm,
            report=None if report is None else tell,
        )
        # Most come home at once: these are spared the rest of the way.
        order = np.argsort(solution.equations.cost, kind="stable")
        elsewhere = [
            k for k in order if _moved_mm(scene, number, T_found[number], solution.T[k, number]) > _SAME_MM
        ]
        kept = distinct_poses(solution.T[elsewhere, number], body.centre_lps_mm, *SAME_MINIMUM, _TOLD)
        going = [elsewhere[k] for k in kept]
        ways, sets = [ways[k] for k in going], solution.T[going]
        if not going:
            return ()
    told = [_told(scene, T_found, number, way, T[number]) for way, T in zip(ways, sets, strict=True)]
    worth = [one for one in told if one.agreement >= scene.kind.thresholds.review or one.margin < AMBIGUOUS]
    return tuple(sorted(worth, key=lambda one: one.margin))


def _starts(scene: Scene, T_found: np.ndarray, number: int) -> list[tuple[str, np.ndarray]]:
    """Poses (4, 4) from which others are sought, each after the way to it, within what holds the body."""
    body, T = scene.bodies.bodies[number], T_found[number]
    axes = principal_axes(body.subject.ct.surface_points_lps_mm)
    sources = [one.camera.source_world_mm for one in scene.radiographs]
    alike = alike_poses(axes, T, sources)
    holds = [one.hold for one in scene.bodies.bodies if one.hold and body.name in (one.name, one.hold.parent)]
    if holds:
        turn = np.deg2rad(_REACH * max(hold.rotation_deg for hold in holds))
        alike = [
            (way, T) for way, T in alike if se3.rotation_distance(T[:3, :3], T_found[number, :3, :3]) < turn
        ]
    return near_poses(axes, T) + alike


def _looking_best(scene: Scene, level: Level, sets: np.ndarray, number: int, count: int) -> np.ndarray:
    """(count,) those of sets of poses (K, M, 4, 4) in which one body, which alone moves, looks best about
    itself."""
    looks = np.zeros(len(sets))
    for radiograph in scene.radiographs:
        view = scene.view(radiograph, level, *sets)
        others = [volume for n, volume in enumerate(view.volumes) if n != number]
        standing = line_integrals(others, view.radiograph.camera, np.delete(sets[0], number, axis=0))
        for k, T in enumerate(sets):
            about = view.valid & view.about(number, T)
            if about.any():
                image = as_seen(view.volumes, standing + view.integrals(number, T[number]))
                residual = LocalResidual(view.radiograph.image, about[None], level.window_px)
                looks[k] += 1 - residual.equations(image, [])[0] / 2
    return np.argsort(-looks, kind="stable")[:count]


def _told(scene: Scene, T_found: np.ndarray, number: int, way: str, T: np.ndarray) -> Alternative:
    other = T_found.copy()
    other[number] = T
    found, there = scene.agreements(scene.kind.check, np.stack([T_found, other]), [number])[:, 0]
    centre = scene.bodies.bodies[number].centre_lps_mm
    shift = se3.transform_points(T, centre) - se3.transform_points(T_found[number], centre)
    across = scene.radiographs[0].camera.T_world_to_camera[:2, :3] @ shift
    turn = se3.rotation_distance(T[:3, :3], T_found[number, :3, :3])
    return Alternative(
        T, way, float(np.rad2deg(turn)), float(np.linalg.norm(across)), float(there), float(found - there)
    )


def _moved_mm(scene: Scene, number: int, T: np.ndarray, T_other: np.ndarray) -> float:
    """How far a body's points lie apart at two poses (4, 4), root mean square, mm.

    A shift along the ray in a single view does not count: that leaves it open.
    """
    points = scene.bodies.bodies[number].subject.ct.surface_points_lps_mm
    apart = se3.transform_points(T_other, points) - se3.transform_points(T, points)
    if len(scene.radiographs) == 1:
        source = scene.radiographs[0].camera.source_world_mm
        ray = se3.transform_points(T, points.mean(axis=0)) - source
        ray /= np.linalg.norm(ray)
        apart = apart - (apart.mean(axis=0) @ ray) * ray
    return float(np.sqrt((apart**2).sum(axis=1).mean()))
