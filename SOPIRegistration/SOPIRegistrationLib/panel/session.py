"""One CT, one X-ray and their C-arm in a scene: read, prepared once, shown, moved, registered."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import qt
import SimpleITK as sitk
import slicer
import vtk

from SOPIRegistrationLib import scene as bridge
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.c_arm import CArmGeometry
from SOPIRegistrationLib.geometry.files import geometry_as_dict, load_geometry
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.overlay import fusion_image
from SOPIRegistrationLib.images.region import region_seen
from SOPIRegistrationLib.images.stored import as_seen_from_the_source
from SOPIRegistrationLib.panel.choices import CURRENT_POSE
from SOPIRegistrationLib.registration import RegistrationResult
from SOPIRegistrationLib.registration.logic import LIVE_PIXELS, Inputs, OtherXray, PreparedCase, Task
from SOPIRegistrationLib.registration.outputs import result_json
from SOPIRegistrationLib.scene.pose import own_to_ras
from SOPIRegistrationLib.settings import GIVEN, RegistrationSettings

# Longer edge of a DRR at rest; of the fused picture at rest, least and most.
REST_PIXELS = 512
_PICTURE_PIXELS = (768, 1024)


class Session:
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
        self.views = bridge.Views(scene, layout_manager, lambda act: qt.QTimer.singleShot(0, act))

    def close(self) -> None:
        """Follow nothing in the scene any more."""
        self.views.close()
        self.case = None

    # Reading and preparing

    def read_inputs(self) -> Inputs:
        """The inputs chosen in the parameter node.

        Raises:
            InputError: something is missing or unusable; nothing in the scene has changed.
        """
        p, geometry = self.parameters, self.state.geometry
        if p.ct is None:
            raise InputError("no CT is chosen: load one (File, Add Data) and choose it under Inputs")
        if p.xray is None:
            raise InputError("no X-ray is chosen: load one (File, Add Data) and choose it under Inputs")
        if p.ct is p.xray:
            raise InputError(f"'{p.ct.GetName()}' is chosen both as CT and as X-ray: choose two volumes")
        radiograph = bridge.radiograph_from_node(p.xray, p.frame or None)
        if geometry is None:
            raise InputError(
                f"the geometry of X-ray '{p.xray.GetName()}' is not known: under C-arm, load a file, "
                "choose a preset or type the source-detector distance and the pixel spacing"
            )
        check_size(geometry, radiograph.pixels.shape, p.xray.GetName())
        region = None
        if p.region is not None:
            region = bridge.region_from_node(p.region, p.xray) ^ p.regionLeftOut
            region = region_seen(region, geometry)
        radiograph = as_seen_from_the_source(radiograph, geometry.mirrored, geometry.camera)
        if p.transform is not None:
            # Whether it is rigid does not depend on what its pose is measured from.
            bridge.pose_of(p.transform, PoseFrame(np.zeros(3), 1.0))
        ct = bridge.volume_from_node(p.ct)
        mask = bridge.mask_from_node(p.mask, p.ct) if p.mask is not None else None
        return Inputs(
            ct=ct,
            mask=mask,
            radiograph=radiograph,
            region=region,
            geometry=geometry.with_default_sod(),
            polarity=p.polarity,
            others=self._read_others(),
            ct_key=self._ct_key(),
            xray_key=self._xray_key(),
        )

    def _read_others(self) -> tuple[OtherXray, ...]:
        """The X-rays of the table beside the one that is looked at, where all are to be registered.

        Raises:
            InputError: one cannot be used, or the one that is looked at is not among them.
        """
        p, cameras = self.parameters, self.state.calibrated_set
        used = self._used_others()
        if not used:
            return ()
        names = [entry.camera for entry in used]
        if self.state.geometry.camera.name in names:
            raise InputError(
                f"X-ray '{p.xray.GetName()}' and another one in the table are of the same camera: leave one "
                "out, or register this one alone"
            )
        others = []
        for entry in used:
            geometry = cameras.for_camera(entry.camera)
            radiograph = bridge.radiograph_from_node(entry.node, entry.frame or None)
            check_size(geometry, radiograph.pixels.shape, entry.node.GetName())
            radiograph = as_seen_from_the_source(radiograph, geometry.mirrored, geometry.camera)
            key = self._key_of(entry.node, entry.frame, geometry)
            others.append(OtherXray(entry.node.GetID(), radiograph, geometry.camera, key))
        return tuple(others)

    def _used_others(self) -> list[bridge.XrayEntry]:
        p = self.parameters
        if not p.joint or self.state.calibrated_set is None:
            return []
        return [entry for entry in self.state.xrays if entry.used and entry.node is not p.xray]

    @property
    def is_current(self) -> bool:
        """Whether the case at hand was prepared from what is chosen now."""
        known, p = self.case, self.parameters
        if known is None or p.ct is None or p.xray is None or p.transform is None:
            return False
        keys = known.inputs.ct_key, known.inputs.xray_key, tuple(one.key for one in known.inputs.others)
        cameras = self.state.calibrated_set
        others = tuple(
            self._key_of(entry.node, entry.frame, cameras.for_camera(entry.camera))
            for entry in self._used_others()
        )
        return keys == (self._ct_key(), self._xray_key(), others)

    @property
    def has_same_nodes(self) -> bool:
        """Whether the case at hand was made from the CT, X-ray and transform chosen now."""
        known, p = self.case, self.parameters
        chosen = tuple(node and node.GetID() for node in (p.ct, p.xray))
        return known is not None and chosen == (known.inputs.ct_key[0][0], known.inputs.xray_key[0][0])

    def _ct_key(self) -> tuple:
        p = self.parameters
        place = own_to_ras(p.ct) @ slicer.util.arrayFromVTKMatrix(_ijk_to_ras(p.ct))
        return _content_key(p.ct), place.round(6).tobytes(), _content_key(p.mask)

    def _xray_key(self) -> tuple:
        p = self.parameters
        key = self._key_of(p.xray, p.frame, self.state.geometry)
        return key if p.region is None else (*key, _content_key(p.region), p.regionLeftOut)

    def _key_of(self, xrayNode, frame: int, geometry: CArmGeometry | None) -> tuple:
        known = json.dumps(geometry_as_dict(geometry)) if geometry is not None else ""
        return _content_key(xrayNode), frame, self.parameters.polarity, known

    def accept(self, case: PreparedCase) -> None:
        """Show a prepared case: X-ray on its detector, CT under the transform, C-arm, DRR, overlay."""
        p = self.parameters
        known, was_hardened, carried = self.case, self._was_hardened(case), self._carried_pose(case)
        self.case = case
        self.state.pose_frame = case.frame
        geometry = case.inputs.geometry
        camera = geometry.camera
        if p.transform is None:
            p.transform = self.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "CT to C-arm")
        bridge.attach(p.transform, *self.moving_nodes())
        bridge.set_centre(p.transform, case.frame)
        if was_hardened:
            # The CT has the pose in itself now; carried by it once more it would be moved twice.
            self.pose = case.frame.T_nominal
        elif carried is not None:
            self.pose = carried
        bridge.place_on_detector(
            p.xray, camera, case.frame, mirrored=geometry.mirrored, image_frame=p.frame or None
        )
        if known is not None and known.xray.camera.name != camera.name:
            # The C-arm of another camera of the set stood in another world.
            self.carm.remove()
        self.carm.update(camera, case.frame)
        for other in case.inputs.others:
            node, frame = self.scene.GetNodeByID(other.node_id), other.key[1]
            bridge.place_on_detector(
                node,
                other.camera,
                case.frame,
                reference=camera,
                mirrored=geometry.mirrored,
                image_frame=frame or None,
            )
            self.carm.update(other.camera, case.frame, camera)
        self.carm.visible = p.carmVisible
        bones = bridge.show_bones(self.scene, case.ct.bone, p.transform)
        self.views.show(bridge.Shown(camera, case.frame, p.xray, p.ct, bones))
        self._put_drr(self.render(self.pose, REST_PIXELS))
        self._fuse()

    def _was_hardened(self, case: PreparedCase) -> bool:
        """Whether the registration's transform was hardened into the CT since the case before."""
        known, p = self.case, self.parameters
        if known is None or p.transform is None or bridge.is_attached(p.transform, p.ct):
            return False
        (node, place, _), (node_before, place_before, _) = case.inputs.ct_key, known.inputs.ct_key
        return node[0] == node_before[0] and place != place_before

    def _carried_pose(self, case: PreparedCase) -> np.ndarray | None:
        """(4, 4) T_lps_to_camera of the CT as it lies, where another camera of its set looks at it now."""
        known, p, cameras = self.case, self.parameters, self.state.calibrated_set
        if known is None or p.transform is None or cameras is None:
            return None
        before, now = known.xray.camera.name, case.xray.camera.name
        same_ct = case.inputs.ct_key == known.inputs.ct_key
        if not same_ct or before == now or not {before, now} <= {camera.name for camera in cameras.cameras}:
            return None
        return case.T_world_to_camera @ se3.invert_rigid(known.T_world_to_camera) @ self.pose

    # The pose

    @property
    def pose(self) -> np.ndarray:
        """(4, 4) T_lps_to_camera at which the transform node holds the CT."""
        return bridge.pose_of(self.parameters.transform, self.case.frame)

    @pose.setter
    def pose(self, T_lps_to_camera: np.ndarray) -> None:
        bridge.set_pose(self.parameters.transform, T_lps_to_camera, self.case.frame)

    def moving_nodes(self) -> list:
        """What stands under the registration's transform: the CT and what belongs to it."""
        p = self.parameters
        return [node for node in (p.ct, p.mask, p.ctLandmarks) if node is not None]

    def forget_removed_nodes(self) -> None:
        """Clear parameters whose node has left the scene; the parameter node wrapper may remember it."""
        for name in ("ct", "xray", "mask", "transform", "drr", "region", "ctLandmarks", "xrayLandmarks"):
            node = getattr(self.parameters, name)
            if node is not None and self.scene.GetNodeByID(node.GetID()) is not node:
                setattr(self.parameters, name, None)

    @property
    def handles_shown(self) -> bool:
        """Whether the CT can be dragged by handles."""
        display = self.parameters.transform.GetDisplayNode()
        return display is not None and bool(display.GetEditorVisibility())

    def show_handles(self, shown: bool) -> None:
        """Handles with which the CT is dragged, in the 3D view and in slice views."""
        transform = self.parameters.transform
        transform.CreateDefaultDisplayNodes()
        display = transform.GetDisplayNode()
        display.SetEditorVisibility(shown)
        display.SetEditorVisibility3D(shown)
        display.SetEditorSliceIntersectionVisibility(shown)

    def render(self, T_lps_to_camera: np.ndarray, pixels: int = LIVE_PIXELS) -> np.ndarray:
        """DRR (rows, columns) of the case whose longer edge has at most ``pixels`` pixels; any thread."""
        return self.case.render(T_lps_to_camera, pixels)

    def show_drr(self, image: np.ndarray, live: bool = False) -> None:
        """Show a DRR of this case over the X-ray, and put it into the scene unless something still moves."""
        if live and self.overlay.is_complete:
            self.overlay.draw(image)
            return
        self._put_drr(image)
        if self.overlay.is_complete:
            self.overlay.refresh()
        else:
            # Its picture or its DRR was removed from the scene.
            self._fuse()

    def _put_drr(self, image: np.ndarray) -> None:
        p = self.parameters
        camera = self.case.xray.camera.resampled(image.shape[1], image.shape[0])
        drr = bridge.update_drr(p.drr, p.xray, image, camera, self.case.frame)
        if p.drr is not drr:
            p.drr = drr

    def _fuse(self) -> None:
        p, case = self.parameters, self.case
        self.overlay.show(p.xray, p.drr, bone_dark=case.bone_dark, valid=case.xray.valid)

    def write_transform(self, path: Path) -> None:
        """Write the transform as Slicer reads it (ITK, LPS)."""
        storage = slicer.vtkMRMLTransformStorageNode()
        storage.SetFileName(str(path))
        if not storage.WriteData(self.parameters.transform):
            raise OSError(f"{path.name} was not written")

    def write_picture(self, path: Path) -> None:
        """Write the overlay of X-ray and DRR at the pose as PNG, in the X-ray's pixels."""
        xray = self.case.xray
        drr = self.render(self.pose, max(xray.camera.shape))
        pixels = self.case.inputs.radiograph.pixels
        p, mode = self.parameters, self.parameters.overlayMode
        picture = fusion_image(
            pixels,
            drr,
            xray.valid,
            "fusion" if mode == "blink" else mode,
            bone_dark=self.case.bone_dark,
            mix=p.mix,
            edge_strength=p.edgeStrength,
            curtain=self.overlay.setting("curtain"),
            local_contrast=p.localContrast,
        )
        sitk.WriteImage(sitk.GetImageFromArray(picture, isVector=True), str(path))

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
        start = None
        if isinstance(init, str) and init == CURRENT_POSE:
            init = self.pose
        if not isinstance(init, str):
            start = se3.invert_rigid(self.case.T_world_to_camera) @ np.asarray(init, dtype=np.float64)
            init = GIVEN
        # The scene shows the X-ray the way round that its geometry states.
        settings = RegistrationSettings(init, refine, content, mirrored="no", weights=weights or {})
        return Task(self.case, settings, start)

    def record(self, result: RegistrationResult) -> None:
        """Show a result and remember it; one that was stopped leaves its pose only."""
        T_lps_to_camera = result.T_world_to_camera @ result.T_lps_to_world
        first, *others = result.radiographs
        turned_over = first is not self.case.xray
        self.case = replace(self.case, xray=first, others=tuple(others))
        if turned_over:
            # Its bones turned out to be the other way round than detected.
            self._fuse()
        self.pose = T_lps_to_camera
        self.show_drr(self.render(T_lps_to_camera, REST_PIXELS))
        self.views.keep_body_in_sight()
        if result.stopped:
            return
        text = result_json(result, self.case.geometry, self.case.seconds)
        self.parameters.lastResult = text
        self.state.add(
            bridge.HistoryEntry(
                time=time.strftime("%Y-%m-%dT%H:%M:%S"),
                method=result.method,
                verdict=result.verdict.status,
                similarity=result.similarity,
                T_lps_to_camera=T_lps_to_camera,
                theta=self.case.frame.theta_from_T(T_lps_to_camera),
                seconds=result.seconds,
                result=text,
            )
        )

    def restore(self, entry: bridge.HistoryEntry) -> None:
        """Go back to a registration of the history: its pose and its result."""
        if not entry.result:
            self.pose = entry.T_lps_to_camera
            return
        # Another camera of the set may look at the CT now.
        T_lps_to_world = np.array(json.loads(entry.result)["pose"]["T_lps_to_world"])
        self.pose = self.case.T_world_to_camera @ T_lps_to_world
        self.parameters.lastResult = entry.result


