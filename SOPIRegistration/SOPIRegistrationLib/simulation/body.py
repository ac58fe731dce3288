"""The trunk around the skeleton: outline, fat, muscles, organs, bowel with gas, vessels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.interpolate import PchipInterpolator

from SOPIRegistrationLib.images.attenuation import AIR_HU
from SOPIRegistrationLib.simulation.fields import Grid, Rod, SmoothField, chain
from SOPIRegistrationLib.simulation.spine import Spine

FAT_HU, MUSCLE_HU, SKIN_HU = -100.0, 52.0, 30.0
_ROUNDNESS = 2.35  # exponent of the outline's superellipse
_BACKWARDS = (0.0, 1.0, 0.0)


@dataclass(frozen=True)
class Habitus:
    """Size and fatness of a trunk; body frame, mm.

    Attributes:
        half_width: of the trunk at L3.
        front, back: from the axis of the outline to the belly's and the back's skin at L3.
        hips, chest: half-widths 110 mm below and above L3.
        fat: thickness of the subcutaneous fat (side, front, back).
        wall: thickness of the muscles of the abdominal wall.
        build: factor on the size of the muscles.
        back_profile: heights, rising, and the position of the back's skin at them.
    """

    half_width: float
    front: float
    back: float
    hips: float
    chest: float
    fat: tuple[float, float, float]
    wall: float
    build: float
    back_profile: tuple[np.ndarray, np.ndarray]

    @classmethod
    def random(cls, rng: np.random.Generator, scale: float) -> Habitus:
        """From slim to stout, for a skeleton of size ``scale``; with a straight back."""
        fatness = rng.beta(1.8, 2.2)
        build = float(np.clip(rng.normal(1.0, 0.09), 0.8, 1.2))
        side, front, back = (4 + 22 * fatness, 5 + 28 * fatness, 5 + 20 * fatness) * rng.uniform(
            0.75, 1.25, 3
        )
        half_width = min((118 + 30 * fatness) * scale + side, 184)
        back_skin = min((82 + 6 * fatness) * scale + back, 124)
        return cls(
            half_width=half_width,
            front=min((72 + 28 * fatness) * scale + front, 128),
            back=back_skin,
            hips=half_width * rng.uniform(1.0, 1.06),
            chest=half_width * rng.uniform(0.96, 1.06),
            fat=(side, front, back),
            wall=rng.uniform(9, 15) * build,
            build=build,
            back_profile=(np.array([-1.0, 1.0]), np.array([back_skin, back_skin])),
        )

    def covering(self, spine: Spine) -> Habitus:
        """The same trunk, wide and deep enough for the spinous processes and the pelvis of a spine."""
        scale, (x, y, z) = spine.scale, spine.sacrum.origin_mm
        side, front, back = self.fat
        # The front corners of the pelvis stand at 1/1.2 of the half-width, where the outline is 0.64 as deep.
        hips = 1.2 * (abs(x) + 127 * scale + side)
        belly = (70 * scale - y + 0.5 * front) / 0.64
        # Its back corners, off the midline, where the outline is rounder than the back.
        buttocks = max((y + 73 * scale + back) / 0.94, self.back + 8)
        tips = np.array([v.spinous_tip_mm for v in spine.vertebrae])
        heights = np.concatenate([[z - 60 * scale, z - 20 * scale], tips[:, 2]])
        profile = np.concatenate([[buttocks, buttocks], tips[:, 1] + back + 8])
        rising = np.argsort(heights)
        return replace(
            self,
            hips=min(max(self.hips, hips), 188),
            front=max(self.front, belly),
            back_profile=(heights[rising], profile[rising]),
        )

    def back_at(self, z) -> np.ndarray:
        """Position of the back's skin at heights ``z``."""
        heights, skin = self.back_profile
        return PchipInterpolator(heights, skin)(np.clip(z, heights[0], heights[-1]))

    def half_width_at(self, z) -> np.ndarray:
        """Half-width at heights ``z``."""
        rise = np.clip(np.asarray(z) / 110, -1, 1)
        end = np.where(rise < 0, self.hips, self.chest)
        return self.half_width + (end - self.half_width) * np.abs(rise) ** 1.5

    def wall_point(self, azimuth, z, inside_mm: float) -> np.ndarray:
        """Points (n, 3) in the wall of the trunk, ``inside_mm`` under the fat, at heights z (n,).

        ``azimuth`` (n,) rad about the axis: 0 at the back, pi/2 at the left, pi in front.
        """
        side, front, back = (thickness + inside_mm for thickness in self.fat)
        sine, cosine = np.sin(azimuth), np.cos(azimuth)
        depth = np.where(cosine > 0, self.back_at(z) - back, self.front - front)
        radius = (np.abs(sine) ** _ROUNDNESS + np.abs(cosine) ** _ROUNDNESS) ** (-1 / _ROUNDNESS)
        return np.stack([(self.half_width_at(z) - side) * radius * sine, depth * radius * cosine, z], axis=-1)

    def depth_under_skin(self, grid: Grid) -> np.ndarray:
        """Signed distance to the skin, (k, j, i), along the ray from the axis, negative inside."""
        x, y, z = grid.coordinates
        y = y + np.float32(7) * np.exp(-((x / 16) ** 2)) * (y > 0)  # furrow along the spine
        across = np.abs(x) / self.half_width_at(z).astype(np.float32)
        along = np.maximum(y / self.back_at(z).astype(np.float32), -y / np.float32(self.front))
        outline = (across**_ROUNDNESS + along**_ROUNDNESS) ** np.float32(1 / _ROUNDNESS)  # 1 on the skin
        radius = np.sqrt(x**2 + y**2)
        return radius - radius / np.maximum(outline, np.float32(1e-3))

    def fat_thickness(self, grid: Grid) -> np.ndarray:
        """(1, j, i): from that at the side to that in front or at the back."""
        x, y, _ = grid.coordinates
        along = np.maximum(y / np.float32(self.back), -y / np.float32(self.front)) ** 2
        across = (x / np.float32(self.half_width)) ** 2
        side, front, back = self.fat
        return side + along / (along + across + np.float32(1e-6)) * np.float32(
            np.where(y > 0, back, front) - side
        )


