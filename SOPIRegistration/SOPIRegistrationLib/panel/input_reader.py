"""The inputs chosen in a parameter node, as arrays; and what tells them from others."""

from __future__ import annotations

import json

import numpy as np
import slicer
import vtk

from SOPIRegistrationLib import scene as bridge
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry.c_arm import CArmGeometry
from SOPIRegistrationLib.geometry.files import geometry_as_dict, load_geometry
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.region import region_seen
from SOPIRegistrationLib.images.stored import as_seen_from_the_source
from SOPIRegistrationLib.registration.body_inputs import BodiesInput, BodyInput
from SOPIRegistrationLib.registration.prepared import Inputs, OtherXray, PreparedCase
from SOPIRegistrationLib.scene.pose import own_to_ras


class InputReader:
    """Reads nodes in the main thread.

    Args:
        parameters: wrapped parameter node.
        state: geometry and X-rays that it keeps.
    """

    def __init__(self, parameters, state: bridge.RegistrationState):
        self._parameters, self._state = parameters, state

    @property
    def needs_ct(self) -> bool:
        """Whether a CT takes part: models in the table of bodies are registered without one."""
        bodies = self._state.bodies
        return not bodies or any(one.node is None or one.segment for one in bodies)

    @property
    def ct(self):
        """The CT that takes part; None of models alone, or where it is still to be chosen."""
        return self._parameters.ct if self.needs_ct else None

    def read(self) -> Inputs:
        """The inputs chosen in the parameter node.

        Raises:
            InputError: something is missing or unusable; nothing in the scene has changed.
        """
        p, geometry, ct = self._parameters, self._state.geometry, self.ct
        if ct is None and self.needs_ct:
            raise InputError("no CT is chosen: load one (File, Add Data) and choose it under Inputs")
        if p.xray is None:
            raise InputError("no X-ray is chosen: load one (File, Add Data) and choose it under Inputs")
        if ct is p.xray:
            raise InputError(f"'{ct.GetName()}' is chosen both as CT and as X-ray: choose two volumes")
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
        mask = p.mask if ct is not None else None
        return Inputs(
            ct=None if ct is None else bridge.volume_from_node(ct),
            mask=None if mask is None else bridge.mask_from_node(mask, ct),
            radiograph=radiograph,
            region=region,
            geometry=geometry.with_default_sod(),
            polarity=p.polarity,
            others=self._read_others(),
            ct_key=self._ct_key(),
            xray_key=self.xray_key(),
            bodies=self._read_bodies(),
        )

    def _read_bodies(self) -> BodiesInput:
        """The bodies of the table.

        Raises:
            InputError: one cannot be used.
        """
        p, entries = self._parameters, self._state.bodies
        segments = [one for one in entries if one.segment]
        labels, bodies = None, []
        if segments:
            ids = vtk.vtkStringArray()
            for one in segments:
                ids.InsertNextValue(one.segment)
            labels = bridge.labels_of_segments(segments[0].node, p.ct, ids)
        for one in entries:
            if one.segment:
                source = 1 + segments.index(one)
            elif one.node is None:
                source = None
            elif one.node.IsA("vtkMRMLModelNode"):
                if not one.material:
                    raise InputError(
                        f"nobody said what model '{one.name}' is made of: choose its material (Inputs, "
                        "Bodies)"
                    )
                source = bridge.surface_from_node(one.node, one.name)
            else:
                source = bridge.volume_from_node(one.node)
            bodies.append(BodyInput(one.name, source, one.material, one.motion, self._body_key(one)))
        return BodiesInput(tuple(bodies), labels, self._bodies_key())

    def _bodies_key(self) -> tuple:
        """Tells the bodies chosen from others."""
        return tuple((one.name, one.motion, self._body_key(one)) for one in self._state.bodies)

    def _body_key(self, entry: bridge.BodyEntry) -> tuple:
        if entry.node is None:
            return self._ct_key()
        place = own_to_ras(entry.node).round(6).tobytes()
        return _content_key(entry.node), place, entry.segment, entry.material

    def _read_others(self) -> tuple[OtherXray, ...]:
        """The X-rays of the table beside the one that is looked at, where all are to be registered.

        Raises:
            InputError: one cannot be used, or the one that is looked at is not among them.
        """
        p, cameras = self._parameters, self._state.calibrated_set
        used = self._used_others()
        if not used:
            return ()
        names = [entry.camera for entry in used]
        if self._state.geometry.camera.name in names:
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
        p = self._parameters
        if not p.joint or self._state.calibrated_set is None:
            return []
        return [entry for entry in self._state.xrays if entry.used and entry.node is not p.xray]

    def matches(self, case: PreparedCase | None) -> bool:
        """Whether a case was prepared from what is chosen now."""
        known, p = case, self._parameters
        chosen = p.xray is not None and p.transform is not None
        if known is None or not chosen or (self.needs_ct and p.ct is None):
            return False
        keys = (
            *(known.inputs.ct_key, known.inputs.xray_key, known.inputs.bodies.key),
            tuple(one.key for one in known.inputs.others),
        )
        cameras = self._state.calibrated_set
        others = tuple(
            self._key_of(entry.node, entry.frame, cameras.for_camera(entry.camera))
            for entry in self._used_others()
        )
        return keys == (self._ct_key(), self.xray_key(), self._bodies_key(), others)

    def has_same_nodes(self, case: PreparedCase | None) -> bool:
        """Whether a case was made from the CT and X-ray chosen now."""
        if case is None:
            return False
        chosen = tuple(node and node.GetID() for node in (self.ct, self._parameters.xray))
        contents = case.inputs.ct_key[0], case.inputs.xray_key[0]
        return chosen == tuple(content and content[0] for content in contents)

    def _ct_key(self) -> tuple:
        """(content, place, bones) of the CT; content and bones are None of models alone."""
        ct = self.ct
        if ct is None:
            return None, b"", None
        place = own_to_ras(ct) @ slicer.util.arrayFromVTKMatrix(_ijk_to_ras(ct))
        return _content_key(ct), place.round(6).tobytes(), _content_key(self._parameters.mask)

    def xray_key(self) -> tuple:
        """Tells the X-ray chosen, with its geometry, polarity and region, from another."""
        p = self._parameters
        key = self._key_of(p.xray, p.frame, self._state.geometry)
        return key if p.region is None else (*key, _content_key(p.region), p.regionLeftOut)

    def _key_of(self, xrayNode, frame: int, geometry: CArmGeometry | None) -> tuple:
        known = json.dumps(geometry_as_dict(geometry)) if geometry is not None else ""
        return _content_key(xrayNode), frame, self._parameters.polarity, known


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
    geometry = every_camera_of(geometry, xrayNode, frame)
    if camera is None and len(geometry.cameras) > 1:
        camera = camera_that_took(xrayNode, geometry)
    return geometry.for_camera(camera) if camera else geometry


def every_camera_of(geometry, xrayNode, frame: int | None = None) -> CArmGeometry:
    """The same with all of its cameras.

    Raises:
        InputError: it is unusable, or not for this X-ray.
    """
    if isinstance(geometry, CArmGeometry):
        return geometry
    radiograph = bridge.radiograph_from_node(xrayNode, frame)
    return load_geometry(
        geometry, radiograph.pixels.shape, radiograph.metadata, image_name=xrayNode.GetName()
    )


def camera_that_took(xrayNode, geometry: CArmGeometry) -> str:
    """The camera whose name the X-ray's holds.

    Raises:
        InputError: there is none.
    """
    camera = geometry.camera_named_in(xrayNode.GetName())
    if camera is None:
        known = ", ".join(one.name for one in geometry.cameras)
        raise InputError(
            f"the geometry has several cameras ({known}): give the name of the one that took X-ray "
            f"'{xrayNode.GetName()}'"
        )
    return camera


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
    if node.IsA("vtkMRMLVolumeNode"):
        content = node.GetImageData()
    else:
        content = node.GetPolyData() if node.IsA("vtkMRMLModelNode") else node.GetSegmentation()
    return node.GetID(), content and content.GetMTime()
