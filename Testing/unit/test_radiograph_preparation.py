"""X-ray preparation: polarity, logarithm, exposed field, resampling, on synthetic and real images."""

from __future__ import annotations

import io
import logging

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.images.field_of_view import FieldOfView, find_field, ranks
from SOPIRegistrationLib.images.files import read_radiograph
from SOPIRegistrationLib.images.pyramid import resampled_radiograph, square_radiograph
from SOPIRegistrationLib.images.radiograph import Radiograph
from SOPIRegistrationLib.images.radiograph_preparation import prepare_radiograph

N = 360
V, U = np.indices((N, N)) - (N - 1) / 2


def anatomy() -> np.ndarray:
    """Line integrals of a torso, wider than the image is high, with vertebrae, ribs and an off-centre rod."""
    body = 4.5 * np.sqrt(np.clip(1 - (U / 165) ** 2, 0, None))
    bone = np.zeros((N, N))
    for row in range(-190, 200, 48):
        square = (np.abs(U - 8) < 26) & (np.abs(V - row) < 19)
        rim = square & ~((np.abs(U - 8) < 22) & (np.abs(V - row) < 15))
        bone += 0.45 * square + 0.5 * rim
        rib = np.abs(V - row - 0.002 * U**2 + 0.15 * U)
        bone += 0.5 * np.clip(1 - rib / 6, 0, None) * (np.abs(U) > 30) * (np.abs(U) < 150)
    gas = 1.2 * np.exp(-((U + 70) ** 2 + (V - 60) ** 2) / 600)
    return body + ndimage.gaussian_filter(bone, 1.2) * (body > 0) - gas


def exposed(line_integrals, field, rng, photons=3e4) -> np.ndarray:
    """Photon counts behind a collimator, with scatter."""
    edge = ndimage.gaussian_filter(field.astype(float), 1.0)
    primary = np.exp(-line_integrals) * (3e-4 + (1 - 3e-4) * edge)
    scatter = 0.05 * ndimage.gaussian_filter(primary, 25)
    return rng.poisson(photons * (primary + scatter)).astype(float)


def shown(counts, curve) -> np.ndarray:
    """Counts as different systems store them, bones dark."""
    if curve == "linear 16 bit":
        return np.round(counts).astype(np.uint16)
    if curve == "gamma 8 bit":
        relative = np.clip(counts / np.percentile(counts, 99), 0, 1)
        return np.round(255 * relative**0.45).astype(np.uint8)
    if curve == "logarithm 12 bit":
        return np.round(380 * np.log(counts + 1)).astype(np.uint16)
    return (counts / counts.max()).astype(np.float32)


CURVES = ["linear 16 bit", "gamma 8 bit", "logarithm 12 bit", "float"]
FIELDS = {
    "open": np.ones((N, N), dtype=bool),
    "circle": np.hypot(U - 4, V + 6) < 168,
    "rectangle": (np.abs(U + 10) < 120) & (np.abs(V - 15) < 130),
    "turned shutters": (np.abs(0.94 * U + 0.34 * V) < 105) & (np.abs(-0.34 * U + 0.94 * V + 10) < 140),
    "one side": U < 95,
    "circle and shutters": (np.hypot(U, V) < 172) & (0.8 * U + 0.6 * V < 120) & (V > -110),
}


def camera_of(image) -> Camera:
    return Camera.from_c_arm(1000, (0.8, 0.8), image.shape[1], image.shape[0])


def prepared(image, **options):
    bone_dark = options.pop("bone_dark", None)
    return prepare_radiograph(Radiograph(image, "x.png", bone_dark), camera_of(image), **options)


def correlation(a, b, where) -> float:
    return float(np.corrcoef(a[where], b[where])[0, 1])


# The exposed field


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("field", FIELDS)
def test_field_is_found_and_nothing_else(field, curve, rng):
    truth = FIELDS[field]
    result = prepared(shown(exposed(anatomy(), truth, rng), curve))
    assert (result.valid & ~truth).sum() == 0  # no shutter left
    lost = (truth & ~result.valid).sum() / truth.sum()
    assert lost < (0.1 if field != "open" else 0.001)


