"""The mouse and the keys in the fusion view, by events of its real interactor."""

from __future__ import annotations

import numpy as np
import pytest
from SOPIRegistrationLib.panel.choices import OVERLAY_MODES


class Mouse:
    """A hand on mouse and keys over the fusion view."""

    def __init__(self, user):
        self.user = user
        self.view = user.host.app.layoutManager().sliceWidget("Fusion").sliceView()
        self.interactor = self.view.interactor()

    def xy(self, pixel) -> tuple[int, int]:
        """Whole place in the view, from its lower left corner, nearest to an X-ray's pixel."""
        import slicer
        from SOPIRegistrationLib.scene import ras_from_pixels

        case = self.user.session.case
        matrix = slicer.util.arrayFromVTKMatrix(self.view.mrmlSliceNode().GetXYToRAS())
        ras = ras_from_pixels(pixel, case.xray.camera, case.frame)
        return tuple(round(value) for value in np.linalg.solve(matrix, [*ras, 1])[:2])

    def pixel(self, xy) -> np.ndarray:
        import slicer
        from SOPIRegistrationLib.scene import pixels_from_ras

        case = self.user.session.case
        matrix = slicer.util.arrayFromVTKMatrix(self.view.mrmlSliceNode().GetXYToRAS())
        return pixels_from_ras(matrix[:3] @ [*xy, 0, 1], case.xray.camera, case.frame)

    def at(self, xy, shift=0, control=0, key="") -> None:
        self.interactor.SetEventInformation(*xy, control, shift, key[:1] or chr(0), 0, key or None)

    def move(self, xy, **modifiers) -> None:
        self.at(xy, **modifiers)
        self.interactor.MouseMoveEvent()

    def drag(self, start, end, steps=5, button="Left", **modifiers) -> None:
        self.move(start, **modifiers)
        self.at(start, **modifiers)
        getattr(self.interactor, button + "ButtonPressEvent")()
        for share in np.linspace(0, 1, steps + 1)[1:]:
            self.move(
                tuple(np.round(np.add(start, share * np.subtract(end, start))).astype(int)), **modifiers
            )
            self.user.host.process(0.02)
        getattr(self.interactor, button + "ButtonReleaseEvent")()

    def press(self, key, shift=0) -> None:
        self.at(self.interactor.GetEventPosition(), shift=shift, key=key)
        self.interactor.KeyPressEvent()

    def release(self, key) -> None:
        self.at(self.interactor.GetEventPosition(), key=key)
        self.interactor.KeyReleaseEvent()

    def turn(self, clicks) -> None:
        for _ in range(abs(clicks)):
            if clicks > 0:
                self.interactor.MouseWheelForwardEvent()
            else:
                self.interactor.MouseWheelBackwardEvent()


@pytest.fixture
def mouse(user, demo_case):
    """Over the fusion view of the demo case, with the CT to be moved."""
    user.take_demo(demo_case)
    user.show_views()
    user.host.process(0.2)
    user.ui.adjustCheckBox.checked = True
    return Mouse(user)


def centre_seen(user) -> np.ndarray:
    case, pose = user.session.case, user.session.pose
    return case.xray.camera.project(pose[:3, :3] @ case.frame.centre_lps_mm + pose[:3, 3])


def test_a_drag_takes_the_body_along_and_is_one_step_to_undo(mouse):
    user, before = mouse.user, mouse.user.session.pose
    start, end = mouse.xy(centre_seen(user)), mouse.xy(np.add(centre_seen(user), (30, -20)))
    mouse.drag(start, end, steps=8)
    user.wait()
    moved = mouse.pixel(end) - mouse.pixel(start)
    np.testing.assert_allclose(centre_seen(user), user_centre(user, before) + moved, atol=1e-6)
    assert user.ui.txSlider.value != 0
    assert user.ui.undoButton.enabled
    user.click("undoButton")
    user.wait()
    np.testing.assert_allclose(user.session.pose, before, atol=1e-9)
    assert not user.ui.undoButton.enabled


def user_centre(user, pose) -> np.ndarray:
    case = user.session.case
    return case.xray.camera.project(pose[:3, :3] @ case.frame.centre_lps_mm + pose[:3, 3])


