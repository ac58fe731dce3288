"""Closed surfaces as what is registered: implants and segmented bones, filled with a material.

A surface is read and filled with VTK, which 3D Slicer brings and the extra ``surfaces`` installs; it is
imported when the first surface is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.images.attenuation import MU_WATER
from SOPIRegistrationLib.images.bone_surface import centroid_lps, surface_points_lps
from SOPIRegistrationLib.images.identity import ct_identity
from SOPIRegistrationLib.images.itk_reading import require_file
from SOPIRegistrationLib.images.prepared_ct import PreparedCT
from SOPIRegistrationLib.images.volume import Volume
from SOPIRegistrationLib.projector.physics.beam import energy_of_water, linear_attenuation

# Readers of VTK by the ending of the file's name.
_READERS = {
    ".stl": "vtkSTLReader",
    ".ply": "vtkPLYReader",
    ".obj": "vtkOBJReader",
    ".vtp": "vtkXMLPolyDataReader",
}
SURFACE_SUFFIXES = tuple(_READERS)


@dataclass(frozen=True)
class Material:
    """What a surface is filled with.

    Attributes:
        name: of its attenuation (``projector.physics.beam.linear_attenuation``).
        is_metal: whether an X-ray shows it as a silhouette rather than by its thickness.
    """

    name: str
    is_metal: bool = False

    @property
    def attenuation_per_mm(self) -> float:
        """Linear attenuation, 1/mm, at the energy at which the CT's scale is calibrated."""
        return float(linear_attenuation(self.name, energy_of_water(MU_WATER)))


MATERIALS = {
    "bone": Material("cortical bone"),
    "CoCr": Material("CoCr", is_metal=True),
    "Ti": Material("Ti", is_metal=True),
    "PMMA": Material("PMMA"),
}

# Faces may lack this share of the area: more is no crack but an open surface.
_LARGEST_GAP = 0.01
_EXTENT_MM = (2.0, 1500.0)
# Bones and implants that X-rays are registered with are larger; one that seems not to be may be.
_USUAL_EXTENT_MM = 12.0
# An outline is as good as a third of this; coarser only where the grid would grow beyond the limit.
_SPACING_MM = 0.4
_MOST_VOXELS = 224**3
# Points at which a voxel is asked whether it lies inside, along each axis.
_SAMPLES = 3
_BORDER_VOXELS = 2
# Slices of voxels that are filled at once.
_SLAB = 16


@dataclass(frozen=True)
class Surface:
    """A closed surface of triangles.

    Attributes:
        points_lps_mm: (n, 3) vertices.
        triangles: (m, 3) their numbers.
        name: of the body: that of its file, without the ending.
        notes: what was mended where it was read, each a sentence for the user.
    """

    points_lps_mm: np.ndarray
    triangles: np.ndarray
    name: str = ""
    notes: tuple[str, ...] = ()


def is_surface(path: Path) -> bool:
    """Whether a file is a surface by its name."""
    return path.suffix.lower() in SURFACE_SUFFIXES


def material_named(name: str) -> Material:
    """A material by its name, in capitals or not; InputError for none."""
    for known, material in MATERIALS.items():
        if known.lower() == name.lower():
            return material
    raise InputError(f"unknown material '{name}': use one of {', '.join(MATERIALS)}")


def read_surface(path: str | Path) -> Surface:
    """A closed surface from an STL, PLY, OBJ or VTP file, its numbers taken as mm.

    Coordinates are LPS unless the file says ``SPACE=RAS``, as older files of 3D Slicer do. Cracks are closed,
    and the notes say so.

    Raises:
        InputError: missing, unreadable, no surface in it, faces of vertices that are not there, not in mm,
            more missing of it than cracks; VTK is not installed.
    """
    path = Path(path)
    if not is_surface(path):
        raise InputError(
            f"surface {path} is none of {', '.join(SURFACE_SUFFIXES)}: export it as one of these"
        )
    require_file(path, "surface")
    vtk = _vtk()
    reader = getattr(vtk, _READERS[path.suffix.lower()])()
    reader.SetFileName(str(path))
    shown = vtk.vtkObject.GetGlobalWarningDisplay()
    vtk.vtkObject.GlobalWarningDisplayOff()
    try:
        reader.Update()
    finally:
        vtk.vtkObject.SetGlobalWarningDisplay(shown)
    surface = reader.GetOutput()
    if surface is None or surface.GetNumberOfPolys() + surface.GetNumberOfStrips() == 0:
        raise InputError(f"surface {path} holds no faces that can be read: export it again")
    _require_known_vertices(surface, path)
    points, triangles = _arrays(surface)
    if _says_ras(path, surface):
        points = points * [-1.0, -1.0, 1.0]
    return closed(points, triangles, path.stem, str(path))


