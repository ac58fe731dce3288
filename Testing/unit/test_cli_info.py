"""``sopi info``: what it says of each kind of file, in a table and as JSON, and the geometries it writes."""

from __future__ import annotations

import json

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, XRayAngiographicImageStorage, generate_uid
from SOPIRegistrationLib.cli.main import main
from SOPIRegistrationLib.cli.request import say_contradictions
from SOPIRegistrationLib.geometry.autoscoper_trial import AutoscoperTrial, write_autoscoper_trial
from SOPIRegistrationLib.geometry.c_arm import CArmGeometry
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.contradictions import contradictions, contradictions_of_set
from SOPIRegistrationLib.geometry.files import load_geometry, write_geometry
from SOPIRegistrationLib.images.files import open_radiograph

TAGS = {
    "DistanceSourceToDetector": "1100",
    "DistanceSourceToPatient": "760",
    "ImagerPixelSpacing": [3, 3],
    "PositionerPrimaryAngle": "30",
    "PositionerSecondaryAngle": "-10",
}


@pytest.fixture
def told(capsys):
    """Run ``sopi info`` and give (exit code, what it printed, what it complained of)."""

    def run(*words):
        code = main(["info", *(str(word) for word in words)])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


@pytest.fixture
def entry(told):
    """The one entry of ``sopi info --json``."""

    def run(*words) -> dict:
        code, out, err = told("--json", *words)
        assert (code, err) == (0, "")
        [found] = json.loads(out)
        return found

    return run


@pytest.fixture
def pixels(rng):
    v, u = np.mgrid[-1:1:48j, -1:1:64j]
    return (3000 - 1500 * np.exp(-4 * (u**2 + v**2)) + rng.normal(0, 20, u.shape)).astype(np.uint16)


def write_xray(path, pixels, **tags):
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = XRayAngiographicImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
    dataset.Modality, dataset.PhotometricInterpretation, dataset.SamplesPerPixel = "XA", "MONOCHROME2", 1
    dataset.Rows, dataset.Columns = pixels.shape[-2:]
    if pixels.ndim > 2:
        dataset.NumberOfFrames = len(pixels)
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    dataset.PixelData = pixels.tobytes()
    dataset.save_as(path, enforce_file_format=True)
    return path


def test_an_xray_with_its_geometry_and_where_each_value_is_from(tmp_path, pixels, entry, told):
    path = write_xray(tmp_path / "run.dcm", pixels, PixelIntensityRelationship="LIN", **TAGS)
    found = entry(path)
    assert (found["kind"], found["size"]) == ("X-ray", [64, 48])
    assert found["polarity"] == "bone-dark (the file says so)"
    geometry = found["geometry"]
    assert geometry["cameras"][0]["sdd_mm"] == 1100
    assert geometry["sod_mm"] == 760
    assert geometry["tolerances"] == {
        "sdd_mm": 5.5,
        "principal_point_px": 3,
        "pixel_spacing_percent": 0.2,
    }
    assert geometry["sources"]["sdd_mm"] == "DICOM"
    assert found["warnings"] == []
    _, table, _ = told(path)
    assert "1100 mm +- 5.5 mm  [DICOM]" in table
    assert "31.50, 23.50 px +- 3 px  [default: detector centre]" in table
    assert "[DICOM positioner angles 30 and -10 deg]" in table


def test_an_xray_without_a_geometry_says_what_is_missing(tmp_path, pixels, entry):
    path = write_xray(tmp_path / "run.dcm", pixels, DistanceSourceToDetector="1100")
    found = entry(path)
    assert "geometry" not in found
    assert "lacks Imager Pixel Spacing (0018,1164)" in found["warnings"][0]
    assert found["polarity"].endswith("(detected, the other is tried as well)")
    square = write_xray(tmp_path / "square.dcm", np.ascontiguousarray(pixels[:, :48]))
    assert "geometry" in entry("--geometry", "Perlove PLX118F", square)


