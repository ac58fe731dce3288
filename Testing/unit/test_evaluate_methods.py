"""The compared methods: what they need, what they are given, that baselines do what they say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from SOPIRegistrationLib.cli.common import parse_weights
from SOPIRegistrationLib.errors import Cancelled, InputError
from SOPIRegistrationLib.evaluation.baselines import compared_views
from SOPIRegistrationLib.evaluation.methods import (
    METHODS,
    NETWORKS,
    in_turn,
    require_methods,
    runnable_methods,
)
from SOPIRegistrationLib.evaluation.problem import Estimate, Problem
from SOPIRegistrationLib.evaluation.simulated import SimulatedCases
from SOPIRegistrationLib.geometry.se3 import move_about
from SOPIRegistrationLib.networks.comparing import ComparingRTPI
from SOPIRegistrationLib.networks.composite import CompositeSimilarity
from SOPIRegistrationLib.networks.weights import CARD_HEADINGS, save_weights
from SOPIRegistrationLib.settings import GIVEN
from support.evaluation import PIXELS, evaluate, poses, rows_of, write_ct
from support.networks import COMPARING, COMPOSITE


@pytest.fixture(scope="module")
def ct(tmp_path_factory) -> Path:
    return write_ct(tmp_path_factory.mktemp("methods"))


@pytest.fixture(scope="module")
def problem(ct) -> Problem:
    case = SimulatedCases("paper", "ours", (ct,), pixels=PIXELS).make(0)
    # Near enough for any similarity.
    start = move_about(case.T_true, np.array([0.02, -0.02, 0.03, 2, -1.5, 0]), case.frame.centre_lps_mm)
    return Problem(case.subject, case.radiographs, case.frame, start, seed=3)


def ignore(progress):
    """For whom progress is nothing."""


@pytest.fixture
def no_weights(tmp_path, monkeypatch) -> Path:
    """Folder of installed weights, empty."""
    folder = tmp_path / "installed"
    folder.mkdir()
    monkeypatch.setenv("SOPI_WEIGHTS", str(folder))
    return folder


def test_methods_never_see_the_truth():
    assert not any("true" in name or "truth" in name for name in Problem.__dataclass_fields__)


def test_methods_without_weights_say_so_in_one_line(no_weights):
    learned = {name for name, method in METHODS.items() if method.networks}
    assert {"rtpi", "ifr", "sopi", "sopi+opt", "deep-reg", "deep-reg+cma-es"} <= learned
    for name in learned:
        with pytest.raises(InputError) as raised:
            require_methods([name], {})
        text = str(raised.value)
        assert text.startswith(f"method {name} needs the network '")
        assert "(sopi train " in text
        assert "--weights " in text
        assert "\n" not in text
    assert set(runnable_methods({})) == set(METHODS) - learned


def test_weights_given_or_installed_are_enough(no_weights, tmp_path):
    given = tmp_path / "mine.safetensors"
    given.write_bytes(b"")
    (no_weights / "rtpi.safetensors").write_bytes(b"")
    require_methods(["rtpi", "sopi"], {"ifr": given})
    assert {"rtpi", "ifr", "sopi"} <= set(runnable_methods({"ifr": given}))
    assert "deep-reg" not in runnable_methods({"ifr": given})


def test_weights_on_the_command_line(tmp_path):
    networks = list(NETWORKS)
    assert parse_weights([], networks) == {}
    assert parse_weights(["a.safetensors"], networks) == {"rtpi": Path("a.safetensors")}
    both = parse_weights(["ifr=b", "deep-reg=c/d"], networks)
    assert both == {"ifr": Path("b"), "deep-reg": Path("c/d")}
    odd = tmp_path / "run=3.safetensors"
    odd.write_bytes(b"")
    assert parse_weights([str(odd)], networks) == {"rtpi": odd}


def test_comparisons_take_the_place_of_the_learned_similarity(no_weights, tmp_path):
    """Deep-reg is the fine registration with ProST's network; its start is the given one."""
    files = {name: tmp_path / name for name in NETWORKS}
    # Given to others the patient's network would change them.
    own = {"patient": files["patient"]}
    for name, init, refine, similarity in (
        ("ifr", GIVEN, "sopi", "ifr"),
        ("deep-reg", GIVEN, "sopi", "deep-reg"),
        ("sopi", "rtpi", "sopi", "ifr"),
        ("sopi+opt", "rtpi", "sopi+opt", "ifr"),
        ("sopi-no-ce", "rtpi", "sopi", "deep-reg"),
        ("sopi-masked", "rtpi", "sopi", "ifr-masked"),
        ("patient+physics", "patient", "physics", "ifr"),
    ):
        settings = METHODS[name].solve.settings(files)
        assert (settings.init, settings.refine) == (init, refine)
        others = {"rtpi": files["rtpi"], "ifr": files[similarity]}
        assert settings.weights == others | (own if init == "patient" else {})
        needed = {similarity} if "sopi" in refine else set()
        assert set(METHODS[name].networks) == needed | ({init} - {GIVEN})


