"""Cone-beam projection of a volume: DRRs and their exact pose Jacobians.

One signature, three backends (``reference``: torch; ``fused_cpu``: numba; ``fused_cuda``: Triton) that
agree to 1e-4 of the image's maximum. Differentiation by torch's autograd: :mod:`.autograd`. Images of a
beam of many energies, by the same functions: :mod:`.physics`.
"""

from __future__ import annotations

import warnings
from functools import cache
from importlib.util import find_spec

import numpy as np

from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.images.volume import Volume
from SOPIRegistrationLib.projector.physics import PolychromaticVolume, SeenVolume
from SOPIRegistrationLib.projector.volume import ProjectorVolume

__all__ = [
    "BACKENDS",
    "PolychromaticVolume",
    "ProjectorVolume",
    "SeenVolume",
    "load_kernels",
    "project",
    "project_with_jacobian",
    "remove_shift_along_rays",
    "resolve_backend",
]

BACKENDS = ("auto", "reference", "fused_cpu", "fused_cuda")


@cache
def _cpu_backend() -> str:
    if find_spec("numba") is not None:
        return "fused_cpu"
    warnings.warn(
        "numba is not installed: projecting with the slow torch reference (pip install numba)",
        stacklevel=3,
    )
    return "reference"


def resolve_backend(name: str = "auto") -> str:
    """The backend that a name stands for; "auto" is the fastest one for numpy results on this machine.

    Raises:
        ValueError: no backend of that name, or it cannot run on this machine.
    """
    if name not in BACKENDS:
        raise ValueError(f"unknown projector backend '{name}': use one of {', '.join(BACKENDS)}")
    if name == "fused_cuda":
        from SOPIRegistrationLib.projector.fused_cuda import availability

        available, reason = availability()
        if not available:
            raise ValueError(f"the projector backend 'fused_cuda' cannot run here: {reason}")
    return _cpu_backend() if name == "auto" else name


def project(
    volume: ProjectorVolume | SeenVolume,
    camera: Camera,
    T_lps_to_world,
    step_mm: float | None = None,
    backend: str | None = None,
) -> np.ndarray:
    """Line integrals of a volume along the ray of every pixel (a DRR).

    Args:
        volume: what to project, attenuation in 1/mm for line integrals without unit; a :class:`SeenVolume`
            for what a detector makes of them (:class:`PolychromaticVolume`: the log attenuation of a beam).
        camera: intrinsics, image size and extrinsics; a single C-arm's camera is the world.
        T_lps_to_world: (..., 4, 4) poses, mm.
        step_mm: sampling step along the ray; the smallest voxel edge unless given.
        backend: one of ``BACKENDS``; the volume's own unless given.

    Returns:
        (..., rows, columns) float32.
    """
    return _run(volume, camera, T_lps_to_world, step_mm, backend, with_jacobian=False)[0]


def project_with_jacobian(
    volume: ProjectorVolume | SeenVolume,
    camera: Camera,
    T_lps_to_world,
    step_mm: float | None = None,
    backend: str | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Line integrals and their derivative by the pose.

    Arguments as for :func:`project`.

    Returns:
        image (..., rows, columns) and Jacobian (..., rows, columns, 6), float32: the derivative by the
        twist (w rad, v mm) of ``exp(twist) T_world_to_camera T_lps_to_world``, in the camera frame.
    """
    return _run(volume, camera, T_lps_to_world, step_mm, backend, with_jacobian=True)


def load_kernels() -> None:
    """Load the compiled kernel of this machine's backend; compile it first where no process has (10 s)."""
    volume = ProjectorVolume(Volume(np.ones((4, 4, 4), np.float32), np.eye(4)))
    T = np.eye(4)
    T[2, 3] = 500.0
    project(volume, Camera.from_c_arm(1000.0, (1.0, 1.0), 8, 8), T)


def remove_shift_along_rays(jacobian: np.ndarray, rays: np.ndarray) -> None:
    """Take out, in place, what a Jacobian (B, 6, rows, columns) says of a shift along each pixel's ray, (3,
    rows, columns) unit vectors in camera axes."""
    # The integral does not change with it; the sum over samples does, at random from pixel to pixel: noise
    # that would dominate the weak curvature by depth.
    along = np.einsum("bkvu,kvu->bvu", jacobian[:, 3:], rays)
    jacobian[:, 3:] -= along[:, None] * rays


def _run(volume, camera, T_lps_to_world, step_mm, backend, with_jacobian):
    if isinstance(volume, SeenVolume):
        parts = [_run(part, camera, T_lps_to_world, step_mm, backend, with_jacobian) for part in volume.parts]
        return volume.response.projection(*zip(*parts, strict=True), with_jacobian)
    T = np.asarray(T_lps_to_world, dtype=np.float64)
    poses = camera.T_world_to_camera @ T.reshape(-1, 4, 4)
    camera_to_padded = volume.lps_to_padded @ se3.invert_rigid(poses)
    step_mm = step_mm or volume.default_step_mm
    march = _march_function(resolve_backend(backend or volume.backend))
    image, jacobian = march(volume, camera_to_padded, camera.K_inverse, camera.shape, step_mm, with_jacobian)
    image = image.reshape(*T.shape[:-2], *camera.shape)
    if with_jacobian:
        jacobian = np.moveaxis(jacobian, 1, -1).reshape(*T.shape[:-2], *camera.shape, 6)
    return image, jacobian


def _march_function(backend: str):
    if backend == "fused_cpu":
        from SOPIRegistrationLib.projector.fused_cpu import march
    elif backend == "fused_cuda":
        from SOPIRegistrationLib.projector.fused_cuda import march
    else:
        from SOPIRegistrationLib.projector.autograd import march_reference as march
    return march
