"""Tracking on simulated sequences: a body that turns, a tool that passes, frames without a picture."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from SOPIRegistrationLib import PoseFrame, ProjectorVolume, Radiograph, Subject, prepare_ct, project
from SOPIRegistrationLib.cli.main import main
from SOPIRegistrationLib.errors import Cancelled, InputError
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.autoscoper_trial import (
    AutoscoperTrial,
    read_autoscoper_trial,
    write_autoscoper_trial,
)
from SOPIRegistrationLib.geometry.c_arm import CArmGeometry
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.files import load_geometry, write_geometry
from SOPIRegistrationLib.registration.outputs import write_volume
from SOPIRegistrationLib.registration.pose_files import write_transform
from SOPIRegistrationLib.registration.result import Verdict
from SOPIRegistrationLib.settings import RegistrationSettings
from SOPIRegistrationLib.simulation.phantom import lumbar_phantom
from SOPIRegistrationLib.tracking import Body, FramePose, Track, TrackingSettings, track
from SOPIRegistrationLib.tracking.frames import Frames
from SOPIRegistrationLib.tracking.journal import NAME as JOURNAL
from SOPIRegistrationLib.tracking.journal import Journal
from SOPIRegistrationLib.tracking.motion_files import (
    autoscoper_pose_of_lps,
    lps_pose_of_autoscoper,
    read_autoscoper_track,
    read_jointtrack,
    write_autoscoper_track,
    write_jointtrack,
)
from SOPIRegistrationLib.tracking.smoothing import smoothed

SOD_MM, PIXELS = 700.0, 96
SETTINGS = TrackingSettings(RegistrationSettings(time_limit=2.0))


class Simulated:
    """A phantom that turns and shifts; frames are made when they are asked for, noise by frame.

    Args:
        count: frames.
        blank: frames without a picture.
        tool: frames in which a bar passes.
    """

    frames_per_second = 25.0

    def __init__(self, scene, count: int, blank=(), tool=(), path="simulated"):
        self._scene, self.count, self._blank, self._tool = scene, count, blank, tool
        self.path = path

    def theta(self, number: int) -> np.ndarray:
        """(6,) the truth."""
        a = 0.08 * number
        return np.array([0.1 * np.sin(3 * a), 0.3 * a, 0.05 * a, 5 * np.sin(3 * a), 8 * a, 10 * a])

    def T(self, number: int) -> np.ndarray:
        """(4, 4) the same as a pose."""
        return self._scene.frame.T_from_theta(self.theta(number))

    def frame(self, number: int) -> Radiograph:
        scene = self._scene
        if number in self._blank:
            pixels = np.full(scene.camera.shape, 9, np.uint16)
        else:
            intensity = 2e4 * np.exp(-project(scene.volume, scene.camera, self.T(number)))
            if number in self._tool:
                at = 30 + 4 * (number % 10)
                intensity[:, at : at + 7] *= 0.03
            pixels = np.random.default_rng(number).poisson(intensity).astype(np.uint16)
        return Radiograph(pixels, f"frame {number}", metadata={})


class Scene:
    def __init__(self):
        self.phantom = lumbar_phantom(3, 3.0, (150.0, 150.0, 150.0))
        self.ct = self.phantom.ct
        prepared = prepare_ct(self.ct)
        self.subject = Subject(prepared)
        self.volume = ProjectorVolume(prepared.attenuation)
        self.camera = Camera.from_c_arm(1011.7, (150 * 1.44 / PIXELS,) * 2, PIXELS, PIXELS)
        self.frame = PoseFrame(prepared.rotation_centre_lps_mm, SOD_MM)

    def frames(self, sequence) -> Frames:
        return Frames([sequence], CArmGeometry((self.camera,), SOD_MM), "bone-dark")

    def body(self, starts=None) -> Body:
        return Body("spine", self.subject, self.frame, starts or {})


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene()


def errors_mm(found: Track, sequence: Simulated) -> dict[int, float]:
    return {
        pose.frame: found.distance_mm(pose.T, sequence.T(pose.frame)) for pose in found if pose.T is not None
    }


def test_only_blank_frames_are_lost_and_a_passing_tool_is_looked_past(scene):
    sequence = Simulated(scene, 9, blank=(4, 5), tool=(7, 8))
    [found] = track([scene.body({1: sequence.T(1)})], scene.frames(sequence), SETTINGS)
    assert [pose.frame for pose in found if pose.status == "lost"] == [4, 5]
    assert all("nothing to compare" in found.poses[number].verdict.reasons[0] for number in (4, 5))
    errors = errors_mm(found, sequence)
    assert max(errors.values()) < 1.5, errors
    assert all(pose.status == "accept" for pose in found if pose.frame not in (4, 5))
    assert any("something lies in front" in reason for reason in found.poses[7].verdict.reasons)


def test_a_start_in_the_middle_leads_both_ways(scene):
    sequence = Simulated(scene, 3)
    [found] = track([scene.body({2: sequence.T(2)})], scene.frames(sequence), SETTINGS)
    assert [pose.status for pose in found] == ["accept"] * 3
    assert max(errors_mm(found, sequence).values()) < 1.5


def test_a_body_that_stands_is_where_it_was_and_no_frame_is_read(scene):
    poses = {1: FramePose(1, np.eye(4), Verdict("accept", [], None, None), 0.1, "motion")}
    earlier = Track("spine", 2, np.zeros(3), {**poses, 2: FramePose.lost(2, "blank")})
    unread = Simulated(scene, 2)
    unread.frame = None
    frames = scene.frames(unread)
    [found] = track([scene.body({1: np.eye(4)}).standing(earlier)], frames, SETTINGS)
    assert [pose.status for pose in found] == ["accept", "lost"]
    assert found.poses[1] is poses[1]


def test_a_corrected_frame_is_tracked_on_from_and_what_lies_before_stands(scene):
    sequence = Simulated(scene, 4)
    body = scene.body({1: sequence.T(1)})
    wrong = se3.move_about(sequence.T(3)[None], np.array([[0, 0, 0.4, 30.0, 0, 0]]), body.frame.centre_lps_mm)
    known = {n: FramePose(n, sequence.T(n), Verdict("review", ["by hand"], None, None)) for n in (1, 2)}
    earlier = Track(
        "spine", 4, body.frame.centre_lps_mm, {**known, 3: replace(known[2], frame=3, T=wrong[0])}
    )
    corrected = body.from_corrected(earlier, 3, sequence.T(3))
    [found] = track([corrected], scene.frames(sequence), SETTINGS)
    assert [found.poses[n] for n in (1, 2)] == [known[1], known[2]]
    assert [found.poses[n].status for n in (3, 4)] == ["accept", "accept"]
    assert max(errors_mm(found, sequence).values()) < 1.5


def test_a_stopped_track_goes_on_to_the_very_same_poses(scene, tmp_path):
    sequence = Simulated(scene, 5, blank=(3,))
    body = scene.body({1: sequence.T(1)})
    [calm] = track([body], scene.frames(sequence), SETTINGS)

    def stop(state):
        if state.stage == "frame 4":
            raise Cancelled("stop")

    with pytest.raises(Cancelled):
        track([body], scene.frames(sequence), SETTINGS, stop, Journal(tmp_path, {"seed": 1}))
    again = Journal(tmp_path, {"seed": 1})
    assert len(again) == 3
    [found] = track([body], scene.frames(sequence), SETTINGS, journal=again)
    assert [pose.to_dict() for pose in found] == [pose.to_dict() for pose in calm]
    with pytest.raises(InputError, match="other inputs"):
        Journal(tmp_path, {"seed": 2})


def test_a_track_that_did_nothing_leaves_nothing_to_stumble_over(tmp_path):
    Journal(tmp_path, {"material": "mistyped"})
    assert len(Journal(tmp_path, {"material": "CoCr"})) == 0
    assert not list(tmp_path.iterdir())


def test_half_a_line_of_a_killed_run_is_cut_off(tmp_path):
    journal = Journal(tmp_path)
    journal.add(("start", "spine", 1), {"frame": 1})
    [file] = tmp_path.iterdir()
    file.write_bytes(file.read_bytes() + b'[["sweep +1", "sp')
    again = Journal(tmp_path)
    assert again.get(("start", "spine", 1)) == {"frame": 1}
    again.add(("start", "spine", 2), {"frame": 2})
    assert len(Journal(tmp_path)) == 2


def test_a_full_disk_is_one_line_and_what_is_done_is_kept(tmp_path):
    resource = pytest.importorskip("resource", reason="needs limits of POSIX")
    journal = Journal(tmp_path)
    journal.add(("start", "spine", 1), {"frame": 1})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(InputError, match=r"cannot keep the track in .*: what is done is kept; make room"):
            journal.add(("sweep +1", "spine", 2), {"frame": 2, "reasons": ["x" * 8000]})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    again = Journal(tmp_path)
    assert len(again) == 1
    assert again.get(("start", "spine", 1)) == {"frame": 1}


def test_a_pose_off_its_neighbours_path_is_doubted(scene):
    """However well the images agree there: frame 4 is a start pose that was given wrongly and agrees."""
    sequence = Simulated(scene, 7)
    wrong = Simulated(scene, 7)
    wrong.frame = lambda number: sequence.frame(1 if number == 4 else number)
    [found] = track([scene.body({1: sequence.T(1)})], scene.frames(wrong), SETTINGS)
    assert found.poses[4].status == "review"
    assert "off the path" in " ".join(found.poses[4].verdict.reasons)
    assert [found.poses[number].status for number in (2, 3, 5, 6)] == ["accept"] * 4


def test_a_pose_that_is_left_to_one_of_several_views_is_doubted(scene):
    views = Simulated(scene, 3), Simulated(scene, 3, blank=(2,))
    cameras = tuple(replace(scene.camera, name=name) for name in ("a", "b"))
    frames = Frames(views, CArmGeometry(cameras, SOD_MM), "bone-dark")
    pose = FramePose(1, views[0].T(1), Verdict("accept", ["the images agree"], None, None), 0.1)
    assert pose.seen_in(frames.frame(1)) == pose
    doubted = pose.seen_in(frames.frame(2))
    assert (doubted.status, doubted.is_anchor) == ("review", True)
    assert "one view alone decides: X-ray frame 2 is constant" in doubted.verdict.reasons[-1]
    # A camera alone never had another view.
    assert pose.seen_in(scene.frames(views[0]).frame(2)) == pose


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_three_hundred_frames(scene):
    """Turning and bending, a tool that passes, two blank frames: only these are lost; memory stays flat."""
    psutil = pytest.importorskip("psutil")
    sequence = Simulated(scene, 300, blank=(150, 151), tool=range(200, 211))
    sequence.theta = lambda number: np.array(
        [0.1 * np.sin(number / 30), 0.5 * np.sin(number / 90), 0.0, 5 * np.sin(number / 40), 0.0, 10.0]
    )
    held = {}

    def remember(state):
        held[state.stage] = psutil.Process().memory_info().rss

    [found] = track([scene.body({1: sequence.T(1)})], scene.frames(sequence), SETTINGS, remember)
    assert [pose.frame for pose in found if pose.status == "lost"] == [150, 151]
    assert max(errors_mm(found, sequence).values()) < 2.0
    assert held["frame 300"] - held["frame 60"] < 50e6


def test_a_start_for_a_frame_that_is_not_there(scene):
    sequence = Simulated(scene, 3)
    with pytest.raises(InputError, match=r"frame 9: there are 1 to 3"):
        track([scene.body({9: sequence.T(1)})], scene.frames(sequence), SETTINGS)


def test_unequal_counts_and_sizes(scene):
    two = [Simulated(scene, 3, path="a"), Simulated(scene, 4, path="b")]
    cameras = (scene.camera, scene.camera)
    with pytest.raises(InputError, match="a has 3, b has 4"):
        Frames(two, CArmGeometry(cameras, SOD_MM))
    with pytest.raises(InputError, match="1 sequences are given for 2 cameras"):
        Frames(two[:1], CArmGeometry(cameras, SOD_MM))
    sequence = Simulated(scene, 3)
    sequence.frame = lambda number: Radiograph(np.arange(64.0 * 60).reshape(60, 64), "x", metadata={})
    with pytest.raises(InputError, match="64 x 60 pixels"):
        scene.frames(sequence).frame(2)


def test_smoothing_follows_certain_poses_and_keeps_still_ones(scene):
    centre = np.array([10.0, -20.0, 30.0])
    rng = np.random.default_rng(2)
    poses, truth = {}, []
    for number in range(1, 41):
        T = se3.exp_se3(np.array([0.02 * number, 0, 0, 0.5 * number, 0, 700.0]))
        truth.append(T)
        spread = 3.0 if number % 2 else 0.1
        noisy = se3.move_about(T[None], np.r_[0, 0, 0, rng.normal(0, spread, 3)][None], centre)[0]
        verdict = Verdict("accept", [], np.full(3, spread), np.full(3, 0.5))
        poses[number] = FramePose(number, noisy, verdict)
    found = Track("body", 41, centre, poses)
    smooth = smoothed(found, 8.0, np.eye(4))
    assert set(smooth) == set(range(1, 41))
    error = np.array([found.distance_mm(smooth[n], truth[n - 1]) for n in smooth])
    raw = np.array([found.distance_mm(poses[n].T, truth[n - 1]) for n in poses])
    assert error.mean() < 0.2 * raw.mean()
    with pytest.raises(InputError, match="more than 2"):
        smoothed(found, 2.0, np.eye(4))


@pytest.fixture(scope="module")
def files(scene, tmp_path_factory):
    """A CT, four frames as numbered pictures with one blank, a geometry and a start pose."""
    folder = tmp_path_factory.mktemp("track")
    write_volume(folder / "spine.nrrd", scene.ct)
    sequence = Simulated(scene, 4, blank=(3,))
    (folder / "frames").mkdir()
    for number in range(1, 5):
        image = sitk.GetImageFromArray(sequence.frame(number).pixels)
        sitk.WriteImage(image, str(folder / "frames" / f"f{10 * number:04d}.png"))
    spacing = scene.camera.pixel_spacing_mm
    geometry = {"sdd_mm": 1011.7, "pixel_spacing_mm": spacing, "sod_mm": SOD_MM, "view": "AP"}
    (folder / "geometry.json").write_text(json.dumps(geometry))
    write_transform(folder / "start.tfm", sequence.T(1), scene.frame)
    return folder


def words(files, *more) -> list[str]:
    inputs = ["track", files / "spine.nrrd", "--xrays", files / "frames"]
    inputs += ["--geometry", files / "geometry.json", "--time-limit", "2"]
    return [str(word) for word in (*inputs, *more)]


def test_command_line_from_files_to_files(files, tmp_path, scene):
    out = tmp_path / "out"
    start = f"{files / 'start.tfm'}@1"
    more = ("--fps", "10", "--smooth", "3", "--transforms", "--film", "--polarity", "bone-dark")
    assert main(words(files, "--start", start, *more, "--out", out)) == 0
    names = {path.name for path in out.iterdir()}
    assert names == {
        *("track.csv", "track.json", "spine_pose.png", "overlay.gif"),
        *(f"spine_{number:04d}.tfm" for number in (1, 2, 4)),
    }
    with (out / "track.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["status"] for row in rows] == ["accept", "accept", "lost", "accept"]
    assert [row["time_s"] for row in rows] == ["0.000000", "0.100000", "0.200000", "0.300000"]
    assert rows[2]["T00"] == rows[2]["rx_deg"] == rows[2]["probability"] == ""
    assert 0.5 < float(rows[0]["probability"]) <= 1.0
    truth = Simulated(scene, 4).theta(4)
    found = [float(rows[3][name]) for name in ("rx_deg", "ry_deg", "rz_deg")]
    assert np.abs(np.deg2rad(found) - truth[:3]).max() < 0.01
    assert rows[3]["smooth_T23"]
    T = np.array([[float(rows[3][f"T{r}{c}"]) for c in range(4)] for r in range(3)])
    assert np.abs(T - Simulated(scene, 4).T(4)[:3]).max() < 1.5
    entry = json.loads((out / "track.json").read_text())
    assert entry["bodies"][0]["counts"] == {"accept": 3, "review": 0, "reject": 0, "lost": 1}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_parts_of_a_labelled_ct_start_from_the_whole_one(files, tmp_path, scene):
    labels = scene.phantom.labels
    write_volume(
        tmp_path / "labels.nrrd", labels.same_grid(np.where(labels.array == 22, 22, labels.array == 23))
    )
    out, named = tmp_path / "out", f"{tmp_path / 'labels.nrrd'}:L4,L3"
    more = ("--labels", named, "--polarity", "bone-dark", "--out", out)
    assert main(words(files, "--start", f"{files / 'start.tfm'}@1", *more)) == 0
    entry = json.loads((out / "track.json").read_text())
    assert [body["name"] for body in entry["bodies"]] == ["L4", "L3"]
    truth = Simulated(scene, 4)
    for body in entry["bodies"]:
        poses = {frame["frame"]: frame for frame in body["frames"]}
        # On these coarse pictures a vertebra alone looks much like the next one: that is for review.
        assert {poses[number]["status"] for number in (1, 2)} <= {"accept", "review"}
        assert poses[3]["status"] == "lost"
        centre = np.array(body["rotation_centre_lps_mm"])
        for number in (1, 2, 4):
            if poses[number]["status"] == "accept":
                there, expected = (
                    se3.transform_points(np.array(T), centre)
                    for T in (poses[number]["T_lps_to_world"], truth.T(number))
                )
                assert np.abs(there - expected)[:2].max() < 1.0
        assert (np.array(poses[2]["statistical_error_mm"]) < poses[2]["predicted_error_mm"]).all()
        assert poses[3]["statistical_error_mm"] is None


@pytest.mark.slow
def test_a_killed_run_ends_with_the_table_of_an_undisturbed_one(files, tmp_path):
    more = ("--start", f"{files / 'start.tfm'}@1", "--polarity", "bone-dark")
    assert main(words(files, *more, "--out", tmp_path / "calm")) == 0
    command = words(files, *more, "--out", tmp_path / "killed")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process = subprocess.Popen([sys.executable, "-m", "SOPIRegistrationLib", *command], env=environment)
    journal = tmp_path / "killed" / JOURNAL
    while not journal.exists() or len(journal.read_bytes().splitlines()) < 3:
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert not (tmp_path / "killed" / "track.csv").exists()
    assert main(command) == 0
    assert not journal.exists()
    calm, killed = ((tmp_path / name / "track.csv").read_text() for name in ("calm", "killed"))
    assert killed == calm


def test_results_that_find_no_room_lose_nothing(files, tmp_path, capsys):
    resource = pytest.importorskip("resource", reason="needs limits of POSIX")
    out = tmp_path / "out"
    command = words(files, "--start", f"{files / 'start.tfm'}@1", "--polarity", "bone-dark", "--out", out)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The journal has room, the plot has not.
    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, before[1]))
    try:
        assert main(command) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "what is done is kept; make room, and the same command goes on" in capsys.readouterr().err
    assert [file.name for file in out.iterdir()] == [JOURNAL]
    assert main(command) == 0
    assert "steps of an earlier run taken over" in capsys.readouterr().out


def test_a_track_starts_from_other_programs_files_and_is_written_as_such(files, tmp_path, scene):
    """From a row of a JointTrack file; the track written as one and as Autoscoper's is the same."""
    T = Simulated(scene, 4).T(1)
    write_jointtrack(tmp_path / "before.jts", [T])
    quick = ("--polarity", "bone-dark", "--refine", "opt")
    start = f"{tmp_path / 'before.jts'}@1"
    more = ("--jointtrack-angles", "degrees", "--write-as", "jointtrack", "autoscoper")
    assert main(words(files, "--start", start, *quick, *more, "--out", tmp_path / "out")) == 0
    first, _, lost, _ = read_jointtrack(tmp_path / "out" / "spine_1.jts")
    assert lost is None
    assert np.abs(first[:3, 3] - T[:3, 3]).max() < 2
    moved = read_autoscoper_track(tmp_path / "out" / "spine.tra")[0]
    again = lps_pose_of_autoscoper(moved, scene.ct.array.shape, scene.ct.index_to_lps)
    assert np.allclose(again, first, atol=1e-5)
    # The whole trial is there: its cameras are those of the track, its stack is the CT.
    trial = read_autoscoper_trial(tmp_path / "out" / "trial.cfg")
    assert trial.sequences == (files / "frames",)
    [camera] = load_geometry(tmp_path / "out" / "trial.cfg").cameras
    assert np.allclose(camera.K, scene.camera.K)
    stack = sitk.ReadImage(str(trial.volumes[0]))
    assert np.array_equal(sitk.GetArrayFromImage(stack), np.clip(scene.ct.array + 1024.0, 0, 65535))
    assert np.allclose(trial.voxel_sizes_mm[0], scene.ct.spacing_mm)