def test_one_method_goes_on_where_another_ended(problem):
    found = move_about(problem.T_start, np.array([0, 0, 0, 5.0, 0, 0]), problem.frame.centre_lps_mm)
    given = []

    def then(second, report):
        given.append(second)
        return Estimate(second.T_start, "accept")

    estimate = in_turn(problem, ignore, first=lambda problem, report: Estimate(found), then=then)
    np.testing.assert_array_equal(estimate.T_lps_to_world, found)
    assert estimate.verdict == "accept"
    assert given[0].radiographs is problem.radiographs


def test_baselines_compare_the_size_they_are_told(problem):
    for pixels in (32, PIXELS, 256):
        [view] = compared_views(replace(problem, baseline_pixels=pixels))
        assert view.image.shape == view.valid.shape == (min(pixels, PIXELS),) * 2
        assert view.camera.shape == view.image.shape


@pytest.mark.parametrize("name", ["opt-nccl", "opt-ngi", "opt-gc", "cma-es"])
def test_baselines_stop_when_told(problem, name):
    told = []

    def report(progress):
        told.append(progress)
        if len(told) == 2:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        METHODS[name].solve(problem, report)
    assert len(told) == 2


@pytest.fixture(scope="module")
def untrained(tmp_path_factory) -> dict[str, Path]:
    """Weights of tiny networks as they are made."""
    folder = tmp_path_factory.mktemp("untrained")
    card = {"name": "tiny", **dict.fromkeys(CARD_HEADINGS, "none")}
    files = {}
    for number, (name, network) in enumerate({"rtpi": ComparingRTPI, "ifr": CompositeSimilarity}.items()):
        torch.manual_seed(number)
        files[name] = folder / f"{name}.safetensors"
        save_weights(files[name], network(COMPARING if name == "rtpi" else COMPOSITE), card)
    return files | {"deep-reg": files["ifr"]}


@pytest.mark.slow
def test_learned_methods_end_in_rows_and_their_tables(ct, untrained, no_weights, tmp_path):
    """What untrained networks say is worthless: here they only have to be asked."""
    names = ("rtpi", "ifr", "sopi", "deep-reg")
    given = [f"{name}={path}" for name, path in untrained.items()]
    assert evaluate(tmp_path / "out", ct, "--methods", *names, "--cases", 1, "--weights", *given) == 0
    rows = rows_of(tmp_path / "out")
    assert {name: rows[0, name]["error"] for name in names} == dict.fromkeys(names, "")
    assert rows[0, "ifr"]["verdict"]
    # The same network from the same start, under two names.
    assert poses(rows[0, "ifr"]) == poses(rows[0, "deep-reg"])
    assert poses(rows[0, "ifr"]) != poses(rows[0, "sopi"])
    text = (tmp_path / "out" / "table.md").read_text(encoding="utf-8")
    assert "| yes | yes | no | SOPI (`sopi`) | 1 (0) |" in text
    assert "| yes | yes | yes | SOPI with mask loss (`sopi-masked`) | not trained |" in text
    assert "No result: what choosing by the truth would report" in text
