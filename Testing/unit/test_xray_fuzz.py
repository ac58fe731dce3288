"""X-rays and geometries as nobody would write them: a result, or one line; never a traceback.

Derandomised, so that a run fails or passes every time; a failing example is printed as small as it can be
made.
"""

from __future__ import annotations

import contextlib
import io
import json
import struct
import tempfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian, XRayAngiographicImageStorage
from SOPIRegistrationLib.cli.main import main
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry.c_arm import CArmGeometry
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.contradictions import contradictions
from SOPIRegistrationLib.geometry.files import geometry_as_dict, geometry_from_dict, load_geometry
from SOPIRegistrationLib.geometry.rt_image import RT_IMAGE_KEYWORDS
from SOPIRegistrationLib.images.files import open_radiograph
from SOPIRegistrationLib.images.radiograph import Radiograph
from SOPIRegistrationLib.images.radiograph_preparation import prepare_radiograph

hypothesis = pytest.importorskip("hypothesis")
st = pytest.importorskip("hypothesis.strategies")

thorough = hypothesis.settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
SHAPE = (40, 48)

# What stands in files: numbers good and bad, numbers in words, nothing, rubbish.
NUMBERS = st.one_of(
    st.sampled_from([0.0, -1.0, 1.0, 0.2, 30.0, 90.0, 180.0, 1000.0, 1e308, -1e308, 1e-308]),
    st.floats(width=32),
    st.integers(-(10**30), 10**30),
)
TEXTS = st.one_of(
    st.sampled_from(
        ["LAO 30", "0,3", "1100 mm", "", " ", "nan", "-inf", "1e999", "\\", "L", "A\\F", "NONE", "30\\30"]
    ),
    NUMBERS.map(str),
    st.lists(NUMBERS.map(str), max_size=4).map("\\".join),
    st.text(st.characters(codec="latin-1", exclude_categories=["C"]), max_size=12),
)
OF_THE_PIXELS = "NumberOfFrames", "Modality", "PhotometricInterpretation", "BitsStored", "HighBit"
KEYWORDS = [
    *OF_THE_PIXELS,
    "DistanceSourceToDetector",
    "DistanceSourceToPatient",
    "EstimatedRadiographicMagnificationFactor",
    "ImagerPixelSpacing",
    "DetectorElementSpacing",
    "DetectorBinning",
    "FieldOfViewDimensions",
    "FieldOfViewRotation",
    "IntensifierSize",
    "NominalScannedPixelSpacing",
    "PixelSpacing",
    "PixelSpacingCalibrationType",
    "PositionerPrimaryAngle",
    "PositionerSecondaryAngle",
    "PositionerPrimaryAngleIncrement",
    "ViewPosition",
    "PatientOrientation",
    "PixelIntensityRelationship",
    "PresentationIntentType",
    "PresentationLUTShape",
    "RescaleSlope",
    "RescaleIntercept",
    "PixelAspectRatio",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "DetectorPrimaryAngle",
    "FieldOfViewOrigin",
    "DetectorActiveDimensions",
    "PatientPosition",
    "PositionerIsocenterPrimaryAngle",
    *RT_IMAGE_KEYWORDS,
    "ShutterShape",
    "ShutterLeftVerticalEdge",
    "CollimatorShape",
    "CenterOfCircularCollimator",
    "RadiusOfCircularCollimator",
    "VerticesOfThePolygonalCollimator",
]


def one_line(act):
    """What ``act`` gives, or None where it refused in one line."""
    try:
        return act()
    except InputError as error:
        said = str(error)
    assert "\n" not in said
    assert len(said) > 20
    return None


def complete(geometry: CArmGeometry) -> None:
    """A geometry that was accepted can be used: it is finite, and can be written and read again."""
    for camera in geometry.cameras:
        assert np.isfinite(camera.K).all()
        assert np.isfinite(camera.K_inverse).all()
        assert camera.sdd_mm is None or camera.sdd_mm > 0
    known = geometry.with_default_sod()
    assert known.sod_mm is None or known.sod_mm > 0
    text = json.dumps(geometry_as_dict(geometry), allow_nan=False)
    read = geometry_from_dict(json.loads(text), "again")
    for ours, theirs in zip(read.cameras, geometry.cameras, strict=True):
        np.testing.assert_allclose(ours.K, theirs.K, rtol=1e-12)
    assert all("\n" not in one for one in contradictions(geometry, SHAPE, {}))


