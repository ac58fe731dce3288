"""CT, X-ray and mask nodes as arrays with their geometry, and what is refused."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.images.itk_reading import quiet
from SOPIRegistrationLib.scene import (
    RAS_FROM_LPS,
    attach,
    mask_from_node,
    radiograph_from_node,
    volume_from_node,
)
from support.ct_files import grid, largest_error_voxels, sampled
from support.objects import oblique_grid

slicer = pytest.importorskip("slicer")
vtk = pytest.importorskip("vtk")

PARENT = se3.exp_se3(np.array([0.3, -0.5, 0.2, 25.0, -60.0, 10.0]))


def put_under(node, matrix, name="parent"):
    transform = node.GetScene().AddNewNodeByClass("vtkMRMLLinearTransformNode", name)
    transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    node.SetAndObserveTransformNodeID(transform.GetID())
    return transform


def test_oblique_anisotropic_CT_keeps_grid_and_values(oblique_ct):
    grid = oblique_grid()
    volume = volume_from_node(oblique_ct)
    np.testing.assert_allclose(volume.index_to_lps, grid.index_to_lps, atol=1e-9)
    assert volume.array.shape == grid.array.shape
    assert volume.array[2, 5, 11] == 11 + 15 - 14
    assert volume.name == "'CT'"


def test_CT_under_a_transform_is_taken_where_it_stands(oblique_ct):
    put_under(oblique_ct, PARENT)
    expected = RAS_FROM_LPS @ PARENT @ RAS_FROM_LPS @ oblique_grid().index_to_lps
    np.testing.assert_allclose(volume_from_node(oblique_ct).index_to_lps, expected, atol=1e-9)
    # Nothing is hardened behind the user's back.
    assert oblique_ct.GetParentTransformNode() is not None


def test_hardening_a_transform_changes_nothing(oblique_ct):
    put_under(oblique_ct, PARENT)
    before = volume_from_node(oblique_ct)
    oblique_ct.HardenTransform()
    after = volume_from_node(oblique_ct)
    assert oblique_ct.GetParentTransformNode() is None
    np.testing.assert_allclose(after.index_to_lps, before.index_to_lps, atol=1e-6)
    np.testing.assert_array_equal(after.array, before.array)


def test_voxels_outlive_a_deleted_node(scene, oblique_ct):
    array = volume_from_node(oblique_ct).array
    expected = array.copy()
    scene.RemoveNode(oblique_ct)
    del oblique_ct
    gc.collect()
    filler = [np.full_like(expected, 77) for _ in range(3)]
    np.testing.assert_array_equal(array, expected)
    assert len(filler) == 3


def test_non_linear_transform_is_refused(scene, oblique_ct):
    warp = scene.AddNewNodeByClass("vtkMRMLBSplineTransformNode", "warp")
    oblique_ct.SetAndObserveTransformNodeID(warp.GetID())
    with pytest.raises(InputError, match="non-linear transform 'warp': harden it"):
        volume_from_node(oblique_ct)


def test_sheared_CT_is_resampled_to_perpendicular_axes(scene, add_volume):
    """A tilted gantry's volume, as loaded with a sheared matrix or moved by a shearing transform."""
    affine = grid(0.4)
    node = add_volume(sampled(affine), name="tilted")
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(RAS_FROM_LPS @ affine))
    volume = volume_from_node(node)
    assert largest_error_voxels(volume) < 0.01
    (note,) = volume.notes
    assert "'tilted' has sheared axes" in note
    straight = add_volume(sampled(affine), name="moved")
    straight.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(RAS_FROM_LPS @ grid()))
    put_under(straight, RAS_FROM_LPS @ affine @ np.linalg.inv(grid()) @ RAS_FROM_LPS)
    moved = volume_from_node(straight)
    np.testing.assert_allclose(moved.index_to_lps, volume.index_to_lps, atol=1e-6)
    assert largest_error_voxels(moved) < 0.01