def test_shift_tilts_control_rolls_and_the_wheel_goes_deeper(mouse):
    user = mouse.user
    frame = user.session.case.frame
    middle = centre_seen(user)
    mouse.drag(mouse.xy(middle), mouse.xy(np.add(middle, (20, 0))), shift=1)
    user.wait()
    theta = np.rad2deg(frame.theta_from_T(user.session.pose)[:3])
    assert np.abs(theta).max() > 3
    np.testing.assert_allclose(centre_seen(user), middle, atol=1e-6)
    user.click("nominalButton")
    user.wait()
    mouse.drag(mouse.xy(np.add(middle, (60, 0))), mouse.xy(np.add(middle, (60, 30))), control=1)
    user.wait()
    nominal = frame.T_nominal
    axis = user.session.pose[:3, :3] @ nominal[:3, :3].T
    assert np.rad2deg(np.arctan2(axis[1, 0], axis[0, 0])) == pytest.approx(26.6, abs=1.5)
    user.click("nominalButton")
    user.wait()
    mouse.turn(3)
    user.wait()
    user.host.process(0.6)
    assert frame.theta_from_T(user.session.pose)[5] == pytest.approx(6.0)
    user.click("undoButton")
    user.wait()
    np.testing.assert_allclose(user.session.pose, nominal, atol=1e-9)


def test_arrow_keys_step_small_and_large(mouse):
    user = mouse.user
    before = user.session.pose
    mouse.press("Right")
    mouse.press("Up", shift=1)
    user.host.process(0.6)
    np.testing.assert_allclose((user.session.pose - before)[:3, 3], [0.5, -5.0, 0.0], atol=1e-9)


def test_the_picture_moves_at_once_and_the_scene_follows(mouse):
    """While the button is held: pictures of at least 128 pixels; the transform at the end at the latest."""
    user, sizes = mouse.user, []
    draw = user.session.overlay.draw
    user.session.overlay.draw = lambda drr: (sizes.append(max(drr.shape)), draw(drr))
    start = mouse.xy(centre_seen(user))
    before = user.picture()
    mouse.move(start)
    mouse.interactor.LeftButtonPressEvent()
    for step in range(1, 6):
        mouse.move((start[0] + 6 * step, start[1]))
        user.host.process(0.05)
    assert len(sizes) >= 3
    assert min(sizes) >= 128
    assert not np.array_equal(user.picture(), before)
    mouse.interactor.LeftButtonReleaseEvent()
    user.wait()
    assert user.picture().shape[0] >= 768
    assert centre_seen(user)[0] == pytest.approx(mouse.pixel((start[0] + 30, start[1]))[0], abs=0.6)


class Application:
    """Stands before the view's own tools: what would reach them."""

    EVENTS = (
        "LeftButtonPressEvent",
        "MiddleButtonPressEvent",
        "RightButtonPressEvent",
        "MouseWheelForwardEvent",
        "KeyPressEvent",
        "MouseMoveEvent",
    )

    def __init__(self, interactor, events=EVENTS):
        self.seen = []
        for event in events:
            interactor.AddObserver(event, lambda _caller, event: self.seen.append(event), 5.0)


def _everything(mouse, start) -> None:
    """Every button, the wheel, an arrow and the mouse with Shift."""
    for button in ("Left", "Middle", "Right"):
        mouse.at(start)
        getattr(mouse.interactor, button + "ButtonPressEvent")()
        getattr(mouse.interactor, button + "ButtonReleaseEvent")()
    mouse.turn(1)
    mouse.press("Left")
    mouse.move(start, shift=1)
    mouse.user.host.process(0.6)


def test_what_moves_the_ct_is_taken_from_the_view_and_given_back(mouse):
    """Slices do not browse, the crosshair keeps quiet; the middle and the right button pan and zoom on."""
    user, start = mouse.user, mouse.xy(centre_seen(mouse.user))
    application = Application(mouse.interactor)
    _everything(mouse, start)
    assert application.seen == ["MiddleButtonPressEvent", "RightButtonPressEvent"]
    user.ui.adjustCheckBox.checked = False
    pose, transform = user.session.pose, user.parameters.transform
    application.seen.clear()
    _everything(mouse, start)
    assert set(application.seen) == set(Application.EVENTS)
    np.testing.assert_allclose(user.session.pose, pose)
    user.widget.cleanup()
    changes = []
    transform.AddObserver(transform.TransformModifiedEvent, lambda *_: changes.append(1))
    application.seen.clear()
    _everything(mouse, start)
    assert set(application.seen) == set(Application.EVENTS)
    assert changes == []


def test_the_ct_cannot_be_moved_under_a_running_registration(mouse):
    user = mouse.user
    user.click("registerButton")
    start = mouse.xy(centre_seen(user))
    mouse.drag(start, (start[0] + 40, start[1] + 15), steps=2)
    assert "by hand" not in user.ui.stageLabel.text
    user.click("cancelButton")
    user.wait()
    assert user.ui.adjustCheckBox.enabled
    mouse.drag(start, (start[0] + 40, start[1] + 15))
    user.wait()
    assert user.ui.undoButton.enabled


