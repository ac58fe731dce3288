"""Unusable input: exit code 2, one line with the file and the remedy, nothing written or overwritten."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
import torch
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from SOPIRegistrationLib.cli.main import COMMANDS, main

SPACING_MM = (2.0, 2.0, 2.0)


class Case:
    """A small case that registers, in files that a test then spoils."""

    def __init__(self, folder: Path, rng: np.random.Generator):
        self.folder = folder
        self.rng = rng
        self.out = folder / "out"
        self.out.mkdir()
        (self.out / "result.json").write_text("the result of an earlier run")
        self.ct = self.write("ct.nrrd", self.hu())
        self.xray = self.write("xray.tif", self.pixels())
        self.geometry = folder / "geometry.json"
        self.describe(sdd_mm=1000, pixel_spacing_mm=[3.0, 3.0], sod_mm=700, view="AP")

    def hu(self) -> np.ndarray:
        """A block of bone in a block of water in air."""
        hu = np.full((40, 44, 48), -1000, np.int16)
        hu[4:-4, 4:-4, 4:-4] = 0
        hu[12:30, 14:24, 16:30] = 900
        return hu

    def pixels(self) -> np.ndarray:
        v, u = np.mgrid[-1:1:48j, -1:1:56j]
        return (3000 + 500 * u - 1500 * np.exp(-4 * (u**2 + v**2)) + self.rng.normal(0, 20, u.shape)).astype(
            np.uint16
        )

    def write(self, name: str, array: np.ndarray, vector: bool = False, spacing=SPACING_MM) -> Path:
        image = sitk.GetImageFromArray(array, isVector=vector)
        image.SetSpacing([*spacing, 1.0][: image.GetDimension()])
        sitk.WriteImage(image, str(self.folder / name))
        return self.folder / name

    def describe(self, **entry) -> None:
        self.geometry.write_text(json.dumps(entry))

    def run(self, *options) -> int:
        words = ["register", self.ct, self.xray, "--geometry", self.geometry, "--out", self.out]
        words += ["--init", "nominal", "--refine", "none", *options]
        return main([str(word) for word in words])


@pytest.fixture
def case(tmp_path, rng) -> Case:
    return Case(tmp_path, rng)


@pytest.fixture
def refused(case, capsys):
    """Run, and check how it was refused: which file, and words of what is wrong and of the remedy."""

    def check(name: str, *words: str, options=()):
        before = {path.relative_to(case.folder) for path in case.folder.rglob("*")}
        assert case.run(*options) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.startswith("sopi register: ")
        assert printed.err.count("\n") == 1, printed.err
        assert printed.err.endswith("\n")
        for word in (name, *words):
            assert word in printed.err
        assert {path.relative_to(case.folder) for path in case.folder.rglob("*")} == before
        assert (case.out / "result.json").read_text() == "the result of an earlier run"

    return check


def test_the_case_itself_is_usable(case):
    assert case.run() == 0
    assert json.loads((case.out / "result.json").read_text())["method"].startswith("nominal")


@pytest.mark.parametrize("kind", ["ct", "xray", "geometry"])
def test_missing_file(case, refused, kind):
    setattr(case, kind, case.folder / f"no_{kind}.nrrd")
    refused(f"no_{kind}.nrrd", "does not exist")


@pytest.mark.parametrize("option", ["--mask", "--init"])
def test_missing_optional_file(case, refused, option):
    refused("absent.nrrd", "does not exist", options=(option, case.folder / "absent.nrrd"))


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root reads everything")
@pytest.mark.parametrize("kind", ["ct", "xray", "geometry"])
def test_unreadable_file(case, refused, kind):
    getattr(case, kind).chmod(0)
    refused(getattr(case, kind).name, "cannot be read")


def test_text_named_nifti(case, refused):
    case.ct = case.folder / "ct.nii.gz"
    case.ct.write_text("this is no image")
    refused("ct.nii.gz", "not a NIfTI file", "use a DICOM series folder")


def test_text_named_png(case, refused):
    case.xray = case.folder / "xray.png"
    case.xray.write_text("this is no image")
    refused("xray.png", "not an image", "PNG, TIFF")


def test_damaged_ct(case, refused):
    case.ct.write_bytes(case.ct.read_bytes()[:-3000])
    refused("ct.nrrd", "damaged", "export it again")


def test_empty_folder_as_ct(case, refused):
    case.ct = case.folder / "series"
    case.ct.mkdir()
    refused("series", "without a DICOM series")


def test_4d_ct(case, refused):
    images = [sitk.GetImageFromArray(case.hu()) for _ in range(2)]
    sitk.WriteImage(sitk.JoinSeries(images), str(case.ct))
    refused("ct.nrrd", "4D", "save one")


def test_rgb_ct(case, refused):
    case.write("ct.nrrd", np.repeat(case.hu()[..., None], 3, axis=-1), vector=True)
    refused("ct.nrrd", "RGB", "one is needed")


def test_colour_xray(case, refused):
    colours = np.stack([case.pixels() // 16 + shift for shift in (0, 9, 30)], axis=-1).astype(np.uint8)
    case.xray = case.write("xray.png", colours, vector=True)
    refused("xray.png", "colour", "grayscale")


def test_multi_frame_without_a_frame(case, refused):
    case.write("xray.tif", np.stack([case.pixels()] * 3))
    refused("xray.tif", "3 frames", "--frame 1 to 3")
    refused("xray.tif", "no frame 4", "--frame 1 to 3", options=("--frame", "4"))
    assert case.run("--frame", "2") == 0


@pytest.mark.parametrize("spacing", [0.0, -2.0, np.nan])
def test_spacing_not_above_zero(case, refused, spacing):
    """Written into the header: no library would."""
    case.ct = case.write("ct.nii", case.hu())
    content = bytearray(case.ct.read_bytes())
    struct.pack_into("<f", content, 76 + 8, spacing)
    case.ct.write_bytes(content)
    refused("ct.nii", "spacing", "above zero")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_or_infinite_voxels(case, refused, value):
    hu = case.hu().astype(np.float32)
    hu[3, 4, 5] = value
    case.write("ct.nrrd", hu)
    refused("ct.nrrd", "NaN or infinite", "replace")


def test_nan_pixels(case, refused):
    pixels = case.pixels().astype(np.float32)
    pixels[3, 4] = np.nan
    case.write("xray.tif", pixels)
    refused("xray.tif", "NaN or infinite")


def test_ct_without_bone(case, refused):
    case.write("ct.nrrd", np.minimum(case.hu(), 60))
    refused("ct.nrrd", "no bone", "--bone-threshold", "--mask")


def test_ct_without_tissue(case, refused):
    case.write("ct.nrrd", np.full((40, 44, 48), -1000, np.int16))
    refused("ct.nrrd", "no tissue", "Hounsfield")


def test_empty_mask(case, refused):
    mask = case.write("mask.nrrd", np.zeros((40, 44, 48), np.uint8))
    refused("mask.nrrd", "empty", "bones", options=("--mask", mask))


def test_mask_beside_the_ct(case, refused):
    mask = sitk.GetImageFromArray(np.ones((8, 8, 8), np.uint8))
    mask.SetOrigin((900.0, 0.0, 0.0))
    sitk.WriteImage(mask, str(case.folder / "mask.nrrd"))
    refused("mask.nrrd", "does not overlap", "ct.nrrd", options=("--mask", case.folder / "mask.nrrd"))


def test_constant_xray(case, refused):
    case.write("xray.tif", np.full((48, 56), 700, np.uint16))
    refused("xray.tif", "constant")


def test_no_geometry(case, capsys):
    words = ["register", case.ct, case.xray, "--out", case.out]
    assert main([str(word) for word in words]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "xray.tif" in error
    assert "--geometry" in error
    assert (case.out / "result.json").read_text() == "the result of an earlier run"


def test_dicom_without_the_needed_tags(case, capsys):
    """What is missing is asked for by its tag."""
    path = case.folder / "xray.dcm"
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = pydicom.uid.DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = (
        meta.MediaStorageSOPClassUID,
        meta.MediaStorageSOPInstanceUID,
    )
    dataset.Modality, dataset.PhotometricInterpretation, dataset.SamplesPerPixel = "DX", "MONOCHROME2", 1
    pixels = case.pixels()
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 0
    dataset.DistanceSourceToDetector = 1000
    dataset.PixelData = pixels.tobytes()
    dataset.save_as(path)
    assert main(["register", str(case.ct), str(path), "--out", str(case.out)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "xray.dcm" in error
    assert "(0018,1164)" in error
    assert "(0018,1110)" not in error


@pytest.mark.parametrize("K", [np.diag([0.0, 500, 1]), np.zeros((3, 3)), np.full((3, 3), np.nan)])
def test_singular_geometry(case, refused, K):
    case.geometry.write_text(json.dumps({"K": K.tolist(), "sod_mm": 700}))
    refused("geometry.json", "K must")


def test_geometry_that_is_not_json(case, refused):
    case.geometry.write_text("sdd 1000")
    refused("geometry.json", "not JSON", "sdd_mm")


def test_geometry_with_an_unknown_key(case, refused):
    case.describe(SDD=1000)
    refused("geometry.json", "'SDD'", "sdd_mm")


def test_geometry_without_spacing(case, refused):
    case.describe(sdd_mm=1000)
    refused("geometry.json", "lacks pixel_spacing_mm", "add")


def test_geometry_without_scale(case, refused):
    case.describe(K=[[300, 0, 28], [0, 300, 24], [0, 0, 1]])
    refused("geometry.json", "source-object distance", "add sod_mm")


def test_distance_to_the_object_comes_from_the_start_pose(case):
    """A camera known by its K alone: the depth of the start pose, and that is said."""
    case.describe(sdd_mm=1000, pixel_spacing_mm=[3, 3], sod_mm=650, view="AP")
    assert case.run() == 0
    first = json.loads((case.out / "result.json").read_text())
    start = case.folder / "start.json"
    start.write_text(json.dumps(first))
    case.describe(K=[[1000 / 3, 0, 27.5], [0, 1000 / 3, 23.5], [0, 0, 1]])
    assert case.run("--init", start) == 0
    result = json.loads((case.out / "result.json").read_text())
    assert result["geometry"]["sod_mm"] == pytest.approx(650)
    assert result["geometry"]["sources"]["sod_mm"] == "start pose: depth of the CT's rotation centre"
    assert result["pose"]["theta"]["tz_mm"] == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(result["pose"]["T_lps_to_camera"], first["pose"]["T_lps_to_camera"])


def test_distance_to_the_object_is_not_in_a_transform_file(case, refused, capsys):
    assert case.run() == 0
    capsys.readouterr()
    case.out.joinpath("ct_to_carm.tfm").rename(case.folder / "start.tfm")
    (case.out / "result.json").write_text("the result of an earlier run")
    case.describe(K=[[1000 / 3, 0, 27.5], [0, 1000 / 3, 23.5], [0, 0, 1]])
    refused("geometry.json", "add sod_mm", options=("--init", case.folder / "start.tfm"))


def test_start_pose_behind_the_source(case, refused):
    T = np.eye(4)
    T[2, 3] = -900.0
    case.describe(K=[[1000 / 3, 0, 27.5], [0, 1000 / 3, 23.5], [0, 0, 1]])
    refused("start.json", "behind the X-ray source", options=("--init", start_file(case, T)))


@pytest.mark.parametrize("shape", [(2, 2), (1, 56), (56, 9)])
def test_xray_too_small(case, refused, shape):
    pixels = np.arange(shape[0] * shape[1], dtype=np.uint16).reshape(shape)
    case.write("xray.tif", pixels)
    refused("xray.tif", f"only {shape[1]} x {shape[0]} pixels", "at least 16 x 16")


def test_geometry_for_another_image(case, refused):
    case.describe(sdd_mm=1000, pixel_spacing_mm=[3, 3], width=512, height=512)
    refused("geometry.json", "512 x 512", "xray.tif", "56 x 48")


def test_calibrated_camera_for_another_image(case, refused):
    camera = {"K": [[300, 0, 28], [0, 300, 24], [0, 0, 1]], "width": 64, "height": 64}
    case.describe(cameras=[camera], sod_mm=700)
    refused("xray.tif", "56 x 48", "64 x 64")


def two_cameras() -> list[dict]:
    camera = {"K": [[300, 0, 28], [0, 300, 24], [0, 0, 1]], "width": 56, "height": 48, "t": [0, 0, 0]}
    turned = [[0, 0, -1], [0, 1, 0], [1, 0, 0]]
    return [{**camera, "name": "a1", "R": np.eye(3).tolist()}, {**camera, "name": "b1", "R": turned}]


def test_camera_of_a_set_is_asked_for(case, refused):
    case.describe(cameras=two_cameras(), sod_mm=700)
    refused("geometry.json", "a1, b1", "--camera")
    refused("geometry.json", "'c1'", "a1, b1", options=("--camera", "c1"))
    assert case.run("--camera", "b1") == 0


def test_a_file_that_has_the_name_of_another_camera(case, capsys):
    case.describe(cameras=two_cameras(), sod_mm=700)
    case.xray = case.xray.rename(case.folder / "xray_a1.tif")
    for camera, said in (("a1", False), ("b1", True)):
        assert case.run("--camera", camera) == 0
        note = f"note: xray_a1.tif has the name of camera a1, and --camera is {camera}"
        assert (note in capsys.readouterr().err) == said


def test_two_xrays_of_one_camera(case, capsys):
    words = ["register", case.ct, case.xray, case.xray, "--geometry", case.geometry, "--out", case.out]
    assert main([str(word) for word in words]) == 2
    said = capsys.readouterr().err
    assert "geometry.json describes one camera, and 2 X-rays are given" in said
    assert "one by one" in said


def test_a_ct_in_the_place_of_the_xray(case, refused):
    case.xray = case.ct
    refused("ct.nrrd", "40 frames", "a CT is named first", "--xrays")


@pytest.mark.parametrize("option", [("--held", "ct=femur"), ("--fixed", "ct")])
def test_what_is_of_several_bodies_is_not_ignored(case, refused, option):
    refused("ct.nrrd", "of several bodies", "only one", options=option)


def test_several_xrays_need_a_camera_each(case, capsys):
    case.describe(cameras=two_cameras(), sod_mm=700)
    words = [
        "register",
        case.ct,
        case.xray,
        case.xray,
        case.xray,
        "--geometry",
        case.geometry,
        "--out",
        case.out,
    ]
    assert main([str(word) for word in words]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "geometry.json" in error
    assert "3 X-rays" in error


def start_file(case, T) -> Path:
    path = case.folder / "start.json"
    path.write_text(json.dumps({"pose": {"T_lps_to_camera": np.asarray(T).tolist()}}))
    return path


def test_volume_outside_the_field_of_view(case, refused):
    T = np.eye(4)
    T[:3, 3] = [900, 0, 700]
    refused("xray.tif", "outside the field of view", "start pose", options=("--init", start_file(case, T)))


def test_volume_behind_the_source(case, refused):
    T = np.eye(4)
    T[:3, 3] = [0, 0, -700]
    refused("xray.tif", "outside the field of view", options=("--init", start_file(case, T)))


@pytest.mark.parametrize(
    "content", ["{}", "[1]", '{"pose": {"T_lps_to_camera": [[1, 0], [0, 1]]}}', "no JSON"]
)
def test_result_without_a_pose(case, refused, content):
    path = case.folder / "start.json"
    path.write_text(content)
    refused("start.json", "T_lps_to_camera", ".tfm", options=("--init", path))


def test_start_that_is_not_rigid(case, refused):
    refused("start.json", "rigid", options=("--init", start_file(case, np.diag([1.2, 1, 1, 1]))))


def test_start_that_was_transposed(case, refused):
    T = np.eye(4)
    T[:3, 3] = [10, 20, 700]
    refused(
        "start.json", "last row of 10, 20, 700, 1", "transposed", options=("--init", start_file(case, T.T))
    )


def test_start_that_is_no_transform(case, refused):
    path = case.folder / "start.tfm"
    path.write_text("no transform")
    refused("start.tfm", "not a transform", "result.json", options=("--init", path))


def test_output_folder_is_a_file(case, refused):
    case.out = case.folder / "taken"
    case.out.write_text("")
    before = case.out.read_bytes()
    words = ["register", case.ct, case.xray, "--geometry", case.geometry, "--out", case.out]
    assert main([str(word) for word in words]) == 2
    assert case.out.read_bytes() == before


def test_output_folder_cannot_be_made(case, capsys):
    out = case.xray / "results"
    words = ["register", case.ct, case.xray, "--geometry", case.geometry, "--out", out]
    assert main([str(word) for word in words]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert str(out) in error
    assert "--out" in error


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root writes everywhere")
def test_output_folder_is_read_only(case, refused):
    case.out.chmod(0o500)
    try:
        refused("out", "cannot write", "--out")
    finally:
        case.out.chmod(0o700)


def test_a_folder_where_a_result_goes(case, refused):
    (case.out / "drr.nrrd").mkdir()
    refused("out", "drr.nrrd is a folder", "--out")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--refine", "best"], "invalid choice: 'best'"),
        (["--device", "cuda"], "cuda is not available in this version: use auto or cpu"),
        (["--polarity", "grey"], "invalid choice: 'grey'"),
        (["--bone-threshold", "high"], "invalid float value: 'high'"),
    ],
)
def test_options_that_do_not_exist(case, capsys, words, expected):
    with pytest.raises(SystemExit) as left:
        case.run(*words)
    assert left.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert expected in error


def test_commands_that_do_not_exist(capsys):
    with pytest.raises(SystemExit) as left:
        main(["evaluat", "x"])
    assert left.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "invalid choice: 'evaluat'" in error
    assert all(name in error for name in COMMANDS)


def test_weights_that_are_none(case, tmp_path, refused):
    absent, text = tmp_path / "absent.safetensors", tmp_path / "text.safetensors"
    text.write_text("no weights")
    refused("absent.safetensors", "--weights", options=("--init", "rtpi", "--weights", str(absent)))
    refused("text.safetensors", "--weights", options=("--init", "rtpi", "--weights", str(text)))
    for refine in ("sopi", "sopi+opt"):
        refused("absent.safetensors", "--weights", options=("--refine", refine, "--weights", f"ifr={absent}"))
    refused("ifr2=", "rtpi", options=("--weights", f"ifr2={absent}"))


def test_a_learned_refinement_without_weights(refused, tmp_path, monkeypatch):
    monkeypatch.setenv("SOPI_WEIGHTS", str(tmp_path))
    refused("no weights 'ifr' are installed", "--weights ifr=FILE", options=("--refine", "sopi"))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--steps", "0"], "--steps is 0: give 1 or more"),
        (["--pool", "2", "--patients", "3"], "--patients 3 of --pool 2: give a larger pool"),
        (["--ct", "absent.nii.gz"], "absent.nii.gz"),
        (["--strength", "2"], "--strength is 2: give 0 to 1"),
        (["--device", "cuda"], "--device cuda: no usable GPU here"),
    ],
)
def test_training_that_cannot_start(tmp_path, capsys, options, expected):
    if "cuda" in options:
        pytest.importorskip("lightning_fabric")
        if torch.cuda.is_available():
            pytest.skip("there is a GPU")
    assert main(["train", "rtpi", "--out", str(tmp_path), *options]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert expected in error


@pytest.mark.parametrize(
    ("out", "options", "expected"),
    [
        ("drr.jpg", (), ".nrrd"),
        ("out", (), ".nrrd"),
        ("drr.nrrd", ("--theta", "0", "0", "0", "0", "900", "0"), "outside the field of view"),
        ("drr.nrrd", ("--pose", "absent.json"), "absent.json does not exist"),
        ("xray.tif/drr.nrrd", (), "cannot write"),
        ("drr.nrrd", ("--physics", "20", "--theta", "0", "0", "0", "0", "0", "0"), "60 to 120 kV"),
        ("drr.nrrd", ("--metal", "Ti", "--theta", "0", "0", "0", "0", "0", "0"), "add --physics"),
    ],
)
def test_drr(case, capsys, out, options, expected):
    case.describe(sdd_mm=1000, pixel_spacing_mm=[3, 3], width=56, height=48)
    pose = options or ("--theta", "0", "0", "0", "0", "0", "0")
    words = ["drr", case.ct, "--geometry", case.geometry, *pose, "--out", case.folder / out]
    assert main([str(word) for word in words]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert expected in error
    assert not list(case.folder.rglob("*drr*"))


def test_drr_needs_the_image_size(case, capsys):
    words = [
        "drr",
        case.ct,
        "--geometry",
        case.geometry,
        "--theta",
        *"000000",
        "--out",
        case.folder / "drr.png",
    ]
    assert main([str(word) for word in words]) == 2
    error = capsys.readouterr().err
    assert "geometry.json lacks width and height" in error
    assert not (case.folder / "drr.png").exists()
