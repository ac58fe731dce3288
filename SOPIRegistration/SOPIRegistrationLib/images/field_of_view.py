"""The exposed part of an X-ray: intensifier circle, collimator, shutters.

Whatever limits the beam, its cross-section is a circle cut by straight edges. Rays from the image's centre
outwards each mark the sharpest step to something darker than which nothing bright follows; circle and lines
are fitted to these marks and kept if most of the rays that should meet them do. The outline of a body has the
opposite sign (air is brighter than it in the same image), that of a bone is neither straight nor last.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

_SEARCH_SIZE = 192
_RAYS = 240
_SMALLEST_STEP = 0.05
_MOST_EDGES = 9
# Rays on an edge: of all rays, and of those that should meet it.
_LINE_SHARE, _CIRCLE_SHARE, _MET_SHARE = 0.08, 0.12, 0.55


@dataclass(frozen=True)
class FieldOfView:
    """A convex exposed field, in pixels.

    Attributes:
        lines: (a, b, c) each, (a, b) a unit normal outwards: inside where a u + b v < c.
        circle: (u, v, radius), or None.
        penumbra_px: width inside the edge over which the image settles.
    """

    lines: tuple[tuple[float, float, float], ...] = ()
    circle: tuple[float, float, float] | None = None
    penumbra_px: float = 0.0

    def mask(self, shape: tuple[int, int], margin_px: float = 0.0) -> np.ndarray:
        """Bool (rows, columns): what lies inside by more than a margin."""
        v, u = np.arange(shape[0])[:, None], np.arange(shape[1])
        inside = np.ones(shape, dtype=bool)
        for a, b, c in self.lines:
            inside &= a * u + b * v < c - margin_px
        if self.circle is not None:
            centre_u, centre_v, radius = self.circle
            inside &= (u - centre_u) ** 2 + (v - centre_v) ** 2 < (radius - margin_px) ** 2
        return inside

    def shifted(self, columns: float, rows: float) -> FieldOfView:
        """The same field in an image of which this one is the part that starts at (columns, rows)."""
        lines = tuple((a, b, c + a * columns + b * rows) for a, b, c in self.lines)
        circle = self.circle
        if circle is not None:
            circle = (circle[0] + columns, circle[1] + rows, circle[2])
        return FieldOfView(lines, circle, self.penumbra_px)

    def scaled(self, factor: int) -> FieldOfView:
        """The same field in the pixels of an image of which this one has the block means."""
        shift = (factor - 1) / 2
        lines = tuple((a, b, factor * c + shift * (a + b)) for a, b, c in self.lines)
        circle = self.circle
        if circle is not None:
            circle = (factor * circle[0] + shift, factor * circle[1] + shift, factor * circle[2])
        return FieldOfView(lines, circle, factor * self.penumbra_px)


def block_mean(pixels: np.ndarray, factor: int) -> np.ndarray:
    """Means of ``factor`` x ``factor`` pixels; incomplete blocks are dropped."""
    rows, columns = (n // factor for n in pixels.shape)
    blocks = pixels[: rows * factor, : columns * factor].reshape(rows, factor, columns, factor)
    return blocks.mean(axis=(1, 3), dtype=np.float32)


def ranks(values: np.ndarray) -> np.ndarray:
    """Each value's rank among all, 0 to 1, equal values alike: what an unknown monotone curve leaves."""
    _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    return ((np.cumsum(counts) - counts / 2) / values.size)[where].reshape(values.shape)


