"""Configurations of ``sopi evaluate``: what they may say, what is refused, that options say the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from SOPIRegistrationLib.cli.main import main
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.evaluation.configuration import evaluation_of, read_configuration
from SOPIRegistrationLib.evaluation.detector import Detector
from SOPIRegistrationLib.evaluation.methods import METHODS
from SOPIRegistrationLib.evaluation.simulated import SimulatedCases
from SOPIRegistrationLib.evaluation.starts import BoundedStarts
from SOPIRegistrationLib.geometry import se3
from support.evaluation import PIXELS, poses, rows_of, write_ct

CONFIGURATIONS = Path(__file__).resolve().parents[2] / "Resources" / "Evaluation" / "configs"

SMALL = f"""
title = "Two kinds of cases"
ct = ["ct.nrrd"]
target = "ours"
pixels = {PIXELS}
methods = ["initial", "from near"]
cases = 2
timeout_s = 100

[variants."from near"]
init = "given"
refine = "opt"

[[groups]]
name = "whole"
within = {{ mtre_mm = 1.0 }}

[[groups]]
name = "short"
protocol = "near"
scan_height_mm = 120
cases = 1
first = 1
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("configuration")
    write_ct(folder)
    return folder


def run_file(path: Path, out: Path, *options) -> int:
    return main([str(word) for word in ("evaluate", "--config", path, "--out", out, *options)])


def refused(folder: Path, text: str) -> str:
    """What is said of a configuration."""
    path = folder / "refused.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as raised:
        evaluation_of(read_configuration(path), path)
    assert "\n" not in str(raised.value)
    assert str(path) in str(raised.value) or str(folder / "absent.csv") in str(raised.value)
    return str(raised.value)


@pytest.mark.slow
def test_a_file_is_run_group_by_group_and_continued(folder, tmp_path, capsys):
    path, out = folder / "small.toml", tmp_path / "out"
    path.write_text(SMALL, encoding="utf-8")
    assert run_file(path, out, "--workers", 1) == 0
    text = (out / "table.md").read_text(encoding="utf-8")
    assert text.startswith("# Two kinds of cases\n")
    lines = [line for line in text.splitlines() if line.startswith("| whole | from near |")]
    # Right, and within the limit of the group, which the other has none of.
    assert lines[0].count("100.0 [34.2, 100.0]") >= 2
    assert "Within limits, whole: mtre_mm at most 1." in text
    rows = [line.split(",")[:4] for line in (out / "results.csv").read_text().splitlines()[1:]]
    assert [(row[0], row[1], row[3]) for row in rows] == [
        *(("whole", str(number), name) for number in (0, 1) for name in ("initial", "from near")),
        *(("short", "1", name) for name in ("initial", "from near")),
    ]
    # More of it joins; what is there stays.
    before = (out / "results.csv").read_bytes()
    assert run_file(path, out, "--workers", 1, "--cases", 3, "--methods", "initial") == 0
    after = (out / "results.csv").read_bytes()
    assert after.startswith(before)
    # Group whole has one case more; short, which begins at 1, has two.
    assert after.count(b"\n") == before.count(b"\n") + 3
    # Other cases under a known name do not.
    path.write_text(SMALL.replace("scan_height_mm = 120", "scan_height_mm = 100"), encoding="utf-8")
    capsys.readouterr()
    assert run_file(path, out) == 2
    error = capsys.readouterr().err
    assert "group short, scan_height_mm 120" in error
    assert error.count("\n") == 1


