"""A procedural lumbar CT: one seed, one body, at any voxel size; ordinary ones, and unusual ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from SOPIRegistrationLib.images.volume import Volume
from SOPIRegistrationLib.simulation.body import Habitus, paint_trunk
from SOPIRegistrationLib.simulation.fields import BoneShape, Grid, Rod, SmoothField, chain
from SOPIRegistrationLib.simulation.limbs import TITANIUM_HU, long_bone
from SOPIRegistrationLib.simulation.sculpture import JOINT_SPACE_MM, Sculpture
from SOPIRegistrationLib.simulation.skeleton import ilium_shape, pelvis_frame, rib_shapes, sacrum_shape
from SOPIRegistrationLib.simulation.spine import Spine, random_spine

SACRUM_LABEL, RIB_LABEL, RIGHT_ILIUM_LABEL, LEFT_ILIUM_LABEL = 26, 30, 31, 32
_RIGHT_ARM_LABEL, _LEFT_ARM_LABEL = 33, 34
# Behind the middle of the field of view, so that the skin stays inside the default one.
_DEEPEST_BACK_MM = 130.0


@dataclass(frozen=True)
class Phantom:
    """A simulated patient.

    Attributes:
        ct: HU, int16, or float32 where metal is denser than scanners store.
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
    _add_noise(hu, scanner, noise_hu)
    ct = np.clip(np.rint(hu), -1024, 3071).astype(np.int16)
    return _phantom(ct, labels, grid, spine, anatomy.uniform(-150, 150, 3), f"phantom {seed}")


def bent_spine(seed: int, spacing_mm: float = 2.0) -> Phantom:
    """Draw a trunk as :func:`lumbar_phantom` does, but out of the ordinary.

    The spine is bent sideways two to five times as much; the bowel may be filled with contrast agent, the
    arms may lie beside the body, screws and rods may hold some vertebrae. The CT is float32: metal has its
    own density.

    Args:
        seed: of everything random.
        spacing_mm: isotropic voxel size.
    """
    anatomy, scanner, more = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(3))
    with_arms = more.random() < 0.4
    size_mm = (560.0 if with_arms else 384.0, 272.0, 272.0)
    grid = Grid.centred(size_mm, spacing_mm)
    spine, habitus = _random_patient(anatomy, more.uniform(2, 5))
    contrast_hu = more.uniform(250, 1500) if more.random() < 0.35 else None
    hu = paint_trunk(grid, spine, habitus, size_mm, anatomy, contrast_hu)
    labels = _paint_skeleton(hu, grid, spine, habitus, size_mm, anatomy)
    sculpture = Sculpture(grid, size_mm, more, hu, labels)
    if with_arms:
        for side, label in ((-1, _RIGHT_ARM_LABEL), (1, _LEFT_ARM_LABEL)):
            _paint_arm(sculpture, side, label, habitus, more)
    if more.random() < 0.35:
        _paint_screws(sculpture, spine, more)
    _add_noise(hu, scanner, None)
    return _phantom(hu, labels, grid, spine, anatomy.uniform(-150, 150, 3), f"bent spine {seed}")


def _add_noise(hu: np.ndarray, rng: np.random.Generator, noise_hu: float | None) -> None:
    """Noise of a scanner, in place; of a standard deviation between 6 and 20 HU unless given."""
    drawn_noise = rng.uniform(6, 20)
    noise = gaussian_filter(rng.standard_normal(hu.shape, dtype=np.float32), 0.7)
    hu += noise * np.float32((drawn_noise if noise_hu is None else noise_hu) / noise.std())