def find_field(pixels: np.ndarray, surround: str) -> FieldOfView | None:
    """The exposed field, if the image shows an edge of it.

    Args:
        pixels: (rows, columns) values, any monotone function of intensity.
        surround: "dark" or "bright", how what was not exposed looks.

    Returns:
        The field, or None where the image is exposed to its borders.
    """
    factor = max(1, max(pixels.shape) // _SEARCH_SIZE)
    values = ndimage.gaussian_filter(block_mean(pixels, factor), 0.7)
    if surround == "bright":
        values = -values
    low, high = np.percentile(values, [0.1, 99.9])
    if min(values.shape) < 32 or not high > low:
        return None
    # Ranks see the edge of a shutter beside a thick body, which is hardly brighter; values see the edge of
    # a field that is mostly saturated, whose ranks are nearly equal.
    levels = (ranks(values) + np.clip((values - low) / (high - low), 0, 1)) / 2
    found = _RaySearch(levels).run()
    if found is None:
        return None
    inside = found.mask(levels.shape)
    if not 0.05 < inside.mean() < 1:
        return None
    # Straight edges, which anatomy and the end of a scan have too, count if their surround is darker than
    # nearly all inside, and even.
    if found.circle is None:
        surround_values = np.clip((values[~inside] - low) / (high - low), 0, 1)
        unevenness = np.subtract(*np.percentile(surround_values, [90, 10]))
        if (levels[inside] < np.median(levels[~inside])).mean() > 0.2 or unevenness > 0.4:
            return None
    return found.scaled(factor)


@dataclass
class _Edge:
    """A candidate: how many rays mark it, where all rays meet it, its numbers relative to the centre."""

    marks: int
    radii: np.ndarray
    line: tuple[np.ndarray, float] | None = None
    circle: tuple[np.ndarray, float] | None = None


class _RaySearch:
    """Marks on rays from the centre of an image, and the lines and circle through them."""

    def __init__(self, levels: np.ndarray):
        height, width = levels.shape
        self.size = max(height, width)
        self.tolerance = 0.012 * self.size
        self.centre = np.array([(width - 1) / 2, (height - 1) / 2])
        angles = np.arange(_RAYS) * 2 * np.pi / _RAYS
        self.directions = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
        radii = np.arange(int(np.hypot(height, width) / 2) + 1)
        at = np.rint(self.centre + self.directions[:, None] * radii[:, None]).astype(int)
        inside = ((at >= 0) & (at < (width, height))).all(axis=-1)
        at = np.clip(at, 0, (width - 1, height - 1))
        self.profiles = np.where(inside, levels[at[..., 1], at[..., 0]], -1.0)
        self.limit = inside.sum(axis=1) - 1.0

        steps = np.maximum(_sharp_steps(self.profiles, 2), _sharp_steps(self.profiles, 4))
        steps[:, : int(0.15 * self.size)] = -1
        self.marks = steps.argmax(axis=1).astype(float)
        self.marked = steps.max(axis=1) > _SMALLEST_STEP

    def run(self) -> FieldOfView | None:
        lines: list[tuple[float, float, float]] = []
        circle = None
        edges_radius = np.full(_RAYS, np.inf)
        free = self.marked.copy()
        for _ in range(_MOST_EDGES):
            rays = np.flatnonzero(free & (self.marks < self.limit + self.tolerance))
            candidates = [self._line(rays)] + ([self._circle(rays)] if circle is None else [])
            for edge in sorted(filter(None, candidates), key=lambda one: -one.marks):
                expected = edge.radii < self.limit - 1
                near = np.abs(self.marks - edge.radii) < np.maximum(self.tolerance, 0.02 * edge.radii)
                met = expected & self.marked & near
                if met.sum() > _MET_SHARE * max(1, expected.sum()):
                    break
            else:
                break
            if edge.line is not None:
                normal, distance = edge.line
                lines.append((float(normal[0]), float(normal[1]), float(distance + normal @ self.centre)))
            else:
                centre, radius = edge.circle
                circle = (float(centre[0] + self.centre[0]), float(centre[1] + self.centre[1]), radius)
            free &= ~met
            edges_radius = np.minimum(edges_radius, edge.radii)
            self.limit = np.minimum(self.limit, edge.radii)
        if not lines and circle is None:
            return None
        return FieldOfView(tuple(lines), circle, self._penumbra(edges_radius))

    def _line(self, rays: np.ndarray) -> _Edge | None:
        """The line through most marks, over all pairs of them."""
        if len(rays) < _LINE_SHARE * _RAYS:
            return None
        points = self.directions[rays] * self.marks[rays, None]
        first, second = np.triu_indices(len(rays), 3)
        along = points[second] - points[first]
        length = np.hypot(*along.T)
        normals = np.stack([along[:, 1], -along[:, 0]], axis=-1) / np.maximum(length, 1e-9)[:, None]
        distances = (points[first] * normals).sum(axis=1)
        normals, distances = normals * np.sign(distances)[:, None], np.abs(distances)
        usable = (length > 0.1 * self.size) & (distances > 0.12 * self.size)
        if not usable.any():
            return None
        normals, distances = normals[usable], distances[usable]
        # Tens of thousands of lines and hundreds of marks: single precision, in place.
        off = points.astype(np.float32) @ normals.T.astype(np.float32)
        off -= distances.astype(np.float32)
        on = np.abs(off, out=off) < self.tolerance / 2
        best = np.count_nonzero(on, axis=0).argmax()
        marks = int(on[:, best].sum())
        if marks < _LINE_SHARE * _RAYS:
            return None
        near = points[on[:, best]]
        normal = np.linalg.svd(near - near.mean(axis=0))[2][1]
        normal *= np.sign(normal @ near.mean(axis=0))
        distance = float(normal @ near.mean(axis=0))
        towards = self.directions @ normal
        radii = np.where(towards > 1e-6, distance / np.maximum(towards, 1e-6), np.inf)
        return _Edge(marks, radii, line=(normal, distance))

    def _circle(self, rays: np.ndarray) -> _Edge | None:
        """The circle through most marks, over a lattice of centres, then least squares."""
        if len(rays) < _CIRCLE_SHARE * _RAYS:
            return None
        points = self.directions[rays] * self.marks[rays, None]
        offsets = np.linspace(-0.1, 0.1, 21) * self.size
        centres = np.stack(np.meshgrid(offsets, offsets), axis=-1).reshape(-1, 2)
        radii = np.sort(np.hypot(*(points - centres[:, None]).transpose(2, 0, 1)), axis=1)
        # How many radii lie within the tolerance above each one.
        above = np.stack([np.searchsorted(row, row + self.tolerance) for row in radii]) - np.arange(len(rays))
        row, start = np.unravel_index(above.argmax(), above.shape)
        marks = int(above[row, start])
        centre, radius = centres[row], radii[row, start] + self.tolerance / 2
        for _ in range(3):
            on = np.abs(np.hypot(*(points - centre).T) - radius) < self.tolerance / 2
            if on.sum() < _CIRCLE_SHARE * _RAYS / 2:
                return None
            system = np.concatenate([2 * points[on], np.ones((on.sum(), 1))], axis=1)
            *centre, rest = np.linalg.lstsq(system, (points[on] ** 2).sum(axis=1), rcond=None)[0]
            centre = np.array(centre)
            radius = float(np.sqrt(max(rest + centre @ centre, 0.0)))
        offset = float(np.hypot(*centre))
        if marks < _CIRCLE_SHARE * _RAYS or offset > 0.2 * self.size or radius < max(offset, 0.3 * self.size):
            return None
        towards = self.directions @ centre
        reach = towards + np.sqrt(radius**2 - offset**2 + towards**2)
        return _Edge(marks, reach, circle=(centre, radius))

    def _penumbra(self, edges_radius: np.ndarray) -> float:
        """Depth at which the median profile has risen to nine tenths of its level well inside."""
        rays = np.flatnonzero(np.isfinite(edges_radius) & (edges_radius <= self.limit + 1e-9))
        depths = np.arange(int(0.06 * self.size))
        at = np.clip(np.rint(edges_radius[rays, None] - depths).astype(int), 0, self.profiles.shape[1] - 1)
        inward = self.profiles[rays[:, None], at]
        rise = np.median(inward / np.maximum(inward[:, -1:], 1e-3), axis=0)
        return float(np.argmax(rise >= 0.9))


def _sharp_steps(profiles: np.ndarray, gap: int) -> np.ndarray:
    """Fall from ``gap`` before to the brightest beyond ``gap`` after, less the slope on either side."""
    brightest_beyond = np.maximum.accumulate(profiles[:, ::-1], axis=1)[:, ::-1]
    n = profiles.shape[1]

    def shifted(array, by):
        index = np.arange(n) + by
        return np.where((index >= 0) & (index < n), array[:, np.clip(index, 0, n - 1)], -1.0)

    before, well_before = shifted(profiles, -gap), shifted(profiles, -3 * gap)
    after, well_after = shifted(brightest_beyond, gap), shifted(brightest_beyond, 3 * gap)
    slope = np.maximum(well_before - before, np.where(well_after >= 0, after - well_after, 0))
    inside = (before >= 0) & (after >= 0) & (well_before >= 0)
    return np.where(inside, before - after - np.maximum(slope, 0), -1.0)
