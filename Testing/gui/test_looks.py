"""What can be seen of the panel: in a narrow dock, under a dark theme."""

from __future__ import annotations

import pytest

NARROW = 420
# What is needed of bold and of large words (WCAG 2.1, 1.4.3 and 1.4.11).
LEAST_CONTRAST = 3.0
LIGHT, DARK = "#efefef", "#353535"


def luminance(colour: str) -> float:
    """Relative, of #rrggbb (WCAG 2.1)."""
    values = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    linear = [v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
    return sum(share * v for share, v in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("background", [LIGHT, DARK])
def test_verdicts_can_be_read_on_light_and_on_dark_windows(widget, background):
    from SOPIRegistrationLib.panel.strip_section import VERDICTS

    for _, colour in VERDICTS.values():
        dark, light = sorted((luminance(colour), luminance(background)))
        assert (light + 0.05) / (dark + 0.05) >= LEAST_CONTRAST


def test_every_control_is_reached_by_the_keyboard(widget):
    from PySide6 import QtCore, QtWidgets

    kinds = QtWidgets.QAbstractButton, QtWidgets.QComboBox, QtWidgets.QAbstractSpinBox, QtWidgets.QTableWidget
    controls = [part for kind in kinds for part in vars(widget.ui).values() if isinstance(part, kind)]
    tabbed = QtCore.Qt.FocusPolicy.TabFocus.value
    missed = [
        part.objectName()
        for part in controls
        if not QtWidgets.QWidget.focusPolicy(part).value & tabbed and part.objectName()
    ]
    assert len(controls) > 60
    assert missed == []


def sections(user) -> list:
    return [part for name, part in vars(user.ui).items() if name.endswith("Section")]


def narrow(user) -> None:
    """The panel in a narrow dock, all of it unfolded."""
    for section in sections(user):
        section.collapsed = False
    user.wait()
    parent = user.widget.parent
    parent.resize(NARROW, 1000)
    parent.show()
    user.host.process(0.2)


def cut_off(user) -> list[str]:
    """Labels and buttons whose words do not fit into them; tables that have to be scrolled sideways."""
    from PySide6 import QtWidgets

    def shown(kind):
        return [part for part in user.widget.parent.findChildren(kind) if part.isVisible()]

    found = []
    for label in shown(QtWidgets.QLabel):
        needed = QtWidgets.QLabel.heightForWidth(label, QtWidgets.QWidget.width(label))
        if needed > QtWidgets.QWidget.height(label) + 1:
            found.append(f"{label.objectName()}: '{label.text}'")
    for button in shown(QtWidgets.QPushButton):
        if button.minimumSizeHint().width() > QtWidgets.QWidget.width(button) + 1:
            found.append(f"{button.objectName()}: '{button.text}'")
    for table in shown(QtWidgets.QTableWidget):
        if table.horizontalScrollBar().maximum() > 0:
            found.append(table.objectName())
    return found


def test_nothing_is_cut_off_in_a_narrow_panel(user, demo_case):
    """Landmarks solved with a warning, a registration in the history, bodies and X-rays in their tables."""
    import numpy as np
    from SOPIRegistrationLib.scene import RAS_FROM_LPS, ras_from_pixels
    from test_bodies_section import add, add_segments

    user.take_demo(demo_case)
    narrow(user)
    assert cut_off(user) == []
    case, p, T = user.session.case, user.parameters, demo_case.T_true
    for (x, z), off in zip(((30, 0), (-30, 10), (0, 40), (10, -40)), (2, -2, 2, -2), strict=True):
        # All about in a plane and not quite right, which leaves another pose.
        point = case.frame.centre_lps_mm + np.array([x, 0.0, z])
        p.ctLandmarks.AddControlPoint(*(RAS_FROM_LPS[:3, :3] @ point))
        pixel = case.xray.camera.project(T[:3, :3] @ point + T[:3, 3]) + off
        p.xrayLandmarks.AddControlPoint(*ras_from_pixels(pixel, case.xray.camera, case.frame))
    user.click("solveButton")
    user.wait()
    assert [p.xrayLandmarks.GetNthControlPointLabel(n) for n in range(4)] == ["1", "2", "3", "4"]
    assert "fits as well" in user.ui.landmarkLabel.text
    colours = [node.GetDisplayNode().GetSelectedColor() for node in (p.ctLandmarks, p.xrayLandmarks)]
    assert colours[0] != colours[1]
    for collapsed in (True, False):
        user.ui.landmarksSection.collapsed = collapsed
        user.wait()
        assert [bool(n.GetDisplayVisibility()) for n in (p.ctLandmarks, p.xrayLandmarks)] == [
            not collapsed
        ] * 2
    user.session.pose = T
    user.ui.initialiserCombo.setCurrentText("Current pose")
    user.click("initialiseButton")
    user.wait()
    assert user.ui.historyTable.rowCount == 1
    add(user, add_segments(user, demo_case))
    narrow(user)
    assert cut_off(user) == []
    assert user.widget.parent.minimumSizeHint().width() <= NARROW


def test_words_of_a_body_without_a_verdict_are_the_themes(user, demo_case):
    """Black ones could not be read in a dark window."""
    from PySide6.QtCore import Qt
    from test_bodies_section import add, add_segments

    user.take_demo(demo_case)
    add(user, add_segments(user, demo_case))
    table = user.ui.bodyTable
    for row in range(table.rowCount):
        for column in range(4):
            assert table.item(row, column).foreground().style() == Qt.BrushStyle.NoBrush