def test_options_are_the_configuration_that_says_the_same(folder, tmp_path):
    options = ("--ct", folder / "ct.nrrd", "--pixels", PIXELS, "--target", "ours", "--protocol", "wide")
    words = ["evaluate", "--out", tmp_path / "options", *options, "--methods", "initial", "--cases", 2]
    assert main([str(word) for word in words]) == 0
    path = folder / "same.toml"
    path.write_text(
        f'ct = ["ct.nrrd"]\npixels = {PIXELS}\ntarget = "ours"\nprotocol = "wide"\nmethods = ["initial"]\n'
        "cases = 2\n",
        encoding="utf-8",
    )
    assert run_file(path, tmp_path / "file") == 0
    first, second = (rows_of(tmp_path / name) for name in ("options", "file"))
    assert [poses(row) for row in first.values()] == [poses(row) for row in second.values()]
    # So much so that one continues the other.
    assert run_file(path, tmp_path / "options", "--cases", 3) == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("case = 3", ("unknown key 'case'", "cases")),
        ("cases = 0", ("cases is 0", "1 or more")),
        ("cases = true", ("cases is True", "whole number")),
        ('cases = "3"', ("cases is '3'", "whole number")),
        ("methods = []", ("methods is []", "a list of names")),
        ('methods = ["opt", "magic"]', ("unknown method 'magic'", "opt-gc")),
        ('protocol = "narrow"', ("protocol is 'narrow'", "any-view")),
        ('target = "rtks"', ("target is 'rtks'", "rtk-degraded")),
        ('ct = ["absent.nrrd"]', ("absent.nrrd does not exist",)),
        ("labels = true", ("labels", "give ct")),
        ('ct = ["ct.nrrd"]\nstranger = "other"', ("needs two CTs",)),
        ("timeout_s = -1", ("timeout_s is -1", "above 0")),
        ('tables = ["means"]', ("tables is ['means']", "medians")),
        ('weights = { sopi = "a" }', ("weights has sopi", "rtpi")),
        ("detector = { sdd = 3 }", ("detector has an unknown key 'sdd'", "sdd_mm")),
        ("within = { far = 3 }", ("within has far", "mpd_object_mm")),
        ("[[groups]]\n[[groups]]", ("a group has no name",)),
        ('[[groups]]\nname = "a"\n[[groups]]\nname = "a"', ("two groups have one name",)),
        ('[[groups]]\nname = "a"\nname_ = "b"', ("group a has an unknown key 'name_'",)),
        ("starts = { number = 2 }", ("starts are for cases of your own",)),
        ('cases_file = "absent.csv"', ("absent.csv does not exist",)),
        ('cases_file = "a.csv"\ntarget = "rtk"', ("target is for simulated cases", "cases_file")),
        ('[[xrays]]\nct = "ct.nrrd"', ("X-ray 1 has no xray",)),
        ('[[xrays]]\nct = "ct.nrrd"\nfile = "a"', ("unknown key 'file'", "truth_key")),
        ('[[xrays]]\nxray = "a"\n[starts]\nnumber = 2\nangle_deg = 3', ("angle_deg and shift_mm",)),
        (
            '[[xrays]]\nxray = "a"\n[truth_deviation]\nturn_deg = 0.2',
            ("truth_deviation has no long_axis_deg",),
        ),
        ("[variants.a]\ninit = 'magic'", ("variant a", "magic", "search")),
        ("[variants.a]\nmethod = 'opt'\nrefine = 'none'", ("variant a", "give one of both")),
        ("[variants.a]\nweights = { ifr = 'absent' }", ("variant a", "absent", "do not exist")),
        ("[variants.opt]\ninit = 'given'", ("variant opt is called as a method is",)),
        ("bent = { chain = [3] }", ("chain is [3]", "two labels or more")),
        ("views = 2\nregion = 'hips'\nbent = {}", ("region does not go with bent",)),
        ('ct = ["ct.nrrd"]\nbent = {}', ("0 label maps for 1 CTs",)),
        ("methods = [", ("is no TOML",)),
    ],
)
def test_what_is_wrong_is_said_in_one_line(folder, text, words):
    said = refused(folder, text)
    assert all(word in said for word in words), said


def test_a_missing_file_and_options_that_belong_into_it(folder, tmp_path, capsys):
    assert run_file(folder / "absent.toml", tmp_path / "out") == 2
    assert "absent.toml cannot be read" in capsys.readouterr().err
    path = folder / "small.toml"
    path.write_text(SMALL, encoding="utf-8")
    assert run_file(path, tmp_path / "out", "--protocol", "wide") == 2
    assert f"write protocol into {path}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_methods_of_a_file_are_what_they_say(folder):
    path = folder / "small.toml"
    path.write_text(SMALL, encoding="utf-8")
    evaluation = evaluation_of(read_configuration(path), path)
    assert evaluation.method("opt") is METHODS["opt"]
    assert evaluation.method("from near").label == "from near"
    assert evaluation.settings()["variants"] == {"from near": {"init": "given", "refine": "opt"}}
    assert [group.source.scan_height_mm for group in evaluation.groups] == [None, 120]
    assert evaluation.timeout_s == 100


