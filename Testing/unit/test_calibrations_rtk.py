"""RTK's geometry: read as RTK reads it, written as RTK reads it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK as sitk
from SOPIRegistrationLib.cli.request import Request, open_views
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry.c_arm import CArmGeometry
from SOPIRegistrationLib.geometry.files import load_geometry, write_geometry
from SOPIRegistrationLib.images.radiograph import Radiograph
from SOPIRegistrationLib.images.stored import as_seen_from_the_source
from support.calibrations import (
    GRID,
    HEIGHT,
    OBJECT,
    WIDTH,
    camera,
    seen,
)
from support.projections import relative_difference


@pytest.fixture
def rtk():
    pytest.importorskip("itk")
    from itk import RTK

    return RTK


def rtk_projections(rtk, path, spacing, origin=None) -> np.ndarray:
    """(views, rows, columns): RTK's own reading of a geometry file, and its own projection of the object."""
    import itk

    reader = rtk.ThreeDCircularProjectionGeometryXMLFileReader.New()
    reader.SetFilename(str(path))
    reader.GenerateOutputInformation()
    geometry = reader.GetOutputObject()
    volume = OBJECT.sampled(GRID)
    image = itk.image_from_array(np.ascontiguousarray(volume.array, np.float32))
    image.SetSpacing(volume.spacing_mm.tolist())
    image.SetDirection(itk.matrix_from_array(volume.index_to_lps[:3, :3] / volume.spacing_mm))
    image.SetOrigin(volume.index_to_lps[:3, 3].tolist())
    count = len(geometry.GetGantryAngles())
    stack = itk.image_from_array(np.zeros((count, HEIGHT, WIDTH), np.float32))
    stack.SetSpacing([spacing[1], spacing[0], 1.0])
    middle = [-(WIDTH - 1) / 2 * spacing[1], -(HEIGHT - 1) / 2 * spacing[0]]
    stack.SetOrigin([*(middle if origin is None else origin), 0.0])
    kind = itk.Image[itk.F, 3]
    joseph = rtk.JosephForwardProjectionImageFilter[kind, kind].New()
    joseph.SetInput(0, stack)
    joseph.SetInput(1, image)
    joseph.SetGeometry(geometry)
    joseph.Update()
    return itk.array_from_image(joseph.GetOutput()).copy()


def write_rtk(rtk, path) -> None:
    """RTK's geometry of views with every parameter, by RTK itself."""
    geometry = rtk.ThreeDCircularProjectionGeometry.New()
    offsets = 5.0, -7.0
    for gantry, out_of_plane, in_plane in ((30, 10, 20), (100, -15, -40), (200, 5, 75)):
        geometry.AddProjection(700.0, 1000.0, gantry, *offsets, out_of_plane, in_plane, 3.0, -4.0)
    writer = rtk.ThreeDCircularProjectionGeometryXMLFileWriter.New()
    writer.SetFilename(str(path))
    writer.SetObject(geometry)
    writer.WriteFile()


@pytest.mark.parametrize("origin", [None, [-50.0, -35.0]])
def test_rtk_and_we_project_alike_by_its_geometry(tmp_path, rtk, origin):
    """An asymmetric object, projected by RTK as stored, and by us after the columns were turned over."""
    path = tmp_path / "geometry.xml"
    write_rtk(rtk, path)
    spacing = [1.9, 2.1]
    beside = tmp_path / "geometry.json"
    entry = {"calibration": "geometry.xml", "pixel_spacing_mm": spacing}
    beside.write_text(json.dumps(entry if origin is None else entry | {"projection_origin_mm": origin}))
    read = load_geometry(beside, (HEIGHT, WIDTH))
    assert read.mirrored
    assert [one.sdd_mm for one in read.cameras] == [1000] * 3
    theirs = rtk_projections(rtk, path, spacing, origin)
    assert theirs.max() > 0.3
    for one, stored in zip(read.cameras, theirs, strict=True):
        turned = as_seen_from_the_source(Radiograph(stored), read.mirrored, one).pixels
        assert relative_difference(seen(one), turned) < 0.03
        # The other way round they differ: the object tells.
        assert relative_difference(seen(one), stored) > 0.3


@pytest.mark.parametrize("mirrored", [False, True])
def test_rtk_reads_what_we_write(tmp_path, rtk, mirrored):
    cameras = tuple(camera(seed) for seed in (1, 2, 3))
    [path] = write_geometry(CArmGeometry(cameras, mirrored=mirrored), tmp_path / "g.xml", "rtk")
    theirs = rtk_projections(rtk, path, cameras[0].pixel_spacing_mm)
    # RTK's rows count upwards; of an image that was stored mirrored its columns are in reverse order.
    shown = theirs[:, :, ::-1] if mirrored else theirs[:, ::-1]
    for one, image in zip(cameras, shown, strict=True):
        assert relative_difference(seen(one), image) < 0.03
        assert relative_difference(seen(one), image[::-1]) > 0.3


def test_rtk_parameters_survive_the_way_through_our_cameras(tmp_path, rtk):
    """The matrix in the file is for readers like us; RTK makes its own of the parameters."""
    path = tmp_path / "g.xml"
    write_rtk(rtk, path)
    beside = tmp_path / "g.json"
    beside.write_text(json.dumps({"calibration": "g.xml", "pixel_spacing_mm": [1.9, 2.1]}))
    read = load_geometry(beside, (HEIGHT, WIDTH))
    [again] = write_geometry(read, tmp_path / "again.xml", "rtk")
    parameters = []
    for name in (path, again):
        reader = rtk.ThreeDCircularProjectionGeometryXMLFileReader.New()
        reader.SetFilename(str(name))
        reader.GenerateOutputInformation()
        g = reader.GetOutputObject()
        parameters.append(
            np.array(
                [g.GetGantryAngles(), g.GetOutOfPlaneAngles(), g.GetInPlaneAngles(), g.GetSourceOffsetsX()]
            )
        )
    np.testing.assert_allclose(parameters[1], parameters[0], atol=1e-9)


def test_xrays_of_rtk_are_turned_over_together(tmp_path, rtk, rng):
    write_rtk(rtk, tmp_path / "geometry.xml")
    beside = tmp_path / "geometry.json"
    beside.write_text(json.dumps({"calibration": "geometry.xml", "pixel_spacing_mm": [1.9, 2.1]}))
    pictures = rng.integers(100, 4000, (3, HEIGHT, WIDTH)).astype(np.uint16)
    paths = [tmp_path / f"projection{number}.mha" for number in range(3)]
    for path, picture in zip(paths, pictures, strict=True):
        sitk.WriteImage(sitk.GetImageFromArray(picture), path)
    radiographs, geometry, _ = open_views(Request(tmp_path / "ct.nii", paths, str(beside)))
    assert len(geometry.cameras) == 3
    for radiograph, picture in zip(radiographs, pictures, strict=True):
        np.testing.assert_array_equal(radiograph.pixels, picture[:, ::-1])


def test_rtk_needs_the_spacing_and_says_how_to_give_it(tmp_path, rtk):
    path = tmp_path / "geometry.xml"
    write_rtk(rtk, path)
    with pytest.raises(InputError, match="does not tell the pixel spacing: write a JSON"):
        load_geometry(path, (HEIGHT, WIDTH))
    tags = {"ImagerPixelSpacing": [1.9, 2.1]}
    assert load_geometry(path, (HEIGHT, WIDTH), tags).camera.pixel_spacing_mm == pytest.approx((1.9, 2.1))
