"""Whatever stands in a file: a CT is read or refused in one line, never anything else."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import SimpleITK as sitk
from pydicom import dcmread
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.images.ct_preparation import prepare_ct
from SOPIRegistrationLib.images.files import read_volume
from support.ct_files import Scan, grid, sampled, stacked, write_nifti

hypothesis = pytest.importorskip("hypothesis")
st = pytest.importorskip("hypothesis.strategies")

MANY = hypothesis.settings(max_examples=40, deadline=None, derandomize=True, database=None)
SCAN = Scan((9, 8), (11.0, 9.0), positions=stacked(np.arange(4) * 12.0, scan=((9, 8), (11.0, 9.0))))
TAGS = [
    "Modality",
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "ImageType",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceThickness",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
    "AcquisitionNumber",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
]
NUMBERS = st.sampled_from(
    ["0", "-1", "1e400", "nan", "inf", "-inf", "0,5", "LAO 30", "", " ", "1e-30", "7", "65535", "99999999999"]
)
TEXTS = st.one_of(
    st.lists(NUMBERS, max_size=7).map("\\".join),
    st.text(st.characters(codec="latin-1"), max_size=12),
    st.sampled_from(["CT", "MR", "LOCALIZER", "CT\\MR", "1.2.3", "MONOCHROME1", "RGB"]),
)
RAW = st.one_of(TEXTS.map(lambda text: text.encode("latin-1")), st.binary(max_size=9))


def unless_refused(name: str, do, *arguments):
    """The result, or None for a refusal in one line with the name."""
    try:
        return do(*arguments)
    except InputError as error:
        message = str(error)
    assert "\n" not in message
    assert name in message
    return None


def read_or_refuse(path):
    """The volume, or None for a refusal; anything else is a fault."""
    volume = unless_refused(path.name, read_volume, path)
    if volume is None:
        return None
    assert volume.array.ndim == 3
    assert np.isfinite(volume.index_to_lps).all()
    assert np.isfinite(volume.array).all()
    assert all("\n" not in note for note in volume.notes)
    return volume


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


def put_raw(dataset: Dataset, keyword: str, value: bytes) -> None:
    """A tag with any bytes in it, as no library would write."""
    tag = Tag(tag_for_keyword(keyword))
    value += b" " * (len(value) % 2)
    # Of "US or SS" the first.
    vr = dictionary_VR(tag)[:2]
    dataset[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)


@MANY
@hypothesis.given(
    tags=st.dictionaries(st.sampled_from(TAGS), RAW, min_size=1, max_size=3),
    which=st.sampled_from([(0,), (0, 1, 2, 3)]),
    alone=st.booleans(),
)
def test_tags_of_a_series(folder, tags, which, alone):
    series = SCAN.write_series(folder / "series")
    paths = sorted(series.iterdir())
    for number in which:
        dataset = dcmread(paths[number])
        for keyword, value in tags.items():
            put_raw(dataset, keyword, value)
        dataset.save_as(paths[number])
    read_or_refuse(paths[0] if alone else series)


@MANY
@hypothesis.given(
    place=st.sampled_from(["file", "shared", "frame", "measures", "orientation", "position", "values"]),
    tags=st.dictionaries(st.sampled_from(TAGS), RAW, min_size=1, max_size=3),
)
def test_tags_of_an_enhanced_ct(folder, place, tags):
    path = SCAN.write_enhanced(folder / "enhanced.dcm")
    dataset = dcmread(path)
    shared = dataset.SharedFunctionalGroupsSequence[0]
    frame = dataset.PerFrameFunctionalGroupsSequence[2]
    target = {
        "file": dataset,
        "shared": shared,
        "frame": frame,
        "measures": shared.PixelMeasuresSequence[0],
        "orientation": shared.PlaneOrientationSequence[0],
        "position": frame.PlanePositionSequence[0],
        "values": shared.PixelValueTransformationSequence[0],
    }[place]
    for keyword, value in tags.items():
        put_raw(target, keyword, value)
    dataset.save_as(path)
    read_or_refuse(path)


@MANY
@hypothesis.given(
    kind=st.sampled_from(["dcm", "nii", "nrrd", "mha"]),
    changes=st.lists(st.tuples(st.integers(0, 800), st.integers(0, 255)), max_size=6),
    length=st.one_of(st.none(), st.integers(1, 1600)),
)
def test_bytes_of_a_header(folder, kind, changes, length):
    path = folder / f"bytes.{kind}"
    if kind == "dcm":
        SCAN.write_enhanced(path)
    else:
        image = sitk.GetImageFromArray(sampled(grid(), (9, 8, 6)))
        sitk.WriteImage(image, str(path))
    content = bytearray(path.read_bytes())
    for at, value in changes:
        if at < len(content):
            content[at] = value
    path.write_bytes(content[:length])
    read_or_refuse(path)


FLOATS = st.one_of(
    st.floats(width=32),
    st.sampled_from([0.0, 1.0, -1.0, 1e-30, 1e30, float("nan"), float("inf"), 0.9999, 0.7071]),
)


@MANY
@hypothesis.given(
    codes=st.tuples(st.integers(-1, 6), st.integers(-1, 6)),
    sform=st.one_of(st.none(), st.lists(FLOATS, min_size=12, max_size=12)),
    quaternion=st.one_of(st.none(), st.lists(FLOATS, min_size=6, max_size=6)),
    pixdim=st.one_of(st.none(), st.lists(FLOATS, min_size=8, max_size=8)),
    units=st.integers(0, 255),
    scale=st.one_of(st.none(), st.tuples(FLOATS, FLOATS)),
    dim=st.one_of(st.none(), st.lists(st.integers(-2, 9), min_size=8, max_size=8)),
)
def test_fields_of_a_nifti_header(folder, codes, sform, quaternion, pixdim, units, scale, dim):
    affine = grid(0.2, (9, 8, 6))
    path = write_nifti(folder / "fields.nii", sampled(affine, (9, 8, 6)), affine, grid(0, (9, 8, 6)), codes)
    content = bytearray(path.read_bytes())
    content[123] = units
    for form, at, values in (
        ("12f", 280, sform),
        ("6f", 256, quaternion),
        ("8f", 76, pixdim),
        ("2f", 112, scale),
        ("8h", 40, dim),
    ):
        if values is not None:
            struct.pack_into("<" + form, content, at, *values)
    path.write_bytes(content)
    read_or_refuse(path)


@MANY
@hypothesis.given(
    shape=st.tuples(*[st.integers(1, 7)] * 3),
    spacing=st.tuples(*[st.sampled_from([1.0, 2.0, 3.5])] * 3),
    unit=st.sampled_from([1, 1, 1, 1e4, 1e-5]),
    values=st.sampled_from(["hu", "noise", "constant", "bone", "huge", "fractions"]),
    kind=st.sampled_from(["<i2", "<u2", "<i4", "<f4", "<f8", "u1"]),
    seed=st.integers(0, 9),
)
def test_sizes_and_values_as_far_as_the_preparation(folder, shape, spacing, unit, values, kind, seed):
    rng = np.random.default_rng(seed)
    array = {
        "hu": np.where(rng.random(shape) > 0.5, -1000, rng.integers(-100, 1200, shape)),
        "noise": rng.integers(-2000, 4000, shape),
        "constant": np.full(shape, 300),
        "bone": np.full(shape, 300) * (rng.random(shape) > 0.2),
        "huge": rng.normal(0, 1, shape) * 10.0 ** rng.integers(0, 300),
        "fractions": rng.random(shape),
    }[values]
    with np.errstate(all="ignore"):
        image = sitk.GetImageFromArray(array.astype(kind))
    image.SetSpacing([unit * step for step in spacing])
    path = folder / "size.nrrd"
    sitk.WriteImage(image, str(path))
    volume = read_or_refuse(path)
    prepared = None if volume is None else unless_refused("size.nrrd", prepare_ct, volume)
    if prepared is None:
        return
    assert prepared.bone.array.any()
    assert np.isfinite(prepared.attenuation.array).all()
    assert np.isfinite(prepared.rotation_centre_lps_mm).all()
