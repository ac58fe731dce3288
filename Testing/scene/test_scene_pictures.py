"""Whole cases as a user sees them, the demo case and the real wrist."""

from __future__ import annotations

import json

import matplotlib.image
import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage
from SOPIRegistrationLib.geometry.files import load_geometry
from SOPIRegistrationLib.images.attenuation import attenuation_of_hu
from SOPIRegistrationLib.images.ct_preparation import prepare_ct
from SOPIRegistrationLib.projector import ProjectorVolume, project
from SOPIRegistrationLib.scene import (
    FUSION_VIEW,
    OVERLAY_MODES,
    XRAY_VIEW,
    CArmModel,
    Overlay,
    attach,
    lay_slice_view_on_detector,
    load_demo_case,
    mask_from_node,
    place_on_detector,
    pose_of,
    radiograph_from_node,
    set_pose,
    show_bones,
    slice_node,
    update_drr,
    volume_from_node,
)
from support.rendering import can_render

slicer = pytest.importorskip("slicer")

SIZE = 384


@pytest.fixture(scope="module")
def case(demo_case):
    return demo_case


@pytest.fixture
def views(host, scene):
    """X-ray and fusion view, both square."""
    host.show_layout()

    def lay(camera, frame, reference=None):
        for view in (XRAY_VIEW, FUSION_VIEW):
            node = slice_node(scene, view)
            node.SetDimensions(SIZE, SIZE, 1)
            lay_slice_view_on_detector(node, camera, frame, reference=reference)

    return lay


def colourfulness(picture: np.ndarray) -> float:
    return float(np.abs(picture[..., 0].astype(int) - picture[..., 2]).mean())


def exposed(pixels: np.ndarray, threshold: float) -> np.ndarray:
    """The round field of an intensifier, with the bones in it."""
    return ndimage.binary_erosion(ndimage.binary_fill_holes(pixels > threshold), iterations=4)


@pytest.fixture
def demo(scene, case):
    demo = load_demo_case(scene, case=case)
    transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "CT to C-arm")
    attach(transform, demo.ct, demo.labels)
    return demo, transform


def test_demo_nodes_are_the_demo_case(scene, demo, case):
    nodes, transform = demo
    ct = volume_from_node(nodes.ct)
    np.testing.assert_array_equal(ct.array, case.ct.array)
    np.testing.assert_allclose(ct.index_to_lps, case.ct.index_to_lps, atol=1e-9)
    np.testing.assert_array_equal(radiograph_from_node(nodes.xray).pixels, case.radiograph.pixels)
    labels = mask_from_node(nodes.labels, nodes.ct)
    np.testing.assert_array_equal(labels.array, case.labels.array)
    np.testing.assert_allclose(labels.index_to_lps, case.labels.index_to_lps, atol=1e-9)
    assert nodes.geometry.camera is case.camera
    assert nodes.geometry.pose_frame(case.pose_frame.centre_lps_mm).sod_mm == case.pose_frame.sod_mm
    set_pose(transform, case.T_true, case.pose_frame)
    np.testing.assert_allclose(pose_of(transform, case.pose_frame), case.T_true, atol=1e-9)


