"""Vertebrae: where they stand, how they are built.

Sizes and angles are round, typical adult values, set by eye against CT, not taken from a table; for measured
ones see Panjabi et al. (Spine 1992, 17:299), Zindrick et al. (Spine 1987, 12:160) and, for the curves,
Roussouly and Nnadi (Eur Spine J 2010, 19:1824). The seed varies every one of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from SOPIRegistrationLib.simulation.fields import BoneShape, Frame, Grid, Rod, chain, smooth_maximum

LEVELS = ("T8", "T9", "T10", "T11", "T12", "L1", "L2", "L3", "L4", "L5")
# As in the VerSe data sets.
VERTEBRA_LABELS = {level: 15 + n for n, level in enumerate(LEVELS)}

# T8 to L5, mm. Heights of the disc are those of the one below the vertebra.
_SIZES = {
    "width": (31, 33, 35, 38, 41, 43, 45, 47, 49, 51),
    "depth": (27, 28, 29, 30, 31, 32, 33, 34, 35, 35),
    "height": (20, 20.5, 21.5, 23, 24.5, 26, 27, 27.5, 27.5, 26.5),
    "disc": (4, 4.5, 5, 5.5, 6, 7.5, 8.5, 9.5, 10.5, 10),
    "canal_width": (17, 17, 17.5, 18.5, 21, 22, 22.5, 23.5, 24.5, 26),
    "canal_depth": (15, 15, 15, 15, 16, 16.5, 16, 15.5, 16, 16.5),
    "pedicle_width": (5.5, 6, 7, 8, 7.5, 7, 7.5, 9, 11, 13.5),
    "pedicle_height": (12, 13, 14.5, 16, 16, 15.5, 15, 14.5, 14, 14),
    "transverse_reach": (31, 30, 28, 25, 24, 37, 43, 48, 45, 46),
    "spinous_length": (27, 26, 25, 25, 25, 28, 30, 30, 28, 22),
    "spinous_height": (10, 10, 11, 14, 17, 19, 20, 20, 18, 14),
    "spinous_drop": (24, 20, 14, 9, 5, 3, 3, 3, 4, 5),
}
# Degrees by which front exceeds back: positive adds lordosis.
_WEDGE_DEG = (-4, -3, -3, -3, -3, -2, 0, 1, 3, 8)
_DISC_WEDGE_DEG = (-1, 0, 0, 1, 3, 5, 7, 8, 11, 14)


@dataclass(frozen=True)
class BoneQuality:
    """How dense a skeleton is.

    Attributes:
        trabecular_hu, cortical_hu: values of its two tissues.
        cortex: factor on every shell thickness.
    """

    trabecular_hu: float
    cortical_hu: float
    cortex: float

    @classmethod
    def random(cls, rng: np.random.Generator) -> BoneQuality:
        """From osteoporotic to dense."""
        density = rng.beta(1.6, 1.6)
        return cls(60 + 170 * density, 750 + 400 * density, 0.65 + 0.6 * density)

    @property
    def is_porotic(self) -> bool:
        return self.trabecular_hu < 110


@dataclass(frozen=True)
class Vertebra:
    """One vertebra: its place and its shape.

    Attributes:
        level: "T8" to "L5".
        frame: origin in the middle of the vertebral body; x left, y back, z up.
        sizes: entries of the table above, drawn, mm before the frame's scale, as all lengths here.
        wedge: angle between the endplates, rad, positive where the front is higher.
        waist: how much narrower the body is at mid height than at the endplates, a fraction.
        dish: depth of the upper and of the lower endplate.
        osteophytes: spurs growing from the rims.
        asymmetry: factors on the right and left side's processes and facets.
        deviation: shift of the spinous process's tip to the left.
        cortex: factor on shell thicknesses.
    """

    level: str
    frame: Frame
    sizes: dict[str, float]
    wedge: float
    waist: float
    dish: tuple[float, float]
    osteophytes: tuple[Rod, ...]
    asymmetry: tuple[float, float]
    deviation: float
    cortex: float

    @property
    def label(self) -> int:
        return VERTEBRA_LABELS[self.level]

    @property
    def back_of_canal(self) -> float:
        """Distance of the laminae's front from the middle of the body."""
        return self.sizes["depth"] / 2 + self.sizes["canal_depth"]

    @property
    def canal_centre_mm(self) -> np.ndarray:
        """(3,) body frame."""
        return self.frame.points([0, (self.sizes["depth"] + self.sizes["canal_depth"]) / 2, 0])

    @property
    def spinous_tip_mm(self) -> np.ndarray:
        """(3,) rearmost point, body frame."""
        return self.frame.points(self._spinous_end() + np.array([0, 4, 0]))

    def shape(self, grid: Grid) -> BoneShape:
        """Its signed distances on the part of the grid around it."""
        reach = self.sizes["transverse_reach"] + 12
        corners = np.stack(np.meshgrid([-reach, reach], [-35, 85], [-58, 40]), axis=-1).reshape(-1, 3)
        corners = self.frame.points(corners)
        shape = BoneShape(grid, corners.min(axis=0), corners.max(axis=0))
        for side, factor in zip((-1, 1), self.asymmetry, strict=True):
            for piece, shell in self._half_arch(factor):
                shape.add(piece.placed(self.frame.side(side)), shell * self.cortex)
        for piece, shell in self._spinous_process():
            shape.add(piece.placed(self.frame), shell * self.cortex)
        self._join_body(shape)
        for spur in self.osteophytes:
            shape.add(spur.placed(self.frame), 1.5 * self.cortex, 2.0)
        return shape

    def _join_body(self, shape: BoneShape) -> None:
        """The vertebral body: a drum with a waist, a flat back and dished endplates inside raised rims."""
        s, scale = self.sizes, np.float32(self.frame.scale)
        width, depth, height = (np.float32(s[name]) for name in ("width", "depth", "height"))
        reach = scale * (0.5 * np.linalg.norm([width, depth, height]) + 4)
        box = shape.grid.box(self.frame.origin_mm - reach, self.frame.origin_mm + reach)
        offsets = [
            (c - np.float32(o)) / scale
            for c, o in zip(shape.grid.crop(box).coordinates, self.frame.origin_mm, strict=True)
        ]
        x, y, z = (
            sum(q * d for q, d in zip(offsets, column, strict=True)) for column in np.float32(self.frame.R.T)
        )

        half_height = height / 2 - y * np.float32(np.tan(self.wedge / 2))
        narrowing = 1 - np.float32(self.waist) * (1 - np.clip(z / half_height, -1, 1) ** 2)
        # An ellipse that reaches beyond the back; a plane with a shallow groove cuts it off.
        centre = np.float32(0.16) * depth
        rx, ry = 0.5 * width * narrowing, (0.5 * depth + centre) * narrowing
        ex, ey = x / rx, (y - centre) / ry
        rho = np.sqrt(ex**2 + ey**2 + np.float32(1e-6))
        side = rho * (rho - 1) / np.sqrt((ex / rx) ** 2 + (ey / ry) ** 2 + np.float32(1e-6) / rx**2)
        groove = 0.09 * depth * np.clip(1 - (x / (0.36 * width)) ** 2, 0, 1)
        side = smooth_maximum(side, y - 0.25 * depth * (1 + narrowing) + groove, 5.0)
        hollow = np.clip(1 - rho**2 / np.float32(0.75), 0, 1)
        upper, lower = (np.float32(dish) * hollow - half_height for dish in self.dish)
        plate = np.maximum(upper + z, lower - z)
        outer = scale * smooth_maximum(side, plate, 2.5)
        wall_mm, plate_mm = np.float32([0.9, 1.1]) * np.float32(self.cortex)
        marrow = smooth_maximum(scale * side + wall_mm, scale * plate + plate_mm, 2.5)
        np.minimum(shape.outer[box], outer, out=shape.outer[box])
        np.minimum(shape.marrow[box], marrow, out=shape.marrow[box])

    def _half_arch(self, factor: float) -> list[tuple[Rod, float]]:
        """(piece, shell thickness) of one side: pedicle, facets, lamina, transverse process; x outwards."""
        s = self.sizes
        thoracic, l5 = self.level.startswith("T"), self.level == "L5"
        back, arch, top = s["depth"] / 2, self.back_of_canal, s["height"] / 2
        across, tall = s["pedicle_width"] / 2, s["pedicle_height"] / 2
        x_pedicle, x_pillar, z_pedicle = (
            s["canal_width"] / 2 + across,
            s["canal_width"] / 2 + 3.5,
            top - tall - 0.5,
        )

        root = np.array([x_pedicle, back + 0.75 * s["canal_depth"], z_pedicle])
        pedicle = Rod(np.array([x_pedicle - 0.5, back - 9, z_pedicle]), root, (across, tall), (across, tall))
        # Upper facets flank the lower ones of the vertebra above, whose joint space is carved out of them.
        upper_tip = (x_pillar + (1 if thoracic else 3), arch + 0.5, top + (3 if thoracic else 4.5) * factor)
        upper = chain([root, upper_tip], [(4.6, 6), (3.6, 6.5)], flat=(0, 1, 0))
        isthmus = np.array([x_pillar - 0.5, arch + 2.5, -0.3 * top])
        lower_tip = (x_pillar - 1, arch + 5.5, -top - (5 if thoracic else 8.5) * factor)
        lower = chain([root, isthmus, lower_tip], [(5, 5.5), (5.4, 5.2), (5.2, 6)], flat=(0, 1, 0))
        lamina = Rod(
            isthmus + np.array([0, 0, 1]), np.array([0.5, arch + 6, -0.55 * top]), (3.6, 9), (3.8, 10)
        )
        reach, start = s["transverse_reach"] * factor, root - np.array([1, 0, 1])
        if thoracic:
            transverse = chain([start, (reach, arch + 9, z_pedicle + 2)], [(4.5, 5.5), (4.5, 5)])
        else:
            stout = 1.5 if l5 else 1.0
            middle = (x_pedicle + 0.45 * (reach - x_pedicle), arch + 2, z_pedicle - 1.5)
            end = (reach, arch + 5, z_pedicle + (4.5 if l5 else 1))
            transverse = chain(
                [start, middle, end], [(3.6 * stout, 5.5), (2.6 * stout, 4.6 * stout), (2.2, 4)]
            )
        return [
            (pedicle, 1.5),
            (lamina, 2.0),
            *((facet, 2.0) for facet in upper + lower),
            *((piece, 1.2) for piece in transverse),
        ]

    def _spinous_process(self) -> list[tuple[Rod, float]]:
        """(piece, shell thickness) of the blade and the knob at its end."""
        half, end = self.sizes["spinous_height"] / 2, self._spinous_end()
        base = np.array([0, self.back_of_canal + 5, -0.28 * self.sizes["height"]])
        knob = end - np.array([0, 0.25 * half, 0.45 * half])
        stretch = np.array([0, 2, 0])
        return [
            (Rod(base, end, (3.2, 0.85 * half), (3.6, half)), 1.4),
            (Rod(knob - stretch, knob + stretch, (4.6, 0.6 * half), (4.6, 0.6 * half)), 1.2),
        ]

    def _spinous_end(self):
        s = self.sizes
        return np.array(
            [
                self.deviation,
                self.back_of_canal + s["spinous_length"],
                -0.28 * s["height"] - s["spinous_drop"],
            ]
        )


