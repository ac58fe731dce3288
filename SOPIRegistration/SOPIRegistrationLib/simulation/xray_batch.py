"""The X-ray simulator for many images at once, in torch, on whatever device they are.

The same steps as :func:`.xray.simulate_xray`, image by image with its own degradation, and what preparation
makes of the stored pixels. Nothing leaves the device but what was drawn before it began.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from SOPIRegistrationLib.simulation.xray import LEAKAGE, Instrument, XRayDegradation

Counts = Callable[[torch.Tensor], torch.Tensor]


class StoredXRays(NamedTuple):
    """Degraded projections.

    Attributes:
        image: (B, rows, columns) float32 stored values, integers where there is a bit depth.
        valid: (B, rows, columns) bool, True where the beam was open and nothing saturated.
    """

    image: torch.Tensor
    valid: torch.Tensor


def simulate_xrays(
    line_integrals: torch.Tensor, degradations: Sequence[XRayDegradation], counts: Counts = torch.poisson
) -> StoredXRays:
    """Degrade ideal projections.

    Args:
        line_integrals: (B, rows, columns) of attenuation, no unit.
        degradations: what to do to each.
        counts: makes counts of expected numbers of quanta, (B, rows, columns).
    """
    batch = _Batch(degradations, line_integrals)
    shape = line_integrals.shape[1:]
    line_integrals = batch.column("attenuation_scale") * line_integrals.float()
    intensity = torch.exp(-line_integrals - batch.metal(shape))
    opening, valid = batch.opening(shape)
    intensity = intensity * (LEAKAGE + (1 - LEAKAGE) * opening)
    scatter = batch.column("scatter_to_primary")
    if scatter.any():
        width = batch.column("scatter_width") * shape[1]
        intensity = intensity + scatter * _blurred(intensity, width)
    blur = batch.column("blur_px")
    if blur.any():
        # A point spread much narrower than a pixel leaves the image as it is.
        intensity = _blurred(intensity, blur.clamp(min=1e-3))
    photons = batch.column("photons", none=0.0)
    counted = counts(intensity * photons) / photons.clamp(min=1e-30)
    intensity = torch.where(photons > 0, counted, intensity)

    least = torch.where(photons > 0, 0.5 / photons.clamp(min=1e-30), 0.5e-12)
    image = torch.where(batch.flag("logarithm"), -torch.log(torch.maximum(intensity, least)), intensity)
    return batch.stored(image, valid)


def attenuation_of_stored(xrays: StoredXRays, degradations: Sequence[XRayDegradation]) -> torch.Tensor:
    """Line integrals up to a monotone curve, bone bright, as
    :func:`~SOPIRegistrationLib.images.radiograph_preparation.attenuation_of_pixels` makes them.

    Args:
        xrays: degraded projections.
        degradations: of each.
    """
    pixels, valid = xrays
    inf = torch.inf
    open_value = _quantile(pixels, valid, torch.full((len(pixels), 1), 0.995).to(pixels))[:, :, None]
    black = torch.where(valid, pixels, inf).amin(dim=(1, 2), keepdim=True).clamp(max=0.0)
    batch = _Batch(degradations, pixels)
    integer = batch.column("bit_depth", none=0.0) > 0
    half_step = torch.where(integer, 0.5, 1e-5 * (open_value - black))
    logarithm = torch.log((open_value - black + half_step) / ((pixels - black).clamp(min=0) + half_step))
    return torch.where(batch.flag("bone_dark"), logarithm, pixels)


class _Batch:
    """Degradations as tensors beside images.

    Args:
        degradations: of each image.
        like: (B, rows, columns) the images.
    """

    def __init__(self, degradations: Sequence[XRayDegradation], like: torch.Tensor):
        if len(degradations) != len(like):
            raise ValueError(f"{len(degradations)} degradations of {len(like)} images")
        self._degradations, self._device = degradations, like.device

    def tensor(self, values) -> torch.Tensor:
        """Float32 on the device."""
        return torch.as_tensor(np.asarray(values, dtype=np.float32), device=self._device)

    def column(self, name: str, none: float | None = None) -> torch.Tensor:
        """(B, 1, 1) an attribute of the degradations; ``none`` stands for None."""
        values = [getattr(d, name) for d in self._degradations]
        return self.tensor([none if value is None else value for value in values])[:, None, None]

    def flag(self, name: str) -> torch.Tensor:
        """(B, 1, 1) bool, an attribute of the degradations."""
        return self.column(name) > 0

    def metal(self, shape: torch.Size) -> torch.Tensor:
        """(B, rows, columns) line integrals through the instruments: chords of round bars."""
        total = torch.zeros(len(self._degradations), *shape, device=self._device)
        tools = [(n, tool) for n, d in enumerate(self._degradations) for tool in d.instruments]
        if not tools:
            return total
        image = torch.as_tensor([n for n, _ in tools], device=self._device)
        return total.index_add_(0, image, self._drawn([tool for _, tool in tools], shape))

    def _drawn(self, tools: Sequence[Instrument], shape: torch.Size) -> torch.Tensor:
        """(tools, rows, columns) line integrals."""
        u, v, _ = self._coordinates(shape)
        a, b, start, owner = [], [], [], []
        for number, tool in enumerate(tools):
            points = np.asarray(tool.points, dtype=np.float64)
            lengths = np.linalg.norm(np.diff(points, axis=0), axis=1)
            a += list(points[:-1])
            b += list(points[1:])
            start += list(np.concatenate([[0.0], np.cumsum(lengths)[:-1]]))
            owner += [number] * len(lengths)
        a, b = self.tensor(a)[:, :, None, None], self.tensor(b)[:, :, None, None]
        length = torch.linalg.vector_norm(b - a, dim=1)
        direction = (b - a) / length[:, None]
        du, dv = u - a[:, 0], v - a[:, 1]
        share = (du * direction[:, 0] + dv * direction[:, 1]).clamp(min=0).minimum(length)
        squared = (du - share * direction[:, 0]) ** 2 + (dv - share * direction[:, 1]) ** 2
        along = self.tensor(start)[:, None, None] + share
        owner = torch.as_tensor(owner, device=self._device)[:, None, None].expand_as(squared)
        nearest = torch.full((len(tools), *shape), torch.inf, device=self._device)
        nearest = nearest.scatter_reduce(0, owner, squared, "amin")
        where = torch.where(squared == nearest.gather(0, owner), along, torch.inf)
        along = torch.full_like(nearest, torch.inf).scatter_reduce(0, owner, where, "amin")

        def each(values) -> torch.Tensor:
            return self.tensor(values)[:, None, None]

        radius, peak = each([tool.radius for tool in tools]), each([tool.peak for tool in tools])
        pitch = each([tool.thread[0] if tool.thread else 1.0 for tool in tools])
        depth = each([tool.thread[1] if tool.thread else 0.0 for tool in tools])
        rim = radius - depth * (2 * ((along / pitch) % 1) - 1).abs()
        return peak / radius * (rim**2 - nearest).clamp(min=0).sqrt()

    def opening(self, shape: torch.Size) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, rows, columns): 1 in the beam, 0 outside, a pixel wide between; and where it is open."""
        u, v, unit = self._coordinates(shape)
        rows = []
        for d in self._degradations:
            c = d.collimation
            centre = (0.0, 0.0) if c is None else c.centre
            shutters = (np.inf, np.inf) if c is None or c.shutters is None else c.shutters
            radius = np.inf if c is None or c.radius is None else c.radius
            rows.append((*centre, radius, *shutters, 0.0 if c is None else c.angle))
        u0, v0, radius, wide, tall, angle = self.tensor(rows).T[:, :, None, None]
        u, v = u - u0, v - v0
        c, s = torch.cos(angle), torch.sin(angle)
        margin = torch.minimum(radius - torch.hypot(u, v), wide - (c * u + s * v).abs())
        margin = torch.minimum(margin, tall - (c * v - s * u).abs())
        opening = (0.5 + unit * margin).clamp(0, 1)
        return opening, opening == 1

    def stored(self, image: torch.Tensor, valid: torch.Tensor) -> StoredXRays:
        """Window, polarity, curve and quantisation; images that have none of them stay as they are."""
        beam = torch.where(valid.any(dim=2, keepdim=True).any(dim=1, keepdim=True), valid, True)
        window = self.tensor([d.window for d in self._degradations])
        low, high = _quantile(image, beam, window)[:, :, None, None].unbind(dim=1)
        scaled = (image - low) / (high - low).clamp(min=1e-6)
        first, last = window[:, :, None, None].unbind(dim=1)
        saturated = ((scaled < 0) & (first > 0)) | ((scaled > 1) & (last < 1))
        scaled = scaled.clamp(0, 1)
        scaled = torch.where(self.flag("invert"), 1 - scaled, scaled)
        scaled = self._curved(scaled)
        depth = self.column("bit_depth", none=0.0)
        scaled = torch.where(depth > 0, (scaled * (2**depth - 1)).round(), scaled)
        windowed = self.flag("is_windowed")
        return StoredXRays(torch.where(windowed, scaled, image), valid & ~(saturated & windowed))

    def _curved(self, scaled: torch.Tensor) -> torch.Tensor:
        curves = [d.curve for d in self._degradations]
        count = max([2, *(len(curve.values) for curve in curves if curve is not None)])
        at = np.linspace(0, 1, count)
        table = self.tensor([at if curve is None else curve(at) for curve in curves])
        position = scaled.flatten(1) * (count - 1)
        below = position.long().clamp(max=count - 2)
        value = table.gather(1, below)
        value = value + (position - below) * (table.gather(1, below + 1) - value)
        return value.view_as(scaled)

    def _coordinates(self, shape: torch.Size):
        """u (1, columns), v (rows, 1) about the centre, and their unit, half the shorter side, in pixels."""
        unit = min(shape) / 2
        v, u = ((torch.arange(n, device=self._device) - (n - 1) / 2) / unit for n in shape)
        return u[None, :], v[:, None], unit


def _quantile(images: torch.Tensor, where: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """(B, n) quantiles q (B, n) of the pixels that count, linear between them."""
    ordered = torch.where(where, images, torch.inf).flatten(1).sort(dim=1).values
    count = where.flatten(1).sum(dim=1, keepdim=True)
    position = q * (count - 1)
    below = position.long()
    low = ordered.gather(1, below)
    return low + (position - below) * (ordered.gather(1, (below + 1).minimum(count - 1)) - low)


def _blurred(images: torch.Tensor, sigma_px: torch.Tensor) -> torch.Tensor:
    """Gaussian blur of each image by its own width (B, 1, 1), the kernel cut and renormalised at borders."""
    kernels = []
    for n in images.shape[1:]:
        offsets = torch.arange(n, device=images.device, dtype=torch.float32)
        kernel = torch.exp(-0.5 * ((offsets[:, None] - offsets) / sigma_px) ** 2)
        kernels.append(kernel / kernel.sum(dim=2, keepdim=True))
    return kernels[0] @ images @ kernels[1].mT
