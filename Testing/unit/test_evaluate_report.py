"""The tables of an evaluation, against rows whose figures are known."""

from __future__ import annotations

import numpy as np
import pytest
from SOPIRegistrationLib.evaluation import published
from SOPIRegistrationLib.evaluation.figures import COLUMNS, axis_errors
from SOPIRegistrationLib.evaluation.methods import METHODS, NETWORKS
from SOPIRegistrationLib.evaluation.plots import plots
from SOPIRegistrationLib.evaluation.runner import weights_setting
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
