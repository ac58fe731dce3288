"""Unusable input at the panel: a message box with the remedy, and the scene as it was."""

from __future__ import annotations

import json

import numpy as np
import pytest


@pytest.fixture
def chosen(user, demo_case):
    """A user with the demo case chosen, and nothing pressed yet."""
    user.take_demo(demo_case)
    return user


def _nodes(scene) -> dict:
    """Nodes of the scene with their place and parent."""
    import slicer

    state = {}
    for node in slicer.util.getNodesByClass("vtkMRMLDisplayableNode", scene):
        matrix = node.GetParentTransformNode() and node.GetParentTransformNode().GetID()
        place = None
        if node.IsA("vtkMRMLVolumeNode"):
            import vtk

            ijk = vtk.vtkMatrix4x4()
            node.GetIJKToRASMatrix(ijk)
            place = slicer.util.arrayFromVTKMatrix(ijk).tolist()
        state[node.GetID()] = (matrix, place)
    return state


def _add_volume(array, name, kind="vtkMRMLScalarVolumeNode"):
    import slicer

    return slicer.util.addVolumeFromArray(np.ascontiguousarray(array), name=name, nodeClassName=kind)


def _press_and_read(user) -> str:
    """Press Show views where it is possible; the message that came, with the scene as it was."""
    before = _nodes(user.host.scene)
    user.click("showViewsButton")
    user.wait()
    assert _nodes(user.host.scene) == before
    assert user.parameters.transform is None
    assert len(user.host.messages) == 1
    assert user.host.messages[0][0] == "errorDisplay"
    return user.last_message()


def test_without_geometry_the_button_says_what_is_missing(chosen):
    chosen.session.state.geometry = None
    assert not chosen.ui.registerButton.enabled
    assert "the C-arm's geometry" in chosen.ui.registerButton.toolTip
    from SOPIRegistrationLib.errors import InputError

    with pytest.raises(InputError, match="load a file"):
        chosen.session.reader.read()


def test_colour_xray(chosen):
    colours = np.random.default_rng(1).integers(0, 255, (1, 256, 256, 3)).astype(np.uint8)
    chosen.choose(xray=_add_volume(colours, "Photo", "vtkMRMLVectorVolumeNode"))
    assert "olour" in _press_and_read(chosen)


def test_multi_frame_xray_without_a_frame(chosen):
    frames = np.random.default_rng(1).integers(0, 255, (5, 256, 256)).astype(np.uint8)
    chosen.choose(xray=_add_volume(frames, "Run"))
    assert "X-ray 'Run' has 5 frames" in chosen.ui.verdictLabel.text
    assert "frame" in _press_and_read(chosen)
    chosen.ui.frameSpinBox.value = 2
    chosen.show_views()
    assert len(chosen.host.messages) == 1


def test_empty_ct(chosen):
    chosen.choose(ct=_add_volume(np.full((40, 50, 60), -1000, np.int16), "Air"))
    assert "Air" in _press_and_read(chosen)


def test_ct_in_another_scale_is_mended_and_said_once(chosen):
    import slicer

    ct = chosen.parameters.ct
    hu = slicer.util.arrayFromVolume(ct).astype(np.int32)
    slicer.util.updateVolumeFromArray(ct, (np.maximum(hu, -1024) + 1024).astype(np.uint16))
    for polarity in ("Bones dark", "Bones bright"):
        # The second time only the X-ray is prepared anew.
        chosen.ui.polarityCombo.setCurrentText(polarity)
        chosen.show_views()
        assert [kind for kind, _ in chosen.host.messages] == ["infoDisplay"]
        assert "1024 added" in chosen.last_message()