def closed(points_lps_mm, triangles, name: str = "", origin: str = "") -> Surface:
    """A surface, its cracks closed.

    Args:
        points_lps_mm: (n, 3) vertices; those of one place are one.
        triangles: (m, 3) their numbers.
        name: of the body.
        origin: where it came from, for messages.

    Raises:
        InputError: NaN, not in mm, or more missing of it than cracks; VTK is not installed.
    """
    vtk, origin = _vtk(), origin or name
    points = np.asarray(points_lps_mm, dtype=np.float64)
    if not np.isfinite(points).all():
        raise InputError(f"surface {origin} has NaN or infinite vertices: export it again")
    extent = float(np.ptp(points, axis=0).max()) if len(points) else 0.0
    if not _EXTENT_MM[0] <= extent <= _EXTENT_MM[1]:
        raise InputError(f"surface {origin} is {extent:.3g} mm across: export it in millimetres")
    cleaner = vtk.vtkCleanPolyData()
    cleaner.SetInputData(_poly_data(points, triangles))
    cleaner.ConvertPolysToLinesOff()
    cleaner.Update()
    given = cleaner.GetOutput()
    edges = _open_edges(given)
    notes = _note_of_size(extent, origin)
    if edges == 0:
        return Surface(*_arrays(given), name, notes)
    filler = vtk.vtkFillHolesFilter()
    filler.SetInputData(given)
    # The radius of a sphere about the hole: any; what is too large is told by its area.
    filler.SetHoleSize(extent)
    filler.Update()
    filled = filler.GetOutput()
    area = _area(filled)
    missing = 1 - _area(given) / area if area > 0 else 1.0
    if missing > _LARGEST_GAP or _open_edges(filled):
        least = "at least " if _open_edges(filled) else ""
        raise InputError(
            f"surface {origin} is not closed: {edges} of its edges have no neighbour, {least}"
            f"{100 * missing:.1f} % of it is missing: close it, or export a closed one"
        )
    note = f"surface {origin} had cracks ({100 * missing:.2g} % of its area); they were closed"
    return Surface(*_arrays(filled), name, (*notes, note))


def _note_of_size(extent_mm: float, origin: str) -> tuple[str, ...]:
    if extent_mm >= _USUAL_EXTENT_MM:
        return ()
    return (f"surface {origin} is only {extent_mm:.3g} mm across: is it in centimetres or inches?",)


def filled(surface: Surface, material: Material, spacing_mm: float | None = None) -> PreparedCT:
    """A surface filled with a material, as registration sees it.

    A voxel holds the share of the material that lies in it: the outline is known to a third of its edge.

    Args:
        surface: closed.
        material: what it is made of.
        spacing_mm: edge of the voxels; 0.4 mm unless given, more where it would be too many.

    Raises:
        InputError: nothing lies inside; VTK is not installed.
    """
    low, high = surface.points_lps_mm.min(axis=0), surface.points_lps_mm.max(axis=0)
    if spacing_mm is None:
        spacing_mm = max(_SPACING_MM, float(np.prod(high - low) / _MOST_VOXELS) ** (1 / 3))
    size = np.ceil((high - low) / spacing_mm).astype(int) + 2 * _BORDER_VOXELS
    index_to_lps = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    index_to_lps[:3, 3] = (low + high) / 2 - spacing_mm * (size - 1) / 2
    share = Volume(_shares(surface, size, index_to_lps), index_to_lps, surface.name)
    body = share.array > 0.5
    if not body.any():
        raise InputError(f"surface {surface.name} encloses nothing: give a closed surface of a body")
    mask = share.same_grid(body.astype(np.uint8))
    return PreparedCT(
        attenuation=share.same_grid(share.array * np.float32(material.attenuation_per_mm)),
        bone=share.same_grid((share.array > 0).astype(np.uint8)),
        rotation_centre_lps_mm=centroid_lps(mask),
        surface_points_lps_mm=surface_points_lps(mask),
        truncated=share.same_grid(np.zeros(share.array.shape, np.uint8)),
        identity=ct_identity(share.same_grid(1000 * share.array)),
        notes=surface.notes,
        is_metal=material.is_metal,
    )


