"""Tracks and X-ray sequences as Slicer's Sequences, played together by one browser.

The core reads a sequence of X-rays from a Sequence of volumes or from one volume of several frames, and a
body's track becomes a Sequence of transforms. The browser's frame then moves the bodies in 3D together with
the X-ray.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import slicer
import vtk

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.images.radiograph import Radiograph
from SOPIRegistrationLib.registration.result import Verdict
from SOPIRegistrationLib.scene.nodes import marked_nodes, nodes_of_class, radiograph_from_node
from SOPIRegistrationLib.scene.pose import attach, vtk_matrix
from SOPIRegistrationLib.tracking.track import FramePose

# Attributes that saving a scene keeps; former versions kept the statuses alone.
_VERDICTS, _STATUS = "SOPIRegistration.TrackVerdicts", "SOPIRegistration.TrackStatus"
_IS_TRACK, _OF = "SOPIRegistration.IsTrack", "of "
_FRAMES_OF = "SOPIRegistration.framesOf"
_INDEX_NAME = "frame"


class NodeFrames:
    """X-rays of a node as a sequence that may be read in another thread: pixels are taken at once.

    Args:
        node: Sequence of volumes, or a volume whose slices are frames.

    Attributes:
        path: the node's name.
        count: of its frames.
        frames_per_second: of a Sequence that counts in seconds; None otherwise.

    Raises:
        InputError: a Sequence without volumes, or a frame that is no X-ray.
    """

    def __init__(self, node):
        self.path = f"'{node.GetName()}'"
        self.frames_per_second = None
        if not is_sequence(node):
            array = None if node.GetImageData() is None else slicer.util.arrayFromVolume(node)
            self._frames = [] if array is None else [_frame(node, number + 1) for number in range(len(array))]
        else:
            volumes = [node.GetNthDataNode(item) for item in range(node.GetNumberOfDataNodes())]
            if not all(one.IsA("vtkMRMLVolumeNode") for one in volumes):
                raise InputError(f"Sequence {self.path} is not of images: choose one of X-rays")
            self._frames = [_frame(one, None) for one in volumes]
            self.frames_per_second = _rate(node)
        if not self._frames:
            raise InputError(f"Sequence {self.path} holds no frames: choose one of X-rays")
        self.count = len(self._frames)

    def frame(self, number: int) -> Radiograph:
        """A frame as stored, counted from 1.

        Raises:
            InputError: it is no X-ray, or none has this number.
        """
        if not 1 <= number <= self.count:
            raise InputError(f"Sequence {self.path} has no frame {number}: it has 1 to {self.count}")
        found = self._frames[number - 1]
        if isinstance(found, InputError):
            raise found
        return found


def _frame(node, number: int | None) -> Radiograph | InputError:
    """A frame; what is wrong with it, such as that it is constant, is told when it is asked for."""
    try:
        return radiograph_from_node(node, number)
    except InputError as error:
        return error


def _rate(node) -> float | None:
    """Frames a second of a Sequence indexed by time, from its first and last frame."""
    count = node.GetNumberOfDataNodes()
    if node.GetIndexUnit() != "s" or count < 2:
        return None
    first, last = (float(node.GetNthIndexValue(item)) for item in (0, count - 1))
    return (count - 1) / (last - first) if last > first else None


def xray_sequence(scene, volumeNode):
    """A Sequence of a volume's frames, each on the volume's place; the volume stays as it is.

    Args:
        scene: where the Sequence goes.
        volumeNode: X-ray of several frames.

    Raises:
        InputError: it has no frames.
    """
    array = slicer.util.arrayFromVolume(volumeNode) if volumeNode.GetImageData() is not None else ()
    if len(array) < 2:
        raise InputError(f"X-ray '{volumeNode.GetName()}' has a single frame: choose a sequence")
    sequence = _new_sequence(scene, f"{volumeNode.GetName()} frames")
    stored = slicer.vtkMRMLScalarVolumeNode()
    for number, pixels in enumerate(array, start=1):
        stored.CopyOrientation(volumeNode)
        slicer.util.updateVolumeFromArray(stored, pixels[None])
        sequence.SetDataNodeAtValue(stored, str(number))
    sequence.AddNodeReferenceID(_FRAMES_OF, volumeNode.GetID())
    return sequence


def is_sequence(node) -> bool:
    """Whether a node is a Sequence, not a volume."""
    return node.IsA("vtkMRMLSequenceNode")


def is_made_of(sequence, volumeNode) -> bool:
    """Whether a Sequence is the :func:`xray_sequence` of a volume."""
    return sequence is not None and sequence.GetNodeReference(_FRAMES_OF) is volumeNode


def shown_sequence(scene, volumeNode) -> tuple:
    """(Sequence, browser) of whose frames a volume shows one; (None, None) of a volume that shows its own."""
    for browser in nodes_of_class(scene, "vtkMRMLSequenceBrowserNode"):
        sequence = browser.GetSequenceNode(volumeNode)
        if sequence is not None and sequence.GetNumberOfDataNodes() > 1:
            return sequence, browser
    return None, None


def index_values(sequence) -> list[str]:
    """What tells the frames of a Sequence from each other, in their order."""
    return [sequence.GetNthIndexValue(item) for item in range(sequence.GetNumberOfDataNodes())]


def track_sequence(
    scene, name: str, matrices: Mapping[int, np.ndarray], verdicts: Iterable[FramePose], index: Sequence[str]
):
    """A Sequence of the transforms that carry a body, one a frame that has a pose.

    Args:
        scene: where the Sequence goes.
        name: of the body, empty for what carries all bodies; a Sequence that was made of it before is filled
            anew.
        matrices: (4, 4) to the parent, RAS, mm, by frame.
        verdicts: on all frames.
        index: what the frames are called in the Sequence of X-rays.
    """
    sequence = track_of(scene, name)
    if sequence is None:
        sequence = _new_sequence(scene, f"{name or 'all bodies'} track")
        sequence.SetAttribute(_IS_TRACK, _OF + name)
    sequence.RemoveAllDataNodes()
    # What is stored of the transforms on disk are their matrices alone.
    told = {pose.frame: {**pose.to_dict(), "T_lps_to_world": None} for pose in verdicts}
    sequence.SetAttribute(_VERDICTS, json.dumps(told))
    for number, matrix in sorted(matrices.items()):
        transform = slicer.vtkMRMLLinearTransformNode()
        transform.SetMatrixTransformToParent(vtk_matrix(matrix))
        attach(transform)
        sequence.SetDataNodeAtValue(transform, index[number - 1])
    return sequence


def tracks_in(scene) -> list:
    """Sequences of bodies' transforms; those of a scene that was loaded move what they moved before.

    A browser gives the node that it moves the attributes of the Sequence's own, which are not stored: without
    them the registration's transform would be one like any other.
    """
    found = marked_nodes(scene, "vtkMRMLSequenceNode", _IS_TRACK)
    for sequence in found:
        for item in range(sequence.GetNumberOfDataNodes()):
            attach(sequence.GetNthDataNode(item))
    return found


def track_of(scene, name: str):
    """The Sequence of a body's transforms, or None."""
    # Former versions wrote the name alone.
    marks = (_OF + name, name)
    return next((node for node in tracks_in(scene) if node.GetAttribute(_IS_TRACK) in marks), None)