def test_ct_without_voxels(chosen):
    import slicer

    chosen.choose(ct=slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Nothing"))
    assert "Nothing" in _press_and_read(chosen)


def test_mask_elsewhere(chosen):
    import slicer

    mask = _add_volume(np.ones((20, 20, 20), np.uint8), "Far", "vtkMRMLLabelMapVolumeNode")
    mask.SetOrigin(5000, 5000, 5000)
    chosen.choose(mask=mask)
    assert "Far" in _press_and_read(chosen)
    assert slicer.mrmlScene.GetNodeByID(mask.GetID())


def test_constant_xray(chosen):
    chosen.choose(xray=_add_volume(np.full((1, 256, 256), 7, np.uint16), "Blank"))
    assert "Blank" in _press_and_read(chosen)


def test_ct_as_xray(chosen):
    chosen.choose(xray=chosen.parameters.ct)
    assert not chosen.ui.showViewsButton.enabled or "two volumes" in _press_and_read(chosen)


def test_geometry_for_another_image_size(chosen):
    other = _add_volume(np.random.default_rng(1).integers(0, 255, (1, 100, 120)).astype(np.uint8), "Small")
    chosen.choose(xray=other)
    assert not chosen.ui.registerButton.enabled
    assert "of this size" in chosen.ui.registerButton.toolTip
    assert "Missing" in chosen.ui.geometrySourceLabel.text


@pytest.mark.parametrize("content", ["no json", '{"sdd_mm": 0, "pixel_spacing_mm": [1, 1]}', '{"foo": 1}'])
def test_unusable_geometry_file(chosen, tmp_path, content):
    path = tmp_path / "geometry.json"
    path.write_text(content)
    known = chosen.session.state.geometry
    chosen.host.answers.append(str(path))
    chosen.click("loadGeometryButton")
    assert "geometry.json" in chosen.last_message()
    assert np.allclose(chosen.session.state.geometry.camera.K, known.camera.K)


def test_geometry_before_an_xray(user):
    for control in (user.ui.loadGeometryButton, user.ui.presetCombo):
        assert not control.enabled
        assert "the X-ray" in control.toolTip
    assert "a geometry to save" in user.ui.saveGeometryButton.toolTip


@pytest.mark.parametrize(
    ("pixels", "kind", "remedy"),
    [
        (np.arange(5 * 64 * 64).reshape(5, 64, 64) % 251, "vtkMRMLScalarVolumeNode", "choose one, 1 to 5"),
        (np.arange(64 * 64 * 3).reshape(1, 64, 64, 3) % 251, "vtkMRMLVectorVolumeNode", "grayscale"),
    ],
)
def test_unusable_xray_before_its_geometry(user, tmp_path, pixels, kind, remedy):
    """Without a geometry no button could say what is wrong with the X-ray."""
    user.choose(xray=_add_volume(pixels.astype(np.uint8), "Film", kind))
    assert remedy in user.ui.geometrySourceLabel.text
    assert "X-ray that can be used" in user.ui.registerButton.toolTip
    path = tmp_path / "geometry.json"
    path.write_text(json.dumps({"sdd_mm": 1000, "pixel_spacing_mm": [0.5, 0.5]}))
    user.host.answers.append(str(path))
    user.click("loadGeometryButton")
    assert remedy in user.last_message()
    assert user.session.state.geometry is None
    if kind == "vtkMRMLScalarVolumeNode":
        user.ui.frameSpinBox.value = 3
        user.host.answers.append(str(path))
        user.click("loadGeometryButton")
        assert user.session.state.geometry.camera.shape == (64, 64)


def test_unusable_input_of_a_script_changes_nothing(chosen, module):
    known = chosen.session.state.geometry
    from SOPIRegistrationLib.errors import InputError

    air = _add_volume(np.full((40, 50, 60), -1000, np.int16), "Air")
    before = _nodes(chosen.host.scene)
    logic, p = module.SOPIRegistrationLogic(), chosen.parameters
    ct, xray = p.ct, p.xray
    with pytest.raises(InputError, match="Air"):
        logic.register(air, xray, known, polarity="bone-bright")
    assert (p.ct, p.xray, p.polarity) == (ct, xray, "auto")
    assert _nodes(chosen.host.scene) == before
    with pytest.raises(InputError, match="unknown polarity 'dark'"):
        logic.register(ct, xray, known, polarity="dark")


def test_a_fault_of_the_module_is_shown_and_the_panel_goes_on(open_with, demo_case):
    from SOPIRegistrationLib.registration.logic import RegistrationLogic

    user = open_with(logic=RegistrationLogic(prepare=lambda *_: 1 / 0))
    user.take_demo(demo_case)
    user.click("showViewsButton")
    user.wait()
    assert "ZeroDivisionError" in user.last_message()
    assert user.ui.registerButton.enabled


def test_transform_that_is_not_rigid(chosen):
    import slicer

    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "Doubling")
    slicer.util.updateTransformMatrixFromArray(transform, np.diag([2.0, 2.0, 2.0, 1.0]))
    before = _nodes(chosen.host.scene)
    chosen.ui.transformSelector.setCurrentNode(transform)
    chosen.click("showViewsButton")
    chosen.wait()
    assert "Doubling" in chosen.last_message()
    assert _nodes(chosen.host.scene) == before


def test_cancelling_the_demo_adds_nothing(open_with, demo_case):
    import threading

    begun, go_on = threading.Event(), threading.Event()

    def make_demo(_seed):
        begun.set()
        go_on.wait()
        return demo_case

    user = open_with(make_demo=make_demo)
    user.click("demoButton")
    assert user.host.process(60, until=begun.is_set)
    user.click("cancelButton")
    go_on.set()
    user.wait()
    assert user.parameters.ct is None
    assert user.ui.demoButton.enabled
    assert user.host.messages == []
