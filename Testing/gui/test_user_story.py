"""A person at the panel: the real module, .ui and scene in the test host."""

from __future__ import annotations

import gc
import json
import time
import weakref

import numpy as np
import pytest
from support.rendering import can_render


def test_from_an_empty_scene_to_a_saved_registration(open_with, demo_case, tmp_path):
    import slicer

    user = open_with(make_demo=lambda seed: demo_case)
    assert not user.ui.registerButton.enabled
    assert "a CT, an X-ray and the C-arm" in user.ui.registerButton.toolTip

    user.click("demoButton")
    user.wait()
    assert user.host.messages == []
    assert user.parameters.ct.GetParentTransformNode() is user.parameters.transform
    assert np.allclose(user.session.pose, user.session.case.frame.T_nominal)
    assert user.error_mm(demo_case) > 3
    shown = slicer.app.layoutManager().sliceWidget("XRay").mrmlSliceCompositeNode()
    assert shown.GetBackgroundVolumeID() == user.parameters.xray.GetID()

    user.click("registerButton")
    assert user.ui.cancelButton.enabled
    assert not user.ui.registerButton.enabled
    user.wait()
    assert user.host.messages == []
    assert user.error_mm(demo_case) < 0.5
    assert user.ui.verdictLabel.text.startswith(("Accepted", "Check by eye"))
    assert user.ui.historyTable.rowCount == 1
    registered = user.session.pose

    pictures = {}
    for mode in ("DRR edges on the X-ray", "Curtain", "Checkerboard", "Blink", "Two colours"):
        user.ui.overlayModeCombo.setCurrentText(mode)
        user.host.process(0.1)
        pictures[mode] = user.picture()
    assert all(not np.array_equal(pictures["Two colours"], pictures[mode]) for mode in list(pictures)[:4])

    before = user.drr()
    user.ui.rySlider.value = user.ui.rySlider.value + 10.0
    user.wait()
    assert np.abs(user.drr() - before).max() > 0.1
    assert user.error_mm(demo_case) > 3
    user.ui.historyTable.cellClicked.emit(0, 0)
    user.wait()
    assert np.allclose(user.session.pose, registered, atol=1e-6)
    assert np.allclose(user.drr(), before, atol=1e-3)

    user.ui.mixSlider.value = 0.4
    picture, path = user.picture(), str(tmp_path / "registration.mrb")
    assert slicer.util.saveScene(path)
    slicer.mrmlScene.Clear()
    assert not user.ui.registerButton.enabled
    slicer.util.loadScene(path)
    user.wait()
    assert user.host.messages == []
    assert np.allclose(user.session.pose, registered, atol=1e-4)
    assert user.parameters.mix == pytest.approx(0.4)
    assert user.ui.historyTable.rowCount == 1
    assert user.ui.verdictLabel.text.startswith(("Accepted", "Check by eye"))
    assert np.abs(user.picture().astype(int) - picture).max() <= 2


def test_cancel_stops_soon_and_keeps_the_pose(user, demo_case):
    user.take_demo(demo_case)
    user.show_views()
    user.click("registerButton")
    moved = lambda: not np.allclose(user.session.pose, user.session.case.frame.T_nominal)  # noqa: E731
    assert user.host.process(60, until=moved)
    # Within half a second where nothing else runs: Testing/studies/measure_panel.py prints it.
    user.click("cancelButton")
    user.wait()
    assert "Stopped" in user.ui.verdictLabel.text
    assert moved()
    assert user.ui.historyTable.rowCount == 0
    assert user.ui.registerButton.enabled


@pytest.mark.slow
def test_the_window_stays_alive_while_registering(user, demo_case):
    """A user's event waits for 100 ms of the window's own at most; see measure_panel.py for the clock."""
    user.take_demo(demo_case)
    user.show_views()
    busy, last = [], time.thread_time()

    def at_rest():
        nonlocal last
        now = time.thread_time()
        busy.append(now - last)
        last = now
        return not user.panel.is_running

    user.click("registerButton")
    assert user.host.process(120, until=at_rest)
    # What the window's own thread computed between two looks at events, whatever else the machine does.
    assert max(busy[:-1]) < 0.1


