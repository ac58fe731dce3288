"""From ideal line integrals to a stored X-ray: metal, collimator, scatter, blur, quanta, display curve."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.interpolate import PchipInterpolator

from SOPIRegistrationLib.images.radiograph import Radiograph

# What a closed collimator lets through, as a fraction of the open beam.
LEAKAGE = 0.004
# A pixel whose line integral through metal exceeds this counts as metal.
_METAL_LINE_INTEGRAL = 0.05
# Linear attenuation at about 70 keV, 1/mm.
MU_TITANIUM, MU_STEEL, MU_COPPER = 0.25, 0.6, 0.9


@dataclass(frozen=True)
class IntensityCurve:
    """A rising curve from [0, 1] onto [0, 1], as image chains apply between detector and screen.

    Attributes:
        values: (n,) its values at equally spaced arguments, strictly rising from 0 to 1.
    """

    values: np.ndarray

    def __post_init__(self):
        values = np.asarray(self.values, dtype=np.float64)
        if values.ndim != 1 or len(values) < 2 or (np.diff(values) <= 0).any():
            raise ValueError("an intensity curve needs two or more strictly rising values")
        object.__setattr__(self, "values", (values - values[0]) / (values[-1] - values[0]))

    @classmethod
    def gamma(cls, exponent: float) -> IntensityCurve:
        """x^exponent."""
        return cls(np.linspace(0, 1, 257) ** exponent)

    @classmethod
    def sigmoid(cls, gain: float, centre: float = 0.5) -> IntensityCurve:
        """Film-like: flat toe and shoulder, slope ``gain`` / 4 before rescaling at ``centre``."""
        return cls(1 / (1 + np.exp(-gain * (np.linspace(0, 1, 257) - centre))))

    @classmethod
    def random(cls, rng: np.random.Generator, strength: float = 1.0) -> IntensityCurve:
        """Power, sigmoid or smooth curve through random knots; the identity at strength 0."""
        kind = rng.integers(3)
        if kind == 0:
            return cls.gamma(np.exp(strength * rng.uniform(-0.7, 0.7)))
        if kind == 1:
            return cls.sigmoid(1e-3 + strength * rng.uniform(1, 7), rng.uniform(0.3, 0.7))
        steps = np.exp(strength * rng.normal(0, 0.8, 6))
        knots = np.concatenate([[0], np.cumsum(steps)])
        return cls(PchipInterpolator(np.linspace(0, 1, 7), knots)(np.linspace(0, 1, 257)))

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """The curve at ``x`` in [0, 1], float32."""
        values = self.values.astype(np.float32)
        position = np.asarray(x, np.float32) * np.float32(len(values) - 1)
        below = np.minimum(position.astype(np.intp), len(values) - 2)
        return values[below] + (position - below.astype(np.float32)) * np.diff(values)[below]


@dataclass(frozen=True)
class Collimation:
    """The opening of the beam, in units of half the image's shorter side, about its centre.

    Attributes:
        radius: of the intensifier's circle or an iris; None without one.
        centre: (u, v) of the circle and of the shutters.
        shutters: half-openings (along u, along v) of the pairs of blades before turning; None without.
        angle: turn of the blades, rad, from u towards v.
    """

    radius: float | None = None
    centre: tuple[float, float] = (0.0, 0.0)
    shutters: tuple[float, float] | None = None
    angle: float = 0.0

    def opening(self, shape: tuple[int, int]) -> np.ndarray:
        """(rows, columns) float32: 1 in the beam, 0 outside, a pixel wide between."""
        u, v, unit = _image_coordinates(shape)
        u, v = u - np.float32(self.centre[0]), v - np.float32(self.centre[1])
        margin = np.full(shape, np.float32(np.inf))
        if self.radius is not None:
            margin = np.minimum(margin, self.radius - np.hypot(u, v))
        if self.shutters is not None:
            c, s = np.cos(np.float32(self.angle)), np.sin(np.float32(self.angle))
            across, along = np.abs(c * u + s * v), np.abs(c * v - s * u)
            margin = np.minimum(margin, np.minimum(self.shutters[0] - across, self.shutters[1] - along))
        return np.clip(0.5 + np.float32(unit) * margin, 0, 1)


@dataclass(frozen=True)
class Instrument:
    """A metal wire, rod or screw in the beam, drawn in the image.

    Attributes:
        points: (n, 2) its axis (u, v), in units of half the image's shorter side, about its centre.
        radius: in the same unit.
        peak: line integral of attenuation through its middle.
        thread: (pitch, depth) of a screw's thread in the same unit; None for a smooth one.
    """

    points: np.ndarray
    radius: float
    peak: float
    thread: tuple[float, float] | None = None

    def draw(self, shape: tuple[int, int]) -> np.ndarray:
        """(rows, columns) float32 line integrals: the chords of a round bar."""
        u, v, _ = _image_coordinates(shape)
        squared = np.full(shape, np.float32(np.inf))
        along = np.zeros(shape, np.float32)
        start = 0.0
        points = np.asarray(self.points, dtype=np.float32)
        for a, b in pairwise(points):
            rows, columns = self._rows_and_columns(a, b, u, v)
            du, dv = u[:, columns] - a[0], v[rows] - a[1]
            length = np.hypot(*(b - a))
            direction = (b - a) / length
            share = np.clip(du * direction[0] + dv * direction[1], 0, length)
            here = (du - share * direction[0]) ** 2 + (dv - share * direction[1]) ** 2
            nearer = here < squared[rows, columns]
            squared[rows, columns] = np.where(nearer, here, squared[rows, columns])
            along[rows, columns] = np.where(nearer, start + share, along[rows, columns])
            start += length
        radius = np.float32(self.radius)
        if self.thread is not None:
            pitch, depth = np.float32(self.thread)
            radius = radius - depth * np.abs(2 * ((along / pitch) % 1) - 1)
        return np.float32(self.peak / self.radius) * np.sqrt(np.maximum(radius**2 - squared, 0))

    def _rows_and_columns(self, a, b, u, v):
        low, high = np.minimum(a, b) - self.radius, np.maximum(a, b) + self.radius
        columns = slice(*np.searchsorted(u[0], (low[0], high[0])))
        return slice(*np.searchsorted(v[:, 0], (low[1], high[1]))), columns


@dataclass(frozen=True)
class XRayDegradation:
    """Everything between the ideal projection and the stored image; the default changes nothing.

    Attributes:
        attenuation_scale: factor on the line integrals: another tube voltage or a thicker patient.
        instruments: metal in the beam.
        scatter_to_primary: mean scattered over mean primary intensity behind the object; 0 for none.
        scatter_width: standard deviation of the scatter's spread, in image widths.
        blur_px: standard deviation of the detector's point spread, pixels.
        collimation: opening of the beam; None for all of the image.
        photons: quanta per pixel in the open beam (Poisson noise); None for no noise.
        logarithm: True stores -log(intensity), which is bright in bone; False the intensity, dark in bone.
        invert: swap bright and dark (1 - x of the windowed image).
        window: quantiles of the beam's pixels that become 0 and 1 before the curve; the rest saturates.
        curve: display curve; None for the identity.
        bit_depth: 8, 10, 12, 14 or 16 bits stored as unsigned integers; None for float32.
    """

    attenuation_scale: float = 1.0
    instruments: tuple[Instrument, ...] = ()
    scatter_to_primary: float = 0.0
    scatter_width: float = 0.12
    blur_px: float = 0.0
    collimation: Collimation | None = None
    photons: float | None = None
    logarithm: bool = True
    invert: bool = False
    window: tuple[float, float] = (0.0, 1.0)
    curve: IntensityCurve | None = None
    bit_depth: int | None = None

    @property
    def bone_dark(self) -> bool:
        """Whether bone is darker than soft tissue in the stored image."""
        return self.invert == self.logarithm

    @property
    def is_windowed(self) -> bool:
        """Whether the image is mapped to [0, 1], not kept in line integrals or fractions of the open beam."""
        return (
            self.invert or self.window != (0.0, 1.0) or self.curve is not None or self.bit_depth is not None
        )


@dataclass(frozen=True)
class SimulatedXRay:
    """A degraded projection.

    Attributes:
        image: (rows, columns) float32, or uint8 / uint16 with a bit depth.
        valid: bool, True where the beam was open and nothing saturated.
        metal: bool, True where an instrument covers the patient.
    """

    image: np.ndarray
    valid: np.ndarray
    metal: np.ndarray


def simulate_xray(
    line_integrals: np.ndarray, degradation: XRayDegradation, rng: np.random.Generator | int
) -> SimulatedXRay:
    """Degrade an ideal projection.

    Beer-Lambert intensities of the object and the metal, through the collimator, plus scatter, blurred,
    counted (Poisson), then stored along the display chain.

    Args:
        line_integrals: (rows, columns) of attenuation, no unit.
        degradation: what to do.
        rng: generator or seed of the noise.
    """
    d = degradation
    rng = np.random.default_rng(rng)
    shape = line_integrals.shape
    metal = sum((tool.draw(shape) for tool in d.instruments), np.zeros(shape, np.float32))
    intensity = np.exp(-np.float32(d.attenuation_scale) * np.asarray(line_integrals, np.float32) - metal)
    opening = np.float32(1)
    valid = np.ones(shape, dtype=bool)
    if d.collimation is not None:
        opening = d.collimation.opening(shape)
        valid = opening == 1
        intensity *= LEAKAGE + (1 - LEAKAGE) * opening
    if d.scatter_to_primary > 0:
        intensity += np.float32(d.scatter_to_primary) * _blurred(intensity, d.scatter_width * shape[1])
    if d.blur_px > 0:
        intensity = _blurred(intensity, d.blur_px)
    if d.photons is not None:
        intensity = (rng.poisson(intensity * d.photons) / d.photons).astype(np.float32)

    image = intensity
    if d.logarithm:
        image = -np.log(np.maximum(intensity, 0.5 / (d.photons or 1e12)))
    if d.is_windowed:
        image, saturated = _stored(image, valid, d)
        valid &= ~saturated
    return SimulatedXRay(image, valid, metal > _METAL_LINE_INTEGRAL)


def simulate_radiograph(
    line_integrals: np.ndarray,
    degradation: XRayDegradation,
    rng: np.random.Generator | int,
    name: str = "simulated X-ray",
) -> Radiograph:
    """:func:`simulate_xray` as a file would give it: pixels with their polarity."""
    pixels = simulate_xray(line_integrals, degradation, rng).image
    return Radiograph(pixels, name, bone_dark=degradation.bone_dark)


def random_degradation(rng: np.random.Generator, strength: float = 1.0) -> XRayDegradation:
    """Draw a degradation for domain randomisation.

    Args:
        rng: source of everything drawn.
        strength: 0 leaves the image nearly alone, 1 spans what C-arms and radiography rooms produce.
    """

    def sometimes(probability):
        return rng.random() < probability * strength

    tools = []
    if sometimes(0.3):
        makers = (_k_wire, _screw, _lead, _rod)
        tools = [makers[rng.integers(len(makers))](rng) for _ in range(rng.integers(1, 5))]
    collimation = None
    if sometimes(0.7):
        with_circle, with_shutters = [(True, False), (False, True), (True, True)][rng.integers(3)]
        collimation = Collimation(
            radius=rng.uniform(0.85, 1.15) if with_circle else None,
            centre=tuple(rng.normal(0, 0.04 * strength, 2)),
            shutters=tuple(rng.uniform(0.6, 1.1, 2)) if with_shutters else None,
            angle=rng.normal(0, 0.15),
        )
    logarithm = bool(rng.random() < 0.6)
    curve = IntensityCurve.random(rng, strength)
    if not logarithm:  # without a logarithm, image chains lift the shadows
        curve = IntensityCurve.gamma(1 - strength * rng.uniform(0.3, 0.75))
    low, high = rng.uniform(0, 0.02 * strength, 2)
    return XRayDegradation(
        attenuation_scale=np.exp(strength * rng.uniform(-0.25, 0.15)),
        instruments=tuple(tools),
        scatter_to_primary=strength * rng.uniform(0, 1.5),
        scatter_width=rng.uniform(0.05, 0.25),
        blur_px=strength * rng.uniform(0, 1.0),
        collimation=collimation,
        photons=10 ** rng.uniform(7 - 2.5 * strength, 7),
        logarithm=logarithm,
        invert=bool(rng.random() < 0.3),
        window=(low, 1 - high),
        curve=curve,
        bit_depth=int(rng.choice([8, 12, 16])),
    )


def _stored(image, valid, d):
    """Window, polarity, curve and quantisation; and which pixels the window saturates."""
    low, high = np.quantile(image[valid] if valid.any() else image, d.window)
    scaled = (image - np.float32(low)) / np.float32(max(high - low, 1e-6))
    saturated = ((scaled < 0) & (d.window[0] > 0)) | ((scaled > 1) & (d.window[1] < 1))
    scaled = np.clip(scaled, 0, 1)
    if d.invert:
        scaled = 1 - scaled
    if d.curve is not None:
        scaled = d.curve(scaled)
    if d.bit_depth is None:
        return scaled, saturated
    dtype = np.uint8 if d.bit_depth <= 8 else np.uint16
    return np.rint(scaled * (2**d.bit_depth - 1)).astype(dtype), saturated


def _image_coordinates(shape):
    """u (1, columns), v (rows, 1) about the centre, and their unit, half the shorter side, in pixels."""
    unit = min(shape) / 2
    v, u = (((np.arange(n) - (n - 1) / 2) / unit).astype(np.float32) for n in shape)
    return u[None, :], v[:, None], unit


def _blurred(image, sigma_px):
    """Gaussian blur of any width as two matrix products; at the border the kernel is cut and renormalised."""
    kernels = []
    for n in image.shape:
        offsets = np.arange(n, dtype=np.float32)
        kernel = np.exp(-0.5 * ((offsets[:, None] - offsets) / np.float32(sigma_px)) ** 2)
        kernels.append(kernel / kernel.sum(axis=1, keepdims=True))
    return kernels[0] @ image @ kernels[1].T


def _straight(rng, length):
    centre, angle = rng.uniform(-0.7, 0.7, 2), rng.uniform(0, np.pi)
    reach = 0.5 * length * np.array([np.cos(angle), np.sin(angle)])
    return np.stack([centre - reach, centre + reach])


def _k_wire(rng: np.random.Generator) -> Instrument:
    """A straight wire of 1 to 2.5 mm, for an image of about 200 mm."""
    radius = rng.uniform(0.005, 0.0125)
    return Instrument(_straight(rng, rng.uniform(0.5, 2.5)), radius, 200 * MU_STEEL * radius)


def _rod(rng: np.random.Generator) -> Instrument:
    """A bent spinal rod of 5 to 6 mm."""
    ends = _straight(rng, rng.uniform(0.6, 1.4))
    t = np.linspace(0, 1, 12)[:, None]
    across = (ends[1] - ends[0])[::-1] * [-1, 1]
    points = ends[0] + t * (ends[1] - ends[0]) + rng.normal(0, 0.1) * 4 * t * (1 - t) * across
    radius = rng.uniform(0.025, 0.03)
    return Instrument(points, radius, 200 * MU_TITANIUM * radius)


def _screw(rng: np.random.Generator) -> Instrument:
    """A threaded pedicle screw of 5 to 7 mm."""
    radius = rng.uniform(0.025, 0.035)
    thread = (rng.uniform(0.02, 0.03), 0.35 * radius)
    return Instrument(_straight(rng, rng.uniform(0.35, 0.5)), radius, 200 * MU_TITANIUM * radius, thread)


def _lead(rng: np.random.Generator) -> Instrument:
    """A slack ECG lead across the image: a thin copper curve."""
    knots = np.stack([np.linspace(-1.6, 1.6, 6), rng.uniform(-0.8, 0.8) + rng.normal(0, 0.25, 6)], axis=1)
    if rng.random() < 0.5:
        knots = knots[:, ::-1]
    t = np.linspace(0, 5, 40)
    radius = rng.uniform(0.003, 0.006)
    return Instrument(PchipInterpolator(np.arange(6), knots)(t), radius, 200 * MU_COPPER * radius)