def test_CT_with_singular_axes_is_refused(oblique_ct):
    put_under(oblique_ct, np.diag([1.0, 1, 1e-14, 1]))
    with pytest.raises(InputError, match="CT 'CT' has axes that do not span space"):
        volume_from_node(oblique_ct)


def test_CT_with_an_offset_is_taken_in_hounsfield_units(add_volume):
    hu = sampled(grid())
    node = add_volume((hu + 1024).astype(np.uint16), name="unsigned")
    volume = volume_from_node(node)
    np.testing.assert_array_equal(volume.array, hu)
    assert "1024 added" in volume.notes[0]
    assert slicer.util.arrayFromVolume(node).min() == 24


def test_empty_single_slice_colour_and_nan_CTs_are_refused(scene, add_volume):
    with pytest.raises(InputError, match="CT 'empty' has no voxels"):
        volume_from_node(scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty"))
    with pytest.raises(InputError, match=r"CT 'flat' is a single slice \(5 x 4 x 1\)"):
        volume_from_node(add_volume(np.ones((1, 4, 5)), name="flat"))
    colours = add_volume(np.ones((4, 4, 5, 3), np.uint8), name="rgb", class_name="vtkMRMLVectorVolumeNode")
    with pytest.raises(InputError, match="3 values a voxel"):
        volume_from_node(colours)
    broken = np.ones((4, 4, 5), np.float32)
    broken[1, 2, 3] = np.nan
    with pytest.raises(InputError, match="NaN"):
        volume_from_node(add_volume(broken, name="broken"))


@pytest.fixture
def pixels(rng) -> np.ndarray:
    return rng.integers(0, 4000, (30, 40)).astype(np.uint16)


def test_xray_keeps_its_pixels(add_volume, pixels):
    radiograph = radiograph_from_node(add_volume(pixels[None], name="X"))
    np.testing.assert_array_equal(radiograph.pixels, pixels)
    assert (radiograph.name, radiograph.bone_dark, radiograph.metadata) == ("'X'", None, {})


def test_mirrored_xray_is_flipped_left_right(add_volume, pixels):
    radiograph = radiograph_from_node(add_volume(pixels[None]), mirrored=True)
    np.testing.assert_array_equal(radiograph.pixels, pixels[:, ::-1])


def test_gray_rgb_picture_is_an_xray_and_a_colour_one_is_not(add_volume, pixels):
    gray = np.repeat((pixels // 16).astype(np.uint8)[None, ..., None], 3, axis=-1)
    node = add_volume(gray, class_name="vtkMRMLVectorVolumeNode")
    np.testing.assert_array_equal(radiograph_from_node(node).pixels, gray[0, ..., 0])
    gray[0, 3, 4, 1] += 1
    with pytest.raises(InputError, match="'photo' is a colour image"):
        radiograph_from_node(add_volume(gray, name="photo", class_name="vtkMRMLVectorVolumeNode"))


def test_frame_of_a_run_has_to_be_chosen(add_volume, pixels):
    node = add_volume(np.stack([pixels, pixels[::-1], pixels[:, ::-1]]), name="run")
    with pytest.raises(InputError, match="'run' has 3 frames or slices: choose one, 1 to 3"):
        radiograph_from_node(node)
    with pytest.raises(InputError, match="no frame 4"):
        radiograph_from_node(node, frame=4)
    np.testing.assert_array_equal(radiograph_from_node(node, frame=2).pixels, pixels[::-1])


def test_constant_xray_is_refused(add_volume):
    with pytest.raises(InputError, match="'blank' is constant"):
        radiograph_from_node(add_volume(np.full((1, 8, 8), 3.0), name="blank"))


@pytest.fixture
def dicom_xray(tmp_path, pixels):
    """A DX file that stores bones dark: MONOCHROME1."""
    import pydicom
    from pydicom.dataset import FileDataset, FileMetaDataset

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    dataset.SOPClassUID, dataset.SOPInstanceUID = (
        meta.MediaStorageSOPClassUID,
        meta.MediaStorageSOPInstanceUID,
    )
    dataset.Modality, dataset.PhotometricInterpretation = "DX", "MONOCHROME1"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.DistanceSourceToDetector = 1050
    dataset.PixelData = pixels.tobytes()
    path = tmp_path / "xray.dcm"
    dataset.save_as(path)
    return path


def test_polarity_and_tags_come_from_the_dicom_file(dicom_xray, add_volume, pixels, monkeypatch):
    class Database:
        def fileForInstance(self, uid):
            return str(dicom_xray) if uid == "1.2.3" else ""

    monkeypatch.setattr(slicer, "dicomDatabase", Database(), raising=False)
    as_stored = add_volume(pixels[None])
    as_stored.SetAttribute("DICOM.instanceUIDs", "1.2.3 1.2.4")
    radiograph = radiograph_from_node(as_stored)
    assert radiograph.metadata["DistanceSourceToDetector"] == 1050
    assert (radiograph.bone_dark, radiograph.bone_dark_expected) == (None, True)

    turned_over = add_volume(4095 - pixels[None])
    turned_over.SetAttribute("DICOM.instanceUIDs", "1.2.3")
    assert radiograph_from_node(turned_over).bone_dark_expected is False


def test_what_the_file_says_of_the_intensity_is_certain(dicom_xray, add_volume, pixels, monkeypatch):
    import pydicom

    dataset = pydicom.dcmread(dicom_xray)
    dataset.PixelIntensityRelationshipSign = 1
    dataset.save_as(dicom_xray)
    database = type("Database", (), {"fileForInstance": lambda self, uid: str(dicom_xray)})()
    monkeypatch.setattr(slicer, "dicomDatabase", database, raising=False)
    for values, dark in ((pixels, True), (4095 - pixels, False)):
        node = add_volume(values[None])
        node.SetAttribute("DICOM.instanceUIDs", "1.2.3")
        radiograph = radiograph_from_node(node)
        assert (radiograph.bone_dark, radiograph.bone_dark_expected) == (dark, None)


def test_dicom_file_dropped_into_the_application_is_recognised(scene, dicom_xray, pixels):
    storage = scene.AddNewNodeByClass("vtkMRMLVolumeArchetypeStorageNode")
    storage.SetFileName(str(dicom_xray))
    storage.SetSingleFile(True)
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "dropped")
    with quiet():
        assert storage.ReadData(node)
    node.SetAndObserveStorageNodeID(storage.GetID())
    radiograph = radiograph_from_node(node)
    # Slicer's reader turns MONOCHROME1 over, with the bones that were dark; before 5.12 it did not.
    correlation = np.corrcoef(radiograph.pixels.ravel(), pixels.ravel())[0, 1]
    assert abs(correlation) > 0.99
    assert radiograph.bone_dark_expected is bool(correlation > 0)
    assert radiograph.metadata["DistanceSourceToDetector"] == 1050


@pytest.fixture
def bone_voxels(oblique_ct) -> np.ndarray:
    """An L of voxels inside the CT, unlike along every axis."""
    mask = np.zeros(slicer.util.arrayFromVolume(oblique_ct).shape, np.uint8)
    mask[10:20, 20:50, 30:40] = 1
    mask[10:14, 20:26, 30:70] = 1
    return mask


def marked_points(volume) -> np.ndarray:
    k, j, i = np.nonzero(volume.array)
    points = volume.points_lps(np.stack([i, j, k], axis=-1))
    return points[np.lexsort(points.T.round(3))]


@pytest.fixture
def segmentation(scene, oblique_ct, bone_voxels):
    """A segmentation with the bones as one segment and a box of soft tissue as another."""
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "bones")
    node.CreateDefaultDisplayNodes()
    other = np.zeros_like(bone_voxels)
    other[30:35, 60:66, 5:15] = 1
    ijk_to_ras = vtk.vtkMatrix4x4()
    oblique_ct.GetIJKToRASMatrix(ijk_to_ras)
    for name, voxels in (("bone", bone_voxels), ("liver", other)):
        image = slicer.vtkOrientedImageData()
        image.SetDimensions(voxels.shape[::-1])
        image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
        vtk.util.numpy_support.vtk_to_numpy(image.GetPointData().GetScalars())[:] = voxels.ravel()
        image.SetImageToWorldMatrix(ijk_to_ras)
        node.AddSegmentFromBinaryLabelmapRepresentation(image, name)
    return node


def test_label_map_is_a_mask(add_volume, oblique_ct, bone_voxels):
    matrix = RAS_FROM_LPS @ oblique_grid().index_to_lps
    labels = add_volume(bone_voxels, matrix, "labels", "vtkMRMLLabelMapVolumeNode")
    mask = mask_from_node(labels, oblique_ct)
    np.testing.assert_array_equal(mask.array, bone_voxels)
    np.testing.assert_allclose(mask.index_to_lps, oblique_grid().index_to_lps, atol=1e-9)


def test_visible_segments_are_the_mask(segmentation, oblique_ct, bone_voxels):
    segments = segmentation.GetSegmentation()
    segmentation.GetDisplayNode().SetSegmentVisibility(segments.GetSegmentIdBySegmentName("liver"), False)
    mask = mask_from_node(segmentation, oblique_ct)
    expected = oblique_grid().same_grid(bone_voxels)
    np.testing.assert_allclose(marked_points(mask), marked_points(expected), atol=1e-6)

    segmentation.GetDisplayNode().SetSegmentVisibility(segments.GetSegmentIdBySegmentName("liver"), True)
    assert (mask_from_node(segmentation, oblique_ct).array > 0).sum() == bone_voxels.sum() + 5 * 6 * 10


def test_segmentation_under_the_CTs_transform_and_the_pose_stays_in_the_patient_frame(
    scene, segmentation, oblique_ct
):
    transform = put_under(oblique_ct, PARENT)
    segmentation.SetAndObserveTransformNodeID(transform.GetID())
    before = marked_points(mask_from_node(segmentation, oblique_ct))
    pose = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "pose")
    pose.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(se3.exp_se3(np.full(6, 0.4))))
    attach(pose, oblique_ct, segmentation)
    after = mask_from_node(segmentation, oblique_ct)
    np.testing.assert_allclose(marked_points(after), before, atol=1e-6)
    inside = np.linalg.solve(volume_from_node(oblique_ct).index_to_lps, [*before.mean(axis=0), 1])[:3]
    assert (inside > 0).all()


