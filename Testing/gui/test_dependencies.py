"""Missing packages: asked once with sizes, the panel opens without them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from conftest import opened, widget_with
from SOPIRegistrationLib.dependencies import Dependencies, torch_utils
from SOPIRegistrationLib.errors import InputError


class Pip:
    """Stands for pip and for what is installed."""

    def __init__(self, *installed, fails=None, agrees=True):
        self.modules, self.fails, self.agrees = set(installed), fails, agrees
        self.questions, self.installed = [], []

    def install(self, requirements):
        if self.fails:
            raise self.fails
        self.installed += requirements
        self.modules |= {"numba", "cma", "array_api_compat", "safetensors", "torch"}

    def confirm(self, question):
        self.questions.append(question)
        return self.agrees

    def has(self, module):
        return module in self.modules


@pytest.fixture
def requirements(tmp_path):
    path = tmp_path / "requirements.txt"
    path.write_text("# comment\narray-api-compat>=1.9\ncma>=3.3\nnumba>=0.60\n")
    return path


def _dependencies(requirements, pip):
    return Dependencies(requirements, pip.install, pip.confirm, pip.has)


def test_nothing_is_asked_where_nothing_is_missing(requirements):
    pip = Pip("numba", "cma", "array_api_compat")
    assert _dependencies(requirements, pip).ensure()
    assert not pip.questions


def test_missing_packages_are_named_with_their_size_and_installed_once(requirements):
    pip = Pip("array_api_compat")
    assert _dependencies(requirements, pip).ensure()
    assert pip.installed == ["cma>=3.3", "numba>=0.60"]
    assert len(pip.questions) == 1
    assert "cma, numba (about 60 MB)" in pip.questions[0]


def test_declining_installs_nothing(requirements):
    pip = Pip(agrees=False)
    assert not _dependencies(requirements, pip).ensure()
    assert not pip.installed


def test_without_network_the_message_says_what_to_do(requirements):
    pip = Pip(fails=RuntimeError("Could not fetch URL"))
    with pytest.raises(InputError, match="check the network or proxy"):
        _dependencies(requirements, pip).ensure()


class TorchUtils:
    """Stands for the logic of the PyTorch extension."""

    def __init__(self, pip):
        self.pip, self.asked = pip, None

    def installTorch(self, askConfirmation=False):
        self.asked = askConfirmation
        self.pip.modules.add("torch")


def test_torch_comes_through_its_extension_where_there_is_one(requirements):
    pip = Pip()
    utils = TorchUtils(pip)
    assert _dependencies(requirements, pip).ensure_torch(utils)
    # One question, with the size, is asked here and not once more by the extension.
    assert len(pip.questions) == 1
    assert "200 MB" in pip.questions[0]
    assert utils.asked is False
    assert not pip.installed


def test_torch_through_pip_otherwise(requirements):
    pip = Pip()
    assert _dependencies(requirements, pip).ensure_torch()
    assert pip.installed == ["torch"]
    assert "200 MB" in pip.questions[0]
    assert _dependencies(requirements, pip).ensure_torch()
    assert len(pip.questions) == 1


def test_declining_torch_installs_nothing(requirements):
    pip = Pip(agrees=False)
    utils = TorchUtils(pip)
    assert not _dependencies(requirements, pip).ensure_torch(utils)
    assert utils.asked is None
    assert not pip.installed


def test_torch_without_network_and_torch_that_cannot_be_imported(requirements):
    with pytest.raises(InputError, match="PyTorch extension"):
        _dependencies(requirements, Pip(fails=OSError("no network"))).ensure_torch()
    pip = Pip()
    pip.install = lambda packages: None
    with pytest.raises(InputError, match="restart Slicer"):
        _dependencies(requirements, pip).ensure_torch()


def test_the_pytorch_extension_is_found_where_it_is_installed(tmp_path, monkeypatch):
    assert torch_utils() is None
    (tmp_path / "PyTorchUtils.py").write_text("class PyTorchUtilsLogic:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert type(torch_utils()).__name__ == "PyTorchUtilsLogic"
    sys.modules.pop("PyTorchUtils")


def packages(module, pip) -> Dependencies:
    """Those of the module, of which pip says what is installed."""
    path = Path(module.__file__).parent / "Resources" / "requirements.txt"
    return Dependencies(path, pip.install, pip.confirm, pip.has)


def test_the_panel_opens_without_the_packages(host, module):
    pip = Pip(agrees=True)
    widget_class = widget_with(module, makeDependencies=lambda widget: packages(module, pip))
    with opened(host, module, widget_class) as widget:
        assert widget.panel is None
        assert not widget.ui.dependencyFrame.isHidden()
        assert "numba" in widget.ui.dependencyLabel.text
        assert not widget.ui.inputsSection.enabled
        pip.fails = OSError("Network is unreachable")
        widget.ui.installButton.click()
        assert "check the network" in host.messages[-1][1]
        pip.fails = None
        widget.ui.installButton.click()
        assert widget.panel is not None
        assert widget.ui.dependencyFrame.isHidden()
        assert widget.ui.inputsSection.enabled


def test_sample_data_without_the_packages(host, module):
    """Sample Data does not open the panel, which would ask."""
    pip = Pip(agrees=False)
    host.scene.Clear()
    assert module.load_sample(packages(module, pip)) is None
    assert "numba" in pip.questions[0]
    assert host.scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 0
