"""A head on its neck, and a chest with shoulders, the arms beside it, raised, or out of view."""

from __future__ import annotations

import numpy as np

from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.simulation.fields import Frame, Rod, chain
from SOPIRegistrationLib.simulation.limbs import COBALT_CHROME_HU, TITANIUM_HU, long_bone
from SOPIRegistrationLib.simulation.sculpture import Part, Sculpture

_BACKWARDS = (0.0, 1.0, 0.0)
_LUNG_HU, _AIR_HU, _TEETH_HU = -820.0, -950.0, 2200.0


def vertebra(frame: Frame, width: float, depth: float, height: float) -> list[Part]:
    """A simple vertebra: body, arch, articular and transverse processes, spinous process.

    Args:
        frame: origin in the middle of the body; x left, y back, z up.
        width: of its body, mm.
        depth: likewise.
        height: likewise.
    """
    half = (0.5 * width, 0.5 * depth)
    back = 0.5 * depth + 15
    pieces = [
        (
            Rod(
                np.array([0, 0, -0.18 * height]),
                np.array([0, 0, 0.18 * height]),
                (half[0] - 1, half[1] - 1),
                (half[0] - 1, half[1] - 1),
                _BACKWARDS,
            ),
            0.9,
        ),
        (Rod(np.array([0, back + 2, -3]), np.array([0, back + 26, -16]), (3, 6), (3.2, 6)), 1.4),
    ]
    for side in (-1, 1):
        pillar, root = np.array([side * (0.3 * width + 9), back - 6, 0]), np.array([side * 0.3 * width, 0, 3])
        pieces += [
            (Rod(root, pillar, (3, 5), (4, 6)), 1.4),
            (
                Rod(
                    pillar - [0, 0, 0.45 * height],
                    np.add(pillar, [0, 0, 0.5 * height]),
                    (4.5, 4.5),
                    (4.5, 4.5),
                ),
                1.4,
            ),
            (Rod(pillar, np.array([0, back + 3, -3]), (3, 8), (3, 8)), 1.4),
            (Rod(pillar, np.add(pillar, [side * 16, 6, 2]), (4, 5), (4, 4)), 1.2),
        ]
    return [Part(rod.placed(frame), cortex) for rod, cortex in pieces]


def paint_head(sculpture: Sculpture, rng: np.random.Generator) -> None:
    """Skull, lower jaw and cervical spine; some with metal in teeth or a plate in front of the neck."""
    scale = float(np.clip(rng.normal(1, 0.06), 0.85, 1.15))
    nod = se3.exp_so3(np.array([rng.normal(0, 0.25), rng.normal(0, 0.1), rng.normal(0, 0.25)]))
    head = Frame(nod, np.array([0, 0, 55.0]), scale)
    long, broad, tall = rng.normal([24, 69, 66], [4, 3, 3])
    vault = Rod(np.array([0, -long, 0]), np.array([0, long, 0]), (broad, tall), (broad, tall), (0, 0, 1))
    thick = rng.uniform(4.5, 8)

    def shrunk(rod: Rod, by: float) -> Rod:
        return Rod(
            rod.a, rod.b, *(tuple(r - by for r in radii) for radii in (rod.radii_a, rod.radii_b)), rod.flat
        )

    face = chain([(0, -50, -30), (0, -58, -75), (0, -52, -106)], [(62, 44), (56, 42), (50, 38)], (0, 1, 0))
    neck = chain([(0, 20, -20), (0, 25, -260)], [(56, 58), (64, 60)], _BACKWARDS)
    flesh = [shrunk(vault, -rng.uniform(4, 8)).placed(head), *(rod.placed(head) for rod in face)]
    sculpture.flesh([*flesh, *neck], rng.uniform(2, 9), 25.0)
    airways = chain([(0, -75, -55), (0, -22, -58), (0, -8, -100)], [(12, 16), (9, 13), (9, 13)])
    throat = chain([(0, -6, -60), (0, -14, -240)], [(9, 8), (9, 9)])
    sculpture.organ([*(rod.placed(head) for rod in airways), *throat], _AIR_HU)

    sinuses = [Rod.ball(np.array([side * 24.0, -64, -52]), 13) for side in (-1, 1)]
    sinuses.append(Rod(np.array([-12, -80.0, 4]), np.array([12, -80.0, 4]), (7, 5), (7, 5)))
    orbits = [
        Rod(np.array([side * 31.0, -60, -20]), np.array([side * 34.0, -96, -20]), (16, 16), (19, 19))
        for side in (-1, 1)
    ]
    skull = [Part(vault.placed(head), thick / 3)]
    base = [
        (Rod(np.array([0, -55.0, -42]), np.array([0, 40.0, -58]), (44, 6), (50, 6), (0, 0, 1)), 1.5),
        (Rod(np.array([-26, -74.0, -44]), np.array([26, -74.0, -44]), (26, 14), (26, 14)), 1.5),
        (Rod(np.array([-18, -70.0, -72]), np.array([18, -70.0, -72]), (12, 16), (12, 16)), 1.5),
    ]
    for side in (-1, 1):
        petrous = Rod(np.array([side * 18.0, -2, -50]), np.array([side * 58.0, 26, -48]), (9, 9), (12, 12))
        mastoid = Rod(np.array([side * 58.0, 26, -50]), np.array([side * 54.0, 24, -78]), (11, 13), (6, 7))
        cheek = chain(
            [(side * 40, -76, -45), (side * 64, -48, -42), (side * 70, -12, -42)], [(8, 10), (4, 6), (4, 5)]
        )
        base += [(petrous, 5.0), (mastoid, 1.0), *((rod, 1.5) for rod in cheek)]
    skull += [Part(rod.placed(head), cortex) for rod, cortex in base]
    inside = shrunk(vault, thick).placed(head)
    shape_cuts = [*(rod.placed(head) for rod in [*sinuses, *orbits])]
    # The brain's space is cut above the base only, which would else be cut away.
    brain = Rod(
        inside.a + nod @ [0, 0, 4.0],
        inside.b + nod @ [0, 0, 4.0],
        inside.radii_a,
        inside.radii_b,
        inside.flat,
    )
    sculpture.bone(skull, 3.0, [brain, *shape_cuts], density=1.3)
    sculpture.organ([brain], 35.0)
    sculpture.organ([rod.placed(head) for rod in sinuses], _AIR_HU)

    _paint_jaw(sculpture, head, rng)
    _paint_neck(sculpture, scale, rng)