def test_segmentation_drawn_as_surface_is_filled_in(scene, segmentation, oblique_ct, bone_voxels):
    put_under(segmentation, PARENT)
    put_under(oblique_ct, PARENT)
    segmentation.CreateClosedSurfaceRepresentation()
    segmentation.SetSourceRepresentationToClosedSurface()
    segmentation.RemoveBinaryLabelmapRepresentation()
    liver = segmentation.GetSegmentation().GetSegmentIdBySegmentName("liver")
    segmentation.GetDisplayNode().SetSegmentVisibility(liver, False)
    count = scene.GetNumberOfNodes()

    mask = mask_from_node(segmentation, oblique_ct)
    expected = volume_from_node(oblique_ct).same_grid(bone_voxels)
    assert abs((mask.array > 0).sum() / bone_voxels.sum() - 1) < 0.15
    np.testing.assert_allclose(
        marked_points(mask).mean(axis=0), marked_points(expected).mean(axis=0), atol=0.5
    )
    # The user's segmentation is left as it was.
    assert scene.GetNumberOfNodes() == count
    assert not segmentation.GetSegmentation().ContainsRepresentation("Binary labelmap")


def test_segmentation_with_nothing_to_see_is_refused(scene, segmentation, oblique_ct):
    for index in range(segmentation.GetSegmentation().GetNumberOfSegments()):
        segment = segmentation.GetSegmentation().GetNthSegmentID(index)
        segmentation.GetDisplayNode().SetSegmentVisibility(segment, False)
    with pytest.raises(InputError, match="'bones' has no visible segment"):
        mask_from_node(segmentation, oblique_ct)
    with pytest.raises(InputError, match="'nothing' has no visible segment"):
        mask_from_node(scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "nothing"), oblique_ct)
    with pytest.raises(InputError, match="mask 'unread' has no voxels"):
        mask_from_node(scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "unread"), oblique_ct)


