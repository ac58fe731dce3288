"""X-ray and DRR in one picture."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from SOPIRegistrationLib.images.overlay import (
    DRR_COLOUR,
    EDGE_COLOUR,
    MODES,
    XRAY_COLOUR,
    display_window,
    edges,
    even_contrast,
    fusion_image,
    matching_window,
    windowed,
)

UNIT = {"xray_window": (0.0, 1.0), "drr_window": (0.0, 1.0)}


@pytest.fixture
def bones(rng) -> np.ndarray:
    """A smooth, asymmetric image in 0 to 1."""
    image = ndimage.gaussian_filter(rng.normal(size=(90, 120)), 6)
    return ((image - image.min()) / np.ptp(image)).astype(np.float32)


def test_agreeing_images_fuse_to_gray(bones):
    picture = fusion_image(bones, bones, **UNIT)
    assert picture.shape == (90, 120, 3)
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(picture[..., 0], picture[..., 2])
    np.testing.assert_allclose(picture[..., 1], 255 * bones, atol=1)


def test_images_apart_have_the_two_colours():
    xray, drr = np.zeros((2, 8, 8), np.float32)
    xray[2, 1], drr[5, 6] = 1, 1
    picture = fusion_image(xray, drr, **UNIT) / 255
    np.testing.assert_allclose(picture[2, 1], XRAY_COLOUR, atol=0.01)
    np.testing.assert_allclose(picture[5, 6], DRR_COLOUR, atol=0.01)
    assert not picture[0, 0].any()


def test_dark_bones_are_shown_dark(bones):
    for mode in ("fusion", "drr"):
        picture = fusion_image(1 - bones, bones, mode=mode, bone_dark=True, **UNIT)
        np.testing.assert_allclose(picture, np.repeat(255 * (1 - bones)[..., None], 3, axis=-1), atol=1)


@pytest.mark.parametrize("bone_dark", [False, True])
def test_two_colours_go_from_the_xray_to_the_drr_with_contrast_all_the_way(bones, rng, bone_dark):
    """Of images that do not match, too: none cancels the other."""
    other = ndimage.gaussian_filter(rng.normal(size=bones.shape), 6)
    other = ((other - other.min()) / np.ptp(other)).astype(np.float32)
    alike = 1 - other if bone_dark else other

    def picture(mix, drr=other):
        return fusion_image(bones, drr, bone_dark=bone_dark, mix=mix, **UNIT) / 255

    np.testing.assert_allclose(picture(0.0), np.repeat(bones[..., None], 3, axis=-1), atol=0.01)
    np.testing.assert_allclose(picture(1.0), np.repeat(alike[..., None], 3, axis=-1), atol=0.01)
    least = min(bones.std(), alike.std())
    for mix in np.linspace(0, 1, 11):
        assert picture(mix).std(axis=(0, 1)).max() > 0.7 * least
        # What matches is what the X-ray shows, at every setting: white stays white.
        same = picture(mix, 1 - bones if bone_dark else bones)
        np.testing.assert_allclose(same, np.repeat(bones[..., None], 3, axis=-1), atol=0.01)


def test_the_curtain_has_the_xray_at_its_left(bones):
    other = bones[::-1].copy()
    picture = fusion_image(bones, other, mode="curtain", curtain=0.25, **UNIT)[..., 0]
    np.testing.assert_allclose(picture[:, :30], 255 * bones[:, :30], atol=1)
    np.testing.assert_allclose(picture[:, 30:], 255 * other[:, 30:], atol=1)


def test_even_contrast_shows_what_is_faint_beside_what_is_strong(bones):
    faint = np.concatenate([0.1 * bones, 0.6 + 0.4 * bones], axis=1)
    even = even_contrast(faint)
    left, right = even[:, :100].std(), even[:, -100:].std()
    assert faint[:, -100:].std() > 3.5 * faint[:, :100].std()
    assert left > 0.4 * right
    assert even.min() >= 0
    assert even.max() <= 1
    shown = fusion_image(faint, faint, mode="drr", local_contrast=1.0, **UNIT)[..., 0]
    np.testing.assert_allclose(shown, 255 * even, atol=1)


def test_nothing_of_the_drr_shows_outside_the_field(bones, rng):
    valid = np.zeros(bones.shape, bool)
    valid[20:70, 30:100] = True
    other = rng.random(bones.shape, dtype=np.float32)
    for mode in MODES:
        first = fusion_image(bones, bones, valid, mode, **UNIT)
        second = fusion_image(bones, np.where(valid, bones, other), valid, mode, **UNIT)
        np.testing.assert_array_equal(first[~valid], second[~valid])
        xray = np.rint(255 * bones[~valid])[:, None]
        np.testing.assert_array_equal(first[~valid], np.broadcast_to(xray, first[~valid].shape))


def test_checkerboard_alternates():
    picture = fusion_image(np.zeros((64, 80)), np.ones((64, 80)), mode="checkerboard", **UNIT)[..., 0]
    assert picture[0, 0] == 0
    assert picture[0, 8] == picture[8, 0] == 255
    assert picture[8, 8] == 0
    assert picture.mean() == pytest.approx(127.5)


def test_edges_run_along_the_outline_a_pixel_wide():
    v, u = np.mgrid[:100, :140]
    radius = np.hypot(u - 80, v - 45)
    disc = ndimage.gaussian_filter((radius < 30).astype(np.float32), 1)
    found = edges(disc)
    assert np.abs(radius[found] - 29.5).max() < 1.6
    assert found.sum() == pytest.approx(2 * np.pi * 30, rel=0.2)
    angles = np.rad2deg(np.arctan2((v - 45)[found], (u - 80)[found]))
    assert np.histogram(angles, bins=24, range=(-180, 180))[0].min() > 0
    assert not edges(np.full((20, 30), 0.7, np.float32)).any()
    picture = fusion_image(np.zeros_like(disc), disc, mode="edges", **UNIT)
    np.testing.assert_array_equal(
        picture[found], np.broadcast_to(np.rint(255 * EDGE_COLOUR), (found.sum(), 3))
    )


def test_drr_is_given_the_brightness_of_the_xray(bones):
    integrals = 3.0 + 2.5 * bones
    low, high = matching_window(integrals.ravel(), bones.ravel())
    assert (low, high) == (pytest.approx(3.0, abs=1e-3), pytest.approx(5.5, abs=1e-3))
    automatic = fusion_image(bones, integrals, xray_window=(0.0, 1.0))
    assert np.ptp(automatic.astype(int), axis=-1).max() <= 2


def test_bones_alone_are_matched_where_they_are(bones):
    mask = np.zeros(bones.shape, bool)
    mask[30:50, 40:60] = True
    integrals = np.where(mask, 0.5 + bones, 0)
    low, high = matching_window(integrals.ravel(), bones.ravel())
    np.testing.assert_allclose(windowed(integrals, (low, high))[mask], bones[mask], atol=0.01)
    # Nothing where there is no bone, though these bones would match a gray above black.
    brighter = 0.5 + bones / 2
    window = matching_window((np.where(mask, bones, 0)).ravel(), brighter.ravel())
    assert not windowed(np.where(mask, bones, 0), window)[~mask].any()


@pytest.mark.parametrize("image", [np.zeros((5, 6)), np.full((5, 6), 3.0)])
def test_images_without_contrast_are_no_error(image):
    assert fusion_image(image, image).shape == (5, 6, 3)
    assert fusion_image(image, image, np.zeros((5, 6), bool)).shape == (5, 6, 3)


def test_a_window_leaves_out_the_outermost_values(rng):
    values = np.append(rng.normal(100, 10, 10_000), [1e6, -1e6])
    low, high = display_window(values)
    assert 70 < low < 85
    assert 115 < high < 130


def test_unknown_mode_is_refused(bones):
    with pytest.raises(ValueError, match="unknown mode 'xor'"):
        fusion_image(bones, bones, mode="xor")
