"""Signed distances, partial volume and random fields that the phantom is painted with."""

from __future__ import annotations

import numpy as np
import pytest
from SOPIRegistrationLib.simulation.fields import BoneShape, Frame, Grid, Rod, SmoothField, chain


def test_distance_of_a_round_rod_is_exact():
    grid = Grid.centred((40, 36, 44), 2.0)
    a, b = np.array([-6.0, 3, -8]), np.array([5.0, -2, 9])
    rod = Rod(a, b, (4.0, 4.0), (4.0, 4.0), (1, 0.3, 0))
    x, y, z = (np.broadcast_to(c, grid.shape) for c in grid.coordinates)
    points = np.stack([x, y, z], axis=-1)
    share = np.clip((points - a) @ (b - a) / np.sum((b - a) ** 2), 0, 1)
    expected = np.linalg.norm(points - a - share[..., None] * (b - a), axis=-1) - 4
    # A few points lie on the axis itself, where the estimate is soft.
    off_axis = expected > -3.5
    np.testing.assert_allclose(rod.distance(grid)[off_axis], expected[off_axis], atol=0.02)


def test_flat_rod_has_its_half_widths_across_and_along_flat():
    rod = Rod(np.array([0.0, -20, 0]), np.array([0.0, 20, 0]), (3, 8), (3, 8), (0, 0, 1))
    line = np.linspace(-12, 12, 2401).astype(np.float32)
    zero = np.zeros(1, np.float32)
    across = rod.distance(Grid(line, zero, zero, 0.01)).ravel()
    along = rod.distance(Grid(zero, zero, line, 0.01)).ravel()
    assert np.ptp(line[across < 0]) == pytest.approx(6, abs=0.05)
    assert np.ptp(line[along < 0]) == pytest.approx(16, abs=0.05)


def test_placed_rod_turns_scales_and_mirrors():
    R = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    frame = Frame(R, np.array([10.0, 20, 30]), 2.0)
    rod = Rod(np.array([1.0, 0, 0]), np.array([3.0, 1, 0]), (1, 2), (1, 1), (0, 0, 1))
    right = rod.placed(frame.side(-1))
    np.testing.assert_allclose(right.a, [10, 18, 30])
    np.testing.assert_allclose(right.b, [8, 14, 30])
    assert right.radii_a == (2, 4)
    np.testing.assert_allclose(frame.side(-1).points([1, 2, 3]), frame.points([-1, 2, 3]))


@pytest.mark.parametrize("spacing", [0.7, 1.3, 2.0])
def test_partial_volume_keeps_the_volume_of_a_ball(spacing):
    grid = Grid.centred((30, 30, 30), spacing)
    coverage = grid.coverage(Rod.ball(np.array([0.3, -0.4, 0.2]), 10.0).distance(grid))
    assert coverage.sum() * grid.spacing_mm**3 == pytest.approx(4 / 3 * np.pi * 1000, rel=0.012)


def test_cortex_has_its_thickness_at_every_spacing():
    for spacing in (0.8, 2.0):
        grid = Grid.centred((60, 60, 60), spacing)
        bone = BoneShape(grid, (-28, -28, -28), (28, 28, 28))
        bone.add(Rod.ball(np.zeros(3), 20.0), 1.0, 0.5)
        shell = bone.grid.coverage(bone.outer) - bone.grid.coverage(bone.marrow)
        assert shell.sum() * spacing**3 == pytest.approx(4 / 3 * np.pi * (20**3 - 19**3), rel=0.03)


def test_joint_space_keeps_bones_apart():
    grid = Grid.centred((60, 40, 40), 1.0)
    left, right = (BoneShape(grid, (-30, -20, -20), (30, 20, 20)) for _ in range(2))
    left.add(Rod.ball(np.array([-8.0, 0, 0]), 10.0), 1.0)
    right.add(Rod.ball(np.array([8.0, 0, 0]), 10.0), 1.0)
    right.keep_clear_of(left.outer, 2.0, 1.0)
    assert not ((left.outer < 0) & (right.outer < 0)).any()
    assert (left.outer[right.outer < 0]).min() >= 2.0 - 1e-4


def test_smooth_field_is_one_function_of_position():
    size = (60, 50, 40)
    field = SmoothField(np.random.default_rng(3), size, 7.0)
    coarse, fine = Grid.centred(size, 2.0), Grid.centred(size, 1.0)
    # A coarse voxel's centre is the mean of the eight fine ones around it.
    eights = field.on(fine).reshape(20, 2, 25, 2, 30, 2).mean(axis=(1, 3, 5))
    np.testing.assert_allclose(field.on(coarse), eights, atol=0.08)
    part = coarse.crop((slice(3, 9), slice(2, 12), slice(5, 25)))
    np.testing.assert_allclose(field.on(part), field.on(coarse)[3:9, 2:12, 5:25], atol=1e-5)


def test_smooth_field_has_unit_variance():
    grid = Grid.centred((120, 120, 120), 3.0)
    values = SmoothField(np.random.default_rng(0), (120, 120, 120), 6.0).on(grid)
    assert values.std() == pytest.approx(1, rel=0.05)
    assert abs(values.mean()) < 0.05


def test_chain_joins_points_with_their_radii():
    rods = chain([(0, 0, 0), (1, 0, 0), (2, 1, 0)], [(1, 2), (3, 4), (5, 6)])
    assert [rod.radii_a for rod in rods] == [(1, 2), (3, 4)]
    assert rods[1].radii_b == (5, 6)
    np.testing.assert_array_equal(rods[0].b, rods[1].a)