def test_what_the_file_hides_is_not_seen(dicom_xray, add_volume, pixels, monkeypatch):
    import pydicom

    dataset = pydicom.dcmread(dicom_xray)
    dataset.CollimatorShape = "RECTANGULAR"
    dataset.CollimatorLeftVerticalEdge, dataset.CollimatorRightVerticalEdge = 3, pixels.shape[1]
    dataset.CollimatorUpperHorizontalEdge, dataset.CollimatorLowerHorizontalEdge = 1, pixels.shape[0]
    dataset.save_as(dicom_xray)
    database = type("Database", (), {"fileForInstance": lambda self, uid: str(dicom_xray)})()
    monkeypatch.setattr(slicer, "dicomDatabase", database, raising=False)
    node = add_volume(pixels[None])
    node.SetAttribute("DICOM.instanceUIDs", "1.2.3")
    assert not radiograph_from_node(node).seen[:, :2].any()
    assert radiograph_from_node(node).seen[:, 2:].all()
    assert not radiograph_from_node(node, mirrored=True).seen[:, -2:].any()


def test_a_picture_that_its_header_turns_is_refused(scene, add_volume, pixels, tmp_path):
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray((pixels / 16).astype(np.uint8)).save(tmp_path / "x.jpg", exif=exif)
    storage = scene.AddNewNodeByClass("vtkMRMLVolumeArchetypeStorageNode")
    storage.SetFileName(str(tmp_path / "x.jpg"))
    node = add_volume(pixels[None])
    node.SetAndObserveStorageNodeID(storage.GetID())
    with pytest.raises(InputError, match=r"x.jpg is stored turned or mirrored \(Orientation 6"):
        radiograph_from_node(node)


