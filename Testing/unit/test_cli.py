"""``sopi``: its subcommands from files to files, on the demo case."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from SOPIRegistrationLib import __version__
from SOPIRegistrationLib.cli import main as command_line
from SOPIRegistrationLib.cli.common import staged
from SOPIRegistrationLib.cli.main import main
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.detector import detector_to_scene
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.registration import pose_files

FILES = {"result.json", "ct_to_carm.tfm", "drr.nrrd", "overlay.png"}


@pytest.fixture
def demo(demo_run) -> tuple[Path, str]:
    """Folder and printed text of ``sopi demo``."""
    return demo_run


@pytest.fixture
def inputs(demo) -> list[str]:
    folder, _ = demo
    return [str(folder / "ct.nrrd"), str(folder / "xray.png"), "--geometry", str(folder / "geometry.json")]


def test_a_given_start_and_the_plain_refinement_never_import_torch(demo, inputs, tmp_path):
    """Importing it takes longer than the registration."""
    program = (
        "import sys; from SOPIRegistrationLib.cli.main import main; "
        "assert main(sys.argv[1:]) == 0; assert 'torch' not in sys.modules"
    )
    start = str(demo[0] / "result.json")
    words = ["register", *inputs, "--init", start, "--refine", "opt", "--out", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def pixels(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def test_demo_registers_to_half_a_millimetre(demo):
    folder, printed = demo
    assert {path.name for path in folder.iterdir()} == FILES | {"ct.nrrd", "xray.png", "geometry.json"}
    assert not list(folder.parent.glob(".sopi-*"))
    start, end = map(float, re.search(r"mTRE\s+([\d.]+)\s+([\d.]+) mm", printed).groups())
    assert start > 10
    assert end < 0.5
    assert "ACCEPT" in printed
    result = json.loads((folder / "result.json").read_text())
    assert result["verdict"]["status"] == "accept"
    assert result["geometry"]["sources"]["sdd_mm"] == "geometry.json"


def test_demo_writes_the_projection_and_a_picture_of_it(demo):
    folder, _ = demo
    drr, xray = pixels(folder / "drr.nrrd"), pixels(folder / "xray.png")
    assert drr.dtype == np.float32
    assert drr.shape == (1, *xray.shape)
    v, u = np.indices(xray.shape) - 127.5
    inside = np.hypot(u, v) < 115
    assert np.corrcoef(drr[0][inside], -np.log(xray[inside] + 1.0))[0, 1] > 0.9
    assert pixels(folder / "overlay.png").shape == (*xray.shape, 3)


@pytest.mark.slow
def test_register_repeats_the_demo(demo, inputs, tmp_path, capsys):
    """The demo goes the way of ``register``: same files, same pose, but for the polarity it tells."""
    out = tmp_path / "new" / "results"
    assert main(["register", *inputs, "--out", str(out), "--polarity", "bone-dark"]) == 0
    assert {path.name for path in out.iterdir()} == FILES
    pose, expected = (json.loads((folder / "result.json").read_text())["pose"] for folder in (out, demo[0]))
    assert pose == expected
    printed = capsys.readouterr().out
    assert "ACCEPT" in printed
    assert f"rx {expected['theta']['rx_deg']:.2f}" in printed


@pytest.mark.slow
@pytest.mark.parametrize("name", ["result.json", "ct_to_carm.tfm"])
def test_a_result_starts_the_next_registration(demo, inputs, tmp_path, name):
    start = str(demo[0] / name)
    assert main(["register", *inputs, "--out", str(tmp_path), "--init", start]) == 0
    first, again = (json.loads((folder / "result.json").read_text()) for folder in (demo[0], tmp_path))
    np.testing.assert_allclose(
        again["initial_pose"]["T_lps_to_camera"], first["pose"]["T_lps_to_camera"], atol=1e-9
    )
    assert again["method"].startswith("given pose")


def test_a_mask_of_the_xray_says_what_is_compared(demo, inputs, tmp_path, capsys):
    xray = pixels(demo[0] / "xray.png")
    mask = np.zeros(xray.shape, np.uint8)
    mask[60:200, 80:180] = 1
    sitk.WriteImage(sitk.GetImageFromArray(mask), str(tmp_path / "mask.png"))
    start = ["--init", str(demo[0] / "result.json"), "--refine", "none", "--out", str(tmp_path / "out")]
    assert main(["register", *inputs, *start, "--xray-mask", str(tmp_path / "mask.png")]) == 0
    known, masked = (
        json.loads((folder / "result.json").read_text())["similarity"]["ncc"]
        for folder in (demo[0], tmp_path / "out")
    )
    assert masked != pytest.approx(known, abs=1e-4)
    sitk.WriteImage(sitk.GetImageFromArray(mask[:-1]), str(tmp_path / "mask.png"))
    capsys.readouterr()
    assert main(["register", *inputs, *start, "--xray-mask", str(tmp_path / "mask.png")]) == 2
    assert "make it on this X-ray" in capsys.readouterr().err


def test_start_is_kept_without_refinement(demo, inputs, tmp_path):
    start = str(demo[0] / "result.json")
    assert main(["register", *inputs, "--out", str(tmp_path), "--init", start, "--refine", "none"]) == 0
    first, again = (json.loads((folder / "result.json").read_text()) for folder in (demo[0], tmp_path))
    poses = (entry["pose"]["T_lps_to_camera"] for entry in (first, again))
    np.testing.assert_allclose(*poses, atol=1e-9)
    assert again["stages"] == []


def test_results_are_replaced_and_other_files_stay(demo, inputs, tmp_path):
    out = tmp_path / "results"
    shutil.copytree(demo[0], out)
    (out / "notes.txt").write_text("mine")
    (out / "result.json").write_text("old")
    assert main(["register", *inputs, "--out", str(out), "--init", "nominal", "--refine", "none"]) == 0
    assert json.loads((out / "result.json").read_text())["method"].startswith("nominal")
    assert (out / "notes.txt").read_text() == "mine"


def test_drr_at_the_result_is_the_results_drr(demo, inputs, tmp_path, capsys):
    out = tmp_path / "drr.nrrd"
    ct, _, *geometry = inputs
    assert main(["drr", ct, *geometry, "--pose", str(demo[0] / "result.json"), "--out", str(out)]) == 0
    np.testing.assert_array_equal(pixels(out), pixels(demo[0] / "drr.nrrd"))
    ours, theirs = sitk.ReadImage(str(out)), sitk.ReadImage(str(demo[0] / "drr.nrrd"))
    assert ours.GetOrigin() == theirs.GetOrigin()
    assert ours.GetDirection() == theirs.GetDirection()
    assert "256 x 256 pixels" in capsys.readouterr().out


def test_drr_at_theta(demo, inputs, tmp_path):
    """theta in degrees and millimetres; a picture with bright bones, or line integrals of the bones."""
    result = json.loads((demo[0] / "result.json").read_text())
    theta = [repr(value) for value in result["pose"]["theta"].values()]
    ct, _, *geometry = inputs
    picture, bones = tmp_path / "drr.png", tmp_path / "bones.nrrd"
    assert main(["drr", ct, *geometry, "--theta", *theta, "--out", str(picture)]) == 0
    assert main(["drr", ct, *geometry, "--theta", *theta, "--out", str(bones), "--content", "bone"]) == 0
    body = pixels(demo[0] / "drr.nrrd")[0]
    assert pixels(picture).dtype == np.uint8
    assert np.corrcoef(pixels(picture).ravel(), body.ravel())[0, 1] > 0.99
    assert 0 < pixels(bones).sum() < 0.5 * body.sum()


def test_drr_of_a_beam(demo, inputs, tmp_path, capsys):
    """As bright in bone as the plain one, but bent: a harder beam is attenuated less."""
    ct, _, *geometry = inputs
    images = []
    for kv in ("60", "120"):
        out = tmp_path / f"{kv}.nrrd"
        words = ["drr", ct, *geometry, "--pose", str(demo[0] / "result.json"), "--physics", kv]
        assert main([*words, "--out", str(out)]) == 0
        images.append(pixels(out)[0])
    assert "attenuation at 120 kV" in capsys.readouterr().out
    plain = pixels(demo[0] / "drr.nrrd")[0]
    soft, hard = images
    assert hard.max() < 0.95 * soft.max()
    assert 0.9 < np.corrcoef(soft.ravel(), plain.ravel())[0, 1] < 0.99999


def test_transform_is_what_slicer_shows(demo):
    """Read as Slicer reads it, the transform is the CT's place beside the standing C-arm."""
    slicer = pytest.importorskip("slicer", reason="needs slicer-core (pip install slicer-core)")
    frames = pytest.importorskip("SOPIRegistrationLib.scene.frames")
    result = json.loads((demo[0] / "result.json").read_text())
    storage, node = slicer.vtkMRMLTransformStorageNode(), slicer.vtkMRMLLinearTransformNode()
    storage.SetFileName(str(demo[0] / "ct_to_carm.tfm"))
    assert storage.ReadData(node)
    matrix = slicer.util.arrayFromTransformMatrix(node)
    frame = PoseFrame(
        np.array(result["rotation_centre_lps_mm"]), result["geometry"]["sod_mm"], result["view"]
    )
    expected = frames.matrix_from_pose(np.array(result["pose"]["T_lps_to_camera"]), frame)
    np.testing.assert_allclose(matrix, expected, atol=1e-9)
    assert np.abs(matrix - np.eye(4)).max() > 1


