"""The pelvis with both hips, as an X-ray of it shows them; some hips are replaced or nailed."""

from __future__ import annotations

import numpy as np

from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.simulation.fields import Frame, Rod, chain
from SOPIRegistrationLib.simulation.limbs import COBALT_CHROME_HU, TITANIUM_HU
from SOPIRegistrationLib.simulation.sculpture import Part, Sculpture
from SOPIRegistrationLib.simulation.skeleton import ilium_shape, pelvis_frame, sacrum_shape
from SOPIRegistrationLib.simulation.spine import random_spine

# Middle of the hip joint, in the frame of its side of the pelvis, mm; radius of the femoral head.
_HIP, _HEAD_RADIUS = np.array([88.0, -30.0, -108.0]), 24.0


def paint_hips(sculpture: Sculpture, rng: np.random.Generator) -> None:
    """L4 to the thighs."""
    spine = random_spine(rng)
    # The middle of the hips near the grid's, the sacrum above it.
    spine = spine.moved(np.array([rng.normal(0, 5), rng.normal(38, 6), 78]) - spine.sacrum.origin_mm)
    scale = spine.scale
    legs = [_Leg(pelvis_frame(spine, side, rng), rng) for side in (-1, 1)]
    width, depth = rng.uniform(150, 178), rng.uniform(95, 125)
    trunk = chain(
        [(-20, 10, 170), (-20, 10, -50), (20, 10, -50), (20, 10, 170)], [(width - 20, depth)] * 4, (0, 1, 0)
    )
    thighs = [Rod(leg.hip_mm, leg.points([(45, 8, -300)])[0], (80, 85), (66, 70)) for leg in legs]
    sculpture.flesh([*trunk[:1], *thighs], rng.uniform(6, 32), 30.0)
    for _ in range(rng.integers(2, 9)):
        gas = rng.normal([0, -30, 60], [60, 25, 45])
        reach, r = rng.normal(0, 18, 3), rng.uniform(6, 18)
        filled = rng.uniform(300, 1200) if rng.random() < 0.15 else -930.0
        sculpture.organ([Rod(gas, gas + reach, (r, r), (0.7 * r, 0.7 * r))], filled)
    bladder = Rod(np.array([-14, -20.0, -35]), np.array([14, -20.0, -35]), (26, 28), (26, 28))
    sculpture.organ([bladder], rng.uniform(300, 1500) if rng.random() < 0.15 else 12.0)

    for level in ("L3", "L4", "L5"):
        sculpture.add(spine[level].shape(sculpture.grid))
    sculpture.add(sacrum_shape(sculpture.grid, spine, rng), density=0.6)
    for leg in legs:
        shape = ilium_shape(sculpture.grid, spine, leg.pelvis, _below_the_wing())
        socket = Rod(_HIP, _HIP + np.array([30.0, -8, -12]), (27.5, 27.5), (30, 30))
        shape.cut(socket.placed(leg.pelvis), 1.5 * sculpture.cortex)
        label = sculpture.add(shape, density=0.6)
        leg.paint(sculpture, scale, label, rng)


def _below_the_wing() -> list[Rod]:
    """Socket, ischium and pubic bone of one side, in the frame of the pelvis."""
    socket = Rod(_HIP + np.array([-8.0, 2, 2]), _HIP + np.array([2.0, 0, 0]), (31, 31), (29, 29))
    roof = chain([(80, -8, -68), np.add(_HIP, [0, -2, 18])], [(13, 15), (17, 20)], (0, 1, 0))
    ischium = chain(
        [np.add(_HIP, [-6, 20, -10]), (66, 12, -150), (60, -4, -172)], [(14, 14), (15, 17), (13, 13)]
    )
    upper = chain(
        [np.add(_HIP, [-12, -10, -6]), (42, -66, -112), (14, -84, -128)], [(13, 12), (7, 8), (8, 9)]
    )
    body = chain([(8, -84, -126), (8, -74, -152)], [(7, 9), (6, 8)])
    lower = chain([(9, -74, -150), (34, -40, -168), (58, -6, -172)], [(6, 7), (5, 8), (8, 10)])
    return [socket, *roof, *ischium, *upper, *body, *lower]