def test_an_autoscoper_trial_is_tracked(files, tmp_path, scene, capsys):
    """Its pictures by its cameras, from a row of its track."""
    trial = tmp_path / "spine.cfg"
    cameras = write_geometry(CArmGeometry((scene.camera,), SOD_MM, "AP"), tmp_path / "cam.txt", "xmalab")
    voxel = tuple(scene.ct.spacing_mm.tolist())
    write_autoscoper_trial(
        trial,
        AutoscoperTrial(
            tuple(cameras), (files / "frames",), (tmp_path / "ct.tif",), ((False,) * 3,), (voxel,)
        ),
    )
    T = Simulated(scene, 4).T(1)
    grid = scene.ct.array.shape, scene.ct.index_to_lps
    write_autoscoper_track(tmp_path / "spine.tra", [autoscoper_pose_of_lps(T, *grid)])
    command = ["track", files / "spine.nrrd", "--xrays", trial, "--start", f"{tmp_path / 'spine.tra'}@1"]
    command += ["--polarity", "bone-dark", "--time-limit", "2", "--out", tmp_path / "out"]
    assert main([str(word) for word in command]) == 0
    assert "spine  3 accept, 1 lost" in capsys.readouterr().out
    assert main([str(word) for word in [*command[:4], files / "frames", *command[4:]]]) == 2
    assert "names all X-rays of a trial" in capsys.readouterr().err
    cameras[0].write_text("no camera")
    assert main([str(word) for word in [*command[:-1], tmp_path / "other"]]) == 2
    assert "holds no camera's calibration" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--start", "nothing.tfm@1"), "nothing.tfm"),
        (("--start", "auto"), "is not [BODY=]POSE@FRAME"),
        (("--start", "knee=auto@1"), "is for no body: name one of spine"),
        (("--start", "auto@7"), "frame 7: there are 1 to 4"),
        (("--fps", "0"), "--fps is 0"),
        (("--material", "knee=CoCr"), "--material knee=CoCr is for no body: name one of spine"),
        (("--material", "CoCr"), "is no surface"),
    ],
)
def test_bad_options_are_one_line(files, tmp_path, capsys, more, said):
    assert main(words(files, *more, "--out", tmp_path / "out")) == 2
    printed = capsys.readouterr().err.splitlines()
    assert said in printed[-1]
    assert not (tmp_path / "out" / "track.csv").exists()