@pytest.mark.parametrize("field", ["circle", "turned shutters"])
def test_field_of_an_inverted_image(field, rng):
    truth = FIELDS[field]
    image = 255 - shown(exposed(anatomy(), truth, rng), "gamma 8 bit")
    result = prepared(image)
    assert (result.valid & ~truth).sum() == 0
    assert (truth & ~result.valid).sum() < 0.1 * truth.sum()


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("bone_dark", [False, True])
def test_bars_that_a_picture_was_cut_with_are_no_air(value, bone_dark):
    """Black and white ones, whichever of them looks like air."""
    body = anatomy() / anatomy().max()
    image = 0.15 + 0.7 * (1 - body if bone_dark else body)
    cut = (U > 60) | (np.abs(V) > 140)
    image[cut] = value
    result = prepared(image.astype(np.float32), bone_dark=bone_dark)
    assert not result.valid[cut].any()
    assert result.valid[~cut].mean() > 0.97


@pytest.mark.parametrize("quality", [90, 30])
def test_bars_of_a_jpeg_are_not_quite_even(quality):
    cut = np.arange(N) >= 253
    image = np.clip(anatomy() / anatomy().max(), 0, 1)
    image[:, cut] = 0
    stream = io.BytesIO()
    Image.fromarray((255 * image).astype(np.uint8)).save(stream, "JPEG", quality=quality)
    result = prepared(np.asarray(Image.open(stream)), bone_dark=False)
    assert not result.valid[:, cut].any()
    assert result.valid[:, ~cut].mean() > 0.95


@pytest.mark.parametrize("as_stored", [np.float32, np.uint8])
def test_empty_background_of_a_drr_is_not_a_collimator(as_stored):
    # In perspective the sides of a scan fade: rays leave it ever nearer to its edge.
    ends, sides = np.clip((130 - np.abs(V)) / 12, 0, 1), np.clip((116 - np.abs(U - 20)) / 12, 0, 1)
    box = ends * sides
    for drr in (anatomy() * ends, anatomy() * box, np.clip(anatomy() - 3.6, 0, None) * box):
        image = (drr * 255 / drr.max()).astype(as_stored)
        result = prepared(image, bone_dark=False)
        assert result.valid.mean() > 0.995
        inverted = (255 - drr * 255 / drr.max()).astype(as_stored)
        assert prepared(inverted, bone_dark=True).valid.mean() > 0.995


def test_circle_filled_with_black_around_bright_bones(rng):
    image = np.where(FIELDS["circle"], anatomy() + 1 + rng.normal(0, 0.02, (N, N)), 0).astype(np.float32)
    result = prepared(image, polarity="bone-bright")
    assert (result.valid & ~FIELDS["circle"]).sum() == 0
    assert result.valid.sum() > 0.9 * FIELDS["circle"].sum()


@pytest.mark.parametrize("value", [0, 90])
def test_constant_bars_around_the_image(value, rng):
    image = np.full((N + 60, N + 100), value, dtype=np.uint8)
    image[40 : N + 40, 70 : N + 70] = np.maximum(
        shown(exposed(anatomy(), FIELDS["open"], rng), "gamma 8 bit"), 1
    )
    valid = prepared(image, polarity="bone-dark").valid
    assert valid[40 : N + 40, 70 : N + 70].mean() > 0.9
    valid[40 : N + 40, 70 : N + 70] = False
    assert not valid.any()


def test_letters_drawn_into_the_image_are_left_out(rng):
    image = shown(exposed(anatomy(), FIELDS["open"], rng), "logarithm 12 bit")
    letter = np.zeros((N, N), dtype=bool)
    letter[150:170, 60:62] = letter[150:152, 60:72] = letter[159:161, 60:69] = True
    image[letter] = 4095
    valid = prepared(image, polarity="bone-dark").valid
    assert not valid[letter].any()
    assert valid.mean() > 0.99


