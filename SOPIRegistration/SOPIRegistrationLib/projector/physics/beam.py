"""X-ray tube, filters and detector: what of a beam is seen, by energy.

The numbers come from two tables beside this file: spectra of a tungsten anode (SpekPy) and attenuation of
materials (xraylib, compositions of NIST); ``Testing/studies/make_physics_tables.py`` writes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from SOPIRegistrationLib.errors import InputError

TUBE_VOLTAGES_KV = (60.0, 120.0)
# Signal of the detector that may be left out at each end of the spectrum.
_NEGLIGIBLE = 1e-4


@dataclass(frozen=True)
class Spectrum:
    """What a detector sees of the open beam.

    Attributes:
        energies_kev: (n,) rising.
        weights: (n,) share of each energy in the detector's signal; they add up to one.
    """

    energies_kev: np.ndarray
    weights: np.ndarray

    @classmethod
    def monochromatic(cls, energy_kev: float) -> Spectrum:
        """All of one energy."""
        return cls(np.array([float(energy_kev)]), np.ones(1))

    @property
    def mean_kev(self) -> float:
        """Mean energy of the signal."""
        return float(self.weights @ self.energies_kev)


@dataclass(frozen=True)
class Beam:
    """A tungsten tube with its filters, and an energy-integrating detector.

    Attributes:
        tube_voltage_kv: 60 to 120 kV.
        filtration_mm: (material, thickness in mm) of the filters; the default is a C-arm's.
        scintillator_mm: thickness of the detector's caesium iodide, mm.
    """

    tube_voltage_kv: float = 80.0
    filtration_mm: tuple[tuple[str, float], ...] = (("Al", 3.0), ("Cu", 0.1))
    scintillator_mm: float = 0.5

    def __post_init__(self):
        low, high = TUBE_VOLTAGES_KV
        if not low <= self.tube_voltage_kv <= high:
            raise InputError(f"the tube voltage must be {low:g} to {high:g} kV, not {self.tube_voltage_kv:g}")
        for material, thickness in self.filtration_mm:
            _require_known(material)
            if not thickness >= 0:
                raise InputError(f"the filter of {material} must be 0 mm thick or more, not {thickness:g}")
        if not self.scintillator_mm > 0:
            raise InputError(f"the scintillator must be thicker than 0 mm, not {self.scintillator_mm:g}")

    @property
    def spectrum(self) -> Spectrum:
        """The detected spectrum: photons, times what the filters pass, times the energy they leave.

        The scintillator takes the share 1 - exp(-mu d) of the photons, and the signal is the energy taken.
        """
        energies, voltages, photons = _tungsten_spectra()
        anode = np.array([np.interp(self.tube_voltage_kv, voltages, row) for row in photons])
        anode[energies >= self.tube_voltage_kv] = 0
        passed = sum(mm * linear_attenuation(name, energies) for name, mm in self.filtration_mm)
        taken = -np.expm1(-self.scintillator_mm * linear_attenuation("CsI", energies))
        signal = anode * np.exp(-passed) * taken * energies
        signal /= signal.sum()
        below = np.cumsum(signal)
        kept = (below > _NEGLIGIBLE) & (below - signal < 1 - _NEGLIGIBLE)
        return Spectrum(energies[kept], signal[kept] / signal[kept].sum())


def linear_attenuation(material: str, energies_kev) -> np.ndarray:
    """Attenuation, 1/mm, of "water", "soft tissue", "cortical bone", "CsI" or an element of attenuation.csv,
    at 10.5 to 119.5 keV; InputError for others."""
    _require_known(material)
    energies, table = _attenuation_table()
    logarithm = np.interp(np.log(energies_kev), np.log(energies), np.log(table[material]))
    return np.exp(logarithm)


def energy_of_water(attenuation_per_mm: float) -> float:
    """Energy, keV, at which water has a given linear attenuation, 1/mm."""
    energies, table = _attenuation_table()
    return float(np.exp(np.interp(-np.log(attenuation_per_mm), -np.log(table["water"]), np.log(energies))))


def _require_known(material: str) -> None:
    _, table = _attenuation_table()
    if material not in table:
        raise InputError(f"no attenuation is known of '{material}': use one of {', '.join(table)}")


@cache
def _tungsten_spectra() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Energies (n,), voltages (m,) and photons (n, m)."""
    names, values = _read_table("tungsten_spectra.csv")
    return values[:, 0], np.array(names[1:], dtype=float), values[:, 1:]


@cache
def _attenuation_table() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Energies (n,) and linear attenuation (n,) by material."""
    names, values = _read_table("attenuation.csv")
    return values[:, 0], dict(zip(names[1:], values[:, 1:].T, strict=True))


def _read_table(name: str) -> tuple[list[str], np.ndarray]:
    """Names of the columns, and their values (rows, columns)."""
    lines = (Path(__file__).parent / name).read_text(encoding="utf-8").splitlines()
    lines = [line for line in lines if not line.startswith("#")]
    return lines[0].split(","), np.array([line.split(",") for line in lines[1:]], dtype=float)
