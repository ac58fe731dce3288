"""Where evaluated registrations start and where their targets lie."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from SOPIRegistrationLib.simulation.demo import PAPER_VARIANCE

# The same numbers, read as standard deviations: rx, ry, rz (deg), tx, ty, tz (mm).
WIDE_DEVIATION = PAPER_VARIANCE


def draw_theta(rng: np.random.Generator, deviation: np.ndarray) -> np.ndarray:
    """(6,) normal pose parameters, rad and mm, of deviations in deg and mm."""
    theta = rng.normal(size=6) * deviation
    theta[:3] = np.deg2rad(theta[:3])
    return theta


@dataclass(frozen=True)
class Protocol:
    """How poses are drawn.

    The SOPI paper writes N(0, 20), N(0, 100), N(0, 30), N(0, 15) and does not say whether the second number
    is a variance: both readings are protocols.

    Attributes:
        name: as on the command line.
        summary: one line for reports.
        deviation: (6,) standard deviations of rx, ry, rz (deg), tx, ty, tz (mm).
        start_drawn: whether the start is drawn as well; otherwise it is the nominal view.
    """

    name: str
    summary: str
    deviation: np.ndarray
    start_drawn: bool

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Pose parameters (6,) of a target and of a start, rad and mm."""
        true = draw_theta(rng, self.deviation)
        start = draw_theta(rng, self.deviation) if self.start_drawn else np.zeros(6)
        return true, start


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "paper",
            "start and target both drawn about the nominal view: variances 20 deg^2 about each axis, 100 "
            "mm^2 in depth, 30 and 15 mm^2 in plane",
            np.sqrt(PAPER_VARIANCE),
            True,
        ),
        Protocol(
            "wide",
            "target drawn about the nominal view, which is the start: standard deviations 20 deg about each "
            "axis, 100 mm in depth, 30 and 15 mm in plane",
            WIDE_DEVIATION,
            False,
        ),
    )
}