def paint_trunk(
    grid: Grid,
    spine: Spine,
    habitus: Habitus,
    size_mm,
    rng: np.random.Generator,
    contrast_hu: float | None = None,
) -> np.ndarray:
    """HU (k, j, i) float32 of everything but bone.

    Args:
        grid: where to paint, body frame.
        spine: what the muscles, vessels and the spinal canal follow.
        habitus: size of the trunk.
        size_mm: (x, y, z) extent of the grid, over which textures are drawn.
        rng: source of everything drawn.
        contrast_hu: of the agent that fills the colon; None for none.
    """
    ripple = SmoothField(rng, size_mm, 60).on(grid)
    depth = habitus.depth_under_skin(grid) + np.float32(1.5) * ripple
    under_fat = depth + habitus.fat_thickness(grid) + np.float32(2) * ripple
    inner = grid.coverage(under_fat)
    cavity = grid.coverage(under_fat + np.float32(habitus.wall))
    hu = np.full(grid.shape, np.float32(AIR_HU))
    _paint(hu, grid.coverage(depth), SKIN_HU)
    _paint(hu, grid.coverage(depth + np.float32(2)), FAT_HU)
    _paint(hu, inner, MUSCLE_HU)
    _paint(hu, cavity, FAT_HU)

    abdomen = _Canvas(grid, hu, cavity)
    _paint_small_bowel(abdomen, spine, habitus, rng)
    _paint_organs(abdomen, spine, habitus, rng)
    _paint_colon(abdomen, spine, habitus, size_mm, rng, contrast_hu)
    trunk = _Canvas(grid, hu, inner)
    _paint_muscles(trunk, spine, habitus)
    _paint_vessels(trunk, spine, rng)
    _paint_discs_and_canal(trunk, spine)
    hu += np.where(hu > -300, np.float32(9) * SmoothField(rng, size_mm, 7).on(grid), 0)
    return hu


