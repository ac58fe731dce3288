"""The way of one registration without nodes or widgets: states and signals."""

from __future__ import annotations

import threading

import pytest
from SOPIRegistrationLib.errors import Cancelled, InputError
from SOPIRegistrationLib.registration import logic as module
from SOPIRegistrationLib.registration.logic import RegistrationLogic, State


class Watched:
    """A logic whose work is a stand-in, and all that it tells."""

    def __init__(self, monkeypatch, work):
        self.logic, self.told = RegistrationLogic(), []
        for name in ("state_changed", "progressed", "prepared", "finished", "stopped", "failed"):
            getattr(self.logic, name).connect(lambda value, name=name: self.told.append((name, value)))
        monkeypatch.setattr(module, "prepare", lambda inputs, known, report: work(report))
        monkeypatch.setattr(module, "run", lambda task, report: work(report))

    def names(self):
        return [name for name, _ in self.told]


@pytest.fixture
def going_on():
    """Work that reports until it is let go, and then returns what it was stopped at."""
    go = threading.Event()

    def work(report):
        try:
            while not go.wait(0.005):
                report("on the way")
        except Cancelled:
            return "as far as it came"
        return "done"

    return work, go


def test_prepared_and_registered(monkeypatch):
    watched = Watched(monkeypatch, lambda report: "done")
    assert watched.logic.state is State.IDLE
    watched.logic.prepare("inputs")
    assert watched.logic.state is State.PREPARING
    watched.logic.wait()
    watched.logic.register("task")
    assert watched.logic.moves_ct
    watched.logic.wait()
    assert watched.told == [
        ("state_changed", State.PREPARING),
        ("state_changed", State.IDLE),
        ("prepared", "done"),
        ("state_changed", State.REGISTERING),
        ("state_changed", State.IDLE),
        ("finished", "done"),
    ]


def test_what_is_to_follow_a_case_follows_no_end_without_one(monkeypatch):
    go, followed = threading.Event(), []

    def work(report):
        while not go.wait(0.005):
            report("on the way")
        return "done"

    watched = Watched(monkeypatch, work)
    for end in (watched.logic.stop, watched.logic.abandon):
        watched.logic.prepare("inputs", then=lambda: followed.append("too early"))
        end()
        watched.logic.wait()
    assert followed == []
    go.set()
    watched.logic.prepare("inputs", then=lambda: followed.append(watched.names()[-1]))
    watched.logic.wait()
    assert followed == ["prepared"]


def test_stopped_with_what_was_reached_or_nothing(monkeypatch, going_on):
    work, _ = going_on
    watched = Watched(monkeypatch, work)
    watched.logic.register("task")
    watched.logic.stop()
    assert watched.logic.state is State.STOPPING
    watched.logic.wait()
    assert watched.told[-1] == ("finished", "as far as it came")
    watched.logic.register("task")
    watched.logic.stop(discard="moved by hand")
    watched.logic.wait()
    assert watched.told[-1] == ("stopped", "moved by hand")
    assert "progressed" not in watched.names()[-2:]


def test_only_one_thing_at_a_time_and_what_is_abandoned_says_nothing(monkeypatch, going_on):
    work, go = going_on
    watched = Watched(monkeypatch, work)
    watched.logic.register("task")
    with pytest.raises(RuntimeError, match="is registering: wait"):
        watched.logic.prepare("inputs")
    watched.logic.abandon()
    assert watched.logic.is_idle
    go.set()
    watched.logic.poll(0.05)
    assert watched.names() == ["state_changed", "state_changed"]


def test_failures_and_work_that_cannot_be_stopped(monkeypatch):
    def fails(report):
        raise InputError("no bone")

    watched = Watched(monkeypatch, fails)
    watched.logic.prepare("inputs")
    watched.logic.wait()
    name, error = watched.told[-1]
    assert (name, str(error)) == ("failed", "no bone")
    made = []
    watched.logic.compute(lambda: "demo", made.append)
    watched.logic.wait()
    assert made == ["demo"]
    watched.logic.compute(lambda: "demo", made.append)
    watched.logic.stop()
    assert watched.logic.is_idle
    assert made == ["demo"]