def test_metal_beyond_the_scale_is_left_out_air_is_not(rng):
    line_integrals = anatomy()
    rod = np.abs(0.6 * U + 0.8 * V - 40) < 6
    counts = exposed(line_integrals + 40.0 * rod, FIELDS["open"], rng)
    image = np.clip(counts / 4000, 0, 1)
    image = np.where(rod, 0, np.maximum(np.round(255 * image), 1)).astype(np.uint8)
    valid = prepared(image, polarity="bone-dark").valid
    assert not valid[rod].any()
    assert (image == 255).mean() > 0.05
    assert valid[image == 255].mean() > 0.99


def test_field_moves_with_the_pixels():
    field = FieldOfView(lines=((0.6, 0.8, 55.0),), circle=(30.0, 40.0, 25.0))
    small = field.mask((80, 70))
    large = field.scaled(4).mask((320, 280)).reshape(80, 4, 70, 4).mean(axis=(1, 3))
    np.testing.assert_array_equal(small[large != 0.5], large[large != 0.5] > 0.5)
    np.testing.assert_array_equal(field.shifted(7, 11).mask((100, 100))[11:91, 7:77], small)
    margin = field.mask((80, 70), 3.0)
    distance = ndimage.distance_transform_edt(small)
    assert (margin <= small).all()
    assert distance[margin].min() >= 2.5
    assert distance[small & ~margin].max() <= 4.5


def test_find_field_of_an_image_without_content():
    assert find_field(np.zeros((100, 100), dtype=np.float32), "dark") is None
    assert find_field(np.ones((8, 8), dtype=np.float32), "bright") is None


def test_ranks_are_what_a_monotone_curve_leaves(rng):
    values = rng.normal(size=(20, 30))
    np.testing.assert_array_equal(ranks(values), ranks(np.exp(3 * values)))
    np.testing.assert_allclose(ranks(np.array([[5.0, 5.0], [1.0, 9.0]])), [[0.5, 0.5], [0.125, 0.875]])


# Polarity


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("field", ["open", "circle", "rectangle"])
@pytest.mark.parametrize("inverted", [False, True])
def test_polarity_is_seen(curve, field, inverted, rng):
    image = shown(exposed(anatomy(), FIELDS[field], rng), curve)
    if inverted:
        image = image.max() - image
    result = prepared(image)
    inside = result.valid & (np.abs(U) < 120)
    assert correlation(result.image, anatomy(), inside) > 0.8


def test_polarity_of_drrs():
    for drr in (anatomy(), np.clip(anatomy() - 3.6, 0, None)):
        image = np.round(drr * 255 / drr.max()).astype(np.uint8)
        for stored in (image, 255 - image):
            result = prepared(stored)
            assert correlation(result.image, drr, result.valid) > 0.9


def test_polarity_from_the_file_or_the_user_is_obeyed(rng):
    image = shown(exposed(anatomy(), FIELDS["open"], rng), "gamma 8 bit")
    for options in ({"bone_dark": False}, {"polarity": "bone-bright"}):
        centre = np.s_[100:250, 100:250]
        np.testing.assert_array_equal(prepared(image, **options).image[centre], image[centre])
    obeyed = prepared(image, bone_dark=True, polarity="bone-bright")
    assert correlation(obeyed.image, anatomy(), obeyed.valid) < -0.8


def test_unclear_polarity_is_said(rng, caplog):
    with caplog.at_level(logging.WARNING):
        prepared(rng.normal(100, 10, (N, N)).astype(np.float32))
    assert "set --polarity" in caplog.text


# Intensity to attenuation


def test_logarithm_gives_line_integrals_up_to_the_open_field(rng):
    line_integrals = anatomy()
    counts = np.round(6e4 * np.exp(-line_integrals)).astype(np.uint16)
    result = prepared(counts, bone_dark=True)
    difference = result.image - line_integrals
    np.testing.assert_allclose(difference[result.valid], np.median(difference), atol=0.05)
    assert np.abs(np.median(difference)) < 0.02  # the flanks are open field


