"""The test host against what Slicer was seen to offer, and the module's code against both."""

from __future__ import annotations

import ast
import inspect
import json
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

MODULE = Path(__file__).resolve().parents[2] / "SOPIRegistration"
SPEC = Path(__file__).resolve().parents[3] / "shared" / "spec" / "slicer-5.12-api.json"
_QT_EVENTS = {"paintEvent", "resizeEvent", "staticMetaObject"}
UI = MODULE / "Resources" / "UI" / "SOPIRegistration.ui"


def test_fixture_is_part_of_the_observation():
    from host import api

    if not SPEC.exists():
        pytest.skip("the observation (../shared/spec) is not beside this checkout")
    whole = json.loads(SPEC.read_text())
    assert all(whole[key] == value for key, value in api.observed().items())


def test_host_widgets_offer_nothing_that_slicer_lacks(host):
    from host import _CUSTOM, api

    for qualified, base in _CUSTOM.items():
        own = {name for name in vars(base) if not name.startswith("_")} - _QT_EVENTS
        assert own <= api.class_names(qualified), f"{qualified}: {sorted(own - api.class_names(qualified))}"


def test_host_application_offers_nothing_that_slicer_lacks(host):
    from host import api
    from host.application import LayoutManager

    for instance, label in ((host.app, "slicer.app"), (host.app.layoutManager(), LayoutManager.api_label)):
        own = {name for name in dir(instance) if not name.startswith("_")} - {"api_label"}
        assert own <= api.object_names(label)


def test_properties_are_attributes_and_signals_connect_by_signature(host):
    import qt

    button, hits = qt.QPushButton("Go"), []
    assert (button.text, button.enabled) == ("Go", True)
    with pytest.raises(TypeError):
        button.text()
    button.enabled = False
    assert not button.isEnabled()
    button.enabled = True
    button.connect("clicked(bool)", lambda: hits.append("none"))
    button.connect("clicked(bool)", hits.append)
    button.click()
    assert hits == ["none", False]
    button.disconnect("clicked(bool)")
    button.click()
    assert len(hits) == 2
    with pytest.raises(ValueError, match="no signal"):
        button.connect("clickd(bool)", hits.append)


def test_the_module_cannot_reach_what_slicer_lacks(host):
    import qt

    label = qt.QLabel("x")
    scope = {"__name__": "SOPIRegistrationLib.panel.somewhere", "label": label}
    with pytest.raises(AttributeError, match="no 'setObjectTitle'"):
        exec("label.setObjectTitle('y')", scope)
    with pytest.raises(AttributeError, match="no property 'colour'"):
        exec("label.colour = 'red'", scope)
    exec("label.text = 'y'", scope)
    assert label.text == "y"


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("bar.enabled = np.bool_(True)", "bar.enabled = True"),
        ("bar.value = np.int64(3)", "bar.value = 3"),
        ("bar.setValue(np.int64(3))", "bar.setValue(3)"),
        ("bar.setEnabled(np.bool_(False))", "bar.setEnabled(False)"),
        ("bar.setRange(np.float32(0), 3)", "bar.setRange(0, 3)"),
        ("bar.setRange(minimum=0, maximum=3)", "bar.setRange(0, 3)"),
    ],
)
def test_widgets_take_python_s_values_alone(host, wrong, right):
    """PythonQt looks for an overload of the types that it knows, and takes arguments by place."""
    import qt

    scope = {"__name__": "SOPIRegistrationLib.panel.somewhere", "bar": qt.QProgressBar(), "np": np}
    with pytest.raises((ValueError, TypeError)):
        exec(wrong, scope)
    exec(right, scope)


def test_a_receiver_that_is_no_function_gets_all_arguments(host):
    """As of a partial: what it would take is not known to PythonQt."""
    import qt

    button, got = qt.QPushButton("Go"), []
    button.connect("clicked(bool)", partial(got.append))
    button.connect("clicked(bool)", partial(lambda: got.append("called")))
    button.click()
    assert got == [False]
    host.exceptions.clear()


def test_cmake_lists_every_file():
    listed = set((MODULE / "CMakeLists.txt").read_text().split())
    files = [*(MODULE / "SOPIRegistrationLib").rglob("*.py"), *(MODULE / "Resources").rglob("*.*")]
    missing = {path.relative_to(MODULE).as_posix() for path in files if path.is_file()} - listed
    assert not missing, f"add to SOPIRegistration/CMakeLists.txt: {sorted(missing)}"
    gone = {entry for entry in listed if entry.endswith((".py", ".ui", ".png", ".txt"))} - {
        "${MODULE_NAME}.py"
    }
    assert all((MODULE / entry.strip(")")).exists() for entry in gone if "$" not in entry)


def test_every_control_has_a_tooltip_and_every_number_a_unit():
    unitless = {
        "mixSlider",
        "edgeSlider",
        "contrastSlider",
        "xrayWindowRange",
        "drrWindowRange",
        "frameSpinBox",
    }
    for element in ElementTree.parse(UI).iter("widget"):
        kind, name = element.get("class"), element.get("name")
        properties = {prop.get("name"): prop[0].text for prop in element.findall("property")}
        if kind in ("QLabel", "QWidget", "QFrame", "QScrollArea", "qMRMLWidget", "ctkCollapsibleButton"):
            continue
        assert properties.get("toolTip"), f"{name} has no tooltip"
        if kind in ("QDoubleSpinBox", "ctkSliderWidget") and name not in unitless:
            assert properties.get("suffix"), f"{name} has no unit"


