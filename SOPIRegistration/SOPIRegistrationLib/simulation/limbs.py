"""Limbs: long bones with nails and plates, a bent knee with or without a replacement, a wrist with its hand.

Sizes are round, typical adult values, set by eye against radiographs, as those of the spine; every seed
varies them. Body frame as the phantom's: x to the left, y to the back, z to the head.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.simulation.fields import Frame, Rod, chain
from SOPIRegistrationLib.simulation.sculpture import Part, Sculpture

TITANIUM_HU, COBALT_CHROME_HU = 11_500.0, 30_000.0
# Along a long bone: where its thickness changes, and how much of the ends' swelling is left there.
_ALONG = np.array([0.0, 0.04, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.96, 1.0])
_SWELLING = np.array([0.85, 1.0, 0.6, 0.2, 0.0, 0.0, 0.0, 0.2, 0.6, 1.0, 0.85])


def long_bone(start, end, radius: float, ends: tuple[float, float], bow: float = 0.0) -> list[Part]:
    """A shaft with thick walls and thicker ends.

    Args:
        start: (3,) mm.
        end: (3,) mm.
        radius: of the shaft, mm.
        ends: radii at the start and at the end.
        bow: how far the middle lies off the line, mm.
    """
    start, end = np.asarray(start, float), np.asarray(end, float)
    axis = (end - start) / np.linalg.norm(end - start)
    off = np.cross(axis, [0.3, 1.0, 0.2])
    points = start + _ALONG[:, None] * (end - start)
    points += (bow * 4 * _ALONG * (1 - _ALONG))[:, None] * off / np.linalg.norm(off)
    swollen = np.where(_ALONG < 0.5, *ends)
    radii = radius + _SWELLING * (swollen - radius)
    rods = chain(points, np.stack([radii, radii], axis=1))
    shaft = 1 - 0.5 * (_SWELLING[1:] + _SWELLING[:-1])
    return [Part(rod, 1.0 + 0.35 * radius * share) for rod, share in zip(rods, shaft, strict=True)]


def nail(sculpture: Sculpture, start, end, radius: float) -> None:
    """A rod in the marrow, with two bolts across at either end."""
    start, end = np.asarray(start, float), np.asarray(end, float)
    r = 0.55 * radius
    sculpture.metal(chain([start, end], [(r, r)] * 2), TITANIUM_HU)
    across = np.cross(end - start, [0, 1, 0.1])
    across *= 1.6 * radius / np.linalg.norm(across)
    for share in (0.06, 0.12, 0.88, 0.94):
        middle = start + share * (end - start)
        sculpture.metal([Rod(middle - across, middle + across, (2.2, 2.2), (2.2, 2.2))], TITANIUM_HU)


def plate(sculpture: Sculpture, start, end, radius: float, rng: np.random.Generator) -> None:
    """A plate on a shaft, fixed by screws."""
    start, end = np.asarray(start, float), np.asarray(end, float)
    out = np.cross(end - start, rng.normal(size=3))
    out /= np.linalg.norm(out)
    low = rng.uniform(0.1, 0.5)
    high = low + rng.uniform(0.25, 0.45)
    a, b = (start + share * (end - start) + (radius + 2) * out for share in (low, high))
    metal = TITANIUM_HU if rng.random() < 0.6 else COBALT_CHROME_HU
    sculpture.metal([Rod(a, b, (5.5, 2.0), (5.5, 2.0), tuple(out))], metal)
    for share in np.linspace(0.05, 0.95, rng.integers(3, 9)):
        head = a + share * (b - a)
        tip = head - (2 * radius + 5) * out
        sculpture.metal([Rod(head, tip, (1.9, 1.9), (1.6, 1.6))], metal)


def paint_long_bones(sculpture: Sculpture, rng: np.random.Generator) -> None:
    """A thigh, an upper arm, a lower leg or a forearm, part of it or all."""
    size = rng.normal(1, 0.08)
    double = rng.random() < 0.5
    stout = rng.uniform(0.6, 1.0) if double else rng.uniform(0.7, 1.3)
    length = size * rng.uniform(120, 200)
    apart = 0.5 * rng.uniform(20, 38) * stout * double
    muscle = rng.uniform(28, 62) * (1.0 if double else 1.25) * stout
    lean = rng.normal(0, 12)
    sculpture.flesh(
        chain([(-lean, 0, -length - 40), (lean, 0, length + 40)], muscle * rng.uniform(0.8, 1.25, (2, 2))),
        rng.uniform(3, 16),
    )
    shift = rng.normal(0, 40)
    for side, thick in ((-1, 1.0), (1, rng.uniform(0.45, 1.0)))[: 1 + double]:
        radius = stout * thick * rng.uniform(11, 14)
        start = np.array([side * apart - lean, rng.normal(0, 5), shift - length])
        end = np.array([side * apart * rng.uniform(0.7, 1.3) + lean, rng.normal(0, 5), shift + length])
        if rng.random() < 0.5:
            start, end = end, start
        ends = radius * rng.uniform(1.4, 2.4, 2)
        sculpture.bone(long_bone(start, end, radius, tuple(ends), rng.normal(0, 6)))
        treated = rng.random()
        if treated < 0.2:
            nail(sculpture, start + 0.04 * (end - start), end - 0.08 * (end - start), radius)
        elif treated < 0.4:
            plate(sculpture, start, end, radius, rng)


def paint_knee(sculpture: Sculpture, rng: np.random.Generator) -> None:
    """Femur, tibia, fibula and patella at any flexion; one in three has a replacement."""
    scale, side = float(np.clip(rng.normal(1, 0.08), 0.8, 1.2)), rng.choice([-1, 1])
    flexion = np.deg2rad(np.clip(rng.normal(15, 30), -5, 110))
    upper = Frame(se3.exp_so3(np.array([rng.normal(0, 0.1), rng.normal(0, 0.06), 0.0])), np.zeros(3), scale)
    bend = np.array([flexion, rng.normal(0, 0.05), rng.normal(0, 0.1)])
    lower = Frame(upper.R @ se3.exp_so3(bend), np.zeros(3), scale)
    upper, lower = upper.side(side), lower.side(side)
    thigh, calf = rng.uniform(55, 85), rng.uniform(42, 62)
    flesh = chain([(0, 0, 220), (0, 2, 60), (0, 2, 10)], [(thigh, thigh), (0.85 * thigh,) * 2, (56, 56)])
    leg = [(0, 2, -10), (0, 16, -110), (0, 12, -260)]
    flesh_below = chain(leg, [(54, 54), (calf, calf), (0.75 * calf,) * 2])
    sculpture.flesh(
        [rod.placed(upper) for rod in flesh] + [rod.placed(lower) for rod in flesh_below], rng.uniform(3, 15)
    )

    femur = [(0, -2, 22), (0, -3, 45), (0, -4, 80), (2, -4, 250)]
    femur = [
        Part(rod.placed(upper), cortex)
        for rod, cortex in zip(
            chain(femur, [(34, 21), (27, 18), (16, 15), (14, 14)], (0, 1, 0)), (1.2, 2.5, 5), strict=True
        )
    ]
    for x in (-23, 23):
        condyle = chain([(x, -12, 2), (x, 6, 0), (1.05 * x, 22, 4)], [(12, 19), (12.5, 21), (11, 17)])
        femur += [Part(rod.placed(upper), 1.4) for rod in condyle]
    notch = Rod(np.array([0, 8.0, -14]), np.array([0, 40.0, -6]), (8, 17), (9, 19))
    femur_label = sculpture.bone(femur, 5.0, [notch.placed(upper)])

    tibia = chain(
        [(0, 0, -30), (0, 0, -48), (0, 2, -85), (2, 4, -280)],
        [(36, 23), (31, 21), (17, 17), (12, 13)],
        (0, 1, 0),
    )
    tibia = [Part(rod.placed(lower), c) for rod, c in zip(tibia, (1.2, 2, 5), strict=True)]
    bump = Rod(np.array([2, -17.0, -50]), np.array([2, -20.0, -66]), (8, 6), (7, 5))
    tibia.append(Part(bump.placed(lower), 2.0))
    for x in (-20, 20):
        plateau = Rod(np.array([x, -4.0, -29]), np.array([x, 6.0, -29]), (15, 6), (15, 6))
        tibia.append(Part(plateau.placed(lower), 1.5))
    tibia_label = sculpture.bone(tibia, 5.0)
    fibula = long_bone((38, 14, -42), (30, 14, -290), 6.0, (11, 9))
    sculpture.bone([Part(part.rod.placed(lower), part.cortex_mm) for part in fibula])
    kneecap = Frame(upper.R @ se3.exp_so3(0.6 * bend), np.zeros(3), scale)
    shell = Rod(np.array([-8, -44.0, 14]), np.array([8, -44.0, 14]), (19, 9), (19, 9), (0, 1, 0))
    sculpture.bone([Part(shell.placed(kneecap), 1.6)], 2.0)
    if rng.random() < 0.35:
        _replace_knee(sculpture, upper, lower, femur_label, tibia_label)


def _replace_knee(sculpture: Sculpture, upper: Frame, lower: Frame, femur: int, tibia: int) -> None:
    """Metal runners on the condyles, a tray with a peg on the tibia."""
    angle = np.deg2rad(np.linspace(-75, 170, 11))
    for x in (-22, 22):
        runner = np.stack([np.full(11, x), -20 * np.cos(angle) + 4, -20 * np.sin(angle) - 1], axis=1)
        for a, b, middle in zip(runner[:-1], runner[1:], angle[:-1], strict=True):
            radial = (0.0, -np.cos(middle), -np.sin(middle))
            rod = Rod(a, b, (12, 3.5), (12, 3.5), radial)
            sculpture.metal([rod.placed(upper)], COBALT_CHROME_HU, femur)
    tray = Rod(np.array([-20, 0.0, -27]), np.array([20, 0.0, -27]), (2.5, 22), (2.5, 22), (0, 1, 0))
    peg = Rod(np.array([0, 0.0, -27]), np.array([0, 0.0, -70]), (8, 8), (6, 6))
    sculpture.metal([tray.placed(lower), peg.placed(lower)], TITANIUM_HU, tibia)


# Carpal bones of a right hand seen from the front, thumb towards +x: middle (mm from the middle of the
# joint; -z towards the fingers), half-axis, radius.
_CARPALS = (
    ((14, -2, -11), (4, -2, -5), 7.0),  # scaphoid
    ((2, 0, -9), (1, 2, -1), 7.5),  # lunate
    ((-10, 1, -12), (3, 0, -3), 6.5),  # triquetrum
    ((-11, -10, -14), (0, 1, -2), 4.5),  # pisiform
    ((22, -5, -24), (2, 1, -3), 6.5),  # trapezium
    ((13, -1, -26), (1, 2, -2), 5.5),  # trapezoid
    ((3, 0, -24), (0, 0, -6), 6.5),  # capitate
    ((-9, 0, -26), (2, -2, -3), 7.0),  # hamate
)
# Metacarpals: base and head, radius of the shaft; the first is the thumb's.
_METACARPALS = (
    ((26, -8, -34), (44, -18, -74), 5.0),
    ((15, -1, -36), (24, 0, -98), 4.5),
    ((4, 0, -36), (5, -1, -98), 4.5),
    ((-6, 0, -37), (-12, 0, -92), 4.0),
    ((-14, 0, -38), (-27, 1, -86), 4.0),
)


def paint_wrist(sculpture: Sculpture, rng: np.random.Generator) -> None:
    """Radius, ulna, carpal bones and the hand, bent and tilted at the wrist; some radii carry a plate."""
    scale, side = float(np.clip(rng.normal(1, 0.1), 0.75, 1.2)), rng.choice([-1, 1])
    up = rng.uniform(-30, 45)
    arm = Frame(np.eye(3), np.array([0, 0, up]), scale).side(side)
    bend = np.array([rng.normal(0, 0.45), rng.normal(0, 0.2), rng.normal(0, 0.1)])
    hand = Frame(arm.R @ se3.exp_so3(bend), arm.origin_mm, scale)
    turn = rng.normal(0, 0.5)  # of the radius about the ulna

    forearm = chain([(0, 0, 200), (0, 0, 60), (2, 0, 0)], [(40, 34), (32, 25), (29, 20)], (0, 1, 0))
    palm = chain([(2, 0, -5), (0, -1, -45), (-1, -1, -90)], [(29, 19), (37, 16), (40, 13)], (0, 1, 0))
    fist = rng.uniform(0, 1.2)
    fingers = [bone for metacarpal in _METACARPALS for bone in _finger(*metacarpal, fist)]
    soft = [Rod(bone.base, bone.end, (bone.radius + 5.5,) * 2, (bone.radius + 5,) * 2) for bone in fingers]
    rods = [rod.placed(arm) for rod in forearm] + [rod.placed(hand) for rod in palm + soft]
    sculpture.flesh(rods, rng.uniform(1.5, 5), 8.0)

    c, s = np.cos(turn), np.sin(turn)

    def about_ulna(points):
        x, y, z = np.asarray(points, float).T
        share = np.clip(1 - z / 200, 0, 1)  # the radius crosses over further down
        cc, ss = 1 + share * (c - 1), share * s
        return np.stack([-14 + cc * (x + 14) - ss * y, ss * (x + 14) + cc * y, z], axis=1)

    shaft = about_ulna([(14, 0, 210), (11, 0, 90), (9, 0, 40), (8, 0, 18), (7, 0, 9), (7, 0, 4)])
    radii = [(6.5, 6.5), (6.5, 6), (7, 6.5), (11, 8), (15, 9.5), (16, 10)]
    cortex = (2.6, 2.6, 2, 1.2, 1)
    radius = [Part(rod.placed(arm), t) for rod, t in zip(chain(shaft, radii, (0, 1, 0)), cortex, strict=True)]
    styloid = about_ulna([(18, -1, 5), (22, -2, -5)])
    radius.append(Part(Rod(*styloid, (5, 5), (3, 3)).placed(arm), 1.0))
    lunate_fossa = Rod.ball(np.array([5, 0, -22.0]), 21.0)
    sculpture.bone(radius, 3.0, [lunate_fossa.placed(arm)])
    ulna = chain(
        [(-12, 4, 210), (-14, 3, 60), (-15, 2, 22), (-15, 2, 10), (-15, 2, 6)],
        [(7, 7), (5.5, 5.5), (5.5, 5.5), (8, 8), (7.5, 7.5)],
    )
    ulna = [Part(rod.placed(arm), t) for rod, t in zip(ulna, (2.4, 2.4, 1.4, 1), strict=True)]
    tip = Rod(np.array([-18, 5.0, 6]), np.array([-20, 6.0, -3]), (2.6, 2.6), (2, 2))
    sculpture.bone([*ulna, Part(tip.placed(arm), 1.0)], 2.0)
    for middle, half, r in _CARPALS:
        middle, half = np.array(middle) + rng.normal(0, 0.7, 3), np.array(half, float)
        rod = Rod(middle - half, middle + half, (r, r), (0.9 * r, 0.9 * r))
        sculpture.bone([Part(rod.placed(hand), 0.9)], 1.0)
    for bone in fingers:
        parts = long_bone(bone.base, bone.end, bone.radius, (1.5 * bone.radius, 1.4 * bone.radius))
        sculpture.bone([Part(part.rod.placed(hand), 0.5 * part.cortex_mm) for part in parts], 1.5)
    if rng.random() < 0.2:
        a, b = (arm.points(shaft[n]) for n in (4, 1))
        plate(sculpture, a, b, 8 * scale, rng)


class _FingerBone(NamedTuple):
    """A bone of a finger: its ends (3,) and the radius of its shaft, mm."""

    base: np.ndarray
    end: np.ndarray
    radius: float


def _finger(base, head, radius: float, fist: float) -> list[_FingerBone]:
    """A metacarpal and two phalanges, each bent towards the palm by ``fist`` rad more than the last."""
    base, head = np.array(base, float), np.array(head, float)
    length = np.linalg.norm(head - base)
    direction = (head - base) / length
    bones = []
    for share in (1.0, 0.62, 0.4):
        end = base + share * length * direction
        bones.append(_FingerBone(base, end, radius))
        base = end + 3 * direction
        direction = se3.exp_so3(np.array([-fist, 0, 0])) @ direction
        radius *= 0.85
    return bones
