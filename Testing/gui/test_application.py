"""What was found in the real application, in the host that draws its views as the application does."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from support.rendering import can_render

WINDOW = (1600, 1000)
PANEL_WIDTH = 480
# Of a window's height: title, menus, toolbars and the module's header.
CHROME = 250


@pytest.fixture
def demo(user, demo_case):
    """A user before the demo case, in a window of 1600 x 1000."""
    user.host.resize_views(WINDOW[0] - PANEL_WIDTH, WINDOW[1] - 140)
    user.take_demo(demo_case)
    user.show_views()
    user.host.process(0.1)
    return user


@pytest.fixture
def drawn(demo):
    """The same, where views can be drawn."""
    if not can_render():
        pytest.skip("views need OpenGL: apt-get install libegl1 libgl1")
    return demo


def xy_of_pixel(user, pixel, view="Fusion") -> np.ndarray:
    """Place in a slice view, from its lower left corner, of an X-ray's pixel."""
    import slicer
    from SOPIRegistrationLib.scene import ras_from_pixels

    case = user.session.case
    ras = ras_from_pixels(pixel, case.xray.camera, case.frame)
    node = slicer.app.layoutManager().sliceWidget(view).mrmlSliceNode()
    matrix = slicer.util.arrayFromVTKMatrix(node.GetXYToRAS())
    return np.linalg.solve(matrix, [*ras, 1])[:2]


def size_of(user, view="Fusion") -> np.ndarray:
    view = user.host.app.layoutManager().sliceWidget(view).sliceView()
    return np.array(view.renderWindow().GetSize())


def test_handles_turn_about_the_body_which_stays_where_it_is(demo):
    import slicer

    demo.ui.handlesCheckBox.checked = True
    transform, case = demo.parameters.transform, demo.session.case
    centre = np.array(transform.GetCenterOfTransformation())
    assert centre == pytest.approx(case.frame.centre_lps_mm * [-1, -1, 1])
    # On screen: within the body's picture, not beside the X-ray.
    world = slicer.util.arrayFromTransformMatrix(transform) @ [*centre, 1]
    node = slicer.app.layoutManager().sliceWidget("Fusion").mrmlSliceNode()
    x, y = np.linalg.solve(slicer.util.arrayFromVTKMatrix(node.GetXYToRAS()), world)[:2]
    assert np.all(np.abs(np.array([x, y]) / size_of(demo) - 0.5) < 0.1)


def test_handles_are_drawn_in_the_middle_of_the_fusion_view(drawn):
    drawn.host.process(0.2)
    before = drawn.host.view_pixels("Fusion").astype(int)
    drawn.ui.handlesCheckBox.checked = True
    drawn.host.process(0.2)
    rows, columns = np.nonzero(np.abs(drawn.host.view_pixels("Fusion") - before).max(axis=-1) > 60)
    height, width = before.shape[:2]
    assert len(rows) > 500
    assert np.median(columns) / width == pytest.approx(0.5, abs=0.1)
    assert np.median(rows) / height == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("mix", [0.0, 0.25, 0.5, 0.7, 1.0])
def test_two_colours_have_contrast_at_every_setting(drawn, mix):
    drawn.session.pose = drawn.nodes.case.T_true
    drawn.ui.overlayModeCombo.setCurrentText("Two colours")
    drawn.ui.mixSlider.value = mix
    drawn.wait()
    xray = inside(drawn.host.view_pixels("XRay")).astype(float)
    fused = inside(drawn.host.view_pixels("Fusion")).astype(float)
    assert fused.mean(axis=-1).std() > 0.6 * xray.mean(axis=-1).std()


