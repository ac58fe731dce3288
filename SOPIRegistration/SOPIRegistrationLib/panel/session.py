"""One CT, one X-ray and their C-arm in a scene: read, prepared once, shown, moved, registered."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import qt
import slicer

from SOPIRegistrationLib import scene as bridge
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.panel.case_pictures import REST_PIXELS, CasePictures
from SOPIRegistrationLib.panel.choices import CURRENT_POSE
from SOPIRegistrationLib.panel.input_identity import InputIdentity
from SOPIRegistrationLib.panel.input_reader import InputReader
from SOPIRegistrationLib.panel.result_content import estimated_cameras, placement_of, status_of
from SOPIRegistrationLib.registration import RegistrationResult
from SOPIRegistrationLib.registration.bodies_result import BodiesResult
from SOPIRegistrationLib.registration.logic import Task
from SOPIRegistrationLib.registration.outputs import result_content
from SOPIRegistrationLib.registration.pose_files import write_transform
from SOPIRegistrationLib.registration.prepared import Placement, PreparedCase
from SOPIRegistrationLib.settings import GIVEN, RegistrationSettings
from SOPIRegistrationLib.simulation.demo import DemoCase

# Longer edge of the fused picture at rest, least and most.
_PICTURE_PIXELS = (768, 1024)


class Session(CasePictures):
    """A registration in a scene; methods that touch nodes belong to the main thread.

    Args:
        scene: the MRML scene.
        parameters: wrapped parameter node of the module: ``ct``, ``xray``, ``mask``, ``transform``, ``drr``
            and the choices of the panel.
        layout_manager: where views are; None without a main window.
    """

    def __init__(self, scene, parameters, layout_manager=None):
        self.scene = scene
        self.parameters = parameters
        self.state = bridge.RegistrationState(parameters.parameterNode)
        self.overlay = bridge.Overlay(scene, _PICTURE_PIXELS)
        self.carm = bridge.CArmModel(scene)
        self.case: PreparedCase | None = None
        self.reader = InputReader(parameters, self.state)
        self._identity = InputIdentity(parameters, self.state)
        self.views = bridge.Views(scene, layout_manager, lambda act: qt.QTimer.singleShot(0, act))

    @property
    def is_current(self) -> bool:
        """Whether the case at hand was prepared from what is chosen now."""
        return self.reader.matches(self.case)

    def close(self) -> None:
        """Follow nothing in the scene any more."""
        self.views.close()
        self.case = None

    def take_demo(self, case: DemoCase) -> None:
        """Put a demo case into the scene, and choose it."""
        nodes = bridge.load_demo_case(self.scene, case=case)
        with slicer.util.NodeModify(self.parameters.parameterNode):
            self.state.geometry, self.state.bodies = nodes.geometry, []
            self.parameters.ct, self.parameters.xray, self.parameters.mask = nodes.ct, nodes.xray, None

    def accept(self, case: PreparedCase) -> None:
        """Show a prepared case: X-ray on its detector, CT under the transform, C-arm, DRR, overlay.

        Its X-rays are taken by the cameras that a registration has estimated of them, where one has.
        """
        p, case = self.parameters, self._as_estimated(case)
        known, was_hardened, carried = self.case, self._was_hardened(case), self._carried_pose(case)
        self.case = case
        self.state.pose_frame = case.frame
        camera = case.xray.camera
        if p.transform is None:
            name = "Body to C-arm" if case.inputs.ct is None else "CT to C-arm"
            p.transform = self.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", name)
        if (bodies := bridge.with_transforms(self.scene, self.bodies)) != self.bodies:
            self.state.bodies = bodies
        if not case.has_several_bodies or self.moved_body not in case.bodies.names:
            p.movedBody = ""
        self.attach()
        bridge.set_centre(p.transform, case.frame.centre_lps_mm)
        if was_hardened:
            # The CT has the pose in itself now; carried by it once more it would be moved twice.
            self.pose = case.frame.T_nominal
        elif carried is not None:
            self.pose = carried
        self.place_xrays()
        if known is not None and known.xray.camera.name != camera.name:
            # The C-arm of another camera of the set stood in another world.
            self.carm.keep(())
        self.carm.update(camera, case.frame)
        for other in case.others:
            self.carm.update(other.camera, case.frame, camera)
        self.carm.keep([camera.name, *(other.camera.name for other in case.others)])
        self.show_carm()
        models = bridge.show_bodies(self.scene, p.transform, case.bodies, self.bodies)
        beside = tuple(one.camera for one in case.others[: bridge.MOST_XRAYS - 1])
        self.views.show(bridge.Shown(camera, case.frame, p.xray, self.reader.ct, tuple(models), beside))
        self._put_drr(self._rendered(self.placement, REST_PIXELS))
        self._fuse()

    @property
    def image_nodes(self) -> list:
        """The volumes that the case was prepared from and that are in the scene: X-rays, CT."""
        nodes = [*(node for node, _ in self._xray_nodes(self.case)), self.reader.ct]
        return [node for node in nodes if node is not None]

    def place_xrays(self) -> None:
        """Put the case's X-rays onto their detectors, from wherever a file or a browser has put them."""
        case = self.case
        for (node, frame), one in zip(self._xray_nodes(case), (case.xray, *case.others), strict=True):
            if node is not None:
                bridge.place_on_detector(
                    node,
                    one.camera,
                    case.frame,
                    reference=case.xray.camera,
                    mirrored=case.inputs.geometry.mirrored,
                    image_frame=frame or None,
                )

    def is_of_inputs(self, entry: bridge.HistoryEntry) -> bool:
        """Whether a registration was of the images and of the C-arm that are chosen and shown now."""
        if not self.reader.has_same_nodes(self.case):
            return False
        return self._identity.is_of(entry, self.case)

    def _as_estimated(self, case: PreparedCase) -> PreparedCase:
        pairs = zip(self._xray_nodes(case), case.geometry.cameras, strict=True)
        return case.in_cameras(
            [bridge.estimated_camera(node, camera, frame) for (node, frame), camera in pairs]
        )

    def _keep_estimated(self, case: PreparedCase, cameras: Sequence[Camera | None]) -> None:
        """Keep the cameras that were estimated with the X-rays of a case; None of those that were not."""
        for (node, frame), stated, found in zip(
            self._xray_nodes(case), case.geometry.cameras, cameras, strict=True
        ):
            bridge.keep_estimated(node, stated, found, frame)

    def _was_hardened(self, case: PreparedCase) -> bool:
        """Whether the registration's transform was hardened into the CT since the case before."""
        known, p, ct = self.case, self.parameters, self.reader.ct
        if known is None or known.inputs.ct is None or ct is None or p.transform is None:
            return False
        if bridge.carries(p.transform, ct):
            return False
        (node, place, _), (node_before, place_before, _) = case.inputs.ct_key, known.inputs.ct_key
        return node[0] == node_before[0] and place != place_before

    def _carried_pose(self, case: PreparedCase) -> np.ndarray | None:
        """(4, 4) T_lps_to_camera of what lies there, where another camera of its set looks at it now.

        Or where its pose is measured from elsewhere, because another body is the first one.
        """
        known, p, cameras = self.case, self.parameters, self.state.calibrated_set
        if known is None or p.transform is None:
            return None
        is_elsewhere = not np.allclose(known.frame.centre_lps_mm, case.frame.centre_lps_mm)
        if is_elsewhere and not known.bodies_by_key.keys().isdisjoint(case.bodies_by_key):
            return self.pose
        if cameras is None:
            return None
        before, now = known.xray.camera.name, case.xray.camera.name
        same_ct = case.inputs.ct_key == known.inputs.ct_key
        if not same_ct or before == now or not {before, now} <= {camera.name for camera in cameras.cameras}:
            return None
        return case.T_world_to_camera @ se3.invert_rigid(known.T_world_to_camera) @ self.pose

    def show_carm(self) -> None:
        """Show or hide the C-arm as the parameter node says."""
        if self.case is not None and self.carm.visible != self.parameters.carmVisible:
            self.carm.visible = self.parameters.carmVisible

    # The pose

    @property
    def bodies(self) -> list[bridge.BodyEntry]:
        """What moves by itself; none where all is one piece."""
        return self.state.bodies

    @property
    def moved_body(self) -> str:
        """Name of the body that a hand moves; empty for all of them."""
        return self.parameters.movedBody

    @property
    def moved_frame(self) -> PoseFrame:
        """What the pose of what a hand moves is measured from: turns are about its own centre."""
        name, frame = self.moved_body, self.case.frame
        return replace(frame, centre_lps_mm=self.case.bodies[name].centre_lps_mm) if name else frame

    @property
    def pose(self) -> np.ndarray:
        """(4, 4) T_lps_to_camera at which the transform node holds the CT."""
        return bridge.pose_of(self.parameters.transform, self.case.frame)

    @pose.setter
    def pose(self, T_lps_to_camera: np.ndarray) -> None:
        bridge.set_pose(self.parameters.transform, T_lps_to_camera, self.case.frame)

    @property
    def placement(self) -> Placement:
        """Where the transform nodes hold the bodies; settable."""
        return Placement(self.pose, bridge.relative_poses(self.bodies))

    @placement.setter
    def placement(self, placement: Placement) -> None:
        with ExitStack() as told:
            # Whoever follows the transforms hears of it when all of them are in place.
            for transform in self.transforms:
                told.enter_context(slicer.util.NodeModify(transform))
            bridge.put_relative(self.bodies, placement.relative)
            self.pose = placement.T_lps_to_camera

    @property
    def transforms(self) -> list:
        """The registration's transform, and those of several bodies; none before there is one."""
        common = self.parameters.transform
        return [] if common is None else [common, *(one.transform for one in self.bodies if one.transform)]

    def attach(self) -> None:
        """Put under the registration's transform what it moves, each body under its own."""
        p = self.parameters
        of_ct = [node for node in (self.reader.ct, p.mask, p.ctLandmarks) if node is not None]
        bridge.attach_bodies(p.transform, self.bodies, of_ct)

    def forget_removed_nodes(self) -> None:
        """Clear parameters whose node has left the scene; the parameter node wrapper may remember it."""
        for name in ("ct", "xray", "mask", "transform", "drr", "region", "ctLandmarks", "xrayLandmarks"):
            node = getattr(self.parameters, name)
            if node is not None and self.scene.GetNodeByID(node.GetID()) is not node:
                setattr(self.parameters, name, None)

    @property
    def handles_shown(self) -> bool:
        """Whether what a hand moves can be dragged by handles."""
        transform = self._moved_transform
        display = transform and transform.GetDisplayNode()
        return display is not None and bool(display.GetEditorVisibility())

    @property
    def _moved_transform(self):
        named = {one.name: one.transform for one in self.bodies if one.transform is not None}
        return named.get(self.moved_body, self.parameters.transform)

    def show_handles(self, shown: bool) -> None:
        """Handles with which the CT, or the body a hand moves, is dragged: in the 3D view and slice views."""
        moved = self._moved_transform
        for transform in (self.parameters.transform, *(one.transform for one in self.bodies)):
            if transform is None or (transform is not moved and transform.GetDisplayNode() is None):
                continue
            transform.CreateDefaultDisplayNodes()
            display, on = transform.GetDisplayNode(), shown and transform is moved
            display.SetEditorVisibility(on)
            display.SetEditorVisibility3D(on)
            display.SetEditorSliceIntersectionVisibility(on)

    def write_transform(self, path: Path) -> None:
        """Write the transform as Slicer reads it (ITK, LPS); of several bodies, each one's beside it."""
        if self.case.has_several_bodies:
            placement = self.placement
            for name in self.case.bodies.names:
                beside = path.with_name(re.sub(r"[^\w.-]", "_", name) + "_to_carm.tfm")
                write_transform(beside, placement.of(name), self.case.frame)
        storage = slicer.vtkMRMLTransformStorageNode()
        storage.SetFileName(str(path))
        if not storage.WriteData(self.parameters.transform):
            raise OSError(f"{path.name} was not written")

    # Registering

    def task(
        self,
        init: str | np.ndarray,
        refine: str,
        content: str,
        weights: Mapping[str, str | Path] | None = None,
    ) -> Task:
        """How to register the case.

        Args:
            init: the name of an initialiser, "current" (the pose as it is), or a (4, 4) T_lps_to_camera.
            refine: the name of a refinement.
            content: "auto", "body" or "bone".
            weights: files of weights by network, over the installed ones.

        Raises:
            InputError: a name is unknown.
        """
        placement, shown = None, self.placement
        if isinstance(init, str) and init == CURRENT_POSE:
            placement = shown
        elif not isinstance(init, str):
            placement = Placement(np.asarray(init, dtype=np.float64))
        start, starts = None, {}
        if placement is not None:
            T_camera_to_world, init = se3.invert_rigid(self.case.T_world_to_camera), GIVEN
            start = T_camera_to_world @ placement.T_lps_to_camera
            for name in self.case.bodies.names:
                # The parts of a CT are released from where it is as one piece.
                own = "" if name in self.case.bodies.parts else name
                starts[name] = T_camera_to_world @ placement.of(own)
        # Cameras of a calibrated set were calibrated with their pictures the way round that they are.
        alone = self.state.calibrated_set is None
        settings = RegistrationSettings(
            init,
            refine,
            content,
            mirrored="auto" if alone else "no",
            time_limit=self.parameters.timeLimit,
            weights=weights or {},
        )
        moved = {} if placement is None else placement.relative
        return Task(self.case.as_stated, settings, start, starts=starts, moved=moved, shown=shown)

    def record(self, result: RegistrationResult | BodiesResult) -> bool:
        """Show a result and remember it; one that was stopped leaves its pose only, and is answered by False.

        Where the X-ray was found to be stored or taken otherwise than its geometry states, the scene's
        geometry becomes the one that was found.
        """
        inputs = self._identity.of(self.case)
        pieces = result.pieces if isinstance(result, BodiesResult) else (result,)
        known, found = self.case, self.case.as_found(pieces[0])
        estimated = [one.camera for one in pieces[0].intrinsics] or [None] * (1 + len(found.others))
        self._keep_estimated(found, estimated)
        content = result_content(result, known.geometry, known.seconds)
        placement = placement_of(content, pieces[0].T_world_to_camera)
        if found.inputs is not known.inputs:
            self.state.set_geometry(found.inputs.geometry, self.state.calibrated_set)
            self.accept(replace(found, inputs=replace(found.inputs, xray_key=self.reader.xray_key())))
        elif not np.array_equal(found.xray.camera.K, known.xray.camera.K):
            self.accept(found)
        else:
            self.case = found
            xrays = [[one.bone_dark for one in (case.xray, *case.others)] for case in (known, found)]
            if xrays[0] != xrays[1]:
                # The bones of one turned out to be the other way round than detected.
                self._fuse()
        self.placement = placement
        self.show(placement, REST_PIXELS)
        self.views.keep_body_in_sight()
        if any(piece.stopped for piece in pieces):
            return False
        self.state.add(
            bridge.HistoryEntry(
                time=time.strftime("%Y-%m-%dT%H:%M:%S"),
                method=pieces[0].method,
                verdict=status_of(content),
                similarity=pieces[0].similarity,
                T_lps_to_camera=placement.T_lps_to_camera,
                theta=self.case.frame.theta_from_T(placement.T_lps_to_camera),
                seconds=result.seconds,
                result=content,
                geometry=self.state.geometry,
                inputs=inputs,
            )
        )
        return True

    def restore(self, number: int) -> None:
        """Go back to a registration of the history: its pose and its result.

        The geometry is that of the registration by now, if another camera of its set does not look at the CT.
        """
        entry = self.state.history[number]
        if entry.result is None:
            self.pose = entry.T_lps_to_camera
            return
        cameras = estimated_cameras(entry.result)
        self._keep_estimated(self.case, [cameras.get(camera.name) for camera in self.case.geometry.cameras])
        self.accept(self.case)
        self.placement = placement_of(entry.result, self.case.T_world_to_camera)
        self.state.shown = number