class _Canvas:
    """HU that rods are painted on, where ``inside`` (k, j, i), a share of each voxel, lets them."""

    def __init__(self, grid: Grid, hu: np.ndarray, inside: np.ndarray):
        self.grid, self.hu, self.inside = grid, hu, inside

    def paint(self, rods: list[Rod], value) -> None:
        """Paint with a value in HU, or with a function of the part of the grid and the signed distance."""
        for box, part, distance in self.grid.around(rods):
            share = part.coverage(distance) * self.inside[box]
            _paint(self.hu[box], share, value(part, distance) if callable(value) else value)


def _paint(hu, share, value) -> None:
    """Replace ``share`` of every voxel by ``value``, in place."""
    hu += share * (value - hu)


def _paint_muscles(canvas: _Canvas, spine: Spine, habitus: Habitus) -> None:
    """Psoas, quadratus lumborum and erector spinae along the spine; iliacus and glutei about the ilium."""
    size = spine.scale * habitus.build
    heights = np.array([-190, -150, -105, -70, -35, 0, 35, 70, 105, 160])
    for side in (-1, 1):
        outwards = np.array([78, 68, 50, 44, 40, 36, 32, 28, 26, 26])
        behind = np.array([-62, -46, -18, -2, 4, 6, 8, 10, 12, 12])
        radius = size * np.array([20, 20, 22, 21, 19, 16, 12, 8, 5, 3])
        psoas = spine.beside(heights, side * outwards, behind)
        canvas.paint(chain(psoas, np.stack([radius, 1.1 * radius], axis=1), _BACKWARDS), MUSCLE_HU)

        lumborum = spine.beside(heights[3:9], side * np.array([82, 78, 70, 62, 54, 48]), 26)
        canvas.paint(chain(lumborum, size * np.tile([21, 9], (6, 1)), _BACKWARDS), MUSCLE_HU)

        sacrum, scale = spine.sacrum.origin_mm, spine.scale
        hip = sacrum + scale * np.array([[side * 72, 50, -52], [side * 116, -42, -44]])
        canvas.paint(chain(hip, [(27 * size, 62 * scale), (26 * size, 62 * scale)]), MUSCLE_HU)

        # The erector fills the trough between spinous process, transverse process and fascia.
        erector = spine.beside(heights, side * 33, 22)
        fascia = habitus.back_at(erector[:, 2]) - habitus.fat[2] - 3
        half = np.clip((fascia - erector[:, 1]) / 2, 9, 34 * size)
        erector[:, 1] = (fascia + erector[:, 1]) / 2
        canvas.paint(
            chain(erector, np.stack([np.full(10, 30 * size), half], axis=1), _BACKWARDS), MUSCLE_HU + 4
        )


def _paint_vessels(canvas: _Canvas, spine: Spine, rng: np.random.Generator) -> None:
    """Vena cava and aorta, sometimes calcified, in front of the spine, dividing at L4."""
    heights = np.array([-37, -7, 33, 73, 123, 183])
    in_front = np.array([-27, -27, -28, -28, -26, -24])

    def vessel(left, radius):
        line = spine.beside(heights, left, in_front)
        radius *= spine.scale
        rods = chain(line, [(radius, radius)] * 6, _BACKWARDS)
        for side in (-1, 1):
            iliac = line[0] + spine.scale * np.array([side * 38, 24, -85])
            rods += chain(
                [line[0], iliac], [(0.8 * radius, 0.8 * radius), (0.6 * radius, 0.6 * radius)], _BACKWARDS
            )
        return rods

    canvas.paint(vessel(-16, 10), 38)
    aorta = vessel(9, 8.5)
    canvas.paint(aorta, 44)
    plaques = rng.integers(4, 30) if rng.random() < 0.5 else 0
    for _ in range(plaques):
        rod = aorta[rng.integers(len(aorta))]
        angle = rng.uniform(0, 2 * np.pi)
        outwards = np.array([np.cos(angle), np.sin(angle), 0])
        start = rod.a + rng.random() * (rod.b - rod.a) + rod.radii_a[0] * outwards
        end = start + np.array([0, 0, rng.uniform(1, 7)])
        canvas.paint(
            [Rod(start, end, (1, 2.2), (1, 2.2), np.cross(outwards, [0, 0, 1]))], rng.uniform(300, 900)
        )