@dataclass(frozen=True)
class Spine:
    """A row of vertebrae on a sacrum.

    Attributes:
        vertebrae: T8 to L5.
        sacrum: frame with its origin in the middle of the S1 endplate; x left, y back, z up.
        quality: density of the whole skeleton.
    """

    vertebrae: tuple[Vertebra, ...]
    sacrum: Frame
    quality: BoneQuality

    @property
    def scale(self) -> float:
        """Size of the skeleton, 1 = average adult."""
        return self.sacrum.scale

    def __getitem__(self, level: str) -> Vertebra:
        return self.vertebrae[LEVELS.index(level)]

    def moved(self, shift_mm) -> Spine:
        """The spine after a translation (3,), mm."""
        vertebrae = tuple(replace(v, frame=v.frame.moved(shift_mm)) for v in self.vertebrae)
        return replace(self, vertebrae=vertebrae, sacrum=self.sacrum.moved(shift_mm))

    def beside(self, heights, left, back) -> np.ndarray:
        """Points (n, 3) along the spine, at heights (n,) above the middle of L3; left of and behind the
        bodies, mm unscaled."""
        line = np.array([self.sacrum.origin_mm, *(v.frame.origin_mm for v in self.vertebrae[::-1])])
        z = self["L3"].frame.origin_mm[2] + self.scale * np.asarray(heights, dtype=float)
        x, y = (np.interp(z, line[:, 2], line[:, axis]) for axis in (0, 1))
        return np.stack([x + self.scale * np.asarray(left), y + self.scale * np.asarray(back), z], axis=-1)