def _paint_jaw(sculpture: Sculpture, head: Frame, rng: np.random.Generator) -> None:
    """The lower jaw, more or less open, and the teeth of both jaws."""
    angle = np.linspace(-1.25, 1.25, 9)
    arch = np.stack([45 * np.sin(angle), -28 - 52 * np.cos(angle), np.full(9, -112.0)], axis=1)
    jaw = [(rod, 2.5) for rod in chain(arch, [(6, 12)] * 9, (0, 0, 1))]
    for end in (arch[0], arch[-1]):
        joint = np.array([1.15 * end[0], 4.0, -56])
        jaw.append((Rod(end, joint, (4, 14), (4, 8), _BACKWARDS), 2.0))
    opened = Frame(head.R @ se3.exp_so3(np.array([rng.uniform(0, 0.25), 0, 0])), head.origin_mm, head.scale)
    sculpture.bone([Part(rod.placed(opened), cortex) for rod, cortex in jaw], 3.0)
    for frame, height in ((head, -88.0), (opened, -98.0)):
        for x, y, _ in arch[1:-1:1] * [0.85, 0.95, 1]:
            if rng.random() < 0.9:
                tooth = Rod(np.array([x, y, height - 3]), np.array([x, y, height + 3]), (4, 4), (4, 4))
                filled = rng.random() < 0.06
                sculpture.metal([tooth.placed(frame)], COBALT_CHROME_HU if filled else _TEETH_HU)


def _paint_neck(sculpture: Sculpture, scale: float, rng: np.random.Generator) -> None:
    """The cervical spine, in some with a plate in front."""
    neck_at = np.array([0, 12.0, -28])
    tilt, bend = rng.normal(0, 0.15), rng.normal(0.03, 0.05)
    middles = []
    for level in range(9):
        R = se3.exp_so3(np.array([tilt + bend * level, 0, rng.normal(0, 0.03)]))
        neck_at = neck_at - scale * 17.5 * R[:, 2]
        middles.append(neck_at)
        sculpture.bone(vertebra(Frame(R, neck_at, 0.8 * scale), 22 + level, 18 + 0.5 * level, 17), 2.0)
    if rng.random() < 0.15:
        top = rng.integers(2, 5)
        front = [middle - [0, 10 * scale, 0] for middle in middles[top : top + 3]]
        sculpture.metal(chain(front, [(7, 1.5)] * len(front), (0, 1, 0)), TITANIUM_HU)


