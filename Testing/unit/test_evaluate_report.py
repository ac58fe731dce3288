"""The tables of an evaluation, against rows whose figures are known."""

from __future__ import annotations

import numpy as np
import pytest
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.evaluation import published
from SOPIRegistrationLib.evaluation.cases import TruthDeviation
from SOPIRegistrationLib.evaluation.figures import COLUMNS, axis_errors
from SOPIRegistrationLib.evaluation.methods import METHODS, NETWORKS
from SOPIRegistrationLib.evaluation.plots import plots
from SOPIRegistrationLib.evaluation.results import Results, weights_setting
from SOPIRegistrationLib.evaluation.series import series_of
from SOPIRegistrationLib.evaluation.tables import table
from SOPIRegistrationLib.geometry.views import THETA_NAMES

SETTINGS = {
    "version": "1.0",
    "seed": 1,
    "timeout_s": 300.0,
    "baseline_pixels": 256,
    "processor": "a processor",
    **{weights_setting(network): None for network in NETWORKS},
}
SIMULATED = SETTINGS | {
    "protocol": "paper",
    "target": "ours",
    "content": "body",
    "view": "AP",
    "pixels": 256,
    "phantoms": 20,
}
OWN = SETTINGS | {"cases": "cases.csv", "files": "0"}


def row(method: str, case: int = 0, away=(0.0,) * 6, **figures) -> dict[str, str]:
    """A row as results.csv holds it, so far off in each parameter of theta."""
    away = np.array(away)
    values = {
        "case": case,
        "method": method,
        "name": "x",
        "seconds": 2.0,
        "device": "cpu",
        "workers": 1,
        "rotation_deg": np.linalg.norm(away[:3]),
        "translation_mm": np.linalg.norm(away[3:]),
        "in_plane_mm": np.linalg.norm(away[3:5]),
        "depth_mm": abs(away[5]),
        "mtre_mm": np.linalg.norm(away[3:]),
        "start_mtre_mm": 9.0,
        "mpd_object_mm": 0.7,
        "sum_abs_rotation_deg": np.abs(away[:3]).sum(),
        "sum_abs_translation_mm": np.abs(away[3:]).sum(),
        "failed": int(np.linalg.norm(away[3:]) > 3),
        "succeeded": 1,
        "ncc": 0.9,
        **{f"true_{name}": 10.0 for name in THETA_NAMES},
        **{f"end_{name}": 10.0 + value for name, value in zip(THETA_NAMES, away, strict=True)},
        **figures,
    }
    return {name: str(values.get(name, "")) for name in COLUMNS}


def lines_of(rows: list[dict], settings: dict, title: str) -> list[str]:
    """The lines of one section of the report."""
    sections = table(series_of(rows), settings).split("\n## ")
    [section] = [one for one in sections if one.startswith(title)]
    return section.splitlines()


