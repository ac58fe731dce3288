"""Rays that meet the object where it was not scanned."""

from __future__ import annotations

import numpy as np
from SOPIRegistrationLib.compare.objective import comparable_pixels
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.images.radiograph import PreparedRadiograph
from SOPIRegistrationLib.subject.moving import MovingVolume, beyond_border
from support.objects import oblique_grid
from support.projections import oblique_poses

GRID = oblique_grid((1.4, 2.0, 3.2), (60, 48, 26))
# The object leaves the scan through part of its last slice, off its middle.
LEAVES = (-1, slice(8, 30), slice(20, 50))


def border(where=LEAVES):
    mask = np.zeros(GRID.array.shape, np.float32)
    mask[where] = 1
    return GRID.same_grid(mask)


def index_of(volume, marked):
    """(3, n) voxel indices i, j, k on the scan's grid of a volume's marked voxels."""
    k, j, i = np.nonzero(marked)
    points = volume.points_lps(np.stack([i, j, k], axis=-1))
    return GRID.lps_to_index[:3, :3] @ points.T + GRID.lps_to_index[:3, 3:]


def test_the_end_of_a_scan_goes_on_outwards():
    [beyond] = beyond_border(border())
    index, half = index_of(beyond, beyond.array), beyond.spacing_mm / GRID.spacing_mm / 2
    assert index[2].min() > 25 - half[2]
    assert (index[2].max() - 25) * GRID.spacing_mm[2] > 290
    for axis, low, high in ((0, 20, 49), (1, 8, 29)):
        assert abs(index[axis].min() - half[axis] - low) <= 2 * half[axis]
        assert abs(index[axis].max() + half[axis] - high) <= 2 * half[axis]


def test_an_object_in_a_tight_box_goes_on_only_through_the_end_of_the_scan():
    """Its last slice meets the sides of the box, through which it does not leave."""
    [beyond] = beyond_border(border(np.s_[0]))
    index = index_of(beyond, beyond.array)
    half = 4.0 / GRID.spacing_mm
    assert index[2].max() < half[2]
    for axis, last in ((0, 59), (1, 47)):
        assert index[axis].min() > -half[axis]
        assert index[axis].max() < last + half[axis]


def test_an_object_that_leaves_through_no_face_goes_on_nowhere():
    assert beyond_border(border(np.s_[5:9, 5:9, 5:9])) == []


def test_every_face_goes_on_by_itself():
    """Each mask is as large as its face's continuation, not as a box about all of them."""
    both = border(np.s_[0])
    both.array[:, -1] = 1
    low, side = beyond_border(both)
    assert index_of(low, low.array)[2].max() < 0 < index_of(side, side.array)[2].max()
    assert index_of(side, side.array)[1].min() > 47
    np.testing.assert_array_equal(np.array(low.array.shape)[1:], np.ceil(np.array([48, 60]) / [2, 3]))
    assert (low.array[:, 0, 1:-1] == 1).all()


def test_rays_are_compared_that_meet_only_what_was_scanned():
    """Against points every millimetre along each ray, asked one by one where they lie."""
    camera = Camera.from_c_arm(1000.0, (3.0, 3.0), 64, 56)
    (T,) = oblique_poses(GRID, 1)
    moving = MovingVolume(GRID.same_grid(np.ones(GRID.array.shape, np.float32)), border())
    xray = PreparedRadiograph(np.zeros(camera.shape, np.float32), np.ones(camera.shape, dtype=bool), camera)
    (compared,) = comparable_pixels(xray, moving, T[None])

    depths = np.arange(300.0, 1000.0)
    points = camera.unit_rays()[:, :, None] * depths[:, None]
    to_index = GRID.lps_to_index @ np.linalg.inv(T)
    index = points @ to_index[:3, :3].T + to_index[:3, 3]

    def meets(slack):
        """Whether rays meet the continued end, made larger by so many mm."""
        slack = slack / GRID.spacing_mm
        low = np.array([19.5, 7.5, 24.5]) - slack
        high = np.array([49.5, 29.5, 25.5 + 300 / GRID.spacing_mm[2]]) + slack
        return ((index > low) & (index < high)).all(axis=-1).any(axis=-1)

    surely, perhaps = meets(-4.0), meets(9.0)
    assert 0.03 < surely.mean() < perhaps.mean() < 0.6
    assert not compared[surely].any()
    assert compared[~perhaps].all()
    assert comparable_pixels(xray, moving.without_truncation(), T[None]).all()
