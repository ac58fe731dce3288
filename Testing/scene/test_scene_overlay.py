"""The fusion view as slicer-core's slice pipeline blends it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.overlay import fusion_image
from SOPIRegistrationLib.scene import (
    FUSION_VIEW,
    OVERLAY_MODES,
    XRAY_VIEW,
    Overlay,
    lay_slice_view_on_detector,
    place_on_detector,
    slice_node,
    update_drr,
)

slicer = pytest.importorskip("slicer")

CAMERA = Camera.from_c_arm(1020.0, (0.6, 0.6), 128, 96)
FRAME = PoseFrame([12.0, -31.0, 140.0], 640.0, "AP")
SCALE = 4


@pytest.fixture
def drr_image(rng) -> np.ndarray:
    image = ndimage.gaussian_filter(rng.normal(size=CAMERA.shape), 5)
    return (5 * (image - image.min()) / np.ptp(image)).astype(np.float32)


@pytest.fixture
def xray_image(drr_image) -> np.ndarray:
    """The DRR moved by some pixels, bones dark, 12 bits."""
    return np.rint(4000 - 700 * np.roll(drr_image, (4, 7), axis=(0, 1))).astype(np.uint16)


@pytest.fixture
def xray(add_volume, xray_image):
    node = add_volume(xray_image[None], name="X-ray")
    node.GetDisplayNode().AutoWindowLevelOff()
    node.GetDisplayNode().SetWindowLevelMinMax(500, 4000)
    place_on_detector(node, CAMERA, FRAME)
    return node


@pytest.fixture
def drr(xray, drr_image):
    return update_drr(None, xray, drr_image, CAMERA, FRAME)


@pytest.fixture
def view(host, scene):
    """The fusion view, four pixels to one of the image."""
    host.show_layout()
    node = slice_node(scene, FUSION_VIEW)
    node.SetDimensions(SCALE * 128, SCALE * 96, 1)
    lay_slice_view_on_detector(node, CAMERA, FRAME)

    def picture() -> np.ndarray:
        blended = host.slice_picture(FUSION_VIEW)
        # The view's pixel grid is half a pixel off the image's: here a view's pixel is an image's centre.
        return blended[SCALE // 2 - 1 :: SCALE, SCALE // 2 :: SCALE].astype(int)

    return picture


@pytest.fixture
def overlay(scene, view, xray, drr) -> Overlay:
    overlay = Overlay(scene)
    overlay.show(xray, drr, bone_dark=True)
    return overlay


@pytest.mark.parametrize("mode", OVERLAY_MODES)
def test_view_shows_the_picture_of_the_mode(overlay, view, xray_image, drr_image, mode):
    overlay.mode = mode
    expected = fusion_image(
        xray_image,
        drr_image,
        mode="drr" if mode == "blink" else mode,
        xray_window=(500, 4000),
        drr_window=overlay.drr_window,
        bone_dark=True,
    )
    np.testing.assert_allclose(view(), expected, atol=1)
    assert len(np.unique(expected)) > 50


def test_settings_are_shown_and_kept(scene, overlay, view, xray_image, drr_image):
    gray = np.clip((xray_image - 500.0) / 3500, 0, 1)[..., None] * 255
    overlay.mode = "fusion"
    overlay.set(mix=0.0)
    np.testing.assert_allclose(view(), np.broadcast_to(gray, view().shape), atol=1.5)
    overlay.set(mix=0.25, curtain=0.3)
    expected = fusion_image(
        xray_image,
        drr_image,
        mode="fusion",
        xray_window=(500, 4000),
        drr_window=overlay.drr_window,
        bone_dark=True,
        mix=0.25,
    )
    np.testing.assert_allclose(view(), expected, atol=1.5)
    again = Overlay(scene)
    assert (again.setting("mix"), again.setting("curtain"), again.setting("edge_strength")) == (
        0.25,
        0.3,
        1.0,
    )
    with pytest.raises(KeyError):
        overlay.set(sharpness=1.0)


def test_a_live_picture_is_one_change_of_one_node(scene, overlay, view, drr, drr_image):
    """The application answers each with an update of all views."""
    overlay.mode, changes = "blink", []
    overlay.draw(drr_image)
    for node in slicer.util.getNodesByClass("vtkMRMLVolumeNode", scene):
        node.AddObserver("ModifiedEvent", lambda node, _event: changes.append(node.GetName()))
    overlay.draw(drr_image[::-1])
    assert changes == ["X-ray and DRR"]
    np.testing.assert_allclose(view()[..., 0], 255 * (1 - drr_image[::-1] / 5), atol=8)


def test_a_picture_at_rest_is_as_fine_as_asked_for(scene, view, xray, drr):
    overlay = Overlay(scene, (256, 512))
    overlay.show(xray, drr, bone_dark=True)
    assert overlay_picture(overlay).GetImageData().GetDimensions() == (256, 192, 1)
    fine = view()
    overlay.mode = "blink"
    shown = view()
    coarse = Overlay(scene)
    coarse.refresh()
    assert overlay_picture(coarse).GetImageData().GetDimensions() == (128, 96, 1)
    np.testing.assert_allclose(view()[2:-2, 2:-2], shown[2:-2, 2:-2], atol=12)
    assert (fine != shown).any()


def test_blinking_shows_xray_and_drr_in_turn(overlay, view):
    overlay.mode = "blink"
    drr_shown = view()
    overlay.xray_alone = True
    xray_shown = view()
    assert np.abs(drr_shown - xray_shown).max() > 50
    overlay.xray_alone = False
    np.testing.assert_array_equal(view(), drr_shown)
    overlay.xray_alone = True
    overlay.mode = "edges"
    assert (view() != xray_shown).any()


def test_drr_window_is_matched_to_the_xray_and_can_be_set(overlay, drr):
    low, high = overlay.drr_window
    # The X-ray shows integrals of 0 to 5 as 4000 to 500, from white to black, bones bright: 0 to 1.
    assert (low, high) == (pytest.approx(0, abs=0.1), pytest.approx(5, abs=0.1))
    overlay.drr_window = (1.0, 3.0)
    assert overlay.drr_window == (1.0, 3.0)
    assert drr.GetDisplayNode().GetWindow() == 2.0


def test_a_new_drr_is_shown_after_refresh(overlay, view, xray, drr, drr_image, xray_image):
    overlay.mode = "blink"
    update_drr(drr, xray, drr_image[::-1], CAMERA, FRAME)
    scalars = overlay_picture(overlay).GetImageData().GetPointData().GetScalars()
    overlay.refresh()
    assert overlay_picture(overlay).GetImageData().GetPointData().GetScalars() is scalars
    expected = 255 * (1 - drr_image[::-1] / 5)
    np.testing.assert_allclose(view()[..., 0], expected, atol=8)


def overlay_picture(overlay):
    return overlay.node


def test_coarse_live_drr_lies_where_the_fine_one_did(overlay, view, xray, drr, drr_image):
    overlay.mode = "blink"
    fine = view()
    coarse = drr_image.reshape(48, 2, 64, 2).mean(axis=(1, 3))
    update_drr(drr, xray, coarse, CAMERA.resampled(64, 48), FRAME)
    overlay.refresh()
    shown = view()[2:-2, 2:-2]
    np.testing.assert_allclose(shown, fine[2:-2, 2:-2], atol=6)


def test_mirrored_rgb_xray_fuses_as_the_plain_one(scene, view, add_volume, xray_image, drr, overlay):
    plain = view()
    gray = np.repeat((xray_image[:, ::-1] // 16).astype(np.uint8)[None, ..., None], 3, axis=-1)
    node = add_volume(gray, name="photo", class_name="vtkMRMLVectorVolumeNode")
    node.GetDisplayNode().AutoWindowLevelOff()
    node.GetDisplayNode().SetWindowLevelMinMax(500 / 16, 4000 / 16)
    place_on_detector(node, CAMERA, FRAME, mirrored=True)
    overlay.show(node, drr, bone_dark=True)
    np.testing.assert_allclose(view(), plain, atol=12)


@pytest.mark.parametrize("channels", [3, 4])
def test_a_gray_picture_with_or_without_an_alpha_channel_is_fused(
    scene, view, add_volume, xray_image, drr, overlay, channels
):
    """The application lays nothing over what has four values a pixel."""
    plain = view()
    overlay.xray_alone = True
    alone = view()
    overlay.xray_alone = False
    gray = np.repeat((xray_image // 16).astype(np.uint8)[None, ..., None], channels, axis=-1)
    gray[..., 3:] = 255
    node = add_volume(gray, name="photo", class_name="vtkMRMLVectorVolumeNode")
    node.GetDisplayNode().AutoWindowLevelOff()
    node.GetDisplayNode().SetWindowLevelMinMax(500 / 16, 4000 / 16)
    place_on_detector(node, CAMERA, FRAME)
    overlay.show(node, drr, bone_dark=True)
    np.testing.assert_allclose(view(), plain, atol=12)
    overlay.xray_alone = True
    np.testing.assert_allclose(view(), alone, atol=12)
    overlay.xray_alone = False
    np.testing.assert_allclose(view(), plain, atol=12)


def test_field_hides_the_drr_outside_and_is_kept_in_the_scene(scene, overlay, view, xray, drr):
    valid = np.zeros(CAMERA.shape, bool)
    valid[10:60, 20:100] = True
    overlay.xray_alone = True
    xray_alone, outside = view(), ~ndimage.binary_dilation(valid)
    overlay.mode = "blink"
    overlay.show(xray, drr, bone_dark=True, valid=valid)
    np.testing.assert_allclose(view()[outside], xray_alone[outside], atol=1.5)
    assert np.abs(view() - xray_alone)[valid].max() > 50
    # As after reloading the module: the field is known again.
    again = Overlay(scene)
    again.mode = "checkerboard"
    again.mode = "blink"
    np.testing.assert_allclose(view()[outside], xray_alone[outside], atol=1.5)


def test_deleted_drr_leaves_the_overlay_incomplete(scene, overlay, drr):
    assert overlay.is_complete
    scene.RemoveNode(drr)
    assert not overlay.is_complete
    overlay.refresh()


def test_removed_overlay_leaves_nothing_behind(scene, view, xray, drr):
    before = {scene.GetNthNode(index).GetID() for index in range(scene.GetNumberOfNodes())}
    overlay = Overlay(scene)
    overlay.show(xray, drr, valid=np.ones(CAMERA.shape, bool))
    overlay.remove()
    after = {scene.GetNthNode(index).GetID() for index in range(scene.GetNumberOfNodes())}
    assert after == before
    composite = slicer.vtkMRMLSliceLogic.GetSliceCompositeNode(slice_node(scene, FUSION_VIEW))
    assert composite.GetForegroundVolumeID() is None


def test_xray_is_alone_in_its_view_and_on_the_detector_in_3d(host, scene, overlay, xray, drr, xray_image):
    node = slice_node(scene, XRAY_VIEW)
    node.SetDimensions(128, 96, 1)
    lay_slice_view_on_detector(node, CAMERA, FRAME)
    shown = host.slice_picture(XRAY_VIEW)[:-1, 1:]
    gray = np.clip((xray_image - 500.0) / 3500, 0, 1) * 255
    # The view's pixels lie between those of the image.
    assert np.corrcoef(shown[..., 0].ravel(), gray[1:, 1:].ravel())[0, 1] > 0.97
    assert (shown == shown[..., :1]).all()
    assert node.GetSliceVisible()
    # Who hides it has it hidden, whatever is shown after it.
    node.SetSliceVisible(False)
    overlay.show(xray, drr)
    assert not node.GetSliceVisible()


def test_views_taken_by_another_module_are_won_back(scene, overlay, view, drr):
    before = view()
    composite = slicer.vtkMRMLSliceLogic.GetSliceCompositeNode(slice_node(scene, FUSION_VIEW))
    composite.SetBackgroundVolumeID(drr.GetID())
    composite.SetForegroundOpacity(0.3)
    overlay.show_in_views()
    np.testing.assert_array_equal(view(), before)


def test_unknown_mode_is_refused(overlay):
    with pytest.raises(ValueError, match="unknown overlay mode 'xor'"):
        overlay.mode = "xor"