def test_undo_redo_and_reset_of_adjustments_by_hand(user, demo_case):
    user.take_demo(demo_case)
    user.show_views()
    nominal = user.session.pose
    assert not user.ui.undoButton.enabled
    user.ui.txSlider.value = 12.0
    user.host.process(0.7)
    user.ui.tySlider.value = -8.0
    user.wait()
    both = user.session.pose
    user.click("undoButton")
    user.wait()
    assert user.ui.tySlider.value == 0.0
    assert user.ui.txSlider.value == 12.0
    user.click("redoButton")
    user.wait()
    assert np.allclose(user.session.pose, both)
    user.click("resetButton")
    user.wait()
    assert np.allclose(user.session.pose, nominal)
    assert not user.ui.resetButton.enabled


def test_reset_goes_back_to_the_registration_and_one_slider_moves_one_value(user, demo_case):
    user.take_demo(demo_case)
    user.show_views()
    user.ui.txSlider.value = 25.0
    user.wait()
    start = user.session.case.frame.T_from_theta(np.array([0.12345678, -0.03, 0.02, 1.23456, 2.0, 3.0]))
    user.session.pose = start
    user.ui.initialiserCombo.setCurrentText("Current pose")
    user.click("initialiseButton")
    user.wait()
    assert np.allclose(user.session.pose, start, atol=1e-9)
    assert not user.ui.resetButton.enabled
    user.ui.tySlider.value = 9.0
    user.wait()
    theta = user.session.case.frame.theta_from_T(user.session.pose)
    assert np.allclose(theta, [0.12345678, -0.03, 0.02, 1.23456, 9.0, 3.0], atol=1e-9)
    user.click("resetButton")
    user.wait()
    assert np.allclose(user.session.pose, start, atol=1e-9)


def test_handles_dragged_in_a_view_move_sliders_and_drr(user, demo_case):
    user.take_demo(demo_case)
    user.show_views()
    before = user.drr()
    user.ui.handlesCheckBox.checked = True
    assert user.parameters.transform.GetDisplayNode().GetEditorVisibility()
    import slicer

    matrix = slicer.util.arrayFromTransformMatrix(user.parameters.transform)
    matrix[2, 3] += 10.0
    slicer.util.updateTransformMatrixFromArray(user.parameters.transform, matrix)
    user.wait()
    # Ten mm to the head is ten mm up in an AP image.
    assert user.ui.tySlider.value == pytest.approx(-10.0)
    assert np.abs(user.drr() - before).max() > 0.1


def test_landmarks_give_the_pose(user, demo_case):
    import slicer
    from SOPIRegistrationLib.scene import LANDMARK_LAYOUT_ID, LAYOUT_ID, ras_from_pixels

    user.take_demo(demo_case)
    user.ui.landmarksSection.collapsed = False
    user.wait()
    layouts = slicer.app.layoutManager()
    assert layouts.layout == LANDMARK_LAYOUT_ID
    red = layouts.sliceWidget("Red").mrmlSliceCompositeNode()
    assert red.GetBackgroundVolumeID() == user.parameters.ct.GetID()
    assert "4 more landmark pairs" in user.ui.solveButton.toolTip
    case = user.session.case
    k, j, i = np.nonzero(demo_case.labels.array)
    points = demo_case.labels.points_lps(np.stack([i, j, k], axis=-1))
    points = points[np.random.default_rng(4).choice(len(points), 6, replace=False)]
    pixels = case.xray.camera.project(points @ demo_case.T_true[:3, :3].T + demo_case.T_true[:3, 3])
    for point, pixel in zip(points * [-1, -1, 1], pixels, strict=True):
        user.parameters.ctLandmarks.AddControlPoint(*point)
        user.parameters.xrayLandmarks.AddControlPointWorld(
            *ras_from_pixels(pixel, case.xray.camera, case.frame)
        )
    assert user.ui.landmarkTable.rowCount == 6
    user.click("solveButton")
    user.wait()
    assert user.error_mm(demo_case) < 0.01
    assert user.ui.landmarkTable.item(0, 3).text() == "0.0 px"
    user.ui.landmarksSection.collapsed = True
    assert layouts.layout == LAYOUT_ID


