"""Several bodies as cases of an evaluation."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest
from SOPIRegistrationLib.cli.main import main
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.evaluation.bent import BentCases
from SOPIRegistrationLib.evaluation.methods import METHODS
from SOPIRegistrationLib.evaluation.peers import installed_version
from SOPIRegistrationLib.evaluation.problem import Problem
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.images.volume import Volume
from SOPIRegistrationLib.registration.outputs import write_volume

pytestmark = pytest.mark.skipif(not installed_version("itk-rtk"), reason="itk-rtk is not installed")


@pytest.fixture(scope="module")
def label_map(tmp_path_factory):
    """Two uneven bones, one above the other."""
    k, j, i = np.indices((48, 32, 40))
    labels = np.zeros(k.shape, np.uint8)
    for label, middle in ((2, 12), (1, 34)):
        wedge = (np.abs(k - middle) < 8 - (i - 20) / 8) & (np.hypot(i - 20, 1.3 * (j - 16)) < 14)
        labels[wedge | ((np.abs(k - middle) < 3) & (np.abs(j - 25) < 4) & (np.abs(i - 20) < 18))] = label
    path = tmp_path_factory.mktemp("bent") / "bones.nrrd"
    write_volume(path, Volume(labels, np.diag([2.0, 2.0, 2.0, 1.0])))
    return path


@pytest.fixture(scope="module")
def source(label_map):
    return BentCases(chain=(2, 1), cts=(label_map,), pixels=64, views=2)


def test_the_bones_of_an_x_ray_are_cases_that_follow_each_other(source):
    below, above, next_one = (source.make(number) for number in range(3))
    assert [source.patient_of(number) for number in range(3)] == [0, 0, 1]
    assert (below.body, above.body) == ("2", "1")
    assert below.several is above.several
    assert below.several is not next_one.several
    assert [one.camera.name for one in above.radiographs] == ["", "view 2"]
    np.testing.assert_array_equal(below.T_start, above.T_start)
    relative = se3.invert_rigid(below.T_true) @ above.T_true
    turn = np.rad2deg(se3.rotation_distance(relative[:3, :3], np.eye(3)))
    assert 0 < turn <= 6.0
    again = BentCases(chain=(2, 1), cts=source.cts, pixels=64, views=2).make(1)
    np.testing.assert_array_equal(again.radiographs[1].image, above.radiographs[1].image)


def test_one_body_has_none_beside_it(source):
    case = source.make(0)
    problem = Problem(case.subject, case.radiographs, case.frame, case.T_start)
    with pytest.raises(InputError, match="key bent"):
        METHODS["bodies"].solve(problem, lambda state: None)


def test_a_start_may_be_slid_along_the_spine(source):
    case = source.make(0)
    slid = replace(source, start_along_mm=34.0).make(0)
    np.testing.assert_array_equal(slid.T_true, case.T_true)
    moved = se3.invert_rigid(case.T_start) @ slid.T_start
    np.testing.assert_allclose(moved, se3.rigid(np.eye(3), np.array([0, 0, 34.0])), atol=1e-9)


def test_the_x_ray_may_be_centred_about_a_bone(source):
    label = source.chain[-1]
    case = replace(source, looks_at=label).make(0)
    centre = case.several.bodies[str(label)].centre_lps_mm
    np.testing.assert_array_equal(case.several.frame.centre_lps_mm, centre)
    assert replace(source, looks_at=label).settings() != source.settings()
    with pytest.raises(InputError, match="no body is called '99'"):
        replace(source, looks_at=99).make(0)


@pytest.mark.slow
def test_bent_bones_are_evaluated_by_a_file(label_map, tmp_path):
    path = tmp_path / "bent.toml"
    path.write_text(
        f'ct = ["{label_map}"]\nlabels = true\nviews = 2\npixels = 128\ncases = 2\n'
        'methods = ["piece", "bodies"]\nbent = { chain = [2, 1], turn_deg = 4.0 }\n',
        encoding="utf-8",
    )
    assert main(["evaluate", "--config", str(path), "--out", str(tmp_path / "out")]) == 0
    with (tmp_path / "out" / "results.csv").open(encoding="utf-8") as stream:
        rows = {(row["method"], row["case"]): row for row in csv.DictReader(stream)}
    assert not any(row["error"] for row in rows.values())
    assert len({row["seconds"] for row in rows.values()}) == 1
    errors = {method: float(rows[method, "1"]["mtre_mm"]) for method in ("piece", "bodies")}
    assert errors["bodies"] < errors["piece"]