def cells(lines: list[str], label: str) -> list[str]:
    [line] = [line for line in lines if line.startswith(f"| {label} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_table_1_has_the_papers_figures_beside_ours():
    rows = [row("opt-gc", number, (0, 0, 0, 0, 0, error)) for number, error in enumerate((1.0, 2.0, 6.0))]
    lines = lines_of(rows, SIMULATED | {weights_setting("ifr"): "abc"}, "Simulated X-rays, as in Table 1")
    count, rotation, translation, failure, seconds, *paper = cells(lines, "Opt-GC")[1:]
    assert count == "3 (0)"
    assert rotation.startswith("0 ± 0")
    assert translation.startswith("3 ± 2.65 [")
    assert failure.startswith("33.3 [")
    assert seconds == "2"
    assert paper == ["3.73 ± 3.18", "7.80 ± 7.25", "43.6", "18.74"]
    # What has not been run stands there with the paper's figures alone, and says why.
    assert cells(lines, "Opt-NGI")[1] == "not run"
    assert cells(lines, "SOPI")[1] == "not trained"
    assert cells(lines, "SOPI")[-4:] == ["1.89 ± 1.57", "4.53 ± 3.54", "22.4", "4.64"]
    assert not any(line.startswith("| CMA-ES") for line in lines)


def test_networks_that_are_there_are_not_untrained():
    known = SIMULATED | {weights_setting(network): "abc" for network in NETWORKS}
    lines = lines_of([row("initial")], known, "Simulated X-rays, as in Table 1")
    assert cells(lines, "SOPI")[1] == cells(lines, "Deep-reg")[1] == "not run"


def test_table_2_says_which_part_each_row_lacks():
    rows = [row("rtpi", away=(3, 0, 0, 0, 4, 0))]
    lines = lines_of(rows, SIMULATED | {weights_setting("rtpi"): "abc"}, "Ablation, as in Table 2")
    found = {line.split("|")[4].split("`")[1]: line.split("|") for line in lines if "`" in line}
    assert list(found) == ["sopi-no-ce", "ifr", "rtpi", "sopi", "sopi-masked"]
    parts = {name: "".join(cell.strip()[0] for cell in line[1:4]) for name, line in found.items()}
    assert parts == {"sopi-no-ce": "yny", "ifr": "nyy", "rtpi": "ynn", "sopi": "yyn", "sopi-masked": "yyy"}
    assert found["rtpi"][5].strip() == "1 (0)"
    assert found["rtpi"][6].strip().startswith("3 ±")
    assert found["rtpi"][8].strip() == "3.42 ± 3.30"
    assert all(found[name][5].strip() == "not trained" for name in found if name != "rtpi")
    assert "Table 2" not in table(series_of([row("opt")]), SIMULATED)


def test_table_3_has_a_column_for_each_parameter_and_the_papers_depth_last():
    rows = [row("opt-gc", 0, (1, -2, 0, 0.5, 0, -4)), row("opt-gc", 1, (-3, 2, 0, 0.5, 0, 8))]
    lines = lines_of(rows, OWN, "Real X-rays, as in Table 3")
    assert cells(lines, "Opt-GC")[1:] == ["2 (0)", "0.7", "0.9", "2", "2", "0", "0.5", "0", "6", "2"]
    said = cells(lines, "Opt-GC, paper")[1:]
    assert said == ["5", "0.027", "0.939", "4.70", "2.40", "1.60", "3.15", "3.00", "7.15", "40.14"]
    assert len(cells(lines, "SOPI + Opt-GC, paper")) == len(said) + 1
    assert not any(line.startswith("| SOPI |") for line in lines)
    assert "Table 1" not in table(series_of(rows), OWN)


def test_angles_are_compared_around_the_circle():
    one = row("opt") | {
        "true_rx_deg": "-179.5",
        "end_rx_deg": "179.0",
        "true_tx_mm": "-200",
        "end_tx_mm": "0",
    }
    np.testing.assert_allclose(axis_errors(one), [1.5, 0, 0, 200, 0, 0], atol=1e-9)


def test_choosing_by_the_truth_is_shown_as_no_result_and_last():
    rows = [row("rtpi", 0, (1, 5, 0, 0, 9, 2)), row("sopi", 0, (4, 1, 0, 3, 1, -1))]
    rows += [row("rtpi", 1, (2, 0, 0, 0, 0, 0)), row("sopi", 1, error="ValueError: x")]
    lines = lines_of(rows, SIMULATED, "No result: what choosing by the truth would report")
    assert cells(lines, "RTPI")[1:2] == ["1"]
    assert [cell.split(" ")[0] for cell in cells(lines, "RTPI")[2:]] == ["6", "11"]
    assert [cell.split(" ")[0] for cell in cells(lines, "SOPI")[2:]] == ["5", "5"]
    # 1 and 1 deg; 0, 1 and 1 mm.
    nearer = cells(lines, "the nearer of RTPI and SOPI in each parameter")
    assert [cell.split(" ")[0] for cell in nearer[2:]] == ["2", "2"]
    text = table(series_of(rows), SIMULATED)
    assert text.rindex("\n## ") == text.index("\n## No result")
    assert "No result" not in table(series_of(rows[:1]), SIMULATED)


def test_conditions_say_what_ran_where():
    rows = [row("opt"), row("sopi", device="cuda"), row("rtpi", device="cuda")]
    text = table(series_of(rows), SIMULATED | {"baseline_pixels": 128})
    assert "registrations on cuda: RTPI, SOPI; on cpu: opt (ours)" in text
    assert "baselines compare images of 128 pixels" in text
    assert "a processor" in text
    assert "seed 1" in text


def test_accepted_failures_are_counted():
    rows = [row("opt", 0, verdict="accept"), row("opt", 1, (0, 0, 0, 0, 0, 9), verdict="accept")]
    rows += [row("opt", 2, verdict="review"), row("opt", 3, verdict="reject")]
    lines = lines_of(rows, SIMULATED, "Medians")
    assert cells(lines, "opt (ours)")[-2] == "50 (1)"


def test_what_others_report_of_a_method_is_said_where_it_has_run():
    lines = lines_of([row("cma-es"), row("opt")], SIMULATED, "Medians")
    [line] = [line for line in lines if line.startswith("- CMA-ES: ")]
    assert "28.5 %" in line


@pytest.mark.parametrize("figures", [published.TABLE_1, published.TABLE_2, published.TABLE_3])
def test_published_figures_are_of_methods_that_can_be_run(figures):
    assert set(figures) <= set(METHODS)


@pytest.mark.slow
def test_every_method_has_its_place_in_the_plots():
    rows = [row(name, case, (0, 0, 0, 0, 0, 1.0 + case)) for name in METHODS for case in (0, 1)]
    pictures = plots(series_of(rows))
    assert set(pictures) == {"errors.png", "capture_range.png", "time_and_error.png"}
    assert all(picture.startswith(b"\x89PNG") for picture in pictures.values())
    assert "time_and_error.png" not in plots(series_of([row("initial")]))


def grouped(group: str, method: str, case: int, **figures) -> dict[str, str]:
    return row(method, case, **figures) | {"group": group}


def table_of(rows: list[dict], groups: dict, **options) -> str:
    series = [one for name in groups for one in series_of(rows, group=name)]
    return table(series, SETTINGS | {"groups": groups, "variants": {}}, **options)


GROUPS = {name: {key: SIMULATED[key] for key in SIMULATED if key not in SETTINGS} for name in ("near", "far")}


def test_several_groups_share_one_table():
    rows = [grouped("near", "opt", case, right=1, mpd_object_mm=0.1 * case) for case in range(4)]
    rows += [grouped("far", "opt", case, right=int(case > 0), verdict="accept") for case in range(4)]
    rows += [grouped("far", "opt", 4, error="ValueError: x", mtre_mm="")]
    text = table_of(rows, GROUPS, title="Both", within={"near": (("mpd_object_mm", 0.15),)})
    assert text.startswith("# Both\n")
    [summary] = [section for section in text.split("\n## ") if section.startswith("Summary")]
    lines = [line for line in summary.splitlines() if "opt (ours)" in line]
    near, far = ([cell.strip() for cell in line.split("|")] for line in lines)
    assert near[1:4] == ["near", "opt (ours)", "4 (0)"]
    assert near[4].startswith("100.0 [")
    assert near[6].startswith("50.0 [")
    # An error is not right; nothing is counted within where there are no limits.
    assert far[3] == "5 (1)"
    assert far[4].startswith("60.0 [")
    assert far[6] == ""
    # All four verdicts are accept, one of them is wrong.
    assert far[-4].startswith("100.0 [")
    assert far[-3] == "1"
    assert "- far, case 4, `opt`: ValueError: x" in text
    assert "Table 1" not in text
    assert "Table 1" in table_of(rows, GROUPS, chosen=["papers"])
    assert "Summary" not in table_of(rows, GROUPS, chosen=["medians"])


def test_what_is_accepted_and_how_right_and_wrong_poses_differ():
    rows = [row("opt", case, right=1, verdict="accept", correlation=0.9 + 0.01 * case) for case in range(3)]
    rows += [row("opt", 3, right=1, verdict="review", correlation=0.8, share=0.2)]
    rows += [row("opt", 4, right=0, stranger=1, verdict="accept", correlation=0.7)]
    rows += [row("opt", 5, right=0, verdict="reject", correlation=0.3)]
    lines = lines_of(rows, SIMULATED, "Verdicts")
    found = cells(lines, "opt (ours)")
    assert found[1] == "6"
    assert found[2].startswith("75.0 [")
    assert found[3:] == ["1", "2", "0.800 (0.905)", "0.700", "0.20"]


def test_probabilities_are_compared_with_what_is_right():
    rows = [row("opt", case, right=int(case < 19), probability=0.97) for case in range(20)]
    rows += [row("opt", 20 + case, right=int(case < 1), probability=0.1) for case in range(10)]
    lines = lines_of(rows, SIMULATED, "Probabilities")
    assert cells(lines, "0.95 to 0.99")[1:3] == ["20", "0.970"]
    assert cells(lines, "0.95 to 0.99")[3].startswith("95.0 [")
    assert cells(lines, "0.05 to 0.25")[3].startswith("10.0 [")
    assert len(lines) == 2 + 2 + 2


def test_predicted_errors_cover_as_often_as_normal_ones_do():
    """Of poses with the right picture only; another one says nothing about the width of its minimum."""
    rng = np.random.default_rng(1)
    drawn = rng.normal(0, 0.2, 4000)
    rows = [
        row("opt", case, right=1, error_x_mm=value, predicted_x_mm=0.2) for case, value in enumerate(drawn)
    ]
    rows += [row("opt", 5000, mpd_object_mm=9.0, error_x_mm=9.0, predicted_x_mm=0.2)]
    [one] = series_of(rows)
    ratio, held, count = one.predicted()["x_mm"]
    assert count == 4000
    assert ratio == pytest.approx(0.674, rel=0.05)
    assert held / count == pytest.approx(0.95, abs=0.012)
    assert list(one.predicted()) == ["x_mm"]
    assert one.predicted("statistical") == {}


def test_a_measured_truth_is_no_exacter_than_it_is():
    rows = [row("opt", case, right=1, error_x_mm=0.5, predicted_x_mm=0.1) for case in range(4)]
    [exact] = series_of(rows)
    assert exact.predicted()["x_mm"][1:] == (0, 4)
    [measured] = series_of([one | {"truth_x_mm": "0.3"} for one in rows])
    assert measured.predicted()["x_mm"] == (pytest.approx(0.5 / np.hypot(0.1, 0.3)), 4, 4)


def test_a_truth_is_least_exact_about_the_long_axis():
    turn, shift = TruthDeviation(0.2, 0.6, 0.3).about_axes(np.array([0.0, 0.6, 0.8]))
    assert turn == pytest.approx(
        [0.2, np.sqrt(0.04 * 0.64 + 0.36 * 0.36), np.sqrt(0.04 * 0.36 + 0.36 * 0.64)]
    )
    assert shift == pytest.approx(0.3)


def test_first_seconds_stand_beside_later_ones():
    rows = [row("opt", case, seconds_first=3.0 + case, seconds=1.0) for case in range(3)]
    lines = lines_of(rows, SIMULATED, "Seconds, the first registration of a process")
    first, first_most, later, later_most = cells(lines, "opt (ours)")[2:]
    assert first.startswith("4 [")
    assert (first_most, later_most) == ("4.9", "1")
    assert later.startswith("1 [")
    assert "Seconds, the first" not in table(series_of([row("opt")]), SIMULATED)


def test_the_order_in_which_rows_came_changes_nothing(tmp_path):
    rows = [row("opt", case, (0, 0, 0, 0, 0, float(case)), right=1) for case in range(9)]
    settings = SIMULATED | {"groups": {"": {}}, "variants": {}}
    tables = []
    for name, order in (("one", range(9)), ("other", (4, 8, 0, 3, 1, 7, 2, 6, 5))):
        results = Results(tmp_path / name, settings)
        for number in order:
            results.add(rows[number])
        results.close()
        again = Results(tmp_path / name, settings)
        assert again.rows == rows
        tables.append(table(series_of(again.rows), SIMULATED))
    assert tables[0] == tables[1]


def test_a_row_is_written_once_and_a_folder_by_one_run_at_a_time(tmp_path):
    settings = SIMULATED | {"groups": {"": {}}, "variants": {}}
    results = Results(tmp_path, settings)
    results.add(row("opt", 0, error="ValueError: x"))
    results.add(row("opt", 0))
    assert (tmp_path / "results.csv").read_text(encoding="utf-8").count("\n") == 2
    with pytest.raises(ValueError, match="already"):
        results.add(row("opt", 0))
    with pytest.raises(InputError, match="another evaluation writes to"):
        Results(tmp_path, settings)
    results.close()
    assert [one["error"] for one in Results(tmp_path, settings).rows] == [""]
