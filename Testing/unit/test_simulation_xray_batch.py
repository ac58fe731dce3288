"""Many X-rays degraded at once in torch are those that the simulator makes one by one."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from SOPIRegistrationLib.images.radiograph_preparation import attenuation_of_pixels
from SOPIRegistrationLib.projector import ProjectorVolume, project
from SOPIRegistrationLib.projector.fused_cuda import availability
from SOPIRegistrationLib.simulation.xray import (
    Collimation,
    Instrument,
    IntensityCurve,
    XRayDegradation,
    random_degradation,
    simulate_xray,
)
from SOPIRegistrationLib.simulation.xray_batch import StoredXRays, attenuation_of_stored, simulate_xrays
from support.objects import noise_volume
from support.projections import oblique_poses, off_centre_camera
from support.triton_interpreter import interpreted

SHAPE = (40, 56)


class Quanta(np.random.Generator):
    """Counts of quanta from noise that was drawn before."""

    def __init__(self, noise: np.ndarray):
        super().__init__(np.random.PCG64(0))
        self.noise = noise

    def poisson(self, lam=1.0, size=None):
        return np.maximum(lam + np.sqrt(lam) * self.noise, 0)


def counts(noise: np.ndarray):
    """The same in torch."""
    noise = torch.from_numpy(noise)
    return lambda expected: (expected + expected.sqrt() * noise).clamp(min=0)


def objects(count: int, rng) -> np.ndarray:
    """Line integrals of a blurred something, thick in places, with open air beside it."""
    v, u = np.mgrid[: SHAPE[0], : SHAPE[1]] / 40
    images = []
    for _ in range(count):
        a, b, c = rng.uniform(0.3, 1.2, 3)
        image = rng.uniform(1, 7) * np.exp(-(((u - a) / b) ** 2) - ((v - c) / 0.6) ** 2)
        images.append(np.where(image > 0.2, image + 0.3 * np.sin(9 * u) ** 2, 0))
    return np.array(images, np.float32)


def one_by_one(line_integrals, degradations, noise):
    """Stored X-rays, as floats, and what preparation makes of them; image by image."""
    made = [
        simulate_xray(image, d, Quanta(n))
        for image, d, n in zip(line_integrals, degradations, noise, strict=True)
    ]
    attenuation = [
        attenuation_of_pixels(
            x.image.astype(np.float32), x.valid, d.bone_dark, False, x.image.dtype.kind in "ui"
        )
        for x, d in zip(made, degradations, strict=True)
    ]
    stored = np.array([x.image.astype(np.float32) for x in made])
    return stored, np.array([x.valid for x in made]), np.array(attenuation, np.float32)


def check(line_integrals, degradations, noise, batch: StoredXRays, attenuation):
    """Both ways agree to 1e-3, but for pixels that rounding puts a grey level or an edge apart."""
    expected, valid, expected_attenuation = one_by_one(line_integrals, degradations, noise)
    assert (batch.valid.numpy() != valid).mean() < 1e-3
    for n, d in enumerate(degradations):
        level = 2**d.bit_depth - 1 if d.bit_depth else max(1.0, np.ptp(expected[n]))
        off = np.abs(batch.image[n].numpy() - expected[n]) / level
        assert (off > 1e-3).mean() < 5e-3
        assert off.max() < 1e-3 + (1.01 / level if d.bit_depth else 0)
        size = np.ptp(expected_attenuation[n])
        off = np.abs(attenuation[n].numpy() - expected_attenuation[n]) / size
        assert (off > 1e-3).mean() < 1e-2


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
def test_all_degradations_at_once_are_those_one_by_one(strength, rng):
    degradations = [random_degradation(rng, strength) for _ in range(40)]
    line_integrals = objects(40, rng)
    noise = rng.normal(size=line_integrals.shape).astype(np.float32)
    batch = simulate_xrays(torch.from_numpy(line_integrals), degradations, counts(noise))
    attenuation = attenuation_of_stored(batch, degradations)
    check(line_integrals, degradations, noise, batch, attenuation)


PLAIN = XRayDegradation()


@pytest.mark.parametrize(
    "degradation",
    [
        PLAIN,
        replace(PLAIN, logarithm=False),
        replace(PLAIN, attenuation_scale=0.7, photons=300.0),
        replace(PLAIN, scatter_to_primary=1.2, scatter_width=0.1),
        replace(PLAIN, blur_px=1.3),
        replace(PLAIN, collimation=Collimation(0.8, (0.1, -0.05), (0.7, 0.9), 0.2)),
        replace(PLAIN, collimation=Collimation(None, (0.0, 0.0), (0.3, 0.2), 0.0), window=(0.01, 0.98)),
        replace(PLAIN, window=(0.02, 0.97), invert=True, curve=IntensityCurve.gamma(0.4), bit_depth=8),
        replace(PLAIN, curve=IntensityCurve(np.array([0.0, 0.2, 1.0])), bit_depth=16),
        replace(
            PLAIN,
            instruments=(
                Instrument(np.array([[-0.8, -0.3], [0.1, 0.2], [0.7, 0.6]]), 0.03, 1.5),
                Instrument(np.array([[-0.2, 0.5], [0.4, -0.5]]), 0.08, 2.0, (0.05, 0.02)),
            ),
        ),
    ],
    ids=lambda d: "",
)
def test_each_degradation_is_the_same_beside_others(degradation, rng):
    degradations = [PLAIN, degradation, replace(PLAIN, bit_depth=12)]
    line_integrals = objects(3, rng)
    noise = rng.normal(size=line_integrals.shape).astype(np.float32)
    batch = simulate_xrays(torch.from_numpy(line_integrals), degradations, counts(noise))
    check(line_integrals, degradations, noise, batch, attenuation_of_stored(batch, degradations))
    if degradation is not PLAIN:
        assert (batch.image[1] - torch.from_numpy(line_integrals[1])).abs().max() > 1e-2


def test_quanta_are_poisson(rng):
    d = replace(PLAIN, photons=50.0, logarithm=False)
    batch = simulate_xrays(torch.zeros(2, 80, 80), [d, replace(d, photons=2e4)])
    mean, deviation = batch.image.mean(dim=(1, 2)), batch.image.std(dim=(1, 2))
    torch.testing.assert_close(mean, torch.ones(2), atol=0.02, rtol=0)
    torch.testing.assert_close(deviation, torch.tensor([50.0, 2e4]).rsqrt(), rtol=0.1, atol=0)


def test_as_many_degradations_as_images():
    with pytest.raises(ValueError, match="1 degradations of 2 images"):
        simulate_xrays(torch.zeros(2, 8, 8), [PLAIN])


# Rendered and degraded by what runs on a GPU; the interpreter is chosen when the kernel is first compiled.
INTERPRETED = """
import sys
import numpy as np
import torch
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.images.volume import Volume
from SOPIRegistrationLib.projector import ProjectorVolume
from SOPIRegistrationLib.projector.fused_cuda import march
from SOPIRegistrationLib.simulation.xray import random_degradation
from SOPIRegistrationLib.simulation.xray_batch import attenuation_of_stored, simulate_xrays