def inside(pixels: np.ndarray) -> np.ndarray:
    """The middle of a view."""
    height, width = pixels.shape[:2]
    return pixels[height // 3 : 2 * height // 3, width // 3 : 2 * width // 3].reshape(-1, 3)


def test_edges_are_the_default(demo):
    assert demo.parameters.overlayMode == "edges"
    assert demo.session.overlay.mode == "edges"


def test_register_progress_and_verdict_are_in_sight_in_a_small_window(demo):
    from PySide6 import QtCore

    demo.ui.initialiserCombo.setCurrentText("Nominal view")
    demo.click("initialiseButton")
    demo.wait()
    panel = demo.widget.parent
    panel.resize(PANEL_WIDTH, WINDOW[1] - CHROME)
    panel.show()
    demo.host.process(0.1)
    for name in ("registerButton", "cancelButton", "stageLabel", "progressBar", "verdictLabel", "errorLabel"):
        widget = getattr(demo.ui, name)
        top = widget.mapTo(panel, QtCore.QPoint(0, 0)).y()
        assert top >= 0, name
        assert top + widget.height < WINDOW[1] - CHROME, name
        assert not widget.visibleRegion().isEmpty(), name
    assert "mm in depth" in demo.ui.errorLabel.text
    assert " s in all" in demo.ui.errorLabel.text
    panel.hide()


def test_nothing_in_the_panel_is_wider_than_the_panel(demo, module):
    demo.nodes.ct.SetName(
        "A CT with a name that goes on and on, as those of series in a hospital's archive do"
    )
    demo.ui.modelCombo.addItem(
        "1.6 deg, 1.3 mm in plane, 5 mm in depth; 10 min, 2026-11-19, AP, a long name of a CT"
    )
    panel, width = demo.widget.parent, 400
    panel.resize(width, 900)
    panel.show()
    demo.host.process(0.1)
    for section in (name for name in vars(demo.ui) if name.endswith("Section")):
        getattr(demo.ui, section).collapsed = False
    demo.host.process(0.1)
    inner = demo.ui.sectionsWidget
    assert panel.minimumSizeHint().width() <= width
    assert inner.minimumSizeHint().width() <= demo.ui.sectionsArea.viewport().width()
    panel.hide()


def test_the_stage_is_told_from_the_first_moment(demo):
    demo.click("registerButton")
    seen = [demo.ui.stageLabel.text]
    demo.host.process(60, until=lambda: seen.append(demo.ui.stageLabel.text) or not demo.panel.is_running)
    assert all(seen[:-1])


def test_a_closed_scene_leaves_no_numbers(demo):
    demo.ui.rxSlider.value = 12.0
    demo.wait()
    demo.host.scene.Clear()
    demo.host.process(0.2)
    ui = demo.ui
    boxes = ("sdd", "sod", "rowSpacing", "columnSpacing", "principalU", "principalV")
    assert [getattr(ui, name + "SpinBox").value for name in boxes] == [0.0] * len(boxes)
    assert [getattr(ui, name + "Slider").value for name in ("rx", "ry", "rz", "tx", "ty", "tz")] == [0.0] * 6
    assert [getattr(ui, name + "WindowRange").maximumValue for name in ("xray", "drr")] == [0.0] * 2
    assert "Needed: a CT, an X-ray and" in ui.verdictLabel.text


def test_a_closed_scene_writes_nothing_into_the_next_one(demo):
    """Selectors and sliders are bound to the parameters of one scene at a time."""
    import slicer

    demo.ui.mixSlider.value = 0.25
    demo.host.scene.Clear()
    demo.host.process(0.2)
    assert demo.parameters.mix == 0.5
    ct = slicer.util.addVolumeFromArray(np.zeros((4, 5, 6), np.int16), name="another")
    demo.ui.ctSelector.setCurrentNode(ct)
    demo.ui.edgeSlider.value = 0.75
    assert (demo.parameters.ct, demo.parameters.mix, demo.parameters.edgeStrength) == (ct, 0.5, 0.75)


def test_windows_of_x_ray_and_drr_are_those_of_the_application(demo):
    """By the panel, by the mouse in a view or by another module; the fusion follows."""
    user, display = demo, demo.nodes.xray.GetDisplayNode()
    low, high = user.session.overlay.xray_window
    shown = user.ui.xrayWindowRange
    assert (shown.minimumValue, shown.maximumValue) == pytest.approx((low, high), abs=1.0)
    before = user.picture().astype(int)
    display.AutoWindowLevelOff()
    display.SetWindowLevelMinMax(low, low + (high - low) / 2)
    user.wait()
    darker = user.picture().astype(int)
    assert darker.mean() > before.mean() + 10
    assert shown.maximumValue == pytest.approx(low + (high - low) / 2, abs=1.0)
    shown.maximumValue = high
    user.wait()
    assert display.GetWindowLevelMax() == pytest.approx(high, abs=1.0)
    assert np.abs(user.picture() - before).mean() < 1
    drr = user.parameters.drr.GetDisplayNode()
    user.ui.overlayModeCombo.setCurrentText("Two colours")
    user.wait()
    before = user.picture().astype(int)
    drr.SetWindowLevelMinMax(0.0, drr.GetWindowLevelMax())
    user.wait()
    assert np.abs(user.picture() - before).mean() > 3
    assert user.ui.drrWindowRange.minimumValue == 0.0


def share_of_view(user, body_name="CT bones") -> tuple[np.ndarray, np.ndarray]:
    """(lower, upper) corner of the body's box in the 3D view, as shares of the view."""
    import vtk

    body = user.host.scene.GetFirstNodeByName(body_name)
    bounds = np.zeros(6)
    body.GetRASBounds(bounds)
    view = user.host.app.layoutManager().threeDWidget(0).threeDView()
    renderer = view.renderWindow().GetRenderers().GetFirstRenderer()
    corners = np.array(np.meshgrid(*bounds.reshape(3, 2))).reshape(3, -1).T
    coordinate = vtk.vtkCoordinate()
    coordinate.SetCoordinateSystemToWorld()
    shown = []
    for corner in corners:
        coordinate.SetValue(*corner)
        shown.append(
            np.array(coordinate.GetComputedDoubleViewportValue(renderer)) / view.renderWindow().GetSize()
        )
    return np.min(shown, axis=0), np.max(shown, axis=0)


@pytest.mark.parametrize("then", ["maximise", "handles", "nothing"])
def test_the_3d_view_shows_the_body(demo, then):
    if then == "maximise":
        demo.host.resize_views(2000, 1300)
    elif then == "handles":
        demo.ui.handlesCheckBox.checked = True
    demo.host.process(0.3)
    low, high = share_of_view(demo)
    assert np.all(low > -0.02)
    assert np.all(high < 1.02)
    assert (high - low).max() > 0.5
    assert np.all(np.abs((low + high) / 2 - 0.5) < 0.15)


def test_a_body_that_left_the_3d_view_is_followed_unless_somebody_has_come_close(demo):
    """What it has grown to counts as well: bodies that move apart."""
    views, case = demo.session.views, demo.session.case
    camera = demo.host.app.layoutManager().threeDWidget(0).threeDView().cameraNode().GetCamera()

    def move_apart():
        demo.session.pose = case.frame.T_from_theta(np.array([0.0, 0.0, 0.0, 90.0, 60.0, 0.0]))
        demo.wait()

    views.fit()
    place = camera.GetPosition()
    move_apart()
    views.keep_body_in_sight()
    assert not np.allclose(camera.GetPosition(), place)
    demo.click("nominalButton")
    demo.wait()
    views.fit()
    camera.Dolly(3.0)
    place = camera.GetPosition()
    demo.session.pose = case.frame.T_from_theta(np.array([0.0, 0.0, 0.0, 3.0, 0.0, 0.0]))
    demo.wait()
    views.keep_body_in_sight()
    np.testing.assert_allclose(camera.GetPosition(), place)


def test_a_body_moved_by_hand_stays_in_sight_of_a_3d_view_that_nobody_has_turned(demo):
    views, case = demo.session.views, demo.session.case
    camera = demo.host.app.layoutManager().threeDWidget(0).threeDView().cameraNode().GetCamera()
    away = case.frame.T_from_theta(np.array([0.0, 0.0, 0.0, 90.0, 60.0, 0.0]))
    views.fit()
    demo.session.pose = away
    demo.wait()
    low, high = share_of_view(demo)
    assert np.all(low > -0.02)
    assert np.all(high < 1.02)
    demo.click("nominalButton")
    demo.wait()
    camera.Dolly(1.5)
    place = camera.GetPosition()
    demo.session.pose = away
    demo.wait()
    np.testing.assert_allclose(camera.GetPosition(), place)


def test_views_are_fitted_when_their_size_changes_and_never_while_somebody_zooms(demo):
    layouts = demo.host.app.layoutManager()
    node = layouts.sliceWidget("Fusion").mrmlSliceNode()
    camera = demo.session.case.xray.camera

    def is_fitted():
        corners = [
            xy_of_pixel(demo, (-0.5, -0.5)),
            xy_of_pixel(demo, (camera.width - 0.5, camera.height - 0.5)),
        ]
        spread = np.abs(np.subtract(*corners)) / size_of(demo)
        return spread.max() == pytest.approx(1.0, abs=0.01)

    assert is_fitted()
    demo.host.resize_views(900, 500)
    demo.host.process(0.2)
    assert is_fitted()
    node.SetFieldOfView(*(np.array(node.GetFieldOfView()) * [0.5, 0.5, 1]))
    zoomed = node.GetFieldOfView()
    demo.ui.rxSlider.value = 4.0
    demo.wait()
    demo.click("optimiseButton")
    demo.wait()
    assert node.GetFieldOfView() == zoomed
    demo.host.resize_views(1000, 700)
    demo.host.process(0.2)
    assert is_fitted()


def test_what_is_prepared_again_leaves_zoom_and_layout_and_show_views_brings_both_back(demo):
    import slicer

    layouts = demo.host.app.layoutManager()
    node = layouts.sliceWidget("Fusion").mrmlSliceNode()
    ours, fitted = layouts.layout, node.GetFieldOfView()
    node.SetFieldOfView(*(np.array(fitted) * [0.5, 0.5, 1]))
    zoomed = node.GetFieldOfView()

    def prepare_again(polarity):
        case = demo.session.case
        demo.ui.polarityCombo.setCurrentText(polarity)
        demo.host.process(0.4)
        demo.wait()
        assert demo.session.case is not case

    prepare_again("Bones dark")
    assert node.GetFieldOfView() == zoomed
    layouts.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
    layouts.sliceWidget("Fusion").mrmlSliceCompositeNode().SetForegroundVolumeID(None)
    prepare_again("Detect")
    assert layouts.layout == slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView
    demo.show_views()
    demo.host.process(0.1)
    assert layouts.layout == ours
    assert node.GetFieldOfView() == pytest.approx(fitted)
    picture = demo.session.overlay.node.GetID()
    assert layouts.sliceWidget("Fusion").mrmlSliceCompositeNode().GetForegroundVolumeID() == picture


def test_the_fusion_view_is_the_large_one(demo):
    sizes = {view: size_of(demo, view) for view in ("Fusion", "XRay")}
    assert sizes["Fusion"].prod() > 2.5 * sizes["XRay"].prod()
    assert sizes["XRay"][0] > 300


def test_landmarks_have_three_planes_in_a_bone_window_which_is_given_back(demo):
    display = demo.nodes.ct.GetDisplayNode()
    display.SetWindowLevelMinMax(-160.0, 240.0)
    demo.ui.landmarksSection.collapsed = False
    demo.wait()
    demo.host.process(0.1)
    layouts = demo.host.app.layoutManager()
    for plane in ("Red", "Green", "Yellow"):
        widget = layouts.sliceWidget(plane)
        assert widget.mrmlSliceCompositeNode().GetBackgroundVolumeID() == demo.nodes.ct.GetID()
        assert min(widget.sliceView().renderWindow().GetSize()) > 150
    assert display.GetWindowLevelMin() < -160
    assert display.GetWindowLevelMax() > 900
    demo.ui.landmarksSection.collapsed = True
    assert (display.GetWindowLevelMin(), display.GetWindowLevelMax()) == (-160.0, 240.0)


def test_what_is_clicked_in_3d_is_a_bone_and_not_the_beam_before_it(demo):
    """By the application's own picking, with which it places points; a point is on the surface."""
    import slicer
    import vtk

    if not can_render():
        pytest.skip("views need OpenGL: apt-get install libegl1 libgl1")
    demo.ui.landmarksSection.collapsed = False
    demo.wait()
    demo.host.process(0.2)
    view = demo.host.app.layoutManager().threeDWidget(0).threeDView()
    bones = demo.host.scene.GetFirstNodeByName("CT bones")
    picker = view.displayableManagerByClassName("vtkMRMLModelDisplayableManager")
    corner, size = np.zeros(3), view.renderWindow().GetSize()
    locator = vtk.vtkPointLocator()
    locator.SetDataSet(bones.GetPolyData())
    locator.BuildLocator()
    to_bones = np.linalg.inv(slicer.util.arrayFromTransformMatrix(demo.parameters.transform))
    # The beam surrounds the spine, in front of it and behind it.
    view.forceRender()
    picked = []
    for share in np.linspace(0.3, 0.7, 9):
        assert picker.Pick(int(0.5 * size[0]), int(share * size[1]))
        if picker.GetPickedNodeID():
            node = demo.host.scene.GetNodeByID(picker.GetPickedNodeID())
            picked.append(node.GetDisplayableNode() if node.IsA("vtkMRMLDisplayNode") else node)
            point = (to_bones @ [*picker.GetPickedRAS(), 1.0])[:3]
            bones.GetPolyData().GetPoint(locator.FindClosestPoint(point), corner)
            assert np.linalg.norm(corner - point) < 3.0
    assert picked
    assert all(node is bones for node in picked)


def test_sections_that_are_complete_fold_once(demo):
    assert demo.ui.inputsSection.collapsed
    assert demo.ui.geometrySection.collapsed
    demo.ui.inputsSection.collapsed = False
    demo.ui.polarityCombo.setCurrentText("Bones dark")
    demo.show_views()
    assert not demo.ui.inputsSection.collapsed


@pytest.fixture
def blocked_models():
    """The folder of the user's models cannot be made: a file lies in its place."""
    from SOPIRegistrationLib.patient_models import models_folder

    folder = models_folder()
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.write_bytes(b"")
    yield
    folder.unlink()


def test_a_start_that_fails_leaves_the_training_section_as_it_was(blocked_models, open_with, demo_case):
    user = open_with()
    user.take_demo(demo_case)
    user.show_views()
    user.click("trainButton")
    user.wait()
    assert "could not be started" in user.last_message()
    assert user.ui.trainButton.enabled
    assert not user.ui.stopTrainingButton.enabled
    assert user.ui.trainingLabel.text == ""
    # Nor is it taken for one that runs when the case is looked at again.
    case = user.session.case
    user.panel.training.use(None)
    user.panel.training.use(case)
    assert not user.panel.training.is_running


@pytest.mark.parametrize(
    ("probability", "words"),
    [
        (0.973, "Accepted (97 % likely right)"),
        (0.9991, "Accepted (over 99 % likely right)"),
        (None, "Accepted:"),
    ],
)
def test_the_strip_says_how_likely_a_result_is_right(demo, probability, words):
    from SOPIRegistrationLib.scene import HistoryEntry

    pose = demo.session.pose
    verdict = {"status": "accept", "reasons": ["the images agree"], "predicted_error_mm": [0.1, 0.2, 1.0]}
    if probability is not None:
        verdict["probability"] = probability
    result = {
        "verdict": verdict,
        "seconds": 2.0,
        "stages": [{"name": "search", "seconds": 2.0}],
        "similarity": {"ncc": 0.9},
        "pose": {"T_lps_to_world": pose.tolist()},
    }
    entry = HistoryEntry(
        "2026-01-01T12:00:00", "auto + opt", "accept", {"ncc": 0.9}, pose, np.zeros(6), 2.0, result
    )
    demo.session.state.add(entry)
    demo.wait()
    assert demo.ui.verdictLabel.text.startswith(words)
    assert "changed since" not in demo.ui.verdictLabel.text
    assert demo.ui.historyTable.rowCount == 1
    demo.ui.txSlider.value = 20.0
    demo.wait()
    assert "changed since" in demo.ui.verdictLabel.text
    assert demo.session.views.label.startswith(words.split(":")[0] + " (pose changed since)")
