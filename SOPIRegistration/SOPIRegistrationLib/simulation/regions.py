"""Phantoms of regions of the body other than the upright lumbar spine of ``simulation.phantom``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from SOPIRegistrationLib.images.volume import Volume
from SOPIRegistrationLib.simulation.fields import Grid
from SOPIRegistrationLib.simulation.head_and_chest import paint_chest, paint_head
from SOPIRegistrationLib.simulation.hips import paint_hips
from SOPIRegistrationLib.simulation.limbs import paint_knee, paint_long_bones, paint_wrist
from SOPIRegistrationLib.simulation.phantom import bent_spine
from SOPIRegistrationLib.simulation.sculpture import Sculpture


@dataclass(frozen=True)
class RegionPhantom:
    """A simulated part of a patient.

    Attributes:
        ct: float32 HU; metal as dense as it is, not as scanners store it.
        labels: uint8 on the same grid: 0 not bone, each bone its own number.
    """

    ct: Volume
    labels: Volume


@dataclass(frozen=True)
class Region:
    """How a region is made.

    Attributes:
        paint: paints it, with a source of everything random.
        size_mm: (x, y, z) field of view.
        detail: voxels are so much smaller than asked for.
    """

    paint: Callable[[Sculpture, np.random.Generator], None]
    size_mm: tuple[float, float, float]
    detail: float = 1.0

    def phantom(self, name: str, seed: int, spacing_mm: float) -> RegionPhantom:
        """One of them."""
        rng = np.random.default_rng(seed)
        grid = Grid.centred(self.size_mm, self.detail * spacing_mm)
        sculpture = Sculpture(grid, self.size_mm, rng)
        self.paint(sculpture, rng)
        return RegionPhantom(*sculpture.volumes(f"{name} {seed}"))


_SCULPTED = {
    "long-bones": Region(paint_long_bones, (210.0, 210.0, 420.0)),
    "knee": Region(paint_knee, (200.0, 330.0, 420.0)),
    "wrist": Region(paint_wrist, (150.0, 150.0, 340.0), 0.7),
    "hips": Region(paint_hips, (390.0, 270.0, 330.0)),
    "head": Region(paint_head, (200.0, 260.0, 330.0)),
    "chest": Region(paint_chest, (440.0, 290.0, 330.0)),
}
BENT_SPINE = "bent-spine"
REGIONS = (*_SCULPTED, BENT_SPINE)


def random_region(name: str, seed: int, spacing_mm: float) -> RegionPhantom:
    """Draw a phantom of one of ``REGIONS``; small bones have voxels smaller than ``spacing_mm``.

    Raises:
        ValueError: an unknown name.
    """
    if name == BENT_SPINE:
        made = bent_spine(seed, spacing_mm)
        return RegionPhantom(made.ct, made.labels)
    if name not in _SCULPTED:
        raise ValueError(f"no region is called '{name}': take one of {', '.join(REGIONS)}")
    return _SCULPTED[name].phantom(name, seed, spacing_mm)
