"""What the studies share: poses of the protocols, X-rays from line integrals of another program."""

from __future__ import annotations

import numpy as np
from SOPIRegistrationLib.simulation.xray import IntensityCurve

# rx, ry, rz (deg), tx, ty, tz (mm); depth is tz here.
PAPER_VARIANCE = np.array([20.0, 20, 20, 30, 15, 100])
WIDE_DEVIATION = np.array([20.0, 20, 20, 30, 15, 100])


def draw_theta(rng: np.random.Generator, deviation: np.ndarray) -> np.ndarray:
    """(6,) normal pose parameters, rad and mm, of deviations in deg and mm."""
    theta = rng.normal(size=6) * deviation
    theta[:3] = np.deg2rad(theta[:3])
    return theta


def photographed(line_integrals: np.ndarray, photons: float, rng: np.random.Generator) -> np.ndarray:
    """Line integrals as so many photons a pixel show them."""
    counts = np.maximum(rng.poisson(photons * np.exp(-line_integrals.astype(np.float64))), 1)
    return (-np.log(counts / photons)).astype(np.float32)


def displayed(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random monotone curve on the image's own range, stored with 12 bits."""
    low, high = image.min(), image.max()
    curve = IntensityCurve.random(rng, 1.0)
    return np.round(4095 * curve((image - low) / (high - low))).astype(np.uint16)
