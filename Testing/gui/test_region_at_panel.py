"""A region of the X-ray chosen at the panel."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture
def curve(user, demo_case):
    """A closed curve around the middle of the demo's X-ray, drawn in its view."""
    import slicer
    from SOPIRegistrationLib.scene import ras_from_pixels

    user.take_demo(demo_case)
    user.show_views()
    case = user.session.case
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsClosedCurveNode", "Around the spine")
    node.SetCurveTypeToLinear()
    for pixel in ([80, 40], [180, 40], [180, 220], [80, 220]):
        node.AddControlPointWorld(*ras_from_pixels(np.array(pixel), case.xray.camera, case.frame))
    return node


def test_only_the_region_is_compared_or_all_but_it(user, curve, demo_case):
    everywhere = user.session.case.xray.valid
    user.ui.regionSelector.setCurrentNode(curve)
    user.show_views()
    inside = user.session.case.xray.valid
    _, u = np.nonzero(inside)
    assert (u.min(), u.max()) == (pytest.approx(80, abs=1), pytest.approx(180, abs=1))
    assert inside.sum() < 0.6 * everywhere.sum()
    user.click("registerButton")
    user.wait()
    assert user.error_mm(demo_case) < 1.0
    user.ui.regionLeftOutCheckBox.checked = True
    user.show_views()
    np.testing.assert_array_equal(user.session.case.xray.valid, everywhere & ~inside)
    assert user.host.messages == []


def test_a_curve_that_is_changed_is_read_again_and_one_of_nothing_is_refused(user, curve):
    user.ui.regionSelector.setCurrentNode(curve)
    user.show_views()
    before = user.session.case.xray.valid.sum()
    world = [0.0, 0.0, 0.0]
    curve.GetNthControlPointPositionWorld(0, world)
    curve.SetNthControlPointPositionWorld(1, *world)
    user.show_views()
    assert user.session.case.xray.valid.sum() < before
    curve.RemoveAllControlPoints()
    user.click("showViewsButton")
    user.wait()
    assert "fewer than three points" in user.last_message()