@dataclass(frozen=True)
class _Curves:
    """How the vertebrae of a spine stand to each other, rad; an entry a level, from the top.

    Attributes:
        slope: of the S1 endplate, forwards.
        wedges, disc_wedges: by which front exceeds back.
        tilts: of each vertebra against the one below, to the left.
        turns: about its own axis.
    """

    slope: float
    wedges: np.ndarray
    disc_wedges: np.ndarray
    tilts: np.ndarray
    turns: np.ndarray

    @classmethod
    def random(cls, rng: np.random.Generator, collapse: np.ndarray, more_bent: float) -> _Curves:
        """A lordosis that makes up for a slope and a lean, and a scoliosis; ``collapse`` is the share of each
        body's height that is lost, most of it in front."""
        count = len(LEVELS)
        slope = np.deg2rad(rng.normal(38, 6))
        lean = np.deg2rad(rng.normal(10, 3))  # of T12, backwards
        wedges, disc_wedges = np.deg2rad(_WEDGE_DEG), np.deg2rad(_DISC_WEDGE_DEG)
        t12 = LEVELS.index("T12")
        lordosis = (slope + lean) / (wedges[t12:].sum() + disc_wedges[t12:].sum())
        wedges = wedges * lordosis + np.deg2rad(rng.normal(0, 0.8, count) - 25 * collapse)
        disc_wedges = disc_wedges * lordosis + np.deg2rad(rng.normal(0, 0.8, count))
        # Tilts that change sign about an apex, where the vertebrae turn into the convexity.
        bend = more_bent * np.deg2rad(rng.normal(0, 3.5 if rng.random() < 0.3 else 1.0))
        from_apex = np.arange(count) - rng.uniform(5, 9)
        tilts = bend * np.cos(from_apex / 3.0) + np.deg2rad(rng.normal(0, 0.5, count))
        turns = -2.2 * bend * np.exp(-((from_apex / 2.5) ** 2)) + np.deg2rad(rng.normal(0, 1.2, count))
        return cls(slope, wedges, disc_wedges, tilts, turns)


