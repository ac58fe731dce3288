"""The Triton kernel: on a CUDA device where there is one, else in Triton's interpreter on the CPU."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
from SOPIRegistrationLib.projector import ProjectorVolume, project, project_with_jacobian
from SOPIRegistrationLib.projector.fused_cuda import availability
from support.objects import noise_volume
from support.projections import assert_jacobians_agree, oblique_poses, off_centre_camera, relative_difference
from support.triton_interpreter import interpreted


@pytest.fixture
def volume() -> ProjectorVolume:
    return ProjectorVolume(noise_volume((18, 15, 12)))


# The interpreter is chosen when the kernel is first compiled, so it needs a process of its own.
INTERPRETED = """
import sys
import numpy as np
import torch
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.images.volume import Volume
from SOPIRegistrationLib.projector import ProjectorVolume
from SOPIRegistrationLib.projector.fused_cuda import march

case = np.load(sys.argv[1])
volume = ProjectorVolume(Volume(case["voxels"], case["index_to_lps"]))
camera_to_padded = torch.from_numpy(volume.lps_to_padded @ se3.invert_rigid(case["T"]))
arguments = (camera_to_padded, case["K_inverse"], tuple(case["shape"].tolist()), float(case["step_mm"]))
image, jacobian = march(volume, *arguments, with_jacobian=True)
alone, none = march(volume, *arguments, with_jacobian=False)
assert none is None
assert torch.equal(alone, image)
empty = ProjectorVolume(volume.volume.same_grid(np.zeros_like(case["voxels"])))
assert not march(empty, *arguments, with_jacobian=True)[1].any()
np.savez(sys.argv[2], image=image, jacobian=jacobian)
"""


@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed (pip install triton)")
def test_kernel_agrees_with_the_cpu_in_the_interpreter(volume, tmp_path):
    camera, T = off_centre_camera(37, 21), oblique_poses(volume.volume, 2)
    result = interpreted(INTERPRETED, tmp_path, volume, camera, T)
    image, jacobian = project_with_jacobian(volume, camera, T, backend="fused_cpu")
    assert relative_difference(result["image"], image) < 1e-5
    assert_jacobians_agree(np.moveaxis(result["jacobian"], 1, -1), jacobian, stray=0.005)


@pytest.mark.skipif(not availability()[0], reason=availability()[1])
def test_kernel_agrees_with_the_cpu_on_the_device(volume):
    camera, T = off_centre_camera(122, 90), oblique_poses(volume.volume, 5)
    image, jacobian = project_with_jacobian(volume, camera, T, backend="fused_cuda")
    expected, expected_jacobian = project_with_jacobian(volume, camera, T, backend="fused_cpu")
    assert relative_difference(image, expected) < 1e-4
    assert_jacobians_agree(jacobian, expected_jacobian, stray=0.005)
    assert relative_difference(project(volume, camera, T, backend="fused_cuda"), image) < 1e-6


def test_availability_gives_a_reason():
    available, reason = availability()
    assert available == (reason == "")