def test_digits_choose_the_mode_and_space_shows_the_xray_while_held(mouse):
    import slicer

    user = mouse.user
    composite = slicer.app.layoutManager().sliceWidget("Fusion").mrmlSliceCompositeNode()
    for digit, text in enumerate(OVERLAY_MODES, start=1):
        mouse.press(str(digit))
        assert user.parameters.overlayMode == OVERLAY_MODES[text]
        assert user.session.overlay.mode == OVERLAY_MODES[text]
    mouse.press("1")
    mouse.press("space")
    # Keys that are held come again and again, each time released and pressed at once.
    opacities = []
    tag = composite.AddObserver(
        "ModifiedEvent", lambda node, _: opacities.append(node.GetForegroundOpacity())
    )
    for _ in range(5):
        mouse.release("space")
        mouse.press("space")
        user.host.process(0.03)
    assert composite.GetForegroundOpacity() == 0.0
    composite.RemoveObserver(tag)
    assert 1.0 not in opacities
    mouse.release("space")
    user.host.process(0.3)
    assert composite.GetForegroundOpacity() == 1.0


def test_keys_go_to_what_vtk_draws_in_once_the_mouse_is_over_it(mouse):
    """The widget around it passes no key on: a focus there leaves the view deaf."""
    mouse.interactor.InvokeEvent("EnterEvent")
    assert mouse.view.focusWidget() is mouse.view.VTKWidget()


def test_a_double_click_is_two_drags_while_the_ct_is_moved(mouse):
    application = Application(mouse.interactor, ("LeftButtonDoubleClickEvent",))
    mouse.interactor.InvokeEvent("LeftButtonDoubleClickEvent")
    assert application.seen == []
    mouse.user.ui.adjustCheckBox.checked = False
    mouse.interactor.InvokeEvent("LeftButtonDoubleClickEvent")
    assert application.seen == ["LeftButtonDoubleClickEvent"]


def test_the_curtain_follows_the_mouse(mouse):
    user = mouse.user
    mouse.press("3")
    for share in (0.3, 0.7):
        width = user.session.case.xray.camera.width
        mouse.move(mouse.xy([share * width - 0.5, 100.0]))
        user.host.process(0.2)
        assert user.session.overlay.setting("curtain") == pytest.approx(share, abs=0.01)
        picture = user.picture()[..., 0].astype(int)
        user.session.overlay.mode = "blink"
        drr = user.picture()[..., 0].astype(int)
        user.session.overlay.mode = "curtain"
        same = np.abs(picture - drr).mean(axis=0) < 0.5
        assert same[int((share + 0.02) * len(same)) :].all()
        assert not same[: int((share - 0.02) * len(same))].all()


def test_the_lens_follows_the_mouse(mouse):
    user = mouse.user
    mouse.press("6")
    camera = user.session.case.xray.camera
    centre = np.array([0.4 * camera.width - 0.5, 0.6 * camera.height - 0.5])
    mouse.move(mouse.xy(centre))
    user.host.process(0.2)
    assert user.session.overlay.setting("curtain") == pytest.approx(0.4, abs=0.01)
    assert user.session.overlay.setting("lens_down") == pytest.approx(0.6, abs=0.01)
    picture = user.picture()[..., 0].astype(int)
    user.session.overlay.mode = "blink"
    different = np.abs(picture - user.picture()[..., 0]) > 3
    rows, columns = np.indices(different.shape)
    size = np.array(different.shape)
    away = np.hypot(rows - 0.6 * size[0], columns - 0.4 * size[1]) / size.min()
    assert not different[away < 0.17].any()
    assert different[away > 0.2].mean() > 0.3


def test_blinking_goes_at_the_rate_that_is_set(mouse):
    import slicer

    user, seen = mouse.user, []
    composite = slicer.app.layoutManager().sliceWidget("Fusion").mrmlSliceCompositeNode()
    user.ui.blinkSlider.value = 10.0
    mouse.press("5")
    user.host.process(1.05, until=lambda: seen.append(composite.GetForegroundOpacity()) or False)
    changes = np.count_nonzero(np.diff(seen))
    user.ui.blinkSlider.value = 1.0
    seen.clear()
    user.host.process(1.05, until=lambda: seen.append(composite.GetForegroundOpacity()) or False)
    assert changes >= 6
    assert np.count_nonzero(np.diff(seen)) <= 2
    assert not user.ui.blinkSlider.isHidden()
    assert user.ui.mixSlider.isHidden()