def test_copying_a_pose_and_initialising_from_nominal(user, demo_case):
    import slicer

    user.take_demo(demo_case)
    user.show_views()
    other = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "Other")
    matrix = np.eye(4)
    matrix[0, 3] = 15.0
    slicer.util.updateTransformMatrixFromArray(other, matrix)
    user.ui.copySelector.setCurrentNode(other)
    user.click("copyButton")
    user.wait()
    # The patient's right is the image's left in an AP view.
    assert user.ui.txSlider.value == pytest.approx(-15.0)
    user.ui.initialiserCombo.setCurrentText("Nominal view")
    user.click("initialiseButton")
    user.wait()
    assert np.allclose(user.session.pose, user.session.case.frame.T_nominal)


def test_exports(user, demo_case, tmp_path):
    user.take_demo(demo_case)
    user.show_views()
    assert not user.ui.exportResultButton.enabled
    user.ui.initialiserCombo.setCurrentText("Nominal view")
    user.click("initialiseButton")
    user.wait()
    for button, name in (
        ("exportResultButton", "result.json"),
        ("exportTransformButton", "ct_to_carm.tfm"),
        ("exportPictureButton", "overlay.png"),
    ):
        user.host.answers.append(str(tmp_path / name))
        user.click(button)
    assert json.loads((tmp_path / "result.json").read_text())["verdict"]["status"]
    assert (tmp_path / "ct_to_carm.tfm").read_text().startswith("#Insight Transform File")
    assert (tmp_path / "overlay.png").stat().st_size > 10_000
    for button in ("exportResultButton", "exportTransformButton", "exportPictureButton"):
        user.host.answers.append("/no/such/folder/file.png")
        user.click(button)
        assert "Cannot write /no/such/folder/file.png" in user.last_message()
    user.host.answers.append("")
    user.click("exportResultButton")


def test_ct_under_a_transform_of_its_own(user, demo_case):
    import slicer

    user.take_demo(demo_case)
    own = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "Own")
    angle = np.deg2rad(5.0)
    matrix = np.eye(4)
    matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    matrix[:3, 3] = 8.0, -6.0, 4.0
    slicer.util.updateTransformMatrixFromArray(own, matrix)
    user.parameters.ct.SetAndObserveTransformNodeID(own.GetID())
    user.show_views()
    user.click("registerButton")
    user.wait()
    assert user.parameters.ct.GetParentTransformNode() is own
    assert own.GetParentTransformNode() is user.parameters.transform
    assert np.allclose(slicer.util.arrayFromTransformMatrix(own), matrix)
    mirror = np.diag([-1.0, -1.0, 1.0, 1.0])
    assert user.error_mm(demo_case, mirror @ matrix @ mirror) < 0.5


@pytest.mark.parametrize("what", ["ct", "xray", "transform"])
def test_deleting_a_node_in_mid_run(user, demo_case, what):
    user.take_demo(demo_case)
    user.show_views()
    user.click("registerButton")
    user.host.process(0.3)
    user.host.scene.RemoveNode(getattr(user.parameters, what))
    user.wait()
    assert user.host.messages == []
    assert user.ui.registerButton.enabled == (what == "transform")


def test_closing_the_scene_in_mid_run(user, demo_case):
    user.take_demo(demo_case)
    user.show_views()
    user.click("registerButton")
    user.host.process(0.3)
    user.host.scene.Clear()
    user.wait()
    assert user.host.messages == []
    assert user.parameters.ct is None
    assert not user.ui.registerButton.enabled
    user.take_demo(demo_case)
    user.show_views()
    assert user.ui.registerButton.enabled


def test_a_closed_scene_leaves_nothing_in_memory(user, demo_case):
    """The prepared CT is hundreds of megabytes of a clinical one."""
    user.take_demo(demo_case)
    user.show_views()
    user.click("registerButton")
    user.wait()
    prepared = weakref.ref(user.session.case.ct), weakref.ref(user.session.case.subject)
    user.nodes = None
    user.host.scene.Clear()
    user.host.process(0.1)
    gc.collect()
    assert [reference() for reference in prepared] == [None, None]