def random_spine(rng: np.random.Generator, more_bent: float = 1.0) -> Spine:
    """Draw a spine with L3 at the origin: size, density, degeneration, curves, and every vertebra.

    Args:
        rng: source of everything drawn.
        more_bent: factor on its scoliosis, 1 for what most people have.
    """
    count = len(LEVELS)
    scale = float(np.clip(rng.normal(1.0, 0.06), 0.86, 1.14))
    quality = BoneQuality.random(rng)
    degeneration = rng.beta(1.3, 2.5)
    sizes = {
        name: np.array(means) * rng.normal(1, 0.05) * rng.normal(1, 0.025, count)
        for name, means in _SIZES.items()
    }
    sizes["disc"] *= 1 - rng.beta(1, 6, count) * (0.4 + degeneration)
    collapse = np.where(rng.random(count) < 0.06 * quality.is_porotic, rng.uniform(0.15, 0.35, count), 0)
    sizes["height"] *= 1 - collapse
    curves = _Curves.random(rng, collapse, more_bent)
    sacrum, frames = _stacked(curves, sizes, scale, rng)
    vertebrae = []
    for level, frame in enumerate(frames):
        own = {name: float(values[level]) for name, values in sizes.items()}
        vertebrae.append(
            Vertebra(
                LEVELS[level],
                frame,
                own,
                wedge=float(curves.wedges[level]),
                waist=rng.uniform(0.09, 0.17),
                dish=tuple(rng.uniform(1.0, 4.6 if quality.is_porotic else 2.6, 2)),
                osteophytes=_osteophytes(rng, own, degeneration),
                asymmetry=tuple(rng.normal(1, 0.06, 2).clip(0.85, 1.15)),
                deviation=rng.normal(0, 1.2),
                cortex=quality.cortex * rng.normal(1, 0.06),
            )
        )
    return Spine(tuple(vertebrae), sacrum, quality).moved(-frames[LEVELS.index("L3")].origin_mm)


