"""CTs as NRRD and MetaImage with headers that lack something, or say it in another unit."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.images.files import read_volume
from support.ct_files import grid, largest_error_voxels, sampled

PLACE = grid()


@pytest.fixture(scope="module")
def hu():
    return sampled(PLACE)


def vectors(affine: np.ndarray, per_mm: float = 1.0) -> str:
    columns = (f"({','.join(f'{x * per_mm:.9g}' for x in affine[:3, c])})" for c in range(4))
    i, j, k, origin = columns
    return f"space directions: {i} {j} {k}\nspace origin: {origin}\n"


def write_nrrd(path, hu, fields: str, dimension="dimension: 3\nsizes: 112 84 40\n", encoding="raw"):
    data = hu.astype("<i2").tobytes()
    head = f"NRRD0004\ntype: short\nendian: little\nencoding: {encoding}\n{dimension}{fields}\n"
    path.write_bytes(head.encode() + (gzip.compress(data) if encoding == "gzip" else data))
    return path


def write_mha(path, hu, fields: str):
    head = (
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
        f"DimSize = 112 84 40\nElementType = MET_SHORT\n{fields}ElementDataFile = LOCAL\n"
    )
    path.write_bytes(head.encode() + hu.astype("<i2").tobytes())
    return path


def meta_place() -> str:
    directions = PLACE[:3, :3] / np.linalg.norm(PLACE[:3, :3], axis=0)
    numbers = " ".join(f"{x:.9g}" for x in directions.T.ravel())
    return f"TransformMatrix = {numbers}\nOffset = {' '.join(f'{x:.9g}' for x in PLACE[:3, 3])}\n"


@pytest.mark.parametrize(
    ("unit", "per_mm"), [("mm", 1), ("cm", 0.1), ("m", 1e-3), ("um", 1e3), ("\u00b5m", 1e3)]
)
def test_units_of_nrrd(tmp_path, hu, unit, per_mm):
    fields = f'space: LPS\n{vectors(PLACE, per_mm)}space units: "{unit}" "{unit}" "{unit}"\n'
    volume = read_volume(write_nrrd(tmp_path / "ct.nrrd", hu, fields))
    assert volume.notes == ()
    np.testing.assert_allclose(volume.spacing_mm, [0.8, 1.1, 2.0], rtol=1e-6)
    assert largest_error_voxels(volume) < 0.01


@pytest.mark.parametrize("units", ['"inch" "inch" "inch"', '"mm" "mm" "cm"'])
def test_units_that_are_none(tmp_path, hu, units):
    fields = f"space: LPS\n{vectors(PLACE)}space units: {units}\n"
    with pytest.raises(InputError, match=r"ct.nrrd has lengths in .*: write them in mm"):
        read_volume(write_nrrd(tmp_path / "ct.nrrd", hu, fields))


def test_an_axis_more_of_one(tmp_path, hu):
    first = vectors(PLACE).replace("directions: ", "directions: none ")
    last = vectors(PLACE).replace("\nspace origin", " none\nspace origin")
    for name, fields, sizes in (("first", first, "1 112 84 40"), ("last", last, "112 84 40 1")):
        kinds = f"kinds: {'list domain domain domain' if name == 'first' else 'domain domain domain list'}\n"
        path = write_nrrd(
            tmp_path / f"{name}.nrrd",
            hu,
            f"space: LPS\n{fields}{kinds}",
            f"dimension: 4\nsizes: {sizes}\n",
            "gzip",
        )
        assert largest_error_voxels(read_volume(path)) < 0.01


@pytest.mark.parametrize("fields", ["", "spacings: 0.8 nan 2\n"])
def test_nrrd_without_a_voxel_size(tmp_path, hu, fields):
    with pytest.raises(InputError, match=r"ct.nrrd does not say how large its voxels are: add 'space dir"):
        read_volume(write_nrrd(tmp_path / "ct.nrrd", hu, fields))


def test_spacings_alone_leave_the_axes_a_guess(tmp_path, hu):
    volume = read_volume(write_nrrd(tmp_path / "ct.nrrd", hu, "spacings: 0.8 1.1 2\n"))
    np.testing.assert_allclose(volume.spacing_mm, [0.8, 1.1, 2.0])
    assert "is a guess" in volume.notes[0]


def test_metaimage_without_a_voxel_size(tmp_path, hu):
    with pytest.raises(InputError, match=r"ct.mha does not say how large its voxels are.*ElementSpacing"):
        read_volume(write_mha(tmp_path / "ct.mha", hu, meta_place()))
    for field in ("ElementSpacing", "ElementSize"):
        volume = read_volume(write_mha(tmp_path / "ct.mha", hu, f"{meta_place()}{field} = 0.8 1.1 2\n"))
        assert volume.notes == ()
        assert largest_error_voxels(volume) < 0.01


def test_a_place_that_is_not_given_is_said(tmp_path, hu):
    axes, _, _ = vectors(PLACE).partition("space origin")
    volume = read_volume(write_nrrd(tmp_path / "ct.nrrd", hu, f"space: LPS\n{axes}"))
    [note] = volume.notes
    assert "does not say where its first voxel lies" in note
    np.testing.assert_allclose(volume.index_to_lps[:3, :3], PLACE[:3, :3], atol=1e-6)
    matrix, _, _ = meta_place().partition("Offset")
    [note] = read_volume(write_mha(tmp_path / "ct.mha", hu, f"{matrix}ElementSpacing = 0.8 1.1 2\n")).notes
    assert "does not say where its first voxel lies" in note


def test_voxels_sized_by_their_directions_or_by_a_spacing_but_not_by_both(tmp_path, hu):
    numbers = " ".join(f"{x:.9g}" for x in PLACE[:3, :3].T.ravel())
    origin = " ".join(f"{x:.9g}" for x in PLACE[:3, 3])
    fields = f"TransformMatrix = {numbers}\nOffset = {origin}\nElementSpacing = "
    assert largest_error_voxels(read_volume(write_mha(tmp_path / "ct.mha", hu, f"{fields}1 1 1\n"))) < 0.01
    with pytest.raises(InputError, match=r"ct.mha gives two sizes of its voxels: .* 0.8 x 1.1 x 2 mm"):
        read_volume(write_mha(tmp_path / "ct.mha", hu, f"{fields}0.8 1.1 2\n"))


def test_windows_line_ends(tmp_path, hu):
    fields = f"{meta_place()}ElementSpacing = 0.8 1.1 2\n".replace("\n", "\r\n")
    assert largest_error_voxels(read_volume(write_mha(tmp_path / "ct.mha", hu, fields))) < 0.01


def test_voxels_in_a_file_that_is_not_there(tmp_path):
    path = tmp_path / "ct.nhdr"
    path.write_text(
        f"NRRD0004\ntype: short\nendian: little\nencoding: raw\ndimension: 3\nsizes: 112 84 40\nspace: LPS\n"
        f"{vectors(PLACE)}data file: ct.raw\n"
    )
    with pytest.raises(InputError, match=r"ct.nhdr keeps its voxels in another file, .*: copy both"):
        read_volume(path)


def test_a_segmentation_of_slicer_is_no_ct(tmp_path, hu):
    fields = f"space: LPS\n{vectors(PLACE)}Segment0_ID:=Segment_1\n"
    path = write_nrrd(tmp_path / "bones.seg.nrrd", hu, fields)
    with pytest.raises(InputError, match="is a label map by its header: give the CT in Hounsfield units"):
        read_volume(path)
    assert read_volume(path, "mask").array.shape == (40, 84, 112)