def test_a_new_panel_goes_on_with_the_scene(user, demo_case, module):
    """As when a saved scene is opened before the module, or the module is reloaded."""
    user.take_demo(demo_case)
    user.show_views()
    user.ui.txSlider.value = 20.0
    user.ui.handlesCheckBox.checked = True
    user.wait()
    pose, picture = user.session.pose, user.picture()
    user.widget.cleanup()
    reopened = type(user)(
        user.host, user.host.open_module(module, user.widget.resourcePath("../SOPIRegistration.py"))
    )
    try:
        assert reopened.ui.ctSelector.currentNode() is reopened.parameters.ct
        reopened.wait()
        assert np.allclose(reopened.session.pose, pose)
        assert reopened.ui.txSlider.value == pytest.approx(20.0)
        assert reopened.ui.handlesCheckBox.checked
        reopened.click("nominalButton")
        reopened.wait()
        assert not np.array_equal(reopened.picture(), picture)
    finally:
        user.host.close_module(reopened.widget)


def test_the_result_tells_when_the_pose_has_left_it_and_the_history_brings_both_back(user, demo_case):
    user.take_demo(demo_case)
    user.show_views()
    user.ui.initialiserCombo.setCurrentText("Nominal view")
    user.click("initialiseButton")
    user.wait()
    nominal, first = user.session.pose, user.ui.verdictLabel.text
    user.ui.txSlider.value = 30.0
    user.wait()
    assert "changed since" in user.ui.verdictLabel.text
    user.click("undoButton")
    user.wait()
    assert user.ui.verdictLabel.text == first
    user.ui.initialiserCombo.setCurrentText("Current pose")
    user.ui.txSlider.value = -30.0
    user.wait()
    user.click("initialiseButton")
    user.wait()
    assert user.ui.historyTable.rowCount == 2
    second = user.session.state.shown_entry.result
    user.ui.historyTable.cellClicked.emit(0, 0)
    user.wait()
    assert np.allclose(user.session.pose, nominal)
    assert user.ui.verdictLabel.text == first
    assert user.ui.historyTable.currentRow() == 0
    restored = user.session.state.shown_entry.result
    assert np.allclose(restored["pose"]["T_lps_to_camera"], nominal)
    assert restored["method"] != second["method"]


def test_moving_the_ct_by_hand_stops_a_registration_and_keeps_the_hand_s_pose(user, demo_case):
    """As by the Transforms module; handles in the views are taken away meanwhile, sliders are locked."""
    import slicer

    user.take_demo(demo_case)
    user.show_views()
    user.ui.handlesCheckBox.checked = True
    display = user.parameters.transform.GetDisplayNode()
    user.click("registerButton")
    assert not display.GetEditorVisibility()
    assert not user.ui.txSlider.enabled
    matrix = slicer.util.arrayFromTransformMatrix(user.parameters.transform)
    matrix[0, 3] += 33.0
    slicer.util.updateTransformMatrixFromArray(user.parameters.transform, matrix)
    assert "moved by hand" in user.ui.stageLabel.text
    assert user.host.process(60, until=lambda: not user.panel.is_running)
    user.wait()
    assert np.allclose(slicer.util.arrayFromTransformMatrix(user.parameters.transform), matrix)
    assert user.ui.historyTable.rowCount == 0
    assert "moved by hand" in user.ui.verdictLabel.text
    assert display.GetEditorVisibility()
    # The DRR is that of the hand's pose, not of where the registration was.
    drr = user.drr()
    user.session.show_drr(user.session.case.render(user.session.placement, 512))
    assert np.array_equal(drr, user.drr())
    user.click("optimiseButton")
    assert not display.GetEditorVisibility()
    user.click("cancelButton")
    user.wait()
    assert display.GetEditorVisibility()


def test_hardening_the_registration_into_the_ct_does_not_move_it_twice(user, demo_case):
    import slicer

    user.take_demo(demo_case)
    user.show_views()
    user.ui.txSlider.value = 20.0
    user.wait()
    ct, transform = user.parameters.ct, user.parameters.transform
    carried = slicer.util.arrayFromTransformMatrix(transform)
    place = _ijk_to_ras(ct)
    ct.HardenTransform()
    assert np.allclose(_ijk_to_ras(ct), carried @ place)
    user.show_views()
    assert ct.GetParentTransformNode() is transform
    assert np.allclose(slicer.util.arrayFromTransformMatrix(transform), np.eye(4))
    assert np.allclose(_ijk_to_ras(ct), carried @ place)
    # Taken out of the transform without hardening, the CT goes back under it where it was.
    user.ui.txSlider.value = 10.0
    user.wait()
    pose = user.session.pose
    ct.SetAndObserveTransformNodeID(None)
    user.ui.polarityCombo.setCurrentText("Bones dark")
    user.show_views()
    assert ct.GetParentTransformNode() is transform
    assert np.allclose(user.session.pose, pose)


