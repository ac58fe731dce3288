"""Similarity measures against independent computations, and the promises they share."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import ndimage
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.similarity import SIMILARITIES, get_similarity, local_ncc, nccl

ALL = sorted(SIMILARITIES)
BEST = dict.fromkeys(ALL, 1.0) | {"nccl": 1.5}


def _smooth_images(rng, count, rows=33, columns=41, sigma=2.0):
    noise = rng.normal(size=(count, rows, columns))
    return np.stack([ndimage.gaussian_filter(image, sigma) for image in noise])


def _weights(rng, rows=33, columns=41):
    weights = rng.uniform(0.2, 2.0, (rows, columns))
    weights[:7, :] = 0
    weights[20:24, 10:15] = 0
    weights[:, -4:] = 0
    return weights


def _ncc_by_numpy(a, b, w):
    a, b = a - np.average(a, weights=w), b - np.average(b, weights=w)
    return (w * a * b).sum() / np.sqrt((w * a * a).sum() * (w * b * b).sum())


def _least_weight(w, radius):
    return ndimage.minimum_filter(w, 2 * radius + 1, mode="constant", cval=0)


def _standardised(a, w):
    mean = np.average(a, weights=w)
    return (a - mean) / np.sqrt(np.average((a - mean) ** 2, weights=w))


def _sobel(a):
    return ndimage.sobel(a, axis=1) / 8, ndimage.sobel(a, axis=0) / 8


def _reference_ncc(m, f, w):
    return _ncc_by_numpy(m, f, w)


def _reference_local_ncc(m, f, w, window=13):
    total = weight = 0.0
    for row in range(m.shape[0] - window + 1):
        for column in range(m.shape[1] - window + 1):
            patch = np.s_[row : row + window, column : column + window]
            if (w[patch] > 0).any():
                total += w[patch].sum() * _ncc_by_numpy(m[patch], f[patch], w[patch])
                weight += w[patch].sum()
    return total / weight


def _reference_gc(m, f, w):
    w = _least_weight(w, 1)
    return np.mean([_ncc_by_numpy(a, b, w) for a, b in zip(_sobel(m), _sobel(f), strict=True)])


def _reference_ngi(m, f, w):
    (mx, my), (fx, fy) = _sobel(_standardised(m, w)), _sobel(_standardised(f, w))
    w = _least_weight(w, 1)
    angle = np.arctan2(my, mx) - np.arctan2(fy, fx)
    shared = (np.cos(2 * angle) + 1) / 2 * np.minimum(np.hypot(mx, my), np.hypot(fx, fy))
    return (w * shared).sum() / (w * np.hypot(fx, fy)).sum()


def _reference_nccl(m, f, w):
    radius = 3
    x = np.arange(-radius, radius + 1)
    gaussian = np.exp(-(x**2) / 2) / np.exp(-(x**2) / 2).sum()
    second = gaussian * (x**2 - 1)
    second -= second.sum() * gaussian
    kernel = np.outer(gaussian, second) + np.outer(second, gaussian)
    a, b = (ndimage.correlate(_standardised(image, w), kernel) for image in (m, f))
    eroded = _least_weight(w, radius)
    cosine = (eroded * a * b).sum() / np.sqrt((eroded * a * a).sum() * (eroded * b * b).sum())
    return _ncc_by_numpy(m, f, w) + 0.5 * cosine


def _reference_gd(m, f, w):
    eroded = _least_weight(w, 1)
    values = []
    for a, b in zip(_sobel(_standardised(m, w)), _sobel(_standardised(f, w)), strict=True):
        variance = np.average((b - np.average(b, weights=eroded)) ** 2, weights=eroded)
        values.append(np.average(variance / (variance + (b - a) ** 2), weights=eroded))
    return np.mean(values)


REFERENCE = {
    "ncc": _reference_ncc,
    "local_ncc": _reference_local_ncc,
    "gc": _reference_gc,
    "ngi": _reference_ngi,
    "nccl": _reference_nccl,
    "gd": _reference_gd,
}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("mask", ["none", "bool", "weights"])
def test_value_is_the_papers_formula(rng, name, mask):
    moving, fixed = _smooth_images(rng, 2)
    moving = moving + fixed
    weights = {"none": None, "bool": _weights(rng) > 0, "weights": _weights(rng)}[mask]
    everywhere = np.ones(fixed.shape) if weights is None else weights.astype(float)
    expected = REFERENCE[name](moving, fixed, everywhere)
    assert SIMILARITIES[name](moving, fixed, weights) == pytest.approx(expected, rel=1e-9)
    as_tensors = [torch.from_numpy(image) for image in (moving, fixed)]
    tensor_mask = None if weights is None else torch.from_numpy(weights)
    assert SIMILARITIES[name](*as_tensors, tensor_mask).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", ALL)
def test_float32_agrees_with_float64(rng, name):
    moving, fixed = _smooth_images(rng, 2, 120, 90)
    moving = 0.3 * moving + fixed + 5
    exact = SIMILARITIES[name](moving, fixed)
    single = SIMILARITIES[name](moving.astype(np.float32), fixed.astype(np.float32))
    assert single.dtype == np.float32
    assert single == pytest.approx(exact, abs=2e-5)


@pytest.mark.parametrize("name", ALL)
def test_an_image_resembles_itself_most(rng, name):
    images = _smooth_images(rng, 6)
    for fixed in images:
        values = SIMILARITIES[name](images, fixed)
        assert values.max() == pytest.approx(BEST[name])
        assert np.sort(values)[-2] < BEST[name] - 0.1
        blurred = ndimage.gaussian_filter(fixed, 1)
        assert SIMILARITIES[name](blurred, fixed) < BEST[name]


@pytest.mark.parametrize("name", ALL)
def test_gradient_is_the_finite_difference(rng, name):
    moving, fixed = (torch.from_numpy(image) for image in _smooth_images(rng, 2, 17, 18))
    weights = torch.from_numpy(_weights(rng, 17, 18))
    measure = SIMILARITIES[name]
    moving = (moving + fixed).requires_grad_()
    assert torch.autograd.gradcheck(lambda m: measure(m[None], fixed, weights), moving)


@pytest.mark.parametrize("name", ["ncc", "gc", "gd"])
def test_backward_is_differentiable_again(rng, name):
    moving, fixed = (torch.from_numpy(image) for image in _smooth_images(rng, 2, 7, 8))
    measure = SIMILARITIES[name]
    moving = (moving + fixed).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda m: measure(m[None], fixed), moving)


@pytest.mark.parametrize("name", ALL)
def test_nothing_outside_the_mask_counts(rng, name):
    moving, fixed = _smooth_images(rng, 2)
    weights = torch.from_numpy(_weights(rng))
    outside = weights.numpy() == 0

    def value_and_gradient(fill):
        images = [torch.from_numpy(image + 0.0) for image in (moving, fixed)]
        for image in images:
            image[outside] = torch.from_numpy(fill(outside.sum()))
        images[0].requires_grad_()
        value = SIMILARITIES[name](images[0], images[1], weights)
        value.backward()
        return value.item(), images[0].grad.numpy()

    value, gradient = value_and_gradient(np.zeros)
    assert np.abs(gradient[~outside]).max() > 0
    assert np.abs(gradient[outside]).max() == 0
    for fill in (lambda n: rng.normal(0, 1e3, n), lambda n: np.full(n, np.nan)):
        spoiled_value, spoiled_gradient = value_and_gradient(fill)
        assert spoiled_value == value
        np.testing.assert_array_equal(spoiled_gradient, gradient)


@pytest.mark.parametrize("name", ALL)
def test_affine_intensity_changes_nothing(rng, name):
    moving, fixed = _smooth_images(rng, 2)
    moving = moving + fixed
    value = SIMILARITIES[name](moving, fixed)
    assert SIMILARITIES[name](3.7 * moving - 20, fixed) == pytest.approx(value, rel=1e-6)
    assert SIMILARITIES[name](moving, 0.02 * fixed + 4) == pytest.approx(value, rel=1e-6)
    inverted = SIMILARITIES[name](-moving, fixed)
    if name == "ngi":
        assert inverted == pytest.approx(value)
    else:
        assert inverted < value - 0.2


def test_local_ncc_bears_a_slow_change_of_intensity(rng):
    fixed = _smooth_images(rng, 1, 80, 80)[0]
    ramp = np.linspace(0, 8 * fixed.std(), 80)
    assert local_ncc(fixed + ramp, fixed) > 0.9
    assert SIMILARITIES["ncc"](fixed + ramp, fixed) < 0.5


def test_local_ncc_of_tiles(rng):
    moving, fixed = _smooth_images(rng, 2, 30, 20)
    ones = np.ones((10, 10))
    tiles = [np.s_[i : i + 10, j : j + 10] for i in (0, 10, 20) for j in (0, 10)]
    expected = np.mean([_ncc_by_numpy(moving[tile], fixed[tile], ones) for tile in tiles])
    assert local_ncc(moving, fixed, window=10, stride=10) == pytest.approx(expected)
    with pytest.raises(ValueError, match="a window of 31 pixels does not fit"):
        local_ncc(moving, fixed, window=31)


def test_local_ncc_leaves_out_flat_windows(rng):
    fixed = _smooth_images(rng, 1, 40, 40)[0]
    fixed[:, 20:] = 0.3
    noisy = fixed + 1e-6 * rng.normal(size=fixed.shape)
    assert local_ncc(noisy, fixed, window=9) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("constant", ["moving", "fixed", "both"])
@pytest.mark.parametrize("level", [0.0, 0.1, 1e4])
def test_constant_images_are_safe(rng, name, constant, level, dtype):
    images = [torch.from_numpy(image).to(dtype) for image in _smooth_images(rng, 2)]
    if constant in ("moving", "both"):
        images[0] = torch.full_like(images[0], level)
    if constant in ("fixed", "both"):
        images[1] = torch.full_like(images[1], level)
    moving = images[0].requires_grad_()
    value = SIMILARITIES[name](moving, images[1])
    value.backward()
    assert torch.isfinite(moving.grad).all()
    if name == "gd":
        assert 0 <= value.item() <= 1
    else:
        assert value.item() == 0
    if constant == "moving":
        assert (moving.grad == 0).all()


@pytest.mark.parametrize("name", ALL)
def test_empty_mask_is_safe(rng, name):
    moving, fixed = (torch.from_numpy(image) for image in _smooth_images(rng, 2))
    moving.requires_grad_()
    value = SIMILARITIES[name](moving, fixed, torch.zeros(fixed.shape, dtype=torch.bool))
    value.backward()
    assert value.item() == 0
    assert (moving.grad == 0).all()


@pytest.mark.parametrize("name", ALL)
def test_batch_is_its_single_images(rng, name):
    images = _smooth_images(rng, 4)
    fixed = images[3] + images[:3].sum(axis=0)
    mask = _weights(rng) > 0
    measure = SIMILARITIES[name]
    batch = measure(images, fixed, mask)
    assert batch.shape == (4,)
    np.testing.assert_allclose(batch, [measure(image, fixed, mask) for image in images], rtol=1e-12)
    paired = measure(images, images[::-1], mask)
    singles = [measure(a, b, mask) for a, b in zip(images, images[::-1], strict=True)]
    np.testing.assert_allclose(paired, singles, rtol=1e-12)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("axis", [0, 1])
def test_a_shift_lowers_it_steadily(rng, name, axis):
    fixed = _smooth_images(rng, 1, 60, 70, sigma=3.0)[0]
    fixed += 2 * fixed.std() * (np.hypot(*np.mgrid[-25:35, -40:30]) < 15)
    fixed = ndimage.gaussian_filter(fixed, 1)
    inner = np.zeros(fixed.shape, dtype=bool)
    inner[8:-8, 8:-8] = True
    for sign in (-1, 1):
        shifts = [np.roll([sign * step, 0], axis) for step in np.arange(0, 3.1, 0.25)]
        values = [SIMILARITIES[name](ndimage.shift(fixed, shift, order=3), fixed, inner) for shift in shifts]
        assert (np.diff(values) < 0).all()


def test_edges_outweigh_shading_in_nccl(rng):
    fixed = _smooth_images(rng, 1, sigma=1.0)[0]
    moving = ndimage.gaussian_filter(fixed, 1.5)
    plain = nccl(moving, fixed, edge_weight=0)
    assert plain == pytest.approx(SIMILARITIES["ncc"](moving, fixed))
    assert (nccl(moving, fixed, edge_weight=1) - plain) < plain


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(InputError, match="unknown similarity 'mi': use one of ncc, local_ncc, gc"):
        get_similarity("mi")
    assert get_similarity("gc") is SIMILARITIES["gc"]


def test_numpy_values_need_no_torch():
    code = (
        "import sys, numpy as np\n"
        "from SOPIRegistrationLib.similarity import gradient_correlation, ncc\n"
        "image = np.arange(30.0).reshape(5, 6) ** 2\n"
        "assert abs(ncc(image, image) - 1) < 1e-12 and abs(gradient_correlation(image, image) - 1) < 1e-12\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