def test_the_first_of_several_frames_stands_for_all(tmp_path, pixels, entry):
    path = write_xray(tmp_path / "run.dcm", np.stack([pixels, pixels + 7]), **TAGS)
    assert entry(path)["frames"] == "several, the first is shown"
    assert entry(path, "--frame", 2)["values"]["from"] == int(pixels.min()) + 7


def test_a_ct_with_its_axes(tmp_path, entry, rng):
    image = sitk.GetImageFromArray(rng.integers(-1000, 2000, (5, 6, 7)).astype(np.int16))
    image.SetSpacing((0.5, 0.6, 2.5))
    image.SetDirection((0, 1, 0, 0, 0, -1, -1, 0, 0))
    sitk.WriteImage(image, tmp_path / "ct.nrrd")
    found = entry(tmp_path / "ct.nrrd")
    assert (found["kind"], found["size"], found["spacing_mm"]) == ("CT", [7, 6, 5], [0.5, 0.6, 2.5])
    assert found["axes"] == ["I", "L", "A"]


def test_a_ct_with_what_was_mended(tmp_path, entry):
    """Unsigned voxels, 1024 above Hounsfield units."""
    hu = np.full((30, 30, 30), -1000)
    hu[6:24, 6:24, 6:24] = 40
    hu[12:18, 12:18, :] = 700
    noise = np.random.default_rng(2).normal(0, 12, hu.shape)
    sitk.WriteImage(
        sitk.GetImageFromArray((hu + 1024 + noise).clip(0).astype(np.uint16)), tmp_path / "ct.nrrd"
    )
    found = entry(tmp_path / "ct.nrrd")
    assert "1024" in " ".join(found["warnings"])
    assert found["values_hu"]["from"] < -950


def test_several_files_one_of_them_unusable(tmp_path, pixels, told):
    good = write_xray(tmp_path / "run.dcm", pixels, **TAGS)
    bad = tmp_path / "notes.txt"
    bad.write_text("about a metre")
    code, out, err = told(good, bad, tmp_path / "absent.nii")
    assert code == 2
    assert "run.dcm" in out
    assert err.splitlines() == [line for line in err.splitlines() if line.startswith("sopi info: ")]
    assert len(err.splitlines()) == 2
    code, out, err = told("--json", good, bad)
    assert (code, [one["kind"] for one in json.loads(out)]) == (2, ["X-ray", "unusable"])


def test_a_result(tmp_path, entry):
    path = tmp_path / "result.json"
    path.write_text(
        json.dumps(
            {
                "method": "search + opt",
                "pose": {"theta": {"rx_deg": 1.5}},
                "verdict": {"status": "accept", "reasons": ["the images agree"]},
            }
        )
    )
    found = entry(path)
    assert (found["kind"], found["verdict"], found["theta"]["rx_deg"]) == ("result", "accept", 1.5)


# Geometries, written in other formats


def cameras() -> tuple[Camera, ...]:
    T = np.eye(4)
    T[:3, 3] = [3.0, -7.0, 900.0]
    turned = T.copy()
    turned[:3, :3] = [[0, 0, -1], [0, 1, 0], [1, 0, 0]]
    K = np.array([[5000.0, 0, 310], [0, 5000, 250], [0, 0, 1]])
    return Camera(K, 640, 480, 1000.0, T, "a"), Camera(K * [[1.1], [1.1], [1]], 640, 480, 1100.0, turned, "b")


@pytest.mark.parametrize("form", ["xmalab", "opencv", "rtk", "projection", "json"])
def test_geometries_are_written_in_the_formats_of_others(tmp_path, told, form):
    source = tmp_path / "set.json"
    write_geometry(CArmGeometry(cameras()), source)
    out = tmp_path / "out" / "set.txt"
    out.parent.mkdir()
    code, printed, _ = told(source, "--write-geometry", out, "--as", form)
    assert code == 0
    written = sorted(out.parent.iterdir())
    assert all(f"{path} written" in printed for path in written)
    assert len(written) == (2 if form in ("xmalab", "opencv") else 1)
    if form == "rtk":
        return
    read = load_geometry(out.parent if len(written) > 1 else out, (480, 640))
    for ours, theirs in zip(read.cameras, cameras(), strict=True):
        np.testing.assert_allclose(ours.K, theirs.K)
        np.testing.assert_allclose(ours.T_world_to_camera, theirs.T_world_to_camera, atol=1e-9)


