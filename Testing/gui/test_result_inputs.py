"""What a result is of: other images, another frame or another geometry than those chosen now."""

from __future__ import annotations

import numpy as np
import pytest

ACCEPTED, NOTE = "Accepted", "is chosen by now"


@pytest.fixture
def registered(user, demo_case):
    """A user before the demo case, accepted where it is."""
    user.take_demo(demo_case)
    user.show_views()
    register_at_truth(user, demo_case)
    return user


def register_at_truth(user, case) -> None:
    """Judge the pose that the X-ray shows."""
    user.session.pose = case.T_true
    user.wait()
    user.ui.initialiserCombo.setCurrentText("Current pose")
    user.click("initialiseButton")
    user.wait()
    assert user.ui.verdictLabel.text.startswith(ACCEPTED)
    assert NOTE not in user.ui.verdictLabel.text


def is_marked(user) -> bool:
    """Whether the strip, in gray, and the fusion view say that the verdict is of other inputs."""
    told = NOTE in user.ui.verdictLabel.text
    assert told == ("#808080" in user.ui.verdictLabel.styleSheet)
    assert told == ("(inputs changed since)" in user.session.views.label)
    return told


def test_another_ct_is_not_accepted(registered):
    import slicer
    import vtk

    user = registered
    turned = slicer.util.arrayFromVolume(user.nodes.ct)[:, :, ::-1].copy()
    other = slicer.util.addVolumeFromArray(turned, name="another CT")
    matrix = vtk.vtkMatrix4x4()
    user.nodes.ct.GetIJKToRASMatrix(matrix)
    other.SetIJKToRASMatrix(matrix)
    user.choose(ct=other)
    user.host.process(0.1)
    assert is_marked(user)
    user.show_views()
    # The transform is at the registered pose still.
    assert is_marked(user)
    user.choose(ct=user.nodes.ct)
    user.show_views()
    assert not is_marked(user)


def test_another_geometry_is_not_accepted_and_the_former_one_is(registered):
    user, known = registered, registered.session.state.geometry
    user.ui.geometrySection.collapsed = False
    user.ui.sddSpinBox.value += 30.0
    user.host.process(0.4)
    user.wait()
    assert is_marked(user)
    user.session.state.geometry = known
    user.host.process(0.4)
    user.wait()
    assert not is_marked(user)


def test_renamed_saved_and_loaded_it_is_of_the_same_images(registered, tmp_path):
    import slicer

    user = registered
    user.nodes.ct.SetName("renamed")
    user.nodes.xray.SetName("renamed as well")
    path = str(tmp_path / "scene.mrb")
    assert slicer.util.saveScene(path)
    slicer.mrmlScene.Clear()
    slicer.util.loadScene(path)
    user.wait()
    assert user.ui.verdictLabel.text.startswith(ACCEPTED)
    assert not is_marked(user)
    pixels = slicer.util.arrayFromVolume(user.parameters.xray)
    pixels[0, :20] = pixels.max()
    slicer.util.arrayFromVolumeModified(user.parameters.xray)
    user.host.process(0.4)
    user.wait()
    assert is_marked(user)
    assert user.session.is_current


@pytest.fixture
def film(user, demo_case):
    """The demo X-ray as the first frame of a Sequence whose volumes lie where a file has put them."""
    import slicer

    user.take_demo(demo_case)
    pixels = slicer.util.arrayFromVolume(user.nodes.xray)[0]
    sequence = user.host.scene.AddNewNodeByClass("vtkMRMLSequenceNode", "film")
    for number in range(3):
        volume = slicer.vtkMRMLScalarVolumeNode()
        slicer.util.updateVolumeFromArray(volume, np.roll(pixels, 12 * number, axis=1)[None])
        sequence.SetDataNodeAtValue(volume, str(number))
    user.browser = user.host.scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "browser")
    user.browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
    user.browser.SetSelectedItemNumber(0)
    geometry = user.session.state.geometry
    user.choose(xray=user.browser.GetProxyNode(sequence))
    user.session.state.geometry = geometry
    user.show_views()
    register_at_truth(user, demo_case)
    return user


def test_the_next_frame_of_a_film_lies_on_the_detector_and_is_not_accepted(film):
    import slicer
    import vtk

    user, place = film, vtk.vtkMatrix4x4()
    xray, before = user.parameters.xray, user.picture()

    def on_detector():
        xray.GetIJKToRASMatrix(place)
        return slicer.util.arrayFromVTKMatrix(place)

    known, key = on_detector(), user.session.case.inputs.xray_key
    user.browser.SetSelectedItemNumber(1)
    user.host.process(0.05)
    np.testing.assert_allclose(on_detector(), known)
    user.host.process(0.4)
    user.wait()
    assert user.session.case.inputs.xray_key != key
    assert user.session.is_current
    assert np.abs(user.picture().astype(int) - before).mean() > 1
    assert is_marked(user)
    user.browser.SetSelectedItemNumber(0)
    user.host.process(0.4)
    user.wait()
    assert not is_marked(user)
    assert np.array_equal(user.picture(), before)


def test_an_x_ray_that_changes_in_mid_run_is_not_accepted(film):
    user = film
    user.click("registerButton")
    user.browser.SetSelectedItemNumber(2)
    user.wait()
    assert user.ui.historyTable.rowCount == 2
    assert is_marked(user)


def test_the_transform_removed_in_mid_run_is_said(registered):
    user = registered
    user.click("registerButton")
    user.host.process(0.05)
    user.host.scene.RemoveNode(user.parameters.transform)
    user.wait()
    assert user.ui.verdictLabel.text == "The transform was removed from the scene."
    user.show_views()
    assert user.parameters.transform is not None


def test_images_that_cannot_be_used_any_more_are_told(registered):
    import slicer

    user = registered
    slicer.util.updateVolumeFromArray(user.nodes.xray, np.arange(9000.0).reshape(1, 100, 90))
    user.host.process(0.5)
    user.wait()
    assert is_marked(user)
    assert not user.ui.registerButton.enabled
    assert "a geometry for an image of this size" in user.ui.registerButton.toolTip
    assert user.host.messages == []


def test_a_ct_that_lost_its_voxels_is_not_accepted(registered):
    user = registered
    user.nodes.ct.SetAndObserveImageData(None)
    user.host.process(0.5)
    user.wait()
    assert is_marked(user)
    assert "has no voxels" in user.last_message()
