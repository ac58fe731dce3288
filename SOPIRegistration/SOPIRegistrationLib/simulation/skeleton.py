"""Sacrum, iliac wings and ribs: what surrounds the lumbar spine in an X-ray."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.interpolate import PchipInterpolator

from SOPIRegistrationLib.simulation.body import Habitus
from SOPIRegistrationLib.simulation.fields import BoneShape, Frame, Grid, Rod, chain
from SOPIRegistrationLib.simulation.spine import Spine

# Sacral segments S1 to S5, mm before scaling: height, bend towards the front (deg); wing: reach, half-height,
# half-depth, distance behind the body; radius of the foramen below; distance behind the body of the canal, of
# the lateral and of the median crest; half-height of the median crest.
_SEGMENTS = np.array(
    [
        (29, 0, 48, 15, 13, 14, 5.0, 24, 26, 40, 9),
        (25, 10, 47, 14, 13, 10, 4.4, 22, 25, 38, 10),
        (21, 15, 39, 12, 9, 7, 3.8, 18, 21, 32, 8),
        (18, 20, 29, 10, 7, 5, 3.2, 14, 16, 25, 7),
        (16, 22, 21, 8, 5, 3, 0.0, 11, 12, 18, 5),
    ]
)
_SACRAL_TAPER = (1.0, 0.66, 0.52, 0.44, 0.38, 0.3)

# Iliac crest from the posterior to the anterior superior spine, and the line below it from the sciatic notch
# to above the hip joint: outwards, back and up from the middle of the S1 endplate, mm before scaling.
_CREST = [
    (50, 64, -32),
    (60, 63, -4),
    (77, 46, 22),
    (95, 18, 35),
    (112, -16, 29),
    (124, -46, 6),
    (124, -70, -28),
]
_ROOT = [
    (44, 56, -60),
    (50, 44, -56),
    (56, 30, -60),
    (64, 10, -70),
    (73, -8, -78),
    (84, -24, -84),
    (92, -34, -90),
]
_CREST_THICKNESS = [7, 7.5, 6, 6, 6.5, 6, 5.5]


class _Sacrum(NamedTuple):
    """The sacrum's curve in its frame's sagittal plane, mm before scaling; five segments, S1 first.

    Attributes:
        ends: (6, 3) of the segments' bodies.
        middles: (5, 3) of these.
        down: (5, 3) unit vectors along them.
        back: (5, 3) unit vectors across them.
        radii: (6, 2) of the bodies at the ends.
        cortex: its thickness, mm.
    """

    ends: np.ndarray
    middles: np.ndarray
    down: np.ndarray
    back: np.ndarray
    radii: np.ndarray
    cortex: float


# Outwards, in the frame of a side.
_LEFT = np.array([1.0, 0, 0])


def sacrum_shape(grid: Grid, spine: Spine, rng: np.random.Generator) -> BoneShape:
    """The sacrum: five fused bodies on a curve, wings, foramina, canal and crests."""
    frame, cortex = spine.sacrum, spine.quality.cortex
    reach = frame.scale * np.array([[-75, -75, -150], [75, 110, 40]])
    shape = BoneShape(grid, *(frame.origin_mm + reach))
    height, bend, *_, canal, _, median, median_tall = _SEGMENTS.T

    angle = np.cumsum(np.deg2rad(bend)) * rng.normal(1, 0.12)
    zero = np.zeros(5)
    down = np.stack([zero, -np.sin(angle), -np.cos(angle)], axis=1)
    back = np.stack([zero, np.cos(angle), -np.sin(angle)], axis=1)
    ends = np.concatenate([np.zeros((1, 3)), np.cumsum(down * height[:, None], axis=0)])
    middles = 0.5 * (ends[1:] + ends[:-1])
    l5 = spine["L5"].sizes
    radii = np.outer(_SACRAL_TAPER, [0.5 * l5["width"], 0.49 * l5["depth"]])
    ends[0] = 3.5 * down[0]
    sacrum = _Sacrum(ends, middles, down, back, radii, cortex)
    for body in chain(ends, radii, flat=(0, 1, 0)):
        shape.add(body.placed(frame), cortex, 2.0)
    for side in (-1, 1):
        _add_sacral_wing(shape, sacrum, frame.side(side))
        _add_sacral_arches(shape, sacrum, frame.side(side))
    for n in range(5):
        tip = middles[n] + median[n] * back[n]
        tubercle = Rod(tip - 8 * back[n], tip, (4, median_tall[n]), (3, 0.8 * median_tall[n]), down[n])
        shape.add(tubercle.placed(frame), 1.2 * cortex, 4.0)

    for sacral_canal in chain(
        middles + canal[:, None] * back, np.outer([12, 9, 7, 5, 3], [1, 0.5]), flat=back[2]
    ):
        shape.cut(sacral_canal.placed(frame), 0.7 * cortex)
    for side in (-1, 1):
        _cut_foramina(shape, sacrum, frame.side(side))
    shape.cut(Rod.ball(np.array([0, 0, 30.0]), 30.0).placed(frame), 1.2 * cortex)  # dish of the S1 endplate
    return shape


def _add_sacral_wing(shape: BoneShape, sacrum: _Sacrum, half: Frame) -> None:
    """One side's wing, its edge, and the facet to L5."""
    _, _, wing, tall, deep, behind, *_ = _SEGMENTS.T
    tips = sacrum.middles + wing[:, None] * _LEFT + behind[:, None] * sacrum.back
    for n in range(5):
        root = sacrum.middles[n] + 0.5 * sacrum.radii[n, 0] * _LEFT
        ala = Rod(root, tips[n], (0.6 * deep[n], 0.8 * tall[n]), (0.75 * deep[n], tall[n]), -sacrum.down[n])
        shape.add(ala.placed(half), 0.7 * sacrum.cortex, 8.0)
    for edge in chain(tips, [(8, 9), (8, 9), (7, 6), (6, 4), (4, 3)], flat=sacrum.back[2]):
        shape.add(edge.placed(half), 0.7 * sacrum.cortex, 6.0)
    facet = Rod(np.array([20, 18, -10]), np.array([21.5, 24, 9]), (5, 6), (4, 5), (0, 1, 0))
    shape.add(facet.placed(half), 2.4 * sacrum.cortex)