def pixels() -> np.ndarray:
    v, u = np.mgrid[-1 : 1 : SHAPE[0] * 1j, -1 : 1 : SHAPE[1] * 1j]
    noise = np.random.default_rng(3).normal(0, 20, SHAPE)
    return (3000 + 300 * u - 1500 * np.exp(-4 * (u**2 + v**2)) + noise).astype(np.uint16)


def write_dicom(path: Path, tags: dict[str, str]) -> None:
    """As the tags are given, which no library would write."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = XRayAngiographicImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "1.2.3.4"
    dataset.Modality, dataset.PhotometricInterpretation, dataset.SamplesPerPixel = "XA", "MONOCHROME2", 1
    dataset.Rows, dataset.Columns = SHAPE
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.PixelData = pixels().tobytes()
    whole = io.BytesIO()
    dataset.save_as(whole, enforce_file_format=True)
    elements = {element.tag: encoded(element) for element in dataset}
    header = whole.getvalue()[: -sum(map(len, elements.values()))]
    for keyword, text in tags.items():
        value = text.encode("latin-1")
        value += b" " * (len(value) % 2)
        tag, vr = Tag(tag_for_keyword(keyword)), dictionary_VR(keyword).encode()
        elements[tag] = struct.pack("<HH2sH", tag.group, tag.element, vr, len(value)) + value
    path.write_bytes(header + b"".join(elements[tag] for tag in sorted(elements)))


def encoded(element) -> bytes:
    """A data element in explicit little endian."""
    stream = DicomBytesIO()
    stream.is_little_endian, stream.is_implicit_VR = True, False
    write_data_element(stream, element)
    return stream.getvalue()


@thorough
@hypothesis.given(tags=st.dictionaries(st.sampled_from(KEYWORDS), TEXTS, max_size=8))
def test_dicom_tags(tags):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "xray.dcm"
        write_dicom(path, tags)
        opened = one_line(lambda: open_radiograph(path))
        if opened is not None:
            complete(opened[1])
        # A complete geometry beside it leaves no tag of the geometry any power.
        beside = Path(folder) / "geometry.json"
        beside.write_text(
            json.dumps({"sdd_mm": 1000, "pixel_spacing_mm": [4, 4], "sod_mm": 700, "view": "AP"})
        )
        unusable_image = {*OF_THE_PIXELS} & tags.keys()
        if not unusable_image:
            _, geometry = open_radiograph(path, beside)
            assert (geometry.camera.sdd_mm, geometry.sod_mm) == (1000, 700)
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(["info", "--json", str(path)])
        assert code in (0, 2)
        assert err.getvalue().count("\n") == (code == 2)
        json.loads(out.getvalue())


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=5), st.sampled_from(["AP", "LLAT"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(st.lists(NUMBERS, min_size=3, max_size=3), min_size=3, max_size=3),
        st.dictionaries(st.sampled_from(["K", "R", "t", "width", "height", "name"]), inner, max_size=5),
    ),
    max_leaves=12,
)
KEYS = [
    "K",
    "sdd_mm",
    "pixel_spacing_mm",
    "principal_point_px",
    "width",
    "height",
    "distortion",
    "sod_mm",
    "view",
    "nominal_rotation",
    "cameras",
    "mirrored",
    "sdd_tolerance_mm",
    "principal_point_tolerance_px",
    "pixel_spacing_tolerance_percent",
    "projection_origin_mm",
    "calibration",
    "sources",
    "comment",
]
GOOD = {"sdd_mm": 1000, "pixel_spacing_mm": [0.3, 0.3], "sod_mm": 700, "view": "AP"}


@thorough
@hypothesis.given(
    spoiled=st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=4),
    dropped=st.sets(st.sampled_from([*GOOD])),
    shape=st.sampled_from([SHAPE, None, (1, 1)]),
)
def test_geometry_json(spoiled, dropped, shape):
    entry = {key: value for key, value in GOOD.items() if key not in dropped} | spoiled
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "geometry.json"
        path.write_text(json.dumps(entry))
        geometry = one_line(lambda: load_geometry(path, shape))
    if geometry is not None:
        complete(geometry)


@thorough
@hypothesis.given(
    value=VALUES, name=st.sampled_from(["K", "R", "t", "width", "height", "sdd_mm", "distortion", "name"])
)
def test_one_camera_of_a_set(value, name):
    K = [[500.0, 0, 24], [0, 500, 20], [0, 0, 1]]
    good = {"name": "a", "K": K, "R": np.eye(3).tolist(), "t": [0, 0, 900], "width": 48, "height": 40}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cameras.json"
        path.write_text(json.dumps({"cameras": [good, good | {"name": "b"} | {name: value}]}))
        geometry = one_line(lambda: load_geometry(path))
    if geometry is not None:
        complete(geometry)


CALIBRATIONS = [
    "image size\n48,40\n\ncamera matrix\n500,0,24\n0,500,20\n0,0,1\n\nrotation\n1,0,0\n0,1,0\n0,0,1\n\n"
    "translation\n0\n0\n900\n",
    "0,0,900\n0,0,0\n0,0,-600\n24,20,-500\n0.1,48,40\n",
    "JT_INTCALIB\n1000\n0\n0\n0.3\n",
    "%YAML:1.0\n---\nimage_width: 48\nimage_height: 40\ncamera_matrix: !!opencv-matrix\n   rows: 3\n"
    "   cols: 3\n   dt: d\n   data: [ 500, 0, 24, 0, 500, 20, 0, 0, 1 ]\nD: !!opencv-matrix\n   rows: 1\n"
    "   cols: 5\n   dt: d\n   data: [ 0.1, 0, 0, 0, 0 ]\n",
    "500 0 24 0\n0 500 20 0\n0 0 1 900\n",
    '<RTKThreeDCircularGeometry version="3"><SourceToDetectorDistance>1000</SourceToDetectorDistance>'
    "<Projection><Matrix>-1000 0 0 0 0 -1000 0 0 0 0 1 -700</Matrix></Projection>"
    "</RTKThreeDCircularGeometry>",
]


@thorough
@hypothesis.given(
    text=st.sampled_from(CALIBRATIONS),
    start=st.integers(0, 400),
    length=st.integers(0, 30),
    other=st.one_of(st.text(max_size=8), NUMBERS.map(str)),
)
def test_calibrations_of_other_programs(text, start, length, other):
    start %= len(text)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "calibration.txt"
        path.write_text(
            text[:start] + other + text[start + length :], encoding="utf-8", errors="surrogatepass"
        )
        geometry = one_line(lambda: load_geometry(path, SHAPE, {"ImagerPixelSpacing": [0.3, 0.3]}))
    if geometry is not None:
        complete(geometry)


@thorough
@hypothesis.given(
    content=st.binary(max_size=300),
    name=st.sampled_from(["g.json", "c.txt", "x.dcm", "x.png", "x.nii", "x.yml"]),
)
def test_bytes(content, name):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        err = io.StringIO()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(err):
            assert main(["info", str(path)]) in (0, 2)
        assert err.getvalue().count("\n") <= 1


@thorough
@hypothesis.given(
    rows=st.integers(1, 70),
    columns=st.integers(1, 70),
    kind=st.sampled_from(["uint8", "uint16", "int16", "float32"]),
    content=st.sampled_from(["noise", "ramp", "constant", "half", "frame", "one pixel"]),
    seed=st.integers(0, 5),
)
def test_image_sizes_and_contents(rows, columns, kind, content, seed):
    rng = np.random.default_rng(seed)
    image = np.zeros((rows, columns))
    if content == "noise":
        image = rng.integers(0, 255, (rows, columns))
    elif content == "ramp":
        image = np.add.outer(np.arange(rows), np.arange(columns))
    elif content == "half":
        image[:, columns // 2 :] = 200
    elif content == "frame":
        image[rows // 4 : -rows // 4 or None, columns // 4 : -columns // 4 or None] = 100
    elif content == "one pixel":
        image[rows // 2, columns // 2] = 90
    camera = Camera.from_c_arm(1000.0, (1.0, 1.0), columns, rows)
    prepared = one_line(lambda: prepare_radiograph(Radiograph(image.astype(kind), "image.png"), camera))
    if prepared is not None:
        assert np.isfinite(prepared.image).all()
        assert prepared.valid.any()
        assert min(rows, columns) >= 16


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (2, 2), (16, 16), (17, 300)])
def test_sizes_through_the_command_line(shape, tmp_path, capsys):
    image = np.random.default_rng(1).integers(0, 255, shape).astype(np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(image), tmp_path / "image.png")
    code = main(["info", str(tmp_path / "image.png")])
    assert code == (0 if min(shape) >= 16 else 2)
    assert capsys.readouterr().err.count("\n") == (code == 2)