def check_size(geometry: CArmGeometry, shape: tuple[int, int], name: str) -> None:
    """Refuse a geometry that is for another image size.

    Raises:
        InputError: it is.
    """
    camera = geometry.camera
    if camera.shape != tuple(shape):
        raise InputError(
            f"the geometry is for an image of {camera.width} x {camera.height} pixels, but X-ray '{name}' "
            f"has {shape[1]} x {shape[0]} (columns x rows): load the geometry of this X-ray"
        )


def geometry_of(geometry, xrayNode, frame: int | None = None, camera: str | None = None) -> CArmGeometry:
    """A geometry from what a script gives: one, a JSON's path, a preset's name, or None for the DICOM tags.

    Args:
        geometry: see above.
        xrayNode: the X-ray it is for.
        frame: frame of a multi-frame X-ray, counted from 1.
        camera: name of the camera, where there are several; the one that the X-ray's name holds unless given.

    Raises:
        InputError: it is unusable, or not for this X-ray.
    """
    if not isinstance(geometry, CArmGeometry):
        radiograph = bridge.radiograph_from_node(xrayNode, frame)
        shape, name = radiograph.pixels.shape, xrayNode.GetName()
        geometry = load_geometry(geometry, shape, radiograph.metadata, image_name=name)
    if camera is None and len(geometry.cameras) > 1:
        camera = geometry.camera_named_in(xrayNode.GetName())
        if camera is None:
            known = ", ".join(one.name for one in geometry.cameras)
            raise InputError(
                f"the geometry has several cameras ({known}): give the name of the one that took X-ray "
                f"'{xrayNode.GetName()}'"
            )
    return geometry.for_camera(camera) if camera else geometry


def _ijk_to_ras(volumeNode) -> vtk.vtkMatrix4x4:
    matrix = vtk.vtkMatrix4x4()
    volumeNode.GetIJKToRASMatrix(matrix)
    return matrix


def _content_key(node) -> tuple | None:
    """Changes when the voxels of a node do."""
    if node is None:
        return None
    if node.IsA("vtkMRMLMarkupsNode"):
        points = slicer.util.arrayFromMarkupsControlPoints(node, world=True)
        bounds = np.zeros(6)
        node.GetRASBounds(bounds)
        return node.GetID(), points.tobytes(), bounds.tobytes()
    content = node.GetImageData() if node.IsA("vtkMRMLVolumeNode") else node.GetSegmentation()
    return node.GetID(), content.GetMTime()
