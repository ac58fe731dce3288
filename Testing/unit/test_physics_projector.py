"""The physics-based projector: Beer-Lambert, hardening, materials, Jacobian, torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.attenuation import METAL_CLAMP_HU, MU_WATER, attenuation_of_hu
from SOPIRegistrationLib.images.materials import CORTICAL_BONE_HU, decompose
from SOPIRegistrationLib.images.volume import Volume
from SOPIRegistrationLib.projector import (
    PolychromaticVolume,
    ProjectorVolume,
    project,
    project_with_jacobian,
)
from SOPIRegistrationLib.projector.autograd import project_differentiable
from SOPIRegistrationLib.projector.physics import Beam, BeamResponse, Spectrum
from SOPIRegistrationLib.projector.physics.beam import energy_of_water, linear_attenuation
from SOPIRegistrationLib.simulation.xray import XRayDegradation, simulate_xray
from support.objects import GaussianBlobs, oblique_grid
from support.projections import (
    SOD_MM,
    oblique_poses,
    off_centre_camera,
    relative_difference,
)
from torch.autograd import gradcheck

CPU_BACKENDS = ("fused_cpu", "reference")
CALIBRATED_KEV = energy_of_water(MU_WATER)
CORTICAL = float(attenuation_of_hu(CORTICAL_BONE_HU))
METAL = float(attenuation_of_hu(METAL_CLAMP_HU))


def beer_lambert(spectrum: Spectrum, mm: dict[str, float], calibrated: dict[str, float]) -> float:
    """-log(I / I0) behind layers, energy by energy, each scaled to attenuate as given at the CT's energy."""
    total = 0.0
    for energy, weight in zip(spectrum.energies_kev, spectrum.weights, strict=True):
        exponent = sum(
            thickness
            * calibrated[name]
            * linear_attenuation(name, energy)
            / linear_attenuation(name, CALIBRATED_KEV)
            for name, thickness in mm.items()
        )
        total += weight * np.exp(-exponent)
    return -np.log(total)


def slabs(layers: list[tuple[float, int]]) -> Volume:
    """Layers of (attenuation in 1/mm, thickness in voxels of 2 mm) along S, wide enough for the camera."""
    array = np.concatenate([np.full((count, 40, 40), value, np.float32) for value, count in layers])
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    return Volume(array, affine)


def along_axis() -> tuple[Camera, np.ndarray]:
    """One ray along S through the middle of the slabs."""
    camera = Camera.from_c_arm(1000.0, (1.0, 1.0), 1, 1)
    T = np.eye(4)
    T[:3, 3] = [-39.0, -39.0, 500.0]
    return camera, T


@pytest.fixture(scope="module")
def body() -> Volume:
    """Blobs of soft tissue to bone."""
    grid = oblique_grid((1.4, 2.0, 3.2), (48, 36, 22))
    blobs = GaussianBlobs.asymmetric(grid)
    return GaussianBlobs(blobs.centres_lps_mm, blobs.sigmas_mm, 2 * blobs.peaks).sampled(grid)


@pytest.fixture(scope="module")
def polychromatic(body) -> PolychromaticVolume:
    return PolychromaticVolume.from_attenuation(body, Beam(80))


# Materials


def test_parts_add_up_and_are_what_they_are_called():
    hu = np.array([-1000, -500, -100, 40, 100, 600, 1524, 2500, 3000], np.float32)
    attenuation = Volume(attenuation_of_hu(hu).reshape(1, 1, -1), np.eye(4))
    materials = decompose(attenuation)
    bone, soft = materials.bone.array.ravel(), materials.soft_tissue.array.ravel()
    np.testing.assert_allclose(bone + soft, attenuation.array.ravel(), rtol=1e-6)
    np.testing.assert_allclose(bone[:5], 0, atol=1e-6)
    assert 0 < bone[5] < attenuation.array.ravel()[5]
    np.testing.assert_allclose(soft[6:], 0, atol=1e-6)
    assert materials.metal is None


def test_metal_is_what_reached_the_clamp():
    hu = np.array([40, 1600, 2500, 3000], np.float32)
    attenuation = Volume(attenuation_of_hu(hu).reshape(1, 1, -1), np.eye(4))
    materials = decompose(attenuation, with_metal=True)
    assert (materials.metal.array.ravel() > 0).tolist() == [False, False, False, True]
    assert materials.bone.array.ravel()[3] == 0
    np.testing.assert_allclose(materials.soft_tissue.array.ravel()[1:], 0, atol=1e-6)


def test_bone_share_has_no_jumps():
    attenuation = Volume(np.linspace(0, 0.08, 4001, dtype=np.float32).reshape(1, 1, -1), np.eye(4))
    bone = decompose(attenuation).bone.array.ravel()
    assert np.diff(bone).min() >= 0
    assert np.diff(bone).max() < 4 * 0.08 / 4000


# Beer-Lambert