def test_a_label_map_is_no_ct(add_volume):
    labels = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6) * 20
    node = add_volume(labels, np.eye(4), "labels", "vtkMRMLLabelMapVolumeNode")
    with pytest.raises(InputError, match="'labels' is a label map: give the CT, and labels as its bones"):
        volume_from_node(node)


def test_a_volume_of_another_modality_is_no_ct(dicom_xray, add_volume, monkeypatch):
    import pydicom

    database = type("Database", (), {"fileForInstance": lambda self, uid: str(dicom_xray)})()
    monkeypatch.setattr(slicer, "dicomDatabase", database, raising=False)
    hu = np.where(np.indices((6, 20, 24))[2] > 12, 40, -1000).astype(np.int16)
    node = add_volume(hu, np.diag([2.0, 2.0, 2.0, 1.0]), "scan")
    assert volume_from_node(node).array.shape == hu.shape
    node.SetAttribute("DICOM.instanceUIDs", "1.2.3")
    dataset = pydicom.dcmread(dicom_xray)
    for modality, kind in (("MR", pydicom.uid.MRImageStorage), ("CT", pydicom.uid.CTImageStorage)):
        dataset.Modality, dataset.SOPClassUID = modality, kind
        dataset.file_meta.MediaStorageSOPClassUID = kind
        dataset.save_as(dicom_xray)
        if modality == "CT":
            assert volume_from_node(node).array.shape == hu.shape
            continue
        with pytest.raises(InputError, match=r"'scan' is no CT: its Modality \(0008,0060\) is MR"):
            volume_from_node(node)
