"""Signed distances and smooth random fields on a grid: what the phantom is painted with.

Everything is a function of position in mm, never of voxel indices, so that one seed is one body at any
voxel size.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

_FAR_MM = np.float32(1e3)
# The edges of what is cut away are rounded so far.
_CUT_BLEND_MM = 2.0


@dataclass(frozen=True)
class Grid:
    """Voxel centres of an axis-aligned box, mm; x to the left, y to the back, z to the head.

    Attributes:
        x, y, z: 1-D float32 coordinates, increasing.
        spacing_mm: voxel size.
    """

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    spacing_mm: float

    @classmethod
    def centred(cls, size_mm: tuple[float, float, float], spacing_mm: float) -> Grid:
        """Grid of a box of ``size_mm`` (x, y, z) about the origin."""
        counts = [max(1, round(size / spacing_mm)) for size in size_mm]
        axes = [((np.arange(n) - (n - 1) / 2) * spacing_mm).astype(np.float32) for n in counts]
        return cls(*axes, spacing_mm)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(k, j, i)."""
        return len(self.z), len(self.y), len(self.x)

    @property
    def is_empty(self) -> bool:
        return 0 in self.shape

    @cached_property
    def coordinates(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """x, y, z shaped to broadcast against (k, j, i) arrays."""
        return self.x[None, None, :], self.y[None, :, None], self.z[:, None, None]

    def box(self, lower, upper) -> tuple[slice, slice, slice]:
        """(k, j, i) slices of the voxels between two corners (x, y, z), mm; empty where they lie outside."""
        bounds = zip((self.x, self.y, self.z), lower, upper, strict=True)
        i, j, k = (slice(*np.searchsorted(axis, (low, high))) for axis, low, high in bounds)
        return k, j, i

    def crop(self, box: tuple[slice, slice, slice]) -> Grid:
        """The part of the grid inside ``box``."""
        k, j, i = box
        return Grid(self.x[i], self.y[j], self.z[k], self.spacing_mm)

    def around(self, rods: Iterable[Rod]) -> Iterator[tuple[tuple[slice, slice, slice], Grid, np.ndarray]]:
        """Of each rod in the grid its box, the grid's part there, and the signed distance from it, mm."""
        for rod in rods:
            box = self.box(*rod.bounds(self.spacing_mm))
            part = self.crop(box)
            if not part.is_empty:
                yield box, part, rod.distance(part)

    def coverage(self, distance: np.ndarray) -> np.ndarray:
        """Share of a voxel inside a surface at signed ``distance``, mm (negative inside): partial volume."""
        return np.clip(0.5 - distance / np.float32(self.spacing_mm), 0, 1)


@dataclass(frozen=True)
class Frame:
    """Where a part stands in the body: ``p_body = R (scale p) + origin_mm``.

    Attributes:
        R: (3, 3) rotation; of determinant -1 where a part is the mirror image of its description.
        origin_mm: (3,) body frame.
        scale: size, 1 = average adult.
    """

    R: np.ndarray
    origin_mm: np.ndarray
    scale: float = 1.0

    def points(self, p) -> np.ndarray:
        """Points (..., 3) of the part in the body frame, mm."""
        return self.scale * np.asarray(p) @ self.R.T + self.origin_mm

    def moved(self, shift_mm) -> Frame:
        """The frame after a translation in the body frame."""
        return replace(self, origin_mm=self.origin_mm + shift_mm)

    def side(self, side: int) -> Frame:
        """The frame whose x points outwards on the left (+1) or right (-1) side."""
        return replace(self, R=self.R * [side, 1, 1])

    @property
    def matrix(self) -> np.ndarray:
        """(4, 4) rigid, mm, without the scale."""
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = self.R, self.origin_mm
        return matrix


@dataclass(frozen=True)
class Rod:
    """A tapered rod of elliptic cross-section with rounded ends.

    Attributes:
        a, b: (3,) ends of the axis, mm.
        radii_a, radii_b: half-widths (across, along ``flat``) at either end, mm.
        flat: (3,) direction of the second half-width; made perpendicular to the axis, any such if along it.
    """

    a: np.ndarray
    b: np.ndarray
    radii_a: tuple[float, float]
    radii_b: tuple[float, float]
    flat: tuple[float, float, float] = (0.0, 0.0, 1.0)

    @classmethod
    def ball(cls, centre, radius: float) -> Rod:
        """A sphere."""
        nudge = np.array([0.005, 0, 0])
        return cls(centre - nudge, centre + nudge, (radius, radius), (radius, radius))

    def placed(self, frame: Frame) -> Rod:
        """The rod, described in ``frame``, in the body."""
        radii_a, radii_b = (tuple(frame.scale * r for r in radii) for radii in (self.radii_a, self.radii_b))
        flat = frame.R @ np.asarray(self.flat)
        return Rod(frame.points(self.a), frame.points(self.b), radii_a, radii_b, flat)

    def bounds(self, margin_mm: float) -> tuple[np.ndarray, np.ndarray]:
        """Corners of a box around the rod."""
        reach_a, reach_b = max(self.radii_a) + margin_mm, max(self.radii_b) + margin_mm
        a, b = np.asarray(self.a), np.asarray(self.b)
        return np.minimum(a - reach_a, b - reach_b), np.maximum(a + reach_a, b + reach_b)

    def distance(self, grid: Grid) -> np.ndarray:
        """Signed distance, mm, at the grid's points; first order near the surface.

        Quilez' estimate for ellipsoids, k0 (k0 - 1) / k1, with the offset from the nearest point of the axis.
        """
        axis = np.subtract(self.b, self.a)
        length = np.float32(np.linalg.norm(axis))
        w = axis / length
        v = np.subtract(self.flat, np.dot(self.flat, w) * w)
        if np.linalg.norm(v) < 1e-6 * np.linalg.norm(self.flat):
            v = np.cross(w, np.roll(np.sign(w) * (np.abs(w) == np.abs(w).max()), 1))
        v /= np.linalg.norm(v)
        u = np.cross(v, w)
        x, y, z = (c - np.float32(start) for c, start in zip(grid.coordinates, self.a, strict=True))
        pu, pv, along = (x * d[0] + y * d[1] + z * d[2] for d in np.float32([u, v, w]))
        share = np.clip(along / length, 0, 1)
        beyond = along - share * length
        inverse_u, inverse_v = (
            1 / (np.float32(first) + np.float32(second - first) * share)
            for first, second in zip(self.radii_a, self.radii_b, strict=True)
        )
        inverse_w = np.maximum(inverse_u, inverse_v)
        pu, pv, beyond = pu * inverse_u, pv * inverse_v, beyond * inverse_w
        # The small terms make the ratio of the two the radius, not 0 / 0, on the axis.
        tiny = np.float32(1e-6)
        k0 = np.sqrt(pu**2 + pv**2 + beyond**2 + tiny)
        k1 = (pu * inverse_u) ** 2 + (pv * inverse_v) ** 2 + (beyond**2 + tiny) * inverse_w**2
        return k0 * (k0 - 1) / np.sqrt(k1)


def chain(points, radii, flat=(0.0, 0.0, 1.0)) -> list[Rod]:
    """Rods from point to point, (n, 3), with half-widths ``radii`` (n, 2) at the points."""
    points = np.asarray(points, dtype=float)
    radii = [(float(across), float(along)) for across, along in radii]
    return [Rod(points[n], points[n + 1], radii[n], radii[n + 1], flat) for n in range(len(points) - 1)]


def smooth_minimum(a: np.ndarray, b: np.ndarray, blend_mm: float) -> np.ndarray:
    """Union of two signed distances whose seam is filled over ``blend_mm`` (polynomial smooth minimum)."""
    seam = np.maximum(np.float32(blend_mm) - np.abs(a - b), 0)
    return np.minimum(a, b) - seam * seam * np.float32(0.25 / blend_mm)


def smooth_maximum(a: np.ndarray, b: np.ndarray, blend_mm: float) -> np.ndarray:
    """Intersection of two signed distances, its edge rounded over ``blend_mm``."""
    return -smooth_minimum(-a, -b, blend_mm)


class BoneShape:
    """Signed distances of a bone's surface and of its marrow, on a part of a grid, built up from pieces.

    Attributes:
        box: (k, j, i) slices of that part.
        grid: its points.
        outer, marrow: signed distances, mm; between them lies the cortex.
    """

    def __init__(self, grid: Grid, lower, upper):
        self.box = grid.box(lower, upper)
        self.grid = grid.crop(self.box)
        self.outer = np.full(self.grid.shape, _FAR_MM)
        self.marrow = self.outer.copy()

    def add(self, piece: Rod, cortex_mm: float, blend_mm: float = 3.0) -> None:
        """Join a piece whose shell is ``cortex_mm`` thick."""
        box, distance = self._nearby(piece, blend_mm)
        self.outer[box] = smooth_minimum(self.outer[box], distance, blend_mm)
        self.marrow[box] = smooth_minimum(self.marrow[box], distance + np.float32(cortex_mm), blend_mm)

    def cut(self, piece: Rod, cortex_mm: float) -> None:
        """Remove a piece, leaving a shell of ``cortex_mm`` around the hole."""
        box, distance = self._nearby(piece, _CUT_BLEND_MM + cortex_mm)
        self.outer[box] = smooth_maximum(self.outer[box], -distance, _CUT_BLEND_MM)
        self.marrow[box] = smooth_maximum(self.marrow[box], np.float32(cortex_mm) - distance, _CUT_BLEND_MM)

    def keep_clear_of(self, neighbour: np.ndarray, gap_mm: float, cortex_mm: float) -> None:
        """Carve the bone back to ``gap_mm`` from a neighbour given by its signed distance: a joint space."""
        clearance = np.float32(gap_mm) - neighbour
        np.maximum(self.outer, clearance, out=self.outer)
        np.maximum(self.marrow, clearance + np.float32(cortex_mm), out=self.marrow)

    def _nearby(self, piece, blend_mm):
        box = self.grid.box(*piece.bounds(blend_mm + 2 * self.grid.spacing_mm + 2))
        return box, piece.distance(self.grid.crop(box))


class SmoothField:
    """A random field, cubic B-spline of white noise on a lattice: mean 0, standard deviation about 1.

    Args:
        rng: source of the lattice's values.
        size_mm: (x, y, z) extent of the box about the origin that it covers.
        pitch_mm: distance of the lattice's points, about the width of a blob.
    """

    def __init__(self, rng: np.random.Generator, size_mm: tuple[float, float, float], pitch_mm: float):
        self._pitch = pitch_mm
        self._start = [-size / 2 - 2 * pitch_mm for size in size_mm[::-1]]
        counts = [int(np.ceil(size / pitch_mm)) + 5 for size in size_mm[::-1]]
        # The mean over an axis of the sum of the squared weights is 151/315.
        scale = np.float32((315 / 151) ** 1.5)
        self._lattice = scale * rng.standard_normal(counts, dtype=np.float32)

    def on(self, grid: Grid) -> np.ndarray:
        """Values at a grid's points, (k, j, i) float32."""
        wz, wy, wx = (
            self._weights(coordinates, start, count)
            for coordinates, start, count in zip(
                (grid.z, grid.y, grid.x), self._start, self._lattice.shape, strict=True
            )
        )
        value = np.tensordot(wz, self._lattice, axes=1)
        return (wy @ value) @ wx.T

    def _weights(self, coordinates, start, count):
        offset = np.abs((coordinates[:, None] - start) / self._pitch - np.arange(count))
        inner = 2 / 3 - offset**2 * (1 - offset / 2)
        outer = np.clip(2 - offset, 0, None) ** 3 / 6
        return np.where(offset < 1, inner, outer).astype(np.float32)
