"""A user's own cases: the list, joint X-rays, starts drawn about a known truth."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from SOPIRegistrationLib.cli.main import main
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.evaluation.listed import read_cases_file
from SOPIRegistrationLib.evaluation.simulated import SimulatedCases
from SOPIRegistrationLib.evaluation.starts import DrawnStarts
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.images.files import read_volume
from SOPIRegistrationLib.projector import ProjectorVolume, project
from SOPIRegistrationLib.registration.outputs import write_volume
from support.evaluation import PIXELS, rows_of, write_ct

PITCH_MM = 1024 * 0.19959 / PIXELS


@pytest.fixture(scope="module")
def ct(tmp_path_factory) -> Path:
    return write_ct(tmp_path_factory.mktemp("evaluate"))


@pytest.fixture
def own(ct, tmp_path) -> Path:
    """A folder with a CT, an X-ray, its geometry and its truth, and a list of two cases of it."""
    case = SimulatedCases("paper", "ours", (ct,), pixels=PIXELS).make(0)
    folder = tmp_path / "own"
    folder.mkdir()
    write_volume(folder / "ct.nrrd", read_volume(ct))
    write_xray(folder / "xray.tif", case.radiographs[0].image)
    (folder / "text.png").write_text("no image")
    geometry = {"sdd_mm": 1011.7, "pixel_spacing_mm": [PITCH_MM, PITCH_MM], "sod_mm": 700, "view": "AP"}
    (folder / "geometry.json").write_text(json.dumps(geometry))
    for name, T in (("truth", case.T_true), ("start", case.T_start)):
        entry = {"pose": {"T_lps_to_camera": T.tolist()}}
        (folder / f"{name}.json").write_text(json.dumps(entry))
    return folder


def write_xray(path: Path, image: np.ndarray) -> None:
    pixels = np.round(4000 * image / image.max()).astype(np.uint16)
    sitk.WriteImage(sitk.GetImageFromArray(pixels), str(path))


def write_list(folder: Path, *lines: str, header: str = "ct,xray,geometry,truth,start") -> Path:
    path = folder / "cases.csv"
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


GOOD = "ct.nrrd,xray.tif,geometry.json,truth.json,start.json"


def evaluate_own(path: Path, out: Path, *options) -> int:
    return main([str(word) for word in ("evaluate", "--cases-file", path, "--out", out, *options)])


@pytest.mark.slow
def test_own_cases_with_and_without_truth_and_a_bad_one(own, tmp_path):
    lines = (GOOD, "ct.nrrd,xray.tif,geometry.json,,start.json", GOOD.replace("xray.tif", "text.png"))
    out = tmp_path / "out"
    assert evaluate_own(write_list(own, *lines), out, "--methods", "initial,opt") == 0
    rows = rows_of(out)
    assert float(rows[0, "opt"]["mtre_mm"]) < 1.5
    assert rows[1, "opt"]["mtre_mm"] == rows[1, "opt"]["failed"] == ""
    assert float(rows[1, "opt"]["ncc"]) > 0.98
    assert "Table 1" not in (out / "table.md").read_text(encoding="utf-8")
    assert rows[1, "opt"]["verdict"] == "accept"
    assert rows[1, "opt"]["end_tz_mm"] == rows[0, "opt"]["end_tz_mm"]
    assert "text.png" in rows[2, "initial"]["error"]
    assert rows[0, "initial"]["name"] == "xray.tif"
    # Something in a file has changed: these are other cases now.
    (own / "truth.json").write_bytes((own / "start.json").read_bytes())
    assert evaluate_own(own / "cases.csv", out, "--methods", "initial,opt") == 2


def test_own_cases_without_any_truth(own, tmp_path):
    path = write_list(own, "ct.nrrd,xray.tif,geometry.json", header="ct,xray,geometry")
    assert evaluate_own(path, tmp_path / "out", "--methods", "initial") == 0
    text = (tmp_path / "out" / "table.md").read_text(encoding="utf-8")
    assert "Without truth" in text
    assert "Failure rate" not in text
    assert not list((tmp_path / "out").glob("*.png"))


# X-rays from the front and from the side, and the noise in them (line integral, no unit).
NOISE = 0.05
JOINT = "ct,xray,geometry,truth,start,case"
FRONT, SIDE = "ct.nrrd,front.tif,set.json,truth.json,start.json,both", "ct.nrrd,side.tif,set.json,,,both"


@pytest.fixture
def views(own, ct, rng) -> Path:
    """The same folder with noisy X-rays of a calibrated set of two cameras."""
    case = SimulatedCases("paper", "ours", (ct,), pixels=PIXELS).make(0)
    camera, frame = case.radiographs[0].camera, case.frame
    around = se3.rigid(np.eye(3), np.array([0, 0, frame.sod_mm]))
    quarter = se3.rigid(se3.exp_so3(np.array([0, np.pi / 2, 0])), np.zeros(3))
    cameras = []
    for name, T in (("front", np.eye(4)), ("side", around @ quarter @ se3.invert_rigid(around))):
        image = project(ProjectorVolume(case.ct.attenuation), camera, T @ case.T_true)
        write_xray(own / f"{name}.tif", np.maximum(image + NOISE * rng.standard_normal(image.shape), 0))
        entry = {"name": name, "K": camera.K.tolist(), "width": PIXELS, "height": PIXELS}
        cameras.append({**entry, "R": T[:3, :3].tolist(), "t": T[:3, 3].tolist()})
    (own / "set.json").write_text(json.dumps({"cameras": cameras, "sod_mm": 700, "view": "AP"}))
    return own


@pytest.mark.slow
def test_x_rays_of_one_case_are_registered_jointly(views, tmp_path):
    alone = "ct.nrrd,front.tif,set.json,truth.json,start.json,"
    path = write_list(views, alone, FRONT, SIDE, header=JOINT)
    out = tmp_path / "out"
    assert evaluate_own(path, out, "--methods", "initial,opt-gc,opt") == 0
    rows = rows_of(out)
    assert len(rows) == 2 * 3
    assert {row["name"] for row in rows.values()} == {"front.tif", "both"}
    assert all(row["error"] == "" for row in rows.values())
    # The side looks along what the front hardly sees in noise.
    assert float(rows[1, "opt"]["depth_mm"]) < 0.2
    for method in ("opt-gc", "opt"):
        assert float(rows[1, method]["depth_mm"]) < 0.5 * float(rows[0, method]["depth_mm"])
    assert float(rows[1, "opt-gc"]["mtre_mm"]) < 0.3 * float(rows[1, "initial"]["mtre_mm"])
    one, both = (float(rows[number, "initial"]["mpd_object_mm"]) for number in (0, 1))
    assert one != pytest.approx(both, rel=0.01)
    text = (out / "table.md").read_text(encoding="utf-8")
    assert "Table 3" in text
    assert "Table 1" not in text


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ((FRONT, FRONT.replace("truth.json", "")), ("line 3", "same camera", "R and t")),
        ((FRONT, SIDE.replace("set.json", "geometry.json")), ("line 3", "same camera")),
        ((FRONT, SIDE.replace("ct.nrrd", "other.nrrd")), ("line 3", "case both has another ct")),
    ],
)
def test_x_rays_that_are_not_one_case(views, tmp_path, lines, words, capsys):
    (views / "other.nrrd").write_bytes((views / "ct.nrrd").read_bytes())
    path, out = write_list(views, *lines, header=JOINT), tmp_path / "out"
    status = evaluate_own(path, out, "--methods", "initial")
    told = capsys.readouterr().err if status else rows_of(out)[0, "initial"]["error"]
    assert all(word in told for word in words), told


def test_starts_are_drawn_about_the_truth(own, tmp_path):
    path, out = write_list(own, GOOD), tmp_path / "out"
    options = ("--methods", "initial", "--starts", 3, "--protocol", "wide", "--seed", 4)
    assert evaluate_own(path, out, *options) == 0
    rows = rows_of(out)
    assert [row["name"] for row in rows.values()] == [f"xray.tif, start {number}" for number in range(3)]
    assert len({row["start_tz_mm"] for row in rows.values()}) == 3
    assert len({row["true_tz_mm"] for row in rows.values()}) == 1
    assert "starts of each about its truth: 3 by protocol wide" in (out / "table.md").read_text()
    again = tmp_path / "again"
    assert evaluate_own(path, again, *options, "--cases", 2) == 0
    assert rows_of(again)[1, "initial"]["start_tz_mm"] == rows[1, "initial"]["start_tz_mm"]


def test_drawn_starts_are_as_far_off_as_simulated_ones(ct):
    """The same turns and shifts, whatever the true pose."""
    source = SimulatedCases("paper", "ours", (ct,), pixels=PIXELS)
    frame = source.make(0).frame
    starts = DrawnStarts(400, "paper", 3)
    T_true = se3.rigid(se3.exp_so3(np.array([0.4, 1.3, -0.2])), np.array([20.0, -15.0, 640.0]))
    drawn = np.array([starts.draw(0, number, T_true, frame.centre_lps_mm) for number in range(400)])
    centre = np.append(frame.centre_lps_mm, 1.0)
    shifts = ((drawn - T_true) @ centre)[:, :3]
    turns = np.rad2deg(se3.rotation_distance(np.repeat(T_true[None, :3, :3], 400, axis=0), drawn[:, :3, :3]))
    # Two draws of variances 20 deg^2 and 30, 15, 100 mm^2; a rotation about three axes of sd s is 1.6 s off.
    assert turns.mean() == pytest.approx(1.596 * np.sqrt(40), rel=0.06)
    np.testing.assert_allclose(shifts.std(axis=0), np.sqrt([60, 30, 200]), rtol=0.12)


def test_starts_need_a_truth(own, tmp_path, capsys):
    path = write_list(own, GOOD, GOOD.replace("truth.json", ""))
    assert evaluate_own(path, tmp_path / "out", "--starts", 2) == 2
    error = capsys.readouterr().err
    assert "line 3 has no truth" in error
    assert "leave out --starts" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("header", "line", "words"),
    [
        ("ct,xray", "ct.nrrd,xray.tif", ("has no column geometry", "mask, camera")),
        ("ct,xray,geometry,pose", "a,b,c,d", ("has a column 'pose'",)),
        ("ct,xray,geometry", "no.nrrd,xray.tif,geometry.json", ("line 2", "no.nrrd does not exist")),
        ("ct,xray,geometry", "ct.nrrd,,geometry.json", ("line 2", "has no xray")),
        ("ct,xray,geometry", "ct.nrrd,xray.tif,no.json", ("line 2", "no.json does not exist")),
        ("ct,xray,geometry", "ct.nrrd,xray.tif,geometry.json,more", ("line 2", "more cells")),
        ("ct,xray,geometry,truth", "ct.nrrd,xray.tif,,no.tfm", ("line 2", "truth", "no.tfm does not exist")),
        ("ct,xray,geometry", "", ("lists no case",)),
    ],
)
def test_bad_lists_are_refused(own, tmp_path, capsys, header, line, words):
    path = write_list(own, *([line] if line else []), header=header)
    assert evaluate_own(path, tmp_path / "out") == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"sopi evaluate: cases file {path}")
    assert printed.err.count("\n") == 1
    assert all(word in printed.err for word in words), printed.err
    assert not (tmp_path / "out").exists()


def test_a_list_that_is_no_text(tmp_path):
    path = tmp_path / "cases.csv"
    path.write_bytes(b"ct,xray\xff\xfe\x00\n")
    with pytest.raises(InputError, match="no CSV text"):
        read_cases_file(path)
    with pytest.raises(InputError, match=r"absent\.csv does not exist"):
        read_cases_file(tmp_path / "absent.csv")