def test_calibrations_of_one_camera_each_are_put_together(tmp_path, told):
    paths = write_geometry(CArmGeometry(cameras()), tmp_path / "x.txt", "xmalab")
    assert told(*paths, "--write-geometry", tmp_path / "set.json")[0] == 0
    read = load_geometry(tmp_path / "set.json")
    assert [camera.name for camera in read.cameras] == ["a", "b"]
    np.testing.assert_allclose(read.cameras[1].T_world_to_camera, cameras()[1].T_world_to_camera)


def test_a_trial_has_the_cameras_in_its_order(tmp_path, entry):
    b, a = reversed(write_geometry(CArmGeometry(cameras()), tmp_path / "x.txt", "xmalab"))
    path = tmp_path / "trial.cfg"
    pictures = tmp_path / "second", tmp_path / "first"
    trial = AutoscoperTrial((b, a), pictures, (tmp_path / "ct.tif",), ((False,) * 3,), ((1.0, 1.0, 1.0),))
    write_autoscoper_trial(path, trial)
    found = entry(path)
    assert found["kind"] == "geometry"
    assert [camera["name"] for camera in found["geometry"]["cameras"]] == ["b", "a"]


def test_the_geometry_of_an_xray_is_written(tmp_path, pixels, told):
    path = write_xray(tmp_path / "run.dcm", pixels, **TAGS)
    assert told(path, "--write-geometry", tmp_path / "c.txt", "--as", "jointtrack")[0] == 0
    assert (tmp_path / "c.txt").read_text().split() == ["JT_INTCALIB", "1100", "0", "0", "3"]
    # Tolerances and view go with the JSON.
    assert told(path, "--write-geometry", tmp_path / "g.json")[0] == 0
    read = load_geometry(tmp_path / "g.json", (48, 64))
    assert read.tolerances.sdd_mm == 5.5
    assert read.tolerances == load_geometry(None, (48, 64), pydicom_tags(path)).tolerances


def pydicom_tags(path) -> dict:
    dataset = pydicom.dcmread(path)
    found = {key: dataset.get(key) for key in TAGS}
    return {
        key: [float(one) for one in value]
        if hasattr(value, "__len__") and not isinstance(value, str)
        else float(value)
        for key, value in found.items()
    }


@pytest.mark.parametrize("form", ["jointtrack", "rtk"])
def test_a_format_that_cannot_hold_it_is_one_line(tmp_path, told, form):
    source = tmp_path / "k.json"
    source.write_text(
        json.dumps({"K": [[5000, 0, 310], [0, 5000, 250], [0, 0, 1]], "width": 640, "height": 480})
    )
    code, _, err = told(source, "--write-geometry", tmp_path / "x", "--as", form)
    assert code == 2
    assert err.count("\n") == 1
    assert "source-detector distance" in err
    assert not (tmp_path / "x").exists()


# Contradictions


def geometry(sdd=1000.0, spacing=(0.3, 0.3), point=None, sod=None, view="AP", shape=(1024, 1024)):
    camera = Camera.from_c_arm(sdd, spacing, shape[1], shape[0], point)
    return CArmGeometry((camera,), sod, view)


def test_a_usual_geometry_has_no_contradiction():
    assert contradictions(geometry(), (1024, 1024), {}) == []
    tags = {
        "PositionerPrimaryAngle": 0.0,
        "PositionerSecondaryAngle": 5.0,
        "FieldOfViewDimensions": [307.0, 307.0],
        "PatientOrientation": ["L", "F"],
        "EstimatedRadiographicMagnificationFactor": 1.4,
    }
    assert contradictions(geometry(view="PA", sod=714.0), (1024, 1024), tags) == []