def test_stored_logarithm_is_only_turned_over():
    stored = np.round(4000 - 500 * anatomy()).astype(np.uint16)
    radiograph = Radiograph(stored, "log.dcm", True, {"PixelIntensityRelationship": "LOG"})
    image = prepare_radiograph(radiograph, camera_of(stored)).image
    slope, intercept = np.polyfit(anatomy().ravel(), image.ravel(), 1)
    assert slope == pytest.approx(500, rel=1e-3)
    np.testing.assert_allclose(image, slope * anatomy() + intercept, atol=1)


def test_bright_bones_are_kept_as_they_are():
    image = anatomy().astype(np.float32)
    np.testing.assert_array_equal(prepared(image, bone_dark=False).image, image)


def test_image_is_finite_and_continuous_outside_the_field(rng):
    truth = FIELDS["circle"]
    result = prepared(shown(exposed(anatomy(), truth, rng), "linear 16 bit"))
    assert result.image.dtype == np.float32
    assert np.isfinite(result.image).all()
    jumps = np.abs(np.diff(result.image, axis=0))
    assert jumps[:60].max() <= jumps[result.valid[:-1]].max()


# Resampling


def test_reduced_image_stays_with_its_camera(rng):
    image = (1000 * np.exp(-anatomy()) + 1).astype(np.float32)
    image[100:104, 200:204] = 1e-3  # a bead at (201.5, 101.5), four pixels wide
    camera = Camera.from_c_arm(1000, (0.8, 0.5), N, N, (170.0, 190.0))
    result = prepare_radiograph(Radiograph(image, "x", True), camera, max_size=90)
    assert result.image.shape == result.valid.shape == result.camera.shape == (90, 90)
    bead = np.unravel_index(result.image.argmax(), result.image.shape)
    direction = camera.K_inverse @ [201.5, 101.5, 1]
    np.testing.assert_allclose(result.camera.project(direction * 800), bead[::-1], atol=1e-6)


def test_reduction_averages_intensity_over_areas():
    rng = np.random.default_rng(3)
    image = rng.uniform(200, 4000, (300, 210)).astype(np.float32)
    result = prepared(image, bone_dark=True, max_size=100)
    assert result.image.shape == (100, 70)
    blocks = image.reshape(100, 3, 70, 3).mean(axis=(1, 3))
    difference = result.image + np.log(blocks)
    np.testing.assert_allclose(difference[result.valid], difference[0, 0], atol=1e-4)
    # No whole number of pixels: the mean is kept.
    odd = prepared(image, bone_dark=False, max_size=77)
    assert odd.image.shape == (77, 54)
    assert odd.image.mean() == pytest.approx(image.mean(), rel=2e-3)


def test_reduced_mask_keeps_clear_of_the_shutters(rng):
    truth = FIELDS["turned shutters"]
    image = shown(exposed(anatomy(), truth, rng), "linear 16 bit")
    result = prepared(image, max_size=90)
    blocks = truth.reshape(90, 4, 90, 4)
    assert not result.valid[~blocks.any(axis=(1, 3))].any()
    assert result.valid.sum() > 0.85 * blocks.all(axis=(1, 3)).sum()


def test_smaller_images_are_not_enlarged():
    image = anatomy().astype(np.float32)
    assert prepared(image, max_size=1000).image.shape == (N, N)


# Real images


