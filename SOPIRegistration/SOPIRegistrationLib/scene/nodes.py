"""Volume, X-ray and mask nodes as the core's arrays with their geometry."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.images.ct_planes import dicom_header
from SOPIRegistrationLib.images.ct_series import require_ct
from SOPIRegistrationLib.images.dicom import read_dicom_radiograph
from SOPIRegistrationLib.images.dicom_files import is_dicom
from SOPIRegistrationLib.images.hounsfield import in_hounsfield
from SOPIRegistrationLib.images.itk_reading import check_finite
from SOPIRegistrationLib.images.pictures import require_upright
from SOPIRegistrationLib.images.radiograph import Radiograph
from SOPIRegistrationLib.images.shear import perpendicular, require_sound_axes
from SOPIRegistrationLib.images.volume import Volume
from SOPIRegistrationLib.scene.frames import RAS_FROM_LPS
from SOPIRegistrationLib.scene.pose import own_to_ras
from SOPIRegistrationLib.subject.surface import Surface, closed

_LABELMAP = "Binary labelmap"


def volume_from_node(volumeNode) -> Volume:
    """A CT node in the patient frame: LPS where the node stands under its own transforms.

    The registration's transform (see :mod:`~SOPIRegistrationLib.scene.pose`) is left out: it is the pose.
    Sheared axes and another scale than Hounsfield units are handled as in files, with the same notes.

    Args:
        volumeNode: scalar volume; its voxels are shared, not copied, where they are taken as they are.

    Raises:
        InputError: no voxels, a single slice, colours, NaN, a non-linear transform, singular axes, a scale
            that is not known, a label map, another modality in the DICOM file behind it.
    """
    name = f"'{volumeNode.GetName()}'"
    _require_ct_node(volumeNode, name)
    array = _voxels(volumeNode, "CT")
    if array.ndim > 3:
        raise InputError(f"CT {name} has {array.shape[3]} values a voxel (colours or vectors): one is needed")
    if min(array.shape) < 2:
        extent = " x ".join(str(n) for n in array.shape[::-1])
        raise InputError(f"CT {name} is a single slice ({extent}): a 3D volume is needed")
    check_finite(array, name, "CT")
    index_to_lps = _ijk_to_lps(volumeNode)
    require_sound_axes(index_to_lps[:3, :3], name, "CT")
    return perpendicular(in_hounsfield(Volume(array, index_to_lps, name)))


def radiograph_from_node(volumeNode, frame: int | None = None, mirrored: bool = False) -> Radiograph:
    """An X-ray node as it is stored, with the DICOM tags of the file it came from where that can be found.

    Args:
        volumeNode: scalar volume of one slice, or of several frames; or a gray picture loaded as RGB.
        frame: which frame of several, counted from 1.
        mirrored: flip the columns, where the geometry says that the image was stored mirrored.

    Raises:
        InputError: no pixels, colours, a frame must be chosen, NaN, constant.
    """
    name = f"'{volumeNode.GetName()}'"
    array = _voxels(volumeNode, "X-ray")
    frames = array.shape[0]
    if frame is None and frames > 1:
        raise InputError(
            f"X-ray {name} has {frames} frames or slices: choose one, 1 to {frames}, or, if it is a stack of "
            "files with similar names, load the one file with the option Single File"
        )
    if frame is not None and not 1 <= frame <= frames:
        raise InputError(f"X-ray {name} has no frame {frame}: choose 1 to {frames}")
    pixels = array[(frame or 1) - 1]
    if pixels.ndim > 2:
        # Gray pictures are often saved as RGB: one channel holds all of them, but not of a colour image.
        colours = pixels[..., : 3 if pixels.shape[2] > 2 else 1]
        if (colours != colours[..., :1]).any():
            raise InputError(f"X-ray {name} is a colour image: load a grayscale one")
        pixels = colours[..., 0]
    pixels = pixels.copy()
    check_finite(pixels, name, "X-ray")
    if pixels.min() == pixels.max():
        raise InputError(f"X-ray {name} is constant: every pixel is {pixels.flat[0]:g}, no image")
    radiograph = _with_dicom_facts(Radiograph(pixels, name, metadata={}), volumeNode, frame)
    return radiograph.mirrored() if mirrored else radiograph


def mask_from_node(maskNode, referenceVolumeNode) -> Volume:
    """Bones of a label map, or of a segmentation's visible segments, in the patient frame; 0 outside.

    Args:
        maskNode: segmentation or label map, on any grid.
        referenceVolumeNode: the CT, on whose grid a segmentation drawn as surfaces is filled in.

    Raises:
        InputError: no voxels, no visible segment, a non-linear transform.
    """
    name = f"'{maskNode.GetName()}'"
    if not maskNode.IsA("vtkMRMLSegmentationNode"):
        return Volume(_voxels(maskNode, "mask"), _ijk_to_lps(maskNode), name)
    visible = vtk.vtkStringArray()
    if maskNode.GetDisplayNode() is None:
        maskNode.GetSegmentation().GetSegmentIDs(visible)
    else:
        maskNode.GetDisplayNode().GetVisibleSegmentIDs(visible)
    if visible.GetNumberOfValues() == 0:
        raise InputError(f"segmentation {name} has no visible segment: show those of the bones")
    return labels_of_segments(maskNode, referenceVolumeNode, visible)


def labels_of_segments(segmentationNode, referenceVolumeNode, segments: vtk.vtkStringArray) -> Volume:
    """Label map of segments, 1 for the first and so on, in the patient frame.

    Args:
        segmentationNode: has them.
        referenceVolumeNode: the CT, on whose grid a segmentation drawn as surfaces is filled in.
        segments: their IDs.

    Raises:
        InputError: nothing is in them, a non-linear transform.
    """
    name = f"'{segmentationNode.GetName()}'"
    merged = slicer.vtkOrientedImageData()
    source = segmentationNode
    if not segmentationNode.GetSegmentation().ContainsRepresentation(_LABELMAP):
        source = _filled_in(segmentationNode, referenceVolumeNode)
    source.GenerateMergedLabelmapForAllSegments(
        merged, slicer.vtkSegmentation.EXTENT_UNION_OF_SEGMENTS, None, segments
    )
    extent = merged.GetExtent()
    scalars = merged.GetPointData().GetScalars()
    if scalars is None or extent[1] < extent[0]:
        raise InputError(f"segmentation {name} is empty: draw or load the bones")
    array = vtk_to_numpy(scalars).reshape(merged.GetDimensions()[::-1])
    image_to_own = vtk.vtkMatrix4x4()
    merged.GetImageToWorldMatrix(image_to_own)
    first = np.eye(4)
    first[:3, 3] = extent[::2]
    own = RAS_FROM_LPS @ own_to_ras(segmentationNode)
    return Volume(array, own @ slicer.util.arrayFromVTKMatrix(image_to_own) @ first, name)


def surface_from_node(modelNode, name: str) -> Surface:
    """A model's closed surface in the patient frame.

    Args:
        modelNode: the model.
        name: of the body.

    Raises:
        InputError: no faces, not closed, not in mm, a non-linear transform; VTK is not installed.
    """
    triangles = vtk.vtkTriangleFilter()
    triangles.SetInputData(modelNode.GetPolyData() or vtk.vtkPolyData())
    triangles.PassVertsOff()
    triangles.PassLinesOff()
    triangles.Update()
    faces = triangles.GetOutput()
    if faces.GetNumberOfPolys() == 0:
        raise InputError(f"model '{modelNode.GetName()}' has no faces: load a closed surface")
    to_lps = RAS_FROM_LPS @ own_to_ras(modelNode)
    points = vtk_to_numpy(faces.GetPoints().GetData()) @ to_lps[:3, :3].T + to_lps[:3, 3]
    corners = vtk_to_numpy(faces.GetPolys().GetConnectivityArray()).reshape(-1, 3)
    return closed(points, corners, name, f"'{modelNode.GetName()}'")


def nodes_of_class(scene, class_name: str) -> list:
    """Nodes of a class."""
    nodes = scene.GetNodesByClass(class_name)
    # The collection comes with a reference of its own.
    nodes.UnRegister(None)
    return [nodes.GetItemAsObject(index) for index in range(nodes.GetNumberOfItems())]


def marked_nodes(scene, class_name: str, attribute: str) -> list:
    """Nodes of a class that carry an attribute."""
    return [node for node in nodes_of_class(scene, class_name) if node.GetAttribute(attribute)]


def is_own(node) -> bool:
    """Whether this module has made a node, or keeps in it what it knows of an X-ray."""
    return any(name.startswith("SOPIRegistration.") for name in node.GetAttributeNames())


def remove_node(node) -> None:
    """Take a displayable node out of its scene together with its display and storage nodes."""
    scene = node.GetScene()
    # A view that shows the node may give it another one at once.
    displays = [node.GetNthDisplayNode(index) for index in range(node.GetNumberOfDisplayNodes())]
    for display in filter(None, displays):
        scene.RemoveNode(display)
    if node.GetStorageNode() is not None:
        scene.RemoveNode(node.GetStorageNode())
    scene.RemoveNode(node)


def put_pixels(node, pixels: np.ndarray) -> None:
    """Fill a volume node with (k, j, i) or (k, j, i, components); in place where shape and type stay."""
    stored = None if node.GetImageData() is None else slicer.util.arrayFromVolume(node)
    if stored is not None and stored.shape == pixels.shape and stored.dtype == pixels.dtype:
        stored[:] = pixels
        slicer.util.arrayFromVolumeModified(node)
    else:
        slicer.util.updateVolumeFromArray(node, pixels)


def _voxels(volumeNode, what: str) -> np.ndarray:
    """(k, j, i) or, of colours, (k, j, i, components)."""
    image = volumeNode.GetImageData()
    if image is None or image.GetPointData().GetScalars() is None or min(image.GetDimensions()) < 1:
        raise InputError(f"{what} '{volumeNode.GetName()}' has no voxels: load an image")
    return slicer.util.arrayFromVolume(volumeNode)


def _require_ct_node(volumeNode, name: str) -> None:
    if volumeNode.IsA("vtkMRMLLabelMapVolumeNode"):
        raise InputError(f"CT {name} is a label map: give the CT, and labels as its bones")
    path = _file_behind(volumeNode)
    header = None if path is None else dicom_header(path)
    if header is not None:
        require_ct(header, name)


def _ijk_to_lps(volumeNode) -> np.ndarray:
    ijk_to_own = vtk.vtkMatrix4x4()
    volumeNode.GetIJKToRASMatrix(ijk_to_own)
    return RAS_FROM_LPS @ own_to_ras(volumeNode) @ slicer.util.arrayFromVTKMatrix(ijk_to_own)


def _filled_in(segmentationNode, referenceVolumeNode):
    """A copy, outside the scene, whose surfaces are label maps on the CT's grid."""
    # Surfaces are in the segmentation's own coordinates, the grid must be too.
    ijk_to_own = np.linalg.inv(RAS_FROM_LPS @ own_to_ras(segmentationNode)) @ _ijk_to_lps(referenceVolumeNode)
    geometry = slicer.vtkSegmentationConverter.SerializeImageGeometry(
        slicer.util.vtkMatrixFromArray(ijk_to_own), referenceVolumeNode.GetImageData()
    )
    copy = slicer.vtkSegmentation()
    copy.DeepCopy(segmentationNode.GetSegmentation())
    copy.SetConversionParameter(
        slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName(), geometry
    )
    copy.CreateRepresentation(_LABELMAP)
    node = slicer.vtkMRMLSegmentationNode()
    node.SetAndObserveSegmentation(copy)
    return node