def _add_sacral_arches(shape: BoneShape, sacrum: _Sacrum, half: Frame) -> None:
    """One side's lateral crest, and what leads from it to the bodies and to the median crest."""
    wing, lateral, median = (_SEGMENTS[:, column] for column in (2, 8, 9))
    _, middles, down, back, radii, cortex = sacrum
    crest = middles + 15 * np.sqrt(wing / wing[0])[:, None] * _LEFT + lateral[:, None] * back
    for ridge in chain(crest, [(6, 4)] * 5, flat=back[2]):
        shape.add(ridge.placed(half), 0.8 * cortex, 4.0)
    for n in range(5):
        strut = Rod(middles[n] + 0.7 * radii[n, 0] * _LEFT, crest[n], (4, 6), (4, 5), down[n])
        shape.add(strut.placed(half), 0.7 * cortex)
    for n in range(4):
        lamina = Rod(crest[n], middles[n] + (median[n] - 7) * back[n], (2.8, 9), (2.8, 9), down[n])
        shape.add(lamina.placed(half), 0.8 * cortex, 2.0)


def _cut_foramina(shape: BoneShape, sacrum: _Sacrum, half: Frame) -> None:
    """One side's tunnels for the nerves, between the segments."""
    ends, _, down, back, _, cortex = sacrum
    for n in range(4):
        hole, radius = ends[n + 1] + (14 - 1.4 * n) * _LEFT, _SEGMENTS[n, 6]
        wide, narrow = (1.15 * radius, radius), (0.8 * radius, 0.7 * radius)
        tunnel = Rod(hole - 26 * back[n] + 4 * _LEFT, hole + 40 * back[n], wide, narrow, -down[n])
        shape.cut(tunnel.placed(half), 1.1 * cortex)


