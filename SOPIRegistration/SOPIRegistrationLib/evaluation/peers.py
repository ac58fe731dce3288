"""Other DRR renderers behind one interface and in our geometry, to compare with: RTK, nanodrr, DiffDRR.

Every renderer is built for a volume and a camera and called with a pose; gradients come back as twists
(w rad, v mm) in the camera frame, as in :mod:`SOPIRegistrationLib.projector`, so that images and
gradients of any two can be compared number by number. The packages are optional: building a renderer
whose package is absent raises ImportError.
"""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.images.volume import Volume
from SOPIRegistrationLib.projector import ProjectorVolume, project, project_with_jacobian, resolve_backend

# Slow to import: only the renderers that are built on it need it.
if TYPE_CHECKING:
    import torch

# Where a calibration has no detector distance any serves: a projection depends on K alone.
_ANY_SDD_MM = 1000.0


def installed_version(distribution: str) -> str | None:
    """Version of an installed package, None where it is absent."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


class Ours:
    """This project's projector, at its default step (the smallest voxel edge)."""

    distribution: ClassVar[str] = "sopi-registration"
    has_gradient: ClassVar[bool] = True

    def __init__(self, volume: Volume, camera: Camera):
        self.name = f"ours ({resolve_backend()})"
        self._volume = ProjectorVolume(volume)
        self._camera = camera

    def image(self, T_lps_to_camera) -> np.ndarray:
        """(rows, columns) float32 line integrals at the pose (4, 4)."""
        return project(self._volume, self._camera, T_lps_to_camera)

    def image_and_gradient(self, T_lps_to_camera, weights) -> tuple[np.ndarray, np.ndarray]:
        """Image (rows, columns) at a pose (4, 4), mm, and the gradient (6,) of ``sum(weights * image)`` by
        its twist."""
        image, jacobian = project_with_jacobian(self._volume, self._camera, T_lps_to_camera)
        return image, np.einsum("vu,vuk->k", weights, jacobian)


class Rtk:
    """RTK's Joseph forward projection (itk-rtk): an independent, compiled reference.

    The volume is placed in a frame fixed to the camera, through the direction and origin of its ITK image,
    and RTK's circular geometry stays at gantry angle zero: it has no Euler angles to decompose then, whatever
    the pose. That frame is the camera's with z reversed, because RTK looks along -z and counts the detector
    along +x and +y; line integrals do not know that it is left-handed.

    Raises:
        ValueError: the grid is sheared or the detector skewed (RTK has neither).
    """

    distribution: ClassVar[str] = "itk-rtk"
    has_gradient: ClassVar[bool] = False

    def __init__(self, volume: Volume, camera: Camera):
        import itk
        from itk import RTK

        axes = volume.index_to_lps[:3, :3] / volume.spacing_mm
        if np.abs(axes.T @ axes - np.eye(3)).max() > 1e-6:
            raise ValueError("RTK needs a volume with orthogonal axes")
        if abs(camera.K[0, 1]) > 1e-9:
            raise ValueError("RTK needs a detector without skew")
        self.name = "RTK Joseph"
        self._itk, self._rtk = itk, RTK
        self._volume = volume
        # One layer of zeros: interpolation falls to zero outside the grid, as ours does.
        self._voxels = np.pad(np.ascontiguousarray(volume.array, dtype=np.float32), 1)
        self._ct = itk.image_view_from_array(self._voxels)
        self._sdd_mm = camera.sdd_mm or _ANY_SDD_MM
        pitch_x, pitch_y = self._sdd_mm / camera.K[0, 0], self._sdd_mm / camera.K[1, 1]
        self._spacing = [pitch_x, pitch_y, 1.0]
        self._origin = [-camera.K[0, 2] * pitch_x, -camera.K[1, 2] * pitch_y, 0.0]
        self._shape = (1, *camera.shape)

    def image(self, T_lps_to_camera) -> np.ndarray:
        """(rows, columns) float32 line integrals at the pose (4, 4)."""
        depth_mm = float((T_lps_to_camera @ [*self._volume.centre_lps_mm, 1.0])[2])
        camera_to_rtk = np.diag([1.0, 1.0, -1.0, 1.0])
        camera_to_rtk[2, 3] = depth_mm
        index_to_rtk = camera_to_rtk @ T_lps_to_camera @ self._volume.index_to_lps
        spacing = self._volume.spacing_mm
        self._ct.SetSpacing(spacing.tolist())
        self._ct.SetDirection(self._itk.matrix_from_array(index_to_rtk[:3, :3] / spacing))
        self._ct.SetOrigin((index_to_rtk @ [-1.0, -1.0, -1.0, 1.0])[:3].tolist())
        self._ct.Modified()

        geometry = self._rtk.ThreeDCircularProjectionGeometry.New()
        geometry.AddProjection(depth_mm, self._sdd_mm, 0.0)
        detector = self._itk.image_from_array(np.zeros(self._shape, np.float32))
        detector.SetSpacing(self._spacing)
        detector.SetOrigin(self._origin)
        image_type = self._itk.Image[self._itk.F, 3]
        joseph = self._rtk.JosephForwardProjectionImageFilter[image_type, image_type].New()
        joseph.SetInput(0, detector)
        joseph.SetInput(1, self._ct)
        joseph.SetGeometry(geometry)
        joseph.Update()
        return self._itk.array_from_image(joseph.GetOutput())[0]


