"""What a registration knows beyond its nodes: geometry, nominal view, history; kept in the parameter node."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry.c_arm import CArmGeometry
from SOPIRegistrationLib.geometry.files import geometry_as_dict, geometry_from_dict
from SOPIRegistrationLib.geometry.views import PoseFrame

_PARAMETER = "SOPIRegistration.state"
_VERSION = 1
_XRAYS = "SOPIRegistration.xrays"
_BODIES, _BODY_TRANSFORMS = "SOPIRegistration.bodies", "SOPIRegistration.bodyTransforms"
_FORMER_RESULT = "lastResult"


@dataclass(frozen=True)
class HistoryEntry:
    """One registration that was made.

    Attributes:
        time: local time, ISO 8601.
        method: initialiser and refinement, as shown.
        verdict: accept, review or reject.
        similarity: measures at the end, by name.
        T_lps_to_camera: (4, 4) pose it ended at.
        theta: (6,) the same, rad and mm.
        seconds: how long it took.
        result: the content of its result.json; None in scenes saved before it was kept.
        geometry: of the X-ray it was made with, as it was found to be; None in scenes saved before it was
            kept.
        inputs: what tells the images it was made with from others: "ct" and "xrays" with the identity of
            each; None in scenes saved before it was kept.
    """

    time: str
    method: str
    verdict: str
    similarity: dict[str, float]
    T_lps_to_camera: np.ndarray
    theta: np.ndarray
    seconds: float
    result: dict | None = None
    geometry: CArmGeometry | None = None
    inputs: dict | None = None


@dataclass(frozen=True)
class XrayEntry:
    """An X-ray of a calibrated set.

    Attributes:
        node: its volume.
        frame: of several, counted from 1; 0 for the only one.
        camera: name of the camera that took it.
        used: whether it takes part in a joint registration.
    """

    node: Any
    frame: int
    camera: str
    used: bool = True


@dataclass(frozen=True)
class BodyEntry:
    """One of several bodies.

    Attributes:
        node: its volume, its model, or the segmentation that it is a segment of; None for the CT as a whole.
        segment: ID of its segment; empty of others.
        name: of the body.
        colour: (3,) 0 to 1.
        material: what a model is filled with; empty of others.
        motion: how it moves (``registration.body_inputs``).
        transform: its transform under the common one; None before it is shown.
    """

    node: Any
    segment: str
    name: str
    colour: tuple[float, float, float]
    material: str = ""
    motion: str = ""
    transform: Any = None


class RegistrationState:
    """Geometry, nominal view and history as JSON in a scripted module node, which a scene saves.

    Args:
        parameterNode: the vtkMRMLScriptedModuleNode (of a parameter node wrapper: its ``parameterNode``).
    """

    def __init__(self, parameterNode):
        self._node = parameterNode
        self._known: tuple[str, dict] = "", {}

    @property
    def geometry(self) -> CArmGeometry | None:
        """Geometry of the acquisition; settable."""
        return _read_geometry(self._read().get("geometry"))

    @geometry.setter
    def geometry(self, geometry: CArmGeometry | None) -> None:
        self.set_geometry(geometry)

    @property
    def calibrated_set(self) -> CArmGeometry | None:
        """All cameras of the set to which that of the geometry belongs; None of a single C-arm."""
        return _read_geometry(self._read().get("calibrated_set"))

    def set_geometry(self, geometry: CArmGeometry | None, calibrated_set: CArmGeometry | None = None) -> None:
        """Keep the geometry of the X-ray's camera, None while unknown, and of the set it belongs to."""
        self._write(geometry=_plain_geometry(geometry), calibrated_set=_plain_geometry(calibrated_set))

    @property
    def pose_frame(self) -> PoseFrame | None:
        """What theta is measured from, and where the C-arm stands; settable."""
        saved = self._read().get("pose_frame")
        if saved is None:
            return None
        return PoseFrame(
            np.array(saved["centre_lps_mm"]), saved["sod_mm"], saved["view"], np.array(saved["rotation"])
        )

    @pose_frame.setter
    def pose_frame(self, frame: PoseFrame | None) -> None:
        self._write(pose_frame=frame and _plain(asdict(frame)))

    @property
    def xrays(self) -> list[XrayEntry]:
        """X-rays that are registered jointly, without those that have left the scene; settable."""
        entries = []
        for index, saved in enumerate(self._read().get("xrays", [])):
            node = self._node.GetNthNodeReference(_XRAYS, index)
            if node is not None:
                entries.append(XrayEntry(node, saved["frame"], saved["camera"], saved["used"]))
        return entries

    @xrays.setter
    def xrays(self, entries: list[XrayEntry]) -> None:
        modified = self._node.StartModify()
        self._node.RemoveNodeReferenceIDs(_XRAYS)
        for index, entry in enumerate(entries):
            self._node.SetNthNodeReferenceID(_XRAYS, index, entry.node.GetID())
        plain = [{"frame": one.frame, "camera": one.camera, "used": one.used} for one in entries]
        self._write(xrays=plain)
        self._node.EndModify(modified)

    @property
    def bodies(self) -> list[BodyEntry]:
        """What moves by itself, without what has left the scene; settable. Empty where all is one piece."""
        entries = []
        for saved in self._read().get("bodies", []):
            node, transform = (
                None if saved[role] is None else self._node.GetNthNodeReference(kept, saved[role])
                for role, kept in (("node", _BODIES), ("transform", _BODY_TRANSFORMS))
            )
            if node is not None or saved["node"] is None:
                plain = {name: saved[name] for name in ("segment", "name", "material", "motion")}
                entries.append(BodyEntry(node, colour=tuple(saved["colour"]), transform=transform, **plain))
        return entries

    @bodies.setter
    def bodies(self, entries: list[BodyEntry]) -> None:
        modified = self._node.StartModify()
        plain = [
            {
                **{name: getattr(one, name) for name in ("segment", "name", "material", "motion")},
                "colour": list(one.colour),
            }
            for one in entries
        ]
        for role, kept in (("node", _BODIES), ("transform", _BODY_TRANSFORMS)):
            self._node.RemoveNodeReferenceIDs(kept)
            for one, saved in zip(entries, plain, strict=True):
                node = getattr(one, role)
                saved[role] = None if node is None else self._node.GetNumberOfNodeReferences(kept)
                if node is not None:
                    self._node.AddNodeReferenceID(kept, node.GetID())
        self._write(bodies=plain)
        self._node.EndModify(modified)

    @property
    def history(self) -> list[HistoryEntry]:
        """Registrations made, the oldest first."""
        return [_read_entry(saved) for saved in self._read().get("history", [])]

    @property
    def count(self) -> int:
        """How many registrations were made."""
        return len(self._read().get("history", []))

    def add(self, entry: HistoryEntry) -> None:
        """Append to the history, and show it."""
        history = [*self._read().get("history", []), _plain_entry(entry)]
        self._write(history=history, shown=len(history) - 1)

    @property
    def shown(self) -> int | None:
        """Number of the history's entry whose result is shown; settable. None for no result."""
        state = self._read()
        if "shown" in state:
            return state["shown"]
        # Former versions kept the text of the result that was shown.
        text = self._node.GetParameter(_FORMER_RESULT)
        results = [saved.get("result") for saved in state.get("history", [])]
        return len(results) - 1 - results[::-1].index(text) if text and text in results else None

    @shown.setter
    def shown(self, number: int | None) -> None:
        self._write(shown=number)

    @property
    def shown_entry(self) -> HistoryEntry | None:
        """The entry whose result is shown."""
        return None if self.shown is None else _read_entry(self._read()["history"][self.shown])

    def _read(self) -> dict:
        """What is saved; its text is read once, and what comes of it is not to be changed."""
        text = self._node.GetParameter(_PARAMETER)
        if text == self._known[0]:
            return self._known[1]
        state = json.loads(text) if text else {"version": _VERSION}
        if state["version"] > _VERSION:
            raise InputError(
                "the scene was saved by a newer SOPIRegistration: update the extension to go on with it"
            )
        self._known = text, state
        return state

    def _write(self, **changes) -> None:
        state = {**self._read(), **changes, "version": _VERSION}
        self._node.SetParameter(_PARAMETER, json.dumps(state))


def _plain_entry(entry: HistoryEntry) -> dict:
    saved = {each.name: getattr(entry, each.name) for each in fields(entry)}
    return _plain({**saved, "geometry": _plain_geometry(entry.geometry)})


def _read_entry(saved: dict) -> HistoryEntry:
    arrays = {name: np.array(saved[name]) for name in ("T_lps_to_camera", "theta")}
    result, geometry = saved.get("result"), _read_geometry(saved.get("geometry"))
    if isinstance(result, str):
        # Former versions kept its text.
        result = json.loads(result) if result else None
    return HistoryEntry(**{**saved, **arrays, "result": result, "geometry": geometry})


def _plain_geometry(geometry: CArmGeometry | None) -> dict | None:
    return geometry and {"cameras": geometry_as_dict(geometry), "mirrored": geometry.mirrored}


def _read_geometry(saved: dict | None) -> CArmGeometry | None:
    if saved is None:
        return None
    geometry = geometry_from_dict(saved["cameras"], "the geometry saved in the scene")
    return replace(geometry, mirrored=saved["mirrored"])


def _plain(fields: dict) -> dict:
    """Arrays as lists, for JSON."""
    return {
        name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in fields.items()
    }