def _shares(surface: Surface, size: Sequence[int], index_to_lps: np.ndarray) -> np.ndarray:
    """(k, j, i) float32: the share of each voxel that lies inside, by VTK's stencil on a finer grid."""
    vtk = _vtk()
    from vtk.util.numpy_support import vtk_to_numpy

    i, j, k = (int(n) for n in size)
    fine_mm = index_to_lps[0, 0] / _SAMPLES
    origin = index_to_lps[:3, 3] - (_SAMPLES - 1) / 2 * fine_mm
    stencil = vtk.vtkPolyDataToImageStencil()
    stencil.SetInputData(_poly_data(surface.points_lps_mm, surface.triangles))
    stencil.SetOutputOrigin(*origin)
    stencil.SetOutputSpacing(fine_mm, fine_mm, fine_mm)
    image = vtk.vtkImageStencilToImage()
    image.SetInputConnection(stencil.GetOutputPort())
    image.SetInsideValue(1)
    image.SetOutsideValue(0)
    image.SetOutputScalarTypeToUnsignedChar()
    shares = np.empty((k, j, i), np.float32)
    for first in range(0, k, _SLAB):
        last = min(first + _SLAB, k)
        slices = _SAMPLES * first, _SAMPLES * last - 1
        stencil.SetOutputWholeExtent(0, _SAMPLES * i - 1, 0, _SAMPLES * j - 1, *slices)
        image.UpdateWholeExtent()
        fine = vtk_to_numpy(image.GetOutput().GetPointData().GetScalars())
        blocks = fine.reshape(last - first, _SAMPLES, j, _SAMPLES, i, _SAMPLES)
        shares[first:last] = blocks.mean(axis=(1, 3, 5), dtype=np.float32)
    return shares


def _vtk():
    """The package ``vtk``.

    Raises:
        InputError: it is not installed.
    """
    try:
        import vtk
    except ImportError:
        raise InputError("surfaces need VTK: install it with pip install vtk") from None
    return vtk


def _says_ras(path: Path, surface) -> bool:
    """Whether a file's header or field data says that its coordinates are RAS."""
    with path.open("rb") as stream:
        header = stream.read(1024)
    if re.search(rb"SPACE=RAS", header):
        return True
    space = surface.GetFieldData().GetAbstractArray("SPACE")
    return space is not None and space.GetNumberOfValues() > 0 and str(space.GetValue(0)).upper() == "RAS"


def _require_known_vertices(surface, path: Path) -> None:
    """Raise InputError where faces are of vertices that are not there, which VTK's filters do not survive."""
    from vtk.util.numpy_support import vtk_to_numpy

    count = surface.GetNumberOfPoints()
    for cells in (surface.GetVerts(), surface.GetLines(), surface.GetPolys(), surface.GetStrips()):
        numbers = vtk_to_numpy(cells.GetConnectivityArray())
        if len(numbers) and not 0 <= numbers.min() <= numbers.max() < count:
            raise InputError(
                f"surface {path} has faces of vertices that it does not hold ({count} vertices, one numbered "
                f"{numbers.min() if numbers.min() < 0 else numbers.max()} from 0): export it again"
            )


def _arrays(surface) -> tuple[np.ndarray, np.ndarray]:
    """(points (n, 3), triangles (m, 3)) of VTK's polygonal data."""
    from vtk.util.numpy_support import vtk_to_numpy

    triangulation = _vtk().vtkTriangleFilter()
    triangulation.SetInputData(surface)
    triangulation.PassVertsOff()
    triangulation.PassLinesOff()
    triangulation.Update()
    output = triangulation.GetOutput()
    points = vtk_to_numpy(output.GetPoints().GetData()).astype(np.float64)
    return points, vtk_to_numpy(output.GetPolys().GetConnectivityArray()).reshape(-1, 3).astype(np.int64)


def _poly_data(points: np.ndarray, triangles: np.ndarray):
    """VTK's polygonal data of triangles."""
    vtk = _vtk()
    from vtk.util.numpy_support import numpy_to_vtk, numpy_to_vtkIdTypeArray

    vertices, faces, surface = vtk.vtkPoints(), vtk.vtkCellArray(), vtk.vtkPolyData()
    vertices.SetData(numpy_to_vtk(np.ascontiguousarray(points, dtype=np.float64), deep=True))
    numbers = np.ascontiguousarray(triangles, dtype=np.int64)
    faces.SetData(3, numpy_to_vtkIdTypeArray(numbers.ravel(), deep=True))
    surface.SetPoints(vertices)
    surface.SetPolys(faces)
    return surface


def _open_edges(surface) -> int:
    """Edges of one triangle only."""
    edges = _vtk().vtkFeatureEdges()
    edges.SetInputData(surface)
    edges.BoundaryEdgesOn()
    edges.FeatureEdgesOff()
    edges.NonManifoldEdgesOff()
    edges.ManifoldEdgesOff()
    edges.Update()
    return edges.GetOutput().GetNumberOfCells()


def _area(surface) -> float:
    points, triangles = _arrays(surface)
    a, b, c = (points[triangles[:, corner]] for corner in range(3))
    return float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2)
