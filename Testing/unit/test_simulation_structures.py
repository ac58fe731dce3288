"""Bodies without anatomy: reproducible, different, with bones that are bones."""

from __future__ import annotations

import numpy as np
import pytest
from SOPIRegistrationLib.simulation.structures import random_structures


def test_same_seed_same_body():
    first, again, other = (random_structures(seed, 6.0) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.ct.array, again.ct.array)
    np.testing.assert_array_equal(first.labels.array, again.labels.array)
    assert (first.ct.array != other.ct.array).mean() > 0.1


@pytest.mark.parametrize("seed", range(8))
def test_bones_are_dense_and_the_body_is_soft(seed):
    made = random_structures(seed)
    hu, bone = made.ct.array, made.labels.array > 0
    assert hu.dtype == np.float32
    assert np.isfinite(hu).all()
    assert 1e-4 < bone.mean() < 0.2
    assert np.median(hu[bone]) > 100
    assert made.labels.array.max() > 1
    soft = hu[~bone & (hu > -200)]
    assert -120 < np.median(soft) < 120
    # Air around it or in it.
    assert (hu < -900).mean() > 0.01
    np.testing.assert_allclose(made.ct.index_to_lps, made.labels.index_to_lps)


def test_a_body_is_the_same_on_coarser_voxels():
    fine, coarse = (random_structures(5, spacing) for spacing in (3.0, 6.0))
    share = (fine.labels.array > 0).mean() / (coarse.labels.array > 0).mean()
    assert share == pytest.approx(1, abs=0.25)
