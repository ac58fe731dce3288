"""Batches: each row once, whatever happens to the processes; a stopped one goes on."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import time

import pytest
from SOPIRegistrationLib.cli.batch import read_table
from SOPIRegistrationLib.cli.main import main
from SOPIRegistrationLib.errors import InputError


def rows_of(out):
    with (out / "batch.csv").open() as stream:
        return list(csv.DictReader(stream))


@pytest.fixture
def table(demo_run, tmp_path):
    """Three registrations of the demo from its result, the second of a file that is not there."""
    folder = demo_run.folder
    files = f"{folder}/ct.nrrd,{folder}/%s,{folder}/geometry.json,{folder}/result.json,none"
    lines = ["ct,xray,geometry,init,refine", *(files % name for name in ("xray.png", "gone.png", "xray.png"))]
    path = tmp_path / "cases.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_every_row_has_its_folder_and_a_failed_one_its_line(table, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["batch", str(table), "--out", str(out), "--workers", "1"]) == 2
    rows = rows_of(out)
    assert [row["row"] for row in rows] == ["1", "2", "3"]
    assert [row["status"] for row in rows] == ["accept", "failed", "accept"]
    assert "gone.png" in rows[1]["message"]
    assert (out / "0001" / "result.json").exists()
    assert "row 2 failed" in capsys.readouterr().err
    before = (out / "0001" / "result.json").stat().st_mtime_ns
    (out / "batch.csv").write_text("\n".join((out / "batch.csv").read_text().splitlines()[:3]) + "\n")
    assert main(["batch", str(table), "--out", str(out), "--workers", "1"]) == 2
    assert [row["status"] for row in rows_of(out)] == ["accept", "failed", "accept"]
    assert (out / "0001" / "result.json").stat().st_mtime_ns == before


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_worker_that_is_killed_at_work_costs_no_row(demo_run, tmp_path):
    psutil = pytest.importorskip("psutil")
    folder, count = demo_run.folder, 6
    row = f"{folder}/ct.nrrd,{folder}/xray.png,{folder}/geometry.json,{folder}/result.json,opt"
    table = tmp_path / "cases.csv"
    table.write_text("\n".join(["ct,xray,geometry,init,refine", *[row] * count]) + "\n")
    out = tmp_path / "out"
    words = ["batch", str(table), "--out", str(out), "--workers", "2"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process = subprocess.Popen([sys.executable, "-m", "SOPIRegistrationLib", *words], env=environment)
    # The first row is done: both workers are at work.
    while not (out / "batch.csv").exists():
        assert process.poll() is None
        time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True)
    max(children, key=lambda child: child.cpu_times().user).kill()
    assert process.wait() == 0
    assert [(row["row"], row["status"]) for row in rows_of(out)] == [
        (str(number), "accept") for number in range(1, count + 1)
    ]


def test_words_of_a_row(tmp_path):
    (tmp_path / "femur.nrrd").write_text("")
    (tmp_path / "pose.tfm").write_text("")
    path = tmp_path / "cases.csv"
    path.write_text(
        "command,out,body,xrays,geometry,start,film,fps\n"
        "track,trial 1,femur.nrrd,a;b,cameras.json,femur=pose.tfm@3,yes,100\n"
    )
    [words] = read_table(path, tmp_path / "out").values()
    assert words == (
        *("track", str(tmp_path / "femur.nrrd"), "--xrays", "a", "b", "--geometry", "cameras.json"),
        *("--start", f"femur={tmp_path / 'pose.tfm'}@3", "--film", "--fps", "100"),
        *("--out", str(tmp_path / "out" / "trial 1")),
    )


@pytest.mark.parametrize("divider", [";", "\t"])
def test_tables_of_spreadsheets_that_write_decimal_commas(tmp_path, divider):
    path = tmp_path / "cases.csv"
    path.write_text("\ufeffct,xray,fps\na,b|c,30\n".replace(",", divider).replace("b|c", '"b;c"'), "utf-8")
    [words] = read_table(path, tmp_path).values()
    assert words[:6] == ("register", "a", "b", "c", "--fps", "30")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ct,xray\n", "has no rows"),
        ("ct,xray\na,\n", "row 1 has no xray"),
        ("command,ct\ntrain,a\n", "command 'train' is not register or track"),
        ("ct,xray,out\na,b,x\na,c,x\n", "rows 1 and 2 have the same out 'x'"),
        ("ct,xray\na,b,c\n", "row 1 has more cells"),
    ],
)
def test_bad_tables_are_one_line(tmp_path, text, said):
    path = tmp_path / "cases.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=said):
        read_table(path, tmp_path)