def test_images_lie_on_the_detectors_of_the_scene():
    """A pixel's place in the scene is seen at that pixel, from the nominal view of the set's first camera."""
    frame = PoseFrame(np.array([11.0, -22, 33]), 700.0, "LLAT")
    K = np.array([[1200.0, 0, 80], [0, 1250, 61], [0, 0, 1]])
    first, second = (
        Camera(K, 160, 120, sdd, se3.exp_se3(np.array(twist)), "c")
        for sdd, twist in ((1000.0, [0.1, 0.2, 0.3, 4, 5, 6]), (None, [0.1, 1.2, 0.3, 40, 5, 6]))
    )
    pixels = np.array([[0.0, 0, 0, 1], [159, 0, 0, 1], [37, 101, 0, 1]])
    # LPS in the scene -> first camera -> world of the set -> second camera.
    T_world_to_first, T_world_to_second = first.T_world_to_camera, second.T_world_to_camera
    T_scene_to_second = T_world_to_second @ np.linalg.inv(T_world_to_first) @ frame.T_nominal
    for camera, reference, T, depth in (
        (first, None, frame.T_nominal, 1000.0),
        (second, first, T_scene_to_second, 1000.0),
    ):
        points = pixels @ detector_to_scene(camera, frame, reference).T @ T.T
        np.testing.assert_allclose(camera.project(points[:, :3]), pixels[:, :2], atol=1e-9)
        np.testing.assert_allclose(points[:, 2], depth)


