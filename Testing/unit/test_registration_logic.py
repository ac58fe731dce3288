"""The way of one registration without nodes or widgets: states and signals."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from scipy import ndimage
from SOPIRegistrationLib.errors import Cancelled, InputError
from SOPIRegistrationLib.geometry.c_arm import CArmGeometry
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.radiograph import Radiograph
from SOPIRegistrationLib.images.radiograph_preparation import prepare_radiograph
from SOPIRegistrationLib.registration import RegistrationResult
from SOPIRegistrationLib.registration.logic import RegistrationLogic, State, outcome_of
from SOPIRegistrationLib.registration.prepared import Inputs, PreparedCase
from SOPIRegistrationLib.registration.result import Verdict


def working(work) -> RegistrationLogic:
    """A logic whose work is a stand-in."""
    return RegistrationLogic(lambda inputs, known, report: work(report), lambda task, report: work(report))


class Watched:
    """A logic whose work is a stand-in, and all that it tells."""

    def __init__(self, work):
        self.logic, self.told = working(work), []
        for name in ("state_changed", "progressed", "prepared", "finished", "stopped", "failed"):
            getattr(self.logic, name).connect(lambda value, name=name: self.told.append((name, value)))

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


def test_prepared_and_registered():
    watched = Watched(lambda report: "done")
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


def test_what_is_to_follow_a_case_follows_no_end_without_one():
    go, followed = threading.Event(), []

    def work(report):
        while not go.wait(0.005):
            report("on the way")
        return "done"

    watched = Watched(work)
    for end in (watched.logic.stop, watched.logic.abandon):
        watched.logic.prepare("inputs", then=lambda: followed.append("too early"))
        end()
        watched.logic.wait()
    assert followed == []
    go.set()
    watched.logic.prepare("inputs", then=lambda: followed.append(watched.names()[-1]))
    watched.logic.wait()
    assert followed == ["prepared"]


def test_stopped_with_what_was_reached_or_nothing(going_on):
    work, _ = going_on
    watched = Watched(work)
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


def test_only_one_thing_at_a_time_and_what_is_abandoned_says_nothing(going_on):
    work, go = going_on
    watched = Watched(work)
    watched.logic.register("task")
    with pytest.raises(RuntimeError, match="is registering: wait"):
        watched.logic.prepare("inputs")
    watched.logic.abandon()
    assert watched.logic.is_idle
    go.set()
    watched.logic.poll(0.05)
    assert watched.names() == ["state_changed", "state_changed"]


def test_waiting_for_an_outcome_without_events(going_on):
    work, go = going_on

    def register(logic):
        logic.register("task")

    stopped = outcome_of(register, "finished", lambda live: True, logic=working(work))
    assert stopped == "as far as it came"
    go.set()
    assert outcome_of(register, "finished", logic=working(work)) == "done"

    def fails(report):
        raise InputError("no bone")

    with pytest.raises(InputError, match="no bone"):
        outcome_of(register, "finished", logic=working(fails))


def test_failures_and_work_that_cannot_be_stopped():
    def fails(report):
        raise InputError("no bone")

    watched = Watched(fails)
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


CAMERA = Camera.from_c_arm(1000.0, (0.5, 0.5), 96, 72, (30.0, 20.0))


@pytest.fixture
def case(rng):
    """An X-ray and its geometry, prepared; nothing here asks for the CT."""
    pixels = ndimage.gaussian_filter(rng.random(CAMERA.shape), 3)
    radiograph = Radiograph(pixels, "film")
    geometry = CArmGeometry((CAMERA,), 700.0, "AP", sources={"view": "typed"})
    region = pixels > np.median(pixels)
    inputs = Inputs(None, None, radiograph, region, geometry, "auto", (), (), ())
    xray = prepare_radiograph(radiograph, CAMERA, "bone-bright")
    return PreparedCase(None, xray, (), geometry.pose_frame([1.0, 2.0, 3.0]), 0.0, inputs)


def result_of(case, frame, mirrored) -> RegistrationResult:
    xray = case.xray.mirrored() if mirrored else case.xray
    return RegistrationResult(
        T_lps_to_world=frame.T_nominal,
        initial_T=frame.T_nominal,
        frame=frame,
        T_world_to_camera=np.eye(4),
        radiographs=(xray,),
        method="search + opt",
        content="body",
        stages=[],
        similarity={},
        initial_similarity=None,
        verdict=Verdict("accept", [], None, None),
        seconds=1.0,
        mirrored=mirrored,
        stated_view="AP",
    )


def test_a_case_that_is_as_its_geometry_states_stays_as_it_is(case):
    found = case.as_found(result_of(case, case.frame, mirrored=False))
    assert found.inputs is case.inputs
    assert found.frame is case.frame


def test_a_case_found_mirrored_and_from_behind_has_a_geometry_that_states_it(case):
    behind = PoseFrame(case.frame.centre_lps_mm, 700.0, "PA")
    found = case.as_found(result_of(case, behind, mirrored=True))
    geometry = found.inputs.geometry
    assert (geometry.mirrored, geometry.view, geometry.rotation) == (True, "PA", None)
    assert geometry.camera.K[0, 2] == CAMERA.width - 1 - 30.0
    assert {geometry.sources["view"], geometry.sources["mirrored"]} == {"found by the registration"}
    np.testing.assert_array_equal(found.inputs.radiograph.pixels, case.inputs.radiograph.pixels[:, ::-1])
    np.testing.assert_array_equal(found.inputs.region, case.inputs.region[:, ::-1])
    np.testing.assert_array_equal(found.xray.camera.K, geometry.camera.K)
    np.testing.assert_allclose(geometry.pose_frame(behind.centre_lps_mm).T_nominal, behind.T_nominal)
    # Found stored the other way round once more, it is as it was.
    again = found.as_found(result_of(found, behind, mirrored=True))
    assert not again.inputs.geometry.mirrored
    np.testing.assert_array_equal(again.inputs.radiograph.pixels, case.inputs.radiograph.pixels)
