"""What the module's code calls of the application, run by a test or not, against what Slicer offers."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

MODULE = Path(__file__).resolve().parents[2] / "SOPIRegistration"
LIBRARY = MODULE / "SOPIRegistrationLib"
UI = MODULE / "Resources" / "UI" / "SOPIRegistration.ui"
SOURCES = [
    MODULE / "SOPIRegistration.py",
    LIBRARY / "layouts.py",
    *sorted((LIBRARY / "panel").glob("*.py")),
    *sorted((LIBRARY / "scene").glob("*.py")),
]
# Of objects that the observation does not list: Slicer's module template (the module's parent, the wrapped
# parameter node), the error log as seen in the second trial, Sample Data's sources, the DICOM database.
DOCUMENTED = {
    *("helpText", "acknowledgementText", "isEntered"),
    *("parameterNode", "connectParametersToGui", "disconnectGui"),
    *("logEntryCount", "logEntryDescription", "sampleName", "fileForInstance"),
}


@cache
def _own_names() -> frozenset[str]:
    import slicer
    from host import written

    observing = dir(slicer.util.VTKObservationMixin)
    own = written.names_defined([*LIBRARY.rglob("*.py"), MODULE / "SOPIRegistration.py"])
    return frozenset({*own, *written.widgets_in(UI), *observing, *DOCUMENTED})


def _read(path: Path):
    from host import written

    return written.Source(path, written.widgets_in(UI), written.parameters_in(MODULE / "SOPIRegistration.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_module_code_asks_for_what_the_application_has(host, path):
    from host import written

    assert [*written.faults(_read(path), _own_names())] == []


def test_types_are_followed_through_most_of_the_panel(host):
    """Where they are not, a name alone is looked for, which finds less."""
    asked = [one for path in SOURCES for one in _read(path).asked() if one.things]
    assert sum(one.text.startswith(("self._ui.", "ui.")) for one in asked) > 140
    assert sum(one.name[0].isupper() for one in asked) > 300


WRONG = {
    "ui.registerButton.text()": "is a value, not a function",
    "words = ui.registerButton\nwords.text()": "is a value, not a function",
    "timer = qt.QTimer()\nif timer.isActive:\n    pass": "is a function: it is not called",
    "ui.registerButton.isEnabled = True": "cannot be set",
    "for box in (ui.sddSpinBox, ui.sodSpinBox):\n    box.values = 1": "has no 'values'",
    "ui.registerButton.connect('clickd(bool)', print)": "has no signal 'clickd(bool)'",
    "ui.historyTable.selectRow(1, 2)": "does not take 2 arguments",
    "table = ui.historyTable\ntable.setHeaders([])": "has no 'setHeaders'",
    "qt.QHeaderView.ResizeMode.Stretch": "no such name",
    "qt.QTableWidgetItem('a').setColour(1)": "has no 'setColour'",
    "slicer.util.arrayOfVolume(None)": "no such name",
    "slicer.vtkMRMLModellNode()": "no such name",
    "slicer.app.layoutManager().sliceView('Red')": "has no 'sliceView'",
    "slicer.app.layoutManager().sliceWidget('Red').sliceView().pixels()": "has no 'pixels'",
    "vtk.vtkTextActer()": "no such name",
    "node = scene.AddNewNodeByClass('vtkMRMLModelNode')\nnode.SetColour(1, 0, 0)": "has no 'SetColour'",
    "node = scene.AddNewNodeByClass('vtkMRMLModelNode')\nnode.GetDisplayNode().SetHue(1)": "has no 'SetHue'",
    "scene.AddNewNodeByClass('vtkMRMLModelNode', 'a', 'b')": "does not take 3 arguments",
    "p.ct.GetDisplayNode().SetWindowLevelMinMax(0)": "does not take 1 arguments",
    "self._node = slicer.vtkMRMLModelNode()\nself._node.GetVoxels()": "has no 'GetVoxels'",
    "somewhere().GetNthControlPointPositionWorldly(1)": "no class of VTK or MRML has such a name",
    "somewhere().GetNthControlPointPositionWorld()": "takes 0 arguments",
    "somewhere().setCurentIndex(1)": "no object of the application was seen to have it",
}


@pytest.mark.parametrize("line", WRONG)
def test_what_would_fail_is_found(host, tmp_path, line):
    from host import written

    path = tmp_path / "wrong.py"
    body = "\n".join(f"    {one}" for one in line.splitlines())
    path.write_text(f"import qt\nimport slicer\nimport vtk\n\n\ndef act(self, ui, p, scene):\n{body}\n")
    found = [*written.faults(_read(path), _own_names())]
    assert len(found) == 1
    assert WRONG[line] in found[0]


def _calls(path: Path):
    """(owner, function, call) of every call of a function that Slicer has in Python."""
    owners = {"SampleData", "slicer.packaging", "slicer.util", "SampleData.SampleDataLogic"}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = ast.unparse(node.func.value)
            if owner in owners:
                yield owner, node.func.attr, node


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_module_code_calls_slicer_s_functions_as_they_are(path):
    """Functions written in Python, by their signatures."""
    from host import api

    classes = {"VTKObservationMixin", "NodeModify", "RenderBlocker"}
    for owner, name, call in _calls(path):
        if name in classes or any(isinstance(argument, ast.Starred) for argument in call.args):
            continue
        keywords = {one.arg: None for one in call.keywords if one.arg is not None}
        api.signature(owner, name).bind(*[None] * len(call.args), **keywords)