def _phantom(ct: np.ndarray, labels: np.ndarray, grid: Grid, spine: Spine, origin_mm, name: str) -> Phantom:
    T_body_to_lps = np.eye(4)
    T_body_to_lps[:3, 3] = origin_mm
    index_to_body = np.diag([grid.spacing_mm, grid.spacing_mm, grid.spacing_mm, 1.0])
    index_to_body[:3, 3] = grid.x[0], grid.y[0], grid.z[0]
    index_to_lps = T_body_to_lps @ index_to_body
    return Phantom(
        Volume(ct, index_to_lps, name),
        Volume(labels, index_to_lps, name),
        {v.label: T_body_to_lps @ v.frame.matrix for v in spine.vertebrae if v.label in labels},
    )


def _paint_arm(sculpture: Sculpture, side: int, label: int, habitus: Habitus, rng) -> None:
    """Forearm or upper arm beside the trunk, as it is when the arms are not raised."""
    thick = rng.uniform(32, 44)
    x = side * (max(habitus.hips, habitus.half_width, habitus.chest) + thick + rng.uniform(4, 14))
    y = rng.uniform(-20, 50, 2)
    ends = np.array([[x, y[0], -170.0], [x * rng.uniform(0.97, 1.0), y[1], 170.0]])
    sculpture.flesh(chain(ends, [(0.8 * thick,) * 2, (thick, thick)]), rng.uniform(3, 10))
    elbow = ends[0] + rng.uniform(0.35, 0.8) * (ends[1] - ends[0])
    sculpture.bone(long_bone(ends[1] + [0, 0, 60], elbow, 11.0, (22, 20)), label=label)
    for shift in (-11, 11):
        wrist = ends[0] + [shift, 0.4 * shift, -60]
        sculpture.bone(long_bone(elbow - [0, 0, 24], wrist, 7.0, (12, 10)), label=label)


def _paint_screws(sculpture: Sculpture, spine: Spine, rng) -> None:
    """Pedicle screws in some neighbouring vertebrae, joined by a rod on either side."""
    count = int(rng.integers(2, 5))
    low = int(rng.integers(3, len(spine.vertebrae) - count + 1))
    held = spine.vertebrae[low : low + count]
    for side in (-1, 1):
        heads = []
        for vertebra in held:
            s = vertebra.sizes
            pedicle = 0.5 * (s["canal_width"] + s["pedicle_width"])
            inward, head = (
                (0.55 * pedicle, -0.3 * s["depth"], 4.0),
                (1.25 * pedicle, 0.5 * s["depth"] + 26, 5.0),
            )
            inward, head = vertebra.frame.side(side).points([inward, head])
            sculpture.metal([Rod(head, inward, (3.2, 3.2), (2.6, 2.6))], TITANIUM_HU)
            heads.append(head)
        sculpture.metal(chain(heads, [(2.8, 2.8)] * count), TITANIUM_HU)


def _random_patient(rng: np.random.Generator, more_bent: float = 1.0) -> tuple[Spine, Habitus]:
    """A spine and the trunk around it, whose back covers the spinous processes."""
    spine = random_spine(rng, more_bent)
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
        shape.keep_clear_of(occupied[box], JOINT_SPACE_MM, 0.9 * quality.cortex)
        spongy = density * quality.trabecular_hu * (1 + np.float32(0.16) * (coarse.on(part) + fine.on(part)))
        region = hu[box]
        region += part.coverage(shape.outer) * (quality.cortical_hu - region)
        region += part.coverage(shape.marrow) * (spongy - quality.cortical_hu)
        np.minimum(occupied[box], shape.outer, out=occupied[box])
        labels[box][shape.outer < 0] = label

    for vertebra in spine.vertebrae:
        paint(vertebra.shape(grid), vertebra.label, 1.0)
    paint(sacrum_shape(grid, spine, rng), SACRUM_LABEL, 0.5)
    paint(ilium_shape(grid, spine, pelvis_frame(spine, -1, rng)), RIGHT_ILIUM_LABEL, 0.45)
    paint(ilium_shape(grid, spine, pelvis_frame(spine, 1, rng)), LEFT_ILIUM_LABEL, 0.45)
    for rib in rib_shapes(grid, spine, habitus, rng):
        paint(rib, RIB_LABEL, 0.7)
    return labels
