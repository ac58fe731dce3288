"""A made-up implant as a closed surface, and X-rays of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.images.radiograph import Radiograph
from SOPIRegistrationLib.projector import ProjectorVolume, project
from SOPIRegistrationLib.subject.surface import Surface, closed, filled, material_named

_WRITERS = {
    ".stl": "vtkSTLWriter",
    ".ply": "vtkPLYWriter",
    ".obj": "vtkOBJWriter",
    ".vtp": "vtkXMLPolyDataWriter",
}


def sphere(radius_mm: float = 20.0, centre_lps_mm=(3.0, -7.0, 11.0)) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (n, 3) and triangles (m, 3) of a sphere."""
    vtk = pytest.importorskip("vtk")

    source = vtk.vtkSphereSource()
    source.SetRadius(radius_mm)
    source.SetCenter(*centre_lps_mm)
    source.SetThetaResolution(120)
    source.SetPhiResolution(120)
    source.Update()
    return arrays(source.GetOutput())


def implant(name: str = "implant") -> Surface:
    """A condyle, a shield and a peg in one piece, 60 mm across, with no symmetry."""
    vtk = pytest.importorskip("vtk")

    axis = np.arange(-40, 40.1, 1.0)
    x, y, z = np.meshgrid(axis, axis, axis, indexing="ij")
    condyles = np.minimum(
        np.hypot(np.hypot(x - 16, y), 1.2 * (z + 6)) - 15, np.hypot(np.hypot(x + 15, 0.8 * y + 3), z + 4) - 12
    )
    shield = np.maximum(np.abs(y - 12) - 4, np.hypot(x - 4, 0.8 * z - 8) - 19)
    peg = np.maximum(np.hypot(x - 6, y + 5) - 4, np.abs(z - 12) - 16)
    distance = np.minimum(np.minimum(condyles, shield), peg)
    image = vtk.vtkImageData()
    image.SetDimensions(*distance.shape)
    image.SetOrigin(-40.0, -40.0, -40.0)
    from vtk.util.numpy_support import numpy_to_vtk

    image.GetPointData().SetScalars(numpy_to_vtk(distance.ravel(order="F"), deep=True))
    surface = vtk.vtkFlyingEdges3D()
    surface.SetInputData(image)
    surface.SetValue(0, 0.0)
    surface.Update()
    return closed(*arrays(surface.GetOutput()), name)


def write_surface(path: Path, points: np.ndarray, triangles: np.ndarray) -> Path:
    """Write a surface in the format of the file's name."""
    vtk = pytest.importorskip("vtk")

    writer = getattr(vtk, _WRITERS[path.suffix])()
    writer.SetFileName(str(path))
    writer.SetInputData(poly_data(points, triangles))
    writer.Write()
    return path


def poly_data(points: np.ndarray, triangles: np.ndarray):
    """VTK's polygonal data of triangles."""
    vtk = pytest.importorskip("vtk")

    data, vertices, faces = vtk.vtkPolyData(), vtk.vtkPoints(), vtk.vtkCellArray()
    for point in np.asarray(points, float).tolist():
        vertices.InsertNextPoint(point)
    for triangle in np.asarray(triangles, int).tolist():
        faces.InsertNextCell(3, triangle)
    data.SetPoints(vertices)
    data.SetPolys(faces)
    return data


def arrays(data) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and triangles of VTK's polygonal data."""
    vtk_to_numpy = pytest.importorskip("vtk.util.numpy_support").vtk_to_numpy

    points = vtk_to_numpy(data.GetPoints().GetData()).astype(float)
    return points, vtk_to_numpy(data.GetPolys().GetConnectivityArray()).reshape(-1, 3)


def metal_radiograph(
    surface: Surface, camera: Camera, T_lps_to_world: np.ndarray, seed: int = 0
) -> Radiograph:
    """An 8-bit X-ray, bone dark, of a cobalt-chromium surface in a leg with a bone and a skin marker.

    The metal is filled twice as fine as for a registration and projected on pixels half as large; scatter
    fills its shadow, blur its edges.
    """
    rng = np.random.default_rng(seed)
    fine = camera.resampled(2 * camera.width, 2 * camera.height)
    metal = filled(surface, material_named("CoCr"), 0.2).attenuation
    beam = np.exp(-project(ProjectorVolume(metal), fine, T_lps_to_world))
    beam = beam.reshape(camera.height, 2, camera.width, 2).mean(axis=(1, 3))
    v, u = np.indices(camera.shape) / np.array(camera.shape).reshape(2, 1, 1) - 0.5
    leg = 0.9 * np.sqrt(np.maximum(0, 1 - (2.4 * (u + 0.1 * v)) ** 2))
    bone = 0.6 * np.sqrt(np.maximum(0, 1 - (7 * (u - 0.15 * v)) ** 2)) * (v < 0.1)
    marker = 0.25 * (np.hypot(u - 0.2, v + 0.2) < 0.03)
    intensity = ndimage.gaussian_filter(beam * np.exp(-leg - bone - marker), 1.0) + 0.15 * np.exp(-leg)
    intensity += 0.004 * rng.normal(size=camera.shape)
    return Radiograph(np.clip(220 * intensity, 0, 255).astype(np.uint8), "simulated X-ray")
