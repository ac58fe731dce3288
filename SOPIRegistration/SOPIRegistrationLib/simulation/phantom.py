"""A procedural lumbar CT: one seed, one body, at any voxel size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from SOPIRegistrationLib.images.volume import Volume
from SOPIRegistrationLib.simulation.body import Habitus, paint_trunk
from SOPIRegistrationLib.simulation.fields import BoneShape, Grid, SmoothField
from SOPIRegistrationLib.simulation.skeleton import ilium_shape, rib_shapes, sacrum_shape
from SOPIRegistrationLib.simulation.spine import Spine, random_spine

SACRUM_LABEL, RIB_LABEL, RIGHT_ILIUM_LABEL, LEFT_ILIUM_LABEL = 26, 30, 31, 32
_JOINT_SPACE_MM = 1.4
# Behind the middle of the field of view, so that the skin stays inside the default one.
_DEEPEST_BACK_MM = 130.0


@dataclass(frozen=True)
class Phantom:
    """A simulated patient.

    Attributes:
        ct: int16 HU.
        labels: uint8 on the same grid: 0 not bone; 15 to 19 T8 to T12, 20 to 24 L1 to L5, 26 sacrum (as in
            VerSe); 30 ribs, 31 right and 32 left ilium. Only what the field of view holds.
        T_vertebra_to_lps: (4, 4) by label, mm; origin in the middle of the body, x left, y back, z up.
    """

    ct: Volume
    labels: Volume
    T_vertebra_to_lps: dict[int, np.ndarray]


def lumbar_phantom(
    seed: int,
    spacing_mm: float = 2.0,
    size_mm: tuple[float, float, float] = (384.0, 272.0, 272.0),
    noise_hu: float | None = None,
) -> Phantom:
    """Draw a lumbar spine in a trunk, T11 to S2 at the default size.

    The same seed and size give the same anatomy at every spacing; a voxel that a surface crosses has the mean
    of both sides.

    Args:
        seed: of everything random.
        spacing_mm: isotropic voxel size.
        size_mm: (x, y, z) field of view; L3 lies near its middle.
        noise_hu: standard deviation of the scanner's noise; drawn between 6 and 20 HU unless given.
    """
    anatomy, scanner = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(2))
    grid = Grid.centred(size_mm, spacing_mm)
    spine, habitus = _random_patient(anatomy)
    hu = paint_trunk(grid, spine, habitus, size_mm, anatomy)
    labels = _paint_skeleton(hu, grid, spine, habitus, size_mm, anatomy)

    drawn_noise = scanner.uniform(6, 20)
    noise = gaussian_filter(scanner.standard_normal(grid.shape, dtype=np.float32), 0.7)
    hu += noise * np.float32((drawn_noise if noise_hu is None else noise_hu) / noise.std())
    ct = np.clip(np.rint(hu), -1024, 3071).astype(np.int16)

    T_body_to_lps = np.eye(4)
    T_body_to_lps[:3, 3] = anatomy.uniform(-150, 150, 3)
    index_to_body = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    index_to_body[:3, 3] = grid.x[0], grid.y[0], grid.z[0]
    index_to_lps, name = T_body_to_lps @ index_to_body, f"phantom {seed}"
    return Phantom(
        Volume(ct, index_to_lps, name),
        Volume(labels, index_to_lps, name),
        {v.label: T_body_to_lps @ v.frame.matrix for v in spine.vertebrae if v.label in labels},
    )


def _random_patient(rng: np.random.Generator) -> tuple[Spine, Habitus]:
    """A spine and the trunk around it, whose back covers the spinous processes."""
    spine = random_spine(rng)
    habitus = Habitus.random(rng, spine.scale)
    l3 = spine["L3"]
    depth = spine.scale * (l3.back_of_canal + l3.sizes["spinous_length"])
    # L3 and the sacrum stand astride the trunk's middle, L3's spinous process under the fat.
    middle = [-0.5 * spine.sacrum.origin_mm[0], habitus.back - habitus.fat[2] - 8 - depth, 8]
    spine = spine.moved(rng.normal(middle, [4, 2, 6]))
    habitus = habitus.covering(spine)
    too_far_back = max(0.0, habitus.back_profile[1].max() - _DEEPEST_BACK_MM)
    spine = spine.moved([0, -too_far_back, 0])
    return spine, habitus.covering(spine)


def _paint_skeleton(hu, grid: Grid, spine: Spine, habitus: Habitus, size_mm, rng) -> np.ndarray:
    """Paint every bone over the soft tissue, from the head down; return the label map."""
    labels = np.zeros(grid.shape, np.uint8)
    occupied = np.full(grid.shape, np.float32(1e3))
    coarse, fine = SmoothField(rng, size_mm, 9), SmoothField(rng, size_mm, 3.5)
    quality = spine.quality

    def paint(shape: BoneShape, label: int, density: float):
        box, part = shape.box, shape.grid
        shape.keep_clear_of(occupied[box], _JOINT_SPACE_MM, 0.9 * quality.cortex)
        spongy = density * quality.trabecular_hu * (1 + np.float32(0.16) * (coarse.on(part) + fine.on(part)))
        region = hu[box]
        region += part.coverage(shape.outer) * (quality.cortical_hu - region)
        region += part.coverage(shape.marrow) * (spongy - quality.cortical_hu)
        np.minimum(occupied[box], shape.outer, out=occupied[box])
        labels[box][shape.outer < 0] = label

    for vertebra in spine.vertebrae:
        paint(vertebra.shape(grid), vertebra.label, 1.0)
    paint(sacrum_shape(grid, spine, rng), SACRUM_LABEL, 0.5)
    paint(ilium_shape(grid, spine, -1, rng), RIGHT_ILIUM_LABEL, 0.45)
    paint(ilium_shape(grid, spine, 1, rng), LEFT_ILIUM_LABEL, 0.45)
    for rib in rib_shapes(grid, spine, habitus, rng):
        paint(rib, RIB_LABEL, 0.7)
    return labels
