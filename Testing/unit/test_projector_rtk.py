"""The projector against RTK's Joseph projection, and that renderer against the closed form."""

from __future__ import annotations

import numpy as np
import pytest
from SOPIRegistrationLib.evaluation.peers import installed_version
from SOPIRegistrationLib.projector import ProjectorVolume, project
from support.objects import GaussianBlobs, oblique_grid
from support.projections import oblique_poses, off_centre_camera, relative_difference
from support.rtk_renderer import render_rtk

pytestmark = pytest.mark.skipif(not installed_version("itk-rtk"), reason="itk-rtk is not installed")


@pytest.mark.parametrize("left_handed", [False, True])
def test_values_and_geometry(left_handed):
    """Anisotropic, oblique grid, off-centre principal point, other pixels along u than along v.

    Both integrate the same trilinear interpolant, RTK with one sample a slice of the grid: under 0.5 % of the
    maximum apart for an object a few voxels wide, ten times less on average.
    """
    grid = oblique_grid(left_handed=left_handed)
    blobs = GaussianBlobs.asymmetric(grid)
    volume = blobs.sampled(grid)
    camera = off_centre_camera(width=122, height=90)
    for T in oblique_poses(grid, 3):
        rtk = render_rtk(volume, camera, T)
        assert relative_difference(rtk, blobs.line_integrals(camera, T)) < 0.015
        image = project(ProjectorVolume(volume), camera, T)
        assert relative_difference(image, rtk) < 5e-3
        assert np.abs(image - rtk).mean() / rtk.max() < 5e-4


def test_views_along_every_axis():
    """Poses at which an Euler decomposition would be singular are nothing special."""
    grid = oblique_grid()
    blobs = GaussianBlobs.asymmetric(grid)
    volume = blobs.sampled(grid)
    camera = off_centre_camera()
    axes = (grid.index_to_lps[:3, :3] / grid.spacing_mm).T
    rolled = [np.roll(np.eye(3), shift, axis=0) for shift in range(3)]
    for turn in (*rolled, np.diag([1, -1, -1])):
        T = np.eye(4)
        T[:3, :3] = turn @ axes
        T[:3, 3] = [0, 0, 700] - T[:3, :3] @ grid.centre_lps_mm
        rtk = render_rtk(volume, camera, T)
        assert relative_difference(rtk, blobs.line_integrals(camera, T)) < 0.015
        assert relative_difference(project(ProjectorVolume(volume), camera, T), rtk) < 1e-2
