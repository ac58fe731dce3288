"""``sopi evaluate``: what its figures mean, that it resumes and repeats, and that nothing stops it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.evaluation.figures import end_figures, pose_of_row, start_figures
from SOPIRegistrationLib.evaluation.methods import METHODS, EvaluatedMethod
from SOPIRegistrationLib.evaluation.metrics import mean_interval
from SOPIRegistrationLib.evaluation.page import page_of
from SOPIRegistrationLib.evaluation.peers import installed_version
from SOPIRegistrationLib.evaluation.problem import Estimate
from SOPIRegistrationLib.evaluation.protocols import PROTOCOLS
from SOPIRegistrationLib.evaluation.runner import default_workers
from SOPIRegistrationLib.evaluation.series import Series
from SOPIRegistrationLib.evaluation.simulated import SimulatedCases
from SOPIRegistrationLib.evaluation.tables import table
from SOPIRegistrationLib.evaluation.targets import TARGETS, require_target
from SOPIRegistrationLib.geometry.se3 import move_about
from SOPIRegistrationLib.progress import Progress
from support.evaluation import PIXELS, evaluate, poses, rows_of, write_ct

FILES = {"settings.json", "results.csv", "table.md", "report.html"}
PLOTS = {"errors.png", "capture_range.png", "time_and_error.png"}


@pytest.fixture(scope="module")
def ct(tmp_path_factory) -> Path:
    return write_ct(tmp_path_factory.mktemp("evaluate"))


@pytest.fixture(scope="module")
def finished(ct, tmp_path_factory) -> Path:
    """A finished evaluation of two cases and two methods."""
    out = tmp_path_factory.mktemp("finished") / "out"
    assert evaluate(out, ct, "--methods", "initial,opt", "--cases", 2) == 0
    return out


@pytest.fixture
def added():
    """Adds a method to those that can be evaluated, for one test."""
    names = []

    def add(name, solve, label="", about=""):
        METHODS[name] = EvaluatedMethod(label, about, solve)
        names.append(name)

    yield add
    for name in names:
        del METHODS[name]


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    out = tmp_path / "out"
    out.mkdir()
    for path in finished.iterdir():
        (out / path.name).write_bytes(path.read_bytes())
    return out


def test_rows_report_and_pictures(finished):
    assert {path.name for path in finished.iterdir() if path.name != ".lock"} == FILES | PLOTS
    rows = rows_of(finished)
    assert set(rows) == {(number, name) for number in (0, 1) for name in ("initial", "opt")}
    for (_, name), row in rows.items():
        assert row["error"] == ""
        assert float(row["start_mtre_mm"]) > 3
        if name == "initial":
            assert row["mtre_mm"] == row["start_mtre_mm"]
            continue
        assert float(row["mtre_mm"]) < 0.1
        assert (row["failed"], row["succeeded"], row["verdict"]) == ("0", "1", "accept")
        assert float(row["ncc"]) > 0.999
        assert float(row["ssim"]) > 0.99
        assert float(row["seconds"]) > 0
    page = (finished / "report.html").read_text(encoding="utf-8")
    assert page.count("<img") == page.count('src="data:image/png;base64,') == len(PLOTS) + 2 * 2
    assert "http" not in page


@pytest.mark.slow
def test_same_seed_same_poses(finished, ct, tmp_path):
    again, other = tmp_path / "again", tmp_path / "other"
    assert evaluate(again, ct, "--methods", "initial", "opt", "--cases", 2) == 0
    first, second = rows_of(finished), rows_of(again)
    assert all(poses(first[key]) == poses(second[key]) for key in first)
    assert evaluate(other, ct, "--methods", "initial", "--cases", 1, "--seed", 2) == 0
    assert poses(rows_of(other)[0, "initial"]) != poses(first[0, "initial"])


@pytest.mark.slow
def test_what_is_random_in_a_method_comes_from_the_seed(ct, tmp_path):
    found = []
    for name in ("one", "two"):
        assert evaluate(tmp_path / name, ct, "--methods", "cma-es", "--cases", 1) == 0
        found.append(poses(rows_of(tmp_path / name)[0, "cma-es"]))
    assert found[0] == found[1]


@pytest.mark.slow
def test_a_stopped_run_continues(copied, finished, ct):
    """Half a line at the end, as a killed process leaves it, is done again; nothing else is."""
    path = copied / "results.csv"
    whole = path.read_bytes()
    kept = whole.rstrip(b"\n").rsplit(b"\n", 1)[0] + b"\n"
    path.write_bytes(kept + whole[len(kept) : len(kept) + 40])
    assert evaluate(copied, ct, "--methods", "initial,opt", "--cases", 2) == 0
    assert path.read_bytes().startswith(kept)
    assert path.read_bytes().count(b"\n") == whole.count(b"\n")
    before, after = rows_of(finished), rows_of(copied)
    assert all(poses(before[key]) == poses(after[key]) for key in before)


@pytest.mark.slow
def test_more_cases_and_methods_join(copied, finished, ct):
    before = (finished / "results.csv").read_bytes()
    assert evaluate(copied, ct, "--methods", "initial,opt-gc", "--cases", 3, "--timeout", 300) == 0
    assert (copied / "results.csv").read_bytes().startswith(before)
    rows = rows_of(copied)
    assert len(rows) == 2 * 2 + 1 + 3
    for number in range(3):
        row = rows[number, "opt-gc"]
        assert row["error"] == ""
        assert float(row["gradient_correlation"]) > float(rows[number, "initial"]["gradient_correlation"])


@pytest.mark.slow
def test_a_network_trained_later_joins_but_for_the_pose_network(ct, tmp_path, monkeypatch, capsys):
    """No row can come from a network that was not there; only auto runs with the pose network or without."""
    folder = tmp_path / "weights"
    folder.mkdir()
    monkeypatch.setenv("SOPI_WEIGHTS", str(folder))
    options = ("--methods", "initial", "--cases", 1)
    assert evaluate(tmp_path / "out", ct, *options) == 0
    (folder / "ifr.safetensors").write_bytes(b"first")
    assert evaluate(tmp_path / "out", ct, *options) == 0
    settings = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert settings["weights of ifr"]
    assert settings["weights of rtpi"] is None
    (folder / "ifr.safetensors").write_bytes(b"second")
    assert evaluate(tmp_path / "out", ct, *options) == 2
    assert "weights of ifr" in capsys.readouterr().err
    (folder / "ifr.safetensors").unlink()
    assert evaluate(tmp_path / "out", ct, *options) == 0
    assert json.loads((tmp_path / "out" / "settings.json").read_text()) == settings
    (folder / "rtpi.safetensors").write_bytes(b"first")
    assert evaluate(tmp_path / "out", ct, *options) == 2
    assert "weights of rtpi nothing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "what"),
    [(("--seed", 7), "seed 1"), (("--protocol", "wide"), "protocol paper"), (("--timeout", 5), "timeout_s")],
)
def test_another_evaluation_in_the_same_folder_is_refused(copied, ct, capsys, options, what):
    before = (copied / "results.csv").read_bytes()
    assert evaluate(copied, ct, "--methods", "initial", "--cases", 3, *options) == 2
    error = capsys.readouterr().err
    assert what in error
    assert "choose another --out" in error
    assert error.count("\n") == 1
    assert (copied / "results.csv").read_bytes() == before


def endless(problem, report):
    while True:
        report(Progress("on and on"))


@pytest.mark.slow
def test_what_raises_or_never_ends_is_a_row_with_its_error(ct, tmp_path, added):
    has_luck = []

    def raising(problem, report):
        if not has_luck:
            raise ValueError("no\nluck")
        return Estimate(problem.T_start)

    added("raising", raising, "Raising", "raises")
    added("endless", endless, "Endless", "never ends")
    options = ("--cases", 2, "--timeout", 0.2)
    assert evaluate(tmp_path, ct, "--methods", "raising,endless,initial", *options) == 0
    rows = rows_of(tmp_path)
    for number in (0, 1):
        assert rows[number, "raising"]["error"] == "ValueError: no luck"
        assert "timed out" in rows[number, "endless"]["error"]
        assert rows[number, "endless"]["mtre_mm"] == ""
        assert rows[number, "initial"]["error"] == ""
    text = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert "| Raising | 2 (2) |  |  | 100.0 [34.2, 100.0] |" in text
    assert "- case 1, `raising`: ValueError: no luck" in text

    # Errors stay until they are to be tried again.
    has_luck.append(True)
    assert evaluate(tmp_path, ct, "--methods", "raising", *options) == 0
    assert rows_of(tmp_path)[0, "raising"]["error"] != ""
    assert evaluate(tmp_path, ct, "--methods", "raising", *options, "--retry") == 0
    assert rows_of(tmp_path)[0, "raising"]["error"] == ""
    assert "| Raising | 2 |" in (tmp_path / "table.md").read_text(encoding="utf-8")


def test_an_interruption_keeps_what_is_done(ct, tmp_path, added, capsys):
    def interrupted(problem, report):
        raise KeyboardInterrupt

    added("interrupted", interrupted)
    assert evaluate(tmp_path, ct, "--methods", "initial,interrupted", "--cases", 2) == 130
    assert "1 rows are in" in capsys.readouterr().err
    assert set(rows_of(tmp_path)) == {(0, "initial")}


def test_few_cores_run_one_at_a_time():
    assert [default_workers(cores) for cores in (1, 2, 7, 16)] == [1, 1, 1, 4]


def test_protocols_draw_what_they_say():
    for name, factor in (("paper", np.sqrt([20, 20, 20, 30, 15, 100])), ("wide", [20, 20, 20, 30, 15, 100])):
        rng = np.random.default_rng(0)
        drawn = np.array([PROTOCOLS[name].draw(rng) for _ in range(4000)])
        drawn[..., :3] = np.rad2deg(drawn[..., :3])
        np.testing.assert_allclose(drawn[:, 0].std(axis=0), factor, rtol=0.05)
        if name == "paper":
            np.testing.assert_allclose(drawn[:, 1].std(axis=0), factor, rtol=0.05)
            assert (
                np.abs(np.corrcoef(drawn[:, 0].T, drawn[:, 1].T)).max(
                    where=~np.eye(12, dtype=bool), initial=0
                )
                < 0.1
            )
        else:
            assert not drawn[:, 1].any()


@pytest.mark.slow
def test_a_case_depends_on_seed_and_number_alone(ct):
    few, many = (SimulatedCases("wide", "ours", (ct,), pixels=PIXELS, phantoms=n) for n in (2, 9))
    np.testing.assert_array_equal(few.make(4).T_true, many.make(4).T_true)
    np.testing.assert_array_equal(few.make(4).radiographs[0].image, many.make(4).radiographs[0].image)
    assert np.abs(few.make(4).T_true - few.make(5).T_true).max() > 1e-3
    body = few.make(4).ct.attenuation.array
    bone = SimulatedCases("wide", "ours", (ct,), pixels=PIXELS, content="bone").make(4).ct.attenuation.array
    assert np.count_nonzero(bone) / bone.size < 0.5 * np.count_nonzero(body) / body.size


@pytest.mark.skipif(installed_version("itk-rtk") is None, reason="itk-rtk is not installed")
def test_targets_show_the_same_thing_differently(ct):
    made = {name: SimulatedCases("paper", name, (ct,), pixels=PIXELS).make(0) for name in TARGETS}
    images = {name: case.radiographs[0] for name, case in made.items()}
    assert all(np.array_equal(case.T_true, made["ours"].T_true) for case in made.values())
    clean = images["ours"].image
    for name, least in (("rtk", 0.9), ("rtk-degraded", 0.5)):
        valid = images[name].valid
        # An intensity curve bends, noise and scatter blur: ranks agree better than values.
        ranks = [np.argsort(np.argsort(image[valid])) for image in (clean, images[name].image)]
        assert least < np.corrcoef(*ranks)[0, 1] < 0.9999


def test_figures_of_a_known_error(ct):
    case = SimulatedCases("paper", "ours", (ct,), pixels=PIXELS).make(0)
    at_truth = end_figures(case, case.T_true)
    assert at_truth["ncc"] == pytest.approx(1, abs=1e-6)
    assert at_truth["ssim"] == pytest.approx(1, abs=1e-6)
    assert at_truth["mtre_mm"] < 1e-9
    T = case.T_true
    for twist in ([0, 0, 0, 3.0, 0, -4.0], [0, 0, np.deg2rad(2), 0, 0, 0]):
        T = move_about(T, np.array(twist), case.frame.centre_lps_mm)
    row = end_figures(case, T)
    # 3 and -4 mm across the ray and along it: Euclidean 5, sum 7.
    assert row["rotation_deg"] == pytest.approx(2)
    assert (row["in_plane_mm"], row["depth_mm"]) == pytest.approx((3, 4), rel=1e-3)
    assert row["translation_mm"] == pytest.approx(5, rel=1e-3)
    assert row["sum_abs_translation_mm"] == pytest.approx(7, rel=1e-3)
    assert row["sum_abs_rotation_deg"] >= row["rotation_deg"] - 1e-9
    assert (row["failed"], row["succeeded"]) == (1, 1)
    assert row["ncc"] < 0.999
    np.testing.assert_allclose(pose_of_row(row, case), T, atol=1e-9)
    np.testing.assert_allclose(pose_of_row(start_figures(case), case, "start"), case.T_start, atol=1e-9)


def test_rates_count_errors_as_failures():
    solved = {"error": "", "failed": "0", "succeeded": "1", "start_mtre_mm": "9", "start_tx_mm": "1"}
    raised = {**solved, "error": "x", "failed": "", "succeeded": ""}
    never_made = {**raised, "start_mtre_mm": "", "start_tx_mm": ""}
    without_truth = {**raised, "start_mtre_mm": ""}
    one = Series("opt", [solved, solved, raised, never_made, without_truth])
    assert one.rate("failed", 1) == (2, 4)
    assert one.rate("succeeded", 0) == (2, 4)


def test_interval_of_a_mean_covers_it_as_often_as_it_says():
    rng = np.random.default_rng(5)
    intervals = np.array([mean_interval(rng.normal(size=40), resamples=400) for _ in range(200)])
    covered = (intervals[:, 0] < 0) & (intervals[:, 1] > 0)
    assert 0.88 < covered.mean() < 0.99


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--methods", "opt,magic"), ("unknown method 'magic'", "opt-gc")),
        (("--methods", "rtpi", "--weights", "absent.safetensors"), ("absent.safetensors", "rtpi=FILE")),
        (("--methods", "ifr", "--weights", "ifr=absent"), ("method ifr needs weights absent", "ifr=FILE")),
        (("--weights", "sopi=a.safetensors"), ("sopi=a.safetensors is for no network", "deep-reg")),
        (("--weights", "a.safetensors", "rtpi=b"), ("two files for rtpi",)),
        (("--baseline-pixels", 31), ("--baseline-pixels is 31", "32 or more")),
        (("--starts", 2), ("--starts is for cases of your own", "--cases-file")),
        (("--ct", "absent.nii.gz"), ("absent.nii.gz", "does not exist")),
        (("--cases", 0), ("--cases is 0",)),
        (("--seed", -1), ("--seed is -1",)),
        (("--pixels", 8), ("--pixels is 8", "32 or more")),
        (("--workers", 0), ("--workers is 0",)),
        (("--timeout", 0), ("--timeout is 0 s",)),
        (("--cases-file", "absent.csv"), ("--ct is for simulated cases",)),
    ],
)
def test_bad_options_are_refused(ct, tmp_path, capsys, options, words):
    out = tmp_path / "out"
    assert evaluate(out, ct, *options) == 2
    error = capsys.readouterr().err
    assert error.startswith("sopi evaluate: ")
    assert error.count("\n") == 1
    assert all(word in error for word in words), error
    assert not out.exists()


def test_rtk_targets_need_rtk():
    with pytest.raises(InputError, match="pip install itk-rtk, or use --target ours"):
        require_target("rtk", lambda distribution: None)


def test_a_folder_that_cannot_be_used(ct, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert evaluate(tmp_path / "file", ct, "--methods", "initial", "--cases", 1) == 2
    assert "cannot write to the output folder" in capsys.readouterr().err
    (tmp_path / "results.csv").write_text("another program's\n")
    assert evaluate(tmp_path, ct, "--methods", "initial", "--cases", 1) == 2
    assert "without its settings.json" in capsys.readouterr().err


def test_the_page_shows_no_markup_of_names(finished, ct):
    """Whatever stands in a file name or an error stays text."""
    rows = list(rows_of(finished).values())
    for row in rows:
        row["error"] = "<b>bad</b>"
    settings = json.loads((finished / "settings.json").read_text())
    page = page_of(table([Series("opt", rows)], settings), {}, [])
    assert "<b>" not in page
    assert "&lt;b&gt;bad" in page