class _Leg:
    """The femur of one side, turned about its hip.

    Args:
        pelvis: frame of its side.
        rng: source of everything drawn.
    """

    def __init__(self, pelvis: Frame, rng: np.random.Generator):
        self.pelvis, self.hip_mm = pelvis, pelvis.points(_HIP)
        bend = np.array([rng.normal(-0.05, 0.12), rng.normal(0, 0.1), rng.normal(0, 0.25)])
        upright = np.diag([np.sign(np.linalg.det(pelvis.R)), 1.0, 1.0])
        self._frame = Frame(upright @ se3.exp_so3(bend), self.hip_mm, pelvis.scale)

    def points(self, p) -> np.ndarray:
        """Points (n, 3) from the femoral head: outwards, back and up, in the body frame."""
        return self._frame.points(np.asarray(p, float))

    def paint(self, sculpture: Sculpture, scale: float, pelvis_label: int, rng: np.random.Generator) -> None:
        """Femur, and what may have been done to it."""
        tall = rng.normal(-24, 6)  # of the neck
        trochanter = np.array([54, 4.0, tall - 4])
        shaft = [(46, 2, tall - 30), (44, 0, -110), (38, -2, -330)]
        pieces = [
            (Rod.ball(np.zeros(3), _HEAD_RADIUS), 1.2),
            *((rod, 2.0) for rod in chain([(6, 0, -3), (40, 2, tall)], [(15, 17), (16, 19)], (0, 0, 1))),
            (Rod(np.add(trochanter, [0, 6, 8]), trochanter - [4, 0, 22], (13, 16), (14, 17)), 1.2),
            (Rod(np.array([34, 14.0, -62]), np.array([38, 10.0, -74]), (8, 8), (7, 7)), 1.5),
            *(
                (rod, t)
                for rod, t in zip(chain(shaft, [(18, 18), (15, 15), (13.5, 14)]), (3, 6), strict=True)
            ),
        ]
        femur = sculpture.bone([Part(rod.placed(self._frame), cortex) for rod, cortex in pieces], 6.0)
        treated = rng.random()
        if treated < 0.18:
            self._replace(sculpture, tall, femur, pelvis_label)
        elif treated < 0.3:
            self._fix(sculpture, tall, rng)

    def _replace(self, sculpture: Sculpture, tall: float, femur: int, pelvis_label: int) -> None:
        """A cup, a ball and a stem in place of the joint."""
        cup = Rod.ball(np.zeros(3), 26.0).placed(self._frame)
        sculpture.metal([cup], TITANIUM_HU, pelvis_label, shell_mm=4.0)
        ball = Rod.ball(np.zeros(3), 15.0)
        stem = chain(
            [(4, 0, -2), (36, 1, tall - 6), (44, 0, tall - 50), (42, 0, -150)],
            [(6, 6), (9, 8), (9, 8), (4, 4)],
        )
        sculpture.metal([ball.placed(self._frame)], COBALT_CHROME_HU, femur)
        sculpture.metal([rod.placed(self._frame) for rod in stem], TITANIUM_HU, femur)

    def _fix(self, sculpture: Sculpture, tall: float, rng: np.random.Generator) -> None:
        """Screws through the neck, or a nail with one."""
        for shift in rng.uniform(-7, 7, (rng.integers(1, 4), 2)):
            a, b = np.add([66.0, *shift], [0, 0, tall - 22]), np.add([4.0, *shift], [0, 0, -2])
            sculpture.metal([Rod(a, b, (3.5, 3.5), (3, 3)).placed(self._frame)], TITANIUM_HU)
        if rng.random() < 0.5:
            nail = chain([(50, 2, tall + 4), (44, 0, -90), (41, -1, -220)], [(6, 6), (5.5, 5.5), (5, 5)])
            sculpture.metal([rod.placed(self._frame) for rod in nail], TITANIUM_HU)