@pytest.mark.parametrize("path", sorted(CONFIGURATIONS.glob("*.toml")), ids=lambda path: path.stem)
def test_the_configurations_of_the_studies_can_be_read(path, shared_data):
    """But for those whose networks must be trained, or whose label maps be made, first."""
    content = read_configuration(path)
    maps = [path.parent / file for file in content.get("bent", {}).get("label_maps", ())]
    if not all(file.exists() for file in maps):
        with pytest.raises(InputError, match=r"label map .* does not exist"):
            evaluation_of(content, path)
        return
    if path.stem.startswith("patient"):
        with pytest.raises(InputError, match="train them"):
            evaluation_of(content, path)
        return
    evaluation = evaluation_of(content, path)
    assert evaluation.tasks
    names = {column for group in evaluation.groups for column, _ in group.within}
    assert names <= {"mpd_object_mm", "mtre_mm"}


def test_x_rays_may_be_listed_in_the_file_and_starts_drawn_within_bounds(shared_data):
    path = CONFIGURATIONS / "wrist.toml"
    evaluation = evaluation_of(read_configuration(path), path)
    joint = evaluation.group("cam01 and cam02").source.make(3)
    alone = evaluation.group("cam02").source.make(3)
    assert len(joint.radiographs) == 2
    # One world, one truth, one start, whichever camera looks.
    np.testing.assert_allclose(joint.T_true, alone.T_true)
    np.testing.assert_allclose(joint.T_start, alone.T_start, atol=1e-9)
    twist = se3.twist_about(alone.T_true, alone.T_start, alone.frame.centre_lps_mm)
    assert 0 < np.rad2deg(np.linalg.norm(twist[:3])) <= 8
    np.testing.assert_allclose(twist[:3], BoundedStarts(50, 8.0, 8.0, 1).twist(3)[:3], atol=1e-9)


def test_bounded_starts_fill_their_bounds():
    twists = np.array([BoundedStarts(1, 8.0, 5.0, seed).twist(0) for seed in range(400)])
    turns, shifts = np.rad2deg(np.linalg.norm(twists[:, :3], axis=1)), np.linalg.norm(twists[:, 3:], axis=1)
    # Uniform in size: half of them beyond the middle.
    assert np.median(turns) == pytest.approx(4, rel=0.15)
    assert np.median(shifts) == pytest.approx(2.5, rel=0.15)
    assert turns.max() <= 8
    assert shifts.max() <= 5
    assert np.abs(twists.mean(axis=0)).max() < 0.4


# A process that imports and compiles all it needs; what hangs in one is ended by a fast test of the workers.
@pytest.mark.slow
def test_a_fresh_process_times_its_first_registration(folder, tmp_path):
    path = folder / "fresh.toml"
    path.write_text(
        f'fresh = true\nct = ["ct.nrrd"]\npixels = {PIXELS}\ntarget = "ours"\nmethods = ["opt"]\ncases = 1\n'
        "workers = 1\n",
        encoding="utf-8",
    )
    assert run_file(path, tmp_path / "out") == 0
    [row] = rows_of(tmp_path / "out").values()
    assert row["error"] == ""
    assert row["right"] == "1"
    # Which is longer depends on what else the machine does.
    assert float(row["seconds_first"]) > 0 < float(row["seconds"])
    assert "first: median" in (tmp_path / "out" / "table.md").read_text(encoding="utf-8")


def test_the_detector_of_a_group_is_its_camera():
    camera = Detector(1195.0, 785.0, 384.0).camera(96)
    assert camera.sdd_mm == 1195.0
    assert camera.pixel_spacing_mm == pytest.approx((4.0, 4.0))
    assert SimulatedCases().detector.camera(256).pixel_spacing_mm == pytest.approx((0.79836, 0.79836))


def test_help_names_the_configuration():
    done = subprocess.run(
        [sys.executable, "-m", "SOPIRegistrationLib", "evaluate", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--config FILE.toml" in done.stdout
    assert "--scheduler ADDRESS" in done.stdout