@pytest.mark.parametrize("kv", [60, 80, 120])
@pytest.mark.parametrize(("soft_voxels", "bone_voxels"), [(50, 0), (0, 10), (80, 15)])
def test_slabs_obey_beer_lambert(kv, soft_voxels, bone_voxels):
    """Against the sum over the spectrum's own energies, not the projector's bins."""
    volume = slabs([(MU_WATER, soft_voxels), (CORTICAL, bone_voxels)])
    beam = Beam(kv)
    camera, T = along_axis()
    image = project(PolychromaticVolume.from_attenuation(volume, beam), camera, T, step_mm=0.25)
    # The projector's own thickness of each layer: interpolation mixes the materials where they meet.
    expected = beer_lambert(
        beam.spectrum,
        {"soft tissue": 2.0 * soft_voxels, "cortical bone": 2.0 * bone_voxels},
        {"soft tissue": MU_WATER, "cortical bone": CORTICAL},
    )
    assert image[0, 0] == pytest.approx(expected, rel=5e-3)


def test_metal_slab_has_the_attenuation_of_its_element_not_of_the_clamp():
    volume = slabs([(MU_WATER, 30), (METAL, 3)])
    camera, T = along_axis()
    spectrum = Beam(100).spectrum
    titanium = PolychromaticVolume.from_attenuation(volume, spectrum, metal="Ti")
    image = project(titanium, camera, T, step_mm=0.25)[0, 0]
    expected = beer_lambert(
        spectrum,
        {"soft tissue": 60.0, "Ti": 6.0},
        {"soft tissue": MU_WATER, "Ti": linear_attenuation("Ti", CALIBRATED_KEV)},
    )
    assert image == pytest.approx(expected, rel=1e-2)
    as_bone = project(PolychromaticVolume.from_attenuation(volume, spectrum), camera, T, step_mm=0.25)[0, 0]
    assert image > as_bone + 0.5


@pytest.mark.parametrize("metal", [None, "Ti"])
def test_unknown_metals_and_known_ones(body, metal):
    volume = PolychromaticVolume.from_attenuation(body, metal=metal)
    assert len(volume.parts) == (2 if metal is None else 3)
    with pytest.raises(InputError, match="no attenuation is known of 'Au'"):
        PolychromaticVolume.from_attenuation(body, metal="Au")


def test_at_the_energy_of_the_ct_it_is_the_monochromatic_projector(body):
    camera, poses = off_centre_camera(), oblique_poses(body, 2)
    single = PolychromaticVolume.from_attenuation(body, Spectrum.monochromatic(CALIBRATED_KEV))
    image, jacobian = project_with_jacobian(single, camera, poses)
    plain, plain_jacobian = project_with_jacobian(ProjectorVolume(body), camera, poses)
    assert relative_difference(image, plain) < 1e-5
    assert relative_difference(jacobian, plain_jacobian) < 1e-5


def test_at_one_other_energy_soft_tissue_is_scaled():
    """No bone, one energy: the monochromatic projection times a ratio of attenuations."""
    volume = slabs([(MU_WATER, 40)])
    camera, T = along_axis()
    single = PolychromaticVolume.from_attenuation(volume, Spectrum.monochromatic(45.0))
    ratio = linear_attenuation("soft tissue", 45.0) / linear_attenuation("soft tissue", CALIBRATED_KEV)
    assert project(single, camera, T) == pytest.approx(
        ratio * project(ProjectorVolume(volume), camera, T), rel=1e-5
    )


def test_beam_hardens():
    """Every further layer attenuates less than the one before, the more so the wider the spectrum."""
    response = BeamResponse(Beam(100).spectrum)
    soft = np.arange(0, 7, dtype=np.float32)
    image, (slope, _) = response([soft, np.zeros_like(soft)])
    assert image[0] == 0
    assert (np.diff(image, 2) < -0.005).all()
    assert (np.diff(slope) < 0).all()
    unfiltered, _ = BeamResponse(Beam(100, ()).spectrum)([soft, np.zeros_like(soft)])
    assert unfiltered[6] / unfiltered[1] < image[6] / image[1] < 6


def test_bone_attenuates_low_energies_more_than_soft_tissue():
    """The same line integral at the energy of the CT, in bone instead of soft tissue."""
    two, none = np.full(1, 2.0, np.float32), np.zeros(1, np.float32)
    for energy, sign in ((45, 1), (CALIBRATED_KEV, 0), (100, -1)):
        response = BeamResponse(Spectrum.monochromatic(energy))
        difference = (response([two, two])[0] - response([two, none])[0]).item()
        assert abs(difference) < 1e-5 if sign == 0 else sign * difference > 0.3


def test_thick_layers_do_not_underflow():
    integrals = [np.array([0, 30, 100, 300], np.float32), np.array([0, 10, 60, 200], np.float32)]
    image, derivatives = BeamResponse(Beam(80).spectrum)(integrals)
    assert np.isfinite(image).all()
    assert (np.diff(image) > 5).all()
    assert all(np.isfinite(derivative).all() for derivative in derivatives)


