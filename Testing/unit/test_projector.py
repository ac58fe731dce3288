"""The projector's backends: geometry, absolute values, Jacobian, empty space, fall-back."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.volume import Volume
from SOPIRegistrationLib.projector import ProjectorVolume, project, project_with_jacobian
from SOPIRegistrationLib.projector.autograd import project_reference
from support.objects import Ellipsoid, GaussianBlobs, noise_volume, oblique_grid
from support.projections import (
    SOD_MM,
    assert_jacobians_agree,
    jacobian_difference,
    oblique_poses,
    off_centre_camera,
    relative_difference,
)

CPU_BACKENDS = ("reference", "fused_cpu")


@pytest.fixture(scope="module")
def grid() -> Volume:
    return oblique_grid()


@pytest.fixture(scope="module")
def blobs(grid) -> GaussianBlobs:
    return GaussianBlobs.asymmetric(grid)


@pytest.fixture(scope="module")
def smooth(grid, blobs) -> ProjectorVolume:
    return ProjectorVolume(blobs.sampled(grid))


@pytest.fixture(scope="module")
def noise() -> ProjectorVolume:
    return ProjectorVolume(noise_volume())


# Geometry and absolute values


def test_a_volume_is_held_once(smooth):
    assert np.shares_memory(smooth.volume.array, smooth.voxels)
    assert smooth.voxels.shape == tuple(size + 3 for size in smooth.volume.array.shape)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("left_handed", [False, True])
def test_blobs_agree_with_their_closed_form(backend, left_handed):
    grid = oblique_grid(left_handed=left_handed)
    blobs = GaussianBlobs.asymmetric(grid)
    camera, (T,) = off_centre_camera(), oblique_poses(grid, 1)
    expected = blobs.line_integrals(camera, T)
    image = project(ProjectorVolume(blobs.sampled(grid)), camera, T, backend=backend)
    assert image.dtype == np.float32
    # Linear interpolation widens a Gaussian by h^2/6 in variance: under 1 % of the peak here.
    assert relative_difference(image, expected) < 0.01
    assert np.abs(image - expected).mean() / expected.max() < 1e-3


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_uniform_ellipsoid(grid, backend):
    axes = se3.exp_so3(np.array([0.3, 0.5, -0.9]))
    ellipsoid = Ellipsoid(grid.points_lps([50, 32, 22]), axes, np.array([21.0, 14.0, 17.0]), 0.02)
    camera, (T,) = off_centre_camera(), oblique_poses(grid, 1)
    expected = ellipsoid.line_integrals(camera, T)
    image = project(ProjectorVolume(ellipsoid.sampled(grid)), camera, T, backend=backend)
    # Only along the silhouette, where the chord ends abruptly, does the grid blur it.
    interior = expected > 0.7 * expected.max()
    assert interior.mean() > 0.05
    assert np.abs(image - expected)[interior].max() / expected.max() < 0.02
    assert abs(image.sum() / expected.sum() - 1) < 2e-3


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_central_ray_through_a_full_grid_measures_its_thickness(backend):
    """Voxels constant up to the border: nothing is lost or read beyond it."""
    spacing = np.array([2.0, 1.5, 3.0])
    volume = Volume(np.ones((12, 17, 21), np.float32), np.diag([*spacing, 1.0]))
    camera = Camera.from_c_arm(1000.0, (1.0, 1.0), 1, 1)
    T = PoseFrame(volume.centre_lps_mm, SOD_MM).T_nominal
    thickness = 17 * spacing[1]  # AP looks along the index j
    image = project(ProjectorVolume(volume), camera, T, step_mm=0.05, backend=backend)
    assert image.item() == pytest.approx(thickness, rel=1e-3)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_nothing_is_read_beyond_the_voxels(backend):
    """Samples on the far face of the grid, with poison behind the last voxel in memory."""
    volume = ProjectorVolume(Volume(np.ones((9, 8, 7), np.float32), np.eye(4)))
    size, slice_size = volume.voxels.size, volume.voxels[0].size
    memory = np.full(size + 2 * slice_size, np.nan, np.float32)
    memory[:size] = volume.voxels.ravel()
    volume.voxels = memory[:size].reshape(volume.voxels.shape)
    camera = Camera.from_c_arm(1000.0, (1.0, 1.0), 1, 1)
    along_k = PoseFrame(volume.volume.centre_lps_mm, SOD_MM, rotation=np.eye(3)).T_nominal
    image = project(volume, camera, along_k, step_mm=0.5, backend=backend)
    assert image.item() == pytest.approx(9, rel=1e-6)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_magnification(backend):
    """A blob's image is focal length over depth times as wide, where the camera sees its centre."""
    grid = Volume(np.zeros((40, 40, 40), np.float32), np.eye(4))
    blob = GaussianBlobs(grid.centre_lps_mm[None] + [2.0, -3.0, 1.0], np.array([4.0]), np.array([0.05]))
    volume = ProjectorVolume(blob.sampled(grid))
    camera = Camera.from_c_arm(1000.0, (0.9, 0.7), 140, 120, (61.0, 66.0))
    v, u = np.indices(camera.shape)
    for depth_mm in (500.0, 800.0):
        T = PoseFrame(grid.centre_lps_mm, depth_mm).T_nominal
        image = project(volume, camera, T, backend=backend).astype(np.float64)
        mass = image.sum()
        centroid = np.array([(image * u).sum(), (image * v).sum()]) / mass
        spread_mm = np.sqrt((image * (u - centroid[0]) ** 2).sum() / mass) * 0.7
        centre = T[:3, :3] @ blob.centres_lps_mm[0] + T[:3, 3]
        assert centroid == pytest.approx(camera.project(centre), abs=0.02)
        assert spread_mm == pytest.approx(np.sqrt(4.0**2 + 1 / 6) * 1000 / centre[2], rel=5e-3)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_nothing_where_rays_miss(smooth, backend):
    camera = off_centre_camera(15, 12)
    aside = PoseFrame(smooth.volume.centre_lps_mm, SOD_MM).T_from_theta(np.array([0, 0, 0, 400.0, 0, 0]))
    behind = PoseFrame(smooth.volume.centre_lps_mm, -SOD_MM).T_nominal
    image, jacobian = project_with_jacobian(smooth, camera, np.stack([aside, behind]), backend=backend)
    assert not image.any()
    assert not jacobian.any()


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_empty_volume_projects_to_zero(grid, backend):
    image, jacobian = project_with_jacobian(
        ProjectorVolume(grid), off_centre_camera(), oblique_poses(grid, 1)[0], backend=backend
    )
    assert not image.any()
    assert not jacobian.any()