@pytest.mark.parametrize("name", ["cam01", "cam02"])
@pytest.mark.parametrize("inverted", [False, True])
def test_wrist_frames(shared_data, name, inverted):
    radiograph = read_radiograph(shared_data / "wrist" / f"frame_0099_{name}.png")
    original = radiograph.pixels
    pixels = 255 - original if inverted else original
    camera = Camera.from_c_arm(1000, (0.2, 0.2), 1760, 1760)
    result = prepare_radiograph(Radiograph(pixels, name), camera, max_size=880)
    rows, columns = np.indices((880, 880)) - 439.5
    radius = np.hypot(rows, columns)
    assert result.valid[radius < 390].mean() > 0.995
    assert not result.valid[radius > 440].any()
    # The forearm, dark in the original, is bright now.
    reduced = original.reshape(880, 2, 880, 2).mean(axis=(1, 3))
    assert correlation(result.image, reduced, result.valid) < -0.8


# Refusals


def refusal(image, **options) -> str:
    with pytest.raises(InputError) as caught:
        prepared(image, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_image_of_another_size_than_its_geometry():
    camera = Camera.from_c_arm(1000, (0.2, 0.2), 100, 90)
    with pytest.raises(InputError, match=r"x\.png has 80 x 90 pixels, its geometry is for 100 x 90"):
        prepare_radiograph(Radiograph(np.zeros((90, 80)), "x.png"), camera)


def test_image_without_content():
    assert "x.png is constant: every pixel is 3" in refusal(np.full((50, 50), 3, dtype=np.uint8))
    image = anatomy().astype(np.float32)
    image[3, 4] = np.inf
    assert "x.png has NaN or infinite pixels" in refusal(image)


def test_stripes_are_an_image():
    stripes = np.broadcast_to(np.arange(N, dtype=np.float32), (N, N))
    assert prepared(stripes, bone_dark=False).valid.mean() > 0.9
    assert prepared(stripes.T, bone_dark=False).valid.mean() > 0.9


def test_unknown_polarity():
    assert "use auto, bone-dark, bone-bright" in refusal(anatomy(), polarity="white")


@pytest.mark.parametrize("shape", [(2, 2), (1, 300), (300, 15), (1, 1)])
def test_an_image_too_small_to_compare(shape, rng):
    camera = Camera.from_c_arm(1000, (1, 1), shape[1], shape[0])
    pixels = np.arange(shape[0] * shape[1], dtype=np.uint16).reshape(shape)
    with pytest.raises(InputError, match=rf"only {shape[1]} x {shape[0]} pixels .*at least 16 x 16"):
        prepare_radiograph(Radiograph(pixels, "small.png"), camera)


def test_the_smallest_useful_image(rng):
    camera = Camera.from_c_arm(1000, (10, 10), 16, 16)
    pixels = rng.integers(100, 4000, (16, 16)).astype(np.uint16)
    assert prepare_radiograph(Radiograph(pixels, "small.png"), camera).image.shape == (16, 16)


@pytest.mark.parametrize("expected", [True, False])
def test_an_expected_polarity_comes_first_and_the_other_after_it(expected, rng):
    counts = exposed(anatomy(), FIELDS["open"], rng)
    radiograph = Radiograph(shown(counts, "linear 16 bit"), bone_dark_expected=expected)
    camera = Camera.from_c_arm(1000, (1, 1), N, N)
    prepared = prepare_radiograph(radiograph, camera)
    agrees = np.corrcoef(prepared.image[prepared.valid], -counts[prepared.valid])[0, 1] > 0
    assert agrees == expected
    other = prepared.other_polarity()
    assert (np.corrcoef(other.image[other.valid], -counts[other.valid])[0, 1] > 0) != expected


@pytest.mark.parametrize("polarity", ["bone-dark", "bone-bright"])
def test_coarser_pixels_and_parts_are_of_the_same_x_ray(polarity):
    pixels = np.random.default_rng(3).uniform(100, 4000, (48, 64)).astype(np.float32)
    camera = Camera.from_c_arm(1000.0, (1.0, 1.0), 64, 48)
    prepared = prepare_radiograph(Radiograph(pixels, "film"), camera, polarity)
    for view in (square_radiograph(prepared, 32), resampled_radiograph(prepared, 32, 24)):
        assert (view.polarity, view.name) == (polarity, "film")
