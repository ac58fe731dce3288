"""Phantoms of other regions: reproducible, with single bones that are bones, with metal and arms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from SOPIRegistrationLib.simulation.fields import Grid, Rod
from SOPIRegistrationLib.simulation.phantom import RIB_LABEL, bent_spine, lumbar_phantom
from SOPIRegistrationLib.simulation.regions import REGIONS, random_region
from SOPIRegistrationLib.simulation.sculpture import Part, Sculpture

SPACING_MM = 4.0
# How many bones each has at least.
BONES = {"long-bones": 1, "knee": 4, "wrist": 15, "hips": 6, "head": 8, "chest": 30, "bent-spine": 8}


@pytest.mark.parametrize("name", REGIONS)
def test_same_seed_same_body(name):
    first, again, other = (random_region(name, seed, 6.0) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.ct.array, again.ct.array)
    np.testing.assert_array_equal(first.labels.array, again.labels.array)
    assert not np.array_equal(first.labels.array, other.labels.array)
    np.testing.assert_array_equal(first.ct.index_to_lps, first.labels.index_to_lps)


@pytest.mark.parametrize("name", REGIONS)
def test_bones_are_dense_in_one_piece_and_inside_soft_tissue(name):
    made = random_region(name, 11, SPACING_MM)
    hu, labels = made.ct.array, made.labels.array
    assert hu.dtype == np.float32
    assert np.isfinite(hu).all()
    present = np.unique(labels[labels > 0])
    assert len(present) >= BONES[name]
    assert np.median(hu[labels > 0]) > 90
    soft = hu[(labels == 0) & (hu > -200) & (hu < 150)]
    assert -100 < np.median(soft) < 80
    # Skin all around: hardly any bone touches the air.
    parts, _ = ndimage.label(ndimage.uniform_filter(hu, 3) < -900)
    air = parts == np.argmax(np.bincount(parts[parts > 0]))
    bare = ndimage.binary_dilation(air) & (labels > 0)
    assert bare.sum() < 0.02 * (labels > 0).sum()
    for label in present:
        # The phantom of the trunk counts all ribs as one.
        if name == "bent-spine" and label == RIB_LABEL:
            continue
        pieces, count = ndimage.label(labels == label, np.ones((3, 3, 3)))
        if count > 1:
            # A joint carved out of it, or the edge of the grid, may cut a bit off.
            sizes = np.bincount(pieces.reshape(-1))[1:]
            assert sizes.max() > 0.5 * sizes.sum()


def test_an_unknown_region_is_refused():
    with pytest.raises(ValueError, match="knee"):
        random_region("tail", 0, 5.0)


@pytest.mark.slow
def test_some_have_metal_and_contrast_agent():
    densest = {
        name: [random_region(name, seed, 6.0).ct.array.max() for seed in range(10)] for name in REGIONS
    }
    for name in ("long-bones", "knee", "hips", "bent-spine"):
        with_metal = np.array(densest[name]) > 4000
        assert 1 <= with_metal.sum() < 10, name


def test_knees_bend():
    def length(seed):
        """Extent of the bones from head to foot, mm."""
        knee = random_region("knee", seed, 6.0)
        rows = np.flatnonzero((knee.labels.array == 2).any(axis=(1, 2)))
        return np.ptp(rows) * 6.0

    lengths = [length(seed) for seed in range(12)]
    assert max(lengths) - min(lengths) > 60


@pytest.mark.slow
def test_bent_spines_are_more_bent_than_others_and_some_have_arms():
    def sideways(phantom):
        """How far the vertebrae leave the line through the first and the last, mm."""
        middles = np.array([T[:3, 3] for _, T in sorted(phantom.T_vertebra_to_lps.items())])
        axis = middles[-1] - middles[0]
        off = (middles - middles[0]) - np.outer((middles - middles[0]) @ axis / (axis @ axis), axis)
        return np.abs(off[:, 0]).max()

    bent = [bent_spine(seed, 6.0) for seed in range(12)]
    straight = [lumbar_phantom(seed, 6.0) for seed in range(12)]
    assert np.mean([sideways(p) for p in bent]) > 2 * np.mean([sideways(p) for p in straight])
    arms = [p.ct.array.shape[2] * 6.0 > 500 for p in bent]
    assert any(arms)
    assert not all(arms)
    armed = bent[arms.index(True)]
    half = armed.labels.array.shape[2] // 2
    assert (armed.labels.array[:, :, :half] == 33).any()
    assert (armed.labels.array[:, :, half:] == 34).any()


def test_a_sculpture_covers_what_was_painted_before():
    size = (60.0, 60.0, 60.0)
    sculpture = Sculpture(Grid.centred(size, 2.0), size, np.random.default_rng(0))
    along = np.array([[0.0, 0, -40], [0.0, 0, 40]])
    sculpture.flesh([Rod(*along, (26, 26), (26, 26))], 4.0)
    first = sculpture.bone([Part(Rod(*along, (9, 9), (9, 9)), 3.0)])
    beside = along + np.array([14.0, 0, 0])
    second = sculpture.bone([Part(Rod(*beside, (9, 9), (9, 9)), 3.0)])
    sculpture.metal([Rod(*along, (3, 3), (3, 3))], 11_500.0)
    ct, labels = sculpture.volumes("made")
    middle = labels.array[15, 15]
    assert (first, second) == (1, 2)
    assert middle[14] == middle[15] == 1
    assert middle[22] == 2
    # A joint lies between the two.
    assert 0 in middle[15:22]
    assert ct.array[15, 15, 14] > 10_000
    assert -150 < ct.array[15, 15, 4] < 100
    assert ct.array[15, 0, 0] < -900


def test_a_rod_along_its_own_flat_side_is_round():
    grid = Grid.centred((40.0, 40.0, 40.0), 1.0)
    plain = Rod(np.array([0, 0, -9.0]), np.array([0, 0, 9.0]), (6, 6), (6, 6), (0, 1, 0))
    along = Rod(plain.a, plain.b, (6, 6), (6, 6), (0, 0, 1))
    np.testing.assert_allclose(along.distance(grid), plain.distance(grid), atol=1e-3)