def _with_dicom_facts(radiograph: Radiograph, volumeNode, frame: int | None) -> Radiograph:
    """With what the DICOM file behind a node says: polarity, tags, what is shown.

    Raises:
        InputError: the node comes from a picture whose header turns it, which Slicer may not follow.
    """
    path = _file_behind(volumeNode)
    if path is None:
        return radiograph
    if not is_dicom(path):
        require_upright(path)
        return radiograph
    stored = read_dicom_radiograph(path, frame or 1)
    if stored.pixels.shape != radiograph.pixels.shape:
        return replace(radiograph, metadata=stored.metadata)
    # A reader may have turned the gray scale over (MONOCHROME1, a negative slope): the file speaks of the
    # stored values.
    turned = bool(np.corrcoef(stored.pixels.ravel(), radiograph.pixels.ravel())[0, 1] < 0)
    dark, expected = (
        None if known is None else known != turned for known in (stored.bone_dark, stored.bone_dark_expected)
    )
    return replace(
        radiograph, bone_dark=dark, bone_dark_expected=expected, metadata=stored.metadata, seen=stored.seen
    )


def _file_behind(volumeNode) -> Path | None:
    """The file that a node was loaded from, DICOM first."""
    files = []
    database = getattr(slicer, "dicomDatabase", None)
    instances = (volumeNode.GetAttribute("DICOM.instanceUIDs") or "").split()
    if database is not None and instances:
        files.append(database.fileForInstance(instances[0]))
    storage = volumeNode.GetStorageNode()
    if storage is not None:
        files.append(storage.GetFileName())
    found = [Path(file) for file in files if file and Path(file).is_file()]
    return next(filter(is_dicom, found), found[0] if found else None)