def test_transform_is_the_identity_at_the_nominal_pose(tmp_path):
    frame = PoseFrame(np.array([11.0, -22, 33]), 700.0, "PA")
    pose_files.write_transform(tmp_path / "t.tfm", frame.T_nominal, frame)
    transform = sitk.ReadTransform(str(tmp_path / "t.tfm"))
    np.testing.assert_allclose(transform.TransformPoint((1.0, 2, 3)), (1, 2, 3), atol=1e-12)


@pytest.mark.parametrize("suffix", [".tfm", ".h5", ".json"])
def test_start_poses_are_read_from_every_form(tmp_path, suffix):
    """An affine transform as Slicer writes it, and a result of another camera of the same set."""
    frame = PoseFrame(np.array([11.0, -22, 33]), 700.0, "LLAT")
    T = frame.T_from_theta(np.array([0.1, -0.2, 0.3, 5, 6, -70]))
    cameras = [
        Camera(np.diag([900.0, 900, 1]), 64, 64, None, se3.exp_se3(np.array(twist)), name)
        for name, twist in (("a", [0.2, 0.1, 0, 5, 6, 7.0]), ("b", [0.1, 0.9, 0.3, 50, 6, -7.0]))
    ]
    path = tmp_path / f"start{suffix}"
    if suffix == ".json":
        entry = {"pose": {"T_lps_to_camera": T.tolist()}, "geometry": {"cameras": [{"name": "b"}]}}
        path.write_text(json.dumps(entry))
    else:
        matrix = se3.invert_rigid(T) @ frame.T_nominal
        affine = sitk.AffineTransform(3)
        affine.SetMatrix(matrix[:3, :3].ravel().tolist())
        affine.SetTranslation(matrix[:3, 3].tolist())
        sitk.WriteTransform(affine, str(path))
    camera = cameras[1] if suffix == ".json" else cameras[0]
    start = pose_files.read_start(path, frame, cameras, cameras[0])
    np.testing.assert_allclose(camera.T_world_to_camera @ start, T, atol=1e-9)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_start_poses_may_begin_with_a_byte_order_mark(tmp_path, encoding):
    frame, camera = PoseFrame(np.array([11.0, -22, 33]), 700.0), Camera(np.diag([900.0, 900, 1]), 64, 64)
    path = tmp_path / "start.json"
    path.write_text(json.dumps({"pose": {"T_lps_to_camera": frame.T_nominal.tolist()}}), encoding=encoding)
    np.testing.assert_allclose(pose_files.read_start(path, frame, [camera], camera), frame.T_nominal)