def test_finer_steps_converge(smooth):
    camera, (T,) = off_centre_camera(), oblique_poses(smooth.volume, 1)
    coarse = project(smooth, camera, T)
    fine = project(smooth, camera, T, step_mm=smooth.default_step_mm / 5)
    assert relative_difference(coarse, fine) < 5e-4


# Backends


@pytest.mark.parametrize("name", ["noise", "smooth"])
def test_backends_agree(name, request):
    volume = request.getfixturevalue(name)
    camera, T = off_centre_camera(), oblique_poses(volume.volume, 3)
    image, jacobian = project_with_jacobian(volume, camera, T, backend="fused_cpu")
    expected, expected_jacobian = project_with_jacobian(volume, camera, T, backend="reference")
    assert relative_difference(image, expected) < 1e-4
    assert_jacobians_agree(jacobian, expected_jacobian, stray=0.003)


def test_image_is_the_same_with_and_without_jacobian(smooth):
    camera, T = off_centre_camera(), oblique_poses(smooth.volume, 2)
    image, _ = project_with_jacobian(smooth, camera, T)
    np.testing.assert_allclose(project(smooth, camera, T), image, rtol=0, atol=1e-6 * image.max())


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_batch_equals_singles_and_runs_repeat(noise, backend):
    camera, T = off_centre_camera(31, 24), oblique_poses(noise.volume, 4).reshape(2, 2, 4, 4)
    image, jacobian = project_with_jacobian(noise, camera, T, backend=backend)
    assert image.shape == (2, 2, 24, 31)
    assert jacobian.shape == (2, 2, 24, 31, 6)
    assert image.dtype == jacobian.dtype == np.float32
    for index in np.ndindex(2, 2):
        single, single_jacobian = project_with_jacobian(noise, camera, T[index], backend=backend)
        # The reference picks one range of samples for the whole batch, so its sums round differently.
        tolerance = 0 if backend == "fused_cpu" else 1e-5
        np.testing.assert_allclose(single, image[index], rtol=0, atol=tolerance * image.max())
        if backend == "fused_cpu":
            np.testing.assert_array_equal(single_jacobian, jacobian[index])
        else:
            assert_jacobians_agree(single_jacobian, jacobian[index], stray=0.005)
    repeated = project_with_jacobian(noise, camera, T, backend=backend)
    np.testing.assert_array_equal(repeated[0], image)
    np.testing.assert_array_equal(repeated[1], jacobian)


