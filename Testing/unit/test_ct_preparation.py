"""CT preparation on an analytic torso: the same anatomy on any grid, wherever it lies."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.images.attenuation import MU_WATER, attenuation_of_hu
from SOPIRegistrationLib.images.ct_preparation import bone_only, prepare_ct
from SOPIRegistrationLib.images.files import read_volume
from SOPIRegistrationLib.images.volume import Volume

SPINE = np.array([10.0, 45.0])
LUNG = np.array([55.0, -10.0])
TABLE_MM = 92.0


def torso_hu(points: np.ndarray, air: float = -1000.0, table: bool = True) -> np.ndarray:
    """HU at LPS points (..., 3), mm: body, one lung, an off-centre spine of z -50..70, a table behind."""
    x, y, z = np.moveaxis(points, -1, 0)
    hu = np.full(x.shape, air)
    body = (x / 120) ** 2 + (y / 80) ** 2 < 1
    hu[body] = 40
    hu[body & (((x - LUNG[0]) / 35) ** 2 + ((y - LUNG[1]) / 45) ** 2 < 1)] = -820
    hu[body & (np.hypot(x - SPINE[0], y - SPINE[1]) < 18) & (z > -50) & (z < 70)] = 600
    if table:
        hu[(np.abs(y - TABLE_MM) < 2.5) & (np.abs(x) < 130)] = 100
    return hu


def sampled(function, shape_ijk, spacing, direction, centre=(0, 0, 0), name="torso") -> Volume:
    affine = np.eye(4)
    affine[:3, :3] = direction * np.asarray(spacing)
    affine[:3, 3] = np.asarray(centre) - affine[:3, :3] @ ((np.array(shape_ijk) - 1) / 2)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape_ijk), indexing="ij"), axis=-1)
    points = grid @ affine[:3, :3].T + affine[:3, 3]
    return Volume(function(points).astype(np.int16).transpose(2, 1, 0), affine, name)


GRIDS = {
    "axial": ((140, 110, 55), (2.0, 2.0, 3.0), np.eye(3)),
    "left-handed": ((140, 110, 55), (2.0, 2.0, 3.0), np.diag([1.0, -1, 1])),
    # Slices across i: the array of a sagittal reconstruction.
    "sagittal": ((110, 55, 90), (2.0, 3.0, 3.1), np.array([[0.0, 0, 1], [1, 0, 0], [0, -1, 0]])),
    "oblique": (
        (140, 115, 60),
        (2.0, 2.1, 3.0),
        Rotation.from_euler("xyz", [6, -5, 12], degrees=True).as_matrix(),
    ),
}


@pytest.fixture(scope="module", params=GRIDS)
def torso(request):
    volume = sampled(torso_hu, *GRIDS[request.param])
    return volume, prepare_ct(volume)


@pytest.fixture(scope="module")
def axial():
    return sampled(torso_hu, *GRIDS["axial"])


def value_at(volume: Volume, points) -> np.ndarray:
    points = np.asarray(points)
    index = points @ volume.lps_to_index[:3, :3].T + volume.lps_to_index[:3, 3]
    i, j, k = np.rint(index).astype(int).T
    return volume.array[k, j, i]


def test_attenuation_of_known_tissue():
    expected = [0, 0, 0.018, 0.02, 0.04, 0.08, 0.08]
    np.testing.assert_allclose(
        attenuation_of_hu(np.array([-3024, -1000, -100, 0, 1000, 3000, 30000.0])), np.array(expected)
    )


def test_everything_stays_where_it_was(torso):
    _, ct = torso
    for (x, y), relative, is_bone in (((-60, 10), 1.04, 0), (LUNG, 0.18, 0), (SPINE, 1.6, 1)):
        points = [[x, y, z] for z in range(-40, 41, 10)]
        np.testing.assert_allclose(value_at(ct.attenuation, points), MU_WATER * relative, rtol=1e-5)
        np.testing.assert_array_equal(value_at(ct.bone, points), is_bone)


def test_grid_is_isotropic_along_the_axes_of_the_scan(torso):
    volume, ct = torso
    spacing = ct.attenuation.spacing_mm
    np.testing.assert_allclose(spacing, volume.spacing_mm.min())
    np.testing.assert_allclose(
        ct.attenuation.index_to_lps[:3, :3] / spacing, volume.index_to_lps[:3, :3] / volume.spacing_mm
    )
    for other in (ct.bone, ct.truncated):
        np.testing.assert_array_equal(other.index_to_lps, ct.attenuation.index_to_lps)
        assert other.array.dtype == np.uint8
    assert ct.attenuation.array.dtype == np.float32


def test_table_and_air_go_body_and_lung_stay(torso):
    _, ct = torso
    array = ct.attenuation.array
    k, j, i = np.indices(array.shape)
    points = ct.attenuation.points_lps(np.stack([i, j, k], axis=-1))
    truth = attenuation_of_hu(torso_hu(points, table=False))
    beyond = (points[..., 0] / 126) ** 2 + (points[..., 1] / 86) ** 2 > 1
    # The table touches nothing, yet its nearest strip lies within a coarse voxel of the skin.
    assert array[beyond & (points[..., 1] < TABLE_MM - 6)].max(initial=0) == 0
    assert (array[beyond] > 0).mean() < 0.01
    mass = truth.sum() * np.prod(ct.attenuation.spacing_mm)
    assert array.sum() * np.prod(ct.attenuation.spacing_mm) == pytest.approx(mass, rel=0.01)


def test_rotation_centre_is_that_of_the_bone(torso):
    _, ct = torso
    np.testing.assert_allclose(ct.rotation_centre_lps_mm, [*SPINE, 10], atol=1.5)


def test_surface_points_cover_the_surface_evenly(torso):
    _, ct = torso
    points = ct.surface_points_lps_mm
    assert 1500 < len(points) < 2500
    radius = np.hypot(points[:, 0] - SPINE[0], points[:, 1] - SPINE[1])
    on_side = np.abs(radius - 18) < 3.5
    on_ends = np.minimum(np.abs(points[:, 2] + 50), np.abs(points[:, 2] - 70)) < 3.5
    assert (on_side | on_ends).all()
    # Every part of the cylinder's side has its share of the points.
    angle = np.arctan2(points[on_side, 1] - SPINE[1], points[on_side, 0] - SPINE[0])
    counts = np.histogram2d(angle, points[on_side, 2], (8, 6), [(-np.pi, np.pi), (-48, 68)])[0]
    assert counts.min() > 0.4 * counts.mean()
    nearest = cKDTree(points).query(points, k=2)[0][:, 1]
    assert nearest.min() >= ct.bone.spacing_mm[0] * 0.99


def test_same_input_same_result(axial):
    first, second = prepare_ct(axial), prepare_ct(axial)
    np.testing.assert_array_equal(first.surface_points_lps_mm, second.surface_points_lps_mm)
    np.testing.assert_array_equal(first.attenuation.array, second.attenuation.array)


def test_isotropic_scan_keeps_its_voxels():
    volume = sampled(torso_hu, (124, 90, 60), (2.2, 2.2, 2.2), np.diag([-1.0, -1, 1]))
    ct = prepare_ct(volume)
    corner = volume.lps_to_index @ ct.attenuation.index_to_lps @ [0, 0, 0, 1]
    start = np.rint(corner[:3]).astype(int)
    np.testing.assert_allclose(corner[:3], start, atol=1e-9)
    window = tuple(slice(a, a + n) for a, n in zip(start[::-1], ct.attenuation.array.shape, strict=True))
    original = attenuation_of_hu(volume.array[window].astype(np.float32))
    kept = ct.attenuation.array > 0
    np.testing.assert_array_equal(ct.attenuation.array[kept], original[kept])
    assert ct.attenuation.array.shape[1] < 90  # cropped to the body


@pytest.mark.parametrize("spacing", [2.7, 4.0, 1.6])
def test_chosen_spacing_keeps_mass_and_place(axial, spacing):
    ct = prepare_ct(axial, working_spacing_mm=spacing)
    np.testing.assert_allclose(ct.attenuation.spacing_mm, spacing)
    reference = prepare_ct(axial)
    mass = [one.attenuation.array.sum() * np.prod(one.attenuation.spacing_mm) for one in (ct, reference)]
    assert mass[0] == pytest.approx(mass[1], rel=0.015)
    np.testing.assert_allclose(ct.rotation_centre_lps_mm, reference.rotation_centre_lps_mm, atol=1)


def test_downsampling_does_not_alias():
    # Sheets of one voxel every three: their mean is what a ray across many of them meets.
    def sheets(points):
        hu = torso_hu(points, table=False)
        hu[(hu == 40) & (np.rint(points[..., 2] + 0.5) % 3 == 0)] = 1040
        return hu

    volume = sampled(sheets, (170, 115, 60), (1.5, 1.5, 1.0), np.eye(3))
    ct = prepare_ct(volume, working_spacing_mm=3.0)
    muscle = value_at(ct.attenuation, [[-60, 0, z] for z in np.arange(-20.0, 20)])
    np.testing.assert_allclose(muscle, MU_WATER * (1.04 + 1 / 3), rtol=1e-4)


def test_large_scan_is_reduced(axial):
    ct = prepare_ct(axial, most_voxels=60**3)
    assert 0.95 * 60**3 < ct.attenuation.array.size < 1.08 * 60**3
    np.testing.assert_allclose(ct.rotation_centre_lps_mm, [*SPINE, 10], atol=1.5)


# Where the scan ends


def ends(truncated: np.ndarray) -> dict:
    return {
        (axis, end): int(np.take(truncated, end, axis=axis).sum()) for axis in range(3) for end in (0, -1)
    }


def test_scan_cut_at_both_ends_is_marked_there(axial):
    ct = prepare_ct(axial)
    marked = ends(ct.truncated.array)
    area = np.pi * 120 * 80 / np.prod(ct.attenuation.spacing_mm[:2])
    for end in (0, -1):
        assert marked[0, end] == pytest.approx(area, rel=0.05)
    assert ct.truncated.array.sum() == marked[0, 0] + marked[0, -1]


def test_segmented_bone_is_marked_at_its_cut_end_only():
    def shaft(points):
        x, y, z = np.moveaxis(points, -1, 0)
        return np.where((np.hypot(x, y) < 5 + np.maximum(0, -z) / 4) & (z > -30), 1200, -1024)

    volume = sampled(shaft, (60, 60, 80), (0.5, 0.5, 0.9), np.eye(3))
    ct = prepare_ct(volume)
    marked = ends(ct.truncated.array)
    assert marked[0, -1] == pytest.approx(np.pi * 5**2 / 0.25, rel=0.15)
    assert ct.truncated.array.sum() == marked[0, -1]
    # A bone is as thin as a table: none of it may go.
    truth = attenuation_of_hu(volume.array.astype(float)).sum() * 0.5 * 0.5 * 0.9
    assert ct.attenuation.array.sum() * 0.5**3 == pytest.approx(truth, rel=0.01)
    assert ct.bone.array.sum() * 0.5**3 == pytest.approx(truth / attenuation_of_hu(1200), rel=0.02)


def test_a_segmented_bone_of_thin_marrow_is_one():
    def bone(points):
        r = np.linalg.norm(points, axis=-1)
        return np.where(r < 15, 40, np.where(r < 17, 600, -1000))

    ct = prepare_ct(sampled(bone, (40, 40, 40), (1.0, 1.0, 1.0), np.eye(3)))
    # All of it is bone, though most is as dense as muscle.
    assert ct.bone.array.sum() == pytest.approx(4 / 3 * np.pi * 17**3, rel=0.03)


@pytest.mark.parametrize("padding", [-1024, -2000, -3024])
def test_body_beyond_the_reconstruction_circle_is_marked(padding, rng):
    def scan(points):
        hu = torso_hu(points, table=False) + rng.normal(0, 12, points.shape[:-1])
        hu[np.hypot(points[..., 0], points[..., 1]) > 109] = padding
        return hu

    volume = sampled(scan, (110, 110, 50), (2.0, 2.0, 3.0), np.eye(3))
    ct = prepare_ct(volume)
    truncated = ct.truncated.array
    middle = truncated[truncated.shape[0] // 2]
    assert middle.any()
    j, i = np.nonzero(middle)
    k = np.full_like(i, truncated.shape[0] // 2)
    points = ct.truncated.points_lps(np.stack([i, j, k], axis=-1))
    assert (np.hypot(points[:, 0], points[:, 1]) > 95).all()
    assert (np.abs(points[:, 0]) > 80).all()  # the flanks, where the body is cut; not front and back


# Bones


def test_label_map_on_another_grid():
    labelled = sampled(
        lambda points: np.where(torso_hu(points) == 600, 20 + (points[..., 2] > 10), 0),
        (40, 45, 70),
        (1.5, 1.1, 2.5),
        Rotation.from_euler("xyz", [15, 25, -40], degrees=True).as_matrix(),
        (10, 45, 10),
        "labels",
    )
    volume = sampled(torso_hu, *GRIDS["oblique"])
    ct = prepare_ct(volume, mask=labelled)
    k, j, i = np.indices(ct.bone.array.shape)
    points = ct.bone.points_lps(np.stack([i, j, k], axis=-1))
    truth = torso_hu(points) == 600
    difference = (truth != ct.bone.array.astype(bool)).sum() / truth.sum()
    assert difference < 0.15  # the nearest labels of a coarser, turned grid
    np.testing.assert_allclose(ct.rotation_centre_lps_mm, [*SPINE, 10], atol=1)


def test_bone_only_is_the_body_within_the_mask(axial):
    ct = prepare_ct(axial)
    bone = bone_only(ct)
    inside = ct.bone.array > 0
    np.testing.assert_array_equal(bone.array[inside], ct.attenuation.array[inside])
    assert not bone.array[~inside].any()


def test_specks_are_no_bone(axial):
    array = axial.array.copy()
    array[20:22, 40:42, 30:32] = 900
    ct = prepare_ct(replace(axial, array=array))
    speck = axial.points_lps([30, 40, 20])
    assert not value_at(ct.bone, [speck])[0]
    assert value_at(ct.attenuation, [speck])[0] > MU_WATER * 1.5


def test_metal_is_clamped(axial):
    array = axial.array.copy()
    array[20:30, 60:64, 60:64] = 30000
    ct = prepare_ct(replace(axial, array=array))
    assert ct.attenuation.array.max() == pytest.approx(MU_WATER * 4)


def test_progress_rises_to_one(axial):
    steps = []
    prepare_ct(axial, progress=lambda fraction, what: steps.append((fraction, what)))
    fractions = [fraction for fraction, _ in steps]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0, 1)
    assert {"finding the body", "resampling", "finding the bones"} <= {what for _, what in steps}


# Refusals


def refusal(*arguments, **options) -> str:
    with pytest.raises(InputError) as caught:
        prepare_ct(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_scan_without_bone(axial):
    soft = replace(axial, array=np.minimum(axial.array, 40), name="soft.nii.gz")
    message = refusal(soft)
    assert "CT soft.nii.gz has no bone above 200 HU: give a lower --bone-threshold or a --mask" in message
    assert "above 700 HU" in refusal(axial, bone_threshold_hu=700.0)


def test_scan_without_a_body(axial):
    empty = replace(axial, array=np.full_like(axial.array, -1000), name="air.nrrd")
    assert "CT air.nrrd has no tissue above -300 HU" in refusal(empty)


def test_mask_is_empty_or_of_another_scan(axial):
    empty = replace(axial, array=np.zeros_like(axial.array), name="empty.nrrd")
    assert "mask empty.nrrd is empty" in refusal(axial, mask=empty)
    beside = axial.index_to_lps.copy()
    beside[:3, 3] += 5000
    elsewhere = Volume((axial.array == 600).astype(np.uint8), beside, "elsewhere.nrrd")
    message = refusal(axial, mask=elsewhere)
    assert "mask elsewhere.nrrd does not overlap CT torso: give the mask of this CT" in message


def test_a_ct_is_no_mask(axial):
    assert "values below 0 (down to -1000), as a CT has: give a label map" in refusal(axial, mask=axial)


def test_working_spacing_of_nothing(axial):
    assert "must be above 0 mm" in refusal(axial, working_spacing_mm=0.0)


# Real data


def test_table_of_the_real_abdomen(shared_data):
    volume = read_volume(shared_data / "ct_abdomen_pelvis_3mm.nii.gz")
    ct = prepare_ct(volume)
    np.testing.assert_allclose(ct.attenuation.spacing_mm, 3)
    # The table's shell is in the first rows of the slices; the body nearest to it starts in row 2 to 6.
    points = ct.attenuation.points_lps([0, 0, 0])
    first_row = int(np.rint((volume.lps_to_index @ [*points, 1])[1]))
    assert first_row >= 2
    before = attenuation_of_hu(volume.array.astype(np.float32))
    removed = before.sum() - ct.attenuation.array.sum()
    assert 0.005 < removed / before.sum() < 0.04
    body = volume.array > -200
    assert ct.attenuation.array[ct.attenuation.array > MU_WATER * 0.8].size > 0.985 * body.sum()
    marked = ends(ct.truncated.array)
    assert min(marked[0, 0], marked[0, -1]) > 6000
    assert max(marked[1, 0], marked[1, -1]) < 50


def test_lungs_of_the_real_thorax(shared_data):
    volume = read_volume(shared_data / "ct_thorax_1p5mm.nii.gz")
    ct = prepare_ct(volume)
    lung = (volume.array > -900) & (volume.array < -700)
    # Cropped inside the chest: lung at the border of the volume is no open air.
    assert ct.attenuation.array.shape == volume.array.shape
    assert (ct.attenuation.array[lung] > 0).mean() > 0.99


def test_real_segmented_radius(shared_data):
    volume = read_volume(shared_data / "wrist" / "radius.nii.gz")
    ct = prepare_ct(volume)
    np.testing.assert_allclose(ct.attenuation.spacing_mm, 0.390625)
    marked = ends(ct.truncated.array)
    assert marked[0, -1] == ct.truncated.array.sum() == (volume.array[-1] > -300).sum()