def browser_of_tracks(scene):
    """The browser that plays tracks, or None."""
    return next(iter(marked_nodes(scene, "vtkMRMLSequenceBrowserNode", _IS_TRACK)), None)


def matrices_of_track(sequence, index: Sequence[str]) -> dict[int, np.ndarray]:
    """(4, 4) by frame of a :func:`track_sequence` as it was saved, or corrected by hand.

    Args:
        sequence: of the transforms.
        index: what the frames are called in the Sequence of X-rays.
    """
    found, matrix = {}, vtk.vtkMatrix4x4()
    numbers = {_value(value): number for number, value in enumerate(index, start=1)}
    for item, value in enumerate(index_values(sequence)):
        if (number := numbers.get(_value(value))) is not None:
            sequence.GetNthDataNode(item).GetMatrixTransformToParent(matrix)
            found[number] = slicer.util.arrayFromVTKMatrix(matrix)
    return found


def verdicts_of_track(sequence) -> dict[int, FramePose]:
    """By frame, without the poses: what the Sequence's transforms hold."""
    former = json.loads(sequence.GetAttribute(_STATUS) or "{}")
    told = json.loads(sequence.GetAttribute(_VERDICTS) or "{}")
    found = {int(number): FramePose.from_dict(entry) for number, entry in told.items()}
    for number, status in former.items():
        found.setdefault(int(number), FramePose(int(number), None, Verdict(status, [], None, None)))
    return found


def play_together(scene, xrays, moved: Sequence[tuple], browser=None, frames_per_second: float | None = None):
    """A browser whose frame is that of the X-rays and of all bodies.

    Args:
        scene: where the browser goes; one that plays these X-rays already is taken.
        xrays: Sequence of X-rays, which decides how many frames there are.
        moved: (Sequence, the node that shows its frame) of each body, and of X-rays beside the first.
        browser: one that plays the X-rays; none before there is one.
        frames_per_second: of the play button; as it is where not known.

    Returns:
        The browser node.
    """
    if browser is None:
        browsers = marked_nodes(scene, "vtkMRMLSequenceBrowserNode", _IS_TRACK)
        browser = next((node for node in browsers if node.GetMasterSequenceNode() is xrays), None)
    if browser is None:
        browser = scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", f"{xrays.GetName()} browser")
        browser.SetAndObserveMasterSequenceNodeID(xrays.GetID())
    browser.SetAttribute(_IS_TRACK, xrays.GetName())
    for sequence, node in moved:
        if not browser.IsSynchronizedSequenceNode(sequence, True):
            browser.AddSynchronizedSequenceNode(sequence)
        browser.AddProxyNode(node, sequence, False)
        # A pose that is corrected by hand is kept where Slicer is told to.
        browser.SetOverwriteProxyName(sequence, False)
    if frames_per_second:
        browser.SetPlaybackRateFps(float(frames_per_second))
    return browser


def _value(index_value: str) -> float | str:
    """An index value as it may be compared: saved numbers come back as "1.000"."""
    try:
        return round(float(index_value), 3)
    except ValueError:
        return index_value


def _new_sequence(scene, name: str):
    sequence = scene.AddNewNodeByClass("vtkMRMLSequenceNode", name)
    sequence.SetIndexName(_INDEX_NAME)
    sequence.SetIndexUnit("")
    sequence.SetIndexType(slicer.vtkMRMLSequenceNode.NumericIndex)
    return sequence