@pytest.mark.slow
def test_fusion_of_the_demo_case_is_gray_at_the_truth_and_coloured_beside_it(
    host, scene, views, demo, case, screenshots
):
    nodes, transform = demo
    camera, frame = case.camera, case.pose_frame
    prepared = prepare_ct(volume_from_node(nodes.ct))
    projector = ProjectorVolume(prepared.attenuation)
    valid = exposed(case.radiograph.pixels, 300)
    overlay, drr = Overlay(scene), None
    views(camera, frame)
    CArmModel(scene).update(camera, frame)
    show_bones(scene, prepared.bone, transform)

    rows, colours = [], {}
    for name, T in (("start", case.T_start), ("registered", case.T_true)):
        set_pose(transform, T, frame)
        drr = update_drr(drr, nodes.xray, project(projector, camera, T), camera, frame)
        overlay.show(nodes.xray, drr, bone_dark=bool(case.radiograph.bone_dark), valid=valid)
        overlay.match_drr_window()
        pictures = []
        for mode in OVERLAY_MODES:
            overlay.mode = mode
            pictures.append(host.slice_picture(FUSION_VIEW))
        colours[name] = colourfulness(pictures[OVERLAY_MODES.index("fusion")])
        rows.append(np.hstack(pictures))
        if can_render():
            view = host.render_3d(960, 540, (1.5, 1.2, 0.6))
            assert len(np.unique(view.reshape(-1, 3), axis=0)) > 1000
            matplotlib.image.imsave(screenshots / f"scene_c_arm_{name}.png", view)
    matplotlib.image.imsave(screenshots / "scene_overlay_modes.png", np.vstack(rows))
    overlay.mode = "fusion"
    if can_render():
        layout = [host.slice_picture(view) for view in (XRAY_VIEW, FUSION_VIEW)]
        layout.append(host.render_3d(520, SIZE, (1.5, 1.2, 0.6)))
        matplotlib.image.imsave(screenshots / "scene_layout.png", np.hstack(layout))
    assert colours["registered"] < 0.6 * colours["start"]


def test_real_wrist_at_its_gold_standard(host, scene, views, shared_data, screenshots, tmp_path):
    """Files by the application's own reader, two calibrated cameras known by K, R and t."""
    folder = shared_data / "wrist"
    ct = host.load_volume(folder / "radius.nii.gz", "radius")
    geometry = load_geometry(folder / "cameras.json")
    first, second = geometry.cameras
    volume = volume_from_node(ct)
    frame = geometry.for_camera(first.name).pose_frame(volume.centre_lps_mm)
    gold = json.loads((folder / "gold_0099.json").read_text())
    T_lps_to_world = np.array(gold["T_radius_lps_to_world"])
    T_lps_to_first = first.T_world_to_camera @ T_lps_to_world

    transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "radius to C-arm")
    attach(transform, ct)
    set_pose(transform, T_lps_to_first, frame)
    attenuation = volume.same_grid(attenuation_of_hu(volume.array.astype(np.float32)))
    projector = ProjectorVolume(attenuation)
    show_bones(scene, volume.same_grid((volume.array > 200).astype(np.uint8)), transform)

    pictures = []
    for camera in (first, second):
        # The application reads PNG, slicer-core was built without.
        copy = tmp_path / f"{camera.name}.nrrd"
        sitk.WriteImage(sitk.ReadImage(str(folder / f"frame_0099_{camera.name}.png")), copy)
        xray = host.load_volume(copy, f"X-ray {camera.name}")
        pixels = radiograph_from_node(xray).pixels
        assert pixels.shape == camera.shape
        place_on_detector(xray, camera, frame, reference=first)
        views(camera, frame, first)
        CArmModel(scene).update(camera, frame, first)
        live = camera.resampled(440, 440)
        image = project(projector, live, T_lps_to_world)
        drr = update_drr(None, xray, image, live, frame, reference=first)
        overlay = Overlay(scene)
        overlay.show(xray, drr, bone_dark=True, valid=exposed(pixels, 30))
        for mode in OVERLAY_MODES[:2]:
            overlay.mode = mode
            pictures.append(host.slice_picture(FUSION_VIEW))
        # Bones are dark where the DRR has them, compared with a ring around it.
        small = pixels[2::4, 2::4].astype(float)
        bone = image > 0.5 * image.max()
        ring = ndimage.binary_dilation(bone, iterations=25) & ~ndimage.binary_dilation(
            image > 0, iterations=5
        )
        assert small[bone].mean() < small[ring].mean() - 10
    matplotlib.image.imsave(screenshots / "scene_wrist.png", np.hstack(pictures))
    if can_render():
        view = host.render_3d(960, 540, (0.3, 1.2, 1.0))
        matplotlib.image.imsave(screenshots / "scene_wrist_c_arms.png", view)


def test_3d_views_can_be_rendered_here():
    """Says once why the 3D pictures of the other tests were not made."""
    if not can_render():
        pytest.skip("3D views need OpenGL: apt-get install libegl1 libgl1; the other tests leave them out")