def test_empty_rays_stay_exactly_zero(polychromatic, body):
    camera, (T,) = off_centre_camera(), oblique_poses(body, 1)
    plain = project(ProjectorVolume(body), camera, T)
    image = project(polychromatic, camera, T)
    assert (plain == 0).any()
    assert ((image == 0) == (plain == 0)).all()


def test_scatter_and_noise_go_on_top(polychromatic, body):
    camera, (T,) = off_centre_camera(), oblique_poses(body, 1)
    image = project(polychromatic, camera, T)
    degraded = simulate_xray(image, XRayDegradation(scatter_to_primary=0.5, photons=1e5), 3).image
    assert degraded.mean() < image.mean() - 0.2
    assert np.corrcoef(degraded.ravel(), image.ravel())[0, 1] > 0.9


# Derivatives


def test_response_derivatives_against_finite_differences():
    response = BeamResponse(Beam(90).spectrum, metal="Ti")
    integrals = [torch.tensor([v], dtype=torch.float64, requires_grad=True) for v in (5.0, 1.2, 0.3)]
    _, derivatives = response([integral.detach() for integral in integrals])
    for number, derivative in enumerate(derivatives):
        moved = [
            response([x.detach() + sign * 1e-5 * (i == number) for i, x in enumerate(integrals)])[0]
            for sign in (1, -1)
        ]
        assert derivative.item() == pytest.approx((moved[0] - moved[1]).item() / 2e-5, rel=1e-6)


def test_jacobian_against_finite_differences(polychromatic, body):
    camera, (T,) = off_centre_camera(), oblique_poses(body, 1)
    _, jacobian = project_with_jacobian(polychromatic, camera, T, step_mm=0.5)
    steps = np.array([1e-4] * 3 + [0.05, 0.05, 0.2])
    for column, step in enumerate(steps):
        twist = np.zeros(6)
        twist[column] = step
        ahead, behind = (
            project(polychromatic, camera, se3.exp_se3(sign * twist) @ T, step_mm=0.5).astype(float)
            for sign in (1, -1)
        )
        difference = (ahead - behind) / (2 * step)
        error = np.abs(jacobian[..., column] - difference)
        scale = np.abs(jacobian[..., :3] if column < 3 else jacobian[..., 3:]).max()
        assert np.quantile(error, 0.99) < 0.02 * scale
        # Depth is a small difference of large terms, and the sampling along the ray adds to it.
        least = 0.95 if column == 5 else 0.999
        assert np.corrcoef(jacobian[..., column].ravel(), difference.ravel())[0, 1] > least


def test_backends_agree(polychromatic, body):
    """In the image; that their Jacobians do is tested line integral by line integral."""
    camera, poses = off_centre_camera(), oblique_poses(body, 1)
    image, expected = (project(polychromatic, camera, poses, backend=name) for name in CPU_BACKENDS)
    assert relative_difference(image, expected) < 1e-4


def test_batches_are_stacked_singles(polychromatic, body):
    camera, poses = off_centre_camera(), oblique_poses(body, 3)
    images, jacobians = project_with_jacobian(polychromatic, camera, poses)
    for T, image, jacobian in zip(poses, images, jacobians, strict=True):
        single, single_jacobian = project_with_jacobian(polychromatic, camera, T)
        np.testing.assert_allclose(single, image, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(single_jacobian, jacobian, rtol=1e-4, atol=1e-6)


def test_torch_gradient_is_the_jacobian_transposed(polychromatic, body):
    camera, poses = off_centre_camera(), oblique_poses(body, 2)
    T = torch.from_numpy(poses)
    shift = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    moved = torch.cat([torch.cat([T[:, :3, :3], T[:, :3, 3:] + shift[..., None]], dim=-1), T[:, 3:]], dim=1)
    image = project_differentiable(polychromatic, camera, moved, backend="fused_cpu")
    expected, jacobian = project_with_jacobian(polychromatic, camera, poses)
    np.testing.assert_allclose(image.detach().numpy(), expected, rtol=1e-5, atol=1e-6)
    g = torch.randn(image.shape, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad(image, shift, g)
    np.testing.assert_allclose(
        gradient.numpy(), np.einsum("bvu,bvuk->bk", g.numpy(), jacobian[..., 3:]), rtol=1e-3, atol=1e-3
    )


def test_torch_double_backward_in_the_incoming_gradient(polychromatic, body):
    camera = off_centre_camera(8, 6)
    frame = PoseFrame(body.centre_lps_mm, SOD_MM)
    theta = torch.tensor([[0.2, -0.3, 0.25, 4.0, -6.0, 20.0]], dtype=torch.float64, requires_grad=True)
    image = project_differentiable(polychromatic, camera, frame.T_from_theta(theta), backend="fused_cpu")

    def vector_jacobian(g):
        return torch.autograd.grad(image, theta, g.float(), create_graph=True)[0]

    g = torch.randn(image.shape, dtype=torch.float64, requires_grad=True)
    assert gradcheck(vector_jacobian, g, eps=0.5, atol=1e-3, rtol=1e-3)
