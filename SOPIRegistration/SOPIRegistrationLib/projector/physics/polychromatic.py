"""Polychromatic projection: what a detector sees of a beam of many energies behind several materials.

The line integrals L_m of the materials' attenuation, at the energy E0 at which the CT is calibrated, carry
all geometry. With a_m(E) the attenuation of material m relative to E0 and w(E) the share of each
energy in the detected signal::

    I / I0 = sum_E w(E) exp(-sum_m a_m(E) L_m)
    p = -log(I / I0),   dp/dL_m = sum_E w a_m exp(..) / sum_E w exp(..)

so p has the pose Jacobian sum_m dp/dL_m dL_m: the chain rule over the fused projector's line integrals and
Jacobians. The model is that of DeepDRR (Unberath et al., MICCAI 2018), differentiable as in Zhang et al., *A
patient-specific self-supervised model for automatic X-ray/CT registration*, MICCAI 2023.

The first integral is that of the whole, not of soft tissue alone (see ``images.materials.Materials``): then
the others are sparse volumes, quick to project, and the whole is the volume that monochromatic DRRs use.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from array_api_compat import array_namespace

from SOPIRegistrationLib.images.attenuation import METAL_CLAMP_HU, MU_WATER, attenuation_of_hu
from SOPIRegistrationLib.images.materials import Materials, decompose
from SOPIRegistrationLib.images.volume import Volume
from SOPIRegistrationLib.projector.physics.beam import Beam, Spectrum, energy_of_water, linear_attenuation
from SOPIRegistrationLib.projector.physics.seen import SeenVolume
from SOPIRegistrationLib.projector.volume import ProjectorVolume

# Bins of energy that are summed. Attenuation hardly bends within one: p is right to 0.1 %.
_BINS = 20
# Pixels at once: what is summed over energies then stays in the cache.
_CHUNK = 8192
METALS = ("Ti", "Fe", "Co", "Cu")


class BeamResponse:
    """p of the line integrals, and its derivatives by them.

    Args:
        spectrum: what the detector sees of the open beam.
        metal: element that the third line integral is through; None for two integrals.
    """

    def __init__(self, spectrum: Spectrum, metal: str | None = None):
        energies, weights = spectrum.energies_kev, spectrum.weights
        soft = _relative_attenuation("soft tissue", energies)
        coefficients = [soft, _relative_attenuation("cortical bone", energies) - soft]
        if metal is not None:
            # The CT's metal is clamped: its integral over the clamp is a path length.
            clamp = float(attenuation_of_hu(METAL_CLAMP_HU))
            coefficients.append(linear_attenuation(metal, energies) / clamp - soft)
        # Bins: their energies' shares added, their attenuation averaged.
        share = (energies - energies[0]) / (energies[-1] - energies[0] + 1)
        bins = np.unique(np.floor(_BINS * share), return_inverse=True)[1]
        self._weights = np.bincount(bins, weights)
        self._coefficients = np.array([np.bincount(bins, weights * a) for a in coefficients]) / self._weights
        self.spectrum = spectrum

    def __call__(self, integrals: Sequence):
        """Log attenuation p of the beam and its derivatives.

        Args:
            integrals: line integrals (numpy arrays or torch tensors of one shape) of the whole, of bone
                and, with a metal, of it.

        Returns:
            p, of their shape, and a list of its derivatives by each of them.
        """
        xp = array_namespace(*integrals)
        shape = integrals[0].shape
        flat = xp.stack([xp.reshape(integral, (-1,)) for integral in integrals], axis=-1)
        options = {"dtype": flat.dtype, "device": flat.device}
        coefficients = xp.asarray(self._coefficients, **options)
        moments = np.vstack([np.ones_like(self._weights), self._coefficients]) * self._weights
        moments = xp.asarray(moments.T, **options)
        values = xp.empty((flat.shape[0], len(integrals) + 1), **options)
        for start in range(0, flat.shape[0], _CHUNK):
            chunk = flat[start : start + _CHUNK]
            exponents = chunk @ coefficients
            # The highest energies come through best: relative to them nothing underflows to log 0.
            least = exponents[:, -1:]
            sums = xp.exp(least - exponents) @ moments
            p = least - xp.log(sums[:, :1])
            # Exactly zero beside the object, as the line integral is.
            values[start : start + _CHUNK, :1] = xp.where(chunk[:, :1] == 0, xp.zeros_like(p), p)
            values[start : start + _CHUNK, 1:] = sums[:, 1:] / sums[:, :1]
        image, *derivatives = (xp.reshape(values[:, column], shape) for column in range(values.shape[1]))
        return image, derivatives

    def projection(self, integrals: Sequence, jacobians: Sequence, with_jacobian: bool):
        """p and, where asked for, its Jacobian by the chain rule.

        Args:
            integrals: numpy line integrals, as for calling.
            jacobians: their Jacobians (..., rows, columns, 6), or None.
            with_jacobian: whether the Jacobian is wanted.
        """
        image, derivatives = self(integrals)
        if not with_jacobian:
            return image, None
        whole, *others = jacobians
        # In place: the integrals' Jacobians are of no use to anyone else.
        whole *= derivatives[0][..., None]
        for jacobian, derivative in zip(others, derivatives[1:], strict=True):
            jacobian *= derivative[..., None]
            whole += jacobian
        return image, whole

    def differentiable(self, integrals: Sequence):
        """p of torch tensors, differentiable by them.

        The gradient may itself be differentiated by what came into backward; the second derivative of p is
        left out, as that of the fused projections is.
        """
        image, derivatives = self([integral.detach() for integral in integrals])
        for integral, derivative in zip(integrals, derivatives, strict=True):
            # Zero, with the derivative as its gradient.
            image = image + derivative * (integral - integral.detach())
        return image


class PolychromaticVolume(SeenVolume):
    """A CT for the physics-based projector; its image is p = -log(I / I0) of the beam.

    Attributes:
        response: of the beam and the detector.
    """

    response: BeamResponse

    @classmethod
    def from_attenuation(
        cls, attenuation: Volume, beam: Beam | Spectrum | None = None, metal: str | None = None
    ) -> PolychromaticVolume:
        """The materials of a CT's attenuation, 1/mm, in a beam; implants of one of ``METALS``, else they
        count as bone."""
        volumes = material_volumes(decompose(attenuation, metal is not None))
        return cls([ProjectorVolume(volume) for volume in volumes], response_of(beam, metal))


def material_volumes(materials: Materials) -> tuple[Volume, ...]:
    """The volumes to project, in the order in which :class:`BeamResponse` takes their integrals."""
    volumes = (materials.whole, materials.bone)
    return volumes if materials.metal is None else (*volumes, materials.metal)


def response_of(beam: Beam | Spectrum | None = None, metal: str | None = None) -> BeamResponse:
    """The response of a beam; of the default one if None."""
    beam = Beam() if beam is None else beam
    return BeamResponse(beam.spectrum if isinstance(beam, Beam) else beam, metal)


def _relative_attenuation(material: str, energies_kev: np.ndarray) -> np.ndarray:
    """Attenuation relative to that at the energy of the CT's scale, where water has ``MU_WATER``."""
    calibrated = linear_attenuation(material, energy_of_water(MU_WATER))
    return linear_attenuation(material, energies_kev) / calibrated