@pytest.mark.parametrize(
    ("options", "shape", "tags", "said"),
    [
        ({}, (512, 512), {}, "the image has 512 x 512 pixels, the geometry is for 1024 x 1024"),
        ({"spacing": (0.3, 0.2)}, None, {}, "1.50 times as high as wide"),
        ({"spacing": (0.9, 0.9)}, None, {}, "a field of 922 x 922 mm, larger than any detector"),
        ({"spacing": (0.01, 0.01)}, None, {}, "smaller than any detector"),
        ({"sdd": 300.0}, None, {}, "the image is 54 deg wide as seen from the source"),
        ({"sdd": 110.0}, None, {}, "the source-detector distance of 110 mm is none of an X-ray system"),
        ({"sod": 1010.0}, None, {}, "the patient stands behind the detector: 1010 of 1000 mm"),
        ({"sod": 150.0}, None, {}, "150 mm before the source, 6.7 times magnified"),
        ({"point": (-40.0, 500.0)}, None, {}, "principal point (-40.0, 500.0) lies outside the image"),
        ({}, None, {"IntensifierSize": 230.0}, "1.34 times the field of view or intensifier size"),
        (
            {},
            None,
            {"DetectorElementSpacing": [0.15, 0.15], "DetectorBinning": [4.0, 4.0]},
            "0.50 times that of the detector's elements times their binning",
        ),
        (
            {"sod": 500.0},
            None,
            {"EstimatedRadiographicMagnificationFactor": 1.4},
            "a magnification of 2.00, the DICOM tags say 1.4",
        ),
        (
            {"view": "LLAT"},
            None,
            {"PositionerPrimaryAngle": 0.0, "PositionerSecondaryAngle": 0.0},
            "the view is 90 deg off what the positioner angles in the DICOM tags say",
        ),
        ({}, None, {"ViewPosition": "PA"}, "the view is 180 deg off what View Position"),
        ({"point": (150.0, 500.0)}, None, {}, "(150.0, 500.0) lies far from the image's middle"),
        (
            {"point": (299.5, 399.5), "shape": (600, 800)},
            None,
            {},
            "(299.5, 399.5) would be the middle if rows and columns were exchanged",
        ),
        ({}, None, {"DetectorSecondaryAngle": -12.0}, "the detector is tilted 12 deg against the beam"),
        (
            {},
            None,
            {"PixelAspectRatio": [2.0, 1.0]},
            "pixels are 2 times as high as wide, they are taken as 1",
        ),
        (
            {},
            None,
            {"PatientOrientation": ["A", "F"]},
            r"Patient Orientation A\F in the DICOM tags is not that of",
        ),
    ],
)
def test_each_contradiction_is_a_sentence(options, shape, tags, said):
    found = contradictions(geometry(**options), shape, tags)
    assert any(said in one for one in found), found


def test_pixels_that_are_skewed():
    K = np.array([[3000.0, 200, 511.5], [0, 3000, 511.5], [0, 0, 1]])
    [found] = contradictions(CArmGeometry((Camera(K, 1024, 1024),)))
    assert "the pixels are skewed (200 of 3000 px)" in found


def test_a_patient_who_lies_otherwise_is_said(tmp_path, pixels, entry):
    path = write_xray(tmp_path / "run.dcm", pixels, **TAGS, PatientPosition="HFP")
    [found] = entry(path)["warnings"]
    assert "the patient lies HFP" in found
    assert "compare the view" in found
    assert entry(write_xray(path, pixels, **TAGS, PatientPosition="HFS"))["warnings"] == []


def test_a_field_off_the_detectors_middle_is_said(tmp_path, pixels, entry):
    tags = TAGS | {
        "FieldOfViewOrigin": [20, 100],
        "FieldOfViewDimensions": [144, 192],
        "DetectorElementSpacing": [1, 1],
        "DetectorActiveDimensions": [300, 300],
    }
    [found] = entry(write_xray(tmp_path / "run.dcm", pixels, **tags))["warnings"]
    # 20 + 144 / 2 and 100 + 192 / 2, of 150.
    assert "the field's middle is 46 mm right of and -58 mm below the detector's" in found


