"""Local normalisation against windows looked at one by one."""

from __future__ import annotations

import numpy as np
import pytest
from SOPIRegistrationLib.similarity.local import locally_normalised, valid_share

WINDOW = 5


@pytest.fixture
def image(rng):
    return rng.normal(size=(2, 20, 24)).cumsum(axis=2).astype(np.float32)


@pytest.fixture
def valid(rng):
    return (rng.random((2, 20, 24)) > 0.2).astype(np.float32)


def test_every_pixel_is_freed_of_what_its_window_shows(image, valid):
    found = locally_normalised(image, valid, WINDOW)
    for n, v, u in ((0, 10, 12), (1, 0, 0), (1, 19, 7)):
        window = np.s_[n, max(0, v - 2) : v + 3, max(0, u - 2) : u + 3]
        seen = image[window][valid[window] > 0].astype(np.float64)
        whole = image[n][valid[n] > 0].astype(np.float64)
        deviation = np.sqrt(seen.var() + 0.01 * whole.var())
        assert found.mean[n, v, u] == pytest.approx(seen.mean(), abs=1e-4)
        assert found.deviation[n, v, u] == pytest.approx(deviation, rel=1e-4)
        expected = valid[n, v, u] * (image[n, v, u] - seen.mean()) / deviation
        assert found.image[n, v, u] == pytest.approx(expected, abs=1e-3)
    assert (found.image[valid == 0] == 0).all()


def test_gain_offset_and_a_known_share_make_no_difference(image, valid):
    plain = locally_normalised(image, valid, WINDOW).image
    stretched = locally_normalised(1000 * image + 4000, valid, WINDOW, valid_share(valid, WINDOW)).image
    np.testing.assert_allclose(stretched, plain, atol=2e-3)


def test_a_flat_image_stays_flat():
    flat = np.full((1, 16, 16), 7.0, np.float32)
    assert np.abs(locally_normalised(flat, np.ones_like(flat), WINDOW).image).max() < 1e-3
