"""Frames a second of a tracking, reading and preparing included: real X-rays of a knee replacement.

    python Testing/studies/measure_tracking_speed.py DATA [FRAMES]

DATA is as for ``measure_knee_tracking.py``. One body in one view, then two bodies in two views, each over the
first FRAMES frames (20) after a start in the first one, which is not counted, nor is loading. Beside the wall
time, which other work on the machine lengthens, stands the processor time of all threads: on two idle cores
the wall time is at least half of it.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from SOPIRegistrationLib.cli.request import with_depth_of_start
from SOPIRegistrationLib.geometry.files import load_geometry
from SOPIRegistrationLib.registration.pose_files import read_start
from SOPIRegistrationLib.subject import Subject
from SOPIRegistrationLib.subject.surface import filled, material_named, read_surface
from SOPIRegistrationLib.tracking import Body, open_sequence, track
from SOPIRegistrationLib.tracking.frames import Frames


class Clock:
    """Wall and processor time since the sweep began: the first report of another frame than the first."""

    def __init__(self):
        self.began: tuple[float, float] | None = None

    def report(self, state) -> None:
        if self.began is None and state.stage != "frame 1":
            self.began = time.perf_counter(), time.process_time()

    def ended(self) -> np.ndarray:
        return np.array([time.perf_counter(), time.process_time()]) - self.began


class First:
    """The first frames of a sequence."""

    frames_per_second = None

    def __init__(self, path: Path, count: int):
        self._frames = open_sequence(path)
        self.path, self.count, self.frame = path, count, self._frames.frame


def main(data: Path, count: int) -> None:
    """Track, time, print."""
    known = load_geometry(str(data / "cameras.json"), (512, 512))
    subjects = {
        name: Subject(filled(read_surface(data / f"{name}0.stl"), material_named("CoCr")))
        for name in ("femur", "tibia")
    }
    for names, cameras in ((("femur",), known.cameras[:1]), (("femur", "tibia"), known.cameras)):
        geometry, bodies = replace(known, cameras=cameras), []
        for name in names:
            subject, start = subjects[name], data / f"start_{name}.json"
            subject.warm_up()
            placed = with_depth_of_start(geometry, subject.ct, start, known.cameras)
            frame = placed.pose_frame(subject.ct.rotation_centre_lps_mm)
            T = read_start(start, frame, known.cameras, cameras[0])
            bodies.append(Body(name, subject, frame, {1: T}))
        frames = Frames([First(data / camera.name, count) for camera in cameras], geometry, "bone-dark")
        clock = Clock()
        tracks = track(bodies, frames, report=clock.report)
        wall, cpu = clock.ended()
        frames.close()
        statuses = [pose.status for one in tracks for pose in one]
        print(
            f"{len(bodies)} bodies in {len(cameras)} views: {(count - 1) / wall:.2f} frames a second, "
            f"{cpu / (count - 1):.2f} s of processor a frame; {statuses.count('accept')} of {len(statuses)} "
            "accepted"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 20)