@pytest.mark.slow
def test_two_real_views_jointly(shared_data, tmp_path):
    """The wrist, from 3 degrees and 4 mm off: views in any order, told apart by their names."""
    wrist = shared_data / "wrist"
    gold = json.loads((wrist / "gold_0099.json").read_text())
    T = np.array(gold["T_lps_to_camera"]["cam01"])
    T[:3, :3] = se3.exp_so3(np.array([0.03, -0.02, 0.04])) @ T[:3, :3]
    T[:3, 3] += [3, -2, 2]
    start = tmp_path / "start.json"
    start.write_text(
        json.dumps({"pose": {"T_lps_to_camera": T.tolist()}, "geometry": {"cameras": [{"name": "cam01"}]}})
    )
    files = [str(wrist / name) for name in ("radius.nii.gz", "frame_0099_cam02.png", "frame_0099_cam01.png")]
    out = tmp_path / "out"
    options = ["--geometry", str(wrist / "cameras.json"), "--init", str(start), "--out", str(out)]
    assert main(["register", *files, *options]) == 0
    assert {path.name for path in out.iterdir()} == FILES | {"drr_cam01.nrrd", "overlay_cam01.png"}
    result = json.loads((out / "result.json").read_text())
    assert [camera["name"] for camera in result["geometry"]["cameras"]] == ["cam02", "cam01"]
    centre = np.append(result["rotation_centre_lps_mm"], 1)
    found, true = (
        np.array(matrix) @ centre
        for matrix in (result["pose"]["T_lps_to_camera"], gold["T_lps_to_camera"]["cam02"])
    )
    assert np.linalg.norm(found - true) < 0.7


def test_interrupted_run_leaves_everything_as_it_was(demo, inputs, tmp_path):
    out = tmp_path / "results"
    out.mkdir()
    (out / "result.json").write_text("old")
    command = [
        sys.executable,
        "-m",
        "SOPIRegistrationLib",
        "register",
        *inputs,
        "--out",
        str(out),
        "--init",
        "search",
    ]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Tests started in the background are deaf to it, and so would be their children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not list(out.glob(".sopi-*")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert printed == ""
    assert errors == "sopi register: interrupted, nothing was written\n"
    assert [path.name for path in out.iterdir()] == ["result.json"]
    assert (out / "result.json").read_text() == "old"


def test_interrupted_while_the_results_are_written(tmp_path):
    """What was there before is there still, whole, and nothing else."""
    (tmp_path / "drr.nrrd").write_text("old")

    def write():
        with staged(tmp_path) as folder:
            (folder / "drr.nrrd").write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert [path.name for path in tmp_path.iterdir()] == ["drr.nrrd"]
    assert (tmp_path / "drr.nrrd").read_text() == "old"


@pytest.mark.parametrize("words", [["--help"], *([name, "--help"] for name in command_line.COMMANDS)])
def test_help_names_units(words, capsys):
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == 0
    printed = capsys.readouterr().out
    if words == ["--help"]:
        assert all(name in printed for name in command_line.COMMANDS)
    if words[0] in ("register", "drr"):
        assert "HU" in printed
        assert "mm" in printed
        assert "deg" in printed


def test_help_does_not_load_the_numerics():
    code = (
        "import sys; sys.argv = ['sopi', '--version']\n"
        "try:\n  from SOPIRegistrationLib.cli.main import main; main()\n"
        "except SystemExit: pass\n"
        "print([name for name in ('numpy', 'torch', 'numba', 'SimpleITK') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["sopi", __version__, "[]"]


@pytest.mark.slow
def test_core_runs_without_torch(inputs, tmp_path):
    """The classical way needs no PyTorch: the same registration where it cannot be imported."""
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from SOPIRegistrationLib.cli.main import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    words = ["register", *inputs, "--out", str(tmp_path), "--polarity", "bone-dark"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "ACCEPT" in done.stdout


def test_missing_package_is_named(tmp_path):
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from SOPIRegistrationLib.cli.main import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    words = ["benchmark", "--out", str(tmp_path / "b")]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "sopi benchmark needs the Python package 'torch': pip install it\n"
