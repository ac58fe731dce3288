"""A case in the scene as a script drives it: every step returns when it is done."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import slicer

from SOPIRegistrationLib import scene as bridge
from SOPIRegistrationLib.errors import Cancelled, InputError
from SOPIRegistrationLib.geometry.c_arm import CArmGeometry
from SOPIRegistrationLib.initialise.landmarks import LandmarkPose, pose_from_landmarks
from SOPIRegistrationLib.panel.entries import with_body, with_xray
from SOPIRegistrationLib.panel.followed import followed, frame_shown
from SOPIRegistrationLib.panel.input_reader import camera_that_took, every_camera_of, geometry_of
from SOPIRegistrationLib.panel.session import Session
from SOPIRegistrationLib.registration.body_inputs import FIXED, FREE
from SOPIRegistrationLib.registration.logic import outcome_of
from SOPIRegistrationLib.registration.outputs import write_content
from SOPIRegistrationLib.scene import BodyEntry, XrayEntry
from SOPIRegistrationLib.scene.tracking import SceneTracking
from SOPIRegistrationLib.subject.surface import MATERIALS

_WORK_S = 0.03


@dataclass(frozen=True)
class Chosen:
    """What a script chooses of the panel's inputs; the rest is chosen to be nothing.

    Attributes:
        parameters: values of the wrapped parameter node, by name.
        geometry: of the X-ray: whatever ``every_camera_of`` reads.
        camera: name of the one that took it.
        bodies: nodes that move by themselves.
        materials: of models, by the body's name.
        motions: of bodies, by their names.
        others: further X-rays of the set: node, or (node, camera's name), or (node, camera's name, frame).
    """

    parameters: Mapping[str, Any]
    geometry: Any
    camera: str | None = None
    bodies: Sequence = ()
    materials: Mapping[str, str] = field(default_factory=dict)
    motions: Mapping[str, str] = field(default_factory=dict)
    others: Sequence = ()


class ScriptedCase:
    """A session that is waited for, with the window kept alive meanwhile.

    Args:
        parameters: wrapped parameter node.
        progress: told (stage, fraction done); a true answer stops.
    """

    def __init__(self, parameters, progress: Callable[[str, float], Any] | None = None):
        self.session = Session(slicer.mrmlScene, parameters, slicer.app.layoutManager())
        self._progress = progress

    def __enter__(self) -> ScriptedCase:
        return self

    def __exit__(self, *_) -> None:
        self.session.close()

    def prepare(self, chosen: Chosen | None = None) -> None:
        """Prepare what is chosen in the scene, or choose it first.

        Raises:
            InputError: an input is unusable; nothing in the scene has changed.
        """
        with self._unchanged_unless_done(chosen):
            inputs = self.session.reader.read()
            case = outcome_of(
                lambda logic: logic.prepare(inputs), "prepared", self._tell, slicer.app.processEvents
            )
        self.session.accept(case)

    def register(self, init, refine: str, content: str, weights=None):
        """Register the prepared case: see :meth:`Session.task`. Returns its result."""
        session = self.session
        task = session.task(init, refine, content, weights)
        result = outcome_of(
            lambda logic: logic.register(task), "finished", self._tell, slicer.app.processEvents
        )
        session.record(result)
        # The views have their sizes by now.
        session.views.fit()
        return result

    def track(self) -> dict:
        """Follow the bodies through the frames, from where they are in the one shown. Returns tracks by name.

        Raises:
            InputError: the X-rays have a single frame, or show different ones.
            Cancelled: it was stopped.
        """
        tracking, finished, failed = SceneTracking(self.session.scene), [], []
        tracking.finished.connect(finished.append)
        tracking.failed.connect(failed.append)
        tracking.progressed.connect(lambda progress: self._tell(progress) and tracking.cancel())
        tracking.start(followed(self.session), frame_shown(self.session), self.session.placement)
        while tracking.is_running:
            tracking.poll(_WORK_S)
            slicer.app.processEvents()
        if failed:
            raise failed[0]
        if not finished:
            raise Cancelled("stopped: the track is as it was")
        return finished[0]

    def solve(self, ctPoints, xrayPoints) -> LandmarkPose:
        """Put the CT to where pairs of landmarks say.

        Raises:
            InputError: they are too few, or do not determine a pose.
        """
        session = self.session
        camera, frame = session.case.xray.camera, session.case.frame
        bridge.attach(session.parameters.transform, ctPoints)
        points, pixels = bridge.landmark_pairs(ctPoints, xrayPoints, camera, frame)
        solved = pose_from_landmarks(points, pixels, camera, T_hint=session.pose)
        session.pose = solved.T_lps_to_camera
        return solved

    def write(self, folder: Path) -> list[Path]:
        """Write the result shown, the transforms and the picture into a folder. Returns the files.

        Raises:
            InputError: nothing was registered.
        """
        entry = self.session.state.shown_entry
        if entry is None or entry.result is None:
            raise InputError("nothing was registered: register first")
        folder.mkdir(parents=True, exist_ok=True)
        before = set(folder.iterdir())
        write_content(folder / "result.json", entry.result)
        self.session.write_transform(folder / "ct_to_carm.tfm")
        self.session.write_picture(folder / "overlay.png")
        known = {folder / name for name in ("result.json", "ct_to_carm.tfm", "overlay.png")}
        return sorted(known | (set(folder.iterdir()) - before))

    def _tell(self, reached) -> bool:
        return self._progress is not None and bool(self._progress(reached.stage, reached.fraction))

    @contextmanager
    def _unchanged_unless_done(self, chosen: Chosen | None):
        """Choose; what was chosen before is chosen again where that fails."""
        if chosen is None:
            yield
            return
        session, p, state = self.session, self.session.parameters, self.session.state
        before = {name: getattr(p, name) for name in chosen.parameters}
        kept = state.geometry, state.calibrated_set, state.xrays, state.bodies
        try:
            self._choose(chosen)
            yield
        except (InputError, Cancelled):
            with slicer.util.NodeModify(p.parameterNode):
                for name, value in before.items():
                    setattr(p, name, value)
                state.set_geometry(*kept[:2])
                state.xrays, state.bodies = kept[2:]
            raise
        left = [(one.node, one.segment) for one in state.bodies]
        for one in kept[3]:
            if (one.node, one.segment) not in left:
                bridge.release_body(session.scene, one)

    def _choose(self, chosen: Chosen) -> None:
        """Choose inputs as somebody at the panel would."""
        p, state = self.session.parameters, self.session.state
        xray, frame = chosen.parameters["xray"], chosen.parameters["frame"]
        cameras = every_camera_of(chosen.geometry, xray, frame or None)
        own = geometry_of(cameras, xray, frame or None, chosen.camera)
        with slicer.util.NodeModify(p.parameterNode):
            for name, value in chosen.parameters.items():
                setattr(p, name, value)
            state.set_geometry(own, cameras if len(cameras.cameras) > 1 else None)
            state.bodies = self._bodies(chosen)
            state.xrays = []
            for entry in (XrayEntry(xray, frame, own.camera.name), *_entries(chosen.others, cameras)):
                if chosen.others:
                    state.xrays = with_xray(state, entry)

    def _bodies(self, chosen: Chosen) -> list[BodyEntry]:
        """The table of bodies; those that are in it already keep transform and colour.

        Raises:
            InputError: they do not go together, or a name, a material or a motion is unknown.
        """
        entries: list[BodyEntry] = []
        for node in chosen.bodies:
            entries = with_body(entries, node, chosen.parameters["ct"], chosen.parameters["xray"])
        names = [one.name for one in entries]
        motions = chosen.motions
        _check("body", [*chosen.materials, *motions], names)
        _check("material", chosen.materials.values(), MATERIALS)
        _check("motion", motions.values(), [FREE, FIXED, *names])
        known = {(one.node, one.segment): one for one in self.session.state.bodies}
        made = []
        for one in entries:
            before = known.get((one.node, one.segment), one)
            made.append(
                replace(
                    one,
                    colour=before.colour,
                    transform=before.transform,
                    material=chosen.materials.get(one.name, one.material),
                    motion=motions.get(one.name, one.motion),
                )
            )
        return made


def _check(what: str, given, known) -> None:
    unknown = [name for name in given if name not in known]
    if unknown:
        raise InputError(f"unknown {what} '{unknown[0]}': use one of {', '.join(known) or 'none'}")


def _entries(others: Sequence, cameras: CArmGeometry) -> list[XrayEntry]:
    entries = []
    for other in others:
        node, *rest = other if isinstance(other, (tuple, list)) else (other,)
        camera = rest[0] if rest else camera_that_took(node, cameras)
        entries.append(XrayEntry(node, rest[1] if len(rest) > 1 else 0, camera))
    return entries
