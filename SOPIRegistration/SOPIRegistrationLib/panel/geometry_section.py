"""The C-arm section: a geometry from DICOM, a preset, a file or typed, and where each value came from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import qt

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry.c_arm import CArmGeometry
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.files import load_geometry, write_geometry
from SOPIRegistrationLib.geometry.presets import PRESETS
from SOPIRegistrationLib.geometry.views import NOMINAL_VIEWS
from SOPIRegistrationLib.panel.messages import errors_shown

_VIEW_TEXTS = {
    "AP": "AP (source in front)",
    "PA": "PA (source behind)",
    "LLAT": "Left lateral (detector on the left)",
    "RLAT": "Right lateral (detector on the right)",
}
_NAMES = {
    "sdd_mm": "source-detector distance",
    "sod_mm": "source-object distance",
    "pixel_spacing_mm": "pixel spacing",
    "principal_point_px": "principal point",
    "K": "intrinsics K",
    "cameras": "cameras",
    "view": "view",
}
_FILTER = "Geometry (*.json);;All files (*)"


@dataclass(frozen=True)
class XrayFacts:
    """What the section knows of the chosen X-ray: name, (rows, columns), DICOM tags by keyword."""

    name: str
    shape: tuple[int, int]
    metadata: dict


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
        self._whole: CArmGeometry | None = None
        self.geometry: CArmGeometry | None = None
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

    def set_xray(self, xray: XrayFacts | None) -> None:
        """Follow the choice of an X-ray; without a geometry for it, its own DICOM tags are tried."""
        self._xray = xray
        fits = self.geometry is not None and xray is not None and self.geometry.camera.shape == xray.shape
        if xray is not None and not fits and xray.metadata:
            try:
                self._take(load_geometry(None, xray.shape, xray.metadata, image_name=xray.name))
            except InputError:
                pass
            else:
                self._ui.presetCombo.setCurrentIndex(1)
        self._refresh()

    def show(self, geometry: CArmGeometry | None) -> None:
        """Show a geometry that comes from elsewhere (a loaded scene, the demo case), reporting nothing."""
        self._whole = self.geometry = geometry
        self._refresh()

    def shows(self, geometry: CArmGeometry | None) -> bool:
        """Whether a geometry is the one shown, up to the rounding of a scene file."""
        shown = self.geometry
        if shown is None or geometry is None:
            return shown is geometry
        one, other = (
            [g.camera.shape, g.camera.sdd_mm, g.sod_mm, g.view, g.mirrored, g.rotation is None]
            for g in (shown, geometry)
        )
        same_rotation = shown.rotation is None or (
            geometry.rotation is not None and np.allclose(shown.rotation, geometry.rotation)
        )
        return one == other and same_rotation and np.allclose(shown.camera.K, geometry.camera.K)

    def load(self, path: str) -> None:
        """Take the geometry of a JSON file.

        Raises:
            InputError: it is unusable, or for another image.
        """
        xray = self._required_xray()
        self._take(load_geometry(path, xray.shape, xray.metadata, image_name=xray.name))

    def missing(self) -> str:
        """What is still needed, in words; empty when the geometry is complete."""
        if self.geometry is None:
            return "the C-arm's geometry"
        if self._xray is not None and self.geometry.camera.shape != self._xray.shape:
            return "a geometry for an image of this size"
        if self.geometry.with_default_sod().sod_mm is None:
            return "the source-object distance"
        return ""

    def _take(self, geometry: CArmGeometry) -> None:
        self._whole = geometry
        name = geometry.camera.name
        if len(geometry.cameras) > 1 and self._xray is not None:
            # Files of a set are often named after the camera that took them.
            named = [camera.name for camera in geometry.cameras if camera.name in self._xray.name]
            name = (named or [name])[0]
        self._change(geometry.for_camera(name) if len(geometry.cameras) > 1 else geometry)

    def _change(self, geometry: CArmGeometry | None) -> None:
        self.geometry = geometry
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
        self._change(self._whole.for_camera(self._ui.cameraCombo.itemText(index)))

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
            if self._xray is None or not (sdd and row and column):
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
        camera = replace(known.camera, K=K, sdd_mm=distance)
        sources = {**known.sources, name: "typed"}
        self._change(replace(known, cameras=(camera,), sod_mm=sod or None, sources=sources))

    def _required_xray(self) -> XrayFacts:
        if self._xray is None:
            raise InputError("choose the X-ray first: its number of pixels belongs to the geometry")
        return self._xray

    def _refresh(self) -> None:
        ui, geometry = self._ui, self.geometry
        several = self._whole is not None and len(self._whole.cameras) > 1
        ui.cameraCombo.visible = ui.cameraComboLabel.visible = several
        if several:
            ui.cameraCombo.clear()
            names = [camera.name for camera in self._whole.cameras]
            for name in names:
                ui.cameraCombo.addItem(name)
            ui.cameraCombo.setCurrentIndex(names.index(geometry.camera.name))
        ui.saveGeometryButton.enabled = geometry is not None
        ui.saveGeometryButton.toolTip = (
            "Write the geometry to a JSON file." if geometry else "There is no geometry to save yet."
        )
        if geometry is not None:
            camera = geometry.camera
            shown = {
                "sdd_mm": (camera.sdd_mm or 0.0,),
                "sod_mm": (geometry.sod_mm or 0.0,),
                "pixel_spacing_mm": camera.pixel_spacing_mm or (0.0, 0.0),
                "principal_point_px": camera.K[:2, 2],
            }
            for name, values in shown.items():
                for box, value in zip(self._fields[name], values, strict=True):
                    blocked = box.blockSignals(True)
                    box.value = float(value)
                    box.blockSignals(blocked)
            known = geometry.rotation is None and geometry.view in NOMINAL_VIEWS
            names = list(NOMINAL_VIEWS)
            ui.viewCombo.setCurrentIndex(names.index(geometry.view) if known else len(names))
        ui.geometrySourceLabel.text = self._source_text()

    def _source_text(self) -> str:
        if self.geometry is None:
            if self._xray is None:
                return "Choose an X-ray first."
            return "Needed: source-detector distance and pixel spacing, typed, from a preset or from a file."
        by_source: dict[str, list[str]] = {}
        for name, source in self.geometry.with_default_sod().sources.items():
            if name in _NAMES:
                by_source.setdefault(_short(source), []).append(_NAMES[name])
        lines = [f"{', '.join(names)}: {source}" for source, names in by_source.items()]
        if missing := self.missing():
            lines.append(f"missing: {missing}")
        return "\n".join(line[0].upper() + line[1:] for line in lines)


def _short(source: str) -> str:
    """A source without the folders of its path, as the second half of a line."""
    return source.replace("\\", "/").rpartition("/")[2].replace(": ", ", ")
