"""A CT in the making: soft tissue, bones and metal painted on a grid, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from SOPIRegistrationLib.images.attenuation import AIR_HU
from SOPIRegistrationLib.images.volume import Volume
from SOPIRegistrationLib.simulation.body import FAT_HU, MUSCLE_HU
from SOPIRegistrationLib.simulation.fields import BoneShape, Grid, Rod, SmoothField, smooth_minimum

# Between bones.
JOINT_SPACE_MM = 1.4


@dataclass(frozen=True)
class Part:
    """A piece of a bone.

    Attributes:
        rod: where it is.
        cortex_mm: thickness of its shell.
    """

    rod: Rod
    cortex_mm: float


class Sculpture:
    """HU and bone labels on a grid; what is painted later covers what was painted before.

    Args:
        grid: voxels, body frame.
        size_mm: (x, y, z) of a box about the origin that holds the grid.
        rng: source of textures and densities.
        hu: (k, j, i) float32, what is there already, painted over in place; air unless given.
        labels: (k, j, i) uint8, likewise.
    """

    def __init__(
        self,
        grid: Grid,
        size_mm: tuple[float, float, float],
        rng: np.random.Generator,
        hu: np.ndarray | None = None,
        labels: np.ndarray | None = None,
    ):
        self.grid = grid
        self.hu = np.full(grid.shape, np.float32(AIR_HU)) if hu is None else hu
        self.labels = np.zeros(grid.shape, np.uint8) if labels is None else labels
        self._size, self._rng = size_mm, rng
        self._neighbours = np.full(grid.shape, np.float32(1e3))
        self._texture = SmoothField(rng, size_mm, 6)
        density = rng.beta(1.6, 1.6)
        self._spongy_hu, self._cortical_hu = 90 + 220 * density, 900 + 600 * density
        self.cortex = 0.65 + 0.6 * density

    def flesh(self, rods: Sequence[Rod], fat_mm: float, blend_mm: float = 15.0) -> None:
        """Skin, fat and muscle of a limb or trunk that is the union of rods."""
        depth = np.full(self.grid.shape, np.float32(1e3))
        for rod in rods:
            depth = smooth_minimum(depth, rod.distance(self.grid), blend_mm)
        depth += np.float32(1.2) * SmoothField(self._rng, self._size, 40).on(self.grid)
        muscle = MUSCLE_HU + 9 * SmoothField(self._rng, self._size, 7).on(self.grid)
        # Fat between the muscles.
        seams = np.clip(np.abs(SmoothField(self._rng, self._size, 25).on(self.grid)) / 0.12, 0, 1)
        muscle = FAT_HU + seams * (muscle - FAT_HU)
        self._mix(..., self.grid.coverage(depth), FAT_HU)
        self._mix(..., self.grid.coverage(depth + np.float32(fat_mm)), muscle)

    def organ(self, rods: Sequence[Rod], hu: float) -> None:
        """Soft tissue, gas, contrast agent or metal; not where bone is."""
        for box, part, distance in self.grid.around(rods):
            self._mix(box, part.coverage(distance) * (self.labels[box] == 0), np.float32(hu))

    def metal(
        self, rods: Sequence[Rod], hu: float, label: int | None = None, shell_mm: float | None = None
    ) -> None:
        """Metal in bone or tissue.

        Args:
            rods: where.
            hu: how dense.
            label: of the bone that it is part of; it keeps the numbers that are there unless given.
            shell_mm: thickness of the wall of a hollow part; solid unless given.
        """
        for box, part, distance in self.grid.around(rods):
            share = part.coverage(distance)
            if shell_mm is not None:
                share = share * (1 - part.coverage(distance + np.float32(shell_mm)))
            self._mix(box, share, np.float32(hu))
            if label is not None:
                self.labels[box][share > 0.5] = label

    def bone(
        self,
        parts: Sequence[Part],
        blend_mm: float = 4.0,
        cuts: Sequence[Rod] = (),
        label: int | None = None,
        density: float = 1.0,
    ) -> int:
        """A bone, a joint space away from those before; its number.

        Args:
            parts: pieces, joined.
            blend_mm: over which their seams are filled.
            cuts: pieces taken away, leaving a thin shell.
            label: a number that it shares; its own unless given.
            density: factor on the values of its spongy bone.
        """
        reach = np.array([part.rod.bounds(blend_mm + 4) for part in parts])
        shape = BoneShape(self.grid, reach[:, 0].min(axis=0), reach[:, 1].max(axis=0))
        for part in parts:
            shape.add(part.rod, part.cortex_mm * self.cortex, blend_mm)
        for cut in cuts:
            shape.cut(cut, self.cortex)
        return self.add(shape, label, density)

    def add(self, shape: BoneShape, label: int | None = None, density: float = 1.0) -> int:
        """A bone of a shape made before, as in :meth:`bone`."""
        number = int(self.labels.max()) + 1 if label is None else label
        if shape.grid.is_empty:
            return number
        box, part = shape.box, shape.grid
        shape.keep_clear_of(self._neighbours[box], JOINT_SPACE_MM, 0.9 * self.cortex)
        spongy = density * self._spongy_hu * (1 + np.float32(0.2) * self._texture.on(part))
        self._mix(box, part.coverage(shape.outer), np.float32(self._cortical_hu))
        region = self.hu[box]
        region += part.coverage(shape.marrow) * (spongy - np.float32(self._cortical_hu))
        self.labels[box][shape.outer < 0] = number
        np.minimum(self._neighbours[box], shape.outer, out=self._neighbours[box])
        return number

    def volumes(self, name: str) -> tuple[Volume, Volume]:
        """HU, float32, and labels, uint8, with a scanner's noise."""
        grid = self.grid
        hu = self.hu + self._rng.normal(0, self._rng.uniform(5, 20), grid.shape).astype(np.float32)
        index_to_lps = np.diag([grid.spacing_mm] * 3 + [1.0])
        index_to_lps[:3, 3] = grid.x[0], grid.y[0], grid.z[0]
        return Volume(hu, index_to_lps, name), Volume(self.labels, index_to_lps, name)

    def _mix(self, where, share, value) -> None:
        region = self.hu[where]
        region += share * (value - region)