def pelvis_frame(spine: Spine, side: int, rng: np.random.Generator) -> Frame:
    """Frame of one side of the pelvis, -1 right, +1 left: outwards, back, up from amid the S1 endplate."""
    # The pelvis turns with the sacrum, but only in part: slopes also differ by its shape.
    tilt = 0.5 * (np.arccos(spine.sacrum.R[2, 2]) - np.deg2rad(38))
    R = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    return Frame(R * [rng.normal(1, 0.03), 1, 1], spine.sacrum.origin_mm, spine.scale).side(side)


def ilium_shape(grid: Grid, spine: Spine, pelvis: Frame, below: Sequence[Rod] = ()) -> BoneShape:
    """One iliac wing down to above the hip joint.

    Args:
        grid: where to make it.
        spine: whose sacrum it stands beside.
        pelvis: of its side, see :func:`pelvis_frame`.
        below: pieces of the hip bone below the wing, in that frame, mm before scaling.
    """

    def refined(values):
        return PchipInterpolator(np.arange(len(values)), values)(np.linspace(0, len(values) - 1, 24))

    crest, root, thickness = refined(_CREST), refined(_ROOT), refined(_CREST_THICKNESS)
    lower = [piece.placed(pelvis) for piece in below]
    corners = pelvis.points(np.concatenate([crest, root]))
    bounds = np.array([piece.bounds(4) for piece in lower] or np.empty((0, 2, 3)))
    corners = np.concatenate([corners - 12, corners + 12, bounds.reshape(-1, 3)])
    shape = BoneShape(grid, corners.min(axis=0), corners.max(axis=0))
    cortex = spine.quality.cortex
    for piece in lower:
        shape.add(piece, 1.2 * cortex, 8.0)
    along = np.gradient(crest, axis=0)
    for n, (rim, foot) in enumerate(zip(crest, root, strict=True)):
        middle = 0.5 * (rim + foot) - np.array([7, 0, 0])  # hollow towards the pelvis
        stout = 1.5 if n < 8 else 1.0  # beside the sacrum
        radii = [(6, 9), (3.2 * stout, 9), (0.6 * thickness[n], 7)]
        for blade in chain([foot, middle, foot + 0.93 * (rim - foot)], radii, flat=along[n]):
            shape.add(blade.placed(pelvis), 1.0 * cortex)
    for edge in chain(crest, np.stack([thickness, thickness], axis=1)):
        shape.add(edge.placed(pelvis), 1.5 * cortex)
    return shape


def rib_shapes(grid: Grid, spine: Spine, habitus: Habitus, rng: np.random.Generator) -> list[BoneShape]:
    """Ribs 8 to 12, right and left, from their vertebrae around the wall of the trunk."""
    scale = spine.scale
    # Angle about the trunk's axis that each spans, rad; the cartilage in front does not count.
    spans = {"T12": rng.uniform(0.35, 0.75), "T11": rng.uniform(0.9, 1.2), "T10": 1.35, "T9": 1.5, "T8": 1.6}
    shapes = []
    for level, span in spans.items():
        vertebra = spine[level]
        s = vertebra.sizes
        floating = level in ("T11", "T12")
        for side in (-1, 1):
            head, neck = vertebra.frame.side(side).points(
                [
                    (0.5 * s["width"] - 1, 0.42 * s["depth"], 0.2 * s["height"]),
                    (s["transverse_reach"] + 1, vertebra.back_of_canal + 3, 0.1 * s["height"]),
                ]
            )
            start = max(0.42, np.arctan2(abs(neck[0]), neck[1]))
            azimuth = start + np.linspace(0, 0.12 + span * rng.normal(1, 0.04), 10)
            fall = 8 + 65 * scale * (azimuth - start)
            wall = habitus.wall_point(side * azimuth, neck[2] - fall, 5 * scale)
            reached = np.clip(np.linspace(0.35, 3.5, 10), 0, 1)[:, None] if level == "T12" else 1.0
            points = np.concatenate([[head, neck], neck + reached * (wall - neck)])
            taper = np.linspace(1, 0.6 if floating else 1.0, len(points))
            shape = BoneShape(grid, points.min(axis=0) - 9, points.max(axis=0) + 9)
            for piece in chain(points, scale * np.outer(taper, [3, 6])):
                shape.add(piece, 1.1 * spine.quality.cortex, 1.0)
            shapes.append(shape)
    return shapes
