"""The C-arm section: presets, files, typed values, DICOM tags, and where each value came from."""

from __future__ import annotations

import json

import numpy as np
import pytest
from support.xray_files import dicom, saved


@pytest.fixture
def with_xray(user):
    """A user with a CT and a square X-ray of 512 pixels chosen."""
    import slicer

    rng = np.random.default_rng(3)
    ct = slicer.util.addVolumeFromArray(rng.integers(-100, 100, (20, 20, 20)).astype(np.int16), name="CT")
    xray = slicer.util.addVolumeFromArray(rng.integers(0, 255, (1, 512, 512)).astype(np.uint8), name="Film")
    user.choose(ct, xray)
    return user


def _camera(user):
    return user.session.state.geometry.camera


def test_preset_scaled_to_the_image(with_xray):
    combo = with_xray.ui.presetCombo
    combo.setCurrentIndex(combo.findText("Perlove PLX118F"))
    combo.activated.emit(combo.currentIndex)
    assert with_xray.ui.sddSpinBox.value == pytest.approx(1011.7)
    assert with_xray.ui.rowSpacingSpinBox.value == pytest.approx(0.19959 * 2, abs=1e-4)
    assert "preset Perlove PLX118F" in with_xray.ui.geometrySourceLabel.text
    assert with_xray.ui.registerButton.enabled


def test_each_value_has_its_source_and_tolerance_and_what_is_typed_is_exact(with_xray):
    ui = with_xray.ui
    combo = ui.presetCombo
    combo.setCurrentIndex(combo.findText("Perlove PLX118F"))
    combo.activated.emit(combo.currentIndex)
    # 1 % of 1011.7 mm; 5 pixels of the detector, 2.5 of this image.
    assert "Source-detector distance ± 10.1 mm" in ui.geometrySourceLabel.text
    assert "pixel spacing ± 0.5 %" in ui.geometrySourceLabel.text
    ui.sddSpinBox.value = 1000.0
    assert "Source-detector distance: typed" in ui.geometrySourceLabel.text
    assert with_xray.session.state.geometry.tolerances.sdd_mm == 0.0
    assert "± 0.5 %" in ui.geometrySourceLabel.text


def test_what_contradicts_the_geometry_is_said_and_stops_nothing(with_xray):
    ui = with_xray.ui
    assert ui.geometryWarningLabel.isHidden()
    ui.sddSpinBox.value, ui.rowSpacingSpinBox.value, ui.columnSpacingSpinBox.value = 1000.0, 0.4, 0.4
    assert ui.geometryWarningLabel.isHidden()
    ui.columnSpacingSpinBox.value = 2.0
    assert "times as high as wide" in ui.geometryWarningLabel.text
    assert "seen from the source" in ui.geometryWarningLabel.text
    assert not ui.geometryWarningLabel.isHidden()
    assert ui.registerButton.enabled
    ui.columnSpacingSpinBox.value = 0.4
    assert ui.geometryWarningLabel.isHidden()


def test_preset_for_another_shape_is_refused(user):
    import slicer

    pixels = np.random.default_rng(3).integers(0, 255, (1, 300, 512)).astype(np.uint8)
    user.choose(xray=slicer.util.addVolumeFromArray(pixels, name="Crop"))
    combo = user.ui.presetCombo
    combo.setCurrentIndex(2)
    combo.activated.emit(2)
    assert "needs a geometry file" in user.last_message()
    assert combo.currentIndex == 0


def test_typed_values_become_a_geometry(with_xray):
    ui = with_xray.ui
    assert not ui.registerButton.enabled
    ui.sddSpinBox.value = 1000.0
    ui.rowSpacingSpinBox.value = 0.4
    assert not ui.registerButton.enabled
    ui.columnSpacingSpinBox.value = 0.5
    assert ui.registerButton.enabled
    assert np.allclose(_camera(with_xray).K, [[2000, 0, 255.5], [0, 2500, 255.5], [0, 0, 1]])
    ui.principalUSpinBox.value = 250.0
    ui.sodSpinBox.value = 650.0
    assert _camera(with_xray).K[0, 2] == 250.0
    assert with_xray.session.state.geometry.sod_mm == 650.0
    ui.viewCombo.setCurrentIndex(2)
    ui.viewCombo.activated.emit(2)
    assert with_xray.session.state.geometry.view == "LLAT"
    text = ui.geometrySourceLabel.text
    assert "ource-detector distance" in text
    assert "typed" in text


def test_file_known_by_its_matrix_alone(with_xray, tmp_path):
    path = tmp_path / "matrix.json"
    path.write_text(json.dumps({"K": [[2000, 0, 260], [0, 2100, 250], [0, 0, 1]]}))
    with_xray.host.answers.append(str(path))
    with_xray.click("loadGeometryButton")
    assert with_xray.host.messages == []
    assert not with_xray.ui.registerButton.enabled
    assert "source-object distance" in with_xray.ui.registerButton.toolTip
    with_xray.ui.sodSpinBox.value = 700.0
    assert with_xray.ui.registerButton.enabled
    assert "matrix.json" in with_xray.ui.geometrySourceLabel.text
    with_xray.ui.sddSpinBox.value = 1000.0
    assert np.allclose(_camera(with_xray).K[0], [2000, 0, 260])
    assert with_xray.ui.columnSpacingSpinBox.value == pytest.approx(0.5)


def test_saved_and_loaded_again(with_xray, tmp_path):
    test_typed_values_become_a_geometry(with_xray)
    known = with_xray.session.state.geometry
    path = str(tmp_path / "geometry.json")
    with_xray.host.answers += [path, path]
    with_xray.click("saveGeometryButton")
    with_xray.session.state.geometry = None
    with_xray.click("loadGeometryButton")
    again = with_xray.session.state.geometry
    assert np.allclose(again.camera.K, known.camera.K)
    assert (again.sod_mm, again.view) == (known.sod_mm, known.view)


def test_dicom_tags_are_taken_when_the_xray_is_chosen(user, tmp_path):
    """From the file that the application's database has of it."""
    import slicer

    pixels = np.random.default_rng(3).integers(0, 255, (64, 64)).astype(np.uint8)
    tags = {
        "DistanceSourceToDetector": 1100,
        "ImagerPixelSpacing": [0.3, 0.3],
        "DistanceSourceToPatient": 720,
    }
    path = saved(dicom(pixels, **tags), tmp_path / "xray.dcm")
    user.host.dicom_files["1.2.3"] = str(path)
    node = slicer.util.addVolumeFromArray(pixels[None], name="XA")
    node.SetAttribute("DICOM.instanceUIDs", "1.2.3")
    user.choose(xray=node)
    assert user.ui.presetCombo.currentIndex == 1
    assert (user.ui.sddSpinBox.value, user.ui.sodSpinBox.value) == (1100.0, 720.0)
    assert "DICOM" in user.ui.geometrySourceLabel.text


@pytest.mark.slow
def test_a_changed_geometry_is_shown_at_once(user, demo_case):
    user.take_demo(demo_case)
    user.show_views()
    before = user.drr()
    user.ui.sodSpinBox.value = 600.0
    user.host.process(0.4)
    user.wait()
    assert user.session.case.frame.sod_mm == 600.0
    assert np.abs(user.drr() - before).max() > 0.1
