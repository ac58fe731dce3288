"""CTs in other scales than Hounsfield units: put right where that is certain, else one line."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.images.attenuation import attenuation_of_hu
from SOPIRegistrationLib.images.ct_preparation import prepare_ct
from SOPIRegistrationLib.images.files import read_volume
from SOPIRegistrationLib.images.hounsfield import in_hounsfield
from SOPIRegistrationLib.images.volume import Volume
from SOPIRegistrationLib.simulation.phantom import lumbar_phantom
from support.ct_files import Scan


@pytest.fixture(scope="module")
def ct() -> Volume:
    """A body with spine, ribs and pelvis in air, with a scanner's noise."""
    return lumbar_phantom(3, 3.0).ct


def of(ct: Volume, array: np.ndarray) -> Volume:
    return Volume(array, ct.index_to_lps, "ct.nrrd")


def noise(ct: Volume, sigma: float) -> np.ndarray:
    return np.random.default_rng(3).normal(0, sigma, ct.array.shape)


def body_of(ct: Volume) -> np.ndarray:
    """Bool (k, j, i): the body, with what is in it."""
    labels, _ = ndimage.label(ct.array > -300)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.stack([ndimage.binary_fill_holes(plane) for plane in labels == sizes.argmax()])


def bones_of(ct: Volume, background: float) -> np.ndarray:
    return np.where(ct.array > 200, ct.array, background).astype(np.int16)


def only_note(volume: Volume) -> str:
    assert len(volume.notes) == 1, volume.notes
    assert volume.notes[0].startswith("CT ct.nrrd ")
    assert "\n" not in volume.notes[0]
    return volume.notes[0]


def refusal(volume: Volume) -> str:
    with pytest.raises(InputError) as caught:
        in_hounsfield(volume)
    assert "\n" not in str(caught.value)
    assert "ct.nrrd" in str(caught.value)
    return str(caught.value)


# What is in Hounsfield units stays as it is


@pytest.mark.parametrize(
    "make",
    [
        lambda ct: ct.array,
        lambda ct: ct.array.astype(np.float32),
        lambda ct: np.where(body_of(ct), ct.array, -1000),
        lambda ct: np.where(body_of(ct), ct.array, -3024),
        lambda ct: bones_of(ct, -1000),
        lambda ct: bones_of(ct, -1024),
        lambda ct: np.minimum(bones_of(ct, -2000), 1500),
        lambda ct: ct.array[20:60, 35:60, 40:90],
        lambda ct: np.minimum(ct.array, 60),
        lambda ct: np.full_like(ct.array, -1000),
        lambda ct: np.where(ct.array > 200, 900, np.where(body_of(ct), 0, -1000)),
        lambda ct: np.maximum(ct.array, -1000) + noise(ct, 60),
    ],
    ids=[
        "whole",
        "float",
        "masked body",
        "padding -3024",
        "bones",
        "bones in -1024",
        "clipped bones",
        "inside of a body",
        "no bones",
        "air",
        "blocks",
        "noise",
    ],
)
def test_hounsfield_units_are_kept(ct, make):
    volume = of(ct, np.ascontiguousarray(make(ct)))
    assert in_hounsfield(volume) is volume


@pytest.mark.parametrize(
    "name",
    ["ct_abdomen_pelvis_3mm.nii.gz", "ct_thorax_1p5mm.nii.gz", "ct_dicom_series", "wrist/radius.nii.gz"],
)
def test_real_cts_are_kept(shared_data, name):
    assert read_volume(shared_data / name).notes == ()


# Offsets


@pytest.mark.parametrize("offset", [1000, 1024])
def test_unsigned_voxels_with_an_offset(ct, offset):
    hu = np.maximum(ct.array, -offset)
    volume = in_hounsfield(of(ct, (hu.astype(np.int32) + offset).astype(np.uint16)))
    np.testing.assert_array_equal(volume.array, hu)
    assert volume.array.dtype == np.int16
    assert f"{offset} added" in only_note(volume)


@pytest.mark.parametrize("part", ["bones", "even air", "inside", "circle"])
def test_parts_of_a_ct_with_an_offset(ct, part):
    hu = {
        "bones": bones_of(ct, -1024),
        "even air": np.where(ct.array > 200, ct.array, -1000),
        "inside": ct.array[20:60, 35:60, 40:90],
        "circle": np.where(within_circle(ct), np.maximum(ct.array, -1024), -1024),
    }[part]
    volume = in_hounsfield(of(ct, (hu.astype(np.int32) + 1024).astype(np.uint16)))
    np.testing.assert_array_equal(volume.array, hu)
    assert "1024 added" in only_note(volume)


def within_circle(ct: Volume) -> np.ndarray:
    _, rows, columns = ct.array.shape
    v, u = np.indices((rows, columns))
    inside = ((v - (rows - 1) / 2) / (rows / 2)) ** 2 + ((u - (columns - 1) / 2) / (columns / 2)) ** 2 <= 1
    return np.broadcast_to(inside, ct.array.shape)


def test_series_without_its_rescale_intercept(tmp_path):
    """The commonest way to an offset: converted without the tag."""
    scan = Scan()
    expected = read_volume(scan.write_series(tmp_path / "right"))
    volume = read_volume(scan.write_series(tmp_path / "wrong", RescaleIntercept=None))
    np.testing.assert_array_equal(volume.array, expected.array)
    assert "1024 added" in volume.notes[0]


# A background of 0