def test_a_picture_that_was_turned_over_is_said(tmp_path, pixels, entry):
    tags = {key: value for key, value in TAGS.items() if not key.startswith("Positioner")}
    tags |= {"FieldOfViewHorizontalFlip": "YES", "ViewPosition": "AP"}
    [found] = entry(write_xray(tmp_path / "run.dcm", pixels, **tags))["warnings"]
    assert "it may be mirrored" in found
    assert (
        entry(write_xray(tmp_path / "run.dcm", pixels, **tags, PatientOrientation=["L", "F"]))["warnings"]
        == []
    )


def test_register_says_contradictions_too(tmp_path, pixels, capsys):
    path = write_xray(tmp_path / "run.dcm", pixels, **TAGS | {"DistanceSourceToPatient": "1200"})
    radiograph, known = open_radiograph(path)
    say_contradictions([radiograph], known)
    assert (
        capsys.readouterr().err == "note: run.dcm: the patient stands behind the detector: 1200 of 1100 mm\n"
    )
    say_contradictions([radiograph, radiograph], placed(lambda R, t, source: (R.T, t)))
    assert "is R transposed" in capsys.readouterr().err


def looking(source, target) -> np.ndarray:
    """T_world_to_camera of a camera at ``source`` that looks at ``target``."""
    z = np.subtract(target, source) / np.linalg.norm(np.subtract(target, source))
    x = np.cross([0.1, 0.2, 1.0], z)
    x /= np.linalg.norm(x)
    T = np.eye(4)
    T[:3, :3] = [x, np.cross(z, x), z]
    T[:3, 3] = -T[:3, :3] @ source
    return T


SOURCES = [700.0, 100.0, 50.0], [-200.0, 800.0, -120.0]


def placed(change, scale=1.0) -> CArmGeometry:
    """Two cameras that look at one place, their (R, t) changed."""
    built = []
    for name, source in zip("ab", SOURCES, strict=True):
        T = looking(source, [40.0, -30.0, 60.0])
        R, t = change(T[:3, :3], T[:3, 3], source)
        T[:3, :3], T[:3, 3] = R, scale * np.asarray(t)
        K = [[3000.0, 0, 319.5], [0, 3000, 239.5], [0, 0, 1]]
        built.append(Camera(K, 640, 480, None, T, name))
    return CArmGeometry(tuple(built))


@pytest.mark.parametrize(
    ("change", "scale", "said"),
    [
        (lambda R, t, source: (R, t), 1, []),
        (lambda R, t, source: (R.T, t), 1, ["is R transposed"]),
        (lambda R, t, source: (R, source), 1, ["or t the place of the source"]),
        (lambda R, t, source: (R.T, source), 1, ["is R transposed"]),
        (lambda R, t, source: (R, t), 0.1, ["lengths in another unit than mm"]),
        (lambda R, t, source: (R, t), 0.001, ["lengths in another unit than mm"]),
    ],
)
def test_cameras_that_do_not_look_at_one_place(change, scale, said):
    found = contradictions_of_set(placed(change, scale))
    assert len(found) >= len(said)
    assert all(any(one in sentence for sentence in found) for one in said), found
    assert bool(found) == bool(said)


def test_a_camera_calibrated_alone_in_metres(tmp_path, entry):
    alone = placed(lambda R, t, source: (R, t), 0.001).for_camera("a")
    write_geometry(alone, tmp_path / "a.json")
    assert "lengths in another unit than mm" in entry(tmp_path / "a.json")["warnings"][0]


def test_a_picture_of_several_pages_is_an_xray(tmp_path, rng, entry):
    pages = [Image.fromarray(rng.integers(0, 255, (48, 64)).astype(np.uint8)) for _ in range(3)]
    pages[0].save(tmp_path / "run.tif", save_all=True, append_images=pages[1:])
    found = entry(tmp_path / "run.tif")
    assert (found["kind"], found["frames"]) == ("X-ray", "several, the first is shown")


def test_info_shows_contradictions(tmp_path, pixels, entry):
    path = write_xray(tmp_path / "run.dcm", pixels, **TAGS | {"DistanceSourceToPatient": "1200"})
    assert "the patient stands behind the detector: 1200 of 1100 mm" in entry(path)["warnings"]
