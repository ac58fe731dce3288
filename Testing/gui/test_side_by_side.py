"""Several X-rays of one calibrated set, shown side by side: each with its view, its DRR and its overlay."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from SOPIRegistrationLib.geometry.c_arm import CArmGeometry
from SOPIRegistrationLib.geometry.files import write_geometry


@pytest.fixture
def biplane(user, demo_case, side_xray, tmp_path):
    """Both X-rays in the table, used jointly, the CT where the patient lay."""
    user.nodes_by_name = take_biplane(user, demo_case, side_xray, tmp_path)
    return user


def take_biplane(user, demo_case, side_xray, folder) -> dict:
    """Both X-rays in the table, used jointly, the CT where the patient lay. Returns their nodes."""
    import slicer

    user.take_demo(demo_case)
    camera, pixels = side_xray
    front = replace(demo_case.camera, name="front")
    path = folder / "cameras.json"
    write_geometry(CArmGeometry((front, camera)), path)
    nodes = {"side": slicer.util.addVolumeFromArray(pixels[None].astype(np.float32), name="side")}
    nodes["front"] = user.nodes.xray
    nodes["front"].SetName("front")
    user.host.answers.append(str(path))
    user.click("loadGeometryButton")
    for name in ("side", "front"):
        user.choose(xray=nodes[name])
        user.click("addXrayButton")
    assert user.host.messages == []
    user.ui.jointCheckBox.checked = True
    user.show_views()
    user.session.pose = user.session.case.T_world_to_camera @ demo_case.T_true
    user.wait()
    return nodes


def views(user) -> set[str]:
    """Names of the views of the layout."""
    layouts = user.host.app.layoutManager()
    description = layouts.layoutLogic().GetLayoutNode().GetLayoutDescription(layouts.layout)
    return {view.get("singletontag") for view in ElementTree.fromstring(description).iter("view")}


def shown_in(view: str) -> tuple[str, str]:
    """IDs of the volumes in the background and the foreground of a slice view."""
    import slicer
    from SOPIRegistrationLib.scene import slice_node

    node = slice_node(slicer.mrmlScene, view)
    composite = slicer.vtkMRMLSliceLogic.GetSliceCompositeNode(node)
    return composite.GetBackgroundVolumeID(), composite.GetForegroundVolumeID()


def drr_of(overlay) -> np.ndarray:
    import slicer

    return slicer.util.arrayFromVolume(overlay.drr)[0].copy()


def test_every_xray_has_its_view_its_drr_and_its_overlay(biplane):
    front, side = (biplane.nodes_by_name[name].GetID() for name in ("front", "side"))
    assert {"Fusion", "XRay", "DRR", "Fusion2", "XRay2", "DRR2"} <= views(biplane)
    main, [other] = biplane.session.overlay, biplane.session.overlay.beside
    assert shown_in("XRay")[0] == front
    assert shown_in("Fusion") == (front, main.node.GetID())
    assert shown_in("DRR")[0] == main.drr.GetID()
    assert shown_in("XRay2")[0] == side
    assert shown_in("Fusion2") == (side, other.node.GetID())
    assert shown_in("DRR2")[0] == other.drr.GetID()


def test_the_drr_beside_is_what_the_other_camera_sees(biplane, side_xray):
    from SOPIRegistrationLib.images.resampling import area_weights

    [other] = biplane.session.overlay.beside
    drr, pixels = drr_of(other), side_xray[1]
    rows, columns = (area_weights(min(a, b), b) for a, b in zip(drr.shape, pixels.shape, strict=True))
    integrals = np.asarray((columns @ (rows @ -np.log(pixels / 6e4)).T).T)
    seen = integrals > 0.05 * integrals.max()
    assert np.corrcoef(drr[seen], integrals[seen])[0, 1] > 0.995


def test_the_other_view_lies_on_its_own_detector_and_moves_with_the_ct(biplane):
    [other] = biplane.session.overlay.beside
    before, fused = drr_of(other), biplane.host.view_pixels("Fusion2").astype(int)
    assert fused.std() > 10
    biplane.ui.txSlider.value = biplane.ui.txSlider.value + 12.0
    biplane.wait()
    assert np.abs(drr_of(other) - before).max() > 0.1 * before.max()
    assert np.abs(biplane.host.view_pixels("Fusion2").astype(int) - fused).max() > 30


def test_mode_and_settings_are_of_all_pictures(biplane):
    [other] = biplane.session.overlay.beside
    biplane.ui.overlayModeCombo.setCurrentText("Two colours")
    biplane.ui.mixSlider.value = 0.8
    biplane.wait()
    assert other.mode == "fusion"
    assert other.setting("mix") == pytest.approx(0.8)


def test_one_switch_goes_back_to_this_xray(biplane):
    import slicer

    [other] = biplane.session.overlay.beside
    gone = other.node.GetID(), other.drr.GetID()
    slice_node = biplane.host.app.layoutManager().sliceWidget("XRay2").mrmlSliceNode()

    def c_arms():
        models = slicer.util.getNodesByClass("vtkMRMLModelNode")
        return [name for name in ("front", "side") if any(f"C-arm {name}" in m.GetName() for m in models)]

    assert slice_node.GetSliceVisible()
    assert c_arms() == ["front", "side"]
    biplane.ui.jointCheckBox.checked = False
    biplane.show_views()
    assert "Fusion2" not in views(biplane)
    # Nothing of the other one stands in the 3D view.
    assert not slice_node.GetSliceVisible()
    assert c_arms() == ["front"]
    assert biplane.session.overlay.beside == ()
    assert [slicer.mrmlScene.GetNodeByID(one) for one in gone] == [None, None]
    biplane.ui.jointCheckBox.checked = True
    biplane.show_views()
    assert "Fusion2" in views(biplane)


def test_another_one_is_looked_at(biplane):
    """The two change places; nobody is left behind."""
    import slicer

    rows = [biplane.ui.xrayTable.item(row, 1).text() for row in (0, 1)]
    biplane.ui.xrayTable.cellClicked.emit(rows.index("side"), 1)
    biplane.wait()
    front, side = (biplane.nodes_by_name[name].GetID() for name in ("front", "side"))
    assert shown_in("XRay")[0] == side
    assert shown_in("XRay2")[0] == front
    pictures = [n for n in slicer.util.getNodesByClass("vtkMRMLVectorVolumeNode") if "DRR" in n.GetName()]
    assert len(pictures) == 2


def test_side_by_side_after_loading_the_scene(biplane, tmp_path):
    import slicer

    before = drr_of(biplane.session.overlay.beside[0])
    path = str(tmp_path / "biplane.mrb")
    assert slicer.util.saveScene(path)
    slicer.mrmlScene.Clear()
    slicer.util.loadScene(path)
    biplane.wait()
    [other] = biplane.session.overlay.beside
    np.testing.assert_allclose(drr_of(other), before, atol=1e-3)
    assert shown_in("Fusion2")[1] == other.node.GetID()
    assert len([n for n in slicer.util.getNodesByClass("vtkMRMLVectorVolumeNode")]) == 2


def changes_of(node) -> list:
    """Grows by one with every change of a node."""
    changes = []
    node.AddObserver("ModifiedEvent", lambda *_: changes.append(None))
    return changes


def test_while_the_ct_is_dragged_both_pictures_follow_it(biplane):
    """Both long before the mouse is released, and nothing but pictures changes."""
    from test_fusion_view import Mouse, centre_seen

    biplane.ui.adjustCheckBox.checked = True
    [other] = biplane.session.overlay.beside
    pictures = [changes_of(one.node) for one in (biplane.session.overlay, other)]
    drrs = [changes_of(one.drr) for one in (biplane.session.overlay, other)]
    mouse = Mouse(biplane)
    start = mouse.xy(centre_seen(biplane))
    before = biplane.host.view_pixels("Fusion2").astype(int)
    mouse.move(start)
    mouse.interactor.LeftButtonPressEvent()
    for step in range(1, 9):
        mouse.move((start[0], start[1] + 5 * step))
        # A change of each picture for a move of the mouse.
        assert biplane.host.process(60, until=lambda: [len(one) for one in pictures] == [step, step])  # noqa: B023
    assert [len(one) for one in drrs] == [0, 0]
    dragged = biplane.host.view_pixels("Fusion2").astype(int)
    assert np.abs(dragged - before).max() > 30
    mouse.interactor.LeftButtonReleaseEvent()
    biplane.wait()
    assert [len(one) > 0 for one in drrs] == [True, True]


@pytest.mark.parametrize("count", [1, 2, 4])
def test_of_several_pictures_the_one_looked_at_is_drawn_every_other_time(count):
    from SOPIRegistrationLib.panel.live_picture import Turns

    turns, drawn = Turns(), []
    for _ in range(12):
        turns.all_wait(count)
        drawn.append(turns.take())
    assert drawn[::2] == [0] * 6
    assert drawn[1::2] == {1: [0] * 6, 2: [1] * 6, 4: [1, 2, 3, 1, 2, 3]}[count]
    turns.all_wait(count)
    last = set()
    while turns.someone_waits:
        last.add(turns.take())
    assert last == set(range(count))


@pytest.mark.parametrize("what", ["node", "drr"])
def test_a_picture_beside_that_was_removed_comes_back(biplane, what):
    import slicer

    [other] = biplane.session.overlay.beside
    known = len(slicer.util.getNodesByClass("vtkMRMLVolumeNode"))
    slicer.mrmlScene.RemoveNode(getattr(other, what))
    biplane.wait()
    assert other.is_complete
    assert shown_in("Fusion2")[1] == other.node.GetID()
    assert biplane.host.view_pixels("Fusion2").std() > 10
    assert len(slicer.util.getNodesByClass("vtkMRMLVolumeNode")) == known


@pytest.mark.slow
def test_one_x_ray_whose_polarity_is_misjudged_does_not_spoil_the_other(biplane):
    """The side view of the phantom is taken for one with bright bones, though not clearly."""
    case = biplane.session.case
    assert [one.bone_dark for one in (case.xray, *case.others)] == [True, False]
    biplane.ui.initialiserCombo.setCurrentText("Current pose")
    biplane.click("registerButton")
    biplane.wait()
    assert biplane.ui.verdictLabel.text.startswith("Accepted")
    case = biplane.session.case
    assert [one.bone_dark for one in (case.xray, *case.others)] == [True, True]
    [beside] = biplane.session.overlay.beside
    assert beside.node.GetAttribute("SOPIRegistration.BoneDark") == "1"
