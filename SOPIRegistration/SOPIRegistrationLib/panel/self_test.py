"""The module's test of itself in the application at hand: what a user would see, checked one by one.

Needs no network and less than a minute; it clears the scene, as Slicer's own tests do.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import slicer

from SOPIRegistrationLib.layouts import FUSION_VIEW, XRAY_VIEW
from SOPIRegistrationLib.panel.self_test_cases import CaseChecks
from SOPIRegistrationLib.panel.self_test_watching import contrast_of
from SOPIRegistrationLib.scene import RAS_FROM_LPS, attach, pixels_from_ras, ras_from_pixels
from SOPIRegistrationLib.scene.nodes import remove_node

_DRAG_S = 2.0
_LEAST_RATE = 10.0
_MOST_TRE_MM = 0.5
_MOST_STOP_S = 1.5


@dataclass(frozen=True)
class Check:
    """What came of one check.

    Attributes:
        name: what was to be seen.
        passed: whether it was.
        finding: figures, or what was seen instead.
    """

    name: str
    passed: bool
    finding: str

    def __str__(self) -> str:
        return f"{'ok  ' if self.passed else 'FAIL'}  {self.name}" + (
            f": {self.finding}" if self.finding else ""
        )


class SelfTest(CaseChecks):
    """Runs the checks on a module's panel.

    Args:
        widget: the module's widget, opened (``slicer.modules.SOPIRegistrationWidget``).
        category: of the module's sample data.
        say: called with a line for each check, and at last a summary.
        case: the demo case made before; it is made by the panel's button unless given.
    """

    def __init__(self, widget, category: str, say: Callable[[str], None] = print, case=None):
        super().__init__(widget)
        self._category, self._say, self._case = category, say, case
        self.checks: list[Check] = []

    @property
    def passed(self) -> bool:
        """Whether every check did."""
        return all(check.passed for check in self.checks)

    def run(self) -> None:
        """All checks, in the order in which a user would come to them."""
        began = time.perf_counter()
        slicer.mrmlScene.Clear()
        self.pump(0.2)
        for name, check in (
            ("started without an error in the log", self._started),
            ("demo in Sample Data", self._sample_data),
            ("demo case prepared by one button", self._demo),
            ("X-ray fills its view", self._xray_fills),
            ("3D view shows the body", self._body_in_3d),
            ("handles at the body's centre", self._handles),
            ("fusion has contrast in every mode", self._contrast),
            ("registered, right to half a millimetre", self._registered),
            ("verdict in sight", self._verdict_in_sight),
            ("a markup of the CT is drawn where it projects", self._drawn),
            ("keys reach the fusion view", self._keys),
            (f"at least {_LEAST_RATE:.0f} live pictures a second", self._live_rate),
            ("saved and loaded again", self._saved),
            ("cancelled", self._cancelled),
            ("a model beside the CT, with edges of its own", self.check_bodies),
            ("two X-rays side by side", self.check_side_by_side),
            ("a source's distance estimated", self.check_estimated),
            ("a film of three frames tracked", self.check_tracked),
            ("frames of a Sequence in their view", self.check_sequence),
            ("boxes empty after closing the scene", self._closed),
        ):
            self._check(name, check)
        failed = [check.name for check in self.checks if not check.passed]
        outcome = f"failed: {'; '.join(failed)}" if failed else "all passed"
        self._say(f"{len(self.checks)} checks in {time.perf_counter() - began:.0f} s, {outcome}")

    def _check(self, name: str, check: Callable[[], str | None]) -> None:
        """One check; it fails by an assertion, or by anything else that is raised."""
        try:
            self.checks.append(Check(name, True, check() or ""))
        except AssertionError as error:
            self.checks.append(Check(name, False, str(error)))
        except Exception as error:
            self.checks.append(Check(name, False, f"{type(error).__name__}: {error}"))
        self._say(str(self.checks[-1]))

    # What is checked

    def _started(self) -> None:
        log = slicer.app.errorLogModel()
        entries = [log.logEntryDescription(index) for index in range(log.logEntryCount())]
        mine = [text for text in entries if "SOPIRegistration" in text and "Error" in text]
        assert not mine, mine[0].strip().splitlines()[-1]

    def _sample_data(self) -> str:
        sources = slicer.modules.sampleDataSources.get(self._category, [])
        assert sources, "there is none"
        return sources[-1].sampleName

    def _demo(self) -> str:
        began = time.perf_counter()
        if self._case is None:
            self.ui.demoButton.click()
        else:
            self.widget.logic.loadDemoCase(case=self._case)
            self.pump(0.1)
            self.ui.showViewsButton.click()
        self.wait()
        assert self.session.case is not None, self.ui.verdictLabel.text
        self.pump(0.3)
        return f"{time.perf_counter() - began:.1f} s"

    def _xray_fills(self) -> str:
        shares = []
        for view in (XRAY_VIEW, FUSION_VIEW):
            camera, frame = self.session.case.xray.camera, self.session.case.frame
            corners = ras_from_pixels([[0, 0], [camera.width, camera.height]], camera, frame)
            spread = np.ptp([self.xy(view, corner) for corner in corners], axis=0)
            shares.append((spread / self.size(view)).max())
        assert all(0.95 < share < 1.05 for share in shares), f"{100 * min(shares):.0f} % of it"
        return f"{100 * min(shares):.0f} %"

    def _body_in_3d(self) -> str:
        low, high = self.body_box()
        assert np.all(low > -0.05), f"body from {low.round(2)} to {high.round(2)} of the view"
        assert np.all(high < 1.05), f"body from {low.round(2)} to {high.round(2)} of the view"
        assert np.ptp(self.pixels_3d(), axis=(0, 1)).max() > 50, "the view is empty"
        return f"{100 * (high - low).max():.0f} % of the view"

    def _handles(self) -> str:
        before = self.pixels(FUSION_VIEW)
        self.ui.handlesCheckBox.checked = True
        self.pump(0.3)
        transform = self.session.parameters.transform
        centre = [*transform.GetCenterOfTransformation(), 1.0]
        place = self.xy(FUSION_VIEW, (slicer.util.arrayFromTransformMatrix(transform) @ centre)[:3])
        changed = np.abs(self.pixels(FUSION_VIEW).astype(int) - before).max(axis=-1) > 60
        self.ui.handlesCheckBox.checked = False
        self.pump(0.1)
        assert np.all(np.abs(place / self.size(FUSION_VIEW) - 0.5) < 0.2), f"at {place.round()} of the view"
        assert changed.any(), "they are not drawn"
        rows, columns = np.nonzero(changed)
        drawn = np.array([np.median(columns), np.median(rows)]) / changed.shape[::-1]
        assert np.all(np.abs(drawn - 0.5) < 0.2), f"drawn at {drawn.round(2)} of the view"
        return ""

    def _contrast(self) -> str:
        parameters, least = self.session.parameters, []
        known = parameters.overlayMode
        alone = contrast_of(self.middle(XRAY_VIEW))
        for mode in ("edges", "fusion", "curtain", "checkerboard"):
            parameters.overlayMode = mode
            self.pump(0.1)
            least.append(contrast_of(self.middle(FUSION_VIEW)) / alone)
        parameters.overlayMode = known
        assert min(least) > 0.5, f"{100 * min(least):.0f} % of the X-ray's"
        return f"at least {100 * min(least):.0f} % of the X-ray's"

    def _registered(self) -> str:
        self.ui.registerButton.click()
        assert self.ui.stageLabel.text, "no stage is told"
        self.wait()
        words = self.ui.verdictLabel.text
        self.T_found = self.session.pose
        error = self._error_mm()
        if error is None:
            assert words.startswith("Accepted"), words
            return words
        assert error < _MOST_TRE_MM, f"{error:.2f} mm off; {words}"
        return f"{error:.2f} mm; {words}"

    def _verdict_in_sight(self) -> str:
        hidden = [
            name
            for name in ("registerButton", "cancelButton", "progressBar", "verdictLabel", "errorLabel")
            if not getattr(self.ui, name).visible or getattr(self.ui, name).visibleRegion().isEmpty()
        ]
        assert not hidden, f"not to be seen: {', '.join(hidden)}"
        return ""

    def _drawn(self) -> str:
        session, before = self.session, self.pixels(XRAY_VIEW).astype(int)
        frame = session.case.frame
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "Self test")
        node.CreateDefaultDisplayNodes()
        attach(session.parameters.transform, node)
        node.AddControlPoint(*(RAS_FROM_LPS[:3, :3] @ frame.centre_lps_mm), "centre")
        self.wait()
        self.pump(0.3)
        world = np.array(node.GetNthControlPointPositionWorld(0))
        pixel = pixels_from_ras(world, session.case.xray.camera, frame)
        place = self.xy(XRAY_VIEW, ras_from_pixels(pixel, session.case.xray.camera, frame))
        changed = np.abs(self.pixels(XRAY_VIEW) - before).max(axis=-1) > 60
        remove_node(node)
        self.wait()
        assert changed.any(), "nothing is drawn"
        rows, columns = np.nonzero(changed)
        away = np.hypot(columns - place[0], changed.shape[0] - 1 - rows - place[1]).min()
        assert away < 3, f"drawn {away:.0f} pixels from there"
        return ""

    def _keys(self) -> str:
        """Through the interactor, and that the view hands them to it once the mouse is over it."""
        view, parameters = self.view(FUSION_VIEW), self.session.parameters
        interactor, known = view.interactor(), parameters.overlayMode
        interactor.InvokeEvent("EnterEvent")
        for key, mode in (("2", "fusion"), ("1", "edges")):
            interactor.SetEventInformation(10, 10, 0, 0, key, 0, key)
            interactor.KeyPressEvent()
            assert parameters.overlayMode == mode, f"key {key} chooses {parameters.overlayMode}"
        parameters.overlayMode = known
        return ""

    def _live_rate(self) -> str:
        pictures = []
        overlay = self.session.overlay.node
        tag = overlay.AddObserver("ModifiedEvent", lambda *_: pictures.append(time.perf_counter()))
        interactor = self.session.views.fusion_view.interactor()
        pose = self.session.pose
        self.ui.adjustCheckBox.checked = True
        x, y = self.size(FUSION_VIEW) // 2
        _mouse(interactor, x, y, "MouseMoveEvent", "LeftButtonPressEvent")
        began = time.perf_counter()
        while (seconds := time.perf_counter() - began) < _DRAG_S:
            turn = 2 * np.pi * 0.9 * seconds
            _mouse(
                interactor, x + round(30 * np.sin(turn)), y + round(30 * (1 - np.cos(turn))), "MouseMoveEvent"
            )
            slicer.app.processEvents()
        rate = len(pictures) / seconds
        interactor.LeftButtonReleaseEvent()
        overlay.RemoveObserver(tag)
        self.wait()
        moved = not np.allclose(self.session.pose, pose)
        self.ui.undoButton.click()
        self.wait()
        self.ui.adjustCheckBox.checked = False
        assert moved, "the CT does not follow the mouse"
        assert np.allclose(self.session.pose, pose), "Undo does not take it back"
        assert rate >= _LEAST_RATE, f"{rate:.0f}"
        return f"{rate:.0f}"

    def _saved(self) -> str:
        pose, text = self.session.pose, self.ui.verdictLabel.text
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "registration.mrb")
            assert slicer.util.saveScene(path), "the scene was not saved"
            slicer.mrmlScene.Clear()
            slicer.util.loadScene(path)
            self.wait()
        off = np.abs(self.session.pose - pose).max()
        assert off < 1e-4, f"the pose is {off:.2g} off"
        assert self.ui.verdictLabel.text == text, "the verdict is another one"
        return f"pose to {off:.1g}"

    def _cancelled(self) -> str:
        ui = self.ui
        ui.nominalButton.click()
        self.wait()
        start = self.session.pose
        ui.registerButton.click()
        self.wait(lambda: not ui.cancelButton.enabled or not np.allclose(self.session.pose, start))
        began = time.perf_counter()
        ui.cancelButton.click()
        self.wait()
        seconds = time.perf_counter() - began
        assert "Stopped" in ui.verdictLabel.text, ui.verdictLabel.text
        assert seconds < _MOST_STOP_S, f"after {seconds:.1f} s"
        return f"after {seconds:.1f} s"

    def _closed(self) -> str:
        slicer.mrmlScene.Clear()
        self.pump(0.3)
        ui = self.ui
        boxes = (
            "sddSpinBox",
            "sodSpinBox",
            "rowSpacingSpinBox",
            "columnSpacingSpinBox",
            "rxSlider",
            "tzSlider",
        )
        left = [name for name in boxes if getattr(ui, name).value != 0]
        assert not left, ", ".join(left)
        assert not ui.registerButton.enabled, "Register can be pressed"
        return ""

    def _error_mm(self) -> float | None:
        """Mean distance of the bones from where the demo case has them; None where that is unknown."""
        if self._case is None:
            return None
        labels = self._case.labels
        points = labels.points_lps(np.argwhere(labels.array)[::97, ::-1])
        difference = (self.session.pose - self._case.T_true)[:3]
        return float(np.linalg.norm(points @ difference[:, :3].T + difference[:, 3], axis=1).mean())


def _mouse(interactor, x, y, *events: str) -> None:
    interactor.SetEventInformation(int(x), int(y), 0, 0, chr(0), 0, None)
    for event in events:
        getattr(interactor, event)()
