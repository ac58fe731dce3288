"""Evaluations on Dask workers: deaths, hanging cases and ends of the run cost time, not rows."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.evaluation.methods import EvaluatedMethod
from SOPIRegistrationLib.evaluation.problem import Estimate
from SOPIRegistrationLib.evaluation.results import Results
from SOPIRegistrationLib.evaluation.runner import Evaluation, Group, evaluate_one, run
from SOPIRegistrationLib.evaluation.simulated import SimulatedCases
from SOPIRegistrationLib.progress import Progress
from support.evaluation import PIXELS, evaluate, rows_of, write_ct

psutil = pytest.importorskip("psutil")
distributed = pytest.importorskip("distributed")

CASES = 24
# Of a row, what depends on who was at it when.
PASSING = ("seconds", "seconds_first", "workers")


@pytest.fixture(scope="module")
def ct(tmp_path_factory) -> Path:
    return write_ct(tmp_path_factory.mktemp("workers"))


def lasting(rows: dict) -> dict:
    return {
        key: {name: value for name, value in row.items() if name not in PASSING} for key, row in rows.items()
    }


def without_load(table: str) -> list[str]:
    """The table's lines but for that on the machine, whose load and threads change."""
    return [line for line in table.splitlines() if "numpy" not in line]


def started(out: Path, ct: Path) -> subprocess.Popen:
    """A run in a process of its own, with two workers."""
    words = ["evaluate", "--out", out, "--ct", ct, "--pixels", PIXELS, "--target", "ours"]
    words += ["--methods", "initial", "--cases", CASES, "--workers", 2]
    return subprocess.Popen(
        [sys.executable, "-m", "SOPIRegistrationLib", *map(str, words)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def workers_of(pid: int) -> list[psutil.Process]:
    """The workers of a run in the process of that number."""
    return [
        child
        for child in psutil.Process(pid).children(recursive=True)
        if any("spawn_main" in word for word in child.cmdline())
    ]


def wait_for_rows(out: Path, count: int, process: subprocess.Popen) -> None:
    """Until so many rows are on disk."""
    path = out / "results.csv"
    while not path.exists() or path.read_text(encoding="utf-8").count("\n") <= count:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)


# Eight processes are started for it, each of which imports a second's worth on an idle core.
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs signals of POSIX")
def test_two_workers_killed_and_then_the_run_give_the_table_of_an_undisturbed_one(ct, tmp_path):
    calm, disturbed = tmp_path / "calm", tmp_path / "disturbed"
    assert evaluate(calm, ct, "--methods", "initial", "--cases", CASES, "--workers", 1) == 0
    process = started(disturbed, ct)
    wait_for_rows(disturbed, 2, process)
    workers = workers_of(process.pid)
    assert len(workers) == 2
    for worker in workers:
        worker.kill()
    wait_for_rows(disturbed, 8, process)
    process.kill()
    process.wait()
    process.stderr.close()
    kept = (disturbed / "results.csv").read_text(encoding="utf-8")
    assert 8 <= kept.count("\n") - 1 < CASES

    process = started(disturbed, ct)
    _, said = process.communicate()
    assert process.returncode == 0, said
    text = (disturbed / "results.csv").read_text(encoding="utf-8")
    assert text.startswith(kept[: kept.rfind("\n") + 1])
    assert text.count("\n") == 1 + CASES
    assert lasting(rows_of(disturbed)) == lasting(rows_of(calm))
    table = (
        (disturbed / "table.md").read_text(encoding="utf-8").replace("2 processes at a time", "one at a time")
    )
    assert without_load(table) == without_load((calm / "table.md").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Deadly(SimulatedCases):
    """Cases one of which takes its process with it, whenever it is made."""

    def make(self, number):
        if number == 1:
            os._exit(3)
        return super().make(number)


def endless(problem, report):
    """Heeds an end that comes at once, and none later."""
    report(Progress("going on"))
    while True:
        time.sleep(0.1)


def good(problem, report):
    return Estimate(problem.T_start)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_deadly_case_and_a_hanging_method_are_rows_with_errors(ct, tmp_path):
    """The cases beside them have their rows, though all workers die at once meanwhile."""
    deadly = Deadly(target="ours", cts=(ct,), pixels=PIXELS)
    peaceful = SimulatedCases(target="ours", cts=(ct,), pixels=PIXELS)
    evaluation = Evaluation(
        (Group("deadly", deadly, ("good",), range(3)), Group("slow", peaceful, ("endless",), range(1))),
        timeout_s=0.5,
        workers=2,
        variants={
            "good": EvaluatedMethod("Good", "ends", good),
            "endless": EvaluatedMethod("Endless", "never ends", endless),
        },
    )
    before = dict(os.environ)
    results = Results(tmp_path, evaluation.settings())
    ticks = []

    def tick():
        if not ticks:
            for worker in workers_of(os.getpid()):
                worker.kill()
        ticks.append(1)

    run(evaluation, results, tick)
    assert dict(os.environ) == before
    errors = {(row["group"], int(row["case"])): row["error"] for row in results.rows}
    assert len(errors) == len(ticks) == len(results.rows) == 4
    assert "the process ended 3 times" in errors["deadly", 1]
    assert errors["deadly", 0] == errors["deadly", 2] == ""
    assert "timed out and did not stop" in errors["slow", 0]


def test_a_method_that_hangs_in_a_fresh_process_is_ended_with_it(ct):
    group = Group("", SimulatedCases(target="ours", cts=(ct,), pixels=PIXELS), ("endless",), range(1))
    variants = {"endless": EvaluatedMethod("Endless", "never ends", endless)}
    evaluation = Evaluation((group,), timeout_s=0.5, fresh=True, variants=variants)
    row = evaluate_one(evaluation, evaluation.tasks[0])
    assert "timed out and did not stop" in row["error"]


def test_no_scheduler_is_told(ct):
    from SOPIRegistrationLib.workers import rows_of_workers

    group = Group("", SimulatedCases(target="ours", cts=(ct,), pixels=PIXELS), ("initial",), range(1))
    evaluation = Evaluation((group,))
    rows = rows_of_workers(evaluation, evaluation.tasks, "tcp://127.0.0.1:9", connect_s=0.2)
    with pytest.raises(InputError, match="no Dask scheduler answers at tcp"):
        next(rows)


# Ten seconds are given to it.
@pytest.mark.slow
def test_no_scheduler_is_one_line(ct, tmp_path, capsys):
    options = ("--methods", "initial", "--cases", 2, "--scheduler", "tcp://127.0.0.1:9")
    assert evaluate(tmp_path, ct, *options) == 2
    error = capsys.readouterr().err
    assert "no Dask scheduler answers at tcp://127.0.0.1:9" in error
    assert error.count("\n") == 1


def test_several_processes_without_dask_are_one_line(ct, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert evaluate(tmp_path, ct, "--methods", "initial", "--cases", 2, "--workers", 2) == 2
    error = capsys.readouterr().err
    assert "'distributed': pip install it, or use --workers 1" in error
    assert error.count("\n") == 1


def test_the_workers_of_a_scheduler_are_used(ct, tmp_path):
    options = ("--methods", "initial", "--cases", 3)
    assert evaluate(tmp_path / "here", ct, *options, "--workers", 1) == 0
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, protocol="tcp://", dashboard_address=None
    ) as cluster:
        there = ("--scheduler", cluster.scheduler_address)
        assert evaluate(tmp_path / "there", ct, *options, *there) == 0
    assert lasting(rows_of(tmp_path / "there")) == lasting(rows_of(tmp_path / "here"))


def test_one_process_needs_no_dask(ct, tmp_path, monkeypatch):
    for module in ("dask", "distributed"):
        monkeypatch.setitem(sys.modules, module, None)
    assert evaluate(tmp_path, ct, "--methods", "initial", "--cases", 2, "--workers", 1) == 0
