"""Bodies of no anatomy: random rods, arches, blades, lumps and shells of bone in random soft tissue.

A network that compares images should learn how structures move in projections, not what a lumbar spine looks
like. What it is trained on must then be more different than people are (domain randomisation: Tobin et
al., IROS 2017; of objects for pose estimation: Labbe et al., *MegaPose*, CoRL 2022).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.images.attenuation import AIR_HU
from SOPIRegistrationLib.images.volume import Volume
from SOPIRegistrationLib.simulation.fields import BoneShape, Frame, Grid, Rod, SmoothField, chain

# Numbers of bones end here: 255 stands for what is no single bone.
_MOST_BONES = 254
# Field of view: x, y, z.
_SIZE_MM = (330.0, 270.0, 270.0)


@dataclass(frozen=True)
class Structures:
    """A body without anatomy.

    Attributes:
        ct: float32 HU.
        labels: uint8 on the same grid: 0 not bone, each bone its own number.
    """

    ct: Volume
    labels: Volume


def random_structures(seed: int, spacing_mm: float = 3.0) -> Structures:
    """Draw a body.

    Args:
        seed: of everything random.
        spacing_mm: isotropic voxel size.
    """
    rng = np.random.default_rng(seed)
    grid = Grid.centred(_SIZE_MM, spacing_mm)
    hu, depth = _soft_tissue(grid, np.array(_SIZE_MM), rng)
    labels = np.zeros(grid.shape, np.uint8)
    count = 0
    texture = SmoothField(rng, _SIZE_MM, rng.uniform(6, 20)).on(grid)
    families = rng.choice(len(_FAMILIES), rng.integers(2, 5), replace=False)
    for family in families:
        for shape in _FAMILIES[family](grid, np.array(_SIZE_MM), rng):
            if shape.grid.is_empty:
                continue
            cortical, marrow = rng.uniform(500, 1600), rng.uniform(60, 450)
            region = hu[shape.box]
            region += grid.coverage(shape.outer) * (cortical - region)
            filling = marrow * (1 + np.float32(0.3) * texture[shape.box])
            region += grid.coverage(shape.marrow) * (filling - cortical)
            # Bones in the air around the body are as good as others, but seldom.
            count = min(count + 1, _MOST_BONES)
            labels[shape.box][shape.outer < 0] = count
    hu += rng.normal(0, 12, grid.shape).astype(np.float32) * (depth < 0)
    index_to_lps = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    index_to_lps[:3, 3] = grid.x[0], grid.y[0], grid.z[0]
    name = f"structures {seed}"
    return Structures(Volume(hu.astype(np.float32), index_to_lps, name), Volume(labels, index_to_lps, name))


def _soft_tissue(grid: Grid, size: np.ndarray, rng) -> tuple[np.ndarray, np.ndarray]:
    """HU of a lumpy body with fat, organs and gas, and the signed distance of its skin, about mm."""
    radii = size * rng.uniform(0.3, 0.52, 3)
    # One axis may go on beyond the field of view, as a trunk or a limb does.
    if rng.random() < 0.7:
        radii[rng.integers(3)] = 10 * size.max()
    power = rng.uniform(2, 5)
    x, y, z = (np.abs(c / np.float32(r)) ** power for c, r in zip(grid.coordinates, radii, strict=True))
    lumps = rng.uniform(0, 12) * SmoothField(rng, tuple(size), 70).on(grid)
    depth = ((x + y + z) ** (1 / power) - 1) * np.float32(np.sort(radii)[:2].mean()) + lumps
    organs = SmoothField(rng, tuple(size), rng.uniform(20, 60)).on(grid)
    hu = 40 + 25 * organs
    fat = rng.uniform(3, 25)
    hu += grid.coverage(-depth - fat) * (-100 - hu)
    gas = (organs > rng.uniform(1.3, 3.5)) & (depth < -fat)
    hu = np.where(gas, rng.uniform(-1000, -300), hu)
    return (AIR_HU + grid.coverage(depth) * (hu - AIR_HU)).astype(np.float32), depth


def _placed(size: np.ndarray, rng, spread: float = 0.25) -> Frame:
    """A random place and orientation, more likely near the middle."""
    R = se3.exp_so3(rng.normal(0, 1.5, 3))
    return Frame(R, rng.normal(0, spread, 3) * size * 0.6, rng.uniform(0.6, 1.5))


def _cortex(rng) -> float:
    return float(np.exp(rng.uniform(np.log(0.8), np.log(5))))


def _shape_of(grid: Grid, pieces: list[Rod], cortex: float, blend: float) -> BoneShape:
    bounds = np.array([piece.bounds(blend + 4) for piece in pieces])
    shape = BoneShape(grid, bounds[:, 0].min(axis=0), bounds[:, 1].max(axis=0))
    if not shape.grid.is_empty:
        for piece in pieces:
            shape.add(piece, cortex, blend)
    return shape


def _rods(grid, size, rng) -> list[BoneShape]:
    """Long bones: shafts with thicker ends."""
    shapes = []
    for _ in range(rng.integers(1, 7)):
        frame, length, r = _placed(size, rng), rng.uniform(30, 130), rng.uniform(4, 14)
        bend = rng.normal(0, 8, 2)
        points = [(-length, 0, 0), (-0.7 * length, 0, 0), (0, *bend), (0.7 * length, 0, 0), (length, 0, 0)]
        swollen = rng.uniform(1, 2.2, 2)
        radii = np.array([swollen[0], 1, 0.9, 1, swollen[1]])[:, None] * [r, r * rng.uniform(0.6, 1)]
        pieces = [piece.placed(frame) for piece in chain(points, radii)]
        shapes.append(_shape_of(grid, pieces, _cortex(rng), 4.0))
    return shapes


def _column(grid, size, rng) -> list[BoneShape]:
    """A curved row of nearly equal pieces with processes, as a spine is."""
    count, pitch = int(rng.integers(4, 12)), rng.uniform(14, 36)
    frame = _placed(size, rng, 0.12)
    turn = rng.normal(0, 0.08, 3)
    radii = rng.uniform(0.4, 0.8, 2) * pitch
    processes = [
        (rng.normal(0, 0.4, 3) * pitch, rng.normal(0, 1.1, 3) * pitch, rng.uniform(0.08, 0.25, 2) * pitch)
        for _ in range(rng.integers(0, 6))
    ]
    cortex, height = _cortex(rng), rng.uniform(0.25, 0.42) * pitch
    shapes = []
    for n in range(count):
        along = n - (count - 1) / 2
        R = se3.exp_so3(turn * along)
        step = np.array([0.5 * pitch * along**2 * turn[1], -0.5 * pitch * along**2 * turn[0], pitch * along])
        piece_frame = Frame(frame.R @ R, frame.points(step), frame.scale)
        body = Rod(np.array([0, 0, -height]), np.array([0, 0, height]), tuple(radii), tuple(radii), (0, 1, 0))
        pieces = [body]
        for a, b, r in processes:
            sides = (1, -1) if abs(b[0]) > 0.4 * pitch else (1,)
            pieces += [Rod(a * [s, 1, 1], b * [s, 1, 1] + 0.01, tuple(r), tuple(0.7 * r)) for s in sides]
        shapes.append(_shape_of(grid, [piece.placed(piece_frame) for piece in pieces], cortex, 3.0))
    return shapes


def _arches(grid, size, rng) -> list[BoneShape]:
    """Parallel arches, as ribs are."""
    frame = _placed(size, rng, 0.1)
    radius, span = rng.uniform(35, 120), rng.uniform(1.2, 5.5)
    pitch, thick = rng.uniform(14, 32), rng.uniform(2.5, 6)
    fall, flatness = rng.normal(0, 20), rng.uniform(0.6, 1.2)
    angle = rng.uniform(0, 2 * np.pi) + np.linspace(0, span, 12)
    count, cortex = int(rng.integers(1, 9)), _cortex(rng)
    shapes = []
    for n in range(count):
        height = pitch * (n - (count - 1) / 2) + fall * np.linspace(0, 1, 12) * span
        points = np.stack([radius * np.cos(angle), flatness * radius * np.sin(angle), height], axis=1)
        radii = np.tile([thick, thick * rng.uniform(0.8, 1.6)], (12, 1))
        pieces = [piece.placed(frame) for piece in chain(points, radii)]
        shapes.append(_shape_of(grid, pieces, cortex, 1.0))
    return shapes


def _blades(grid, size, rng) -> list[BoneShape]:
    """Curved plates with a thick rim, in mirrored pairs or alone, as pelvis and shoulder blade are."""
    tall, wide, thin = rng.uniform(30, 80), rng.uniform(8, 16), rng.uniform(2, 6)
    count, bend, cortex = 8, rng.uniform(-0.15, 0.15), _cortex(rng)
    fan = rng.normal(0, 0.25)
    frame, apart = _placed(size, rng, 0.12), rng.uniform(0, 90)
    pieces = []
    for n in range(count):
        at = n - (count - 1) / 2
        foot = np.array([apart + 40 * bend * at, wide * 1.2 * at, 0.0])
        rim = foot + tall * rng.uniform(0.85, 1.15) * np.array([bend * at + fan, 0.15 * at, 1.0])
        middle = 0.5 * (foot + rim) - [rng.uniform(0, 8), 0, 0]
        pieces += chain(
            [foot, middle, rim], [(thin, wide), (0.6 * thin, wide), (1.5 * thin, wide)], (0, 1, 0)
        )
    sides = (1, -1) if rng.random() < 0.6 else (1,)
    return [_shape_of(grid, [p.placed(frame.side(side)) for p in pieces], cortex, 3.0) for side in sides]


def _lumps(grid, size, rng) -> list[BoneShape]:
    """A cluster of small bones, as in wrist and foot."""
    frame, spread = _placed(size, rng, 0.15), rng.uniform(15, 60)
    shapes = []
    for _ in range(rng.integers(3, 16)):
        middle, axis = rng.normal(0, spread, 3), rng.normal(0, 1, 3)
        half = axis / np.linalg.norm(axis) * rng.uniform(1, 16)
        radii = tuple(rng.uniform(4, 15, 2))
        piece = Rod(middle - half, middle + half, radii, tuple(np.array(radii) * rng.uniform(0.6, 1)))
        shapes.append(_shape_of(grid, [piece.placed(frame)], _cortex(rng), 1.0))
    return shapes


def _shells(grid, size, rng) -> list[BoneShape]:
    """Hollow lumps, as a skull is."""
    frame, thick = _placed(size, rng, 0.08), rng.uniform(3, 9)
    half, radii = rng.uniform(5, 40), rng.uniform(35, 80, 2)
    outer = Rod(np.array([0, 0, -half]), np.array([0, 0, half]), tuple(radii), tuple(radii), (0, 1, 0))
    inner = Rod(outer.a, outer.b, tuple(radii - thick), tuple(radii - thick), (0, 1, 0))
    shape = _shape_of(grid, [outer.placed(frame)], thick / 3, 1.0)
    if not shape.grid.is_empty:
        shape.cut(inner.placed(frame), thick / 3)
        for _ in range(rng.integers(0, 5)):
            hole = Rod.ball(rng.normal(0, 1, 3) * [*radii, half + radii[0]], rng.uniform(5, 20))
            shape.cut(hole.placed(frame), 1.0)
    return [shape, *_lumps(grid, size, rng)[:4]]


_FAMILIES = (_rods, _column, _arches, _blades, _lumps, _shells)
