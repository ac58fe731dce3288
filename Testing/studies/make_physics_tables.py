"""The tables of the physics-based projector, from the packages that hold the published values.

    pip install spekpy xraylib
    python Testing/studies/make_physics_tables.py

Writes ``tungsten_spectra.csv`` (SpekPy; Poludniowski, Omar, Bujila, Andreo, *SpekPy v2.0: a software toolkit
for modeling x-ray tube spectra*, Med. Phys. 48, 2021) and ``attenuation.csv`` (xraylib; Schoonjans et al.,
*The xraylib library for X-ray-matter interactions*, Spectrochim. Acta B 66, 2011; compositions and densities
of NIST's list of compounds) into the package. The program reads these two files and needs neither package:
SpekPy alone is 160 MB. ``Testing/unit/test_physics_beam.py`` holds the second file to xraylib.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SOPIRegistrationLib.projector.physics as physics

FOLDER = Path(physics.__file__).parent
# Middles of 1 keV bins. Below 10 keV nothing leaves a tube's housing.
ENERGIES_KEV = np.arange(10, 120) + 0.5
VOLTAGES_KV = range(60, 121, 5)
ANODE_ANGLE_DEG = 12.0
# Cast cobalt-chromium of implants (ASTM F75), middle of its ranges: density, g/cm^3, and shares of the mass.
COCR = (8.3, {"Co": 0.655, "Cr": 0.285, "Mo": 0.06})
# Name in the program: name in xraylib (a NIST compound, or an element), or an alloy.
MATERIALS = {
    "water": "Water, Liquid",
    "soft tissue": "Tissue, Soft (ICRP)",
    "cortical bone": "Bone, Cortical (ICRP)",
    "CsI": "Cesium Iodide",
    "Al": "Al",
    "Ti": "Ti",
    "Fe": "Fe",
    "Co": "Co",
    "Cu": "Cu",
    "CoCr": COCR,
    "PMMA": "Polymethyl Methacralate (Lucite, Perspex)",
}


def tungsten_spectra() -> np.ndarray:
    """(energies, voltages) photons per keV, cm^2 and mAs at 1 m, as they leave the anode."""
    import spekpy

    spectra = np.zeros((len(ENERGIES_KEV), len(VOLTAGES_KV)))
    for column, kv in enumerate(VOLTAGES_KV):
        energies, photons = spekpy.Spek(kvp=kv, th=ANODE_ANGLE_DEG, dk=1.0, physics="kqp").get_spectrum()
        rows = np.isin(ENERGIES_KEV, energies)
        spectra[rows, column] = photons[np.isin(energies, ENERGIES_KEV)]
    return spectra


def linear_attenuation(name: str | tuple[float, dict[str, float]]) -> tuple[float, np.ndarray]:
    """Density, g/cm^3, and total attenuation at the energies, 1/mm, of a material of xraylib or an alloy."""
    import xraylib

    if isinstance(name, tuple):
        density, shares = name
        parts = [(linear_attenuation(element), share) for element, share in shares.items()]
        return density, density * sum(share * values / alone for (alone, values), share in parts)
    if name in xraylib.GetCompoundDataNISTList():
        density = xraylib.GetCompoundDataNISTByName(name)["density"]
    else:
        density = xraylib.ElementDensity(xraylib.SymbolToAtomicNumber(name))
    per_cm = density * np.array([xraylib.CS_Total_CP(name, energy) for energy in ENERGIES_KEV])
    return density, per_cm / 10


def write_table(name: str, comments: list[str], header: list[str], rows: np.ndarray) -> None:
    """Comments, header and rows, four significant digits."""
    lines = [f"# {comment}" for comment in comments]
    lines += [",".join(header)]
    lines += [",".join([f"{row[0]:g}", *(f"{value:.4g}" for value in row[1:])]) for row in rows]
    (FOLDER / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Write both tables."""
    made = "Written by Testing/studies/make_physics_tables.py, which says from what."
    write_table(
        "tungsten_spectra.csv",
        [
            made,
            f"Photons per keV, cm2 and mAs at 1 m, tungsten anode of {ANODE_ANGLE_DEG:g} degrees, no filter.",
            "Energy in keV (middle of its bin), then a column for each tube voltage in kV.",
        ],
        ["energy_keV", *map(str, VOLTAGES_KV)],
        np.column_stack([ENERGIES_KEV, tungsten_spectra()]),
    )
    values = [linear_attenuation(name) for name in MATERIALS.values()]
    densities = ", ".join(f"{name} {values[n][0]:g}" for n, name in enumerate(MATERIALS))
    write_table(
        "attenuation.csv",
        [
            made,
            "Total linear attenuation, 1/mm, by energy in keV, at the densities below.",
            f"Densities, g/cm3: {densities}",
        ],
        ["energy_keV", *MATERIALS],
        np.column_stack([ENERGIES_KEV, *(attenuation for _, attenuation in values)]),
    )


if __name__ == "__main__":
    main()