def _paint_discs_and_canal(canvas: _Canvas, spine: Spine) -> None:
    """Discs under every vertebra; epidural fat and the thecal sac down to S2."""
    for vertebra in spine.vertebrae:
        s = vertebra.sizes
        z, reach = -0.5 * (s["height"] + s["disc"]), 0.3 * s["height"]
        half = (0.49 * s["width"], 0.49 * s["depth"])
        disc = Rod(np.array([0, 0, z - reach]), np.array([0, 0, z + reach]), half, half, _BACKWARDS)
        canvas.paint([disc.placed(vertebra.frame)], 82)
    line = [v.canal_centre_mm for v in spine.vertebrae] + list(
        spine.sacrum.points([(0, 24, -8), (0, 26, -40)])
    )
    radii = [(0.5 * v.sizes["canal_width"], 0.48 * v.sizes["canal_depth"]) for v in spine.vertebrae]
    radii = spine.scale * np.array([*radii, (13, 8), (8, 5)])
    canvas.paint(chain(line, radii, _BACKWARDS), -40)
    canvas.paint(chain(line, radii * [0.68, 0.8], _BACKWARDS), 20)


def _cavity_size(spine: Spine, habitus: Habitus) -> tuple[float, float, float, float]:
    """Half-width and front of the abdominal cavity, height of L3 and its position towards the back, mm."""
    _, y, z = spine["L3"].frame.origin_mm
    side, front, _ = habitus.fat
    return habitus.half_width - side - habitus.wall, habitus.front - front - habitus.wall, z, y


def _paint_small_bowel(canvas: _Canvas, spine: Spine, habitus: Habitus, rng: np.random.Generator) -> None:
    """Loops filled with fluid, some holding a bubble of gas."""
    width, front, z3, y3 = _cavity_size(spine, habitus)
    lower, upper = (-0.75 * width, -0.85 * front, z3 - 150), (0.75 * width, y3 - 42, z3 + 60)
    for _ in range(110):
        start = rng.uniform(lower, upper)
        direction = rng.normal(0, 1, 3) * [1, 0.5, 0.8]
        end = start + 30 * direction / np.linalg.norm(direction)
        radius = rng.uniform(9, 15)
        loop = chain([start, end], [(radius, radius)] * 2, (0.1, 0.9, 0.3))
        canvas.paint(loop, lambda part, distance: np.where(distance > -2.5, np.float32(45), np.float32(20)))
        if rng.random() < 0.2:
            bubble = rng.uniform(0.3, 0.7) * radius
            start[1] -= 0.4 * bubble
            end = start + np.array([bubble, 0, 0])
            canvas.paint(chain([start, end], [(bubble, bubble), (bubble, 0.7 * bubble)], _BACKWARDS), -920)