def test_memory_layout_and_type_of_the_voxels_do_not_matter(grid, blobs):
    voxels = (blobs.sampled(grid).array * 1e5).astype(np.int16)
    camera, (T,) = off_centre_camera(), oblique_poses(grid, 1)
    expected = project(ProjectorVolume(grid.same_grid(voxels.astype(np.float32))), camera, T)
    for array in (voxels, np.asfortranarray(voxels)):
        np.testing.assert_array_equal(project(ProjectorVolume(grid.same_grid(array)), camera, T), expected)


def test_unknown_backend(smooth):
    with pytest.raises(ValueError, match="unknown projector backend 'gpu'"):
        project(smooth, off_centre_camera(), np.eye(4), backend="gpu")


@pytest.mark.slow
def test_without_numba_the_reference_is_used_with_one_warning():
    program = """
import sys, warnings
sys.modules["numba"] = None
import numpy as np
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.images.volume import Volume
from SOPIRegistrationLib.projector import ProjectorVolume, project, project_with_jacobian, resolve_backend

volume = Volume(np.ones((8, 8, 8), np.float32), np.eye(4))
camera = Camera.from_c_arm(1000.0, (1.0, 1.0), 9, 9)
T = np.eye(4)
T[:3, 3] = -3.5, -3.5, 500.0
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(2):
        image = project(ProjectorVolume(volume), camera, T)
        project_with_jacobian(ProjectorVolume(volume), camera, T)
assert resolve_backend() == "reference"
assert abs(image[4, 4] - 8) < 0.1, image[4, 4]
about_numba = [w for w in caught if "numba" in str(w.message)]
assert len(about_numba) == 1, caught
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr


# Jacobian


def finite_differences(volume: ProjectorVolume, camera: Camera, T: np.ndarray, h: float = 1e-7) -> np.ndarray:
    """(rows, columns, 6) central differences of the reference in float64."""
    twists = h * np.concatenate([np.eye(6), -np.eye(6)])
    images = project_reference(volume, camera, torch.from_numpy(se3.exp_se3(twists) @ T)).numpy()
    return np.moveaxis((images[:6] - images[6:]) / (2 * h), 0, -1)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_jacobian_agrees_with_finite_differences(smooth, backend):
    camera = off_centre_camera(31, 24)
    for T in oblique_poses(smooth.volume, 2):
        _, jacobian = project_with_jacobian(smooth, camera, T, backend=backend)
        assert_jacobians_agree(jacobian, finite_differences(smooth, camera, T), stray=0.005)


def test_jacobian_agrees_with_the_closed_form(grid, blobs):
    """No part of the projector in the expected value: the object itself is moved."""
    camera, (T,) = off_centre_camera(31, 24), oblique_poses(grid, 1)
    volume = ProjectorVolume(blobs.sampled(grid))
    _, jacobian = project_with_jacobian(volume, camera, T, step_mm=0.1)
    h = 1e-5
    twists = h * np.concatenate([np.eye(6), -np.eye(6)])
    images = np.stack([blobs.line_integrals(camera, moved @ T) for moved in se3.exp_se3(twists)], axis=-1)
    assert jacobian_difference(jacobian, (images[..., :6] - images[..., 6:]) / (2 * h)).max() < 0.03


# Empty space


def test_skipping_empty_space_changes_nothing(grid):
    """Against the same volume on a faint pedestal, which leaves no voxel empty."""
    camera, T = off_centre_camera(), oblique_poses(grid, 2)
    voxels = np.zeros(grid.array.shape, np.float32)
    voxels[5:9, 10:13, 20:40] = 0.03
    voxels[30, 50:60, 70:75] = 0.02
    pedestal = np.full_like(voxels, 1e-3)
    sparse, dense, flat = (ProjectorVolume(grid.same_grid(a)) for a in (voxels, voxels + pedestal, pedestal))
    image, jacobian = project_with_jacobian(sparse, camera, T)
    full, full_jacobian = project_with_jacobian(dense, camera, T)
    base, base_jacobian = project_with_jacobian(flat, camera, T)
    assert relative_difference(image, full - base) < 1e-5
    assert_jacobians_agree(jacobian, full_jacobian - base_jacobian, stray=0.01)


def test_no_voxel_is_skipped(rng):
    """Lone bright voxels at every offset within a brick, corners and faces of the grid included."""
    shape = np.array([21, 18, 15])
    grid = oblique_grid((1.0, 1.2, 1.5), tuple(shape[::-1]))
    camera, T = off_centre_camera(), oblique_poses(grid, 1)[0]
    corners = [np.where(bits, shape - 1, 0) for bits in np.ndindex(2, 2, 2)]
    for position in [*corners, *rng.integers(0, shape, size=(24, 3))]:
        voxels = np.zeros(shape, np.float32)
        voxels[tuple(position)] = 1.0
        volume = ProjectorVolume(grid.same_grid(voxels))
        image = project(volume, camera, T)
        expected = project(volume, camera, T, backend="reference")
        assert expected.max() > 0.1
        assert relative_difference(image, expected) < 1e-3, position


@pytest.mark.slow
def test_two_threads_may_project_at_once():
    """Numba's workqueue layer, the only one on some systems, would end the process."""
    program = """
import threading
import numpy as np
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.images.volume import Volume
from SOPIRegistrationLib.projector import ProjectorVolume, project

volume = ProjectorVolume(Volume(np.ones((24, 24, 24), np.float32), np.eye(4)))
camera = Camera.from_c_arm(1000.0, (1.0, 1.0), 64, 64)
T = np.eye(4)
T[:3, 3] = -12, -12, 700
expected = project(volume, camera, T)
images = []
def work():
    for _ in range(100):
        images.append(project(volume, camera, T))
threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert len(images) == 300
assert all((image == expected).all() for image in images)
"""
    environment = os.environ | {"NUMBA_THREADING_LAYER": "workqueue"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_kernel_from_the_cache_gives_the_same_images(tmp_path):
    """The process that compiles it and those after it: the same bits, or nothing could be repeated."""
    program = """
import hashlib
import numpy as np
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.images.volume import Volume
from SOPIRegistrationLib.projector import ProjectorVolume, project, project_with_jacobian

voxels = np.random.default_rng(0).random((24, 30, 36), dtype=np.float32)
volume = ProjectorVolume(Volume(voxels, np.diag([1.1, 0.9, 1.3, 1.0])))
camera = Camera.from_c_arm(1000.0, (1.0, 1.0), 64, 64)
T = np.eye(4)
T[:3, 3] = -18, -14, 690
for array in (project(volume, camera, T), *project_with_jacobian(volume, camera, T)):
    print(hashlib.sha256(array.tobytes()).hexdigest())
"""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    compiling, cached = (
        subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    )
    assert list(tmp_path.rglob("*.nbc"))
    assert compiling == cached
    of_image, with_jacobian, _ = cached.split()
    assert of_image == with_jacobian