def _ijk_to_ras(node):
    import slicer
    import vtk

    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


@pytest.mark.parametrize("what", ["picture", "drr"])
def test_a_removed_overlay_comes_back(user, demo_case, what):
    user.take_demo(demo_case)
    user.show_views()
    before = user.picture()
    node = user.session.overlay.node if what == "picture" else user.parameters.drr
    user.host.scene.RemoveNode(node)
    user.ui.overlayModeCombo.setCurrentText("Checkerboard")
    user.wait()
    assert not np.array_equal(user.picture(), before)
    user.ui.overlayModeCombo.setCurrentText("DRR edges on the X-ray")
    user.wait()
    assert np.array_equal(user.picture(), before)
    assert user.host.messages == []


def test_live_drr_follows_a_slider(user, demo_case):
    """A small picture for every move, made in the processor's time of fifteen and more a second."""
    import slicer

    user.take_demo(demo_case)
    user.show_views()
    sizes, picture = [], user.session.overlay.node
    tag = picture.AddObserver(
        "ModifiedEvent", lambda *_: sizes.append(max(slicer.util.arrayFromVolume(picture).shape[1:3]))
    )
    processor, count = time.process_time(), 30
    for move in range(1, count + 1):
        user.ui.rxSlider.value = 0.1 * move
        assert user.host.process(60, until=lambda: len(sizes) == move)  # noqa: B023
    processor = time.process_time() - processor
    picture.RemoveObserver(tag)
    assert set(sizes) <= {128, 192, 256}
    # The target is for two cores.
    possible = 2 * count / processor
    assert possible >= 15, f"{possible:.1f} updates a second of two cores"


@pytest.mark.slow
def test_self_test_of_the_module(user, module, demo_case, capsys):
    """As Reload and Test runs it in the application; a line a check, and a summary."""
    if not can_render():
        pytest.skip("views need OpenGL: apt-get install libegl1 libgl1")
    user.widget.parent.resize(480, 800)
    user.widget.parent.show()
    test = module.SOPIRegistrationTest()
    test.case = demo_case
    test.runTest()
    user.widget.parent.hide()
    assert user.host.messages == []
    *lines, summary = capsys.readouterr().out.strip().splitlines()
    assert len(lines) >= 12
    assert all(line.startswith("ok") for line in lines)
    assert "all passed" in summary


@pytest.mark.slow
def test_self_test_tells_what_is_wrong(user, module, demo_case, capsys):
    import slicer

    slicer.modules.sampleDataSources.clear()
    test = module.SOPIRegistrationTest()
    test.case = demo_case
    with pytest.raises(AssertionError, match="demo in Sample Data"):
        test.runTest()
    assert "FAIL  demo in Sample Data: there is none" in capsys.readouterr().out
    # The demo is made known again for whoever comes after.
    module.on_startup()
    user.host.messages.clear()


def test_a_scene_of_a_former_version_opens_with_its_choices(user, demo_case):
    """Former versions stored what a person reads in place of the names."""
    user.take_demo(demo_case)
    node = user.parameters.parameterNode
    user.widget.setParameterNode(None)
    former = {
        "initialiser": "Nominal view",
        "method": "Optimise (coarse to fine)",
        "content": "Whole body",
        "polarity": "Bones dark",
        "overlayMode": "Two colours",
        "overlayOpacity": "0.7",
    }
    for name, label in former.items():
        node.SetParameter(name, label)
    user.widget.initializeParameterNode()
    parameters = user.widget.logic.getParameterNode()
    assert (parameters.initialiser, parameters.method, parameters.content) == ("nominal", "opt", "body")
    assert (parameters.polarity, parameters.overlayMode) == ("bone-dark", "fusion")
    assert (parameters.mix, parameters.edgeStrength) == (0.7, 0.7)
    user.host.process(0.1)
    assert user.ui.initialiserCombo.currentText == "Nominal view"
    assert user.ui.polarityCombo.currentText == "Bones dark"
