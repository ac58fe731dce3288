"""What the module's test of itself checks beyond one CT and one X-ray."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import slicer
import vtk

from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.c_arm import CArmGeometry
from SOPIRegistrationLib.geometry.tolerances import Tolerances
from SOPIRegistrationLib.layouts import FUSION_VIEW, XRAY_VIEW, views_of
from SOPIRegistrationLib.panel.choices import CURRENT_POSE
from SOPIRegistrationLib.panel.self_test_watching import Watching, contrast_of
from SOPIRegistrationLib.projector import project
from SOPIRegistrationLib.scene import RAS_FROM_LPS, XrayEntry, attach
from SOPIRegistrationLib.scene.nodes import remove_node

_SCREW_MM, _SCREW_COLOUR = 12.0, (0, 255, 0)
_SIDE_DEG = 60.0
# The film shows the patient moving across it.
_FRAMES, _STEP_PX = 3, 5
# What is stated of the source's distance in the last check, against what is right.
_WRONG_SDD = 1.04


class CaseChecks(Watching):
    """Each starts from the case prepared, with the CT where the X-ray shows it, and leaves it so.

    Attributes:
        T_found: (4, 4) T_lps_to_camera where the X-ray shows the CT.
    """

    T_found: np.ndarray

    def check_bodies(self) -> str:
        """A model beside the CT: row, transform, edges of its own colour; moved by itself, and taken out."""
        ui = self.ui
        self._put_at_found()
        bare = _near(self.pixels(FUSION_VIEW), _SCREW_COLOUR)
        node = self._add_screw()
        ui.bodySelector.setCurrentNode(node)
        ui.addBodyButton.click()
        ui.bodyTable.selectRow(1)
        ui.bodyMaterialCombo.setCurrentText("bone")
        ui.bodyColourButton.colorName = "#{:02x}{:02x}{:02x}".format(*_SCREW_COLOUR)
        self._show_views()
        assert ui.bodyTable.rowCount == 2, f"the table has {ui.bodyTable.rowCount} rows"
        drawn = _near(self.pixels(FUSION_VIEW), _SCREW_COLOUR)
        assert drawn.sum() > bare.sum() + 20, "no edges in its colour"
        ui.movedBodyCombo.setCurrentText(node.GetName())
        ui.txSlider.value += 2 * _SCREW_MM
        self.wait()
        moved = _near(self.pixels(FUSION_VIEW), _SCREW_COLOUR)
        stayed = np.allclose(self.session.pose, self.T_found, atol=1e-4)
        ui.movedBodyCombo.setCurrentIndex(0)
        ui.removeBodyButton.click()
        remove_node(node)
        self._show_views()
        assert (moved != drawn).sum() > 20, "it does not move by itself"
        assert stayed, "the CT moves with it"
        assert ui.bodyTable.rowCount == 0, "it is still in the table"
        return f"{drawn.sum()} pixels of edges"

    def check_side_by_side(self) -> str:
        """A second X-ray of a calibrated set: both have a view, a DRR and a picture with contrast."""
        session, p = self.session, self.session.parameters
        known, camera = session.state.geometry, session.case.xray.camera
        front = replace(known.camera, name="front")
        side = self._beside(replace(camera, name="side"))
        cameras = CArmGeometry((front, side), known.sod_mm, known.view)
        pixels = 6e4 * np.exp(-project(session.case.subject.body.level(1), side, self.T_found))
        node = slicer.util.addVolumeFromArray(pixels[None].astype(np.float32), name="Self test, side")
        with slicer.util.NodeModify(p.parameterNode):
            session.state.set_geometry(cameras.for_camera("front"), cameras)
            session.state.xrays = [XrayEntry(p.xray, p.frame, "front"), XrayEntry(node, 0, "side")]
            p.joint = True
        self._show_views()
        self._put_at_found()
        contrasts = [contrast_of(self.pixels(view)) for number in range(2) for view in views_of(number)]
        shown = len(self.session.overlay.beside)
        with slicer.util.NodeModify(p.parameterNode):
            p.joint = False
            session.state.xrays = []
            session.state.set_geometry(known)
        remove_node(node)
        self._show_views()
        assert shown == 1, f"{shown} X-rays are shown beside"
        assert min(contrasts) > 5, f"contrasts {', '.join(f'{one:.0f}' for one in contrasts)}"
        return f"contrast of the six views {min(contrasts):.0f} to {max(contrasts):.0f}"

    def check_estimated(self) -> str:
        """A source's distance that is stated wrongly, within its tolerance, is told by the registration."""
        session, ui, p = self.session, self.ui, self.session.parameters
        known, start = session.state.geometry, p.initialiser
        K, sdd = known.camera.K.copy(), known.camera.sdd_mm
        K[[0, 1], [0, 1]] *= _WRONG_SDD
        stated = replace(known.camera, K=K, sdd_mm=_WRONG_SDD * sdd, tolerances=Tolerances(sdd_mm=0.06 * sdd))
        session.state.set_geometry(replace(known, cameras=(stated,)))
        self._show_views()
        self._put_at_found()
        p.initialiser = CURRENT_POSE
        ui.registerButton.click()
        self.wait()
        told, verdict = ui.estimatedLabel.text, ui.verdictLabel.text
        p.initialiser = start
        session.state.set_geometry(known)
        self._show_views()
        assert "source-detector distance" in told, f"nothing is told of it; {verdict}"
        return told.splitlines()[0]

    def check_tracked(self) -> str:
        """Frames of a film in which the patient moves across it: each has a row and a pose."""
        session, ui, p = self.session, self.ui, self.session.parameters
        still, frame = p.xray, p.frame
        pixels = slicer.util.arrayFromVolume(still)[max(frame - 1, 0)]
        film = np.stack([np.roll(pixels, _STEP_PX * number, axis=1) for number in range(_FRAMES)])
        node = slicer.util.addVolumeFromArray(film, name="Self test, film")
        geometry = session.state.geometry
        with slicer.util.NodeModify(p.parameterNode):
            p.xray, p.frame = node, 1
            session.state.set_geometry(geometry)
        self._show_views()
        self._put_at_found()
        ui.trackButton.click()
        self.wait(lambda: not self.widget.panel.tracking.is_running)
        self.wait()
        rows = ui.trackTable.rowCount
        assert rows == _FRAMES, f"{rows} rows"
        found = [ui.trackTable.item(row, 1).text() for row in range(rows)]
        assert "lost" not in found, ", ".join(found)
        return ", ".join(found)

    def check_sequence(self) -> str:
        """A Sequence whose volumes lie where files have put them: each frame is brought onto the detector."""
        session, p = self.session, self.session.parameters
        geometry, pixels = session.state.geometry, slicer.util.arrayFromVolume(p.xray)[0]
        sequence = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", "Self test, Sequence")
        for number in range(2):
            volume = slicer.vtkMRMLScalarVolumeNode()
            slicer.util.updateVolumeFromArray(volume, np.roll(pixels, 4 * _STEP_PX * number, axis=1)[None])
            sequence.SetDataNodeAtValue(volume, str(number))
        browser = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "Self test, browser")
        browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
        browser.SetSelectedItemNumber(0)
        self.pump(0.1)
        with slicer.util.NodeModify(p.parameterNode):
            p.xray, p.frame = browser.GetProxyNode(sequence), 0
            session.state.set_geometry(geometry)
        self._show_views()
        first = self.pixels(XRAY_VIEW)
        browser.SetSelectedItemNumber(1)
        self.pump(0.4)
        self.wait()
        second = self.pixels(XRAY_VIEW)
        assert contrast_of(second) > 0.5 * contrast_of(first), "the second frame is not in its view"
        assert not np.array_equal(first, second), "the first frame is shown still"
        assert self.session.is_current, "the second frame is not what would be registered"
        return ""

    def _show_views(self) -> None:
        self.pump(0.1)
        self.wait()
        self.ui.showViewsButton.click()
        self.wait()
        self.pump(0.2)

    def _put_at_found(self) -> None:
        self.session.pose = self.T_found
        self.wait()
        # What follows is no part of the same gesture.
        self.pump(0.5)

    def _add_screw(self):
        """A ball in the CT, beside the rotation centre."""
        centre = self.session.case.frame.centre_lps_mm + np.array([3 * _SCREW_MM, 0.0, 0.0])
        ball = vtk.vtkSphereSource()
        ball.SetRadius(_SCREW_MM)
        ball.SetCenter(*(RAS_FROM_LPS[:3, :3] @ centre))
        ball.SetThetaResolution(24)
        ball.SetPhiResolution(24)
        ball.Update()
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelNode", "Self test, ball")
        node.SetAndObservePolyData(ball.GetOutput())
        node.CreateDefaultDisplayNodes()
        attach(self.session.parameters.transform, node)
        return node

    def _beside(self, camera):
        """The camera turned about what it looks at."""
        about = np.eye(4)
        about[:3, 3] = (self.T_found @ [*self.session.case.frame.centre_lps_mm, 1.0])[:3]
        turn = se3.exp_se3(np.array([0.0, np.deg2rad(_SIDE_DEG), 0.0, 0.0, 0.0, 0.0]))
        return replace(camera, T_world_to_camera=about @ turn @ se3.invert_rigid(about))


def _near(pixels: np.ndarray, colour) -> np.ndarray:
    """(rows, columns) bool: pixels of about a colour."""
    return np.abs(pixels.astype(int) - colour).max(axis=-1) < 90