def paint_chest(sculpture: Sculpture, rng: np.random.Generator) -> None:
    """Thoracic spine, ribs, breastbone, collar bones, shoulder blades and upper arms; heart and lungs."""
    scale = float(np.clip(rng.normal(1, 0.07), 0.85, 1.12))
    body = Frame(np.eye(3), np.array([0, 0, rng.normal(0, 20)]), scale)
    kyphosis, wedge = rng.uniform(0.25, 0.65), rng.normal(0, 0.1)
    levels = np.arange(13)
    height = 21 + 0.5 * levels
    z = 135 - np.cumsum(height)
    sway = kyphosis * 55 * (1 - ((z - z.mean()) / 135) ** 2)
    spine = np.stack([30 * wedge * np.sin(levels / 3), 45 + sway, z], axis=1)
    broad, deep = rng.uniform(122, 145), rng.uniform(78, 100)
    share = np.clip((levels + 1.2) / 7, 0.3, 1) * np.where(levels > 9, 0.92, 1.0)

    fat = rng.uniform(4, 24)
    arms = [_arm(side, broad + fat, rng.choice(("beside", "raised", "out")), rng) for side in (-1, 1)]
    flesh = _trunk(broad, deep, fat) + [rod for arm in arms for rod in arm.flesh]
    sculpture.flesh([rod.placed(body) for rod in flesh], fat)
    _paint_organs(sculpture, body, broad, deep, rng)

    for level in levels:
        turn = np.arctan2(sway[min(level + 1, 12)] - sway[max(level - 1, 0)], 2 * height[level])
        frame = Frame(se3.exp_so3(np.array([turn, 0, rng.normal(0, 0.03)])), body.points(spine[level]), scale)
        sculpture.bone(vertebra(frame, 27 + level, 21 + level, height[level] - 4), 2.0, density=0.7)
    _paint_ribs(sculpture, body, spine, broad * share, (deep + 18) * share, share, rng)
    front = spine[2][1] - 2 * deep
    _paint_breastbone(sculpture, body, front)
    for side, arm in zip((-1, 1), arms, strict=True):
        _paint_collar_bone(sculpture, body, side, broad, front)
        _paint_shoulder_blade(sculpture, body, side, broad, deep)
        if arm.bone:
            sculpture.bone([Part(part.rod.placed(body), part.cortex_mm) for part in arm.bone])
    if rng.random() < 0.15:
        _paint_wires(sculpture, body, front)


def _trunk(broad: float, deep: float, fat: float) -> list[Rod]:
    """The flesh of a chest of half so much width and depth, under so much fat, mm."""
    return chain(
        [(0, 0, -220), (0, 0, -40), (0, 8, 70), (0, 12, 150)],
        [
            (broad + fat + 4, deep + fat + 8),
            (broad + fat + 8, deep + fat + 12),
            (broad + 20, deep + 8),
            (60, 58),
        ],
        _BACKWARDS,
    )


def _paint_organs(
    sculpture: Sculpture, body: Frame, broad: float, deep: float, rng: np.random.Generator
) -> None:
    """Lungs, heart and large vessels, sometimes with contrast agent, and what is below the diaphragm."""
    for side in (-1, 1):
        lung = chain(
            [(side * 0.48 * broad, 4, 90), (side * 0.52 * broad, 6, 0), (side * 0.5 * broad, 10, -70)],
            [(32, 34), (0.4 * broad, 0.72 * deep), (0.44 * broad, 0.8 * deep)],
            _BACKWARDS,
        )
        sculpture.organ([rod.placed(body) for rod in lung], _LUNG_HU + rng.normal(0, 25))
    blood = rng.uniform(150, 350) if rng.random() < 0.3 else 42.0
    heart = [
        Rod(np.array([-8, -22.0, 0]), np.array([32, -38.0, -38]), (42, 46), (30, 34)),
        Rod(np.array([12, 22.0, 60]), np.array([14, 26.0, -190]), (12, 12), (11, 11)),
        Rod(np.array([0, 0.0, 70]), np.array([2, -8.0, 20]), (20, 20), (24, 24)),
    ]
    dome = Rod(np.array([-40, -8.0, -140]), np.array([50, -10.0, -150]), (75, 80), (62, 70))
    sculpture.organ([rod.placed(body) for rod in heart], blood)
    sculpture.organ([dome.placed(body)], 56.0)


def _paint_breastbone(sculpture: Sculpture, body: Frame, front: float) -> None:
    breast = chain(
        [(0, front + 36, 96), (0, front + 14, 50), (0, front + 2, -55)],
        [(24, 6), (15, 5), (17, 5)],
        (0, 1, 0),
    )
    sculpture.bone([Part(rod.placed(body), 1.2) for rod in breast], 2.0)


