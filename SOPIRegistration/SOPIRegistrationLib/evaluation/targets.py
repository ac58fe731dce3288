"""X-rays with a known pose, from renderers of rising independence from the one that registers them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.evaluation.peers import Rtk, installed_version
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.images.attenuation import attenuation_of_hu
from SOPIRegistrationLib.images.materials import decompose
from SOPIRegistrationLib.images.prepared_ct import PreparedCT
from SOPIRegistrationLib.images.radiograph import Radiograph
from SOPIRegistrationLib.images.volume import Volume
from SOPIRegistrationLib.projector import ProjectorVolume, project
from SOPIRegistrationLib.projector.physics import Beam, BeamResponse
from SOPIRegistrationLib.projector.physics.polychromatic import material_volumes
from SOPIRegistrationLib.simulation.xray import (
    IntensityCurve,
    XRayDegradation,
    random_degradation,
    simulate_radiograph,
)

PHOTONS, MANY_PHOTONS = 1e6, 1e7
TARGET_BEAM = Beam(80)
_SCATTERED = XRayDegradation(scatter_to_primary=0.5, photons=PHOTONS)

# Makes the X-ray of a pose (4, 4) T_lps_to_camera; the generator is of its noise and whatever else is drawn.
Simulator = Callable[[np.ndarray, np.random.Generator], Radiograph]

TARGETS = {
    "ours": "rendered by this project's projector from the very volume that is registered, no noise (as in "
    "the papers)",
    "rtk-clean": f"rendered by RTK on the CT's own grid, {MANY_PHOTONS:.0e} photons a pixel, line integrals",
    "rtk": f"rendered by RTK on the CT's own grid, {PHOTONS:.0e} photons a pixel, a random monotone "
    "intensity curve, 12 bits",
    "rtk-polychromatic": "rendered by RTK on the CT's own grid, each material by itself, for a beam of "
    f"{TARGET_BEAM.tube_voltage_kv:g} kV, scatter half as strong as the primary beam, "
    f"{PHOTONS:.0e} photons a pixel",
    "rtk-degraded": "rendered by RTK on the CT's own grid, then with random exposure, scatter, blur, noise, "
    "collimation, metal, polarity, window and intensity curve",
}


def require_target(name: str, version_of: Callable[[str], str | None] = installed_version) -> None:
    """Raise InputError where there is no target of that name in ``TARGETS``, or RTK is not installed."""
    if name not in TARGETS:
        raise InputError(f"unknown target '{name}': use {', '.join(TARGETS)}")
    if name != "ours" and version_of(Rtk.distribution) is None:
        raise InputError(f"target {name} needs RTK: pip install itk-rtk, or use --target ours")


def simulator(name: str, prepared: PreparedCT, patient: Volume, camera: Camera) -> Simulator:
    """What makes the X-rays of one patient.

    Args:
        name: one of ``TARGETS``.
        prepared: the CT as it is registered.
        patient: HU of what is X-rayed: the CT as stored, or a finer one of the same patient.
        camera: geometry of the X-rays.

    Raises:
        InputError: RTK is not installed.
    """
    require_target(name)
    if name == "ours":
        volume = ProjectorVolume(prepared.attenuation)
        return lambda T, rng: Radiograph(project(volume, camera, T), "target", bone_dark=False)
    attenuation = patient.same_grid(attenuation_of_hu(patient.array.astype(np.float32)))
    if name == "rtk-polychromatic":
        return _polychromatic(attenuation, camera)
    renderer = Rtk(attenuation, camera)
    if name == "rtk-clean":
        return lambda T, rng: Radiograph(
            with_quanta(renderer.image(T), MANY_PHOTONS, rng), "target", bone_dark=False
        )
    if name == "rtk":
        return lambda T, rng: Radiograph(
            displayed(with_quanta(renderer.image(T), PHOTONS, rng), rng), "target", bone_dark=False
        )
    return lambda T, rng: simulate_radiograph(renderer.image(T), random_degradation(rng), rng, "target")


def _polychromatic(attenuation: Volume, camera: Camera) -> Simulator:
    """X-rays of a beam, by RTK's line integrals of every material."""
    renderers = [Rtk(volume, camera) for volume in material_volumes(decompose(attenuation))]
    response = BeamResponse(TARGET_BEAM.spectrum)

    def expose(T: np.ndarray, rng: np.random.Generator) -> Radiograph:
        # RTK may return minus a rounding error beside the object.
        integrals = [np.maximum(renderer.image(T), 0) for renderer in renderers]
        return simulate_radiograph(response(integrals)[0], _SCATTERED, rng, "target")

    return expose


def with_quanta(line_integrals: np.ndarray, photons: float, rng: np.random.Generator) -> np.ndarray:
    """Line integrals as so many photons a pixel show them."""
    counts = np.maximum(rng.poisson(photons * np.exp(-line_integrals.astype(np.float64))), 1)
    return (-np.log(counts / photons)).astype(np.float32)


def displayed(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random monotone curve on the image's own range, stored with 12 bits."""
    low, high = image.min(), image.max()
    curve = IntensityCurve.random(rng, 1.0)
    return np.round(4095 * curve((image - low) / (high - low))).astype(np.uint16)
