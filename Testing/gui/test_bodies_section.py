"""Several bodies at the panel: parts of the CT, further CTs and models, each with a pose of its own."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest


def add_segments(user, case):
    """The two vertebrae in the middle of the demo case, as segments on its CT."""
    import slicer
    from SOPIRegistrationLib.scene import RAS_FROM_LPS

    node = user.host.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Spine")
    node.CreateDefaultDisplayNodes()
    labels = case.labels
    present = [value for value in np.unique(labels.array) if value]
    colours = [0.9, 0.2, 0.2], [0.2, 0.9, 0.2]
    first = len(present) // 2 - 1
    for number, colour in enumerate(colours):
        voxels = (labels.array == present[first + number]).astype(np.uint8)
        one = slicer.util.addVolumeFromArray(voxels, name="one")
        image = slicer.vtkOrientedImageData()
        image.DeepCopy(one.GetImageData())
        image.SetImageToWorldMatrix(slicer.util.vtkMatrixFromArray(RAS_FROM_LPS @ labels.index_to_lps))
        user.host.scene.RemoveNode(one)
        node.AddSegmentFromBinaryLabelmapRepresentation(image, f"L{1 + number}", colour)
    return node


def sphere(user, name: str, radius_mm: float = 12.0):
    """A closed model in the middle of the CT."""
    import vtk

    source = vtk.vtkSphereSource()
    source.SetRadius(radius_mm)
    source.SetThetaResolution(24)
    source.SetPhiResolution(24)
    bounds = np.zeros(6)
    user.parameters.ct.GetRASBounds(bounds)
    source.SetCenter(*bounds.reshape(3, 2).mean(axis=1))
    source.Update()
    node = user.host.scene.AddNewNodeByClass("vtkMRMLModelNode", name)
    node.SetAndObservePolyData(source.GetOutput())
    node.CreateDefaultDisplayNodes()
    return node


def add(user, node) -> None:
    user.ui.bodySelector.setCurrentNode(node)
    user.click("addBodyButton")


def table(user) -> list[list[str]]:
    """What the table of bodies says."""
    rows = user.ui.bodyTable
    return [[rows.item(row, column).text() for column in range(4)] for row in range(rows.rowCount)]


@pytest.fixture
def spine(user, demo_case):
    """The demo case with two of its vertebrae in the table, shown where the patient lay."""
    user.take_demo(demo_case)
    add(user, add_segments(user, demo_case))
    user.show_views()
    user.session.pose = demo_case.T_true
    user.wait()
    # What follows is no part of the same drag.
    user.host.process(0.7)
    return user


def test_segments_of_the_ct_become_bodies_under_the_common_transform(spine):
    assert table(spine) == [[f"L{n}", "part of the CT", "held to neighbours", "–"] for n in (1, 2)]
    assert "Click a row" in spine.ui.bodiesLabel.text
    case, bodies = spine.session.case, spine.session.bodies
    assert case.bodies.names == ["L1", "L2"]
    assert case.bodies.rest is not None
    common = spine.parameters.transform
    assert all(one.transform.GetParentTransformNode() is common for one in bodies)
    assert spine.parameters.ct.GetParentTransformNode() is common
    first, second, _ = spine.session.views.shown.bodies
    assert first.GetParentTransformNode() is bodies[0].transform
    assert first.GetDisplayNode().GetColor() == pytest.approx((0.9, 0.2, 0.2))
    assert second.GetDisplayNode().GetColor() == pytest.approx((0.2, 0.9, 0.2))


def test_the_bodies_and_the_rest_add_up_to_the_ct(spine):
    from SOPIRegistrationLib.registration.prepared import PreparedCase
    from SOPIRegistrationLib.subject.bodies import Bodies

    case = spine.session.case
    whole = PreparedCase(Bodies.one(case.subject), case.xray, (), case.frame, 0.0, case.inputs)
    placement = spine.session.placement
    together, alone = case.render(placement, 512), whole.render(placement, 512)
    assert np.abs(together - alone).max() < 0.02 * alone.max()


def coloured(picture: np.ndarray, colour) -> np.ndarray:
    """Pixels of exactly a colour."""
    return np.abs(picture.astype(float) - 255 * np.asarray(colour)).max(axis=-1) < 1.5


def test_every_body_has_edges_of_its_own_colour_that_move_with_it(spine):
    first, second = (coloured(spine.picture(), one.colour) for one in spine.session.bodies)
    assert first.sum() > 50
    assert second.sum() > 50
    spine.ui.movedBodyCombo.setCurrentText("L1")
    spine.ui.tySlider.value = spine.ui.tySlider.value + 8.0
    spine.wait()
    moved, stayed = (coloured(spine.picture(), one.colour) for one in spine.session.bodies)
    assert (moved != first).sum() > 50
    # But for where edges of the other one have covered it.
    assert (stayed & second).sum() > 0.9 * second.sum()


def test_one_body_is_moved_by_hand_alone_and_taken_back(spine):
    before = spine.session.placement
    assert spine.ui.movedBodyCombo.currentText == "All bodies"
    spine.ui.movedBodyCombo.setCurrentText("L2")
    spine.ui.rxSlider.value = spine.ui.rxSlider.value + 5.0
    spine.wait()
    after = spine.session.placement
    assert np.allclose(after.of("L1"), before.of("L1"), atol=1e-9)
    assert np.allclose(after.of(), before.of(), atol=1e-9)
    # About the body's own centre.
    centre = np.append(spine.session.case.bodies["L2"].centre_lps_mm, 1.0)
    assert np.allclose(after.of("L2") @ centre, before.of("L2") @ centre, atol=1e-4)
    assert not np.allclose(after.of("L2"), before.of("L2"), atol=1e-2)
    spine.host.process(0.7)
    spine.ui.movedBodyCombo.setCurrentText("All bodies")
    spine.ui.tzSlider.value = spine.ui.tzSlider.value + 10.0
    spine.wait()
    gone = spine.session.placement
    assert np.allclose(gone.of("L2")[:3, 3] - after.of("L2")[:3, 3], [0, 0, 10], atol=0.01)
    spine.click("undoButton")
    spine.wait()
    assert spine.session.placement.is_near(after)
    spine.click("undoButton")
    spine.wait()
    assert spine.session.placement.is_near(before)


def test_handles_stand_at_the_body_that_is_moved(spine):
    spine.ui.handlesCheckBox.checked = True
    spine.wait()
    shown = lambda node: node.GetDisplayNode() is not None and node.GetDisplayNode().GetEditorVisibility()  # noqa: E731
    common, first = spine.parameters.transform, spine.session.bodies[0].transform
    assert shown(common)
    assert not shown(first)
    spine.ui.movedBodyCombo.setCurrentText("L1")
    assert shown(first)
    assert not shown(common)
    centre = np.array(first.GetCenterOfTransformation()) * [-1, -1, 1]
    assert np.allclose(centre, spine.session.case.bodies["L1"].centre_lps_mm)
    spine.ui.handlesCheckBox.checked = False
    assert not shown(first)
    assert not shown(common)


def test_a_saved_scene_has_the_bodies_where_they_were(spine, tmp_path):
    import slicer

    spine.ui.movedBodyCombo.setCurrentText("L1")
    spine.ui.txSlider.value = spine.ui.txSlider.value + 6.0
    spine.ui.bodyMotionCombo.setCurrentText("fixed")
    spine.wait()
    known, rows, colours = spine.session.placement, table(spine), [b.colour for b in spine.session.bodies]
    path = str(tmp_path / "bodies.mrb")
    assert slicer.util.saveScene(path)
    slicer.mrmlScene.Clear()
    assert table(spine) == []
    slicer.util.loadScene(path)
    spine.wait()
    assert table(spine) == rows
    assert rows[0][2] == "fixed"
    assert spine.session.placement.is_near(known, atol=1e-5)
    assert spine.ui.movedBodyCombo.currentText == "L1"
    assert [b.colour for b in spine.session.bodies] == colours
    assert spine.session.case.bodies["L1"].fixed


def test_colour_and_motion_of_the_selected_body(spine):
    spine.ui.bodyTable.selectRow(1)
    spine.ui.bodyColourButton.colorName = "#3366ff"
    spine.ui.bodyMotionCombo.setCurrentText("free")
    spine.wait()
    assert table(spine)[1][2] == "free"
    assert table(spine)[0][2] == "held to neighbours"
    assert spine.session.bodies[1].colour == pytest.approx((0.2, 0.4, 1.0))
    spine.show_views()
    assert spine.session.case.bodies["L2"].hold is None
    assert coloured(spine.picture(), spine.session.bodies[1].colour).sum() > 50
    spine.ui.bodyMotionCombo.setCurrentText("held to L1")
    spine.show_views()
    assert spine.session.case.bodies["L2"].hold.parent == "L1"


def test_a_body_taken_out_leaves_its_node(user, demo_case):
    user.take_demo(demo_case)
    model = sphere(user, "screw")
    add(user, model)
    assert [row[:2] for row in table(user)] == [
        [user.parameters.ct.GetName(), "the CT"],
        ["screw", "Material?"],
    ]
    user.click("showViewsButton")
    user.wait()
    assert "material" in user.last_message()
    user.ui.bodyTable.selectRow(1)
    user.ui.bodyMaterialCombo.setCurrentText("Ti")
    user.show_views()
    assert user.session.case.bodies.are_metal
    carried_by = user.session.bodies[1].transform
    assert model.GetParentTransformNode() is carried_by
    user.click("removeBodyButton")
    user.wait()
    assert table(user) == []
    assert model.GetParentTransformNode() is None
    assert user.host.scene.GetNodeByID(carried_by.GetID() or "") is None
    assert not user.session.case.has_several_bodies
    assert user.parameters.ct.GetParentTransformNode() is user.parameters.transform


def test_a_body_whose_node_is_removed_is_gone(user, demo_case):
    user.take_demo(demo_case)
    model = sphere(user, "screw")
    add(user, model)
    user.ui.bodyTable.selectRow(1)
    user.ui.bodyMaterialCombo.setCurrentText("Ti")
    user.show_views()
    user.host.scene.RemoveNode(model)
    user.wait()
    assert [row[1] for row in table(user)] == ["the CT"]
    assert not user.session.case.has_several_bodies
    assert user.host.messages == []


def test_what_does_not_go_into_the_table_is_said(spine):
    add(spine, spine.parameters.ct)
    assert "chosen already" in spine.last_message()
    add(spine, add_segments(spine, spine.nodes.case))
    assert "cuts up the CT already" in spine.last_message()
    add(spine, spine.session.views.shown.bodies[0])
    assert "made by this module" in spine.last_message()
    add(spine, spine.parameters.drr)
    assert "made by this module" in spine.last_message()
    assert len(table(spine)) == 2


def test_material_of_models_alone(spine):
    assert not spine.ui.bodyMaterialCombo.enabled


def test_every_body_has_a_transform_of_its_own_among_the_files(spine, tmp_path):
    import SimpleITK as sitk

    spine.ui.movedBodyCombo.setCurrentText("L2")
    spine.ui.tySlider.value = spine.ui.tySlider.value + 5.0
    spine.wait()
    spine.host.answers.append(str(tmp_path / "ct_to_carm.tfm"))
    spine.click("exportTransformButton")
    case, placement = spine.session.case, spine.session.placement
    point = case.bodies["L2"].centre_lps_mm
    for name, body in (("ct", ""), ("L1", "L1"), ("L2", "L2")):
        # ITK's transforms of images lead from where a point is to where it was.
        read = sitk.ReadTransform(str(tmp_path / f"{name}_to_carm.tfm")).GetInverse().TransformPoint(point)
        in_scene = np.linalg.inv(case.frame.T_nominal) @ placement.of(body) @ [*point, 1.0]
        np.testing.assert_allclose(read, in_scene[:3], atol=1e-4)


@pytest.mark.slow
def test_a_vertebra_moved_by_hand_starts_from_there_and_is_seen_on_its_way(spine):
    truth = spine.session.placement
    spine.ui.movedBodyCombo.setCurrentText("L2")
    spine.ui.txSlider.value = spine.ui.txSlider.value + 4.0
    spine.wait()
    spine.host.process(0.7)
    spine.ui.initialiserCombo.setCurrentText("Current pose")
    start, pictures = spine.session.placement, [spine.picture()]
    spine.click("registerButton")
    seen = []

    def look():
        seen.append(spine.session.placement)
        pictures.append(spine.picture())
        return not spine.panel.is_busy

    assert spine.host.process(300, until=look)
    assert spine.host.messages == []
    on_way = [one for one in seen if not one.is_near(start) and not one.is_near(seen[-1])]
    assert on_way
    assert sum(not np.array_equal(one, other) for one, other in pairwise(pictures)) > 2
    # It never went home with the others before it was released.
    own = [np.linalg.inv(one.of()) @ one.of("L2") for one in on_way]
    first = np.linalg.inv(start.of()) @ start.of("L2")
    np.testing.assert_allclose(own[0], first, atol=1e-6)
    for name in ("L1", "L2"):
        centre = np.append(spine.session.case.bodies[name].centre_lps_mm, 1.0)
        off = (spine.session.placement.of(name) - truth.of(name)) @ centre
        assert np.linalg.norm(off[:2]) < 1.0


@pytest.mark.slow
def test_two_vertebrae_registered_and_undone(spine):
    truth = spine.session.placement
    spine.ui.movedBodyCombo.setCurrentText("All bodies")
    spine.ui.txSlider.value = spine.ui.txSlider.value + 3.0
    spine.wait()
    spine.ui.initialiserCombo.setCurrentText("Current pose")
    spine.click("registerButton")
    spine.wait()
    assert spine.host.messages == []
    found = spine.session.placement
    for name in ("L1", "L2"):
        centre = np.append(spine.session.case.bodies[name].centre_lps_mm, 1.0)
        off = (found.of(name) - truth.of(name)) @ centre
        assert np.linalg.norm(off[:2]) < 1.0
    verdicts = spine.session.state.shown_entry.result["bodies"]
    assert [one["name"] for one in verdicts] == ["L1", "L2"]
    assert [row[3] != "–" for row in table(spine)] == [True, True]
    assert "L1: " in spine.ui.verdictLabel.text
    assert "L2: " in spine.ui.verdictLabel.text
    spine.click("undoButton")
    spine.wait()
    assert "changed since" in spine.ui.verdictLabel.text
    spine.ui.historyTable.cellClicked.emit(0, 0)
    spine.wait()
    assert spine.session.placement.is_near(found, atol=1e-4)
    assert "changed since" not in spine.ui.verdictLabel.text


@pytest.mark.slow
def test_radius_and_ulna_of_the_wrist_in_two_views(user, shared_data):
    import slicer
    from SOPIRegistrationLib.scene import matrix_from_pose

    folder = shared_data / "wrist"
    if not folder.is_dir():
        pytest.skip("the wrist sample data is not in ../shared/data")
    ulna = slicer.util.loadVolume(str(folder / "ulna.nii.gz"))
    user.take_wrist(folder)
    user.ui.jointCheckBox.checked = True
    add(user, ulna)
    user.show_views()
    gold = np.array(json.loads((folder / "gold_0099.json").read_text())["T_radius_lps_to_world"])
    case = user.session.case
    start = case.T_world_to_camera @ gold
    start[:3, 3] += [1.0, -1.0, 2.0]
    matrix = slicer.util.vtkMatrixFromArray(matrix_from_pose(start, case.frame))
    user.parameters.transform.SetMatrixTransformToParent(matrix)
    user.wait()
    user.ui.initialiserCombo.setCurrentText("Current pose")
    user.click("registerButton")
    user.wait(400)
    assert user.host.messages == []
    found = user.session.placement
    T = np.linalg.inv(user.session.case.T_world_to_camera) @ found.of("radius")
    points = case.bodies["radius"].subject.ct.surface_points_lps_mm
    off = points @ (T - gold)[:3, :3].T + (T - gold)[:3, 3]
    assert np.linalg.norm(off, axis=1).mean() < 0.7
    assert [row[0] for row in table(user)] == ["radius", "ulna"]
    assert table(user)[0][3] == "Accepted"
    assert ulna.GetParentTransformNode() is user.session.bodies[1].transform
