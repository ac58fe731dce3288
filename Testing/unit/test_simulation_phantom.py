"""Anatomy, densities and reproducibility of the procedural lumbar CT."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy import ndimage
from SOPIRegistrationLib.simulation.phantom import (
    LEFT_ILIUM_LABEL,
    RIB_LABEL,
    RIGHT_ILIUM_LABEL,
    SACRUM_LABEL,
    lumbar_phantom,
)
from SOPIRegistrationLib.simulation.spine import VERTEBRA_LABELS, random_spine

LUMBAR = [VERTEBRA_LABELS[level] for level in ("T12", "L1", "L2", "L3", "L4", "L5")]


@pytest.fixture(scope="module")
def phantoms():
    return {seed: lumbar_phantom(seed, 2.0) for seed in (0, 6, 11)}


def _centroid_lps(volume, mask):
    k, j, i = np.nonzero(mask)
    return volume.points_lps([i.mean(), j.mean(), k.mean()])


def test_same_seed_same_patient():
    first, again, other = (lumbar_phantom(seed, 4.0) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first.ct.array, again.ct.array)
    np.testing.assert_array_equal(first.labels.array, again.labels.array)
    np.testing.assert_array_equal(first.ct.index_to_lps, again.ct.index_to_lps)
    assert (first.labels.array != other.labels.array).mean() > 0.01


def test_grid_and_types():
    phantom = lumbar_phantom(1, 3.0, size_mm=(240, 210, 180))
    assert phantom.ct.array.shape == phantom.labels.array.shape == (60, 70, 80)
    assert phantom.ct.array.dtype == np.int16
    assert phantom.labels.array.dtype == np.uint8
    np.testing.assert_allclose(phantom.ct.index_to_lps[:3, :3], 3 * np.eye(3))
    np.testing.assert_array_equal(phantom.ct.index_to_lps, phantom.labels.index_to_lps)


def test_one_seed_is_one_body_at_every_spacing():
    size = (330, 270, 180)
    coarse, fine = (lumbar_phantom(4, spacing, size, noise_hu=0) for spacing in (3.0, 1.5))
    np.testing.assert_allclose(coarse.ct.centre_lps_mm, fine.ct.centre_lps_mm, atol=1e-4)
    k, j, i = coarse.ct.array.shape
    eights = fine.ct.array.reshape(k, 2, j, 2, i, 2).mean(axis=(1, 3, 5))
    difference = coarse.ct.array - eights
    assert np.sqrt((difference**2).mean()) < 35  # against a range of 2000
    assert abs(difference.mean()) < 2
    bone = coarse.labels.array > 0
    assert coarse.ct.array[bone].mean() == pytest.approx(eights[bone].mean(), rel=0.05)


def test_densities_are_those_of_tissues(phantoms):
    for phantom in phantoms.values():
        hu = phantom.ct.array.astype(float)
        bone = phantom.labels.array > 0
        assert np.median(hu[0, :3]) == pytest.approx(-1000, abs=10)
        soft = ndimage.binary_erosion(~bone & (hu > -300), iterations=2)
        values = hu[soft]
        assert 0.05 < ((values > -130) & (values < -70)).mean() < 0.8, "fat"
        assert 0.1 < ((values > 20) & (values < 90)).mean() < 0.9, "muscle and organs"
        assert 600 < hu[bone].max() < 1500
        deep = ndimage.binary_erosion(phantom.labels.array == VERTEBRA_LABELS["L3"], iterations=4)
        assert 40 < hu[deep].mean() < 300
        gas = (hu < -600) & ndimage.binary_fill_holes(hu > -300)
        assert gas.sum() * 8 > 2000, "bowel gas, mm3"


def test_noise_is_what_was_asked_for():
    quiet, noisy = lumbar_phantom(2, 4.0, noise_hu=0), lumbar_phantom(2, 4.0, noise_hu=15)
    np.testing.assert_array_equal(quiet.labels.array, noisy.labels.array)
    difference = noisy.ct.array.astype(float) - quiet.ct.array
    air = quiet.ct.array > -1000  # air is clipped below
    assert difference[air].std() == pytest.approx(15, rel=0.05)
    assert (quiet.ct.array[:, 0] == -1000).all()


def test_bones_of_the_trunk_are_there_in_order(phantoms):
    for phantom in phantoms.values():
        labels = phantom.labels
        heights = [_centroid_lps(labels, labels.array == label)[2] for label in [*LUMBAR, SACRUM_LABEL]]
        assert (np.diff(heights) < -15).all()
        right, left = (
            _centroid_lps(labels, labels.array == label)[0] for label in (RIGHT_ILIUM_LABEL, LEFT_ILIUM_LABEL)
        )
        spine = _centroid_lps(labels, labels.array == VERTEBRA_LABELS["L5"])[0]
        assert right < spine - 50
        assert left > spine + 50
        assert (labels.array == RIB_LABEL).sum() > 500


def test_every_vertebra_is_one_piece_with_a_canal(phantoms):
    for phantom in phantoms.values():
        for label in LUMBAR:
            bone = phantom.labels.array == label
            pieces, count = ndimage.label(bone, np.ones((3, 3, 3)))
            sizes = ndimage.sum_labels(bone, pieces, range(1, count + 1))
            assert sizes.max() > 0.995 * bone.sum()
            # At the pedicles, seen from above, the arch closes around the canal.
            shadow = bone.any(axis=0)
            canal = ndimage.binary_fill_holes(shadow) & ~shadow
            assert canal.sum() * 4 > 100, f"label {label}: canal of {canal.sum() * 4} mm2"


def test_sizes_are_those_of_vertebrae(phantoms):
    for phantom in phantoms.values():
        k, j, i = np.nonzero(phantom.labels.array == VERTEBRA_LABELS["L3"])
        assert 65 < np.ptp(i) * 2 < 125  # over the transverse processes
        assert 65 < np.ptp(j) * 2 < 110
        assert 30 < np.ptp(k) * 2 < 75


def test_discs_separate_the_bodies(phantoms):
    for phantom in phantoms.values():
        T = phantom.T_vertebra_to_lps
        for upper, lower in pairwise(LUMBAR):
            line = np.linspace(T[upper][:3, 3], T[lower][:3, 3], 60)
            i, j, k = np.rint((line - phantom.ct.index_to_lps[:3, 3]) / 2).astype(int).T
            between = phantom.labels.array[k, j, i]
            assert between[0] == upper
            assert between[-1] == lower
            gap_mm = (between == 0).mean() * np.linalg.norm(line[-1] - line[0])
            assert 2 < gap_mm < 20
            disc = phantom.ct.array[k, j, i][between == 0]
            assert np.median(disc) > 30


def test_frames_are_rigid_and_centred_on_the_bodies(phantoms):
    for phantom in phantoms.values():
        for label, T in phantom.T_vertebra_to_lps.items():
            np.testing.assert_allclose(T[:3, :3] @ T[:3, :3].T, np.eye(3), atol=1e-9)
            assert np.linalg.det(T[:3, :3]) == pytest.approx(1)
            if label in LUMBAR:
                i, j, k = np.rint(phantom.labels.lps_to_index @ T[:, 3]).astype(int)[:3]
                assert phantom.labels.array[k, j, i] == label
                assert T[2, 2] > 0.7
        # The spinous process lies behind the body (+P), the sacrum's slope tips L5 forwards.
        assert phantom.T_vertebra_to_lps[VERTEBRA_LABELS["L5"]][1, 2] < 0


def test_patients_are_not_symmetric(phantoms):
    for phantom in phantoms.values():
        bone = phantom.labels.array == VERTEBRA_LABELS["L2"]
        i = np.nonzero(bone)[2]
        middle = round(i.mean())
        reach = min(middle - i.min(), i.max() - middle)
        half = bone[:, :, middle - reach : middle + reach + 1]
        assert (half != half[:, :, ::-1]).sum() > 0.05 * bone.sum()


def test_population_varies():
    spines = [random_spine(np.random.default_rng(seed)) for seed in range(60)]
    lordosis = [np.degrees(np.arccos(s["L1"].frame.R[:, 2] @ s.sacrum.R[:, 2])) for s in spines]
    assert 30 < np.mean(lordosis) < 60
    assert 3 < np.std(lordosis) < 15
    scoliosis = [
        np.degrees(np.arcsin(s["L1"].frame.R[0, 2]) - np.arcsin(s["L5"].frame.R[0, 2])) for s in spines
    ]
    assert np.std(scoliosis) > 1.5
    assert 0.03 < np.std([s.scale for s in spines]) < 0.1
    trabecular = [s.quality.trabecular_hu for s in spines]
    assert min(trabecular) < 100 < 180 < max(trabecular)


def test_bone_is_under_the_skin(phantoms):
    for phantom in phantoms.values():
        pieces, _ = ndimage.label(phantom.ct.array < -600)
        outside = pieces == pieces[0, 0, 0]
        assert not (ndimage.binary_dilation(outside) & (phantom.labels.array > 0)).any()