def _paint_organs(canvas: _Canvas, spine: Spine, habitus: Habitus, rng: np.random.Generator) -> None:
    """Liver, spleen and kidneys."""
    width, front, z3, _ = _cavity_size(spine, habitus)
    scale = spine.scale
    # Ends (x over the cavity's width, y over its front, mm above L3), half-widths at the ends, HU.
    organs = [
        ((-0.62, -0.1, 190), (-0.66, 0.0, 75), (62, 80), (26, 42), 58),
        ((-0.3, -0.4, 160), (0.15, -0.5, 165), (50, 45), (30, 30), 58),
        ((0.78, 0.15, 160), (0.76, 0.15, 105), (22, 36), (18, 28), 52),
    ]
    for start, end, radii_a, radii_b, hu in organs:
        ends = np.array([start, end]) * [width, front, 1] + [0, 0, z3] + rng.normal(0, [8, 8, 14], (2, 3))
        canvas.paint(chain(ends, scale * np.array([radii_a, radii_b]), _BACKWARDS), hu + rng.normal(0, 5))
    for side, top in ((-1, 57), (1, 70)):
        top += rng.normal(0, 8)
        poles = spine.beside([top, top - 62], side * np.array([50, 68]), np.array([6, 2]))
        kidney = chain(poles, scale * np.array([(23, 21), (24, 22)]), _BACKWARDS)
        canvas.paint(kidney, lambda part, distance: np.where(distance > -13, np.float32(36), np.float32(5)))


def _paint_colon(
    canvas: _Canvas,
    spine: Spine,
    habitus: Habitus,
    size_mm,
    rng: np.random.Generator,
    contrast_hu: float | None,
) -> None:
    """Ascending, transverse, descending colon and stomach: walls around froth, with pockets of gas on top."""
    width, front, z3, y3 = _cavity_size(spine, habitus)
    flank = y3 - 8
    # x over the cavity's width, y over its front or, where positive, in mm before the flank; mm above L3.
    courses = [
        [(-0.72, 20, -85), (-0.78, 12, -30), (-0.76, 15, 30), (-0.6, 40, 62)],
        [(-0.6, 40, 62), (-0.35, -0.72, 30), (0.05, -0.78, 12), (0.4, -0.7, 40), (0.74, 30, 95)],
        [(0.74, 30, 95), (0.82, 5, 40), (0.8, 2, -30), (0.68, 25, -90), (0.2, 50, -140)],
        [(0.55, -0.2, 135), (0.42, -0.5, 100), (0.1, -0.6, 85)],
    ]
    froth, lumps = SmoothField(rng, size_mm, 5), SmoothField(rng, size_mm, 12)

    def stool(gas_share):
        def value(part, distance):
            paste = 30 - 700 * np.clip(froth.on(part) - np.float32(1.8 - 2 * gas_share), 0, 1)
            if contrast_hu is not None:
                paste = contrast_hu * (1 + np.float32(0.2) * lumps.on(part)) + 0.1 * paste
            return np.where(distance > -2.5, np.float32(45), paste)

        return value

    def gas(part, distance):
        return -950 + 900 * np.clip(1 + (distance + 5 * lumps.on(part)) / 4, 0, 1)

    for course in courses:
        x, y, z = np.array(course).T
        points = np.stack([x * width, np.where(y > 0, flank - y, y * front), z + z3], axis=1)
        points += rng.normal(0, 7, points.shape)
        fine = np.linspace(0, len(course) - 1, 4 * len(course))
        line = np.stack([np.interp(fine, np.arange(len(course)), column) for column in points.T], axis=1)
        line += rng.normal(0, 2.5, line.shape)
        radius = np.clip(rng.normal(19, 2.5) + rng.normal(0, 3, len(line)), 12, 28)  # haustra
        rods = chain(line, np.stack([radius, radius], axis=1), (0.1, 0.9, 0.2))
        canvas.paint(rods, stool(rng.beta(1.2, 2.5)))
        full_of_gas = rng.random() < 0.25
        for rod in rods:
            if full_of_gas or rng.random() < 0.2:
                inner = rng.uniform(0.5, 0.85) * rod.radii_a[0]
                lift = np.array([0, -0.3 * inner, 0])
                canvas.paint(chain([rod.a + lift, rod.b + lift], [(inner, inner)] * 2, rod.flat), gas)
