"""Statistics and geometry of the X-ray simulator."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from SOPIRegistrationLib.simulation.xray import (
    Collimation,
    Instrument,
    IntensityCurve,
    XRayDegradation,
    random_degradation,
    simulate_radiograph,
    simulate_xray,
)


@pytest.fixture
def line_integrals():
    """Asymmetric, 2 to 5, and brighter towards one corner."""
    v, u = np.mgrid[:90, :120].astype(np.float32)
    return 3 + np.sin(u / 17) + 0.5 * np.cos(v / 11) + u / 240


def test_default_changes_nothing(line_integrals):
    simulated = simulate_xray(line_integrals, XRayDegradation(), 0)
    np.testing.assert_allclose(simulated.image, line_integrals, rtol=1e-5)
    assert simulated.image.dtype == np.float32
    assert simulated.valid.all()
    assert not simulated.metal.any()


def test_beer_lambert(line_integrals):
    degradation = XRayDegradation(attenuation_scale=0.8, logarithm=False)
    image = simulate_xray(line_integrals, degradation, 0).image
    np.testing.assert_allclose(image, np.exp(-0.8 * line_integrals), rtol=1e-5)
    assert degradation.bone_dark
    assert not XRayDegradation().bone_dark


def test_noise_is_poisson():
    for integral, photons in ((2.0, 1e4), (5.0, 1e5)):
        flat = np.full((300, 300), integral, np.float32)
        image = simulate_xray(flat, XRayDegradation(photons=photons, logarithm=False), 7).image.astype(float)
        mean = np.exp(-integral)
        assert image.mean() == pytest.approx(mean, rel=0.005)
        assert image.var() == pytest.approx(mean / photons, rel=0.03)


def test_noise_follows_the_seed(line_integrals):
    degradation = XRayDegradation(photons=1e4)
    first, again, other = (simulate_xray(line_integrals, degradation, seed).image for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).mean() > 0.9
    np.testing.assert_array_equal(
        first, simulate_xray(line_integrals, degradation, np.random.default_rng(1)).image
    )


def test_no_photon_stays_finite():
    image = simulate_xray(np.full((20, 20), 30, np.float32), XRayDegradation(photons=100), 0).image
    assert np.isfinite(image).all()


def test_scatter_adds_its_ratio_and_no_detail(line_integrals):
    primary = np.exp(-line_integrals)
    image = simulate_xray(line_integrals, XRayDegradation(scatter_to_primary=0.6, logarithm=False), 0).image
    scatter = image - primary
    assert scatter.mean() == pytest.approx(0.6 * primary.mean(), rel=0.05)
    assert np.abs(np.diff(scatter, axis=1)).max() < 0.3 * np.abs(np.diff(primary, axis=1)).max()


def test_blur_spreads_a_point_to_its_standard_deviation():
    point = np.full((41, 41), 20, np.float32)
    point[20, 20] = 0
    image = simulate_xray(point, XRayDegradation(blur_px=1.7, logarithm=False), 0).image
    u = np.arange(41) - 20
    assert image.sum() == pytest.approx(1, rel=1e-3)
    assert np.sqrt((image.sum(axis=0) * u**2).sum() / image.sum()) == pytest.approx(1.7, rel=0.01)


def test_collimated_pixels_are_dark_and_not_valid(line_integrals):
    collimation = Collimation(radius=0.8, centre=(0.2, -0.1))
    degradation = XRayDegradation(collimation=collimation, logarithm=False)
    simulated = simulate_xray(line_integrals, degradation, 0)
    v, u = np.mgrid[:90, :120]
    distance = np.hypot(u - 59.5 - 0.2 * 45, v - 44.5 + 0.1 * 45)
    assert simulated.valid[distance < 0.8 * 45 - 1].all()
    assert not simulated.valid[distance > 0.8 * 45 + 1].any()
    assert (simulated.image[distance > 0.8 * 45 + 1] < 0.01 * np.exp(-line_integrals).max()).all()
    np.testing.assert_allclose(
        simulated.image[simulated.valid], np.exp(-line_integrals)[simulated.valid], rtol=1e-5
    )


def test_shutters_turn_from_u_towards_v():
    opening = Collimation(shutters=(0.9, 0.3), angle=np.pi / 4).opening((101, 101))
    assert opening[75, 75] == 1  # along the diagonal u = v
    assert opening[25, 75] == 0
    assert opening.mean() == pytest.approx(4 * 0.9 * 0.3 / 4, rel=0.03)


@pytest.mark.parametrize("seed", range(20))
def test_random_curves_rise_from_0_to_1(seed):
    curve = IntensityCurve.random(np.random.default_rng(seed), 1.0)
    x = np.linspace(0, 1, 1001)
    y = curve(x)
    assert y[0] == 0
    assert y[-1] == pytest.approx(1)
    assert (np.diff(y) > 0).all()


def test_curves_are_what_they_are_called():
    x = np.linspace(0, 1, 101)
    np.testing.assert_allclose(IntensityCurve.gamma(2.0)(x), x**2, atol=1e-5)
    sigmoid = IntensityCurve.sigmoid(8.0)(x)
    assert sigmoid[50] == pytest.approx(0.5)
    assert np.gradient(sigmoid)[50] > 2 * np.gradient(sigmoid)[3]
    np.testing.assert_allclose(IntensityCurve.random(np.random.default_rng(1), 0.0)(x), x, atol=1e-3)
    with pytest.raises(ValueError, match="rising"):
        IntensityCurve(np.array([0, 0.5, 0.4, 1]))


def test_curve_keeps_the_order_of_grey_values(line_integrals):
    degradation = XRayDegradation(curve=IntensityCurve.gamma(0.4))
    image = simulate_xray(line_integrals, degradation, 0).image
    order = np.argsort(line_integrals.ravel())
    assert (np.diff(image.ravel()[order]) >= 0).all()
    inverted = simulate_xray(line_integrals, replace(degradation, invert=True), 0).image
    assert (np.diff(inverted.ravel()[order]) <= 0).all()


@pytest.mark.parametrize(("bits", "dtype"), [(8, np.uint8), (12, np.uint16), (16, np.uint16)])
def test_bit_depth(line_integrals, bits, dtype):
    image = simulate_xray(line_integrals, XRayDegradation(bit_depth=bits), 0).image
    assert image.dtype == dtype
    assert image.min() == 0
    assert image.max() == 2**bits - 1


def test_window_saturates_and_says_so(line_integrals):
    simulated = simulate_xray(line_integrals, XRayDegradation(window=(0.1, 0.95), bit_depth=8), 0)
    assert (~simulated.valid).mean() == pytest.approx(0.15, abs=0.01)
    assert set(np.unique(simulated.image[~simulated.valid])) == {0, 255}


def test_wire_attenuates_along_its_line_only():
    # From left to right, at half the half-height below the middle.
    wire = Instrument(np.array([[-1.0, 0.5], [1.0, 0.5]]), radius=0.06, peak=2.0)
    simulated = simulate_xray(np.full((100, 100), 3, np.float32), XRayDegradation(instruments=(wire,)), 0)
    added = simulated.image - 3
    rows = np.flatnonzero(simulated.metal.any(axis=1))
    assert (rows.min(), rows.max()) == (72, 77)  # v = 0.5 is row 74.5, the radius three pixels
    assert added.max() == pytest.approx(2.0, rel=0.05)
    np.testing.assert_allclose(added[:70], 0, atol=1e-5)
    # The chord of a round bar: 1.5 pixels off its axis.
    assert added[76, 50] == pytest.approx(2 * np.sqrt(1 - 0.25), rel=0.01)


def test_thread_notches_the_screw():
    axis = np.array([[-0.8, 0.0], [0.8, 0.0]])
    smooth, screw = (Instrument(axis, 0.1, 3.0, thread).draw((200, 200)) for thread in (None, (0.1, 0.05)))
    widths = (screw > 0).sum(axis=0)[40:160]
    assert widths.max() - widths.min() >= 6
    assert (screw <= smooth + 1e-4).all()


def test_random_degradations_differ_but_obey_the_seed(line_integrals):
    drawn = [random_degradation(np.random.default_rng(seed)) for seed in range(40)]
    again = random_degradation(np.random.default_rng(3))
    assert drawn[3].photons == again.photons
    assert {d.bone_dark for d in drawn} == {True, False}
    assert {d.bit_depth for d in drawn} == {8, 12, 16}
    assert any(d.instruments for d in drawn)
    assert any(d.collimation and d.collimation.shutters for d in drawn)
    for d in drawn:
        simulated = simulate_xray(line_integrals, d, 0)
        assert simulated.image.shape == line_integrals.shape
        assert simulated.valid.mean() > 0.1
        # Bone bright or dark, as it says.
        clear = simulated.valid & ~simulated.metal
        sign = -1 if d.bone_dark else 1
        assert sign * np.corrcoef(simulated.image[clear], line_integrals[clear])[0, 1] > 0.4


def test_strength_nought_leaves_the_image_nearly_alone(line_integrals):
    degradation = random_degradation(np.random.default_rng(9), strength=0.0)
    assert degradation.collimation is None
    assert not degradation.instruments
    assert degradation.scatter_to_primary == 0
    image = simulate_xray(line_integrals, replace(degradation, logarithm=True, invert=False), 0).image
    assert np.corrcoef(image.ravel(), line_integrals.ravel())[0, 1] > 0.999


def test_radiograph_carries_its_polarity(line_integrals):
    radiograph = simulate_radiograph(line_integrals, XRayDegradation(invert=True, bit_depth=12), 0, "made up")
    assert radiograph.bone_dark is True
    assert radiograph.name == "made up"
    assert radiograph.pixels.dtype == np.uint16