class _TorchPeer:
    """A renderer whose pose is the torch matrix camera -> LPS, differentiated by autograd.

    The matrix itself is the leaf: nothing is spent on a parametrisation of the pose.
    """

    has_gradient: ClassVar[bool] = True

    def to(self, device: torch.device | str):
        """The same renderer on a device."""
        raise NotImplementedError

    def render(self, T_camera_to_lps: torch.Tensor) -> torch.Tensor:
        """(B, 4, 4) float32 to (B, rows, columns), on the renderer's device, differentiable."""
        raise NotImplementedError

    def image(self, T_lps_to_camera) -> np.ndarray:
        """(rows, columns) float32 line integrals at the pose (4, 4)."""
        import torch

        with torch.no_grad():
            return self.render(_leaf(T_lps_to_camera))[0].numpy()

    def image_and_gradient(self, T_lps_to_camera, weights) -> tuple[np.ndarray, np.ndarray]:
        """As :meth:`Ours.image_and_gradient`, by forward and backward."""
        import torch

        T_camera_to_lps = _leaf(T_lps_to_camera).requires_grad_()
        image = self.render(T_camera_to_lps)[0]
        (image * torch.from_numpy(weights)).sum().backward()
        return image.detach().numpy(), _twist_gradient(T_camera_to_lps)


def _leaf(T_lps_to_camera) -> torch.Tensor:
    import torch

    return torch.from_numpy(se3.invert_rigid(np.asarray(T_lps_to_camera))[None]).float()


def _twist_gradient(T_camera_to_lps: torch.Tensor) -> np.ndarray:
    """Gradient by the twist x of ``exp(x) T_lps_to_camera`` from that by the inverse matrix."""
    # d(T^-1) = -T^-1 hat(x): the trace of the product picks hat's six entries.
    product = -(T_camera_to_lps[0].detach().mT @ T_camera_to_lps.grad[0]).double().numpy()
    rotation = product[:3, :3] - product[:3, :3].T
    return np.array([rotation[2, 1], rotation[0, 2], rotation[1, 0], *product[:3, 3]])


class NanoDrr(_TorchPeer):
    """nanodrr's ray marching through a ``DRR`` module (rays made once), torch backend.

    Args:
        volume, camera: what to render and how.
        samples: samples along the part of each ray inside the volume; nanodrr's default is 500.
    """

    distribution: ClassVar[str] = "nanodrr"

    def __init__(self, volume: Volume, camera: Camera, samples: int = 500):
        import torch
        from nanodrr.data import Subject
        from nanodrr.drr import DRR

        self.name = f"nanodrr, {samples} samples"
        self._samples = samples
        self._subject = Subject.from_images(_torchio_image(volume), convert_to_mu=False)
        # Its first pixel's centre is (0.5, 0.5).
        half = np.array([[1.0, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
        K_inverse = torch.from_numpy(np.linalg.inv(half @ camera.K)[None]).float()
        sdd = torch.tensor([camera.sdd_mm or _ANY_SDD_MM])
        self._drr = DRR(K_inverse, sdd, camera.height, camera.width)

    def to(self, device):
        self._subject, self._drr = self._subject.to(device), self._drr.to(device)
        return self

    def render(self, T_camera_to_lps):
        return self._drr(self._subject, T_camera_to_lps, n_samples=self._samples)[:, 0]


class DiffDrr(_TorchPeer):
    """DiffDRR's renderers: "siddon" (its default, exact) or "trilinear" (sampled).

    Args:
        volume, camera: what to render and how; the detector without skew.
        renderer: "siddon" or "trilinear".
        samples: samples along a ray for "trilinear"; DiffDRR's default is 500.
    """

    distribution: ClassVar[str] = "diffdrr"

    def __init__(self, volume: Volume, camera: Camera, renderer: str = "siddon", samples: int = 500):
        import torch
        import torchio
        from diffdrr.drr import DRR
        from diffdrr.pose import RigidTransform

        trilinear = renderer == "trilinear"
        self.name = f"DiffDRR {renderer}" + (f", {samples} samples" if trilinear else "")
        self._options = {"n_points": samples} if trilinear else {}
        self._rigid = RigidTransform
        density = _torchio_image(volume)
        subject = torchio.Subject(volume=density, density=density, mask=None, reorient=torch.eye(4))
        sdd_mm = camera.sdd_mm or _ANY_SDD_MM
        pitch_x, pitch_y = float(sdd_mm / camera.K[0, 0]), float(sdd_mm / camera.K[1, 1])
        off_centre = camera.K[:2, 2] - camera.middle_px
        self._drr = DRR(
            subject,
            sdd=sdd_mm,
            height=camera.height,
            width=camera.width,
            delx=pitch_x,
            dely=pitch_y,
            x0=pitch_x * float(off_centre[0]),
            y0=pitch_y * float(off_centre[1]),
            renderer=renderer,
        )
        # Its detector counts columns along -x and rows along -y.
        self._half_turn = torch.diag(torch.tensor([-1.0, -1.0, 1.0, 1.0]))

    def to(self, device):
        self._drr, self._half_turn = self._drr.to(device), self._half_turn.to(device)
        return self

    def render(self, T_camera_to_lps):
        return self._drr(self._rigid(T_camera_to_lps @ self._half_turn), **self._options)[:, 0]


def _torchio_image(volume: Volume):
    """The volume as torchio holds one: (1, i, j, k) with its affine; LPS serves as the world."""
    import torch
    import torchio

    tensor = torch.from_numpy(np.ascontiguousarray(volume.array.T, dtype=np.float32)[None])
    return torchio.ScalarImage(tensor=tensor, affine=volume.index_to_lps)
