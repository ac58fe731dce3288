"""Tracks and X-ray sequences as Slicer's Sequences, played together by one browser.

The core reads a sequence of X-rays from a Sequence of volumes or from one volume of several frames, and a
body's track becomes a Sequence of transforms. The browser's frame then moves the bodies in 3D together with
the X-ray.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
import slicer
import vtk

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.radiograph import Radiograph
from SOPIRegistrationLib.scene.frames import matrix_from_pose, pose_from_matrix
from SOPIRegistrationLib.scene.nodes import marked_nodes, radiograph_from_node
from SOPIRegistrationLib.scene.pose import attach, vtk_matrix

# Attributes that saving a scene keeps.
STATUS = "SOPIRegistration.TrackStatus"
_IS_TRACK = "SOPIRegistration.IsTrack"
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
        if not node.IsA("vtkMRMLSequenceNode"):
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
    return sequence


def track_sequence(scene, name: str, poses: Mapping[int, tuple[np.ndarray, str]], frame: PoseFrame):
    """A Sequence of the transforms that carry a body, one a frame that has a pose.

    Args:
        scene: where the Sequence goes.
        name: of the body; a Sequence that was made of it before is filled anew.
        poses: (4, 4) T_lps_to_camera and status by frame.
        frame: what the scene's transforms are measured from.
    """
    sequence = track_of(scene, name)
    if sequence is None:
        sequence = _new_sequence(scene, f"{name} track")
        sequence.SetAttribute(_IS_TRACK, name)
    sequence.RemoveAllDataNodes()
    # What is stored of the transforms on disk are their matrices alone.
    sequence.SetAttribute(STATUS, json.dumps({number: status for number, (_, status) in poses.items()}))
    for number, (T, _) in sorted(poses.items()):
        transform = slicer.vtkMRMLLinearTransformNode()
        transform.SetMatrixTransformToParent(vtk_matrix(matrix_from_pose(T, frame)))
        attach(transform)
        sequence.SetDataNodeAtValue(transform, str(number))
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
    return next((node for node in tracks_in(scene) if node.GetAttribute(_IS_TRACK) == name), None)


def browser_of_tracks(scene):
    """The browser that plays tracks, or None."""
    return next(iter(marked_nodes(scene, "vtkMRMLSequenceBrowserNode", _IS_TRACK)), None)


def poses_of_track(sequence, frame: PoseFrame) -> dict[int, tuple[np.ndarray, str]]:
    """Inverse of :func:`track_sequence`: a Sequence as it was saved, or corrected by hand.

    Raises:
        InputError: a transform in it is not rigid.
    """
    found, matrix = {}, vtk.vtkMatrix4x4()
    statuses = json.loads(sequence.GetAttribute(STATUS) or "{}")
    for item in range(sequence.GetNumberOfDataNodes()):
        # Saved index values come back as "1.000".
        number = round(float(sequence.GetNthIndexValue(item)))
        sequence.GetNthDataNode(item).GetMatrixTransformToParent(matrix)
        name = f"frame {number} of '{sequence.GetName()}'"
        T = pose_from_matrix(slicer.util.arrayFromVTKMatrix(matrix), frame, name)
        found[number] = T, statuses.get(str(number), "")
    return found


def play_together(scene, xrays, tracks: Sequence[tuple], frames_per_second: float | None = None):
    """A browser whose frame is that of the X-rays and of all bodies.

    Args:
        scene: where the browser goes; one that plays these X-rays already is taken.
        xrays: Sequence of X-rays, which decides how many frames there are.
        tracks: (Sequence of transforms, the transform node that it moves) of each body.
        frames_per_second: of the play button; as it is where not known.

    Returns:
        The browser node.
    """
    browsers = marked_nodes(scene, "vtkMRMLSequenceBrowserNode", _IS_TRACK)
    browser = next((node for node in browsers if node.GetMasterSequenceNode() is xrays), None)
    if browser is None:
        browser = scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", f"{xrays.GetName()} browser")
        browser.SetAttribute(_IS_TRACK, xrays.GetName())
        browser.SetAndObserveMasterSequenceNodeID(xrays.GetID())
    for sequence, transform in tracks:
        if not browser.IsSynchronizedSequenceNode(sequence):
            browser.AddSynchronizedSequenceNode(sequence)
        browser.AddProxyNode(transform, sequence, False)
        # A pose that is corrected by hand is kept where Slicer is told to.
        browser.SetOverwriteProxyName(sequence, False)
    if frames_per_second:
        browser.SetPlaybackRateFps(float(frames_per_second))
    return browser


def _new_sequence(scene, name: str):
    sequence = scene.AddNewNodeByClass("vtkMRMLSequenceNode", name)
    sequence.SetIndexName(_INDEX_NAME)
    sequence.SetIndexUnit("")
    sequence.SetIndexType(slicer.vtkMRMLSequenceNode.NumericIndex)
    return sequence