def test_a_section_folds_one_widget_which_holds_all_others():
    """CTK knows what is hidden in a button by events that Qt does not send while the button is folded.

    What is hidden meanwhile, such as the camera's box of a geometry of one camera, would be there again.
    """
    for section in ElementTree.parse(UI).iter("widget"):
        if section.get("class") == "ctkCollapsibleButton":
            [contents] = section.findall("./layout//widget")[:1]
            assert [one.get("name") for one in section.findall("./layout/item/*")] == [contents.get("name")]
            assert contents.get("class") == "QWidget"


def test_parameters_named_in_the_ui_exist(module):
    bound = {
        prop[0].text
        for prop in ElementTree.parse(UI).iter("property")
        if prop.get("name") == "SlicerParameterName"
    }
    assert bound <= set(module.SOPIRegistrationParameterNode.allParameters)


def test_layouts_are_known_from_the_start(host, module):
    """A saved scene that uses one is opened before anybody opens the module."""
    from SOPIRegistrationLib.layouts import CT_PLANES, LANDMARK_LAYOUT_ID, LAYOUT_ID, layout_of

    node = host.app.layoutManager().layoutLogic().GetLayoutNode()
    expected = {
        LAYOUT_ID: {"Fusion", "XRay", "1"},
        LANDMARK_LAYOUT_ID: {"XRay", "1", *CT_PLANES},
        layout_of(2): {"Fusion", "XRay", "DRR", "Fusion2", "XRay2", "DRR2", "1"},
    }
    for layout in expected:
        node.SetLayoutDescription(layout, "")
        assert not node.IsLayoutDescription(layout)
    module.on_startup()
    for layout, tags in expected.items():
        views = ElementTree.fromstring(node.GetLayoutDescription(layout)).iter("view")
        assert {view.get("singletontag") for view in views} == tags


def test_what_is_read_before_the_packages_are_installed_needs_python_alone():
    """The module's file is imported when the application starts."""
    tree = ast.parse((MODULE / "SOPIRegistration.py").read_text(encoding="utf-8"))
    own = [node.module for node in tree.body if isinstance(node, ast.ImportFrom)]
    own = [name for name in own if name.startswith("SOPIRegistrationLib")]
    code = "import sys\n" + "".join(f"import {name}\n" for name in own)
    code += "print(*{'numpy', 'scipy', 'SimpleITK', 'numba', 'torch'} & {*sys.modules})"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=MODULE, capture_output=True, text=True, check=True, timeout=60
    )
    assert own
    assert run.stdout.split() == []


@pytest.mark.slow
def test_sample_data_entry_makes_the_demo_case(host, widget, module):
    import slicer

    (source,) = slicer.modules.sampleDataSources[module.SAMPLE_CATEGORY][-1:]
    nodes = source.customDownloader(source)
    parameters = widget.logic.getParameterNode()
    assert (parameters.ct, parameters.xray) == (nodes.ct, nodes.xray)
    assert widget.ui.registerButton.enabled
    assert Path(source.thumbnailFileName).exists()


@pytest.mark.slow
def test_reloading_the_module_in_mid_run(host, user, demo_case, module):
    import slicer

    user.take_demo(demo_case)
    user.show_views()
    user.click("registerButton")
    (job,) = [thread for thread in threading.enumerate() if thread.name == "SOPI registration"]
    before = {
        name: loaded for name, loaded in list(sys.modules.items()) if name.startswith("SOPIRegistration")
    }
    panel = user.panel
    try:
        user.widget.onReload()
        reloaded = slicer.modules.SOPIRegistrationWidget
        assert reloaded is not user.widget
        assert type(reloaded.panel) is not type(panel)
        assert not panel.is_running
        assert host.process(60, until=lambda: not job.is_alive())
        # The case is prepared again and can be gone on with.
        assert host.process(120, until=lambda: not reloaded.panel.is_running)
        assert reloaded.ui.registerButton.enabled
        assert reloaded.ui.exportPictureButton.enabled
        host.close_module(reloaded)
    finally:
        sys.modules.update(before)


_BASES = ("ScriptedLoadableModule", "ScriptedLoadableModuleWidget", "ScriptedLoadableModuleLogic")


@pytest.mark.parametrize("name", [*_BASES, "ScriptedLoadableModuleTest"])
def test_base_classes_are_called_as_the_application_s(host, name):
    from host import api, scripted_module

    qualified = f"slicer.ScriptedLoadableModule.{name}"
    for method, function in vars(getattr(scripted_module, name)).items():
        if inspect.isfunction(function):
            parameters = [*inspect.signature(function).parameters.values()][1:]
            own = inspect.Signature([one.replace(annotation=inspect.Parameter.empty) for one in parameters])
            assert own == api.signature(qualified, method), method


def test_stand_ins_take_what_the_application_takes_and_no_more(host):
    """A sample data source has no description, a message box does not install, pip has no such option."""
    import SampleData
    import slicer

    register = SampleData.SampleDataLogic.registerCustomSampleDataSource
    with pytest.raises(TypeError, match="sampleDescription"):
        register(category="A", sampleName="B", sampleDescription="C")
    with pytest.raises(TypeError, match="too many positional"):
        slicer.util.errorDisplay("text", "title", None, None, "more")
    with pytest.raises(TypeError, match="upgrade"):
        slicer.packaging.pip_install("numba", upgrade=True)


def test_starting_leaves_no_error_and_the_demo_in_sample_data(host, module):
    """The first defect that a user met: a red mark at every start, and no demo."""
    import slicer

    slicer.modules.sampleDataSources.clear()
    module.on_startup()
    (source,) = slicer.modules.sampleDataSources[module.SAMPLE_CATEGORY]
    assert source.sampleName == module.SAMPLE_NAME
    assert callable(source.customDownloader)