case = np.load(sys.argv[1])
volume = ProjectorVolume(Volume(case["voxels"], case["index_to_lps"]))
camera_to_padded = torch.from_numpy(volume.lps_to_padded @ se3.invert_rigid(case["T"]))
shape, step_mm = tuple(case["shape"].tolist()), float(case["step_mm"])
line_integrals, _ = march(volume, camera_to_padded, case["K_inverse"], shape, step_mm, with_jacobian=False)
rng, noise = np.random.default_rng(7), torch.from_numpy(case["noise"])
degradations = [random_degradation(rng) for _ in line_integrals]
quanta = lambda expected: (expected + expected.sqrt() * noise).clamp(min=0)
xrays = simulate_xrays(line_integrals, degradations, quanta)
attenuation = attenuation_of_stored(xrays, degradations)
np.savez(sys.argv[2], image=xrays.image, valid=xrays.valid, attenuation=attenuation)
"""


@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed (pip install triton)")
def test_rendered_and_degraded_by_the_kernel_they_are_as_on_the_cpu(tmp_path):
    volume = ProjectorVolume(noise_volume((18, 15, 12)))
    camera, T = off_centre_camera(36, 28), oblique_poses(volume.volume, 3)
    noise = np.random.default_rng(0).normal(size=(3, *camera.shape)).astype(np.float32)
    arrays = interpreted(INTERPRETED, tmp_path, volume, camera, T, noise=noise)
    result = {name: torch.from_numpy(array) for name, array in arrays.items()}
    rng = np.random.default_rng(7)
    degradations = [random_degradation(rng) for _ in T]
    line_integrals = project(volume, camera, T, backend="fused_cpu")
    check(
        line_integrals,
        degradations,
        noise,
        StoredXRays(result["image"], result["valid"]),
        result["attenuation"],
    )


@pytest.mark.skipif(not availability()[0], reason=availability()[1])
def test_on_the_device_they_are_as_on_the_cpu(rng):
    degradations = [random_degradation(rng) for _ in range(40)]
    line_integrals = objects(40, rng)
    noise = rng.normal(size=line_integrals.shape).astype(np.float32)
    on_device = torch.from_numpy(noise).cuda()
    batch = simulate_xrays(
        torch.from_numpy(line_integrals).cuda(),
        degradations,
        lambda expected: (expected + expected.sqrt() * on_device).clamp(min=0),
    )
    attenuation = attenuation_of_stored(batch, degradations).cpu()
    check(line_integrals, degradations, noise, StoredXRays(*(x.cpu() for x in batch)), attenuation)
