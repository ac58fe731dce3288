"""The C-arm section: a geometry from DICOM, a preset, a file or typed, and where each value came from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import qt

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry.c_arm import CArmGeometry
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.files import load_geometry, write_geometry
from SOPIRegistrationLib.geometry.presets import PRESETS
from SOPIRegistrationLib.geometry.views import NOMINAL_VIEWS
from SOPIRegistrationLib.panel.geometry_text import contradiction_lines, source_lines
from SOPIRegistrationLib.panel.messages import errors_shown
from SOPIRegistrationLib.panel.xray_facts import XrayFacts

_VIEW_TEXTS = {
    "AP": "AP (source in front)",
    "PA": "PA (source behind)",
    "LLAT": "Left lateral (detector on the left)",
    "RLAT": "Right lateral (detector on the right)",
}
_TOLERANCES = {
    "sdd_mm": "sdd_mm",
    "principal_point_px": "principal_point_px",
    "pixel_spacing_mm": "pixel_spacing_percent",
}
_FILTER = "Geometry (*.json);;All files (*)"
_NO_CAMERA = "Choose the camera…"


class GeometrySection:
    """Shows one geometry and reports every change of it.

    Args:
        ui: the panel's widgets by name.
        on_changed: called with the new geometry, or None while it is incomplete.
    """

    def __init__(self, ui, on_changed: Callable[[CArmGeometry | None], None]):
        self._ui = ui
        self._on_changed = on_changed
        self._xray: XrayFacts | None = None
        self.geometry: CArmGeometry | None = None
        self.calibrated_set: CArmGeometry | None = None
        # What was chosen and typed for each camera of the set.
        self._of_camera: dict[str, CArmGeometry] = {}
        self._fields = {
            "sdd_mm": (ui.sddSpinBox,),
            "sod_mm": (ui.sodSpinBox,),
            "pixel_spacing_mm": (ui.rowSpacingSpinBox, ui.columnSpacingSpinBox),
            "principal_point_px": (ui.principalUSpinBox, ui.principalVSpinBox),
        }
        ui.presetCombo.addItem("Choose a source…")
        ui.presetCombo.addItem("DICOM tags of the X-ray")
        for preset in PRESETS.values():
            ui.presetCombo.addItem(preset.name)
        for name in NOMINAL_VIEWS:
            ui.viewCombo.addItem(_VIEW_TEXTS[name])
        ui.viewCombo.addItem("As the image says")
        for name, boxes in self._fields.items():
            for box in boxes:
                box.connect("valueChanged(double)", lambda _value, name=name: self._on_typed(name))
        ui.presetCombo.connect("activated(int)", self._on_preset)
        ui.viewCombo.connect("activated(int)", self._on_view)
        ui.cameraCombo.connect("activated(int)", self._on_camera)
        ui.loadGeometryButton.connect("clicked(bool)", self._on_load)
        ui.saveGeometryButton.connect("clicked(bool)", self._on_save)
        self._refresh()

    def set_xray(self, xray: XrayFacts | None, is_another: bool = True) -> None:
        """Follow the choice of an X-ray, ``is_another`` than before; its DICOM tags may give a geometry."""
        self._xray = xray
        if xray is not None and xray.shape is not None:
            self._follow(xray, is_another)
        self._refresh()

    def _follow(self, xray: XrayFacts, is_another: bool) -> None:
        known, cameras = self.geometry, self.calibrated_set
        fits = known is not None and known.camera.shape == xray.shape
        named = cameras.camera_named_in(xray.name) if cameras is not None else None
        if named is not None and (is_another or known is None):
            self.choose_camera(named)
            return
        if not fits and xray.metadata:
            try:
                self._take(load_geometry(None, xray.shape, xray.metadata, image_name=xray.name))
            except InputError:
                pass
            else:
                self._ui.presetCombo.setCurrentIndex(1)
                return
        if cameras is not None and is_another:
            self.choose_camera(None)

    def show(self, geometry: CArmGeometry | None, calibrated_set: CArmGeometry | None = None) -> None:
        """Show a geometry that comes from elsewhere (a loaded scene, the demo case), reporting nothing.

        Args:
            geometry: with the camera of the X-ray alone.
            calibrated_set: with all cameras of its set, where it belongs to one.
        """
        self.geometry, self.calibrated_set, self._of_camera = geometry, calibrated_set, {}
        if geometry is None:
            # Numbers of what was shown before belong to nothing now.
            self._fill({name: (0.0,) * len(boxes) for name, boxes in self._fields.items()})
            for combo in (self._ui.presetCombo, self._ui.viewCombo):
                combo.setCurrentIndex(0)
        self._refresh()

    def shows(self, geometry: CArmGeometry | None) -> bool:
        """Whether a geometry is the one shown, up to the rounding of a scene file."""
        shown = self.geometry
        if shown is None or geometry is None:
            return shown is geometry
        one, other = (
            [g.camera.name, g.camera.shape, g.camera.sdd_mm, g.sod_mm, g.view, g.mirrored, g.rotation is None]
            for g in (shown, geometry)
        )
        same_rotation = shown.rotation is None or (
            geometry.rotation is not None and np.allclose(shown.rotation, geometry.rotation)
        )
        return one == other and same_rotation and np.allclose(shown.camera.K, geometry.camera.K)

    def load(self, path: str) -> None:
        """Take the geometry of a JSON file; InputError if it is unusable, or for another image."""
        xray = self._required_xray()
        self._take(load_geometry(path, xray.shape, xray.metadata, image_name=xray.name))

    @property
    def problem(self) -> str:
        """Why the X-ray cannot be used as it is, and the remedy, as a sentence; empty where it can."""
        text = "" if self._xray is None else self._xray.problem
        return text and text[:1].upper() + text[1:] + "."

    def missing(self) -> str:
        """What is still needed, in words; empty when the geometry is complete."""
        if self.geometry is None:
            if self.problem:
                return "an X-ray that can be used (see under C-arm)"
            return "the C-arm's geometry" if self.calibrated_set is None else "the camera that took the X-ray"
        shape = self._xray.shape if self._xray is not None else None
        if shape is not None and self.geometry.camera.shape != shape:
            return "a geometry for an image of this size"
        if self.geometry.with_default_sod().sod_mm is None:
            return "the source-object distance"
        return ""

    def wants(self, has_xray: bool):
        """(control, what it lacks in words, whether it waits for what runs) of each control.

        Args:
            has_xray: whether one is chosen.
        """
        ui = self._ui
        for control in (ui.loadGeometryButton, ui.presetCombo):
            yield control, "" if has_xray else "the X-ray, whose number of pixels belongs to it", True
        yield ui.saveGeometryButton, "" if self.geometry is not None else "a geometry to save", True
        yield ui.geometrySection, "", True

    def _take(self, geometry: CArmGeometry) -> None:
        """Take a geometry as loaded; of several cameras, the one that the X-ray is named after."""
        self._of_camera = {}
        if len(geometry.cameras) == 1:
            self.calibrated_set = None
            self._change(geometry)
            return
        self.calibrated_set = geometry
        self.choose_camera(geometry.camera_named_in(self._xray.name))

    def choose_camera(self, name: str | None) -> None:
        """Go on with a camera of the set, as it was left; None: it is still to be chosen."""
        known = self._of_camera.get(name)
        self._change(known or (self.calibrated_set.for_camera(name) if name else None))

    def _change(self, geometry: CArmGeometry | None) -> None:
        self.geometry = geometry
        if self.calibrated_set is not None and geometry is not None:
            self._of_camera[geometry.camera.name] = geometry
        self._refresh()
        self._on_changed(geometry)

    def _on_preset(self, index: int) -> None:
        if index == 0:
            return
        with errors_shown():
            xray = self._required_xray()
            preset = None if index == 1 else self._ui.presetCombo.itemText(index)
            self._take(
                load_geometry(preset, xray.shape, xray.metadata if index == 1 else None, image_name=xray.name)
            )
            return
        self._ui.presetCombo.setCurrentIndex(0)

    def _on_load(self) -> None:
        path = qt.QFileDialog.getOpenFileName(None, "Load C-arm geometry", "", _FILTER)
        if path:
            with errors_shown():
                self.load(path)
                self._ui.presetCombo.setCurrentIndex(0)

    def _on_save(self) -> None:
        path = qt.QFileDialog.getSaveFileName(None, "Save C-arm geometry", "geometry.json", _FILTER)
        if path:
            with errors_shown():
                write_geometry(self.geometry, path)

    def _on_camera(self, index: int) -> None:
        self.choose_camera(self._ui.cameraCombo.itemText(index) if index > 0 else None)

    def _on_view(self, index: int) -> None:
        if self.geometry is None:
            return
        names = list(NOMINAL_VIEWS)
        if index >= len(names):
            self._refresh()
            return
        sources = {**self.geometry.sources, "view": "chosen"}
        self._change(replace(self.geometry, view=names[index], rotation=None, sources=sources))

    def _on_typed(self, name: str) -> None:
        sdd, sod = self._ui.sddSpinBox.value, self._ui.sodSpinBox.value
        row, column = self._ui.rowSpacingSpinBox.value, self._ui.columnSpacingSpinBox.value
        known = self.geometry
        if known is None:
            usable = self._xray is not None and self._xray.shape is not None
            if not usable or self.calibrated_set is not None or not (sdd and row and column):
                self._refresh()
                return
            rows, columns = self._xray.shape
            camera = Camera.from_c_arm(sdd, (row, column), columns, rows)
            view = list(NOMINAL_VIEWS)[min(self._ui.viewCombo.currentIndex, len(NOMINAL_VIEWS) - 1)]
            sources = {"sdd_mm": "typed", "pixel_spacing_mm": "typed", "view": "chosen"}
            sources["principal_point_px"] = "default: detector centre"
            self._change(CArmGeometry((camera,), sod or None, view, sources=sources))
            return
        K, distance = known.camera.K.copy(), known.camera.sdd_mm
        if name == "principal_point_px":
            K[:2, 2] = self._ui.principalUSpinBox.value, self._ui.principalVSpinBox.value
        elif name in ("sdd_mm", "pixel_spacing_mm") and sdd:
            distance = sdd
            # A camera known by K alone gets its distance, and with it its pitch, from what is typed.
            if row and column:
                K[0, 0], K[1, 1] = sdd / column, sdd / row
        sources = {**known.sources, name: "typed"}
        # What a person types is taken as exact.
        exact = {_TOLERANCES[name]: 0.0} if name in _TOLERANCES else {}
        tolerances = replace(known.tolerances, **exact)
        camera = replace(known.camera, K=K, sdd_mm=distance, tolerances=tolerances)
        self._change(replace(known, cameras=(camera,), sod_mm=sod or None, sources=sources))

    def _required_xray(self) -> XrayFacts:
        if self._xray is None:
            raise InputError("choose the X-ray first: its number of pixels belongs to the geometry")
        if self._xray.problem:
            raise InputError(self._xray.problem)
        return self._xray

    def _refresh(self) -> None:
        ui, geometry = self._ui, self.geometry
        several = self.calibrated_set is not None
        ui.cameraCombo.visible = ui.cameraComboLabel.visible = several
        if several:
            ui.cameraCombo.clear()
            names = [_NO_CAMERA, *(camera.name for camera in self.calibrated_set.cameras)]
            for name in names:
                ui.cameraCombo.addItem(name)
            ui.cameraCombo.setCurrentIndex(names.index(geometry.camera.name) if geometry else 0)
        if geometry is None and several:
            self._fill({name: (0.0,) * len(boxes) for name, boxes in self._fields.items()})
        if geometry is not None:
            camera = geometry.camera
            self._fill(
                {
                    "sdd_mm": (camera.sdd_mm or 0.0,),
                    "sod_mm": (geometry.sod_mm or 0.0,),
                    "pixel_spacing_mm": camera.pixel_spacing_mm or (0.0, 0.0),
                    "principal_point_px": camera.K[:2, 2],
                }
            )
            known = geometry.rotation is None and geometry.view in NOMINAL_VIEWS
            names = list(NOMINAL_VIEWS)
            ui.viewCombo.setCurrentIndex(names.index(geometry.view) if known else len(names))
        ui.geometrySourceLabel.text = self._source_text()
        found = contradiction_lines(geometry, self._xray)
        ui.geometryWarningLabel.text = "\n".join(found)
        ui.geometryWarningLabel.visible = bool(found)

    def _fill(self, shown: dict) -> None:
        for name, values in shown.items():
            for box, value in zip(self._fields[name], values, strict=True):
                blocked = box.blockSignals(True)
                box.value = float(value)
                box.blockSignals(blocked)

    def _source_text(self) -> str:
        if self.problem:
            return self.problem
        if self.geometry is None:
            if self._xray is None:
                return "Choose an X-ray first."
            if self.calibrated_set is not None:
                return "Needed: the camera that took this X-ray; the X-ray's name does not tell."
            return "Needed: source-detector distance and pixel spacing, typed, from a preset or from a file."
        missing = self.missing()
        return "\n".join([*source_lines(self.geometry), *([f"Missing: {missing}"] if missing else [])])