def _stacked(
    curves: _Curves, sizes: dict[str, np.ndarray], scale: float, rng: np.random.Generator
) -> tuple[Frame, list[Frame]]:
    """Frames of the sacrum and of the vertebrae (from the top), built from the S1 endplate upwards."""
    tilts = curves.tilts
    forwards = curves.slope
    sideways = np.deg2rad(rng.normal(0, 1.5)) - tilts[len(tilts) // 2 :].sum() / 2
    sacrum = Frame(_rotation(forwards, sideways, np.deg2rad(rng.normal(0, 1))), np.zeros(3), scale)
    top = np.zeros(3)
    frames: list[Frame] = []
    for level in reversed(range(len(tilts))):
        wedge, disc_wedge = curves.wedges[level], curves.disc_wedges[level]
        disc_up = _rotation(forwards - disc_wedge / 2, sideways, 0)[:, 2]
        forwards -= disc_wedge + wedge / 2
        sideways += tilts[level]
        R = _rotation(forwards, sideways, curves.turns[level])
        half_body = 0.5 * scale * sizes["height"][level] * R[:, 2]
        centre = top + scale * sizes["disc"][level] * disc_up + half_body
        frames.insert(0, Frame(R, centre, scale))
        top = centre + half_body
        forwards -= wedge / 2
    return sacrum, frames


def _rotation(forwards, sideways, turn) -> np.ndarray:
    """Body <- vertebra, angles in rad: turned about its own axis, tilted to the left, then forwards."""
    (sx, sy, sz), (cx, cy, cz) = np.sin([forwards, sideways, turn]), np.cos([forwards, sideways, turn])
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_x @ about_y @ about_z


def _osteophytes(rng: np.random.Generator, sizes: dict[str, float], degeneration: float) -> tuple[Rod, ...]:
    """Spurs on the rims of the endplates, in front and at the sides."""
    spurs = []
    for end in (-1, 1):
        for azimuth in rng.uniform(-0.1, 1.1, rng.poisson(3 * degeneration)) * np.pi:  # left, front, right
            outwards = np.array([np.cos(azimuth), -np.sin(azimuth), 0])
            rim = outwards * [sizes["width"] / 2, sizes["depth"] / 2, 0]
            rim[2] = end * (sizes["height"] / 2 - 2.5)
            tip = rim + rng.uniform(2, 3 + 5 * degeneration) * outwards
            tip[2] += end * rng.uniform(0, 2)
            thick, wide = rng.uniform(1.8, 2.6), rng.uniform(3, 7)
            along_rim = np.cross(outwards, [0, 0, 1])
            spurs.append(
                Rod(rim - 4 * outwards, tip, (thick + 0.6, wide), (0.8 * thick, 0.6 * wide), along_rim)
            )
    return tuple(spurs)
