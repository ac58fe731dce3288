"""NIfTI CTs: sheared axes, and headers that contradict themselves or say nothing."""

from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.images.files import read_volume
from SOPIRegistrationLib.images.shear import perpendicular, perpendicular_frame
from SOPIRegistrationLib.images.volume import Volume
from support.ct_files import grid, largest_error_voxels, oblique, sampled, write_nifti

TILT_MM = np.tan(np.radians(20))


def rigid_of(affine: np.ndarray, how: str) -> np.ndarray:
    """A rigid affine for a sheared one, as one writer or another makes it."""
    rigid = affine.copy()
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if how == "nearest rotation":
        u, _, vt = np.linalg.svd(affine[:3, :3] / lengths)
        rigid[:3, :3] = u @ vt * lengths
    else:
        frame, steps = perpendicular_frame(affine[:3, :3])
        rigid[:3, :3] = frame * (lengths if how == "normal" else steps)
    return rigid


def refusal(path) -> str:
    with pytest.raises(InputError) as caught:
        read_volume(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


@pytest.mark.parametrize("how", ["nearest rotation", "normal", "normal, slice distance"])
@pytest.mark.parametrize("codes", [(1, 1), (2, 1), (1, 0)])
def test_sheared_sform_is_resampled_to_perpendicular_axes(tmp_path, how, codes):
    affine = grid(TILT_MM)
    path = write_nifti(tmp_path / "ct.nii", sampled(affine), affine, rigid_of(affine, how), codes)
    volume = read_volume(path)
    np.testing.assert_allclose(volume.spacing_mm, [0.8, 1.1, 2.0], rtol=1e-4)
    directions = volume.index_to_lps[:3, :3] / volume.spacing_mm
    np.testing.assert_allclose(directions.T @ directions, np.eye(3), atol=1e-9)
    assert largest_error_voxels(volume) < 0.01
    (note,) = volume.notes
    assert "20.0 deg off the perpendicular" in note


@pytest.mark.parametrize("flipped", [0, 1, 2])
def test_sheared_sform_of_the_other_handedness(tmp_path, flipped):
    flip = np.eye(4)
    flip[flipped, flipped], flip[flipped, 3] = -1, [111, 83, 39][flipped]
    affine = grid(TILT_MM) @ flip
    path = write_nifti(tmp_path / "ct.nii", sampled(affine), affine, rigid_of(affine, "normal"))
    volume = read_volume(path)
    assert largest_error_voxels(volume) < 0.01
    assert np.linalg.det(volume.index_to_lps[:3, :3]) < 0


def test_sheared_slices_stacked_along_another_index(tmp_path):
    affine = grid(TILT_MM)[:, [2, 0, 1, 3]]
    path = write_nifti(
        tmp_path / "ct.nii", sampled(affine, (40, 112, 84)), affine, rigid_of(affine, "normal"), (1, 1)
    )
    volume = read_volume(path)
    assert largest_error_voxels(volume) < 0.01


def test_sheared_sform_in_a_packed_file(tmp_path):
    affine = grid(TILT_MM)
    path = write_nifti(tmp_path / "a.nii", sampled(affine), affine, rigid_of(affine, "normal"))
    packed = tmp_path / "ct.nii.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    np.testing.assert_array_equal(read_volume(packed).array, read_volume(path).array)


@pytest.mark.parametrize("codes", [(1, 1), (2, 2), (1, 0), (0, 1)])
def test_one_place_said_once_or_twice(tmp_path, codes):
    affine = grid()
    volume = read_volume(write_nifti(tmp_path / "ct.nii", sampled(affine), affine, affine, codes))
    np.testing.assert_allclose(volume.index_to_lps, affine, atol=2e-5)
    assert largest_error_voxels(volume) < 0.01
    assert volume.notes == ()


@pytest.mark.parametrize("turn", [[0, 0, 180], [180, 0, 0], [0.02, 179.96, 0], [120, 120, 0]])
def test_rounding_of_the_quaternion_is_no_contradiction(tmp_path, turn):
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", turn, degrees=True).as_matrix() * [0.8, 1.1, 2.0]
    affine[:3, 3] = [-213.7, 188.123, -901.4]
    array = sampled(grid(), (20, 20, 20))
    assert read_volume(write_nifti(tmp_path / "ct.nii", array, affine, affine)).notes == ()


def moved(affine: np.ndarray, turn_deg=0.0, shift_mm=0.0) -> np.ndarray:
    other = affine.copy()
    turn = Rotation.from_rotvec(np.radians(turn_deg) * np.array([0.6, 0.0, 0.8])).as_matrix()
    other[:3, :3] = turn @ other[:3, :3]
    other[:3, 3] += [shift_mm, 0, 0]
    return other


@pytest.mark.parametrize(("turn", "shift", "words"), [(0.05, 0, "deg"), (0, 0.01, "mm"), (3, 20, "mm")])
def test_two_places_the_sform_is_taken_where_its_code_is_higher(tmp_path, turn, shift, words):
    affine = grid()
    array, other = sampled(affine), moved(affine, turn, shift)
    volume = read_volume(write_nifti(tmp_path / "ct.nii", array, affine, other, (2, 1)))
    np.testing.assert_allclose(volume.index_to_lps, affine, atol=2e-5)
    (note,) = volume.notes
    assert "the sform (code 2) is taken, not the qform (code 1)" in note
    assert words in note
    for codes in ((1, 1), (1, 2)):
        message = refusal(write_nifti(tmp_path / "ct.nii", array, affine, other, codes))
        assert "two places in its header" in message
        assert "set the code of the wrong one to 0" in message


def test_two_voxel_sizes_are_refused_whatever_the_codes(tmp_path):
    affine = grid()
    larger = affine.copy()
    larger[:3, :3] *= 1.05
    path = write_nifti(tmp_path / "ct.nii", sampled(affine), larger, affine, (4, 1))
    assert "in voxel size (0.84 x 1.155 x 2.1 and 0.8 x 1.1 x 2 mm)" in refusal(path)


def test_mirrored_places_are_refused(tmp_path):
    affine = grid()
    mirrored = affine @ np.diag([-1, 1, 1, 1])
    path = write_nifti(tmp_path / "ct.nii", sampled(affine), mirrored, affine, (1, 1))
    assert "mirrored" in refusal(path)


def test_no_place_is_said_to_be_a_guess(tmp_path):
    affine = grid()
    volume = read_volume(write_nifti(tmp_path / "ct.nii", sampled(affine), affine, affine, (0, 0)))
    (note,) = volume.notes
    assert "sform_code and qform_code are 0" in note
    assert "a guess" in note
    np.testing.assert_allclose(volume.spacing_mm, [0.8, 1.1, 2.0], rtol=1e-6)


def test_place_in_metres_and_micrometres(tmp_path):
    affine = grid()
    for units, factor in ((1, 1000.0), (3, 0.001)):
        stored = affine.copy()
        stored[:3] /= factor
        path = write_nifti(tmp_path / "ct.nii", sampled(affine), stored, stored, (1, 1), units)
        np.testing.assert_allclose(read_volume(path).index_to_lps, affine, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("factor", [1000.0, 0.001])
def test_place_in_another_unit_than_the_header_says_is_refused(tmp_path, factor):
    affine = grid()
    stored = affine.copy()
    stored[:3] *= factor
    path = write_nifti(tmp_path / "ct.nii", sampled(affine), stored, stored)
    with pytest.raises(InputError, match=r"ct\.nii has voxels of .* correct the spacing in its header"):
        read_volume(path)


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_sform_of_nothing_is_refused(tmp_path, value):
    affine = grid()
    path = write_nifti(tmp_path / "ct.nii", sampled(affine, (20, 20, 20)), affine, affine)
    content = bytearray(path.read_bytes())
    struct.pack_into("<12f", content, 280, *[value] * 12)
    path.write_bytes(content)
    assert "sform that is singular or no number" in refusal(path)


def test_pair_of_header_and_image(tmp_path):
    affine = grid(TILT_MM)
    single = write_nifti(tmp_path / "ct.nii", sampled(affine), affine, rigid_of(affine, "normal"))
    content = bytearray(single.read_bytes())
    content[344:348] = b"ni1\0"
    struct.pack_into("<f", content, 108, 0.0)
    (tmp_path / "pair.hdr").write_bytes(content[:348])
    (tmp_path / "pair.img").write_bytes(content[352:])
    for name in ("pair.hdr", "pair.img"):
        volume = read_volume(tmp_path / name)
        assert largest_error_voxels(volume) < 0.01
    (tmp_path / "pair.img").write_bytes(content[352:-5000])
    assert "damaged or incomplete" in refusal(tmp_path / "pair.hdr")


def test_sheared_mask_stays_as_it_is(tmp_path):
    affine = grid(TILT_MM)
    labels = (sampled(affine) > 0).astype(np.int16)
    path = write_nifti(tmp_path / "mask.nii", labels, affine, rigid_of(affine, "normal"))
    mask = read_volume(path, "mask")
    np.testing.assert_array_equal(mask.array, labels)
    np.testing.assert_allclose(mask.index_to_lps, affine, atol=2e-5)


# Shear in any direction


@pytest.mark.parametrize("pair", [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)])
def test_any_shear_is_resampled(pair):
    row, column = pair
    axes = np.eye(3)
    axes[row, column] = 0.3
    affine = grid()
    centre = affine[:3, :3] @ [55.5, 41.5, 19.5] + affine[:3, 3]
    affine[:3, :3] = oblique() @ axes @ oblique().T @ affine[:3, :3]
    affine[:3, 3] = centre - affine[:3, :3] @ [55.5, 41.5, 19.5]
    volume = perpendicular(Volume(sampled(affine), affine, "ct"))
    directions = volume.index_to_lps[:3, :3] / volume.spacing_mm
    np.testing.assert_allclose(directions.T @ directions, np.eye(3), atol=1e-9)
    assert largest_error_voxels(volume) < 0.02
    assert len(volume.notes) == 1


def test_perpendicular_axes_stay(rng):
    volume = Volume(rng.normal(size=(4, 5, 6)), grid(), "ct")
    assert perpendicular(volume) is volume


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_an_infinite_place_is_refused_before_itk_is_asked(tmp_path, value):
    """It would never answer."""
    affine = grid(0, (9, 8, 6))
    path = write_nifti(tmp_path / "infinite.nii", sampled(affine, (9, 8, 6)), affine, affine, (3, 6))
    content = bytearray(path.read_bytes())
    struct.pack_into("<12f", content, 280, 0.7, 1, 1, -3e16, 0.7, -8e14, 1e7, value, 0, 0.7, 1, 1)
    path.write_bytes(content)
    with pytest.raises(InputError, match="sform that is singular or no number"):
        read_volume(path)


def header_changed(path, *fields):
    """The same file with (format, offset, values...) packed into its header."""
    content = bytearray(path.read_bytes())
    for form, offset, *values in fields:
        struct.pack_into(form, content, offset, *values)
    path.write_bytes(content)
    return path


def test_a_label_map_is_told_by_its_intent(tmp_path):
    # Labels about 1000, as of FreeSurfer, look like unsigned Hounsfield units.
    labels = np.where(sampled(grid()) > -500, 1040, 0).astype(np.int16)
    path = header_changed(write_nifti(tmp_path / "a.nii", labels, grid(), grid()), ("<h", 68, 1002))
    with pytest.raises(InputError, match="is a label map by its header"):
        read_volume(path)
    assert read_volume(path, "mask").array.max() == 1040


def test_several_values_a_voxel_in_a_fifth_dimension(tmp_path):
    array = sampled(grid())
    path = write_nifti(tmp_path / "a.nii", array, grid(), grid())
    path.write_bytes(path.read_bytes() + 2 * array.tobytes())
    header_changed(path, ("<8h", 40, 5, *array.shape[::-1], 1, 3, 1, 1))
    with pytest.raises(InputError, match=r"is 5D \(3 volumes\): save one of them"):
        read_volume(path)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(("kind", "order"), [(np.float32, "<"), (np.float64, ">")])
def test_what_is_no_number_is_not_read_as_water(tmp_path, suffix, kind, order):
    array = sampled(grid()).astype(np.dtype(kind).newbyteorder(order))
    array[:, :, :3] = np.nan
    path = write_nifti(tmp_path / "whole.nii", sampled(grid()), grid(), grid())
    whole = bytearray(path.read_bytes()[:352])
    if order == ">":
        for form, at in (
            ("i", 0),
            ("8h", 40),
            ("8f", 76),
            ("f", 108),
            ("2f", 112),
            ("2h", 252),
            ("18f", 256),
        ):
            struct.pack_into(">" + form, whole, at, *struct.unpack_from("<" + form, whole, at))
    struct.pack_into(order + "2h", whole, 70, 16 if kind == np.float32 else 64, 8 * np.dtype(kind).itemsize)
    content = bytes(whole) + array.tobytes()
    path = tmp_path / f"a{suffix}"
    path.write_bytes(gzip.compress(content) if suffix.endswith("gz") else content)
    with pytest.raises(InputError, match=f"has {40 * 84 * 3} NaN or infinite values: replace them"):
        read_volume(path)
