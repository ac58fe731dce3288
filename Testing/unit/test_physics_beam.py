"""The beam of the physics-based projector: tables, tube, filters, detector."""

from __future__ import annotations

import numpy as np
import pytest
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.projector.physics.beam import Beam, Spectrum, energy_of_water, linear_attenuation

VOLTAGES_KV = (60, 80, 100, 120)


@pytest.mark.parametrize(
    ("material", "name"),
    [
        ("water", "Water, Liquid"),
        ("soft tissue", "Tissue, Soft (ICRP)"),
        ("cortical bone", "Bone, Cortical (ICRP)"),
        ("CsI", "Cesium Iodide"),
    ],
)
def test_attenuation_of_compounds_is_that_of_xraylib(material, name):
    xraylib = pytest.importorskip("xraylib")
    energies = np.array([20.5, 48.5, 64.5, 119.5])
    density = xraylib.GetCompoundDataNISTByName(name)["density"]
    expected = [density * xraylib.CS_Total_CP(name, energy) / 10 for energy in energies]
    np.testing.assert_allclose(linear_attenuation(material, energies), expected, rtol=1e-3)


@pytest.mark.parametrize("element", ["Al", "Ti", "Fe", "Co", "Cu"])
def test_attenuation_of_elements_is_that_of_xraylib(element):
    """Also between the energies of the table."""
    xraylib = pytest.importorskip("xraylib")
    number = xraylib.SymbolToAtomicNumber(element)
    energies = np.array([21.0, 55.2, 100.0])
    expected = [xraylib.ElementDensity(number) * xraylib.CS_Total(number, energy) / 10 for energy in energies]
    np.testing.assert_allclose(linear_attenuation(element, energies), expected, rtol=2e-3)


def test_energy_of_water_inverts_its_attenuation():
    energy = energy_of_water(0.02)
    assert 60 < energy < 70
    assert linear_attenuation("water", energy) == pytest.approx(0.02, rel=1e-6)


@pytest.mark.parametrize("kv", VOLTAGES_KV)
def test_spectrum_ends_at_the_tube_voltage(kv):
    spectrum = Beam(kv).spectrum
    assert spectrum.weights.sum() == pytest.approx(1)
    assert (spectrum.weights > 0).all()
    assert kv - 3 < spectrum.energies_kev[-1] < kv


def test_spectrum_hardens_with_voltage_and_filtration():
    means = [Beam(kv).spectrum.mean_kev for kv in VOLTAGES_KV]
    assert (np.diff(means) > 3).all()
    means = [Beam(80, (("Cu", mm),)).spectrum.mean_kev for mm in (0.0, 0.1, 0.3, 0.9)]
    assert (np.diff(means) > 1).all()


def test_voltages_between_those_of_the_table():
    below, between, above = (Beam(kv).spectrum for kv in (80, 82.5, 85))
    assert below.mean_kev < between.mean_kev < above.mean_kev
    assert between.energies_kev[-1] < 82.5


def test_tungsten_has_its_characteristic_lines():
    """K alpha, 58 to 59.3 keV: only above the K edge of 69.5 keV."""
    for kv, has_lines in ((65, False), (100, True)):
        spectrum = Beam(kv).spectrum
        line, beside = (spectrum.weights[spectrum.energies_kev == energy][0] for energy in (59.5, 61.5))
        assert (line > 1.5 * beside) == has_lines


def test_thicker_scintillators_see_more_of_the_high_energies():
    thin, thick = Beam(120, scintillator_mm=0.1).spectrum, Beam(120, scintillator_mm=2.0).spectrum
    assert thick.mean_kev > thin.mean_kev + 3


def test_monochromatic_beam():
    spectrum = Spectrum.monochromatic(64.0)
    assert spectrum.mean_kev == 64.0
    assert spectrum.weights.tolist() == [1.0]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"tube_voltage_kv": 45.0}, "the tube voltage must be 60 to 120 kV, not 45"),
        ({"tube_voltage_kv": float("nan")}, "the tube voltage must be"),
        ({"filtration_mm": (("Pb", 1.0),)}, "no attenuation is known of 'Pb': use one of water"),
        ({"filtration_mm": (("Al", -1.0),)}, "the filter of Al must be 0 mm thick or more"),
        ({"scintillator_mm": 0.0}, "the scintillator must be thicker than 0 mm"),
    ],
)
def test_unusable_beams(options, complaint):
    with pytest.raises(InputError, match=complaint):
        Beam(**options)