def test_background_of_zero_is_air(ct):
    body = body_of(ct)
    for inside in (body, within_circle(ct)):
        hu = np.where(inside, ct.array, 0)
        volume = in_hounsfield(of(ct, hu))
        filled = volume.array == -1000
        assert (filled & ~inside).sum() == (~inside).sum()
        # But for voxels of exactly 0 HU beside the background.
        assert (volume.array[inside] != ct.array[inside]).mean() < 2e-3
        assert "background of 0 HU" in only_note(volume)


def test_bones_in_a_background_of_zero(ct):
    bones = bones_of(ct, 0)
    volume = in_hounsfield(of(ct, bones))
    np.testing.assert_array_equal(volume.array[bones != 0], bones[bones != 0])
    # All but marrow enclosed by bone, of which 0 is nearer to the truth than air; the scan's ends open some.
    around = ndimage.label(bones == 0)[0]
    assert ((volume.array == -1000) != (around == around[0, 0, 0])).mean() < 1e-4
    assert "background of 0 HU" in only_note(volume)


# Attenuation


@pytest.mark.parametrize(("factor", "unit"), [(1.0, "1/mm"), (10.0, "1/cm")])
@pytest.mark.parametrize("clipped", [True, False])
def test_attenuation(ct, factor, unit, clipped):
    mu = attenuation_of_hu(ct.array) if clipped else 0.019 * (1 + ct.array / 1000)
    volume = in_hounsfield(of(ct, (factor * mu).astype(np.float32)))
    # The soft tissue of a patient is known to some 20 HU.
    error = np.abs(volume.array - np.clip(ct.array, -1000 if clipped else None, 3000))
    assert np.median(error[ct.array > -200]) < 25
    assert error.max() < 60
    assert f"attenuation in {unit}" in only_note(volume)


def test_attenuation_of_bones_alone(ct):
    mu = attenuation_of_hu(bones_of(ct, -1000)).astype(np.float32)
    volume = in_hounsfield(of(ct, mu))
    np.testing.assert_allclose(volume.array, bones_of(ct, -1000), atol=0.1)
    assert "bones' attenuation in 1/mm" in only_note(volume)


# Gray values


@pytest.mark.parametrize(
    ("slope", "shift", "sigma"), [(0.6, 900, 25), (10, 20000, 300), (0.8, 350, 30), (1, -31744, 0)]
)
def test_gray_values_of_a_cone_beam_ct(ct, slope, shift, sigma):
    array = slope * np.clip(ct.array, -1000, 2500) + shift + noise(ct, sigma)
    volume = in_hounsfield(of(ct, np.rint(array).astype(np.int32)))
    difference = volume.array - np.clip(ct.array, -1000, 2500)
    assert abs(np.median(difference[ct.array < -950])) < 30
    assert abs(np.median(difference[ct.array > -200])) < 80
    assert "rescaled to -1000 and 40 HU, which means nothing if it is an MR image" in only_note(volume)


def test_gray_values_end_as_the_same_bones(ct):
    """What matters: not everything is bone."""
    gray = of(ct, np.rint(0.8 * np.clip(ct.array, -1000, 2500) + 350).astype(np.int16))
    expected, found = prepare_ct(ct), prepare_ct(in_hounsfield(gray))
    ratio = found.bone.array.sum() / expected.bone.array.sum()
    assert 0.85 < ratio < 1.2
    assert np.linalg.norm(found.rotation_centre_lps_mm - expected.rotation_centre_lps_mm) < 5
    assert found.notes == in_hounsfield(gray).notes


@pytest.mark.parametrize(
    "make",
    [
        lambda ct: np.clip((ct.array + 160) / 400 * 255, 0, 255).astype(np.uint8),
        lambda ct: (ct.array > 200).astype(np.int16),
        lambda ct: (ct.array > 200).astype(np.float32),
    ],
    ids=["window of 8 bits", "labels", "labels as floats"],
)
def test_pictures_and_labels_are_refused(ct, make):
    assert "a picture or a label map" in refusal(of(ct, make(ct)))


@pytest.mark.parametrize(
    "make",
    [
        lambda ct: np.random.default_rng(0).uniform(3000, 9000, ct.array.shape),
        lambda ct: 0.6 * bones_of(ct, -1000) + 5000,
        lambda ct: 20.0 * np.clip(ct.array[20:60, 35:60, 40:90], -1000, 2500) + 30000,
        lambda ct: np.exp(np.random.default_rng(0).normal(0, 40, ct.array.shape)),
    ],
    ids=["noise", "bones in gray values", "inside of a body in gray values", "huge"],
)
def test_what_cannot_be_told_is_refused(ct, make):
    assert "is not in Hounsfield units" in refusal(of(ct, make(ct)))


def test_what_may_be_an_mr_image_is_said(rng):
    k, j, i = np.indices((40, 60, 60))
    radius = np.hypot(np.hypot(k - 19.5, j - 29.5), i - 29.5)
    head = np.where(radius < 18, 300, 0) + rng.normal(0, 15, radius.shape) * (radius < 18)
    stripped = in_hounsfield(Volume(np.rint(head).astype(np.int16), np.diag([4.0, 4.0, 4.0, 1.0]), "ct.nrrd"))
    assert "as if it were an MR image" in only_note(stripped)
    # With noise around, and a skin that is brighter.
    head = np.where((radius > 15) & (radius < 18), 600, head) + np.abs(rng.normal(0, 8, radius.shape))
    with pytest.raises(InputError, match="air and soft tissue cannot be told"):
        in_hounsfield(Volume(np.rint(head).astype(np.int16), np.diag([4.0, 4.0, 4.0, 1.0]), "ct.nrrd"))