def _paint_collar_bone(sculpture: Sculpture, body: Frame, side: int, broad: float, front: float) -> None:
    collar = [(side * 16, front + 38, 104), (side * 70, front + 45, 112), (side * (broad + 4), 20, 118)]
    sculpture.bone([Part(rod.placed(body), 1.6) for rod in chain(collar, [(8, 7), (5, 5), (7, 6)])], 3.0)


def _paint_ribs(
    sculpture: Sculpture,
    body: Frame,
    spine: np.ndarray,
    broad: np.ndarray,
    deep: np.ndarray,
    share: np.ndarray,
    rng: np.random.Generator,
) -> None:
    """Twelve pairs of ribs, without their cartilage, which does not show.

    Args:
        sculpture: what they are painted in.
        body: frame of the chest.
        spine: (levels, 3) middles of the vertebrae, mm.
        broad: (levels,) half of the chest's width there, mm.
        deep: (levels,) half of its depth, mm.
        share: (levels,) of the chest's largest width.
        rng: draws lengths and slope.
    """
    slope = rng.uniform(26, 44)
    for level in range(12):
        # From beside the spine around the side.
        span = (2.2 if level < 7 else 2.2 - 0.28 * (level - 6)) * rng.normal(1, 0.03)
        turn = np.linspace(0.28, 0.28 + span, 12)
        for side in (-1, 1):
            x = side * broad[level] * np.sin(turn)
            y = spine[level][1] - 6 + deep[level] * (np.cos(turn) - np.cos(turn[0]))
            points = np.stack(
                [x, y, spine[level][2] - slope * (turn - turn[0]) * (0.5 + share[level])], axis=1
            )
            points[:, 0] += side * 10
            rib = chain(points, np.tile([2.8, 5.5], (12, 1)))
            sculpture.bone([Part(rod.placed(body), 0.9) for rod in rib], 1.0, density=0.8)


def _paint_wires(sculpture: Sculpture, body: Frame, front: float) -> None:
    """The loops that close a breastbone after heart surgery; ``front`` is its y, mm."""
    for height in np.arange(60, -50, -22):
        wire = np.array([0.0, front + 2, height])
        loop = [
            Rod(np.add(wire, [dx, dy, 0]), np.add(wire, [dx, -dy, 0]), (0.8, 0.8), (0.8, 0.8))
            for dx, dy in ((-9, 6), (9, 6))
        ]
        sculpture.metal([rod.placed(body) for rod in loop], COBALT_CHROME_HU)


class _Arm:
    """An upper arm: flesh and humerus, none where it is out of view."""

    def __init__(self, flesh: list[Rod], bone: list[Part]):
        self.flesh, self.bone = flesh, bone


def _arm(side: int, half_width: float, where: str, rng: np.random.Generator) -> _Arm:
    """An arm beside the chest, raised, or cut off at the shoulder."""
    shoulder = np.array([side * (half_width + 12), 14.0, 98])
    if where == "out":
        return _Arm([], [])
    away = np.array([side * rng.uniform(0.05, 0.3), rng.normal(0, 0.15), -1.0 if where == "beside" else 1.0])
    elbow = shoulder + 300 * away / np.linalg.norm(away)
    thick = rng.uniform(36, 50)
    flesh = [Rod(shoulder, elbow, (thick, thick), (0.8 * thick, 0.8 * thick))]
    return _Arm(flesh, long_bone(shoulder, elbow, rng.uniform(9.5, 12), (24, 22)))


def _paint_shoulder_blade(sculpture: Sculpture, body: Frame, side: int, broad: float, deep: float) -> None:
    """A thin triangle behind the ribs, thick at its rims and at the joint."""
    x = side * broad
    joint, top, tip = (
        np.array([0.98 * x, 26, 92]),
        np.array([0.48 * x, 88, 108]),
        np.array([0.62 * x, 98, -42]),
    )
    rods = [*chain([top, tip], [(3, 4)] * 2), *chain([tip, joint], [(4, 4), (8, 10)])]
    rods += chain(
        [top, 0.5 * (top + joint) + [0, 12, 6], np.add(joint, [0, 10, 22])], [(4, 4), (5, 6), (6, 9)]
    )
    for share in np.linspace(0.1, 0.9, 6):
        a, b = top + share * (tip - top), joint + share * (tip - joint)
        rods.append(Rod(a, b, (2.0, 11), (2.4, 9), tuple(tip - top)))
    sculpture.bone([Part(rod.placed(body), 0.8) for rod in rods], 2.0)
