"""The worked examples of Docs/extending.md, run as they stand there."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from SOPIRegistrationLib import methods
from SOPIRegistrationLib.cli.main import main
from SOPIRegistrationLib.compare import Case, Comparison, Hypotheses, Reading, target
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.ct_preparation import prepare_ct
from SOPIRegistrationLib.images.radiograph_preparation import prepare_radiograph
from SOPIRegistrationLib.registration import register
from SOPIRegistrationLib.registration.verdict import judge
from SOPIRegistrationLib.settings import RegistrationSettings
from SOPIRegistrationLib.subject import Subject

PAGE = Path(__file__).resolve().parents[2] / "Docs" / "extending.md"


def example(heading: str) -> dict:
    """What the Python blocks under a heading define."""
    [section] = re.findall(rf"^## {heading}$(.*?)(?=^## |\Z)", PAGE.read_text("utf-8"), re.M | re.S)
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", section, re.S):
        exec(block, names)
    return names


@pytest.fixture(autouse=True)
def lists():
    """Entries that an example adds are gone after it."""
    kept = [(entries, list(entries)) for entries in (methods.INITIALISERS, methods.REFINEMENTS)]
    yield
    for entries, before in kept:
        entries[:] = before


@pytest.fixture(scope="module")
def prepared(demo_case):
    subject = Subject(prepare_ct(demo_case.ct))
    xray = prepare_radiograph(demo_case.radiograph, demo_case.camera, "bone-dark")
    return subject, [xray], PoseFrame(subject.ct.rotation_centre_lps_mm, 700.0)


def test_an_initialiser_is_a_class_and_an_entry(prepared, demo_case, capsys):
    with pytest.raises(InputError, match="unknown init 'quarter-turns'"):
        RegistrationSettings("quarter-turns")
    example("An initialiser")
    result = register(*prepared, RegistrationSettings("quarter-turns"))
    assert result.method == "quarter turns + opt"
    assert result.verdict.status == "accept"
    assert np.abs(result.T_lps_to_world - demo_case.T_true)[:3, 3].max() < 2
    with pytest.raises(SystemExit):
        main(["register", "--help"])
    assert "quarter-turns|[BODY=]FILE" in capsys.readouterr().out.replace("\n", "").replace(" ", "")


def test_a_refiner_is_a_class_and_an_entry(prepared):
    example("A refiner")
    result = register(*prepared, RegistrationSettings("nominal", "narrow"))
    assert [stage.name for stage in result.stages[-2:]] == ["256 px, 21 px windows", "256 px, 9 px windows"]
    assert result.verdict.status == "accept"


def test_a_kind_of_target_is_a_record(prepared):
    strict = example("A kind of target")["STRICT_BONE"]
    assert strict.thresholds.accept > target.SEGMENTED_BONE.thresholds.accept
    # As `targets_of` would choose it for this CT.
    subject, xrays, frame = prepared
    chosen = target.Target("bone", strict, subject.bones, subject.ct.surface_points_lps_mm)
    case = Case(subject, Reading(tuple(xrays)), frame)
    verdict = judge(Hypotheses.unscored(Comparison(case, case.reading, chosen), case.T_expected[None]))
    assert any("below 0.6" in reason for reason in verdict.reasons)


def test_an_option_is_a_field(capsys):
    example("An option")
    printed = capsys.readouterr().out
    for name in ("init", "refine", "content", "polarity", "device"):
        assert re.search(rf"^{name} \('auto'|^{name} \('opt'", printed, re.M)


@pytest.mark.slow
def test_a_similarity_is_a_function(demo_run, tmp_path, monkeypatch):
    shutil.copytree(demo_run.folder, tmp_path / "demo")
    monkeypatch.chdir(tmp_path)
    names = example("A similarity")
    T_start, found = names["T_start"], names["found"]
    truth = np.array(json.loads((tmp_path / "demo" / "result.json").read_text())["pose"]["T_lps_to_camera"])
    off, end = (np.abs(T - truth)[:2, 3].max() for T in (T_start, found.T))
    assert found.value > names["objective"](T_start[None])[0]
    assert end < off / 2


def test_a_network_is_a_class_and_its_sizes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = example("A network")
    assert names["network"].config == names["TinyConfig"](width=4)
    assert "An example" in capsys.readouterr().out


def test_hypotheses_that_were_not_scored_say_so(prepared):
    found = Hypotheses.unscored(None, np.stack([np.eye(4)] * 3))
    assert np.isinf(found.cost).all()
    np.testing.assert_array_equal(found.T_initial, np.eye(4))
