"""Which images and which C-arm a registration was of: told by what they hold, not by their nodes."""

from __future__ import annotations

import numpy as np
import slicer

from SOPIRegistrationLib.geometry.c_arm import CArmGeometry
from SOPIRegistrationLib.images.identity import image_identity
from SOPIRegistrationLib.registration.prepared import PreparedCase
from SOPIRegistrationLib.scene import HistoryEntry, RegistrationState


class InputIdentity:
    """Knows what a history entry is of; a scene may be renamed, saved or loaded into another one meanwhile.

    Args:
        parameters: wrapped parameter node.
        state: geometry and X-rays that it keeps.
    """

    def __init__(self, parameters, state: RegistrationState):
        self._parameters, self._state = parameters, state
        self._known: dict[tuple, str] = {}

    def of(self, case: PreparedCase) -> dict:
        """Of the CT (empty where there is none) and of the X-rays of a case, to be kept in a scene.

        X-rays whose pixels are other ones by now are left out.
        """
        inputs = case.inputs
        keys = [inputs.xray_key, *(one.key for one in inputs.others)]
        scene = self._parameters.parameterNode.GetScene()
        xrays = [(scene.GetNodeByID(node_id), frame, content) for (node_id, content), frame, *_ in keys]
        return {
            "ct": self._of_ct(case),
            "xrays": [
                self._of_xray(node, frame)
                for node, frame, content in xrays
                if node is not None and _content(node) == content
            ],
        }

    def is_of(self, entry: HistoryEntry, case: PreparedCase) -> bool:
        """Whether an entry is of a case: of its CT, of one of its X-rays, or of their set, and of its C-arm.

        Entries of former versions, which do not know, are taken for it.
        """
        if entry.inputs is None or self._parameters.xray is None:
            return True
        p = self._parameters
        xrays = [(p.xray, p.frame), *((one.node, one.frame) for one in self._state.xrays)]
        now = {self._of_xray(node, frame) for node, frame in xrays}
        if case.inputs.ct is not None and _content(p.ct) != case.inputs.ct_key[0][1]:
            return False
        is_same = self._of_ct(case) == entry.inputs["ct"] and not now.isdisjoint(entry.inputs["xrays"])
        return is_same and self._has_geometry(entry.geometry)

    @staticmethod
    def _of_ct(case: PreparedCase) -> str:
        return "" if case.inputs.ct is None else case.ct.identity

    def _has_geometry(self, geometry: CArmGeometry | None) -> bool:
        """Whether an X-ray is still said to have been taken as a geometry says."""
        cameras, now = self._state.calibrated_set, self._state.geometry
        if geometry is None or now is None:
            return True
        name = geometry.camera.name
        if cameras is not None and name != now.camera.name and name in {one.name for one in cameras.cameras}:
            now = cameras.for_camera(name)
        one, other = geometry.camera, now.camera
        return (
            one.shape == other.shape
            and geometry.mirrored == now.mirrored
            and np.allclose(one.K, other.K)
            and np.allclose(one.T_world_to_camera, other.T_world_to_camera)
        )

    def _of_xray(self, node, frame: int) -> str:
        content = _content(node)
        if content is None:
            return ""
        key = node.GetID(), content, frame
        if key not in self._known:
            # Those of other frames, or of other pixels, come back seldom.
            self._known = {known: text for known, text in self._known.items() if known[0] != key[0]}
            pixels = slicer.util.arrayFromVolume(node)
            self._known[key] = image_identity(pixels[min(max(frame - 1, 0), len(pixels) - 1)])
        return self._known[key]


def _content(node) -> int | None:
    """Changes when the pixels of a node do."""
    image = node.GetImageData()
    return image and image.GetMTime()
